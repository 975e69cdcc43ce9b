//! Queues that a group pops in order: what was handed out last of each, and whether that blocks
//! the queue (`ConsumerOrderInfoManager.java`). No clock: times are arguments.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Lane;

/// The messages that were handed out together. None of the queue follows until each of them is
/// acknowledged or its time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub pop_ms: i64,
    /// Of the call that got it; the same call made again gets it again.
    pub attempt: String,
    pub messages: Vec<Handed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    pub offset: i64,
    pub until_ms: i64,
    /// How often it was handed out before.
    pub count: i32,
    pub acknowledged: bool,
}

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The group's offset is now this.
    Next(i64),
    /// Of an earlier batch, or of one that a crash has lost, which is handed out again: nothing
    /// happens.
    Stale,
    /// The message was not handed out.
    Unknown,
}

#[derive(Debug, Default)]
pub struct Orders {
    lanes: HashMap<Arc<Lane>, Batch>,
    /// When batches may block no more.
    ends: BTreeSet<(i64, Arc<Lane>)>,
    dirty: HashSet<Arc<Lane>>,
}

impl Batch {
    /// When it blocks no more, as things are; never when all is acknowledged.
    fn end_ms(&self) -> Option<i64> {
        let open = self.messages.iter().filter(|one| !one.acknowledged);
        open.map(|one| one.until_ms).max()
    }

    fn next(&self) -> i64 {
        let mut open = self.messages.iter().filter(|one| !one.acknowledged);
        let behind = || self.messages.last().map_or(0, |last| last.offset + 1);
        open.next().map_or_else(behind, |first| first.offset)
    }

    fn by_attempt(&self, attempt: Option<&str>) -> bool {
        !self.attempt.is_empty() && attempt == Some(self.attempt.as_str())
    }
}

impl Orders {
    /// Whether nothing of the lane may be handed out now.
    pub fn blocks(&self, lane: &Lane, attempt: Option<&str>, now_ms: i64) -> bool {
        self.lanes.get(lane).is_some_and(|batch| {
            !batch.by_attempt(attempt) && batch.end_ms().is_some_and(|end| now_ms < end)
        })
    }

    /// Messages are handed out; returns how often each was before.
    pub fn hand_out(
        &mut self,
        lane: &Arc<Lane>,
        attempt: Option<&str>,
        (pop_ms, until_ms): (i64, i64),
        offsets: &[i64],
    ) -> Vec<(i64, i32)> {
        let before = self.lanes.get(lane);
        let again = before.is_some_and(|batch| batch.by_attempt(attempt));
        let count = |offset: i64| {
            let messages = before.map_or(&[][..], |batch| batch.messages.as_slice());
            let known = messages.iter().find(|one| one.offset == offset);
            known.map_or(0, |one| one.count + i32::from(!again))
        };
        let messages: Vec<Handed> = offsets
            .iter()
            .map(|offset| Handed {
                offset: *offset,
                until_ms,
                count: count(*offset),
                acknowledged: false,
            })
            .collect();
        let counts = messages.iter().map(|one| (one.offset, one.count)).collect();
        let batch = Batch {
            pop_ms,
            attempt: attempt.unwrap_or_default().to_owned(),
            messages,
        };
        self.put(lane, Some(batch));
        counts
    }

    /// A message is acknowledged by the receipt of a batch.
    pub fn acknowledge(&mut self, lane: &Arc<Lane>, offset: i64, pop_ms: i64) -> Acknowledged {
        let batch = self.lanes.get(lane).filter(|batch| batch.pop_ms == pop_ms);
        let Some(mut batch) = batch.cloned() else {
            return Acknowledged::Stale;
        };
        let Some(one) = batch.messages.iter_mut().find(|one| one.offset == offset) else {
            return Acknowledged::Unknown;
        };
        one.acknowledged = true;
        let next = batch.next();
        let open = batch.end_ms().is_some();
        self.put(lane, open.then_some(batch));
        Acknowledged::Next(next)
    }

    /// The message is visible again from another time on; `false` when this is no batch of now.
    pub fn delay(&mut self, lane: &Arc<Lane>, offset: i64, pop_ms: i64, until_ms: i64) -> bool {
        let batch = self.lanes.get(lane).filter(|batch| batch.pop_ms == pop_ms);
        let Some(mut batch) = batch.cloned() else {
            return false;
        };
        let Some(one) = batch.messages.iter_mut().find(|one| one.offset == offset) else {
            return false;
        };
        one.until_ms = until_ms;
        self.put(lane, Some(batch));
        true
    }

    /// The group goes on elsewhere in the queue.
    pub fn clear(&mut self, lane: &Arc<Lane>) {
        if self.lanes.contains_key(lane) {
            self.put(lane, None);
        }
    }

    pub fn first_end_ms(&self) -> Option<i64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Lanes that have become free by the time, each once.
    pub fn take_freed(&mut self, now_ms: i64) -> Vec<Arc<Lane>> {
        let mut freed = Vec::new();
        while let Some((end, lane)) = self.ends.first().cloned()
            && end <= now_ms
        {
            self.ends.pop_first();
            freed.push(lane);
        }
        freed
    }

    pub fn forget(&mut self, lost: impl Fn(&Lane) -> bool) {
        self.lanes.retain(|lane, _| !lost(lane));
        self.ends.retain(|(_, lane)| !lost(lane));
        self.dirty.retain(|lane| !lost(lane));
    }

    /// What changed since it was last taken; a lane without a batch has none any more.
    pub fn take_dirty(&mut self) -> Vec<(Arc<Lane>, Option<Batch>)> {
        let dirty = std::mem::take(&mut self.dirty).into_iter();
        in_order(dirty.map(|lane| (Arc::clone(&lane), self.lanes.get(&lane).cloned())))
    }

    pub fn not_written(&mut self, batches: &[(Arc<Lane>, Option<Batch>)]) {
        let lanes = batches.iter().map(|(lane, _)| Arc::clone(lane));
        self.dirty.extend(lanes);
    }

    pub fn apply(&mut self, batches: Vec<(Arc<Lane>, Option<Batch>)>) {
        for (lane, batch) in batches {
            self.set(&lane, batch);
        }
    }

    pub fn all(&self) -> Vec<(Arc<Lane>, Option<Batch>)> {
        let lanes = self.lanes.iter();
        in_order(lanes.map(|(lane, batch)| (Arc::clone(lane), Some(batch.clone()))))
    }

    fn put(&mut self, lane: &Arc<Lane>, batch: Option<Batch>) {
        self.set(lane, batch);
        self.dirty.insert(Arc::clone(lane));
    }

    fn set(&mut self, lane: &Arc<Lane>, batch: Option<Batch>) {
        let new_end = batch.as_ref().and_then(Batch::end_ms);
        let old = match batch {
            Some(batch) => self.lanes.insert(Arc::clone(lane), batch),
            None => self.lanes.remove(lane),
        };
        if let Some(end) = old.and_then(|old| old.end_ms()) {
            self.ends.remove(&(end, Arc::clone(lane)));
        }
        if let Some(end) = new_end {
            self.ends.insert((end, Arc::clone(lane)));
        }
    }
}

fn in_order<T>(lanes: impl Iterator<Item = (Arc<Lane>, T)>) -> Vec<(Arc<Lane>, T)> {
    let mut lanes: Vec<_> = lanes.collect();
    lanes.sort_by(|(a, _), (b, _)| a.cmp(b));
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> Arc<Lane> {
        Arc::new(Lane {
            topic: "T".into(),
            group: "g".into(),
            queue: 0,
        })
    }

    #[test]
    fn a_batch_blocks_its_queue_until_it_is_acknowledged_or_over() {
        use Acknowledged::{Next, Stale, Unknown};
        let (mut orders, lane) = (Orders::default(), lane());
        assert!(!orders.blocks(&lane, None, 0));
        assert_eq!(orders.acknowledge(&lane, 4, 1), Stale, "nothing is out");
        let counts = orders.hand_out(&lane, Some("a"), (10, 60), &[5, 6, 8]);
        assert_eq!(counts, [(5, 0), (6, 0), (8, 0)]);
        for (attempt, now, blocks) in [
            (None, 59, true),
            (Some("b"), 59, true),
            (Some("a"), 59, false),
            (None, 60, false),
        ] {
            assert_eq!(
                orders.blocks(&lane, attempt, now),
                blocks,
                "{attempt:?} {now}"
            );
        }
        for (offset, pop_ms, expect) in [
            (6, 9, Stale),
            (7, 10, Unknown),
            (6, 10, Next(5)),
            (5, 10, Next(8)),
            (8, 10, Next(9)),
        ] {
            assert_eq!(
                orders.acknowledge(&lane, offset, pop_ms),
                expect,
                "{offset}"
            );
        }
        assert!(!orders.blocks(&lane, None, 0), "nothing is left of it");
        assert_eq!(orders.first_end_ms(), None);
    }

    #[test]
    fn what_is_handed_out_again_is_counted() {
        let (mut orders, lane) = (Orders::default(), lane());
        orders.hand_out(&lane, Some("a"), (10, 60), &[5, 6]);
        let same = orders.hand_out(&lane, Some("a"), (11, 61), &[5, 6]);
        assert_eq!(
            same,
            [(5, 0), (6, 0)],
            "a call made again is no further time"
        );
        assert!(orders.delay(&lane, 6, 11, 90) && !orders.delay(&lane, 6, 10, 95));
        assert!(orders.blocks(&lane, None, 89) && !orders.blocks(&lane, None, 90));
        assert_eq!(orders.take_freed(89), []);
        assert_eq!(orders.take_freed(90), [Arc::clone(&lane)]);
        assert_eq!(orders.take_freed(90), [], "once");
        let again = orders.hand_out(&lane, None, (100, 160), &[5, 6, 7]);
        assert_eq!(again, [(5, 1), (6, 1), (7, 0)]);
        let third = orders.hand_out(&lane, None, (200, 260), &[6]);
        assert_eq!(third, [(6, 2)]);
    }

    #[test]
    fn the_log_rebuilds_it() {
        let (mut orders, lane) = (Orders::default(), lane());
        orders.hand_out(&lane, None, (10, 60), &[5, 6]);
        orders.acknowledge(&lane, 5, 10);
        let taken = orders.take_dirty();
        let mut again = Orders::default();
        again.apply(taken.clone());
        assert_eq!(
            (again.all(), again.first_end_ms()),
            (orders.all(), Some(60))
        );
        assert_eq!(again.take_dirty(), []);
        orders.not_written(&taken);
        orders.acknowledge(&lane, 6, 10);
        let taken = orders.take_dirty();
        assert_eq!(taken, [(Arc::clone(&lane), None)]);
        again.apply(taken);
        assert_eq!(again.all(), []);
    }
}
