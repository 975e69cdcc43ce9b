//! Which crate may depend on which: an edge that is not in the table is refused.
//!
//! Cargo keeps the edges once they are right; this keeps somebody from adding one in passing.
//! It counts dependencies of tests too, since they pull crates together just the same.

use anyhow::{Context, Result};
use serde_json::Value;

/// Crate, and the own crates it may use. `*`: all.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("protocol", &[]),
    ("net", &["protocol"]),
    ("store", &["protocol"]),
    ("broker", &["net", "store", "protocol", "crds"]),
    ("namesrv", &["net", "protocol"]),
    ("crds", &[]),
    ("operator", &["crds", "net", "protocol"]),
    ("console", &["crds", "net", "protocol"]),
    ("gantry", &["*"]),
    ("e2e", &["*"]),
    ("xtask", &[]),
];

/// Crate, and foreign crates it must never use.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    ("protocol", &["tokio", "kube", "hyper", "rustix"]),
    ("store", &["tokio", "kube", "hyper"]),
    ("net", &["kube"]),
    ("namesrv", &["kube"]),
    ("xtask", &["tokio", "kube"]),
];

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) folder: String,
    /// Own crates, by folder.
    pub(crate) own: Vec<String>,
    pub(crate) foreign: Vec<String>,
}

/// The workspace's members out of `cargo metadata`.
pub(crate) fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let all = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let members = all.iter().filter(|p| p["source"].is_null());
    members
        .map(|p| package(p).context("cargo metadata has another form"))
        .collect()
}

pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let mut complaints = Vec::new();
    for Package {
        folder,
        own,
        foreign,
    } in packages
    {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == folder) else {
            complaints.push(format!(
                "{folder}/ is new: give it a row in xtask/src/tidy/edges.rs"
            ));
            continue;
        };
        for other in own
            .iter()
            .filter(|o| !allowed.contains(&"*") && !allowed.contains(&&***o))
        {
            complaints.push(format!(
                "{folder} must not use {other}: move what it needs down"
            ));
        }
        let never = FORBIDDEN
            .iter()
            .find(|(name, _)| name == folder)
            .map_or(&[][..], |f| f.1);
        for other in foreign.iter().filter(|o| never.contains(&&***o)) {
            complaints.push(format!(
                "{folder} must never use {other}: remove the dependency"
            ));
        }
    }
    complaints
}

fn package(package: &Value) -> Option<Package> {
    let mut found = Package {
        folder: folder(package)?,
        own: Vec::new(),
        foreign: Vec::new(),
    };
    for dependency in package["dependencies"].as_array()? {
        match dependency["path"].as_str() {
            Some(path) => found.own.push(last(path)),
            None => found.foreign.push(dependency["name"].as_str()?.to_owned()),
        }
    }
    Some(found)
}

fn folder(package: &Value) -> Option<String> {
    Some(last(
        package["manifest_path"]
            .as_str()?
            .strip_suffix("/Cargo.toml")?,
    ))
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &str, own: &[&str], foreign: &[&str]) -> Package {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Package {
            folder: folder.to_owned(),
            own: owned(own),
            foreign: owned(foreign),
        }
    }

    #[test]
    fn edges_off_the_table_are_refused() {
        let rows: [(Package, &str); 6] = [
            (package("net", &["protocol"], &["tokio"]), ""),
            (package("gantry", &["broker", "operator"], &[]), ""),
            (
                package("broker", &["operator"], &[]),
                "broker must not use operator",
            ),
            (
                package("store", &["protocol"], &["tokio"]),
                "store must never use tokio",
            ),
            (package("net", &["store"], &[]), "net must not use store"),
            (package("common", &[], &[]), "common/ is new"),
        ];
        for (package, expect) in rows {
            let complaints = check(&[package]).join("\n");
            assert!(complaints.starts_with(expect), "{complaints}");
            assert_eq!(complaints.is_empty(), expect.is_empty(), "{complaints}");
        }
    }

    #[test]
    fn packages_are_read_from_metadata() {
        let metadata = serde_json::json!({"packages": [
            {"name": "gantry-net", "source": null, "manifest_path": "/a/net/Cargo.toml",
             "dependencies": [{"name": "gantry-protocol", "path": "/a/protocol"},
                              {"name": "tokio"}]},
            {"name": "tokio", "source": "registry", "manifest_path": "/b/Cargo.toml",
             "dependencies": []},
        ]});
        let found = packages(&metadata).unwrap();
        assert_eq!(found, [package("net", &["protocol"], &["tokio"])]);
    }
}
