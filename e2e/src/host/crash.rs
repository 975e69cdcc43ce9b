//! SIGKILL in the middle of writing: what was acknowledged before is read afterwards, exactly
//! where the acknowledgement said, and topics and committed offsets are still there.

use std::time::Duration;

use anyhow::ensure;

use super::messages::{consume, produce, read_all};
use super::{Against, Row};
use crate::java::driver::{Client, Command, Driver};
use crate::lab::{Addresses, Lab, Site, Target};
use crate::record::{self, Record};
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "sigkill_loses_no_acknowledged_message",
            Against::Both,
            |lab, target| Box::pin(sigkill(lab, target)),
        ),
        (
            "topics_and_offsets_survive_sigkill",
            Against::Both,
            |lab, target| Box::pin(offsets_survive(lab, target)),
        ),
    ]
}

/// How often Gantry is killed; Java, which takes long to come back, only once.
const KILLS: usize = 3;
/// Acknowledged between two kills at least.
const PROGRESS_MESSAGES: i64 = 1_500;

async fn sigkill(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let mut site = lab.site(target, "crash").await?;
    let addresses = addresses(&site);
    let (sent, read) = (lab.record_file("sent"), lab.record_file("read"));
    let seed = lab.seed;
    // Eight senders that never pause: some send is unanswered whenever the kill comes.
    let mut job = produce(&addresses, "crash", &sent)
        .with("id", "crash")
        .with("seed", seed)
        .with("threads", 8)
        .with("keepTrying", 1)
        .with("timeoutMs", 3_000)
        .with("bodyBytes", 1_000);
    job = job.renamed("produce-start");
    lab.driver(Client::V5).await?.ask(job).await?;
    let kills = if target == Target::Java { 1 } else { KILLS };
    let mut acknowledged = 0;
    for kill in 0..=kills {
        let driver = lab.driver(Client::V5).await?;
        acknowledged = progress(driver, acknowledged + PROGRESS_MESSAGES).await?;
        if kill < kills {
            site.broker.kill().await?;
            site.broker = lab.broker(target, &site.plan).await?;
        }
    }
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(Command::new("produce-stop").with("id", "crash"))
        .await?;
    driver.ask(read_all(&addresses, "crash", &read)).await?;
    let (sent, read) = (record::read(&sent)?, record::read(&read)?);
    record::without_gaps(&read)?;
    record::every_one(&sent, &read)?;
    only_unanswered(&sent, &read)
}

/// Messages that were stored and not acknowledged are few: the sends in flight at each kill, each
/// tried up to three times.
fn only_unanswered(sent: &[Record], read: &[Record]) -> anyhow::Result<()> {
    const IN_FLIGHT_MAX: usize = 8 * 3 * KILLS;
    let extra = read.len() - sent.len();
    ensure!(
        extra <= IN_FLIGHT_MAX,
        "{extra} messages that nobody was told of"
    );
    Ok(())
}

async fn progress(driver: &mut Driver, wanted: i64) -> anyhow::Result<i64> {
    const PROGRESS_SECONDS_MAX: u64 = 60;
    let state = Command::new("produce-state").with("id", "crash");
    let limit = Duration::from_secs(PROGRESS_SECONDS_MAX);
    until("sends go on", limit, async || {
        let state = driver.ask(state.clone()).await?;
        let acknowledged = state.number("acknowledged")?;
        ensure!(
            acknowledged >= wanted,
            "{acknowledged} of {wanted} acknowledged, first failure: {}",
            state.text("firstFailure")?
        );
        Ok(acknowledged)
    })
    .await
}

async fn offsets_survive(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 400;
    let mut site = lab.site(target, "offsets").await?;
    let addresses = addresses(&site);
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(produce(&addresses, "offsets", &sent).with("count", MESSAGES))
        .await?;
    driver
        .ask(consume(&addresses, "offsets", "group", &pushed))
        .await?;
    let wait = Command::new("consume-wait")
        .with("id", "group")
        .with("distinct", MESSAGES);
    driver.ask(wait).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "group"))
        .await?;
    let committed = Command::new("committed")
        .with("namesrv", addresses.name_server)
        .with("topic", "offsets")
        .with("group", "offsets-group");
    let total = |offsets: &str| -> i64 {
        let number = |queue: &str| queue.rsplit(':').next()?.parse::<i64>().ok();
        offsets.split(',').filter_map(number).sum()
    };
    let before = driver
        .ask(committed.clone())
        .await?
        .text("offsets")?
        .to_owned();
    ensure!(
        total(&before) == MESSAGES as i64,
        "committed before: {before}"
    );
    // Java writes offsets every 5 s, from 10 s after its start on; Gantry promises a tick of 1 s.
    let settle = if target == Target::Java {
        16_000
    } else {
        1_500
    };
    tokio::time::sleep(Duration::from_millis(settle)).await;
    site.broker.kill().await?;
    site.broker = lab.broker(target, &site.plan).await?;
    let driver = lab.driver(Client::V5).await?;
    let after = driver.ask(committed).await?.text("offsets")?.to_owned();
    ensure!(
        before == after,
        "committed {before} before the kill and {after} after it"
    );
    Ok(())
}

pub fn addresses(site: &Site) -> Addresses {
    Addresses {
        name_server: site.name_server.address,
        name_server_http: site.name_server.http,
        broker: site.plan.remoting(),
        broker_http: site.plan.http(),
    }
}
