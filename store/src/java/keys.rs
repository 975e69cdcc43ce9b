//! Java's key index: files of 5,000,000 hash slots and 20,000,000 entries, mostly holes.
//!
//! Header of 40 bytes {first and last store time i64, first and last position i64, used slots
//! i32, next entry i32}; a slot is the number of its newest entry; an entry is {hash i32, position
//! i64, seconds after the first store time i32, number of the slot's entry before it i32}. Entry
//! 0 is not used. Java never indexes a message that it finds in a log, so all are written here.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::properties;
use protocol::record::Record;

use super::ExportError;
use crate::OpenError;
use crate::fs;
use crate::scan::scan;
use crate::segment::Segments;

const HEADER_BYTES: u64 = 40;
const SLOT_BYTES: u64 = 4;
const ENTRY_BYTES: u64 = 20;
const TRANSACTION_MASK: i32 = 3 << 2;

/// How large a file is; Java knows one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    slots: u32,
    /// With entry 0.
    entries: u32,
}

impl Size {
    pub(super) const JAVA: Self = Self {
        slots: 5_000_000,
        entries: 20_000_000,
    };
}

/// Writes the files for all keys of the log.
pub(super) fn write(
    dir: &Path,
    segments: &Segments,
    log_end: u64,
    size: Size,
) -> Result<(), ExportError> {
    fs::create_dir_all(dir)?;
    let mut files = Files {
        dir: dir.to_owned(),
        size,
        made: 0,
        open: None,
    };
    let mut failed = None;
    let scanned = scan(segments, segments.start(), log_end, &mut |record, _| {
        if record.sys_flag & TRANSACTION_MASK == TRANSACTION_MASK {
            return Ok(());
        }
        files.add_all(record).map_err(|error| {
            let reason = error.to_string();
            failed = Some(error);
            reason
        })
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if let Some(reason) = scanned.bad {
        let position = scanned.end;
        return Err(OpenError::Corrupt { position, reason }.into());
    }
    Ok(files.finish()?)
}

struct Files {
    dir: PathBuf,
    size: Size,
    made: u32,
    open: Option<Open>,
}

/// The file that is being filled.
struct Open {
    out: BufWriter<File>,
    slots: Vec<u32>,
    next: u32,
    begin: (i64, u64),
    end: (i64, u64),
}

impl Files {
    fn add_all(&mut self, record: &Record<'_>) -> io::Result<()> {
        let ids = record.property(properties::UNIQ_KEY).into_iter();
        let keys = record.property(properties::KEYS).unwrap_or_default();
        for key in ids.chain(keys.split(' ').filter(|key| !key.is_empty())) {
            self.add(record, key)?;
        }
        Ok(())
    }

    fn add(&mut self, record: &Record<'_>, key: &str) -> io::Result<()> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.next >= self.size.entries)
        {
            self.finish()?;
        }
        if self.open.is_none() {
            self.made += 1;
            let path = self.dir.join(format!("{:017}", self.made));
            self.open = Some(Open::create(&path, self.size, record)?);
        }
        let open = self.open.as_mut();
        open.map_or(Ok(()), |open| open.add(record, key))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), Open::finish)
    }
}

impl Open {
    fn create(path: &Path, size: Size, record: &Record<'_>) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let entries = HEADER_BYTES + u64::from(size.slots) * SLOT_BYTES;
        file.set_len(entries + u64::from(size.entries) * ENTRY_BYTES)?;
        file.seek(SeekFrom::Start(entries + ENTRY_BYTES))?;
        let first = (record.store_ms, record.position);
        Ok(Self {
            out: BufWriter::with_capacity(1 << 18, file),
            slots: vec![0; size.slots as usize],
            next: 1,
            begin: first,
            end: first,
        })
    }

    fn add(&mut self, record: &Record<'_>, key: &str) -> io::Result<()> {
        let hash = hash_of(record.topic, key);
        let slot = hash as usize % self.slots.len();
        let seconds = (record.store_ms - self.begin.0) / 1000;
        let before = self
            .slots
            .get_mut(slot)
            .map(|slot| std::mem::replace(slot, self.next));
        self.out.write_all(&hash.to_be_bytes())?;
        self.out.write_all(&record.position.to_be_bytes())?;
        self.out
            .write_all(&(seconds.clamp(0, i64::from(i32::MAX)) as i32).to_be_bytes())?;
        self.out.write_all(&before.unwrap_or(0).to_be_bytes())?;
        self.next += 1;
        self.end = (record.store_ms, record.position);
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        let file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let used = self.slots.iter().filter(|slot| **slot != 0).count();
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend_from_slice(&self.begin.0.to_be_bytes());
        header.extend_from_slice(&self.end.0.to_be_bytes());
        header.extend_from_slice(&self.begin.1.to_be_bytes());
        header.extend_from_slice(&self.end.1.to_be_bytes());
        header.extend_from_slice(&(used as u32).to_be_bytes());
        header.extend_from_slice(&self.next.to_be_bytes());
        file.write_all_at(&header, 0)?;
        // Slots that are zero stay holes.
        const PAGE_SLOTS: usize = 1024;
        for (page, slots) in self.slots.chunks(PAGE_SLOTS).enumerate() {
            if slots.iter().any(|slot| *slot != 0) {
                let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.to_be_bytes()).collect();
                let at = HEADER_BYTES + (page * PAGE_SLOTS) as u64 * SLOT_BYTES;
                file.write_all_at(&bytes, at)?;
            }
        }
        Ok(())
    }
}

/// Java's hash of `topic#key`, made positive its way.
fn hash_of(topic: &str, key: &str) -> i32 {
    let hash = properties::java_hash(&format!("{topic}#{key}"));
    hash.checked_abs().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        assert_eq!(hash_of("TopicTest", "k1"), 2_746_024);
        let id = "0A00000100002A139A9E6D2B0A1C0000";
        assert_eq!(hash_of("TopicTest", id), 661_058_170);
    }
}
