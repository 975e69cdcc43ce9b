//! Installs what a fresh Debian machine lacks, and says what it cannot install.
//!
//! Needed beforehand: Rust, Go, Java, Node.js and Python at the versions of the README. The
//! rest comes from the package manager and from rustup. What is there already is not touched,
//! so on a prepared machine this takes a fraction of a second and no network.

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::place::{Place, TARGET};
use crate::process::{self, command, output, quiet};

/// To build and check.
const BUILD_PACKAGES: [&str; 3] = ["gcc", "musl-tools", "libc6-dev"];

/// To run a cluster and the clients in it.
const RUN_PACKAGES: [&str; 12] = [
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "iproute2",
    "iptables",
    "kmod",
    "maven",
    "openssl",
    "procps",
    "runc",
    "util-linux",
];

/// Program, how it tells its version, where to get it.
const REQUIRED: [(&str, &str, &str); 4] = [
    ("go", "version", "Go 1.25 or newer, from go.dev/dl"),
    (
        "java",
        "-version",
        "Java 17, for example the package openjdk-17-jdk-headless",
    ),
    ("node", "--version", "Node.js 20 or newer"),
    ("python3", "--version", "Python 3.11 or newer"),
];

pub(crate) fn run(place: &Place) -> Result<()> {
    build_tools(place)?;
    packages(place, &RUN_PACKAGES)?;
    for (program, version, what) in REQUIRED {
        ensure!(
            quiet(place, program, [version]),
            "`{program}` does not run: install {what}"
        );
    }
    Ok(())
}

/// What `check` needs: a C compiler for musl, and the parts of Rust.
pub(crate) fn build_tools(place: &Place) -> Result<()> {
    packages(place, &BUILD_PACKAGES)?;
    let folder = ["--print", "target-libdir", "--target", TARGET];
    let folder = output(&mut command(place, "rustc", folder))?;
    if !std::path::Path::new(folder.trim()).exists() {
        rustup(place, &["target", "add", TARGET])?;
    }
    for (verb, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !quiet(place, "cargo", [verb, "--version"]) {
            rustup(place, &["component", "add", component])?;
        }
    }
    Ok(())
}

fn rustup(place: &Place, words: &[&str]) -> Result<()> {
    process::run(&mut command(place, "rustup", words))
}

fn packages(place: &Place, wanted: &[&str]) -> Result<()> {
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat", "${Package} ${Status}\\n"])
        .args(wanted);
    let Ok(known) = query.output() else {
        bail!("no dpkg here: install {} yourself", wanted.join(", "));
    };
    let missing = missing(wanted, &String::from_utf8_lossy(&known.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    let root = output(&mut command(place, "id", ["-u"]))?.trim() == "0";
    ensure!(
        root,
        "not root, so run `apt-get install {}` yourself",
        missing.join(" ")
    );
    process::run(&mut command(place, "apt-get", ["update", "--quiet"]))?;
    let mut apt = command(place, "apt-get", install);
    process::run(apt.args(missing).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn missing<'a>(wanted: &[&'a str], known: &str) -> Vec<&'a str> {
    let installed = |name: &&&str| {
        let line = format!("{name} install ok installed");
        known.lines().any(|l| l == line)
    };
    wanted
        .iter()
        .filter(|name| !installed(name))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_not_installed_are_missing() {
        let known = "gcc install ok installed\nrunc deinstall ok config-files\n";
        assert_eq!(missing(&["gcc", "runc", "maven"], known), ["runc", "maven"]);
    }
}
