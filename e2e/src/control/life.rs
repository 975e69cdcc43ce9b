//! A BrokerCluster on its way: it becomes Ready, a bad change stops at one pod and heals when it is
//! taken back, and what belongs to others is not touched.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::Lab;
use super::nodes::Nodes;
use super::plane::Plane;
use crate::runner::until;

const WAIT: Duration = Duration::from_secs(90);
/// The image that no node has.
pub const SICK: &str = "sick:1";

/// Applies a BrokerCluster `shop` with this spec.
pub async fn put(plane: &Plane, namespace: &str, spec: &Value) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "gantry.dev/v1alpha1", "kind": "BrokerCluster",
        "metadata": {"name": "shop"}, "spec": spec,
    });
    plane.apply(&cluster(namespace), &object).await?;
    Ok(())
}

pub fn cluster(namespace: &str) -> String {
    format!("/apis/gantry.dev/v1alpha1/namespaces/{namespace}/brokerclusters/shop")
}

/// Waits until the newest generation is Ready, as `kubectl wait` and kstatus understand it.
pub async fn ready(plane: &Plane, namespace: &str) -> anyhow::Result<()> {
    settled(plane, &cluster(namespace)).await
}

/// The same of any resource.
pub async fn settled(plane: &Plane, path: &str) -> anyhow::Result<()> {
    until(&format!("{path} is Ready"), WAIT, async || {
        let found = plane.get(path).await?;
        let of_now = found["status"]["observedGeneration"] == found["metadata"]["generation"];
        ensure!(
            of_now && condition(&found, "Ready")["status"] == "True",
            "{}",
            found["status"]
        );
        Ok(())
    })
    .await
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.unwrap_or(&Value::Null)
}

pub async fn blocked(lab: &mut Lab) -> anyhow::Result<()> {
    let plane = lab.plane().await?;
    let kubectl = plane.namespace("blocked").await?;
    let _nodes = Nodes::start(plane.client.clone(), "blocked", SICK);
    let (_operator, _) = plane.operator("blocked", "one", None)?;
    let spec = |image: &str| json!({"groups": 2, "storage": {"size": "1Gi"}, "image": image});
    put(plane, "blocked", &spec("good:1")).await?;
    ready(plane, "blocked").await?;

    put(plane, "blocked", &spec(SICK)).await?;
    until("UpgradeBlocked names pod and reason", WAIT, async || {
        let found = plane.get(&cluster("blocked")).await?;
        let blocked = condition(&found, "UpgradeBlocked");
        let message = blocked["message"].as_str().unwrap_or_default();
        ensure!(
            blocked["status"] == "True"
                && message.starts_with("pod shop-namesrv-0: ImagePullBackOff")
                && condition(&found, "Stalled")["status"] == "True"
                && condition(&found, "Available")["status"] == "True",
            "{}",
            found["status"]["conditions"]
        );
        Ok(())
    })
    .await?;
    let images = "--output=jsonpath={.items[*].spec.containers[0].image}";
    let words = kubectl.ok(&["get", "pods", images]).await?;
    let sick = words.split(' ').filter(|image| *image == SICK).count();
    ensure!(sick == 1, "the change went on: {words}");

    put(plane, "blocked", &spec("good:1")).await?;
    ready(plane, "blocked").await?;
    let found = plane.get(&cluster("blocked")).await?;
    ensure!(condition(&found, "UpgradeBlocked")["status"] == "False");
    let words = kubectl.ok(&["get", "pods", images]).await?;
    ensure!(!words.contains(SICK), "not healed: {words}");
    Ok(())
}

/// A Service of somebody else has the name that the cluster wants.
pub async fn taken(lab: &mut Lab) -> anyhow::Result<()> {
    let plane = lab.plane().await?;
    let kubectl = plane.namespace("taken").await?;
    let _nodes = Nodes::start(plane.client.clone(), "taken", SICK);
    let (_operator, _) = plane.operator("taken", "one", None)?;
    let create = ["create", "service", "clusterip", "shop-namesrv", "--tcp=80"];
    kubectl.ok(&create).await?;
    let spec = json!({"groups": 1, "storage": {"size": "1Gi"}});
    put(plane, "taken", &spec).await?;
    until("the cluster says who is in the way", WAIT, async || {
        let found = plane.get(&cluster("taken")).await?;
        let stalled = condition(&found, "Stalled");
        let expected = "Service shop-namesrv exists and belongs to somebody else";
        ensure!(stalled["message"] == expected, "{}", found["status"]);
        Ok(())
    })
    .await?;
    let port = kubectl
        .value("service/shop-namesrv", ".spec.ports[0].port")
        .await?;
    ensure!(port == "80", "the Service of somebody else was changed");
    kubectl.ok(&["delete", "service", "shop-namesrv"]).await?;
    ready(plane, "taken").await
}
