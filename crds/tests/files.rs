//! The YAML files made from the types are fresh. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

use crds::{read, render};

#[test]
fn generated_files_are_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files: Vec<_> = render::files()
        .into_iter()
        .map(|(name, text)| (root.join("crds").join(name), text))
        .collect();
    files.push((
        root.join("charts/gantry/templates/crds.yaml"),
        render::chart_template(),
    ));
    for (path, text) in files {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} is stale: run with UPDATE_GOLDEN=1",
            path.display()
        );
    }
}

#[test]
fn schema_is_structural_and_described() {
    let text = render::all_yaml();
    assert!(!text.contains("additionalProperties: false"));
    assert!(!text.contains("x-kubernetes-preserve-unknown-fields"));
    assert!(!text.contains("format: uint"));
    assert!(
        !text.contains("{{"),
        "the chart would read it as a template"
    );
    assert!(text.contains("description: The kind of messages that the topic takes."));
}

#[test]
fn examples_are_legal() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for (file, documents) in [("quickstart.yaml", 2), ("cluster.yaml", 1)] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(read::read(&text).unwrap().len(), documents, "{file}");
    }
}
