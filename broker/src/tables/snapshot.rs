//! What the tables say at a position of the log: for the base, and for what must be kept.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::{Change, Offset, Tables};
use crate::pop::Lane;

/// The topic attribute that says how long messages are kept, in hours as in Java.
const RESERVE_TIME: &str = "reserve.time";

/// The groups that consume a topic, each with its offset by queue.
pub type Consumers = Vec<(String, BTreeMap<i64, i64>)>;

impl Tables {
    /// The changes that make empty tables these, in one order. Where a kind of state is a change,
    /// it is a line here.
    pub fn snapshot(&self) -> Vec<Change> {
        let topics = self.topics.values().map(|topic| (**topic).clone());
        let mut topics: Vec<_> = topics.collect();
        topics.sort_by(|a, b| a.topic_name.cmp(&b.topic_name));
        let groups = self.groups.values().map(|group| (**group).clone());
        let mut groups: Vec<_> = groups.collect();
        groups.sort_by(|a, b| a.group_name.cmp(&b.group_name));
        let mut changes: Vec<_> = topics.into_iter().map(Change::Topic).collect();
        changes.extend(groups.into_iter().map(Change::Group));
        changes.push(Change::Offsets(self.all_offsets()));
        changes.push(Change::DelayOffsets(self.delivered.all()));
        changes.extend(self.modes.values().cloned().map(Change::RequestMode));
        // Only where somebody pops, so that an older release reads what concerns it.
        let (flights, orders) = (self.flights.all(), self.orders.all());
        changes.extend((!flights.is_empty()).then_some(Change::Flights(flights)));
        changes.extend((!orders.is_empty()).then_some(Change::Orders(orders)));
        changes
    }

    fn all_offsets(&self) -> Vec<Offset> {
        let of_one = self.offsets.iter().flat_map(|(of, queues)| {
            queues.iter().map(|(queue, offset)| Offset {
                topic: of.topic.clone(),
                group: of.group.clone(),
                queue: *queue as i32,
                offset: *offset,
            })
        });
        let mut all: Vec<_> = of_one.collect();
        all.sort_by(|a, b| (&a.topic, &a.group, a.queue).cmp(&(&b.topic, &b.group, b.queue)));
        all
    }

    /// Topics that exist or of which a group has an offset.
    pub fn remembered(&self) -> HashSet<String> {
        let topics = self.topics.keys().chain(self.built_in.keys());
        let consumed = self.offsets.keys().map(|of| &of.topic);
        topics.chain(consumed).cloned().collect()
    }

    /// By topic, the known groups that have consumed it; messages in flight are not consumed.
    pub fn consumers(&self) -> HashMap<String, Consumers> {
        let flying: HashMap<_, _> = self.flights.firsts().collect();
        let mut all: HashMap<String, Consumers> = HashMap::new();
        for (of, queues) in &self.offsets {
            if self.groups.contains_key(&of.group) {
                let consumers = all.entry(of.topic.clone()).or_default();
                let mut queues = queues.clone();
                for (queue, offset) in &mut queues {
                    let lane = Lane {
                        topic: of.topic.clone(),
                        group: of.group.clone(),
                        queue: *queue as i32,
                    };
                    let first = flying.get(&lane).copied();
                    *offset = first.map_or(*offset, |first| first.min(*offset));
                }
                consumers.push((of.group.clone(), queues));
            }
        }
        all
    }

    /// Topics with a retention of their own.
    pub fn reserved(&self) -> Vec<(String, Duration)> {
        let own = self.topics.iter().filter_map(|(name, topic)| {
            let hours: u64 = topic.attributes.get(RESERVE_TIME)?.parse().ok()?;
            let seconds = hours.checked_mul(3_600).filter(|seconds| *seconds > 0)?;
            Some((name.clone(), Duration::from_secs(seconds)))
        });
        own.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::body::{RequestMode, SetRequestMode, SubscriptionGroupConfig, TopicConfig};

    use super::*;
    use crate::pop::flights::{Flight, Flown};
    use crate::pop::orders::{Batch, Handed};

    /// Two messages of topic A are in flight, a batch is out, and somebody has said who pops.
    fn popped() -> [Change; 3] {
        let lane = Arc::new(Lane {
            topic: "A".into(),
            group: "g".into(),
            queue: 1,
        });
        let flown = [3, 6].map(|offset| Flown {
            lane: Arc::clone(&lane),
            offset,
            flight: Some(Flight {
                pop_ms: 1,
                until_ms: 2,
            }),
        });
        let batch = Batch {
            pop_ms: 1,
            attempt: String::new(),
            messages: vec![Handed {
                offset: 4,
                until_ms: 2,
                count: 0,
                acknowledged: false,
            }],
        };
        let mode = SetRequestMode {
            topic: "A".into(),
            consumer_group: "g".into(),
            mode: RequestMode::Pop,
            pop_share_queue_num: 0,
        };
        [
            Change::RequestMode(mode),
            Change::Flights(flown.into()),
            Change::Orders(vec![(lane, Some(batch))]),
        ]
    }

    #[test]
    fn c2_a_snapshot_rebuilds_the_tables() {
        let topic = |name: &str, hours: Option<&str>| TopicConfig {
            topic_name: name.into(),
            attributes: hours
                .map(|hours| (RESERVE_TIME.to_owned(), hours.to_owned()))
                .into_iter()
                .collect(),
            ..TopicConfig::default()
        };
        let offset = |topic: &str, group: &str, queue, offset| Offset {
            topic: topic.into(),
            group: group.into(),
            queue,
            offset,
        };
        let group = SubscriptionGroupConfig {
            group_name: "g".into(),
            ..SubscriptionGroupConfig::default()
        };
        let mut changes = vec![
            Change::Topic(topic("A", Some("5"))),
            Change::Topic(topic("B", Some("-1"))),
            Change::Topic(topic("C", Some("x"))),
            Change::Topic(topic("D", None)),
            Change::Group(group),
            Change::Offsets(vec![
                offset("A", "g", 0, 7),
                offset("A", "g", 1, 8),
                offset("Gone", "unknown", 0, 9),
            ]),
            Change::DelayOffsets(vec![(3, 8)]),
        ];
        changes.extend(popped());
        let mut tables = Tables::new("c", "b", 1, None);
        for change in &changes {
            tables.apply(change.clone(), 0);
        }
        assert_eq!(tables.snapshot(), changes);
        let mut again = Tables::new("c", "b", 2, None);
        for change in tables.snapshot() {
            again.apply(change, 0);
        }
        assert_eq!(again.snapshot(), changes);
        assert_eq!(
            tables.reserved(),
            [("A".to_owned(), Duration::from_hours(5))]
        );
        let consumers = BTreeMap::from([(0, 7), (1, 3)]);
        let expect = HashMap::from([("A".to_owned(), vec![("g".to_owned(), consumers)])]);
        assert_eq!(tables.consumers(), expect);
        let remembered = tables.remembered();
        for (name, expect) in [("A", true), ("Gone", true), ("b", true), ("X", false)] {
            assert_eq!(remembered.contains(name), expect, "{name}");
        }
    }
}
