//! The feature table, `docs/features.md`: what works is shown by a test that ran.
//!
//! A row is `| number | feature | state | tests |`. State `works` or `part` needs at least one
//! test between backticks, `no` has none. `rows` reads the table; `shown` holds it against the
//! tests that passed in this very run.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, anyhow};

use crate::place::Place;
use crate::report::Tally;

pub(crate) const FILE: &str = "docs/features.md";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Works,
    Part,
    No,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    number: usize,
    state: State,
    tests: Vec<String>,
}

/// Every row, or what is wrong with the table.
pub(crate) fn rows(text: &str) -> Result<Vec<Feature>, Vec<String>> {
    let lines = text.lines().enumerate();
    let table = lines.filter(|(_, l)| l.starts_with("| ") && !l.starts_with("| # "));
    let mut features: Vec<Feature> = Vec::new();
    let mut complaints = Vec::new();
    for (at, line) in table {
        match row(line) {
            Ok(f) if f.number == features.len() + 1 => features.push(f),
            Ok(f) => complaints.push(format!(
                "{FILE}:{}: row {} is out of order",
                at + 1,
                f.number
            )),
            Err(why) => complaints.push(format!("{FILE}:{}: {why}", at + 1)),
        }
    }
    if features.is_empty() {
        complaints.push(format!(
            "{FILE} has no row `| number | feature | state | tests |`"
        ));
    }
    if complaints.is_empty() {
        Ok(features)
    } else {
        Err(complaints)
    }
}

/// Counts a row as passed when each test it names has passed in this run.
pub(crate) fn shown(place: &Place, passed: &BTreeSet<String>, tally: &mut Tally) -> Result<()> {
    let text = fs::read_to_string(place.root.join(FILE))?;
    let features = rows(&text).map_err(|complaints| anyhow!(complaints.join("\n")))?;
    for feature in features.iter().filter(|f| f.state != State::No) {
        let missing = feature.tests.iter().find(|t| !ran(t, passed));
        match missing {
            None => tally.passed += 1,
            Some(test) => {
                tally.failed += 1;
                println!(
                    "{FILE}: row {}: `{test}` did not pass in this run",
                    feature.number
                );
            }
        }
    }
    Ok(())
}

/// A test may be named by the end of its path: `golden::frames` for `frame::golden::frames`.
fn ran(test: &str, passed: &BTreeSet<String>) -> bool {
    let end = format!("::{test}");
    passed
        .iter()
        .any(|name| name == test || name.ends_with(&end))
}

fn row(line: &str) -> Result<Feature, &'static str> {
    let cells: Vec<&str> = line
        .trim()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    let [number, feature, state, tests] = cells[..] else {
        return Err("a row has four cells: number, feature, state, tests");
    };
    if feature.is_empty() {
        return Err("the feature has no name");
    }
    let number = number.parse().map_err(|_| "the first cell is a number")?;
    let state = match state {
        "works" => State::Works,
        "part" => State::Part,
        "no" => State::No,
        _ => return Err("the state is works, part or no"),
    };
    let tests: Vec<String> = tests
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    if (state == State::No) != tests.is_empty() {
        return Err("what works names its tests between backticks, what does not names none");
    }
    Ok(Feature {
        number,
        state,
        tests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_or_refused() {
        let works = Feature {
            number: 1,
            state: State::Works,
            tests: vec!["a::b".into()],
        };
        assert_eq!(row("| 1 | Sends | works | `a::b` |"), Ok(works));
        let bad = [
            "| 1 | Sends | works |",
            "| one | Sends | works | `a` |",
            "| 1 | Sends | maybe | `a` |",
            "| 1 | Sends | works | |",
            "| 1 | Sends | no | `a` |",
            "| 1 | | no | |",
        ];
        for line in bad {
            assert!(row(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_table_is_whole_and_in_order() {
        let head = "# Features\n\n| # | feature | state | tests |\n|---|---|---|---|\n";
        assert_eq!(
            rows(&format!("{head}| 1 | a | no | |\n| 2 | b | no | |\n"))
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            rows(&format!("{head}| 2 | a | no | |\n"))
                .unwrap_err()
                .len(),
            2
        );
        assert!(rows(head).is_err());
    }

    #[test]
    fn a_test_is_named_by_the_end_of_its_path() {
        let passed = BTreeSet::from(["frame::golden::sends".to_owned()]);
        let rows = [
            ("golden::sends", true),
            ("frame::golden::sends", true),
            ("ends", false),
        ];
        for (test, expect) in rows {
            assert_eq!(ran(test, &passed), expect, "{test}");
        }
    }
}
