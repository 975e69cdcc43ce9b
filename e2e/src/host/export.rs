//! The way back to Apache RocketMQ: after `gantry store export-java` the Java broker opens the very
//! directory that Gantry wrote, and its client reads every message where it was.

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use std::time::Duration;

use super::messages::{consume, produce, read_all};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Target};
use crate::record;

pub fn rows() -> Vec<Row> {
    vec![(
        "the_java_broker_opens_an_exported_store",
        Against::Gantry,
        |lab, _| Box::pin(export(lab)),
    )]
}

async fn export(lab: &mut Lab) -> anyhow::Result<()> {
    // More than ten segments: further back Java does not rebuild its queues by itself.
    const MESSAGES: usize = 2_000;
    const BODY_BYTES: usize = 100_000;
    let mut site = lab.site(Target::Gantry, "export").await?;
    let addresses = super::crash::addresses(&site);
    let (sent, idle) = (lab.record_file("sent"), lab.record_file("sent"));
    let pushed = lab.record_file("pushed");
    let driver = lab.driver(Client::V5).await?;
    // A queue that falls silent early must keep its messages and its end.
    driver
        .ask(produce(&addresses, "idle", &idle).with("count", 40))
        .await?;
    driver
        .ask(consume(&addresses, "idle", "group", &pushed))
        .await?;
    let wait = Command::new("consume-wait")
        .with("id", "group")
        .with("distinct", 40);
    driver.ask(wait).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "group"))
        .await?;
    let bulk = produce(&addresses, "export", &sent)
        .with("count", MESSAGES)
        .with("bodyBytes", BODY_BYTES)
        .with("compressOver", 1_000_000);
    driver.ask(bulk).await?;
    site.broker.signal(Signal::TERM);
    site.broker.ended(Duration::from_secs(10)).await?;
    let store = site.plan.store().display().to_string();
    let gantry = lab.gantry()?;
    let output = gantry.run(&["store", "export-java", &store]).await?;
    ensure!(
        output.status.success(),
        "export-java: {} {}",
        output.stdout,
        output.stderr
    );
    // The Java broker must be told the segment's size; the command says it in Java's words.
    let segment_bytes: u64 = output
        .stdout
        .split(|c: char| c.is_whitespace())
        .find_map(|word| word.strip_prefix("mappedFileSizeCommitLog="))
        .with_context(|| format!("no segment size in {}", output.stdout))?
        .parse()?;
    site.plan.segment_bytes = segment_bytes;
    site.broker = lab.broker(Target::Java, &site.plan).await?;
    for (topic, sent) in [("export", sent), ("idle", idle)] {
        let read = lab.record_file("read");
        let driver = lab.driver(Client::V5).await?;
        driver.ask(read_all(&addresses, topic, &read)).await?;
        record::exactly(&record::read(&sent)?, &record::read(&read)?).context(topic)?;
    }
    committed_and_next_offsets(lab, &site).await
}

/// Java knows what the group had consumed, and the next message gets the next offset.
async fn committed_and_next_offsets(lab: &mut Lab, site: &crate::lab::Site) -> anyhow::Result<()> {
    let addresses = super::crash::addresses(site);
    let (more, read) = (lab.record_file("sent"), lab.record_file("read"));
    let driver = lab.driver(Client::V5).await?;
    let committed = Command::new("committed")
        .with("namesrv", addresses.name_server)
        .with("topic", "idle")
        .with("group", "idle-group");
    let offsets = driver.ask(committed).await?.text("offsets")?.to_owned();
    let number = |queue: &str| queue.rsplit(':').next()?.parse::<i64>().ok();
    let total: i64 = offsets.split(',').filter_map(number).sum();
    ensure!(total == 40, "committed offsets: {offsets}");
    let next = produce(&addresses, "idle", &more)
        .with("count", 8)
        .with("prefix", "after");
    driver.ask(next).await?;
    driver.ask(read_all(&addresses, "idle", &read)).await?;
    let read = record::read(&read)?;
    record::without_gaps(&read)?;
    record::every_one(&record::read(&more)?, &read)?;
    ensure!(read.len() == 48, "{} messages", read.len());
    Ok(())
}
