//! A BrokerCluster of two groups with a Topic and a ConsumerGroup: the three resources become
//! Ready, say so in events, and have the volumes and addresses that their users rely on.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::kubectl::{Kubectl, text};
use super::{Lab, READY};
use crate::runner::until;

pub const GROUPS: usize = 2;
pub const QUEUES: usize = 4;

pub const BROKERS: &str =
    "--selector=app.kubernetes.io/instance=shop,app.kubernetes.io/component=broker";
const EVENT_WAIT: Duration = Duration::from_secs(20);

/// The resources of this stage, by kind and name.
const RESOURCES: [&str; 4] = [
    "brokercluster/shop",
    "topic/orders",
    "topic/returns",
    "consumergroup/packers",
];

pub async fn become_ready(lab: &mut Lab) -> anyhow::Result<()> {
    ready(lab).await
}

/// Applies the resources unless they are Ready already.
pub async fn ready(lab: &mut Lab) -> anyhow::Result<()> {
    if lab.is_ready {
        return Ok(());
    }
    lab.kubectl
        .apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/shop.yaml"))
        .await?;
    for resource in RESOURCES {
        wait_ready(&lab.kubectl, resource).await?;
    }
    lab.is_ready = true;
    Ok(())
}

pub async fn wait_ready(kubectl: &Kubectl, resource: &str) -> anyhow::Result<()> {
    let timeout = format!("--timeout={}s", READY.as_secs());
    let waited = kubectl
        .ok(&["wait", "--for=condition=Ready", resource, &timeout])
        .await;
    if let Err(error) = waited {
        let conditions = kubectl.value(resource, ".status.conditions").await?;
        return Err(error.context(format!("{resource} says {conditions}")));
    }
    Ok(())
}

pub async fn events(lab: &mut Lab) -> anyhow::Result<()> {
    ready(lab).await?;
    let kubectl = &lab.kubectl;
    until(
        "an event of reason Ready for each resource",
        EVENT_WAIT,
        async || {
            let events = kubectl.items(&["get", "events"]).await?;
            for resource in RESOURCES {
                let (kind, name) = resource.split_once('/').context("kind/name")?;
                let told = events.iter().any(|event| {
                    text(event, "/reason") == "Ready"
                        && text(event, "/involvedObject/name") == name
                        && text(event, "/involvedObject/kind").eq_ignore_ascii_case(kind)
                });
                ensure!(told, "no event of reason Ready for {resource}");
            }
            Ok(())
        },
    )
    .await
}

/// Each group has a bound volume, and a Service without selector whose one endpoint is its pod.
pub async fn addresses(lab: &mut Lab) -> anyhow::Result<()> {
    ready(lab).await?;
    let claims = lab
        .kubectl
        .items(&["get", "persistentvolumeclaims", BROKERS])
        .await?;
    let bound = claims
        .iter()
        .filter(|claim| text(claim, "/status/phase") == "Bound");
    ensure!(
        bound.count() == GROUPS,
        "not {GROUPS} bound volumes among {} claims",
        claims.len()
    );
    for pod in lab.kubectl.items(&["get", "pods", BROKERS]).await? {
        let group = group_of(&pod)?;
        let service = lab
            .kubectl
            .json(&["get", "service", &format!("{group}-rw")])
            .await?;
        ensure!(
            service["spec"]["selector"].is_null(),
            "{group}-rw has a selector"
        );
        let selector = format!("--selector=kubernetes.io/service-name={group}-rw");
        let slices = lab
            .kubectl
            .items(&["get", "endpointslices", &selector])
            .await?;
        let [slice] = slices.as_slice() else {
            bail!("not one slice for {group}-rw: {slices:?}")
        };
        let endpoint = text(slice, "/endpoints/0/addresses/0");
        let address = text(&pod, "/status/podIP");
        ensure!(
            endpoint == address,
            "{group}-rw leads to {endpoint}, its broker is {address}"
        );
    }
    Ok(())
}

/// The name servers' address as a client is given it.
pub fn name_server(kubectl: &Kubectl) -> String {
    format!("shop-namesrv.{}.svc.cluster.local:9876", kubectl.namespace)
}

/// Broker pods as objects, in the order of their groups.
pub async fn brokers(kubectl: &Kubectl) -> anyhow::Result<Vec<Value>> {
    kubectl.items(&["get", "pods", BROKERS]).await
}

/// The ClusterIPs of the groups, which messages carry as the address of their store.
pub async fn cluster_ips(kubectl: &Kubectl) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for pod in brokers(kubectl).await? {
        let service = format!("service/{}-rw", group_of(&pod)?);
        found.insert(kubectl.value(&service, ".spec.clusterIP").await?);
    }
    Ok(found)
}

/// `shop-broker-0` of the pod `shop-broker-0-0`.
fn group_of(pod: &Value) -> anyhow::Result<&str> {
    let (group, _) = text(pod, "/metadata/name")
        .rsplit_once('-')
        .context("a pod has an ordinal")?;
    Ok(group)
}
