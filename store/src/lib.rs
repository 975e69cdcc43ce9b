//! The storage engine of Gantry: one commit log in Apache RocketMQ's record format, and a queue
//! index that is derived from it.
//!
//! The data path, top to bottom:
//! * `open`: lock, identity, recovery, a new epoch, threads; and the way back, `close`;
//! * `queue`: messages that wait for the writer, bounded;
//! * `dispatch`: one record in many queues;
//! * `log`: the writer's thread: offsets, one write a batch, sync, confirm, publish, answer;
//! * `segment`, `fs`: the log's files;
//! * `tail`: the newest bytes, in memory;
//! * `index`, `run`, `page`: which record is message n of a queue, in memory and on disk;
//! * `keys`: which records have a key, in memory; on disk in the runs too;
//! * `keep`: the threads that sync, write runs and make files ahead of time;
//! * `read`, `query`: messages by queue offset, time and position, and by key;
//! * `trim`: the log's start, which retention moves;
//! * `recover`, `scan`: the log's end after a crash;
//! * `base`: what records say whose files are deleted;
//! * `identity`, `checkpoint`, `envelope`: the small files;
//! * `state`: the records in which a broker keeps its own state;
//! * `configs`: the tables as JSON;
//! * `java`, `exported`: the directory as the Java broker wants it;
//! * `adopt`, `adopted`: a directory that a Java broker has written.
//!
//! No async runtime and no sockets: callers are called back on the writer's thread.

mod open;
mod queue;
mod dispatch;
mod log;
mod segment;
mod fs;
mod tail;
mod index;
mod run;
mod page;
mod keys;
mod keep;
mod read;
mod query;
mod trim;
mod recover;
mod scan;
pub mod base;
mod identity;
mod checkpoint;
mod envelope;
pub mod state;
mod configs;
pub mod java;
pub mod adopt;
mod adopted;
mod exported;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::message_id;
use protocol::record::EncodeError;

pub use crate::fs::{Volume, Wait};
pub use crate::identity::{FORMAT_VERSION, Identity};
pub use crate::log::{Answers, Arrived};
pub use crate::open::Store;
pub use crate::query::KeyLimits;
pub use crate::queue::{AllDone, Done};
pub use crate::read::{Boundary, Read, ReadLimits, ReadStatus, Wanted};
pub use crate::trim::Sealed;

/// When an appended message counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// When it is on disk.
    Sync,
    /// When the kernel has it: it survives the process, not the machine.
    Async,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub cluster: String,
    pub broker: String,
    pub flush: Flush,
    /// In every record and message id.
    pub store_host: SocketAddr,
    /// A power of two from 64 KiB to 1 GiB, fixed when the store is created; `None` takes it
    /// from the volume's size.
    pub segment_bytes: Option<u64>,
    /// How much of the log's end is kept in memory for readers.
    pub tail_bytes_max: usize,
    /// At most so much of the log is replayed at start.
    pub run_bytes: u64,
    /// Messages that may wait for the writer.
    pub append_queue_max: usize,
    /// Appends are refused while more of the volume is used.
    pub disk_used_percent_max: u8,
    /// Whether a message goes to the topics that its INNER_MULTI_DISPATCH names.
    pub multi_dispatch: bool,
    /// Unix time in ms.
    pub clock: fn() -> i64,
}

impl Options {
    pub fn new(cluster: &str, broker: &str, store_host: SocketAddr, clock: fn() -> i64) -> Self {
        Self {
            cluster: cluster.into(),
            broker: broker.into(),
            flush: Flush::Sync,
            store_host,
            segment_bytes: None,
            tail_bytes_max: 32 << 20,
            run_bytes: 64 << 20,
            append_queue_max: 10_000,
            disk_used_percent_max: 90,
            multi_dispatch: false,
            clock,
        }
    }
}

/// A message that has just become readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub topic: Arc<str>,
    pub queue: i32,
    pub offset: i64,
    pub tags: i64,
    pub store_ms: i64,
}

/// Where and when a message was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub position: u64,
    pub queue_offset: i64,
    pub bytes: u32,
    pub store_ms: i64,
    pub store_host: SocketAddr,
}

impl Appended {
    /// The id that the sender gets: it names the place.
    pub fn message_id(&self) -> String {
        message_id::encode(self.store_host, self.position)
    }
}

/// The first offset of a queue and the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    pub min: i64,
    pub max: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub log_start: u64,
    /// Records below are readable.
    pub confirm: u64,
    /// Records below are on disk.
    pub flushed: u64,
    /// The index below is on disk.
    pub indexed: u64,
    /// Position of the base that was written last.
    pub base: u64,
    pub segment_bytes: u64,
    pub volume: Option<Volume>,
    /// Since the store was opened.
    pub appended_bytes: u64,
    pub appended_messages: u64,
    pub append_queue_messages: usize,
    pub epoch: u64,
    /// Times that recovery cut a torn end off, in the store's life.
    pub cuts: u32,
    /// A write or sync has failed: nothing is appended any more.
    pub failed: bool,
}

/// Nothing was stored, except that after `Failed` it may have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("too many messages wait for the disk")]
    Busy,
    /// `held` goes on with the sentence: why nothing is deleted.
    #[error("{used_percent} % of the disk is used{held}")]
    DiskFull { used_percent: u8, held: Arc<str> },
    #[error("a write to the disk has failed; nothing is stored any more")]
    Failed,
    #[error("the store is closed")]
    Closed,
    #[error("the record of {bytes} bytes does not fit a log file")]
    RecordTooLarge { bytes: usize },
    #[error("INNER_MULTI_DISPATCH is no list of topics %LMQ%...")]
    Targets,
    #[error(transparent)]
    Message(#[from] EncodeError),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    #[error("{} holds a log but no Gantry store; adopt it first", .0.display())]
    NotGantry(PathBuf),
    #[error("the adoption of {} was not finished; run it again", .0.display())]
    HalfAdopted(PathBuf),
    #[error(
        "the store belongs to broker {found_broker} of cluster {found_cluster}, \
        not to broker {broker} of cluster {cluster}"
    )]
    OtherBroker {
        cluster: String,
        broker: String,
        found_cluster: String,
        found_broker: String,
    },
    #[error("{file} has format version {version}; this program is too old for it")]
    Newer { file: String, version: u16 },
    #[error("{0} is damaged")]
    Damaged(String),
    #[error("the log is corrupt at {position}: {reason}")]
    Corrupt { position: u64, reason: String },
    #[error("the log's files are not complete: {0}")]
    Layout(String),
    #[error("another broker has used the exported directory ({what}); adopt it first")]
    WrittenElsewhere { what: String },
    #[error("{0}")]
    Options(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the record at {position} is damaged")]
    Corrupt { position: u64 },
    #[error("the index is damaged")]
    IndexDamaged,
    #[error("the record at {position} is deleted")]
    Gone { position: u64 },
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Corrupt { position } | ReadError::Gone { position } => Self::Corrupt {
                position,
                reason: "the record is damaged".into(),
            },
            ReadError::IndexDamaged => Self::Damaged("the index".into()),
        }
    }
}

impl Flush {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Sync => 1,
            Self::Async => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Sync),
            2 => Some(Self::Async),
            _ => None,
        }
    }
}
