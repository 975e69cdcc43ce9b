//! What a start finds of transactions in the log: from the group's offsets on, all half messages,
//! and then all op records. Half messages are stored again while they wait, so that is not more
//! than has come since the last checks.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use protocol::record::Record;
use protocol::topic::{HALF_TOPIC, OP_TOPIC, TRANSACTION_GROUP};
use store::{ReadError, ReadLimits, ReadStatus, Store, Wait};

use super::{Halves, named, root};
use crate::tables::Tables;

const LIMITS: ReadLimits = ReadLimits {
    messages_max: 1_024,
    bytes_max: 4 << 20,
    scan_max: 1_024,
};

pub(crate) fn load(store: &Store, tables: &Tables) -> Result<Halves, ReadError> {
    let first = |topic: &str| {
        let range = store.range(topic, 0).unwrap_or_default();
        let done = tables.offset(topic, TRANSACTION_GROUP, 0);
        done.unwrap_or_default().clamp(range.min, range.max)
    };
    let (next, next_op) = (first(HALF_TOPIC), first(OP_TOPIC));
    let mut halves = Halves::new(next, next_op);
    each(store, HALF_TOPIC, next, &mut |half| {
        halves.found(half.queue_offset, root(half));
    })?;
    each(store, OP_TOPIC, next_op, &mut |op| {
        halves.found_op(op.queue_offset, named(op).into_iter());
    })?;
    Ok(halves)
}

fn each(
    store: &Store,
    topic: &str,
    mut from: i64,
    see: &mut dyn FnMut(&Record<'_>),
) -> Result<(), ReadError> {
    loop {
        let read = match store.read(topic, 0, from, &LIMITS, &mut |_| true, Wait::ForDisk) {
            // The checks find it again, and say so.
            Err(ReadError::Corrupt { .. }) => {
                from += 1;
                continue;
            }
            read => read?,
        };
        match read.status {
            ReadStatus::Found => {}
            // Retention was faster.
            ReadStatus::TooSmall | ReadStatus::Gone if read.next > from => {}
            _ => return Ok(()),
        }
        for stored in &read.records {
            if let Ok(record) = Record::decode(stored) {
                see(&record);
            }
        }
        from = read.next;
    }
}
