//! The newest bytes of the log, as they were written, for readers that keep up.
//!
//! A read is a slice of a written batch, without a copy. The oldest batches leave when there are
//! more than `bytes_max` bytes; a slice that a reader still holds keeps its own batch alive.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Tail {
    bytes_max: usize,
    /// Where the oldest batch starts: most readers of old messages need not look further.
    start: AtomicU64,
    batches: RwLock<Batches>,
}

#[derive(Debug, Default)]
struct Batches {
    /// Position and bytes, in order of position.
    list: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            start: AtomicU64::new(0),
            batches: RwLock::default(),
        }
    }

    pub(crate) fn push(&self, position: u64, bytes: Bytes) {
        let mut batches = self.batches.write().unwrap_or_else(PoisonError::into_inner);
        batches.bytes += bytes.len();
        batches.list.push_back((position, bytes));
        while batches.bytes > self.bytes_max
            && let Some((_, oldest)) = batches.list.pop_front()
        {
            batches.bytes -= oldest.len();
        }
        let start = batches.list.front().map_or(0, |(start, _)| *start);
        self.start.store(start, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, position: u64, size: u32) -> Option<Bytes> {
        if position < self.start.load(Ordering::Relaxed) {
            return None;
        }
        let batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        let after = batches
            .list
            .partition_point(|(start, _)| *start <= position);
        let (start, bytes) = batches.list.get(after.checked_sub(1)?)?;
        let from = (position - start) as usize;
        let to = from + size as usize;
        (to <= bytes.len()).then(|| bytes.slice(from..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest() {
        let tail = Tail::new(10);
        for position in [0u64, 4, 8, 12] {
            tail.push(position, Bytes::from(vec![position as u8; 4]));
        }
        let rows = [
            (0, 4, false),
            (4, 4, false),
            (8, 4, true),
            (8, 5, false),
            (9, 3, true),
        ];
        for (position, size, found) in rows {
            assert_eq!(
                tail.get(position, size).is_some(),
                found,
                "{position} {size}"
            );
        }
        assert_eq!(tail.get(13, 2).expect("there"), [12, 12].as_slice());
        assert_eq!(tail.get(16, 1), None);
    }
}
