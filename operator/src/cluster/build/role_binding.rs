//! Gives the brokers' account its role.

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use crate::cluster::validate::{Part, ValidCluster};

pub(crate) fn role_binding(cluster: &ValidCluster) -> RoleBinding {
    let name = cluster.account_name();
    RoleBinding {
        metadata: cluster.metadata(name.clone(), Part::Brokers),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: Some(cluster.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
