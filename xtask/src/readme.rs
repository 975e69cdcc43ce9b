//! Runs the README's first command as a newcomer would, and each line that it prints.
//!
//! `cargo xtask run` ends its greeting with lines to try, each behind `$ `: the CLI, a Java
//! client, curl. They are run exactly as printed, so none of them can rot. Then the broker is
//! asked to stop and must do so in time.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::place::Place;
use crate::process::{clean, terminate};
use crate::report::Tally;

/// Each line to try contains one of these; the greeting is whole when all have been seen.
const KINDS: [&str; 3] = ["gantry", "mvn", "curl"];
const START_MINUTES_MAX: u64 = 40;
const LINE_SECONDS_MAX: u32 = 180;
const STOP_SECONDS_MAX: u64 = 15;
/// Metrics alone have hundreds of lines.
const SHOWN_LINES_MAX: usize = 20;

pub(crate) fn run(place: &Place, tally: &mut Tally) -> Result<()> {
    let _ = std::fs::remove_dir_all(place.state().join("standalone"));
    let mut command = Command::new(env::current_exe()?);
    command
        .arg("run")
        .current_dir(&place.root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    clean(place, &mut command);
    let mut child = command.spawn()?;
    let tried = try_lines(place, &mut child, tally);
    let stopped = stop(&mut child);
    tried.and(stopped)
}

fn try_lines(place: &Place, child: &mut Child, tally: &mut Tally) -> Result<()> {
    let lines = greeting(child)?;
    for line in &lines {
        println!("$ {line}");
        let ran = Command::new("timeout")
            .args([&LINE_SECONDS_MAX.to_string(), "bash", "-c", line])
            .current_dir(&place.root)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        let said = String::from_utf8_lossy(&ran.stdout);
        for text in said.lines().take(SHOWN_LINES_MAX) {
            println!("{text}");
        }
        ensure!(
            ran.status.success(),
            "the printed line `{line}` ended with {}",
            ran.status
        );
        ensure!(
            !said.trim().is_empty(),
            "`{line}` ended well but said nothing"
        );
        tally.passed += 1;
    }
    Ok(())
}

/// The lines to try, without their `$ `, once there is one of each kind.
fn greeting(child: &mut Child) -> Result<Vec<String>> {
    let printed = follow(child)?;
    let deadline = Instant::now() + Duration::from_secs(START_MINUTES_MAX * 60);
    let mut lines = Vec::new();
    while !whole(&lines) {
        match printed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                lines.extend(to_try(&line));
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("no line to try for each of {KINDS:?} after {START_MINUTES_MAX} minutes")
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("`cargo xtask run` ended after the lines {lines:?}")
            }
        }
    }
    Ok(lines)
}

fn follow(child: &mut Child) -> Result<Receiver<String>> {
    let out = child.stdout.take().context("no output pipe")?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        // Read to the end, also when nobody listens: a full pipe would stop the broker.
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    Ok(receiver)
}

fn to_try(line: &str) -> Option<String> {
    line.trim_start().strip_prefix("$ ").map(str::to_owned)
}

fn whole(lines: &[String]) -> bool {
    KINDS
        .iter()
        .all(|kind| lines.iter().any(|line| program(line).contains(kind)))
}

/// The word that names the program, behind any `VAR=value`.
fn program(line: &str) -> &str {
    line.split_whitespace()
        .find(|word| !word.contains('='))
        .unwrap_or("")
}

fn stop(child: &mut Child) -> Result<()> {
    if child.try_wait()?.is_none() {
        terminate(child.id())?;
    }
    let start = Instant::now();
    let deadline = start + Duration::from_secs(STOP_SECONDS_MAX);
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "`cargo xtask run` ended with {status}");
            println!("stopped in {:.1} s", start.elapsed().as_secs_f64());
            return Ok(());
        }
        if Instant::now() > deadline {
            child.kill()?;
            bail!("`cargo xtask run` did not stop within {STOP_SECONDS_MAX} s of SIGTERM");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_to_try_stand_behind_a_dollar() {
        let rows = [
            ("    $ curl -s localhost", Some("curl -s localhost")),
            ("$ gantry topic list", Some("gantry topic list")),
            ("costs 3 $ a day", None),
        ];
        for (line, expect) in rows {
            assert_eq!(to_try(line).as_deref(), expect);
        }
    }

    #[test]
    fn the_greeting_is_whole_with_one_line_of_each_kind() {
        let lines = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        assert!(whole(&lines(&[
            "A=b target/gantry topic list",
            "mvn -q compile",
            "curl -s u"
        ])));
        assert!(!whole(&lines(&["gantry mvn", "curl -s u"])));
        assert!(!whole(&lines(&[])));
    }
}
