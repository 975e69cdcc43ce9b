//! Offsets: of queues and of consumer groups (`ConsumerManageProcessor.java`,
//! `AdminBrokerProcessor.java`).

use std::sync::Arc;

use protocol::header::{
    OffsetAnswer, QueryConsumerOffset, QueueOf, SearchOffset, StoreTimeAnswer, UpdateConsumerOffset,
};
use protocol::record::Record;
use protocol::{Frame, Header as _, Refusal, ResponseCode};
use store::{Boundary, Range, Read, ReadLimits, ReadStatus, Wait};

use super::topic::QUEUES_MAX;
use super::{Answer, failed};
use crate::Broker;
use crate::process::memory_bytes;
use crate::tables::Offset;

/// Share of main memory that a queue's messages may lie from the log's end and still count as
/// in memory (`accessMessageInMemoryMaxRatio`), in percent.
const IN_MEMORY_PERCENT: u64 = 40;

fn answer(request: &Frame, offset: i64) -> Frame {
    request
        .answer(ResponseCode::Success)
        .with_header(&OffsetAnswer { offset })
}

/// A group without an offset starts from 0 where everything the queue ever had is still fresh,
/// and by its own rule elsewhere.
pub(super) fn query(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = QueryConsumerOffset::read(&request.fields)?;
    let stored = broker.group_offset(&header.topic, &header.group, header.queue);
    if let Some(offset) = stored {
        return Ok(Some(answer(request, offset)));
    }
    let not_found = |remark| Err(Refusal::new(ResponseCode::QueryNotFound, remark));
    if header.set_zero_if_not_found == Some(false) {
        return not_found("Not found, do not set to zero, maybe this group boot first");
    }
    let fresh = broker.range(&header.topic, header.queue).min <= 0
        && is_in_memory(broker, &header.topic, header.queue);
    if fresh {
        return Ok(Some(answer(request, 0)));
    }
    not_found("Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first")
}

/// Whether the first message of a queue is near the log's end; an empty queue is.
pub(super) fn is_in_memory(broker: &Broker, topic: &str, queue: i32) -> bool {
    let one = ReadLimits {
        messages_max: 1,
        bytes_max: 1,
        scan_max: 1,
    };
    let first = broker
        .store
        .read(topic, queue, 0, &one, &mut |_| true, Wait::Never);
    let Ok(Read {
        status, records, ..
    }) = first
    else {
        return false;
    };
    let position = records
        .first()
        .and_then(|record| Record::decode(record).ok());
    match (status, position) {
        (ReadStatus::WouldBlock, _) => false,
        (_, None) => true,
        (_, Some(first)) => {
            let behind = broker.store.status().confirm.saturating_sub(first.position);
            behind <= memory_bytes() / 100 * IN_MEMORY_PERCENT
        }
    }
}

pub(super) fn update(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = UpdateConsumerOffset::read(&request.fields)?;
    let (topic, group) = {
        let tables = broker.tables();
        (tables.topic(&header.topic), tables.group(&header.group))
    };
    if group.is_none() {
        let remark = format!("Group {} not exist!", header.group);
        return Err(Refusal::new(
            ResponseCode::SubscriptionGroupNotExist,
            remark,
        ));
    }
    if topic.is_none() {
        let remark = format!("Topic {} not exist!", header.topic);
        return Err(Refusal::new(ResponseCode::TopicNotExist, remark));
    }
    if !(0..QUEUES_MAX).contains(&header.queue) {
        let remark = format!("no topic has a queue {}", header.queue);
        return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    }
    let committed = broker.commit_offset(Offset {
        topic: header.topic,
        group: header.group,
        queue: header.queue,
        offset: header.offset,
    });
    let answer = request.answer(ResponseCode::Success);
    Ok(Some(if committed {
        answer
    } else {
        answer.with_remark("Offset has been previously reset")
    }))
}

pub(super) fn max(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = QueueOf::read(&request.fields)?;
    let offset = broker.range(&header.topic, header.queue).max;
    Ok(Some(answer(request, offset)))
}

pub(super) fn min(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = QueueOf::read(&request.fields)?;
    let offset = broker.range(&header.topic, header.queue).min;
    Ok(Some(answer(request, offset)))
}

pub(super) fn search(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let header = SearchOffset::read(&request.fields)?;
    let upper = header
        .boundary
        .is_some_and(|word| word.eq_ignore_ascii_case("upper"));
    let boundary = if upper {
        Boundary::Upper
    } else {
        Boundary::Lower
    };
    let offset = broker
        .store
        .offset_at_time(&header.topic, header.queue, header.timestamp_ms, boundary)
        .map_err(failed)?;
    Ok(answer(request, offset.unwrap_or(0)))
}

/// When the first message of a queue was stored; -1 in an empty queue.
pub(super) fn earliest(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let QueueOf { topic, queue } = QueueOf::read(&request.fields)?;
    let first = broker.range(&topic, queue).min;
    let timestamp_ms = broker.store_time(&topic, queue, first)?;
    let answer = request.answer(ResponseCode::Success);
    Ok(answer.with_header(&StoreTimeAnswer { timestamp_ms }))
}

impl Broker {
    /// A queue that never had a message is 0..0.
    pub(crate) fn range(&self, topic: &str, queue: i32) -> Range {
        self.store.range(topic, queue).unwrap_or_default()
    }

    /// Where a group goes on: where it was sent, or else what it has committed. A negative
    /// offset is none.
    pub(crate) fn group_offset(&self, topic: &str, group: &str, queue: i32) -> Option<i64> {
        let reset = self.coordination().resets.get(topic, group, queue);
        let offset = reset.or_else(|| self.tables().offset(topic, group, queue));
        offset.filter(|offset| *offset >= 0)
    }

    /// Counts at once; the next state record makes it last. `false`: the group was sent
    /// elsewhere and has not been told yet.
    pub(crate) fn commit_offset(&self, offset: Offset) -> bool {
        let coordination = self.coordination();
        let resets = &coordination.resets;
        if resets
            .get(&offset.topic, &offset.group, offset.queue)
            .is_some()
        {
            return false;
        }
        self.tables_mut().commit_offset(offset);
        drop(coordination);
        self.offsets_dirty.notify_one();
        true
    }
}
