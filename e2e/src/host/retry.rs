//! What a consumer fails to consume comes again, and in the end is a dead letter.

use std::time::Duration;

use anyhow::ensure;

use super::messages::produce;
use super::produce::{list, look};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Addresses, Lab, Target};
use crate::raw::{self, Connection};
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "a_failed_message_comes_again",
            Against::Both,
            |lab, target| Box::pin(comes_again(lab, target)),
        ),
        (
            "a_message_that_always_fails_is_a_dead_letter",
            Against::Both,
            |lab, target| Box::pin(given_up(lab, target)),
        ),
        (
            "an_orderly_message_that_always_fails_is_a_dead_letter_at_once",
            Against::Both,
            |lab, target| Box::pin(given_up_in_order(lab, target)),
        ),
        (
            "a_retry_beyond_the_maximum_is_a_dead_letter",
            Against::Both,
            |lab, target| Box::pin(sent_too_often(lab, target)),
        ),
    ]
}

async fn comes_again(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    for client in [Client::V5, Client::V4] {
        let topic = format!("again-{client:?}");
        let sent = lab.record_file("sent");
        let driver = lab.driver(client).await?;
        let one = produce(&site, &topic, &sent).with("count", 1);
        driver.ask(one).await?;
        let start = Command::new("retry-start")
            .with("id", &topic)
            .with("namesrv", site.name_server)
            .with("topic", &topic)
            .with("group", format!("{topic}-group"))
            .with("failures", 2)
            .with("level", 1);
        driver.ask(start).await?;
        let of = |verb| Command::new(verb).with("id", &topic);
        driver.ask(of("retry-wait").with("deliveries", 3)).await?;
        let seen = driver.ask(of("retry-stop")).await?;
        ensure!(seen.text("times")? == "0,1,2", "{seen:?}");
        let topics = list(&seen, "topics")?;
        ensure!(topics.iter().all(|name| *name == topic), "{seen:?}");
        let ids = list(&seen, "ids")?;
        ensure!(ids.iter().all(|id| Some(id) == ids.first()), "{seen:?}");
    }
    Ok(())
}

async fn given_up(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let one = produce(&site, "given-up", &sent).with("count", 1);
    driver.ask(one).await?;
    let start = Command::new("retry-start")
        .with("id", "given-up")
        .with("namesrv", site.name_server)
        .with("topic", "given-up")
        .with("group", "given-up-group")
        .with("failures", 100)
        .with("max", 1)
        .with("level", 1);
    driver.ask(start).await?;
    let of = |verb| Command::new(verb).with("id", "given-up");
    driver.ask(of("retry-wait").with("deliveries", 2)).await?;
    let limit = Duration::from_secs(30);
    until("it is among the dead letters", limit, async || {
        let found = look(driver, &site, "%DLQ%given-up-group").await?;
        ensure!(found.text("keys")? == "given-up-0", "{found:?}");
        ensure!(found.text("times")? == "2", "{found:?}");
        ensure!(found.text("origins")? == "given-up", "{found:?}");
        Ok(())
    })
    .await?;
    let seen = driver.ask(of("retry-stop")).await?;
    ensure!(seen.text("times")? == "0,1", "{seen:?}");
    Ok(())
}

/// An orderly consumer sends what it gives up to its retry topic. While it has its queues locked
/// the broker makes a dead letter of it; after a retry it would be out of order anyway.
async fn given_up_in_order(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    for client in [Client::V5, Client::V4] {
        let topic = format!("in-order-{client:?}");
        let sent = lab.record_file("sent");
        let driver = lab.driver(client).await?;
        let one = produce(&site, &topic, &sent).with("count", 1);
        driver.ask(one).await?;
        let start = Command::new("retry-start")
            .with("id", &topic)
            .with("namesrv", site.name_server)
            .with("topic", &topic)
            .with("group", format!("{topic}-group"))
            .with("failures", 100)
            .with("orderly", 1)
            .with("max", 1);
        driver.ask(start).await?;
        let of = |verb| Command::new(verb).with("id", &topic);
        driver.ask(of("retry-wait").with("deliveries", 2)).await?;
        // A retry would come after half a minute.
        let limit = Duration::from_secs(20);
        let dead = format!("%DLQ%{topic}-group");
        let driver = lab.driver(Client::V5).await?;
        until("it is among the dead letters", limit, async || {
            let found = look(driver, &site, &dead).await?;
            ensure!(found.text("keys")? == format!("{topic}-0"), "{found:?}");
            Ok(())
        })
        .await?;
        let seen = lab.driver(client).await?.ask(of("retry-stop")).await?;
        let topics = list(&seen, "topics")?;
        ensure!(topics.iter().all(|name| *name == topic), "{seen:?}");
    }
    Ok(())
}

async fn sent_too_often(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    for (group, times, topic) in [
        ("too-often", "3", "%DLQ%too-often"),
        ("not-too-often", "2", "%RETRY%not-too-often"),
    ] {
        let properties = "KEYS\u{1}k\u{2}RETRY_TOPIC\u{1}T\u{2}DELAY\u{1}1\u{2}";
        send_again(&site, group, times, properties).await?;
        let driver = lab.driver(Client::V5).await?;
        let limit = Duration::from_secs(20);
        until("it is where it belongs", limit, async || {
            let found = look(driver, &site, topic).await?;
            ensure!(found.text("keys")? == "k", "{topic}: {found:?}");
            ensure!(found.text("times")? == times, "{topic}: {found:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A message that a group has failed to consume so often, of two times at most.
pub async fn send_again(
    site: &Addresses,
    group: &str,
    times: &str,
    properties: &str,
) -> anyhow::Result<()> {
    const SEND_MESSAGE_V2: i32 = 310;
    let retry = format!("%RETRY%{group}");
    let fields = [
        ("a", group),
        ("b", retry.as_str()),
        ("c", "TBW102"),
        ("d", "1"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", properties),
        ("j", times),
        ("k", "false"),
        ("l", "2"),
        ("m", "false"),
    ];
    let request = raw::json_request(SEND_MESSAGE_V2, 1, &fields, b"again");
    let answer = Connection::open(site.broker).await?.call(&request).await?;
    ensure!(answer.code == 0, "{} {}", answer.code, answer.remark);
    Ok(())
}
