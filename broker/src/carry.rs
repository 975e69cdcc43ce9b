//! Carrying forward: before log files go, the delayed messages in them that are still to be
//! delivered are stored again at the log's end, so that no message keeps a file.
//!
//! The messages of a level are due in the order of its queue. So all that wait in the queue move
//! together, to its end, while sends with a delay wait for the few milliseconds that this takes:
//! nothing comes in front of the copies that is due after them. A copy says when its original was
//! stored, since its delay counts from then on. The task that delivers does it, between two
//! deliveries: what it copies is neither delivered meanwhile nor copied twice.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as sync};
use std::time::Duration;

use bytes::Bytes;
use protocol::properties;
use protocol::record::{Message, Record};
use protocol::topic::SCHEDULE_TOPIC;
use store::{AppendError, Done, ReadError, ReadLimits, Store, Wait};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::Broker;
use crate::request::state_record;
use crate::schedule::{self, Level};

/// Sends that wait for the end of a move; more are refused as of a busy broker.
const WAITING_MESSAGES_MAX: usize = 4_096;
const MOVE_SECONDS_MAX: u64 = 60;
const CHUNK_BYTES_MAX: usize = 1 << 20;
const CHUNK_MESSAGES_MAX: usize = 1_000;

/// What those share who send messages with a delay, deliver them, and delete log files.
#[derive(Debug)]
pub struct Delays {
    /// Told when a message with a delay has been stored.
    pub arrived: Arc<Notify>,
    /// While messages move: those that came meanwhile.
    gate: Mutex<Option<Vec<Waiting>>>,
    ask: mpsc::Sender<Ask>,
    asks: Mutex<Option<mpsc::Receiver<Ask>>>,
}

struct Waiting {
    message: Message,
    done: Done,
}

/// Move what waits in the log below `start`; the answer is how many messages have moved.
#[derive(Debug)]
pub(crate) struct Ask {
    start: u64,
    done: sync::SyncSender<Result<u64, String>>,
}

impl Delays {
    pub(crate) fn new(arrived: Arc<Notify>) -> Self {
        let (ask, asks) = mpsc::channel(1);
        Self {
            arrived,
            gate: Mutex::default(),
            ask,
            asks: Mutex::new(Some(asks)),
        }
    }

    /// Hands a message to the store; while others move, one with a delay waits for their end.
    pub(crate) fn append(&self, store: &Store, message: Message, done: Done) {
        if &*message.topic != SCHEDULE_TOPIC {
            return store.append(message, done);
        }
        let mut gate = self.gate();
        match &mut *gate {
            None => store.append(message, done),
            Some(waiting) if waiting.len() < WAITING_MESSAGES_MAX => {
                waiting.push(Waiting { message, done });
            }
            Some(_) => {
                drop(gate);
                done(Err(AppendError::Busy));
            }
        }
    }

    /// What the task that delivers is asked for; it takes this once.
    pub(crate) fn asks(&self) -> Option<mpsc::Receiver<Ask>> {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.take()
    }

    fn gate(&self) -> MutexGuard<'_, Option<Vec<Waiting>>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gate is closed as long as this lives.
struct Closed<'a>(&'a Broker);

impl<'a> Closed<'a> {
    fn new(broker: &'a Broker) -> Self {
        broker.delays.gate().get_or_insert_default();
        Self(broker)
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.delays.gate();
        for Waiting { message, done } in gate.take().unwrap_or_default() {
            self.0.store.append(message, done);
        }
    }
}

/// Moves the delayed messages that lie in the log below `start` to its end, and says how many.
/// Waits for the task that delivers.
pub(crate) fn forward(broker: &Broker, start: u64) -> Result<u64, String> {
    let (done, moved) = sync::sync_channel(1);
    let asked = broker.delays.ask.try_send(Ask { start, done });
    asked.map_err(|error| error.to_string())?;
    let limit = Duration::from_secs(MOVE_SECONDS_MAX);
    moved.recv_timeout(limit).map_err(|e| e.to_string())?
}

pub(crate) async fn answer(broker: &Arc<Broker>, levels: &mut [Level], ask: Ask) {
    let moved = {
        let _closed = Closed::new(broker);
        forward_all(broker, levels, ask.start).await
    };
    // Who asked may have stopped waiting.
    let _ = ask.done.send(moved);
}

async fn forward_all(
    broker: &Arc<Broker>,
    levels: &mut [Level],
    start: u64,
) -> Result<u64, String> {
    // When this has committed, so has all that was handed to the store before.
    let (sender, committed) = oneshot::channel();
    broker.write(state_record(&[]), move |written| {
        let _ = sender.send(written.map(drop));
    });
    let committed = committed.await.map_err(|error| error.to_string())?;
    committed.map_err(|refusal| refusal.to_string())?;
    let mut moved = 0;
    for level in levels {
        moved += forward_level(broker, level, start).await?;
    }
    Ok(moved)
}

/// What has been copied counts as delivered at once, so that a failure repeats nothing.
async fn forward_level(broker: &Arc<Broker>, level: &mut Level, start: u64) -> Result<u64, String> {
    let range = broker.store.range(SCHEDULE_TOPIC, level.queue);
    let range = range.unwrap_or_default();
    let first = level.next.max(range.min);
    let oldest = broker
        .store
        .position_of(SCHEDULE_TOPIC, level.queue, first)
        .map_err(|error| error.to_string())?;
    if oldest.is_none_or(|oldest| oldest >= start) {
        return Ok(0);
    }
    let (mut from, end) = (first, range.max);
    while from < end {
        let (reader, queue) = (Arc::clone(broker), level.queue);
        let read = tokio::task::spawn_blocking(move || copies(&reader.store, queue, from, end));
        let read = read.await.map_err(|error| error.to_string())?;
        let (messages, next) = match read {
            Ok(read) => read,
            Err(ReadError::Corrupt { position }) => {
                tracing::error!(queue, position, "a delayed message is damaged and lost");
                (Vec::new(), from + 1)
            }
            Err(error) => return Err(error.to_string()),
        };
        let stored = schedule::append(broker, messages).await;
        stored.map_err(|error| error.to_string())?;
        from = next;
        schedule::commit(broker, level, next, schedule::Look::Now);
    }
    Ok((end - first) as u64)
}

/// Copies of a queue's messages from `from` on, a log file's quarter at most, and the offset
/// behind them.
fn copies(
    store: &Store,
    queue: i32,
    from: i64,
    end: i64,
) -> Result<(Vec<Message>, i64), ReadError> {
    let limits = ReadLimits {
        messages_max: CHUNK_MESSAGES_MAX.min((end - from) as usize),
        bytes_max: CHUNK_BYTES_MAX.min(store.status().segment_bytes as usize / 4),
        scan_max: CHUNK_MESSAGES_MAX,
    };
    let any = &mut |_| true;
    let read = store.read(SCHEDULE_TOPIC, queue, from, &limits, any, Wait::ForDisk)?;
    let copies = read.records.iter().filter_map(|stored| {
        let record = Record::decode(stored).ok()?;
        Some(copy(&record, stored))
    });
    Ok((copies.collect(), read.next.max(from + 1)))
}

fn copy(record: &Record<'_>, stored: &Bytes) -> Message {
    let since = properties::STORED_MS;
    let mut message = record.message(stored, SCHEDULE_TOPIC, record.queue);
    if record.property(since).is_none() {
        let ms = record.store_ms.to_string();
        message.properties = properties::set(record.properties, since, &ms).into();
    }
    message
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, .. } = self;
        f.debug_struct("Waiting")
            .field("message", message)
            .finish_non_exhaustive()
    }
}
