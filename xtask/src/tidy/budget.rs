//! Lines of code per crate, against the numbers in `ARCHITECTURE.md`.
//!
//! A line counts when it is neither blank nor comment nor generated; tests are shown and not
//! limited, but for `e2e`, which is nothing else. To raise a number is a change of one line
//! there, with its reason in the commit.

use std::fmt::Write as _;

use super::source::Tree;

/// Marks a file that no person writes.
const GENERATED: &str = "@generated";
const HEADING: &str = "line budget";

/// The table for the reader, and what is wrong with it.
pub(crate) fn check(tree: &Tree, architecture: &str, members: &[&str]) -> (String, Vec<String>) {
    let budget = budget(architecture);
    let mut complaints = Vec::new();
    let mut table = format!(
        "{:<10} {:>7} {:>7} {:>7}\n",
        "crate", "lines", "budget", "tests"
    );
    let mut sum = (0, 0);
    for member in members {
        let (lines, tests) = lines(tree, member);
        let Some((_, most)) = budget.iter().find(|(name, _)| name == member) else {
            complaints.push(format!(
                "{member} has no line budget: add a row to the table"
            ));
            continue;
        };
        let _ = writeln!(table, "{member:<10} {lines:>7} {most:>7} {tests:>7}");
        sum = (sum.0 + lines, sum.1 + tests);
        if lines > *most {
            let remedy = "delete something, or raise the number and say why";
            complaints.push(format!(
                "{member} has {lines} lines, its budget is {most}: {remedy}"
            ));
        }
    }
    for (name, _) in budget
        .iter()
        .filter(|(name, _)| !members.contains(&name.as_str()))
    {
        complaints.push(format!(
            "the line budget names {name}, which is no crate: remove it"
        ));
    }
    let _ = write!(table, "{:<10} {:>7} {:>7} {:>7}", "all", sum.0, "", sum.1);
    (table, complaints)
}

fn lines(tree: &Tree, member: &str) -> (usize, usize) {
    let own = format!("{member}/");
    let rust = tree.rust();
    let files = rust
        .iter()
        .filter(|f| f.path.starts_with(&own) && !f.text.contains(GENERATED));
    let (lines, tests) = files.fold((0, 0), |(lines, tests), file| {
        let (p, t) = file.code_lines();
        (lines + p, tests + t)
    });
    if member == "e2e" {
        (lines + tests, 0)
    } else {
        (lines, tests)
    }
}

/// Rows `| crate | number | ... |` of the table under the budget's heading.
fn budget(architecture: &str) -> Vec<(String, usize)> {
    let heading = |l: &&str| l.starts_with('#') && l.to_lowercase().contains(HEADING);
    let after = architecture.lines().skip_while(|l| !heading(l)).skip(1);
    let table = after.take_while(|l| !l.starts_with('#'));
    let rows = table.filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let name = cells.next()?.trim_matches(['`', '/']).to_owned();
        Some((name, cells.next()?.replace(',', "").parse().ok()?))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# A\n| x | 1 |\n## The line budget\n\n| crate | lines |\n|---|---|\n\
                         | `net` | 1,000 |\n| `store/` | 2 |\n# B\n| y | 1 |\n";

    #[test]
    fn the_table_is_read_under_its_heading_alone() {
        assert_eq!(
            budget(TABLE),
            [("net".to_owned(), 1000), ("store".to_owned(), 2)]
        );
    }

    #[test]
    fn a_crate_above_its_number_fails() {
        let text = "//! x\nfn a() {}\nfn b() {}\n";
        let file = |path: &str, text: String| (path.to_owned(), text);
        let tree = Tree::new(vec![
            file("store/src/a.rs", text.to_owned()),
            file("store/src/made.rs", format!("// {GENERATED}\n{text}")),
        ]);
        let (table, complaints) = check(&tree, TABLE, &["net", "store"]);
        assert!(complaints.is_empty(), "{complaints:?}");
        assert!(table.contains("store            2       2"), "{table}");

        let tree = Tree::new(vec![file("store/src/a.rs", format!("{text}fn c() {{}}\n"))]);
        let (_, complaints) = check(&tree, TABLE, &["net", "store", "crds"]);
        let expect = [
            "store has 3 lines, its budget is 2: delete something, or raise the number and say why",
            "crds has no line budget: add a row to the table",
        ];
        assert_eq!(complaints, expect);
        let (_, complaints) = check(&Tree::default(), TABLE, &["net"]);
        assert_eq!(
            complaints,
            ["the line budget names store, which is no crate: remove it"]
        );
    }
}
