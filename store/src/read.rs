//! Reading: messages by queue offset, by time and by position.
//!
//! Everything the index knows has committed, so a reader never sees more than the confirm offset.
//! What is in the tail is a slice of it; all else is read from its file and verified. With
//! `Wait::Never` a read that needs the disk says `WouldBlock`, and the caller comes again from a
//! thread that may wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use protocol::record::{BLANK_BYTES, Head, Record, head};

use crate::fs::Wait;
use crate::index::Queue;
use crate::open::{Inner, Store};
use crate::run::{Entry, Run};
use crate::segment::{Expected, Records};
use crate::{Range, ReadError};

/// Entries looked at in one go; a page of a run has 204.
const CHUNK_ENTRIES: usize = 128;

/// Of records that turn out not to be wanted, in one read.
const LOOK_BYTES_MAX: usize = 8 << 20;

/// So many records ahead of the one that is verified are on their way from memory: each lies in
/// a page of its own.
const PREFETCH_ENTRIES: usize = 2;

/// Where a read stops; at least one message is returned if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    pub messages_max: usize,
    pub bytes_max: usize,
    /// Entries looked at, wanted or not.
    pub scan_max: usize,
}

/// The outcome of a read, as Java's broker names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadStatus {
    Found,
    /// None of the entries looked at was wanted; go on from `next`.
    NoMatch,
    NoQueue,
    /// The queue never had a message.
    Empty,
    TooSmall,
    OverflowOne,
    OverflowBadly,
    /// The message was deleted while it was looked for; go on from `next`.
    Gone,
    /// The disk is needed; nothing was read.
    WouldBlock,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub status: ReadStatus,
    /// Where the next read should start.
    pub next: i64,
    pub min: i64,
    pub max: i64,
    pub records: Vec<Bytes>,
}

/// Which message of several around a time is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// The first at or after it; the queue's end if there is none.
    Lower,
    /// The last at or before it; the queue's start if there is none.
    Upper,
}

/// Whether a message is wanted: by its tags code, and if it is, by its record.
pub type Wanted<'a> = (
    &'a mut dyn FnMut(i64) -> bool,
    &'a mut dyn FnMut(&[u8]) -> bool,
);

impl Store {
    /// Messages of a queue from offset `from` on whose tags code is wanted.
    #[expect(
        clippy::too_many_arguments,
        reason = "the words of one pull, none with a default"
    )]
    pub fn read(
        &self,
        topic: &str,
        queue: i32,
        from: i64,
        limits: &ReadLimits,
        wanted: &mut dyn FnMut(i64) -> bool,
        wait: Wait,
    ) -> Result<Read, ReadError> {
        self.read_matching(topic, queue, from, limits, (wanted, &mut |_| true), wait)
    }

    /// As `read`, of those whose record is wanted, too.
    #[expect(
        clippy::too_many_arguments,
        reason = "the words of one pull, none with a default"
    )]
    pub fn read_matching(
        &self,
        topic: &str,
        queue: i32,
        from: i64,
        limits: &ReadLimits,
        wanted: Wanted<'_>,
        wait: Wait,
    ) -> Result<Read, ReadError> {
        let Some(queue) = self.inner.index.get(topic, queue) else {
            return Ok(answer(ReadStatus::NoQueue, 0, Range::default()));
        };
        let range = queue.range();
        let (status, next) = match from {
            _ if range.max == 0 => (ReadStatus::Empty, 0),
            from if from < range.min => (ReadStatus::TooSmall, range.min),
            from if from == range.max => (ReadStatus::OverflowOne, from),
            from if from > range.max => (ReadStatus::OverflowBadly, range.max),
            _ => {
                let start = answer(ReadStatus::NoMatch, from, range);
                return self.inner.read(&queue, start, *limits, wanted, wait);
            }
        };
        Ok(answer(status, next, range))
    }

    /// `None` if the queue is unknown.
    pub fn range(&self, topic: &str, queue: i32) -> Option<Range> {
        Some(self.inner.index.get(topic, queue)?.range())
    }

    /// Every queue that ever had a message, in order of topic and number.
    pub fn queues(&self) -> Vec<(Arc<str>, i32, Range)> {
        let all = self.inner.index.queues().into_iter();
        all.map(|queue| (Arc::clone(&queue.topic), queue.id, queue.range()))
            .collect()
    }

    /// The offset of the message around a time; `None` if the queue is unknown.
    pub fn offset_at_time(
        &self,
        topic: &str,
        queue: i32,
        ms: i64,
        boundary: Boundary,
    ) -> Result<Option<i64>, ReadError> {
        let Some(queue) = self.inner.index.get(topic, queue) else {
            return Ok(None);
        };
        let offset = match boundary {
            Boundary::Lower => self.inner.first_at(&queue, ms)?,
            Boundary::Upper => {
                let after = self.inner.first_at(&queue, ms.saturating_add(1))?;
                (after - 1).max(queue.range().min)
            }
        };
        Ok(Some(offset))
    }

    /// When a message was stored; `None` if there is none at this offset.
    pub fn store_time(
        &self,
        topic: &str,
        queue: i32,
        offset: i64,
    ) -> Result<Option<i64>, ReadError> {
        let Some(queue) = self.inner.index.get(topic, queue) else {
            return Ok(None);
        };
        self.inner.store_time(&queue, offset)
    }

    /// The record at a position that somebody names; `None` if none lies there.
    pub fn record_at(&self, position: u64) -> Result<Option<Bytes>, ReadError> {
        if position < self.inner.segments.start() {
            return Ok(None);
        }
        match self.inner.whole_record(position) {
            Ok(record) => Ok(Some(record)),
            Err(ReadError::Corrupt { .. } | ReadError::Gone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    fn read(
        &self,
        queue: &Queue,
        mut found: Read,
        limits: ReadLimits,
        (may_be_wanted, wanted): Wanted<'_>,
        wait: Wait,
    ) -> Result<Read, ReadError> {
        let (mut bytes, mut looked_bytes) = (0, 0);
        // Mostly every entry is wanted; where few are, more are looked at in one go.
        let mut chunk = limits.messages_max.clamp(1, CHUNK_ENTRIES);
        let scan_max = limits.scan_max.max(1) as i64;
        let mut records = self.segments.records(wait);
        let scan_end = found.next.saturating_add(scan_max).min(found.max);
        'scan: while found.next < scan_end {
            let count = ((scan_end - found.next) as usize).min(chunk);
            chunk = CHUNK_ENTRIES;
            let entries = match self.entries(queue, found.next, count, wait) {
                Ok(entries) if !entries.is_empty() => entries,
                Ok(_) | Err(ReadError::Gone { .. }) => return Ok(gone(queue, found)),
                Err(error) => return stopped(found, error),
            };
            for (at, &entry) in entries.iter().enumerate() {
                if let Some(soon) = entries.get(at + PREFETCH_ENTRIES) {
                    records.prefetch(soon.position, soon.size);
                }
                if may_be_wanted(entry.tags) {
                    let full = found.records.len() >= limits.messages_max
                        || bytes + entry.size as usize > limits.bytes_max;
                    if (full && !found.records.is_empty()) || looked_bytes > LOOK_BYTES_MAX {
                        break 'scan;
                    }
                    looked_bytes += entry.size as usize;
                    match self.next_record(&mut records, queue, found.next, entry) {
                        Ok(record) if wanted(&record) => {
                            bytes += record.len();
                            found.records.push(record);
                        }
                        Ok(_) => {}
                        Err(ReadError::Gone { .. }) => return Ok(gone(queue, found)),
                        Err(error) => return stopped(found, error),
                    }
                }
                found.next += 1;
            }
        }
        if !found.records.is_empty() {
            found.status = ReadStatus::Found;
        }
        Ok(found)
    }

    /// The record of an entry, from memory or verified from disk.
    pub(crate) fn record(
        &self,
        queue: &Queue,
        offset: i64,
        entry: Entry,
        wait: Wait,
    ) -> Result<Bytes, ReadError> {
        self.next_record(&mut self.segments.records(wait), queue, offset, entry)
    }

    fn next_record(
        &self,
        records: &mut Records<'_>,
        queue: &Queue,
        offset: i64,
        entry: Entry,
    ) -> Result<Bytes, ReadError> {
        if let Some(bytes) = self.tail.get(entry.position, entry.size) {
            return Ok(bytes);
        }
        let expected = Expected {
            topic: &queue.topic,
            queue: queue.id,
            offset,
        };
        records.record(entry.position, entry.size, Some(expected))
    }

    /// The readable record that starts at a position, verified; `Corrupt` if none does.
    pub(crate) fn whole_record(&self, position: u64) -> Result<Bytes, ReadError> {
        let corrupt = || ReadError::Corrupt { position };
        let confirm = self.progress.confirm.load(Ordering::Acquire);
        let segment = self.segments.at(position).ok_or_else(corrupt)?;
        let at = position - segment.start;
        let mut first = [0; BLANK_BYTES];
        if at + BLANK_BYTES as u64 > self.segments.segment_bytes {
            return Err(corrupt());
        }
        let read = segment.read_exact_at(&mut first, at, Wait::ForDisk);
        read.map_err(|_| corrupt())?;
        match head(first) {
            Some(Head::Record(size)) if position + size as u64 <= confirm => {
                self.segments
                    .record(position, size as u32, Wait::ForDisk, None)
            }
            _ => Err(corrupt()),
        }
    }

    /// Entries of a queue; a damaged run is rebuilt from the log if the caller may wait.
    pub(crate) fn entries(
        &self,
        queue: &Queue,
        from: i64,
        count: usize,
        wait: Wait,
    ) -> Result<Vec<Entry>, ReadError> {
        let entries = queue.entries(from, count, wait)?;
        match entries.run {
            Some(run) if entries.list.is_empty() && count > 0 => {
                if wait == Wait::Never {
                    return Err(std::io::Error::from(std::io::ErrorKind::WouldBlock).into());
                }
                // One at a time; the next one in finds it intact.
                let _runs = self.runs();
                let again = queue.entries(from, count, wait)?.list;
                if !again.is_empty() {
                    return Ok(again);
                }
                let position = run.stretch.start;
                if position < self.segments.start() {
                    return Err(ReadError::Gone { position });
                }
                self.rebuild(&run)?;
                let rebuilt = queue.entries(from, count, wait)?.list;
                if rebuilt.is_empty() {
                    Err(ReadError::IndexDamaged)
                } else {
                    Ok(rebuilt)
                }
            }
            _ => Ok(entries.list),
        }
    }

    pub(crate) fn rebuild(&self, run: &Run) -> Result<(), ReadError> {
        tracing::warn!(path = %run.path.display(), "a damaged index run is rebuilt");
        run.rebuild(&self.segments).map_err(|error| {
            tracing::error!(%error, "the index run could not be rebuilt");
            ReadError::IndexDamaged
        })
    }

    /// The first offset whose message was stored at `ms` or later.
    fn first_at(&self, queue: &Queue, ms: i64) -> Result<i64, ReadError> {
        let Range { mut min, mut max } = queue.stretch_of_time(ms);
        while min < max {
            let middle = min + (max - min) / 2;
            match self.store_time(queue, middle)? {
                Some(stored) if stored >= ms => max = middle,
                _ => min = middle + 1,
            }
        }
        Ok(min.max(queue.range().min))
    }

    fn store_time(&self, queue: &Queue, offset: i64) -> Result<Option<i64>, ReadError> {
        let range = queue.range();
        if !(range.min..range.max).contains(&offset) {
            return Ok(None);
        }
        let Some(entry) = self
            .entries(queue, offset, 1, Wait::ForDisk)?
            .first()
            .copied()
        else {
            return Ok(None);
        };
        let bytes = match self.record(queue, offset, entry, Wait::ForDisk) {
            Err(ReadError::Gone { .. }) => return Ok(None),
            result => result?,
        };
        let position = entry.position;
        let record = Record::decode(&bytes).map_err(|_| ReadError::Corrupt { position })?;
        Ok(Some(record.store_ms))
    }
}

fn answer(status: ReadStatus, next: i64, range: Range) -> Read {
    Read {
        status,
        next,
        min: range.min,
        max: range.max,
        records: Vec::new(),
    }
}

/// The answer where retention was faster than the reader.
fn gone(queue: &Queue, mut found: Read) -> Read {
    let range = queue.range();
    (found.min, found.max) = (range.min, range.max);
    if !found.records.is_empty() {
        found.status = ReadStatus::Found;
    } else if found.next < range.min {
        found.status = ReadStatus::Gone;
        found.next = range.min;
    }
    found
}

/// What was read before an error is an answer; without any, waiting is one too.
fn stopped(mut found: Read, error: ReadError) -> Result<Read, ReadError> {
    if !found.records.is_empty() {
        found.status = ReadStatus::Found;
        return Ok(found);
    }
    match error {
        ReadError::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            found.status = ReadStatus::WouldBlock;
            Ok(found)
        }
        error => Err(error),
    }
}
