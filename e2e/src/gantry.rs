//! Gantry's own processes, started as a user starts them: the binary, its options, a YAML file.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use tokio::process::Command;

use crate::process::{Output, Process, local, run};
use crate::runner::until;
use crate::{http, lab::BrokerPlan};

const START_SECONDS_MAX: u64 = 15;
const COMMAND_SECONDS_MAX: u64 = 60;

/// The binary under test.
#[derive(Debug, Clone)]
pub struct Gantry(pub PathBuf);

impl Gantry {
    pub async fn start_name_server(
        &self,
        remoting: SocketAddr,
        pages: SocketAddr,
        log: &Path,
    ) -> anyhow::Result<Process> {
        self.start_name_server_with(remoting, pages, log, &[]).await
    }

    pub async fn start_name_server_with(
        &self,
        remoting: SocketAddr,
        pages: SocketAddr,
        log: &Path,
        options: &[&str],
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.0);
        command
            .arg("namesrv")
            .args(["--listen", &remoting.to_string()])
            .args(["--http", &pages.to_string()])
            .args(options);
        let mut process = Process::start("gantry namesrv", command, log)?;
        process
            .listening(remoting, Duration::from_secs(START_SECONDS_MAX))
            .await?;
        Ok(process)
    }

    /// Starts a broker and waits until it says that it is ready.
    pub async fn start_broker(&self, plan: &BrokerPlan) -> anyhow::Result<Process> {
        let mut process = self.spawn_broker(plan)?;
        let limit = Duration::from_secs(START_SECONDS_MAX);
        process.listening(local(plan.port), limit).await?;
        until("the broker is ready", limit, async || {
            let page = http::get(plan.http(), "/readyz").await?;
            ensure!(
                page.status == 200,
                "/readyz answers {}: {}",
                page.status,
                page.body
            );
            Ok(())
        })
        .await?;
        Ok(process)
    }

    /// Starts a broker that may well refuse to run.
    pub fn spawn_broker(&self, plan: &BrokerPlan) -> anyhow::Result<Process> {
        std::fs::create_dir_all(&plan.dir)?;
        let config = plan.dir.join("broker.yaml");
        std::fs::write(&config, yaml(plan)?)?;
        let mut command = Command::new(&self.0);
        command.arg("broker").arg("--config").arg(&config);
        Process::start("gantry broker", command, &plan.dir.join("out.log"))
    }

    /// A sub-command that ends by itself.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.0);
        command.args(arguments);
        run(command, Duration::from_secs(COMMAND_SECONDS_MAX)).await
    }
}

pub fn yaml(plan: &BrokerPlan) -> anyhow::Result<String> {
    let mut text = String::new();
    let flush = if plan.flush_sync { "sync" } else { "async" };
    writeln!(text, "cluster: {}", plan.cluster)?;
    writeln!(text, "broker: {}", plan.name)?;
    writeln!(text, "dataDir: {}", plan.store().display())?;
    writeln!(text, "listen:")?;
    writeln!(text, "  remoting: {}", local(plan.port))?;
    writeln!(text, "  http: {}", plan.http())?;
    text.push_str(&plan.extra_listen);
    writeln!(text, "advertise: {}", plan.advertise())?;
    writeln!(text, "storeHost: {}", local(plan.port))?;
    let scheme = if plan.name_servers_tls { "tls://" } else { "" };
    let name_servers: Vec<String> = plan
        .name_servers
        .iter()
        .map(|address| format!("\"{scheme}{address}\""))
        .collect();
    writeln!(text, "nameServers: [{}]", name_servers.join(", "))?;
    writeln!(text, "flush: {flush}")?;
    writeln!(text, "autoCreateTopics: true")?;
    writeln!(text, "segmentBytes: {}", plan.segment_bytes)?;
    text.push_str(&plan.extra_yaml);
    Ok(text)
}
