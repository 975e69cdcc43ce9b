//! `gantry/exported`: how the directory was left for a Java broker.
//!
//! It holds the log's end and a CRC of each configuration file, so that it shows when a Java
//! broker has run since. The file goes when Gantry opens the directory again.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use crate::envelope::{self, Refused};
use crate::fs::Wait;
use crate::{OpenError, fs, segment};

const FILE: &str = "gantry/exported";
const MAGIC: [u8; 8] = *b"GANTRYEX";
/// Version 1 had no configuration files.
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

pub(crate) fn write(dir: &Path, log_end: u64, configs: &[(String, String)]) -> io::Result<()> {
    let mut out = Vec::new();
    out.extend_from_slice(&log_end.to_be_bytes());
    out.extend_from_slice(&(configs.len() as u16).to_be_bytes());
    for (name, content) in configs {
        envelope::put_text(&mut out, name);
        out.extend_from_slice(&crc32fast::hash(content.as_bytes()).to_be_bytes());
    }
    fs::write_atomic(&dir.join(FILE), &envelope::seal(MAGIC, VERSION, &out))
}

pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_if_exists(&dir.join(FILE))
}

pub(crate) fn look(dir: &Path, segment_bytes: u64) -> Result<Exported, OpenError> {
    let Some(bytes) = fs::read_if_exists(&dir.join(FILE))? else {
        return Ok(Exported::Not);
    };
    let damaged = || OpenError::Damaged(FILE.into());
    let mut fields = match envelope::open(MAGIC, VERSION, &bytes) {
        Ok(fields) => fields,
        Err(Refused::Damaged) => return Err(damaged()),
        Err(Refused::Newer(version)) => {
            let file = FILE.into();
            return Err(OpenError::Newer { file, version });
        }
    };
    let end = fields.u64().ok_or_else(damaged)?;
    if goes_on(dir, end, segment_bytes)? {
        return Ok(Exported::Changed(format!("its log goes on at {end}")));
    }
    if dir.join("abort").exists() {
        return Ok(Exported::Changed("a broker did not close it".into()));
    }
    for _ in 0..fields.u16().unwrap_or(0) {
        let name = fields.text().ok_or_else(damaged)?;
        let crc = fields.u32().ok_or_else(damaged)?;
        let content = fs::read_if_exists(&dir.join("config").join(name))?;
        if content.is_none_or(|content| crc32fast::hash(&content) != crc) {
            return Ok(Exported::Changed(format!("config/{name} has changed")));
        }
    }
    Ok(Exported::Unchanged)
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
