//! What the objects of a cluster say of its state, and what is still waited for.

use crds::BrokerCluster;
use crds::cluster::GroupStatus;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};

use super::restart::{Next, PodState, next};
use super::validate::{ValidCluster, as_text};
use crate::condition::Verdict;
use crate::{Error, Operator};

/// Reason of the verdict that a pod is restarted; its event names the pod.
pub(super) const RESTARTING: &str = "Restarting";

/// Says what is waited for, and restarts the next outdated pod if there is one. The first set is
/// that of the name servers, the others are the groups.
pub(super) async fn verdict(
    operator: &Operator,
    cluster: &BrokerCluster,
    valid: &ValidCluster,
    sets: &[StatefulSet],
    groups: &[GroupStatus],
) -> Result<Verdict, Error> {
    if sets.iter().any(has_outdated_pods) {
        let pods = pods(operator, valid, sets).await?;
        match next(&pods) {
            Next::Nothing => {}
            Next::After(name) => {
                let message = format!("pod {name} must be ready before the next one is restarted");
                return Ok(Verdict::working("WaitingForPods", message));
            }
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
                return Ok(verdict);
            }
        }
    }
    Ok(waiting(sets, groups))
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
    claims
        .first()
        .and_then(requested)
        .map(|size| size.0.clone())
}

pub(super) fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim
        .spec
        .as_ref()?
        .resources
        .as_ref()?
        .requests
        .as_ref()?
        .get("storage")
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
        let newest = set
            .status
            .as_ref()
            .and_then(|status| status.update_revision.as_deref());
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
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    let revision = pod
        .labels()
        .get("controller-revision-hash")
        .map(String::as_str);
    PodState {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        outdated: revision != newest,
    }
}

async fn restart(operator: &Operator, valid: &ValidCluster, pod: &PodState) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(operator.client.clone(), &valid.namespace);
    let preconditions = Preconditions {
        uid: Some(pod.uid.clone()),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match api.delete(&pod.name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(drop).map_err(|source| Error::Write {
            what: format!("Pod {}", pod.name),
            source,
        }),
    }
}
