//! `cargo xtask verify [STAGE]`: the tests at the sizes of a release.
//!
//! It may take hours, so every stage that ended well is written down with the commit it was
//! run on (`.gantry/verify.json`); another start on the same commit goes on with the rest.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::place::Place;
use crate::process::{command, output};
use crate::report::Report;
use crate::stages::{self, Size};
use crate::{cluster, install};

const STAGES: [&str; 4] = ["check", "host", "compat", "cluster"];

#[derive(Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
struct Done {
    commit: String,
    stages: BTreeSet<String>,
}

pub(crate) fn run(place: &Place, only: Option<&str>) -> Result<ExitCode> {
    if let Some(stage) = only.filter(|stage| !STAGES.contains(stage)) {
        bail!("no stage {stage}; there are {}", STAGES.join(", "));
    }
    let file = place.state().join("verify.json");
    let commit = output(&mut command(
        place,
        "git",
        ["describe", "--always", "--dirty=+changes"],
    ))?;
    let mut done = resume(
        &fs::read_to_string(&file).unwrap_or_default(),
        commit.trim(),
    );
    let mut failed = false;
    for stage in STAGES {
        let asked = only.map_or(!done.stages.contains(stage), |only| only == stage);
        if !asked {
            println!("{stage}: not asked for, or done on this commit");
            continue;
        }
        if run_stage(place, stage) == ExitCode::SUCCESS {
            done.stages.insert(stage.to_owned());
            fs::create_dir_all(place.state())?;
            fs::write(&file, serde_json::to_string_pretty(&done)?)?;
        } else {
            failed = true;
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn run_stage(place: &Place, stage: &str) -> ExitCode {
    let mut report = Report::default();
    report.stage("install", &[], |_| install::run(place));
    match stage {
        "check" => stages::checks(place, &mut report, Size::Verify),
        "host" => {
            report.stage("build", &[], |_| stages::build(place));
            stages::host(place, &mut report, &[], Size::Verify);
        }
        "compat" => {
            report.stage("build", &[], |_| stages::build(place));
            report.stage("java", &["build"], |_| stages::prepare(place));
            // What the Java broker gives is recorded anew.
            stages::compat(place, &mut report, &["--java"]);
        }
        _ => {
            report.stage("build", &[], |_| stages::build(place));
            report.stage("java", &["build"], |_| stages::prepare(place));
            stages::on_cluster(place, &mut report, cluster::compile(place), Size::Verify);
        }
    }
    report.finish()
}

/// What the file says, if it speaks of this very commit and of nothing uncommitted.
fn resume(text: &str, commit: &str) -> Done {
    let known: Done = serde_json::from_str(text).unwrap_or_default();
    if known.commit == commit && !commit.ends_with("+changes") {
        return known;
    }
    Done {
        commit: commit.to_owned(),
        stages: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_commit_is_resumed() {
        let done = |commit: &str, stages: &[&str]| Done {
            commit: commit.into(),
            stages: stages.iter().map(|s| (*s).to_owned()).collect(),
        };
        let text = serde_json::to_string(&done("abc", &["check"])).unwrap();
        let dirty = serde_json::to_string(&done("abc+changes", &["check"])).unwrap();
        let rows = [
            (text.as_str(), "abc", done("abc", &["check"])),
            (text.as_str(), "abd", done("abd", &[])),
            (dirty.as_str(), "abc+changes", done("abc+changes", &[])),
            ("", "abc", done("abc", &[])),
            ("{broken", "abc", done("abc", &[])),
        ];
        for (text, commit, expect) in rows {
            assert_eq!(resume(text, commit), expect, "{text} {commit}");
        }
    }
}
