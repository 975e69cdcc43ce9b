//! A process's life as its operator sees it: how it ends, what it refuses, what it says then.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::messages::{produce, read_all};
use super::{Against, Row};
use crate::java::driver::Client;
use crate::lab::{BrokerPlan, Lab, Target};
use crate::record;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "sigterm_ends_the_processes_within_10_s",
            Against::Gantry,
            |lab, _| Box::pin(sigterm(lab)),
        ),
        (
            "a_second_process_on_one_store_is_refused",
            Against::Gantry,
            |lab, _| Box::pin(second_process(lab)),
        ),
        (
            "a_store_of_another_cluster_is_refused",
            Against::Gantry,
            |lab, _| Box::pin(other_cluster(lab)),
        ),
        (
            "a_config_error_names_key_and_line",
            Against::Gantry,
            |lab, _| Box::pin(config_errors(lab)),
        ),
        ("the_version_names_a_commit", Against::Gantry, |lab, _| {
            Box::pin(version(lab))
        }),
    ]
}

const STOP: Duration = Duration::from_secs(10);

async fn sigterm(lab: &mut Lab) -> anyhow::Result<()> {
    let mut site = lab.site(Target::Gantry, "sigterm").await?;
    let addresses = super::crash::addresses(&site);
    let (sent, read) = (lab.record_file("sent"), lab.record_file("read"));
    let driver = lab.driver(Client::V5).await?;
    driver
        .ask(produce(&addresses, "sigterm", &sent).with("count", 1_000))
        .await?;
    // A pull that is held must not hold the process.
    let mut held = crate::raw::Connection::open(site.plan.remoting()).await?;
    held.write(&crate::raw::json_request(11, 1, &held_pull(), b""))
        .await;
    site.broker.signal(Signal::TERM);
    let (status, took) = site.broker.ended(STOP).await?;
    ensure!(
        status.success(),
        "{status} after {took:?}: {}",
        site.broker.output()
    );
    site.broker = lab.broker(Target::Gantry, &site.plan).await?;
    let driver = lab.driver(Client::V5).await?;
    driver.ask(read_all(&addresses, "sigterm", &read)).await?;
    record::exactly(&record::read(&sent)?, &record::read(&read)?)?;
    site.name_server.process.signal(Signal::TERM);
    let (status, _) = site.name_server.process.ended(STOP).await?;
    ensure!(status.success(), "the name server: {status}");
    // Without a name server to unregister from, the broker still ends in time.
    site.broker.signal(Signal::TERM);
    let (status, _) = site.broker.ended(STOP).await?;
    ensure!(status.success(), "without a name server: {status}");
    Ok(())
}

fn held_pull() -> [(&'static str, &'static str); 11] {
    [
        ("consumerGroup", "sigterm"),
        ("topic", "sigterm"),
        ("queueId", "0"),
        ("queueOffset", "250"),
        ("maxMsgNums", "32"),
        ("sysFlag", "6"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "60000"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ]
}

async fn second_process(lab: &mut Lab) -> anyhow::Result<()> {
    let plan = lab.plan("twice", &[])?;
    let first = lab.broker(Target::Gantry, &plan).await?;
    let mut second = lab.plan("twice-again", &[])?;
    second.name.clone_from(&plan.name);
    let other = lab.plan("twice", &[])?;
    second.port = other.port;
    let said = refused(lab, &plan, &second).await?;
    ensure!(
        said.contains("another process") || said.contains("in use") || said.contains("locked"),
        "it said: {said}"
    );
    drop(first);
    Ok(())
}

async fn other_cluster(lab: &mut Lab) -> anyhow::Result<()> {
    let plan = lab.plan("cluster", &[])?;
    let mut first = lab.broker(Target::Gantry, &plan).await?;
    first.signal(Signal::TERM);
    first.ended(STOP).await?;
    let mut other = plan.clone();
    "another".clone_into(&mut other.cluster);
    let said = refused(lab, &plan, &other).await?;
    ensure!(
        said.contains("another") && said.contains("e2e"),
        "it said: {said}"
    );
    let mut other = plan.clone();
    "broker-other".clone_into(&mut other.name);
    let said = refused(lab, &plan, &other).await?;
    ensure!(
        said.contains("broker-other") && said.contains(&plan.name),
        "it said: {said}"
    );
    Ok(())
}

/// Starts `other` on the store of `plan` and wants it to end by itself; what it said.
async fn refused(lab: &mut Lab, plan: &BrokerPlan, other: &BrokerPlan) -> anyhow::Result<String> {
    let dir = lab.fresh_dir("refused")?;
    std::os::unix::fs::symlink(plan.store(), dir.join("store"))?;
    let plan = BrokerPlan {
        dir,
        ..other.clone()
    };
    let mut process = lab.gantry()?.spawn_broker(&plan)?;
    let (status, _) = process.ended(STOP).await?;
    ensure!(!status.success(), "it ran on a store that is not its own");
    Ok(process.output())
}

async fn config_errors(lab: &mut Lab) -> anyhow::Result<()> {
    let plan = lab.plan("config", &[])?;
    let good = crate::gantry::yaml(&plan)?;
    let line = |text: &str, key: &str| -> anyhow::Result<usize> {
        let at = text.lines().position(|l| l.trim_start().starts_with(key));
        Ok(at.context("no such line")? + 1)
    };
    let rows = [
        (
            good.replace("flush: async", "flush: sometimes"),
            "flush",
            true,
        ),
        (
            format!("{good}autoCreateTopic: true\n"),
            "autoCreateTopic",
            true,
        ),
        (
            good.replace("segmentBytes: ", "segmentBytes: many"),
            "segmentBytes",
            true,
        ),
        (
            good.replace("broker: broker-config", "broker: \"no name\""),
            "broker",
            false,
        ),
    ];
    let path = plan.dir.join("wrong.yaml");
    for (text, key, with_line) in rows {
        std::fs::write(&path, &text)?;
        let path = path.display().to_string();
        let output = lab.gantry()?.run(&["broker", "--config", &path]).await?;
        ensure!(!output.status.success(), "it accepted a wrong {key}");
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            said.contains(key) && said.contains(&path),
            "{key}: it said: {said}"
        );
        let line = format!(
            "line {}",
            line(
                &text,
                if key == "autoCreateTopic" {
                    "autoCreateTopic:"
                } else {
                    key
                }
            )?
        );
        ensure!(
            !with_line || said.contains(&line),
            "{key}, {line}: it said: {said}"
        );
    }
    Ok(())
}

async fn version(lab: &mut Lab) -> anyhow::Result<()> {
    let output = lab.gantry()?.run(&["--version"]).await?;
    let hex = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        (7..=40).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit())
    };
    ensure!(
        output.status.success()
            && output.stdout.starts_with("gantry ")
            && output.stdout.split_whitespace().any(hex),
        "it said: {}",
        output.stdout
    );
    Ok(())
}
