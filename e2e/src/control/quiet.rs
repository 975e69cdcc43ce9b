//! What an operator writes when it has nothing to do, and when it is not the one to do it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::Lab;
use super::life::{SICK, cluster, put, ready};
use super::nodes::Nodes;
use super::plane::{OPERATOR_NAMESPACE, Plane};
use super::proxy::Proxy;
use crate::http;
use crate::process::Process;
use crate::runner::until;

const NAMESPACE: &str = "quiet";
/// Longer than the time after which a cluster is looked at without any reason.
const WATCHED: Duration = Duration::from_secs(320);
/// An operator that was stopped for so long has lost its Lease.
const TAKEN_OVER: Duration = Duration::from_mins(1);
/// What a stale operator may have wanted to write, it wants within this time.
const AFTERMATH: Duration = Duration::from_secs(15);

/// A settled cluster and its operator, since when nothing has changed.
#[derive(Debug)]
pub struct Watch {
    since: Instant,
    writes: usize,
    reconciles: f64,
    pages: SocketAddr,
    _operator: Process,
    _nodes: Nodes,
}

/// Brings a cluster to rest; it is watched from then on.
pub async fn settled(lab: &mut Lab) -> anyhow::Result<()> {
    let plane = lab.plane().await?;
    plane.namespace(NAMESPACE).await?;
    let nodes = Nodes::start(plane.client.clone(), NAMESPACE, SICK);
    let (operator, pages) = plane.operator(NAMESPACE, "one", None)?;
    // Sizes that the API server writes in another way, and fields that it removes.
    let spec = json!({
        "groups": 3, "nameServer": {"replicas": 2}, "storage": {"size": "2048Mi"},
        "resources": {"requests": {"cpu": "0.5", "memory": "1024Ki"}, "limits": {}},
        "template": {"labels": {"team": "a"}, "annotations": {}},
    });
    put(plane, NAMESPACE, &spec).await?;
    ready(plane, NAMESPACE).await?;
    // The same documents again, as GitOps tools apply them every minute, are no news.
    let version = version(plane).await?;
    put(plane, NAMESPACE, &spec).await?;
    let mut writes = 0;
    until(
        "the operator has come to rest",
        Duration::from_secs(30),
        async || {
            let before = std::mem::replace(&mut writes, of_namespace(plane)?);
            ensure!(before == writes, "{writes} writes after {before}");
            // What one event leads to is done within this time.
            tokio::time::sleep(Duration::from_secs(2)).await;
            ensure!(of_namespace(plane)? == writes, "still writing");
            Ok(())
        },
    )
    .await?;
    ensure!(
        self::version(plane).await? == version,
        "the cluster has changed"
    );
    let reconciles = reconciles(pages).await?;
    lab.quiet = Some(Watch {
        since: Instant::now(),
        writes,
        reconciles,
        pages,
        _operator: operator,
        _nodes: nodes,
    });
    Ok(())
}

/// Five minutes later it was reconciled, and nothing was written but its Lease.
pub async fn judged(lab: &mut Lab) -> anyhow::Result<()> {
    if lab.quiet.is_none() {
        settled(lab).await?;
    }
    let watch = lab.quiet.take().context("settled above")?;
    let plane = lab.plane().await?;
    tokio::time::sleep(WATCHED.saturating_sub(watch.since.elapsed())).await;
    let writes = of_namespace(plane)?;
    if writes != watch.writes {
        let all = plane.operator_writes()?;
        let last = all
            .iter()
            .rfind(|w| w["objectRef"]["namespace"] == NAMESPACE);
        bail!("{} writes, the last is {last:?}", writes - watch.writes);
    }
    let reconciles = reconciles(watch.pages).await?;
    ensure!(
        reconciles > watch.reconciles,
        "the cluster was not looked at again"
    );
    Ok(())
}

/// Two operators; the first is stopped until the second leads, and wakes up with work to do.
pub async fn stale(lab: &mut Lab) -> anyhow::Result<()> {
    let plane = lab.plane().await?;
    plane.namespace("stale").await?;
    let _nodes = Nodes::start(plane.client.clone(), "stale", SICK);
    let proxy = Proxy::start(plane.operator_client().await?).await?;
    let (first, _) = plane.operator("stale", "first", Some(proxy.address))?;
    let spec = |image: &str| json!({"groups": 1, "storage": {"size": "1Gi"}, "image": image});
    put(plane, "stale", &spec("gantry:1")).await?;
    ready(plane, "stale").await?;
    let (_second, pages) = plane.operator("stale", "second", None)?;
    until(
        "the second operator waits",
        Duration::from_secs(30),
        async || {
            ensure!(
                http::get(pages, "/readyz").await?.status == 200,
                "not ready"
            );
            Ok(())
        },
    )
    .await?;
    ensure!(
        holder(plane).await? == "first",
        "the second one took the Lease"
    );

    first.signal(Signal::STOP);
    // It reads of this when it wakes up, and so does the one that leads by then.
    put(plane, "stale", &spec("gantry:2")).await?;
    let before = proxy.writes().len();
    until("the second operator leads", TAKEN_OVER, async || {
        ensure!(
            holder(plane).await? == "second",
            "the first one still holds the Lease"
        );
        Ok(())
    })
    .await?;
    first.signal(Signal::CONT);
    ready(plane, "stale").await?;
    put(plane, "stale", &spec("gantry:3")).await?;
    ready(plane, "stale").await?;
    tokio::time::sleep(AFTERMATH).await;
    let writes = proxy.writes();
    let stale = writes.get(before..).unwrap_or_default();
    ensure!(stale.is_empty(), "the stale operator wrote {stale:?}");
    ensure!(holder(plane).await? == "second", "the Lease went back");
    Ok(())
}

async fn holder(plane: &Plane) -> anyhow::Result<String> {
    let path = "/apis/coordination.k8s.io/v1/namespaces";
    let path = format!("{path}/{OPERATOR_NAMESPACE}/leases/gantry-operator-stale");
    let lease = plane.get(&path).await?;
    let holder = lease["spec"]["holderIdentity"].as_str();
    Ok(holder.unwrap_or_default().to_owned())
}

async fn version(plane: &Plane) -> anyhow::Result<String> {
    let found = plane.get(&cluster(NAMESPACE)).await?;
    let version = found["metadata"]["resourceVersion"].as_str();
    Ok(version.unwrap_or_default().to_owned())
}

/// Writes of the operator in the watched namespace, by the audit log.
fn of_namespace(plane: &Plane) -> anyhow::Result<usize> {
    let writes = plane.operator_writes()?;
    let ours = writes
        .iter()
        .filter(|w| w["objectRef"]["namespace"] == NAMESPACE);
    Ok(ours.count())
}

async fn reconciles(pages: SocketAddr) -> anyhow::Result<f64> {
    let page = http::get(pages, "/metrics").await?;
    let name = "gantry_operator_reconciles_total{kind=\"BrokerCluster\"} ";
    let line = page.body.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.context("no such series")?.parse()?)
}
