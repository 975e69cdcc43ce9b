//! `gantry/exported`: how the directory was left for a Java broker.
//!
//! It holds the log's end and a CRC of each configuration file, so that it shows when a Java
//! broker has run since; and the queues of which the log holds messages that are deleted, so that
//! they are not taken for messages when the directory comes back. The file goes when Gantry opens
//! the directory again. Layout: docs/spec/store.md.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use crate::envelope::{self, Refused};
use crate::fs::Wait;
use crate::{OpenError, fs, segment};

const FILE: &str = "gantry/exported";
const MAGIC: [u8; 8] = *b"GANTRYEX";
/// Version 1 ended with the log's end.
const VERSION: u16 = 2;

/// What has become of an exported directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exported {
    /// There was no export, or Gantry has run since.
    Not,
    Unchanged,
    /// A Java broker has used it; with what shows it.
    Changed(String),
}

/// A queue that shows only messages from `begin` on, and its next offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hidden {
    pub(crate) topic: String,
    pub(crate) queue: i32,
    pub(crate) begin: u64,
    pub(crate) next: i64,
}

pub(crate) fn write(
    dir: &Path,
    log_end: u64,
    configs: &[(String, String)],
    hidden: &[Hidden],
) -> io::Result<()> {
    let mut out = Vec::new();
    out.extend_from_slice(&log_end.to_be_bytes());
    out.extend_from_slice(&(configs.len() as u16).to_be_bytes());
    for (name, content) in configs {
        envelope::put_text(&mut out, name);
        out.extend_from_slice(&crc32fast::hash(content.as_bytes()).to_be_bytes());
    }
    out.extend_from_slice(&(hidden.len() as u32).to_be_bytes());
    for queue in hidden {
        envelope::put_text(&mut out, &queue.topic);
        out.extend_from_slice(&queue.queue.to_be_bytes());
        out.extend_from_slice(&queue.begin.to_be_bytes());
        out.extend_from_slice(&queue.next.to_be_bytes());
    }
    fs::write_atomic(&dir.join(FILE), &envelope::seal(MAGIC, VERSION, &out))
}

pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_if_exists(&dir.join(FILE))
}

pub(crate) fn look(dir: &Path, segment_bytes: u64) -> Result<Exported, OpenError> {
    let Some(left) = load(dir)? else {
        return Ok(Exported::Not);
    };
    if goes_on(dir, left.log_end, segment_bytes)? {
        let end = left.log_end;
        return Ok(Exported::Changed(format!("its log goes on at {end}")));
    }
    if dir.join("abort").exists() {
        return Ok(Exported::Changed("a broker did not close it".into()));
    }
    for (name, crc) in left.configs {
        let content = fs::read_if_exists(&dir.join("config").join(&name))?;
        if content.is_none_or(|content| crc32fast::hash(&content) != crc) {
            return Ok(Exported::Changed(format!("config/{name} has changed")));
        }
    }
    Ok(Exported::Unchanged)
}

/// The queues that hid messages at the export.
pub(crate) fn hidden(dir: &Path) -> Result<Vec<Hidden>, OpenError> {
    Ok(load(dir)?.map_or_else(Vec::new, |left| left.hidden))
}

struct Left {
    log_end: u64,
    configs: Vec<(String, u32)>,
    hidden: Vec<Hidden>,
}

fn load(dir: &Path) -> Result<Option<Left>, OpenError> {
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

fn decode(fields: &mut envelope::Fields<'_>) -> Option<Left> {
    let mut left = Left {
        log_end: fields.u64()?,
        configs: Vec::new(),
        hidden: Vec::new(),
    };
    if fields.0.is_empty() {
        return Some(left);
    }
    for _ in 0..fields.u16()? {
        left.configs
            .push((fields.text()?.to_owned(), fields.u32()?));
    }
    for _ in 0..fields.u32()? {
        left.hidden.push(Hidden {
            topic: fields.text()?.to_owned(),
            queue: fields.i32()?,
            begin: fields.u64()?,
            next: fields.i64()?,
        });
    }
    fields.0.is_empty().then_some(left)
}

/// Whether anything was written at the log's end.
fn goes_on(dir: &Path, end: u64, segment_bytes: u64) -> io::Result<bool> {
    let start = end - end % segment_bytes;
    match fs::open_read(&segment::path_of(dir, start)) {
        Ok(file) => {
            let mut next = [0; 8];
            fs::read_exact_at(&file, &mut next, end - start, Wait::ForDisk)?;
            Ok(next != [0; 8])
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("gantry")).expect("dir");
        let hidden = [Hidden {
            topic: "T".into(),
            queue: 2,
            begin: 7,
            next: 258,
        }];
        let configs = [("a.json".to_owned(), "{}".to_owned())];
        write(dir.path(), 9, &configs, &hidden).expect("written");
        let bytes = std::fs::read(dir.path().join(FILE)).expect("read");
        let expect = b"GANTRYEX\x00\x02\x00\x00\x00\x00\x00\x00\x00\x09\x00\x01\x00\x06a.json\
            \xa3\x62\x46\x66\x00\x00\x00\x01\x00\x01T\x00\x00\x00\x02\
            \x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x01\x02";
        let crc = crc32fast::hash(b"{}").to_be_bytes();
        let at = 10 + 8 + 2 + 2 + 6;
        assert_eq!(bytes[at..at + 4], crc);
        assert_eq!(bytes[..at], expect[..at]);
        assert_eq!(bytes[at + 4..bytes.len() - 4], expect[at + 4..]);
        assert_eq!(super::hidden(dir.path()).expect("read"), hidden);
        let first = envelope::seal(MAGIC, 1, &9u64.to_be_bytes());
        std::fs::write(dir.path().join(FILE), first).expect("written");
        assert_eq!(
            look(dir.path(), 1 << 16).expect("read"),
            Exported::Unchanged
        );
    }
}
