//! Gantry comes by Helm or by one file, is upgraded with its definitions, and goes without a trace.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::Lab;
use super::life::{SICK, cluster, put, ready};
use super::nodes::Nodes;
use super::plane::{OPERATOR_NAMESPACE, Plane, charts};
use crate::kube::kubectl::Kubectl;
use crate::runner::until;

const GONE: Duration = Duration::from_mins(1);

/// `UPDATE_GOLDEN=1` writes the file anew.
pub async fn one_file(lab: &mut Lab) -> anyhow::Result<()> {
    let plane = lab.plane().await?;
    let rendered = plane.helm(&["template", "gantry", "gantry"]).await?;
    ensure!(rendered.status.success(), "{}", rendered.stderr);
    let text = format!(
        "# Everything that Gantry needs, but for the image: `kubectl apply --server-side -f` this \
         file.\n# Rendered from charts/gantry by a test.\n---\napiVersion: v1\nkind: Namespace\n\
         metadata:\n  name: {OPERATOR_NAMESPACE}\n  labels:\n    \
         pod-security.kubernetes.io/enforce: restricted\n{}",
        rendered.stdout
    );
    let file = charts().join("install.yaml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text)?;
    }
    let found = std::fs::read_to_string(&file)?;
    ensure!(
        found == text,
        "{} is not what the chart renders",
        file.display()
    );
    Ok(())
}

pub async fn values(lab: &mut Lab) -> anyhow::Result<()> {
    let plane = lab.plane().await?;
    let table = [
        ("replicas=two", "got string, want integer"),
        ("replicas=9", "maximum: got 9, want 5"),
        ("imagge.tag=1", "additional properties 'imagge' not allowed"),
        ("image.repository=", "minLength"),
        ("networkPolicy.enabled=maybe", "got string, want boolean"),
    ];
    for (value, message) in table {
        let refused = plane
            .helm(&["template", "gantry", "gantry", "--set", value])
            .await?;
        ensure!(
            !refused.status.success() && refused.stderr.contains(message),
            "{value}: {}",
            refused.stderr
        );
    }
    Ok(())
}

/// Installed by Helm from an older chart, upgraded, used, and removed as the guide says. What is
/// left then is what was there before, and the volumes.
pub async fn and_uninstall(lab: &mut Lab) -> anyhow::Result<()> {
    let dir = lab.dir.path().join("bare");
    let plane = Plane::bare(&dir, &lab.gantry).await?;
    plane.storage_class().await?;
    let shop = plane.namespace("shop").await?;
    let before = everything(&plane.kubectl).await?;

    let older = older_chart(&dir)?;
    let create = ["install", "gantry", &older, "--create-namespace"];
    helm(&plane, &create).await?;
    let explain = ["explain", "bkc.spec.networkPolicy"];
    let known = shop.attempt(&explain).await?;
    ensure!(
        !known.status.success(),
        "the older chart knows the newer field"
    );
    helm(&plane, &["upgrade", "gantry", "gantry"]).await?;
    until("the field is known", GONE, async || {
        shop.ok(&explain).await?;
        Ok(())
    })
    .await?;

    let nodes = Nodes::start(plane.client.clone(), "shop", SICK);
    let (operator, _) = plane.operator("shop", "one", None)?;
    let spec = json!({"groups": 2, "storage": {"size": "1Gi"}});
    put(&plane, "shop", &spec).await?;
    ready(&plane, "shop").await?;
    plane.delete(&cluster("shop")).await?;
    until("the pods are gone", GONE, async || {
        let pods = shop.items(&["get", "pods,services,statefulsets"]).await?;
        ensure!(pods.is_empty(), "{} objects are left", pods.len());
        Ok(())
    })
    .await?;
    drop((operator, nodes));
    helm(&plane, &["uninstall", "gantry"]).await?;
    let definitions = ["brokerclusters", "topics", "consumergroups"];
    for definition in definitions {
        let name = format!("{definition}.gantry.dev");
        plane.kubectl.ok(&["delete", "crd", &name]).await?;
    }
    plane
        .kubectl
        .ok(&["delete", "namespace", OPERATOR_NAMESPACE])
        .await?;

    let volumes = ["shop-broker-0-0", "shop-broker-1-0"]
        .map(|pod| format!("persistentvolumeclaims shop data-{pod}"));
    let expected: BTreeSet<String> = before.into_iter().chain(volumes).collect();
    until("only the volumes are left", GONE, async || {
        let after = everything(&plane.kubectl).await?;
        let left: Vec<&String> = after.symmetric_difference(&expected).collect();
        ensure!(left.is_empty(), "left behind, or lost: {left:?}");
        Ok(())
    })
    .await
}

async fn helm(plane: &Plane, words: &[&str]) -> anyhow::Result<()> {
    let output = plane.helm(words).await?;
    ensure!(output.status.success(), "{words:?}: {}", output.stderr);
    Ok(())
}

/// The chart with definitions that lack a field.
fn older_chart(dir: &Path) -> anyhow::Result<String> {
    let older = dir.join("older");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(charts().join("gantry"))
        .arg(&older)
        .status()?;
    ensure!(copied.success(), "the chart was not copied");
    let file = older.join("templates/crds.yaml");
    let text = std::fs::read_to_string(&file)?;
    ensure!(
        text.contains("networkPolicy:"),
        "the field has another name"
    );
    std::fs::write(&file, text.replace("networkPolicy:", "olderPolicy:"))?;
    Ok(older.to_string_lossy().into_owned())
}

/// Every object of every type that can be listed, but for events, which go by themselves.
async fn everything(kubectl: &Kubectl) -> anyhow::Result<BTreeSet<String>> {
    let list = ["api-resources", "--verbs=list", "--output=name"];
    let types = kubectl.ok(&list).await?;
    let mut found = BTreeSet::new();
    for kind in types.lines().filter(|kind| !kind.starts_with("events")) {
        let (name, _) = kind.split_once('.').unwrap_or((kind, ""));
        let columns = "--output=custom-columns=:.metadata.namespace,:.metadata.name";
        let words = ["get", kind, "--all-namespaces", "--no-headers", columns];
        let objects = kubectl.ok(&words).await?;
        for line in objects.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            found.insert(format!("{name} {}", words.join(" ")));
        }
    }
    Ok(found)
}
