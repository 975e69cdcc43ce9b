//! Reading by key: the newest records of a topic that carry a key.
//!
//! Recent keys first, then the runs from the newest to the oldest. A hash stands for more keys
//! than one, so every record that it leads to is read, verified and compared.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use protocol::record::{Record, takes_queue_offset};

use crate::open::{Inner, Store};
use crate::run::Run;
use crate::{ReadError, keys};

/// Records of other keys with the same hash that are read before a query ends.
const MISSES_MAX: usize = 4096;

/// What a query by key returns at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimits {
    pub messages_max: usize,
    /// Stored at this time or later.
    pub from_ms: i64,
    /// Stored at this time or before.
    pub to_ms: i64,
}

impl Store {
    /// The records of `topic` that have `key` as their unique key or as a word of KEYS, newest
    /// first. A damaged one is passed over if there is any other.
    pub fn query(
        &self,
        topic: &str,
        key: &str,
        limits: KeyLimits,
    ) -> Result<Vec<Bytes>, ReadError> {
        let inner = &self.inner;
        let mut search = Search {
            inner,
            topic,
            key,
            limits,
            hash: keys::hash(topic, key),
            below: inner.progress.confirm.load(Ordering::Acquire),
            misses: 0,
            found: Vec::new(),
            damaged: None,
        };
        if limits.messages_max > 0 {
            search.all()?;
        }
        match search.damaged {
            Some(error) if search.found.is_empty() => Err(error),
            _ => Ok(search.found),
        }
    }
}

struct Search<'a> {
    inner: &'a Inner,
    topic: &'a str,
    key: &'a str,
    limits: KeyLimits,
    hash: u32,
    /// Records from here on have been looked at, or are not readable.
    below: u64,
    misses: usize,
    found: Vec<Bytes>,
    damaged: Option<ReadError>,
}

impl Search<'_> {
    fn all(&mut self) -> Result<(), ReadError> {
        // Before the runs: what moves there meanwhile is seen twice, and counted once.
        let recent = self.inner.index.keys.find(self.hash);
        let count = recent.partition_point(|position| *position < self.below);
        let at = |n: u64| recent.get(n as usize).copied();
        let at = |n| at(n).ok_or(ReadError::IndexDamaged);
        let late = self.inner.progress.last_ms.load(Ordering::Relaxed) > self.limits.to_ms;
        if self.walk(count as u64, late, &at)?.is_break() {
            return Ok(());
        }
        let runs = self.inner.runs().clone();
        for (number, run) in runs.iter().enumerate().rev() {
            // Store times never go back, so the run before tells when this one begins.
            let older = number.checked_sub(1).and_then(|number| runs.get(number));
            if run.stretch.last_ms < self.limits.from_ms {
                break;
            }
            if older.is_some_and(|older| older.stretch.last_ms > self.limits.to_ms) {
                continue;
            }
            let walked = match self.run(run) {
                // It and all that is older has been deleted.
                Err(_) if run.stretch.start < self.inner.segments.start() => break,
                Err(ReadError::IndexDamaged) => {
                    self.repair(run)?;
                    self.run(run)?
                }
                walked => walked?,
            };
            if walked.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn run(&mut self, run: &Run) -> Result<ControlFlow<()>, ReadError> {
        let matches = run.keys_of(self.hash, self.below)?;
        let late = run.stretch.last_ms > self.limits.to_ms;
        let at = |n| run.key(matches.start + n);
        self.walk(matches.end - matches.start, late, &at)
    }

    /// Looks at `count` records, of which number n lies at `at(n)`, from the newest on. `late`
    /// says that some of them may be too new.
    fn walk(
        &mut self,
        count: u64,
        late: bool,
        at: &dyn Fn(u64) -> Result<u64, ReadError>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let (mut end, mut wanted) = (count, 0);
        while late && wanted < end {
            let middle = wanted + (end - wanted) / 2;
            if self.is_too_new(at(middle)?) {
                end = middle;
            } else {
                wanted = middle + 1;
            }
        }
        for number in (0..end).rev() {
            let position = at(number)?;
            self.below = position;
            if self.look(position)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn is_too_new(&self, position: u64) -> bool {
        let Ok(bytes) = self.inner.whole_record(position) else {
            return false;
        };
        Record::decode(&bytes).is_ok_and(|record| record.store_ms > self.limits.to_ms)
    }

    /// Takes the record if it is one of those that are asked for; breaks when that is all.
    fn look(&mut self, position: u64) -> Result<ControlFlow<()>, ReadError> {
        let bytes = match self.inner.whole_record(position) {
            Ok(bytes) => bytes,
            // Its file was deleted meanwhile, and so is all that is older.
            Err(_) if position < self.inner.segments.start() => {
                return Ok(ControlFlow::Break(()));
            }
            Err(error @ ReadError::Corrupt { .. }) => {
                tracing::warn!(%error, "a query by key passes over a record");
                self.damaged.get_or_insert(error);
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error),
        };
        let record = Record::decode(&bytes).map_err(|_| ReadError::Corrupt { position })?;
        if record.store_ms < self.limits.from_ms {
            return Ok(ControlFlow::Break(()));
        }
        let wanted = record.topic == self.topic
            && keys::of(record.properties).any(|key| key == self.key)
            && record.store_ms <= self.limits.to_ms
            && self.is_shown(&record);
        if wanted {
            self.found.push(bytes);
        } else {
            self.misses += 1;
        }
        Ok(
            if self.found.len() >= self.limits.messages_max || self.misses >= MISSES_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            },
        )
    }

    /// Whether a pull would still find it.
    fn is_shown(&self, record: &Record<'_>) -> bool {
        let queue = self.inner.index.get(record.topic, record.queue);
        !takes_queue_offset(record.sys_flag)
            || queue.is_some_and(|queue| record.queue_offset >= queue.range().min)
    }

    /// Rebuilds a run whose keys are damaged, unless somebody else has done so.
    fn repair(&self, run: &Arc<Run>) -> Result<(), ReadError> {
        let _runs = self.inner.runs();
        if run.keys().all(|key| key.is_ok()) {
            return Ok(());
        }
        self.inner.rebuild(run)
    }
}
