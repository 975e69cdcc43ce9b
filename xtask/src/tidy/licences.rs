//! The lock file against `deny.toml`: licences, banned crates, sources.
//!
//! `deny.toml` is written for cargo-deny and has more to say (advisories, duplicates). This
//! reads three lists of it, so that the rules hold on a machine without that tool:
//! `licenses.allow`, the names in `bans.deny`, and `sources.allow-registry`.

use anyhow::{Context, Result};
use serde_json::Value;

pub(crate) fn check(metadata: &Value, deny: &str) -> Result<Vec<String>> {
    let allowed = list(deny, "licenses", "allow");
    let banned = list(deny, "bans", "deny");
    let registries = list(deny, "sources", "allow-registry");
    let mut complaints = Vec::new();
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or("");
        let (name, licence, source) = (text("name"), text("license"), text("source"));
        if banned.iter().any(|b| b == name) {
            complaints.push(format!(
                "{name} is banned by deny.toml: find who brings it in"
            ));
        }
        if !satisfied(licence, &allowed) {
            complaints.push(format!("{name} has licence `{licence}`: not in deny.toml"));
        }
        let known = |r: &String| source.strip_prefix("registry+").is_some_and(|s| s == r);
        if !source.is_empty() && !registries.iter().any(known) {
            complaints.push(format!("{name} comes from {source}: not in deny.toml"));
        }
    }
    Ok(complaints)
}

/// Whether some choice that an SPDX expression offers is allowed. `AND` binds tighter.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    either(&mut words, allowed) && words.is_empty()
}

fn either(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut good = both(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        good |= both(words, allowed);
    }
    good
}

fn both(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut good = one(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        good &= one(words, allowed);
    }
    good
}

fn one(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let Some(word) = words.pop() else {
        return false;
    };
    if word == "(" {
        let good = either(words, allowed);
        return words.pop() == Some(")") && good;
    }
    let mut name = word.to_owned();
    if words.last() == Some(&"WITH") {
        words.pop();
        name = format!("{name} WITH {}", words.pop().unwrap_or(""));
    }
    allowed.contains(&name)
}

/// Strings of `key = [...]` in `[section]`: of a table `{ crate = "x", reason = "y" }` the first.
fn list(toml: &str, section: &str, key: &str) -> Vec<String> {
    let header = format!("[{section}]");
    let lines = toml
        .lines()
        .map(|l| l.split(" #").next().unwrap_or("").trim());
    let inside = lines
        .skip_while(|l| *l != header)
        .skip(1)
        .take_while(|l| !l.starts_with('['));
    let start = format!("{key} = [");
    let values = inside.skip_while(|l| !l.starts_with(&start));
    let mut found = Vec::new();
    for (at, line) in values.enumerate() {
        let line = if at == 0 { &line[start.len()..] } else { line };
        if line.starts_with('{') {
            found.extend(line.split('"').nth(1).map(str::to_owned));
        } else {
            found.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
        }
        if line.ends_with(']') {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[licenses]\nallow = [\"MIT\", \"ISC\"]\n[bans]\ndeny = [\n  \
                        # slow to build\n  { crate = \"openssl\", reason = \"ring only\" },\n]\n\
                        [sources]\nallow-registry = [\n  \"https://r/i\",\n]\n";

    #[test]
    fn expressions_offer_choices() {
        let allowed = list(DENY, "licenses", "allow");
        let rows = [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND ISC", true),
            ("MIT AND GPL-3.0", false),
            ("(GPL-3.0 OR MIT) AND ISC", true),
            ("GPL-3.0 OR MIT AND LGPL-2.1", false),
            ("MIT WITH LLVM-exception", false),
            ("(MIT", false),
            ("", false),
        ];
        for (expression, expect) in rows {
            assert_eq!(satisfied(expression, &allowed), expect, "{expression}");
        }
    }

    #[test]
    fn lock_file_rows_are_judged() {
        let row = |name: &str, licence: &str, source: Option<&str>| {
            let package = serde_json::json!({"name": name, "license": licence, "source": source});
            check(&serde_json::json!({ "packages": [package] }), DENY)
                .unwrap()
                .join("\n")
        };
        let registry = Some("registry+https://r/i");
        let rows = [
            (row("a", "MIT", registry), ""),
            (row("own", "MIT", None), ""),
            (row("openssl", "MIT", registry), "openssl is banned"),
            (row("a", "GPL-3.0", registry), "a has licence `GPL-3.0`"),
            (
                row("a", "MIT", Some("git+https://r/i")),
                "a comes from git+https://r/i",
            ),
        ];
        for (complaints, expect) in rows {
            assert!(complaints.starts_with(expect), "{complaints}");
            assert_eq!(complaints.is_empty(), expect.is_empty(), "{complaints}");
        }
    }
}
