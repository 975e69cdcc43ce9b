//! How far a group is and who its members are: asked of all brokers, shown as numbers of the
//! operator at once, and written into the status seldom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::ConsumerGroup;
use crds::group::{LagAlert, Progress, TopicProgress};
use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use prometheus::{IntGaugeVec, Opts, Registry};
use protocol::body::{ConsumeStats, ConsumeTimeSpans, ConsumerConnection, SubscriptionData};
use protocol::json::from_fastjson;
use protocol::{Frame, RequestCode, ResponseCode, header};
use serde::Deserialize;

use super::members::{self, Subscribed};
use crate::condition::Fact;
use crate::declared::{Declared, Report, Site};
use crate::{Error, Operator};

/// The status tells numbers and facts that change by themselves at most this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(30);
/// Members that are asked for what they subscribe to.
const ASKED_MAX: usize = 16;
const ASKED_AT_ONCE_MAX: usize = 4;
const CLIENTS_MAX: usize = 16;
const TOPICS_MAX: usize = 32;
/// A delay above ten years is none: the broker did not know the time of the message.
const DELAY_MS_MAX: i64 = 315_360_000_000;
/// Series of groups that are looked at no more are dropped.
const IDLE_MAX: Duration = Duration::from_mins(2);

/// What all brokers say of a group.
#[derive(Debug, Default)]
struct Seen {
    /// Client id, and a broker that it is connected to.
    clients: BTreeMap<String, String>,
    /// What each member says that it subscribes to.
    members: BTreeMap<String, Subscribed>,
    /// What the brokers have of them.
    merged: Subscribed,
    lag: BTreeMap<String, i64>,
    lag_ms: i64,
}

/// `ConsumerRunningInfo.java`, the part that is of use here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RunningInfo {
    subscription_set: Vec<SubscriptionData>,
}

pub(super) async fn look(
    group: &ConsumerGroup,
    operator: &Operator,
    site: &Site,
    report: &mut Report,
) {
    let wire = group.wire_name();
    let Ok(seen) = see(site, &wire).await else {
        // Whoever can't be asked is told of in Ready; what was said before stands.
        report.partial = true;
        return;
    };
    let now = Timestamp::now();
    let new = shown(&seen, now);
    operator.metrics.groups.set(group, &wire, &new);
    let status = group.status.as_ref();
    let old = status.and_then(|status| status.progress.as_ref());
    report.facts.extend(facts(group, &seen, &new, now));
    report.progress = Some(settled(old, new, now));
}

async fn see(site: &Site, wire: &str) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    for address in site.brokers.values() {
        ask(site, address, wire, &mut seen).await?;
    }
    if seen.clients.len() > 1 {
        let asked = seen.clients.iter().take(ASKED_MAX);
        let asked = asked.map(|(client, address)| async move {
            let told = subscriptions(site, address, wire, client).await;
            told.ok().map(|told| (client.clone(), told))
        });
        let asked = stream::iter(asked.collect::<Vec<_>>());
        let told: Vec<_> = asked.buffered(ASKED_AT_ONCE_MAX).collect().await;
        seen.members = told.into_iter().flatten().collect();
    }
    Ok(seen)
}

/// Takes in what one broker says.
async fn ask(site: &Site, address: &str, wire: &str, seen: &mut Seen) -> Result<(), Error> {
    let mut broker = site.broker(address).await?;
    let of = header::ConsumerGroupOf {
        group: wire.to_owned(),
    };
    let code = RequestCode::GetConsumerConnectionList;
    let missing = ResponseCode::ConsumerNotOnline;
    let online: Option<ConsumerConnection> = broker.find(code, &of, missing).await?;
    let online = online.unwrap_or_default();
    for client in online.connection_set {
        seen.clients.insert(client.client_id, address.to_owned());
    }
    seen.merged
        .extend(members::subscribed(online.subscription_table.values()));
    let of = header::ConsumeStatsOf {
        group: wire.to_owned(),
        topic: None,
        topics: None,
    };
    let stats: ConsumeStats = broker.read(RequestCode::GetConsumeStats, &of).await?;
    let mut late = BTreeSet::new();
    for (queue, offset) in &stats.offset_table {
        let behind = (offset.broker_offset - offset.consumer_offset.max(0)).max(0);
        *seen.lag.entry(queue.topic.clone()).or_default() += behind;
        if behind > 0 {
            late.insert(queue.clone());
        }
    }
    let topics: BTreeSet<&String> = late.iter().map(|queue| &queue.topic).collect();
    for topic in topics.into_iter().take(TOPICS_MAX) {
        let of = header::GroupAndTopic {
            group: wire.to_owned(),
            topic: topic.clone(),
        };
        let code = RequestCode::QueryConsumeTimeSpan;
        let spans: ConsumeTimeSpans = broker.read(code, &of).await?;
        for span in spans.consume_time_span_set {
            if late.contains(&span.message_queue) && span.delay_time < DELAY_MS_MAX {
                seen.lag_ms = seen.lag_ms.max(span.delay_time);
            }
        }
    }
    Ok(())
}

/// What a member subscribes to, in its own words.
async fn subscriptions(
    site: &Site,
    address: &str,
    wire: &str,
    client: &str,
) -> Result<Subscribed, Error> {
    let mut broker = site.broker(address).await?;
    let of = header::ConsumerClientOf {
        group: wire.to_owned(),
        client: Some(client.to_owned()),
        message_id: None,
        topic: None,
    };
    let request = Frame::request(RequestCode::GetConsumerRunningInfo, &of);
    let answer = broker.ask(request).await?;
    let info: RunningInfo = from_fastjson(&answer.body).map_err(|error| Error::Answer {
        address: address.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(members::subscribed(&info.subscription_set))
}

fn shown(seen: &Seen, now: Timestamp) -> Progress {
    let topics = seen.lag.iter().map(|(topic, lag)| TopicProgress {
        topic: topic.clone(),
        lag_messages: *lag,
        subscription: seen.merged.get(topic).cloned().unwrap_or_default(),
    });
    Progress {
        time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        members: seen.clients.len() as i32,
        clients: seen.clients.keys().take(CLIENTS_MAX).cloned().collect(),
        lag_messages: seen.lag.values().sum(),
        lag_seconds: seen.lag_ms / 1000,
        topics: topics.take(TOPICS_MAX).collect(),
    }
}

/// The new numbers if they are news, else the old ones.
fn settled(old: Option<&Progress>, new: Progress, now: Timestamp) -> Progress {
    let Some(old) = old else {
        return new;
    };
    let written: Option<Timestamp> = old.time.parse().ok();
    let soon = written.is_some_and(|at| is_soon(at, now));
    if soon || outline(old) == outline(&new) {
        return old.clone();
    }
    new
}

fn is_soon(then: Timestamp, now: Timestamp) -> bool {
    now.as_second() - then.as_second() < STATUS_INTERVAL.as_secs() as i64
}

type Outline = (i32, Vec<String>, u32, u32, Vec<(String, String, u32)>);

/// What is news when it changes: members, subscriptions and the powers of ten of the numbers.
fn outline(progress: &Progress) -> Outline {
    let power = |number: i64| if number <= 0 { 0 } else { 1 + number.ilog10() };
    let topics = progress.topics.iter();
    let topics = topics.map(|t| {
        (
            t.topic.clone(),
            t.subscription.clone(),
            power(t.lag_messages),
        )
    });
    (
        progress.members,
        progress.clients.clone(),
        power(progress.lag_messages),
        power(progress.lag_seconds),
        topics.collect(),
    )
}

fn facts(group: &ConsumerGroup, seen: &Seen, progress: &Progress, now: Timestamp) -> Vec<Fact> {
    let wanted = members::wanted(&group.spec.subscriptions);
    let conflict = members::conflict(&wanted, &seen.members, &seen.merged);
    let mut facts = vec![
        Fact::of(
            "NoMembers",
            progress.members == 0,
            ["NoMembers", "Members"],
            String::new(),
        ),
        Fact::of(
            "SubscriptionConflict",
            conflict.is_some(),
            ["MembersDiffer", "NoConflict"],
            conflict.unwrap_or_default(),
        ),
    ];
    let known = group.known();
    if let Some(alert) = &group.spec.lag_alert {
        let was_high = known.since("LagHigh").is_some();
        let high = is_high(alert, was_high, progress);
        facts.push(Fact::of(
            "LagHigh",
            high,
            ["AboveLagAlert", "BelowLagAlert"],
            String::new(),
        ));
    }
    // A fact that has just changed stays for a while, so that none flaps.
    for fact in &mut facts {
        let before = known.conditions.iter().find(|c| c.type_ == fact.name);
        let Some(before) = before.filter(|c| is_soon(c.last_transition_time.0, now)) else {
            continue;
        };
        if (before.status == "True") != fact.holds {
            fact.holds = !fact.holds;
            fact.reason = "ChangedJustNow";
            fact.message.clone_from(&before.message);
        }
    }
    facts
}

/// High from the alert on, and low again only below four fifths of it.
fn is_high(alert: &LagAlert, was_high: bool, progress: &Progress) -> bool {
    let above = |alert: Option<i64>, lag: i64| {
        alert.is_some_and(|alert| {
            let least = if was_high {
                alert.saturating_mul(4) / 5
            } else {
                alert
            };
            lag >= least.max(1)
        })
    };
    above(alert.messages, progress.lag_messages) || above(alert.seconds, progress.lag_seconds)
}

/// Live numbers of the groups that resources declare.
#[derive(Debug, Clone)]
pub(crate) struct Gauges {
    messages: IntGaugeVec,
    seconds: IntGaugeVec,
    members: IntGaugeVec,
    seen: Arc<Mutex<HashMap<[String; 3], Instant>>>,
}

impl Gauges {
    pub(crate) fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let labels = ["namespace", "name", "consumer_group"];
            let gauge = IntGaugeVec::new(Opts::new(name, help), &labels).expect("a legal name");
            let registered = registry.register(Box::new(gauge.clone()));
            assert!(registered.is_ok(), "invariant: names differ");
            gauge
        };
        Gauges {
            messages: gauge(
                "gantry_operator_consumer_lag_messages",
                "Messages that a declared group has not consumed yet",
            ),
            seconds: gauge(
                "gantry_operator_consumer_lag_seconds",
                "Age of the oldest message that a declared group has not consumed yet",
            ),
            members: gauge(
                "gantry_operator_consumer_members",
                "Connected members of a declared group",
            ),
            seen: Arc::default(),
        }
    }

    pub(crate) fn set(&self, group: &ConsumerGroup, wire: &str, progress: &Progress) {
        let of = [
            group.namespace().unwrap_or_default(),
            group.name_any(),
            wire.to_owned(),
        ];
        let labels = of.each_ref().map(String::as_str);
        let (lag, late) = (progress.lag_messages, progress.lag_seconds);
        self.messages.with_label_values(&labels).set(lag);
        self.seconds.with_label_values(&labels).set(late);
        let members = i64::from(progress.members);
        self.members.with_label_values(&labels).set(members);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(of, Instant::now());
    }

    /// Drops the numbers of groups that nobody has looked at for a while.
    pub(crate) fn forget_idle(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|of, at| {
            let idle = at.elapsed() >= IDLE_MAX;
            if idle {
                let labels = of.each_ref().map(String::as_str);
                for gauge in [&self.messages, &self.seconds, &self.members] {
                    // Gone already is as good.
                    let _ = gauge.remove_label_values(&labels);
                }
            }
            !idle
        });
    }
}

#[cfg(test)]
mod tests {
    use crds::group::ConsumerGroupStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn progress(second: i64, members: i32, lag: i64, seconds: i64) -> Progress {
        let time = Timestamp::from_second(second).unwrap();
        Progress {
            time: time.to_string(),
            members,
            lag_messages: lag,
            lag_seconds: seconds,
            ..Progress::default()
        }
    }

    #[test]
    fn numbers_are_written_seldom() {
        // Old members, lag and seconds, new ones 29 or 30 s later: written?
        let table = [
            ((1, 0, 0), (1, 0, 0), 30, false),
            ((1, 0, 0), (1, 1, 0), 29, false),
            ((1, 0, 0), (1, 1, 0), 30, true),
            ((1, 1, 1), (1, 9, 9), 30, false),
            ((1, 9, 1), (1, 10, 1), 30, true),
            ((1, 100, 5), (1, 999, 12), 30, true),
            ((1, 100, 15), (1, 999, 99), 30, false),
            ((1, 5, 0), (2, 5, 0), 30, true),
        ];
        for (old, new, later, expected) in table {
            let old = progress(100, old.0, old.1, old.2);
            let new = progress(100 + later, new.0, new.1, new.2);
            let now = Timestamp::from_second(100 + later).unwrap();
            let settled = settled(Some(&old), new.clone(), now);
            assert_eq!(settled == new, expected, "{old:?} {new:?}");
            assert!(expected || settled == old);
        }
    }

    #[test]
    fn an_alert_does_not_flap() {
        let alert = |messages, seconds| LagAlert { messages, seconds };
        let table = [
            (alert(Some(100), None), false, 99, 0, false),
            (alert(Some(100), None), false, 100, 0, true),
            (alert(Some(100), None), true, 80, 0, true),
            (alert(Some(100), None), true, 79, 0, false),
            (alert(Some(1), None), true, 0, 0, false),
            (alert(None, Some(60)), false, 1000, 59, false),
            (alert(None, Some(60)), false, 1, 60, true),
            (alert(Some(100), Some(60)), true, 1, 48, true),
        ];
        for (alert, was_high, lag, seconds, expected) in table {
            let progress = progress(0, 1, lag, seconds);
            let got = is_high(&alert, was_high, &progress);
            assert_eq!(got, expected, "{alert:?} {was_high} {lag} {seconds}");
        }
    }

    #[test]
    fn a_conflict_is_told_and_taken_back_at_most_every_half_minute() {
        let of = |tags: &str| Subscribed::from([("T".to_owned(), tags.to_owned())]);
        let members = |tags: [&str; 2]| Seen {
            members: ["a", "b"]
                .map(str::to_owned)
                .into_iter()
                .zip(tags.map(of))
                .collect(),
            ..Seen::default()
        };
        // The state before, and since when; what members subscribe to: the state now.
        let table = [
            ("False", 29, ["x", "y"], "False"),
            ("False", 30, ["x", "y"], "True"),
            ("True", 29, ["x", "x"], "True"),
            ("True", 30, ["x", "x"], "False"),
            ("True", 0, ["x", "y"], "True"),
        ];
        for (before, age, tags, expected) in table {
            let mut group = ConsumerGroup::new("g", serde_json::from_str("{}").unwrap());
            group.status = Some(ConsumerGroupStatus {
                conditions: vec![Condition {
                    type_: "SubscriptionConflict".to_owned(),
                    status: before.to_owned(),
                    reason: "MembersDiffer".to_owned(),
                    message: String::new(),
                    observed_generation: None,
                    last_transition_time: Time(Timestamp::from_second(100).unwrap()),
                }],
                ..ConsumerGroupStatus::default()
            });
            let now = Timestamp::from_second(100 + age).unwrap();
            let facts = facts(&group, &members(tags), &progress(0, 2, 0, 0), now);
            let conflict = facts
                .iter()
                .find(|fact| fact.name == "SubscriptionConflict");
            let holds = conflict.is_some_and(|fact| fact.holds);
            assert_eq!(holds, expected == "True", "{before} {age} {tags:?}");
        }
    }

    #[test]
    fn a_running_info_of_the_java_client_is_read() {
        let json = br#"{"jstack":"","mqPopTable":{},"mqTable":{{"brokerName":"b","queueId":0,
            "topic":"T"}:{"cachedMsgCount":0}},"properties":{"PROP_CONSUME_TYPE":
            "CONSUME_PASSIVELY"},"statusTable":{},"subscriptionSet":[{"classFilterMode":false,
            "codeSet":[],"expressionType":"TAG","subString":"*","subVersion":1,"tagsSet":[],
            "topic":"T"},{"classFilterMode":false,"codeSet":[],"expressionType":"TAG",
            "subString":"*","subVersion":1,"tagsSet":[],"topic":"%RETRY%g"}]}"#;
        let info: RunningInfo = from_fastjson(json).unwrap();
        let expected = Subscribed::from([("T".to_owned(), "*".to_owned())]);
        assert_eq!(members::subscribed(&info.subscription_set), expected);
    }
}
