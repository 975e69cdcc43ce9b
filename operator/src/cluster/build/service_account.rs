//! The account of the brokers. Name servers have none: they never speak to the API server.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::cluster::validate::{Part, ValidCluster};

pub(crate) fn service_account(cluster: &ValidCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: cluster.metadata(cluster.account_name(), Part::Brokers),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
