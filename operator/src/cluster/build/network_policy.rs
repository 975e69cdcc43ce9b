//! Who may connect to the pods of a part: anybody, on the ports that are for clients and for
//! scraping, and on no other.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{
    HTTP_PORT, NAME_SERVER_PORT, Part, REMOTING_PORT, VIP_PORT, ValidCluster,
};

pub(crate) fn network_policy(cluster: &ValidCluster, part: Part) -> NetworkPolicy {
    let (name, ports): (String, &[u16]) = match part {
        Part::NameServers => (cluster.name_server_name(), &[NAME_SERVER_PORT, HTTP_PORT]),
        Part::Brokers => (
            cluster.account_name(),
            &[REMOTING_PORT, VIP_PORT, HTTP_PORT],
        ),
        Part::Group(group) => (
            cluster.broker_name(group),
            &[REMOTING_PORT, VIP_PORT, HTTP_PORT],
        ),
    };
    let port = |port: &u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(*port))),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicy {
        metadata: cluster.metadata(name, part),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(cluster.label_selector(part)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                ports: Some(ports.iter().map(port).collect()),
                ..NetworkPolicyIngressRule::default()
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}
