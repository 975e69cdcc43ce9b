//! One broker group: a StatefulSet of one broker with its volume.
//!
//! The pod carries a hash of its configuration, so that a change makes a new revision; which pod
//! is restarted when is the operator's decision (`OnDelete`), one at a time. The size in the
//! volume template never changes, since Kubernetes forbids it: volumes grow by themselves.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, ObjectFieldSelector,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::pod::{container, pod};
use crate::apply::hash;
use crate::cluster::validate::{Labels, Part, REMOTING_PORT, VIP_PORT, ValidCluster};
use crds::DeletionPolicy;

/// Name of the volume in the claim template; the claim of a pod is `data-<pod>`.
const DATA: &str = "data";

const PORTS: [(&str, u16); 2] = [("remoting", REMOTING_PORT), ("vip", VIP_PORT)];

pub(crate) fn broker_set(
    cluster: &ValidCluster,
    group: i32,
    config: &ConfigMap,
    template_size: &str,
) -> StatefulSet {
    let part = Part::Group(group);
    let name = cluster.broker_name(group);
    let annotations = Labels::from([(
        "gantry.dev/config-hash".to_owned(),
        hash(&json!(config.data)),
    )]);
    StatefulSet {
        metadata: cluster.metadata(name.clone(), part),
        spec: Some(StatefulSetSpec {
            replicas: Some(cluster.spec.replicas_per_group),
            service_name: Some(name.clone()),
            selector: cluster.label_selector(part),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(retention(cluster)),
            template: pod(cluster, part, annotations, broker_pod(cluster, name)),
            volume_claim_templates: Some(vec![claim(cluster, template_size)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn broker_pod(cluster: &ValidCluster, config: String) -> PodSpec {
    let args = ["broker", "--config", "/etc/gantry/broker.yaml"];
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    PodSpec {
        service_account_name: Some(cluster.account_name()),
        automount_service_account_token: Some(true),
        containers: vec![Container {
            env: Some(vec![
                from_pod("POD_NAME", "metadata.name"),
                from_pod("POD_IP", "status.podIP"),
            ]),
            resources: Some(cluster.spec.resources.clone()),
            volume_mounts: Some(vec![
                mount(DATA, "/data", false),
                mount("config", "/etc/gantry", true),
            ]),
            ..container(cluster, "broker", &PORTS, &args)
        }],
        volumes: Some(vec![Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: config,
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn from_pod(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn claim(cluster: &ValidCluster, size: &str) -> PersistentVolumeClaim {
    let request = BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: cluster.spec.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(request),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn retention(cluster: &ValidCluster) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    let word = |deletes: bool| Some(if deletes { "Delete" } else { "Retain" }.to_owned());
    let when_scaled = cluster.spec.storage.retention_policy.when_scaled;
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: word(cluster.deletes_volumes),
        when_scaled: word(when_scaled == DeletionPolicy::Delete),
    }
}
