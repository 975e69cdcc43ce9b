//! How commands write what they found: a table for people, JSON or YAML for programs.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

/// Writes rows, each an object; a table has the given members as columns.
pub(crate) fn rows(format: Format, columns: &[&str], rows: &[Value]) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(columns, rows),
        Format::Json => serde_json::to_string_pretty(rows)? + "\n",
        Format::Yaml => serde_yaml::to_string(rows)?,
    };
    write(&text)
}

/// Writes one object; for people a line a member.
pub(crate) fn object(format: Format, object: &Value) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => {
            let members = object.as_object().context("invariant: an object")?;
            let width = members.keys().map(String::len).max().unwrap_or(0);
            let lines = members.iter();
            let lines = lines.map(|(key, value)| format!("{key:<width$}  {}\n", word(value)));
            lines.collect::<Vec<_>>().concat()
        }
        Format::Json => serde_json::to_string_pretty(object)? + "\n",
        Format::Yaml => serde_yaml::to_string(object)?,
    };
    write(&text)
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Numbers to the right, all else to the left; columns as wide as they must be.
fn table(columns: &[&str], rows: &[Value]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            columns
                .iter()
                .map(|c| word(row.get(*c).unwrap_or(&Value::Null)))
                .collect()
        })
        .collect();
    let heads: Vec<String> = columns.iter().map(|c| head(c)).collect();
    let mut text = String::new();
    for line in std::iter::once(&heads).chain(&cells) {
        let mut written = String::new();
        for (index, cell) in line.iter().enumerate() {
            let column = std::iter::once(&heads)
                .chain(&cells)
                .filter_map(|l| l.get(index));
            let width = column.map(|cell| cell.chars().count()).max().unwrap_or(0);
            let number = columns.get(index).is_some_and(|column| {
                rows.iter()
                    .any(|row| row.get(*column).is_some_and(Value::is_number))
            });
            let gap = if index == 0 { "" } else { "  " };
            written += gap;
            let padding = " ".repeat(width - cell.chars().count());
            let (before, after) = if number {
                (&*padding, "")
            } else {
                ("", &*padding)
            };
            written.extend([before, cell, after]);
        }
        text += written.trim_end();
        text.push('\n');
    }
    text
}

/// `readQueues` is READ QUEUES.
fn head(column: &str) -> String {
    let mut head = String::new();
    for c in column.chars() {
        if c.is_uppercase() {
            head.push(' ');
        }
        head.extend(c.to_uppercase());
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            json!({"name": "orders", "readQueues": 8, "kind": ""}),
            json!({"name": "a", "readQueues": 1024, "kind": "FIFO", "unseen": 1}),
        ];
        let text = table(&["name", "readQueues", "kind"], &rows);
        assert_eq!(
            text,
            "NAME    READ QUEUES  KIND\norders            8  -\na              1024  FIFO\n"
        );
    }
}
