//! Messages that wait for the writer: bounded in number and bytes, full is an answer at once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use protocol::record::{Encoded, Message};

use crate::{AppendError, Appended};

/// Called once, on the writer's thread or, when the message is refused, on the caller's.
pub type Done = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// The same for messages that are stored together, in their order.
pub type AllDone = Box<dyn FnOnce(Result<Vec<Appended>, AppendError>) + Send>;

const WAITING_BYTES_MAX: usize = 128 << 20;

/// An encoded message on its way to the writer.
pub(crate) struct Pending {
    pub(crate) topic: Arc<str>,
    pub(crate) queue: i32,
    pub(crate) tags: i64,
    /// Hashes of its keys.
    pub(crate) keys: Vec<u32>,
    pub(crate) takes_queue_offset: bool,
    pub(crate) encoded: Encoded,
    /// The message, to be encoded anew with its offsets, and the topics into which it goes too.
    pub(crate) targets: Option<Box<(Message, Vec<Arc<str>>)>>,
    pub(crate) done: Done,
    /// So many behind it are stored with it, or none of them is.
    pub(crate) followers: usize,
}

#[derive(Debug)]
pub(crate) struct AppendQueue {
    messages_max: usize,
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    list: VecDeque<Pending>,
    bytes: usize,
    closed: bool,
}

impl AppendQueue {
    pub(crate) fn new(messages_max: usize) -> Self {
        Self {
            messages_max,
            waiting: Mutex::default(),
            filled: Condvar::new(),
        }
    }

    pub(crate) fn push(&self, pending: Pending) {
        let size = pending.encoded.size();
        self.push_all(std::iter::once(pending), size);
    }

    /// Takes messages of so many bytes together: all of them, or none.
    pub(crate) fn push_all(&self, messages: impl Iterator<Item = Pending>, size: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = waiting.bytes + size;
        let full = waiting.list.len() >= self.messages_max || bytes > WAITING_BYTES_MAX;
        if waiting.closed || full {
            let error = if waiting.closed {
                AppendError::Closed
            } else {
                AppendError::Busy
            };
            drop(waiting);
            for message in messages {
                (message.done)(Err(error.clone()));
            }
            return;
        }
        waiting.bytes = bytes;
        let was_empty = waiting.list.is_empty();
        waiting.list.extend(messages);
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Waits for messages and takes what is there, up to `bytes_max` and at least one with its
    /// followers; `None` when the queue is closed and empty.
    pub(crate) fn take(&self, bytes_max: usize) -> Option<Vec<Pending>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.list.is_empty() && !waiting.closed {
            let filled = self.filled.wait(waiting);
            drop(filled.unwrap_or_else(PoisonError::into_inner));
            // Where processors are busy, whoever has filled it has more at hand: what it adds
            // before it rests is written by one call, too.
            thread::yield_now();
            waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let (mut count, mut bytes) = (0, 0);
        while let Some(first) = waiting.list.get(count) {
            let next = (count + 1 + first.followers).min(waiting.list.len());
            let together = waiting.list.range(count..next);
            let size: usize = together.map(|pending| pending.encoded.size()).sum();
            if count > 0 && bytes + size > bytes_max {
                break;
            }
            count = next;
            bytes += size;
        }
        waiting.bytes -= bytes;
        let batch: Vec<_> = waiting.list.drain(..count).collect();
        (!batch.is_empty()).then_some(batch)
    }

    /// Refuses what comes from now on; what waits is still taken.
    pub(crate) fn close(&self) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.filled.notify_all();
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .list
            .len()
    }
}

/// One callback for each of `count` messages, of which the last, or the first that fails, calls
/// `done`.
pub(crate) fn gather(count: usize, done: AllDone) -> impl Iterator<Item = Done> {
    let gathered = Arc::new(Mutex::new((Vec::with_capacity(count), Some(done))));
    (0..count).map(move |_| -> Done {
        let gathered = Arc::clone(&gathered);
        Box::new(move |result| {
            let mut all = gathered.lock().unwrap_or_else(PoisonError::into_inner);
            let result = result.map(|appended| all.0.push(appended));
            if result.is_ok() && all.0.len() < count {
                return;
            }
            let list = std::mem::take(&mut all.0);
            let done = all.1.take();
            drop(all);
            if let Some(done) = done {
                done(result.map(|()| list));
            }
        })
    })
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}
