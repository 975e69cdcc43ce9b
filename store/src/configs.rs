//! `config/*.json`: a broker's tables as a Java broker reads them, and whether anybody has changed
//! them since.
//!
//! `config/gantry.json` keeps for each file the check of what was written last and of what stood
//! there before, `{"topics.json": ["<CRC as hex>-<bytes>", …]}`. It is written first, so that a
//! crash between the files leaves none that looks changed.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use protocol::json::{from_fastjson, to_json};

use crate::{Store, fs};

const DIR: &str = "config";
const CHECKS: &str = "config/gantry.json";

type Checks = BTreeMap<String, Vec<String>>;

/// Writes those of the files that differ from what is there.
pub(crate) fn write(dir: &Path, files: &[(String, String)]) -> io::Result<()> {
    fs::create_dir_all(&dir.join(DIR))?;
    let (mut checks, mut changed) = (load(dir)?.unwrap_or_default(), Vec::new());
    for (name, content) in files {
        let path = dir.join(DIR).join(name);
        let new = check(content.as_bytes());
        let old = fs::read_if_exists(&path)?.map(|bytes| check(&bytes));
        if old.as_ref() != Some(&new) {
            changed.push((path, content));
        }
        let either = std::iter::once(new).chain(old);
        let mut list: Vec<String> = either.collect();
        list.dedup();
        checks.insert(name.clone(), list);
    }
    if changed.is_empty() && dir.join(CHECKS).exists() {
        return Ok(());
    }
    fs::write_atomic(&dir.join(CHECKS), &to_json(&checks))?;
    for (path, content) in changed {
        fs::write_atomic(&path, content.as_bytes())?;
    }
    Ok(())
}

/// Name and content of the files that somebody else has written since. None where Gantry has not
/// written any.
pub(crate) fn changed(dir: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut changed = Vec::new();
    for (name, known) in load(dir)?.unwrap_or_default() {
        if let Some(bytes) = fs::read_if_exists(&dir.join(DIR).join(&name))?
            && !known.contains(&check(&bytes))
        {
            changed.push((name, bytes));
        }
    }
    Ok(changed)
}

impl Store {
    /// Writes `config/` files for a Java broker, where they differ.
    pub fn write_configs(&self, files: &[(String, String)]) -> io::Result<()> {
        write(&self.inner.dir, files)
    }

    /// Name and content of the `config/` files that another program has written since.
    pub fn changed_configs(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        changed(&self.inner.dir)
    }
}

/// A damaged file of checks is none: then nothing counts as changed.
fn load(dir: &Path) -> io::Result<Option<Checks>> {
    let bytes = fs::read_if_exists(&dir.join(CHECKS))?;
    Ok(bytes.and_then(|bytes| match from_fastjson(&bytes) {
        Ok(checks) => Some(checks),
        Err(error) => {
            tracing::warn!(%error, "{CHECKS} can't be read");
            None
        }
    }))
}

fn check(bytes: &[u8]) -> String {
    format!("{:08x}-{}", crc32fast::hash(bytes), bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h14_a_file_that_another_program_wrote_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let dir = dir.path();
        let files = |text: &str| {
            ["a.json", "b.json"].map(|name| (name.to_owned(), format!("{name} {text}")))
        };
        let put = |name: &str, text: &str| {
            std::fs::write(dir.join("config").join(name), text).expect("written");
        };
        let changed = || changed(dir).expect("read");
        assert_eq!(changed(), []);
        std::fs::create_dir(dir.join("config")).expect("dir");
        put("a.json", "Java's");
        assert_eq!(changed(), [], "nothing was ours");
        write(dir, &files("1")).expect("written");
        assert_eq!(changed(), []);
        let checks = std::fs::read_to_string(dir.join(CHECKS)).expect("read");
        assert_eq!(
            checks,
            r#"{"a.json":["14aaae49-8","afdb1ae0-6"],"b.json":["9a25a9aa-8"]}"#
        );
        write(dir, &files("2")).expect("written");
        put("b.json", "b.json 1");
        assert_eq!(changed(), [], "a crash between two files");
        put("b.json", "{}");
        assert_eq!(changed(), [("b.json".to_owned(), b"{}".to_vec())]);
        write(dir, &files("2")).expect("written");
        assert_eq!(changed(), []);
        std::fs::remove_file(dir.join("config/a.json")).expect("removed");
        assert_eq!(changed(), [], "a missing file says nothing");
    }
}
