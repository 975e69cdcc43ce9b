//! Writes to the Kubernetes API: server-side apply under one field manager, and only where there
//! is something to change.
//!
//! An object carries a hash of what was applied. It is applied again when the hash is another one
//! (a field may have gone) or when a field that was applied is no longer what it was (somebody
//! else changed it). So nothing need be remembered, and a resync of what is as it should be writes
//! nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Error, Operator, quantity};

pub(crate) const FIELD_MANAGER: &str = "gantry-operator";
/// Hash of what was applied.
const APPLIED: &str = "gantry.dev/applied";

/// Objects of one kind that an owner has, by name. What is left when all wanted ones were settled
/// are orphans.
#[derive(Debug)]
pub(crate) struct Live<K> {
    objects: BTreeMap<String, K>,
    owner_uid: String,
}

/// A kind of object that the operator makes.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
{
}

impl<K: Kind> Live<K> {
    pub(crate) fn get(&self, name: &str) -> Option<&K> {
        self.objects.get(name)
    }
}

impl Operator {
    /// The objects of a kind with these labels that `owner_uid` owns.
    pub(crate) async fn live<K: Kind>(
        &self,
        namespace: &str,
        labels: &str,
        owner_uid: &str,
    ) -> Result<Live<K>, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let found = api.list(&ListParams::default().labels(labels)).await;
        let objects = found.map_err(Error::Read)?.items.into_iter();
        let objects = objects.filter(|object| is_owned_by(object, owner_uid));
        Ok(Live {
            objects: objects.map(|object| (object.name_any(), object)).collect(),
            owner_uid: owner_uid.to_owned(),
        })
    }

    /// Makes an object be as it is said, and returns it as it is then.
    pub(crate) async fn settle<K: Kind>(
        &self,
        live: &mut Live<K>,
        mut wanted: K,
    ) -> Result<K, Error> {
        let name = wanted.name_any();
        let hash = hash(&to_value(&wanted));
        wanted.annotations_mut().insert(APPLIED.to_owned(), hash);
        let namespace = wanted.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        match live.objects.remove(&name) {
            Some(found) if covers(&to_value(&found), &to_value(&wanted)) => return Ok(found),
            Some(_) => {}
            None => {
                let taken = api.get_opt(&name).await.map_err(Error::Read)?;
                if taken.is_some_and(|other| !is_owned_by(&other, &live.owner_uid)) {
                    let kind = K::kind(&());
                    return Err(Error::Taken(format!("{kind} {name}")));
                }
            }
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&name, &params, &Patch::Apply(&wanted)).await;
        applied.map_err(|source| Error::Write {
            what: format!("{} {name}", K::kind(&())),
            source,
        })
    }

    /// Deletes what was not wanted.
    pub(crate) async fn drop_orphans<K: Kind>(&self, live: Live<K>) -> Result<(), Error> {
        for (name, object) in live.objects {
            tracing::info!(kind = %K::kind(&()), name, "an orphan goes");
            self.delete(&object).await?;
        }
        Ok(())
    }

    /// Deletes this very object, not another one of its name.
    pub(crate) async fn delete<K: Kind>(&self, object: &K) -> Result<(), Error> {
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let name = object.name_any();
        match api.delete(&name, &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            deleted => deleted.map(drop).map_err(|source| Error::Write {
                what: format!("{} {name}", K::kind(&())),
                source,
            }),
        }
    }

    /// Writes the status of a custom resource when it differs from the one it has.
    pub(crate) async fn write_status<K: Kind, S: Serialize + PartialEq>(
        &self,
        object: &K,
        found: Option<&S>,
        wanted: &S,
    ) -> Result<(), Error> {
        if found == Some(wanted) {
            return Ok(());
        }
        let name = object.name_any();
        let namespace = object.namespace().unwrap_or_default();
        let api = Api::<K>::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name},
            "status": wanted,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = api
            .patch_status(&name, &params, &Patch::Apply(&patch))
            .await;
        let what = || format!("the status of {} {name}", K::kind(&()));
        written.map(drop).map_err(|source| Error::Write {
            what: what(),
            source,
        })
    }
}

fn is_owned_by<K: Resource>(object: &K, uid: &str) -> bool {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid)
}

fn to_value(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("invariant: plain data is JSON")
}

/// Half of a SHA-256, in hex.
pub(crate) fn hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    let hex: Vec<String> = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    hex.concat()
}

/// Whether `found` says all that `wanted` says. What is empty is as good as absent, and the API
/// server writes quantities in a way of its own.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| covers(found.get(key).unwrap_or(&Value::Null), wanted)),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| covers(f, w))
        }
        (Value::Null, wanted) => is_empty(wanted),
        (Value::String(found), Value::String(wanted)) => {
            found == wanted || quantity::same(found, wanted)
        }
        (found, wanted) => found == wanted,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_again() {
        let table = [
            (json!({"a": 1, "b": 2}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), false),
            (
                json!({"a": 1}),
                json!({"a": 1, "b": {}, "c": [], "d": null}),
                true,
            ),
            (
                json!({"a": {"b": {"c": 1}}}),
                json!({"a": {"b": {"c": 2}}}),
                false,
            ),
            (
                json!({"l": [{"n": 1, "more": 2}]}),
                json!({"l": [{"n": 1}]}),
                true,
            ),
            (json!({"l": [1, 2]}), json!({"l": [1]}), false),
            (json!({"size": "2Gi"}), json!({"size": "2048Mi"}), true),
            (json!({"cpu": "500m"}), json!({"cpu": "0.5"}), true),
            (json!({"size": "2Gi"}), json!({"size": "3Gi"}), false),
            (json!({"name": "a"}), json!({"name": "b"}), false),
            (json!({}), json!({"empty": {"of": {}}}), true),
        ];
        for (found, wanted, expected) in table {
            assert_eq!(covers(&found, &wanted), expected, "{found} {wanted}");
        }
    }
}
