//! Topic: queues, permission and attributes of one topic on every broker of a cluster.
//!
//! The resource is the truth: what a broker has otherwise is put right, or reported. What it does
//! not speak of stays as it is, so that an existing topic can be declared without a change.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name;
use crate::place::{self, ClusterRef, SecretRef};
use crate::{Broken, Drift, ManagementPolicy, OnBroker, ensure};

pub const QUEUES_DEFAULT: i32 = 8;
pub const QUEUES_MAX: i32 = 1024;

/// A topic of a BrokerCluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "gantry.dev",
    version = "v1alpha1",
    kind = "Topic",
    doc = "A topic of a BrokerCluster.",
    namespaced,
    status = "TopicStatus",
    derive = "PartialEq",
    shortname = "rkt",
    category = "gantry",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.cluster"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName"),
    printcolumn(name = "Queues", type_ = "string", json_path = ".status.queues"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.messageType"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Drift",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"DriftDetected\")].status"
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
#[x_kube(
    validation = Rule::new(place::EITHER_RULE).message(place::EITHER),
    validation = Rule::new(place::MOVED_RULE).message(place::MOVED),
    validation = Rule::new(place::SECRET_RULE).message(place::SECRET),
    validation = Rule::new("has(self.readQueues) == has(self.writeQueues)").message(BOTH),
    validation = Rule::new("!(has(self.queues) && has(self.readQueues))").message(EITHER),
    validation = Rule::new(UNREAD_RULE).message(UNREAD),
    validation = Rule::new(TYPE_TWICE_RULE).message(TYPE_TWICE),
    validation = Rule::new(RETENTION_TWICE_RULE).message(RETENTION_TWICE)
)]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// The BrokerCluster, in this namespace, that has the topic. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef is immutable"))]
    pub cluster_ref: Option<ClusterRef>,
    /// Name servers of an existing RocketMQ that has the topic, instead of clusterRef. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "place::name_servers_schema")]
    #[x_kube(
        validation = Rule::new(place::NAME_SERVERS_RULE).message(place::NAME_SERVERS),
        validation = Rule::new("self == oldSelf").message("nameServers is immutable")
    )]
    pub name_servers: Option<Vec<String>>,
    /// Credentials for the brokers behind nameServers, if they ask for signed requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Name of the topic; metadata.name when absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 127))]
    #[x_kube(
        validation = Rule::new(name::TOPIC_RULE).message(name::TOPIC_MESSAGE),
        validation = Rule::new(name::TOPIC_RESERVED_RULE).message(name::TOPIC_RESERVED_MESSAGE)
    )]
    pub topic_name: Option<String>,
    /// Queues on each broker, for reading and writing: 1 to 1024. A new topic has 8 when nothing is
    /// said, and an existing one keeps what it has. When there are fewer, the rest is read by all
    /// groups before it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(RANGE_RULE).message(QUEUES_RANGE))]
    pub queues: Option<i32>,
    /// Queues on each broker that consumers read. Together with writeQueues, instead of queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(RANGE_RULE).message(READ_RANGE))]
    pub read_queues: Option<i32>,
    /// Queues on each broker that producers write. Together with readQueues, instead of queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(RANGE_RULE).message(WRITE_RANGE))]
    pub write_queues: Option<i32>,
    /// What clients may do with the topic.
    #[serde(default)]
    pub permission: Permission,
    /// Marks a topic whose order spans brokers: its route is fixed while a broker is away.
    #[serde(default)]
    pub order: bool,
    /// The kind of messages that the topic takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_type: Option<MessageType>,
    /// Hours that its messages are kept, where that is longer than the broker keeps others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 87600").message(RETENTION))]
    pub retention_hours: Option<i32>,
    /// Further attributes of the topic, such as cleanup.policy, by their plain names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "attributes_schema")]
    #[x_kube(validation = Rule::new(ATTRIBUTES_RULE).message(ATTRIBUTES))]
    pub attributes: BTreeMap<String, String>,
    /// The brokers that have the topic.
    #[serde(default)]
    pub placement: Placement,
    /// Retain leaves the topic on the brokers when this resource is deleted; Delete removes it with
    /// all of its messages; DeleteIfEmpty waits until it holds none.
    #[serde(default)]
    pub deletion_policy: TopicDeletionPolicy,
    /// Manage makes the brokers be as the resource says; Observe only tells how they differ.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
    /// What must not happen to the topic, whatever else is said.
    #[serde(default)]
    pub protection: Protection,
}

/// The brokers that have a topic.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Names of the brokers; all of the cluster when empty. A broker that is taken away keeps what
    /// it has.
    #[schemars(length(max = 64))]
    pub groups: Vec<String>,
}

/// What becomes of a topic when its resource is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum TopicDeletionPolicy {
    #[default]
    Retain,
    Delete,
    DeleteIfEmpty,
}

/// What must not happen to a topic.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Protection {
    /// The resource can't be deleted until this is false again, and the topic stays.
    pub prevent_delete: bool,
    /// The topic is created if it is missing, but never changed.
    pub prevent_update: bool,
}

/// What clients may do with a topic.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum Permission {
    #[default]
    ReadWrite,
    ReadOnly,
    WriteOnly,
    None,
}

/// The kinds of messages that a topic is made for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum MessageType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    Mixed,
}

/// What the operator has seen of a topic.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The generation of the resource that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// The name that clients use.
    #[serde(default)]
    pub topic_name: String,
    /// The BrokerCluster, or the first name server.
    #[serde(default)]
    pub cluster: String,
    /// Queues on each broker; read and write queues where they differ.
    #[serde(default)]
    pub queues: String,
    /// What each broker of the cluster has.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub brokers: Vec<OnBroker>,
    /// Settings that differ and are left so; 32 at most.
    #[serde(default)]
    pub drift: Vec<Drift>,
    /// Ready, Reconciling, Stalled, Synced, DriftDetected, Shrinking and Conflict.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl Topic {
    /// The name that clients use.
    pub fn wire_name(&self) -> String {
        self.spec
            .topic_name
            .clone()
            .unwrap_or_else(|| self.name_any())
    }

    /// Read and write queues on each broker of a new topic.
    pub fn queue_numbers(&self) -> (i32, i32) {
        let queues = self.spec.queues.unwrap_or(QUEUES_DEFAULT);
        (
            self.spec.read_queues.unwrap_or(queues),
            self.spec.write_queues.unwrap_or(queues),
        )
    }

    /// The rules of the schema that need no older version of the resource.
    pub fn validate(&self) -> Result<(), Broken> {
        let spec = &self.spec;
        place::check(
            spec.cluster_ref.as_ref(),
            spec.name_servers.as_deref(),
            spec.secret_ref.as_ref(),
        )?;
        if let Some(name) = &spec.topic_name {
            ensure(
                name::is_legal(name, name::TOPIC_CHARS_MAX),
                name::TOPIC_MESSAGE,
            )?;
            ensure(!name::is_reserved_topic(name), name::TOPIC_RESERVED_MESSAGE)?;
        } else {
            let name = self.name_any();
            ensure(name::is_legal(&name, name::TOPIC_CHARS_MAX), NAMED)?;
        }
        let in_range = |n: Option<i32>| n.is_none_or(|n| (1..=QUEUES_MAX).contains(&n));
        ensure(in_range(spec.queues), QUEUES_RANGE)?;
        ensure(in_range(spec.read_queues), READ_RANGE)?;
        ensure(in_range(spec.write_queues), WRITE_RANGE)?;
        ensure(
            spec.read_queues.is_some() == spec.write_queues.is_some(),
            BOTH,
        )?;
        ensure(spec.queues.is_none() || spec.read_queues.is_none(), EITHER)?;
        let (read, write) = self.queue_numbers();
        ensure(read >= write, UNREAD)?;
        ensure(
            spec.attributes.iter().all(|(k, v)| is_attribute(k, v)),
            ATTRIBUTES,
        )?;
        let twice = spec.message_type.is_some() && spec.attributes.contains_key("message.type");
        ensure(!twice, TYPE_TWICE)?;
        let hours = spec.retention_hours;
        ensure(hours.is_none_or(|n| (1..=87_600).contains(&n)), RETENTION)?;
        let twice = hours.is_some() && spec.attributes.contains_key("reserve.time");
        ensure(!twice, RETENTION_TWICE)
    }
}

fn is_attribute(key: &str, value: &str) -> bool {
    let key_legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.';
    let value_legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&key.len())
        && key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.bytes().all(key_legal)
        && (1..=128).contains(&value.len())
        && value.bytes().all(value_legal)
}

/// Bounded in size, so that the API server can tell what the rule costs.
fn attributes_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 128}
    })
}

const NAMED_RULE: &str =
    "has(self.spec.topicName) || self.metadata.name.matches('^[a-z0-9-]{1,127}$')";
const NAMED: &str = "metadata.name is not a legal name of a topic: set spec.topicName";
const RENAMED_RULE: &str = "(has(self.spec.topicName) ? self.spec.topicName : self.metadata.name) \
     == (has(oldSelf.spec.topicName) ? oldSelf.spec.topicName : oldSelf.metadata.name)";
const RENAMED: &str = "topicName is immutable";
const RANGE_RULE: &str = "self >= 1 && self <= 1024";
const QUEUES_RANGE: &str = "queues must be between 1 and 1024";
const READ_RANGE: &str = "readQueues must be between 1 and 1024";
const WRITE_RANGE: &str = "writeQueues must be between 1 and 1024";
const BOTH: &str = "readQueues and writeQueues go together: set both or none";
const EITHER: &str = "set either queues or readQueues and writeQueues";
const UNREAD_RULE: &str =
    "!has(self.readQueues) || !has(self.writeQueues) || self.readQueues >= self.writeQueues";
const UNREAD: &str = "readQueues must be at least writeQueues: nobody would read the rest";
const ATTRIBUTES_RULE: &str = "self.all(k, k.matches('^[a-z][a-z0-9.]{0,63}$') && \
     self[k].matches('^[a-zA-Z0-9._-]{1,128}$'))";
const ATTRIBUTES: &str = "attributes must have plain names such as cleanup.policy, without + or -, \
     and values of 1 to 128 letters, digits, '.', '_' and '-'";
const TYPE_TWICE_RULE: &str = "!has(self.messageType) || !has(self.attributes) || \
     !('message.type' in self.attributes)";
const TYPE_TWICE: &str = "set either messageType or the attribute message.type";
const RETENTION: &str = "retentionHours must be between 1 and 87600";
const RETENTION_TWICE_RULE: &str = "!has(self.retentionHours) || !has(self.attributes) || \
     !('reserve.time' in self.attributes)";
const RETENTION_TWICE: &str = "set either retentionHours or the attribute reserve.time";
