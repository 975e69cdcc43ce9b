//! The README's walk on a Kubernetes, line by line as it is printed there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::Lab;
use crate::process::run_ok;

const HEADING: &str = "### A cluster, a topic, a message, its metrics";
const LINE_MAX: Duration = Duration::from_mins(6);
/// What the lines are to have shown in the end, each of one line.
const SHOWN: [&str; 4] = [
    "brokercluster.gantry.dev/demo ",
    "condition met",
    "QUEUE  OFFSET",
    "rocketmq_topic_number{",
];

pub async fn walk(lab: &mut Lab) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("README.md"))?;
    let section = text.split_once(HEADING).context("no such heading")?.1;
    let section = section.split("\n#").next().unwrap_or_default();
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    // The examples run in a local cluster from its beginning.
    let namespace = if lab.options.local {
        "default"
    } else {
        &lab.kubectl.namespace
    };
    let kubectl = lab.kubectl.shell(namespace);
    let mut shown = SHOWN.iter();
    for line in lines {
        let line = line.replace("/namespaces/default/", &format!("/namespaces/{namespace}/"));
        let mut shell = Command::new("bash");
        let script = format!("set -euo pipefail\n{kubectl}\n{line}");
        shell.args(["-c", &script]).current_dir(&root);
        let output = run_ok(shell, LINE_MAX).await?.stdout;
        let expected = shown.next().context("more lines than are known")?;
        ensure!(output.contains(expected), "{line} has shown {output}");
    }
    ensure!(shown.next().is_none(), "lines are missing");
    Ok(())
}
