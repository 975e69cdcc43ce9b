//! BrokerCluster: name servers and broker groups, their storage and their configuration.
//!
//! What may never change (names, the storage class) and what may only grow (groups, storage) is
//! said by transition rules. What a later version will take is refused until then, not ignored.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Broken, DeletionPolicy, ensure, yes};

pub const GROUPS_MAX: i32 = 64;

/// A cluster of brokers with its name servers.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "gantry.dev",
    version = "v1alpha1",
    kind = "BrokerCluster",
    doc = "A cluster of brokers with its name servers.",
    namespaced,
    status = "BrokerClusterStatus",
    derive = "PartialEq",
    shortname = "bkc",
    category = "gantry",
    scale(
        spec_replicas_path = ".spec.groups",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Groups", type_ = "integer", json_path = ".spec.groups"),
    printcolumn(name = "Ready groups", type_ = "integer", json_path = ".status.readyGroups"),
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
    validation = Rule::new(NAME_RULE).message(NAME),
    validation = Rule::new(RENAMED_RULE).message(RENAMED)
)]
#[x_kube(validation = Rule::new(RETENTION_RULE).message(RETENTION))]
#[serde(rename_all = "camelCase")]
pub struct BrokerClusterSpec {
    /// Name of the cluster on the wire; metadata.name when absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new(CLUSTER_NAME_RULE).message(CLUSTER_NAME))]
    pub cluster_name: Option<String>,
    /// Broker groups, each with its own log: 1 to 64.
    #[serde(default = "one")]
    #[x_kube(
        validation = Rule::new("self >= 1 && self <= 64").message(GROUPS),
        validation = Rule::new("self >= oldSelf").message(GROUPS_SHRINK)
    )]
    pub groups: i32,
    /// Copies of each group's log. Only 1 in this version.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self == 1").message(REPLICAS))]
    pub replicas_per_group: i32,
    /// The name servers that clients ask for routes.
    #[serde(default)]
    pub name_server: NameServer,
    /// The volume of each broker.
    pub storage: Storage,
    /// How long messages are kept, and what happens when a volume fills up.
    #[serde(default)]
    pub retention: Retention,
    /// When a message is acknowledged: sync after it is on disk, async before.
    #[serde(default)]
    pub flush: Flush,
    /// Broker properties by their RocketMQ names, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "config_schema")]
    #[x_kube(
        validation = Rule::new(config_reserved_rule()).message(CONFIG),
        validation = Rule::new(config_unknown_rule()).message(CONFIG_UNKNOWN),
        validation = Rule::new(config_values_rule()).message(CONFIG_VALUES)
    )]
    pub config: BTreeMap<String, String>,
    /// Compute resources of each broker.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Rules for topics that no Topic declares.
    #[serde(default)]
    pub topic_policy: TopicPolicy,
    /// Who may connect to the pods.
    #[serde(default)]
    pub network_policy: NetworkPolicy,
    /// Additions to the pods of brokers and name servers.
    #[serde(default)]
    pub template: PodTemplate,
    /// Retain keeps the volumes when this resource is deleted; Delete removes them with all
    /// messages.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// True leaves everything as it is until it is false again. Brokers go on serving.
    #[serde(default)]
    pub paused: bool,
    /// Image of brokers and name servers; the operator's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
}

/// The name servers of a cluster.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NameServer {
    /// Name servers, each of which knows all routes: 1 to 5.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 5").message(NAME_SERVERS))]
    pub replicas: i32,
}

/// Who may connect to the pods.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// True closes every port but those for clients, metrics and probes.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// The volume of each broker.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(CLASS_RULE).message(CLASS))]
pub struct Storage {
    /// Size of the volume, such as 20Gi. It may only grow.
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new(SIZE_RULE).message(SIZE),
        validation = Rule::new(SIZE_SHRINK_RULE).message(SIZE_SHRINK)
    )]
    pub size: String,
    /// Storage class of the volume; the default class when absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// When volumes are removed.
    #[serde(default)]
    pub retention_policy: RetentionPolicy,
}

/// How long messages are kept, and what happens when a volume fills up.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(PERCENT_ORDER_RULE).message(PERCENT_ORDER))]
pub struct Retention {
    /// How long messages are kept: a whole number with one of s, m, h and d.
    #[serde(default = "kept")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(KEPT_RULE).message(KEPT))]
    pub time: String,
    /// Above this use of the volume, in percent, messages go early that every group has consumed.
    #[serde(default = "percent::<75>")]
    #[x_kube(validation = Rule::new(PERCENT_RULE).message(PERCENT))]
    pub clean_percent: i32,
    /// Above this use of the volume, in percent, messages are refused until there is room.
    #[serde(default = "percent::<90>")]
    #[x_kube(validation = Rule::new(PERCENT_RULE).message(PERCENT))]
    pub reject_percent: i32,
    /// Above cleanPercent, messages go early that somebody has still to consume.
    #[serde(default)]
    pub delete_unconsumed_when_full: bool,
}

/// When volumes are removed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionPolicy {
    /// When the BrokerCluster is deleted; as deletionPolicy when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<DeletionPolicy>,
    /// When a broker group has fewer replicas than volumes.
    #[serde(default)]
    pub when_scaled: DeletionPolicy,
}

/// When a message counts as stored.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    Sync,
    #[default]
    Async,
}

/// Rules for topics that no Topic declares.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicPolicy {
    /// Whether a message to an unknown topic creates it.
    #[serde(default)]
    pub auto_create: AutoCreate,
}

/// Whether a message to an unknown topic creates it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum AutoCreate {
    Allow,
    #[default]
    Deny,
}

/// Additions to the pods of brokers and name servers, in the terms of a pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTemplate {
    /// Labels of the pods, beside the operator's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, beside the operator's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Affinity, instead of the operator's preference for different nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Spread constraints, instead of the operator's preference for different zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Secrets for pulling the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Priority class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// What the operator has seen of a cluster.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrokerClusterStatus {
    /// The generation of the resource that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Broker groups that exist; read by the scale sub-resource.
    #[serde(default)]
    pub replicas: i32,
    /// Broker groups that serve clients.
    #[serde(default)]
    pub ready_groups: i32,
    /// Selector of the broker pods; read by the scale sub-resource.
    #[serde(default)]
    pub selector: String,
    /// Addresses of the name servers.
    #[serde(default)]
    pub name_servers: Vec<String>,
    /// The broker groups.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub groups: Vec<GroupStatus>,
    /// Ready, Reconciling and Stalled.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One broker group.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Name of the broker.
    pub name: String,
    /// Address and port that messages carry. It outlives the Service that it came from.
    pub address: String,
    /// True when the group serves clients.
    #[serde(default)]
    pub ready: bool,
}

impl BrokerCluster {
    /// Name of the cluster on the wire.
    pub fn wire_name(&self) -> String {
        self.spec
            .cluster_name
            .clone()
            .unwrap_or_else(|| self.name_any())
    }

    /// True when the volumes go with the resource.
    pub fn deletes_volumes(&self) -> bool {
        self.spec.deletion_policy == DeletionPolicy::Delete
            && self.spec.storage.retention_policy.when_deleted != Some(DeletionPolicy::Retain)
    }

    /// The rules of the schema that need no older version of the resource, but for the format of
    /// quantities, which only the API server reads.
    pub fn validate(&self) -> Result<(), Broken> {
        let spec = &self.spec;
        ensure(is_label(&self.name_any()), NAME)?;
        let name = spec.cluster_name.as_deref();
        ensure(name.is_none_or(is_wire_name), CLUSTER_NAME)?;
        ensure((1..=GROUPS_MAX).contains(&spec.groups), GROUPS)?;
        ensure(spec.replicas_per_group == 1, REPLICAS)?;
        ensure((1..=5).contains(&spec.name_server.replicas), NAME_SERVERS)?;
        let Retention {
            time,
            clean_percent,
            reject_percent,
            ..
        } = &spec.retention;
        ensure(is_time_span(time), KEPT)?;
        let is_percent = |percent: &i32| (1..=99).contains(percent);
        ensure(
            is_percent(clean_percent) && is_percent(reject_percent),
            PERCENT,
        )?;
        ensure(clean_percent <= reject_percent, PERCENT_ORDER)?;
        let mut keys = spec.config.keys().map(String::as_str);
        ensure(!keys.any(|k| CONFIG_RESERVED.contains(&k)), CONFIG)?;
        let is_known = |key: &String| CONFIG_KNOWN.iter().any(|(known, _)| known == key);
        ensure(spec.config.keys().all(is_known), CONFIG_UNKNOWN)?;
        ensure(
            spec.config
                .iter()
                .all(|(key, text)| is_known_value(key, text)),
            CONFIG_VALUES,
        )?;
        let deletes = spec.storage.retention_policy.when_deleted == Some(DeletionPolicy::Delete);
        ensure(
            !deletes || spec.deletion_policy == DeletionPolicy::Delete,
            RETENTION,
        )
    }
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            time: kept(),
            clean_percent: percent::<75>(),
            reject_percent: percent::<90>(),
            delete_unconsumed_when_full: false,
        }
    }
}

fn kept() -> String {
    "72h".to_owned()
}

fn percent<const PERCENT: i32>() -> i32 {
    PERCENT
}

fn is_time_span(text: &str) -> bool {
    let number = text.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or_default();
    (1..=4).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
        && !number.starts_with('0')
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        NetworkPolicy { enabled: true }
    }
}

impl Default for NameServer {
    fn default() -> Self {
        NameServer { replicas: 1 }
    }
}

fn one() -> i32 {
    1
}

fn is_label(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=40).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(legal)
}

fn is_wire_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=63).contains(&name.len()) && name.bytes().all(legal)
}

/// Bounded in size, so that the API server can tell what the rule on its keys costs.
fn config_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 128}
    })
}

/// Broker properties that other fields of the resource, or the operator, decide.
const CONFIG_RESERVED: [&str; 13] = [
    "brokerClusterName",
    "brokerName",
    "brokerId",
    "brokerIP1",
    "brokerIP2",
    "brokerRole",
    "namesrvAddr",
    "listenPort",
    "haListenPort",
    "storePathRootDir",
    "storePathCommitLog",
    "flushDiskType",
    "autoCreateTopicEnable",
];
const CONFIG: &str = "config must not set what other fields or the operator decide: \
     brokerClusterName, brokerName, brokerId, brokerIP1, brokerIP2, brokerRole, namesrvAddr, \
     listenPort, haListenPort, storePathRootDir, storePathCommitLog, flushDiskType, \
     autoCreateTopicEnable";

/// What the text of a broker property must be.
enum Value {
    Word,
    Flag,
    /// Times such as `1s 5m 2h`.
    Levels,
    Number(i64, i64),
}

/// The broker properties that a broker takes.
const CONFIG_KNOWN: [(&str, Value); 8] = [
    ("defaultTopicQueueNums", Value::Number(1, 1024)),
    ("maxMessageSize", Value::Number(1, 4_194_304)),
    ("shortPollingTimeMills", Value::Number(0, 60_000)),
    ("registerNameServerPeriod", Value::Number(1000, 60_000)),
    ("autoCreateSubscriptionGroup", Value::Flag),
    ("longPollingEnable", Value::Flag),
    ("messageDelayLevel", Value::Levels),
    ("regionId", Value::Word),
];
const CONFIG_UNKNOWN: &str = "config takes defaultTopicQueueNums, maxMessageSize, \
     shortPollingTimeMills, registerNameServerPeriod, autoCreateSubscriptionGroup, \
     longPollingEnable, messageDelayLevel and regionId";
const CONFIG_VALUES: &str = "config must be 1 to 1024 for defaultTopicQueueNums, 1 to 4194304 for \
     maxMessageSize, 0 to 60000 for shortPollingTimeMills, 1000 to 60000 for \
     registerNameServerPeriod, true or false for autoCreateSubscriptionGroup and \
     longPollingEnable, and numbers up to 9999 with one of s, m, h and d for messageDelayLevel";

impl Value {
    fn admits(&self, text: &str) -> bool {
        match self {
            Value::Word => true,
            Value::Flag => matches!(text, "true" | "false"),
            Value::Levels => text.split(' ').all(is_time_span),
            Value::Number(min, max) => {
                let digits =
                    (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
                digits
                    && text
                        .parse()
                        .is_ok_and(|number: i64| (*min..=*max).contains(&number))
            }
        }
    }
}

fn is_known_value(key: &str, text: &str) -> bool {
    CONFIG_KNOWN
        .iter()
        .find(|(known, _)| *known == key)
        .is_none_or(|(_, v)| v.admits(text))
}

fn config_reserved_rule() -> String {
    format!(
        "!self.exists(k, k in {})",
        cel_list(CONFIG_RESERVED.iter().copied())
    )
}

fn config_unknown_rule() -> String {
    let both = CONFIG_KNOWN
        .iter()
        .map(|(key, _)| *key)
        .chain(CONFIG_RESERVED);
    format!("self.all(k, k in {})", cel_list(both))
}

fn config_values_rule() -> String {
    let rule = |(key, value): &(&str, Value)| match value {
        Value::Word => None,
        Value::Flag => Some(format!(
            "(!('{key}' in self) || self['{key}'] in ['true', 'false'])"
        )),
        Value::Levels => Some(format!(
            "(!('{key}' in self) || \
             self['{key}'].matches('^[1-9][0-9]{{0,3}}[smhd]( [1-9][0-9]{{0,3}}[smhd])*$'))"
        )),
        Value::Number(min, max) => Some(format!(
            "(!('{key}' in self) || (self['{key}'].matches('^[0-9]{{1,9}}$') && \
             int(self['{key}']) >= {min} && int(self['{key}']) <= {max}))"
        )),
    };
    let rules: Vec<String> = CONFIG_KNOWN.iter().filter_map(rule).collect();
    rules.join(" && ")
}

fn cel_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("'{word}'")).collect();
    format!("[{}]", quoted.join(", "))
}

const NAME_RULE: &str = "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')";
const NAME: &str = "metadata.name must be a DNS label of at most 40 characters that starts with a \
     letter";
const CLUSTER_NAME_RULE: &str = "self.matches('^[a-zA-Z0-9_-]{1,63}$')";
const CLUSTER_NAME: &str = "clusterName must be 1 to 63 of the characters a-z, A-Z, 0-9, _ and -";
const RENAMED_RULE: &str = "\
     (has(self.spec.clusterName) ? self.spec.clusterName : self.metadata.name) \
     == (has(oldSelf.spec.clusterName) ? oldSelf.spec.clusterName : oldSelf.metadata.name)";
const RENAMED: &str = "clusterName is immutable";
const GROUPS: &str = "groups must be between 1 and 64";
const GROUPS_SHRINK: &str =
    "groups may only grow: the messages of a removed group would be left behind";
const REPLICAS: &str = "replicasPerGroup must be 1";
const NAME_SERVERS: &str = "nameServer.replicas must be between 1 and 5";
const KEPT_RULE: &str = "self.matches('^[1-9][0-9]{0,3}[smhd]$')";
const KEPT: &str =
    "retention.time must be a number up to 9999 with one of s, m, h and d, such as 72h";
const PERCENT_RULE: &str = "self >= 1 && self <= 99";
const PERCENT: &str = "retention.cleanPercent and rejectPercent must be between 1 and 99";
const PERCENT_ORDER_RULE: &str = "(has(self.cleanPercent) ? self.cleanPercent : 75) \
     <= (has(self.rejectPercent) ? self.rejectPercent : 90)";
const PERCENT_ORDER: &str = "retention.cleanPercent must not be above rejectPercent";
const SIZE_RULE: &str = "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))";
const SIZE: &str = "storage.size must be a quantity above zero, such as 20Gi";
const SIZE_SHRINK_RULE: &str = "!isQuantity(self) || !isQuantity(oldSelf) || \
     quantity(self).compareTo(quantity(oldSelf)) >= 0";
const SIZE_SHRINK: &str = "storage.size may only grow";
const CLASS_RULE: &str = "has(self.storageClassName) == has(oldSelf.storageClassName) && \
     (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)";
const CLASS: &str = "storage.storageClassName is immutable";
const RETENTION_RULE: &str = "!has(self.storage.retentionPolicy) || \
     !has(self.storage.retentionPolicy.whenDeleted) || \
     self.storage.retentionPolicy.whenDeleted != 'Delete' || self.deletionPolicy == 'Delete'";
const RETENTION: &str =
    "storage.retentionPolicy.whenDeleted may be Delete only if deletionPolicy is Delete";
