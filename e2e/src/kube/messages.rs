//! Messages that outlive their broker's pod and the power of its node.
//!
//! An official client sends over all queues of both groups. A broker's pod is deleted and comes
//! back; then the node under it loses power and gets it again. A consumer group that starts only
//! then, at the first offset, receives exactly what was acknowledged.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command as Program;

use super::client::{Client, tool};
use super::cluster::{self, GROUPS, QUEUES};
use super::kubectl::{Kubectl, text};
use super::{Lab, READY};
use crate::java::driver::Command;
use crate::process::run_ok;
use crate::record::{self, Record};
use crate::runner::until;

const TOPIC: &str = "orders";
const CONSUMERS: &str = "packers";
const TOOL: Duration = Duration::from_mins(1);
const WARM: Duration = Duration::from_secs(30);
/// The node's silence is noticed after 12 s.
const NOTICED: Duration = Duration::from_secs(40);

pub async fn outlive_pod_and_node(lab: &mut Lab) -> anyhow::Result<()> {
    cluster::ready(lab).await?;
    let brokers = cluster::brokers(&lab.kubectl).await?;
    let broker = brokers.first().context("no broker")?;
    let (pod, node) = (
        text(broker, "/metadata/name"),
        text(broker, "/spec/nodeName"),
    );
    let sent = produce(lab, TOPIC, lab.options.messages, node).await?;
    stable_addresses(&lab.kubectl, &sent).await?;
    delete_pod(&lab.kubectl, pod, text(broker, "/metadata/uid")).await?;
    if lab.options.local {
        lose_power(&lab.kubectl, pod, node).await?;
    }
    let received = consume(lab, TOPIC, sent.len(), node).await?;
    record::exactly(&sent, &received)?;
    record::without_gaps(&received)
}

/// Sends over all queues, from a node that is not `node`; every send must succeed.
pub async fn produce(
    lab: &mut Lab,
    topic: &str,
    messages: usize,
    node: &str,
) -> anyhow::Result<Vec<Record>> {
    let file = lab.record_file(&format!("sent-{topic}"));
    let mut client = warm_client(lab, topic, node).await?;
    let produce = Command::new("produce")
        .with("namesrv", cluster::name_server(&lab.kubectl))
        .with("topic", topic)
        .with("prefix", topic)
        .with("count", messages)
        .with("threads", 8)
        .with("record", file.display());
    let produced = client.driver.ask(produce).await?;
    let failures = produced.number("failures")?;
    ensure!(
        failures == 0,
        "{failures} sends failed: {}",
        produced.text("firstFailure")?
    );
    client.fetch(&lab.kubectl, &file).await?;
    let sent = record::read(&file)?;
    ensure!(
        sent.len() == messages,
        "{} of {messages} acknowledged",
        sent.len()
    );
    let queues = record::queues(&sent);
    ensure!(queues == GROUPS * QUEUES, "{queues} queues have messages");
    Ok(sent)
}

/// Message ids carry the groups' ClusterIPs, never the address of a pod.
async fn stable_addresses(kubectl: &Kubectl, sent: &[Record]) -> anyhow::Result<()> {
    let known = cluster::cluster_ips(kubectl).await?;
    let carried = sent.iter().map(|r| {
        let address = r.offset_id.get(..8).context("a message id is longer")?;
        Ok(Ipv4Addr::from(u32::from_str_radix(address, 16)?).to_string())
    });
    let carried = carried.collect::<anyhow::Result<BTreeSet<String>>>()?;
    ensure!(
        carried == known,
        "messages carry {carried:?}, the groups are {known:?}"
    );
    Ok(())
}

async fn delete_pod(kubectl: &Kubectl, pod: &str, uid: &str) -> anyhow::Result<()> {
    kubectl.ok(&["delete", "pod", pod, "--wait=false"]).await?;
    comes_back(kubectl, pod, |now| now != uid).await
}

async fn lose_power(kubectl: &Kubectl, pod: &str, node: &str) -> anyhow::Result<()> {
    let number = node
        .strip_prefix("node")
        .context("a node of ours is called nodeK")?;
    let mut kill = Program::new(tool());
    kill.args(["kill-node", number]);
    run_ok(kill, TOOL).await?;
    until(&format!("{node} is seen to be gone"), NOTICED, async || {
        let ready = format!("{CONDITION}[?(@.type==\"Ready\")].status");
        let ready = kubectl.value(&format!("node/{node}"), &ready).await?;
        ensure!(ready != "True", "still Ready");
        Ok(())
    })
    .await?;
    let mut start = Program::new(tool());
    start.args(["start-node", number]);
    run_ok(start, TOOL).await?;
    comes_back(kubectl, pod, |_| true).await?;
    cluster::wait_ready(kubectl, "brokercluster/shop").await
}

const CONDITION: &str = ".status.conditions";

/// Waits until the pod with that name is Ready, on a node that is, and has a uid that fits.
async fn comes_back(
    kubectl: &Kubectl,
    pod: &str,
    fits: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    until(&format!("{pod} is back"), READY, async || {
        let now = kubectl.json(&["get", "pod", pod]).await?;
        ensure!(fits(text(&now, "/metadata/uid")), "it is the old one");
        ensure!(
            now.pointer("/metadata/deletionTimestamp").is_none(),
            "it is going"
        );
        let node = format!("node/{}", text(&now, "/spec/nodeName"));
        for resource in [node, format!("pod/{pod}")] {
            let path = format!("{CONDITION}[?(@.type==\"Ready\")].status");
            let ready = kubectl.value(&resource, &path).await?;
            ensure!(ready == "True", "{resource} is not ready");
        }
        Ok(())
    })
    .await
}

/// A JVM that has asked for the topic's route once. The client gives the name server 3 s, which a
/// JVM on a busy machine may need for loading classes alone; no failed send shall be its fault.
async fn warm_client(lab: &mut Lab, topic: &str, node: &str) -> anyhow::Result<Client> {
    let mut client = lab.client_away_from(node).await?;
    let ask = Command::new("committed")
        .with("namesrv", cluster::name_server(&lab.kubectl))
        .with("group", CONSUMERS)
        .with("topic", topic);
    until("the client has the route", WARM, async || {
        client.driver.ask(ask.clone()).await?;
        Ok(())
    })
    .await?;
    Ok(client)
}

/// Receives with a consumer group that begins at the first offset.
pub async fn consume(
    lab: &mut Lab,
    topic: &str,
    messages: usize,
    node: &str,
) -> anyhow::Result<Vec<Record>> {
    let file = lab.record_file(&format!("received-{topic}"));
    let mut client = warm_client(lab, topic, node).await?;
    let start = Command::new("consume-start")
        .with("id", topic)
        .with("namesrv", cluster::name_server(&lab.kubectl))
        .with("topic", topic)
        .with("group", CONSUMERS)
        .with("from", "first")
        .with("record", file.display());
    client.driver.ask(start).await?;
    let wait = Command::new("consume-wait")
        .with("id", topic)
        .with("distinct", messages);
    client.driver.ask(wait).await?;
    client
        .driver
        .ask(Command::new("consume-stop").with("id", topic))
        .await?;
    client.fetch(&lab.kubectl, &file).await?;
    record::read(&file)
}
