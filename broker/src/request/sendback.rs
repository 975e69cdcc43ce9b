//! `CONSUMER_SEND_MSG_BACK`: a message that could not be consumed comes again after a delay, or
//! goes to the group's dead letters (`AbstractSendMessageProcessor.java`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use net::Peer;
use protocol::body::{SubscriptionGroupConfig, TopicConfig};
use protocol::code::VERSION_MAX_RECONSUME_TIMES;
use protocol::header::SendMessageBack;
use protocol::record::{Message, Record};
use protocol::topic::{dlq_topic, retry_topic};
use protocol::{Frame, Header as _, Refusal, ResponseCode, message_id, properties};
use rand::RngExt as _;

use super::{Answer, append_refusal};
use crate::Broker;
use crate::tables::Change;

/// The delay level of a first retry; each further one waits a level longer.
const FIRST_DELAY_LEVEL: i32 = 3;

struct Back {
    received: Instant,
    header: SendMessageBack,
    request: Frame,
    peer: Arc<Peer>,
}

pub(super) fn send_back(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = SendMessageBack::read(&request.fields)?;
    let missing = broker.missing(&header.group);
    let back = Back {
        received: Instant::now(),
        header,
        request: request.clone(),
        peer: Arc::clone(peer),
    };
    if missing.is_empty() {
        back.look_up(broker);
        return Ok(None);
    }
    broker.change(missing, move |broker, result| match result {
        Ok(()) => back.look_up(broker),
        Err(refusal) => back.answer(broker, Err(refusal)),
    });
    Ok(None)
}

pub(super) fn unknown_group(group: &str) -> Refusal {
    let remark = format!("subscription group not exist, {group}");
    Refusal::new(ResponseCode::SubscriptionGroupNotExist, remark)
}

/// The topic of a group's dead letters, where it is not yet there.
pub(super) fn missing_dlq(broker: &Broker, group: &str) -> Option<Change> {
    let name = dlq_topic(group);
    if broker.tables().topic(&name).is_some() {
        return None;
    }
    tracing::info!(topic = name, "created for the first dead letter");
    Some(Change::Topic(TopicConfig {
        topic_name: name,
        read_queue_nums: 1,
        write_queue_nums: 1,
        ..TopicConfig::default()
    }))
}

impl Back {
    /// Reads the message, which may need the disk.
    fn look_up(self, broker: &Arc<Broker>) {
        let broker_then = Arc::clone(broker);
        broker.runtime.spawn_blocking(move || {
            let broker = broker_then;
            match self.message(&broker) {
                Ok(Some(message)) => self.store(&broker, message),
                Ok(None) => self.answer(&broker, Ok(())),
                Err(refusal) => self.answer(&broker, Err(refusal)),
            }
        });
    }

    /// The message as it is to be stored; none where the group wants no retries.
    fn message(&self, broker: &Broker) -> Result<Option<Message>, Refusal> {
        let header = &self.header;
        let group = broker.tables().group(&header.group);
        let group = group.ok_or_else(|| unknown_group(&header.group))?;
        if group.retry_queue_nums <= 0 {
            return Ok(None);
        }
        let retry = broker.tables().topic(&retry_topic(&header.group));
        if retry.is_some_and(|retry| !retry.writable()) {
            let name = retry_topic(&header.group);
            let remark = format!("the topic[{name}] sending message is forbidden");
            return Err(Refusal::new(ResponseCode::NoPermission, remark));
        }
        let error = |remark: String| Refusal::new(ResponseCode::SystemError, remark);
        let gone = || {
            error(format!(
                "look message by offset failed, {}",
                header.position
            ))
        };
        let position = u64::try_from(header.position).map_err(|_| gone())?;
        let stored = broker.store.record_at(position);
        let stored = stored.map_err(|e| error(e.to_string()))?.ok_or_else(gone)?;
        let record = Record::decode(&stored).map_err(|e| error(e.to_string()))?;
        let says_so = self.request.version >= VERSION_MAX_RECONSUME_TIMES;
        let max = header.max_reconsume_times.filter(|_| says_so);
        let max = max.unwrap_or(group.retry_max_times);
        let level = retry_level(record.reconsume_times, max, header.delay_level);
        if level.is_none() {
            let origin = header.origin_topic.as_deref().unwrap_or(record.topic);
            broker.metrics.dead_letter(origin, &header.group);
        }
        let levels = &broker.config.properties.message_delay_level;
        let message = returned(&record, &stored, &group, level);
        levels.redirect(message).map(Some)
    }

    fn store(self, broker: &Arc<Broker>, message: Message) {
        let dlq = (*message.topic == *dlq_topic(&self.header.group))
            .then(|| missing_dlq(broker, &self.header.group));
        match dlq.flatten() {
            None => self.append(broker, message),
            Some(missing) => broker.change(vec![missing], move |broker, result| match result {
                Ok(()) => self.append(broker, message),
                Err(refusal) => self.answer(broker, Err(refusal)),
            }),
        }
    }

    fn append(self, broker: &Arc<Broker>, message: Message) {
        let (topic, broker_then) = (Arc::clone(&message.topic), Arc::clone(broker));
        let done = move |appended: Result<store::Appended, _>| {
            let stored = appended.map(|appended| {
                let bytes = appended.bytes as usize;
                broker_then.metrics.sent_back(&topic, bytes);
            });
            self.answer(&broker_then, stored.map_err(|error| append_refusal(&error)));
        };
        broker.delays.append(&broker.store, message, Box::new(done));
    }

    fn answer(&self, broker: &Broker, result: Result<(), Refusal>) {
        let answer = match result {
            Ok(()) => self.request.answer(ResponseCode::Success),
            Err(refusal) => {
                tracing::debug!(group = self.header.group, %refusal, "send back refused");
                refusal.answer(&self.request)
            }
        };
        broker.reply(&self.request, &answer, &self.peer, self.received);
    }
}

/// The delay level of the next attempt; none when the message is given up.
fn retry_level(reconsume_times: i32, max: i32, wanted: i32) -> Option<i32> {
    if wanted < 0 || reconsume_times >= max {
        return None;
    }
    let next = FIRST_DELAY_LEVEL.saturating_add(reconsume_times);
    Some(if wanted == 0 { next } else { wanted })
}

/// The message of a record for the group's retry topic, or for its dead letters.
fn returned(
    record: &Record<'_>,
    stored: &Bytes,
    group: &SubscriptionGroupConfig,
    level: Option<i32>,
) -> Message {
    let name = &group.group_name;
    let (topic, queue) = match level {
        Some(_) => {
            let queue = rand::rng().random_range(0..group.retry_queue_nums.max(1));
            (retry_topic(name), queue)
        }
        None => (dlq_topic(name), 0),
    };
    let mut all = record.properties.to_vec();
    let blank = |name| {
        let value = record.property(name);
        value.is_none_or(|value| value.trim().is_empty())
    };
    if record.property(properties::RETRY_TOPIC).is_none() {
        all = properties::set(&all, properties::RETRY_TOPIC, record.topic);
    }
    if blank(properties::ORIGIN_MESSAGE_ID) {
        let id = message_id::encode(record.store_host, record.position);
        all = properties::set(&all, properties::ORIGIN_MESSAGE_ID, &id);
    }
    all = properties::set(&all, properties::WAIT, "false");
    let level = level.unwrap_or(0).to_string();
    all = properties::set(&all, properties::DELAY, &level);
    Message {
        reconsume_times: record.reconsume_times.saturating_add(1),
        properties: all.into(),
        ..record.message(stored, &topic, queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_wait_longer_and_end() {
        for (reconsumed, max, wanted, level) in [
            (0, 16, 0, Some(3)),
            (1, 16, 0, Some(4)),
            (15, 16, 0, Some(18)),
            (16, 16, 0, None),
            (17, 16, 5, None),
            (0, 16, 5, Some(5)),
            (3, 16, -1, None),
            (0, 0, 0, None),
            (0, -1, 0, None),
            (40, 100, 0, Some(43)),
        ] {
            let found = retry_level(reconsumed, max, wanted);
            assert_eq!(found, level, "{reconsumed} of {max}, {wanted}");
        }
    }

    #[test]
    fn a_returned_message_knows_where_it_came_from() {
        let group = SubscriptionGroupConfig {
            group_name: "g".into(),
            ..SubscriptionGroupConfig::default()
        };
        let origin = "0A00000200002A9F0000000000000400";
        let rows = [
            ("T", "TAGS\u{1}a", Some(3), ("T", origin), "%RETRY%g"),
            (
                "T",
                "ORIGIN_MESSAGE_ID\u{1} ",
                None,
                ("T", origin),
                "%DLQ%g",
            ),
            (
                "%RETRY%g",
                "RETRY_TOPIC\u{1}T\u{2}ORIGIN_MESSAGE_ID\u{1}first\u{2}DELAY\u{1}3\u{2}",
                Some(4),
                ("T", "first"),
                "%RETRY%g",
            ),
        ];
        for (topic, sent, level, (retry_of, id), goes_to) in rows {
            let message = Message {
                topic: topic.into(),
                queue: 2,
                flag: 7,
                sys_flag: 1,
                born_ms: 5,
                born_host: ([10, 0, 0, 1], 9).into(),
                reconsume_times: 1,
                prepared_offset: 0,
                body: Bytes::from_static(b"x"),
                properties: Bytes::from_static(sent.as_bytes()),
            };
            let encoded = message.encode(([10, 0, 0, 2], 10_911).into());
            let mut encoded = encoded.expect("encodes");
            let stored = Bytes::copy_from_slice(encoded.place(0, 1024, 9));
            let record = Record::decode(&stored).expect("a record");
            let back = returned(&record, &stored, &group, level);
            assert_eq!((&*back.topic, back.queue), (goes_to, 0), "{sent}");
            assert_eq!((back.reconsume_times, back.flag, back.born_ms), (2, 7, 5));
            let get = |name| properties::get(&back.properties, name);
            assert_eq!(get("RETRY_TOPIC"), Some(retry_of));
            assert_eq!(get("ORIGIN_MESSAGE_ID"), Some(id));
            assert_eq!(get("WAIT"), Some("false"));
            assert_eq!(get("DELAY"), Some(&*level.unwrap_or(0).to_string()));
        }
    }
}
