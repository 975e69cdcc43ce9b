//! The directory as the Java broker wants it: an offline step.
//!
//! The commit log already is Java's. Written here are the consume queues, the key index,
//! `checkpoint` and the configuration; what an earlier Java broker
//! derived from another state of the log is removed. `gantry/exported` remembers how it was left,
//! so that this store refuses to go on once a Java broker has used it.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod keys;
mod queues;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::exported::{self, Exported, Hidden};
use crate::fs::{self, DirLock, Wait};
use crate::identity::Identity;
use crate::index::Queue;
use crate::open::Inner;
use crate::recover::recover;
use crate::{OpenError, Options, ReadError, configs};

const CHECKPOINT_BYTES: u64 = 4096;
/// Derived by a Java broker, from a log that was not this one.
const STALE: [&str; 4] = [
    "consumequeue",
    "consumequeue_ext",
    "batchconsumequeue",
    "index",
];

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
/// of those under `config/`, `delays_ms` what a delay level means, the first being level 1.
pub fn export(
    dir: &Path,
    files: &[(String, String)],
    delays_ms: &[i64],
) -> Result<Report, ExportError> {
    for (name, _) in files {
        check_name(name)?;
    }
    if !dir.join("gantry").is_dir() {
        return Err(ExportError::NoStore(dir.to_owned()));
    }
    let lock = DirLock::acquire(dir)?.ok_or_else(|| OpenError::Locked(dir.to_owned()))?;
    crate::adopt::check_whole(dir)?;
    let identity = Identity::load(dir)?.ok_or_else(|| ExportError::NoStore(dir.to_owned()))?;
    check_untouched(dir, identity.segment_bytes)?;
    let recovered = recover(dir, &identity)?;
    // Nothing is appended, so host and clock are never asked.
    let host = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let options = Options::new(&identity.cluster, &identity.broker, host, || 0);
    let inner = Inner::new(dir, identity, &options, recovered, lock);

    for stale in STALE {
        fs::remove_tree(&dir.join(stale))?;
    }
    let log_end = inner.progress.confirm.load(Ordering::Acquire);
    let mut report = Report {
        log_start: inner.segments.start(),
        log_end,
        segment_bytes: inner.segments.segment_bytes,
        ..Report::default()
    };
    let mut hidden = Vec::new();
    for queue in inner.index.queues() {
        check_name(&queue.topic)?;
        let messages = queues::write(&inner, &queue, delays_ms)?;
        report.queues += usize::from(messages > 0);
        report.messages += messages;
        hidden.extend(hidden_of(&inner, &queue, log_end)?);
    }
    keys::write(
        &dir.join("index"),
        &inner.segments,
        log_end,
        keys::Size::JAVA,
    )?;
    configs::write(dir, files)?;
    let checkpoint = checkpoint(inner.progress.last_ms.load(Ordering::Relaxed), log_end);
    fs::write_atomic(&dir.join("checkpoint"), &checkpoint)?;
    exported::write(dir, log_end, files, &hidden)?;
    rustix::fs::syncfs(File::open(dir)?).map_err(io::Error::from)?;
    // Last, since it takes `abort` away and lets go of the lock.
    inner.finish()?;
    Ok(report)
}

/// Refuses an exported store that another broker has used since.
pub(crate) fn check_untouched(dir: &Path, segment_bytes: u64) -> Result<(), OpenError> {
    match exported::look(dir, segment_bytes)? {
        Exported::Changed(what) => Err(OpenError::WrittenElsewhere { what }),
        Exported::Unchanged => Ok(exported::remove(dir)?),
        Exported::Not => Ok(()),
    }
}

/// The queue, if the log holds messages of it that are not shown.
fn hidden_of(inner: &Inner, queue: &Queue, log_end: u64) -> Result<Option<Hidden>, ReadError> {
    let range = queue.range();
    if queue.first_kept() >= range.min {
        return Ok(None);
    }
    let first = inner.entries(queue, range.min, 1, Wait::ForDisk)?;
    Ok(Some(Hidden {
        topic: queue.topic.to_string(),
        queue: queue.id,
        begin: first.first().map_or(log_end, |entry| entry.position),
        next: range.max,
    }))
}

/// Store times of the log, the queues and the key index, then the log's end twice.
fn checkpoint(last_ms: i64, log_end: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHECKPOINT_BYTES as usize);
    for value in [last_ms, last_ms, last_ms, log_end as i64, log_end as i64] {
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
