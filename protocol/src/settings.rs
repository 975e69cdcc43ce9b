//! Settings as lines of text, `key=value`: what `mqadmin` sends to change a server's settings
//! and what it is shown (`java.util.Properties`).

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Reads lines; a later line of a key wins. As in Java `=`, `:` or space stand behind the key,
/// `#` or `!` begins a comment, a backslash takes the next character as it is or, at the end,
/// joins the next line.
pub fn read(text: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut line = line.to_owned();
        while line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1 {
            line.pop();
            line.push_str(lines.next().unwrap_or_default().trim_start());
        }
        let (key, value) = split(&line);
        settings.insert(unescape(key), unescape(value));
    }
    settings
}

/// One line a setting, in the order of the keys.
pub fn write<'a>(settings: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let sorted: BTreeMap<&str, String> = settings.into_iter().collect();
    let mut text = String::new();
    for (key, value) in sorted {
        // Writing into a String can't fail. Java escapes nothing here.
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

/// Key and value, still escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c.is_ascii_whitespace() || c == '=' || c == ':');
        escaped = !escaped && c == '\\';
        ends
    });
    let (key, rest) = line
        .split_at_checked(end.unwrap_or(line.len()))
        .unwrap_or_default();
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, value.trim_start())
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('u') => {
                let code = chars.as_str().get(..4);
                let code = code.and_then(|hex| u32::from_str_radix(hex, 16).ok());
                if let Some(c) = code.and_then(char::from_u32) {
                    plain.push(c);
                    chars = chars.as_str().get(4..).unwrap_or_default().chars();
                }
            }
            Some(c) => plain.push(c),
            None => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_java_reads_them() {
        let check = |text: &str, expect: &[(&str, &str)]| {
            let expect = expect
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            assert_eq!(read(text), expect.collect(), "{text:?}");
        };
        check("", &[]);
        check("a=1\nb = 2\r\n", &[("a", "1"), ("b", "2")]);
        check(
            "# c\n! d\n  a:1\nb 2\nc",
            &[("a", "1"), ("b", "2"), ("c", "")],
        );
        check("a=1\na=2", &[("a", "2")]);
        check("path=C\\:\\\\x=y", &[("path", "C:\\x=y")]);
        check("a\\=b=c", &[("a=b", "c")]);
        check("a=1,\\\n   2\nb=3", &[("a", "1,2"), ("b", "3")]);
        check("a=\\u00e9\\uZZ\\", &[("a", "éZZ")]);
        let text = write([("b", "2".to_owned()), ("a", "1".to_owned())]);
        assert_eq!(text, "a=1\nb=2\n");
    }
}
