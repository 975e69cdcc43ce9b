//! `gantry store`

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use broker::adopt::Java;
use broker::schedule::Levels;
use store::adopt::{Report, Survey};
use store::{Identity, Store};

use super::unix_ms;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say whose store a directory is and what it holds.
    Inspect(super::inspect::Arguments),
    /// Read every message of every queue and check it; fails when one is damaged.
    Verify(super::inspect::Arguments),
    /// Make a Java broker's data directory one of Gantry's.
    Adopt(Adopt),
    /// Write what a Java broker needs to open the directory: consume queues, checkpoint, JSON.
    ExportJava {
        /// The broker's data directory.
        dir: PathBuf,
        /// `messageDelayLevel` of the Java broker, where it is not the default.
        #[arg(long, default_value_t)]
        delay_levels: Levels,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Adopt {
    /// `storePathRootDir` of the Java broker, which must not run.
    dir: PathBuf,
    /// `brokerClusterName`.
    #[arg(long)]
    cluster: String,
    /// `brokerName`.
    #[arg(long)]
    broker: String,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Inspect(arguments) => super::inspect::inspect(&arguments),
        Command::Verify(arguments) => super::inspect::verify(&arguments),
        Command::Adopt(arguments) => adopt(&arguments),
        Command::ExportJava { dir, delay_levels } => export(&dir, &delay_levels),
    }
}

fn adopt(
    Adopt {
        dir,
        cluster,
        broker,
    }: &Adopt,
) -> anyhow::Result<()> {
    let mut java = Java::read(dir)?;
    let survey = Survey::take(dir, cluster, broker, &mut |record| java.see(record))?;
    let (state, counts) = java.state(cluster, broker, &survey.queues())?;
    let report = survey.finish(state)?;
    let mut out = std::io::stdout().lock();
    let Report {
        messages,
        queues,
        idle_queues,
        log_start,
        log_end,
        ..
    } = &report;
    writeln!(
        out,
        "{messages} messages in {queues} queues, {idle_queues} queues without"
    )?;
    writeln!(
        out,
        "{} topics, {} groups, {} consumer offsets ({} lowered to their queue's end)",
        counts.topics, counts.groups, counts.offsets, counts.lowered
    )?;
    writeln!(
        out,
        "log {log_start} to {log_end}, files of {} bytes",
        report.segment_bytes
    )?;
    if report.left_out > 0 {
        writeln!(
            out,
            "{} messages of deleted topics are left out",
            report.left_out
        )?;
    }
    if report.unclean {
        writeln!(
            out,
            "the Java broker had not closed it: the log ends at its last whole record"
        )?;
    }
    for host in &report.store_hosts {
        writeln!(out, "message ids name {host}")?;
    }
    Ok(())
}

fn export(dir: &Path, levels: &Levels) -> anyhow::Result<()> {
    let identity =
        Identity::load(dir)?.with_context(|| format!("{} holds no Gantry store", dir.display()))?;
    // The tables are in the log: open it, which also recovers it, and leave it clean.
    let options = store::Options::new(
        &identity.cluster,
        &identity.broker,
        ([127, 0, 0, 1], 10_911).into(),
        unix_ms,
    );
    let store = Store::open(dir, options, Box::new(|_, _| {}))?;
    let tables = broker::process::replay(&store, &identity.cluster, &identity.broker, None)?;
    broker::process::settle(&store, &tables)?;
    store.close();
    drop(store);
    let report = store::java::export(dir, &tables.java_files(), &levels.0)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} messages in {} queues",
        report.messages, report.queues
    )?;
    writeln!(
        out,
        "A Java broker opens {} with these properties:",
        dir.display()
    )?;
    writeln!(out, "storePathRootDir={}", dir.display())?;
    writeln!(
        out,
        "storePathCommitLog={}",
        dir.join("commitlog").display()
    )?;
    writeln!(out, "mappedFileSizeCommitLog={}", identity.segment_bytes)?;
    writeln!(out, "brokerClusterName={}", identity.cluster)?;
    writeln!(out, "brokerName={}", identity.broker)?;
    Ok(())
}
