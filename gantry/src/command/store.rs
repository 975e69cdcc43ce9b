//! `gantry store`

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use store::{Identity, Store};

use super::unix_ms;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say whose store a directory is and what it holds.
    Inspect(super::inspect::Arguments),
    /// Read every message of every queue and check it; fails when one is damaged.
    Verify(super::inspect::Arguments),
    /// Write what a Java broker needs to open the directory: consume queues, checkpoint, JSON.
    ExportJava {
        /// The broker's data directory.
        dir: PathBuf,
    },
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let dir = match command {
        Command::Inspect(arguments) => return super::inspect::inspect(&arguments),
        Command::Verify(arguments) => return super::inspect::verify(&arguments),
        Command::ExportJava { dir } => dir,
    };
    let identity = Identity::load(&dir)?
        .with_context(|| format!("{} holds no Gantry store", dir.display()))?;
    // The tables are in the log: open it, which also recovers it, and leave it clean.
    let options = store::Options::new(
        &identity.cluster,
        &identity.broker,
        ([127, 0, 0, 1], 10_911).into(),
        unix_ms,
    );
    let store = Store::open(&dir, options, Box::new(|_| {}))?;
    let tables = broker::process::replay(&store, &identity.cluster, &identity.broker, None)?;
    store.close();
    drop(store);
    let report = store::java::export(&dir, &tables.java_files())?;
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
