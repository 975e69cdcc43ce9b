//! The consume queues that a Java broker has left: how far each goes, and whether it still has a
//! message. Only a queue's last units are looked at; the log holds everything else.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};

use crate::fs::{self, Wait};

const UNIT_BYTES: u64 = 20;
/// Java fills a queue's first file with units of this size up to the queue's first offset.
const PLACEHOLDER_SIZE: i32 = i32::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JavaQueue {
    pub(crate) topic: String,
    pub(crate) id: i32,
    /// The offset after the last unit that points into the log.
    pub(crate) next: i64,
    /// Where the record of the last unit lies and ends; none before the queue's first message.
    pub(crate) last: Option<(u64, u64)>,
    /// Where the records of all units end, also of those that point behind the log.
    pub(crate) reach: u64,
}

/// Every queue below `dir`, Java's `consumequeue/`; `end` is the log's.
pub(crate) fn read(dir: &Path, end: u64) -> io::Result<Vec<JavaQueue>> {
    let mut queues = Vec::new();
    for (topic_dir, _) in fs::list_if_exists(dir)? {
        let Some(topic) = name_of(&topic_dir).filter(|_| topic_dir.is_dir()) else {
            continue;
        };
        for (queue_dir, _) in fs::list_if_exists(&topic_dir)? {
            let Some(id) = name_of(&queue_dir).and_then(|name| name.parse().ok()) else {
                continue;
            };
            queues.push(read_queue(&queue_dir, topic, id, end)?);
        }
    }
    Ok(queues)
}

fn read_queue(dir: &Path, topic: &str, id: i32, end: u64) -> io::Result<JavaQueue> {
    let mut queue = JavaQueue {
        topic: topic.to_owned(),
        id,
        next: 0,
        last: None,
        reach: 0,
    };
    let mut files: Vec<(u64, PathBuf, u64)> = fs::list_if_exists(dir)?
        .into_iter()
        .filter_map(|(path, len)| Some((name_of(&path)?.parse().ok()?, path, len)))
        .collect();
    files.sort_unstable();
    for (start, path, len) in files.into_iter().rev() {
        let file = fs::open_read(&path)?;
        let unit = |index: u64| -> io::Result<Option<Unit>> {
            let mut bytes = [0; UNIT_BYTES as usize];
            fs::read_exact_at(&file, &mut bytes, index * UNIT_BYTES, Wait::ForDisk)?;
            Ok(Unit::read(&bytes))
        };
        let units = len / UNIT_BYTES;
        // Units fill a file from its start; behind them it is zero.
        let written = first_without(units, &|index| Ok(unit(index)?.is_some()))?;
        if let Some(last) = written.checked_sub(1).map(unit).transpose()?.flatten() {
            queue.reach = queue.reach.max(last.end().unwrap_or(0));
        }
        let inside = |index| Ok(unit(index)?.is_some_and(|unit| unit.end() <= Some(end)));
        let count = first_without(written, &inside)?;
        let Some(last) = count.checked_sub(1).map(unit).transpose()?.flatten() else {
            continue;
        };
        queue.next = ((start / UNIT_BYTES) + count) as i64;
        queue.last = last.end().map(|end| (last.position, end));
        return Ok(queue);
    }
    Ok(queue)
}

/// One unit that is not zero.
struct Unit {
    position: u64,
    size: i32,
}

impl Unit {
    fn read(bytes: &[u8; UNIT_BYTES as usize]) -> Option<Self> {
        let (position, rest) = bytes.split_first_chunk::<8>()?;
        let position = u64::try_from(i64::from_be_bytes(*position)).ok()?;
        let size = i32::from_be_bytes(*rest.first_chunk()?);
        (size > 0).then_some(Self { position, size })
    }

    /// Where its record ends; `None` for one that stands for no record.
    fn end(&self) -> Option<u64> {
        (self.size != PLACEHOLDER_SIZE).then(|| self.position.saturating_add(self.size as u64))
    }
}

/// The first number below `count` for which `holds` is false; it holds for all before it.
fn first_without(count: u64, holds: &dyn Fn(u64) -> io::Result<bool>) -> io::Result<u64> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
