//! Plays the part of kubelets, volumes and brokers in a plane without nodes: every pod becomes
//! Ready, every volume is bound, every group's address gets its endpoint.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(100);

/// Works until it is dropped.
#[derive(Debug)]
pub struct Nodes(JoinHandle<()>);

impl Nodes {
    /// In one namespace. `sick` names an image whose pods never become Ready.
    pub fn start(client: kube::Client, namespace: &str, sick: &'static str) -> Self {
        let base = namespace.to_owned();
        Self(tokio::spawn(async move {
            loop {
                // What fails is tried again; the tests have deadlines.
                let _ = round(&client, &base, sick).await;
                tokio::time::sleep(EVERY).await;
            }
        }))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn round(client: &kube::Client, namespace: &str, sick: &str) -> anyhow::Result<()> {
    let core = format!("/api/v1/namespaces/{namespace}");
    for pod in items(client, &format!("{core}/pods")).await? {
        let name = name(&pod);
        let image = &pod["spec"]["containers"][0]["image"];
        let is_sick = image == sick;
        if pod["status"]["phase"].as_str() == Some("Running") {
            continue;
        }
        let status = if is_sick {
            sick_status()
        } else {
            ready_status()
        };
        patch(
            client,
            &format!("{core}/pods/{name}/status"),
            &json!({"status": status}),
        )
        .await?;
    }
    for claim in items(client, &format!("{core}/persistentvolumeclaims")).await? {
        let size = &claim["spec"]["resources"]["requests"]["storage"];
        let bound = claim["status"]["phase"] == "Bound";
        if bound && &claim["status"]["capacity"]["storage"] == size {
            continue;
        }
        let name = name(&claim);
        let status = json!({"status": {"phase": "Bound", "capacity": {"storage": size}}});
        patch(
            client,
            &format!("{core}/persistentvolumeclaims/{name}/status"),
            &status,
        )
        .await?;
    }
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    for slice in items(client, &slices).await? {
        if slice["endpoints"].as_array().is_some_and(|e| !e.is_empty()) {
            continue;
        }
        let endpoint =
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]});
        patch(client, &format!("{slices}/{}", name(&slice)), &endpoint).await?;
    }
    Ok(())
}

fn ready_status() -> Value {
    json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [],
    })
}

fn sick_status() -> Value {
    json!({
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
        "containerStatuses": [{
            "name": "broker", "image": "sick", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
        }],
    })
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

async fn items(client: &kube::Client, path: &str) -> anyhow::Result<Vec<Value>> {
    let request = http::Request::get(path).body(Vec::new())?;
    let mut list: Value = client.request(request).await?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

async fn patch(client: &kube::Client, path: &str, patch: &Value) -> anyhow::Result<()> {
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(patch)?)?;
    let _: Value = client.request(request).await?;
    Ok(())
}
