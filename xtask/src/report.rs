//! The table at the end: each stage with its seconds and its tests, then one line of sums.
//!
//! A stage fails alone: those that need it are skipped and say so, the others run. A failed
//! stage counts as at least one failure, so the last line never says more than is true.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// Results of the tests in one stage.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Names of the passed tests, for the feature table.
    pub(crate) names: BTreeSet<String>,
    /// What the harness said of each failed test, to be repeated at the end.
    pub(crate) failures: Vec<String>,
    /// Whether the line before belonged to a failed test.
    explaining: bool,
}

#[derive(Debug)]
enum Outcome {
    Done,
    Failed(String),
    Skipped(String),
}

#[derive(Debug)]
struct Row {
    stage: String,
    seconds: f64,
    tally: Tally,
    outcome: Outcome,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Tally {
    /// One check that has no tests of its own.
    pub(crate) fn one() -> Self {
        Tally {
            passed: 1,
            ..Tally::default()
        }
    }

    /// Takes in one line of a test program: of libtest, or of the end-to-end harness, whose
    /// last line is the same as ours.
    pub(crate) fn line(&mut self, line: &str) {
        let reason = line.strip_prefix(REASON).filter(|_| self.explaining);
        if let (Some(reason), Some(failure)) = (reason, self.failures.last_mut()) {
            failure.push_str("\n    ");
            failure.push_str(reason);
            return;
        }
        self.explaining = line.starts_with("test ") && line.contains(" ... FAILED");
        if self.explaining {
            self.failures.push(line.to_owned());
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what| number_before(counts, what).unwrap_or(0);
            self.passed += count(" passed");
            self.failed += count(" failed");
        } else if let Some((passed, failed)) = summary(line) {
            self.passed += passed;
            self.failed += failed;
        } else if let Some(name) = passed_name(line) {
            self.names.insert(name.to_owned());
        }
    }
}

/// The harness indents why a test failed.
const REASON: &str = "    ";

impl Report {
    /// Runs one stage, unless one of those it needs did not end well.
    pub(crate) fn stage(
        &mut self,
        stage: &str,
        needs: &[&str],
        run: impl FnOnce(&mut Tally) -> Result<()>,
    ) {
        let broken = needs.iter().find(|need| !self.done(need));
        if let Some(need) = broken {
            let outcome = Outcome::Skipped(format!("needs {need}"));
            return self.push(stage, 0.0, Tally::default(), outcome);
        }
        println!("\n=== {stage}");
        let start = Instant::now();
        let mut tally = Tally::default();
        let outcome = match run(&mut tally) {
            Ok(()) if tally.failed == 0 => Outcome::Done,
            Ok(()) => Outcome::Failed(format!("{} failed", tally.failed)),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        if let Outcome::Failed(why) = &outcome {
            println!("FAILED {stage}: {why}");
            tally.failed = tally.failed.max(1);
        }
        self.push(stage, start.elapsed().as_secs_f64(), tally, outcome);
    }

    pub(crate) fn done(&self, stage: &str) -> bool {
        self.rows
            .iter()
            .any(|r| r.stage == stage && matches!(r.outcome, Outcome::Done))
    }

    pub(crate) fn passed_names(&self) -> BTreeSet<String> {
        self.rows
            .iter()
            .flat_map(|r| r.tally.names.iter().cloned())
            .collect()
    }

    /// Prints the table, then the sums alone on the last line.
    pub(crate) fn finish(self) -> ExitCode {
        println!("\n{}", self.table());
        for failure in self.rows.iter().flat_map(|r| &r.tally.failures) {
            println!("{failure}");
        }
        let (passed, failed) = self.sums();
        println!("{passed} passed, {failed} failed");
        let whole = self.rows.iter().all(|r| matches!(r.outcome, Outcome::Done));
        if whole && failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn push(&mut self, stage: &str, seconds: f64, tally: Tally, outcome: Outcome) {
        self.rows.push(Row {
            stage: stage.to_owned(),
            seconds,
            tally,
            outcome,
        });
    }

    fn sums(&self) -> (usize, usize) {
        let add = |(p, f), r: &Row| (p + r.tally.passed, f + r.tally.failed);
        self.rows.iter().fold((0, 0), add)
    }

    fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut out = format!(
            "{:<16} {:>7} {:>7} {:>7}\n",
            "stage", "seconds", "passed", "failed"
        );
        for Row {
            stage,
            seconds,
            tally,
            outcome,
        } in &self.rows
        {
            let why = match outcome {
                Outcome::Done => String::new(),
                Outcome::Failed(why) => format!("  FAILED: {}", why.lines().next().unwrap_or("")),
                Outcome::Skipped(why) => format!("  not run: {why}"),
            };
            let (passed, failed) = (tally.passed, tally.failed);
            let _ = writeln!(
                out,
                "{stage:<16} {seconds:>7.1} {passed:>7} {failed:>7}{why}"
            );
        }
        let all: f64 = self.rows.iter().map(|r| r.seconds).sum();
        let _ = writeln!(out, "{:<16} {all:>7.1}", "all");
        out
    }
}

/// `12 passed, 0 failed`, alone on a line.
fn summary(line: &str) -> Option<(usize, usize)> {
    let (passed, failed) = line.trim().split_once(" passed, ")?;
    Some((
        passed.parse().ok()?,
        failed.strip_suffix(" failed")?.parse().ok()?,
    ))
}

fn number_before(text: &str, what: &str) -> Option<usize> {
    text[..text.find(what)?].rsplit(' ').next()?.parse().ok()
}

/// The name in libtest's `test NAME ... ok` or in the harness's `test NAME ... ok (1.2 s)`.
fn passed_name(line: &str) -> Option<&str> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    (outcome == "ok" || outcome.starts_with("ok (")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_test_programs_are_counted() {
        let rows = [
            (
                "test result: ok. 12 passed; 3 failed; 0 ignored; 0 measured",
                (12, 3),
            ),
            ("7 passed, 1 failed", (7, 1)),
            ("12 passed, nothing failed", (0, 0)),
            ("it says 3 passed", (0, 0)),
        ];
        for (line, expect) in rows {
            let mut tally = Tally::default();
            tally.line(line);
            assert_eq!((tally.passed, tally.failed), expect, "{line}");
        }
    }

    #[test]
    fn names_of_passed_tests_are_kept() {
        let rows = [
            ("test frame::golden ... ok", Some("frame::golden")),
            ("test frame::golden ... FAILED", None),
            ("test send/json ... ok (1.2 s)", Some("send/json")),
            ("test send/json ... FAILED (1.2 s)", None),
            ("ok, that is no test", None),
        ];
        for (line, expect) in rows {
            assert_eq!(passed_name(line), expect, "{line}");
        }
    }

    #[test]
    fn reasons_of_failed_tests_are_kept() {
        let mut tally = Tally::default();
        for line in [
            "test a ... FAILED (1.0 s)",
            "    code 19: no message",
            "test b ... ok (1.0 s)",
            "    not of a failure",
        ] {
            tally.line(line);
        }
        assert_eq!(
            tally.failures,
            ["test a ... FAILED (1.0 s)\n    code 19: no message"]
        );
    }

    #[test]
    fn a_failed_stage_stops_only_those_that_need_it() {
        let mut report = Report::default();
        report.stage("build", &[], |_| anyhow::bail!("no compiler"));
        report.stage("tests", &["build"], |_| panic!("must not run"));
        report.stage("docs", &[], |tally| {
            *tally = Tally::one();
            Ok(())
        });
        assert_eq!(report.sums(), (1, 1));
        assert!(report.done("docs") && !report.done("tests") && !report.done("build"));
        let table = report.table();
        assert!(table.contains("FAILED: no compiler"), "{table}");
        assert!(table.contains("not run: needs build"), "{table}");
    }

    #[test]
    fn a_stage_with_a_failed_test_is_failed() {
        let mut report = Report::default();
        report.stage("unit", &[], |tally| {
            tally.line("test result: FAILED. 1 passed; 2 failed;");
            Ok(())
        });
        assert!(!report.done("unit"));
        assert_eq!(report.finish(), ExitCode::FAILURE);
    }
}
