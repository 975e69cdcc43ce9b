//! `gantry/base`: what the records below a position say, so that their log files can go.
//!
//! All below `position` was on disk before the snapshot was. It holds the offsets of every queue,
//! also of idle queues and deleted topics, and as `state` the body of one state record that
//! rebuilds the broker's tables as they were there. State records from `position` on are applied
//! over it. The file is replaced as a whole. Layout: docs/spec/store.md.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::envelope::{self, Refused};
use crate::{OpenError, Store, fs};

const FILE: &str = "gantry/base";
const MAGIC: [u8; 8] = *b"GANTRYBS";
const VERSION: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base {
    pub position: u64,
    pub queues: Vec<BaseQueue>,
    /// Body of a state record; empty when there is no state.
    pub state: Bytes,
}

/// The offsets of one queue at the base's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseQueue {
    pub topic: Arc<str>,
    pub queue: i32,
    /// Messages below are not shown, also where the log still holds them.
    pub min: i64,
    /// Of the next message.
    pub next: i64,
}

/// The base of a directory. A damaged one is an error: the log alone may not hold its content.
pub fn load(dir: &Path) -> Result<Option<Base>, OpenError> {
    let Some(bytes) = fs::read_if_exists(&dir.join(FILE))? else {
        return Ok(None);
    };
    let damaged = || OpenError::Damaged(FILE.into());
    match envelope::open(MAGIC, VERSION, &bytes) {
        Ok(mut fields) => decode(&mut fields).ok_or_else(damaged).map(Some),
        Err(Refused::Damaged) => Err(damaged()),
        Err(Refused::Newer(version)) => Err(OpenError::Newer {
            file: FILE.into(),
            version,
        }),
    }
}

/// Replaces the base of a directory that no store has open; it is on disk on return.
pub fn write(dir: &Path, base: &Base) -> io::Result<()> {
    fs::write_atomic(&dir.join(FILE), &encode(base))
}

impl Store {
    /// The base as it was written last.
    pub fn base(&self) -> Result<Option<Base>, OpenError> {
        load(&self.inner.dir)
    }

    /// Writes the base at `position`, below which all is readable; `state` is what the state
    /// records below it say. Returns when it is on disk, after all that is readable now.
    pub fn write_base(&self, position: u64, state: Bytes) -> io::Result<()> {
        let inner = &self.inner;
        let writing = inner.base_writing.lock();
        let _writing = writing.unwrap_or_else(PoisonError::into_inner);
        if position <= inner.progress.base.load(Ordering::Acquire) {
            return Ok(());
        }
        // A consumer's offset in the state may count messages above `position`.
        inner.sync_log()?;
        if position > inner.progress.flushed.load(Ordering::Acquire) {
            return Err(io::Error::other("the position is above the log's end"));
        }
        let queues = inner.index.queues();
        let queues = queues.iter().map(|queue| queue.base_at(position)).collect();
        let base = Base {
            position,
            queues,
            state,
        };
        write(&inner.dir, &base)?;
        inner.progress.base.store(position, Ordering::Release);
        Ok(())
    }
}

fn encode(base: &Base) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&base.position.to_be_bytes());
    out.extend_from_slice(&(base.queues.len() as u32).to_be_bytes());
    for queue in &base.queues {
        envelope::put_text(&mut out, &queue.topic);
        out.extend_from_slice(&queue.queue.to_be_bytes());
        out.extend_from_slice(&queue.min.to_be_bytes());
        out.extend_from_slice(&queue.next.to_be_bytes());
    }
    out.extend_from_slice(&(base.state.len() as u64).to_be_bytes());
    out.extend_from_slice(&base.state);
    envelope::seal(MAGIC, VERSION, &out)
}

fn decode(fields: &mut envelope::Fields<'_>) -> Option<Base> {
    let position = fields.u64()?;
    let count = fields.u32()?;
    let mut queues = Vec::new();
    for _ in 0..count {
        let queue = BaseQueue {
            topic: fields.text()?.into(),
            queue: fields.i32()?,
            min: fields.i64()?,
            next: fields.i64()?,
        };
        if !(0..=queue.next).contains(&queue.min) {
            return None;
        }
        queues.push(queue);
    }
    let len = usize::try_from(fields.u64()?).ok()?;
    let state = Bytes::copy_from_slice(fields.take(len)?);
    fields.0.is_empty().then_some(Base {
        position,
        queues,
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let base = Base {
            position: 258,
            queues: vec![
                BaseQueue {
                    topic: "A".into(),
                    queue: 2,
                    min: 3,
                    next: 40,
                },
                BaseQueue {
                    topic: "BC".into(),
                    queue: 0,
                    min: 0,
                    next: 0,
                },
            ],
            state: Bytes::from_static(b"\x01\x03\0\0\0\x01T"),
        };
        let bytes = encode(&base);
        let expect = b"GANTRYBS\0\x01\0\0\0\0\0\0\x01\x02\0\0\0\x02\
            \0\x01A\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x28\
            \0\x02BC\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
            \0\0\0\0\0\0\0\x07\x01\x03\0\0\0\x01T";
        let (covered, crc) = bytes.split_at(bytes.len() - 4);
        assert_eq!(covered, expect);
        assert_eq!(crc, crc32fast::hash(expect).to_be_bytes());

        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("gantry")).expect("dir");
        assert_eq!(load(dir.path()).expect("none"), None);
        write(dir.path(), &base).expect("written");
        assert_eq!(load(dir.path()).expect("load"), Some(base));
        let path = dir.path().join(FILE);
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).expect("write");
            let error = load(dir.path()).expect_err("cut");
            assert!(matches!(error, OpenError::Damaged(_)), "{cut}: {error}");
        }
        std::fs::write(&path, envelope::seal(MAGIC, 2, b"anything")).expect("write");
        let newer = load(dir.path()).expect_err("newer");
        assert!(
            matches!(newer, OpenError::Newer { version: 2, .. }),
            "{newer}"
        );
    }
}
