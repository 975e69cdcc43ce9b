//! Running other programs: always with a deadline, always from the top of the checkout.
//!
//! A step's output goes to the terminal as it comes; a step whose results are counted is read
//! line by line on the way. `cargo run` leaves variables behind that make build scripts of
//! dependencies run again in an inner cargo, so they are taken out first.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::place::Place;

/// Longest a step may take before it is stopped and counts as failed.
pub(crate) const STEP_MINUTES_MAX: u64 = 60;

/// Variables of the outer `cargo run` that an inner cargo must not see.
const OUTER_CARGO: [&str; 4] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
];

/// A program under a deadline, in the checkout, with nothing on its standard input.
pub(crate) fn command<I, S>(place: &Place, program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("timeout");
    if std::io::stdin().is_terminal() {
        command.arg("--foreground"); // so that Ctrl-C reaches the program
    }
    command.args(["--kill-after=15", &format!("{}", STEP_MINUTES_MAX * 60)]);
    command.arg(program.as_ref()).args(args);
    command.current_dir(&place.root).stdin(Stdio::null());
    clean(place, &mut command);
    command
}

/// Environment of every program: our build folder and cache, nothing of the outer cargo.
pub(crate) fn clean(place: &Place, command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text == "CARGO" || OUTER_CARGO.iter().any(|p| text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command
        .env("CARGO_TARGET_DIR", &place.target)
        .env("GANTRY_CACHE", &place.cache);
}

pub(crate) fn cargo<I, S>(place: &Place, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    command(place, "cargo", args)
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    check(command, status)
}

/// Runs a program and hands each line of its output to `each` after it was printed.
pub(crate) fn run_lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn();
    let child = child
        .as_mut()
        .map_err(|e| anyhow::anyhow!("cannot start {}: {e}", shown(command)))?;
    let out = child.stdout.take().context("no output pipe")?;
    for line in BufReader::new(out).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}")?;
        each(&line);
    }
    let status = child.wait()?;
    check(command, status)
}

pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output();
    let out = out.with_context(|| format!("cannot start {}", shown(command)))?;
    check(command, out.status)?;
    Ok(String::from_utf8(out.stdout)?)
}

/// Whether a program exists and ends well; its output is thrown away.
pub(crate) fn quiet<const N: usize>(place: &Place, program: &str, args: [&str; N]) -> bool {
    let mut command = command(place, program, args);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// A program beside the others; its output goes to a log of that name.
pub(crate) fn background(place: &Place, name: &str, command: &mut Command) -> Result<Child> {
    let log = place.log(name);
    fs::create_dir_all(log.parent().context("a log lies in a folder")?)?;
    let out = File::create(&log)?;
    let err = out.try_clone()?;
    let child = command.stdout(out).stderr(err).spawn();
    child.with_context(|| format!("cannot start {}", shown(command)))
}

/// Asks a process that was started here to stop.
pub(crate) fn terminate(pid: u32) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -TERM {pid}")])
        .status()?;
    ensure!(status.success(), "process {pid} is gone already");
    Ok(())
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    match status.code() {
        Some(0) => Ok(()),
        Some(124 | 137) => bail!(
            "{}: no end after {STEP_MINUTES_MAX} minutes",
            shown(command)
        ),
        Some(code) => bail!("{} ended with {code}", shown(command)),
        None => bail!("{} was killed", shown(command)),
    }
}

/// The command as a person would type it, without the deadline before it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let start = words
        .iter()
        .position(|w| w.starts_with("--kill-after"))
        .map_or(0, |i| i + 2);
    words[start..].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            root: ".".into(),
            cache: "/tmp".into(),
            target: "/tmp".into(),
        }
    }

    #[test]
    fn a_failed_program_is_named_as_it_would_be_typed() {
        let error = run(&mut command(&place(), "false", ["--now"])).unwrap_err();
        assert_eq!(error.to_string(), "false --now ended with 1");
    }

    #[test]
    fn lines_are_seen_in_order() {
        let mut seen = Vec::new();
        let mut command = command(&place(), "printf", ["a\\nb\\n"]);
        run_lines(&mut command, |line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["a", "b"]);
    }
}
