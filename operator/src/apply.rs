//! Writes to the Kubernetes API: server-side apply under one field manager.
//!
//! Applying what is already there changes nothing: no resource version, no event of a watch. A
//! status is compared first and not sent at all.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::Error;

pub(crate) const FIELD_MANAGER: &str = "gantry-operator";

/// Makes an object be as it is said, and returns it as it is then.
pub(crate) async fn apply<K>(client: &Client, object: &K) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    let name = object.name_any();
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
    applied.map_err(|source| Error::Write {
        what: format!("{} {name}", K::kind(&())),
        source,
    })
}

/// Writes the status of a custom resource when it differs from the one it has.
pub(crate) async fn write_status<K, S>(
    client: &Client,
    object: &K,
    found: Option<&S>,
    wanted: &S,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned,
    S: Serialize + PartialEq,
{
    if found == Some(wanted) {
        return Ok(());
    }
    let name = object.name_any();
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
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
