//! The key index: where the records with a certain key lie.
//!
//! A key belongs to its topic and is kept as the CRC-32 of `topic#key`, so whoever finds a
//! record by it compares the record's own keys. Keys of records that no run covers are in memory,
//! in chunks that never change once they are full, so that a search holds no lock while it looks
//! through them; all others are in the runs, in order of hash and position.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use protocol::properties;
use protocol::record::is_rolled_back;

use crate::ReadError;
use crate::run::Run;

const CHUNK_KEYS: usize = 4096;
/// The writer waits for the index when so many keys are in memory, 16 bytes each.
pub(crate) const RECENT_KEYS_MAX: usize = 4 << 20;

/// A record's position under the hash of one of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) hash: u32,
    pub(crate) position: u64,
}

pub(crate) fn hash(topic: &str, key: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(topic.as_bytes());
    hasher.update(b"#");
    hasher.update(key.as_bytes());
    hasher.finalize()
}

/// The keys by which a message is found: its unique key and each word of KEYS.
pub(crate) fn of(properties: &[u8]) -> impl Iterator<Item = &str> {
    let names = [properties::UNIQ_KEY, properties::KEYS];
    let [unique, words] = properties::get_all(properties, names);
    let words = words.unwrap_or_default();
    unique
        .into_iter()
        .chain(words.split(' ').filter(|word| !word.is_empty()))
}

/// The hashes of a message's keys, each once; none of a message that was rolled back.
pub(crate) fn hashes(topic: &str, sys_flag: i32, properties: &[u8]) -> Vec<u32> {
    if is_rolled_back(sys_flag) {
        return Vec::new();
    }
    let mut hashes: Vec<_> = of(properties).map(|key| hash(topic, key)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// The keys that no run holds yet, in order of position.
#[derive(Debug, Default)]
pub(crate) struct RecentKeys {
    chunks: RwLock<Chunks>,
}

#[derive(Debug, Default)]
struct Chunks {
    full: VecDeque<Arc<Vec<Key>>>,
    open: Vec<Key>,
}

impl RecentKeys {
    /// Adds the keys of records that follow all others.
    pub(crate) fn add(&self, keys: impl Iterator<Item = Key>) {
        let mut keys = keys.peekable();
        if keys.peek().is_none() {
            return;
        }
        let mut chunks = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            chunks.open.push(key);
            if chunks.open.len() == CHUNK_KEYS {
                let full = std::mem::replace(&mut chunks.open, Vec::with_capacity(CHUNK_KEYS));
                chunks.full.push_back(Arc::new(full));
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        chunks.full.len() * CHUNK_KEYS + chunks.open.len()
    }

    /// The positions under a hash, oldest first.
    pub(crate) fn find(&self, hash: u32) -> Vec<u64> {
        let matches = |key: &Key| (key.hash == hash).then_some(key.position);
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let full = chunks.full.clone();
        let newest: Vec<_> = chunks.open.iter().filter_map(matches).collect();
        drop(chunks);
        let older = full.iter().flat_map(|chunk| chunk.iter());
        older.filter_map(matches).chain(newest).collect()
    }

    /// The keys of the records in `[start, end)`, as a run keeps them.
    pub(crate) fn within(&self, start: u64, end: u64) -> Vec<Key> {
        let inside = |key: &&Key| (start..end).contains(&key.position);
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let full = chunks.full.clone();
        let newest: Vec<_> = chunks.open.iter().filter(inside).copied().collect();
        drop(chunks);
        let older = full.iter().flat_map(|chunk| chunk.iter());
        let mut keys: Vec<_> = older.filter(inside).copied().chain(newest).collect();
        keys.sort_unstable();
        keys
    }

    /// Forgets what lies below `position`, but for the rest of a chunk.
    pub(crate) fn settle(&self, position: u64) {
        let mut chunks = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
        let below = |chunk: &[Key]| chunk.last().is_some_and(|key| key.position < position);
        while chunks.full.front().is_some_and(|chunk| below(chunk)) {
            chunks.full.pop_front();
        }
        if below(&chunks.open) {
            chunks.open.clear();
        }
    }
}

/// The keys of several runs in one order; nothing but an error after an error.
pub(crate) fn merged(runs: &[Arc<Run>]) -> impl Iterator<Item = Result<Key, ReadError>> {
    let mut lists: Vec<_> = runs.iter().map(|run| run.keys()).collect();
    let mut failed = None;
    let mut heads = BinaryHeap::new();
    for (number, list) in lists.iter_mut().enumerate() {
        match list.next() {
            Some(Ok(key)) => heads.push(Reverse((key, number))),
            Some(Err(error)) => failed = Some(error),
            None => {}
        }
    }
    std::iter::from_fn(move || {
        if let Some(error) = failed.take() {
            heads.clear();
            return Some(Err(error));
        }
        let Reverse((key, number)) = heads.pop()?;
        match lists.get_mut(number).and_then(Iterator::next) {
            Some(Ok(next)) => heads.push(Reverse((next, number))),
            Some(Err(error)) => failed = Some(error),
            None => {}
        }
        Some(Ok(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_java_indexes() {
        type Row = (&'static [u8], i32, &'static [&'static str]);
        let rows: &[Row] = &[
            (b"", 0, &[]),
            (b"TAGS\x01a\x02", 0, &[]),
            (b"UNIQ_KEY\x01u\x02", 0, &["u"]),
            (
                b"KEYS\x01 a  b \x02UNIQ_KEY\x01u v\x02",
                0,
                &["u v", "a", "b"],
            ),
            (b"KEYS\x01a a\x02UNIQ_KEY\x01a\x02", 0, &["a"]),
            (b"KEYS\x01a\x02", 4, &["a"]),
            (b"KEYS\x01a\x02", 8, &["a"]),
            (b"KEYS\x01a\x02UNIQ_KEY\x01u\x02", 12, &[]),
        ];
        for (properties, sys_flag, keys) in rows {
            let mut expect: Vec<_> = keys.iter().map(|key| hash("T", key)).collect();
            expect.sort_unstable();
            assert_eq!(
                hashes("T", *sys_flag, properties),
                expect,
                "{properties:?} {sys_flag}"
            );
        }
        assert_eq!(hash("TopicTest", "k1"), crc32fast::hash(b"TopicTest#k1"));
    }

    #[test]
    fn recent_keys_settle() {
        let recent = RecentKeys::default();
        let count = CHUNK_KEYS as u64 * 2 + 10;
        let key = |n: u64| Key {
            hash: (n % 3) as u32,
            position: n,
        };
        for n in 0..count {
            recent.add([key(n)].into_iter());
        }
        assert_eq!(recent.find(1).len() as u64, count.div_ceil(3));
        let found = recent.within(4000, 4100);
        assert_eq!(found.len(), 100);
        assert!(found.is_sorted());
        // Settled up to -> left in memory.
        let rows = [
            (0, count),
            (4095, count),
            (4096, count - 4096),
            (count - 1, 10),
            (count, 0),
        ];
        for (position, left) in rows {
            recent.settle(position);
            assert_eq!(recent.len() as u64, left, "{position}");
            assert_eq!(
                recent.within(position, count).len() as u64,
                count - position
            );
        }
    }
}
