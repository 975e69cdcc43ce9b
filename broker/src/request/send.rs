//! `SEND_MESSAGE_V2`: check, complete the properties, append, answer when it has committed
//! (`SendMessageProcessor.java`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use net::Peer;
use protocol::body::TopicConfig;
use protocol::header::{SendMessage, SendMessageAnswer};
use protocol::record::{Message, PROPERTIES_BYTES_MAX};
use protocol::topic::{self, validate_topic};
use protocol::{Frame, Header as _, Refusal, ResponseCode, properties};
use rand::RngExt as _;
use store::Appended;

use super::{Answer, append_refusal};
use crate::Broker;
use crate::tables::{Change, inherited};

/// Properties of messages that have a destiny other than their topic. Stored as ordinary
/// messages they would reach consumers too early, or at all.
const DESTINIES: &[(&str, &str)] = &[
    (properties::TRAN_MSG, "transactional"),
    (properties::DELAY, "delayed"),
    (properties::TIMER_DELAY_SEC, "timed"),
    (properties::TIMER_DELAY_MS, "timed"),
    (properties::TIMER_DELIVER_MS, "timed"),
];

/// A send that has passed the checks which need no topic.
struct Send {
    received: Instant,
    header: SendMessage,
    request: Frame,
    peer: Arc<Peer>,
}

pub(super) fn send(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = SendMessage::read(&request.fields)?;
    check(broker, &header, &request.body)?;
    let send = Send {
        received: Instant::now(),
        header,
        request: request.clone(),
        peer: Arc::clone(peer),
    };
    let known = broker.tables().topic(&send.header.topic);
    if let Some(topic) = known {
        send.append(broker, &topic);
        return Ok(None);
    }
    let default = broker.tables().topic(&send.header.default_topic);
    let created = default
        .and_then(|default| {
            inherited(
                &send.header.topic,
                &default,
                send.header.default_topic_queues,
            )
        })
        .ok_or_else(|| unknown(&send.header.topic))?;
    tracing::info!(topic = created.topic_name, peer = %peer.address, "created by a send");
    broker.change(
        Change::Topic(created.clone()),
        move |broker, result| match result {
            Ok(()) => send.append(broker, &created),
            Err(refusal) => send.refuse(broker, &refusal),
        },
    );
    Ok(None)
}

fn unknown(topic: &str) -> Refusal {
    let remark = format!("topic[{topic}] not exist, apply first please!");
    Refusal::new(ResponseCode::TopicNotExist, remark)
}

fn check(broker: &Broker, header: &SendMessage, body: &Bytes) -> Result<(), Refusal> {
    let illegal = |remark: String| Err(Refusal::new(ResponseCode::MessageIllegal, remark));
    validate_topic(&header.topic)?;
    if !topic::may_write(&header.topic) {
        let remark = format!("Sending message to topic[{}] is forbidden.", header.topic);
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    if body.is_empty() {
        // Java fails on it with a NullPointerException; so does the code.
        return Err(Refusal::new(
            ResponseCode::SystemError,
            "the message has no body",
        ));
    }
    if header.batch == Some(true) {
        return illegal("a batch needs the code 320".to_owned());
    }
    let text = header.properties.as_deref().unwrap_or_default();
    let body_max = broker.config.properties.max_message_size;
    if body.len() > body_max || text.len() > PROPERTIES_BYTES_MAX {
        return illegal(format!(
            "the message is illegal, maybe msg body or properties length not matched. \
             msg body length limit {body_max}B, msg properties length limit 32KB."
        ));
    }
    for (property, what) in DESTINIES {
        let value = properties::get(text.as_bytes(), property);
        if value.is_some_and(|value| !matches!(value, "0" | "false")) {
            return illegal(format!("{what} messages are not served by this release"));
        }
    }
    Ok(())
}

impl Send {
    /// Appends to a topic that is there, and answers when the message has committed.
    fn append(self, broker: &Arc<Broker>, topic: &TopicConfig) {
        let message = match self.message(broker, topic) {
            Ok(message) => message,
            Err(refusal) => return self.refuse(broker, &refusal),
        };
        let (topic, queue) = (Arc::clone(&message.topic), message.queue);
        let transaction_id =
            properties::get(&message.properties, properties::UNIQ_KEY).map(str::to_owned);
        let broker_then = Arc::clone(broker);
        broker.store.append(
            message,
            Box::new(move |appended| match appended {
                Ok(appended) => {
                    broker_then
                        .metrics
                        .message_in(&topic, appended.bytes as usize);
                    self.answer(&broker_then, queue, &appended, transaction_id);
                }
                Err(error) => self.refuse(&broker_then, &append_refusal(&error)),
            }),
        );
    }

    fn message(&self, broker: &Broker, topic: &TopicConfig) -> Result<Message, Refusal> {
        let header = &self.header;
        if !topic.writable() {
            let remark = format!("the topic[{}] sending message is forbidden", header.topic);
            return Err(Refusal::new(ResponseCode::NoPermission, remark));
        }
        let queues = topic.read_queue_nums.max(topic.write_queue_nums);
        if header.queue >= queues {
            let remark = format!("request queueId[{}] is illegal, {topic:?}", header.queue);
            return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
        }
        let queue = if header.queue < 0 {
            rand::rng().random_range(0..topic.write_queue_nums.max(1))
        } else {
            header.queue
        };
        Ok(Message {
            topic: header.topic.as_str().into(),
            queue,
            flag: header.flag,
            sys_flag: header.sys_flag,
            born_ms: header.born_ms,
            born_host: self.peer.address,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_offset: 0,
            body: self.request.body.clone(),
            properties: self.properties(broker),
        })
    }

    /// The sender's properties and those that the broker adds.
    fn properties(&self, broker: &Broker) -> Bytes {
        let sent = self
            .header
            .properties
            .as_deref()
            .unwrap_or_default()
            .as_bytes();
        // A receipt handle is given out, never sent in.
        let mut all = properties::remove(sent, properties::POP_CK);
        for (name, value) in [
            (
                properties::MSG_REGION,
                broker.config.properties.region_id.as_str(),
            ),
            (properties::TRACE_ON, "true"),
            (properties::CLUSTER, broker.config.cluster.as_str()),
        ] {
            if properties::get(&all, name).is_none() {
                properties::push(&mut all, name, value);
            }
        }
        if properties::get(&all, properties::UNIQ_KEY).is_none() {
            let unique = format!("{:032X}", rand::rng().random::<u128>());
            properties::push(&mut all, properties::UNIQ_KEY, &unique);
        }
        all.into()
    }

    fn answer(
        self,
        broker: &Broker,
        queue: i32,
        appended: &Appended,
        transaction_id: Option<String>,
    ) {
        let mut answer =
            self.request
                .answer(ResponseCode::Success)
                .with_header(&SendMessageAnswer {
                    message_id: appended.message_id(),
                    queue,
                    queue_offset: appended.queue_offset,
                    transaction_id,
                });
        answer
            .fields
            .set(properties::MSG_REGION, &broker.config.properties.region_id);
        answer.fields.set(properties::TRACE_ON, true);
        broker.reply(&self.request, &answer, &self.peer, self.received);
    }

    fn refuse(&self, broker: &Broker, refusal: &Refusal) {
        tracing::debug!(topic = self.header.topic, %refusal, "send refused");
        broker.reply(
            &self.request,
            &refusal.answer(&self.request),
            &self.peer,
            self.received,
        );
    }
}
