//! Takes back what nobody has acknowledged in time: it goes to the group's retry topic, from where
//! it is popped again (`PopReviveService.java`).
//!
//! A flight ends when its message has committed there. A crash in between makes a duplicate, never
//! a loss.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashSet;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::body::TopicConfig;
use protocol::properties;
use protocol::receipt::Origin;
use protocol::record::{Message, Record};
use protocol::topic::pop_retry_topic;
use store::{ReadError, ReadLimits, Wait};
use tokio_util::sync::CancellationToken;

use super::Lane;
use super::flights::Flight;
use crate::Broker;
use crate::process::unix_ms;
use crate::tables::Change;

const FAR: Duration = Duration::from_hours(1);
/// Of one pass, so that a stop waits for no more than these.
const REVIVED_MAX: usize = 512;
const REVIVED_BYTES_MAX: usize = 8 << 20;
/// What is not stored by then stays in flight, and is tried again.
const STORED_MAX: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A flight that has ended.
type Ended = (Arc<Lane>, i64, Flight);

/// Until `stop`.
pub(crate) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut failed = false;
    loop {
        let end_ms = broker.tables().first_end_ms();
        let left = end_ms.map_or(FAR, |ms| {
            let left = ms.saturating_sub(unix_ms()).max(0);
            Duration::from_millis(left as u64).min(FAR)
        });
        let pause = if failed { RETRY_AFTER } else { left };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = broker.waiting.pops.launched.notified(), if !failed => {}
            () = stop.cancelled() => return,
        }
        let owner = Arc::clone(&broker);
        let passed = tokio::task::spawn_blocking(move || pass(&owner, unix_ms()));
        failed = !passed.await.unwrap_or(false);
    }
}

/// Takes back what is due; `false` when some of it could not be. Waits for the disk.
pub(crate) fn pass(broker: &Arc<Broker>, now_ms: i64) -> bool {
    let freed = broker.tables_mut().orders.take_freed(now_ms);
    for lane in freed {
        broker.waiting.pops.waiting.mark_lane(&lane);
    }
    let ended = broker.tables().flights.ended(now_ms, REVIVED_MAX);
    if ended.is_empty() {
        return true;
    }
    match revive(broker, ended) {
        Ok(all) => all,
        Err(error) => {
            tracing::warn!(error, "popped messages can't be taken back");
            false
        }
    }
}

fn revive(broker: &Arc<Broker>, ended: Vec<Ended>) -> Result<bool, String> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for ended in ended {
        if bytes >= REVIVED_BYTES_MAX {
            break;
        }
        match message(broker, &ended).map_err(|error| error.to_string())? {
            Some(message) => {
                bytes += message.body.len();
                messages.push((ended, message));
            }
            None => end(broker, &ended),
        }
    }
    create_topics(broker, &messages)?;
    let (sender, receiver) = mpsc::channel();
    let count = messages.len();
    for (ended, message) in messages {
        let (sender, owner) = (sender.clone(), Arc::clone(broker));
        let topic = Arc::clone(&message.topic);
        let done = move |appended: Result<store::Appended, store::AppendError>| {
            let stored = appended.map(|appended| {
                end(&owner, &ended);
                owner.metrics.sent_back(&topic, appended.bytes as usize);
            });
            let _ = sender.send(stored.map_err(|error| error.to_string()));
        };
        broker.store.append(message, Box::new(done));
    }
    let deadline = Instant::now() + STORED_MAX;
    for _ in 0..count {
        let left = deadline.saturating_duration_since(Instant::now());
        let stored = receiver.recv_timeout(left);
        stored.map_err(|error| error.to_string())??;
    }
    Ok(true)
}

fn end(broker: &Broker, (lane, offset, flight): &Ended) {
    let mut tables = broker.tables_mut();
    tables.flights.end(lane, *offset, flight.pop_ms);
    drop(tables);
    broker.offsets_dirty.notify_one();
}

/// The message of a flight for the retry topic; none where it, its topic or its group is no more.
fn message(broker: &Broker, (lane, offset, flight): &Ended) -> Result<Option<Message>, ReadError> {
    if broker.tables().group(&lane.group).is_none() {
        return Ok(None);
    }
    let one = ReadLimits {
        messages_max: 1,
        bytes_max: 1,
        scan_max: 1,
    };
    let any = &mut |_| true;
    let read = broker
        .store
        .read(&lane.topic, lane.queue, *offset, &one, any, Wait::ForDisk)?;
    let stored = read.records.first();
    Ok(stored.and_then(|stored| revived(stored, lane, *flight, broker.config.store_host)))
}

fn revived(
    stored: &Bytes,
    lane: &Lane,
    flight: Flight,
    host: std::net::SocketAddr,
) -> Option<Message> {
    let record = Record::decode_known(stored).ok()?;
    let topic = match Origin::of(&lane.topic) {
        Origin::Normal => pop_retry_topic(&lane.topic, &lane.group),
        Origin::RetryV1 | Origin::RetryV2 => lane.topic.clone(),
    };
    let mut message = Message {
        born_host: host,
        reconsume_times: record.reconsume_times.saturating_add(1),
        ..record.message(stored, &topic, 0)
    };
    let popped = properties::FIRST_POP_TIME;
    if record.reconsume_times == 0 || record.property(popped).is_none() {
        let ms = flight.pop_ms.to_string();
        message.properties = properties::set(record.properties, popped, &ms).into();
    }
    Some(message)
}

/// The retry topics that are not yet there. Waits until they have committed.
fn create_topics(broker: &Arc<Broker>, messages: &[(Ended, Message)]) -> Result<(), String> {
    let names: HashSet<&str> = messages.iter().map(|(_, one)| &*one.topic).collect();
    let missing: Vec<Change> = {
        let tables = broker.tables();
        let missing = names
            .into_iter()
            .filter(|name| tables.topic(name).is_none());
        let config = |name: &str| TopicConfig {
            topic_name: name.to_owned(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            ..TopicConfig::default()
        };
        missing.map(|name| Change::Topic(config(name))).collect()
    };
    if missing.is_empty() {
        return Ok(());
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    broker.change(missing, move |_, written| {
        let _ = sender.send(written.map_err(|refusal| refusal.to_string()));
    });
    let written = receiver.recv_timeout(STORED_MAX);
    written.map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_one_that_was_tried() {
        let host = ([10, 0, 0, 2], 10_911).into();
        let flight = Flight {
            pop_ms: 77,
            until_ms: 99,
        };
        for (topic, times, sent, goes_to, first) in [
            ("T", 0, "", "%RETRY%g_T", "77"),
            ("T", 0, "1ST_POP_TIME\u{1}5\u{2}", "%RETRY%g_T", "77"),
            (
                "%RETRY%g_T",
                1,
                "1ST_POP_TIME\u{1}5\u{2}",
                "%RETRY%g_T",
                "5",
            ),
            ("%RETRY%g+T", 2, "", "%RETRY%g+T", "77"),
        ] {
            let message = Message {
                topic: topic.into(),
                queue: 2,
                flag: 7,
                sys_flag: 1,
                born_ms: 5,
                born_host: ([10, 0, 0, 1], 9).into(),
                reconsume_times: times,
                prepared_offset: 0,
                body: Bytes::from_static(b"x"),
                properties: Bytes::from(format!("TAGS\u{1}a\u{2}{sent}")),
            };
            let mut encoded = message.encode(host).expect("encodes");
            let stored = Bytes::copy_from_slice(encoded.place(0, 1_024, 9));
            let lane = Lane {
                topic: topic.into(),
                group: "g".into(),
                queue: 2,
            };
            let back = revived(&stored, &lane, flight, host).expect("a record");
            assert_eq!((&*back.topic, back.queue), (goes_to, 0));
            assert_eq!((back.reconsume_times, back.flag), (times + 1, 7));
            assert_eq!((back.born_ms, back.born_host), (5, host));
            let get = |name| properties::get(&back.properties, name);
            assert_eq!((get("TAGS"), get("1ST_POP_TIME")), (Some("a"), Some(first)));
        }
    }
}
