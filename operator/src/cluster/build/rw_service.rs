//! The address of a broker group that never changes.
//!
//! It has no selector: the broker that may write says itself, in the one EndpointSlice, that
//! connections shall come to it. Messages carry its ClusterIP in their ids, so a Service that
//! vanished comes back with the address that is remembered.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{Part, REMOTING_PORT, VIP_PORT, ValidCluster};

pub(crate) fn rw_service(cluster: &ValidCluster, group: i32) -> Service {
    let port = |name: &str, port: u16| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        target_port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let remembered = cluster.remembered.get(&cluster.broker_name(group));
    Service {
        metadata: cluster.metadata(cluster.rw_name(group), Part::Group(group)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: remembered.map(ToString::to_string),
            ports: Some(vec![port("remoting", REMOTING_PORT), port("vip", VIP_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
