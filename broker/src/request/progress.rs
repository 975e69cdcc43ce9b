//! How far queues and groups are, and setting that (`AdminBrokerProcessor.java`). All of it may
//! read the disk for the times of messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use net::Peer;
use protocol::body::{
    ConsumeStats, ConsumeStatsList, ConsumeTimeSpans, CorrectionOffsets, GroupList, MessageQueue,
    OffsetWrapper, QueueTimeSpan, ResetOffsets, TopicConfig, TopicList, TopicOffset,
    TopicStatsTable,
};
use protocol::header::{
    AllConsumeStatsOf, CloneOffsets, ConsumeStatsOf, CorrectionOf, GroupAndTopic, GroupOf,
    ResetOffset, TopicOf,
};
use protocol::json::to_fastjson;
use protocol::{Frame, Header as _, Refusal, ResponseCode};
use store::{Boundary, Range};

use super::{Answer, failed, with_body};
use crate::Broker;
use crate::process::unix_ms;
use crate::tables::{Change, Offset};

pub(super) fn of_topic(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let topic = TopicOf::read(&request.fields)?.topic;
    let config = known_topic(broker, &topic)?;
    let mut table = TopicStatsTable {
        topic_put_tps: broker.metrics.stats().topic_put_tps(&topic),
        ..TopicStatsTable::default()
    };
    for queue in 0..config.read_queue_nums.max(config.write_queue_nums) {
        let Range { min, max } = broker.range(&topic, queue);
        let last_update_timestamp = if max > 0 {
            broker.store_time(&topic, queue, max - 1)?
        } else {
            0
        };
        let offset = TopicOffset {
            last_update_timestamp,
            max_offset: max,
            min_offset: min.max(0),
        };
        table
            .offset_table
            .insert(broker.queue(&topic, queue), offset);
    }
    Ok(frame(request, &table))
}

pub(super) fn of_group(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let of = ConsumeStatsOf::read(&request.fields)?;
    let listed = of.topics.as_deref().unwrap_or_default().split(';');
    let mut topics: BTreeSet<String> = listed
        .filter(|topic| !topic.is_empty())
        .map(str::to_owned)
        .collect();
    if topics.is_empty() {
        topics = match of.topic.filter(|topic| !topic.trim().is_empty()) {
            Some(topic) => BTreeSet::from([topic]),
            None => broker.topics_of(&of.group),
        };
        topics.retain(|topic| !broker.clients().has_left(&of.group, topic));
    }
    let mut all = ConsumeStats::default();
    for topic in &topics {
        let Some(config) = broker.tables().topic(topic) else {
            continue;
        };
        let stats = broker.consume_stats(&of.group, &config, config.read_queue_nums)?;
        all.offset_table.extend(stats.offset_table);
        all.consume_tps += stats.consume_tps;
    }
    Ok(frame(request, &all))
}

pub(super) fn of_all_groups(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let of = AllConsumeStatsOf::read(&request.fields)?;
    let mut list = ConsumeStatsList {
        broker_addr: broker.config.advertise.clone(),
        ..ConsumeStatsList::default()
    };
    let groups = broker.tables().group_table().subscription_group_table;
    for group in groups.into_keys() {
        let mut stats = Vec::new();
        for topic in broker.topics_of(&group) {
            let config = broker.tables().topic(&topic);
            let Some(config) = config.filter(|config| config.order || !of.order) else {
                continue;
            };
            if broker.clients().has_left(&group, &topic) {
                continue;
            }
            let of_topic = broker.consume_stats(&group, &config, config.write_queue_nums)?;
            for offset in of_topic.offset_table.values() {
                list.total_diff += offset.broker_offset - offset.consumer_offset;
                list.total_inflight_diff += offset.pull_offset - offset.consumer_offset;
            }
            stats.push(of_topic);
        }
        list.consume_stats_list
            .push(BTreeMap::from([(group, stats)]));
    }
    Ok(frame(request, &list))
}

pub(super) fn time_span(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let GroupAndTopic { group, topic } = GroupAndTopic::read(&request.fields)?;
    let config = known_topic(broker, &topic)?;
    let mut spans = ConsumeTimeSpans::default();
    for queue in 0..config.write_queue_nums {
        let Range { min, max } = broker.range(&topic, queue);
        let consumed = broker.group_offset(&topic, &group, queue).unwrap_or(-1);
        let first_ms = broker.store_time(&topic, queue, min)?;
        let consume_time_stamp = if consumed > 0 {
            broker.store_time(&topic, queue, consumed - 1)?
        } else {
            first_ms
        };
        let delay_time = if consumed < max {
            unix_ms() - broker.store_time(&topic, queue, consumed)?
        } else {
            0
        };
        spans.consume_time_span_set.push(QueueTimeSpan {
            consume_time_stamp,
            delay_time,
            max_time_stamp: broker.store_time(&topic, queue, max - 1)?,
            message_queue: broker.queue(&topic, queue),
            min_time_stamp: first_ms,
        });
    }
    Ok(frame(request, &spans))
}

pub(super) fn groups_of(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let topic = TopicOf::read(&request.fields)?.topic;
    let mut group_list = broker.clients().subscribers(&topic);
    let tables = broker.tables();
    let consumed = tables.consumed().filter(|(of, _)| *of == topic);
    group_list.extend(consumed.map(|(_, group)| group.to_owned()));
    with_body(request, &GroupList { group_list })
}

pub(super) fn topics_of(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let group = GroupOf::read(&request.fields)?.group;
    let list = TopicList {
        broker_addr: Some(broker.config.advertise.clone()),
        topic_list: broker.topics_of(&group),
    };
    with_body(request, &list)
}

/// Sends a group to a time or an offset. Its clients learn it from their next pull.
pub(super) fn reset(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = ResetOffset::read(&request.fields)?;
    super::changing(broker, request, peer, move |broker| {
        let offsets = reset_offsets(broker, &header)?;
        tracing::info!(
            group = header.group,
            topic = header.topic,
            ?offsets,
            "offsets reset"
        );
        let table = offsets
            .iter()
            .map(|(queue, offset)| (broker.queue(&header.topic, *queue), *offset));
        let body = to_fastjson(&ResetOffsets {
            offset_table: table.collect(),
        });
        let written = offsets.iter().map(|(queue, offset)| Offset {
            topic: header.topic.clone(),
            group: header.group.clone(),
            queue: *queue,
            offset: *offset,
        });
        let change = Change::Offsets(written.collect());
        // From now on commits of the group do not count until it has been told.
        let mut coordination = broker.coordination();
        coordination
            .resets
            .set(&header.topic, &header.group, offsets);
        Ok((vec![change], body))
    })
}

fn reset_offsets(broker: &Broker, header: &ResetOffset) -> Result<Vec<(i32, i64)>, Refusal> {
    let refuse = |code, remark: String| Err(Refusal::new(code, remark));
    let ResetOffset { group, topic, .. } = header;
    let Some(config) = broker.tables().topic(topic) else {
        let remark = format!("Topic {topic} does not exist");
        return refuse(ResponseCode::TopicNotExist, remark);
    };
    if broker.tables().group(group).is_none() {
        let remark = format!("Group {group} does not exist");
        return refuse(ResponseCode::SubscriptionGroupNotExist, remark);
    }
    let at_time = |queue| -> Result<i64, Refusal> {
        if header.timestamp_ms < 0 {
            return Ok(broker.range(topic, queue).max);
        }
        let offset =
            broker
                .store
                .offset_at_time(topic, queue, header.timestamp_ms, Boundary::Lower);
        Ok(offset.map_err(failed)?.unwrap_or(0))
    };
    if header.queue < 0 {
        let queues = 0..config.read_queue_nums;
        return queues.map(|queue| Ok((queue, at_time(queue)?))).collect();
    }
    let offset = match header.offset.filter(|offset| *offset != -1) {
        Some(offset) => {
            let Range { min, max } = broker.range(topic, header.queue);
            if offset < min.max(0) || offset > max + 1 {
                let remark =
                    format!("Target offset {offset} not in consume queue range [{min}-{max}]");
                return refuse(ResponseCode::SystemError, remark);
            }
            offset
        }
        None => at_time(header.queue)?,
    };
    Ok(vec![(header.queue, offset)])
}

/// Gives a group the offsets of another.
pub(super) fn clone(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = CloneOffsets::read(&request.fields)?;
    super::changing(broker, request, peer, move |broker| {
        let topics = match header.topic.filter(|topic| !topic.trim().is_empty()) {
            Some(topic) => BTreeSet::from([topic]),
            None => broker.topics_of(&header.from),
        };
        let mut cloned = Vec::new();
        for topic in topics {
            let left = !header.offline && broker.clients().has_left(&header.from, &topic);
            let tables = broker.tables();
            if left || tables.topic(&topic).is_none() {
                continue;
            }
            for (queue, offset) in tables.offsets(&topic, &header.from) {
                cloned.push(Offset {
                    topic: topic.clone(),
                    group: header.to.clone(),
                    queue: queue as i32,
                    offset,
                });
            }
        }
        Ok((vec![Change::Offsets(cloned)], Vec::new()))
    })
}

/// The least offset of a topic's groups in each queue; a maximum where the group that is compared
/// lies below it.
pub(super) fn correction(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = CorrectionOf::read(&request.fields)?;
    let without: Vec<&str> = header
        .without
        .as_deref()
        .unwrap_or_default()
        .split(',')
        .collect();
    let tables = broker.tables();
    let mut least: BTreeMap<i64, i64> = BTreeMap::new();
    for (topic, group) in tables.consumed() {
        if topic != header.topic || without.contains(&group) {
            continue;
        }
        for (queue, offset) in tables.offsets(topic, group) {
            if offset >= broker.range(topic, queue as i32).min {
                let least = least.entry(queue).or_insert(offset);
                *least = offset.min(*least);
            }
        }
    }
    for (queue, offset) in tables.offsets(&header.topic, &header.compared) {
        if let Some(least) = least.get_mut(&queue).filter(|least| **least > offset) {
            *least = i64::MAX;
        }
    }
    let correction_offsets = least;
    with_body(request, &CorrectionOffsets { correction_offsets })
}

fn frame(request: &Frame, body: &impl serde::Serialize) -> Frame {
    let answer = request.answer(ResponseCode::Success);
    answer.with_body(to_fastjson(body))
}

fn known_topic(broker: &Broker, topic: &str) -> Result<Arc<TopicConfig>, Refusal> {
    broker.tables().topic(topic).ok_or_else(|| {
        let remark = format!("topic[{topic}] not exist");
        Refusal::new(ResponseCode::TopicNotExist, remark)
    })
}

impl Broker {
    fn queue(&self, topic: &str, queue_id: i32) -> MessageQueue {
        MessageQueue {
            topic: topic.to_owned(),
            broker_name: self.config.broker.clone(),
            queue_id,
        }
    }

    /// The topics of which a group has offsets.
    fn topics_of(&self, group: &str) -> BTreeSet<String> {
        let tables = self.tables();
        let consumed = tables.consumed().filter(|(_, of)| *of == group);
        consumed.map(|(topic, _)| topic.to_owned()).collect()
    }

    /// When a message was stored; -1 if there is none, as Java says.
    pub(super) fn store_time(&self, topic: &str, queue: i32, offset: i64) -> Result<i64, Refusal> {
        let stored = self.store.store_time(topic, queue, offset);
        Ok(stored.map_err(failed)?.unwrap_or(-1))
    }

    fn consume_stats(
        &self,
        group: &str,
        topic: &TopicConfig,
        queues: i32,
    ) -> Result<ConsumeStats, Refusal> {
        let name = &topic.topic_name;
        let mut stats = ConsumeStats {
            consume_tps: self.metrics.stats().group_get_tps(name, group),
            ..ConsumeStats::default()
        };
        for queue in 0..queues {
            let consumed = self.group_offset(name, group, queue).unwrap_or(0);
            let last = if consumed > 0 {
                self.store_time(name, queue, consumed - 1)?
            } else {
                0
            };
            let pulled = self.coordination().pulled.get(name, group, queue);
            let offset = OffsetWrapper {
                broker_offset: self.range(name, queue).max,
                consumer_offset: consumed,
                last_timestamp: last.max(0),
                pull_offset: pulled.unwrap_or(consumed),
            };
            stats.offset_table.insert(self.queue(name, queue), offset);
        }
        Ok(stats)
    }
}
