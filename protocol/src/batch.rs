//! The body of a batch: messages of one topic and queue, one behind the other
//! (`MessageDecoder.encodeMessage`).
//!
//! Each is, big-endian: size i32 of all of it, magic i32, body CRC i32 (both unused), flag i32,
//! body (i32 length), properties (i16 length).

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use bytes::{Buf, Bytes};

/// One message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub flag: i32,
    pub body: Bytes,
    pub properties: Bytes,
}

/// The bytes are no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message {0} of the batch does not fit its lengths")]
pub struct BatchError(usize);

/// The messages of a batch; they share its bytes.
pub fn decode(mut bytes: Bytes) -> Result<Vec<Part>, BatchError> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let part = part(&mut bytes).ok_or(BatchError(parts.len()))?;
        parts.push(part);
    }
    Ok(parts)
}

fn part(bytes: &mut Bytes) -> Option<Part> {
    let before = bytes.len();
    let size = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
    let _magic = bytes.try_get_i32().ok()?;
    let _crc = bytes.try_get_i32().ok()?;
    let flag = bytes.try_get_i32().ok()?;
    let body_bytes = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
    let body = take(bytes, body_bytes)?;
    let properties_bytes = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
    let properties = take(bytes, properties_bytes)?;
    (before - bytes.len() == size).then_some(Part {
        flag,
        body,
        properties,
    })
}

fn take(bytes: &mut Bytes, count: usize) -> Option<Bytes> {
    (count <= bytes.len()).then(|| bytes.split_to(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"\0\0\0\x1b\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\x02ab\0\x03K\x01v\
        \0\0\0\x17\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01c\0\0";

    #[test]
    fn a_batch_is_its_messages() {
        let part = |flag, body: &'static [u8], properties: &'static [u8]| Part {
            flag,
            body: Bytes::from_static(body),
            properties: Bytes::from_static(properties),
        };
        let two = decode(Bytes::from_static(TWO));
        assert_eq!(two, Ok(vec![part(7, b"ab", b"K\x01v"), part(0, b"c", b"")]));
        assert_eq!(decode(Bytes::new()), Ok(Vec::new()));
    }

    #[test]
    fn every_cut_and_wrong_length_is_refused() {
        for end in 1..TWO.len() {
            let cut = decode(Bytes::from_static(&TWO[..end]));
            let whole = end == 27;
            assert_eq!(cut.is_ok(), whole, "cut at {end}");
        }
        for (at, value, message) in [(3, 0x1c, 0), (0, 0x80, 0), (16, 0xff, 0), (46, 2, 1)] {
            let mut bytes = TWO.to_vec();
            bytes[at] = value;
            assert_eq!(decode(bytes.into()), Err(BatchError(message)), "{at}");
        }
    }
}
