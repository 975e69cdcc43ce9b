//! The queue index: which record is message n of a queue.
//!
//! Each queue is a list of spans, parts of run files on disk, and the recent entries in memory,
//! without a gap: spans, then `recent`. Entries come in when their record has committed, in
//! order. A lock is held for a copy of a few entries, never while a file is read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::HashMap;

use crate::base::BaseQueue;
use crate::fs::Wait;
use crate::keys::RecentKeys;
use crate::run::{Entry, Part, Run};
use crate::{Range, ReadError};

const SPANS_EXACT: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Index {
    topics: RwLock<HashMap<Arc<str>, Queues>>,
    pub(crate) keys: RecentKeys,
}

/// In order of their numbers; most topics of a store with many have one queue.
type Queues = Vec<Arc<Queue>>;

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) topic: Arc<str>,
    pub(crate) id: i32,
    /// The next offset to give out; the writer's alone.
    next: AtomicI64,
    places: RwLock<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// Messages below are not shown.
    hidden: i64,
    spans: Vec<Span>,
    recent_first: i64,
    recent: VecDeque<Recent>,
}

/// The part of a run that is one queue's.
#[derive(Debug, Clone)]
struct Span {
    run: Arc<Run>,
    first: i64,
    count: u32,
    entry: u64,
    min_ms: i64,
    max_ms: i64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Recent {
    pub(crate) entry: Entry,
    pub(crate) store_ms: i64,
}

impl Index {
    pub(crate) fn get(&self, topic: &str, queue: i32) -> Option<Arc<Queue>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let queues = topics.get(topic)?;
        let at = queues.binary_search_by_key(&queue, |queue| queue.id).ok()?;
        queues.get(at).cloned()
    }

    pub(crate) fn get_or_create(&self, topic: &Arc<str>, id: i32) -> Arc<Queue> {
        if let Some(queue) = self.get(topic, id) {
            return queue;
        }
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let queues = topics.entry(Arc::clone(topic)).or_default();
        let fresh = || {
            let (topic, next, places) = (Arc::clone(topic), AtomicI64::new(0), RwLock::default());
            Arc::new(Queue {
                topic,
                id,
                next,
                places,
            })
        };
        let at = queues.partition_point(|queue| queue.id < id);
        if queues.get(at).is_none_or(|queue| queue.id != id) {
            queues.reserve_exact(1);
            queues.insert(at, fresh());
        }
        Arc::clone(&queues[at])
    }

    /// Makes the queues of a base known, before any run and record.
    pub(crate) fn seed(&self, queues: &[BaseQueue]) {
        for seed in queues {
            let queue = self.get_or_create(&seed.topic, seed.queue);
            let mut places = queue.write();
            (places.hidden, places.recent_first) = (seed.min, seed.next);
            queue.next.store(seed.next, Ordering::Relaxed);
        }
    }

    pub(crate) fn of_topic(&self, topic: &str) -> Vec<Arc<Queue>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(topic).cloned().unwrap_or_default()
    }

    /// Drops queues without entries whose topic is not known.
    pub(crate) fn forget(&self, known: &dyn Fn(&str) -> bool) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.retain(|topic, queues| {
            if known(topic) {
                return true;
            }
            // One that somebody holds may be about to get an entry.
            queues.retain(|queue| Arc::strong_count(queue) > 1 || !queue.read().is_empty());
            !queues.is_empty()
        });
    }

    /// Every queue, in order of topic and number.
    pub(crate) fn queues(&self) -> Vec<Arc<Queue>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = topics.values().flatten().cloned().collect();
        drop(topics);
        all.sort_unstable_by(|a, b| (&a.topic, a.id).cmp(&(&b.topic, b.id)));
        all
    }

    /// Adds a run that follows all that is known. Says why not if it does not fit.
    pub(crate) fn load(&self, run: &Arc<Run>, parts: &[Part]) -> Result<(), String> {
        for part in parts {
            let queue = self.get_or_create(&part.topic, part.queue);
            let places = queue.read();
            if !places.fits(part.first) {
                return Err(format!("a run's offsets of {} do not follow", part.topic));
            }
        }
        for part in parts {
            let queue = self.get_or_create(&part.topic, part.queue);
            let mut places = queue.write();
            places.add(Span::new(run, part));
            places.recent_first = part.first + i64::from(part.count);
            queue.next.store(places.recent_first, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The recent entries below `position`, as a run's directory and entries.
    pub(crate) fn recent_below(&self, position: u64) -> (Vec<Part>, Vec<Entry>) {
        let (mut parts, mut entries) = (Vec::new(), Vec::new());
        for queue in self.queues() {
            let places = queue.read();
            let count = places.recent_below(position);
            let taken = places.recent.range(..count);
            let (Some(oldest), Some(newest)) = (taken.clone().next(), taken.clone().last()) else {
                continue;
            };
            parts.push(Part {
                topic: Arc::clone(&queue.topic),
                queue: queue.id,
                first: places.recent_first,
                count: count as u32,
                entry: entries.len() as u64,
                min_ms: oldest.store_ms,
                max_ms: newest.store_ms,
            });
            entries.extend(taken.map(|recent| recent.entry));
        }
        (parts, entries)
    }

    /// From now on the entries of `parts` are read from `run` and no longer from memory.
    pub(crate) fn settle(&self, run: &Arc<Run>, parts: &[Part]) {
        for part in parts {
            let Some(queue) = self.get(&part.topic, part.queue) else {
                continue;
            };
            let mut places = queue.write();
            debug_assert_eq!(places.recent_first, part.first, "runs settle in order");
            places.recent.drain(..part.count as usize);
            let kept = places.recent.len();
            places.recent.shrink_to(kept * 2);
            places.recent_first += i64::from(part.count);
            places.add(Span::new(run, part));
        }
    }

    /// The directory of one run that replaces all runs of `[start, end)`.
    pub(crate) fn merged(&self, start: u64, end: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut entry = 0;
        for queue in self.queues() {
            let places = queue.read();
            let mut inside = places.spans.iter().filter(|span| span.inside(start, end));
            let Some(first) = inside.next() else { continue };
            let (mut count, mut max_ms) = (first.count, first.max_ms);
            for span in inside {
                count += span.count;
                max_ms = span.max_ms;
            }
            parts.push(Part {
                topic: Arc::clone(&queue.topic),
                queue: queue.id,
                first: first.first,
                count,
                entry,
                min_ms: first.min_ms,
                max_ms,
            });
            entry += u64::from(count);
        }
        parts
    }

    /// Reads from `run` what was read from the runs of its stretch.
    pub(crate) fn replace(&self, run: &Arc<Run>, parts: &[Part]) {
        for part in parts {
            let Some(queue) = self.get(&part.topic, part.queue) else {
                continue;
            };
            let mut places = queue.write();
            let (start, end) = (run.stretch.start, run.stretch.end);
            let at = places
                .spans
                .partition_point(|span| span.run.stretch.start < start);
            places.spans.retain(|span| !span.inside(start, end));
            places.spans.insert(at, Span::new(run, part));
        }
    }
}

impl Queue {
    pub(crate) fn range(&self) -> Range {
        let places = self.read();
        Range {
            min: places.min().max(places.hidden),
            max: places.max(),
        }
    }

    /// The first offset of which there is an entry, shown or not.
    pub(crate) fn first_kept(&self) -> i64 {
        self.read().min()
    }

    /// Shows nothing below `min` any more.
    pub(crate) fn raise_min(&self, min: i64) {
        let mut places = self.write();
        places.hidden = places.hidden.max(min.min(places.max()));
    }

    /// Forgets the entries of the log below `position`, a file's end.
    pub(crate) fn drop_below(&self, position: u64) {
        let keeps = |span: &Span| span.run.stretch.end > position;
        if !self.read().spans.iter().all(keeps) {
            self.write().spans.retain(keeps);
        }
    }

    /// The queue's offsets for a base at `position`. Newer entries that are no longer recent are
    /// on disk, so that counting them in promises nothing that could be lost.
    pub(crate) fn base_at(&self, position: u64) -> BaseQueue {
        let places = self.read();
        let below = places.recent_below(position);
        let next = places.recent_first + below as i64;
        BaseQueue {
            topic: Arc::clone(&self.topic),
            queue: self.id,
            min: places.min().max(places.hidden).min(next),
            next,
        }
    }

    /// The offset of the next message; only the writer may ask.
    pub(crate) fn take_next(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives out again what was given out and not published.
    pub(crate) fn take_back(&self) {
        self.next.store(self.read().max(), Ordering::Relaxed);
    }

    pub(crate) fn next(&self) -> i64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Adds the entry of a committed record.
    pub(crate) fn publish(&self, offset: i64, recent: Recent) {
        let mut places = self.write();
        debug_assert_eq!(places.max(), offset, "entries come in order");
        places.recent.push_back(recent);
    }

    /// Says why not if a record found in the log does not follow.
    pub(crate) fn follows(&self, offset: i64) -> Result<(), String> {
        let places = self.read();
        if offset >= 0 && places.fits(offset) {
            return Ok(());
        }
        let expected = places.max();
        Err(format!("queue offset {offset} where {expected} comes next"))
    }

    /// Adds the entry of a record found in the log, which follows.
    pub(crate) fn replay(&self, offset: i64, recent: Recent) {
        let mut places = self.write();
        if places.is_empty() {
            places.recent_first = offset;
        }
        places.recent.push_back(recent);
        self.next.store(offset + 1, Ordering::Relaxed);
    }

    /// Up to `count` entries from `from` on, fewer at the end of a run; none outside the range.
    pub(crate) fn entries(
        &self,
        from: i64,
        count: usize,
        wait: Wait,
    ) -> Result<Entries, ReadError> {
        let places = self.read();
        if from >= places.recent_first {
            let skip = (from - places.recent_first) as usize;
            let taken = places.recent.iter().skip(skip).take(count);
            return Ok(Entries {
                list: taken.map(|recent| recent.entry).collect(),
                run: None,
            });
        }
        let Some((span, skip)) = places.span_of(from) else {
            return Ok(Entries {
                list: Vec::new(),
                run: None,
            });
        };
        drop(places);
        let available = u64::from(span.count) - skip;
        let list = span
            .run
            .read(span.entry + skip, available.min(count as u64), wait);
        match list {
            Ok(list) => Ok(Entries {
                list,
                run: Some(span.run),
            }),
            Err(ReadError::IndexDamaged) => Ok(Entries {
                list: Vec::new(),
                run: Some(span.run),
            }),
            Err(error) => Err(error),
        }
    }

    /// The stretch of offsets in which the first message at or after `ms` lies.
    pub(crate) fn stretch_of_time(&self, ms: i64) -> Range {
        let places = self.read();
        let at = places.spans.partition_point(|span| span.max_ms < ms);
        if let Some(span) = places.spans.get(at) {
            return Range {
                min: span.first,
                max: span.first + i64::from(span.count),
            };
        }
        let skip = places.recent.partition_point(|recent| recent.store_ms < ms);
        let found = places.recent_first + skip as i64;
        Range {
            min: found,
            max: found,
        }
    }

    /// The stretch of offsets in which the first record at or above `position` lies.
    pub(crate) fn stretch_of_position(&self, position: u64) -> Range {
        let places = self.read();
        let at = places
            .spans
            .partition_point(|span| span.run.stretch.end <= position);
        if let Some(span) = places.spans.get(at) {
            return Range {
                min: span.first,
                max: span.first + i64::from(span.count),
            };
        }
        let found = places.recent_first + places.recent_below(position) as i64;
        Range {
            min: found,
            max: found,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some entries, and the run that they came from or that is damaged where they should be.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(crate) list: Vec<Entry>,
    pub(crate) run: Option<Arc<Run>>,
}

impl Places {
    fn min(&self) -> i64 {
        self.spans
            .first()
            .map_or(self.recent_first, |span| span.first)
    }

    fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.recent.is_empty()
    }

    fn max(&self) -> i64 {
        self.recent_first + self.recent.len() as i64
    }

    /// How many of the recent entries are of records below `position`.
    fn recent_below(&self, position: u64) -> usize {
        self.recent
            .partition_point(|recent| recent.entry.position < position)
    }

    fn fits(&self, offset: i64) -> bool {
        offset == self.max() || self.is_empty()
    }

    /// Most queues of a store with many have few spans: no room is kept for more.
    fn add(&mut self, span: Span) {
        if self.spans.len() < SPANS_EXACT {
            self.spans.reserve_exact(1);
        }
        self.spans.push(span);
    }

    fn span_of(&self, offset: i64) -> Option<(Span, u64)> {
        let after = self.spans.partition_point(|span| span.first <= offset);
        let span = self.spans.get(after.checked_sub(1)?)?;
        Some((span.clone(), (offset - span.first) as u64))
    }
}

impl Span {
    fn new(run: &Arc<Run>, part: &Part) -> Self {
        Self {
            run: Arc::clone(run),
            first: part.first,
            count: part.count,
            entry: part.entry,
            min_ms: part.min_ms,
            max_ms: part.max_ms,
        }
    }

    fn inside(&self, start: u64, end: u64) -> bool {
        self.run.stretch.start >= start && self.run.stretch.end <= end
    }
}
