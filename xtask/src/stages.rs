//! What `check` and `test` are made of, and in which order.
//!
//! `check` is what a developer waits for: it needs no network and no second program. `test`
//! adds everything else: official clients on this machine, then on a real Kubernetes. The
//! cluster's binaries compile in the background from the start, at the lowest priority, since
//! on a fresh machine they take longest.

use std::process::{Child, ExitCode};

use anyhow::{Result, ensure};

use crate::place::{Place, TARGET};
use crate::process::{cargo, command, run, run_lines};
use crate::report::{Report, Tally};
use crate::{cluster, features, install, readme, tidy as rules};

/// How much each test does: `Test` for every change, `Verify` for a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Test,
    Verify,
}

/// Cases of each property when a release is verified, in proptest's own variable.
const VERIFY_CASES: &str = "1024";

pub(crate) fn check(place: &Place) -> ExitCode {
    let mut report = Report::default();
    report.stage("install", &[], |_| install::build_tools(place));
    checks(place, &mut report, Size::Test);
    report.finish()
}

pub(crate) fn test(place: &Place) -> ExitCode {
    let mut report = Report::default();
    report.stage("install", &[], |_| install::run(place));
    let compiling = cluster::compile(place);
    checks(place, &mut report, Size::Test);
    host(place, &mut report, &[], Size::Test);
    compat(place, &mut report, &[]);
    report.stage("readme", &["java"], |tally| readme::run(place, tally));
    on_cluster(place, &mut report, compiling, Size::Test);
    let passed = report.passed_names();
    report.stage("features", &[], |tally| {
        features::shown(place, &passed, tally)
    });
    report.finish()
}

/// Formatting, lints, rules of the tree and every test that is part of a crate.
pub(crate) fn checks(place: &Place, report: &mut Report, size: Size) {
    report.stage("fmt", &[], |tally| {
        run(&mut cargo(place, ["fmt", "--all", "--check"]))?;
        *tally = Tally::one();
        Ok(())
    });
    report.stage("clippy", &[], |tally| {
        let what = ["clippy", "--workspace", "--all-targets", "--target", TARGET];
        run(cargo(place, what).args(["--", "-D", "warnings"]))?;
        *tally = Tally::one();
        Ok(())
    });
    tidy(place, report);
    report.stage("unit", &[], |tally| {
        let what = [
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--no-fail-fast",
        ];
        for seed in 1..=size.seeds() {
            let mut cargo = cargo(place, what);
            cargo.args(["--target", TARGET]);
            if size == Size::Verify {
                cargo.env("GANTRY_SEED", seed.to_string());
                cargo.env("PROPTEST_CASES", VERIFY_CASES);
                if seed == 1 {
                    cargo.env("GANTRY_VERIFY", "1");
                }
            }
            run_lines(&mut cargo, |line| tally.line(line))?;
        }
        Ok(())
    });
}

/// The rules of the tree; they ask the program which commands it has, so it is built first.
pub(crate) fn tidy(place: &Place, report: &mut Report) {
    report.stage("build", &[], |_| build(place));
    report.stage("tidy", &["build"], |tally| rules::run(place, tally));
}

/// Official clients and bad input against processes on this machine.
pub(crate) fn host(place: &Place, report: &mut Report, filter: &[&str], size: Size) {
    report.stage("java", &["build"], |_| prepare(place));
    report.stage("host", &["java"], |tally| {
        for seed in 1..=size.seeds() {
            let text = seed.to_string();
            let words = [&["host", "--seed", &text], filter].concat();
            let mut harness = harness(place, &words);
            if size == Size::Verify && seed == 1 {
                harness.env("GANTRY_VERIFY", "1");
            }
            run_lines(&mut harness, |line| tally.line(line))?;
        }
        Ok(())
    });
}

/// Each call of each official client; the page that says so is compared, or written.
pub(crate) fn compat(place: &Place, report: &mut Report, words: &[&str]) {
    report.stage("compat", &["java"], |tally| {
        let words = [&["compat"], words].concat();
        run_lines(&mut harness(place, &words), |line| tally.line(line))
    });
}

/// The same clients inside a Kubernetes of three nodes, which is removed at the end.
pub(crate) fn on_cluster(place: &Place, report: &mut Report, compiling: Result<Child>, size: Size) {
    report.stage("kubernetes", &["install"], |_| {
        let ended = compiling?.wait()?;
        ensure!(
            ended.success(),
            "see {}",
            place.short(&place.log(cluster::COMPILE)).display()
        );
        Ok(())
    });
    report.stage("control", &["kubernetes", "build"], |tally| {
        let mut harness = harness(place, &["control"]);
        if size == Size::Verify {
            harness.env("GANTRY_VERIFY", "1");
        }
        run_lines(&mut harness, |line| tally.line(line))
    });
    report.stage("cluster", &["kubernetes", "build"], |_| {
        cluster::tool(place, ["down"])?;
        cluster::up(place)
    });
    report.stage("kube", &["cluster", "java"], |tally| {
        let kubeconfig = cluster::kubeconfig(place);
        let kubeconfig = kubeconfig.to_string_lossy();
        let messages = size.messages().to_string();
        let words = [
            "kube",
            "--local",
            "--kubeconfig",
            &kubeconfig,
            "--messages",
            &messages,
        ];
        run_lines(&mut harness(place, &words), |line| tally.line(line))
    });
    report.stage("down", &["kubernetes"], |_| cluster::tool(place, ["down"]));
}

/// `cargo xtask e2e [FILTER]`: on this machine.
pub(crate) fn end_to_end(place: &Place, filter: &[&str]) -> ExitCode {
    let mut report = Report::default();
    report.stage("build", &[], |_| build(place));
    host(place, &mut report, filter, Size::Test);
    report.finish()
}

/// `cargo xtask compat [FILTER]`: writes the page when nothing is filtered.
pub(crate) fn compatibility(place: &Place, filter: &[&str]) -> ExitCode {
    let mut report = Report::default();
    report.stage("build", &[], |_| build(place));
    report.stage("java", &["build"], |_| prepare(place));
    compat(place, &mut report, &[&["--write"], filter].concat());
    report.finish()
}

/// `cargo xtask e2e --kubeconfig FILE [FILTER]`: on a cluster that has the operator already.
pub(crate) fn end_to_end_on(place: &Place, file: &str, filter: &[&str]) -> ExitCode {
    let mut report = Report::default();
    report.stage("build", &[], |_| build(place));
    report.stage("java", &["build"], |_| prepare(place));
    report.stage("kube", &["java"], |tally| {
        let words = [&["kube", "--kubeconfig", file], filter].concat();
        run_lines(&mut harness(place, &words), |line| tally.line(line))
    });
    report.finish()
}

/// `cargo xtask images`: what the nodes of another cluster need.
pub(crate) fn images(place: &Place) -> Result<()> {
    build(place)?;
    prepare(place)?;
    let gantry = cluster::image(place)?;
    let clients = place.state().join("clients.tar");
    let clients = clients.to_string_lossy();
    run(&mut harness(place, &["client-image", &clients]))?;
    println!("{gantry}\n{clients}");
    Ok(())
}

pub(crate) fn golden(place: &Place) -> Result<()> {
    build(place)?;
    prepare(place)?;
    run(&mut harness(place, &["golden"]))
}

/// Programs and tests, in the one way they are built here: to choose single packages would
/// choose other features of dependencies, and compile those again.
pub(crate) fn build(place: &Place) -> Result<()> {
    let what = ["build", "--workspace", "--all-targets", "--target", TARGET];
    run(&mut cargo(place, what))
}

/// Libraries of the official clients and the programs that use them.
pub(crate) fn prepare(place: &Place) -> Result<()> {
    run(&mut harness(place, &["prepare"]))
}

fn harness(place: &Place, words: &[&str]) -> std::process::Command {
    command(place, place.program("e2e"), words)
}

impl Size {
    /// Runs of each test program, each with other random numbers.
    fn seeds(self) -> u32 {
        match self {
            Size::Test => 1,
            Size::Verify => 10,
        }
    }

    /// Messages that outlive a node on the cluster.
    fn messages(self) -> u32 {
        match self {
            Size::Test => 10_000,
            Size::Verify => 200_000,
        }
    }
}
