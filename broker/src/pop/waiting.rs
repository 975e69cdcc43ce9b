//! Pops that wait for a message, and notifications (`PopLongPollingService.java`).
//!
//! A pop that finds nothing waits for its topic and for the group's retry topic of it. The store's
//! writer only marks who may find something; one loop looks again, for each group in the order in
//! which they came, until nothing is left that one of them could find.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use net::Peer;
use protocol::Frame;
use protocol::header::{Notification, PopMessage};
use protocol::topic::pop_retry_topic;
use store::Arrival;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Lane;
use crate::Broker;
use crate::filter::Filter;
use crate::request::pop::{self, Looked};

/// Of one group for one topic; Java's `popPollingSize` of each of its queues.
const WAITING_OF_GROUP_MAX: usize = 1_024;
const FAR: Duration = Duration::from_hours(1);

/// A pop or a notification, with all that answering it takes.
#[derive(Debug)]
pub struct Held {
    pub request: Frame,
    pub ask: Ask,
    pub peer: Arc<Peer>,
    pub deadline: Instant,
    /// Where it has stood among those that wait, when it is looked at anew.
    pub place: Option<usize>,
}

#[derive(Debug)]
pub enum Ask {
    Pop(Box<PopMessage>, Filter),
    Notification(Notification),
}

impl Ask {
    pub fn topic(&self) -> &str {
        match self {
            Self::Pop(header, _) => &header.topic,
            Self::Notification(header) => &header.topic,
        }
    }

    pub fn group(&self) -> &str {
        match self {
            Self::Pop(header, _) => &header.group,
            Self::Notification(header) => &header.group,
        }
    }
}

/// Topic and group.
type Key = (String, String);

#[derive(Debug)]
pub struct Waiting {
    state: Mutex<State>,
    marked: Notify,
    held_max: usize,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<Arc<Key>, VecDeque<Held>>,
    count: usize,
    /// By the topics whose messages may end the wait.
    topics: HashMap<String, HashSet<Arc<Key>>>,
    marked: HashSet<Arc<Key>>,
    deadlines: BTreeMap<Instant, HashSet<Arc<Key>>>,
}

impl Waiting {
    pub(super) fn new(held_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            marked: Notify::new(),
            held_max,
        }
    }

    /// Called by the store's writer for each batch that has committed.
    pub fn arrived(&self, arrivals: &[Arrival]) {
        let mut state = self.lock();
        if state.count == 0 {
            return;
        }
        let state = &mut *state;
        let found = arrivals.iter();
        let found = found.filter_map(|one| state.topics.get(&*one.topic));
        state.marked.extend(found.flatten().cloned());
        if !state.marked.is_empty() {
            self.marked.notify_one();
        }
    }

    /// More messages may be there for whoever waits.
    pub fn mark(&self, topic: &str, group: &str) {
        let mut state = self.lock();
        let key = (topic.to_owned(), group.to_owned());
        if let Some((key, _)) = state.held.get_key_value(&key) {
            let key = Arc::clone(key);
            state.marked.insert(key);
            self.marked.notify_one();
        }
    }

    /// The same by a queue of the topic, or of a retry topic of it.
    pub fn mark_lane(&self, lane: &Lane) {
        let keys: Vec<_> = {
            let state = self.lock();
            let keys = state.topics.get(&lane.topic).into_iter().flatten();
            keys.filter(|key| key.1 == lane.group).cloned().collect()
        };
        for key in keys {
            self.mark(&key.0, &key.1);
        }
    }

    /// Holds a pop; gives it back when there is no place left. What has waited already gets its
    /// old place.
    pub fn hold(&self, held: Held) -> Result<(), Box<Held>> {
        let mut state = self.lock();
        let state = &mut *state;
        let key = Arc::new((held.ask.topic().to_owned(), held.ask.group().to_owned()));
        let of_group = state.held.get(&key).map_or(0, VecDeque::len);
        if state.count >= self.held_max || of_group >= WAITING_OF_GROUP_MAX {
            return Err(Box::new(held));
        }
        for name in names(&key) {
            let keys = state.topics.entry(name).or_default();
            keys.insert(Arc::clone(&key));
        }
        let first = state.deadlines.first_key_value();
        let first = first.is_none_or(|(first, _)| held.deadline < *first);
        let due = state.deadlines.entry(held.deadline).or_default();
        due.insert(Arc::clone(&key));
        let waiting = state.held.entry(key).or_default();
        let place = held.place.unwrap_or(waiting.len());
        waiting.insert(place.min(waiting.len()), held);
        state.count += 1;
        if first {
            self.marked.notify_one();
        }
        Ok(())
    }

    /// How many pops wait that name just this queue; a negative one is all.
    pub fn count(&self, topic: &str, group: &str, queue: i32) -> usize {
        let key = (topic.to_owned(), group.to_owned());
        let state = self.lock();
        let held = state.held.get(&key).into_iter().flatten();
        let pops = held.filter(|held| match &held.ask {
            Ask::Pop(header, _) => header.queue == queue,
            Ask::Notification(_) => false,
        });
        pops.count()
    }

    pub fn count_all(&self) -> usize {
        self.lock().count
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.lock().deadlines.keys().next().copied()
    }

    fn take_marked(&self) -> HashSet<Arc<Key>> {
        std::mem::take(&mut self.lock().marked)
    }

    fn take(&self, key: &Key, place: usize) -> Option<Held> {
        let mut state = self.lock();
        let held = state.held.get_mut(key)?.remove(place)?;
        state.settle(key, 1);
        Some(Held {
            place: Some(place),
            ..held
        })
    }

    /// Those whose deadline is not after `now`.
    fn take_due(&self, now: Instant) -> Vec<Held> {
        let mut state = self.lock();
        let later = state.deadlines.split_off(&now);
        let due = std::mem::replace(&mut state.deadlines, later);
        let keys: HashSet<Arc<Key>> = due.into_values().flatten().collect();
        let mut taken = Vec::new();
        for key in keys {
            let Some(held) = state.held.get_mut(&key) else {
                continue;
            };
            let before = taken.len();
            let waiting = std::mem::take(held);
            let (ended, go_on): (VecDeque<_>, VecDeque<_>) =
                waiting.into_iter().partition(|held| held.deadline <= now);
            *held = go_on;
            taken.extend(ended);
            state.settle(&key, taken.len() - before);
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("invariant: no panic while the waiting pops are held")
    }
}

impl State {
    /// So many of a key are gone.
    fn settle(&mut self, key: &Key, gone: usize) {
        self.count -= gone;
        if self.held.get(key).is_some_and(|held| !held.is_empty()) {
            return;
        }
        self.held.remove(key);
        for name in names(key) {
            if let Some(keys) = self.topics.get_mut(&name) {
                keys.remove(key);
                if keys.is_empty() {
                    self.topics.remove(&name);
                }
            }
        }
    }
}

fn names((topic, group): &Key) -> [String; 2] {
    [topic.clone(), pop_retry_topic(topic, group)]
}

/// Looks at waiting pops until `stop`; then answers all that are left, so that clients ask anew.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let waiting = &broker.waiting.pops.waiting;
    loop {
        let next = waiting.next_deadline();
        let next = next.unwrap_or_else(|| Instant::now() + FAR);
        let stopping = tokio::select! {
            () = waiting.marked.notified() => false,
            () = tokio::time::sleep_until(next) => false,
            () = stop.cancelled() => true,
        };
        for key in waiting.take_marked() {
            look_at(&broker, &key);
        }
        // A deadline is past only when its instant is before `now`.
        let now = Instant::now() + Duration::from_millis(1);
        for held in waiting.take_due(if stopping { now + FAR } else { now }) {
            if !held.peer.closed.is_cancelled() {
                pop::look_again(&broker, held, false);
            }
        }
        if stopping {
            return;
        }
    }
}

/// In the order in which they came.
fn look_at(broker: &Arc<Broker>, key: &Key) {
    let mut place = 0;
    while let Some(held) = broker.waiting.pops.waiting.take(key, place) {
        if held.peer.closed.is_cancelled() {
            continue;
        }
        match pop::look_again(broker, held, true) {
            Looked::Answered => {}
            Looked::Waits { anything: true } => place += 1,
            Looked::Waits { anything: false } | Looked::Elsewhere => return,
        }
    }
}
