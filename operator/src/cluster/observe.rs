//! What the objects of a cluster say of its state, and what is still waited for.

use crds::BrokerCluster;
use crds::cluster::GroupStatus;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::restart::{Next, PodState, next};
use super::validate::{ValidCluster, as_text};
use crate::condition::Verdict;
use crate::{Error, Operator};

/// Reason of the verdict that a pod is restarted; its event names the pod.
pub(super) const RESTARTING: &str = "Restarting";
/// Reason of the verdict, and type of the condition, that a change stops at a pod.
pub(super) const BLOCKED: &str = "UpgradeBlocked";
/// A pod that can't run says so at once; what may pass by itself gets so long.
const TROUBLE_SECONDS_MIN: i64 = 20;
/// A pod whose containers run may need so long until it is ready.
const START_SECONDS_MAX: i64 = 50;

/// Says what is waited for, and restarts the next outdated pod if there is one. The first set is
/// that of the name servers, the others are the groups.
pub(super) async fn verdict(
    operator: &Operator,
    cluster: &BrokerCluster,
    valid: &ValidCluster,
    sets: &[StatefulSet],
    groups: &[GroupStatus],
) -> Result<Verdict, Error> {
    if sets
        .iter()
        .all(|set| is_ready(set) && !has_outdated_pods(set))
    {
        return Ok(waiting(sets, groups));
    }
    let pods = pods(operator, valid, sets).await?;
    match next(&pods) {
        Next::Restart(pod) => {
            let message = format!("pod {} is restarted with its new revision", pod.name);
            let verdict = Verdict::working(RESTARTING, message);
            restart(operator, valid, pod).await?;
            let related = ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(valid.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            };
            operator.tell(cluster, &verdict, Some(related)).await;
            Ok(verdict)
        }
        step => Ok(stopped(sets, &pods).unwrap_or_else(|| match step {
            Next::After(name) => {
                let message = format!("pod {name} must be ready before the next one is restarted");
                Verdict::working("WaitingForPods", message)
            }
            Next::Nothing | Next::Restart(_) => waiting(sets, groups),
        })),
    }
}

/// The verdict that a pod can't run: of a change, or of a cluster that is new.
fn stopped(sets: &[StatefulSet], pods: &[PodState]) -> Option<Verdict> {
    let pod = pods.iter().find(|pod| pod.trouble.is_some())?;
    let message = format!("pod {}: {}", pod.name, pod.trouble.as_deref()?);
    let is_change = sets.iter().any(|set| set.metadata.generation > Some(1));
    let reason = if is_change { BLOCKED } else { "PodNotReady" };
    Some(Verdict::stalled(reason, message))
}

/// What is waited for when all pods are of the newest revision.
pub(super) fn waiting(sets: &[StatefulSet], groups: &[GroupStatus]) -> Verdict {
    let Some((name_servers, brokers)) = sets.split_first() else {
        return Verdict::working("Applying", "the name servers are not there yet".to_owned());
    };
    if !is_ready(name_servers) {
        let (ready, wanted) = (ready(name_servers), wanted(name_servers));
        let message = format!("{ready} of {wanted} name servers are ready");
        return Verdict::working("WaitingForNameServers", message);
    }
    if let Some(set) = brokers.iter().find(|set| !is_ready(set)) {
        let message = format!("broker {} is not ready yet", set.name_any());
        return Verdict::working("WaitingForBrokers", message);
    }
    if let Some(group) = groups.iter().find(|group| !group.ready) {
        let message = format!("broker {} has not opened its address yet", group.name);
        return Verdict::working("WaitingForEndpoints", message);
    }
    let count = |n: i32, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (brokers, servers) = (
        count(groups.len() as i32, "broker group"),
        wanted(name_servers),
    );
    Verdict::ready(format!(
        "{brokers} and {} are ready",
        count(servers, "name server")
    ))
}

/// True when the controller of the set has seen its newest form and all replicas are ready.
pub(super) fn is_ready(set: &StatefulSet) -> bool {
    is_observed(set) && ready(set) >= wanted(set)
}

pub(super) fn has_ready_endpoint(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().any(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.is_none_or(|conditions| conditions.ready != Some(false))
    })
}

/// The size in the volume template of a set.
pub(super) fn template_size(set: &StatefulSet) -> Option<String> {
    let claims = set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let spec = claims.first()?.spec.as_ref()?;
    let requests = spec.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|size| size.0.clone())
}

fn is_observed(set: &StatefulSet) -> bool {
    let seen = set
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    seen.is_some() && seen >= set.metadata.generation
}

fn ready(set: &StatefulSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.ready_replicas)
        .unwrap_or_default()
}

fn wanted(set: &StatefulSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

fn has_outdated_pods(set: &StatefulSet) -> bool {
    let Some(status) = &set.status else {
        return false;
    };
    is_observed(set) && status.updated_replicas.unwrap_or_default() < status.replicas
}

/// The pods of the sets, name servers first.
async fn pods(
    operator: &Operator,
    valid: &ValidCluster,
    sets: &[StatefulSet],
) -> Result<Vec<PodState>, Error> {
    let api: Api<Pod> = Api::namespaced(operator.client.clone(), &valid.namespace);
    let mut selector = valid.selector(super::Part::Brokers);
    selector.remove("app.kubernetes.io/component");
    let pods = api
        .list(&ListParams::default().labels(&as_text(&selector)))
        .await;
    let pods = pods.map_err(Error::Read)?;
    let mut states = Vec::new();
    for set in sets {
        // Until the controller has seen the newest form, its revision is not known.
        let status = set.status.as_ref().filter(|_| is_observed(set));
        let newest = status.and_then(|status| status.update_revision.as_deref());
        let of_set = |pod: &&Pod| {
            pod.owner_references()
                .iter()
                .any(|o| Some(&o.uid) == set.uid().as_ref())
        };
        states.extend(pods.iter().filter(of_set).map(|pod| state(pod, newest)));
    }
    Ok(states)
}

fn state(pod: &Pod, newest: Option<&str>) -> PodState {
    let status = pod.status.as_ref();
    let mut conditions = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let readiness = conditions.find(|c| c.type_ == "Ready");
    let ready = readiness.is_some_and(|c| c.status == "True");
    let changed = readiness.and_then(|c| c.last_transition_time.clone());
    let since = changed.or(pod.creation_timestamp());
    let seconds = since.map_or(0, |since| {
        Timestamp::now().as_second() - since.0.as_second()
    });
    let revision = pod
        .labels()
        .get("controller-revision-hash")
        .map(String::as_str);
    PodState {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ready,
        terminating: pod.metadata.deletion_timestamp.is_some(),
        outdated: newest.is_some() && revision != newest,
        trouble: if ready { None } else { trouble(pod, seconds) },
    }
}

/// Why a pod that has not been ready for some seconds will not become so by itself.
pub(super) fn trouble(pod: &Pod, seconds: i64) -> Option<String> {
    if seconds < TROUBLE_SECONDS_MIN || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref()?;
            let ordinary = matches!(reason, "ContainerCreating" | "PodInitializing");
            let message = waiting.message.as_deref().unwrap_or_default();
            (!ordinary).then(|| format!("{reason}: {message}"))
        });
    let unscheduled = || {
        let conditions = status.conditions.iter().flatten();
        let mut scheduled = conditions.filter(|c| c.type_ == "PodScheduled");
        let condition = scheduled.find(|c| c.status == "False")?;
        let (reason, message) = (condition.reason.as_deref()?, condition.message.as_deref());
        Some(format!("{reason}: {}", message.unwrap_or_default()))
    };
    let slow =
        || (seconds > START_SECONDS_MAX).then(|| format!("not ready for {START_SECONDS_MAX} s"));
    waiting.or_else(unscheduled).or_else(slow)
}

async fn restart(operator: &Operator, valid: &ValidCluster, pod: &PodState) -> Result<(), Error> {
    let this = Pod {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(valid.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    };
    operator.delete(&this).await
}
