//! Cells of one size in pages, each with a CRC: how a run keeps what is read a page at a time.
//!
//! A page is 4,080 bytes of cells and their CRC, u32; the last page is shorter.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{self, Write};

use crate::ReadError;
use crate::fs::{MappedFile, Wait};

const CELLS_BYTES: u64 = 4080;
const CRC_BYTES: u64 = 4;
const PAGE_BYTES: u64 = CELLS_BYTES + CRC_BYTES;

/// Where the cells of a section lie in their file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pages {
    offset: u64,
    cell_bytes: u64,
    pub(crate) count: u64,
}

impl Pages {
    /// `None` if no number of cells has this length.
    pub(crate) fn new(offset: u64, len: u64, cell_bytes: u64) -> Option<Self> {
        let last = match len % PAGE_BYTES {
            0 => 0,
            rest => rest.checked_sub(CRC_BYTES)?,
        };
        let whole = len / PAGE_BYTES * (CELLS_BYTES / cell_bytes);
        let pages = Self {
            offset,
            cell_bytes,
            count: whole + last / cell_bytes,
        };
        (pages.len() == len).then_some(pages)
    }

    pub(crate) fn per_page(&self) -> u64 {
        CELLS_BYTES / self.cell_bytes
    }

    fn len(&self) -> u64 {
        self.count * self.cell_bytes + self.count.div_ceil(self.per_page()) * CRC_BYTES
    }

    /// The bytes of cells `[first, end)`, verified; `IndexDamaged` if a page is not intact.
    pub(crate) fn read(
        &self,
        file: &MappedFile,
        first: u64,
        end: u64,
        wait: Wait,
    ) -> Result<Vec<u8>, ReadError> {
        let end = end.min(self.count);
        if first >= end {
            return Ok(Vec::new());
        }
        let page = first / self.per_page();
        let from = page * PAGE_BYTES;
        let to = (end.div_ceil(self.per_page()) * PAGE_BYTES).min(self.len());
        let (at, len) = (self.offset + from, (to - from) as usize);
        let cells = Cells {
            skip: ((first - page * self.per_page()) * self.cell_bytes) as usize,
            bytes: ((end - first) * self.cell_bytes) as usize,
        };
        if wait == Wait::Never
            && let Some((bytes, mapping)) = file.slice(at, len)
        {
            let mut at = at;
            let read = cells.of(&bytes, |page| {
                let known = mapping.knows(at);
                let intact = known || is_intact(page);
                if intact && !known {
                    mapping.learn(at, page.len());
                }
                at += PAGE_BYTES;
                intact
            });
            // Else a page has been lost under the copy, and the file's own read says so.
            if !mapping.is_damaged() {
                return read;
            }
        }
        let mut bytes = vec![0; len];
        match file.read_exact_at(&mut bytes, at, wait) {
            // The file has become shorter, or the disk cannot read the page.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                tracing::warn!(%error, "an index run cannot be read");
                return Err(ReadError::IndexDamaged);
            }
            read => read?,
        }
        cells.of(&bytes, is_intact)
    }
}

/// Which cells of some pages are wanted.
#[derive(Clone, Copy)]
struct Cells {
    /// Of the first page, so many bytes before.
    skip: usize,
    bytes: usize,
}

impl Cells {
    fn of(
        mut self,
        pages: &[u8],
        mut is_intact: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<u8>, ReadError> {
        let mut cells = Vec::with_capacity(self.bytes);
        for page in pages.chunks(PAGE_BYTES as usize) {
            let covered = page.len().saturating_sub(CRC_BYTES as usize);
            if !is_intact(page) {
                return Err(ReadError::IndexDamaged);
            }
            let wanted = page.get(self.skip..covered).unwrap_or_default();
            let room = self.bytes - cells.len();
            cells.extend_from_slice(wanted.get(..room).unwrap_or(wanted));
            self.skip = 0;
        }
        Ok(cells)
    }
}

fn is_intact(page: &[u8]) -> bool {
    let parts = page.split_last_chunk::<4>();
    parts.is_some_and(|(covered, crc)| crc32fast::hash(covered) == u32::from_be_bytes(*crc))
}

/// Writes cells as pages.
pub(crate) struct PageWriter {
    page: Vec<u8>,
    crc: crc32fast::Hasher,
    len: u64,
}

impl PageWriter {
    pub(crate) fn new() -> Self {
        Self {
            page: Vec::with_capacity(PAGE_BYTES as usize),
            crc: crc32fast::Hasher::new(),
            len: 0,
        }
    }

    /// Adds a cell, of a size of which a whole number fills a page.
    pub(crate) fn push(&mut self, out: &mut impl Write, cell: &[&[u8]]) -> io::Result<()> {
        for field in cell {
            self.page.extend_from_slice(field);
        }
        if self.page.len() as u64 == CELLS_BYTES {
            self.end_page(out)?;
        }
        Ok(())
    }

    /// Length and CRC of all pages.
    pub(crate) fn finish(mut self, out: &mut impl Write) -> io::Result<(u64, u32)> {
        if !self.page.is_empty() {
            self.end_page(out)?;
        }
        Ok((self.len, self.crc.finalize()))
    }

    fn end_page(&mut self, out: &mut impl Write) -> io::Result<()> {
        let crc = crc32fast::hash(&self.page).to_be_bytes();
        self.page.extend_from_slice(&crc);
        self.crc.update(&self.page);
        self.len += self.page.len() as u64;
        out.write_all(&self.page)?;
        self.page.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let rows = [
            (0, 20, Some(0)),
            (4, 20, None),
            (20, 20, None),
            (24, 20, Some(1)),
            (4084, 20, Some(204)),
            (4084, 8, Some(510)),
            (4085, 8, None),
            (4084 + 12, 8, Some(511)),
            (4084 + 13, 8, None),
        ];
        for (len, cell_bytes, count) in rows {
            let pages = Pages::new(7, len, cell_bytes).map(|pages| pages.count);
            assert_eq!(pages, count, "{len} bytes of {cell_bytes}");
        }
    }
}
