//! Queues that are written or read alone, and what a topic lets clients do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{bail, ensure};

use super::commands::{OK, REFUSED, json, run};
use super::messages::{consume, produce};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Target};
use crate::record::{self, Record};
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "queues_that_are_only_written_are_read_later",
            Against::Both,
            |lab, target| Box::pin(written_only(lab, target)),
        ),
        (
            "a_topic_says_who_may_send_and_who_may_read",
            Against::Both,
            |lab, target| Box::pin(permissions(lab, target)),
        ),
    ]
}

/// Sets a topic up anew, and waits until clients would learn so.
async fn set(lab: &Lab, at: SocketAddr, topic: &str, words: &str) -> anyhow::Result<()> {
    run(lab, at, &format!("topic create {topic} {words}"), OK).await?;
    let limit = Duration::from_secs(15);
    until("the route is new", limit, async || {
        let routed = json(lab, at, &format!("topic get {topic}")).await?;
        let of = |name: &str| routed[0][name].to_string();
        let said = format!(
            "--queues {} --read-queues {} --perm {}",
            of("write"),
            of("read"),
            of("perm")
        );
        ensure!(said.contains(words), "{words}: {routed}");
        Ok(())
    })
    .await
}

/// What a new member of the group gets, of whom so many messages are expected.
async fn consumed(
    lab: &mut Lab,
    target: Target,
    topic: &str,
    count: usize,
) -> anyhow::Result<Vec<Record>> {
    let site = lab.shared(target).await?;
    let pushed = lab.record_file("pushed");
    let driver = lab.driver(Client::V5).await?;
    driver.ask(consume(&site, topic, topic, &pushed)).await?;
    let wait = Command::new("consume-wait").with("id", topic);
    driver.ask(wait.with("distinct", count)).await?;
    let stop = Command::new("consume-stop").with("id", topic);
    driver.ask(stop).await?;
    record::read(&pushed)
}

async fn written_only(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const TOPIC: &str = "written-only";
    let site = lab.shared(target).await?;
    let at = site.name_server;
    set(lab, at, TOPIC, "--queues 4 --read-queues 2").await?;
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let sends = produce(&site, TOPIC, &sent).with("count", 40);
    driver.ask(sends.with("threads", 1)).await?;
    let sent = record::read(&sent)?;
    ensure!(
        record::queues(&sent) == 4,
        "{} queues",
        record::queues(&sent)
    );
    let (readable, others): (Vec<_>, Vec<_>) =
        sent.into_iter().partition(|record| record.place.queue < 2);
    let first = consumed(lab, target, TOPIC, readable.len()).await?;
    record::exactly(&readable, &first)?;
    set(lab, at, TOPIC, "--queues 4 --read-queues 4").await?;
    let second = consumed(lab, target, TOPIC, others.len()).await?;
    record::exactly(&others, &second)
}

async fn permissions(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const TOPIC: &str = "permitted";
    let site = lab.shared(target).await?;
    let at = site.name_server;
    set(lab, at, TOPIC, "--queues 1 --read-queues 1 --perm 2").await?;
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(produce(&site, TOPIC, &sent).with("count", 5))
        .await?;
    let sent = record::read(&sent)?;
    let Some(first) = sent.first() else {
        bail!("nothing was sent to a topic that may be written");
    };
    let pull = Command::new("pull")
        .with("namesrv", at)
        .with("topic", TOPIC)
        .with("broker", &first.place.broker);
    if let Ok(pulled) = driver.ask(pull).await {
        bail!(
            "{} messages of a topic that may not be read",
            pulled.text("found")?
        );
    }
    set(lab, at, TOPIC, "--queues 1 --read-queues 1 --perm 4").await?;
    record::exactly(&sent, &consumed(lab, target, TOPIC, sent.len()).await?)?;
    let driver = lab.driver(Client::V5).await?;
    let late = Command::new("send")
        .with("namesrv", at)
        .with("topic", TOPIC);
    if let Ok(answer) = driver.ask(late.with("prefix", "late")).await {
        bail!(
            "sent to a topic that may not be written: {}",
            answer.text("status")?
        );
    }
    let told = run(lab, at, &format!("message send {TOPIC} hello"), REFUSED).await?;
    ensure!(!told.stderr.trim().is_empty(), "no word why");
    set(lab, at, TOPIC, "--queues 1 --read-queues 1 --perm 6").await?;
    run(lab, at, &format!("message send {TOPIC} hello"), OK).await?;
    Ok(())
}
