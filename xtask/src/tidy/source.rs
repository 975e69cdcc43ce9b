//! The files under version control, and which lines of Rust are production.
//!
//! A Rust line is a test's when its file is (`tests.rs`, `tests/`, a module declared under
//! `#[cfg(test)]`, all of `e2e/`) or when an item with `#[cfg(test)]` surrounds it. Items are
//! found by indentation, which rustfmt guarantees.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::place::Place;
use crate::process::{command, output};

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The whole file is test code.
    pub(crate) test: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<Source>,
    /// Every path, also of files that are not text, and every folder.
    paths: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) number: usize,
    pub(crate) text: &'a str,
    pub(crate) test: bool,
}

impl Tree {
    pub(crate) fn read(place: &Place) -> Result<Self> {
        let words = ["ls-files", "--cached", "--others", "--exclude-standard"];
        let list = output(&mut command(place, "git", words))?;
        let mut files = Vec::new();
        for path in list.lines() {
            let Ok(bytes) = fs::read(place.root.join(path)) else {
                continue;
            }; // deleted
            files.push((
                path.to_owned(),
                String::from_utf8(bytes).unwrap_or_default(),
            ));
        }
        Ok(Tree::new(files))
    }

    pub(crate) fn new(files: Vec<(String, String)>) -> Self {
        let mut paths = BTreeSet::new();
        let mut modules = BTreeSet::new();
        for (path, text) in &files {
            paths.extend(
                Path::new(path)
                    .ancestors()
                    .map(|p| p.to_string_lossy().into_owned()),
            );
            if is_rust(path) {
                modules.extend(test_modules(path, text));
            }
        }
        let files = files.into_iter().map(|(path, text)| {
            let test = is_test(&path) || modules.iter().any(|m| in_module(&path, m));
            Source { path, text, test }
        });
        Tree {
            files: files.collect(),
            paths,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Whether a file or folder of that name is under version control.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    pub(crate) fn with_extension(&self, extension: &str) -> Vec<&Source> {
        let wanted = |f: &&Source| {
            Path::new(&f.path)
                .extension()
                .is_some_and(|e| e == extension)
        };
        self.files.iter().filter(wanted).collect()
    }

    pub(crate) fn rust(&self) -> Vec<&Source> {
        self.with_extension("rs")
    }
}

impl Source {
    pub(crate) fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        let mut inside: Option<usize> = None; // indentation of the item with #[cfg(test)]
        let mut opened = false; // the item itself has begun, after its attributes
        for (at, text) in self.text.lines().enumerate() {
            let indent = text.len() - text.trim_start().len();
            if inside.is_none() && text.trim_start().starts_with("#[cfg(test)]") {
                inside = Some(indent);
                opened = false;
            }
            lines.push(Line {
                number: at + 1,
                text,
                test: self.test || inside.is_some(),
            });
            if inside == Some(indent) && !text.trim().is_empty() && !text.trim().starts_with("#[") {
                let single = !opened && text.trim_end().ends_with([';', '}', ',']);
                if single || (opened && text.trim_start().starts_with('}')) {
                    inside = None;
                }
                opened = true;
            }
        }
        lines
    }

    /// Lines that are neither blank nor comment: (production, test).
    pub(crate) fn code_lines(&self) -> (usize, usize) {
        let lines = self.lines();
        let code = lines.iter().filter(|l| is_code(l.text));
        code.fold(
            (0, 0),
            |(p, t), l| if l.test { (p, t + 1) } else { (p + 1, t) },
        )
    }
}

pub(crate) fn is_code(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with("//")
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e == "rs")
}

fn is_test(path: &str) -> bool {
    let folder = path.starts_with("e2e/") || path.contains("/tests/");
    folder || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// Modules without their extension, that `text` declares under `#[cfg(test)]`.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let root = ["mod", "lib", "main"]
        .iter()
        .any(|r| stem.ends_with(&format!("/{r}")));
    let folder = if root {
        stem.rsplit_once('/').map_or("", |(f, _)| f)
    } else {
        stem
    };
    let source = Source {
        path: path.to_owned(),
        text: text.to_owned(),
        test: false,
    };
    let lines = source.lines();
    let declared = lines.iter().filter(|l| l.test).filter_map(|l| {
        let item = l.text.trim().strip_suffix(';')?;
        item.strip_prefix("mod ")
            .or_else(|| item.split_once(") mod ").map(|(_, name)| name))
    });
    declared.map(|name| format!("{folder}/{name}")).collect()
}

fn in_module(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree::new(
            files
                .iter()
                .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn test_items_end_where_their_indentation_does() {
        let text = "fn a() {\n}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn b() {\n    }\n}\n\
                    fn c() {}\n#[cfg(test)]\nmod golden;\nfn d() {}\nimpl E {\n    \
                    #[cfg(test)]\n    \
                    fn f() {\n        g();\n    }\n    fn h() {}\n}\n";
        let tree = tree(&[("net/src/conn.rs", text)]);
        let lines = tree.files[0].lines();
        let production: Vec<_> = lines.iter().filter(|l| !l.test).map(|l| l.number).collect();
        assert_eq!(production, [1, 2, 9, 12, 13, 18, 19]);
    }

    #[test]
    fn whole_files_of_tests_are_known() {
        let tree = tree(&[
            ("net/src/lib.rs", "mod conn;\n#[cfg(test)]\nmod golden;\n"),
            ("net/src/conn.rs", "#[cfg(test)]\npub(crate) mod fake;\n"),
            ("net/src/golden.rs", ""),
            ("net/src/golden/more.rs", ""),
            ("net/src/golden_data.rs", ""),
            ("net/src/conn/fake.rs", ""),
            ("net/src/conn/tests.rs", ""),
            ("net/tests/a.rs", ""),
            ("e2e/src/lib.rs", ""),
        ]);
        let tests: Vec<_> = tree
            .files
            .iter()
            .filter(|f| f.test)
            .map(|f| &*f.path)
            .collect();
        let expect = [
            "net/src/golden.rs",
            "net/src/golden/more.rs",
            "net/src/conn/fake.rs",
            "net/src/conn/tests.rs",
            "net/tests/a.rs",
            "e2e/src/lib.rs",
        ];
        assert_eq!(tests, expect);
    }

    #[test]
    fn comments_and_blanks_are_not_code() {
        let tree = tree(&[("a/b.rs", "//! x\n\nfn a() {} // y\n    // z\n")]);
        assert_eq!(tree.files[0].code_lines(), (1, 0));
        assert!(tree.exists("a/") && tree.exists("a/b.rs") && !tree.exists("a/c.rs"));
    }
}
