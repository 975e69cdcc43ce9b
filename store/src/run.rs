//! An index run: the queue entries and keys of one stretch of the log, written once and never
//! changed.
//!
//! `gantry/index/<start>.run`, and `<start>.index` for a whole sealed segment. A header with the
//! stretch and a table of sections {kind, offset, length, CRC}; section 1 is the directory (per
//! queue: name, first offset, count, first entry, times), section 2 the entries {position u64,
//! size u32, tags i64}, section 3 the keys {hash u32, position within the stretch u32} in order,
//! both in pages. Unknown sections are skipped. The directory is read at open, all else a page at
//! a time. Layout: docs/spec/store.md.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use protocol::properties;
use protocol::record::Record;

use crate::envelope::{self, Fields};
use crate::fs::{self, Appender, MappedFile, Wait};
use crate::keys::{self, Key};
use crate::page::{PageWriter, Pages};
use crate::scan::scan;
use crate::segment::Segments;
use crate::{OpenError, ReadError, dispatch};

const MAGIC: [u8; 8] = *b"GANTRYRN";
const VERSION: u16 = 1;
const KIND_DIRECTORY: u16 = 1;
const KIND_ENTRIES: u16 = 2;
const KIND_KEYS: u16 = 3;
const HEADER_BYTES: usize = 106;
const SECTIONS_MAX: u16 = 64;
const ENTRY_BYTES: usize = 20;
const KEY_BYTES: usize = 8;

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

impl Part {
    /// One that has no entry yet.
    fn new(topic: Arc<str>, queue: i32, first: i64, min_ms: i64) -> Self {
        Self {
            topic,
            queue,
            first,
            count: 0,
            entry: 0,
            min_ms,
            max_ms: min_ms,
        }
    }
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
    content: RwLock<Content>,
}

#[derive(Debug, Clone)]
struct Content {
    file: Arc<MappedFile>,
    entries: Pages,
    /// `None` in a run of a version without keys.
    keys: Option<Pages>,
}

impl Run {
    /// Opens a run; `Ok(None)` if the file is not intact.
    pub(crate) fn open(path: &Path) -> io::Result<Option<(Self, Vec<Part>)>> {
        let Some((run, directory)) = Self::open_pages(path)? else {
            return Ok(None);
        };
        let Content { file, entries, .. } = run.content();
        let mut bytes = vec![0; directory.len as usize];
        file.read_exact_at(&mut bytes, directory.offset, Wait::ForDisk)?;
        let intact = crc32fast::hash(&bytes) == directory.crc;
        let Some(parts) = Some(bytes)
            .filter(|_| intact)
            .and_then(|b| read_directory(&b))
        else {
            return Ok(None);
        };
        let count = parts.iter().map(|part| u64::from(part.count)).sum::<u64>();
        Ok((entries.count == count).then_some((run, parts)))
    }

    /// Opens a run that has just been written, of which nobody asks for the directory.
    pub(crate) fn reopen(path: &Path) -> Result<Arc<Self>, ReadError> {
        let (run, _) = Self::open_pages(path)?.ok_or(ReadError::IndexDamaged)?;
        Ok(Arc::new(run))
    }

    fn open_pages(path: &Path) -> io::Result<Option<(Self, Section)>> {
        let file = fs::open_read(path)?;
        let len = file.len()?;
        let mut head = vec![0; len.min(4096) as usize];
        file.read_exact_at(&mut head, 0)?;
        let Some((stretch, sections)) = read_header(&head) else {
            return Ok(None);
        };
        let inside = |s: &Section| s.offset.checked_add(s.len).is_some_and(|end| end <= len);
        if !sections.iter().all(inside) {
            return Ok(None);
        }
        let find = |kind| sections.iter().find(|section| section.kind == kind);
        let pages = |kind, bytes| find(kind).map(|s| Pages::new(s.offset, s.len, bytes));
        let (Some(directory), Some(Some(entries)), keys) = (
            find(KIND_DIRECTORY),
            pages(KIND_ENTRIES, ENTRY_BYTES as u64),
            pages(KIND_KEYS, KEY_BYTES as u64),
        ) else {
            return Ok(None);
        };
        if keys == Some(None) {
            return Ok(None);
        }
        let content = Content {
            file: Arc::new(MappedFile::new(file)),
            entries,
            keys: keys.flatten(),
        };
        let run = Self {
            path: path.to_owned(),
            stretch,
            content: RwLock::new(content),
        };
        Ok(Some((run, *directory)))
    }

    /// Up to `count` entries from number `first` on; `Damaged` if a page is not intact.
    pub(crate) fn read(&self, first: u64, count: u64, wait: Wait) -> Result<Vec<Entry>, ReadError> {
        let Content { file, entries, .. } = self.content();
        let cells = entries.read(&file, first, first.saturating_add(count), wait)?;
        let (cells, _) = cells.as_chunks();
        Ok(cells.iter().map(read_entry).collect())
    }

    pub(crate) fn has_keys(&self) -> bool {
        self.content().keys.is_some()
    }

    /// The numbers of the keys with this hash of records below `position`.
    pub(crate) fn keys_of(&self, hash: u32, position: u64) -> Result<ops::Range<u64>, ReadError> {
        let first = Key { hash, position: 0 };
        let end = Key { hash, position };
        Ok(self.first_key(first)?..self.first_key(end)?)
    }

    /// Where the record of a key lies.
    pub(crate) fn key(&self, number: u64) -> Result<u64, ReadError> {
        let keys = self.some_keys(number, number.saturating_add(1))?;
        let key = keys.first().ok_or(ReadError::IndexDamaged)?;
        Ok(key.position)
    }

    /// All keys in order, read page by page.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Result<Key, ReadError>> {
        let pages = self.content().keys;
        let (count, step) = pages.map_or((0, 1), |pages| (pages.count, pages.per_page()));
        (0..count).step_by(step as usize).flat_map(move |first| {
            let (keys, error) = match self.some_keys(first, first + step) {
                Ok(keys) => (keys, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            keys.into_iter().map(Ok).chain(error)
        })
    }

    /// The number of the first key that is not less than `wanted`.
    fn first_key(&self, wanted: Key) -> Result<u64, ReadError> {
        let Some(pages) = self.content().keys else {
            return Ok(0);
        };
        let (mut low, mut high) = (0, pages.count.div_ceil(pages.per_page()));
        // Hashes are spread evenly, so a page near this one is the right one.
        let mut guess = (u64::from(wanted.hash) * high) >> 32;
        let mut step = 1;
        while low < high {
            if !(low..high).contains(&guess) {
                guess = low + (high - low) / 2;
            }
            let first = guess * pages.per_page();
            let keys = self.some_keys(first, first + pages.per_page())?;
            let (Some(least), Some(greatest)) = (keys.first(), keys.last()) else {
                return Err(ReadError::IndexDamaged);
            };
            if *greatest < wanted {
                low = guess + 1;
                guess += step;
            } else if *least < wanted {
                return Ok(first + keys.partition_point(|key| *key < wanted) as u64);
            } else {
                high = guess;
                guess = guess.saturating_sub(step);
            }
            step *= 2;
        }
        Ok((low * pages.per_page()).min(pages.count))
    }

    fn some_keys(&self, first: u64, end: u64) -> Result<Vec<Key>, ReadError> {
        let Content { file, keys, .. } = self.content();
        let pages = keys.ok_or(ReadError::IndexDamaged)?;
        let cells = pages.read(&file, first, end, Wait::ForDisk)?;
        let read = |cell| read_key(cell, self.stretch.start).ok_or(ReadError::IndexDamaged);
        cells.chunks_exact(KEY_BYTES).map(read).collect()
    }

    fn content(&self) -> Content {
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        content.clone()
    }

    /// Writes the file anew from the log, with the same content, and reads from that.
    pub(crate) fn rebuild(&self, segments: &Segments) -> Result<(), OpenError> {
        rebuild(segments, &self.path, self.stretch.start, self.stretch.end)?;
        let intact = Self::open(&self.path)?;
        let (run, _) = intact.ok_or_else(|| OpenError::Damaged(self.path.display().to_string()))?;
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = run.content();
        Ok(())
    }
}

/// Writes a run and returns when it is on disk under its name. `parts` stand in order of topic
/// and queue, `entries` in the same order; a key that comes twice in a row is written once.
pub(crate) fn write(
    path: &Path,
    stretch: Stretch,
    parts: &[Part],
    entries: &mut dyn Iterator<Item = Result<Entry, ReadError>>,
    keys: &mut dyn Iterator<Item = Result<Key, ReadError>>,
) -> Result<(), ReadError> {
    let tmp = fs::tmp_of(path);
    let file = fs::open_new(&tmp)?;
    let mut out = Appender::new(&file);
    let directory = write_directory(parts);
    out.write_all(&[0; HEADER_BYTES])?;
    out.write_all(&directory)?;
    let mut pages = PageWriter::new();
    for entry in entries {
        let entry = entry?;
        let (position, size) = (entry.position.to_be_bytes(), entry.size.to_be_bytes());
        pages.push(&mut out, &[&position, &size, &entry.tags.to_be_bytes()])?;
    }
    let (entries_len, entries_crc) = pages.finish(&mut out)?;
    let mut pages = PageWriter::new();
    let mut before = None;
    for key in keys {
        let key = key?;
        if before.replace(key) == Some(key) {
            continue;
        }
        let within = (key.position - stretch.start) as u32;
        pages.push(&mut out, &[&key.hash.to_be_bytes(), &within.to_be_bytes()])?;
    }
    let (keys_len, keys_crc) = pages.finish(&mut out)?;
    out.flush()?;
    drop(out);
    let crc = crc32fast::hash(&directory);
    let mut offset = HEADER_BYTES as u64;
    let sections = [
        (KIND_DIRECTORY, directory.len() as u64, crc),
        (KIND_ENTRIES, entries_len, entries_crc),
        (KIND_KEYS, keys_len, keys_crc),
    ]
    .map(|(kind, len, crc)| {
        let section = Section {
            kind,
            offset,
            len,
            crc,
        };
        offset += len;
        section
    });
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
    let mut found = Vec::new();
    let mut last_ms = 0;
    let scanned = scan(segments, start, end, &mut |record, size| {
        last_ms = record.store_ms.max(last_ms);
        found.extend(keys_of(record));
        for (topic, queue, offset) in dispatch::places(record)? {
            let place = queues.entry((topic.into(), queue));
            let (part, entries) = place.or_insert_with_key(|(topic, queue)| {
                let topic = Arc::clone(topic);
                (
                    Part::new(topic, *queue, offset, record.store_ms),
                    Vec::new(),
                )
            });
            if offset != part.first + i64::from(part.count) {
                return Err(format!("queue offset {offset} is out of order"));
            }
            part.count += 1;
            part.max_ms = record.store_ms;
            entries.push(entry_of(record, size));
        }
        Ok(())
    })?;
    if let Some(reason) = scanned.bad {
        return Err(OpenError::Corrupt {
            position: scanned.end,
            reason,
        });
    }
    found.sort_unstable();
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
        &mut found.into_iter().map(Ok),
    )?;
    Ok(())
}

/// The keys of a record.
pub(crate) fn keys_of(record: &Record<'_>) -> impl Iterator<Item = Key> + use<> {
    let position = record.position;
    let hashes = keys::hashes(record.topic, record.sys_flag, record.properties);
    hashes.into_iter().map(move |hash| Key { hash, position })
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

fn read_entry(cell: &[u8; ENTRY_BYTES]) -> Entry {
    let [p0, p1, p2, p3, p4, p5, p6, p7, s0, s1, s2, s3, tags @ ..] = *cell;
    Entry {
        position: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
        size: u32::from_be_bytes([s0, s1, s2, s3]),
        tags: i64::from_be_bytes(tags),
    }
}

fn read_key(cell: &[u8], start: u64) -> Option<Key> {
    let mut fields = Fields(cell);
    Some(Key {
        hash: fields.u32()?,
        position: start + u64::from(fields.u32()?),
    })
}
