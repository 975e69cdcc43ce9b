//! Reading resources from YAML without an API server, as strictly as one.
//!
//! An unknown field is an error here, under the message that `kubectl` shows: it asks the API
//! server for strict validation, which otherwise would drop the field in silence. Fields of the
//! metadata are Kubernetes' own and not looked at.

use std::collections::BTreeMap;

use kube::CustomResourceExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Broken, BrokerCluster, ConsumerGroup, Topic};

/// One resource of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    BrokerCluster(Box<BrokerCluster>),
    Topic(Box<Topic>),
    ConsumerGroup(Box<ConsumerGroup>),
}

/// Why a stream was refused, and at which of its documents, counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("document {document}: {source}")]
    Yaml {
        document: usize,
        source: serde_yaml::Error,
    },
    #[error("document {document}: unknown field \"{field}\"")]
    UnknownField { document: usize, field: String },
    #[error("document {document}: {version} {kind} is no kind of gantry.dev/v1alpha1")]
    UnknownKind {
        document: usize,
        version: String,
        kind: String,
    },
    #[error("document {document}: {source}")]
    Broken { document: usize, source: Broken },
}

/// Reads a stream of resources and holds each to the rules of its kind.
pub fn read(yaml: &str) -> Result<Vec<Document>, ReadError> {
    let schemas = schemas();
    let mut documents = Vec::new();
    let texts = serde_yaml::Deserializer::from_str(yaml);
    for (index, (shape, text)) in serde_yaml::Deserializer::from_str(yaml)
        .zip(texts)
        .enumerate()
    {
        let document = index + 1;
        let at = |source| ReadError::Yaml { document, source };
        let shape = Value::deserialize(shape).map_err(at)?;
        if shape.is_null() {
            continue;
        }
        let word = |key: &str| shape.get(key).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (word("apiVersion"), word("kind"));
        let schema = schemas
            .get(kind)
            .filter(|_| version == "gantry.dev/v1alpha1");
        let Some(schema) = schema else {
            let (version, kind) = (version.to_owned(), kind.to_owned());
            return Err(ReadError::UnknownKind {
                document,
                version,
                kind,
            });
        };
        if let Some(field) = unknown_field(schema, &shape, "") {
            return Err(ReadError::UnknownField { document, field });
        }
        let (read, verdict) = typed(kind, text).map_err(at)?;
        verdict.map_err(|source| ReadError::Broken { document, source })?;
        documents.push(read);
    }
    Ok(documents)
}

type Judged = (Document, Result<(), Broken>);

fn typed(kind: &str, text: serde_yaml::Deserializer<'_>) -> Result<Judged, serde_yaml::Error> {
    fn of<T: DeserializeOwned>(
        text: serde_yaml::Deserializer<'_>,
        judge: fn(&T) -> Result<(), Broken>,
        wrap: fn(Box<T>) -> Document,
    ) -> Result<Judged, serde_yaml::Error> {
        let resource = T::deserialize(text)?;
        let verdict = judge(&resource);
        Ok((wrap(Box::new(resource)), verdict))
    }
    match kind {
        "BrokerCluster" => of(text, BrokerCluster::validate, Document::BrokerCluster),
        "Topic" => of(text, Topic::validate, Document::Topic),
        _ => of(text, ConsumerGroup::validate, Document::ConsumerGroup),
    }
}

fn schemas() -> BTreeMap<String, Value> {
    let crds = [BrokerCluster::crd(), Topic::crd(), ConsumerGroup::crd()];
    let schema = |crd: &_| {
        let crd = serde_json::to_value(crd).expect("a CRD is JSON");
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema")
            .cloned()
            .unwrap_or_default()
    };
    crds.iter()
        .map(|crd| (crd.spec.names.kind.clone(), schema(crd)))
        .collect()
}

/// The path of the first field that the schema does not know.
fn unknown_field(schema: &Value, value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Array(items) => {
            let of_item = schema.get("items")?;
            let mut numbered = items.iter().enumerate();
            numbered.find_map(|(i, item)| unknown_field(of_item, item, &format!("{path}[{i}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{key}");
            let of_key = schema
                .get("properties")
                .and_then(|properties| properties.get(key));
            match of_key.or_else(|| schema.get("additionalProperties")) {
                Some(schema) => unknown_field(schema, value, &path),
                None if matches!(&*path, "apiVersion" | "kind" | "metadata") => None,
                None => Some(path),
            }
        }),
        _ => None,
    }
}
