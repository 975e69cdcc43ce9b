//! `PULL_MESSAGE`: check, read, answer; or hold until a message arrives
//! (`PullMessageProcessor.java`, `DefaultPullMessageResultHandler.java`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use net::Peer;
use protocol::body::{
    ALL_TAGS, MessageModel, SubscriptionData, SubscriptionGroupConfig, TopicConfig,
};
use protocol::header::{PullFlags, PullMessage, PullMessageAnswer};
use protocol::{Frame, Header as _, Refusal, ResponseCode, properties};
use store::{Range, Read, ReadLimits, ReadStatus, Wait};

use super::Answer;
use crate::Broker;
use crate::filter::sql::Condition;
use crate::filter::{Filter, SQL92};
use crate::hold::Held;
use crate::tables::Offset;

/// Of one answer; at least one message always goes.
pub(super) const ANSWER_BYTES_MAX: usize = 256 * 1024;
pub(super) const ANSWER_MESSAGES_MAX: usize = 32;
/// Queue entries that one pull may look at: Java's `maxFilterMessageSize` of 16,000 bytes.
pub(super) const SCAN_MAX: usize = 800;
pub(super) const HOLD_MAX: Duration = Duration::from_mins(2);

pub(super) fn pull(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = PullMessage::read(&request.fields)?;
    let missing = super::missing_group(broker, &header.group);
    super::once_made(broker, missing, request, peer, |broker, request, peer| {
        pull_of_group(broker, request, header, peer)
    })
}

fn pull_of_group(
    broker: &Arc<Broker>,
    request: &Frame,
    header: PullMessage,
    peer: &Arc<Peer>,
) -> Answer {
    let flags = PullFlags(header.sys_flag);
    let group = readable_group(broker, &header.group)?;
    readable_topic(broker, &header)?;
    let filter = filter(broker, &header, flags, &group)?;
    if flags.commit() && header.commit_offset >= 0 {
        broker.commit_offset(Offset {
            topic: header.topic.clone(),
            group: header.group.clone(),
            queue: header.queue,
            offset: header.commit_offset,
        });
    }
    let properties = &broker.config.properties;
    let hold = if !flags.suspend() {
        Duration::ZERO
    } else if properties.long_polling_enable.on() {
        Duration::from_millis(header.suspend_ms.max(0) as u64).min(HOLD_MAX)
    } else {
        Duration::from_millis(properties.short_polling_time_mills.value())
    };
    let deadline = tokio::time::Instant::now() + hold;
    let held = Held {
        waited: false,
        request: request.head(),
        header,
        filter,
        peer: Arc::clone(peer),
        deadline,
    };
    look_again(broker, held, hold > Duration::ZERO);
    Ok(None)
}

/// Reads and answers, or lets the pull wait where it may. A read that needs the disk goes on
/// off the async threads.
pub fn look_again(broker: &Arc<Broker>, mut held: Held, may_wait: bool) {
    let received = Instant::now();
    if held.waited
        && let Err(refusal) = filter_anew(broker, &mut held)
    {
        let answer = refusal.answer(&held.request);
        return broker.reply(&held.request, &answer, &held.peer, received);
    }
    let header = &held.header;
    let sent_to = broker
        .coordination()
        .resets
        .take(&header.topic, &header.group, header.queue);
    if let Some(next) = sent_to {
        let Range { min, max } = broker.range(&header.topic, header.queue);
        let read = Read {
            status: ReadStatus::Empty,
            next,
            min,
            max,
            records: Vec::new(),
        };
        let code = ResponseCode::PullOffsetMoved;
        return answer(broker, &held, read, code, "OFFSET_RESET", received);
    }
    match read(broker, &held, Wait::Never) {
        Ok(Read {
            status: ReadStatus::WouldBlock,
            ..
        }) => {
            let broker = Arc::clone(broker);
            let runtime = broker.runtime.clone();
            runtime.spawn_blocking(move || {
                let read = read(&broker, &held, Wait::ForDisk);
                finish(&broker, held, read, may_wait, received);
            });
        }
        result => finish(broker, held, result, may_wait, received),
    }
}

/// What the group wants may have changed while the pull waited.
fn filter_anew(broker: &Broker, held: &mut Held) -> Result<(), Refusal> {
    let flags = PullFlags(held.header.sys_flag);
    if !flags.subscription() {
        let group = readable_group(broker, &held.header.group)?;
        readable_topic(broker, &held.header)?;
        held.filter = filter(broker, &held.header, flags, &group)?;
    }
    Ok(())
}

fn read(broker: &Broker, held: &Held, wait: Wait) -> Result<Read, Refusal> {
    let header = &held.header;
    let wanted = usize::try_from(header.messages_max).unwrap_or(0);
    let limits = ReadLimits {
        messages_max: wanted.clamp(1, ANSWER_MESSAGES_MAX),
        bytes_max: ANSWER_BYTES_MAX,
        scan_max: SCAN_MAX.max(wanted),
    };
    let wants = &mut |tags_code| held.filter.wants(tags_code);
    broker
        .store
        .read_matching(
            &header.topic,
            header.queue,
            header.offset,
            &limits,
            (wants, &mut |record| held.filter.wants_record(record)),
            wait,
        )
        .map_err(|error| {
            tracing::error!(topic = header.topic, queue = header.queue, %error, "can't be read");
            Refusal::new(ResponseCode::SystemError, error.to_string())
        })
}

fn finish(
    broker: &Arc<Broker>,
    held: Held,
    read: Result<Read, Refusal>,
    may_wait: bool,
    received: Instant,
) {
    let read = match read {
        Ok(read) => read,
        Err(refusal) => {
            let answer = refusal.answer(&held.request);
            return broker.reply(&held.request, &answer, &held.peer, received);
        }
    };
    let (code, remark) = code(read.status, held.header.offset);
    // Nothing of what has arrived meanwhile has the properties that are wanted.
    let goes_on = held.waited && read.status == ReadStatus::NoMatch && read.next >= read.max;
    if !may_wait || code != ResponseCode::PullNotFound && !goes_on {
        return answer(broker, &held, read, code, remark, received);
    }
    let mut held = held;
    if goes_on {
        held.header.offset = read.next;
    }
    let (topic, queue) = (held.header.topic.clone(), held.header.queue);
    let end = || broker.store.range(&topic, queue).unwrap_or_default().max;
    if let Err(held) = broker.waiting.holds.hold(held, end) {
        // No place to wait: the client asks again.
        answer(broker, &held, read, code, remark, received);
    }
}

fn answer(
    broker: &Broker,
    held: &Held,
    read: Read,
    code: ResponseCode,
    remark: &str,
    received: Instant,
) {
    let answer = held
        .request
        .answer(code)
        .with_remark(remark)
        .with_header(&PullMessageAnswer {
            suggested_broker: 0,
            next_offset: read.next,
            min_offset: read.min,
            max_offset: read.max,
            topic_sys_flag: Some(0),
            group_sys_flag: Some(0),
        });
    let header = &held.header;
    let next = [(header.queue, read.next)];
    let mut coordination = broker.coordination();
    coordination.pulled.set(&header.topic, &header.group, next);
    drop(coordination);
    let bytes = read.records.iter().map(bytes::Bytes::len).sum();
    broker
        .metrics
        .messages_out(&header.topic, &header.group, read.records.len(), bytes);
    if !held.request.is_oneway() {
        held.peer.send_parts(&answer, read.records);
    }
    broker
        .metrics
        .answered(&held.request, answer.code, held.waited, received.elapsed());
}

/// The code and the remark for what a read found (`GetMessageStatus.java`).
fn code(status: ReadStatus, offset: i64) -> (ResponseCode, &'static str) {
    use ResponseCode::{PullNotFound, PullOffsetMoved, PullRetryImmediately, Success};
    let nothing_here = if offset == 0 {
        PullNotFound
    } else {
        PullOffsetMoved
    };
    match status {
        ReadStatus::Found => (Success, "FOUND"),
        ReadStatus::NoMatch => (PullRetryImmediately, "NO_MATCHED_MESSAGE"),
        ReadStatus::NoQueue => (nothing_here, "NO_MATCHED_LOGIC_QUEUE"),
        ReadStatus::Empty => (nothing_here, "NO_MESSAGE_IN_QUEUE"),
        ReadStatus::OverflowOne => (PullNotFound, "OFFSET_OVERFLOW_ONE"),
        ReadStatus::OverflowBadly => (PullOffsetMoved, "OFFSET_OVERFLOW_BADLY"),
        ReadStatus::TooSmall => (PullOffsetMoved, "OFFSET_TOO_SMALL"),
        // The latter never after a read that waits for the disk; the client tries again.
        ReadStatus::Gone | ReadStatus::WouldBlock => (PullRetryImmediately, "MESSAGE_WAS_REMOVING"),
    }
}

pub(super) fn readable_group(
    broker: &Broker,
    name: &str,
) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
    let group = broker.tables().group(name).ok_or_else(|| {
        let remark = format!("subscription group [{name}] does not exist");
        Refusal::new(ResponseCode::SubscriptionGroupNotExist, remark)
    })?;
    if !group.consume_enable {
        let remark = format!("subscription group no permission, {name}");
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    Ok(group)
}

fn readable_topic(broker: &Broker, header: &PullMessage) -> Result<Arc<TopicConfig>, Refusal> {
    let topic = broker.tables().topic(&header.topic).ok_or_else(|| {
        let remark = format!("topic[{}] not exist, apply first please!", header.topic);
        Refusal::new(ResponseCode::TopicNotExist, remark)
    })?;
    if !topic.readable() {
        let remark = format!("the topic[{}] pulling message is forbidden", header.topic);
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    if header.queue < 0 || header.queue >= topic.read_queue_nums {
        let remark = format!(
            "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}]",
            header.queue, header.topic, topic.read_queue_nums
        );
        return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    }
    Ok(topic)
}

/// What the pull wants: as it says itself, or as its group has said by heartbeat.
fn filter(
    broker: &Broker,
    header: &PullMessage,
    flags: PullFlags,
    group: &SubscriptionGroupConfig,
) -> Result<Filter, Refusal> {
    let refuse = |code, remark: &str| Err(Refusal::new(code, remark));
    if flags.subscription() {
        let expression = header.subscription.as_deref().unwrap_or_default();
        let kind = header.expression_type.as_deref();
        return own_filter(broker, &header.topic, kind, expression);
    }
    let Some(subscribed) = broker.clients().subscription(&header.group, &header.topic) else {
        return refuse(
            ResponseCode::SubscriptionNotExist,
            "the consumer's group info not exist, see \
             https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.",
        );
    };
    if !group.consume_broadcast_enable && subscribed.message_model == MessageModel::Broadcasting {
        let remark = format!(
            "the consumer group[{}] can not consume by broadcast way",
            header.group
        );
        return refuse(ResponseCode::NoPermission, &remark);
    }
    let Some(subscription) = subscribed.subscription else {
        return refuse(
            ResponseCode::SubscriptionNotExist,
            "the consumer's subscription not exist, see \
             https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.",
        );
    };
    if subscription.sub_version < header.sub_version {
        return refuse(
            ResponseCode::SubscriptionNotLatest,
            "the consumer's subscription not latest",
        );
    }
    let no_data = (
        ResponseCode::FilterDataNotExist,
        "The broker's consumer filter data is not exist!Your expression may be wrong!",
    );
    let kind = subscription.expression_type.as_deref();
    let condition = condition(broker, kind, &subscription.sub_string, no_data)?;
    Ok(condition.map_or(Filter::Tags(subscription), Filter::Sql))
}

/// What a request wants that says so itself.
pub(super) fn own_filter(
    broker: &Broker,
    topic: &str,
    kind: Option<&str>,
    expression: &str,
) -> Result<Filter, Refusal> {
    let code = ResponseCode::SubscriptionParseFailed;
    let failed = "parse the consumer's subscription failed";
    if let Some(condition) = condition(broker, kind, expression, (code, failed))? {
        return Ok(Filter::Sql(condition));
    }
    if expression == ALL_TAGS {
        return Ok(Filter::All);
    }
    let parsed = SubscriptionData::of_tags(topic, expression, properties::java_hash);
    let subscription = parsed.ok_or_else(|| Refusal::new(code, failed))?;
    Ok(Filter::Tags(Arc::new(subscription)))
}

/// The condition on properties that a filter is, unless it is one on tags. Java reads any other
/// kind as a condition that can't be read, and a pull that brings one as one that wants everything.
pub(super) fn condition(
    broker: &Broker,
    kind: Option<&str>,
    expression: &str,
    (code, remark): (ResponseCode, &str),
) -> Result<Option<Arc<Condition>>, Refusal> {
    let refuse = |why: String| Refusal::new(code, format!("{remark} ({why})"));
    match kind {
        None | Some("" | "TAG") => Ok(None),
        Some(SQL92) => {
            let condition = broker.clients().conditions.of(expression);
            condition.map(Some).map_err(|bad| refuse(bad.to_string()))
        }
        Some(other) => Err(refuse(format!("there is no filter of the type {other}"))),
    }
}
