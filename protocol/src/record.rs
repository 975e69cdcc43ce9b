//! One message as the commit log holds it: Apache RocketMQ's record, big-endian.
//!
//! size i32, magic, body CRC, queue, flag, queue offset i64, position i64, system flag, born
//! time i64, born host, store time i64, store host, reconsume times, prepared offset i64, then
//! body (i32 length), topic (length i8 in V1, i16 in V2) and properties (i16 length). A host is
//! 4 or 16 address bytes and an i32 port; bits 4 and 5 of the system flag say which.
//!
//! Invariants: every record we write ends in a property CRC of 20 bytes over all that stands
//! before it, so that a flipped bit anywhere is found; a Java broker's has none as a rule, and then
//! its body's CRC must do. A decoded record fills its bytes exactly. Encoding is
//! done in two steps, so that under the log's lock only offsets and store time are written and
//! two checksums combined.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use crc32fast::Hasher;

use crate::properties;

/// Topic length in one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Topic length in two bytes: topics longer than 127 bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Marks the unused rest of a log file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// A blank record's own size; as much always remains at the end of a log file.
pub const BLANK_BYTES: usize = 8;

pub const BODY_BYTES_MAX: usize = 4 << 20;
/// In the record, with the CRC; a caller's own may have `CRC_BYTES` + 1 less.
pub const PROPERTIES_BYTES_MAX: usize = 32_767;
pub const TOPIC_BYTES_MAX: usize = 255;
pub const RECORD_BYTES_MAX: usize = BODY_BYTES_MAX + (64 << 10);
/// `__CRC32#`, 0x01, ten digits, 0x02.
pub const CRC_BYTES: usize = 20;

/// Bits of the system flag (`MessageSysFlag.java`): the topic's messages have several tags.
pub const MULTI_TAGS: i32 = 1 << 1;
/// The record is several messages in one, for a queue type that is not served.
pub const INNER_BATCH: i32 = 1 << 7;

const TOPIC_V1_BYTES_MAX: usize = 127;
const BORN_HOST_V6: i32 = 1 << 4;
const STORE_HOST_V6: i32 = 1 << 5;
const TRANSACTION_MASK: i32 = 3 << 2;
const PREPARED: i32 = 1 << 2;
pub const COMMITTED: i32 = 2 << 2;
pub const ROLLBACK: i32 = 3 << 2;
const QUEUE_AT: usize = 12;
const QUEUE_OFFSET_AT: usize = 20;
const POSITION_AT: usize = 28;
/// Below it, hashing all again is cheaper than combining.
const COMBINE_BYTES_MIN: usize = 4096;

/// What a caller wants stored.
#[derive(Debug, Clone)]
pub struct Message {
    pub topic: Arc<str>,
    pub queue: i32,
    pub flag: i32,
    pub sys_flag: i32,
    pub born_ms: i64,
    pub born_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_offset: i64,
    pub body: Bytes,
    /// Already encoded; without a CRC.
    pub properties: Bytes,
}

/// A record that still lacks its offsets and store time.
#[derive(Debug)]
pub struct Encoded {
    bytes: Vec<u8>,
    store_ms_at: usize,
    /// Of the bytes between the store time and the CRC.
    tail: Hasher,
}

/// A verified record, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub queue: i32,
    pub flag: i32,
    pub queue_offset: i64,
    pub position: u64,
    pub sys_flag: i32,
    pub born_ms: i64,
    pub born_host: SocketAddr,
    pub store_ms: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_offset: i64,
    pub body: &'a [u8],
    pub topic: &'a str,
    /// Without the CRC.
    pub properties: &'a [u8],
    /// Whether a CRC of the whole record stood at its end. Only a record that another broker
    /// wrote may lack it.
    pub sealed: bool,
}

/// What the first eight bytes at a place of the log announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A record of so many bytes.
    Record(usize),
    /// Nothing more up to the end of the file, which is so many bytes away.
    Blank(usize),
}

/// The sender's fault; nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the body has {0} bytes, more than {BODY_BYTES_MAX}")]
    BodyTooLarge(usize),
    #[error("the properties need {0} bytes, more than {PROPERTIES_BYTES_MAX}")]
    PropertiesTooLarge(usize),
    #[error("the topic has {0} bytes, not 1 to {TOPIC_BYTES_MAX}")]
    TopicLength(usize),
}

/// The bytes are no intact record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the bytes end inside the record")]
    Truncated,
    #[error("magic {0:#010x} is no record's")]
    Magic(u32),
    #[error("a length field does not fit the record's size {0}")]
    Length(usize),
    #[error("a port, position or topic is not one")]
    Field,
    #[error("the body does not match its CRC")]
    BodyCrc,
    #[error("the record does not match its CRC")]
    RecordCrc,
}

impl Message {
    /// The record's bytes but for offsets and store time, which `Encoded::place` adds.
    pub fn encode(&self, store_host: SocketAddr) -> Result<Encoded, EncodeError> {
        let topic = self.topic.as_bytes();
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
            return Err(EncodeError::TopicLength(topic.len()));
        }
        if self.body.len() > BODY_BYTES_MAX {
            return Err(EncodeError::BodyTooLarge(self.body.len()));
        }
        let close = self
            .properties
            .last()
            .is_some_and(|last| *last != properties::VALUE_END);
        let properties_bytes = self.properties.len() + usize::from(close) + CRC_BYTES;
        if properties_bytes > PROPERTIES_BYTES_MAX {
            return Err(EncodeError::PropertiesTooLarge(properties_bytes));
        }
        let v2 = topic.len() > TOPIC_V1_BYTES_MAX;
        let fixed = 84 + host_extra(self.born_host) + host_extra(store_host);
        let topic_bytes = 1 + usize::from(v2) + topic.len();
        let size = fixed + 4 + self.body.len() + topic_bytes + 2 + properties_bytes;

        let mut out = Vec::with_capacity(size);
        put(&mut out, (size as u32).to_be_bytes());
        put(&mut out, if v2 { MAGIC_V2 } else { MAGIC_V1 }.to_be_bytes());
        put(&mut out, body_crc(&self.body).to_be_bytes());
        put(&mut out, self.queue.to_be_bytes());
        put(&mut out, self.flag.to_be_bytes());
        put(&mut out, [0; 16]);
        let hosts = host_flag(self.born_host, BORN_HOST_V6) | host_flag(store_host, STORE_HOST_V6);
        let sys_flag = self.sys_flag & !(BORN_HOST_V6 | STORE_HOST_V6) | hosts;
        put(&mut out, sys_flag.to_be_bytes());
        put(&mut out, self.born_ms.to_be_bytes());
        put_host(&mut out, self.born_host);
        let store_ms_at = out.len();
        put(&mut out, [0; 8]);
        put_host(&mut out, store_host);
        put(&mut out, self.reconsume_times.to_be_bytes());
        put(&mut out, self.prepared_offset.to_be_bytes());
        put(&mut out, (self.body.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.body);
        if v2 {
            put(&mut out, (topic.len() as u16).to_be_bytes());
        } else {
            out.push(topic.len() as u8);
        }
        out.extend_from_slice(topic);
        put(&mut out, (properties_bytes as u16).to_be_bytes());
        out.extend_from_slice(&self.properties);
        if close {
            out.push(properties::VALUE_END);
        }
        let mut tail = Hasher::new();
        if out.len() >= COMBINE_BYTES_MIN {
            tail.update(out.get(store_ms_at + 8..).unwrap_or_default());
        }
        put(&mut out, [0; CRC_BYTES]);
        debug_assert_eq!(out.len(), size);
        Ok(Encoded {
            bytes: out,
            store_ms_at,
            tail,
        })
    }
}

impl Encoded {
    /// The record's size; it does not change any more.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Writes where and when the record is stored, and its CRC; the bytes are then complete.
    pub fn place(&mut self, queue_offset: i64, position: u64, store_ms: i64) -> &[u8] {
        patch(
            &mut self.bytes,
            QUEUE_OFFSET_AT,
            &queue_offset.to_be_bytes(),
        );
        patch(&mut self.bytes, POSITION_AT, &position.to_be_bytes());
        patch(&mut self.bytes, self.store_ms_at, &store_ms.to_be_bytes());
        let covered = self.bytes.len() - CRC_BYTES;
        let mut hasher = Hasher::new();
        if covered >= COMBINE_BYTES_MIN {
            hasher.update(self.bytes.get(..self.store_ms_at + 8).unwrap_or_default());
            hasher.combine(&self.tail);
        } else {
            hasher.update(self.bytes.get(..covered).unwrap_or_default());
        }
        patch(&mut self.bytes, covered, &crc_property(hasher.finalize()));
        &self.bytes
    }
}

/// What the first bytes of a record say, unverified: its length, its queue and its offset there.
pub fn size_queue_and_offset(record: &[u8]) -> Option<(usize, i32, i64)> {
    let size = u32::from_be_bytes(*record.first_chunk()?);
    let queue = i32::from_be_bytes(*record.get(QUEUE_AT..)?.first_chunk()?);
    let offset = i64::from_be_bytes(*record.get(QUEUE_OFFSET_AT..)?.first_chunk()?);
    Some((size as usize, queue, offset))
}

impl<'a> Record<'a> {
    /// Reads `bytes` as exactly one record and verifies all of it, or just the body where the
    /// record is not `sealed`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(bytes, true)
    }

    /// As `decode`, of bytes that were verified before.
    pub fn decode_known(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(bytes, false)
    }

    fn read(bytes: &'a [u8], verify: bool) -> Result<Self, DecodeError> {
        let size = bytes.len();
        let mut fields = Fields(bytes);
        if fields.u32()? as usize != size {
            return Err(DecodeError::Length(size));
        }
        let v2 = match fields.u32()? {
            MAGIC_V1 => false,
            MAGIC_V2 => true,
            other => return Err(DecodeError::Magic(other)),
        };
        let (covered, crc) = bytes
            .split_last_chunk::<CRC_BYTES>()
            .ok_or(DecodeError::Truncated)?;
        let sealed = crc.starts_with(b"__CRC32#\x01");
        if verify && sealed && *crc != crc_property(crc32fast::hash(covered)) {
            return Err(DecodeError::RecordCrc);
        }
        let crc = fields.u32()?;
        let (queue, flag) = (fields.i32()?, fields.i32()?);
        let (queue_offset, position) = (fields.i64()?, fields.i64()?);
        let (sys_flag, born_ms) = (fields.i32()?, fields.i64()?);
        let born_host = fields.host(sys_flag & BORN_HOST_V6 != 0)?;
        let store_ms = fields.i64()?;
        let store_host = fields.host(sys_flag & STORE_HOST_V6 != 0)?;
        let (reconsume_times, prepared_offset) = (fields.i32()?, fields.i64()?);
        let body_bytes = fields.u32()? as usize;
        let body = fields.take(body_bytes)?;
        // That of the whole record covers the body too; Java looks at the CRC of a body that is
        // there.
        if verify && !sealed && !body.is_empty() && body_crc(body) != crc {
            return Err(DecodeError::BodyCrc);
        }
        let topic_bytes = if v2 {
            fields.u16()?
        } else {
            u16::from(fields.array::<1>()?[0])
        };
        let topic = fields.take(usize::from(topic_bytes))?;
        let properties_bytes = usize::from(fields.u16()?);
        let mut properties = fields.take(properties_bytes)?;
        if !fields.0.is_empty() || topic.is_empty() {
            return Err(DecodeError::Length(size));
        }
        if sealed {
            (properties, _) = properties
                .split_last_chunk::<CRC_BYTES>()
                .ok_or(DecodeError::Length(size))?;
        }
        Ok(Self {
            queue,
            flag,
            queue_offset,
            position: u64::try_from(position).map_err(|_| DecodeError::Field)?,
            sys_flag,
            born_ms,
            born_host,
            store_ms,
            store_host,
            reconsume_times,
            prepared_offset,
            body,
            topic: std::str::from_utf8(topic).map_err(|_| DecodeError::Field)?,
            properties,
            sealed,
        })
    }

    /// The message, to be stored anew in another place; `stored` holds this record's bytes.
    pub fn message(&self, stored: &Bytes, topic: &str, queue: i32) -> Message {
        Message {
            topic: topic.into(),
            queue,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_ms: self.born_ms,
            born_host: self.born_host,
            reconsume_times: self.reconsume_times,
            prepared_offset: 0,
            body: stored.slice_ref(self.body),
            properties: stored.slice_ref(self.properties),
        }
    }

    /// One property's value.
    pub fn property(&self, name: &str) -> Option<&'a str> {
        properties::get(self.properties, name)
    }

    /// From when on the delay of a delayed message counts, Unix time in ms.
    pub fn delayed_since_ms(&self) -> i64 {
        let original = self.property(properties::STORED_MS);
        let original = original.and_then(|ms| ms.parse().ok());
        original.unwrap_or(self.store_ms)
    }
}

/// Reads the first bytes at a place of the log; `None` where neither record nor blank starts.
pub fn head(bytes: [u8; BLANK_BYTES]) -> Option<Head> {
    let word = u64::from_be_bytes(bytes);
    let size = (word >> 32) as usize;
    match word as u32 {
        MAGIC_V1 | MAGIC_V2 if size <= RECORD_BYTES_MAX => Some(Head::Record(size)),
        MAGIC_BLANK => Some(Head::Blank(size)),
        _ => None,
    }
}

/// The record that fills the rest of a file; what follows its eight bytes is not looked at.
pub fn blank(remaining: u32) -> [u8; BLANK_BYTES] {
    (u64::from(remaining) << 32 | u64::from(MAGIC_BLANK)).to_be_bytes()
}

/// Whether a record takes a place in its queue: prepared and rolled-back ones do not.
pub fn takes_queue_offset(sys_flag: i32) -> bool {
    !matches!(sys_flag & TRANSACTION_MASK, PREPARED | ROLLBACK)
}

/// The system flag of a record that is part of no transaction.
pub fn without_transaction(sys_flag: i32) -> i32 {
    sys_flag & !TRANSACTION_MASK
}

/// Whether a record is or was part of a transaction.
pub fn is_transactional(sys_flag: i32) -> bool {
    sys_flag & TRANSACTION_MASK != 0
}

/// Whether the record ends a transaction that came to nothing; such a record has no keys.
pub fn is_rolled_back(sys_flag: i32) -> bool {
    sys_flag & TRANSACTION_MASK == ROLLBACK
}

fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// Ten decimal digits, the least significant first, as Java writes them.
fn crc_property(crc: u32) -> [u8; CRC_BYTES] {
    let mut out = *b"__CRC32#\x010000000000\x02";
    let mut rest = crc & 0x7FFF_FFFF;
    for digit in out.iter_mut().skip(properties::CRC32.len() + 1).take(10) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out
}

fn host_extra(host: SocketAddr) -> usize {
    if host.is_ipv6() { 12 } else { 0 }
}

fn host_flag(host: SocketAddr, flag: i32) -> i32 {
    if host.is_ipv6() { flag } else { 0 }
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

fn put_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(ip) => put(out, ip.octets()),
        IpAddr::V6(ip) => put(out, ip.octets()),
    }
    put(out, i32::from(host.port()).to_be_bytes());
}

fn patch(bytes: &mut [u8], at: usize, value: &[u8]) {
    let place = bytes.get_mut(at..at + value.len());
    debug_assert!(
        place.is_some(),
        "a patch lies inside the record that was encoded"
    );
    if let Some(place) = place {
        place.copy_from_slice(value);
    }
}

/// What is still unread of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    fn host(&mut self, v6: bool) -> Result<SocketAddr, DecodeError> {
        let ip: IpAddr = if v6 {
            Ipv6Addr::from(self.array::<16>()?).into()
        } else {
            Ipv4Addr::from(self.array::<4>()?).into()
        };
        let port = u16::try_from(self.i32()?).map_err(|_| DecodeError::Field)?;
        Ok(SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
mod tests;
