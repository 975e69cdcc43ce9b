//! The program that makes a client's calls: a line begins a check, a JSON line ends it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;

use super::checks::Client;
use crate::java;
use crate::java::jars::{ClassPath, Jars, build_whole, cache_dir};
use crate::process::{Process, run_ok};

/// What the program says about a check.
#[derive(Debug, Deserialize)]
pub struct Line {
    pub check: String,
    pub outcome: Outcome,
    pub reason: String,
    pub ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Pass,
    /// What was seen is not what must be seen.
    Differs,
    Threw,
    /// It waits for a restart of the broker.
    Restart,
}

#[derive(Debug)]
pub struct Program {
    commands: ChildStdin,
    process: Process,
}

impl Program {
    /// Starts it; what it says goes to `lines`.
    pub async fn start(
        client: Client,
        jars: &Jars,
        home: &Path,
        lines: mpsc::Sender<(Client, Line)>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(home)?;
        let log = home.join("program.log");
        let mut command = match client {
            Client::Java55 => java_program(jars, ClassPath::Client5, home),
            Client::Java49 => java_program(jars, ClassPath::Client4, home),
            Client::Go2 => Command::new(go_program().await?),
        };
        command
            .env("HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        let mut process = Process::start_piped(client.title(), &mut command, &log)?;
        let child = process.child();
        let commands = child.stdin.take().context("invariant: stdin is piped")?;
        let stdout = child.stdout.take().context("invariant: stdout is piped")?;
        tokio::spawn(async move {
            let mut said = BufReader::new(stdout).lines();
            while let Ok(Some(text)) = said.next_line().await {
                // What is no answer is of a library; a missing answer is noticed by its deadline.
                if let Ok(line) = serde_json::from_str(&text)
                    && lines.send((client, line)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { commands, process })
    }

    pub async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        let said = self.commands.write_all(line.as_bytes()).await;
        said.with_context(|| format!("the program has ended: {}", self.process.output()))
    }

    pub fn output(&self) -> String {
        self.process.output()
    }
}

fn java_program(jars: &Jars, class_path: ClassPath, home: &Path) -> Command {
    const HEAP_MIB: u32 = 256;
    let mut command = java::command(&jars.class_path(class_path), home, HEAP_MIB);
    command.arg("dev.gantry.compat.Compat");
    command
}

/// Compiled once for each state of its sources: `$GANTRY_CACHE/go/<crc>/compat`.
pub async fn go_program() -> anyhow::Result<PathBuf> {
    const GO_MINUTES_MAX: u64 = 10;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/go");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&sources)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut crc = crc32fast::Hasher::new();
    for file in &files {
        crc.update(&std::fs::read(file)?);
    }
    let folder = cache_dir()?.join(format!("go/{:08x}", crc.finalize()));
    build_whole(&folder, async |partial| {
        let mut go = Command::new("go");
        go.args(["build", "-trimpath", "-buildvcs=false", "-o"])
            .arg(partial.join("compat"))
            .arg(".")
            .current_dir(&sources);
        run_ok(go, Duration::from_secs(GO_MINUTES_MAX * 60)).await?;
        Ok(())
    })
    .await?;
    Ok(folder.join("compat"))
}
