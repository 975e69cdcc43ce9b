//! Examples of resources in `e2e/resources`, judged by the rules of the schema.
//!
//! A file holds one resource, or two when the second is an update of the first. A refused one
//! names the exact message of the API server in a `# message:` line, and in a `# reader:` line the
//! words of our own reader where it has others. The same files are judged by a real API server in
//! the end-to-end tests.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use crds::read::{Document, read};
use kube::core::cel;

#[test]
fn accepted() {
    for file in files("accepted") {
        let text = std::fs::read_to_string(&file).unwrap();
        let documents = read(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(
            by_cel(&documents),
            Vec::<String>::new(),
            "{}",
            file.display()
        );
    }
}

#[test]
fn refused() {
    for file in files("refused") {
        let text = std::fs::read_to_string(&file).unwrap();
        let message = header(&text, "# message: ").expect("a refused file names its message");
        let words = header(&text, "# reader: ").unwrap_or(message);
        let parts: Vec<&str> = text.split("\n---\n").collect();
        let newest = parts.last().unwrap();
        match (parts.len(), read(newest)) {
            (1, Err(error)) => {
                let said = format!("document 1: {words}");
                assert!(
                    error.to_string().starts_with(&said),
                    "{}: {error}",
                    file.display()
                );
            }
            // What only CEL can tell: quantities and updates.
            (1, Ok(_)) => assert!(text.contains("size:"), "{}: not refused", file.display()),
            (_, result) => {
                result.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
        }
        if let Some(documents) = unchecked(&text) {
            let told = by_cel(&documents);
            if words == message && !message.starts_with("unknown field") {
                assert!(
                    told.iter().any(|m| m == message),
                    "{}: {told:?}",
                    file.display()
                );
            }
        }
    }
}

fn files(verdict: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../e2e/resources")
        .join(verdict);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn header<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key))
}

/// The documents of a text that breaks rules but not the form; None when it breaks the form.
fn unchecked(text: &str) -> Option<Vec<Document>> {
    use serde::Deserialize;
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document).unwrap();
        let kind = value["kind"].as_str().unwrap().to_owned();
        documents.push(match &*kind {
            "BrokerCluster" => Document::BrokerCluster(serde_json::from_value(value).ok()?),
            "Topic" => Document::Topic(serde_json::from_value(value).ok()?),
            _ => Document::ConsumerGroup(serde_json::from_value(value).ok()?),
        });
    }
    Some(documents)
}

/// The messages of all rules that the last of the documents breaks.
fn by_cel(documents: &[Document]) -> Vec<String> {
    let verdict = match documents {
        [Document::BrokerCluster(one)] => cel::validate_cel(&**one),
        [Document::Topic(one)] => cel::validate_cel(&**one),
        [Document::ConsumerGroup(one)] => cel::validate_cel(&**one),
        [Document::BrokerCluster(old), Document::BrokerCluster(new)] => {
            cel::validate_cel_update(&**new, old)
        }
        [Document::Topic(old), Document::Topic(new)] => cel::validate_cel_update(&**new, old),
        [Document::ConsumerGroup(old), Document::ConsumerGroup(new)] => {
            cel::validate_cel_update(&**new, old)
        }
        _ => panic!("one resource, or two of one kind"),
    };
    let Err(errors) = verdict else {
        return Vec::new();
    };
    errors.iter().map(|error| error.message.clone()).collect()
}
