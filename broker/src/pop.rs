//! Consumption by pop: the broker hands messages out, each for a while, and takes back those that
//! nobody acknowledged (`PopMessageProcessor.java`, `PopReviveService.java`).
//!
//! A group's offset in a queue is where the next pop starts. What was handed out and is not yet
//! acknowledged is in flight; it is written to the log together with the offsets, once a tick, so
//! that a crash hands out again at most what a second has changed. A flight whose time is over
//! goes to the group's retry topic of the topic it came from. Where the order of a queue is kept,
//! the offset stays at the first message that is not acknowledged instead.
//!
//! - [`flights`], [`orders`]: what is handed out; pure, part of the tables
//! - [`waiting`]: pops that wait for a message
//! - [`revive`]: the loop that takes messages back

pub mod flights;
pub mod orders;
pub mod revive;
pub mod waiting;
#[cfg(test)]
mod model;

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// A queue as one group pops it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    pub topic: String,
    pub group: String,
    pub queue: i32,
}

/// What pops share beside the tables.
#[derive(Debug)]
pub struct Pops {
    pub waiting: waiting::Waiting,
    /// Told when a message may be due before all others.
    pub launched: Notify,
    count: AtomicU32,
}

/// Java's queues of check points, over which it spreads pops; clients only repeat the number.
const REVIVE_QUEUES: u32 = 8;

impl Pops {
    pub fn new(waiting_max: usize) -> Self {
        Self {
            waiting: waiting::Waiting::new(waiting_max),
            launched: Notify::new(),
            count: AtomicU32::new(0),
        }
    }

    pub(crate) fn next_revive_queue(&self) -> i32 {
        (self.count.fetch_add(1, Ordering::Relaxed) % REVIVE_QUEUES) as i32
    }
}
