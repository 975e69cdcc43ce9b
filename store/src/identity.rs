//! Who a data directory is, and what it has promised.
//!
//! `gantry/identity` is written once: format version, 128-bit store id, segment size, cluster and
//! broker name. `gantry/epoch` is the highest epoch this store has promised; it is on disk before
//! the epoch is used. Layouts: docs/spec/store.md.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use crate::envelope::{self, Refused};
use crate::{OpenError, fs};

/// Raised when an older program must not open the directory any more.
pub const FORMAT_VERSION: u16 = 1;

const IDENTITY_MAGIC: [u8; 8] = *b"GANTRYID";
const EPOCH_MAGIC: [u8; 8] = *b"GANTRYEP";

/// The identity of a store; it never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub store_id: [u8; 16],
    pub segment_bytes: u64,
    pub cluster: String,
    pub broker: String,
}

impl Identity {
    pub fn load(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join("gantry/identity");
        let Some(bytes) = fs::read_if_exists(&path)? else {
            return Ok(None);
        };
        let mut fields = envelope::open(IDENTITY_MAGIC, FORMAT_VERSION, &bytes)
            .map_err(|refused| refuse("gantry/identity", refused))?;
        let mut read = || {
            Some(Self {
                store_id: fields.array()?,
                segment_bytes: fields.u64()?,
                cluster: fields.text()?.to_owned(),
                broker: fields.text()?.to_owned(),
            })
        };
        let identity = read().ok_or_else(|| OpenError::Damaged("gantry/identity".into()))?;
        if !segment_bytes_adoptable(identity.segment_bytes) {
            return Err(OpenError::Damaged("gantry/identity".into()));
        }
        Ok(Some(identity))
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        Ok(fs::write_atomic(
            &dir.join("gantry/identity"),
            &self.encode(),
        )?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.store_id);
        out.extend_from_slice(&self.segment_bytes.to_be_bytes());
        envelope::put_text(&mut out, &self.cluster);
        envelope::put_text(&mut out, &self.broker);
        envelope::seal(IDENTITY_MAGIC, FORMAT_VERSION, &out)
    }
}

/// The highest epoch promised; 0 in a store that never ran.
pub(crate) fn load_epoch(dir: &Path) -> Result<u64, OpenError> {
    let Some(bytes) = fs::read_if_exists(&dir.join("gantry/epoch"))? else {
        return Ok(0);
    };
    let mut fields = envelope::open(EPOCH_MAGIC, FORMAT_VERSION, &bytes)
        .map_err(|refused| refuse("gantry/epoch", refused))?;
    fields
        .u64()
        .ok_or_else(|| OpenError::Damaged("gantry/epoch".into()))
}

/// Returns when the promise is on disk.
pub(crate) fn promise_epoch(dir: &Path, epoch: u64) -> Result<(), OpenError> {
    let bytes = envelope::seal(EPOCH_MAGIC, FORMAT_VERSION, &epoch.to_be_bytes());
    Ok(fs::write_atomic(&dir.join("gantry/epoch"), &bytes)?)
}

/// What a Java broker may have been told.
pub(crate) fn segment_bytes_adoptable(bytes: u64) -> bool {
    (64 << 10..=i32::MAX as u64).contains(&bytes)
}

/// A power of two, from the smallest that tests use to what Java's file offsets allow.
pub(crate) fn segment_bytes_valid(bytes: u64) -> bool {
    bytes.is_power_of_two() && (64 << 10..=1 << 30).contains(&bytes)
}

fn refuse(file: &str, refused: Refused) -> OpenError {
    match refused {
        Refused::Damaged => OpenError::Damaged(file.into()),
        Refused::Newer(version) => OpenError::Newer {
            file: file.into(),
            version,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let identity = Identity {
            store_id: *b"0123456789abcdef",
            segment_bytes: 1 << 26,
            cluster: "c1".into(),
            broker: "b".into(),
        };
        let bytes = identity.encode();
        let (covered, crc) = bytes.split_at(bytes.len() - 4);
        let expect =
            b"GANTRYID\x00\x010123456789abcdef\x00\x00\x00\x00\x04\x00\x00\x00\x00\x02c1\x00\x01b";
        assert_eq!(covered, expect);
        assert_eq!(crc, crc32fast::hash(expect).to_be_bytes());

        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("gantry")).expect("dir");
        assert_eq!(load_epoch(dir.path()).expect("load"), 0);
        promise_epoch(dir.path(), 7).expect("promise");
        assert_eq!(load_epoch(dir.path()).expect("load"), 7);
        let bytes = std::fs::read(dir.path().join("gantry/epoch")).expect("read");
        assert_eq!(
            bytes[..18],
            *b"GANTRYEP\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07"
        );
        identity.write(dir.path()).expect("write");
        assert_eq!(Identity::load(dir.path()).expect("load"), Some(identity));
    }

    #[test]
    fn damage_and_newer_formats_are_told_apart() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("gantry")).expect("dir");
        let path = dir.path().join("gantry/epoch");
        std::fs::write(&path, envelope::seal(EPOCH_MAGIC, 2, b"anything")).expect("write");
        let newer = load_epoch(dir.path()).expect_err("newer");
        assert!(
            matches!(newer, OpenError::Newer { version: 2, .. }),
            "{newer}"
        );
        let whole = envelope::seal(EPOCH_MAGIC, 1, &7u64.to_be_bytes());
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("write");
            assert!(
                matches!(load_epoch(dir.path()), Err(OpenError::Damaged(_))),
                "{cut}"
            );
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).expect("write");
            assert!(
                matches!(load_epoch(dir.path()), Err(OpenError::Damaged(_))),
                "{bit}"
            );
        }
    }
}
