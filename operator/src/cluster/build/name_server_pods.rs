//! Names of the single name servers: brokers register with each of them, ready or not.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{NAME_SERVER_PORT, Part, ValidCluster};

pub(crate) fn name_server_pods(cluster: &ValidCluster) -> Service {
    Service {
        metadata: cluster.metadata(cluster.name_server_pods_name(), Part::NameServers),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(cluster.selector(Part::NameServers)),
            ports: Some(vec![ServicePort {
                name: Some("remoting".to_owned()),
                port: i32::from(NAME_SERVER_PORT),
                target_port: Some(IntOrString::String("remoting".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
