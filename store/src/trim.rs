//! The log's start: which files may go, and letting them go.
//!
//! Messages disappear from their queues in two ways: a queue's smallest shown offset is raised, or
//! the files that hold them are deleted, for which a base must stand at or above their end. The
//! next offset of a queue stays in both. A reader that is overtaken learns that its message is
//! gone.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::fs::{self, Wait};
use crate::index::Queue;
use crate::open::{Inner, Store};
use crate::{Range, ReadError};

/// A file of the log that is complete, and whose index is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub start: u64,
    pub end: u64,
    /// Store time of the newest record up to `end`; file times say nothing.
    pub last_ms: i64,
}

impl Store {
    /// The files that may go when their time has come, oldest first; never the last one.
    pub fn sealed(&self) -> Vec<Sealed> {
        let inner = &self.inner;
        let confirm = inner.progress.confirm.load(Ordering::Acquire);
        let bytes = inner.segments.segment_bytes;
        let runs = inner.runs();
        let stretches = runs.iter().map(|run| run.stretch);
        stretches
            .filter(|stretch| stretch.end % bytes == 0 && stretch.end < confirm)
            .map(|stretch| Sealed {
                start: stretch.end - bytes,
                end: stretch.end,
                last_ms: stretch.last_ms,
            })
            .collect()
    }

    /// Deletes the log's files that end at or below `to`, and their index. A base at or above
    /// `to` must have been written.
    pub fn trim(&self, to: u64) -> io::Result<()> {
        let inner = &self.inner;
        let _shaping = inner.shaping.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = self.sealed();
        let Some(to) = sealed.iter().map(|file| file.end).rfind(|end| *end <= to) else {
            return Ok(());
        };
        let base = inner.progress.base.load(Ordering::Acquire);
        if base < to {
            let text = format!("files up to {to} can't go while the base is of {base}");
            return Err(io::Error::other(text));
        }
        for queue in inner.index.queues() {
            queue.drop_below(to);
        }
        inner.segments.delete_below(to)?;
        let gone: Vec<_> = {
            let mut runs = inner.runs();
            let count = runs.partition_point(|run| run.stretch.end <= to);
            runs.drain(..count).collect()
        };
        for run in gone {
            fs::remove_if_exists(&run.path)?;
        }
        Ok(())
    }

    /// Shows no message of the queue below `min` any more; never goes back.
    pub fn raise_min(&self, topic: &str, queue: i32, min: i64) {
        if let Some(queue) = self.inner.index.get(topic, queue) {
            queue.raise_min(min);
        }
    }

    /// Shows no message of the topic any more whose record lies below `position`.
    pub fn hide(&self, topic: &str, position: u64) -> Result<(), ReadError> {
        for queue in self.inner.index.of_topic(topic) {
            queue.raise_min(self.inner.first_from(&queue, position)?);
        }
        Ok(())
    }

    /// Forgets queues without records in the log whose topic is not known: their offsets begin
    /// again at 0. To be called on the writer's thread alone, which also makes queues.
    pub fn forget(&self, known: &dyn Fn(&str) -> bool) {
        self.inner.index.forget(known);
    }

    /// The offset of a queue's first message at or above a position; its end if there is none.
    pub fn offset_at_position(
        &self,
        topic: &str,
        queue: i32,
        position: u64,
    ) -> Result<i64, ReadError> {
        match self.inner.index.get(topic, queue) {
            Some(queue) => self.inner.first_from(&queue, position),
            None => Ok(0),
        }
    }

    /// Where the record of a message lies; `None` if there is none at this offset.
    pub fn position_of(
        &self,
        topic: &str,
        queue: i32,
        offset: i64,
    ) -> Result<Option<u64>, ReadError> {
        let Some(queue) = self.inner.index.get(topic, queue) else {
            return Ok(None);
        };
        let Range { min, max } = queue.range();
        if !(min..max).contains(&offset) {
            return Ok(None);
        }
        let entries = self.inner.entries(&queue, offset, 1, Wait::ForDisk)?;
        Ok(entries.first().map(|entry| entry.position))
    }
}

impl Inner {
    /// The first offset whose record lies at or above `position`.
    fn first_from(&self, queue: &Queue, position: u64) -> Result<i64, ReadError> {
        let Range { mut min, mut max } = queue.stretch_of_position(position);
        while min < max {
            let middle = min + (max - min) / 2;
            let entries = self.entries(queue, middle, 1, Wait::ForDisk)?;
            match entries.first() {
                Some(entry) if entry.position >= position => max = middle,
                _ => min = middle + 1,
            }
        }
        Ok(min)
    }
}
