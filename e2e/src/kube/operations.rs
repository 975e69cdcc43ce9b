//! What people do with a BrokerCluster on the second day: apply it again, enlarge it, change it
//! for the worse and take that back, delete it.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use super::cluster::{ready, wait_ready};
use super::kubectl::{Kubectl, text};
use super::{Lab, READY};
use crate::runner::until;

/// How soon a change that can't work has to be named.
const NAMED: Duration = Duration::from_mins(1);
const YARD: &str = "brokercluster/yard";
const PODS: &str = "--selector=app.kubernetes.io/instance=yard";

/// Right after an apply, `kubectl diff` finds nothing, as GitOps tools ask all the time.
pub async fn no_difference(lab: &mut Lab) -> anyhow::Result<()> {
    ready(lab).await?;
    for file in ["shop.yaml", "yard.yaml"] {
        let file = resource(file);
        lab.kubectl.ok(&["apply", "--filename", &file]).await?;
        let diff = lab.kubectl.attempt(&["diff", "--filename", &file]).await?;
        let (code, text) = (diff.status.code(), diff.stdout);
        ensure!(code == Some(0), "kubectl diff ends with {code:?}: {text}");
    }
    Ok(())
}

/// The scale sub-resource, as `kubectl scale` and autoscalers use it.
pub async fn scale(lab: &mut Lab) -> anyhow::Result<()> {
    let kubectl = &yard(lab).await?.kubectl;
    kubectl.ok(&["scale", YARD, "--replicas=2"]).await?;
    settled(kubectl).await?;
    let scale = kubectl.json(&["get", YARD, "--subresource=scale"]).await?;
    ensure!(scale["status"]["replicas"] == 2, "{scale}");
    let selector = format!("--selector={}", text(&scale, "/status/selector"));
    let pods = kubectl.items(&["get", "pods", &selector]).await?;
    ensure!(pods.len() == 2, "the selector finds {} pods", pods.len());
    let shrunk = kubectl.attempt(&["scale", YARD, "--replicas=1"]).await?;
    ensure!(
        !shrunk.status.success() && shrunk.stderr.contains("groups may only grow"),
        "{}{}",
        shrunk.stdout,
        shrunk.stderr
    );
    Ok(())
}

pub async fn volumes_grow(lab: &mut Lab) -> anyhow::Result<()> {
    let kubectl = &yard(lab).await?.kubectl;
    let pods = uids(kubectl).await?;
    patch(kubectl, r#"{"spec": {"storage": {"size": "2Gi"}}}"#).await?;
    settled(kubectl).await?;
    for claim in kubectl
        .items(&["get", "persistentvolumeclaims", PODS])
        .await?
    {
        let capacity = text(&claim, "/status/capacity/storage");
        ensure!(capacity == "2Gi", "a volume has {capacity}");
    }
    ensure!(uids(kubectl).await? == pods, "a pod was restarted for it");
    Ok(())
}

/// An image that does not exist stops at the first pod, which is named; the old one heals.
pub async fn bad_image(lab: &mut Lab) -> anyhow::Result<()> {
    let kubectl = &yard(lab).await?.kubectl;
    let before = uids(kubectl).await?;
    patch(kubectl, r#"{"spec": {"image": "localhost/gantry:absent"}}"#).await?;
    until("UpgradeBlocked names the pod", NAMED, async || {
        let path = r#".status.conditions[?(@.type=="UpgradeBlocked")].message"#;
        let message = kubectl.value(YARD, path).await?;
        let named = message.starts_with("pod yard-namesrv-0: ");
        let reason = message.contains("ImagePull") || message.contains("ImageNeverPull");
        ensure!(named && reason, "it says {message:?}");
        Ok(())
    })
    .await?;
    let gone = |now: &[String]| before.iter().filter(|uid| !now.contains(uid)).count();
    let restarted = gone(&uids(kubectl).await?);
    ensure!(restarted == 1, "{restarted} pods were restarted");
    patch(kubectl, r#"{"spec": {"image": null}}"#).await?;
    settled(kubectl).await?;
    let restarted = gone(&uids(kubectl).await?);
    ensure!(restarted == 1, "{restarted} pods were restarted in the end");
    Ok(())
}

/// A property of the brokers: each restarts once, none of the name servers does.
pub async fn config(lab: &mut Lab) -> anyhow::Result<()> {
    let kubectl = &yard(lab).await?.kubectl;
    let before = uids(kubectl).await?;
    patch(
        kubectl,
        r#"{"spec": {"config": {"maxMessageSize": "65536"}}}"#,
    )
    .await?;
    settled(kubectl).await?;
    let now = uids(kubectl).await?;
    let kept = now.iter().filter(|uid| before.contains(uid)).count();
    ensure!(kept == 1, "{kept} of {} pods were kept", before.len());
    Ok(())
}

pub async fn delete(lab: &mut Lab) -> anyhow::Result<()> {
    let kubectl = &yard(lab).await?.kubectl;
    kubectl.ok(&["delete", YARD, "--timeout=60s"]).await?;
    until("only the volumes are left", READY, async || {
        let all = "pods,services,statefulsets,configmaps,poddisruptionbudgets,networkpolicies,\
                   endpointslices,roles,rolebindings,serviceaccounts";
        let left = kubectl.items(&["get", all, PODS]).await?;
        ensure!(left.is_empty(), "{} objects are left", left.len());
        Ok(())
    })
    .await?;
    let claims = kubectl
        .items(&["get", "persistentvolumeclaims", PODS])
        .await?;
    ensure!(!claims.is_empty(), "the volumes went too");
    Ok(())
}

/// A small cluster of its own.
async fn yard(lab: &mut Lab) -> anyhow::Result<&mut Lab> {
    let found = lab.kubectl.attempt(&["get", YARD]).await?;
    if !found.status.success() {
        let file = resource("yard.yaml");
        lab.kubectl.ok(&["apply", "--filename", &file]).await?;
    }
    wait_ready(&lab.kubectl, YARD).await?;
    Ok(lab)
}

fn resource(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources");
    folder.join(file).to_string_lossy().into_owned()
}

async fn patch(kubectl: &Kubectl, patch: &str) -> anyhow::Result<()> {
    kubectl
        .ok(&["patch", YARD, "--type=merge", "--patch", patch])
        .await?;
    Ok(())
}

/// Waits until the newest generation is Ready.
async fn settled(kubectl: &Kubectl) -> anyhow::Result<()> {
    until("yard is Ready as it is now", READY, async || {
        let found = kubectl.json(&["get", YARD]).await?;
        let of_now = found["status"]["observedGeneration"] == found["metadata"]["generation"];
        let conditions = found["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure!(of_now && ready, "{}", found["status"]["conditions"]);
        Ok(())
    })
    .await
}

/// Which pods there are.
async fn uids(kubectl: &Kubectl) -> anyhow::Result<Vec<String>> {
    let pods = kubectl.items(&["get", "pods", PODS]).await?;
    let uid = |pod| text(pod, "/metadata/uid").to_owned();
    Ok(pods.iter().map(uid).collect())
}
