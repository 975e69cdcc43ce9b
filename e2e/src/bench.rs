//! `e2e bench`: Gantry and the Java broker of the pinned release, in pairs on the same processors,
//! both driven by `gantry bench`. Every finished run is a file; the page is made from the files.
//!
//! - [`figures`]: what is done to a server for each figure
//! - [`server`]: a server under load, and what it costs
//! - [`calls`]: requests that the load generator does not make
//! - [`own`]: RocketMQ's own load generator, to check ours
//! - [`page`]: the files as `docs/performance.md`

pub mod calls;
mod figures;
mod own;
mod page;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lab::{Lab, Target};
use server::Loads;

#[derive(Debug, Args)]
pub struct Options {
    /// The binary under test, which makes the load too
    #[arg(long)]
    gantry: PathBuf,
    /// Only these figures
    #[arg(long)]
    figure: Vec<u8>,
    /// Keep the runs that were finished before
    #[arg(long)]
    resume: bool,
    /// Where the files of the runs lie
    #[arg(long, default_value = ".gantry/bench")]
    dir: PathBuf,
    /// The processors that make the load, as taskset names them; servers run on this program's
    #[arg(long)]
    load_cpus: String,
    /// All processors of the measurement
    #[arg(long)]
    all_cpus: String,
    /// What was built
    #[arg(long)]
    revision: String,
}

pub const PAIRS: u32 = 5;
/// A pair is tried so often, when the machine is not the same before and after it.
const TRIES: u32 = 3;
/// By how much two probes may differ.
const DIFFERENCE_MAX: f64 = 0.4;
/// What the probes of processor and memory are; a shared disk differs from second to second.
const STEADY: [&str; 3] = [
    "memcpyGiBPerSecond",
    "pipelinedEchoPerSecond",
    "streamGiBPerSecond",
];

/// One server of one pair, measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    pub figure: u8,
    pub pair: u32,
    pub server: String,
    pub revision: String,
    /// Probes of the machine around the pair.
    pub limits: [Value; 2],
    /// The machine was not the same before and after.
    pub uneasy: bool,
    /// What was measured, in the order of the page.
    pub values: Vec<(String, f64)>,
}

pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&options.dir)?;
    let all = figures::ALL.map(|figure| figure.number);
    let wanted = if options.figure.is_empty() {
        all.to_vec()
    } else {
        options.figure.clone()
    };
    for number in &wanted {
        ensure!(
            all.contains(number),
            "no figure {number}: there are {all:?}"
        );
    }
    for pair in 0..PAIRS {
        for number in &wanted {
            let done = pair_files(&options, *number, pair);
            if options.resume && done.iter().all(|file| file.exists()) {
                continue;
            }
            measured(&options, *number, pair).await?;
        }
    }
    page::write(&page::read(&options.dir)?)?;
    Ok(ExitCode::SUCCESS)
}

fn pair_files(options: &Options, figure: u8, pair: u32) -> [PathBuf; 2] {
    ["gantry", "java"].map(|server| options.dir.join(format!("{figure}-{pair}-{server}.json")))
}

/// Measures one pair and writes it, once the machine was steady or nothing helps.
async fn measured(options: &Options, figure: u8, pair: u32) -> anyhow::Result<()> {
    let loads = Loads {
        gantry: std::fs::canonicalize(&options.gantry)?,
        cpus: options.load_cpus.clone(),
        all_cpus: options.all_cpus.clone(),
    };
    for attempt in 1..=TRIES {
        let before = loads.limits().await?;
        let mut found = Vec::new();
        for target in [Target::Gantry, Target::Java] {
            println!("figure {figure}, pair {} of {PAIRS}, {target:?}", pair + 1);
            let mut lab = Lab::new(Some(loads.gantry.clone()), 1)?;
            let values = figures::measure((figure, pair), &mut lab, &loads, target).await;
            let values = values.with_context(|| format!("figure {figure} of {target:?}"))?;
            for (what, value) in &values {
                println!("    {what}: {value:.1}");
            }
            found.push(values);
        }
        let after = loads.limits().await?;
        let uneasy = differ(&before, &after);
        if uneasy && attempt < TRIES {
            println!("    the machine was not the same before and after: once more");
            continue;
        }
        let files = pair_files(options, figure, pair);
        for ((file, values), server) in files.iter().zip(found).zip(["gantry", "java"]) {
            let run = Run {
                figure,
                pair,
                server: server.to_owned(),
                revision: options.revision.clone(),
                limits: [before.clone(), after.clone()],
                uneasy,
                values,
            };
            std::fs::write(file, serde_json::to_string_pretty(&run)?)?;
        }
        return Ok(());
    }
    Ok(())
}

fn differ(before: &Value, after: &Value) -> bool {
    STEADY.iter().any(|probe| {
        let (a, b) = (before[probe].as_f64(), after[probe].as_f64());
        let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
        (a - b).abs() > DIFFERENCE_MAX * a.max(b)
    })
}
