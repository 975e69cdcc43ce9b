//! `e2e`: tests from outside. Official clients against real processes and real clusters.
//!
//! - [`runner`]: a table of named tests, run one after another
//! - [`process`]: processes under test, their ports, their end
//! - [`java`]: official Java: jars, driven clients, name server and broker
//! - [`gantry`]: Gantry's processes
//! - [`lab`]: what tests share
//! - [`record`], [`raw`], [`http`]: what was sent and received; bytes; pages
//! - [`dice`]: random numbers of a seed
//! - [`bad_input`], [`recorder`], [`golden`], [`codes`]: facts about Java, and their renewal
//! - [`host`]: the tests on one machine
//! - [`compat`]: each call of each official client
//! - [`control`]: the operator against an API server without nodes
//! - [`bench`]: Gantry beside the Java broker, in pairs
//! - [`kube`]: the tests on a Kubernetes

#![allow(
    clippy::print_stdout,
    unreachable_pub,
    reason = "a program for a terminal; its modules are nobody's interface"
)]

mod runner;
mod process;
mod java;
mod gantry;
mod lab;
mod record;
mod raw;
mod dice;
mod http;
mod bad_input;
mod recorder;
mod golden;
mod codes;
mod host;
mod compat;
mod control;
mod bench;
mod kube;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::java::jars::Jars;
use crate::lab::Lab;

#[derive(Debug, Parser)]
#[command(name = "e2e", about = "Tests Gantry from outside")]
struct Arguments {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Debug, Subcommand)]
enum Stage {
    /// Gantry's processes and official Java on this machine
    Host {
        /// The binary under test; without it the one that lies beside this program
        #[arg(long)]
        gantry: Option<PathBuf>,
        /// Of everything that is random in the tests; any but the first runs only those
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Run only tests whose name contains this
        filter: Option<String>,
    },
    /// Each call of each official client, on this machine
    Compat(compat::Options),
    /// Gantry and the Java broker in pairs; writes docs/performance.md
    Bench(bench::Options),
    /// The operator as a process of this machine against an API server without nodes
    Control {
        /// The binary under test; without it the one that lies beside this program
        #[arg(long)]
        gantry: Option<PathBuf>,
        /// Run only tests whose name contains this
        filter: Option<String>,
    },
    /// The operator, its brokers and official clients on a Kubernetes
    Kube {
        #[command(flatten)]
        options: kube::Options,
        /// Run only tests whose name contains this
        filter: Option<String>,
    },
    /// Fetch and compile what the official clients need
    Prepare,
    /// Make the image of the official clients, for a cluster other than the local one
    ClientImage {
        /// Where the archive goes
        out: PathBuf,
        #[arg(long, default_value = "localhost/gantry-clients:test")]
        name: String,
    },
    /// Capture the golden frames and the official constants anew
    Golden,
    /// Ask Java anew what it does with bad input
    RecordBadInput,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // Whatever ends the run, the lab is dropped and with it every process.
        tokio::select! {
            code = run(arguments.stage) => code,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::FAILURE),
            _ = terminate.recv() => Ok(ExitCode::FAILURE),
        }
    })
}

async fn run(stage: Stage) -> anyhow::Result<ExitCode> {
    match stage {
        Stage::Host {
            gantry,
            seed,
            filter,
        } => {
            let mut lab = Lab::new(Some(binary(gantry)?), seed)?;
            Ok(runner::run(&mut lab, &host::tests(seed), filter.as_deref())
                .await?
                .code())
        }
        Stage::Control { gantry, filter } => {
            let mut lab = control::Lab::new(binary(gantry)?)?;
            Ok(runner::run(&mut lab, &control::tests(), filter.as_deref())
                .await?
                .code())
        }
        Stage::Bench(options) => bench::run(options).await,
        Stage::Compat(options) => compat::run(options).await,
        Stage::Kube { options, filter } => {
            let mut lab = kube::Lab::new(options).await?;
            let summary = runner::run(&mut lab, &kube::tests(), filter.as_deref()).await?;
            lab.clean().await?;
            Ok(summary.code())
        }
        Stage::Prepare => {
            Jars::ready().await?;
            compat::program::go_program().await?;
            Ok(ExitCode::SUCCESS)
        }
        Stage::ClientImage { out, name } => {
            kube::client::image(&name, &out).await?;
            Ok(ExitCode::SUCCESS)
        }
        Stage::Golden => {
            let mut lab = Lab::new(None, 1)?;
            golden::renew(&mut lab).await?;
            codes::renew(&mut lab).await?;
            Ok(ExitCode::SUCCESS)
        }
        Stage::RecordBadInput => {
            bad_input::record(&mut Lab::new(None, 1)?).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The binary under test.
fn binary(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => Ok(path),
        None => Ok(std::env::current_exe()?.with_file_name("gantry")),
    }
}
