//! Series as Prometheus reads them, for families that are too large to be copied before they are
//! written.

use std::fmt::{Display, Write as _};

/// What begins a family.
pub(super) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a `String` never fails.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

pub(super) fn sample(out: &mut String, name: &str, labels: &str, value: impl Display) {
    for part in [name, "{", labels, "} "] {
        out.push_str(part);
    }
    let _ = writeln!(out, "{value}");
}

/// `a="b",c="d"`
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}
