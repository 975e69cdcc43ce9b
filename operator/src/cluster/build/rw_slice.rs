//! The EndpointSlice of a group's address, empty. The operator creates it and never writes it
//! again: from then on it is the broker's.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};

use crate::cluster::validate::{Part, REMOTING_PORT, VIP_PORT, ValidCluster};

pub(crate) fn rw_slice(cluster: &ValidCluster, group: i32, service: IpAddr) -> EndpointSlice {
    let mut metadata = cluster.metadata(cluster.rw_name(group), Part::Group(group));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(
        "kubernetes.io/service-name".to_owned(),
        cluster.rw_name(group),
    );
    labels.insert(
        "endpointslice.kubernetes.io/managed-by".to_owned(),
        "gantry.dev".to_owned(),
    );
    let port = |name: &str, port: u16| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(i32::from(port)),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    let family = if service.is_ipv4() { "IPv4" } else { "IPv6" };
    EndpointSlice {
        metadata,
        address_type: family.to_owned(),
        endpoints: Vec::new(),
        ports: Some(vec![port("remoting", REMOTING_PORT), port("vip", VIP_PORT)]),
    }
}
