//! What the pods of brokers and name servers have in common: the restricted security profile,
//! probes, a preference for different nodes and zones, and the user's additions.

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, HTTPGetAction, PodAffinityTerm,
    PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
    SecurityContext, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::validate::{HTTP_PORT, Labels, Part, ValidCluster};

/// User and group of the processes; the volume is made theirs.
const USER: i64 = 65532;
/// A broker refuses new work, flushes and unregisters within 10 s.
const STOP_SECONDS_MAX: i64 = 30;
/// A start replays at most 64 MiB of log; a slow disk has ten minutes for it.
const START_PROBES_MAX: i32 = 600;

/// A pod of a part around its one container.
pub(super) fn pod(
    cluster: &ValidCluster,
    part: Part,
    annotations: Labels,
    spec: PodSpec,
) -> PodTemplateSpec {
    let template = &cluster.spec.template;
    let mut labels = template.labels.clone();
    labels.extend(cluster.labels(part));
    let mut all_annotations = template.annotations.clone();
    all_annotations.extend(annotations);
    let or_none = |map: &Labels| Some(map.clone()).filter(|map| !map.is_empty());
    let spread = &template.topology_spread_constraints;
    let spread = if spread.is_empty() {
        vec![zones(cluster, part)]
    } else {
        spread.clone()
    };
    let affinity = template
        .affinity
        .clone()
        .unwrap_or_else(|| different_nodes(cluster, part));
    let pull = &template.image_pull_secrets;
    let tolerations = &template.tolerations;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: or_none(&all_annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: Some(affinity),
            enable_service_links: Some(false),
            image_pull_secrets: Some(pull.clone()).filter(|secrets| !secrets.is_empty()),
            node_selector: or_none(&template.node_selector),
            priority_class_name: template.priority_class_name.clone(),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(STOP_SECONDS_MAX),
            tolerations: Some(tolerations.clone()).filter(|list| !list.is_empty()),
            topology_spread_constraints: Some(spread),
            ..spec
        }),
    }
}

/// The container of a pod, but for what only brokers have.
pub(super) fn container(
    cluster: &ValidCluster,
    name: &str,
    ports: &[(&str, u16)],
    args: &[&str],
) -> Container {
    let ports = ports.iter().chain(&[("http", HTTP_PORT)]);
    let ports = ports.map(|&(name, port)| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    });
    Container {
        name: name.to_owned(),
        image: Some(cluster.image.clone()),
        args: Some(args.iter().map(|&arg| arg.to_owned()).collect()),
        ports: Some(ports.collect()),
        startup_probe: Some(probe("/livez", 1, START_PROBES_MAX)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn different_nodes(cluster: &ValidCluster, part: Part) -> Affinity {
    let term = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(cluster.label_selector(whole(part))),
            topology_key: "kubernetes.io/hostname".to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![term]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn zones(cluster: &ValidCluster, part: Part) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(cluster.label_selector(whole(part))),
        ..TopologySpreadConstraint::default()
    }
}

/// Groups keep apart from each other, not only the replicas of one.
fn whole(part: Part) -> Part {
    match part {
        Part::NameServers => Part::NameServers,
        Part::Brokers | Part::Group(_) => Part::Brokers,
    }
}
