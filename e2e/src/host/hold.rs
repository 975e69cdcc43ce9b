//! Long polling: a pull that finds nothing waits at the broker, and a send wakes it.

use std::time::Duration;

use anyhow::ensure;

use super::messages::{consume, produce};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Target};
use crate::raw::{self, Connection, Received};

pub fn rows() -> Vec<Row> {
    vec![
        (
            "a_waiting_consumer_gets_a_message_within_500_ms",
            Against::Both,
            |lab, target| Box::pin(wakes(lab, target)),
        ),
        (
            "a_held_pull_is_answered_when_its_time_is_over",
            Against::Both,
            |lab, target| Box::pin(times_out(lab, target)),
        ),
    ]
}

/// Send and delivery, the JVM's part included.
const WAKE_MS_MAX: i64 = 500;

async fn wakes(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let (first, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let seconds = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let one = produce(&site, "hold", &first)
        .with("count", 8)
        .with("prefix", "before");
    driver.ask(one).await?;
    driver.ask(consume(&site, "hold", "hold", &pushed)).await?;
    let wait = Command::new("consume-wait").with("id", "hold");
    driver.ask(wait.clone().with("distinct", 8)).await?;
    // The consumer has read all queues to the end: its pulls are held from here on.
    let mut latencies = Vec::new();
    for round in 0..5 {
        let send = produce(&site, "hold", &seconds)
            .with("count", 1)
            .with("threads", 1)
            .with("prefix", format!("held-{round}"));
        let sent_ms = driver.ask(send).await?.number("lastAcknowledgedMs")?;
        let arrived = driver.ask(wait.clone().with("distinct", 9 + round)).await?;
        ensure!(
            arrived.number("distinct")? == 9 + round,
            "round {round}: nothing arrived"
        );
        latencies.push(arrived.number("lastArrivalMs")? - sent_ms);
    }
    driver
        .ask(Command::new("consume-stop").with("id", "hold"))
        .await?;
    latencies.sort_unstable();
    ensure!(
        latencies.iter().all(|ms| *ms <= WAKE_MS_MAX),
        "held pulls were answered {latencies:?} ms after the acknowledgement"
    );
    Ok(())
}

async fn times_out(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const PULL_MESSAGE: i32 = 11;
    const PULL_NOT_FOUND: i64 = 19;
    const HOLD_MS: u64 = 1_000;
    let site = lab.shared(target).await?;
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(
            produce(&site, "hold-time", &sent)
                .with("count", 8)
                .with("threads", 1),
        )
        .await?;
    // A sender that meets a new topic may not go round its queues evenly: ask what it was told.
    let sent = crate::record::read(&sent)?;
    let end = sent
        .iter()
        .filter(|r| r.place.queue == 0)
        .count()
        .to_string();
    let hold = HOLD_MS.to_string();
    let request = raw::json_request(
        PULL_MESSAGE,
        9,
        &[
            ("consumerGroup", "hold-time"),
            ("topic", "hold-time"),
            ("queueId", "0"),
            ("queueOffset", &end),
            ("maxMsgNums", "32"),
            ("sysFlag", "6"), // suspend, subscription in the request
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", &hold),
            ("subscription", "*"),
            ("subVersion", "0"),
            ("expressionType", "TAG"),
        ],
        b"",
    );
    let mut connection = Connection::open(site.broker).await?;
    connection.write(&request).await;
    let early = connection
        .receive(Duration::from_millis(HOLD_MS - 200))
        .await?;
    ensure!(
        matches!(early, Received::Silence),
        "answered before its time: {early:?}"
    );
    // Java looks at its held pulls every 5 s.
    match connection.receive(Duration::from_secs(8)).await? {
        Received::Answer(answer) => {
            ensure!(
                answer.code == PULL_NOT_FOUND,
                "code {}: {}",
                answer.code,
                answer.remark
            );
            ensure!(answer.opaque == 9, "the answer to {}", answer.opaque);
            Ok(())
        }
        other => anyhow::bail!("no answer after the hold: {other:?}"),
    }
}
