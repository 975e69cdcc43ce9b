//! `docs/performance.md`, from the files of the runs: medians with the least and the most, and the
//! floors that they are held against.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::figures::{self, COLD_START, IDLE_MEMORY, MISSING, PULL_CPU, PULLS, SEND_CPU, SENDS};
use super::{PAIRS, Run};

/// All finished runs in a directory.
pub fn read(dir: &Path) -> anyhow::Result<Vec<Run>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path)?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    };
    files.iter().map(read).collect()
}

pub fn write(runs: &[Run]) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    std::fs::write(path, page(runs)?)?;
    Ok(())
}

const HEAD: &str = "\
# Performance

Written by `cargo xtask bench`. Gantry and the Java broker 5.5.0 run in turn, five times each, a
fresh directory each time, on the same processor; `gantry bench` makes the load for both from
another one, and speaks the protocol as RocketMQ's own clients do. Gantry is the binary of the
image with its defaults; Java has a heap of 1 GiB and the options in `bench/java.conf`. Both
acknowledge a message when it is in the page cache, which a killed process does not lose, and
flush it later. A cell is the median, with the least and the most in brackets. The machine is
probed before and after each pair: a pair is repeated when the probes differ by more than 40 %,
and its figure has a `*` when they still do.
";

/// A floor: what it says, a measure, and whether ours is held against Java's.
const FLOORS: [(&str, &str, Floor); 11] = [
    ("64 connections", SENDS, Floor::Times(2.0)),
    ("256 connections", SENDS, Floor::Times(2.0)),
    ("64 connections", PULLS, Floor::Times(2.0)),
    ("256 connections", PULLS, Floor::Times(2.0)),
    ("64 connections", SEND_CPU, Floor::AtMostOf(0.25)),
    ("256 connections", SEND_CPU, Floor::AtMostOf(0.25)),
    ("64 connections", PULL_CPU, Floor::AtMostOf(0.25)),
    ("256 connections", PULL_CPU, Floor::AtMostOf(0.25)),
    ("", IDLE_MEMORY, Floor::AtMost(64.0)),
    ("", COLD_START, Floor::AtMost(200.0)),
    ("", MISSING, Floor::Never),
];

#[derive(Debug, Clone, Copy)]
enum Floor {
    /// At least so many times Java's.
    Times(f64),
    /// At most this part of Java's.
    AtMostOf(f64),
    AtMost(f64),
    /// Of no run.
    Never,
}

fn page(runs: &[Run]) -> anyhow::Result<String> {
    let mut text = HEAD.to_owned();
    writeln!(text, "\n## Floors\n\n| | floor | is |\n|---|---|---|")?;
    for (of, what, floor) in FLOORS {
        let what = if of.is_empty() {
            what.to_owned()
        } else {
            format!("{what}, {of}")
        };
        let (all, java) = (numbers(runs, &what, "gantry"), numbers(runs, &what, "java"));
        let ours = median(&all);
        let share = ours.zip(median(&java)).map(|(ours, java)| ours / java);
        let unknown = || "not measured".to_owned();
        let (wanted, is, met) = match floor {
            Floor::Times(times) => (
                format!("{times}× Java"),
                share.map_or_else(unknown, |share| format!("{share:.1}×")),
                share.is_some_and(|share| share >= times),
            ),
            Floor::AtMostOf(part) => (
                format!("at most 1/{:.0} of Java", 1.0 / part),
                share.map_or_else(unknown, |share| format!("1/{:.1}", 1.0 / share)),
                share.is_some_and(|share| share <= part),
            ),
            Floor::AtMost(most) => (
                format!("at most {most}"),
                ours.map_or_else(unknown, shown),
                ours.is_some_and(|ours| ours <= most),
            ),
            Floor::Never => (
                "0 in each run".to_owned(),
                ours.map_or_else(unknown, |_| cell(&all)),
                ours.is_some() && all.iter().all(|number| *number == 0.0),
            ),
        };
        let verdict = if met { "" } else { " **missed**" };
        writeln!(text, "| {what} | {wanted} | {is}{verdict} |")?;
    }
    for figure in figures::ALL {
        let of_figure: Vec<&Run> = runs.iter().filter(|r| r.figure == figure.number).collect();
        let Some(first) = of_figure.first() else {
            continue;
        };
        writeln!(text, "\n## {}\n\n{}\n", figure.title, figure.text)?;
        writeln!(text, "| | Gantry | Java | |\n|---|---|---|---|")?;
        let uneasy = of_figure.iter().filter(|run| run.uneasy).count() / 2;
        let star = if uneasy > 0 { " *" } else { "" };
        for (what, _) in &first.values {
            let (ours, java) = (numbers(runs, what, "gantry"), numbers(runs, what, "java"));
            let cells = (cell(&ours), cell(&java), ratio(&ours, &java));
            writeln!(
                text,
                "| {what}{star} | {} | {} | {} |",
                cells.0, cells.1, cells.2
            )?;
        }
        if uneasy > 0 {
            writeln!(text, "\n\\* {uneasy} of {PAIRS} pairs")?;
        }
    }
    machine(&mut text, runs)?;
    Ok(text)
}

fn numbers(runs: &[Run], what: &str, server: &str) -> Vec<f64> {
    let of_server = runs.iter().filter(|run| run.server == server);
    let values = of_server.flat_map(|run| &run.values);
    values
        .filter(|(name, _)| name == what)
        .map(|(_, value)| *value)
        .collect()
}

fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn cell(numbers: &[f64]) -> String {
    let least = numbers.iter().copied().min_by(f64::total_cmp);
    let most = numbers.iter().copied().max_by(f64::total_cmp);
    match (median(numbers), least, most) {
        (Some(median), Some(least), Some(most)) if shown(least) != shown(most) => {
            format!("{} ({}–{})", shown(median), shown(least), shown(most))
        }
        (Some(median), ..) => shown(median),
        _ => String::new(),
    }
}

fn ratio(ours: &[f64], java: &[f64]) -> String {
    match (median(ours), median(java)) {
        (Some(ours), Some(java)) if ours > 0.0 && java > 0.0 => {
            if ours >= java {
                format!("{:.1}×", ours / java)
            } else {
                format!("1/{:.1}", java / ours)
            }
        }
        _ => String::new(),
    }
}

/// As many digits as mean something, with commas between thousands.
fn shown(number: f64) -> String {
    if number.abs() < 100.0 && number.fract() != 0.0 {
        return format!("{number:.2}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn machine(text: &mut String, runs: &[Run]) -> anyhow::Result<()> {
    let mut probes: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for limits in runs.iter().flat_map(|run| &run.limits) {
        for (name, value) in limits.as_object().into_iter().flatten() {
            let value = value.as_f64().unwrap_or_default();
            probes.entry(name).or_default().push(value);
        }
    }
    writeln!(
        text,
        "\n## The machine\n\nWhat `gantry bench limits` says, with {}.\n",
        system()
    )?;
    writeln!(text, "| | |\n|---|---|")?;
    for (name, values) in probes {
        writeln!(text, "| {name} | {} |", cell(&values))?;
    }
    let mut revisions: Vec<&str> = runs.iter().map(|run| run.revision.as_str()).collect();
    revisions.dedup();
    writeln!(text, "\nMeasured: {}.", revisions.join(", "))?;
    Ok(())
}

fn system() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("?", |line| line.trim_start_matches([' ', '\t', ':']));
    let count = read("/proc/cpuinfo").matches("model name").count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{count} processors {model}, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn numbers_have_as_many_digits_as_mean_something() {
        let table = [
            (0.0, "0"),
            (0.123, "0.12"),
            (64.0, "64"),
            (123.4, "123"),
            (1_234.0, "1,234"),
            (1_234_567.8, "1,234,568"),
        ];
        for (number, expected) in table {
            assert_eq!(shown(number), expected);
        }
    }

    /// A run of some figure in which these measures have these values.
    fn run(server: &str, values: &[(&str, f64)]) -> Run {
        let values = values
            .iter()
            .map(|(what, value)| ((*what).to_owned(), *value));
        Run {
            figure: 1,
            pair: 0,
            server: server.to_owned(),
            revision: "r".to_owned(),
            limits: [Value::Null, Value::Null],
            uneasy: false,
            values: values.collect(),
        }
    }

    #[test]
    fn a_floor_that_is_missed_says_so() {
        let sends = format!("{SENDS}, 64 connections");
        let values = |sent, memory| [(&*sends, sent), (IDLE_MEMORY, memory)];
        let runs = [
            run("gantry", &values(150.0, 20.0)),
            run("java", &values(100.0, 900.0)),
        ];
        let page = page(&runs).expect("a page");
        for line in [
            "second, 64 connections | 2× Java | 1.5× **missed** |",
            "second, 256 connections | 2× Java | not measured **missed** |",
            "| Idle, MiB | at most 64 | 20 |",
            "| Idle, MiB | 20 | 900 | 1/45.0 |",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }

    #[test]
    fn what_one_run_lost_is_no_median() {
        for (lost, expected) in [
            ([0.0; 5], "| 0 in each run | 0 |"),
            (
                [0.0, 0.0, 3.0, 0.0, 0.0],
                "| 0 in each run | 0 (0–3) **missed** |",
            ),
            (
                [0.0, -1.0, 0.0, 0.0, 0.0],
                "| 0 in each run | 0 (-1–0) **missed** |",
            ),
        ] {
            let runs = lost.map(|lost| run("gantry", &[(MISSING, lost)]));
            let page = page(&runs).expect("a page");
            assert!(page.contains(expected), "{expected} in {page}");
        }
    }

    #[test]
    fn figures_of_a_restless_machine_have_a_star() {
        let restless = |server| Run {
            uneasy: true,
            ..run(server, &[(IDLE_MEMORY, 20.0)])
        };
        let page = page(&[restless("gantry"), restless("java")]).expect("a page");
        assert!(page.contains("| Idle, MiB * | 20 | 20 |"), "{page}");
        assert!(page.contains("\\* 1 of 5 pairs"), "{page}");
    }
}
