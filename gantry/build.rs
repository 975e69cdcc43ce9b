//! Puts the commit into the binary, for `gantry --version`, and a faster `memmove` than musl's.

use std::env;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// A library of this package comes before the C library.
fn memmove() {
    const FILE: &str = "memmove.c";
    println!("cargo::rerun-if-changed={FILE}");
    let is = |name, value: &str| env::var(name).is_ok_and(|of| of == value);
    if !is("CARGO_CFG_TARGET_ENV", "musl") || !is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        return;
    }
    let mut build = cc::Build::new();
    // Else the compiler makes a call of memmove out of its own loop.
    let flags = [
        "-ffreestanding",
        "-fno-builtin",
        "-fno-tree-loop-distribute-patterns",
    ];
    for flag in flags {
        build.flag_if_supported(flag);
    }
    build.file(FILE).opt_level(2).compile("gantry_memmove");
}

fn main() {
    memmove();
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=GANTRY_COMMIT={commit}");
    // The log of HEAD grows with every commit, merge and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}
