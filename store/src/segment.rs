//! The commit log's files: `commitlog/<start as 20 digits>`, all of one length, without a gap.
//!
//! A file appears under its name only when it has its full length, so that a wrong length is
//! damage and never a half-done creation. The last file may be one that nothing was written to
//! yet: it is made ahead of time, so that an append does not wait for its allocation.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use protocol::record::{self, Record};

use crate::adopted::Adopted;
use crate::fs::{self, File, Mapping, Wait};
use crate::{OpenError, ReadError, dispatch};

/// Room for one more log file, for state records alone, when the disk is full.
const RESERVE: &str = "gantry/reserve";
/// Room for the small files that every open writes.
const SPARE: &str = "gantry/spare";
const SPARE_BYTES: u64 = 32 << 10;
const REWRITE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) file: File,
    mapping: Option<Mapping>,
}

impl Segment {
    fn new(start: u64, file: File) -> Self {
        let mapping = Mapping::new(&file);
        Self {
            start,
            file,
            mapping,
        }
    }

    /// A copy from the mapping only where the reader may wait: a missing page stops its thread.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], at: u64, wait: Wait) -> io::Result<()> {
        match &self.mapping {
            Some(mapping) if wait == Wait::ForDisk && mapping.read(buf, at) => Ok(()),
            _ => fs::read_exact_at(&self.file, buf, at, wait),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) adopted: Adopted,
    list: RwLock<VecDeque<Arc<Segment>>>,
    creating: Mutex<()>,
}

impl Segments {
    /// Opens what is there and checks names and lengths.
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        adopted: Adopted,
    ) -> Result<Self, OpenError> {
        let mut starts = Vec::new();
        for (path, len) in fs::list(&dir.join("commitlog"))? {
            let name = path.file_name().unwrap_or_default();
            let start = name
                .to_str()
                .filter(|name| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|name| name.parse::<u64>().ok())
                .ok_or_else(|| OpenError::Layout(format!("{} is no log file", name.display())))?;
            if len != segment_bytes || start % segment_bytes != 0 {
                let text = format!("log file {start:020} is not {segment_bytes} bytes long");
                return Err(OpenError::Layout(text));
            }
            starts.push(start);
        }
        starts.sort_unstable();
        let mut list = VecDeque::new();
        let mut expected = starts.first().copied().unwrap_or(0);
        for start in starts {
            if start != expected {
                return Err(OpenError::Layout(format!(
                    "log file {expected:020} is missing"
                )));
            }
            let file = fs::open_rw(&path_of(dir, start))?;
            list.push_back(Arc::new(Segment::new(start, file)));
            expected = start + segment_bytes;
        }
        let list = RwLock::new(list);
        Ok(Self {
            dir: dir.to_owned(),
            segment_bytes,
            adopted,
            list,
            creating: Mutex::new(()),
        })
    }

    /// Where the first file starts.
    pub(crate) fn start(&self) -> u64 {
        self.list
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .front()
            .map_or(0, |s| s.start)
    }

    /// Where the last file ends.
    pub(crate) fn limit(&self) -> u64 {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.back()
            .map_or(0, |segment| segment.start + self.segment_bytes)
    }

    /// The file that holds `position`.
    pub(crate) fn at(&self, position: u64) -> Option<Arc<Segment>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let first = list.front()?.start;
        let index = position.checked_sub(first)? / self.segment_bytes;
        list.get(index as usize).cloned()
    }

    /// Start of the file after the one that holds `position`.
    pub(crate) fn next_start(&self, position: u64) -> u64 {
        (position / self.segment_bytes + 1) * self.segment_bytes
    }

    /// The file that starts at `start`, which is made if it is the next one.
    pub(crate) fn ensure(&self, start: u64) -> io::Result<Arc<Segment>> {
        let creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = self.at(start) {
            return Ok(segment);
        }
        let tmp = self.dir.join("gantry/segment.tmp");
        let file = fs::create_allocated(&tmp, self.segment_bytes)?;
        self.add(start, &tmp, file, &creating)
    }

    /// As `ensure`, and where there is no room the reserve becomes the file.
    pub(crate) fn ensure_reserved(&self, start: u64) -> io::Result<Arc<Segment>> {
        match self.ensure(start) {
            Err(error) if fs::is_full(&error) => {
                let creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
                let reserve = self.dir.join(RESERVE);
                let file = fs::open_rw(&reserve).map_err(|_| error)?;
                self.add(start, &reserve, file, &creating)
            }
            result => result,
        }
    }

    /// Makes what is not there of the reserves.
    pub(crate) fn fill_reserves(&self) -> io::Result<()> {
        let _creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, bytes) in [(SPARE, SPARE_BYTES), (RESERVE, self.segment_bytes)] {
            let reserve = self.dir.join(name);
            if !fs::exists(&reserve) {
                let tmp = fs::tmp_of(&reserve);
                fs::create_allocated(&tmp, bytes)?;
                fs::rename(&tmp, &reserve)?;
            }
        }
        Ok(())
    }

    fn add(
        &self,
        start: u64,
        made: &Path,
        file: File,
        _creating: &MutexGuard<'_, ()>,
    ) -> io::Result<Arc<Segment>> {
        fs::rename(made, &path_of(&self.dir, start))?;
        fs::sync_dir(&self.dir.join("commitlog"))?;
        let segment = Arc::new(Segment::new(start, file));
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.push_back(Arc::clone(&segment));
        Ok(segment)
    }

    /// Deletes every file that starts at or after `position`.
    pub(crate) fn delete_from(&self, position: u64) -> io::Result<()> {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        while let Some(last) = list.back().filter(|last| last.start >= position) {
            fs::remove_file(&path_of(&self.dir, last.start))?;
            list.pop_back();
        }
        drop(list);
        fs::sync_dir(&self.dir.join("commitlog"))
    }

    /// Writes `[from, to)` again as it is. After a sync that failed the kernel may show bytes that
    /// are not on disk and that no later sync would write.
    pub(crate) fn rewrite(&self, from: u64, to: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut at = from;
        while at < to {
            let Some(segment) = self.at(at) else {
                return Ok(());
            };
            let end = self.next_start(at).min(to).min(at + REWRITE_BYTES);
            bytes.resize((end - at) as usize, 0);
            let place = at - segment.start;
            segment.file.read_exact_at(&mut bytes, place)?;
            segment.file.write_all_at(&bytes, place)?;
            at = end;
        }
        self.sync(from, to)
    }

    /// Deletes every file that ends at or below `position`, the oldest first, so that there is
    /// never a gap.
    pub(crate) fn delete_below(&self, position: u64) -> io::Result<()> {
        while let Some(start) = self.first_below(position) {
            fs::remove_if_exists(&path_of(&self.dir, start))?;
            fs::sync_dir(&self.dir.join("commitlog"))?;
            let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
            list.pop_front();
        }
        Ok(())
    }

    fn first_below(&self, position: u64) -> Option<u64> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let start = list.front()?.start;
        (start + self.segment_bytes <= position).then_some(start)
    }

    /// Returns when `[from, to)` is on disk.
    pub(crate) fn sync(&self, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            if let Some(segment) = self.at(at) {
                segment.file.sync_data()?;
            }
            at = self.next_start(at);
        }
        Ok(())
    }

    /// One record, as `Records::record` reads it.
    pub(crate) fn record(
        &self,
        position: u64,
        size: u32,
        wait: Wait,
        expected: Option<Expected<'_>>,
    ) -> Result<Bytes, ReadError> {
        self.records(wait).record(position, size, expected)
    }

    pub(crate) fn records(&self, wait: Wait) -> Records<'_> {
        Records {
            segments: self,
            near: None,
            wait,
        }
    }
}

/// The queue and the offset at which a record should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) topic: &'a str,
    pub(crate) queue: i32,
    pub(crate) offset: i64,
}

impl Expected<'_> {
    fn is(&self, record: &Record<'_>) -> bool {
        let place = (self.topic, self.queue, self.offset);
        (record.topic, record.queue, record.queue_offset) == place
            || dispatch::places(record).is_ok_and(|places| places.contains(&place))
    }

    /// Of a record that was verified before, that it is this queue's own.
    fn is_at_head(&self, bytes: &[u8]) -> bool {
        record::size_queue_and_offset(bytes) == Some((bytes.len(), self.queue, self.offset))
    }
}

/// Reads records, each of which mostly lies in the file of the one before.
pub(crate) struct Records<'a> {
    segments: &'a Segments,
    near: Option<Arc<Segment>>,
    wait: Wait,
}

impl Records<'_> {
    /// Says that this record will be read soon.
    pub(crate) fn prefetch(&mut self, position: u64, size: u32) {
        if self.wait == Wait::Never
            && let Some((segment, at)) = self.place(position)
            && let Some(mapping) = &segment.mapping
        {
            mapping.prefetch(at, size as usize);
        }
    }

    /// The record of `size` bytes at `position`, verified, if it is the `expected` one: in place
    /// for a reader that must not wait, if it is in memory, else a copy.
    pub(crate) fn record(
        &mut self,
        position: u64,
        size: u32,
        expected: Option<Expected<'_>>,
    ) -> Result<Bytes, ReadError> {
        let (segments, wait) = (self.segments, self.wait);
        let corrupt = || ReadError::Corrupt { position };
        let gone = || position < segments.start();
        let missing = || gone().then_some(ReadError::Gone { position });
        let found = self.place(position);
        let (segment, at) = found.ok_or_else(|| missing().unwrap_or_else(corrupt))?;
        if at + u64::from(size) > segments.segment_bytes {
            return Err(corrupt());
        }
        let is_it = |bytes: &[u8]| {
            Record::decode(bytes).is_ok_and(|record| {
                let trusted = record.position == position && segments.adopted.trusts(&record);
                trusted && expected.is_none_or(|expected| expected.is(&record))
            })
        };
        if wait == Wait::Never
            && let Some(mapping) = &segment.mapping
            && let Some(bytes) = mapping.slice(at, size as usize)
        {
            if mapping.knows(at) && expected.is_some_and(|expected| expected.is_at_head(&bytes)) {
                return Ok(bytes);
            }
            if is_it(&bytes) && !mapping.is_damaged() {
                mapping.learn(at, size as usize);
                return Ok(bytes);
            }
        }
        let mut bytes = vec![0; size as usize];
        match segment.read_exact_at(&mut bytes, at, wait) {
            // The file has become shorter, or the disk cannot read the place.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                tracing::warn!(position, %error, "a record cannot be read");
                return Err(corrupt());
            }
            read => read?,
        }
        if is_it(&bytes) {
            Ok(Bytes::from(bytes))
        } else {
            Err(corrupt())
        }
    }

    /// The file that holds `position`, and where in it that is.
    fn place(&mut self, position: u64) -> Option<(&Segment, u64)> {
        let bytes = self.segments.segment_bytes;
        let holds =
            |segment: &Arc<Segment>| (segment.start..segment.start + bytes).contains(&position);
        if !self.near.as_ref().is_some_and(holds) {
            self.near = self.segments.at(position);
        }
        let segment = self.near.as_deref()?;
        Some((segment, position - segment.start))
    }
}

/// Gives all reserved room back. A name that a crash has left may be one of two of a log file.
pub(crate) fn free_reserves(dir: &Path) -> io::Result<()> {
    fs::remove_if_exists(&dir.join(RESERVE))?;
    fs::remove_if_exists(&dir.join(SPARE))
}

pub(crate) fn path_of(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("commitlog/{start:020}"))
}
