//! Writes the files that are generated and committed: the custom resource definitions, and
//! their copy in the chart. Unit tests of `crds` fail when they are stale.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::place::{Place, TARGET};
use crate::process::{self, cargo, command, output};

/// Folders that hold one file per resource.
const FOLDERS: [&str; 2] = ["crds", "charts/gantry/crds"];

pub(crate) fn run(place: &Place) -> Result<()> {
    process::run(&mut cargo(
        place,
        ["build", "--target", TARGET, "--package", "gantry"],
    ))?;
    let yaml = output(&mut command(place, place.program("gantry"), ["crds"]))?;
    let documents = split(&yaml)?;
    ensure!(!documents.is_empty(), "`gantry crds` printed no document");
    for folder in FOLDERS {
        fs::create_dir_all(place.root.join(folder))?;
        for (name, document) in &documents {
            let file = format!("{folder}/{name}.yaml");
            fs::write(place.root.join(&file), document)?;
            println!("{file}");
        }
    }
    Ok(())
}

/// Documents of a stream, each under the plural of its kind: the first part of its name.
fn split(yaml: &str) -> Result<Vec<(&str, String)>> {
    let documents = yaml.split("---\n").filter(|d| !d.trim().is_empty());
    let named = documents.map(|document| {
        let name = document.lines().find_map(|l| l.strip_prefix("  name: "));
        let plural = name.and_then(|n| n.split('.').next());
        Ok((
            plural.context("a definition without a name")?,
            document.to_owned(),
        ))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_named_by_their_plural() {
        let yaml = "---\nkind: A\nmetadata:\n  name: topics.gantry.dev\n---\nmetadata:\n  \
                    name: consumergroups.gantry.dev\n";
        let names: Vec<_> = split(yaml)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["topics", "consumergroups"]);
        assert!(split("kind: A\n").is_err());
    }
}
