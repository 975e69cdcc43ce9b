//! The commands of `gantry`, against a Java cluster and against Gantry: they speak the admin
//! protocol alone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::messages::consume;
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::java::server::CLUSTER;
use crate::lab::{Lab, Target};
use crate::process::Output;
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        ("commands_on_topics", Against::Both, |lab, target| {
            Box::pin(topics(lab, target))
        }),
        ("commands_on_messages", Against::Both, |lab, target| {
            Box::pin(messages(lab, target))
        }),
        ("commands_on_groups", Against::Both, |lab, target| {
            Box::pin(groups(lab, target))
        }),
        ("commands_on_the_cluster", Against::Both, |lab, target| {
            Box::pin(cluster(lab, target))
        }),
        ("commands_that_measure", Against::Both, |lab, target| {
            Box::pin(measures(lab, target))
        }),
        ("commands_on_a_store", Against::Gantry, |lab, target| {
            Box::pin(store(lab, target))
        }),
    ]
}

pub(super) const OK: i32 = 0;
pub(super) const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

/// Runs a command line and expects its exit code.
pub(super) async fn run(
    lab: &Lab,
    name_server: SocketAddr,
    line: &str,
    code: i32,
) -> anyhow::Result<Output> {
    let name_server = name_server.to_string();
    let mut words: Vec<&str> = line.split(' ').collect();
    words.extend(["--name-server", &name_server]);
    let output = lab.gantry()?.run(&words).await?;
    ensure!(
        output.status.code() == Some(code),
        "`gantry {line}` ends with {:?}, not {code}: {} {}",
        output.status.code(),
        output.stdout,
        output.stderr
    );
    Ok(output)
}

/// What a command writes as JSON.
pub(super) async fn json(lab: &Lab, name_server: SocketAddr, line: &str) -> anyhow::Result<Value> {
    let output = run(lab, name_server, &format!("{line} -o json"), OK).await?;
    serde_json::from_str(&output.stdout).with_context(|| output.stdout)
}

/// The row of a list whose member has a value.
fn row<'a>(rows: &'a Value, member: &str, value: &str) -> anyhow::Result<&'a Value> {
    let mut all = rows.as_array().context("no list")?.iter();
    let row = all.find(|row| row[member] == value);
    row.with_context(|| format!("no {member} {value} in {rows}"))
}

async fn topics(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let at = lab.shared(target).await?.name_server;
    run(lab, at, "topic get cli-topic", REFUSED).await?;
    run(lab, at, "topic create cli-topic --queues no", USAGE).await?;
    run(lab, at, "topic create no.such/name", REFUSED).await?;
    let create = "topic create cli-topic --queues 3 --attribute +message.type=FIFO";
    run(lab, at, &format!("{create} --cluster absent"), REFUSED).await?;
    run(lab, at, create, OK).await?;
    // The broker tells the name server at once, but not within the call.
    until("the topic is listed", Duration::from_secs(15), async || {
        let routed = json(lab, at, "topic get cli-topic").await?;
        ensure!(routed[0]["write"] == 3, "{routed}");
        Ok(())
    })
    .await?;
    let listed = json(lab, at, "topic list").await?;
    let topic = row(&listed, "topic", "cli-topic")?;
    ensure!(
        topic["writeQueues"] == 3 && topic["type"] == "FIFO",
        "{topic}"
    );
    ensure!(row(&listed, "topic", "TBW102").is_err(), "{listed}");
    row(&json(lab, at, "topic list --all").await?, "topic", "TBW102")?;
    let table = run(lab, at, "topic list", OK).await?.stdout;
    ensure!(table.starts_with("TOPIC"), "{table}");
    let yaml = run(lab, at, "topic list -o yaml", OK).await?.stdout;
    ensure!(yaml.contains("topic: cli-topic"), "{yaml}");
    run(lab, at, "topic delete cli-topic", OK).await?;
    run(lab, at, "topic get cli-topic", REFUSED).await?;
    run(lab, at, "topic delete cli-topic", REFUSED).await?;
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    run(lab, nobody, "topic list", UNREACHABLE).await?;
    Ok(())
}

/// A topic of one queue that its name server knows.
async fn create(lab: &Lab, at: SocketAddr, topic: &str) -> anyhow::Result<()> {
    run(lab, at, &format!("topic create {topic} --queues 1"), OK).await?;
    let limit = Duration::from_secs(15);
    until("the topic is routed", limit, async || {
        json(lab, at, &format!("topic get {topic}")).await
    })
    .await?;
    Ok(())
}

async fn messages(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let at = lab.shared(target).await?.name_server;
    create(lab, at, "cli-messages").await?;
    let send = "message send cli-messages hello --tag A --keys k1";
    let sent = json(lab, at, send).await?;
    ensure!(sent[0]["offset"] == 0, "{sent}");
    let id = sent[0]["id"].as_str().context("no id")?.to_owned();
    let got = json(lab, at, &format!("message get cli-messages {id}")).await?;
    ensure!(got["body"] == "hello" && got["tag"] == "A", "{got}");
    let query = "message query cli-messages --key k1";
    let limit = Duration::from_secs(15);
    let found = until("the key is found", limit, async || {
        json(lab, at, query).await
    })
    .await?;
    ensure!(row(&found, "id", &id)?["keys"] == "k1", "{found}");
    let client_id = found[0]["clientId"].as_str().context("no client id")?;
    let by_key = json(lab, at, &format!("message get cli-messages {client_id}")).await?;
    ensure!(
        by_key["id"] == id.as_str() && by_key["body"] == "hello",
        "{by_key}"
    );
    run(lab, at, "message query cli-messages --key absent", REFUSED).await?;
    run(lab, at, "message get cli-messages none", REFUSED).await?;
    run(lab, at, "message send cli-absent hello", REFUSED).await?;
    Ok(())
}

async fn groups(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let at = site.name_server;
    create(lab, at, "cli-groups").await?;
    for n in 0..3 {
        let send = format!("message send cli-groups hello --keys k{n}");
        run(lab, at, &send, OK).await?;
    }
    let record = lab.record_file("cli");
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(consume(&site, "cli-groups", "cli", &record))
        .await?;
    let wait = Command::new("consume-wait").with("id", "cli");
    driver.ask(wait.with("distinct", 3)).await?;
    let listed = json(lab, at, "group list").await?;
    let group = row(&listed, "group", "cli-groups-cli")?;
    ensure!(
        group["members"] == 1 && group["model"] == "CLUSTERING",
        "{group}"
    );
    let driver = lab.driver(Client::V5).await?;
    let stop = Command::new("consume-stop").with("id", "cli");
    driver.ask(stop).await?;
    let lag = json(lab, at, "group lag cli-groups-cli --topic cli-groups").await?;
    ensure!(lag[0]["lag"] == 0 && lag[0]["consumed"] == 3, "{lag}");
    let reset = "group reset cli-groups-cli --topic cli-groups --to";
    let offsets = json(lab, at, &format!("{reset} earliest")).await?;
    ensure!(offsets[0]["offset"] == 0, "{offsets}");
    let lag = json(lab, at, "group lag cli-groups-cli --topic cli-groups").await?;
    ensure!(lag[0]["lag"] == 3, "{lag}");
    run(lab, at, &format!("{reset} someday"), USAGE).await?;
    run(lab, at, "group lag cli-absent", REFUSED).await?;
    // A member that comes back goes on where the group was sent.
    let record = lab.record_file("cli");
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(consume(&site, "cli-groups", "cli", &record))
        .await?;
    let wait = Command::new("consume-wait").with("id", "cli");
    driver.ask(wait.with("distinct", 3)).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "cli"))
        .await?;
    let again = crate::record::read(&record)?;
    ensure!(again.len() == 3, "read again: {again:?}");
    Ok(())
}

async fn cluster(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let at = lab.shared(target).await?.name_server;
    let status = json(lab, at, "cluster status").await?;
    let broker = row(&status, "cluster", CLUSTER)?;
    ensure!(
        broker["version"] == "V5_5_0" && broker["active"] == true,
        "{broker}"
    );
    ensure!(broker["diskUsedPercent"].is_number(), "{broker}");
    Ok(())
}

async fn store(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.site(target, "inspected").await?;
    let at = site.name_server.address;
    create(lab, at, "inspected").await?;
    for _ in 0..3 {
        run(lab, at, "message send inspected hello", OK).await?;
    }
    let dir = site.plan.store().display().to_string();
    let gantry = lab.gantry()?;
    let busy = gantry.run(&["store", "inspect", &dir]).await?;
    ensure!(
        busy.status.code() == Some(REFUSED),
        "while a broker has it: {busy:?}"
    );
    drop(site.broker);
    for (command, member, expect) in [
        ("inspect", "broker", Value::from("broker-inspected")),
        ("verify", "damaged", Value::from(Vec::<Value>::new())),
    ] {
        let output = gantry.run(&["store", command, &dir, "-o", "json"]).await?;
        ensure!(output.status.code() == Some(OK), "{command}: {output:?}");
        let found: Value = serde_json::from_str(&output.stdout)?;
        ensure!(found[member] == expect, "{found}");
        ensure!(found["messages"].as_i64() >= Some(3), "{found}");
    }
    Ok(())
}

/// `gantry bench`, against any server of the protocol.
async fn measures(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let at = lab.shared(target).await?.name_server;
    let send = "bench send --topic cli-bench --connections 2 --warmup 0 --duration 1";
    let mut stored = 0;
    for (words, requests, messages) in [
        ("--create --queues 2", 1..=u64::MAX, 1),
        ("--rate 200", 150..=250, 1),
        ("--batch 4", 1..=u64::MAX, 4),
    ] {
        let said = json(lab, at, &format!("{send} {words}")).await?;
        let number = |name: &str| said[name].as_u64().with_context(|| said.to_string());
        let (asked, acked) = (number("requests")?, number("acked")?);
        let fits = requests.contains(&asked) && acked == asked * messages;
        ensure!(fits && acked == number("stored")?, "{words}: {said}");
        ensure!(number("refused")? + number("unanswered")? == 0, "{said}");
        stored += acked;
    }
    let consume = "bench consume --topic cli-bench --connections 2 --warmup 0 --duration 1";
    let said = json(lab, at, consume).await?;
    let all = said["stored"] == stored && said["consumed"] == stored;
    ensure!(
        all && said["pulled"].as_u64() >= Some(stored),
        "{stored}: {said}"
    );
    let dir = lab.fresh_dir("limits")?;
    let words = [
        "bench",
        "limits",
        "--probe-ms",
        "20",
        "--output",
        "json",
        "--dir",
    ];
    let dir = dir.to_string_lossy();
    let output = lab.gantry()?.run(&[&words[..], &[&*dir]].concat()).await?;
    let said: Value = serde_json::from_str(&output.stdout).with_context(|| output.stdout)?;
    for (rate, p99) in [
        ("memcpyGiBPerSecond", None),
        ("streamGiBPerSecond", None),
        ("writeMiBPerSecond", None),
        ("pipelinedEchoPerSecond", None),
        ("echoPerSecond", Some("echoP99Micros")),
        ("fdatasyncPerSecond", Some("fdatasyncP99Micros")),
    ] {
        let number = |name: &str| {
            said[name]
                .as_f64()
                .with_context(|| format!("{name}: {said}"))
        };
        let mean_micros = 1e6 / number(rate)?;
        ensure!(mean_micros.is_finite(), "{rate}: {said}");
        if let Some(p99) = p99 {
            ensure!(number(p99)? > mean_micros / 2.0, "{p99}: {said}");
        }
    }
    Ok(())
}
