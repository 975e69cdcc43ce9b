//! Runs a table of named tests one after another against one lab, and says how each ended.
//!
//! A test is a name and an async function that borrows the lab, so tests share whatever processes
//! the lab keeps running. Output is for people (`test NAME ... ok (1.2 s)`), the file named by
//! `GANTRY_RESULTS` is for programs (`NAME ok`), and a test that takes longer than its limit has
//! failed: nothing in here can hang.

use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

pub struct Test<L> {
    pub name: String,
    pub run: Box<dyn for<'a> Fn(&'a mut L) -> Running<'a>>,
}

impl<L> std::fmt::Debug for Test<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// No test here has an excuse to take longer, but at the sizes of a release.
const TEST_SECONDS_MAX: u64 = 600;
const VERIFY_SECONDS_MAX: u64 = 6_000;

/// Whether the tests run at the sizes of a release.
pub fn is_verify() -> bool {
    std::env::var_os("GANTRY_VERIFY").is_some()
}

/// How a whole run ended.
#[derive(Debug, Default)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
}

impl Summary {
    /// A run of no test at all is not a success.
    pub fn code(&self) -> ExitCode {
        if self.failed == 0 && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Runs the tests whose name contains `filter`.
pub async fn run<L>(
    lab: &mut L,
    tests: &[Test<L>],
    filter: Option<&str>,
) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let mut results = open_results()?;
    let seconds_max = if is_verify() {
        VERIFY_SECONDS_MAX
    } else {
        TEST_SECONDS_MAX
    };
    for test in tests {
        if filter.is_some_and(|f| !test.name.contains(f)) {
            continue;
        }
        let started = Instant::now();
        let limit = Duration::from_secs(seconds_max);
        let outcome = match tokio::time::timeout(limit, (test.run)(lab)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("still running after {seconds_max} s")),
        };
        let seconds = started.elapsed().as_secs_f32();
        // In one piece: a test may have printed lines of its own.
        let word = match &outcome {
            Ok(()) => {
                summary.passed += 1;
                println!("test {} ... ok ({seconds:.1} s)", test.name);
                "ok"
            }
            Err(reason) => {
                summary.failed += 1;
                println!(
                    "test {} ... FAILED ({seconds:.1} s)\n    {reason:#}",
                    test.name
                );
                "failed"
            }
        };
        if let Some(results) = &mut results {
            writeln!(results, "{} {word}", test.name)?;
        }
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    Ok(summary)
}

fn open_results() -> anyhow::Result<Option<std::fs::File>> {
    let Some(path) = std::env::var_os("GANTRY_RESULTS").map(PathBuf::from) else {
        return Ok(None);
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("GANTRY_RESULTS names {}", path.display()))?;
    Ok(Some(file))
}

/// Tries `check` until it says yes or the deadline has passed; the last reason is the error.
pub async fn until<T, F>(what: &str, limit: Duration, mut check: F) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> anyhow::Result<T>,
{
    const EVERY: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + limit;
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= deadline => {
                return Err(reason.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    }
}
