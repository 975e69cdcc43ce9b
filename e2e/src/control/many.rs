//! As many Topics as a large installation has: all become Ready, in little memory, and then there
//! is nothing left to write.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

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
const WRITES_A_SECOND: usize = 20;

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
    paced(plane)?;
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

/// The operator wrote no faster than it may: its limit holds for seconds that follow each other,
/// so that any second may have those of two.
fn paced(plane: &Plane) -> anyhow::Result<()> {
    let writes = plane.operator_writes()?;
    let writes = writes
        .iter()
        .filter(|write| write["objectRef"]["namespace"] == NAMESPACE);
    let times = writes.map(|write| {
        let time = write["requestReceivedTimestamp"].as_str();
        time.and_then(seconds_of_day)
            .with_context(|| write.to_string())
    });
    let mut times = times.collect::<anyhow::Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    ensure!(times.len() > 500, "{} writes", times.len());
    for (writes, seconds) in [(2 * WRITES_A_SECOND, 1.0), (11 * WRITES_A_SECOND, 10.0)] {
        for window in times.windows(writes + 1) {
            let took = window[writes] - window[0];
            ensure!(took >= seconds, "{writes} writes and one more in {took} s");
        }
    }
    Ok(())
}

/// Of `2026-01-31T23:59:59.999999Z`.
fn seconds_of_day(time: &str) -> Option<f64> {
    let (_, time) = time.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3_600.0 + next()? * 60.0 + next()?)
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

const GET_ALL_TOPIC_CONFIG: i32 = 21;
const GET_ALL_SUBSCRIPTIONGROUP_CONFIG: i32 = 201;

/// All topics and groups of a broker, with the versions that each change raises.
pub async fn tables(broker: SocketAddr) -> anyhow::Result<String> {
    let topics = table(broker, GET_ALL_TOPIC_CONFIG).await?;
    Ok(topics + &table(broker, GET_ALL_SUBSCRIPTIONGROUP_CONFIG).await?)
}

/// What a broker has of a group; null if nothing.
pub async fn group(broker: SocketAddr, name: &str) -> anyhow::Result<Value> {
    let table = table(broker, GET_ALL_SUBSCRIPTIONGROUP_CONFIG).await?;
    let table: Value = serde_json::from_str(&table)?;
    Ok(table["subscriptionGroupTable"][name].clone())
}

async fn table(broker: SocketAddr, code: i32) -> anyhow::Result<String> {
    let request = raw::json_request(code, 1, &[], b"");
    let answer = Connection::open(broker).await?.call(&request).await?;
    ensure!(answer.code == 0, "code {}", answer.code);
    Ok(String::from_utf8(answer.body)?)
}
