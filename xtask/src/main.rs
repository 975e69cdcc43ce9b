//! The verbs: `cargo xtask check | test | verify | run | ...`.
//!
//! Whatever a person or a pipeline does with this repository is one of them; each prints what
//! it runs, and what took how long. It has no dependency on the project's crates, so that it
//! is built in seconds and works when they do not.

#![allow(clippy::print_stdout)] // what a verb says goes to the terminal

mod bench;
mod cluster;
mod features;
mod generate;
mod install;
mod place;
mod process;
mod readme;
mod report;
mod stages;
mod tidy;
mod verify;

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::place::Place;
use crate::report::Report;

/// Every verb with its words and what it does: the help, and what documents may name.
pub(crate) const VERBS: &[(&str, &str, &str)] = &[
    (
        "check",
        "",
        "format, lints, rules of the tree, unit and golden tests; minutes",
    ),
    (
        "test",
        "",
        "everything, from a machine with only the compilers: what a pipeline runs",
    ),
    (
        "verify",
        "[STAGE]",
        "the same at the sizes of a release; resumes where it stopped",
    ),
    (
        "run",
        "",
        "a broker on this machine, from examples/quickstart.yaml",
    ),
    (
        "cluster",
        "up|down",
        "a local Kubernetes with the operator and examples/",
    ),
    (
        "images",
        "",
        "the images of Gantry and of the test clients, as archives for another cluster",
    ),
    (
        "e2e",
        "[--kubeconfig FILE] [FILTER]",
        "end-to-end tests: on the host, or on a cluster",
    ),
    (
        "compat",
        "[FILTER]",
        "each call of each official client; writes docs/compatibility.md",
    ),
    (
        "bench",
        "[--figure N] [--resume]",
        "Gantry beside the Java broker, in pairs; writes docs/performance.md",
    ),
    ("tidy", "", "the rules of the tree alone"),
    (
        "golden",
        "",
        "record the golden frames anew, between the official client and broker",
    ),
    (
        "generate",
        "",
        "write the generated files: custom resource definitions, chart copy",
    ),
    ("install", "", "install what the other verbs need"),
    ("help", "", "this list"),
];

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let claimed = Place::find().and_then(|place| place.claim().map(|()| place));
    match claimed.and_then(|place| verb(&place, &words)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn verb(place: &Place, words: &[&str]) -> Result<ExitCode> {
    match words {
        ["check"] => Ok(stages::check(place)),
        ["test"] => Ok(stages::test(place)),
        ["verify", stage @ ..] if stage.len() <= 1 => verify::run(place, stage.first().copied()),
        ["run"] => run_standalone(place),
        ["cluster", "up"] => done(cluster::up(place)),
        ["cluster", "down"] => done(cluster::tool(place, ["down"])),
        ["images"] => done(stages::images(place)),
        ["e2e", "--kubeconfig", file, filter @ ..] => {
            Ok(stages::end_to_end_on(place, file, filter))
        }
        ["e2e", filter @ ..] => Ok(stages::end_to_end(place, filter)),
        ["compat", filter @ ..] => Ok(stages::compatibility(place, filter)),
        ["bench", words @ ..] => done(bench::bench(place, words)),
        ["tidy"] => {
            let mut report = Report::default();
            stages::tidy(place, &mut report);
            Ok(report.finish())
        }
        ["golden"] => done(stages::golden(place)),
        ["generate"] => done(generate::run(place)),
        ["install"] => done(install::run(place)),
        [] | ["help" | "--help" | "-h"] => {
            help();
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!(
            "no such verb: {}; `cargo xtask help` names them",
            words.join(" ")
        ),
    }
}

fn done(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

fn help() {
    for (verb, words, what) in VERBS {
        println!("cargo xtask {:<36} {what}", format!("{verb} {words}"));
    }
}

/// Builds for this machine and becomes the broker, so that Ctrl-C stops it and nothing else.
fn run_standalone(place: &Place) -> Result<ExitCode> {
    process::run(&mut process::cargo(
        place,
        ["build", "--release", "--package", "gantry"],
    ))?;
    let mut gantry = Command::new(place.target.join("release/gantry"));
    gantry.args(["standalone", "--data-dir", ".gantry/standalone"]);
    gantry
        .args(["-f", "examples/quickstart.yaml"])
        .current_dir(&place.root);
    Err(gantry.exec().into())
}
