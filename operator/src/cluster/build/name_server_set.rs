//! The name servers. They hold nothing on disk: brokers register anew with one that starts.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::PodSpec;

use super::pod::{container, pod};
use crate::cluster::validate::{HTTP_PORT, Labels, NAME_SERVER_PORT, Part, ValidCluster};

pub(crate) fn name_server_set(cluster: &ValidCluster) -> StatefulSet {
    let ports = [("remoting", NAME_SERVER_PORT)];
    let part = Part::NameServers;
    let (listen, http) = (
        format!("0.0.0.0:{NAME_SERVER_PORT}"),
        format!("0.0.0.0:{HTTP_PORT}"),
    );
    let args = ["namesrv", "--listen", &listen, "--http", &http];
    let spec = PodSpec {
        automount_service_account_token: Some(false),
        containers: vec![container(cluster, "namesrv", &ports, &args)],
        ..PodSpec::default()
    };
    StatefulSet {
        metadata: cluster.metadata(cluster.name_server_name(), part),
        spec: Some(StatefulSetSpec {
            replicas: Some(cluster.spec.name_server.replicas),
            service_name: Some(cluster.name_server_pods_name()),
            selector: cluster.label_selector(part),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            template: pod(cluster, part, Labels::new(), spec),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}
