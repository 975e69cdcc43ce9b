//! Messages with a delay level (`ScheduleMessageService.java`).
//!
//! Such a message lies on `SCHEDULE_TOPIC_XXXX`, in a queue for each level, and its properties
//! say for which topic and queue it is. All messages of a queue wait equally long, so the first
//! one is due first. One task sleeps until some queue's first message is due, and stores what is
//! due where it belongs. How far each queue has been delivered is state of the broker and written
//! once a tick: after a crash a tick's deliveries may come again, after a stop none does.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::record::{Message, Record};
use protocol::topic::SCHEDULE_TOPIC;
use protocol::{Refusal, ResponseCode, properties};
use store::{AppendError, Appended, ReadError, ReadLimits, ReadStatus, Store, Wait};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::levels::LEVELS_MAX;
pub use crate::levels::Levels;
use crate::process::unix_ms;
use crate::{Broker, carry};

/// Queues of the topic in a Java broker, however many levels it has.
pub const QUEUES: i32 = 18;

/// Delivered in one go at most; one message always is.
const DELIVER_MESSAGES_MAX: usize = 1_000;
const DELIVER_BYTES_MAX: usize = 1 << 20;
/// Read at a time: no more than this is read in vain behind the last message that is due.
const CHUNK: ReadLimits = ReadLimits {
    messages_max: 32,
    bytes_max: 256 << 10,
    scan_max: 32,
};
const RETRY_MS: i64 = 1_000;
/// So far apart are two deliveries of a queue at least: messages that are due in between go
/// together.
const PACE_MS: i64 = 10;
/// The wall clock is looked at anew after so long, should it be set while the task sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(10);
/// Store times never go back. One so far ahead of the clock is left from a clock that was wrong.
const AHEAD_MS_MAX: i64 = 60_000;

/// The delay level that a message asks for; none is 0.
pub fn delay_level(encoded: &[u8]) -> Result<i32, Refusal> {
    level_of(properties::get(encoded, properties::DELAY))
}

/// What the property `DELAY` says.
pub fn level_of(delay: Option<&str>) -> Result<i32, Refusal> {
    let Some(level) = delay else {
        return Ok(0);
    };
    level.parse().map_err(|_| {
        let remark = format!("the delay level {level:?} is no number");
        Refusal::new(ResponseCode::SystemError, remark)
    })
}

impl Levels {
    /// A message with a delay goes to its level's queue and keeps in its properties where it was
    /// to go; any other stays as it is.
    pub fn redirect(&self, message: Message) -> Result<Message, Refusal> {
        let wanted = delay_level(&message.properties)?;
        if wanted <= 0 {
            return Ok(message);
        }
        let level = wanted.min(self.0.len() as i32);
        let mut encoded = message.properties.to_vec();
        for timer in [
            properties::TIMER_DELAY_SEC,
            properties::TIMER_DELAY_MS,
            properties::TIMER_DELIVER_MS,
            properties::STORED_MS,
        ] {
            encoded = properties::remove(&encoded, timer);
        }
        for (name, value) in [
            (properties::DELAY, level.to_string().as_str()),
            (properties::REAL_TOPIC, &message.topic),
            (properties::REAL_QID, &message.queue.to_string()),
        ] {
            encoded = properties::set(&encoded, name, value);
        }
        Ok(Message {
            topic: SCHEDULE_TOPIC.into(),
            queue: level - 1,
            properties: encoded.into(),
            ..message
        })
    }

    /// When a message of a level's queue is due.
    fn due_ms(&self, queue: i32, record: &Record<'_>, now_ms: i64) -> i64 {
        let delay = usize::try_from(queue).ok().and_then(|at| self.0.get(at));
        let since = record.delayed_since_ms();
        let since = if since > now_ms + AHEAD_MS_MAX {
            record.born_ms.min(now_ms)
        } else {
            since
        };
        since.saturating_add(delay.copied().unwrap_or_default())
    }
}

/// How far each level's queue has been delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    offsets: BTreeMap<i32, i64>,
    dirty: bool,
}

impl Delivered {
    /// The first message of a queue that is still to be delivered.
    pub fn next(&self, queue: i32) -> i64 {
        self.offsets.get(&queue).copied().unwrap_or_default()
    }

    /// Notes a delivery; it is written with the next tick.
    pub fn commit(&mut self, queue: i32, next: i64) {
        self.dirty |= self.offsets.insert(queue, next) != Some(next);
    }

    /// Takes over what a state record says.
    pub fn apply(&mut self, offsets: &[(i32, i64)]) {
        self.offsets.extend(offsets.iter().copied());
    }

    /// All offsets, in order of their queues.
    pub fn all(&self) -> Vec<(i32, i64)> {
        self.offsets.iter().map(|(q, next)| (*q, *next)).collect()
    }

    /// All offsets, if one of them has changed since they were last taken.
    pub fn take_dirty(&mut self) -> Option<Vec<(i32, i64)>> {
        std::mem::take(&mut self.dirty).then(|| self.all())
    }

    /// The record with these could not be written.
    pub fn not_written(&mut self) {
        self.dirty = true;
    }

    /// Where in the log the oldest message lies that is still to be delivered.
    pub fn oldest_position(&self, store: &Store) -> Result<Option<u64>, ReadError> {
        let one = ReadLimits {
            messages_max: 1,
            bytes_max: 1,
            scan_max: 1,
        };
        let mut oldest = None;
        for queue in 0..LEVELS_MAX as i32 {
            let range = store.range(SCHEDULE_TOPIC, queue).unwrap_or_default();
            let next = self.next(queue).max(range.min);
            if next >= range.max {
                continue;
            }
            let any = &mut |_| true;
            let read = store.read(SCHEDULE_TOPIC, queue, next, &one, any, Wait::ForDisk)?;
            let first = read.records.first();
            let position = first.and_then(|first| Some(Record::decode(first).ok()?.position));
            oldest = oldest.into_iter().chain(position).min();
        }
        Ok(oldest)
    }
}

/// What is due of a queue.
#[derive(Debug)]
struct Due {
    /// As they are stored where they belong.
    messages: Vec<Message>,
    /// Of the queue, behind these messages.
    next: i64,
    look: Look,
}

/// When to look at a queue again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Now,
    AtMs(i64),
    WhenOneArrives,
}

/// Reads the messages of a queue from `from` on that are due at `now_ms`.
fn due(store: &Store, levels: &Levels, level: Level, now_ms: i64) -> Result<Due, ReadError> {
    let bytes_max = DELIVER_BYTES_MAX.min(store.status().segment_bytes as usize / 4);
    let mut bytes = 0;
    let mut due = Due {
        messages: Vec::new(),
        next: level.next,
        look: Look::Now,
    };
    loop {
        let (queue, any) = (level.queue, &mut |_| true);
        let read = match store.read(SCHEDULE_TOPIC, queue, due.next, &CHUNK, any, Wait::ForDisk) {
            Err(_) if !due.messages.is_empty() => return Ok(due),
            read => read?,
        };
        match read.status {
            ReadStatus::Found => {}
            ReadStatus::TooSmall | ReadStatus::OverflowBadly => {
                tracing::warn!(
                    queue,
                    from = due.next,
                    to = read.next,
                    "delayed messages skipped"
                );
                due.next = read.next;
                continue;
            }
            _ => {
                due.look = Look::WhenOneArrives;
                return Ok(due);
            }
        }
        for stored in &read.records {
            let Ok(record) = Record::decode(stored) else {
                return Ok(due);
            };
            let due_ms = levels.due_ms(queue, &record, now_ms);
            if due_ms > now_ms {
                due.look = Look::AtMs(due_ms);
                return Ok(due);
            }
            bytes += stored.len();
            let full = due.messages.len() >= level.messages_max || bytes > bytes_max;
            if full && !due.messages.is_empty() {
                return Ok(due);
            }
            match delivered(&record, stored) {
                Some(message) => due.messages.push(message),
                None => {
                    tracing::error!(queue, offset = due.next, "a delayed message names no topic");
                }
            }
            due.next += 1;
        }
    }
}

/// The message as it reaches its own topic. Its properties still say that it was delayed, as
/// Java's do.
fn delivered(record: &Record<'_>, stored: &Bytes) -> Option<Message> {
    let topic = record.property(properties::REAL_TOPIC)?;
    let queue = record.property(properties::REAL_QID)?.parse().ok()?;
    let mut message = record.message(stored, topic, queue);
    if record.property(properties::STORED_MS).is_some() {
        let rest = properties::remove(record.properties, properties::STORED_MS);
        message.properties = rest.into();
    }
    Some(message)
}

/// A queue as the task sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub(crate) queue: i32,
    pub(crate) next: i64,
    /// `i64::MAX`: when a message arrives.
    look_ms: i64,
    messages_max: usize,
}

/// Delivers what becomes due, and moves what would go with old log files, until `stop`.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let asks = broker.delays.asks();
    let mut asks = asks.expect("invariant: the task is started once");
    let count = broker.config.properties.message_delay_level.0.len() as i32;
    let level = |queue| Level {
        queue,
        next: broker.tables().delivered.next(queue),
        look_ms: 0,
        messages_max: DELIVER_MESSAGES_MAX,
    };
    let mut levels: Vec<Level> = (0..count).map(level).collect();
    loop {
        for level in &mut levels {
            let now_ms = unix_ms();
            if level.look_ms <= now_ms && !stop.is_cancelled() {
                deliver(&broker, level, now_ms).await;
            }
        }
        let first_ms = levels.iter().map(|level| level.look_ms).min();
        let wait_ms = first_ms.unwrap_or(i64::MAX).saturating_sub(unix_ms());
        let wait = Duration::from_millis(wait_ms.max(0) as u64).min(SLEEP_MAX);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = broker.delays.arrived.notified() => {
                for level in levels.iter_mut().filter(|level| level.look_ms == i64::MAX) {
                    let range = broker.store.range(SCHEDULE_TOPIC, level.queue);
                    if range.unwrap_or_default().max > level.next {
                        level.look_ms = 0;
                    }
                }
            }
            Some(ask) = asks.recv() => carry::answer(&broker, &mut levels, ask).await,
            () = stop.cancelled() => return,
        }
    }
}

async fn deliver(broker: &Arc<Broker>, level: &mut Level, now_ms: i64) {
    let (reader, of) = (Arc::clone(broker), *level);
    let found = tokio::task::spawn_blocking(move || {
        let levels = &reader.config.properties.message_delay_level;
        due(&reader.store, levels, of, now_ms)
    });
    let queue = level.queue;
    let due = match found.await {
        Ok(Ok(due)) => due,
        Ok(Err(ReadError::Corrupt { position })) => {
            tracing::error!(queue, position, "a delayed message is damaged and lost");
            return commit(broker, level, of.next + 1, Look::Now);
        }
        Ok(Err(error)) => {
            tracing::error!(queue, %error, "delayed messages can't be read");
            level.look_ms = now_ms + RETRY_MS;
            return;
        }
        // The runtime is going down.
        Err(_) => return,
    };
    let topics: Vec<Arc<str>> = due.messages.iter().map(|m| Arc::clone(&m.topic)).collect();
    match append(broker, due.messages).await {
        Ok(appended) => {
            for (topic, appended) in topics.iter().zip(appended) {
                broker.metrics.delivered(topic, appended.bytes as usize);
            }
            level.messages_max = DELIVER_MESSAGES_MAX;
            commit(broker, level, due.next, due.look);
        }
        Err(AppendError::Message(_) | AppendError::RecordTooLarge { .. }) if topics.len() > 1 => {
            level.messages_max = 1;
            level.look_ms = now_ms;
        }
        Err(error @ (AppendError::Message(_) | AppendError::RecordTooLarge { .. })) => {
            tracing::error!(queue, offset = of.next, %error, "a delayed message is lost");
            commit(broker, level, due.next, due.look);
        }
        Err(error) => {
            tracing::warn!(queue, %error, "delayed messages wait");
            level.look_ms = now_ms + RETRY_MS;
        }
    }
}

/// What lies below `next` is delivered.
pub(crate) fn commit(broker: &Broker, level: &mut Level, next: i64, look: Look) {
    if next != level.next {
        level.next = next;
        broker.tables_mut().delivered.commit(level.queue, next);
        broker.offsets_dirty.notify_one();
    }
    level.look_ms = match look {
        Look::Now => 0,
        Look::AtMs(ms) => ms.max(unix_ms() + PACE_MS),
        Look::WhenOneArrives => i64::MAX,
    };
}

pub(crate) async fn append(
    broker: &Broker,
    messages: Vec<Message>,
) -> Result<Vec<Appended>, AppendError> {
    let (sender, receiver) = oneshot::channel();
    let done = move |appended| {
        // Without a receiver the process is ending.
        let _ = sender.send(appended);
    };
    broker.store.append_all(messages, Box::new(done));
    receiver.await.unwrap_or(Err(AppendError::Closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_700_000_000_000;

    fn message(topic: &str, properties: &str) -> Message {
        Message {
            topic: topic.into(),
            queue: 3,
            flag: 7,
            sys_flag: 1,
            born_ms: START_MS - 5,
            born_host: ([127, 0, 0, 1], 9).into(),
            reconsume_times: 2,
            prepared_offset: 0,
            body: Bytes::from_static(b"x"),
            properties: Bytes::copy_from_slice(properties.as_bytes()),
        }
    }

    #[test]
    fn a_delay_redirects_and_delivery_brings_back() {
        let levels: Levels = "1s 5s".parse().expect("levels");
        let rows = [
            ("", None),
            ("DELAY\u{1}0\u{2}", None),
            ("DELAY\u{1}-1\u{2}", None),
            ("DELAY\u{1}1\u{2}", Some(1)),
            ("K\u{1}v\u{2}DELAY\u{1}2\u{2}", Some(2)),
            ("DELAY\u{1}99\u{2}TIMER_DELIVER_MS\u{1}5\u{2}", Some(2)),
            (
                "DELAY\u{1}1\u{2}REAL_TOPIC\u{1}old\u{2}REAL_QID\u{1}9",
                Some(1),
            ),
        ];
        for (properties, level) in rows {
            let sent = message("T", properties);
            let moved = levels.redirect(sent.clone()).expect("good");
            let Some(level) = level else {
                assert_eq!((&*moved.topic, moved.queue), ("T", 3), "{properties}");
                assert_eq!(moved.properties, sent.properties);
                continue;
            };
            assert_eq!((&*moved.topic, moved.queue), (SCHEDULE_TOPIC, level - 1));
            let get = |name| properties::get(&moved.properties, name);
            let real = (get("REAL_TOPIC"), get("REAL_QID"), get("TIMER_DELIVER_MS"));
            assert_eq!(real, (Some("T"), Some("3"), None), "{properties}");
            assert_eq!(get("DELAY"), Some(&*level.to_string()));
            let host = ([127, 0, 0, 1], 1).into();
            let mut encoded = moved.encode(host).expect("encodes");
            let stored = Bytes::copy_from_slice(encoded.place(0, 0, START_MS));
            let record = Record::decode(&stored).expect("a record");
            let back = delivered(&record, &stored).expect("it names its topic");
            assert_eq!((&*back.topic, back.queue), ("T", 3));
            assert_eq!(back.properties, moved.properties, "as they were stored");
            assert_eq!((back.reconsume_times, back.sys_flag, back.flag), (2, 1, 7));
        }
        assert!(levels.redirect(message("T", "DELAY\u{1}x\u{2}")).is_err());
    }

    #[test]
    fn a_wrong_clock_neither_hurries_nor_stops_a_message() {
        let levels = Levels::default();
        let bytes = message("T", "").encode(([127, 0, 0, 1], 1).into());
        let mut bytes = bytes.expect("encodes");
        let day = 86_400_000;
        // Stored after the clock said `now`, due after `now`.
        for (ahead, due) in [
            (-5_000, 5_000),
            (0, 10_000),
            (1_000, 11_000),
            (AHEAD_MS_MAX, AHEAD_MS_MAX + 10_000),
            (day, 10_000 - 5),
        ] {
            let stored = bytes.place(0, 0, START_MS + ahead).to_vec();
            let record = Record::decode(&stored).expect("a record");
            assert_eq!(
                levels.due_ms(2, &record, START_MS) - START_MS,
                due,
                "{ahead}"
            );
        }
    }

    #[test]
    fn what_is_due_is_read_in_order_and_nothing_earlier() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = ([127, 0, 0, 1], 1).into();
        let options = store::Options {
            segment_bytes: Some(64 << 10),
            ..store::Options::new("c", "b", host, || START_MS)
        };
        let store = Store::open(dir.path(), options, Box::new(|_, _| {})).expect("opens");
        let levels: Levels = "1s 5s".parse().expect("levels");
        let mut offsets = Delivered::default();
        assert_eq!(offsets.oldest_position(&store).expect("read"), None);
        let mut positions = Vec::new();
        for (at, level) in [1, 2, 1, 1].into_iter().enumerate() {
            let sent = message(&format!("T{at}"), &format!("DELAY\u{1}{level}\u{2}"));
            let moved = levels.redirect(sent).expect("moved");
            positions.push(store.append_wait(moved).expect("stored").position);
        }
        type Row = (i32, i64, usize, i64, &'static [&'static str], i64, Look);
        let rows: [Row; 6] = [
            (0, 0, 9, 999, &[], 0, Look::AtMs(START_MS + 1_000)),
            (0, 0, 9, 1_000, &["T0", "T2", "T3"], 3, Look::WhenOneArrives),
            (0, 0, 2, 1_000, &["T0", "T2"], 2, Look::Now),
            (0, 7, 9, 1_000, &[], 3, Look::WhenOneArrives),
            (1, 0, 9, 1_000, &[], 0, Look::AtMs(START_MS + 5_000)),
            (1, 0, 9, 5_001, &["T1"], 1, Look::WhenOneArrives),
        ];
        for (queue, next, messages_max, after_ms, topics, then, look) in rows {
            let level = Level {
                queue,
                next,
                look_ms: 0,
                messages_max,
            };
            let due = due(&store, &levels, level, START_MS + after_ms).expect("read");
            let found: Vec<&str> = due.messages.iter().map(|m| &*m.topic).collect();
            assert_eq!((&*found, due.next, due.look), (topics, then, look));
        }
        for (queue, next, oldest) in [
            (0, 0, Some(0)),
            (0, 2, Some(1)),
            (1, 1, Some(3)),
            (0, 3, None),
        ] {
            offsets.commit(queue, next);
            let position = oldest.map(|at: usize| positions[at]);
            assert_eq!(offsets.oldest_position(&store).expect("read"), position);
        }
        assert_eq!(offsets.take_dirty(), Some(vec![(0, 3), (1, 1)]));
        offsets.commit(1, 1);
        assert_eq!(offsets.take_dirty(), None, "nothing has changed");
    }
}
