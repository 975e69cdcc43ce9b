//! A JVM with an official client inside the cluster's network, so that it uses the very names
//! that routes contain.
//!
//! On the cluster of `e2e/cluster` it joins a node's network namespace with the cluster's DNS;
//! program and jars are the host's. The node's power does not reach it: it stands for a client
//! elsewhere. On any other cluster it runs in a pod, from an image that [`image`] makes: there the
//! jars lie under the paths that they have here, and what a client records is fetched.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

use super::kubectl::Kubectl;
use crate::java;
use crate::java::driver::Driver;
use crate::java::jars::{ClassPath, Jars};
use crate::process::run_ok;

#[derive(Debug)]
pub struct Clients {
    jars: Jars,
    /// The image of their pods; `None` on the local cluster.
    image: Option<String>,
    started: usize,
}

/// A client that is running.
#[derive(Debug)]
pub struct Client {
    pub driver: Driver,
    pod: Option<String>,
}

const HEAP_MIB: u32 = 256;
const NODES: u32 = 3;
const JAVA_IN_POD: &str = "/jvm/bin/java";
const IMAGE_MINUTES_MAX: u64 = 5;

impl Clients {
    pub fn new(jars: Jars, image: Option<String>) -> Self {
        Self {
            jars,
            image,
            started: 0,
        }
    }

    /// Starts one that does not live on `node`.
    pub async fn start(
        &mut self,
        kubectl: &Kubectl,
        node: &str,
        dir: &Path,
    ) -> anyhow::Result<Client> {
        let home = tempfile::Builder::new()
            .prefix("jvm-")
            .tempdir_in(dir)?
            .keep();
        let class_path = self.jars.class_path(ClassPath::Client5);
        let mut java = java::command(&class_path, &home, HEAP_MIB);
        java.arg("dev.gantry.e2e.Driver");
        let log = home.join("driver.log");
        self.started += 1;
        let (mut command, pod) = match &self.image {
            None => (in_node(other_than(node), &java), None),
            Some(image) => {
                let pod = format!("client-{}", self.started);
                run_pod(kubectl, &pod, image).await?;
                (in_pod(kubectl, &pod, &java), Some(pod))
            }
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        let driver = Driver::over(&mut command, "the driver in the cluster", &log).await?;
        Ok(Client { driver, pod })
    }
}

impl Client {
    /// Brings a file that the client wrote to where it is on this machine.
    pub async fn fetch(&self, kubectl: &Kubectl, file: &Path) -> anyhow::Result<()> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let path = file.display().to_string();
        let text = kubectl.ok(&["exec", pod, "--", "/bin/cat", &path]).await?;
        std::fs::write(file, text).with_context(|| path)
    }
}

/// Makes the image of the pods, for `docker load`, `kind load image-archive` or a node's `ctr`:
/// a small Java runtime, the jars and classes, and two ordinary tools.
pub async fn image(name: &str, out: &Path) -> anyhow::Result<()> {
    let limit = Duration::from_secs(IMAGE_MINUTES_MAX * 60);
    let jars = Jars::ready().await?;
    let dir = tempfile::tempdir()?;
    let runtime = dir.path().join("jvm");
    let mut jlink = Command::new("jlink");
    jlink
        .args(["--add-modules", "ALL-MODULE-PATH", "--strip-debug"])
        .args(["--no-header-files", "--no-man-pages", "--output"])
        .arg(&runtime);
    run_ok(jlink, limit).await?;
    let mut image = Command::new(tool());
    image
        .args(["image", "--libs", name])
        .arg(out)
        .arg(format!("{}:/jvm", runtime.display()))
        .args(["/bin/cat:/bin/cat", "/bin/sleep:/bin/sleep"]);
    // Named one by one too, so that what they are linked with comes along.
    for program in ["bin/java", "lib/server/libjvm.so"] {
        let here = runtime.join(program);
        image.arg(format!("{}:/jvm/{program}", here.display()));
    }
    for folder in jars.folders(ClassPath::Client5) {
        image.arg(format!("{0}:{0}", folder.display()));
    }
    run_ok(image, limit).await?;
    Ok(())
}

async fn run_pod(kubectl: &Kubectl, pod: &str, image: &str) -> anyhow::Result<()> {
    let image = format!("--image={image}");
    let run = ["run", pod, &image, "--image-pull-policy=IfNotPresent"];
    let forever = ["--restart=Never", "--command", "--", "/bin/sleep", "86400"];
    kubectl.ok(&[&run[..], &forever].concat()).await?;
    let pod = format!("pod/{pod}");
    let ready = ["wait", "--for=condition=Ready", &pod, "--timeout=120s"];
    kubectl.ok(&ready).await?;
    Ok(())
}

/// The same program in a pod.
fn in_pod(kubectl: &Kubectl, pod: &str, program: &Command) -> Command {
    let mut command = kubectl.command(&["exec", "--stdin", pod, "--", JAVA_IN_POD]);
    command.args(program.as_std().get_args());
    command
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
