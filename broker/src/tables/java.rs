//! The tables as the JSON files of a Java broker's `config` directory, and back.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;

use protocol::body::{
    ConsumerOffsetTable, DelayOffsetTable, RequestModeTable, SubscriptionGroupTable,
    TopicConfigTable,
};
use protocol::json::{JsonError, from_fastjson, to_fastjson};
use protocol::topic::{is_system, validate_topic};

use super::{Change, Consumed, Offset, Tables};
use crate::pop::flights::Flown;

const TOPICS: &str = "topics.json";
const GROUPS: &str = "subscriptionGroup.json";
const OFFSETS: &str = "consumerOffset.json";
const DELAYS: &str = "delayOffset.json";
const MODES: &str = "messageRequestMode.json";

impl Tables {
    pub fn group_table(&self) -> SubscriptionGroupTable {
        let groups = self.groups.iter();
        SubscriptionGroupTable {
            data_version: self.version,
            subscription_group_table: groups
                .map(|(name, group)| (name.clone(), (**group).clone()))
                .collect(),
        }
    }

    pub fn offset_table(&self) -> ConsumerOffsetTable {
        let offsets = self.offsets.iter();
        ConsumerOffsetTable {
            data_version: self.version,
            offset_table: offsets
                .map(|(of, queues)| (format!("{}@{}", of.topic, of.group), queues.clone()))
                .collect(),
        }
    }

    /// Java knows nothing of what is in flight here, and begins at the first such message.
    fn java_offsets(&self) -> ConsumerOffsetTable {
        let mut table = self.offset_table();
        for (lane, first) in self.flights.firsts() {
            let of = format!("{}@{}", lane.topic, lane.group);
            let queues = table.offset_table.get_mut(&of);
            if let Some(offset) = queues.and_then(|of| of.get_mut(&i64::from(lane.queue))) {
                *offset = first.min(*offset);
            }
        }
        table
    }

    /// The JSON files of a Java broker's `config` directory that hold these tables.
    pub fn java_files(&self) -> Vec<(String, String)> {
        let delivered = self.delivered.all().into_iter();
        let levels = delivered.map(|(queue, next)| (i64::from(queue) + 1, next));
        let delays = DelayOffsetTable {
            data_version: self.version,
            offset_table: levels.collect(),
        };
        [
            (TOPICS, to_fastjson(&self.registered_topics())),
            (GROUPS, to_fastjson(&self.group_table())),
            (OFFSETS, to_fastjson(&self.java_offsets())),
            (DELAYS, to_fastjson(&delays)),
            (MODES, to_fastjson(&self.mode_table())),
        ]
        .map(|(name, json)| (name.to_owned(), String::from_utf8_lossy(&json).into_owned()))
        .into()
    }

    /// The changes that make the tables say what a file says that somebody else has written.
    pub fn import(&self, name: &str, content: &[u8]) -> Result<Vec<Change>, JsonError> {
        match name {
            TOPICS => Ok(self.import_topics(from_fastjson(content)?)),
            GROUPS => Ok(self.import_groups(from_fastjson(content)?)),
            OFFSETS => Ok(self.import_offsets(from_fastjson(content)?)),
            DELAYS => Ok(self.import_delays(&from_fastjson(content)?)),
            MODES => Ok(self.import_modes(from_fastjson(content)?)),
            _ => Ok(Vec::new()),
        }
    }

    /// The topics of the broker itself are no subject.
    fn import_topics(&self, table: TopicConfigTable) -> Vec<Change> {
        let own = |name: &str| self.built_in.contains_key(name) || is_system(name);
        let gone = self
            .topics
            .keys()
            .filter(|name| !own(name) && !table.topic_config_table.contains_key(*name));
        let mut changes: Vec<_> = gone.cloned().map(Change::TopicDeleted).collect();
        for (name, config) in table.topic_config_table {
            let same = self.topics.get(&name).is_some_and(|have| **have == config);
            if !same && !own(&name) && validate_topic(&name).is_ok() && name == config.topic_name {
                changes.push(Change::Topic(config));
            }
        }
        changes
    }

    fn import_groups(&self, table: SubscriptionGroupTable) -> Vec<Change> {
        let table: HashMap<_, _> = table.subscription_group_table.into_iter().collect();
        let gone = self.groups.keys().filter(|name| !table.contains_key(*name));
        let mut changes: Vec<_> = gone
            .map(|group| Change::GroupDeleted {
                group: group.clone(),
                clean_offsets: false,
            })
            .collect();
        for (name, config) in table {
            let same = self.groups.get(&name).is_some_and(|have| **have == config);
            if !same && name == config.group_name {
                changes.push(Change::Group(config));
            }
        }
        changes
    }

    /// A level that the file does not name stays.
    fn import_delays(&self, table: &DelayOffsetTable) -> Vec<Change> {
        let theirs = table.offset_table.iter().filter_map(|(level, next)| {
            let queue = i32::try_from(*level).ok()?.checked_sub(1)?;
            (queue >= 0 && self.delivered.next(queue) != *next).then_some((queue, *next))
        });
        let changed: Vec<_> = theirs.collect();
        let changes = (!changed.is_empty()).then_some(Change::DelayOffsets(changed));
        changes.into_iter().collect()
    }

    fn mode_table(&self) -> RequestModeTable {
        let mut table = RequestModeTable::default();
        for set in self.modes.values() {
            let topics = &mut table.message_request_mode_map;
            let groups = topics.entry(set.topic.clone()).or_default();
            groups.insert(set.consumer_group.clone(), set.clone());
        }
        table
    }

    /// A mode that the file does not name stays.
    fn import_modes(&self, table: RequestModeTable) -> Vec<Change> {
        let theirs = table.message_request_mode_map.into_values();
        let theirs = theirs.flat_map(std::collections::BTreeMap::into_values);
        let new = theirs.filter(|set| {
            let of = (set.topic.clone(), set.consumer_group.clone());
            self.modes.get(&of) != Some(set)
        });
        new.map(Change::RequestMode).collect()
    }

    /// Whoever wrote the offsets has begun at the first message in flight, so none is any more.
    fn end_flights(&self) -> Option<Change> {
        let all = self.flights.all().into_iter();
        let ended: Vec<_> = all
            .map(|flown| Flown {
                flight: None,
                ..flown
            })
            .collect();
        (!ended.is_empty()).then_some(Change::Flights(ended))
    }

    /// An offset that the file does not name stays.
    fn import_offsets(&self, table: ConsumerOffsetTable) -> Vec<Change> {
        let mut changed = Vec::new();
        for (key, queues) in table.offset_table {
            let Some((topic, group)) = key.split_once('@') else {
                continue;
            };
            let of = Consumed {
                topic: topic.to_owned(),
                group: group.to_owned(),
            };
            let have = self.offsets.get(&of);
            for (queue, offset) in queues {
                let same = have.and_then(|have| have.get(&queue)) == Some(&offset);
                if let Ok(queue) = i32::try_from(queue)
                    && !same
                {
                    changed.push(Offset {
                        topic: of.topic.clone(),
                        group: of.group.clone(),
                        queue,
                        offset,
                    });
                }
            }
        }
        let changes = (!changed.is_empty()).then_some(Change::Offsets(changed));
        changes.into_iter().chain(self.end_flights()).collect()
    }
}

#[cfg(test)]
mod tests {
    use protocol::body::{SubscriptionGroupConfig, TopicConfig};

    use super::*;

    fn tables(changes: Vec<Change>) -> Tables {
        let mut tables = Tables::new("c", "b", 1, Some(8));
        for change in changes {
            tables.apply(change, 0);
        }
        tables
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn h14_what_another_broker_wrote_becomes_changes() {
        let topic = |name: &str, perm| {
            Change::Topic(TopicConfig {
                topic_name: name.into(),
                perm,
                ..TopicConfig::default()
            })
        };
        let group = |name: &str, enable| {
            Change::Group(SubscriptionGroupConfig {
                group_name: name.into(),
                consume_enable: enable,
                ..SubscriptionGroupConfig::default()
            })
        };
        let offset = |topic: &str, offset| {
            let (topic, group) = (topic.to_owned(), "g".to_owned());
            Change::Offsets(vec![Offset {
                topic,
                group,
                queue: 1,
                offset,
            }])
        };
        let ours = tables(vec![
            topic("Same", 6),
            topic("Changed", 6),
            topic("Deleted", 6),
            group("same", true),
            group("changed", true),
            group("deleted", true),
            offset("Same", 5),
            offset("Changed", 5),
            offset("Deleted", 5),
            Change::DelayOffsets(vec![(0, 4), (2, 5)]),
        ]);
        let theirs = tables(vec![
            topic("Same", 6),
            topic("Changed", 4),
            topic("New", 6),
            topic("RMQ_SYS_TRACE_TOPIC", 6),
            group("same", true),
            group("changed", false),
            offset("Same", 5),
            offset("Changed", 9),
            Change::DelayOffsets(vec![(0, 4), (2, 6)]),
        ]);
        let mut found = Vec::new();
        for (name, content) in theirs.java_files() {
            found.extend(ours.import(&name, content.as_bytes()).expect("readable"));
        }
        let expect = vec![
            Change::TopicDeleted("Deleted".into()),
            topic("Changed", 4),
            topic("New", 6),
            Change::GroupDeleted {
                group: "deleted".into(),
                clean_offsets: false,
            },
            group("changed", false),
            offset("Changed", 9),
            Change::DelayOffsets(vec![(2, 6)]),
        ];
        for change in &expect {
            assert!(found.contains(change), "{change:?} is not in {found:?}");
        }
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (name, content) in ours.java_files() {
            assert_eq!(
                ours.import(&name, content.as_bytes()).expect("readable"),
                []
            );
        }
        assert_eq!(ours.import("other.json", b"").expect("no subject"), []);
        assert!(ours.import(TOPICS, b"{").is_err());
    }
}
