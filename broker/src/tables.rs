//! Topics, consumer groups and consumer offsets: a follower of the log.
//!
//! A change is written as a state record and applied when that record has committed, so that
//! the tables can always be rebuilt from the log, and an answered change is never lost. Offsets
//! and what pops hand out are the exception: they count at once and are written together, once a
//! tick.
//!
//! Entries of a state record (kind 1 is the store's own):
//!
//! ```text
//! 2  topic set        JSON as in topics.json
//! 3  topic deleted    its name
//! 4  group set        JSON as in subscriptionGroup.json
//! 5  group deleted    u8 whether its offsets go too, its name
//! 6  offsets          repeated { topic, group: u16 length + text; queue i32; offset i64 }
//! 7  delayed          repeated { queue i32; offset i64 }: delivered below, see `schedule`
//! 16 queue minimums   repeated { topic: u16 length + text; queue i32; offset i64 }
//! 20 to 22            what is popped, and by whom: see `popped`
//! ```

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod java;
mod popped;
mod snapshot;

pub use popped::{Batches, Found};
pub use snapshot::Consumers;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Buf;
use foldhash::{HashMap, HashMapExt as _};
use protocol::body::{
    DataVersion, PERM_INHERIT, PERM_READ, PERM_WRITE, SetRequestMode, SubscriptionGroupConfig,
    TopicConfig, TopicConfigTable,
};
use protocol::json::{from_fastjson, to_json};
use protocol::topic::{self, DEFAULT_TOPIC, SCHEDULE_TOPIC, reply_topic};
use store::state::Entry;

use crate::pop::flights::{Flights, Flown};
use crate::pop::orders::Orders;
use crate::schedule::{self, Delivered};

const KIND_TOPIC: u8 = 2;
const KIND_TOPIC_DELETED: u8 = 3;
const KIND_GROUP: u8 = 4;
const KIND_GROUP_DELETED: u8 = 5;
const KIND_OFFSETS: u8 = 6;
const KIND_MINS: u8 = 16;
const KIND_DELAY_OFFSETS: u8 = 7;
const KIND_FLIGHTS: u8 = 20;
const KIND_ORDERS: u8 = 21;
const KIND_REQUEST_MODE: u8 = 22;

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Topic(TopicConfig),
    TopicDeleted(String),
    Group(SubscriptionGroupConfig),
    GroupDeleted {
        group: String,
        clean_offsets: bool,
    },
    Offsets(Vec<Offset>),
    /// The store shows no message below; it keeps the minimum itself.
    Mins(Vec<QueueMin>),
    /// How far the queues of delay levels have been delivered.
    DelayOffsets(Vec<(i32, i64)>),
    /// Messages that are handed out, or no more.
    Flights(Vec<Flown>),
    /// The same where the order of a queue is kept.
    Orders(Batches),
    RequestMode(SetRequestMode),
}

/// How far a group has consumed one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offset {
    pub topic: String,
    pub group: String,
    pub queue: i32,
    pub offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMin {
    pub topic: String,
    pub queue: i32,
    pub min: i64,
}

/// The entry can't be read: written by a later release, or not by us.
#[derive(Debug, thiserror::Error)]
#[error("a state entry of kind {kind} can't be read: {reason}")]
pub struct ChangeError {
    kind: u8,
    reason: String,
}

#[derive(Debug, Default)]
pub struct Tables {
    topics: HashMap<String, Arc<TopicConfig>>,
    /// Topics that every broker has; they are in no record.
    built_in: HashMap<String, Arc<TopicConfig>>,
    groups: HashMap<String, Arc<SubscriptionGroupConfig>>,
    offsets: HashMap<Consumed, BTreeMap<i64, i64>>,
    dirty: HashSet<(Consumed, i64)>,
    pub delivered: Delivered,
    pub flights: Flights,
    pub orders: Orders,
    /// By topic and group, where it has been set.
    modes: BTreeMap<(String, String), SetRequestMode>,
    version: DataVersion,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Consumed {
    topic: String,
    group: String,
}

impl Tables {
    /// Empty tables of a broker in its epoch; `auto_create_queues` where a send may create.
    pub fn new(cluster: &str, broker: &str, epoch: u64, auto_create_queues: Option<i32>) -> Self {
        let read_write = PERM_READ | PERM_WRITE;
        let mut built_in = HashMap::new();
        let mut add = |name: &str, queues, perm| {
            let config = TopicConfig {
                topic_name: name.to_owned(),
                read_queue_nums: queues,
                write_queue_nums: queues,
                perm,
                ..TopicConfig::default()
            };
            built_in.insert(name.to_owned(), Arc::new(config));
        };
        if let Some(queues) = auto_create_queues {
            add(DEFAULT_TOPIC, queues, read_write | PERM_INHERIT);
        }
        add("SELF_TEST_TOPIC", 1, read_write);
        // Where RocketMQ's benchmark programs send unless they are told otherwise.
        add("BenchmarkTest", 1_024, read_write);
        // A client that traces drops its records where the topic is missing.
        add("RMQ_SYS_TRACE_TOPIC", 1, read_write);
        add(SCHEDULE_TOPIC, schedule::QUEUES, read_write);
        add(&reply_topic(cluster), 1, read_write);
        add(cluster, 16, read_write | PERM_INHERIT);
        add(broker, 1, read_write | PERM_INHERIT);
        let version = DataVersion {
            state_version: epoch as i64,
            ..DataVersion::default()
        };
        Self {
            built_in,
            version,
            ..Self::default()
        }
    }

    pub fn topic(&self, name: &str) -> Option<Arc<TopicConfig>> {
        self.topics
            .get(name)
            .or_else(|| self.built_in.get(name))
            .cloned()
    }

    pub fn group(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.groups.get(name).cloned()
    }

    pub fn offset(&self, topic: &str, group: &str, queue: i32) -> Option<i64> {
        let of = Consumed {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        self.offsets.get(&of)?.get(&i64::from(queue)).copied()
    }

    /// How far a group has come in each queue of a topic.
    pub fn offsets(&self, topic: &str, group: &str) -> BTreeMap<i64, i64> {
        let of = Consumed {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        self.offsets.get(&of).cloned().unwrap_or_default()
    }

    /// The pairs of topic and group of which there are offsets.
    pub fn consumed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.offsets
            .keys()
            .map(|of| (of.topic.as_str(), of.group.as_str()))
    }

    /// Notes how far a group has come; it is written with the next tick.
    pub fn commit_offset(&mut self, offset: Offset) {
        let of = Consumed {
            topic: offset.topic,
            group: offset.group,
        };
        let queue = i64::from(offset.queue);
        if self
            .offsets
            .entry(of.clone())
            .or_default()
            .insert(queue, offset.offset)
            != Some(offset.offset)
        {
            self.dirty.insert((of, queue));
        }
    }

    /// The offsets that changed since they were last taken.
    pub fn take_dirty_offsets(&mut self) -> Vec<Offset> {
        let mut changed: Vec<Offset> = std::mem::take(&mut self.dirty)
            .into_iter()
            .filter_map(|(of, queue)| {
                let offset = *self.offsets.get(&of)?.get(&queue)?;
                Some(Offset {
                    topic: of.topic,
                    group: of.group,
                    queue: queue as i32,
                    offset,
                })
            })
            .collect();
        // One order, so that equal states write equal bytes.
        changed.sort_by(|a, b| (&a.topic, &a.group, a.queue).cmp(&(&b.topic, &b.group, b.queue)));
        changed
    }

    /// The record with these could not be written.
    pub fn offsets_not_written(&mut self, offsets: &[Offset]) {
        for offset in offsets {
            let of = Consumed {
                topic: offset.topic.clone(),
                group: offset.group.clone(),
            };
            self.dirty.insert((of, i64::from(offset.queue)));
        }
    }

    /// Applies a change whose record has committed; `true` when the name servers must learn it.
    pub fn apply(&mut self, change: Change, now_ms: i64) -> bool {
        match change {
            Change::Topic(config) => {
                let name = config.topic_name.clone();
                if self.topics.get(&name).is_some_and(|have| **have == config) {
                    return false;
                }
                self.topics.insert(name, Arc::new(config));
                self.touch(now_ms)
            }
            Change::TopicDeleted(name) => {
                self.offsets.retain(|of, _| of.topic != name);
                self.modes.retain(|(topic, _), _| *topic != name);
                self.forget_lanes(|lane| lane.topic == name);
                self.topics.remove(&name).is_some() && self.touch(now_ms)
            }
            Change::Group(config) => {
                self.groups
                    .insert(config.group_name.clone(), Arc::new(config));
                false
            }
            Change::GroupDeleted {
                group,
                clean_offsets,
            } => {
                self.groups.remove(&group);
                self.modes.retain(|(_, of), _| *of != group);
                if clean_offsets {
                    self.offsets.retain(|of, _| of.group != group);
                    self.forget_lanes(|lane| lane.group == group);
                }
                false
            }
            Change::Offsets(offsets) => {
                for offset in offsets {
                    let of = Consumed {
                        topic: offset.topic,
                        group: offset.group,
                    };
                    let queues = self.offsets.entry(of).or_default();
                    queues.insert(i64::from(offset.queue), offset.offset);
                }
                false
            }
            Change::Mins(_) => false,
            Change::DelayOffsets(offsets) => {
                self.delivered.apply(&offsets);
                false
            }
            Change::Flights(flown) => {
                self.flights.apply(flown);
                false
            }
            Change::Orders(batches) => {
                self.orders.apply(batches);
                false
            }
            Change::RequestMode(set) => {
                self.set_request_mode(set);
                false
            }
        }
    }

    fn touch(&mut self, now_ms: i64) -> bool {
        self.version.counter += 1;
        self.version.timestamp = now_ms;
        true
    }

    /// Topics and groups.
    pub fn counts(&self) -> (usize, usize) {
        (self.built_in.len() + self.topics.len(), self.groups.len())
    }

    pub fn version(&self) -> DataVersion {
        self.version
    }

    /// What is registered at the name servers: every topic but our own state.
    pub fn registered_topics(&self) -> TopicConfigTable {
        let topics = self.built_in.iter().chain(&self.topics);
        let topic_config_table = topics
            .map(|(name, config)| (name.clone(), (**config).clone()))
            .collect();
        TopicConfigTable {
            data_version: self.version,
            topic_config_table,
        }
    }
}

impl Change {
    /// The entry's kind and payload.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Topic(config) => (KIND_TOPIC, to_json(config)),
            Self::TopicDeleted(name) => (KIND_TOPIC_DELETED, name.clone().into_bytes()),
            Self::Group(config) => (KIND_GROUP, to_json(config)),
            Self::GroupDeleted {
                group,
                clean_offsets,
            } => {
                let mut out = vec![u8::from(*clean_offsets)];
                out.extend(group.as_bytes());
                (KIND_GROUP_DELETED, out)
            }
            Self::Offsets(offsets) => {
                let mut out = Vec::new();
                for offset in offsets {
                    put_text(&mut out, &offset.topic);
                    put_text(&mut out, &offset.group);
                    out.extend(offset.queue.to_be_bytes());
                    out.extend(offset.offset.to_be_bytes());
                }
                (KIND_OFFSETS, out)
            }
            Self::Mins(mins) => {
                let mut out = Vec::new();
                for min in mins {
                    put_text(&mut out, &min.topic);
                    out.extend(min.queue.to_be_bytes());
                    out.extend(min.min.to_be_bytes());
                }
                (KIND_MINS, out)
            }
            Self::DelayOffsets(offsets) => {
                let mut out = Vec::new();
                for (queue, offset) in offsets {
                    out.extend(queue.to_be_bytes());
                    out.extend(offset.to_be_bytes());
                }
                (KIND_DELAY_OFFSETS, out)
            }
            Self::Flights(flown) => (KIND_FLIGHTS, popped::encode_flights(flown)),
            Self::Orders(batches) => (KIND_ORDERS, popped::encode_orders(batches)),
            Self::RequestMode(set) => (KIND_REQUEST_MODE, to_json(set)),
        }
    }

    /// Reads an entry; `None` when it is the store's own.
    pub fn decode(entry: Entry<'_>) -> Result<Option<Self>, ChangeError> {
        let broken = |reason: String| ChangeError {
            kind: entry.kind,
            reason,
        };
        let ends_early = || broken("it ends early".into());
        let text = |bytes| {
            let text = std::str::from_utf8(bytes).map_err(|e| broken(e.to_string()))?;
            Ok(text.to_owned())
        };
        Ok(Some(match entry.kind {
            store::state::KIND_EPOCH => return Ok(None),
            KIND_TOPIC => {
                let config = from_fastjson(entry.payload).map_err(|e| broken(e.to_string()))?;
                Self::Topic(config)
            }
            KIND_TOPIC_DELETED => Self::TopicDeleted(text(entry.payload)?),
            KIND_GROUP => {
                let config = from_fastjson(entry.payload).map_err(|e| broken(e.to_string()))?;
                Self::Group(config)
            }
            KIND_GROUP_DELETED => {
                let (clean, group) = entry
                    .payload
                    .split_first()
                    .ok_or_else(|| broken("it is empty".into()))?;
                Self::GroupDeleted {
                    group: text(group)?,
                    clean_offsets: *clean != 0,
                }
            }
            KIND_OFFSETS => Self::Offsets(decode_offsets(entry.payload).ok_or_else(ends_early)?),
            KIND_MINS => Self::Mins(decode_mins(entry.payload).ok_or_else(ends_early)?),
            KIND_FLIGHTS => {
                Self::Flights(popped::decode_flights(entry.payload).ok_or_else(ends_early)?)
            }
            KIND_ORDERS => {
                Self::Orders(popped::decode_orders(entry.payload).ok_or_else(ends_early)?)
            }
            KIND_REQUEST_MODE => {
                let set = from_fastjson(entry.payload).map_err(|e| broken(e.to_string()))?;
                Self::RequestMode(set)
            }
            KIND_DELAY_OFFSETS => {
                let (offsets, rest) = entry.payload.as_chunks::<12>();
                if !rest.is_empty() {
                    return Err(ends_early());
                }
                let offset = |mut one: &[u8]| (one.get_i32(), one.get_i64());
                Self::DelayOffsets(offsets.iter().map(|one| offset(one)).collect())
            }
            _ => {
                return Err(broken(
                    "the kind is unknown; a later release wrote it".into(),
                ));
            }
        }))
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn text(payload: &mut &[u8]) -> Option<String> {
    let len = payload.try_get_u16().ok()? as usize;
    let (text, rest) = payload.split_at_checked(len)?;
    *payload = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn decode_mins(mut payload: &[u8]) -> Option<Vec<QueueMin>> {
    let mut mins = Vec::new();
    while !payload.is_empty() {
        mins.push(QueueMin {
            topic: text(&mut payload)?,
            queue: payload.try_get_i32().ok()?,
            min: payload.try_get_i64().ok()?,
        });
    }
    Some(mins)
}

fn decode_offsets(mut payload: &[u8]) -> Option<Vec<Offset>> {
    let mut offsets = Vec::new();
    while !payload.is_empty() {
        offsets.push(Offset {
            topic: text(&mut payload)?,
            group: text(&mut payload)?,
            queue: payload.try_get_i32().ok()?,
            offset: payload.try_get_i64().ok()?,
        });
    }
    Some(offsets)
}

/// The settings of a topic that a send creates, from those of the topic it names as default.
pub fn inherited(name: &str, default: &TopicConfig, wanted_queues: i32) -> Option<TopicConfig> {
    if default.perm & PERM_INHERIT == 0 || topic::is_system(name) {
        return None;
    }
    let queues = wanted_queues.min(default.write_queue_nums).max(0);
    Some(TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm: default.perm & !PERM_INHERIT,
        topic_filter_type: default.topic_filter_type,
        topic_sys_flag: 0,
        ..TopicConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(topic: &str, group: &str, queue: i32, offset: i64) -> Offset {
        Offset {
            topic: topic.into(),
            group: group.into(),
            queue,
            offset,
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn changes_are_frozen_bytes_and_come_back() {
        let topic = TopicConfig {
            topic_name: "T".into(),
            ..TopicConfig::default()
        };
        let group = SubscriptionGroupConfig {
            group_name: "g".into(),
            ..SubscriptionGroupConfig::default()
        };
        let rows: Vec<(Change, u8, &[u8])> = vec![
            (
                Change::Topic(topic),
                2,
                concat!(
                    r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":16,"#,
                    r#""topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"#,
                    r#""writeQueueNums":16}"#
                )
                .as_bytes(),
            ),
            (Change::TopicDeleted("T".into()), 3, b"T"),
            (
                Change::Group(group),
                4,
                concat!(
                    r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"#,
                    r#""consumeEnable":true,"consumeFromMinEnable":true,"#,
                    r#""consumeMessageOrderly":false,"consumeTimeoutMinute":15,"#,
                    r#""groupName":"g","groupSysFlag":0,"#,
                    r#""notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"#,
                    r#""retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#
                )
                .as_bytes(),
            ),
            (
                Change::GroupDeleted {
                    group: "g".into(),
                    clean_offsets: true,
                },
                5,
                b"\x01g",
            ),
            (
                Change::Offsets(vec![offset("T", "g", 1, 258)]),
                6,
                b"\0\x01T\0\x01g\0\0\0\x01\0\0\0\0\0\0\x01\x02",
            ),
            (
                Change::Mins(vec![QueueMin {
                    topic: "T".into(),
                    queue: 1,
                    min: 258,
                }]),
                16,
                b"\0\x01T\0\0\0\x01\0\0\0\0\0\0\x01\x02",
            ),
            (
                Change::DelayOffsets(vec![(2, 258), (17, 1)]),
                7,
                b"\0\0\0\x02\0\0\0\0\0\0\x01\x02\0\0\0\x11\0\0\0\0\0\0\0\x01",
            ),
        ];
        for (change, kind, payload) in rows {
            assert_eq!(change.encode(), (kind, payload.to_vec()));
            let entry = Entry { kind, payload };
            assert_eq!(Change::decode(entry).expect("good"), Some(change));
        }
        for kind in [6, 7] {
            let payload = b"\0\x09T";
            assert!(Change::decode(Entry { kind, payload }).is_err());
        }
        let later = Change::decode(Entry {
            kind: 99,
            payload: b"",
        })
        .expect_err("unknown");
        assert!(
            later.to_string().contains("a later release wrote it"),
            "{later}"
        );
    }

    #[test]
    fn offsets_are_written_once_when_they_change() {
        let mut tables = Tables::new("c", "b", 1, Some(8));
        tables.commit_offset(offset("T", "g", 1, 5));
        tables.commit_offset(offset("T", "g", 0, 7));
        tables.commit_offset(offset("T", "g", 1, 6));
        let taken = tables.take_dirty_offsets();
        assert_eq!(taken, [offset("T", "g", 0, 7), offset("T", "g", 1, 6)]);
        tables.commit_offset(offset("T", "g", 1, 6));
        assert!(tables.take_dirty_offsets().is_empty());
        let mut again = Tables::new("c", "b", 2, None);
        again.apply(Change::Offsets(taken), 0);
        assert_eq!(again.offset("T", "g", 1), Some(6));
        assert!(
            again.take_dirty_offsets().is_empty(),
            "what is in the log is not dirty"
        );
        for (clean_offsets, left) in [(false, Some(6)), (true, None)] {
            again.apply(
                Change::GroupDeleted {
                    group: "g".into(),
                    clean_offsets,
                },
                0,
            );
            assert_eq!(again.offset("T", "g", 1), left);
        }
    }

    #[test]
    fn the_version_moves_only_when_topics_do() {
        let mut tables = Tables::new("c", "b", 3, None);
        let topic = TopicConfig {
            topic_name: "T".into(),
            ..TopicConfig::default()
        };
        let before = tables.version();
        assert_eq!(before.state_version, 3);
        assert!(tables.apply(Change::Topic(topic.clone()), 9));
        assert!(!tables.apply(Change::Topic(topic), 10), "the same again");
        assert_eq!(
            tables.version(),
            DataVersion {
                counter: 1,
                timestamp: 9,
                ..before
            }
        );
        assert!(tables.apply(Change::TopicDeleted("T".into()), 11));
        assert!(!tables.apply(Change::TopicDeleted("T".into()), 12));
        assert!(tables.topic("T").is_none() && tables.topic(DEFAULT_TOPIC).is_none());
    }

    #[test]
    fn a_created_topic_takes_after_its_default() {
        let tables = Tables::new("c", "b", 1, Some(8));
        let default = tables.topic(DEFAULT_TOPIC).expect("auto-create is on");
        for (name, wanted, expect) in [
            ("T", 4, Some((4, 6))),
            ("T", 100, Some((8, 6))),
            ("rmq_sys_x", 4, None),
        ] {
            let created = inherited(name, &default, wanted);
            assert_eq!(
                created.map(|c| (c.write_queue_nums, c.perm)),
                expect,
                "{name} {wanted}"
            );
        }
        let plain = TopicConfig::default();
        assert_eq!(
            inherited("T", &plain, 4),
            None,
            "its perm has no inherit bit"
        );
    }
}
