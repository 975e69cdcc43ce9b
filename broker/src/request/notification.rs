//! `NOTIFICATION`: whether a pop would find a message, as soon as it would; and `POLLING_INFO`,
//! how many pops wait (`NotificationProcessor.java`, `PollingInfoProcessor.java`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use net::Peer;
use protocol::header::{Notification, NotificationAnswer, PollingInfo, PollingInfoAnswer};
use protocol::{Frame, Header as _, ResponseCode};

use super::Answer;
use super::pop::{self, Looked, Wanted, anything_for, readable};
use super::pull::{HOLD_MAX, readable_group};
use crate::Broker;
use crate::pop::waiting::{Ask, Held};

pub(super) fn wait(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = Notification::read(&request.fields)?;
    readable(broker, &header.topic, header.queue)?;
    readable_group(broker, &header.group)?;
    let hold = Duration::from_millis(header.poll_ms.max(0) as u64).min(HOLD_MAX);
    let late = pop::is_late(header.born_ms, header.poll_ms);
    let held = Held {
        request: request.head(),
        ask: Ask::Notification(header),
        peer: Arc::clone(peer),
        deadline: tokio::time::Instant::now() + hold,
        place: None,
    };
    look_again(broker, held, hold > Duration::ZERO && !late);
    Ok(None)
}

/// Answers, or lets it wait where it may.
pub(super) fn look_again(broker: &Arc<Broker>, held: Held, may_wait: bool) -> Looked {
    let received = Instant::now();
    let Ask::Notification(header) = &held.ask else {
        return Looked::Answered;
    };
    let wanted = Wanted::of_notification(header);
    let has_messages = anything_for(broker, &header.topic, &header.group, &wanted);
    let waits = may_wait && held.deadline > tokio::time::Instant::now();
    if has_messages || !waits {
        return answer(broker, &held, (has_messages, false), received);
    }
    match pop::wait(broker, held, 0) {
        Ok(waits) => waits,
        Err(held) => answer(broker, &held, (false, true), received),
    }
}

fn answer(
    broker: &Broker,
    held: &Held,
    (has_messages, polling_full): (bool, bool),
    received: Instant,
) -> Looked {
    let answer = held.request.answer(ResponseCode::Success);
    let answer = answer.with_header(&NotificationAnswer {
        has_messages,
        polling_full,
    });
    broker.reply(&held.request, &answer, &held.peer, received);
    Looked::Answered
}

pub(super) fn info(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = PollingInfo::read(&request.fields)?;
    readable(broker, &header.topic, header.queue)?;
    readable_group(broker, &header.group)?;
    let waiting = &broker.waiting.pops.waiting;
    let waiting = waiting.count(&header.topic, &header.group, header.queue) as i32;
    let answer = request.answer(ResponseCode::Success);
    Ok(Some(answer.with_header(&PollingInfoAnswer { waiting })))
}
