//! Offsets: of queues and of consumer groups (`ConsumerManageProcessor.java`,
//! `AdminBrokerProcessor.java`).

use std::sync::Arc;

use protocol::header::{
    OffsetAnswer, QueryConsumerOffset, QueueOf, SearchOffset, UpdateConsumerOffset,
};
use protocol::record::Record;
use protocol::{Frame, Header as _, Refusal, ResponseCode};
use store::{Boundary, Range, Read, ReadLimits, ReadStatus, Wait};

use super::Answer;
use crate::Broker;
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
    let stored = broker
        .tables()
        .offset(&header.topic, &header.group, header.queue);
    if let Some(offset) = stored {
        return Ok(Some(answer(request, offset)));
    }
    let zero = header.set_zero_if_not_found != Some(false)
        && range(broker, &header.topic, header.queue).min <= 0
        && is_in_memory(broker, &header.topic, header.queue);
    if zero {
        return Ok(Some(answer(request, 0)));
    }
    let remark = "Not found, maybe this group consumer boot first";
    Err(Refusal::new(ResponseCode::QueryNotFound, remark))
}

/// Whether the first message of a queue is near the log's end; an empty queue is.
fn is_in_memory(broker: &Broker, topic: &str, queue: i32) -> bool {
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
            behind <= broker.memory_bytes / 100 * IN_MEMORY_PERCENT
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
        let remark = format!("subscription group [{}] does not exist", header.group);
        return Err(Refusal::new(
            ResponseCode::SubscriptionGroupNotExist,
            remark,
        ));
    }
    if topic.is_none() {
        let remark = format!("topic[{}] does not exist", header.topic);
        return Err(Refusal::new(ResponseCode::TopicNotExist, remark));
    }
    broker.commit_offset(Offset {
        topic: header.topic,
        group: header.group,
        queue: header.queue,
        offset: header.offset,
    });
    Ok(Some(request.answer(ResponseCode::Success)))
}

pub(super) fn max(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = QueueOf::read(&request.fields)?;
    let offset = range(broker, &header.topic, header.queue).max;
    Ok(Some(answer(request, offset)))
}

pub(super) fn min(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = QueueOf::read(&request.fields)?;
    let offset = range(broker, &header.topic, header.queue).min;
    Ok(Some(answer(request, offset)))
}

pub(super) fn search(broker: &Arc<Broker>, request: &Frame) -> Answer {
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
        .map_err(|error| Refusal::new(ResponseCode::SystemError, error.to_string()))?;
    Ok(Some(answer(request, offset.unwrap_or(0))))
}

/// A queue that never had a message is 0..0.
fn range(broker: &Broker, topic: &str, queue: i32) -> Range {
    broker.store.range(topic, queue).unwrap_or_default()
}

impl Broker {
    /// Counts at once; the next state record makes it last.
    pub(crate) fn commit_offset(&self, offset: Offset) {
        self.tables_mut().commit_offset(offset);
        self.offsets_dirty.notify_one();
    }
}
