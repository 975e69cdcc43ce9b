//! `kubectl`, as a user runs it: what it answers is what is tested. The program of the local
//! cluster's version is taken when it is in the cache, else the one in `PATH`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::process::Command;

use crate::java::jars::cache_dir;
use crate::process::{Output, run, run_ok};

/// Longer than any `--timeout` that a test asks for.
const CALL_SECONDS_MAX: u64 = 240;

#[derive(Debug)]
pub struct Kubectl {
    program: OsString,
    kubeconfig: PathBuf,
    pub namespace: String,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path, namespace: &str) -> anyhow::Result<Self> {
        let cached = cache_dir()?.join("cluster/bin/kubectl");
        let program = if cached.exists() {
            cached.into()
        } else {
            "kubectl".into()
        };
        let kubeconfig = kubeconfig.canonicalize();
        let kubeconfig = kubeconfig.context("the kubeconfig")?;
        Ok(Self {
            program,
            kubeconfig,
            namespace: namespace.to_owned(),
        })
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--namespace", &self.namespace]).args(words);
        command
    }

    /// Defines `kubectl` in a shell, for a namespace.
    pub fn shell(&self, namespace: &str) -> String {
        let (program, config) = (Path::new(&self.program), &self.kubeconfig);
        let (program, config) = (program.display(), config.display());
        format!(
            "kubectl() {{ '{program}' --kubeconfig '{config}' --namespace '{namespace}' \"$@\"; }}"
        )
    }

    /// Runs to a good end and gives the output.
    pub async fn ok(&self, words: &[&str]) -> anyhow::Result<String> {
        Ok(
            run_ok(self.command(words), Duration::from_secs(CALL_SECONDS_MAX))
                .await?
                .stdout,
        )
    }

    /// Runs to any end.
    pub async fn attempt(&self, words: &[&str]) -> anyhow::Result<Output> {
        run(self.command(words), Duration::from_secs(CALL_SECONDS_MAX)).await
    }

    pub async fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.ok(&[words, &["--output=json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| words.join(" "))
    }

    pub async fn items(&self, words: &[&str]) -> anyhow::Result<Vec<Value>> {
        match self.json(words).await?["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("{}: no list", words.join(" ")),
        }
    }

    /// One value by its JSON path, as text.
    pub async fn value(&self, resource: &str, path: &str) -> anyhow::Result<String> {
        self.ok(&["get", resource, &format!("--output=jsonpath={{{path}}}")])
            .await
    }

    /// Applies the documents of a file, in the run's namespace.
    pub async fn apply(&self, file: &Path) -> anyhow::Result<()> {
        self.ok(&["apply", "--filename", &file.to_string_lossy()])
            .await?;
        Ok(())
    }
}

/// Text at a JSON pointer, or nothing.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}
