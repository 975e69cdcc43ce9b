//! The directory as the Java broker wants it: an offline step.
//!
//! The commit log already is Java's. Written here are the consume queues (units of 20 bytes, in
//! files of exactly 300,000), `checkpoint` and the configuration; what an earlier Java broker
//! derived from another state of the log is removed. `gantry/exported` remembers the log's end,
//! so that this store refuses to go on once another broker has written behind it.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::fs::{self, DirLock, Wait};
use crate::identity::Identity;
use crate::index::Queue;
use crate::open::Inner;
use crate::recover::recover;
use crate::run::Entry;
use crate::{OpenError, Options, ReadError, configs, envelope, segment};

const UNIT_BYTES: u64 = 20;
const FILE_UNITS: i64 = 300_000;
const FILE_BYTES: u64 = FILE_UNITS as u64 * UNIT_BYTES;
const CHECKPOINT_BYTES: u64 = 4096;
const READ_ENTRIES: usize = 4096;
/// Fills a queue's first file up to the queue's first offset.
const PLACEHOLDER: Entry = Entry {
    position: 0,
    size: i32::MAX as u32,
    tags: 0,
};
/// Derived by a Java broker, from a log that was not this one.
const STALE: [&str; 4] = [
    "consumequeue",
    "consumequeue_ext",
    "batchconsumequeue",
    "index",
];
const MARKER: &str = "gantry/exported";
const MARKER_MAGIC: [u8; 8] = *b"GANTRYEX";
const MARKER_VERSION: u16 = 1;

/// What was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    pub queues: usize,
    pub messages: u64,
    pub log_start: u64,
    pub log_end: u64,
    /// What Java must be told: `mappedFileSizeCommitLog`.
    pub segment_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} holds no Gantry store", .0.display())]
    NoStore(PathBuf),
    #[error("{0:?} is no file name")]
    Name(String),
}

/// Makes `dir` one that a Java broker opens with every message. `files` are names and contents
/// of those under `config/`.
pub fn export(dir: &Path, files: &[(String, String)]) -> Result<Report, ExportError> {
    for (name, _) in files {
        check_name(name)?;
    }
    if !dir.join("gantry").is_dir() {
        return Err(ExportError::NoStore(dir.to_owned()));
    }
    let lock = DirLock::acquire(dir)?.ok_or_else(|| OpenError::Locked(dir.to_owned()))?;
    let identity = Identity::load(dir)?.ok_or_else(|| ExportError::NoStore(dir.to_owned()))?;
    check_untouched(dir, identity.segment_bytes)?;
    let recovered = recover(dir, &identity)?;
    // Nothing is appended, so host and clock are never asked.
    let host = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let options = Options::new(&identity.cluster, &identity.broker, host, || 0);
    let inner = Inner::new(dir, identity, &options, recovered, lock);

    for stale in STALE {
        match std::fs::remove_dir_all(dir.join(stale)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let log_end = inner.progress.confirm.load(Ordering::Acquire);
    let mut report = Report {
        log_start: inner.segments.start(),
        log_end,
        segment_bytes: inner.segments.segment_bytes,
        ..Report::default()
    };
    for queue in inner.index.queues() {
        let messages = export_queue(&inner, &queue)?;
        report.queues += usize::from(messages > 0);
        report.messages += messages;
    }
    configs::write(dir, files)?;
    let checkpoint = checkpoint(inner.progress.last_ms.load(Ordering::Relaxed), log_end);
    fs::write_atomic(&dir.join("checkpoint"), &checkpoint)?;
    let marker = envelope::seal(MARKER_MAGIC, MARKER_VERSION, &log_end.to_be_bytes());
    fs::write_atomic(&dir.join(MARKER), &marker)?;
    rustix::fs::syncfs(File::open(dir)?).map_err(io::Error::from)?;
    // Last, since it takes `abort` away and lets go of the lock.
    inner.finish()?;
    Ok(report)
}

/// Refuses an exported store behind whose end another broker has written.
pub(crate) fn check_untouched(dir: &Path, segment_bytes: u64) -> Result<(), OpenError> {
    let Some(bytes) = fs::read_if_exists(&dir.join(MARKER))? else {
        return Ok(());
    };
    let end = envelope::open(MARKER_MAGIC, MARKER_VERSION, &bytes)
        .ok()
        .and_then(|mut fields| fields.u64())
        .ok_or_else(|| OpenError::Damaged(MARKER.into()))?;
    let start = end - end % segment_bytes;
    let written = match fs::open_read(&segment::path_of(dir, start)) {
        Ok(file) => {
            let mut next = [0; 8];
            fs::read_exact_at(&file, &mut next, end - start, Wait::ForDisk)?;
            next != [0; 8]
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    if written {
        return Err(OpenError::WrittenElsewhere { position: end });
    }
    fs::remove_if_exists(&dir.join(MARKER))?;
    Ok(())
}

/// Writes the files of one queue; returns its number of messages.
fn export_queue(inner: &Inner, queue: &Arc<Queue>) -> Result<u64, ExportError> {
    let range = queue.range();
    if range.max <= range.min {
        return Ok(0);
    }
    check_name(&queue.topic)?;
    let dir = inner
        .dir
        .join(format!("consumequeue/{}/{}", queue.topic, queue.id));
    std::fs::create_dir_all(&dir)?;
    let mut next = range.min;
    while next < range.max {
        let first = next - next % FILE_UNITS;
        let path = dir.join(format!("{:020}", first as u64 * UNIT_BYTES));
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.set_len(FILE_BYTES)?;
        let mut out = BufWriter::with_capacity(1 << 16, file);
        for _ in first..next {
            write_unit(&mut out, PLACEHOLDER)?;
        }
        let file_end = (first + FILE_UNITS).min(range.max);
        while next < file_end {
            let count = ((file_end - next) as usize).min(READ_ENTRIES);
            let entries = inner.entries(queue, next, count, Wait::ForDisk)?;
            if entries.is_empty() {
                return Err(ReadError::IndexDamaged.into());
            }
            for entry in &entries {
                write_unit(&mut out, *entry)?;
            }
            next += entries.len() as i64;
        }
        // Where the file goes on it is a hole: zeros, as Java makes it.
        out.flush()?;
    }
    Ok((range.max - range.min) as u64)
}

fn write_unit(out: &mut impl Write, entry: Entry) -> io::Result<()> {
    out.write_all(&entry.position.to_be_bytes())?;
    out.write_all(&entry.size.to_be_bytes())?;
    out.write_all(&entry.tags.to_be_bytes())
}

/// Store times of the log, the queues and the key index, then the log's end twice. No key is
/// indexed, which 0 says.
fn checkpoint(last_ms: i64, log_end: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHECKPOINT_BYTES as usize);
    for value in [last_ms, last_ms, 0, log_end as i64, log_end as i64] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.resize(CHECKPOINT_BYTES as usize, 0);
    out
}

fn check_name(name: &str) -> Result<(), ExportError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(ExportError::Name(name.into()));
    }
    Ok(())
}
