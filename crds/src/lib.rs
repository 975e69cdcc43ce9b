//! The three custom resources of the group `gantry.dev/v1alpha1`.
//!
//! A `BrokerCluster` is name servers and broker groups; a `Topic` and a `ConsumerGroup` are what
//! the administrator wants on every broker of a cluster. Each type is the one source of its CRD:
//! the schema, its rules and its descriptions are derived from here, and the files beside this
//! crate are kept fresh by a test.
//!
//! Every rule stands twice, in CEL for the API server and in Rust for a reader without one, under
//! one message; `e2e/resources` holds examples that all judges must agree on.
// `KubeSchema` repeats each struct inside a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]

pub mod name;
pub mod cluster;
pub mod place;
pub mod topic;
pub mod group;
pub mod render;
pub mod read;

pub use cluster::{BrokerCluster, BrokerClusterSpec, BrokerClusterStatus};
pub use group::{ConsumerGroup, ConsumerGroupSpec, ConsumerGroupStatus};
pub use topic::{Topic, TopicSpec, TopicStatus};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A rule of the schema that a resource breaks, in the words of the API server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// Whether the operator makes brokers be as a resource says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum ManagementPolicy {
    #[default]
    Manage,
    Observe,
}

/// What becomes of the data when a resource is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

/// What one broker of the cluster has of a Topic or ConsumerGroup.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct OnBroker {
    /// Name of the broker.
    pub name: String,
    /// True when the broker has exactly what the resource says.
    pub synced: bool,
    /// Why it has not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A setting that a broker has otherwise than the resource says.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub struct Drift {
    /// Name of the broker.
    pub broker: String,
    /// The setting, in the resource's words.
    pub field: String,
    /// What the resource says.
    pub want: String,
    /// What the broker has.
    pub have: String,
}

pub(crate) fn ensure(holds: bool, message: &'static str) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(message)) }
}

pub(crate) fn yes() -> bool {
    true
}
