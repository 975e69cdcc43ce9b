//! The configuration of one broker, as the file `broker.yaml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crds::cluster::{AutoCreate, Flush};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use crate::cluster::validate::{HTTP_PORT, Part, REMOTING_PORT, ValidCluster};

pub(crate) fn config_map(cluster: &ValidCluster, group: i32, store_host: SocketAddr) -> ConfigMap {
    let name = cluster.broker_name(group);
    let broker = BrokerFile {
        cluster: &cluster.wire_name,
        broker: &name,
        data_dir: "/data",
        listen: Listen {
            remoting: format!("0.0.0.0:{REMOTING_PORT}"),
            http: format!("0.0.0.0:{HTTP_PORT}"),
        },
        advertise: cluster.advertised(group),
        store_host: store_host.to_string(),
        name_servers: cluster.name_servers(),
        flush: cluster.spec.flush,
        retention: &cluster.spec.retention.time,
        disk_used_percent_clean: cluster.spec.retention.clean_percent,
        disk_used_percent_reject: cluster.spec.retention.reject_percent,
        delete_unconsumed_when_full: cluster.spec.retention.delete_unconsumed_when_full,
        auto_create_topics: cluster.spec.topic_policy.auto_create == AutoCreate::Allow,
        properties: &cluster.spec.config,
        kubernetes: Kubernetes {
            namespace: &cluster.namespace,
            endpoint_slice: cluster.rw_name(group),
        },
    };
    let text = serde_yaml::to_string(&broker).expect("plain data is YAML");
    ConfigMap {
        metadata: cluster.metadata(name.clone(), Part::Group(group)),
        data: Some(BTreeMap::from([("broker.yaml".to_owned(), text)])),
        ..ConfigMap::default()
    }
}

/// The keys that `gantry broker --config` reads.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BrokerFile<'a> {
    cluster: &'a str,
    broker: &'a str,
    data_dir: &'a str,
    listen: Listen,
    advertise: String,
    store_host: String,
    name_servers: Vec<String>,
    flush: Flush,
    retention: &'a str,
    disk_used_percent_clean: i32,
    disk_used_percent_reject: i32,
    delete_unconsumed_when_full: bool,
    auto_create_topics: bool,
    properties: &'a BTreeMap<String, String>,
    kubernetes: Kubernetes<'a>,
}

#[derive(Serialize)]
struct Listen {
    remoting: String,
    http: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kubernetes<'a> {
    namespace: &'a str,
    endpoint_slice: String,
}
