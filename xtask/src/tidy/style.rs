//! Rules about single files: what a reader may count on in every one of them.
//!
//! The words that are forbidden stand here in pieces, so that this file does not break its
//! own rule.

use super::source::{Source, Tree, is_code};

type Rule = fn(&Tree) -> Vec<String>;

pub(crate) const RULES: [(&str, Rule); 9] = [
    ("head", head),
    ("file size", file_size),
    ("line length", line_length),
    ("spaces", trailing_space),
    ("words", words),
    ("ignored tests", ignored_tests),
    ("sleeping tests", sleeping_tests),
    ("unsafe", unsafe_code),
    ("purity", purity),
];

const FILE_LINES_MAX: usize = 600;
const LINE_COLUMNS_MAX: usize = 100;

/// The one file that may hold `unsafe`: mappings and the handler of their faults.
const UNSAFE_HOME: &str = "store/src/fs/map.rs";

/// Files whose bytes are data of others or of a generator.
const DATA: [&str; 4] = ["/testdata/", ".snap", "Cargo.lock", "go.sum"];

/// Test files that may wait for real time, each with its reason.
const SLEEPERS: [(&str, &str); 10] = [
    (
        "e2e/src/bench/",
        "measures what a server does in a time, or takes when nothing is done",
    ),
    (
        "e2e/src/control/nodes.rs",
        "plays kubelets, which look again and again",
    ),
    (
        "e2e/src/control/quiet.rs",
        "nothing must happen for a time, so that time must pass",
    ),
    (
        "e2e/src/runner.rs",
        "polls other processes until a condition holds or a deadline passes",
    ),
    (
        "e2e/src/host/crash.rs",
        "offsets are promised after a tick, so a tick must pass",
    ),
    (
        "e2e/src/host/pop.rs",
        "what is handed out is promised after a tick, so a tick must pass",
    ),
    (
        "e2e/src/host/kills.rs",
        "a checkpoint is due at a time, and a start is measured in steps of 5 ms",
    ),
    (
        "e2e/src/host/disk_full.rs",
        "offsets are promised after a tick, so a tick must pass",
    ),
    (
        "e2e/src/host/adopt.rs",
        "Java writes its offsets at times of its own",
    ),
    (
        "e2e/src/host/routes.rs",
        "that nothing happens in a time takes that time",
    ),
];

/// What a crate must not mention in production code, and where it belongs instead.
const IMPURE: [(&str, &str, &str); 9] = [
    ("protocol/", "std::fs", "bytes come in as arguments"),
    ("protocol/", "TcpStream", "sockets belong to net/"),
    ("protocol/", "UdpSocket", "sockets belong to net/"),
    ("protocol/", "tokio", "sockets and tasks belong to net/"),
    ("protocol/", "::now()", "the time comes in as an argument"),
    (
        "store/",
        "tokio",
        "the storage engine has threads of its own",
    ),
    ("store/", "TcpStream", "replication belongs to broker/"),
    ("store/", "TcpListener", "replication belongs to broker/"),
    (
        "broker/",
        "operator::",
        "the broker does not know who runs it",
    ),
];

fn head(tree: &Tree) -> Vec<String> {
    let missing = tree
        .rust()
        .into_iter()
        .filter(|f| !f.text.starts_with("//! "));
    missing
        .map(|f| format!("{}: say in `//!` lines at the top what it is", f.path))
        .collect()
}

fn file_size(tree: &Tree) -> Vec<String> {
    let long = tree.rust().into_iter().filter_map(|f| {
        let (production, test) = f.code_lines();
        let lines = if f.test { test } else { production };
        (lines > FILE_LINES_MAX).then(|| {
            let path = &f.path;
            format!("{path} has {lines} lines of code, {FILE_LINES_MAX} are allowed: split it")
        })
    });
    long.collect()
}

fn line_length(tree: &Tree) -> Vec<String> {
    each_line(tree.rust(), |f, text, _| {
        let columns = text.chars().count();
        let long = columns > LINE_COLUMNS_MAX && !f.text.contains("@generated");
        long.then(|| format!("{columns} columns, {LINE_COLUMNS_MAX} are allowed: break the line"))
    })
}

fn trailing_space(tree: &Tree) -> Vec<String> {
    let files = tree.files.iter().filter(|f| !is_data(f)).collect();
    each_line(files, |_, text, _| {
        (text.trim_end() != text).then(|| "space at the end of the line: remove it".to_owned())
    })
}

fn words(tree: &Tree) -> Vec<String> {
    let forbidden = [
        (["TO", "DO"], "do it now, or leave it out"),
        (["FIX", "ME"], "mend it now"),
        (["to", "do!("], "write the code"),
        (["unimple", "mented!("], "write the code"),
        (["/wo", "rk/"], "a path of one machine: use a relative one"),
        (["/ro", "ot/"], "a path of one machine: use a relative one"),
        (["/ho", "me/"], "a path of one machine: use a relative one"),
    ];
    let forbidden = forbidden.map(|(word, remedy)| (word.concat(), remedy));
    let files = tree.files.iter().filter(|f| !is_data(f)).collect();
    each_line(files, |_, text, _| {
        let (word, remedy) = forbidden.iter().find(|(word, _)| has_word(text, word))?;
        Some(format!("`{word}`: {remedy}"))
    })
}

fn ignored_tests(tree: &Tree) -> Vec<String> {
    each_line(tree.rust(), |_, text, _| {
        let ignored = text.trim_start().starts_with("#[ignore");
        ignored.then(|| "a test that does not run: mend or delete it".to_owned())
    })
}

fn sleeping_tests(tree: &Tree) -> Vec<String> {
    let allowed = |f: &Source| SLEEPERS.iter().any(|(path, _)| f.path.starts_with(path));
    let files = tree.rust().into_iter().filter(|f| !allowed(f)).collect();
    each_line(files, |_, text, test| {
        let sleeps = test && is_code(text) && text.contains("sleep(") && !text.contains("fn ");
        sleeps.then(|| "a test that sleeps: wait for a condition with a deadline".to_owned())
    })
}

fn unsafe_code(tree: &Tree) -> Vec<String> {
    let files = tree
        .rust()
        .into_iter()
        .filter(|f| f.path != UNSAFE_HOME)
        .collect();
    each_line(files, |_, text, _| {
        let code = text.split("//").next().unwrap_or("");
        let word = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code"];
        let found = word
            .iter()
            .any(|w| has_word(code, w) && !code.contains(&format!("\"{w}")));
        found.then(|| format!("`unsafe` has one home, {UNSAFE_HOME}: move it there"))
    })
}

fn purity(tree: &Tree) -> Vec<String> {
    each_line(tree.rust(), |f, text, test| {
        let (_, word, instead) = IMPURE.iter().find(|(crate_folder, word, _)| {
            f.path.starts_with(crate_folder) && !test && is_code(text) && text.contains(word)
        })?;
        Some(format!("`{word}` has no place in this crate: {instead}"))
    })
}

/// Complaints of a check about single lines, each with its place.
fn each_line(
    files: Vec<&Source>,
    check: impl Fn(&Source, &str, bool) -> Option<String>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for line in file.lines() {
            if let Some(complaint) = check(file, line.text, line.test) {
                complaints.push(format!("{}:{}: {complaint}", file.path, line.number));
            }
        }
    }
    complaints
}

fn is_data(file: &Source) -> bool {
    DATA.iter().any(|part| file.path.contains(part))
}

/// Whether `word` stands in `text` and is not the end of a longer word.
fn has_word(text: &str, word: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let closed = !word.ends_with(letter) || !after.is_some_and(letter);
        closed && !before.is_some_and(|c| letter(c) || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(rule: Rule, path: &str, text: &str) -> Vec<String> {
        rule(&Tree::new(vec![(path.to_owned(), text.to_owned())]))
    }

    /// One bad and one good sample a rule.
    #[test]
    fn each_rule_refuses_its_bad_sample_and_passes_the_good_one() {
        let long_file = format!("//! x\n{}", "f();\n".repeat(FILE_LINES_MAX + 1));
        let long_line = format!("//! {}\n", "x".repeat(LINE_COLUMNS_MAX));
        let in_test = |code: &str| format!("//! x\n#[cfg(test)]\nmod tests {{\n    {code}\n}}\n");
        let todo = ["// TO", "DO later"].concat();
        let path = ["dir = \"/wo", "rk/a\""].concat();
        let ignored = ["#[ign", "ore]"].concat();
        let sleeping = ["std::thread::sle", "ep(SECOND);"].concat();
        let rows: Vec<(Rule, &str, String, String)> = vec![
            (
                head,
                "net/src/a.rs",
                "use x;\n".into(),
                "//! What it is.\nuse x;\n".into(),
            ),
            (
                file_size,
                "net/src/a.rs",
                long_file.clone(),
                in_test(&long_file),
            ),
            (line_length, "net/src/a.rs", long_line, "//! x\n".into()),
            (
                trailing_space,
                "docs/a.md",
                "text \n".into(),
                "text\n".into(),
            ),
            (words, "net/src/a.rs", todo, "// a TODOLIST\n".into()),
            (words, "a.yaml", path, "dir = \"./work/a\"".into()),
            (ignored_tests, "net/src/a.rs", ignored, "#[test]".into()),
            (
                sleeping_tests,
                "net/src/a.rs",
                in_test(&sleeping),
                sleeping.clone(),
            ),
            (
                sleeping_tests,
                "e2e/src/a.rs",
                sleeping.clone(),
                "wait_until(x)".into(),
            ),
            (
                unsafe_code,
                "store/src/log.rs",
                "unsafe { x() }".into(),
                "// unsafe {".into(),
            ),
            (
                purity,
                "protocol/src/a.rs",
                "use std::fs::File;".into(),
                "use bytes::B;".into(),
            ),
            (
                purity,
                "store/src/a.rs",
                "tokio::spawn(x)".into(),
                in_test("tokio::spawn(x)"),
            ),
        ];
        for (rule, path, bad, good) in rows {
            assert_eq!(complaints(rule, path, &bad).len(), 1, "{path}: {bad}");
            assert_eq!(
                complaints(rule, path, &good),
                Vec::<String>::new(),
                "{path}: {good}"
            );
        }
    }

    #[test]
    fn the_homes_of_exceptions_are_left_alone() {
        assert!(complaints(unsafe_code, UNSAFE_HOME, "unsafe { x() }").is_empty());
        assert!(complaints(sleeping_tests, SLEEPERS[0].0, &["sle", "ep(x)"].concat()).is_empty());
        assert!(complaints(trailing_space, "protocol/testdata/a.txt", "a \n").is_empty());
    }

    #[test]
    fn a_complaint_names_file_line_and_remedy() {
        let found = complaints(trailing_space, "a.md", "x\ny \n");
        assert_eq!(found, ["a.md:2: space at the end of the line: remove it"]);
    }
}
