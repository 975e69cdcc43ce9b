//! As many Topics as a large installation has: all become Ready, in little memory, and then there
//! is nothing left to write.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::Lab;
use super::life::condition;
use super::plane::Plane;
use super::quiet::Watch;
use crate::lab::Target;
use crate::raw::{self, Connection};
use crate::runner::{is_verify, until};

const NAMESPACE: &str = "many";
const MEMORY_KIB_MAX: u64 = 64 * 1024;
/// Each takes a status and an event, at twenty writes a second.
const TIME_EACH_MAX: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 16;

pub async fn topics(lab: &mut Lab) -> anyhow::Result<()> {
    let count = if is_verify() { 10_000 } else { 500 };
    lab.plane().await?;
    let plane = lab.plane.as_ref().context("made above")?;
    let kubectl = plane.namespace(NAMESPACE).await?;
    let site = lab.host.site(Target::Gantry, NAMESPACE).await?;
    let start = Instant::now();
    let at = json!([site.name_server.address.to_string()]);
    let puts = (0..count).map(|number| {
        let object = json!({
            "apiVersion": "gantry.dev/v1alpha1", "kind": "Topic",
            "metadata": {"name": format!("topic-{number}")},
            "spec": {"nameServers": at, "queues": 4, "retentionHours": 24},
        });
        let path = of(&format!("topics/topic-{number}"));
        async move { plane.apply(&path, &object).await.map(drop) }
    });
    let group = json!({
        "apiVersion": "gantry.dev/v1alpha1", "kind": "ConsumerGroup",
        "metadata": {"name": "readers"}, "spec": {"nameServers": at},
    });
    plane.apply(&of("consumergroups/readers"), &group).await?;
    let puts = stream::iter(puts).buffer_unordered(AT_ONCE);
    puts.try_collect::<()>().await?;
    println!("    {count} Topics applied after {:.0?}", start.elapsed());
    let (operator, pages) = plane.operator(NAMESPACE, "one", None)?;
    let wait = Duration::from_secs(30) + TIME_EACH_MAX * count;
    until("all Topics are Ready", wait, async || {
        let ready = ready(plane).await?;
        ensure!(ready == count, "{ready} of {count}");
        Ok(())
    })
    .await?;
    println!("    all are Ready after {:.0?}", start.elapsed());
    // The broker has them, by the word of its own table.
    let tables = tables(site.plan.remoting()).await?;
    let there = tables.matches("\"topicName\":\"topic-").count();
    ensure!(there == count as usize, "the broker has {there} of them");
    let watch = Watch::start(plane, NAMESPACE, "Topic", pages).await?;
    let watch = watch.of_broker(site.plan.remoting(), tables);
    let kib = |name: &str| operator.status_kib(name);
    let (most, anonymous) = (kib("VmHWM:")?, kib("RssAnon:")?);
    println!("    the operator took {most} KiB at most, {anonymous} KiB of them its own now");
    ensure!(most <= MEMORY_KIB_MAX, "{most} KiB");
    lab.quiet.push(watch.keeping((kubectl, site, operator)));
    Ok(())
}

fn of(what: &str) -> String {
    format!("/apis/gantry.dev/v1alpha1/namespaces/{NAMESPACE}/{what}")
}

async fn ready(plane: &Plane) -> anyhow::Result<u32> {
    let list = plane.get(&of("topics")).await?;
    let items = list["items"].as_array().into_iter().flatten();
    let is_ready = |item: &&_| condition(item, "Ready")["status"] == "True";
    Ok(u32::try_from(items.filter(is_ready).count())?)
}

/// All topics and groups of a broker, with the versions that each change raises.
pub async fn tables(broker: SocketAddr) -> anyhow::Result<String> {
    const GET_ALL_TOPIC_CONFIG: i32 = 21;
    const GET_ALL_SUBSCRIPTIONGROUP_CONFIG: i32 = 201;
    let mut tables = String::new();
    for code in [GET_ALL_TOPIC_CONFIG, GET_ALL_SUBSCRIPTIONGROUP_CONFIG] {
        let request = raw::json_request(code, 1, &[], b"");
        let answer = Connection::open(broker).await?.call(&request).await?;
        ensure!(answer.code == 0, "code {}", answer.code);
        tables.push_str(&String::from_utf8(answer.body)?);
    }
    Ok(tables)
}
