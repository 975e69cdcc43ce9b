//! What operators of a cluster look at: `/livez`, `/readyz` and `/metrics` of every pod, read
//! through the API server. A few messages go through first, so that there is something to count.

use anyhow::{Context as _, ensure};

use super::Lab;
use super::cluster::{self, BROKERS, GROUPS};
use super::kubectl::{Kubectl, text};
use super::messages::{consume, produce};

const NAME_SERVERS: &str =
    "--selector=app.kubernetes.io/instance=shop,app.kubernetes.io/component=namesrv";
const OPERATOR: &str = "--selector=app.kubernetes.io/component=operator";
const TOPIC: &str = "returns";
const MESSAGES: usize = 64;
const PORT: u16 = 5557;
const OPERATOR_PORT: u16 = 8080;

/// Metrics that every broker must have, under the names of RocketMQ 5.
const BROKER: [&str; 6] = [
    "rocketmq_messages_in_total{",
    "rocketmq_messages_out_total{",
    "rocketmq_throughput_in_total{",
    "rocketmq_throughput_out_total{",
    "rocketmq_storage_size_bytes{",
    "rocketmq_rpc_latency_milliseconds_bucket{",
];
/// Disk and connections have no such name there.
const BROKER_OWN: [&str; 2] = ["gantry_disk_used_bytes", "gantry_connections"];
const NAME_SERVER: [&str; 2] = ["gantry_requests_total", "gantry_connections"];
const RECONCILES: [&str; 1] = ["gantry_operator_reconciles_total"];

pub async fn of_every_pod(lab: &mut Lab) -> anyhow::Result<()> {
    cluster::ready(lab).await?;
    let sent = produce(lab, TOPIC, MESSAGES, "").await?;
    let received = consume(lab, TOPIC, sent.len(), "").await?;
    crate::record::exactly(&sent, &received)?;
    let kubectl = &lab.kubectl;
    let own = kubectl.namespace.clone();
    let broker = [&BROKER[..], &BROKER_OWN[..]].concat();
    let brokers = check(kubectl, &own, BROKERS, PORT, &broker).await?;
    ensure!(brokers == GROUPS, "{brokers} brokers");
    ensure!(
        check(kubectl, &own, NAME_SERVERS, PORT, &NAME_SERVER).await? > 0,
        "no name server"
    );
    let namespace = &lab.options.operator_namespace;
    let operators = check(kubectl, namespace, OPERATOR, OPERATOR_PORT, &RECONCILES).await?;
    ensure!(operators > 0, "no operator in {namespace}");
    let counted = sum(kubectl, "rocketmq_messages_in_total", TOPIC).await?;
    ensure!(
        counted as usize == MESSAGES,
        "the brokers counted {counted} of {MESSAGES} in"
    );
    let counted = sum(kubectl, "rocketmq_messages_out_total", TOPIC).await?;
    ensure!(
        counted as usize == MESSAGES,
        "the brokers counted {counted} of {MESSAGES} out"
    );
    Ok(())
}

/// The probes answer and the metrics are there, in each pod; gives the number of pods.
async fn check(
    kubectl: &Kubectl,
    namespace: &str,
    selector: &str,
    port: u16,
    metrics: &[&str],
) -> anyhow::Result<usize> {
    let pods = pods(kubectl, namespace, selector).await?;
    for pod in &pods {
        for path in ["/livez", "/readyz"] {
            page(kubectl, namespace, pod, port, path).await?;
        }
        let page = page(kubectl, namespace, pod, port, "/metrics").await?;
        let has = |name: &str| page.lines().any(|line| line.starts_with(name));
        let missing: Vec<_> = metrics.iter().filter(|name| !has(name)).collect();
        ensure!(missing.is_empty(), "{pod} lacks the metrics {missing:?}");
    }
    Ok(pods.len())
}

/// The sum of a metric over all brokers, for the samples of one topic.
async fn sum(kubectl: &Kubectl, metric: &str, topic: &str) -> anyhow::Result<f64> {
    let label = format!("topic=\"{topic}\"");
    let mut sum = 0.0;
    for pod in pods(kubectl, &kubectl.namespace, BROKERS).await? {
        let page = page(kubectl, &kubectl.namespace, &pod, PORT, "/metrics").await?;
        let samples = page.lines().filter(|line| {
            let named = line
                .strip_prefix(metric)
                .is_some_and(|rest| rest.starts_with('{'));
            named && line.contains(&label)
        });
        for sample in samples {
            sum += sample
                .rsplit(' ')
                .next()
                .context("a sample has a value")?
                .parse::<f64>()?;
        }
    }
    Ok(sum)
}

async fn pods(kubectl: &Kubectl, namespace: &str, selector: &str) -> anyhow::Result<Vec<String>> {
    let pods = kubectl
        .items(&["get", "pods", selector, "--namespace", namespace])
        .await?;
    Ok(pods
        .iter()
        .map(|pod| text(pod, "/metadata/name").to_owned())
        .collect())
}

/// A page of a pod, through the API server: works from anywhere.
async fn page(
    kubectl: &Kubectl,
    namespace: &str,
    pod: &str,
    port: u16,
    path: &str,
) -> anyhow::Result<String> {
    let raw = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
    kubectl.ok(&["get", "--raw", &raw]).await
}
