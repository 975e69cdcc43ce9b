//! Where things lie: the checkout, the cache that outlives it, and the build folder.
//!
//! - the checkout: found by `git`, so that a verb works from any folder in it
//! - `.gantry/` in the checkout: state of runs, logs, results; ignored by git
//! - the cache (`GANTRY_CACHE`, default `~/.cache/gantry`): build folder, Kubernetes binaries,
//!   jars; everything in it can be made again

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

/// The one target that is tested: what the image holds.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) cache: PathBuf,
    /// Build folder of every cargo call but the one that builds xtask itself.
    pub(crate) target: PathBuf,
}

impl Place {
    pub(crate) fn find() -> Result<Self> {
        let out = Command::new("git")
            .args(["rev-parse", "--show-toplevel"])
            .output();
        let out = out.context("git does not run; install it")?;
        ensure!(out.status.success(), "not in a git checkout of the project");
        let root = PathBuf::from(String::from_utf8(out.stdout)?.trim());
        let cache = match env::var_os("GANTRY_CACHE").filter(|v| !v.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => env::home_dir()
                .context("no home folder; set GANTRY_CACHE")?
                .join(".cache/gantry"),
        };
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|v| !v.is_empty()) {
            Some(dir) => root.join(dir),
            None => cache.join("target"),
        };
        Ok(Place {
            root,
            cache,
            target,
        })
    }

    /// Makes the build folder this checkout's. Cargo goes by times alone: units that another
    /// checkout has built count as fresh when the files here are older, and then
    /// `CARGO_MANIFEST_DIR` in them names the other one.
    pub(crate) fn claim(&self) -> Result<()> {
        let mark = self.target.join("checkout");
        let root = self.root.to_string_lossy();
        if fs::read_to_string(&mark).is_ok_and(|last| last == root) {
            return Ok(());
        }
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "*.rs"]).current_dir(&self.root);
        let now = SystemTime::now();
        for name in String::from_utf8(git.output()?.stdout)?.split_terminator('\0') {
            // One that is listed but gone is deleted and not yet committed.
            if let Ok(file) = File::open(self.root.join(name)) {
                file.set_modified(now)?;
            }
        }
        fs::create_dir_all(&self.target)?;
        fs::write(&mark, root.as_bytes()).with_context(|| format!("{}", mark.display()))
    }

    /// State of this checkout that git ignores.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join(".gantry")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.state().join("log").join(format!("{name}.log"))
    }

    /// A program as the tests run it: static, with the profile that is quick to build.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target.join(TARGET).join("debug").join(name)
    }

    /// A path as it is written in a message: from the top of the checkout.
    pub(crate) fn short<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}
