//! The numbers of the protocol, three times: the official jar, `testdata/java-codes.txt`, and
//! `protocol::code`. A test compares each with the next.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;

use crate::java::jars::ClassPath;
use crate::lab::Lab;
use crate::process::run_ok;

const JAVA_SECONDS_MAX: u64 = 60;

/// What the jar says today.
pub async fn of_the_jar(lab: &mut Lab) -> anyhow::Result<String> {
    let jars = lab.jars().await?;
    let home = lab.fresh_dir("constants")?;
    let mut command = crate::java::command(&jars.class_path(ClassPath::Server), &home, 64);
    command.arg("dev.gantry.e2e.Constants");
    Ok(run_ok(command, Duration::from_secs(JAVA_SECONDS_MAX))
        .await?
        .stdout)
}

pub async fn renew(lab: &mut Lab) -> anyhow::Result<()> {
    std::fs::write(path(), of_the_jar(lab).await?)?;
    Ok(())
}

pub async fn compare_with_the_jar(lab: &mut Lab) -> anyhow::Result<()> {
    let (jar, file) = (of_the_jar(lab).await?, std::fs::read_to_string(path())?);
    for (jar, file) in jar.lines().zip(file.lines()) {
        ensure!(jar == file, "the jar says {jar:?}, the file {file:?}");
    }
    ensure!(
        jar.len() == file.len(),
        "one of the jar and the file says more"
    );
    Ok(())
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/java-codes.txt")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use protocol::code::{
        Language, MQ_VERSION, VERSION_MAX_RECONSUME_TIMES, VERSION_STRICT_JSON_ROUTE,
    };
    use protocol::{RequestCode, ResponseCode};

    fn java(kind: &str) -> BTreeMap<String, i32> {
        let text = std::fs::read_to_string(path()).expect("testdata/java-codes.txt");
        let of_kind = |line: &str| {
            let mut parts = line.split('\t');
            (parts.next()? == kind).then_some(())?;
            Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?))
        };
        text.lines().filter_map(of_kind).collect()
    }

    #[test]
    fn the_codes_are_those_of_the_official_jar() {
        let ours: BTreeMap<String, i32> = RequestCode::ALL
            .iter()
            .map(|(code, name)| ((*name).to_owned(), code.number()))
            .collect();
        assert_eq!(ours, java("request"));
        let ours: BTreeMap<String, i32> = ResponseCode::ALL
            .iter()
            .map(|(code, name)| ((*name).to_owned(), code.number()))
            .collect();
        // Gantry has no controller, and Java's RPC codes never leave its process.
        let mut java = java("response");
        java.retain(|name, _| !name.starts_with("CONTROLLER_") && !name.starts_with("RPC_"));
        assert_eq!(ours, java);
    }

    #[test]
    fn the_versions_are_those_of_the_official_jar() {
        let versions = java("version");
        assert_eq!(versions["CURRENT"], MQ_VERSION);
        assert_eq!(versions["V4_9_4"], VERSION_STRICT_JSON_ROUTE);
        assert_eq!(versions["V3_4_9"], VERSION_MAX_RECONSUME_TIMES);
    }

    #[test]
    fn the_languages_are_those_of_the_official_jar() {
        for (name, code) in java("language") {
            assert_eq!(Language::from_name(&name).name(), name, "{code}");
        }
    }
}
