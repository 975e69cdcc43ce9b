//! `POP_MESSAGE`: hands messages of any queue out for a while, or lets the pop wait for one
//! (`PopMessageProcessor.java`).

mod gather;

use std::sync::Arc;
use std::time::{Duration, Instant};

use net::Peer;
use protocol::body::TopicConfig;
use protocol::header::{PeekMessage, PopMessage, PopMessageAnswer};
use protocol::{Frame, Header as _, Refusal, ResponseCode};
use store::Wait;

use super::Answer;
use super::pull::{ANSWER_MESSAGES_MAX, HOLD_MAX, own_filter, readable_group};
use crate::Broker;
use crate::filter::Filter;
use crate::pop::waiting::{Ask, Held};
use crate::process::unix_ms;

use gather::{Gathered, gather};
pub(super) use gather::{Wanted, anything_for};

/// A client that asked so long before its time was over has gone.
const LATE_MS_MAX: i64 = 500;

/// What became of a pop that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    Answered,
    /// `anything`: another one of the same group may find what this one does not.
    Waits {
        anything: bool,
    },
    /// It goes on off the async threads; then the others of the group are looked at.
    Elsewhere,
}

pub(super) fn pop(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = PopMessage::read(&request.fields)?;
    let missing = super::missing_group(broker, &header.group);
    super::once_made(broker, missing, request, peer, |broker, request, peer| {
        pop_of_group(broker, request, header, peer)
    })
}

fn pop_of_group(
    broker: &Arc<Broker>,
    request: &Frame,
    mut header: PopMessage,
    peer: &Arc<Peer>,
) -> Answer {
    if is_late(header.born_ms, header.poll_ms) {
        let answer = request.answer(ResponseCode::PollingTimeout);
        let answer = answer.with_remark("the broker has the pop message too late");
        return Ok(Some(answer.with_header(&PopMessageAnswer::default())));
    }
    if header.messages_max > ANSWER_MESSAGES_MAX as i32 {
        let remark = format!("a pop of more than {ANSWER_MESSAGES_MAX} messages");
        return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    }
    header.invisible_ms = header.invisible_ms.max(0);
    readable(broker, &header.topic, header.queue)?;
    readable_group(broker, &header.group)?;
    let filter = match header.expression.as_deref() {
        None | Some("") => Filter::All,
        Some(expression) => {
            let kind = header.expression_type.as_deref();
            own_filter(broker, &header.topic, kind, expression)?
        }
    };
    let hold = Duration::from_millis(header.poll_ms.max(0) as u64).min(HOLD_MAX);
    let held = Held {
        request: request.head(),
        ask: Ask::Pop(Box::new(header), filter),
        peer: Arc::clone(peer),
        deadline: tokio::time::Instant::now() + hold,
        place: None,
    };
    look_again(broker, held, hold > Duration::ZERO);
    Ok(None)
}

/// Whether whoever asked at `born_ms`, and would wait for `poll_ms`, waits no more.
pub(super) fn is_late(born_ms: i64, poll_ms: i64) -> bool {
    let waits_until = born_ms.saturating_add(poll_ms);
    born_ms > 0 && unix_ms().saturating_sub(waits_until) > LATE_MS_MAX
}

/// A negative queue is all of them.
pub(super) fn readable(
    broker: &Broker,
    name: &str,
    queue: i32,
) -> Result<Arc<TopicConfig>, Refusal> {
    let topic = broker.tables().topic(name).ok_or_else(|| {
        let remark = format!("topic[{name}] not exist, apply first please!");
        Refusal::new(ResponseCode::TopicNotExist, remark)
    })?;
    if !topic.readable() {
        let remark = format!("the topic[{name}] peeking message is forbidden");
        return Err(Refusal::new(ResponseCode::NoPermission, remark));
    }
    if queue >= topic.read_queue_nums {
        let remark = format!(
            "queueId[{queue}] is illegal, topic:[{name}] topicConfig.readQueueNums:[{}]",
            topic.read_queue_nums
        );
        return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    }
    Ok(topic)
}

/// Answers, or lets it wait where it may.
pub fn look_again(broker: &Arc<Broker>, held: Held, may_wait: bool) -> Looked {
    let received = Instant::now();
    let checked = readable(broker, held.ask.topic(), -1);
    let checked = checked.and_then(|_| readable_group(broker, held.ask.group()));
    if let Err(refusal) = checked {
        let answer = refusal.answer(&held.request);
        broker.reply(&held.request, &answer, &held.peer, received);
        return Looked::Answered;
    }
    let Ask::Pop(header, filter) = &held.ask else {
        return super::notification::look_again(broker, held, may_wait);
    };
    let found = gather(broker, header, filter, Wait::Never);
    if found
        .as_ref()
        .is_ok_and(|found| found.needs_disk && found.is_empty())
    {
        let broker = Arc::clone(broker);
        let runtime = broker.runtime.clone();
        runtime.spawn_blocking(move || {
            if let Ask::Pop(header, filter) = &held.ask {
                let found = gather(&broker, header, filter, Wait::ForDisk);
                let of = (held.ask.topic().to_owned(), held.ask.group().to_owned());
                finish(&broker, held, found, may_wait, received);
                broker.waiting.pops.waiting.mark(&of.0, &of.1);
            }
        });
        return Looked::Elsewhere;
    }
    finish(broker, held, found, may_wait, received)
}

fn finish(
    broker: &Arc<Broker>,
    held: Held,
    found: Result<Gathered, Refusal>,
    may_wait: bool,
    received: Instant,
) -> Looked {
    let found = match found {
        Ok(found) => found,
        Err(refusal) => {
            let answer = refusal.answer(&held.request);
            broker.reply(&held.request, &answer, &held.peer, received);
            return Looked::Answered;
        }
    };
    if !found.is_empty() {
        if found.rest > 0 {
            let (topic, group) = (held.ask.topic(), held.ask.group());
            broker.waiting.pops.waiting.mark(topic, group);
        }
        return answer(broker, &held, found, ResponseCode::Success, received);
    }
    if !may_wait || held.deadline <= tokio::time::Instant::now() {
        return answer(broker, &held, found, ResponseCode::PollingTimeout, received);
    }
    match wait(broker, held, found.rest) {
        Ok(waits) => waits,
        Err(held) => answer(broker, &held, found, ResponseCode::PollingFull, received),
    }
}

/// Lets it wait; gives it back when there is no place. Looks once more whether anything has come
/// meanwhile, which nobody would tell it.
pub(super) fn wait(broker: &Arc<Broker>, held: Held, rest: i64) -> Result<Looked, Box<Held>> {
    let (topic, group) = (held.ask.topic().to_owned(), held.ask.group().to_owned());
    let wanted = Wanted::of(&held.ask);
    let anything = rest > 0 || wanted.queue >= 0;
    broker.waiting.pops.waiting.hold(held)?;
    if anything_for(broker, &topic, &group, &wanted) {
        broker.waiting.pops.waiting.mark(&topic, &group);
    }
    Ok(Looked::Waits { anything })
}

fn answer(
    broker: &Broker,
    held: &Held,
    found: Gathered,
    code: ResponseCode,
    received: Instant,
) -> Looked {
    let Ask::Pop(header, _) = &held.ask else {
        return Looked::Answered;
    };
    let remark = if code == ResponseCode::Success {
        "FOUND"
    } else {
        "NO_MESSAGE_IN_QUEUE"
    };
    let counts = found.info.counts;
    let answer = held.request.answer(code).with_remark(remark);
    let answer = answer.with_header(&PopMessageAnswer {
        pop_ms: found.pop_ms,
        invisible_ms: header.invisible_ms,
        revive_queue: found.revive_queue,
        rest: found.rest,
        start_offsets: Some(found.info.starts),
        message_offsets: Some(found.info.messages),
        order_counts: Some(counts).filter(|counts| !counts.is_empty()),
    });
    if !held.request.is_oneway() {
        held.peer.send_parts(&answer, found.records);
    }
    let waited = held.place.is_some();
    broker
        .metrics
        .answered(&held.request, answer.code, waited, received.elapsed());
    Looked::Answered
}

/// `PEEK_MESSAGE`: what a pop would get, without taking it (`PeekMessageProcessor.java`).
pub(super) fn peek(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let header = PeekMessage::read(&request.fields)?;
    readable(broker, &header.topic, header.queue)?;
    readable_group(broker, &header.group)?;
    let (records, rest) = gather::peek(broker, &header)?;
    let code = if records.is_empty() {
        ResponseCode::PullNotFound
    } else {
        ResponseCode::Success
    };
    let answer = request.answer(code).with_header(&PopMessageAnswer {
        rest,
        ..PopMessageAnswer::default()
    });
    Ok(answer.with_body(records.concat()))
}
