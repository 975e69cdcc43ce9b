//! The rules of the tree that the compiler does not keep.
//!
//! Each rule is a plain function from what it looks at to complaints. A complaint is one
//! sentence that names the place and says what to do. Rules, in the order they run:
//!
//! - `style`: size, heads, line length, spaces, words, sleeping tests, `unsafe`, purity
//! - `edges`: which crate may depend on which, and on what it must not
//! - `documents`: `ARCHITECTURE.md` names what exists and omits no crate; links and commands
//! - `budget`: lines per crate against the table in `ARCHITECTURE.md`
//! - `licences`: the lock file against `deny.toml`

mod budget;
mod documents;
mod edges;
mod licences;
mod source;
mod style;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::features;
use crate::place::{Place, TARGET};
use crate::process::{cargo, output};
use crate::report::Tally;

use self::source::Tree;

pub(crate) fn run(place: &Place, tally: &mut Tally) -> Result<()> {
    let tree = Tree::read(place)?;
    let metadata = metadata(place)?;
    let packages = edges::packages(&metadata)?;
    let documents = tree.with_extension("md");
    let mut judge = |rule: &str, complaints: Vec<String>| {
        for complaint in &complaints {
            println!("{rule}: {complaint}");
        }
        if complaints.is_empty() {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    };
    for (rule, check) in style::RULES {
        judge(rule, check(&tree));
    }
    judge("edges", edges::check(&packages));
    let architecture = documents::ARCHITECTURE;
    match tree.get(architecture) {
        Some(text) => {
            let members: Vec<_> = packages.iter().map(|p| p.folder.as_str()).collect();
            let exists = |path: &str| tree.exists(path);
            judge(
                "architecture",
                documents::architecture(&text.text, &members, &exists),
            );
            let (table, complaints) = budget::check(&tree, &text.text, &members);
            println!("{table}");
            judge("budget", complaints);
        }
        None => judge(
            "architecture",
            vec![format!("{architecture} is missing: write it")],
        ),
    }
    judge(
        "links",
        documents::links(&documents, &|path| tree.exists(path)),
    );
    judge(
        "commands",
        documents::commands(&documents, &|words| documents::help(place, words)),
    );
    let deny = tree.get("deny.toml").context("deny.toml is missing")?;
    judge("licences", licences::check(&metadata, &deny.text)?);
    let features = tree
        .get(features::FILE)
        .context("docs/features.md is missing")?;
    judge(
        "features",
        features::rows(&features.text).err().unwrap_or_default(),
    );
    Ok(())
}

/// All packages of the lock file that our one target uses.
fn metadata(place: &Place) -> Result<Value> {
    let words = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        TARGET,
    ];
    Ok(serde_json::from_str(&output(&mut cargo(place, words))?)?)
}
