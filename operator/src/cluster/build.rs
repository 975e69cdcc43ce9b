//! What a BrokerCluster becomes: pure functions, one Kubernetes object a file.
//!
//! None of them reads a cluster, so that each object is compared with a golden file in a test.

mod service_account;
mod role;
mod role_binding;
mod budget;
mod network_policy;
mod pod;
mod name_server_service;
mod name_server_pods;
mod name_server_set;
mod broker_service;
mod rw_service;
mod rw_slice;
mod config_map;
mod broker_set;

pub(super) use broker_service::broker_service;
pub(super) use broker_set::broker_set;
pub(super) use budget::budget;
pub(super) use config_map::config_map;
pub(super) use name_server_pods::name_server_pods;
pub(super) use name_server_service::name_server_service;
pub(super) use name_server_set::name_server_set;
pub(super) use network_policy::network_policy;
pub(super) use role::role;
pub(super) use role_binding::role_binding;
pub(super) use rw_service::rw_service;
pub(super) use rw_slice::rw_slice;
pub(super) use service_account::service_account;
