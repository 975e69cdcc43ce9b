//! The headless Service of one broker group: names of its pods, ready or not.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{HTTP_PORT, Part, REMOTING_PORT, VIP_PORT, ValidCluster};

pub(crate) fn broker_service(cluster: &ValidCluster, group: i32) -> Service {
    let port = |name: &str, port: u16| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: cluster.metadata(cluster.broker_name(group), Part::Group(group)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(cluster.selector(Part::Group(group))),
            ports: Some(vec![
                port("remoting", REMOTING_PORT),
                port("vip", VIP_PORT),
                port("http", HTTP_PORT),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
