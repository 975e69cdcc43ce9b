//! The end of a transaction (`EndTransactionProcessor.java`). What a commit delivers and the op
//! record that says so are stored together: neither is there without the other.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use net::Peer;
use protocol::header::EndTransaction;
use protocol::record::{COMMITTED, Message, ROLLBACK, Record};
use protocol::topic::HALF_TOPIC;
use protocol::{Frame, Header as _, Refusal, ResponseCode, properties};
use store::Appended;

use super::{Answer, append_refusal, failed};
use crate::Broker;
use crate::process::unix_ms;
use crate::transaction::{self, Claim};

pub(super) fn end(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = EndTransaction::read(&request.fields)?;
    if ![COMMITTED, ROLLBACK].contains(&header.outcome) {
        // Not known yet: who says so expects no answer, and is asked later.
        return Ok(None);
    }
    let (received, request) = (Instant::now(), request.head());
    let (then, peer) = (Arc::clone(broker), Arc::clone(peer));
    // The half message may have to be read from the disk.
    broker.runtime.spawn_blocking(move || {
        let answering = Arc::clone(&then);
        let answer = move |ended: Result<(), Refusal>| {
            let answer = match ended {
                Ok(()) => request.answer(ResponseCode::Success),
                Err(refusal) => {
                    tracing::info!(peer = %peer.address, %refusal, "a transaction is not ended");
                    refusal.answer(&request)
                }
            };
            answering.reply(&request, &answer, &peer, received);
        };
        match look_up(&then, &header) {
            Ok((stored, claim)) => finish(&then, &header, &stored, claim, answer),
            Err(refusal) => answer(Err(refusal)),
        }
    });
    Ok(None)
}

fn wrong(remark: impl Into<String>) -> Refusal {
    Refusal::new(ResponseCode::SystemError, remark)
}

/// The half message, for this alone to end.
fn look_up(broker: &Broker, header: &EndTransaction) -> Result<(Bytes, Claim), Refusal> {
    let missing = || wrong("Find prepared transaction message failed");
    let position = u64::try_from(header.position).map_err(|_| missing())?;
    let stored = broker.store.record_at(position).map_err(failed)?;
    let stored = stored.ok_or_else(missing)?;
    let half = Record::decode(&stored).map_err(|_| missing())?;
    if half.topic != HALF_TOPIC {
        return Err(missing());
    }
    if half.property(properties::PGROUP) != Some(&header.producer_group) {
        return Err(wrong("The producer group wrong"));
    }
    if half.queue_offset != header.half_offset {
        return Err(wrong("The transaction state table offset wrong"));
    }
    if header.from_check != Some(true) && is_late(&half, unix_ms()) {
        let remark = "its sender is asked already: it was not ended in the time that it asked for";
        return Err(Refusal::new(ResponseCode::IllegalOperation, remark));
    }
    let root = transaction::root(&half);
    let claim = broker.transactions().claim(half.queue_offset, root);
    let claim =
        claim.map_err(|error| Refusal::new(ResponseCode::IllegalOperation, error.to_string()))?;
    Ok((stored, claim))
}

/// Whether a message that has asked for a time in which it is not checked has had it.
fn is_late(half: &Record<'_>, now_ms: i64) -> bool {
    let seconds = half.property(properties::CHECK_IMMUNITY_SECONDS);
    let seconds = seconds.and_then(|seconds| seconds.parse::<i64>().ok());
    seconds.is_some_and(|seconds| {
        seconds >= 0 && now_ms - half.born_ms > seconds.saturating_mul(1_000)
    })
}

fn finish(
    broker: &Arc<Broker>,
    header: &EndTransaction,
    stored: &Bytes,
    claim: Claim,
    answer: impl FnOnce(Result<(), Refusal>) + Send + 'static,
) {
    let ended = Record::decode(stored)
        .map_err(|error| wrong(error.to_string()))
        .and_then(|half| ended(broker, header, stored, &half));
    let message = match ended {
        Ok(message) => message,
        Err(refusal) => {
            broker.transactions().release(claim);
            return answer(Err(refusal));
        }
    };
    let topic = Arc::clone(&message.topic);
    let op = transaction::op(claim, &message);
    let commits = header.outcome == COMMITTED;
    let messages = if commits { vec![message, op] } else { vec![op] };
    let then = Arc::clone(broker);
    let done = move |appended: Result<Vec<Appended>, _>| match appended {
        Ok(appended) => {
            let op = appended.last().map(|op| op.queue_offset);
            then.transactions().end(claim, op);
            let bytes = appended.first().map_or(0, |first| first.bytes as usize);
            then.metrics.ended(&topic, commits, bytes);
            answer(Ok(()));
        }
        Err(error) => {
            then.transactions().release(claim);
            answer(Err(append_refusal(&error)));
        }
    };
    broker.store.append_all(messages, Box::new(done));
}

/// The message as consumers get it. Its properties still say that it was part of a transaction, as
/// Java's do.
fn ended(
    broker: &Broker,
    header: &EndTransaction,
    stored: &Bytes,
    half: &Record<'_>,
) -> Result<Message, Refusal> {
    let unnamed = || wrong("the half message names no topic");
    let real = half.property(properties::REAL_TOPIC).ok_or_else(unnamed)?;
    let queue = half.property(properties::REAL_QID);
    let queue = queue.and_then(|queue| queue.parse().ok());
    let message = Message {
        sys_flag: half.sys_flag | COMMITTED,
        prepared_offset: header.position,
        ..half.message(stored, real, queue.ok_or_else(unnamed)?)
    };
    if header.outcome == ROLLBACK {
        return Ok(message);
    }
    if broker.tables().topic(real).is_none() {
        let remark = format!("topic[{real}] not exist, apply first please!");
        return Err(Refusal::new(ResponseCode::TopicNotExist, remark));
    }
    Ok(message)
}
