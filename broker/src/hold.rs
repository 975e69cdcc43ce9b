//! Pulls that wait for a message (`PullRequestHoldService.java`).
//!
//! A pull that finds nothing may be held. It is looked at anew when a message that it may want
//! arrives in its queue, and for the last time at its deadline. The store's writer only marks
//! queues; one loop does the reading and answering. A pull is held once: looked at anew, it is
//! answered, or goes back to waiting for what is left of its time.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use foldhash::HashMap;
use net::Peer;
use protocol::Frame;
use protocol::header::PullMessage;
use store::Arrival;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::filter::Filter;
use crate::request::pull;

/// A pull with all that answering it takes.
#[derive(Debug)]
pub struct Held {
    pub request: Frame,
    pub header: PullMessage,
    pub filter: Filter,
    pub peer: Arc<Peer>,
    pub deadline: Instant,
    /// It has been held, and is looked at anew.
    pub waited: bool,
}

#[derive(Debug)]
pub struct Holds {
    state: Mutex<State>,
    marked: Notify,
    held_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Topic to queue to what waits there.
    waiting: HashMap<String, HashMap<i32, Vec<Held>>>,
    count: usize,
    /// Queues in which something has arrived since they were looked at.
    arrived: HashSet<(String, i32)>,
    /// Queues by when their next deadline may be.
    deadlines: BTreeMap<Instant, Vec<(String, i32)>>,
}

impl Holds {
    pub fn new(held_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            marked: Notify::new(),
            held_max,
        }
    }

    /// Called by the store's writer for each batch that has committed.
    pub fn arrived(&self, arrivals: &[Arrival]) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut any = false;
        for arrival in arrivals {
            let held = state
                .waiting
                .get(&*arrival.topic)
                .and_then(|q| q.get(&arrival.queue));
            if held.is_some_and(|held| held.iter().any(|h| h.filter.wants(arrival.tags))) {
                any |= state
                    .arrived
                    .insert((arrival.topic.to_string(), arrival.queue));
            }
        }
        if any {
            self.marked.notify_one();
        }
    }

    /// Holds a pull; gives it back when there is no place left. `end` is read again once it
    /// waits, so that a message that arrived meanwhile is not missed.
    pub fn hold(&self, held: Held, end: impl FnOnce() -> i64) -> Result<(), Box<Held>> {
        let queue = (held.header.topic.clone(), held.header.queue);
        let (offset, deadline) = (held.header.offset, held.deadline);
        let mut state = self.lock();
        if state.count >= self.held_max {
            return Err(Box::new(held));
        }
        state.count += 1;
        let queues = state.waiting.entry(queue.0.clone()).or_default();
        queues.entry(queue.1).or_default().push(held);
        let first = state
            .deadlines
            .keys()
            .next()
            .is_none_or(|first| deadline < *first);
        state
            .deadlines
            .entry(deadline)
            .or_default()
            .push(queue.clone());
        drop(state);
        if end() > offset {
            self.lock().arrived.insert(queue);
            self.marked.notify_one();
        } else if first {
            self.marked.notify_one();
        }
        Ok(())
    }

    pub fn count(&self) -> usize {
        self.lock().count
    }

    /// Takes the pulls of the queues in which something arrived, and those that are due.
    fn take(&self, now: Instant) -> Vec<Held> {
        let mut state = self.lock();
        let state = &mut *state;
        let later = state.deadlines.split_off(&now);
        let due = std::mem::replace(&mut state.deadlines, later);
        let mut taken = Vec::new();
        for (topic, queue) in std::mem::take(&mut state.arrived) {
            taken.extend(take_queue(&mut state.waiting, &topic, queue, |_| true));
        }
        for (topic, queue) in due.into_values().flatten() {
            taken.extend(take_queue(&mut state.waiting, &topic, queue, |h| {
                h.deadline <= now
            }));
        }
        state.count -= taken.len();
        taken
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.lock().deadlines.keys().next().copied()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("invariant: no panic while the holds are held")
    }
}

fn take_queue(
    waiting: &mut HashMap<String, HashMap<i32, Vec<Held>>>,
    topic: &str,
    queue: i32,
    wanted: impl Fn(&Held) -> bool,
) -> Vec<Held> {
    let Some(queues) = waiting.get_mut(topic) else {
        return Vec::new();
    };
    let Some(held) = queues.get_mut(&queue) else {
        return Vec::new();
    };
    let taken = held.extract_if(.., |held| wanted(held)).collect();
    if held.is_empty() {
        queues.remove(&queue);
    }
    if queues.is_empty() {
        waiting.remove(topic);
    }
    taken
}

/// Looks at held pulls until `stop`; then answers all that are left, so that clients ask anew.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    const FAR: std::time::Duration = std::time::Duration::from_hours(1);
    loop {
        let next = broker
            .waiting
            .holds
            .next_deadline()
            .unwrap_or_else(|| Instant::now() + FAR);
        let stopping = tokio::select! {
            () = broker.waiting.holds.marked.notified() => false,
            () = tokio::time::sleep_until(next) => false,
            () = stop.cancelled() => true,
        };
        // A deadline is past only when its instant is before `now`.
        let now = Instant::now() + std::time::Duration::from_millis(1);
        let taken = broker
            .waiting
            .holds
            .take(if stopping { now + FAR } else { now });
        for held in taken {
            if held.peer.closed.is_cancelled() {
                continue;
            }
            let may_wait = !stopping && held.deadline > now;
            let held = Held {
                waited: true,
                ..held
            };
            pull::look_again(&broker, held, may_wait);
        }
        if stopping {
            return;
        }
    }
}
