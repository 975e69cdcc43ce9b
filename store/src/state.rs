//! State records: what a broker must not forget, as records of its own log.
//!
//! They are normal records on `rmq_sys_gantry_state`, queue 0. The body is a version byte and
//! then entries `{kind u8, length u32, payload}`, big-endian. Kind 1 is the epoch; the kinds from
//! 2 on are the broker's. An unknown kind is handed on as it is, an unknown version is an error.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use crate::Flush;

pub const TOPIC: &str = "rmq_sys_gantry_state";
pub const VERSION: u8 = 1;
pub const KIND_EPOCH: u8 = 1;

/// One entry of a state record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub kind: u8,
    pub payload: &'a [u8],
}

/// The body is no state record of a known version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("state record version {0} is unknown; this is version {VERSION}")]
    Version(u8),
    #[error("the state record is cut short")]
    Truncated,
}

/// The first record of every epoch: who writes from here on, and what is required of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    pub epoch: u64,
    pub store_id: [u8; 16],
    /// Where the epoch's first record, this one, lies.
    pub start: u64,
    pub in_sync: Vec<[u8; 16]>,
    /// 1: acknowledged by this store alone.
    pub replication: u8,
    pub flush: Flush,
    pub format: u16,
}

/// The body of a state record.
pub fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = vec![VERSION];
    for entry in entries {
        out.push(entry.kind);
        out.extend_from_slice(&(entry.payload.len() as u32).to_be_bytes());
        out.extend_from_slice(entry.payload);
    }
    out
}

/// The entries of a state record's body.
pub fn decode(body: &[u8]) -> Result<Vec<Entry<'_>>, StateError> {
    let (version, mut rest) = body.split_first().ok_or(StateError::Truncated)?;
    if *version != VERSION {
        return Err(StateError::Version(*version));
    }
    let mut entries = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        let (len, after) = after
            .split_first_chunk::<4>()
            .ok_or(StateError::Truncated)?;
        let len = u32::from_be_bytes(*len) as usize;
        let (payload, after) = after.split_at_checked(len).ok_or(StateError::Truncated)?;
        entries.push(Entry {
            kind: *kind,
            payload,
        });
        rest = after;
    }
    Ok(entries)
}

impl Epoch {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.store_id);
        out.extend_from_slice(&self.start.to_be_bytes());
        out.extend_from_slice(&(self.in_sync.len() as u16).to_be_bytes());
        for id in &self.in_sync {
            out.extend_from_slice(id);
        }
        out.push(self.replication);
        out.push(self.flush.code());
        out.extend_from_slice(&self.format.to_be_bytes());
        out
    }

    pub fn decode(payload: &[u8]) -> Result<Self, StateError> {
        let mut fields = crate::envelope::Fields(payload);
        let mut read = || {
            let epoch = fields.u64()?;
            let store_id = fields.array()?;
            let start = fields.u64()?;
            let members = fields.u16()?;
            let in_sync = (0..members)
                .map(|_| fields.array())
                .collect::<Option<_>>()?;
            let replication = fields.u8()?;
            let flush = Flush::from_code(fields.u8()?)?;
            let format = fields.u16()?;
            Some(Self {
                epoch,
                store_id,
                start,
                in_sync,
                replication,
                flush,
                format,
            })
        };
        read().ok_or(StateError::Truncated)
    }
}
