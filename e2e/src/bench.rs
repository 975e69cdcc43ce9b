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

use std::path::{Path, PathBuf};
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
            let files = pair_files(&options, *number, pair);
            if options.resume && files.iter().all(|file| is_done(file, &options.revision)) {
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

/// Whether a run is there with the probes around it, and of this revision.
fn is_done(file: &Path, revision: &str) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let run: Option<Run> = serde_json::from_str(&text).ok();
    run.is_some_and(|run| run.revision == revision && !run.limits[1].is_null())
}

/// Measures one pair, once the machine was steady or nothing helps. Each run is written when it
/// has ended, and again with the probe after both.
async fn measured(options: &Options, figure: u8, pair: u32) -> anyhow::Result<()> {
    let loads = Loads {
        gantry: std::fs::canonicalize(&options.gantry)?,
        cpus: options.load_cpus.clone(),
        all_cpus: options.all_cpus.clone(),
    };
    for attempt in 1..=TRIES {
        let before = loads.limits().await?;
        let mut runs = Vec::new();
        let files = pair_files(options, figure, pair);
        for (target, file) in [Target::Gantry, Target::Java].into_iter().zip(files) {
            println!("figure {figure}, pair {} of {PAIRS}, {target:?}", pair + 1);
            let mut lab = Lab::new(Some(loads.gantry.clone()), 1)?;
            let values = figures::measure((figure, pair), &mut lab, &loads, target).await;
            let values = values.with_context(|| format!("figure {figure} of {target:?}"))?;
            for (what, value) in &values {
                println!("    {what}: {value:.1}");
            }
            let run = Run {
                figure,
                pair,
                server: format!("{target:?}").to_lowercase(),
                revision: options.revision.clone(),
                limits: [before.clone(), Value::Null],
                uneasy: false,
                values,
            };
            write(&file, &run)?;
            runs.push((file, run));
        }
        let after = loads.limits().await?;
        let uneasy = differ(&before, &after)?;
        if uneasy && attempt < TRIES {
            println!("    the machine was not the same before and after: once more");
            continue;
        }
        for (file, mut run) in runs {
            run.limits[1] = after.clone();
            run.uneasy = uneasy;
            write(&file, &run)?;
        }
        return Ok(());
    }
    Ok(())
}

fn write(file: &Path, run: &Run) -> anyhow::Result<()> {
    Ok(std::fs::write(file, serde_json::to_string_pretty(run)?)?)
}

fn differ(before: &Value, after: &Value) -> anyhow::Result<bool> {
    let number = |probes: &Value, name: &str| {
        let number = probes[name].as_f64();
        number.with_context(|| format!("no {name} in {probes}"))
    };
    for probe in STEADY {
        let (a, b) = (number(before, probe)?, number(after, probe)?);
        if (a - b).abs() > DIFFERENCE_MAX * a.max(b) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probes_differ_by_more_than_forty_percent() {
        let probes = |stream: f64| {
            json!({"memcpyGiBPerSecond": 9.0, "pipelinedEchoPerSecond": 1e5,
                   "streamGiBPerSecond": stream, "fdatasyncPerSecond": stream * stream})
        };
        for (before, after, expected) in [
            (10.0, 10.0, false),
            (10.0, 6.1, false),
            (10.0, 5.9, true),
            (5.9, 10.0, true),
        ] {
            let differs = differ(&probes(before), &probes(after)).expect("all probes are there");
            assert_eq!(differs, expected, "{before} and {after}");
        }
        assert!(differ(&probes(1.0), &json!({"streamGiBPerSecond": 1.0})).is_err());
    }

    #[test]
    fn a_run_is_kept_with_all_its_probes_and_of_this_revision() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("1-0-java.json");
        assert!(!is_done(&file, "r"), "not there");
        for (revision, after, expected) in [
            ("r", json!({"memcpyGiBPerSecond": 1.0}), true),
            ("r", Value::Null, false),
            ("q", json!({"memcpyGiBPerSecond": 1.0}), false),
        ] {
            let run = Run {
                figure: 1,
                pair: 0,
                server: "java".to_owned(),
                revision: revision.to_owned(),
                limits: [json!({"memcpyGiBPerSecond": 1.0}), after],
                uneasy: false,
                values: Vec::new(),
            };
            write(&file, &run).expect("written");
            assert_eq!(is_done(&file, "r"), expected, "{revision}");
        }
    }
}
