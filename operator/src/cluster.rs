//! BrokerCluster: fetch, validate, build, apply, status.
//!
//! A reconcile applies everything that the cluster needs and then says what is still waited for.
//! It never waits itself: a watch brings it back. The address of a group is remembered in the
//! status before any broker writes it into a message.

mod validate;
mod build;
mod restart;
mod observe;
#[cfg(test)]
mod tests;

pub(crate) use validate::MANAGED_BY;
pub(crate) use validate::{NAME_SERVER_PORT, OPERATOR, REMOTING_PORT, ValidCluster};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crds::cluster::GroupStatus;
use crds::{BrokerCluster, BrokerClusterStatus};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::apply::{FIELD_MANAGER, apply, write_status};
use crate::condition::{State, Verdict, conditions, is_news};
use crate::{Error, Operator};
use validate::{Part, as_text};

/// Groups that are applied at the same time.
const GROUPS_AT_ONCE_MAX: usize = 8;
/// Without any event of a watch, a cluster is looked at again after this long.
const RESYNC: Duration = Duration::from_mins(5);
const RESYNC_WORKING: Duration = Duration::from_secs(10);

pub(crate) async fn reconcile(
    cluster: Arc<BrokerCluster>,
    operator: Arc<Operator>,
) -> Result<Action, Error> {
    if cluster.meta().deletion_timestamp.is_some() {
        // All objects are owned by the cluster and go with it.
        return Ok(Action::await_change());
    }
    let mut status = cluster.status.clone().unwrap_or_default();
    let verdict = match ValidCluster::new(&cluster, &operator.options) {
        Err(broken) => Ok(Verdict::stalled("Invalid", broken.to_string())),
        Ok(_) if cluster.spec.paused => Ok(paused()),
        Ok(valid) => converge(&operator, &cluster, &valid, &mut status).await,
    };
    let (verdict, error) = match verdict {
        Ok(verdict) => (verdict, None),
        Err(error) if error.is_permanent() => {
            (Verdict::stalled("Refused", error.to_string()), Some(error))
        }
        Err(error) => return Err(error),
    };
    let old = cluster.status.as_ref();
    let known = old.map(|old| old.conditions.as_slice()).unwrap_or_default();
    let generation = cluster.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    status.conditions = conditions(known, generation, &verdict, Timestamp::now());
    write_status(&operator.client, cluster.as_ref(), old, &status).await?;
    if is_news(known, &verdict) && verdict.reason != observe::RESTARTING {
        operator.tell(cluster.as_ref(), &verdict, None).await;
    }
    match (error, verdict.state) {
        (Some(error), _) => Err(error),
        (None, State::Working) => Ok(Action::requeue(RESYNC_WORKING)),
        (None, _) => Ok(Action::requeue(RESYNC)),
    }
}

fn paused() -> Verdict {
    let message = "spec.paused is true: everything stays as it is".to_owned();
    Verdict {
        state: State::Paused,
        reason: "Paused",
        message,
    }
}

async fn converge(
    operator: &Operator,
    cluster: &BrokerCluster,
    valid: &ValidCluster,
    status: &mut BrokerClusterStatus,
) -> Result<Verdict, Error> {
    let client = &operator.client;
    apply(client, &build::service_account(valid)).await?;
    apply(client, &build::role(valid)).await?;
    apply(client, &build::role_binding(valid)).await?;
    apply(client, &build::name_server_pods(valid)).await?;
    apply(client, &build::name_server_service(valid)).await?;
    apply(client, &build::budget(valid, Part::NameServers)).await?;
    let mut sets = vec![apply(client, &build::name_server_set(valid)).await?];

    let open = stream::iter(valid.groups()).map(|group| open_address(operator, valid, group));
    status.groups = open.buffered(GROUPS_AT_ONCE_MAX).try_collect().await?;
    status.name_servers = valid.name_servers();
    status.selector = as_text(&valid.selector(Part::Brokers));
    status.ready_groups = 0;
    if cluster
        .status
        .as_ref()
        .is_none_or(|old| forgets(old, status))
    {
        write_status(client, cluster, None, status).await?;
    }

    let groups = valid.groups().zip(status.groups.clone());
    let brokers = stream::iter(groups).map(|(g, open)| apply_broker(operator, valid, g, open));
    let brokers: Vec<StatefulSet> = brokers.buffered(GROUPS_AT_ONCE_MAX).try_collect().await?;
    sets.extend(brokers);
    status.replicas = valid.spec.groups;
    for (group, set) in status.groups.iter_mut().zip(sets.iter().skip(1)) {
        group.ready = group.ready && observe::is_ready(set);
    }
    status.ready_groups = status.groups.iter().filter(|group| group.ready).count() as i32;
    observe::verdict(operator, cluster, valid, &sets, &status.groups).await
}

/// True when the addresses on record are not those that messages are about to carry.
fn forgets(old: &BrokerClusterStatus, new: &BrokerClusterStatus) -> bool {
    let addresses = |status: &BrokerClusterStatus| -> Vec<(String, String)> {
        status
            .groups
            .iter()
            .map(|group| (group.name.clone(), group.address.clone()))
            .collect()
    };
    addresses(old) != addresses(new)
}

/// Applies the Services of a group and creates the EndpointSlice that its broker will write.
async fn open_address(
    operator: &Operator,
    valid: &ValidCluster,
    group: i32,
) -> Result<GroupStatus, Error> {
    let client = &operator.client;
    apply(client, &build::broker_service(valid, group)).await?;
    let service: Service = apply(client, &build::rw_service(valid, group)).await?;
    let ip = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .unwrap_or_default();
    let ip: IpAddr = ip
        .parse()
        .map_err(|_| Error::NoAddress(valid.rw_name(group)))?;

    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &valid.namespace);
    let name = valid.rw_name(group);
    let found = slices.get_opt(&name).await.map_err(Error::Read)?;
    let ready = if let Some(slice) = found {
        observe::has_ready_endpoint(&slice)
    } else {
        let slice = build::rw_slice(valid, group, ip);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let created = slices.create(&params, &slice).await;
        let what = format!("EndpointSlice {name}");
        created.map_err(|source| Error::Write { what, source })?;
        false
    };
    let address = SocketAddr::new(ip, REMOTING_PORT).to_string();
    Ok(GroupStatus {
        name: valid.broker_name(group),
        address,
        ready,
    })
}

async fn apply_broker(
    operator: &Operator,
    valid: &ValidCluster,
    group: i32,
    open: GroupStatus,
) -> Result<StatefulSet, Error> {
    let client = &operator.client;
    let store_host = open
        .address
        .parse()
        .map_err(|_| Error::NoAddress(open.name))?;
    let config = build::config_map(valid, group, store_host);
    apply(client, &config).await?;
    apply(client, &build::budget(valid, Part::Group(group))).await?;

    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &valid.namespace);
    let found = sets
        .get_opt(&valid.broker_name(group))
        .await
        .map_err(Error::Read)?;
    let size = &valid.spec.storage.size;
    let template_size = found.as_ref().and_then(observe::template_size);
    let template_size = template_size.unwrap_or_else(|| size.clone());
    let set = apply(
        client,
        &build::broker_set(valid, group, &config, &template_size),
    )
    .await?;
    if *size != template_size {
        grow(operator, valid, group).await?;
    }
    Ok(set)
}

/// Asks for the volume of a group to be as large as the cluster says.
async fn grow(operator: &Operator, valid: &ValidCluster, group: i32) -> Result<(), Error> {
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(operator.client.clone(), &valid.namespace);
    let name = format!("{}-{}-0", build::DATA, valid.broker_name(group));
    let Some(claim) = claims.get_opt(&name).await.map_err(Error::Read)? else {
        return Ok(());
    };
    let size = &valid.spec.storage.size;
    if observe::requested(&claim).is_some_and(|found| found.0 == *size) {
        return Ok(());
    }
    tracing::info!(claim = name, size, "the volume grows");
    let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let patched = claims
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    let what = format!("PersistentVolumeClaim {}", claim.name_any());
    patched
        .map(drop)
        .map_err(|source| Error::Write { what, source })
}
