//! A JVM with an official client inside the cluster's network, so that it uses the very names
//! that routes contain.
//!
//! On the cluster of `e2e/cluster` it joins a node's network namespace with the cluster's DNS;
//! program and jars are the host's. The node's power does not reach it: it stands for a client
//! elsewhere.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::java;
use crate::java::driver::Driver;
use crate::java::jars::{ClassPath, Jars};

#[derive(Debug)]
pub struct Clients {
    jars: Jars,
}

const HEAP_MIB: u32 = 256;
const NODES: u32 = 3;

impl Clients {
    pub fn new(jars: Jars) -> Self {
        Self { jars }
    }

    /// Starts one that does not live on `node`.
    pub async fn start(&self, node: &str, dir: &Path) -> anyhow::Result<Driver> {
        let home = tempfile::Builder::new()
            .prefix("jvm-")
            .tempdir_in(dir)?
            .keep();
        let class_path = self.jars.class_path(ClassPath::Client5);
        let mut java = java::command(&class_path, &home, HEAP_MIB);
        java.arg("dev.gantry.e2e.Driver");
        let log = home.join("driver.log");
        let mut command = in_node(other_than(node), &java);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        Driver::over(&mut command, "the driver in the cluster", &log).await
    }
}

/// The same program in the network of a node.
fn in_node(node: u32, program: &Command) -> Command {
    let program = program.as_std();
    let mut command = Command::new(tool());
    command
        .args(["net", &node.to_string()])
        .arg(program.get_program())
        .args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// `cluster`, which makes and breaks nodes.
pub fn tool() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster")
}

/// A node of the local cluster that is not called `node`.
fn other_than(node: &str) -> u32 {
    (1..=NODES)
        .find(|k| format!("node{k}") != node)
        .unwrap_or(1)
}
