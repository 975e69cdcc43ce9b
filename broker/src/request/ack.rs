//! `ACK_MESSAGE`, `BATCH_ACK_MESSAGE` and `CHANGE_MESSAGE_INVISIBLETIME`: what becomes of popped
//! messages (`AckMessageProcessor.java`, `ChangeInvisibleTimeProcessor.java`).
//!
//! A receipt that is void, since its message was acknowledged or is with somebody else, does no
//! harm and is no error: its sender could not do anything about it.

use std::sync::Arc;

use protocol::body::{BatchAck, BatchAcks};
use protocol::header::{AckMessage, ChangeInvisibleTime, ChangeInvisibleTimeAnswer};
use protocol::json::from_fastjson;
use protocol::receipt::{Origin, REVIVE_QUEUE_ORDERED, Receipt};
use protocol::{Frame, Header as _, Refusal, ResponseCode};
use store::Range;

use super::Answer;
use crate::Broker;
use crate::pop::Lane;
use crate::pop::flights::{FLIGHTS_OF_LANE_MAX, Flight};
use crate::pop::orders::Acknowledged;
use crate::process::unix_ms;

pub(super) fn one(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = AckMessage::read(&request.fields)?;
    let lane = lane(broker, &header.topic, &header.group, header.queue)?;
    let (offset, Range { min, max }) = (header.offset, broker.range(&lane.topic, lane.queue));
    if offset < min || offset > max {
        let (topic, queue) = (&lane.topic, lane.queue);
        let remark =
            format!("offset is illegal, key:{topic}@{queue}, commit:{offset}, store:{min}~{max}");
        return Err(Refusal::new(ResponseCode::NoMessage, remark));
    }
    let receipt = receipt(&header.receipt)?;
    if receipt.is_ordered() {
        acknowledge_in_order(broker, &lane, offset, receipt.pop_ms)?;
    } else {
        acknowledge(broker, &lane, &[offset], receipt.pop_ms);
    }
    Ok(Some(request.answer(ResponseCode::Success)))
}

/// What is no message of a queue is passed over.
pub(super) fn several(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let none = || Refusal::new(ResponseCode::NoMessage, "no message is named");
    if request.body.is_empty() {
        return Err(none());
    }
    let batch: BatchAcks = from_fastjson(&request.body)?;
    if batch.acks.is_empty() {
        return Err(none());
    }
    for ack in &batch.acks {
        of_queue(broker, ack)?;
    }
    Ok(Some(request.answer(ResponseCode::Success)))
}

fn of_queue(broker: &Broker, ack: &BatchAck) -> Result<(), Refusal> {
    let wrong = |what: &str| {
        let remark = format!("{what} of a batch of acknowledgements is wrong");
        Refusal::new(ResponseCode::SystemError, remark)
    };
    let origin = Origin::parse(&ack.origin).ok_or_else(|| wrong("the kind of topic"))?;
    let ones = ack.bits.ones().ok_or_else(|| wrong("the bit set"))?;
    let lane = Arc::new(Lane {
        topic: origin.topic(&ack.topic, &ack.group),
        group: ack.group.clone(),
        queue: ack.queue,
    });
    let Some(Range { min, max }) = broker.store.range(&lane.topic, lane.queue) else {
        return Ok(());
    };
    let offsets = ones.into_iter();
    let offsets = offsets.map(|one| ack.start_offset.saturating_add(one as i64));
    let offsets: Vec<i64> = offsets.filter(|at| (min..=max).contains(at)).collect();
    if ack.revive_queue == REVIVE_QUEUE_ORDERED {
        for offset in offsets {
            acknowledge_in_order(broker, &lane, offset, ack.pop_ms)?;
        }
    } else {
        acknowledge(broker, &lane, &offsets, ack.pop_ms);
    }
    Ok(())
}

/// The message is not handed out again before another time.
pub(super) fn change_time(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = ChangeInvisibleTime::read(&request.fields)?;
    let lane = lane(broker, &header.topic, &header.group, header.queue)?;
    let (offset, Range { min, max }) = (header.offset, broker.range(&lane.topic, lane.queue));
    let not_out = || {
        let remark = format!("the message {offset} is not out by this receipt");
        Refusal::new(ResponseCode::NoMessage, remark)
    };
    if !(min..max).contains(&offset) {
        return Err(not_out());
    }
    let receipt = receipt(&header.receipt)?;
    let now_ms = unix_ms();
    let until_ms = now_ms.saturating_add(header.invisible_ms.max(0));
    let mut tables = broker.tables_mut();
    let (changed, pop_ms) = if receipt.is_ordered() {
        let orders = &mut tables.orders;
        let changed = orders.delay(&lane, offset, receipt.pop_ms, until_ms);
        (changed, receipt.pop_ms)
    } else {
        let flight = Flight {
            pop_ms: now_ms,
            until_ms,
        };
        let flights = &mut tables.flights;
        let changed = flights.extend(&lane, offset, receipt.pop_ms, flight);
        (changed, now_ms)
    };
    let due_first = tables.first_end_ms() == Some(until_ms);
    drop(tables);
    if !changed {
        return Err(not_out());
    }
    broker.offsets_dirty.notify_one();
    if due_first {
        broker.waiting.pops.launched.notify_one();
    }
    let answer = request.answer(ResponseCode::Success);
    Ok(Some(answer.with_header(&ChangeInvisibleTimeAnswer {
        pop_ms,
        // From the pop time on, as the receipt says it.
        invisible_ms: until_ms - pop_ms,
        revive_queue: receipt.revive_queue,
    })))
}

fn acknowledge(broker: &Broker, lane: &Arc<Lane>, offsets: &[i64], pop_ms: i64) {
    let mut tables = broker.tables_mut();
    let flights = &mut tables.flights;
    let was_full = flights.count(lane) >= FLIGHTS_OF_LANE_MAX;
    let mut ended = false;
    for offset in offsets {
        ended |= flights.end(lane, *offset, pop_ms);
    }
    drop(tables);
    if ended {
        broker.offsets_dirty.notify_one();
        if was_full {
            broker.waiting.pops.waiting.mark_lane(lane);
        }
    }
}

/// The group goes on behind the messages that are acknowledged without a gap.
fn acknowledge_in_order(
    broker: &Broker,
    lane: &Arc<Lane>,
    offset: i64,
    pop_ms: i64,
) -> Result<(), Refusal> {
    // Who was sent elsewhere does not go on from here.
    let coordination = broker.coordination();
    let resets = &coordination.resets;
    let is_sent = resets.get(&lane.topic, &lane.group, lane.queue).is_some();
    let mut tables = broker.tables_mut();
    if tables.offset_of(lane).is_none_or(|next| offset < next) {
        return Ok(());
    }
    let acknowledged = tables.orders.acknowledge(lane, offset, pop_ms);
    if let Acknowledged::Next(next) = acknowledged
        && !is_sent
    {
        tables.move_to(lane, next);
    }
    let blocks = tables.orders.blocks(lane, None, unix_ms());
    drop(tables);
    drop(coordination);
    match acknowledged {
        Acknowledged::Next(_) => {
            broker.offsets_dirty.notify_one();
            if !blocks {
                broker.waiting.pops.waiting.mark_lane(lane);
            }
            Ok(())
        }
        Acknowledged::Stale => Ok(()),
        Acknowledged::Unknown => {
            let (topic, queue) = (&lane.topic, lane.queue);
            let remark = format!("offset is illegal, key:{topic}@{queue}, commit:{offset}");
            Err(Refusal::new(ResponseCode::MessageIllegal, remark))
        }
    }
}

fn receipt(text: &str) -> Result<Receipt, Refusal> {
    let read = Receipt::parse(text);
    read.map_err(|bad| Refusal::new(ResponseCode::SystemError, bad.to_string()))
}

fn lane(broker: &Broker, topic: &str, group: &str, queue: i32) -> Result<Arc<Lane>, Refusal> {
    let config = broker.tables().topic(topic).ok_or_else(|| {
        let remark = format!("topic[{topic}] not exist, apply first please!");
        Refusal::new(ResponseCode::TopicNotExist, remark)
    })?;
    if !(0..config.read_queue_nums).contains(&queue) {
        let remark = format!(
            "queueId[{queue}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{}]",
            config.read_queue_nums
        );
        return Err(Refusal::new(ResponseCode::MessageIllegal, remark));
    }
    Ok(Arc::new(Lane {
        topic: topic.to_owned(),
        group: group.to_owned(),
        queue,
    }))
}
