//! `gantry/adopted`: what of the log another broker has written, and how it is to be read.
//!
//! Records below `end` may lack the CRC of the whole record. Where a topic was deleted and made
//! again, the other broker gave its queues' offsets out a second time: of such a queue only the
//! records from one position on are its messages. Layout: docs/spec/store.md.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;

use protocol::record::Record;

use crate::envelope::{self, Refused};
use crate::{OpenError, fs};

const FILE: &str = "gantry/adopted";
const MAGIC: [u8; 8] = *b"GANTRYAD";
const VERSION: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Adopted {
    pub(crate) end: u64,
    /// Where the messages of a queue begin, by topic and queue.
    pub(crate) begins: BTreeMap<String, BTreeMap<i32, u64>>,
}

impl Adopted {
    pub(crate) fn load(dir: &Path) -> Result<Self, OpenError> {
        let Some(bytes) = fs::read_if_exists(&dir.join(FILE))? else {
            return Ok(Self::default());
        };
        let damaged = || OpenError::Damaged(FILE.into());
        match envelope::open(MAGIC, VERSION, &bytes) {
            Ok(mut fields) => decode(&mut fields).ok_or_else(damaged),
            Err(Refused::Damaged) => Err(damaged()),
            Err(Refused::Newer(version)) => Err(OpenError::Newer {
                file: FILE.into(),
                version,
            }),
        }
    }

    pub(crate) fn write(&self, dir: &Path) -> std::io::Result<()> {
        fs::write_atomic(&dir.join(FILE), &self.encode())
    }

    /// Whether all of the record has been verified that its place demands.
    pub(crate) fn trusts(&self, record: &Record<'_>) -> bool {
        record.sealed || record.position < self.end
    }

    /// Whether the record is a message of its queue.
    pub(crate) fn shows(&self, record: &Record<'_>) -> bool {
        let begins = self.begins.get(record.topic);
        begins
            .and_then(|queues| queues.get(&record.queue))
            .is_none_or(|begin| record.position >= *begin)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.end.to_be_bytes());
        let count: usize = self.begins.values().map(BTreeMap::len).sum();
        out.extend_from_slice(&(count as u32).to_be_bytes());
        for (topic, queues) in &self.begins {
            for (queue, begin) in queues {
                envelope::put_text(&mut out, topic);
                out.extend_from_slice(&queue.to_be_bytes());
                out.extend_from_slice(&begin.to_be_bytes());
            }
        }
        envelope::seal(MAGIC, VERSION, &out)
    }
}

fn decode(fields: &mut envelope::Fields<'_>) -> Option<Adopted> {
    let mut adopted = Adopted {
        end: fields.u64()?,
        ..Adopted::default()
    };
    for _ in 0..fields.u32()? {
        let topic = fields.text()?.to_owned();
        let (queue, begin) = (fields.i32()?, fields.u64()?);
        adopted
            .begins
            .entry(topic)
            .or_default()
            .insert(queue, begin);
    }
    fields.0.is_empty().then_some(adopted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let adopted = Adopted {
            end: 258,
            begins: [("T".to_owned(), [(2, 7)].into())].into(),
        };
        let bytes = adopted.encode();
        let expect = b"GANTRYAD\x00\x01\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x01\
            \x00\x01T\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x07";
        assert_eq!(bytes[..bytes.len() - 4], *expect);
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(Adopted::load(dir.path()).expect("none"), Adopted::default());
        std::fs::create_dir(dir.path().join("gantry")).expect("dir");
        adopted.write(dir.path()).expect("write");
        assert_eq!(Adopted::load(dir.path()).expect("load"), adopted);
        for cut in 10..bytes.len() {
            std::fs::write(dir.path().join(FILE), &bytes[..cut]).expect("write");
            assert!(Adopted::load(dir.path()).is_err(), "{cut}");
        }
    }
}
