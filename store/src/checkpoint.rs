//! `gantry/checkpoint`: how far the log is surely on disk, and whether it was closed cleanly.
//!
//! Below `durable` a bad record is corruption; above it, it is the end of the log. The file is
//! replaced as a whole, after what it promises has been synced.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use crate::envelope::{self, Refused};
use crate::{OpenError, fs};

const MAGIC: [u8; 8] = *b"GANTRYCP";
const VERSION: u16 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Checkpoint {
    pub(crate) durable: u64,
    pub(crate) clean: bool,
    /// The run of the kernel in which the store was open.
    pub(crate) boot_id: [u8; 16],
    /// How often recovery has cut bytes off the log, and where it did so last.
    pub(crate) cuts: u32,
    pub(crate) cut_at: u64,
}

impl Checkpoint {
    /// A damaged one is an error: without it nobody knows what must be in the log.
    pub(crate) fn load(dir: &Path) -> Result<Self, OpenError> {
        let Some(bytes) = fs::read_if_exists(&dir.join("gantry/checkpoint"))? else {
            return Ok(Self::default());
        };
        let mut fields = match envelope::open(MAGIC, VERSION, &bytes) {
            Ok(fields) => fields,
            Err(Refused::Damaged) => {
                return Err(OpenError::Damaged("gantry/checkpoint".into()));
            }
            Err(Refused::Newer(version)) => {
                return Err(OpenError::Newer {
                    file: "gantry/checkpoint".into(),
                    version,
                });
            }
        };
        let mut read = || {
            Some(Self {
                durable: fields.u64()?,
                clean: fields.u8()? == 1,
                boot_id: fields.array()?,
                cuts: fields.u32()?,
                cut_at: fields.u64()?,
            })
        };
        read().ok_or_else(|| OpenError::Damaged("gantry/checkpoint".into()))
    }

    pub(crate) fn write(&self, dir: &Path) -> std::io::Result<()> {
        fs::write_atomic(&dir.join("gantry/checkpoint"), &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.durable.to_be_bytes());
        out.push(u8::from(self.clean));
        out.extend_from_slice(&self.boot_id);
        out.extend_from_slice(&self.cuts.to_be_bytes());
        out.extend_from_slice(&self.cut_at.to_be_bytes());
        envelope::seal(MAGIC, VERSION, &out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let checkpoint = Checkpoint {
            durable: 258,
            clean: true,
            boot_id: *b"0123456789abcdef",
            cuts: 2,
            cut_at: 7,
        };
        let bytes = checkpoint.encode();
        let expect = b"GANTRYCP\x00\x01\x00\x00\x00\x00\x00\x00\x01\x02\x010123456789abcdef\
            \x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x07";
        assert_eq!(bytes[..bytes.len() - 4], *expect);
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("gantry")).expect("dir");
        assert_eq!(
            Checkpoint::load(dir.path()).expect("none"),
            Checkpoint::default()
        );
        checkpoint.write(dir.path()).expect("write");
        assert_eq!(Checkpoint::load(dir.path()).expect("load"), checkpoint);
    }
}
