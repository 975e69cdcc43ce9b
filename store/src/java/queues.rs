//! Java's consume queues: units of 20 bytes {position, size, tags code}, the unit of offset n at
//! byte 20 n of the queue's files, each of exactly 300,000 units.
//!
//! Java takes for a queue's start the first unit that points at or behind the log's start, so
//! the units before it must point below that. For a queue without messages all units of its last
//! file do, and its next offset survives.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use protocol::properties;
use protocol::record::Record;
use protocol::topic::SCHEDULE_TOPIC;

use super::ExportError;
use crate::ReadError;
use crate::fs::Wait;
use crate::index::Queue;
use crate::open::Inner;
use crate::run::Entry;

const UNIT_BYTES: u64 = 20;
const FILE_UNITS: i64 = 300_000;
const FILE_BYTES: u64 = FILE_UNITS as u64 * UNIT_BYTES;
const READ_ENTRIES: usize = 4096;
/// Fills a queue's first file up to the queue's first offset, as Java does it.
const PLACEHOLDER: Entry = Entry {
    position: 0,
    size: i32::MAX as u32,
    tags: 0,
};
/// Of a message that has expired. Java skips new messages up to the end of the last unit's
/// record, so it must not be the placeholder that comes last.
const EXPIRED: Entry = Entry {
    position: 0,
    size: 1,
    tags: 0,
};

/// Writes the files of one queue; returns its number of messages.
pub(super) fn write(
    inner: &Inner,
    queue: &Arc<Queue>,
    delays_ms: &[i64],
) -> Result<u64, ExportError> {
    let range = queue.range();
    let log_start = inner.segments.start();
    let empty = range.max <= range.min;
    // Where nothing has expired a unit can't say so: the queue begins anew, as in Java's hands.
    if range.max == 0 || empty && log_start == 0 {
        return Ok(0);
    }
    let dir = inner
        .dir
        .join(format!("consumequeue/{}/{}", queue.topic, queue.id));
    std::fs::create_dir_all(&dir)?;
    let delays_ms = (&*queue.topic == SCHEDULE_TOPIC).then_some(delays_ms);
    let mut next = if empty { range.max - 1 } else { range.min };
    next -= next % FILE_UNITS;
    while next < range.max {
        let mut out = create(&dir, next)?;
        let file_end = (next + FILE_UNITS).min(range.max);
        while next < file_end {
            let before = range.min.min(file_end) - next;
            if before > 0 {
                next += write_before(inner, queue, next, before, &mut out)?;
                continue;
            }
            let count = ((file_end - next) as usize).min(READ_ENTRIES);
            let entries = inner.entries(queue, next, count, Wait::ForDisk)?;
            if entries.is_empty() {
                return Err(ReadError::IndexDamaged.into());
            }
            for entry in &entries {
                write_unit(&mut out, delivered(inner, *entry, delays_ms)?)?;
            }
            next += entries.len() as i64;
        }
        // Where the file goes on it is a hole: zeros, as Java makes it.
        out.flush()?;
    }
    Ok((range.max - range.min) as u64)
}

/// Units of `count` offsets below the queue's first; returns how many were written.
///
/// While the log's first file is there Java would begin at any unit, and skips messages next to
/// one that it can't read. There it gets back the messages of the topic that was deleted.
fn write_before(
    inner: &Inner,
    queue: &Arc<Queue>,
    from: i64,
    count: i64,
    out: &mut impl Write,
) -> Result<i64, ExportError> {
    if inner.segments.start() > 0 {
        let range = queue.range();
        let unit = if range.min == range.max {
            EXPIRED
        } else {
            PLACEHOLDER
        };
        for _ in 0..count {
            write_unit(out, unit)?;
        }
        return Ok(count);
    }
    let wanted = (count as usize).min(READ_ENTRIES);
    let entries = inner.entries(queue, from, wanted, Wait::ForDisk)?;
    if entries.is_empty() {
        write_unit(out, PLACEHOLDER)?;
        return Ok(1);
    }
    for entry in &entries {
        write_unit(out, *entry)?;
    }
    Ok(entries.len() as i64)
}

/// The entry as Java has it: the tags code of a delayed message is the time of its delivery.
fn delivered(
    inner: &Inner,
    mut entry: Entry,
    delays_ms: Option<&[i64]>,
) -> Result<Entry, ExportError> {
    let (Some(delays_ms), Some(last)) = (delays_ms, delays_ms.and_then(<[i64]>::last)) else {
        return Ok(entry);
    };
    let Entry { position, size, .. } = entry;
    let bytes = inner.segments.record(position, size, Wait::ForDisk, None)?;
    let record = Record::decode(&bytes).map_err(|_| ReadError::Corrupt { position })?;
    let level = record
        .property(properties::DELAY)
        .and_then(|level| level.parse::<usize>().ok());
    if let Some(level) = level.and_then(|level| level.checked_sub(1)) {
        entry.tags = record.delayed_since_ms() + delays_ms.get(level).unwrap_or(last);
    }
    Ok(entry)
}

fn create(dir: &Path, first: i64) -> io::Result<BufWriter<std::fs::File>> {
    let path = dir.join(format!("{:020}", first as u64 * UNIT_BYTES));
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_len(FILE_BYTES)?;
    Ok(BufWriter::with_capacity(1 << 16, file))
}

fn write_unit(out: &mut impl Write, entry: Entry) -> io::Result<()> {
    out.write_all(&entry.position.to_be_bytes())?;
    out.write_all(&entry.size.to_be_bytes())?;
    out.write_all(&entry.tags.to_be_bytes())
}
