//! The address of a broker group that never changes.
//!
//! It has no selector: the broker that may write says itself, in the one EndpointSlice, that
//! connections shall come to it. Messages carry its ClusterIP in their ids, so a Service that
//! vanished comes back with the address that is remembered.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{Part, REMOTING_PORT, ValidCluster};

pub(crate) fn rw_service(cluster: &ValidCluster, group: i32) -> Service {
    let remembered = cluster.remembered.get(&cluster.broker_name(group));
    Service {
        metadata: cluster.metadata(cluster.rw_name(group), Part::Group(group)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: remembered.map(ToString::to_string),
            ports: Some(vec![ServicePort {
                name: Some("remoting".to_owned()),
                port: i32::from(REMOTING_PORT),
                target_port: Some(IntOrString::Int(i32::from(REMOTING_PORT))),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
