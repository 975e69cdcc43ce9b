//! Every object that a BrokerCluster becomes, against golden files in `operator/golden`, and what
//! is waited for, from the states of its objects. `UPDATE_GOLDEN=1` writes the files anew.

use std::path::Path;

use crds::BrokerCluster;
use crds::read::{Document, read};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions};
use serde::Serialize;

use super::validate::{Part, ValidCluster};
use super::{BrokerClusterStatus, GroupStatus, build, forgets, observe};
use crate::Options;

#[test]
fn objects_are_as_recorded() {
    let resources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/resources/accepted");
    for case in ["cluster-least", "cluster-full"] {
        let text = std::fs::read_to_string(resources.join(format!("{case}.yaml"))).unwrap();
        let valid = valid(cluster(&text));
        golden(case, "service-account", &build::service_account(&valid));
        golden(case, "role", &build::role(&valid));
        golden(case, "role-binding", &build::role_binding(&valid));
        golden(
            case,
            "name-server-service",
            &build::name_server_service(&valid),
        );
        golden(case, "name-server-pods", &build::name_server_pods(&valid));
        golden(case, "name-server-set", &build::name_server_set(&valid));
        golden(
            case,
            "name-server-budget",
            &build::budget(&valid, Part::NameServers),
        );
        golden(case, "broker-service", &build::broker_service(&valid, 0));
        golden(
            case,
            "name-server-policy",
            &build::network_policy(&valid, Part::NameServers),
        );
        golden(
            case,
            "broker-policy",
            &build::network_policy(&valid, Part::Brokers),
        );
        golden(case, "rw-service", &build::rw_service(&valid, 0));
        golden(
            case,
            "rw-slice",
            &build::rw_slice(&valid, 0, "10.96.0.7".parse().unwrap()),
        );
        let config = build::config_map(&valid, 0, "10.96.0.7:10911".parse().unwrap());
        golden(case, "config-map", &config);
        golden(
            case,
            "broker-set",
            &build::broker_set(&valid, 0, &config, "1Gi"),
        );
        golden(
            case,
            "broker-budget",
            &build::budget(&valid, Part::Group(0)),
        );
    }
}

#[test]
fn a_remembered_address_is_asked_for() {
    let mut resource = cluster(include_str!("../../../examples/cluster.yaml"));
    resource.status = Some(status(&[("demo-broker-1", "[fd00::7]:10911")]));
    let valid = valid(resource);
    let ip = |group| build::rw_service(&valid, group).spec.unwrap().cluster_ip;
    assert_eq!(ip(0), None);
    assert_eq!(ip(1).as_deref(), Some("fd00::7"));
    let slice = build::rw_slice(&valid, 1, "fd00::7".parse().unwrap());
    assert_eq!(slice.address_type, "IPv6");
}

#[test]
fn a_new_address_is_written_down_first() {
    let (one, other) = (
        status(&[("a", "10.0.0.1:10911")]),
        status(&[("a", "10.0.0.2:10911")]),
    );
    let ready = BrokerClusterStatus {
        ready_groups: 1,
        ..one.clone()
    };
    assert!(forgets(&BrokerClusterStatus::default(), &one));
    assert!(forgets(&one, &other));
    assert!(!forgets(&one, &ready));
}

#[test]
fn waits_are_named() {
    // Ready replicas of the name servers and of two brokers, ready endpoints, the verdict.
    let table = [
        (
            [None, None, None],
            [false, false],
            "0 of 1 name servers are ready",
        ),
        (
            [Some(1), Some(1), None],
            [true, true],
            "broker demo-broker-1 is not ready yet",
        ),
        (
            [Some(1), Some(1), Some(1)],
            [true, false],
            "broker demo-broker-1 has not opened its address yet",
        ),
        (
            [Some(1), Some(1), Some(1)],
            [true, true],
            "2 broker groups and 1 name server are ready",
        ),
    ];
    let valid = valid(cluster(include_str!("../../../examples/cluster.yaml")));
    for (ready, endpoints, expected) in table {
        let config = build::config_map(&valid, 0, "10.96.0.7:10911".parse().unwrap());
        let mut sets = vec![build::name_server_set(&valid)];
        sets.extend((0..2).map(|group| build::broker_set(&valid, group, &config, "1Gi")));
        for (set, ready) in sets.iter_mut().zip(ready) {
            observed(set, ready);
        }
        let group = |(index, ready): (usize, bool)| GroupStatus {
            name: format!("demo-broker-{index}"),
            ready,
            ..GroupStatus::default()
        };
        let groups: Vec<_> = endpoints.into_iter().enumerate().map(group).collect();
        assert_eq!(observe::waiting(&sets, &groups).message, expected);
    }
}

#[test]
fn a_set_counts_only_when_its_newest_form_was_seen() {
    let valid = valid(cluster(include_str!("../../../examples/cluster.yaml")));
    let mut set = build::name_server_set(&valid);
    observed(&mut set, Some(1));
    assert!(observe::is_ready(&set));
    set.metadata.generation = Some(8);
    assert!(!observe::is_ready(&set));
}

#[test]
fn an_endpoint_is_ready_unless_it_says_no() {
    let valid = valid(cluster(include_str!("../../../examples/cluster.yaml")));
    let mut slice = build::rw_slice(&valid, 0, "10.96.0.7".parse().unwrap());
    assert!(!observe::has_ready_endpoint(&slice));
    for (ready, expected) in [(Some(true), true), (None, true), (Some(false), false)] {
        slice.endpoints = vec![Endpoint {
            addresses: vec!["10.1.2.3".to_owned()],
            conditions: Some(EndpointConditions {
                ready,
                ..EndpointConditions::default()
            }),
            ..Endpoint::default()
        }];
        assert_eq!(observe::has_ready_endpoint(&slice), expected, "{ready:?}");
    }
}

#[test]
fn what_keeps_a_pod_from_running() {
    let waiting = |reason: &str| {
        serde_json::json!({"containerStatuses": [{
            "name": "broker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": "so it is"}},
        }]})
    };
    let unscheduled = serde_json::json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node",
    }]});
    let late = "not ready for 50 s";
    let table = [
        (waiting("ImagePullBackOff"), 5, None),
        (
            waiting("ImagePullBackOff"),
            20,
            Some("ImagePullBackOff: so it is"),
        ),
        (
            waiting("CrashLoopBackOff"),
            300,
            Some("CrashLoopBackOff: so it is"),
        ),
        (waiting("ContainerCreating"), 30, None),
        (waiting("ContainerCreating"), 60, Some(late)),
        (unscheduled.clone(), 10, None),
        (unscheduled, 25, Some("Unschedulable: no node")),
        (serde_json::json!({}), 30, None),
        (serde_json::json!({}), 51, Some(late)),
    ];
    for (status, age, expected) in table {
        let pod: Pod = serde_json::from_value(serde_json::json!({"status": status})).unwrap();
        assert_eq!(
            observe::trouble(&pod, age).as_deref(),
            expected,
            "{status} {age}"
        );
    }
}

fn cluster(yaml: &str) -> BrokerCluster {
    let documents = read(yaml).unwrap();
    let [Document::BrokerCluster(cluster)] = documents.as_slice() else {
        panic!("one cluster")
    };
    let mut cluster = cluster.as_ref().clone();
    cluster.metadata.namespace = Some("shop".to_owned());
    cluster.metadata.uid = Some("0d3f".to_owned());
    cluster
}

fn valid(cluster: BrokerCluster) -> ValidCluster {
    let options = Options {
        namespace: String::new(),
        http: "127.0.0.1:0".parse().unwrap(),
        image: "gantry:test".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        credentials_dir: None,
        lease_namespace: String::new(),
        identity: String::new(),
    };
    ValidCluster::new(&cluster, &options).unwrap()
}

fn status(groups: &[(&str, &str)]) -> BrokerClusterStatus {
    let group = |&(name, address): &(&str, &str)| GroupStatus {
        name: name.to_owned(),
        address: address.to_owned(),
        ready: false,
    };
    let groups = groups.iter().map(group).collect();
    BrokerClusterStatus {
        groups,
        ..BrokerClusterStatus::default()
    }
}

/// Sets what the controller of StatefulSets would report.
fn observed(set: &mut StatefulSet, ready: Option<i32>) {
    set.metadata.generation = Some(7);
    set.status = Some(StatefulSetStatus {
        observed_generation: Some(7),
        ready_replicas: ready,
        ..StatefulSetStatus::default()
    });
}

fn golden(case: &str, object: &str, found: &impl Serialize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(case);
    let path = folder.join(format!("{object}.yaml"));
    // By way of JSON values, whose keys are sorted.
    let text = serde_yaml::to_string(&serde_json::to_value(found).unwrap()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs", path.display());
}
