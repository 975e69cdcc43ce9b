//! The ways to send: in batches, one-way, compressed, to a chosen queue, by the first version of
//! the request, with a delay; and where a topic is after its first message.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::messages::{produce, read_all};
use super::{Against, Row};
use crate::java::driver::{Answer, Client, Command, Driver};
use crate::lab::{Addresses, Lab, Target, route};
use crate::raw::{self, Connection};
use crate::record;
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        ("a_batch_lies_together", Against::Both, |lab, target| {
            Box::pin(batches(lab, target))
        }),
        ("one_way_messages_arrive", Against::Both, |lab, target| {
            Box::pin(one_way(lab, target))
        }),
        (
            "compressed_bodies_stay_compressed",
            Against::Both,
            |lab, target| Box::pin(compressed(lab, target)),
        ),
        (
            "a_selector_picks_the_queue",
            Against::Both,
            |lab, target| Box::pin(selected(lab, target)),
        ),
        (
            "the_first_version_of_a_send_is_served",
            Against::Both,
            |lab, target| Box::pin(version_1(lab, target)),
        ),
        (
            "delayed_messages_come_in_time",
            Against::Both,
            |lab, target| Box::pin(delayed(lab, target)),
        ),
        (
            "delayed_messages_outlive_sigkill",
            Against::Gantry,
            |lab, _| Box::pin(delayed_over_restarts(lab)),
        ),
        (
            "the_first_send_makes_a_topic_on_every_master",
            Against::Gantry,
            |lab, _| Box::pin(everywhere(lab)),
        ),
    ]
}

async fn batches(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    for client in [Client::V5, Client::V4] {
        const MESSAGES: usize = 100;
        let topic = format!("batch-{client:?}");
        let (sent, read) = (lab.record_file("sent"), lab.record_file("read"));
        let driver = lab.driver(client).await?;
        let batch = produce(&site, &topic, &sent).with("count", MESSAGES);
        driver.ask(batch.renamed("send-batch")).await?;
        driver.ask(read_all(&site, &topic, &read)).await?;
        let (sent, read) = (record::read(&sent)?, record::read(&read)?);
        ensure!(sent.len() == MESSAGES && record::queues(&sent) == 1);
        // The records of the sent ones were written with consecutive offsets.
        record::exactly(&sent, &read)?;
    }
    Ok(())
}

async fn one_way(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 50;
    let site = lab.shared(target).await?;
    let unused = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let send = produce(&site, "oneway", &unused).with("count", MESSAGES);
    driver.ask(send.renamed("send-oneway")).await?;
    let limit = Duration::from_secs(10);
    let found = until("all have arrived", limit, async || {
        let found = look(driver, &site, "oneway").await?;
        let count = list(&found, "keys")?.len();
        ensure!(count > MESSAGES, "{count} of {MESSAGES} and one");
        Ok(found)
    });
    let found = found.await?;
    let mut keys = list(&found, "keys")?;
    keys.sort_unstable();
    keys.dedup();
    ensure!(keys.len() == MESSAGES + 1, "{keys:?}");
    Ok(())
}

async fn compressed(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const BODY_BYTES: i64 = 200 * 1024;
    let site = lab.shared(target).await?;
    let rows = [
        (Client::V5, "ZLIB"),
        (Client::V5, "LZ4"),
        (Client::V5, "ZSTD"),
        (Client::V4, "ZLIB"),
    ];
    for (client, how) in rows {
        let topic = format!("compressed-{client:?}-{how}");
        let (sent, read) = (lab.record_file("sent"), lab.record_file("read"));
        let driver = lab.driver(client).await?;
        let send = produce(&site, &topic, &sent)
            .with("bodyBytes", BODY_BYTES)
            .with("compress", how);
        driver.ask(send.renamed("send-compressed")).await?;
        driver.ask(read_all(&site, &topic, &read)).await?;
        record::exactly(&record::read(&sent)?, &record::read(&read)?)?;
        let found = look(driver, &site, &topic).await?;
        let size: i64 = found.text("sizes")?.parse()?;
        ensure!(size < BODY_BYTES, "{how}: stored in {size} bytes");
    }
    Ok(())
}

async fn selected(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    for (key, queue) in [(1, 1), (2, 2), (5, 1)] {
        let (sent, read) = (lab.record_file("sent"), lab.record_file("read"));
        let topic = format!("selected-{key}");
        let driver = lab.driver(Client::V5).await?;
        let send = produce(&site, &topic, &sent)
            .with("count", 20)
            .with("key", key);
        driver.ask(send.renamed("send-selected")).await?;
        driver.ask(read_all(&site, &topic, &read)).await?;
        let sent = record::read(&sent)?;
        ensure!(
            sent.iter().all(|r| r.place.queue == queue),
            "{key}: {sent:?}"
        );
        ensure!(
            sent.iter().zip(0..).all(|(r, at)| r.place.offset == at),
            "{sent:?}"
        );
        record::exactly(&sent, &record::read(&read)?)?;
    }
    Ok(())
}

async fn version_1(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const SEND_MESSAGE: i32 = 10;
    let site = lab.shared(target).await?;
    let fields = [
        ("producerGroup", "version-1"),
        ("topic", "version-1"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "3"),
        ("sysFlag", "0"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "0"),
        ("properties", "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}u\u{2}"),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
        ("batch", "false"),
    ];
    let request = raw::json_request(SEND_MESSAGE, 1, &fields, b"v1");
    let mut connection = Connection::open(site.broker).await?;
    let answer = connection.call(&request).await?;
    ensure!(answer.code == 0, "{} {}", answer.code, answer.remark);
    for (name, value) in [
        ("queueId", "3"),
        ("queueOffset", "0"),
        ("transactionId", "u"),
    ] {
        ensure!(answer.field(name) == Some(value), "{:?}", answer.fields);
    }
    let driver = lab.driver(Client::V5).await?;
    let limit = Duration::from_secs(10);
    until("it can be read", limit, async || {
        let found = look(driver, &site, "version-1").await?;
        ensure!(found.text("keys")? == "k", "{found:?}");
        Ok(())
    })
    .await
}

/// Due and not more than a second late, by the broker's clock.
pub const LATE_MS_MAX: i64 = 1_000;

async fn delayed(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    for (client, level, delay_ms) in [(Client::V5, 1, 1_000), (Client::V4, 3, 10_000)] {
        let topic = format!("delayed-{level}");
        let sent = lab.record_file("sent");
        let driver = lab.driver(client).await?;
        send_delayed(driver, &site, &topic, level, 10, &sent).await?;
        let ages = delivered(driver, &site, &topic, 10).await?;
        let in_time = |age: &i64| (delay_ms..=delay_ms + LATE_MS_MAX).contains(age);
        ensure!(ages.iter().all(in_time), "level {level}: {ages:?} ms");
    }
    Ok(())
}

async fn delayed_over_restarts(lab: &mut Lab) -> anyhow::Result<()> {
    let mut site = lab.site(Target::Gantry, "delayed").await?;
    let addresses = super::crash::addresses(&site);
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    send_delayed(driver, &addresses, "delayed", 3, 20, &sent).await?;
    site.broker.kill().await?;
    site.broker = lab.broker(Target::Gantry, &site.plan).await?;
    let driver = lab.driver(Client::V5).await?;
    let ages = delivered(driver, &addresses, "delayed", 20).await?;
    let in_time = |age: &i64| (10_000..=10_000 + LATE_MS_MAX).contains(age);
    ensure!(ages.iter().all(in_time), "{ages:?} ms");
    // After a stop in order nothing comes again.
    site.broker.signal(Signal::TERM);
    site.broker.ended(Duration::from_secs(10)).await?;
    site.broker = lab.broker(Target::Gantry, &site.plan).await?;
    let driver = lab.driver(Client::V5).await?;
    send_delayed(driver, &addresses, "delayed", 1, 1, &sent).await?;
    let ages = delivered(driver, &addresses, "delayed", 21).await?;
    ensure!(ages.len() == 21, "{} messages of 21", ages.len());
    Ok(())
}

pub async fn send_delayed(
    driver: &mut Driver,
    site: &Addresses,
    topic: &str,
    level: i32,
    count: usize,
    record: &std::path::Path,
) -> anyhow::Result<()> {
    let send = produce(site, topic, record)
        .with("count", count)
        .with("level", level);
    driver.ask(send.renamed("send-delayed")).await.map(drop)
}

/// How long after their birth a topic's messages were stored, once there are so many.
pub async fn delivered(
    driver: &mut Driver,
    site: &Addresses,
    topic: &str,
    count: usize,
) -> anyhow::Result<Vec<i64>> {
    let limit = Duration::from_secs(30);
    until("delayed messages come", limit, async || {
        let found = look(driver, site, topic).await?;
        let ages = list(&found, "ages")?;
        ensure!(ages.len() >= count, "{} of {count}", ages.len());
        ages.iter().map(|age| Ok(age.parse()?)).collect()
    })
    .await
}

async fn everywhere(lab: &mut Lab) -> anyhow::Result<()> {
    let name_server = lab.name_server(Target::Gantry).await?;
    let mut brokers = Vec::new();
    for name in ["one", "two", "three"] {
        let plan = lab.plan(name, &[name_server.address])?;
        brokers.push((lab.broker(Target::Gantry, &plan).await?, plan));
    }
    let (_, plan) = brokers.first().context("three brokers")?;
    let site = Addresses {
        name_server: name_server.address,
        name_server_http: name_server.http,
        broker: plan.remoting(),
        broker_http: plan.http(),
    };
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let one = produce(&site, "everywhere", &sent).with("count", 1);
    driver.ask(one).await?;
    let limit = Duration::from_secs(5);
    until("the topic is everywhere", limit, async || {
        let route = route(name_server.address, "everywhere").await?;
        let route = route.context("no route")?;
        for (_, plan) in &brokers {
            ensure!(route.contains(&plan.name), "{route}");
        }
        Ok(())
    })
    .await
}

pub async fn look(driver: &mut Driver, site: &Addresses, topic: &str) -> anyhow::Result<Answer> {
    let look = Command::new("look")
        .with("namesrv", site.name_server)
        .with("topic", topic);
    driver.ask(look).await
}

/// A field that is several values with commas between them.
pub fn list<'a>(answer: &'a Answer, name: &str) -> anyhow::Result<Vec<&'a str>> {
    let values = answer.text(name)?.split(',');
    Ok(values.filter(|value| !value.is_empty()).collect())
}
