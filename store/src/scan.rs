//! A walk over the log's records in order, each verified: for recovery and for rebuilding the
//! index. Records that an adoption has found to be no queue's messages are passed over. It reads
//! ahead in windows and never past the end of a file.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::sync::Arc;

use protocol::record::{self, BLANK_BYTES, Head, Record};

use crate::adopted::Adopted;
use crate::segment::{Segment, Segments};

const WINDOW_BYTES: usize = 1 << 20;

/// Where a walk ended.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) end: u64,
    /// Why no record lies at `end`; `None` where the files or the range end.
    pub(crate) bad: Option<String>,
}

/// Hands every record of `[from, to)` to `each`, which may refuse one by a reason.
pub(crate) fn scan(
    segments: &Segments,
    from: u64,
    to: u64,
    each: &mut dyn FnMut(&Record<'_>, u32) -> Result<(), String>,
) -> io::Result<Scanned> {
    let mut at = from;
    while at < to {
        let Some(segment) = segments.at(at) else {
            break;
        };
        let end = segment.start + segments.segment_bytes;
        let mut window = Window {
            segment,
            end,
            at: 0,
            bytes: Vec::new(),
        };
        while at < end.min(to) {
            match step(&segments.adopted, &mut window, at, each)? {
                Ok(next) => at = next,
                Err(reason) => {
                    return Ok(Scanned {
                        end: at,
                        bad: Some(reason),
                    });
                }
            }
        }
    }
    Ok(Scanned { end: at, bad: None })
}

/// The position after the record or blank at `at`, or why there is none.
fn step(
    adopted: &Adopted,
    window: &mut Window,
    at: u64,
    each: &mut dyn FnMut(&Record<'_>, u32) -> Result<(), String>,
) -> io::Result<Result<u64, String>> {
    let remaining = window.end - at;
    let head = window
        .read(at, BLANK_BYTES)?
        .and_then(|bytes| bytes.first_chunk().copied());
    let size = match head.and_then(record::head) {
        Some(Head::Record(size)) => size,
        Some(Head::Blank(size)) if size as u64 == remaining => return Ok(Ok(window.end)),
        Some(Head::Blank(_)) => return Ok(Err("a blank of a wrong length".into())),
        None => return Ok(Err("no record starts here".into())),
    };
    if (size + BLANK_BYTES) as u64 > remaining {
        return Ok(Err("the record does not fit its file".into()));
    }
    let Some(bytes) = window.read(at, size)? else {
        return Ok(Err("the record does not fit its file".into()));
    };
    let checked = Record::decode(bytes)
        .map_err(|error| error.to_string())
        .and_then(|record| {
            if record.position != at {
                let said = record.position;
                return Err(format!("the record says that it lies at {said}"));
            }
            if !adopted.trusts(&record) {
                return Err("the record has no CRC".into());
            }
            if adopted.shows(&record) {
                each(&record, size as u32)?;
            }
            Ok(())
        });
    Ok(checked.map(|()| at + size as u64))
}

struct Window {
    segment: Arc<Segment>,
    /// Where the segment ends.
    end: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `len` bytes at `at`; `None` where the segment ends before.
    fn read(&mut self, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let inside = |window: &Self| {
            let skip = at.checked_sub(window.at)? as usize;
            (skip.checked_add(len)? <= window.bytes.len()).then_some(skip)
        };
        if inside(self).is_none() {
            let available = self.end - at;
            if len as u64 > available {
                return Ok(None);
            }
            let fill = (len.max(WINDOW_BYTES) as u64).min(available) as usize;
            self.bytes.resize(fill, 0);
            self.segment
                .file
                .read_exact_at(&mut self.bytes, at - self.segment.start)?;
            self.at = at;
        }
        Ok(inside(self).and_then(|skip| self.bytes.get(skip..skip + len)))
    }
}
