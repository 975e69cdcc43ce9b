//! ConsumerGroup: how every broker of a cluster treats one group of consumers.
//!
//! The defaults are those that a broker gives to a group that it has never heard of, so that
//! declaring an existing group changes nothing but its owner.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::name;
use crate::{Broken, ClusterRef, DeletionPolicy, OnBroker, ensure, yes};

/// A consumer group of a BrokerCluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "gantry.dev",
    version = "v1alpha1",
    kind = "ConsumerGroup",
    doc = "A consumer group of a BrokerCluster.",
    namespaced,
    status = "ConsumerGroupStatus",
    derive = "PartialEq",
    shortname = "rkcg",
    category = "gantry",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.groupName"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(NAMED_RULE).message(NAMED),
    validation = Rule::new(RENAMED_RULE).message(RENAMED)
)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerGroupSpec {
    /// The cluster that has the group. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef is immutable"))]
    pub cluster_ref: ClusterRef,
    /// Name of the group; metadata.name when absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 120))]
    #[x_kube(
        validation = Rule::new(name::GROUP_RULE).message(name::GROUP_MESSAGE),
        validation = Rule::new(name::GROUP_RESERVED_RULE).message(name::GROUP_RESERVED_MESSAGE)
    )]
    pub group_name: Option<String>,
    /// False stops the delivery of messages to the group.
    #[serde(default = "yes")]
    pub consume_enable: bool,
    /// Whether a new member may start at the oldest message.
    #[serde(default = "yes")]
    pub consume_from_min: bool,
    /// Whether members may consume in broadcasting mode.
    #[serde(default = "yes")]
    pub broadcast: bool,
    /// Keeps the order of each queue when messages are popped.
    #[serde(default)]
    pub orderly: bool,
    /// What happens to a message whose consumption failed.
    #[serde(default)]
    pub retry: Retry,
    /// Minutes after which a message that a consumer holds is given up.
    #[serde(default = "consume_timeout_minutes")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 1440").message(TIMEOUT))]
    pub consume_timeout_minutes: i32,
    /// Tells the members at once when the membership changes, so that they share the queues anew.
    #[serde(default = "yes")]
    pub notify_membership_change: bool,
    /// Retain leaves the group and its offsets on the brokers when this resource is deleted;
    /// Delete removes both.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// How often and through how many queues a failed message is delivered again.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Further deliveries of a message before it goes to the dead-letter topic: 0 to 1000.
    #[serde(default = "retry_max_times")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 1000").message(MAX_TIMES))]
    pub max_times: i32,
    /// Queues of the retry topic: 1 to 64.
    #[serde(default = "retry_queues")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 64").message(QUEUES))]
    pub queues: i32,
}

/// What the operator has seen of a consumer group.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerGroupStatus {
    /// The generation of the resource that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// The name that clients use.
    #[serde(default)]
    pub group_name: String,
    /// What each broker of the cluster has.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub brokers: Vec<OnBroker>,
    /// Ready, Reconciling and Stalled.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl ConsumerGroup {
    /// The name that clients use.
    pub fn wire_name(&self) -> String {
        self.spec
            .group_name
            .clone()
            .unwrap_or_else(|| self.name_any())
    }

    /// The rules of the schema that need no older version of the resource.
    pub fn validate(&self) -> Result<(), Broken> {
        let spec = &self.spec;
        if let Some(name) = &spec.group_name {
            ensure(
                name::is_legal(name, name::GROUP_CHARS_MAX),
                name::GROUP_MESSAGE,
            )?;
            ensure(!name::is_reserved_group(name), name::GROUP_RESERVED_MESSAGE)?;
        } else {
            let name = self.name_any();
            ensure(name::is_legal(&name, name::GROUP_CHARS_MAX), NAMED)?;
        }
        ensure((0..=1000).contains(&spec.retry.max_times), MAX_TIMES)?;
        ensure((1..=64).contains(&spec.retry.queues), QUEUES)?;
        ensure((1..=1440).contains(&spec.consume_timeout_minutes), TIMEOUT)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            max_times: retry_max_times(),
            queues: retry_queues(),
        }
    }
}

fn retry_max_times() -> i32 {
    16
}

fn retry_queues() -> i32 {
    1
}

fn consume_timeout_minutes() -> i32 {
    15
}

const NAMED_RULE: &str =
    "has(self.spec.groupName) || self.metadata.name.matches('^[a-z0-9-]{1,120}$')";
const NAMED: &str = "metadata.name is not a legal name of a consumer group: set spec.groupName";
const RENAMED_RULE: &str = "(has(self.spec.groupName) ? self.spec.groupName : self.metadata.name) \
     == (has(oldSelf.spec.groupName) ? oldSelf.spec.groupName : oldSelf.metadata.name)";
const RENAMED: &str = "groupName is immutable";
const MAX_TIMES: &str = "retry.maxTimes must be between 0 and 1000";
const QUEUES: &str = "retry.queues must be between 1 and 64";
const TIMEOUT: &str = "consumeTimeoutMinutes must be between 1 and 1440";
