//! The address of the name servers for clients: any of them will do, all know every route.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{NAME_SERVER_PORT, Part, ValidCluster};

pub(crate) fn name_server_service(cluster: &ValidCluster) -> Service {
    Service {
        metadata: cluster.metadata(cluster.name_server_name(), Part::NameServers),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
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
