//! The corpus in `e2e/resources`, judged by a real API server.
//!
//! A file holds one resource, or two when the second is an update of the first. A refused one says
//! in a `# message:` line what the server must answer, word for word. What is accepted is not kept:
//! the server only says what it would do.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::Lab;
use super::kubectl::Kubectl;

pub async fn accepted(lab: &mut Lab) -> anyhow::Result<()> {
    for file in files("accepted")? {
        judged(&lab.kubectl, &file)
            .await?
            .with_context(|| name(&file))?;
    }
    Ok(())
}

pub async fn refused(lab: &mut Lab) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for file in files("refused")? {
        let text = std::fs::read_to_string(&file)?;
        let message = text
            .lines()
            .find_map(|line| line.strip_prefix("# message: "));
        let message = message.with_context(|| format!("{} has no message", name(&file)))?;
        match judged(&lab.kubectl, &file).await? {
            Ok(()) => wrong.push(format!("{}: accepted", name(&file))),
            Err(said) => {
                let said = said.to_string();
                if !says(&said, message) {
                    wrong.push(format!("{}: not `{message}` but {said}", name(&file)));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(())
}

/// Whether one of the causes in kubectl's answer ends with the very message; of an unsupported
/// value the server also lists the supported ones.
fn says(answer: &str, message: &str) -> bool {
    let ends = |line: &str| {
        let line = line.split(": supported values: ").next().unwrap_or(line);
        let before = line
            .trim_end()
            .trim_end_matches(['.', ']'])
            .strip_suffix(message);
        before.is_some_and(|before| before.is_empty() || before.ends_with([' ', '"']))
    };
    // Several causes of one refusal stand in one line, with commas between them.
    answer
        .lines()
        .any(|line| ends(line) || line.split(", ").any(ends))
}

/// What the server says to the newest document, with the ones before it in place.
async fn judged(kubectl: &Kubectl, file: &Path) -> anyhow::Result<anyhow::Result<()>> {
    let text = std::fs::read_to_string(file)?;
    let documents: Vec<&str> = text.split("\n---\n").collect();
    let (newest, before) = documents
        .split_last()
        .context("invariant: split gives one")?;
    for document in before {
        let file = document_file(document)?;
        kubectl.apply(file.path()).await?;
    }
    let newest = document_file(newest)?;
    let path = newest.path().to_string_lossy();
    let verb = if before.is_empty() { "create" } else { "apply" };
    let answer = kubectl
        .attempt(&[verb, "--dry-run=server", "--filename", &path])
        .await?;
    for document in before {
        let file = document_file(document)?;
        remove(kubectl, &file.path().to_string_lossy()).await?;
    }
    Ok(if answer.status.success() {
        Ok(())
    } else {
        Err(anyhow::anyhow!(answer.stderr))
    })
}

/// Deletes what a file describes, whatever protects it: it speaks of servers that are nowhere.
async fn remove(kubectl: &Kubectl, path: &str) -> anyhow::Result<()> {
    let delete = ["delete", "--wait=false", "--filename", path];
    kubectl.ok(&delete).await?;
    let none = r#"{"metadata": {"finalizers": null}}"#;
    let patch = ["patch", "--type=merge", "--patch", none, "--filename", path];
    // Most of them are gone by now.
    kubectl.attempt(&patch).await?;
    let wait = ["wait", "--for=delete", "--timeout=60s", "--filename", path];
    kubectl.ok(&wait).await.map(drop)
}

fn document_file(document: &str) -> anyhow::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    file.write_all(document.as_bytes())?;
    Ok(file)
}

fn files(verdict: &str) -> anyhow::Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("resources")
        .join(verdict);
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files = entries
        .map(|e| Ok(e?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    files.sort();
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files)
}

fn name(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::says;

    #[test]
    fn a_message_is_matched_word_for_word() {
        let cel = "The Topic \"a\" is invalid: spec: Invalid value: set both or none";
        let list = "The Topic \"a\" is invalid: \n* spec.a: Invalid value: 1: too many\n* <nil>: x";
        let rows = [
            (cel, "set both or none", true),
            (cel, "both or none of it", false),
            (cel, "oth or none", false),
            (cel, "set both", false),
            (list, "too many", true),
            (
                "strict decoding error: unknown field \"spec.a\"",
                "unknown field \"spec.a\"",
                true,
            ),
        ];
        for (answer, message, expect) in rows {
            assert_eq!(says(answer, message), expect, "{answer}: {message}");
        }
    }
}
