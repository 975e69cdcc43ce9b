//! An operator is killed before and after each of its writes while a BrokerCluster, or a Topic and
//! a ConsumerGroup, are made, changed, enlarged and deleted. Whoever comes after it makes the same
//! objects of the same generations, and leaves nothing behind.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use super::Lab;
use super::life::{SICK, cluster, put, ready, settled};
use super::nodes::Nodes;
use super::plane::{Plane, STORAGE_CLASS};
use super::proxy::{Fault, Moment, Proxy};
use crate::lab::{Target, route};
use crate::process::Process;
use crate::runner::until;

const AT_ONCE: usize = 6;
const GONE: Duration = Duration::from_mins(1);

/// What an operator may make or leave behind, by the path of its API.
const KINDS: [(&str, &str); 13] = [
    ("/apis/gantry.dev/v1alpha1", "topics"),
    ("/apis/gantry.dev/v1alpha1", "consumergroups"),
    ("/apis/gantry.dev/v1alpha1", "brokerclusters"),
    ("/apis/apps/v1", "statefulsets"),
    ("/api/v1", "services"),
    ("/api/v1", "configmaps"),
    ("/api/v1", "serviceaccounts"),
    ("/api/v1", "pods"),
    ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    ("/apis/policy/v1", "poddisruptionbudgets"),
    ("/apis/networking.k8s.io/v1", "networkpolicies"),
    ("/apis/discovery.k8s.io/v1", "endpointslices"),
];

/// What operators are to bring about.
#[derive(Debug, Clone, Copy)]
enum Story {
    Cluster,
    /// A Topic and a ConsumerGroup of the RocketMQ that this name server knows.
    Declared(SocketAddr),
}

impl Story {
    /// The writes before which, and after which, an operator is killed. Of what is declared those
    /// that every run needs: hold, two states of its status, an event and the release, of each of
    /// the two. A reconcile that sees a topic between its two sizes writes one state more.
    fn writes(self, seen: usize) -> usize {
        match self {
            Self::Cluster => seen,
            Self::Declared(_) => seen.min(10),
        }
    }

    /// So many writes fewer may a run need: two states that are seen at once are written once.
    fn spare(self) -> usize {
        match self {
            Self::Cluster => 4,
            Self::Declared(_) => 0,
        }
    }
}

pub async fn of_a_cluster(lab: &mut Lab) -> anyhow::Result<()> {
    at_any_call(lab.plane().await?, Story::Cluster).await
}

pub async fn of_what_is_declared(lab: &mut Lab) -> anyhow::Result<()> {
    lab.plane().await?;
    let plane = lab.plane.as_ref().context("made above")?;
    let site = lab.host.site(Target::Gantry, "killed").await?;
    at_any_call(plane, Story::Declared(site.name_server.address)).await
}

async fn at_any_call(plane: &Plane, story: Story) -> anyhow::Result<()> {
    let (expected, seen) = life(plane, story, None).await?;
    let writes = story.writes(seen.writes);
    println!("    {writes} writes, each the last of two operators");
    let faults = (1..=writes)
        .flat_map(|write| [Moment::Before, Moment::After].map(|moment| Fault { write, moment }));
    let runs = stream::iter(faults).map(|fault| {
        let expected = &expected;
        async move {
            let (found, run) = life(plane, story, Some(fault))
                .await
                .with_context(|| format!("killed at {fault:?}"))?;
            let needless = run.writes < fault.write && fault.write + story.spare() > writes;
            ensure!(
                run.struck || needless,
                "the operator was never killed at {fault:?}: {} writes",
                run.writes
            );
            for (name, object) in expected {
                let other = found.iter().find(|(found, _)| found == name);
                let other = other.map_or(&Value::Null, |(_, object)| object);
                if let Some(difference) = difference(object, other) {
                    bail!("killed at {fault:?}, {name} has {difference}");
                }
            }
            let count = (found.len(), expected.len());
            ensure!(count.0 == count.1, "killed at {fault:?}: {count:?} objects");
            Ok(())
        }
    });
    runs.buffer_unordered(AT_ONCE).try_collect().await
}

type Objects = Vec<(String, Value)>;

/// What a proxy has seen of the operators of one story.
#[derive(Debug, Clone, Copy)]
struct Seen {
    writes: usize,
    /// The first of them was killed.
    struck: bool,
}

/// A story in a namespace of its own: what was there before its end, and what was seen of its
/// operators.
async fn life(
    plane: &Plane,
    story: Story,
    fault: Option<Fault>,
) -> anyhow::Result<(Objects, Seen)> {
    let name = match story {
        Story::Cluster => "crash",
        Story::Declared(_) => "declared",
    };
    let namespace = fault.map_or(format!("{name}-never"), |fault| {
        let moment = if fault.moment == Moment::Before {
            "before"
        } else {
            "after"
        };
        format!("{name}-{moment}-{}", fault.write)
    });
    let namespace = namespace.as_str();
    plane.namespace(namespace).await?;
    let proxy = Proxy::start(plane.operator_client().await?).await?;
    let _nodes = Nodes::start(plane.client.clone(), namespace, SICK);
    let (operator, _) = plane.operator(namespace, namespace, Some(proxy.address))?;
    proxy.watch(operator.group(), fault);
    let told = async {
        let found = match story {
            Story::Cluster => of_cluster(plane, namespace).await?,
            Story::Declared(at) => of_declared(plane, namespace, at).await?,
        };
        until("everything is gone", GONE, async || {
            let left = objects(plane, namespace).await?;
            let names: Vec<&String> = left.iter().map(|(name, _)| name).collect();
            ensure!(names.is_empty(), "left behind: {names:?}");
            Ok(())
        })
        .await?;
        anyhow::Ok(found)
    };
    let found = tokio::select! {
        found = told => found?,
        error = successor(plane, namespace, &proxy, operator) => return Err(error),
    };
    let seen = Seen {
        writes: proxy.writes().len(),
        struck: proxy.struck(),
    };
    Ok((found, seen))
}

/// A cluster is made, upgraded, enlarged and deleted: what it was before that.
async fn of_cluster(plane: &Plane, namespace: &str) -> anyhow::Result<Objects> {
    let spec = |groups: i32, image: &str, size: &str, policy: bool| {
        json!({
            "groups": groups, "image": image,
            "storage": {"size": size, "storageClassName": STORAGE_CLASS},
            "networkPolicy": {"enabled": policy},
        })
    };
    put(plane, namespace, &spec(1, "gantry:1", "1Gi", true)).await?;
    ready(plane, namespace).await?;
    put(plane, namespace, &spec(1, "gantry:2", "2Gi", true)).await?;
    ready(plane, namespace).await?;
    put(plane, namespace, &spec(2, "gantry:2", "2Gi", false)).await?;
    ready(plane, namespace).await?;
    let found = objects(plane, namespace).await?;
    let orphan = found
        .iter()
        .find(|(name, _)| name.starts_with("networkpolicies/"));
    ensure!(orphan.is_none(), "an orphan is left: {orphan:?}");
    plane.delete(&cluster(namespace)).await?;
    Ok(found)
}

/// The same of a topic and a group, both with the name of the namespace.
async fn of_declared(plane: &Plane, namespace: &str, at: SocketAddr) -> anyhow::Result<Objects> {
    let path = |kind: &str| {
        format!("/apis/gantry.dev/v1alpha1/namespaces/{namespace}/{kind}s/{namespace}")
    };
    let (topic, group) = (path("topic"), path("consumergroup"));
    for (queues, times) in [(4, 3), (6, 5)] {
        let servers = json!([at.to_string()]);
        let of = json!({"nameServers": servers, "queues": queues, "deletionPolicy": "Delete"});
        let object = json!({
            "apiVersion": "gantry.dev/v1alpha1", "kind": "Topic",
            "metadata": {"name": namespace}, "spec": of,
        });
        plane.apply(&topic, &object).await?;
        let retry = json!({"maxTimes": times});
        let of = json!({"nameServers": servers, "retry": retry, "deletionPolicy": "Delete"});
        let object = json!({
            "apiVersion": "gantry.dev/v1alpha1", "kind": "ConsumerGroup",
            "metadata": {"name": namespace}, "spec": of,
        });
        plane.apply(&group, &object).await?;
        settled(plane, &topic).await?;
        settled(plane, &group).await?;
        let route = route(at, namespace).await?.context("no route")?;
        let right = format!("\"writeQueueNums\":{queues}");
        ensure!(route.contains(&right), "{route}");
    }
    let found = objects(plane, namespace).await?;
    plane.delete(&topic).await?;
    plane.delete(&group).await?;
    until("the broker has no such topic", GONE, async || {
        let left = route(at, namespace).await?;
        ensure!(left.is_none(), "{left:?}");
        Ok(())
    })
    .await?;
    Ok(found)
}

/// Starts another operator in the same pod when the first one was killed.
async fn successor(
    plane: &Plane,
    namespace: &str,
    proxy: &Proxy,
    mut operator: Process,
) -> anyhow::Error {
    let (status, _) = match operator.ended(Duration::from_mins(10)).await {
        Ok(ended) => ended,
        Err(error) => return error,
    };
    if !proxy.struck() {
        let output = operator.output();
        return anyhow::anyhow!("the operator ended by itself with {status}: {output}");
    }
    match plane.operator(namespace, namespace, Some(proxy.address)) {
        Ok((mut second, _)) => match second.ended(Duration::from_mins(10)).await {
            Ok((status, _)) => anyhow::anyhow!("the second operator ended with {status}"),
            Err(error) => error,
        },
        Err(error) => error,
    }
}

/// All objects of a namespace by kind and name, without what differs from run to run.
async fn objects(plane: &Plane, namespace: &str) -> anyhow::Result<Objects> {
    let mut found = Vec::new();
    let mut addresses = Vec::new();
    for (api, kind) in KINDS {
        let list = plane
            .get(&format!("{api}/namespaces/{namespace}/{kind}"))
            .await?;
        for mut object in list["items"].as_array().cloned().unwrap_or_default() {
            let name = object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if let Some(ip) = object["spec"]["clusterIP"]
                .as_str()
                .filter(|ip| *ip != "None")
            {
                addresses.push((ip.to_owned(), format!("ip-of-{name}")));
            }
            strip(&mut object);
            found.push((format!("{kind}/{name}"), object));
        }
    }
    // Longer ones first: 10.96.0.12 begins with 10.96.0.1.
    addresses.sort_by_key(|(ip, _)| std::cmp::Reverse(ip.len()));
    let normal = |text: String| {
        let text = text.replace(namespace, "namespace");
        addresses
            .iter()
            .fold(text, |text, (ip, name)| text.replace(ip, name))
    };
    let objects = found.into_iter().map(|(name, object)| {
        Ok((
            normal(name),
            serde_json::from_str(&normal(object.to_string()))?,
        ))
    });
    objects.collect()
}

/// The first place where two objects differ.
fn difference(wanted: &Value, found: &Value) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let mut keys = wanted.keys().chain(found.keys());
            let of = |fields: &serde_json::Map<String, Value>, key: &String| {
                fields.get(key).cloned().unwrap_or_default()
            };
            keys.find_map(|key| {
                let inner = difference(&of(wanted, key), &of(found, key))?;
                Some(format!("{key}.{inner}"))
            })
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => wanted
            .iter()
            .zip(found)
            .find_map(|(wanted, found)| difference(wanted, found)),
        _ => (wanted != found).then(|| format!(" {found} instead of {wanted}")),
    }
}

/// Takes away what is of one run: identities, times, and hashes of what contains them.
fn strip(value: &mut Value) {
    const OF_A_RUN: [&str; 15] = [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "lastTransitionTime",
        "time",
        "gantry.dev/applied",
        "gantry.dev/config-hash",
        "controller-revision-hash",
        "currentRevision",
        "updateRevision",
        "currentReplicas",
        "startTime",
        "generateName",
        "collisionCount",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !OF_A_RUN.contains(&key.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
