//! `cargo xtask bench`: the binary of the image beside the Java broker; `e2e bench` measures.
//!
//! Servers run on the first half of the processors, their load on the other, so that neither takes
//! from the other what it is measured by.

use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result, ensure};

use crate::place::{Place, TARGET};
use crate::process::{cargo, command, run};
use crate::stages;

pub(crate) fn bench(place: &Place, words: &[&str]) -> Result<()> {
    stages::build(place)?;
    stages::prepare(place)?;
    let what = [
        "build",
        "--profile",
        "dist",
        "--package",
        "gantry",
        "--target",
        TARGET,
    ];
    run(&mut cargo(place, what))?;
    let gantry = place.target.join(TARGET).join("dist/gantry");
    let gantry = gantry.to_string_lossy();
    let cpus = available_parallelism()?.get();
    ensure!(cpus >= 2, "a server and its load need a processor each");
    let (servers, loads) = (
        cpus.div_ceil(2),
        format!("{}-{}", cpus.div_ceil(2), cpus - 1),
    );
    let (servers, all) = (format!("0-{}", servers - 1), format!("0-{}", cpus - 1));
    let revision = revision(place)?;
    let e2e = place.program("e2e");
    let e2e = e2e.to_string_lossy();
    let own = [
        "-c",
        &servers,
        &e2e,
        "bench",
        "--gantry",
        &gantry,
        "--load-cpus",
        &loads,
        "--all-cpus",
        &all,
        "--revision",
        &revision,
    ];
    run(&mut command(place, "taskset", [&own, words].concat()))
}

/// The commit, and whether the tree differs from it.
fn revision(place: &Place) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]);
    let output = git.current_dir(&place.root).output()?;
    ensure!(output.status.success(), "git describe failed");
    let text = String::from_utf8(output.stdout).context("git describe")?;
    Ok(text.trim().to_owned())
}
