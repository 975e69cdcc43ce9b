//! One record in many queues: a message that names topics `%LMQ%...` in INNER_MULTI_DISPATCH lies
//! in queue 0 of each of them too, without a copy.
//!
//! The writer gives it its offsets there and writes them into the record, INNER_MULTI_QUEUE_OFFSET.
//! From then on they are the record's: replay takes them from it, and one that does not follow is
//! damage like any other offset that does not.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use protocol::properties::{self, INNER_MULTI_DISPATCH, INNER_MULTI_QUEUE_OFFSET};
use protocol::record::{Message, Record, TOPIC_BYTES_MAX, takes_queue_offset};
use protocol::topic::{RETRY_PREFIX, SCHEDULE_TOPIC};

use crate::AppendError;

pub(crate) const LMQ_PREFIX: &str = "%LMQ%";
const SYSTEM_PREFIX: &str = "rmq_sys_";
const TARGETS_MAX: usize = 256;

/// The topics into which a message goes besides its own. What it says of its offsets there is not
/// the sender's to say, and is taken out.
pub(crate) fn targets(message: &mut Message, on: bool) -> Result<Vec<Arc<str>>, AppendError> {
    let names_of_both = [INNER_MULTI_DISPATCH, INNER_MULTI_QUEUE_OFFSET];
    let [named, claimed] = properties::get_all(&message.properties, names_of_both);
    let named = named.filter(|_| on && applies(&message.topic, message.sys_flag));
    let targets = named.map(|list| names(list, &message.topic)).transpose()?;
    if claimed.is_some() {
        let rest = properties::remove(&message.properties, INNER_MULTI_QUEUE_OFFSET);
        message.properties = rest.into();
    }
    Ok(targets.unwrap_or_default())
}

/// The properties of a message that lies at these offsets of its targets.
pub(crate) fn with_offsets(properties: &[u8], offsets: &[i64]) -> Bytes {
    let list: Vec<_> = offsets.iter().map(i64::to_string).collect();
    properties::set(properties, INNER_MULTI_QUEUE_OFFSET, &list.join(",")).into()
}

/// Every place of a record: topic, queue and offset, its own before the others.
pub(crate) fn places<'a>(record: &Record<'a>) -> Result<Vec<(&'a str, i32, i64)>, String> {
    if !takes_queue_offset(record.sys_flag) {
        return Ok(Vec::new());
    }
    let mut places = vec![(record.topic, record.queue, record.queue_offset)];
    if !applies(record.topic, record.sys_flag) {
        return Ok(places);
    }
    let Some(offsets) = record.property(INNER_MULTI_QUEUE_OFFSET) else {
        return Ok(places);
    };
    let names = record.property(INNER_MULTI_DISPATCH).unwrap_or_default();
    let (mut names, mut offsets) = (names.split(','), offsets.split(','));
    loop {
        match (names.next(), offsets.next().map(str::parse)) {
            (Some(name), Some(Ok(offset))) => places.push((name, 0, offset)),
            (None, None) => return Ok(places),
            _ => return Err("its topics and its offsets there do not match".into()),
        }
    }
}

/// As in Java: not for what the broker itself moves from topic to topic.
fn applies(topic: &str, sys_flag: i32) -> bool {
    let own = [RETRY_PREFIX, SYSTEM_PREFIX];
    let own = own.iter().any(|prefix| topic.starts_with(prefix)) || topic == SCHEDULE_TOPIC;
    !own && takes_queue_offset(sys_flag)
}

fn names(list: &str, own: &str) -> Result<Vec<Arc<str>>, AppendError> {
    let names: Vec<&str> = list.split(',').collect();
    let valid = |name: &&str| {
        let length = LMQ_PREFIX.len() + 1..=TOPIC_BYTES_MAX;
        name.starts_with(LMQ_PREFIX) && length.contains(&name.len()) && *name != own
    };
    let distinct = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    if names.len() > TARGETS_MAX || !distinct || !names.iter().all(valid) {
        return Err(AppendError::Targets);
    }
    Ok(names.into_iter().map(Arc::from).collect())
}
