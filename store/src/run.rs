//! An index run: the queue entries of one stretch of the log, written once and never changed.
//!
//! `gantry/index/<start>.run`, and `<start>.index` for a whole sealed segment. A header with the
//! stretch and a table of sections {kind, offset, length, CRC}; section 1 is the directory (per
//! queue: name, first offset, count, first entry, times), section 2 the entries {position u64,
//! size u32, tags i64} in pages of 204 with a CRC each. Unknown sections are skipped. The
//! directory is read at open, entries are read a page at a time. Layout: docs/spec/store.md.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use protocol::properties;
use protocol::record::{Record, takes_queue_offset};

use crate::envelope::{self, Fields};
use crate::fs::{self, Appender, File, Wait};
use crate::scan::scan;
use crate::segment::Segments;
use crate::{OpenError, ReadError};

const MAGIC: [u8; 8] = *b"GANTRYRN";
const VERSION: u16 = 1;
const KIND_DIRECTORY: u16 = 1;
const KIND_ENTRIES: u16 = 2;
const HEADER_BYTES: usize = 84;
const SECTIONS_MAX: u16 = 64;
const ENTRY_BYTES: usize = 20;
const PAGE_ENTRIES: u64 = 204;
const PAGE_BYTES: u64 = PAGE_ENTRIES * ENTRY_BYTES as u64 + 4;

/// Where one message of a queue lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) size: u32,
    pub(crate) tags: i64,
}

/// One queue's row in a run's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) topic: Arc<str>,
    pub(crate) queue: i32,
    pub(crate) first: i64,
    pub(crate) count: u32,
    /// Number of its first entry in the file.
    pub(crate) entry: u64,
    pub(crate) min_ms: i64,
    pub(crate) max_ms: i64,
}

/// The stretch of the log that a run covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Store time of the newest record up to `end`.
    pub(crate) last_ms: i64,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) path: PathBuf,
    pub(crate) stretch: Stretch,
    entries: RwLock<Entries>,
}

#[derive(Debug, Clone)]
struct Entries {
    file: Arc<File>,
    offset: u64,
    count: u64,
}

impl Run {
    /// Opens a run; `Ok(None)` if the file is not intact.
    pub(crate) fn open(path: &Path) -> io::Result<Option<(Self, Vec<Part>)>> {
        let file = fs::open_read(path)?;
        let len = file.len()?;
        let mut head = vec![0; len.min(4096) as usize];
        file.read_exact_at(&mut head, 0)?;
        let Some((stretch, sections)) = read_header(&head) else {
            return Ok(None);
        };
        let find = |kind| sections.iter().find(|section| section.kind == kind);
        let (Some(directory), Some(entries)) = (find(KIND_DIRECTORY), find(KIND_ENTRIES)) else {
            return Ok(None);
        };
        let inside = |s: &Section| s.offset.checked_add(s.len).is_some_and(|end| end <= len);
        if !sections.iter().all(inside) {
            return Ok(None);
        }
        let mut bytes = vec![0; directory.len as usize];
        file.read_exact_at(&mut bytes, directory.offset)?;
        if crc32fast::hash(&bytes) != directory.crc {
            return Ok(None);
        }
        let Some(parts) = read_directory(&bytes) else {
            return Ok(None);
        };
        let count = parts.iter().map(|part| u64::from(part.count)).sum();
        if entries_bytes(count) != entries.len {
            return Ok(None);
        }
        let entries = Entries {
            file: Arc::new(file),
            offset: entries.offset,
            count,
        };
        let entries = RwLock::new(entries);
        Ok(Some((
            Self {
                path: path.to_owned(),
                stretch,
                entries,
            },
            parts,
        )))
    }

    /// Up to `count` entries from number `first` on; `Damaged` if a page is not intact.
    pub(crate) fn read(&self, first: u64, count: u64, wait: Wait) -> Result<Vec<Entry>, ReadError> {
        let entries = self
            .entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let end = first.saturating_add(count).min(entries.count);
        if first >= end {
            return Ok(Vec::new());
        }
        let page = first / PAGE_ENTRIES;
        let from = page * PAGE_BYTES;
        let pages_end = end.div_ceil(PAGE_ENTRIES) * PAGE_BYTES;
        let mut bytes = vec![0; (pages_end.min(entries_bytes(entries.count)) - from) as usize];
        fs::read_exact_at(&entries.file, &mut bytes, entries.offset + from, wait)?;
        let mut out = Vec::with_capacity((end - first) as usize);
        let mut number = page * PAGE_ENTRIES;
        for page in bytes.chunks(PAGE_BYTES as usize) {
            let (cells, crc) = page
                .split_last_chunk::<4>()
                .ok_or(ReadError::IndexDamaged)?;
            if crc32fast::hash(cells) != u32::from_be_bytes(*crc) {
                return Err(ReadError::IndexDamaged);
            }
            for cell in cells.chunks_exact(ENTRY_BYTES) {
                if (first..end).contains(&number) {
                    out.push(read_entry(cell).ok_or(ReadError::IndexDamaged)?);
                }
                number += 1;
            }
        }
        Ok(out)
    }

    /// Writes the file anew from the log, with the same content, and reads from that.
    pub(crate) fn rebuild(&self, segments: &Segments) -> Result<(), OpenError> {
        rebuild(segments, &self.path, self.stretch.start, self.stretch.end)?;
        let intact = Self::open(&self.path)?;
        let (run, _) = intact.ok_or_else(|| OpenError::Damaged(self.path.display().to_string()))?;
        let entries = run
            .entries
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(())
    }
}

/// Writes a run and returns when it is on disk under its name. `parts` stand in order of topic
/// and queue, `entries` in the same order.
pub(crate) fn write(
    path: &Path,
    stretch: Stretch,
    parts: &[Part],
    entries: &mut dyn Iterator<Item = Result<Entry, ReadError>>,
) -> Result<(), ReadError> {
    let tmp = fs::tmp_of(path);
    let file = fs::open_new(&tmp)?;
    let mut out = Appender::new(&file);
    let directory = write_directory(parts);
    out.write_all(&[0; HEADER_BYTES])?;
    out.write_all(&directory)?;
    let mut crc = crc32fast::Hasher::new();
    let mut page = Vec::with_capacity(PAGE_BYTES as usize);
    let mut count = 0;
    loop {
        let entry = entries.next().transpose()?;
        if let Some(entry) = entry {
            page.extend_from_slice(&entry.position.to_be_bytes());
            page.extend_from_slice(&entry.size.to_be_bytes());
            page.extend_from_slice(&entry.tags.to_be_bytes());
            count += 1;
        }
        let full = page.len() == PAGE_ENTRIES as usize * ENTRY_BYTES;
        if full || entry.is_none() && !page.is_empty() {
            page.extend_from_slice(&crc32fast::hash(&page).to_be_bytes());
            crc.update(&page);
            out.write_all(&page)?;
            page.clear();
        }
        if entry.is_none() {
            break;
        }
    }
    out.flush()?;
    drop(out);
    let offset = HEADER_BYTES as u64;
    let len = directory.len() as u64;
    let sections = [
        Section {
            kind: KIND_DIRECTORY,
            offset,
            len,
            crc: crc32fast::hash(&directory),
        },
        Section {
            kind: KIND_ENTRIES,
            offset: offset + len,
            len: entries_bytes(count),
            crc: crc.finalize(),
        },
    ];
    file.write_all_at(&write_header(stretch, &sections), 0)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    path.parent().map_or(Ok(()), fs::sync_dir)?;
    Ok(())
}

/// Writes the run of `[start, end)` from the log's own records.
pub(crate) fn rebuild(
    segments: &Segments,
    path: &Path,
    start: u64,
    end: u64,
) -> Result<(), OpenError> {
    let mut queues: BTreeMap<(Arc<str>, i32), (Part, Vec<Entry>)> = BTreeMap::new();
    let mut last_ms = 0;
    let scanned = scan(segments, start, end, &mut |record, size| {
        last_ms = record.store_ms.max(last_ms);
        if !takes_queue_offset(record.sys_flag) {
            return Ok(());
        }
        let topic: Arc<str> = record.topic.into();
        let (part, entries) = queues
            .entry((Arc::clone(&topic), record.queue))
            .or_insert_with(|| {
                let (first, min_ms, max_ms) = (record.queue_offset, record.store_ms, i64::MIN);
                let queue = record.queue;
                (
                    Part {
                        topic,
                        queue,
                        first,
                        count: 0,
                        entry: 0,
                        min_ms,
                        max_ms,
                    },
                    Vec::new(),
                )
            });
        if record.queue_offset != part.first + i64::from(part.count) {
            return Err(format!(
                "queue offset {} is out of order",
                record.queue_offset
            ));
        }
        part.count += 1;
        part.max_ms = record.store_ms;
        entries.push(entry_of(record, size));
        Ok(())
    })?;
    if let Some(reason) = scanned.bad {
        return Err(OpenError::Corrupt {
            position: scanned.end,
            reason,
        });
    }
    let (mut parts, lists): (Vec<_>, Vec<_>) = queues.into_values().unzip();
    let mut entry = 0;
    for part in &mut parts {
        part.entry = entry;
        entry += u64::from(part.count);
    }
    let stretch = Stretch {
        start,
        end,
        last_ms,
    };
    write(
        path,
        stretch,
        &parts,
        &mut lists.into_iter().flatten().map(Ok),
    )?;
    Ok(())
}

/// The index entry of a record.
pub(crate) fn entry_of(record: &Record<'_>, size: u32) -> Entry {
    let tags = properties::tags_code(record.property(properties::TAGS));
    Entry {
        position: record.position,
        size,
        tags,
    }
}

#[derive(Debug, Clone, Copy)]
struct Section {
    kind: u16,
    offset: u64,
    len: u64,
    crc: u32,
}

fn entries_bytes(count: u64) -> u64 {
    count * ENTRY_BYTES as u64 + count.div_ceil(PAGE_ENTRIES) * 4
}

fn write_header(stretch: Stretch, sections: &[Section]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&(sections.len() as u16).to_be_bytes());
    out.extend_from_slice(&stretch.start.to_be_bytes());
    out.extend_from_slice(&stretch.end.to_be_bytes());
    out.extend_from_slice(&stretch.last_ms.to_be_bytes());
    for section in sections {
        out.extend_from_slice(&section.kind.to_be_bytes());
        out.extend_from_slice(&section.offset.to_be_bytes());
        out.extend_from_slice(&section.len.to_be_bytes());
        out.extend_from_slice(&section.crc.to_be_bytes());
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

fn read_header(bytes: &[u8]) -> Option<(Stretch, Vec<Section>)> {
    let mut fields = Fields(bytes);
    if fields.array()? != MAGIC || fields.u16()? != VERSION {
        return None;
    }
    let count = fields.u16()?;
    if count > SECTIONS_MAX {
        return None;
    }
    let (start, end, last_ms) = (fields.u64()?, fields.u64()?, fields.i64()?);
    let mut sections = Vec::new();
    for _ in 0..count {
        sections.push(Section {
            kind: fields.u16()?,
            offset: fields.u64()?,
            len: fields.u64()?,
            crc: fields.u32()?,
        });
    }
    let covered = bytes.get(..bytes.len() - fields.0.len())?;
    if fields.u32()? != crc32fast::hash(covered) {
        return None;
    }
    Some((
        Stretch {
            start,
            end,
            last_ms,
        },
        sections,
    ))
}

fn write_directory(parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(parts.len() as u32).to_be_bytes());
    for part in parts {
        envelope::put_text(&mut out, &part.topic);
        out.extend_from_slice(&part.queue.to_be_bytes());
        out.extend_from_slice(&part.first.to_be_bytes());
        out.extend_from_slice(&part.count.to_be_bytes());
        out.extend_from_slice(&part.entry.to_be_bytes());
        out.extend_from_slice(&part.min_ms.to_be_bytes());
        out.extend_from_slice(&part.max_ms.to_be_bytes());
    }
    out
}

fn read_directory(bytes: &[u8]) -> Option<Vec<Part>> {
    let mut fields = Fields(bytes);
    let count = fields.u32()?;
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(Part {
            topic: fields.text()?.into(),
            queue: fields.i32()?,
            first: fields.i64()?,
            count: fields.u32()?,
            entry: fields.u64()?,
            min_ms: fields.i64()?,
            max_ms: fields.i64()?,
        });
    }
    fields.0.is_empty().then_some(parts)
}

fn read_entry(cell: &[u8]) -> Option<Entry> {
    let mut fields = Fields(cell);
    Some(Entry {
        position: fields.u64()?,
        size: fields.u32()?,
        tags: fields.i64()?,
    })
}
