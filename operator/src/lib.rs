//! The controller of the three custom resources.
//!
//! - [`cluster`]: a BrokerCluster becomes Kubernetes objects
//! - [`topic`], [`group`]: a Topic and a ConsumerGroup in the words of the admin protocol, put
//!   onto every broker by what they have in common, [`declared`]
//! - [`admin`]: calls to brokers and name servers
//! - [`leader`]: which of several operators acts
//! - [`apply`], [`quantity`], [`condition`], [`metrics`]: writes, sizes, verdicts and numbers of
//!   all of them
//!
//! Each kind goes the same way: fetch, validate, build, apply, status. A reconcile is idempotent,
//! keeps nothing in memory and never waits; a watch or a time brings it back.

mod cluster;
mod topic;
mod group;
mod declared;
mod admin;
mod leader;
mod apply;
mod quantity;
mod condition;
mod metrics;
mod process;

pub use group::group_config;
pub use process::{Error, Options, run};
pub use topic::{create_topic, topic_config};

pub(crate) use process::Operator;
