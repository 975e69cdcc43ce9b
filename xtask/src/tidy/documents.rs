//! Documents tell the truth: what they name exists.
//!
//! In `ARCHITECTURE.md` every path and crate between backticks must exist and every member of
//! the workspace must have its place. In all Markdown, relative links lead somewhere, and each
//! `gantry ...` and `cargo xtask ...` is a command that the program knows.

use std::path::Path;

use crate::VERBS;
use crate::place::Place;
use crate::process::{command, output};

use super::source::Source;

pub(crate) const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// What makes a word between backticks a path, beside a slash.
const EXTENSIONS: [&str; 7] = [".rs", ".md", ".toml", ".yaml", ".json", ".lock", ".java"];

pub(crate) fn architecture(
    text: &str,
    members: &[&str],
    exists: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for (line, span) in spans(text) {
        if is_path(&span) && !exists(&span) {
            complaints.push(format!(
                "{ARCHITECTURE}:{line}: there is no `{span}`: correct it"
            ));
        }
        let package = span.strip_prefix("gantry-").filter(|_| is_word(&span));
        if package.is_some_and(|name| !members.contains(&name)) {
            complaints.push(format!(
                "{ARCHITECTURE}:{line}: no crate is called `{span}`"
            ));
        }
    }
    let omitted = members
        .iter()
        .filter(|m| !text.contains(&format!("`{m}/`")));
    complaints.extend(omitted.map(|m| format!("{ARCHITECTURE} omits `{m}/`: add a section")));
    complaints
}

pub(crate) fn links(documents: &[&Source], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for document in documents {
        for (at, line) in document.text.lines().enumerate() {
            for target in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                let target = target.split('#').next().unwrap_or("");
                if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                if !exists(&resolve(&document.path, target)) {
                    let path = &document.path;
                    complaints.push(format!(
                        "{path}:{}: the link {target} leads nowhere",
                        at + 1
                    ));
                }
            }
        }
    }
    complaints
}

/// `help` tells what the program says about a command, if it knows it.
pub(crate) fn commands(
    documents: &[&Source],
    help: &dyn Fn(&[&str]) -> Option<String>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for document in documents {
        for (line, typed) in spans(&document.text) {
            let typed = typed.strip_prefix("$ ").unwrap_or(&typed);
            let known = match words(typed).as_slice() {
                ["cargo", "xtask", verb, ..] => VERBS.iter().any(|(name, _, _)| name == verb),
                ["gantry", rest @ ..] if !rest.is_empty() => known(rest, help),
                _ => true,
            };
            if !known {
                complaints.push(format!("{}:{line}: no command `{typed}`", document.path));
            }
        }
    }
    complaints
}

/// What the built program says to `help WORDS...`.
pub(crate) fn help(place: &Place, words: &[&str]) -> Option<String> {
    let mut help = command(place, place.program("gantry"), ["help"]);
    output(help.args(words).stderr(std::process::Stdio::null())).ok()
}

/// Follows sub-commands as deep as the program has them; what comes then is an argument.
fn known(words: &[&str], help: &dyn Fn(&[&str]) -> Option<String>) -> bool {
    for depth in 1..=words.len() {
        match help(&words[..depth]) {
            None => return false,
            Some(text) if !text.contains("\nCommands:") => return true,
            Some(_) => {}
        }
    }
    true
}

/// The words of a command up to the first option, placeholder or shell character.
fn words(typed: &str) -> Vec<&str> {
    typed
        .split_whitespace()
        .take_while(|w| is_word(w))
        .collect()
}

fn is_word(word: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !word.is_empty() && !word.starts_with('-') && word.chars().all(letter)
}

fn is_path(span: &str) -> bool {
    let first = span.split('/').next().unwrap_or("");
    let host = first.len() > 1 && first[1..].contains('.') && span.contains('/');
    let letters = span
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-{},".contains(c));
    let looks = span.contains('/') || EXTENSIONS.iter().any(|e| span.ends_with(e));
    looks && letters && !host && !first.is_empty() && first != ".gantry"
}

/// What stands between backticks, and each line of a fenced block, with its line number.
fn spans(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push((at + 1, line.trim().to_owned()));
        } else {
            let inner = line.split('`').skip(1).step_by(2);
            found.extend(inner.map(|span| (at + 1, span.to_owned())));
        }
    }
    found
}

/// A link's target, from the top of the checkout.
fn resolve(document: &str, target: &str) -> String {
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    let mut parts: Vec<String> = Vec::new();
    for part in folder.join(target).components() {
        match part.as_os_str().to_str() {
            Some("..") => drop(parts.pop()),
            Some(".") | None => {}
            Some(name) => parts.push(name.to_owned()),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Source {
        Source {
            path: "docs/guide/a.md".into(),
            text: text.into(),
            test: false,
        }
    }

    #[test]
    fn architecture_names_only_what_exists_and_omits_no_crate() {
        let members = ["net", "store"];
        let exists = |path: &str| ["net/", "store/", "net/src/conn.rs"].contains(&path);
        let both = "`net/` and `store/`";
        let rows = [
            (both.to_owned(), ""),
            (
                format!("{both} `net/src/conn.rs` `/metrics` `a::b` `gantry.dev/v1`"),
                "",
            ),
            (
                format!("{both} `net/src/gone.rs`"),
                "there is no `net/src/gone.rs`",
            ),
            (format!("{both} `console/`"), "there is no `console/`"),
            (
                format!("{both} `gantry-common`"),
                "no crate is called `gantry-common`",
            ),
            (format!("{both} `gantry-net`"), ""),
            ("`net/`".to_owned(), "omits `store/`"),
        ];
        for (text, expect) in rows {
            let complaints = architecture(&text, &members, &exists).join("\n");
            assert!(complaints.contains(expect), "{text}: {complaints}");
            assert_eq!(
                complaints.is_empty(),
                expect.is_empty(),
                "{text}: {complaints}"
            );
        }
    }

    #[test]
    fn links_lead_to_files() {
        let exists = |path: &str| path == "README.md" || path == "docs/guide/b.md";
        let rows = [
            (
                "[a](b.md) [b](../../README.md#top) [c](https://a.b/c) [d](#here)",
                0,
            ),
            ("[a](c.md)", 1),
            ("[a](../b.md) and [b](b.md)", 1),
        ];
        for (text, expect) in rows {
            assert_eq!(links(&[&document(text)], &exists).len(), expect, "{text}");
        }
    }

    #[test]
    fn commands_are_known_to_the_program() {
        let help = |words: &[&str]| match words {
            ["topic"] => Some("Topics\n\nCommands:\n  list".to_owned()),
            ["topic", "list"] | ["namesrv"] => Some("Options:".to_owned()),
            _ => None,
        };
        let rows = [
            ("`gantry namesrv --port 1`", 0),
            ("`gantry topic list orders`", 0),
            ("`gantry topic`, `gantry --version`, `gantry`", 0),
            ("`gantry topic drop`", 1),
            ("`gantry fly`", 1),
            ("`cargo xtask check` and `cargo build`", 0),
            ("```sh\n$ cargo xtask fly\n```", 1),
        ];
        for (text, expect) in rows {
            assert_eq!(commands(&[&document(text)], &help).len(), expect, "{text}");
        }
    }
}
