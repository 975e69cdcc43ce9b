//! RocketMQ's own benchmark programs, to hold our load generator against.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

use super::server::{Loads, Server};
use crate::java;
use crate::lab::Lab;
use crate::process::Process;

/// Three lines, each of ten seconds: until the client is warm, and longer. A consumer may be
/// through with all that there is before the last.
const RUN: Duration = Duration::from_secs(33);

/// Messages a second, as the program `org.apache.rocketmq.example.benchmark.NAME` counts them.
pub async fn rate(
    lab: &mut Lab,
    loads: &Loads,
    server: &Server,
    (name, words): (&str, &[&str]),
) -> anyhow::Result<f64> {
    let jars = lab.jars().await?.benchmark().await?;
    let home = lab.fresh_dir("benchmark")?;
    let log = home.join("out.log");
    // As RocketMQ's runclass.sh starts it, with the heap of the brokers here.
    let java = java::command_with(&jars, &home, &["-server", "-Xms1g", "-Xmx1g"]);
    let java = java.as_std();
    let mut command = Command::new("taskset");
    command.args(["-c", &loads.cpus]).arg(java.get_program());
    command.args(java.get_args());
    command.arg(format!("org.apache.rocketmq.example.benchmark.{name}"));
    command.args(["-n", &server.name_server.address.to_string()]);
    command.args(["-t", "benchmark"]).args(words);
    let mut program = Process::start(name, command, &log)?;
    tokio::time::sleep(RUN).await;
    program.kill().await?;
    best(&log).with_context(|| program.output())
}

/// The highest of the numbers behind `TPS: `.
fn best(log: &Path) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(log)?;
    let numbers = text.split("TPS: ").skip(1).map(|behind| {
        let digits = behind.split(' ').next().unwrap_or_default();
        digits.parse::<f64>()
    });
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    numbers
        .into_iter()
        .reduce(f64::max)
        .context("no line of numbers")
}
