//! What an operator writes when it has nothing to do, and when it is not the one to do it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::life::{SICK, cluster, put, ready};
use super::nodes::Nodes;
use super::plane::{OPERATOR_NAMESPACE, Plane};
use super::proxy::Proxy;
use super::{Lab, many};
use crate::http;
use crate::runner::until;

const NAMESPACE: &str = "quiet";
/// Longer than the time after which a cluster is looked at without any reason.
const WATCHED: Duration = Duration::from_secs(320);
const REST: Duration = Duration::from_secs(30);
/// An operator that was stopped for so long has lost its Lease.
const TAKEN_OVER: Duration = Duration::from_mins(1);
/// What a stale operator may have wanted to write, it wants within this time.
const AFTERMATH: Duration = Duration::from_secs(15);

/// A namespace that has come to rest; since when nothing has changed.
#[derive(Debug)]
pub struct Watch {
    namespace: &'static str,
    kind: &'static str,
    since: Instant,
    writes: usize,
    reconciles: f64,
    pages: SocketAddr,
    /// A broker with all that it has.
    broker: Option<(SocketAddr, String)>,
    /// What has to go on while it is watched.
    _keeps: Option<Box<dyn std::any::Any + Send>>,
}

impl Watch {
    /// Waits until the operator of a namespace writes no more.
    pub async fn start(
        plane: &Plane,
        namespace: &'static str,
        kind: &'static str,
        pages: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut writes = 0;
        until("the operator has come to rest", REST, async || {
            let before = std::mem::replace(&mut writes, written(plane, namespace)?);
            ensure!(before == writes, "{writes} writes after {before}");
            // What one event leads to is done within this time.
            tokio::time::sleep(Duration::from_secs(2)).await;
            ensure!(written(plane, namespace)? == writes, "still writing");
            Ok(())
        })
        .await?;
        Ok(Self {
            namespace,
            kind,
            since: Instant::now(),
            writes,
            reconciles: reconciles(pages, kind).await?,
            pages,
            broker: None,
            _keeps: None,
        })
    }

    /// What a broker has must stay, and the versions of it.
    pub fn of_broker(self, address: SocketAddr, tables: String) -> Self {
        let broker = Some((address, tables));
        Self { broker, ..self }
    }

    pub fn keeping(self, keeps: impl std::any::Any + Send) -> Self {
        Self {
            _keeps: Some(Box::new(keeps)),
            ..self
        }
    }

    /// Five minutes later all was looked at again, and nothing was written but the Lease.
    async fn judge(self, plane: &Plane) -> anyhow::Result<()> {
        tokio::time::sleep(WATCHED.saturating_sub(self.since.elapsed())).await;
        let writes = written(plane, self.namespace)?;
        if writes != self.writes {
            let all = plane.operator_writes()?;
            let last = all
                .iter()
                .rfind(|w| w["objectRef"]["namespace"] == self.namespace);
            bail!("{} writes, the last is {last:?}", writes - self.writes);
        }
        if let Some((address, before)) = &self.broker {
            let now = many::tables(*address).await?;
            ensure!(now == *before, "the broker was written to: {now}");
        }
        let reconciles = reconciles(self.pages, self.kind).await?;
        let kind = self.kind;
        ensure!(
            reconciles > self.reconciles,
            "no {kind} was looked at again"
        );
        Ok(())
    }
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
    let watch = Watch::start(plane, NAMESPACE, "BrokerCluster", pages).await?;
    ensure!(
        self::version(plane).await? == version,
        "the cluster has changed"
    );
    lab.quiet.push(watch.keeping((operator, nodes)));
    Ok(())
}

/// Five minutes after the first of them came to rest.
pub async fn judged(lab: &mut Lab) -> anyhow::Result<()> {
    if lab.quiet.is_empty() {
        settled(lab).await?;
        many::topics(lab).await?;
    }
    let watches = std::mem::take(&mut lab.quiet);
    let plane = lab.plane().await?;
    for watch in watches {
        watch.judge(plane).await?;
    }
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

/// Writes of operators in a namespace, by the audit log.
fn written(plane: &Plane, namespace: &str) -> anyhow::Result<usize> {
    let writes = plane.operator_writes()?;
    let ours = writes
        .iter()
        .filter(|w| w["objectRef"]["namespace"] == namespace);
    Ok(ours.count())
}

async fn reconciles(pages: SocketAddr, kind: &str) -> anyhow::Result<f64> {
    let page = http::get(pages, "/metrics").await?;
    let name = format!("gantry_operator_reconciles_total{{kind=\"{kind}\"}} ");
    let mut lines = page.body.lines();
    let line = lines.find_map(|line| line.strip_prefix(&name));
    Ok(line.context("no such series")?.parse()?)
}
