//! ConsumerGroup: how every broker of a cluster treats one group of consumers.
//!
//! The defaults are those that a broker gives to a group that it has never heard of, so that
//! declaring an existing group changes nothing but its owner.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name;
use crate::place::{self, ClusterRef, SecretRef};
use crate::{Broken, Drift, ManagementPolicy, OnBroker, ensure, yes};

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
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.cluster"),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.groupName"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.progress.members"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.progress.lagMessages"),
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
#[x_kube(
    validation = Rule::new(place::EITHER_RULE).message(place::EITHER),
    validation = Rule::new(place::MOVED_RULE).message(place::MOVED),
    validation = Rule::new(place::SECRET_RULE).message(place::SECRET)
)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerGroupSpec {
    /// The BrokerCluster, in this namespace, that has the group. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef is immutable"))]
    pub cluster_ref: Option<ClusterRef>,
    /// Name servers of an existing RocketMQ that has the group, instead of clusterRef. Immutable.
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
    /// Id of the broker of a group that consumers are sent to when they are far behind; as it is
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 255").message(SLOW))]
    pub which_broker_when_consume_slowly: Option<i64>,
    /// What the members are to subscribe to. Nothing is changed by it: a member that subscribes
    /// otherwise makes the condition SubscriptionConflict true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["topic".into()]))]
    pub subscriptions: Vec<Subscription>,
    /// From which lag on the condition LagHigh is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_alert: Option<LagAlert>,
    /// Retain leaves the group on the brokers when this resource is deleted; Delete removes its
    /// settings; DeleteWithOffsets also forgets how far it has consumed.
    #[serde(default)]
    pub deletion_policy: GroupDeletionPolicy,
    /// Manage makes the brokers be as the resource says; Observe only tells how they differ.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
}

/// How often, when and through how many queues a failed message is delivered again.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[x_kube(validation = Rule::new(POLICY_RULE).message(POLICY))]
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
    /// How long a delivery waits; as it is on the broker when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RetryPolicy>,
    /// Delays of the policy Customized; the broker's own when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "delays_schema")]
    #[x_kube(validation = Rule::new(DELAYS_RULE).message(DELAYS))]
    pub delays_seconds: Vec<i64>,
    /// Delays of the policy Exponential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exponential: Option<Exponential>,
}

/// How long the next delivery of a failed message waits.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum RetryPolicy {
    Customized,
    Exponential,
}

/// Delays that grow by a factor.
#[derive(KubeSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(EXPONENTIAL_RULE).message(EXPONENTIAL))]
pub struct Exponential {
    /// The first delay.
    #[serde(default = "initial_seconds")]
    pub initial_seconds: i64,
    /// The longest delay.
    #[serde(default = "max_seconds")]
    pub max_seconds: i64,
    /// The factor.
    #[serde(default = "multiplier")]
    pub multiplier: i64,
}

/// A topic that the members consume.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Name of the topic.
    #[schemars(length(max = 127))]
    #[x_kube(validation = Rule::new(name::TOPIC_RULE).message(SUBSCRIBED))]
    pub topic: String,
    /// The language of the expression.
    #[serde(default)]
    pub filter_type: FilterType,
    /// Which messages: tags such as `a || b`, or a condition of SQL92.
    #[serde(default = "all")]
    #[schemars(length(min = 1, max = 4096))]
    pub expression: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum FilterType {
    #[default]
    Tag,
    Sql92,
}

/// From which lag on the condition LagHigh is true. It is false again well below.
#[derive(KubeSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(ALERT_RULE).message(ALERT))]
pub struct LagAlert {
    /// Messages that are not consumed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<i64>,
    /// Age of the oldest message that is not consumed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// What becomes of a group when its resource is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
pub enum GroupDeletionPolicy {
    #[default]
    Retain,
    Delete,
    DeleteWithOffsets,
}

/// Members of a group and how far they are. Written at most every 30 seconds, and only when a
/// number is another power of ten.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// When this was seen.
    pub time: String,
    /// Consumers that are connected.
    pub members: i32,
    /// Their client ids; 16 at most.
    pub clients: Vec<String>,
    /// Messages that are not consumed yet.
    pub lag_messages: i64,
    /// Age of the oldest of them.
    pub lag_seconds: i64,
    /// By topic; 32 at most.
    pub topics: Vec<TopicProgress>,
}

/// How far a group is with one topic.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicProgress {
    /// Name of the topic.
    pub topic: String,
    /// Messages that are not consumed yet.
    pub lag_messages: i64,
    /// What members subscribe to, as the broker has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subscription: String,
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
    /// The BrokerCluster, or the first name server.
    #[serde(default)]
    pub cluster: String,
    /// What each broker of the cluster has.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub brokers: Vec<OnBroker>,
    /// Settings that differ and are left so; 32 at most.
    #[serde(default)]
    pub drift: Vec<Drift>,
    /// Members and lag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Ready, Reconciling, Stalled, Synced, DriftDetected, Conflict, LagHigh, SubscriptionConflict
    /// and NoMembers.
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
        place::check(
            spec.cluster_ref.as_ref(),
            spec.name_servers.as_deref(),
            spec.secret_ref.as_ref(),
        )?;
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
        ensure((1..=1440).contains(&spec.consume_timeout_minutes), TIMEOUT)?;
        spec.retry.check()?;
        let slow = spec.which_broker_when_consume_slowly;
        ensure(slow.is_none_or(|id| (0..=255).contains(&id)), SLOW)?;
        let legal = |s: &Subscription| name::is_legal(&s.topic, name::TOPIC_CHARS_MAX);
        ensure(spec.subscriptions.iter().all(legal), SUBSCRIBED)?;
        let mut topics: Vec<&str> = spec.subscriptions.iter().map(|s| &*s.topic).collect();
        topics.sort_unstable();
        let once = topics.windows(2).all(|two| two.first() != two.last());
        ensure(once && topics.len() <= 32, SUBSCRIBED_TWICE)?;
        let alert = spec.lag_alert.is_none_or(|alert| {
            let numbers = [alert.messages, alert.seconds];
            numbers.iter().any(Option::is_some) && numbers.iter().flatten().all(|n| *n >= 1)
        });
        ensure(alert, ALERT)
    }
}

impl Retry {
    fn check(&self) -> Result<(), Broken> {
        let exponential = self.policy == Some(RetryPolicy::Exponential);
        let customized = self.policy == Some(RetryPolicy::Customized);
        let fits = (self.exponential.is_none() || exponential)
            && (self.delays_seconds.is_empty() || customized);
        ensure(fits, POLICY)?;
        let legal = |s: &i64| (1..=DELAY_SECONDS_MAX).contains(s);
        ensure(
            self.delays_seconds.len() <= 18 && self.delays_seconds.iter().all(legal),
            DELAYS,
        )?;
        let legal = self.exponential.is_none_or(|e| {
            (1..=e.max_seconds).contains(&e.initial_seconds)
                && e.max_seconds <= DELAY_SECONDS_MAX
                && (2..=10).contains(&e.multiplier)
        });
        ensure(legal, EXPONENTIAL)
    }
}

impl Default for Exponential {
    fn default() -> Self {
        Exponential {
            initial_seconds: initial_seconds(),
            max_seconds: max_seconds(),
            multiplier: multiplier(),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            max_times: retry_max_times(),
            queues: retry_queues(),
            policy: None,
            delays_seconds: Vec::new(),
            exponential: None,
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

fn initial_seconds() -> i64 {
    5
}

fn max_seconds() -> i64 {
    7200
}

fn multiplier() -> i64 {
    2
}

fn all() -> String {
    "*".to_owned()
}

/// Bounded in size, so that the API server can tell what the rule costs.
fn delays_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 18,
        "items": {"type": "integer", "format": "int64"}
    })
}

/// As long as a message may be delayed: three days.
const DELAY_SECONDS_MAX: i64 = 259_200;

const NAMED_RULE: &str =
    "has(self.spec.groupName) || self.metadata.name.matches('^[a-z0-9-]{1,120}$')";
const NAMED: &str = "metadata.name is not a legal name of a consumer group: set spec.groupName";
const RENAMED_RULE: &str = "(has(self.spec.groupName) ? self.spec.groupName : self.metadata.name) \
     == (has(oldSelf.spec.groupName) ? oldSelf.spec.groupName : oldSelf.metadata.name)";
const RENAMED: &str = "groupName is immutable";
const MAX_TIMES: &str = "retry.maxTimes must be between 0 and 1000";
const QUEUES: &str = "retry.queues must be between 1 and 64";
const TIMEOUT: &str = "consumeTimeoutMinutes must be between 1 and 1440";
const SLOW: &str = "whichBrokerWhenConsumeSlowly must be between 0 and 255";
const SUBSCRIBED: &str = "topic must be 1 to 127 of the characters %, |, a-z, A-Z, 0-9, _ and -";
const SUBSCRIBED_TWICE: &str = "subscriptions must be at most 32, one a topic";
const POLICY_RULE: &str = "(!has(self.exponential) || \
     (has(self.policy) && self.policy == 'Exponential')) && (!has(self.delaysSeconds) || \
     self.delaysSeconds.size() == 0 || (has(self.policy) && self.policy == 'Customized'))";
const POLICY: &str = "retry.exponential is for the policy Exponential, retry.delaysSeconds for \
     Customized";
const DELAYS_RULE: &str = "self.all(s, s >= 1 && s <= 259200)";
const DELAYS: &str = "retry.delaysSeconds must be at most 18 delays of 1 to 259200 seconds";
const EXPONENTIAL_RULE: &str = "self.initialSeconds >= 1 && \
     self.initialSeconds <= self.maxSeconds && self.maxSeconds <= 259200 && \
     self.multiplier >= 2 && self.multiplier <= 10";
const EXPONENTIAL: &str = "retry.exponential needs 1 <= initialSeconds <= maxSeconds <= 259200 and \
     a multiplier of 2 to 10";
const ALERT_RULE: &str = "(has(self.messages) || has(self.seconds)) && \
     (!has(self.messages) || self.messages >= 1) && (!has(self.seconds) || self.seconds >= 1)";
const ALERT: &str = "lagAlert needs messages or seconds, of at least 1";
