//! Volumes grow: the claims of a cluster are asked for the size that it says.
//!
//! A claim that is larger already, since somebody else has grown it, is left as it is.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::validate::{Part, ValidCluster, as_text};
use crate::{Error, Operator, quantity};

/// Asks for what is missing; says which volume is waited for.
pub(super) async fn grow(
    operator: &Operator,
    valid: &ValidCluster,
) -> Result<Option<String>, Error> {
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(operator.client.clone(), &valid.namespace);
    let labels = as_text(&valid.selector(Part::Brokers));
    let claims = api.list(&ListParams::default().labels(&labels)).await;
    let size = &valid.spec.storage.size;
    let mut waited_for = None;
    for claim in claims.map_err(Error::Read)? {
        let name = claim.name_any();
        match step(&claim, size) {
            Step::Nothing => continue,
            Step::Wait => {}
            Step::Ask => {
                tracing::info!(claim = name, size, "the volume grows");
                let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
                let patched = api
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await;
                let what = format!("PersistentVolumeClaim {name}");
                patched.map_err(|source| Error::Write { what, source })?;
            }
        }
        waited_for.get_or_insert_with(|| format!("volume {name} grows to {size}"));
    }
    Ok(waited_for)
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Ask,
    Wait,
}

fn step(claim: &PersistentVolumeClaim, size: &str) -> Step {
    let status = claim.status.as_ref();
    // Only a claim with a volume can grow; before that, nothing is stored yet.
    if status.and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Step::Nothing;
    }
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requested = resources.and_then(|resources| resources.requests.as_ref());
    let storage = |sizes: &std::collections::BTreeMap<String, Quantity>| {
        sizes.get("storage").map(|size| size.0.clone())
    };
    let is_less = |found: Option<String>| found.is_some_and(|found| quantity::more(size, &found));
    if is_less(requested.and_then(storage)) {
        return Step::Ask;
    }
    let capacity = status.and_then(|status| status.capacity.as_ref());
    if is_less(capacity.and_then(storage)) {
        return Step::Wait;
    }
    Step::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_grow_and_never_shrink() {
        let claim = |phase: &str, requested: &str, capacity: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({
                "metadata": {"name": "data"},
                "spec": {"resources": {"requests": {"storage": requested}}},
                "status": {"phase": phase, "capacity": {"storage": capacity}},
            }))
            .unwrap()
        };
        let table = [
            (claim("Bound", "1Gi", "1Gi"), "1Gi", Step::Nothing),
            (claim("Bound", "1Gi", "1Gi"), "2Gi", Step::Ask),
            (claim("Bound", "2Gi", "1Gi"), "2Gi", Step::Wait),
            (claim("Bound", "2Gi", "2Gi"), "2048Mi", Step::Nothing),
            (claim("Bound", "3Gi", "3Gi"), "2Gi", Step::Nothing),
            (claim("Pending", "1Gi", "0"), "2Gi", Step::Nothing),
        ];
        for (claim, size, expected) in table {
            assert_eq!(step(&claim, size), expected, "{claim:?} {size}");
        }
    }
}
