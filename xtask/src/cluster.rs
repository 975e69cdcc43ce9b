//! A Kubernetes on this machine with the operator installed by Helm and `examples/` applied.
//!
//! The nodes are made by `e2e/cluster/cluster`; this file puts Gantry on them: the static
//! program becomes an image without a daemon, the chart is installed with that image, and the
//! examples must become Ready. Only what a user would do: no step reaches into the cluster.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::Result;

use crate::place::Place;
use crate::process::{background, command, run};
use crate::stages;

/// Name of the log of the background build.
pub(crate) const COMPILE: &str = "cluster-build";

const IMAGE: &str = "localhost/gantry:test";
const READY_SECONDS_MAX: u32 = 180;

/// `cargo xtask cluster up`.
pub(crate) fn up(place: &Place) -> Result<()> {
    stages::build(place)?;
    let image = image(place)?;
    tool(place, ["build"])?;
    tool(place, ["up", "--nodes", "3"])?;
    tool(place, ["load", &image])?;
    install(place)?;
    examples(place)?;
    println!("export KUBECONFIG={}", kubeconfig(place).display());
    Ok(())
}

/// Compiles the Kubernetes binaries beside everything else; about a second when they exist.
pub(crate) fn compile(place: &Place) -> Result<Child> {
    let words = ["-n", "19", "e2e/cluster/cluster", "build"];
    background(place, COMPILE, &mut command(place, "nice", words))
}

pub(crate) fn tool<const N: usize>(place: &Place, words: [&str; N]) -> Result<()> {
    run(&mut command(place, "e2e/cluster/cluster", words))
}

pub(crate) fn kubeconfig(place: &Place) -> PathBuf {
    place.state().join("cluster/run/admin.conf")
}

/// The image's tar: what `Dockerfile` says, made without a daemon.
/// Gantry's image, as an archive; no daemon is needed.
pub(crate) fn image(place: &Place) -> Result<String> {
    fs::create_dir_all(place.state())?;
    let tar = place
        .state()
        .join("gantry.tar")
        .to_string_lossy()
        .into_owned();
    let file = format!("{}:/gantry", place.program("gantry").display());
    let words = [
        "image",
        IMAGE,
        &tar,
        &file,
        "--entrypoint",
        "/gantry",
        "--user",
        "65532:65532",
    ];
    tool(place, words)?;
    Ok(tar)
}

fn install(place: &Place) -> Result<()> {
    // As strict as Kubernetes is with pods anywhere.
    let namespace = ["create", "namespace", "gantry-system"];
    run(&mut on_cluster(place, "kubectl", &namespace))?;
    let strict = "pod-security.kubernetes.io/enforce=restricted";
    let label = ["label", "namespace", "gantry-system", "default", strict];
    run(&mut on_cluster(place, "kubectl", &label))?;
    let (name, tag) = IMAGE.rsplit_once(':').unwrap_or((IMAGE, "latest"));
    let mut helm = on_cluster(
        place,
        "helm",
        &["upgrade", "--install", "gantry", "charts/gantry"],
    );
    helm.args(["--namespace", "gantry-system", "--wait"]);
    helm.arg(format!("--timeout={READY_SECONDS_MAX}s"));
    helm.args(["--set", &format!("image.repository={name},image.tag={tag}")]);
    run(&mut helm)
}

fn examples(place: &Place) -> Result<()> {
    run(&mut on_cluster(
        place,
        "kubectl",
        &["apply", "-f", "examples/"],
    ))?;
    let timeout = format!("--timeout={READY_SECONDS_MAX}s");
    let wait = ["wait", "--for=condition=Ready", &timeout, "-f", "examples/"];
    run(&mut on_cluster(place, "kubectl", &wait))
}

/// A program of the cluster's own versions, with its kubeconfig.
fn on_cluster(place: &Place, program: &str, words: &[&str]) -> Command {
    let mut command = command(place, place.cache.join("cluster/bin").join(program), words);
    command.env("KUBECONFIG", kubeconfig(place));
    for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(folder, place.state().join("helm"));
    }
    command
}
