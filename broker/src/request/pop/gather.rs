//! What a pop finds: messages of the topic's queues, from one of them on, and of the group's retry
//! topic, now before them and now behind.
//!
//! No queue is locked. A pop reads from the group's offset and takes what it has read only when
//! the offset is still there; otherwise another pop was faster, and this one reads on.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::Bytes;
use protocol::header::{INIT_MIN, Notification, PeekMessage, PopMessage};
use protocol::receipt::{OffsetInfo, Origin, REVIVE_QUEUE_ORDERED, Receipt};
use protocol::record::{Message, Record, size_queue_and_offset};
use protocol::topic::pop_retry_topic;
use protocol::{Refusal, properties};
use rand::RngExt as _;
use store::{Range, Read, ReadLimits, ReadStatus, Wait};

use super::super::failed;
use super::super::offset::is_in_memory;
use super::super::pull::{ANSWER_BYTES_MAX, ANSWER_MESSAGES_MAX, SCAN_MAX};
use crate::Broker;
use crate::filter::Filter;
use crate::pop::Lane;
use crate::pop::flights::Flight;
use crate::pop::waiting::Ask;
use crate::process::unix_ms;
use crate::tables::Found;

/// How many of a hundred pops look at the retry topic first (`popFromRetryProbability`).
const RETRY_FIRST_PERCENT: u32 = 20;
/// Each time another pop of the group got messages instead.
const TRIES_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) records: Vec<Bytes>,
    pub(super) info: OffsetInfo,
    pub(super) pop_ms: i64,
    pub(super) revive_queue: i32,
    /// Messages that are left in the queues that were looked at.
    pub(super) rest: i64,
    /// What is not in memory was passed over.
    pub(super) needs_disk: bool,
    bytes: usize,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// What a pop or a notification waits for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(super) queue: i32,
    order: bool,
    attempt: Option<String>,
}

impl Wanted {
    pub(super) fn of(ask: &Ask) -> Self {
        match ask {
            Ask::Pop(header, _) => Self {
                queue: header.queue,
                order: header.order,
                attempt: header.attempt.clone(),
            },
            Ask::Notification(header) => Self::of_notification(header),
        }
    }

    pub(in super::super) fn of_notification(header: &Notification) -> Self {
        Self {
            queue: header.queue,
            order: header.order,
            attempt: header.attempt.clone(),
        }
    }
}

/// Hands out what is there.
pub(super) fn gather(
    broker: &Broker,
    header: &PopMessage,
    filter: &Filter,
    wait: Wait,
) -> Result<Gathered, Refusal> {
    let revive_queue = if header.order {
        REVIVE_QUEUE_ORDERED
    } else {
        broker.waiting.pops.next_revive_queue()
    };
    let mut popping = Popping {
        broker,
        header,
        filter,
        wait,
        found: Gathered {
            records: Vec::new(),
            info: OffsetInfo::default(),
            pop_ms: unix_ms(),
            revive_queue,
            rest: 0,
            needs_disk: false,
            bytes: 0,
        },
    };
    let dice: u32 = rand::rng().random_range(0..100);
    let retry_first = dice < RETRY_FIRST_PERCENT;
    let retry = pop_retry_topic(&header.topic, &header.group);
    if retry_first && !header.order {
        popping.take_topic(&retry, -1, dice)?;
    }
    popping.take_topic(&header.topic, header.queue, dice)?;
    if !retry_first && !header.order {
        popping.take_topic(&retry, -1, dice)?;
    }
    Ok(popping.found)
}

struct Popping<'a> {
    broker: &'a Broker,
    header: &'a PopMessage,
    filter: &'a Filter,
    wait: Wait,
    found: Gathered,
}

impl Popping<'_> {
    /// Of one queue, or of all of them from one on.
    fn take_topic(&mut self, topic: &str, queue: i32, first: u32) -> Result<(), Refusal> {
        if queue >= 0 {
            return self.take_queue(topic, queue);
        }
        for queue in queues(self.broker, topic, first) {
            self.take_queue(topic, queue)?;
        }
        Ok(())
    }

    fn take_queue(&mut self, topic: &str, queue: i32) -> Result<(), Refusal> {
        let lane = Arc::new(Lane {
            topic: topic.to_owned(),
            group: self.header.group.clone(),
            queue,
        });
        for _ in 0..TRIES_MAX {
            let from = self.start_of(&lane);
            let Range { max, .. } = self.broker.range(topic, queue);
            if from == max || self.blocked(&lane) {
                return Ok(());
            }
            let left = (max - from).max(0);
            let full = self.broker.tables().flights.full(&lane);
            if self.room() == 0 || full {
                self.found.rest += left;
                return Ok(());
            }
            let read = self.read(&lane, from)?;
            if read.status == ReadStatus::WouldBlock {
                self.found.needs_disk = true;
                self.found.rest += left;
                return Ok(());
            }
            if self.take(&lane, from, read) {
                return Ok(());
            }
        }
        let Range { max, .. } = self.broker.range(topic, queue);
        self.found.rest += (max - self.start_of(&lane)).max(0);
        Ok(())
    }

    fn blocked(&self, lane: &Lane) -> bool {
        let (attempt, now_ms) = (self.header.attempt.as_deref(), self.found.pop_ms);
        self.header.order && self.broker.tables().orders.blocks(lane, attempt, now_ms)
    }

    fn room(&self) -> usize {
        if self.found.bytes >= ANSWER_BYTES_MAX {
            return 0;
        }
        let wanted = usize::try_from(self.header.messages_max).unwrap_or(0);
        let wanted = wanted.clamp(1, ANSWER_MESSAGES_MAX);
        wanted - self.found.records.len().min(wanted)
    }

    /// Where the group goes on: where it was sent, where it is, or where it begins.
    fn start_of(&self, lane: &Arc<Lane>) -> i64 {
        let mut coordination = self.broker.coordination();
        let resets = &mut coordination.resets;
        let sent_to = resets.take(&lane.topic, &lane.group, lane.queue);
        drop(coordination);
        if let Some(offset) = sent_to {
            let mut tables = self.broker.tables_mut();
            tables.orders.clear(lane);
            tables.move_to(lane, offset);
        }
        if let Some(offset) = self.broker.tables().offset_of(lane) {
            return offset;
        }
        let first = first_of(self.broker, lane, self.header.init_mode);
        let mut tables = self.broker.tables_mut();
        if let Some(offset) = tables.offset_of(lane) {
            return offset;
        }
        tables.move_to(lane, first);
        drop(tables);
        self.broker.offsets_dirty.notify_one();
        first
    }

    fn read(&self, lane: &Lane, from: i64) -> Result<Read, Refusal> {
        let limits = ReadLimits {
            messages_max: self.room(),
            bytes_max: ANSWER_BYTES_MAX - self.found.bytes.min(ANSWER_BYTES_MAX),
            scan_max: SCAN_MAX,
        };
        let wants = &mut |tags| self.filter.wants(tags);
        let wants_record = &mut |record: &[u8]| self.filter.wants_record(record);
        let store = &self.broker.store;
        let wanted: store::Wanted<'_> = (wants, wants_record);
        store
            .read_matching(&lane.topic, lane.queue, from, &limits, wanted, self.wait)
            .map_err(failed)
    }

    /// Takes what was read; `false` when another pop was faster, or the offset was none.
    fn take(&mut self, lane: &Arc<Lane>, from: i64, read: Read) -> bool {
        let offset = |record: &Bytes| Some(size_queue_and_offset(record)?.2);
        let offsets: Vec<i64> = read.records.iter().filter_map(offset).collect();
        let pop_ms = self.found.pop_ms;
        let found = Found {
            from,
            next: read.next,
            offsets: &offsets,
            flight: Flight {
                pop_ms,
                until_ms: pop_ms.saturating_add(self.header.invisible_ms),
            },
        };
        let (attempt, origin) = (self.header.attempt.as_deref(), Origin::of(&lane.topic));
        let mut tables = self.broker.tables_mut();
        let taken = if self.header.order {
            let counts = tables.hand_out_in_order(lane, attempt, &found);
            if let Some(counts) = counts.as_ref().filter(|counts| !counts.is_empty()) {
                self.found.info.count(origin, lane.queue, counts);
            }
            counts.is_some()
        } else {
            tables.hand_out(lane, &found)
        };
        let due_first = tables.first_end_ms() == Some(found.flight.until_ms);
        drop(tables);
        self.broker.offsets_dirty.notify_one();
        if due_first {
            self.broker.waiting.pops.launched.notify_one();
        }
        let wrong = matches!(
            read.status,
            ReadStatus::TooSmall | ReadStatus::OverflowBadly
        );
        if !taken || wrong {
            return false;
        }
        self.found.rest += (read.max - read.next).max(0);
        let info = &mut self.found.info;
        info.add(origin, lane.queue, from, &offsets);
        self.give(lane, from, origin, read);
        true
    }

    fn give(&mut self, lane: &Lane, from: i64, origin: Origin, read: Read) {
        let (topic, group) = (&lane.topic, &lane.group);
        let mut coordination = self.broker.coordination();
        let next = [(lane.queue, read.next)];
        coordination.pulled.set(topic, group, next);
        drop(coordination);
        let bytes: usize = read.records.iter().map(Bytes::len).sum();
        let count = read.records.len();
        self.broker.metrics.messages_out(topic, group, count, bytes);
        self.found.bytes += bytes;
        if origin == Origin::Normal {
            return self.found.records.extend(read.records);
        }
        let receipt = Receipt {
            start_offset: from,
            pop_ms: self.found.pop_ms,
            invisible_ms: self.header.invisible_ms,
            revive_queue: self.found.revive_queue,
            origin,
            broker: self.broker.config.broker.clone(),
            queue: lane.queue,
            offset: -1,
        };
        let records = read.records.iter();
        let records = records.filter_map(|stored| renamed(stored, &self.header.topic, &receipt));
        self.found.records.extend(records);
    }
}

/// A message of a retry topic, as one of the topic that it came from, with its receipt.
fn renamed(stored: &Bytes, topic: &str, receipt: &Receipt) -> Option<Bytes> {
    let record = Record::decode_known(stored).ok()?;
    let receipt = Receipt {
        offset: record.queue_offset,
        ..receipt.clone()
    };
    let all = properties::set(record.properties, properties::POP_CK, &receipt.to_string());
    let message = Message {
        prepared_offset: record.prepared_offset,
        properties: all.into(),
        ..record.message(stored, topic, record.queue)
    };
    match message.encode(record.store_host) {
        Ok(mut encoded) => {
            let bytes = encoded.place(record.queue_offset, record.position, record.store_ms);
            Some(Bytes::copy_from_slice(bytes))
        }
        Err(error) => {
            tracing::warn!(topic, %error, "a message has no room for its receipt");
            None
        }
    }
}

/// Where a group begins that has no offset in a queue.
fn first_of(broker: &Broker, lane: &Lane, init_mode: i32) -> i64 {
    let Range { min, max } = broker.range(&lane.topic, lane.queue);
    if init_mode == INIT_MIN || Origin::of(&lane.topic) != Origin::Normal {
        return min;
    }
    if min <= 0 && is_in_memory(broker, &lane.topic, lane.queue) {
        return 0;
    }
    (max - 1).max(min)
}

/// The queues of a topic, from one on; none of a topic that is not there.
fn queues(broker: &Broker, topic: &str, first: u32) -> impl Iterator<Item = i32> + use<> {
    let count = broker.tables().topic(topic);
    let count = count.map_or(0, |topic| topic.read_queue_nums.max(0));
    let first = first as i32;
    (0..count).map(move |at| (first + at) % count)
}

/// Whether a pop of the group would find anything, as far as that can be told without reading.
pub(in super::super) fn anything_for(
    broker: &Broker,
    topic: &str,
    group: &str,
    wanted: &Wanted,
) -> bool {
    let retry = pop_retry_topic(topic, group);
    let any = |topic: &str, queue: i32| {
        let lane = Lane {
            topic: topic.to_owned(),
            group: group.to_owned(),
            queue,
        };
        let Range { min, max } = broker.range(topic, queue);
        let (tables, attempt) = (broker.tables(), wanted.attempt.as_deref());
        max > tables.offset_of(&lane).unwrap_or(min)
            && !tables.flights.full(&lane)
            && !(wanted.order && tables.orders.blocks(&lane, attempt, unix_ms()))
    };
    let of_topic = if wanted.queue < 0 {
        queues(broker, topic, 0).any(|queue| any(topic, queue))
    } else {
        any(topic, wanted.queue)
    };
    of_topic || (!wanted.order && queues(broker, &retry, 0).any(|queue| any(&retry, queue)))
}

/// Messages that are next, and how many are left with them.
pub(super) fn peek(broker: &Broker, header: &PeekMessage) -> Result<(Vec<Bytes>, i64), Refusal> {
    let retry = pop_retry_topic(&header.topic, &header.group);
    let of_topic: Vec<i32> = if header.queue < 0 {
        queues(broker, &header.topic, 0).collect()
    } else {
        vec![header.queue]
    };
    let of_topic = of_topic.into_iter().map(|queue| (&header.topic, queue));
    let of_retry = queues(broker, &retry, 0).map(|queue| (&retry, queue));
    let wanted = usize::try_from(header.messages_max).unwrap_or(0);
    let wanted = wanted.min(ANSWER_MESSAGES_MAX);
    let (mut records, mut rest, mut bytes) = (Vec::new(), 0, 0);
    for (topic, queue) in of_topic.chain(of_retry) {
        let Range { min, max } = broker.range(topic, queue);
        let from = broker.group_offset(topic, &header.group, queue);
        let from = from.unwrap_or(min).max(min);
        rest += (max - from).max(0);
        let limits = ReadLimits {
            messages_max: wanted - records.len(),
            bytes_max: ANSWER_BYTES_MAX.saturating_sub(bytes),
            scan_max: SCAN_MAX,
        };
        if limits.messages_max == 0 || limits.bytes_max == 0 || from >= max {
            continue;
        }
        let any = &mut |_| true;
        let read = broker
            .store
            .read(topic, queue, from, &limits, any, Wait::ForDisk)
            .map_err(failed)?;
        bytes += read.records.iter().map(Bytes::len).sum::<usize>();
        records.extend(read.records);
    }
    Ok((records, rest))
}
