//! A JVM with an official client in it, driven by lines: a verb and tab-separated `name=value`
//! fields go in, `ok` or `error` and fields come back (`Driver.java`). A thrown exception is an
//! answer too: the tests ask for its code.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use super::jars::{ClassPath, Jars};
use crate::process::Process;

/// Which client: release and header encoding are fixed for the life of a JVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Client {
    /// 5.5.0 with JSON headers.
    V5,
    /// 5.5.0 with ROCKETMQ binary headers.
    V5Binary,
    /// 4.9.3 with JSON headers.
    V4,
}

#[derive(Debug)]
pub struct Driver {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    process: Process,
}

/// A command line in the making.
#[derive(Debug, Clone)]
pub struct Command(String);

impl Command {
    pub fn new(verb: &str) -> Self {
        Self(verb.to_owned())
    }

    /// The same fields under another verb.
    pub fn renamed(self, verb: &str) -> Self {
        match self.0.split_once('\t') {
            Some((_, fields)) => Self(format!("{verb}\t{fields}")),
            None => Self::new(verb),
        }
    }

    pub fn with(self, name: &str, value: impl Display) -> Self {
        Self(format!("{}\t{name}={value}", self.0))
    }
}

/// What a command came to.
#[derive(Debug)]
pub struct Answer {
    fields: BTreeMap<String, String>,
}

impl Answer {
    pub fn text(&self, name: &str) -> anyhow::Result<&str> {
        let value = self.fields.get(name).map(String::as_str);
        value.with_context(|| format!("the driver's answer has no {name}: {:?}", self.fields))
    }

    pub fn number(&self, name: &str) -> anyhow::Result<i64> {
        Ok(self.text(name)?.parse()?)
    }
}

/// What the client threw.
#[derive(Debug, PartialEq, Eq)]
pub struct Thrown {
    pub class: String,
    pub code: i32,
    pub message: String,
}

impl Display for Thrown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} with code {}: {}",
            self.class, self.code, self.message
        )
    }
}

impl std::error::Error for Thrown {}

/// Longer than any wait that a command may ask for.
const ANSWER_SECONDS_MAX: u64 = 200;

impl Driver {
    pub async fn start(jars: &Jars, client: Client, home: &Path) -> anyhow::Result<Self> {
        let (class_path, encoding) = match client {
            Client::V5 => (ClassPath::Client5, "JSON"),
            Client::V5Binary => (ClassPath::Client5, "ROCKETMQ"),
            Client::V4 => (ClassPath::Client4, "JSON"),
        };
        std::fs::create_dir_all(home)?;
        let log = home.join("driver.log");
        let mut command = super::command(&jars.class_path(class_path), home, 256);
        // The option must stand before the main class.
        command
            .env("ROCKETMQ_SERIALIZE_TYPE", encoding)
            .arg(format!("-Drocketmq.serialize.type={encoding}"))
            .arg("dev.gantry.e2e.Driver")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        Self::over(&mut command, &format!("the {client:?} driver"), &log).await
    }

    /// Any command that ends up in `Driver.main`: in another network namespace, in a container.
    pub async fn over(
        command: &mut tokio::process::Command,
        name: &str,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut process = Process::start_piped(name, command, log)?;
        let child = process.child();
        let commands = child.stdin.take().context("invariant: stdin is piped")?;
        let stdout = child.stdout.take().context("invariant: stdout is piped")?;
        let mut driver = Self {
            commands,
            answers: BufReader::new(stdout).lines(),
            process,
        };
        driver.answer().await?.context("the driver's greeting")?;
        Ok(driver)
    }

    /// Runs a command that must succeed.
    pub async fn ask(&mut self, command: Command) -> anyhow::Result<Answer> {
        let words = command.0.replace('\t', " ");
        self.attempt(command).await?.with_context(|| words)
    }

    /// Runs a command whose exception is of interest.
    pub async fn attempt(&mut self, command: Command) -> anyhow::Result<Result<Answer, Thrown>> {
        self.commands.write_all(command.0.as_bytes()).await?;
        self.commands.write_all(b"\n").await?;
        self.commands.flush().await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<Result<Answer, Thrown>> {
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        let line = match tokio::time::timeout(limit, self.answers.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(_) => bail!("the driver has ended: {}", self.process.output()),
            Err(_) => bail!("no answer of the driver: {}", self.process.output()),
        };
        let mut parts = line.split('\t');
        let word = parts.next().unwrap_or_default();
        let mut fields: BTreeMap<String, String> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if word == "ok" {
            return Ok(Ok(Answer { fields }));
        }
        let mut take = |name: &str| fields.remove(name).unwrap_or_default();
        Ok(Err(Thrown {
            class: take("class"),
            code: take("code").parse().unwrap_or_default(),
            message: take("message"),
        }))
    }
}
