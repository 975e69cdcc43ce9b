//! Messages in transactions, sent by official producers: what is committed is delivered, once, and
//! of what has not ended somebody of the sender's group is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Target};
use crate::process::Process;
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "what_is_committed_is_delivered",
            Against::Both,
            |lab, target| Box::pin(committed(lab, target)),
        ),
        (
            "another_of_the_group_is_asked_how_a_transaction_ends",
            Against::Both,
            |lab, target| Box::pin(asked(lab, target)),
        ),
        (
            "open_transactions_survive_sigkill",
            Against::Gantry,
            |lab, _| Box::pin(killed(lab)),
        ),
        (
            "a_transaction_ends_under_the_other_broker",
            Against::Gantry,
            |lab, _| Box::pin(adopted(lab)),
        ),
    ]
}

const ENDED: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
const ASKED_SECONDS_MAX: u64 = 60;
/// Longer than Java gathers what has ended before it writes it: else it asks, and delivers, twice.
const JAVA: &str = "transactionCheckInterval=3000\ntransactionTimeOut=1000\n\
     transactionCheckMax=2\ntransactionOpBatchInterval=100\n";
const GANTRY: &str = "properties: {transactionCheckInterval: 3000, transactionTimeOut: 1000, \
     transactionCheckMax: 2}\n";

/// A producer of transactions, by its id.
async fn start(
    lab: &mut Lab,
    client: Client,
    at: SocketAddr,
    (id, group): (&str, &str),
) -> anyhow::Result<()> {
    let start = Command::new("transact-start")
        .with("id", id)
        .with("group", group)
        .with("namesrv", at);
    lab.driver(client).await?.ask(start).await?;
    Ok(())
}

async fn send(
    lab: &mut Lab,
    client: Client,
    (id, topic): (&str, &str),
    keys: &str,
) -> anyhow::Result<String> {
    let send = Command::new("transact-send")
        .with("id", id)
        .with("topic", topic)
        .with("keys", keys);
    let sent = lab.driver(client).await?.ask(send).await?;
    Ok(sent.text("states")?.to_owned())
}

async fn stop(lab: &mut Lab, client: Client, id: &str) -> anyhow::Result<String> {
    let stop = Command::new("transact-stop").with("id", id);
    let stopped = lab.driver(client).await?.ask(stop).await?;
    Ok(stopped.text("asked")?.to_owned())
}

/// How many messages a topic holds, and which.
async fn dump(lab: &mut Lab, at: SocketAddr, topic: &str) -> anyhow::Result<(i64, String)> {
    let file = lab.record_file("dump");
    let dump = Command::new("dump")
        .with("namesrv", at)
        .with("topic", topic)
        .with("record", file.display());
    let dumped = lab.driver(Client::V5).await?.ask(dump).await?;
    Ok((dumped.number("messages")?, std::fs::read_to_string(&file)?))
}

/// How often a message with each key lies in a topic.
async fn keys(lab: &mut Lab, at: SocketAddr, topic: &str) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut keys = BTreeMap::new();
    for line in dump(lab, at, topic).await?.1.lines() {
        if let Some((_, behind)) = line.split_once("KEYS=") {
            let key = behind.split([',', ' ']).next().context("a key")?;
            *keys.entry(key.to_owned()).or_default() += 1;
        }
    }
    Ok(keys)
}

/// Waits until a topic holds these keys, once each, and no others.
async fn holds(
    lab: &mut Lab,
    at: SocketAddr,
    topic: &str,
    expected: &[&str],
) -> anyhow::Result<()> {
    let expected: BTreeMap<String, u32> = expected.iter().map(|k| ((*k).to_owned(), 1)).collect();
    let limit = Duration::from_secs(ASKED_SECONDS_MAX);
    until(topic, limit, async || {
        let found = keys(lab, at, topic).await?;
        ensure!(found == expected, "{found:?}, not {expected:?}");
        Ok(())
    })
    .await
}

async fn committed(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    // Java's broker takes a whole processor from its first transaction on: it is nobody else's.
    let site = lab.site(target, "transacted").await?;
    let at = site.name_server.address;
    for client in [Client::V5, Client::V4] {
        let name = format!("transacted-{client:?}");
        start(lab, client, at, (&name, &name)).await?;
        let ends = "commit-1,rollback-1,commit-2,rollback-2,commit-3";
        let states = send(lab, client, (&name, &name), ends).await?;
        let (yes, no) = ("COMMIT_MESSAGE", "ROLLBACK_MESSAGE");
        ensure!(states == [yes, no, yes, no, yes].join(","), "{states}");
        holds(lab, at, &name, &["commit-1", "commit-2", "commit-3"]).await?;
        let asked = stop(lab, client, &name).await?;
        ensure!(asked == "{}", "{asked}");
    }
    Ok(())
}

/// The sender has gone when it would be asked; what nobody knows is asked for twice and given up.
async fn asked(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const TOPIC: &str = "asked-for";
    let name_server = lab.name_server(target).await?;
    let at = name_server.address;
    let mut plan = lab.plan("transactions", &[at])?;
    JAVA.clone_into(&mut plan.extra_properties);
    GANTRY.clone_into(&mut plan.extra_yaml);
    let _broker = lab.broker(target, &plan).await?;
    start(lab, Client::V5, at, ("other", TOPIC)).await?;
    // Else it would know of no broker, and none of it.
    send(lab, Client::V5, ("other", TOPIC), "rollback").await?;
    start(lab, Client::V5, at, ("sender", TOPIC)).await?;
    let ends = "later-commit,later-rollback,never,commit";
    let states = send(lab, Client::V5, ("sender", TOPIC), ends).await?;
    ensure!(states == "UNKNOW,UNKNOW,UNKNOW,COMMIT_MESSAGE", "{states}");
    let asked = stop(lab, Client::V5, "sender").await?;
    ensure!(asked == "{}", "before its time: {asked}");
    holds(lab, at, TOPIC, &["later-commit", "commit"]).await?;
    holds(lab, at, GIVEN_UP, &["never"]).await?;
    holds(lab, at, TOPIC, &["later-commit", "commit"]).await?;
    let asked = stop(lab, Client::V5, "other").await?;
    let expected = "{later-commit=1, later-rollback=1, never=2}";
    ensure!(asked == expected, "{asked}, not {expected}");
    Ok(())
}

async fn killed(lab: &mut Lab) -> anyhow::Result<()> {
    const TOPIC: &str = "transacted-killed";
    let name_server = lab.name_server(Target::Gantry).await?;
    let at = name_server.address;
    let mut plan = lab.plan("transactions-killed", &[at])?;
    GANTRY.clone_into(&mut plan.extra_yaml);
    let mut broker = lab.broker(Target::Gantry, &plan).await?;
    start(lab, Client::V5, at, (TOPIC, TOPIC)).await?;
    let ends = "commit,later-commit-1,rollback,later-rollback,later-commit-2";
    send(lab, Client::V5, (TOPIC, TOPIC), ends).await?;
    holds(lab, at, TOPIC, &["commit"]).await?;
    broker.kill().await?;
    let _broker = lab.broker(Target::Gantry, &plan).await?;
    let delivered = ["commit", "later-commit-1", "later-commit-2"];
    holds(lab, at, TOPIC, &delivered).await?;
    let asked = stop(lab, Client::V5, TOPIC).await?;
    let expected = "{later-commit-1=1, later-commit-2=1, later-rollback=1}";
    ensure!(asked == expected, "{asked}, not {expected}");
    Ok(())
}

/// What is open when a directory goes from Java to Gantry is asked for there, and the other way.
async fn adopted(lab: &mut Lab) -> anyhow::Result<()> {
    const TOPIC: &str = "transacted-adopted";
    let name_server = lab.name_server(Target::Java).await?;
    let at = name_server.address;
    let mut plan = lab.plan("transactions-adopted", &[at])?;
    GANTRY.clone_into(&mut plan.extra_yaml);
    "transactionOpBatchInterval=100\n".clone_into(&mut plan.extra_properties);
    let mut broker = lab.broker(Target::Java, &plan).await?;
    start(lab, Client::V5, at, (TOPIC, TOPIC)).await?;
    let ends = "commit-1,later-commit-1,later-rollback-1";
    send(lab, Client::V5, (TOPIC, TOPIC), ends).await?;
    let mut delivered = vec!["commit-1"];
    holds(lab, at, TOPIC, &delivered).await?;
    // Java writes what has ended a little later, and forgets it when it is stopped before.
    let limit = Duration::from_secs(ASKED_SECONDS_MAX);
    until("what has ended is written", limit, async || {
        let messages = dump(lab, at, ENDED).await?.0;
        ensure!(messages > 0, "nothing");
        Ok(())
    })
    .await?;
    end(&mut broker).await?;
    let store = plan.store().display().to_string();
    let (cluster, name) = (&*plan.cluster, &*plan.name);
    let adopt = [
        "store",
        "adopt",
        &store,
        "--cluster",
        cluster,
        "--broker",
        name,
    ];
    let adopted = lab.gantry()?.run(&adopt).await?;
    ensure!(adopted.status.success(), "adopt: {}", adopted.stderr);
    broker = lab.broker(Target::Gantry, &plan).await?;
    delivered.push("later-commit-1");
    holds(lab, at, TOPIC, &delivered).await?;
    let ends = "commit-2,later-commit-2,later-rollback-2,rollback-2";
    send(lab, Client::V5, (TOPIC, TOPIC), ends).await?;
    end(&mut broker).await?;
    let exported = lab.gantry()?.run(&["store", "export-java", &store]).await?;
    ensure!(exported.status.success(), "export: {}", exported.stderr);
    JAVA.clone_into(&mut plan.extra_properties);
    let _broker = lab.broker(Target::Java, &plan).await?;
    delivered.extend(["commit-2", "later-commit-2"]);
    holds(lab, at, TOPIC, &delivered).await?;
    stop(lab, Client::V5, TOPIC).await?;
    Ok(())
}

/// Java writes last what it knows.
async fn end(broker: &mut Process) -> anyhow::Result<()> {
    broker.signal(Signal::TERM);
    broker.ended(Duration::from_mins(1)).await?;
    Ok(())
}
