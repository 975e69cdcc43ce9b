//! A Topic in the words of the admin protocol.

use std::collections::BTreeMap;

use std::time::Duration;

use crds::name::is_reserved_group;
use crds::topic::{MessageType, Permission, TopicDeletionPolicy};
use crds::{Broken, ManagementPolicy, OnBroker, Topic, TopicStatus};
use k8s_openapi::jiff::Timestamp;
use protocol::body::{
    ConsumeStats, GroupList, PERM_READ, PERM_WRITE, TopicConfig, TopicConfigTable, TopicFilterType,
    TopicRouteData, TopicStatsTable,
};
use protocol::{Frame, RequestCode, ResponseCode, header, topic::DEFAULT_TOPIC};

use crate::Error;
use crate::admin::Admin;
use crate::condition::{Fact, State, Verdict};
use crate::declared::{
    After, Brought, Declared, Difference, Known, May, Report, Shared, Site, Terms, differences,
    missing,
};

const MESSAGE_TYPE: &str = "message.type";
const RESERVE_TIME: &str = "reserve.time";
/// Producers that have learnt of fewer queues only from their next look at the route, half a
/// minute later, still write to the others.
const ROUTES_KNOWN_AFTER: Duration = Duration::from_secs(45);

/// The settings that every broker shall have.
pub fn topic_config(topic: &Topic) -> TopicConfig {
    let (read_queue_nums, write_queue_nums) = topic.queue_numbers();
    let mut attributes = topic.spec.attributes.clone();
    if let Some(kind) = topic.spec.message_type {
        attributes.insert(MESSAGE_TYPE.to_owned(), type_name(kind).to_owned());
    }
    if let Some(hours) = topic.spec.retention_hours {
        attributes.insert(RESERVE_TIME.to_owned(), hours.to_string());
    }
    TopicConfig {
        attributes,
        order: topic.spec.order,
        perm: match topic.spec.permission {
            Permission::ReadWrite => PERM_READ | PERM_WRITE,
            Permission::ReadOnly => PERM_READ,
            Permission::WriteOnly => PERM_WRITE,
            Permission::None => 0,
        },
        read_queue_nums,
        topic_filter_type: TopicFilterType::SingleTag,
        topic_name: topic.wire_name(),
        topic_sys_flag: 0,
        write_queue_nums,
    }
}

fn type_name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Normal => "NORMAL",
        MessageType::Fifo => "FIFO",
        MessageType::Delay => "DELAY",
        MessageType::Transaction => "TRANSACTION",
        MessageType::Mixed => "MIXED",
    }
}

/// The request that turns what a broker has into what it shall have.
pub fn create_topic(wanted: &TopicConfig, found: Option<&TopicConfig>) -> header::CreateTopic {
    let none = BTreeMap::new();
    let found = found.map_or(&none, |found| &found.attributes);
    header::CreateTopic {
        topic: wanted.topic_name.clone(),
        default_topic: DEFAULT_TOPIC.to_owned(),
        read_queues: wanted.read_queue_nums,
        write_queues: wanted.write_queue_nums,
        perm: wanted.perm,
        filter_type: match wanted.topic_filter_type {
            TopicFilterType::SingleTag => "SINGLE_TAG".to_owned(),
            TopicFilterType::MultiTag => "MULTI_TAG".to_owned(),
        },
        sys_flag: Some(wanted.topic_sys_flag),
        order: wanted.order,
        attributes: attribute_changes(&wanted.attributes, found),
    }
}

/// `+key=value` for what is set anew and `-key` for what is removed.
fn attribute_changes(
    wanted: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> Option<String> {
    let set = wanted
        .iter()
        .filter(|(key, value)| found.get(*key) != Some(value));
    let set = set.map(|(key, value)| format!("+{key}={value}"));
    let removed = found.keys().filter(|key| !wanted.contains_key(*key));
    let changes: Vec<String> = set.chain(removed.map(|key| format!("-{key}"))).collect();
    Some(changes.join(",")).filter(|changes| !changes.is_empty())
}

/// What a broker shall have that has `found`: what the resource does not speak of stays.
fn goal(topic: &Topic, found: &TopicConfig) -> TopicConfig {
    let mut goal = topic_config(topic);
    if topic.spec.queues.is_none() && topic.spec.read_queues.is_none() {
        goal.read_queue_nums = found.read_queue_nums;
        goal.write_queue_nums = found.write_queue_nums;
    }
    goal.topic_filter_type = found.topic_filter_type;
    goal.topic_sys_flag = found.topic_sys_flag;
    for (key, value) in &found.attributes {
        let attribute = goal.attributes.entry(key.clone());
        attribute.or_insert_with(|| value.clone());
    }
    goal
}

/// What to ask of a broker now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It has all that it shall have.
    Done,
    /// It differs and must not be touched.
    Leave,
    /// The last step, or the only one.
    Put,
    /// Fewer queues are written from now on, and as many are read.
    CloseQueues,
    /// Read queues go once this is done: from this one on they are to be empty.
    AwaitDrained(i32),
}

/// `drained`: the queues above have been read, and nobody writes to them any more.
fn step(goal: &TopicConfig, found: Option<&TopicConfig>, may: May, drained: bool) -> Step {
    match (found, may) {
        (Some(found), _) if found == goal => Step::Done,
        (None, May::Look) | (Some(_), May::Look | May::Create) => Step::Leave,
        (None, _) => Step::Put,
        (Some(found), May::Everything) => {
            if drained || found.read_queue_nums <= goal.read_queue_nums {
                return Step::Put;
            }
            if *found == closing(goal, found) {
                return Step::AwaitDrained(goal.read_queue_nums);
            }
            Step::CloseQueues
        }
    }
}

/// The goal, but for the queues that are still read.
fn closing(goal: &TopicConfig, found: &TopicConfig) -> TopicConfig {
    TopicConfig {
        read_queue_nums: found.read_queue_nums,
        ..goal.clone()
    }
}

fn queues(config: &TopicConfig) -> String {
    let (read, write) = (config.read_queue_nums, config.write_queue_nums);
    if read == write {
        read.to_string()
    } else {
        format!("{read} read, {write} written")
    }
}

/// The settings of a topic that differ, in the resource's words.
fn differing(goal: &TopicConfig, found: Option<&TopicConfig>) -> Vec<Difference> {
    let Some(found) = found else {
        return vec![missing()];
    };
    let numbers = |of: fn(&TopicConfig) -> i32| (of(goal).to_string(), of(found).to_string());
    let (read, write) = (
        numbers(|c| c.read_queue_nums),
        numbers(|c| c.write_queue_nums),
    );
    let perm = (permission(goal.perm), permission(found.perm));
    let mut all = differences([
        ("readQueues", read.0, read.1),
        ("writeQueues", write.0, write.1),
        ("permission", perm.0, perm.1),
        ("order", goal.order.to_string(), found.order.to_string()),
    ]);
    for (key, want) in &goal.attributes {
        let have = found.attributes.get(key).cloned().unwrap_or_default();
        all.extend(differences([(key.as_str(), want.clone(), have)]));
    }
    all
}

fn permission(perm: i32) -> String {
    let name = match perm {
        6 => "ReadWrite",
        4 => "ReadOnly",
        2 => "WriteOnly",
        0 => "None",
        other => return other.to_string(),
    };
    name.to_owned()
}

async fn find(topic: &Topic, broker: &mut Admin) -> Result<Option<TopicConfig>, Error> {
    let missing = ResponseCode::TopicNotExist;
    broker
        .find(RequestCode::GetTopicConfig, &of(topic), missing)
        .await
}

fn of(topic: &Topic) -> header::TopicOf {
    header::TopicOf {
        topic: topic.wire_name(),
        cluster: None,
    }
}

async fn put(
    broker: &mut Admin,
    wanted: &TopicConfig,
    found: Option<&TopicConfig>,
) -> Result<(), Error> {
    let header = create_topic(wanted, found);
    let request = Frame::request(RequestCode::UpdateAndCreateTopic, &header);
    broker.write(request).await
}

/// Who has not read a queue from `first` on yet; None when all have.
async fn behind(topic: &Topic, broker: &mut Admin, first: i32) -> Result<Option<String>, Error> {
    let stored: TopicStatsTable = broker
        .read(RequestCode::GetTopicStatsInfo, &of(topic))
        .await?;
    let code = RequestCode::QueryTopicConsumeByWho;
    let groups: GroupList = broker.read(code, &of(topic)).await?;
    let groups = groups.group_list.into_iter();
    let groups: Vec<String> = groups.filter(|group| !is_reserved_group(group)).collect();
    for group in &groups {
        let of = header::ConsumeStatsOf {
            group: group.clone(),
            topic: Some(topic.wire_name()),
            topics: None,
        };
        let consumed: ConsumeStats = broker.read(RequestCode::GetConsumeStats, &of).await?;
        if let Some(queue) = unread(&stored, Some(&consumed), first) {
            return Ok(Some(format!(
                "group {group} has not read queue {queue} yet"
            )));
        }
    }
    if !groups.is_empty() {
        return Ok(None);
    }
    Ok(unread(&stored, None, first)
        .map(|queue| format!("queue {queue} holds messages, and no group reads this topic yet")))
}

/// The first queue from `first` on with messages that a group has not read, or nobody has. A group
/// of which nothing is said of a queue does not consume the topic any more.
fn unread(stored: &TopicStatsTable, consumed: Option<&ConsumeStats>, first: i32) -> Option<i32> {
    let queues = stored.offset_table.iter();
    let mut unread = queues.filter(|(queue, stored)| {
        let read = match consumed {
            None => Some(0),
            Some(consumed) => consumed
                .offset_table
                .get(queue)
                .map(|at| at.consumer_offset),
        };
        let is_left = |read: i64| read.max(stored.min_offset) < stored.max_offset;
        queue.queue_id >= first && read.is_some_and(is_left)
    });
    unread.next().map(|(queue, _)| queue.queue_id)
}

impl Declared for Topic {
    const FINALIZER: &'static str = "gantry.dev/topic";
    type Status = TopicStatus;
    type Config = TopicConfig;

    fn terms(&self) -> Terms<'_> {
        let spec = &self.spec;
        Terms {
            wire: self.wire_name(),
            cluster: spec.cluster_ref.as_ref().map(|of| of.name.as_str()),
            name_servers: spec.name_servers.as_deref().unwrap_or_default(),
            secret: spec.secret_ref.as_ref().map(|of| of.name.as_str()),
            placement: &spec.placement.groups,
            may: match (spec.management_policy, spec.protection.prevent_update) {
                (ManagementPolicy::Observe, _) => May::Look,
                (ManagementPolicy::Manage, true) => May::Create,
                (ManagementPolicy::Manage, false) => May::Everything,
            },
            after: match spec.deletion_policy {
                TopicDeletionPolicy::Retain => After::Everything,
                TopicDeletionPolicy::Delete => After::Nothing,
                TopicDeletionPolicy::DeleteIfEmpty => After::NothingOnceEmpty,
            },
            prevent_delete: spec.protection.prevent_delete,
        }
    }

    fn check(&self) -> Result<(), Broken> {
        self.validate()
    }

    fn known(&self) -> Known<'_, TopicStatus> {
        let status = self.status.as_ref();
        Known {
            status,
            generation: status.map_or(0, |status| status.observed_generation),
            brokers: status.map_or(&[], |status| &status.brokers),
            conditions: status.map_or(&[], |status| &status.conditions),
        }
    }

    fn status(&self, report: Report) -> TopicStatus {
        let old = self.status.as_ref();
        let queues = match report.found.queues {
            none if none.is_empty() => old.map(|old| old.queues.clone()).unwrap_or_default(),
            queues => queues,
        };
        let drift = match old {
            Some(old) if report.blind => old.drift.clone(),
            _ => report.found.drift,
        };
        TopicStatus {
            observed_generation: self.metadata.generation.unwrap_or_default(),
            topic_name: self.wire_name(),
            cluster: report.cluster,
            queues,
            brokers: report.found.brokers,
            drift,
            conditions: report.conditions,
        }
    }

    fn agrees(&self, found: &TopicConfig) -> Option<Brought> {
        let agrees = *found == goal(self, found);
        agrees.then(|| Brought {
            queues: queues(found),
            ..Brought::default()
        })
    }

    async fn list(broker: &mut Admin) -> Result<BTreeMap<String, TopicConfig>, Error> {
        let code = RequestCode::GetAllTopicConfig;
        let table: TopicConfigTable = broker.read(code, &header::Empty).await?;
        Ok(table.topic_config_table)
    }

    async fn bring(&self, broker: &mut Admin, may: May) -> Result<Brought, Error> {
        let found = find(self, broker).await?;
        let found = found.as_ref();
        let goal = found.map_or_else(|| topic_config(self), |found| goal(self, found));
        let mut brought = Brought {
            differs: differing(&goal, found),
            queues: queues(found.unwrap_or(&goal)),
            ..Brought::default()
        };
        let mut next = step(&goal, found, may, false);
        if let Step::AwaitDrained(first) = next {
            let since = self.known().since("Shrinking");
            let closed = since.is_some_and(|since| {
                Timestamp::now().as_second() - since.as_second()
                    >= ROUTES_KNOWN_AFTER.as_secs() as i64
            });
            let waits = behind(self, broker, first).await?;
            if closed && waits.is_none() {
                next = Step::Put;
            } else {
                let last = found.map_or(first, |found| found.read_queue_nums) - 1;
                let why = waits.unwrap_or_else(|| "producers may still write to them".to_owned());
                brought.shrinks = Some(format!("queues {first} to {last} are still read: {why}"));
            }
        }
        match (next, found) {
            (Step::Done, _) => {}
            (Step::Leave | Step::AwaitDrained(_), _) => brought.left = true,
            (Step::CloseQueues, Some(found)) => {
                put(broker, &closing(&goal, found), Some(found)).await?;
                let why = format!(
                    "queues from {} on are to be read first",
                    goal.read_queue_nums
                );
                brought.shrinks = Some(why);
                brought.wrote = true;
                brought.left = true;
            }
            (Step::Put | Step::CloseQueues, found) => {
                put(broker, &goal, found).await?;
                brought.queues = queues(&goal);
                brought.wrote = true;
            }
        }
        Ok(brought)
    }

    async fn finish(&self, _: &Shared<Self>, site: &Site, report: &mut Report) {
        let shrinks = report.found.shrinks.clone();
        report.facts.push(Fact::of(
            "Shrinking",
            shrinks.is_some(),
            ["WaitingForGroups", "NotShrinking"],
            shrinks.unwrap_or_default(),
        ));
        let known = self.known();
        let ready = known.since("Ready").is_some()
            && Some(known.generation) == self.metadata.generation
            && known.brokers.len() == report.found.brokers.len();
        if ready || report.verdict.state != State::Ready {
            return;
        }
        let routed = async {
            let mut name_server = site.name_server().await?;
            is_routed(self, &mut name_server, &report.found.brokers).await
        };
        report.verdict = match routed.await {
            Ok(true) => return,
            Ok(false) => {
                let message = "the route of the name server does not show all brokers yet";
                Verdict::working("WaitingForRoute", message.to_owned())
            }
            Err(error) => Verdict::working("WaitingForNameServer", error.to_string()),
        };
    }

    async fn remove(&self, broker: &mut Admin) -> Result<(), Error> {
        let request = Frame::request(RequestCode::DeleteTopicInBroker, &of(self));
        broker.write(request).await
    }

    async fn drain(&self, broker: &mut Admin, close: bool) -> Result<i64, Error> {
        let Some(found) = find(self, broker).await? else {
            return Ok(0);
        };
        if close && found.writable() {
            let closed = TopicConfig {
                perm: found.perm & !PERM_WRITE,
                ..found.clone()
            };
            put(broker, &closed, Some(&found)).await?;
        }
        let code = RequestCode::GetTopicStatsInfo;
        let stats: TopicStatsTable = broker.read(code, &of(self)).await?;
        let queues = stats.offset_table.values();
        Ok(queues
            .map(|queue| (queue.max_offset - queue.min_offset).max(0))
            .sum())
    }

    async fn unroute(&self, name_server: &mut Admin, cluster: Option<&str>) -> Result<(), Error> {
        let of = header::TopicOf {
            topic: self.wire_name(),
            cluster: cluster.map(str::to_owned),
        };
        let request = Frame::request(RequestCode::DeleteTopicInNamesrv, &of);
        name_server.write(request).await
    }
}

/// True when clients that ask this name server are sent to all of the brokers.
async fn is_routed(
    topic: &Topic,
    name_server: &mut Admin,
    brokers: &[OnBroker],
) -> Result<bool, Error> {
    let of = header::RouteOf {
        topic: topic.wire_name(),
        strict_json: Some(true),
    };
    let missing = ResponseCode::TopicNotExist;
    let route: Option<TopicRouteData> = name_server
        .find(RequestCode::GetRouteinfoByTopic, &of, missing)
        .await?;
    let shows = |route: &TopicRouteData, broker: &OnBroker| {
        let mut queues = route.queue_datas.iter();
        queues.any(|queues| queues.broker_name == broker.name)
    };
    Ok(route.is_some_and(|route| brokers.iter().all(|broker| shows(&route, broker))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::read::{Document, read};
    use protocol::body::{MessageQueue, OffsetWrapper, TopicOffset};

    fn topic(spec: &str) -> Topic {
        let yaml = format!(
            "{{apiVersion: gantry.dev/v1alpha1, kind: Topic, metadata: {{name: orders}}, \
             spec: {{clusterRef: {{name: demo}}, {spec}}}}}"
        );
        match read(&yaml).unwrap().remove(0) {
            Document::Topic(topic) => *topic,
            other => panic!("{other:?}"),
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn settings_follow_the_resource() {
        let usual = TopicConfig {
            topic_name: "orders".to_owned(),
            read_queue_nums: 8,
            write_queue_nums: 8,
            ..TopicConfig::default()
        };
        let with = |change: fn(&mut TopicConfig)| {
            let mut config = usual.clone();
            change(&mut config);
            config
        };
        let table = [
            ("", usual.clone()),
            ("topicName: A_b", with(|c| c.topic_name = "A_b".to_owned())),
            (
                "queues: 1",
                with(|c| (c.read_queue_nums, c.write_queue_nums) = (1, 1)),
            ),
            (
                "readQueues: 8, writeQueues: 4",
                with(|c| c.write_queue_nums = 4),
            ),
            ("permission: ReadOnly", with(|c| c.perm = 4)),
            ("permission: WriteOnly", with(|c| c.perm = 2)),
            ("permission: None", with(|c| c.perm = 0)),
            ("order: true", with(|c| c.order = true)),
            (
                "retentionHours: 24",
                with(|c| c.attributes = map(&[("reserve.time", "24")])),
            ),
            (
                "messageType: FIFO, attributes: {cleanup.policy: DELETE}",
                with(|c| {
                    c.attributes = map(&[("cleanup.policy", "DELETE"), ("message.type", "FIFO")]);
                }),
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(topic_config(&topic(spec)), expected, "{spec}");
        }
    }

    #[test]
    fn attributes_travel_as_changes() {
        type Pairs = &'static [(&'static str, &'static str)];
        let table: [(Pairs, Pairs, Option<&str>); 6] = [
            (&[], &[], None),
            (&[("a", "1")], &[("a", "1")], None),
            (&[("a", "1")], &[], Some("+a=1")),
            (&[("a", "2"), ("b", "1")], &[("a", "1")], Some("+a=2,+b=1")),
            (&[], &[("a", "1")], Some("-a")),
            (&[("b", "1")], &[("a", "1")], Some("+b=1,-a")),
        ];
        for (wanted, found, expected) in table {
            let changes = attribute_changes(&map(wanted), &map(found));
            assert_eq!(changes.as_deref(), expected, "{wanted:?} {found:?}");
        }
    }

    #[test]
    fn what_the_resource_does_not_speak_of_stays() {
        let found = TopicConfig {
            topic_name: "orders".to_owned(),
            read_queue_nums: 16,
            write_queue_nums: 12,
            topic_sys_flag: 1,
            topic_filter_type: TopicFilterType::MultiTag,
            attributes: map(&[("message.type", "FIFO"), ("queue.type", "SimpleCQ")]),
            ..TopicConfig::default()
        };
        assert_eq!(goal(&topic(""), &found), found);
        let spoken = topic("queues: 4, messageType: NORMAL, retentionHours: 5");
        let expected = TopicConfig {
            read_queue_nums: 4,
            write_queue_nums: 4,
            attributes: map(&[
                ("message.type", "NORMAL"),
                ("queue.type", "SimpleCQ"),
                ("reserve.time", "5"),
            ]),
            ..found.clone()
        };
        assert_eq!(goal(&spoken, &found), expected);
    }

    #[test]
    fn queues_go_in_two_steps_and_only_once_they_are_read() {
        let with = |read, write| TopicConfig {
            read_queue_nums: read,
            write_queue_nums: write,
            ..TopicConfig::default()
        };
        let await_drained = Step::AwaitDrained(4);
        // wanted, found, allowed, drained
        let table = [
            ((4, 4), None, May::Everything, false, Step::Put),
            ((4, 4), None, May::Create, false, Step::Put),
            ((4, 4), None, May::Look, false, Step::Leave),
            ((4, 4), Some((4, 4)), May::Look, false, Step::Done),
            ((4, 4), Some((8, 8)), May::Look, false, Step::Leave),
            ((4, 4), Some((8, 8)), May::Create, false, Step::Leave),
            ((8, 8), Some((4, 4)), May::Everything, false, Step::Put),
            ((8, 4), Some((8, 8)), May::Everything, false, Step::Put),
            (
                (4, 4),
                Some((8, 8)),
                May::Everything,
                false,
                Step::CloseQueues,
            ),
            (
                (4, 4),
                Some((8, 6)),
                May::Everything,
                false,
                Step::CloseQueues,
            ),
            (
                (4, 4),
                Some((8, 4)),
                May::Everything,
                false,
                await_drained.clone(),
            ),
            ((4, 4), Some((8, 4)), May::Everything, true, Step::Put),
            // Said explicitly it is no different, nor when writing is already less.
            ((4, 2), Some((8, 2)), May::Everything, false, await_drained),
            (
                (4, 4),
                Some((8, 2)),
                May::Everything,
                false,
                Step::CloseQueues,
            ),
        ];
        for (want, have, may, drained, expected) in table {
            let found = have.map(|(read, write)| with(read, write));
            let got = step(&with(want.0, want.1), found.as_ref(), may, drained);
            assert_eq!(got, expected, "{want:?} {have:?} {may:?} {drained}");
        }
    }

    #[test]
    fn a_group_that_has_not_read_a_queue_is_waited_for() {
        let queue = |queue_id| MessageQueue {
            topic: "orders".to_owned(),
            broker_name: "a".to_owned(),
            queue_id,
        };
        type Queues = &'static [(i32, i64, i64, Option<i64>)];
        // Queue, oldest, next, how far the group is.
        let table: [(Queues, Option<i32>, Option<i32>); 6] = [
            (&[], None, None),
            (&[(0, 0, 9, Some(1)), (1, 0, 9, Some(9))], None, None),
            (&[(4, 0, 5, Some(5)), (5, 0, 3, Some(2))], Some(5), Some(4)),
            (&[(4, 0, 1, Some(0))], Some(4), Some(4)),
            (&[(4, 0, 0, Some(0)), (5, 7, 7, Some(-1))], None, None),
            (&[(4, 0, 9, None)], None, Some(4)),
        ];
        for (queues, by_group, by_anybody) in table {
            let mut stored = TopicStatsTable::default();
            let mut consumed = ConsumeStats::default();
            for &(id, min_offset, max_offset, at) in queues {
                let offset = TopicOffset {
                    min_offset,
                    max_offset,
                    last_update_timestamp: 0,
                };
                stored.offset_table.insert(queue(id), offset);
                if let Some(consumer_offset) = at {
                    let offset = OffsetWrapper {
                        consumer_offset,
                        ..OffsetWrapper::default()
                    };
                    consumed.offset_table.insert(queue(id), offset);
                }
            }
            assert_eq!(unread(&stored, Some(&consumed), 4), by_group, "{queues:?}");
            assert_eq!(unread(&stored, None, 4), by_anybody, "{queues:?}");
        }
    }

    #[test]
    fn differences_speak_the_words_of_the_resource() {
        let found = TopicConfig {
            read_queue_nums: 4,
            write_queue_nums: 4,
            perm: 7,
            order: true,
            ..TopicConfig::default()
        };
        let goal = goal(
            &topic("queues: 8, permission: ReadOnly, messageType: FIFO"),
            &found,
        );
        let differing = differing(&goal, Some(&found));
        let got: Vec<_> = differing
            .iter()
            .map(|d| (d.field.as_str(), d.want.as_str(), d.have.as_str()))
            .collect();
        let expected = [
            ("readQueues", "8", "4"),
            ("writeQueues", "8", "4"),
            ("permission", "ReadOnly", "7"),
            ("order", "false", "true"),
            ("message.type", "FIFO", ""),
        ];
        assert_eq!(got, expected);
    }
}
