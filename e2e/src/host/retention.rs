//! Old log files go when their time is over, and nothing else goes with them: next offsets of idle
//! queues, topics, groups and committed offsets, whose records lay in those files, and delayed
//! messages.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::crash::addresses;
use super::messages::{consume, produce, read_all};
use super::produce::{LATE_MS_MAX, delivered, send_delayed};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Site, Target};
use crate::record;
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "retention_deletes_messages_and_nothing_else",
            Against::Gantry,
            |lab, _| Box::pin(retention(lab)),
        ),
        (
            "delayed_messages_outlive_their_log_files",
            Against::Gantry,
            |lab, _| Box::pin(delayed(lab)),
        ),
    ]
}

const SEGMENT_BYTES: u64 = 1 << 20;
const IDLE_MESSAGES: i64 = 40;
const RETENTION_SECONDS_MAX: u64 = 60;
const STOP: Duration = Duration::from_secs(10);

async fn retention(lab: &mut Lab) -> anyhow::Result<()> {
    let mut site = site(lab).await?;
    let sites = addresses(&site);
    let (sent, pushed) = (lab.record_file("idle"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    let idle = produce(&sites, "idle", &sent).with("count", IDLE_MESSAGES);
    driver.ask(idle).await?;
    driver.ask(consume(&sites, "idle", "g", &pushed)).await?;
    let wait = Command::new("consume-wait").with("id", "g");
    driver
        .ask(wait.clone().with("distinct", IDLE_MESSAGES))
        .await?;
    driver
        .ask(Command::new("consume-stop").with("id", "g"))
        .await?;
    let busy_sent = lab.record_file("busy");
    let busy = produce(&sites, "busy", &busy_sent)
        .with("count", 4_000)
        .with("bodyBytes", 1_000);
    lab.driver(Client::V5).await?.ask(busy).await?;
    let log = site.plan.store().join("commitlog");
    let limit = Duration::from_secs(RETENTION_SECONDS_MAX);
    until(
        "only the file in use and the next are left",
        limit,
        async || {
            let files = std::fs::read_dir(&log)?.count();
            ensure!(files <= 2, "{files} log files");
            Ok(())
        },
    )
    .await?;
    let kept = state(lab, &site).await?;
    ensure!(kept.busy.0 > 0, "the smallest offsets of busy: {kept:?}");
    ensure!(
        kept.idle == (IDLE_MESSAGES, IDLE_MESSAGES),
        "idle queues: {kept:?}"
    );
    gone(lab, &site).await?;
    for kill in [true, false] {
        if kill {
            site.broker.kill().await?;
        } else {
            site.broker.signal(Signal::TERM);
            site.broker.ended(STOP).await?;
        }
        site.broker = lab.broker(Target::Gantry, &site.plan).await?;
        let after = state(lab, &site).await?;
        ensure!(
            after.idle == kept.idle,
            "{after:?} after a restart, {kept:?} before"
        );
        ensure!(
            after.committed == kept.committed,
            "{after:?} after a restart, {kept:?} before"
        );
        ensure!(
            after.busy.0 >= kept.busy.0 && after.busy.1 == kept.busy.1,
            "{after:?}"
        );
    }
    goes_on(lab, &site).await
}

/// They are due when their log file has long gone.
async fn delayed(lab: &mut Lab) -> anyhow::Result<()> {
    const LEVEL: i32 = 4;
    const DELAY_MS: i64 = 30_000;
    const MESSAGES: usize = 20;
    let mut site = site(lab).await?;
    let sites = addresses(&site);
    let (sent, busy) = (lab.record_file("later"), lab.record_file("busy"));
    let driver = lab.driver(Client::V5).await?;
    send_delayed(driver, &sites, "later", LEVEL, MESSAGES, &sent).await?;
    let busy = produce(&sites, "busy", &busy)
        .with("count", 4_000)
        .with("bodyBytes", 1_000);
    driver.ask(busy).await?;
    let first = site.plan.store().join(format!("commitlog/{:020}", 0));
    let limit = Duration::from_millis(DELAY_MS as u64 * 2 / 3);
    until("their log file has gone", limit, async || {
        ensure!(!first.exists(), "it is there");
        Ok(())
    })
    .await?;
    site.broker.kill().await?;
    site.broker = lab.broker(Target::Gantry, &site.plan).await?;
    let driver = lab.driver(Client::V5).await?;
    let ages = delivered(driver, &sites, "later", MESSAGES).await?;
    let in_time = |age: &i64| (DELAY_MS..=DELAY_MS + LATE_MS_MAX).contains(age);
    ensure!(
        ages.len() == MESSAGES && ages.iter().all(in_time),
        "{ages:?} ms"
    );
    Ok(())
}

async fn site(lab: &mut Lab) -> anyhow::Result<Site> {
    let name_server = lab.name_server(Target::Gantry).await?;
    let mut plan = lab.plan("retention", &[name_server.address])?;
    plan.segment_bytes = SEGMENT_BYTES;
    "retention: 5s\n".clone_into(&mut plan.extra_yaml);
    let broker = lab.broker(Target::Gantry, &plan).await?;
    Ok(Site {
        name_server,
        broker,
        plan,
    })
}

#[derive(Debug)]
struct State {
    /// Sums of the smallest and of the next offsets of a topic's queues.
    idle: (i64, i64),
    busy: (i64, i64),
    committed: String,
}

async fn state(lab: &mut Lab, site: &Site) -> anyhow::Result<State> {
    let (sites, unread) = (addresses(site), lab.record_file("unread"));
    let driver = lab.driver(Client::V5).await?;
    let mut sums = Vec::new();
    for topic in ["idle", "busy"] {
        let read = driver.ask(read_all(&sites, topic, &unread)).await?;
        let (mut min, mut max) = (0, 0);
        for queue in read.text("bounds")?.split(',') {
            let bounds = queue
                .split_once(':')
                .and_then(|(_, bounds)| bounds.split_once(".."));
            let (from, to) = bounds.context("a queue's bounds")?;
            min += from.parse::<i64>()?;
            max += to.parse::<i64>()?;
        }
        sums.push((min, max));
    }
    let committed = Command::new("committed")
        .with("namesrv", sites.name_server)
        .with("topic", "idle")
        .with("group", "idle-g");
    let committed = driver.ask(committed).await?.text("offsets")?.to_owned();
    Ok(State {
        idle: sums[0],
        busy: sums[1],
        committed,
    })
}

/// A consumer that is behind is sent to where the queue now begins.
async fn gone(lab: &mut Lab, site: &Site) -> anyhow::Result<()> {
    let pull = Command::new("pull")
        .with("namesrv", site.name_server.address)
        .with("topic", "busy")
        .with("broker", &site.plan.name)
        .with("offset", 0);
    let pulled = lab.driver(Client::V5).await?.ask(pull).await?;
    let (next, min) = (pulled.number("next")?, pulled.number("min")?);
    ensure!(
        pulled.text("status")? == "OFFSET_ILLEGAL" && next == min && min > 0,
        "{pulled:?}"
    );
    Ok(())
}

/// New messages of the idle topic follow the old ones, and its group gets these alone.
async fn goes_on(lab: &mut Lab, site: &Site) -> anyhow::Result<()> {
    let sites = addresses(site);
    let (sent, pushed) = (lab.record_file("again"), lab.record_file("pushed-again"));
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(produce(&sites, "idle", &sent).with("count", 8))
        .await?;
    driver.ask(consume(&sites, "idle", "g", &pushed)).await?;
    let wait = Command::new("consume-wait")
        .with("id", "g")
        .with("distinct", 8);
    driver.ask(wait).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "g"))
        .await?;
    let (sent, pushed) = (record::read(&sent)?, record::read(&pushed)?);
    let oldest = sent.iter().map(|sent| sent.place.offset).min();
    ensure!(
        oldest.is_some_and(|oldest| oldest > 0),
        "an offset began again: {sent:?}"
    );
    record::exactly(&sent, &pushed)
}
