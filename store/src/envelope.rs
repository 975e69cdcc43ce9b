//! The frame of the store's small files: magic (8 bytes), version u16, payload, CRC-32 of all
//! that stands before it. Big-endian. The frame itself never changes, so that an older program
//! can tell a newer file from a damaged one.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

/// Why the content of a small file is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Damaged,
    Newer(u16),
}

pub(crate) fn seal(magic: [u8; 8], version: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(payload);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

pub(crate) fn open(magic: [u8; 8], version: u16, bytes: &[u8]) -> Result<Fields<'_>, Refused> {
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(Refused::Damaged)?;
    if crc32fast::hash(covered) != u32::from_be_bytes(*crc) {
        return Err(Refused::Damaged);
    }
    let mut fields = Fields(covered);
    if fields.array() != Some(magic) {
        return Err(Refused::Damaged);
    }
    match fields.u16() {
        Some(found) if found > version => Err(Refused::Newer(found)),
        Some(_) => Ok(fields),
        None => Err(Refused::Damaged),
    }
}

/// What is still unread of a run of bytes; `None` at its end.
#[derive(Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A u16 length and so many bytes of UTF-8.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(usize::from(len))?).ok()
    }
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
