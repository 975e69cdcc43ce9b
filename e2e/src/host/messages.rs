//! Messages through the two processes: what the producer was told is exactly what the consumers
//! get.

use std::path::Path;

use anyhow::ensure;

use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Addresses, Lab, Target};
use crate::record;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "java_5_5_passes_10000_messages",
            Against::Both,
            |lab, target| Box::pin(pass_10000(lab, target, Client::V5)),
        ),
        (
            "java_4_9_passes_10000_messages",
            Against::Both,
            |lab, target| Box::pin(pass_10000(lab, target, Client::V4)),
        ),
        (
            "java_5_5_with_binary_headers_passes_10000_messages",
            Against::Both,
            |lab, target| Box::pin(pass_10000(lab, target, Client::V5Binary)),
        ),
        (
            "the_topic_of_benchmarks_is_there",
            Against::Both,
            |lab, target| Box::pin(benchmark_topic(lab, target)),
        ),
        ("tags_select_messages", Against::Both, |lab, target| {
            Box::pin(tags_select_messages(lab, target))
        }),
        (
            "a_consumer_goes_on_where_its_group_stopped",
            Against::Both,
            |lab, target| Box::pin(goes_on(lab, target)),
        ),
        (
            "pulling_beyond_the_queue_moves_the_offset",
            Against::Both,
            |lab, target| Box::pin(pulling_beyond(lab, target)),
        ),
    ]
}

/// RocketMQ's benchmark programs send to a topic that nobody has created.
async fn benchmark_topic(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const QUEUES: usize = 1_024;
    let site = lab.shared(target).await?;
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let produce = produce(&site, "BenchmarkTest", &sent).with("count", QUEUES);
    driver.ask(produce.with("threads", 1)).await?;
    let queues = record::queues(&record::read(&sent)?);
    ensure!(queues == QUEUES, "{queues} queues");
    Ok(())
}

const MESSAGES: usize = 10_000;

async fn pass_10000(lab: &mut Lab, target: Target, client: Client) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let topic = format!("pass-{client:?}");
    let (sent, pushed, read) = (
        lab.record_file("sent"),
        lab.record_file("pushed"),
        lab.record_file("read"),
    );
    let seed = lab.seed;
    let driver = lab.driver(client).await?;
    let produced = produce(&site, &topic, &sent)
        .with("count", MESSAGES)
        .with("threads", 8)
        .with("seed", seed);
    let produced = driver.ask(produced).await?;
    ensure!(
        produced.number("failures")? == 0,
        "sends failed: {}",
        produced.text("firstFailure")?
    );
    driver.ask(consume(&site, &topic, "first", &pushed)).await?;
    let wait = Command::new("consume-wait")
        .with("id", "first")
        .with("distinct", MESSAGES);
    driver.ask(wait).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "first"))
        .await?;
    driver.ask(read_all(&site, &topic, &read)).await?;
    let sent = record::read(&sent)?;
    ensure!(sent.len() == MESSAGES, "{} acknowledged", sent.len());
    ensure!(
        record::queues(&sent) >= 4,
        "only {} queues used",
        record::queues(&sent)
    );
    record::without_gaps(&sent)?;
    record::exactly(&sent, &record::read(&pushed)?)?;
    record::exactly(&sent, &record::read(&read)?)
}

async fn tags_select_messages(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const EACH: usize = 100;
    let site = lab.shared(target).await?;
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    // AaAa and BBBB have one Java hash code: the broker's filter lets both pass, the client's not.
    let tags = "AaAa,BBBB,Other";
    let produced = produce(&site, "tagged", &sent)
        .with("count", 3 * EACH)
        .with("tags", tags);
    driver.ask(produced).await?;
    let consumer = consume(&site, "tagged", "tagged", &pushed).with("tags", "AaAa || Unused");
    driver.ask(consumer).await?;
    let wait = Command::new("consume-wait")
        .with("id", "tagged")
        .with("distinct", EACH);
    driver.ask(wait).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "tagged"))
        .await?;
    let mut wanted = record::read(&sent)?;
    wanted.retain(|r| r.tag == "AaAa");
    ensure!(wanted.len() == EACH, "{} with the tag", wanted.len());
    record::exactly(&wanted, &record::read(&pushed)?)
}

async fn goes_on(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const EACH: usize = 200;
    let site = lab.shared(target).await?;
    let mut received = Vec::new();
    let mut all = Vec::new();
    for part in ["one", "two"] {
        let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
        let driver = lab.driver(Client::V5).await?;
        let produced = produce(&site, "goes-on", &sent)
            .with("prefix", part)
            .with("count", EACH);
        driver.ask(produced).await?;
        driver
            .ask(consume(&site, "goes-on", "goes-on", &pushed))
            .await?;
        let wait = Command::new("consume-wait")
            .with("id", "goes-on")
            .with("distinct", EACH);
        driver.ask(wait).await?;
        driver
            .ask(Command::new("consume-stop").with("id", "goes-on"))
            .await?;
        all.extend(record::read(&sent)?);
        received.extend(record::read(&pushed)?);
    }
    record::exactly(&all, &received)
}

async fn pulling_beyond(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let one = produce(&site, "beyond", &sent)
        .with("count", 1)
        .with("threads", 1);
    driver.ask(one).await?;
    let sent = record::read(&sent)?;
    let [sent] = sent.as_slice() else {
        anyhow::bail!("one message, not {sent:?}");
    };
    let rows = [
        (0, "FOUND", 1),
        (1, "NO_NEW_MSG", 1),
        (2, "OFFSET_ILLEGAL", 1),
        (1_000, "OFFSET_ILLEGAL", 1),
    ];
    for (offset, status, next) in rows {
        let pull = Command::new("pull")
            .with("namesrv", site.name_server)
            .with("topic", "beyond")
            .with("broker", &sent.place.broker)
            .with("queue", sent.place.queue)
            .with("offset", offset);
        let answer = driver.ask(pull).await?;
        let got = (answer.text("status")?, answer.number("next")?);
        ensure!(
            got == (status, next),
            "at {offset}: {got:?}, not {status} and {next}"
        );
    }
    Ok(())
}

/// Sends `count` messages; keys begin with `prefix`, which a later field may replace.
pub fn produce(site: &Addresses, topic: &str, record: &Path) -> Command {
    Command::new("produce")
        .with("namesrv", site.name_server)
        .with("topic", topic)
        .with("prefix", topic)
        .with("record", record.display())
}

/// A push consumer from the first offset, named by its group.
pub fn consume(site: &Addresses, topic: &str, group: &str, record: &Path) -> Command {
    Command::new("consume-start")
        .with("id", group)
        .with("namesrv", site.name_server)
        .with("topic", topic)
        .with("group", format!("{topic}-{group}"))
        .with("record", record.display())
}

pub fn read_all(site: &Addresses, topic: &str, record: &Path) -> Command {
    Command::new("read")
        .with("namesrv", site.name_server)
        .with("topic", topic)
        .with("record", record.display())
}
