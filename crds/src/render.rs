//! The CRDs as YAML: one file a kind, all in one stream, and the Helm template.
//!
//! Kubernetes' own types are embedded without their descriptions, which would be most of the file;
//! `kubectl explain pod.spec` has them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{BrokerCluster, ConsumerGroup, Topic};

const HEADER: &str =
    "# Generated from the types in crds/: UPDATE_GOLDEN=1 cargo test -p gantry-crds\n";

/// All CRDs as one stream, ready for `kubectl apply -f -`.
pub fn all_yaml() -> String {
    let documents: Vec<String> = files().into_iter().map(|(_, yaml)| yaml).collect();
    documents.join("---\n")
}

/// Each CRD with the name of its file.
pub fn files() -> Vec<(&'static str, String)> {
    vec![
        ("brokerclusters.yaml", yaml(&BrokerCluster::crd())),
        ("topics.yaml", yaml(&Topic::crd())),
        ("consumergroups.yaml", yaml(&ConsumerGroup::crd())),
    ]
}

/// The CRDs as a template of the chart. They stay when the chart goes, and with them every
/// resource of a user.
pub fn chart_template() -> String {
    let keep = "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n";
    let crds = all_yaml()
        .replace(HEADER, "")
        .replace("\nmetadata:\n", &format!("\n{keep}"));
    format!("{HEADER}{{{{- if .Values.crds.create }}}}\n{crds}{{{{- end }}}}\n")
}

fn yaml(crd: &CustomResourceDefinition) -> String {
    let mut crd = serde_json::to_value(crd).expect("a CRD is JSON");
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    for field in ["resources", "template"] {
        if let Some(schema) = crd.pointer_mut(&format!("{spec}/{field}/properties")) {
            for of_field in schema.as_object_mut().into_iter().flatten() {
                strip_below(of_field.1);
            }
        }
    }
    let yaml = serde_yaml::to_string(&crd).expect("JSON is YAML");
    format!("{HEADER}{yaml}")
}

/// Removes the descriptions of everything below a schema, but not its own.
fn strip_below(schema: &mut Value) {
    for (key, value) in schema.as_object_mut().into_iter().flatten() {
        match value {
            Value::Object(properties) if key == "properties" => {
                for property in properties.values_mut() {
                    strip(property);
                }
            }
            Value::Object(_) if key == "items" || key == "additionalProperties" => strip(value),
            _ => {}
        }
    }
}

fn strip(schema: &mut Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("description");
    }
    strip_below(schema);
}
