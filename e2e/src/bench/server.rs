//! A server under load: its processor time, its memory, and the load generator beside it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::lab::{BrokerPlan, Lab, NameServer, Target};
use crate::process::{Process, run_ok};

const JAVA_CONF: &str = include_str!("../../../bench/java.conf");
/// Both keep their log in files of the size that Java has by default.
const SEGMENT_BYTES: u64 = 1 << 30;
const LOAD_MAX: Duration = Duration::from_mins(15);
/// Of the kernel's USER_HZ, which is 100 everywhere.
const TICK_MS: u64 = 10;
const SAMPLE: Duration = Duration::from_millis(250);

/// Starts load generators on their processors.
#[derive(Debug)]
pub struct Loads {
    pub gantry: PathBuf,
    pub cpus: String,
    pub all_cpus: String,
}

impl Loads {
    /// What the machine gives at best.
    pub async fn limits(&self) -> anyhow::Result<Value> {
        self.bench(&self.all_cpus, &["limits"]).await
    }

    async fn bench(&self, cpus: &str, words: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new("taskset");
        command.args(["-c", cpus]).arg(&self.gantry);
        command.arg("bench").args(words).args(["-o", "json"]);
        let output = run_ok(command, LOAD_MAX).await?;
        serde_json::from_str(&output.stdout).context("what gantry bench says")
    }
}

#[derive(Debug)]
pub struct Server {
    pub plan: BrokerPlan,
    pub name_server: NameServer,
    pub broker: Process,
}

/// What a process takes, in MiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Its own pages, and the tables of all of them.
    pub own: f64,
    /// Pages of files, which the kernel takes back when it needs them.
    pub files: f64,
}

/// A load, what the broker spent on it and the most memory that it had meanwhile.
#[derive(Debug)]
pub struct Loaded {
    pub report: Value,
    pub cpu: Duration,
    pub memory: Memory,
}

impl Loaded {
    pub fn number(&self, name: &str) -> anyhow::Result<f64> {
        let number = self.report[name].as_f64();
        number.with_context(|| format!("no {name} in {}", self.report))
    }

    /// Processor time of the broker for each of so many messages.
    pub fn cpu_micros(&self, messages: f64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / messages
    }
}

pub async fn plan(lab: &mut Lab, target: Target) -> anyhow::Result<(NameServer, BrokerPlan)> {
    let name_server = lab.name_server(target).await?;
    let plan = BrokerPlan {
        segment_bytes: SEGMENT_BYTES,
        extra_properties: JAVA_CONF.to_owned(),
        ..lab.plan("bench", &[name_server.address])?
    };
    Ok((name_server, plan))
}

impl Server {
    pub async fn start(lab: &mut Lab, target: Target) -> anyhow::Result<Self> {
        let (name_server, plan) = plan(lab, target).await?;
        let broker = lab.broker(target, &plan).await?;
        Ok(Self {
            plan,
            name_server,
            broker,
        })
    }

    /// Runs `gantry bench WORDS` against it.
    pub async fn load(&self, loads: &Loads, words: &str) -> anyhow::Result<Loaded> {
        let words = format!("{words} --name-server {}", self.name_server.address);
        let words: Vec<&str> = words.split(' ').collect();
        let (before, mut memory) = (self.cpu()?, self.memory()?);
        let mut bench = std::pin::pin!(loads.bench(&loads.cpus, &words));
        let report = loop {
            tokio::select! {
                report = &mut bench => break report?,
                () = tokio::time::sleep(SAMPLE) => {
                    let now = self.memory()?;
                    memory.own = memory.own.max(now.own);
                    memory.files = memory.files.max(now.files);
                }
            }
        };
        for trouble in ["refused", "unanswered"] {
            ensure!(report[trouble] == 0, "{trouble}: {report}");
        }
        let cpu = self.cpu()?.saturating_sub(before);
        Ok(Loaded {
            report,
            cpu,
            memory,
        })
    }

    /// Processor time that the broker has taken.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        const USER: usize = 11;
        let text = std::fs::read_to_string(self.file("stat")?)?;
        // Behind the name, which may hold anything.
        let fields = text.rsplit_once(')').context("no name")?.1;
        let fields = fields.split_whitespace().skip(USER).take(2);
        let ticks: Result<Vec<u64>, _> = fields.map(str::parse).collect();
        let ticks: u64 = ticks?.iter().sum();
        Ok(Duration::from_millis(ticks * TICK_MS))
    }

    pub fn memory(&self) -> anyhow::Result<Memory> {
        let mib = |name: &str| anyhow::Ok(self.broker.status_kib(name)? as f64 / 1024.0);
        Ok(Memory {
            own: mib("RssAnon:")? + mib("VmPTE:")?,
            files: mib("RssFile:")?,
        })
    }

    fn file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let pid = self.broker.group().context("the broker has ended")?;
        Ok(format!("/proc/{}/{name}", pid.as_raw_nonzero()).into())
    }
}
