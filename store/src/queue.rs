//! Messages that wait for the writer: bounded in number and bytes, full is an answer at once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use protocol::record::{Encoded, Message};

use crate::{AppendError, Appended};

/// Called once, on the writer's thread or, when the message is refused, on the caller's.
pub type Done = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

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
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = waiting.bytes + pending.encoded.size();
        let full = waiting.list.len() >= self.messages_max || bytes > WAITING_BYTES_MAX;
        if waiting.closed || full {
            let error = if waiting.closed {
                AppendError::Closed
            } else {
                AppendError::Busy
            };
            drop(waiting);
            (pending.done)(Err(error));
            return;
        }
        waiting.bytes = bytes;
        let was_empty = waiting.list.is_empty();
        waiting.list.push_back(pending);
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Waits for messages and takes what is there, up to `bytes_max` and at least one; `None`
    /// when the queue is closed and empty.
    pub(crate) fn take(&self, bytes_max: usize) -> Option<Vec<Pending>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self
            .filled
            .wait_while(waiting, |waiting| {
                waiting.list.is_empty() && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let (mut count, mut bytes) = (0, 0);
        for pending in &waiting.list {
            if count > 0 && bytes + pending.encoded.size() > bytes_max {
                break;
            }
            count += 1;
            bytes += pending.encoded.size();
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

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}
