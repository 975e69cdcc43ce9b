//! BrokerCluster: fetch, validate, build, apply, status.
//!
//! A reconcile reads what the cluster has, applies what differs, deletes what nobody wants any
//! more, and then says what is still waited for. It never waits itself: a watch brings it back.
//! The address of a group is remembered in the status before any broker writes it into a message.

mod validate;
mod build;
mod owned;
mod restart;
mod volume;
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
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Api, PostParams};
use kube::runtime::controller::Action;

use crate::apply::FIELD_MANAGER;
use crate::condition::{Fact, State, Verdict, conditions, is_news};
use crate::{Error, Operator};
use owned::Owned;
use validate::{Part, as_text};

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
    let facts = facts(&status.groups, &verdict);
    status.observed_generation = generation;
    status.conditions = conditions(known, generation, &verdict, &facts, Timestamp::now());
    operator
        .write_status(cluster.as_ref(), old, &status)
        .await?;
    if is_news(known, &verdict) && verdict.reason != observe::RESTARTING {
        operator.tell(cluster.as_ref(), &verdict, None).await;
    }
    match (error, verdict.state) {
        (Some(error), _) => Err(error),
        (None, State::Ready | State::Paused) => Ok(Action::requeue(RESYNC)),
        (None, State::Working | State::Stalled) => Ok(Action::requeue(RESYNC_WORKING)),
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

/// What is said beside the verdict: whether every group serves clients, and what stands in the
/// way of a change that is being rolled out.
fn facts(groups: &[GroupStatus], verdict: &Verdict) -> [Fact; 2] {
    let missing: Vec<&str> = groups
        .iter()
        .filter(|group| !group.ready)
        .map(|group| group.name.as_str())
        .collect();
    let holds = missing.is_empty() && !groups.is_empty();
    let serves = match missing.as_slice() {
        [] if holds => "every broker group serves clients".to_owned(),
        [] => "no broker group has been made yet".to_owned(),
        names => format!("not serving: {}", names.join(", ")),
    };
    let blocks = verdict.reason == observe::BLOCKED;
    let why = if blocks {
        verdict.message.clone()
    } else {
        String::new()
    };
    [
        Fact::of(
            "Available",
            holds,
            ["AllGroupsServe", "GroupsMissing"],
            serves,
        ),
        Fact::of(
            observe::BLOCKED,
            blocks,
            ["PodNotReady", "NothingBlocks"],
            why,
        ),
    ]
}

async fn converge(
    operator: &Operator,
    cluster: &BrokerCluster,
    valid: &ValidCluster,
    status: &mut BrokerClusterStatus,
) -> Result<Verdict, Error> {
    let mut owned = Owned::read(operator, valid).await?;
    owned.settle_shared(operator, valid).await?;
    let mut sets = vec![owned.settle_name_servers(operator, valid).await?];

    let mut groups = Vec::new();
    for group in valid.groups() {
        groups.push(open_address(operator, valid, &mut owned, group).await?);
    }
    status.groups = groups;
    status.name_servers = valid.name_servers();
    status.selector = as_text(&valid.selector(Part::Brokers));
    let old = cluster.status.as_ref();
    if old.is_none_or(|old| forgets(old, status)) {
        operator.write_status(cluster, None, status).await?;
    }
    for (group, open) in valid.groups().zip(&status.groups) {
        let store_host = open
            .address
            .parse()
            .map_err(|_| Error::NoAddress(open.name.clone()))?;
        sets.push(
            owned
                .settle_broker(operator, valid, group, store_host)
                .await?,
        );
    }
    owned.drop_orphans(operator).await?;
    status.replicas = valid.spec.groups;
    for (group, set) in status.groups.iter_mut().zip(sets.iter().skip(1)) {
        group.ready = group.ready && observe::is_ready(set);
    }
    status.ready_groups = status.groups.iter().filter(|group| group.ready).count() as i32;
    let growing = volume::grow(operator, valid).await?;
    let verdict = observe::verdict(operator, cluster, valid, &sets, &status.groups).await?;
    Ok(match growing {
        Some(message) if verdict.state == State::Ready => {
            Verdict::working("WaitingForVolumes", message)
        }
        _ => verdict,
    })
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
    owned: &mut Owned,
    group: i32,
) -> Result<GroupStatus, Error> {
    let service = owned.settle_services(operator, valid, group).await?;
    let ip = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .unwrap_or_default();
    let ip: IpAddr = ip
        .parse()
        .map_err(|_| Error::NoAddress(valid.rw_name(group)))?;
    let name = valid.rw_name(group);
    let ready = if let Some(slice) = owned.slices.get(&name) {
        observe::has_ready_endpoint(slice)
    } else {
        let slice = build::rw_slice(valid, group, ip);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let slices: Api<EndpointSlice> = Api::namespaced(operator.client.clone(), &valid.namespace);
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
