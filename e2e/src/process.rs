//! A process under test: started in a group of its own with its output in a file, ended with the
//! group when it is dropped. Ports are picked before the start, from a range that the kernel does
//! not hand out by itself, so that nobody takes one in between.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::runner::until;

#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both outputs go to `log` unless the caller has piped stdout.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("the log {}", log.display()))?;
        command.stderr(file.try_clone()?).stdout(file);
        Self::start_piped(name, command.stdin(Stdio::null()), log)
    }

    /// As [`Process::start`], with the standard streams as the caller has set them.
    pub fn start_piped(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let child = command
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until something listens at `address`; a process that ends before has failed.
    pub async fn listening(&mut self, address: SocketAddr, limit: Duration) -> anyhow::Result<()> {
        let (name, log) = (self.name.clone(), self.log.clone());
        let what = format!("{name} listens at {address}");
        until(&what, limit, async || {
            TcpStream::connect(address).await?;
            Ok(())
        })
        .await
        .with_context(|| log_tail(&log))?;
        if let Some(status) = self.child.try_wait()? {
            bail!("{name} ended with {status}: {}", log_tail(&log));
        }
        Ok(())
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.group() {
            // Ended meanwhile: as good as signalled.
            let _ = kill_process_group(group, signal);
        }
    }

    /// For whoever has to be quick; `None` once it has been waited for.
    pub fn group(&self) -> Option<Pid> {
        self.child.id().and_then(|id| Pid::from_raw(id as i32))
    }

    /// A line of `/proc/PID/status` that is in kB, by its name with the colon.
    pub fn status_kib(&self, name: &str) -> anyhow::Result<u64> {
        let pid = self.group().context("it has ended")?.as_raw_nonzero();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.with_context(|| format!("no {name}"))?.parse()?)
    }

    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL);
        self.child.wait().await?;
        Ok(())
    }

    /// Waits for the end, and says how long it took.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<(ExitStatus, Duration)> {
        let started = Instant::now();
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => Ok((status?, started.elapsed())),
            Err(_) => bail!(
                "{} still runs after {limit:?}: {}",
                self.name,
                self.output()
            ),
        }
    }

    /// The end of what it has written.
    pub fn output(&self) -> String {
        log_tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What a command that ends by itself has written.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub async fn run(mut command: Command, limit: Duration) -> anyhow::Result<Output> {
    let words = format!("{:?}", command.as_std());
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't run {words}"))?;
    let Ok(output) = tokio::time::timeout(limit, child.wait_with_output()).await else {
        bail!("{words} still runs after {limit:?}");
    };
    let output = output?;
    Ok(Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command to its good end.
pub async fn run_ok(command: Command, limit: Duration) -> anyhow::Result<Output> {
    let words = format!("{:?}", command.as_std());
    let output = run(command, limit).await?;
    ensure!(
        output.status.success(),
        "{words} ended with {}: {}{}",
        output.status,
        tail(&output.stdout),
        tail(&output.stderr)
    );
    Ok(output)
}

/// The first of `count` adjacent free ports, none of which is handed out again.
pub fn free_ports(count: u16) -> anyhow::Result<u16> {
    const FIRST: u16 = 21_000;
    const LAST: u16 = 31_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two harnesses at once begin at different places.
    let begin = (std::process::id() % 200) as u16 * 40;
    for _ in 0..1_000 {
        let taken = NEXT.fetch_add(count, Ordering::Relaxed);
        let base = FIRST + (begin + taken) % (LAST - FIRST - count);
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (base..base + count).all(free) {
            return Ok(base);
        }
    }
    bail!("no {count} adjacent free ports between {FIRST} and {LAST}")
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn log_tail(log: &Path) -> String {
    tail(&std::fs::read_to_string(log).unwrap_or_default())
}

fn tail(text: &str) -> String {
    const LINES: usize = 12;
    // Java's log library describes its own configuration at length.
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" |-")).collect();
    let from = lines.len().saturating_sub(LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}
