//! Sends: check, complete the properties, append, answer when it has committed
//! (`SendMessageProcessor.java`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use net::Peer;
use protocol::body::{SubscriptionGroupConfig, TopicConfig, TopicFilterType};
use protocol::code::VERSION_MAX_RECONSUME_TIMES;
use protocol::header::{SendMessage, SendMessageAnswer};
use protocol::record::{self, Message, PROPERTIES_BYTES_MAX};
use protocol::topic::{
    self, HALF_TOPIC, OP_TOPIC, TOPIC_BYTES_MAX, dlq_topic, retry_group, validate_topic,
};
use protocol::{Frame, Header as _, Refusal, RequestCode, ResponseCode, batch, properties};
use rand::RngExt as _;
use store::Appended;

use super::{Answer, append_refusal, create, reply, sendback};
use crate::Broker;
use crate::metrics::MessageType;
use crate::process::unix_ms;
use crate::schedule::{delay_level, level_of};
use crate::tables::{Change, inherited};
use crate::transaction::check::one_queue;

/// Properties of messages that a timer is to hold. Stored as ordinary messages they would reach
/// consumers too early.
const TIMERS: [&str; 3] = [
    properties::TIMER_DELAY_SEC,
    properties::TIMER_DELAY_MS,
    properties::TIMER_DELIVER_MS,
];

/// A send that has passed the checks which need no topic.
pub(super) struct Send {
    pub(super) header: SendMessage,
    /// It is delivered once its transaction is committed.
    half: bool,
    /// Until the message is made.
    pub(super) body: Bytes,
    pub(super) sender: Sender,
}

/// What of a send is kept until it is answered: the less, the more of what waits for the log stays
/// in the processor's cache.
pub(super) struct Sender {
    received: Instant,
    /// The request's head.
    request: Frame,
    pub(super) peer: Arc<Peer>,
    /// What the sender is told though the message is stored.
    pub(super) undelivered: Option<Refusal>,
}

/// What the answer says of where messages lie.
struct Place {
    /// Where they are stored.
    topic: Arc<str>,
    /// What the sender is told.
    queue: i32,
    message_type: MessageType,
    transaction_id: Option<String>,
}

pub(super) fn send(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = match RequestCode::from_number(request.code) {
        Some(RequestCode::SendMessage | RequestCode::SendReplyMessage) => {
            SendMessage::read_v1(&request.fields)?
        }
        _ => SendMessage::read(&request.fields)?,
    };
    let half = check(broker, &header, &request.body)?;
    let send = Box::new(Send {
        header,
        half,
        body: request.body.clone(),
        sender: Sender {
            received: Instant::now(),
            request: request.head(),
            peer: Arc::clone(peer),
            undelivered: None,
        },
    });
    let missing = send.missing(broker)?;
    if missing.is_empty() {
        send.go_on(broker);
        return Ok(None);
    }
    let created = missing.iter().find_map(|change| match change {
        Change::Topic(topic) if topic.topic_name == send.header.topic => Some(topic.clone()),
        _ => None,
    });
    let created = created.filter(|topic| retry_group(&topic.topic_name).is_none());
    broker.change(missing, move |broker, result| match (result, created) {
        (Err(refusal), _) => send.sender.refuse(broker, &refusal),
        (Ok(()), None) => send.go_on(broker),
        (Ok(()), Some(topic)) => {
            let peer = send.sender.peer.address;
            tracing::info!(topic = topic.topic_name, %peer, "created by a send");
            let default = send.header.default_topic.clone();
            create::everywhere(broker, topic, default, |broker| send.go_on(broker));
        }
    });
    Ok(None)
}

/// The message as it waits for the end of its transaction: it keeps in its properties where it is
/// to go.
fn half(message: Message) -> Message {
    let mut all = message.properties.to_vec();
    let unique = properties::get(&all, properties::UNIQ_KEY).map(str::to_owned);
    for (name, value) in [
        (properties::TRANSACTION_ID, &*unique.unwrap_or_default()),
        (properties::REAL_TOPIC, &message.topic),
        (properties::REAL_QID, &message.queue.to_string()),
    ] {
        all = properties::set(&all, name, value);
    }
    // What another broker may have written of it does not count.
    for name in [properties::CHECK_TIMES, properties::PREPARED_QUEUE_OFFSET] {
        all = properties::remove(&all, name);
    }
    Message {
        topic: HALF_TOPIC.into(),
        queue: 0,
        sys_flag: record::without_transaction(message.sys_flag),
        properties: all.into(),
        ..message
    }
}

fn illegal(remark: impl Into<String>) -> Refusal {
    Refusal::new(ResponseCode::MessageIllegal, remark)
}

fn unknown(topic: &str) -> Refusal {
    let remark = format!("topic[{topic}] not exist, apply first please!");
    Refusal::new(ResponseCode::TopicNotExist, remark)
}

/// Whether it is a half message.
fn check(broker: &Broker, header: &SendMessage, body: &Bytes) -> Result<bool, Refusal> {
    validate_topic(&header.topic)?;
    if !topic::may_write(&header.topic) {
        let remark = format!("Sending message to topic[{}] is forbidden.", header.topic);
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    let text = header.properties.as_deref().unwrap_or_default();
    if body.is_empty() {
        // Java fails on it with a NullPointerException; so does the code.
        return Err(Refusal::new(
            ResponseCode::SystemError,
            "the message has no body",
        ));
    }
    let body_max = broker.config.properties.max_message_size;
    if body.len() > body_max || text.len() > PROPERTIES_BYTES_MAX {
        return Err(illegal(format!(
            "the message is illegal, maybe msg body or properties length not matched. \
             msg body length limit {body_max}B, msg properties length limit 32KB."
        )));
    }
    let inner_batch = header.sys_flag & record::INNER_BATCH != 0;
    if inner_batch || properties::get(text.as_bytes(), properties::INNER_NUM).is_some() {
        return Err(illegal(
            "messages that are batches themselves are not served",
        ));
    }
    if header.batch == Some(true) {
        check_batch(header)?;
    }
    let half = check_destiny(text.as_bytes(), header.reconsume_times)?;
    if half && header.batch == Some(true) {
        return Err(illegal("a batch can't be part of a transaction"));
    }
    if half && broker.config.properties.reject_transaction_message.on() {
        let broker = &broker.config.broker;
        let remark = format!("the broker[{broker}] sending transaction message is forbidden");
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    Ok(half)
}

fn check_batch(header: &SendMessage) -> Result<(), Refusal> {
    let text = header.properties.as_deref().unwrap_or_default();
    if header.topic.len() > TOPIC_BYTES_MAX {
        let bytes = header.topic.len();
        return Err(illegal(format!("message topic length too long {bytes}")));
    }
    if retry_group(&header.topic).is_some() {
        let remark = format!(
            "batch request does not support retry group {}",
            header.topic
        );
        return Err(illegal(remark));
    }
    if record::is_transactional(header.sys_flag) {
        return Err(illegal("a batch can't be part of a transaction"));
    }
    if delay_level(text.as_bytes())? > 0 {
        return Err(illegal("a batch can't be delayed"));
    }
    Ok(())
}

/// Whether it is a half message. Refuses one that is to be kept back in a way that is not served.
fn check_destiny(encoded: &[u8], reconsume_times: Option<i32>) -> Result<bool, Refusal> {
    let names = [
        properties::TRAN_MSG,
        properties::DELAY,
        properties::TIMER_OUT_MS,
        TIMERS[0],
        TIMERS[1],
        TIMERS[2],
    ];
    let [half, delay, timed_out, timers @ ..] = properties::get_all(encoded, names);
    let delayed = level_of(delay)? > 0;
    let half = half.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    // Clients before 4.6.1 leave the mark on a message that they send to be consumed anew.
    let half = half && !(delayed && reconsume_times.unwrap_or(0) > 0);
    if half && delayed {
        return Err(illegal("a message of a transaction can't be delayed"));
    }
    let timed = timers.map(|value| value.is_some_and(|value| value != "0"));
    if !delayed && timed_out.is_none() && timed.contains(&true) {
        return Err(illegal("timed messages are not served by this release"));
    }
    Ok(half)
}

impl Send {
    /// What must be written before the message can be stored.
    fn missing(&self, broker: &Broker) -> Result<Vec<Change>, Refusal> {
        let header = &self.header;
        if let Some(group) = retry_group(&header.topic) {
            let mut missing = broker.missing(group);
            if missing.is_empty() && broker.tables().group(group).is_none() {
                return Err(sendback::unknown_group(group));
            }
            if self.gives_up(broker).is_some() {
                missing.extend(sendback::missing_dlq(broker, group));
            }
            return Ok(missing);
        }
        let (known, default) = {
            let tables = broker.tables();
            (
                tables.topic(&header.topic).is_some(),
                tables.topic(&header.default_topic),
            )
        };
        if known {
            return Ok(self.missing_of_half(broker));
        }
        let queues = header.default_topic_queues;
        let created = default.and_then(|default| inherited(&header.topic, &default, queues));
        let mut created = created.ok_or_else(|| unknown(&header.topic))?;
        created.topic_sys_flag = i32::from(header.unit_mode == Some(true));
        let mut missing = self.missing_of_half(broker);
        missing.push(Change::Topic(created));
        Ok(missing)
    }

    /// The topics of transactions, which are made for the first one.
    fn missing_of_half(&self, broker: &Broker) -> Vec<Change> {
        if !self.half {
            return Vec::new();
        }
        let tables = broker.tables();
        let topics = [HALF_TOPIC, OP_TOPIC].into_iter();
        let missing = topics.filter(|topic| tables.topic(topic).is_none());
        missing
            .map(|topic| Change::Topic(one_queue(topic)))
            .collect()
    }

    /// The group that has failed too often to consume this message, which a consumer sends to be
    /// consumed anew.
    fn gives_up(&self, broker: &Broker) -> Option<&str> {
        let group = retry_group(&self.header.topic)?;
        let config = broker.tables().group(group);
        let own = config.map_or_else(
            || SubscriptionGroupConfig::default().retry_max_times,
            |config| config.retry_max_times,
        );
        let says_so = self.sender.request.version >= VERSION_MAX_RECONSUME_TIMES;
        let sent = self.header.max_reconsume_times.filter(|_| says_so);
        let too_often = self.header.reconsume_times.unwrap_or(0) > sent.unwrap_or(own);
        // Of a consumer in order, which would get it back out of order.
        let ordered = || broker.coordination().locks.held(group, unix_ms());
        (too_often || ordered()).then_some(group)
    }

    fn go_on(self: Box<Self>, broker: &Arc<Broker>) {
        match RequestCode::from_number(self.sender.request.code) {
            Some(RequestCode::SendReplyMessage | RequestCode::SendReplyMessageV2) => {
                reply::pass_on(broker, self);
            }
            _ => self.append(broker),
        }
    }

    /// Appends to a topic that is there, and answers when it has committed.
    pub(super) fn append(self: Box<Self>, broker: &Arc<Broker>) {
        let topic = broker.tables().topic(&self.header.topic);
        let topic = topic.ok_or_else(|| unknown(&self.header.topic));
        let queue = topic.and_then(|topic| Ok((self.queue(&topic)?, topic)));
        let appending = match queue {
            Ok((queue, topic)) if self.header.batch == Some(true) => {
                self.append_batch(broker, &topic, queue)
            }
            Ok((queue, topic)) => self.append_one(broker, &topic, queue),
            Err(refusal) => Err((self, refusal)),
        };
        if let Err((send, refusal)) = appending {
            send.sender.refuse(broker, &refusal);
        }
    }

    fn append_one(
        mut self: Box<Self>,
        broker: &Arc<Broker>,
        topic: &TopicConfig,
        queue: i32,
    ) -> Result<(), (Box<Self>, Refusal)> {
        let message = match self.message(broker, topic, queue) {
            Ok(message) => message,
            Err(refusal) => return Err((self, refusal)),
        };
        let place = self.place(&message.topic, queue, &message.properties);
        let (sender, broker_then) = (self.sender, Arc::clone(broker));
        let done = move |appended| match appended {
            Ok(appended) => sender.answer(&broker_then, place, &[appended]),
            Err(error) => sender.refuse(&broker_then, &append_refusal(&error)),
        };
        broker.delays.append(&broker.store, message, Box::new(done));
        Ok(())
    }

    fn append_batch(
        mut self: Box<Self>,
        broker: &Arc<Broker>,
        topic: &TopicConfig,
        queue: i32,
    ) -> Result<(), (Box<Self>, Refusal)> {
        let messages = match self.messages(topic, queue) {
            Ok(messages) => messages,
            Err(refusal) => return Err((self, refusal)),
        };
        let sent = self.header.properties.as_deref().unwrap_or_default();
        let place = self.place(&self.header.topic.as_str().into(), queue, sent.as_bytes());
        let (sender, broker_then) = (self.sender, Arc::clone(broker));
        let done = move |appended: Result<Vec<Appended>, _>| match appended {
            Ok(appended) => sender.answer(&broker_then, place, &appended),
            Err(error) => sender.refuse(&broker_then, &append_refusal(&error)),
        };
        broker.store.append_all(messages, Box::new(done));
        Ok(())
    }

    /// The queue that is asked for, or any that is writable.
    fn queue(&self, topic: &TopicConfig) -> Result<i32, Refusal> {
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
        if header.queue < 0 {
            return Ok(rand::rng().random_range(0..topic.write_queue_nums.max(1)));
        }
        Ok(header.queue)
    }

    /// The message as it is stored: where it belongs, with its delay, or among the dead letters.
    fn message(
        &mut self,
        broker: &Broker,
        topic: &TopicConfig,
        queue: i32,
    ) -> Result<Message, Refusal> {
        let mut message = Message {
            body: std::mem::take(&mut self.body),
            properties: self.properties(broker),
            ..self.plain(topic, queue)
        };
        let compacted = topic.attributes.get("cleanup.policy");
        if compacted.is_some_and(|policy| policy == "COMPACTION")
            && properties::get(&message.properties, properties::KEYS)
                .is_none_or(|keys| keys.trim().is_empty())
        {
            return Err(illegal("Required message key is missing"));
        }
        if let Some(group) = self.gives_up(broker) {
            broker.metrics.dead_letter(&self.header.topic, group);
            message.topic = dlq_topic(group).into();
            message.queue = 0;
            message.properties =
                properties::set(&message.properties, properties::DELAY, "-1").into();
        }
        if self.half {
            return Ok(half(message));
        }
        if !record::takes_queue_offset(message.sys_flag) {
            return Ok(message);
        }
        broker
            .config
            .properties
            .message_delay_level
            .redirect(message)
    }

    /// The messages of a batch, each as it was sent.
    fn messages(&mut self, topic: &TopicConfig, queue: i32) -> Result<Vec<Message>, Refusal> {
        let parts = batch::decode(std::mem::take(&mut self.body));
        let parts = parts.map_err(|error| illegal(error.to_string()))?;
        let message = |part: batch::Part| {
            if delay_level(&part.properties)? > 0 {
                return Err(illegal("a message of a batch can't be delayed"));
            }
            if check_destiny(&part.properties, None)? {
                return Err(illegal(
                    "a message of a batch can't be part of a transaction",
                ));
            }
            Ok(Message {
                flag: part.flag,
                body: part.body,
                properties: part.properties,
                ..self.plain(topic, queue)
            })
        };
        parts.into_iter().map(message).collect()
    }

    /// A message of this send that lacks body and properties.
    fn plain(&self, topic: &TopicConfig, queue: i32) -> Message {
        let header = &self.header;
        let several_tags = topic.topic_filter_type == TopicFilterType::MultiTag;
        Message {
            topic: header.topic.as_str().into(),
            queue,
            flag: header.flag,
            sys_flag: header.sys_flag | if several_tags { record::MULTI_TAGS } else { 0 },
            born_ms: header.born_ms,
            born_host: self.sender.peer.address,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_offset: 0,
            body: Bytes::new(),
            properties: Bytes::new(),
        }
    }

    /// The sender's properties and those that the broker sets.
    fn properties(&self, broker: &Broker) -> Bytes {
        let sent = self.header.properties.as_deref().unwrap_or_default();
        let ours = [
            (
                properties::MSG_REGION,
                broker.config.properties.region_id.as_str(),
            ),
            (properties::TRACE_ON, "true"),
            (properties::CLUSTER, broker.config.cluster.as_str()),
        ];
        // A receipt handle is given out, never sent in.
        let mut all = properties::complete(sent.as_bytes(), properties::POP_CK, ours);
        if properties::get(&all, properties::UNIQ_KEY).is_none() {
            let unique = format!("{:032X}", rand::rng().random::<u128>());
            properties::push(&mut all, properties::UNIQ_KEY, &unique);
        }
        all.into()
    }

    fn place(&self, topic: &Arc<str>, queue: i32, properties: &[u8]) -> Place {
        let sent = self.header.properties.as_deref().unwrap_or_default();
        let unique = properties::get(properties, properties::UNIQ_KEY);
        Place {
            topic: Arc::clone(topic),
            queue,
            message_type: MessageType::of(sent.as_bytes()),
            transaction_id: unique.map(str::to_owned),
        }
    }
}

impl Sender {
    fn answer(&self, broker: &Broker, place: Place, appended: &[Appended]) {
        let sizes: Vec<usize> = appended.iter().map(|one| one.bytes as usize).collect();
        let metrics = &broker.metrics;
        metrics.messages_in(&place.topic, place.message_type, &sizes);
        let ids: Vec<String> = appended.iter().map(Appended::message_id).collect();
        let header = SendMessageAnswer {
            message_id: ids.join(","),
            queue: place.queue,
            queue_offset: appended.first().map_or(0, |first| first.queue_offset),
            transaction_id: place.transaction_id,
        };
        let answer = match &self.undelivered {
            None => self.request.answer(ResponseCode::Success),
            Some(refusal) => refusal.answer(&self.request),
        };
        let mut answer = answer.with_header(&header);
        answer
            .fields
            .set(properties::MSG_REGION, &broker.config.properties.region_id);
        answer.fields.set(properties::TRACE_ON, true);
        broker.reply(&self.request, &answer, &self.peer, self.received);
    }

    fn refuse(&self, broker: &Broker, refusal: &Refusal) {
        tracing::debug!(peer = %self.peer.address, %refusal, "send refused");
        let answer = refusal.answer(&self.request);
        broker.reply(&self.request, &answer, &self.peer, self.received);
    }
}
