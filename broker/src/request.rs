//! What the broker answers: one match over the request codes, a file a family.
//!
//! A handler returns the answer, or [`Later`] when it answers through the peer itself.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::unnecessary_wraps)] // every handler has one type

pub mod pull;
pub mod pop;
mod ack;
mod admin;
mod assignment;
mod client;
mod create;
mod group;
mod lock;
mod member;
mod notification;
mod offset;
mod progress;
mod query;
mod reply;
mod send;
mod sendback;
mod topic;
mod transaction;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use net::{Handler, Peer};
use protocol::json::to_fastjson;
use protocol::record::Message;
use protocol::topic::STATE_TOPIC;
use protocol::{Frame, Refusal, RequestCode, ResponseCode};
use store::state::{self, Entry};
use store::{AppendError, Appended, ReadError};

use crate::tables::Change;
use crate::{Broker, base};

/// The answer, or the promise that it comes through the peer.
type Answer = Result<Option<Frame>, Refusal>;

impl Handler for Broker {
    fn handle(self: &Arc<Self>, request: Frame, peer: &Arc<Peer>) {
        if request.is_response() {
            return peer.answered(request);
        }
        let received = Instant::now();
        match dispatch(self, &request, peer) {
            Ok(Some(answer)) => self.reply(&request, &answer, peer, received),
            Ok(None) => {}
            Err(refusal) => {
                tracing::debug!(peer = %peer.address, code = request.code, %refusal, "refused");
                self.reply(&request, &refusal.answer(&request), peer, received);
            }
        }
    }

    fn closed(self: &Arc<Self>, peer: &Peer) {
        let changed = self.clients().peer_closed(peer.id);
        client::notify_members(self, changed);
    }
}

fn dispatch(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    use RequestCode as Code;
    let code = Code::from_number(request.code).ok_or_else(|| Refusal::unsupported(request.code))?;
    match code {
        Code::SendMessage | Code::SendMessageV2 | Code::SendBatchMessage => {
            send::send(broker, request, peer)
        }
        Code::SendReplyMessage | Code::SendReplyMessageV2 => send::send(broker, request, peer),
        Code::EndTransaction => transaction::end(broker, request, peer),
        Code::ConsumerSendMsgBack => sendback::send_back(broker, request, peer),
        Code::PullMessage | Code::LitePullMessage => pull::pull(broker, request, peer),
        Code::PopMessage => pop::pop(broker, request, peer),
        Code::PeekMessage => reading(broker, request, peer, pop::peek),
        Code::AckMessage => ack::one(broker, request),
        Code::BatchAckMessage => ack::several(broker, request),
        Code::ChangeMessageInvisibletime => ack::change_time(broker, request),
        Code::Notification => notification::wait(broker, request, peer),
        Code::PollingInfo => notification::info(broker, request),
        Code::QueryAssignment => assignment::query(broker, request, peer),
        Code::SetMessageRequestMode => assignment::set_mode(broker, request, peer),
        Code::HeartBeat => client::heartbeat(broker, request, peer),
        Code::UnregisterClient => client::unregister(broker, request),
        Code::GetConsumerListByGroup => client::consumer_list(broker, request),
        Code::CheckClientConfig => client::check(broker, request),
        Code::LockBatchMq => lock::lock(broker, request),
        Code::UnlockBatchMq => lock::unlock(broker, request),
        Code::QueryMessage => query::by_key(broker, request, peer),
        Code::ViewMessageById => query::by_position(broker, request, peer),
        Code::QueryConsumerOffset => offset::query(broker, request),
        Code::UpdateConsumerOffset => offset::update(broker, request),
        Code::GetMaxOffset => offset::max(broker, request),
        Code::GetMinOffset => offset::min(broker, request),
        Code::SearchOffsetByTimestamp => reading(broker, request, peer, offset::search),
        Code::GetEarliestMsgStoretime => reading(broker, request, peer, offset::earliest),
        Code::UpdateAndCreateTopic => topic::create(broker, request, peer),
        Code::UpdateAndCreateTopicList => topic::create_list(broker, request, peer),
        Code::GetAllTopicConfig => topic::all(broker, request),
        Code::DeleteTopicInBroker => topic::delete(broker, request, peer),
        Code::GetTopicConfig => topic::get(broker, request),
        Code::UpdateAndCreateSubscriptiongroup => group::create(broker, request, peer),
        Code::DeleteSubscriptiongroup => group::delete(broker, request, peer),
        Code::GetSubscriptiongroupConfig => group::get(broker, request),
        Code::UpdateAndCreateSubscriptiongroupList => group::create_list(broker, request, peer),
        Code::GetAllSubscriptiongroupConfig => group::all(broker, request),
        _ => administer(code, broker, request, peer),
    }
}

/// What administrators ask; every other code is one that nobody here serves.
fn administer(
    code: RequestCode,
    broker: &Arc<Broker>,
    request: &Frame,
    peer: &Arc<Peer>,
) -> Answer {
    use RequestCode as Code;
    match code {
        Code::GetConsumerConnectionList => member::consumers(broker, request),
        Code::GetProducerConnectionList => member::producers(broker, request),
        Code::GetAllProducerInfo => member::all_producers(broker, request),
        Code::QuerySubscriptionByConsumer => member::subscription(broker, request),
        Code::GetConsumerRunningInfo => member::running_info(broker, request, peer),
        Code::ConsumeMessageDirectly => member::consume_directly(broker, request, peer),
        Code::InvokeBrokerToGetConsumerStatus => member::status(broker, request, peer),
        Code::GetTopicStatsInfo => reading(broker, request, peer, progress::of_topic),
        Code::GetConsumeStats => reading(broker, request, peer, progress::of_group),
        Code::GetBrokerConsumeStats => reading(broker, request, peer, progress::of_all_groups),
        Code::QueryConsumeTimeSpan => reading(broker, request, peer, progress::time_span),
        Code::QueryTopicConsumeByWho => progress::groups_of(broker, request),
        Code::QueryTopicsByConsumer => progress::topics_of(broker, request),
        Code::QueryCorrectionOffset => progress::correction(broker, request),
        Code::InvokeBrokerToResetOffset => progress::reset(broker, request, peer),
        Code::CloneGroupOffset => progress::clone(broker, request, peer),
        Code::GetAllConsumerOffset => admin::all_offsets(broker, request),
        Code::GetBrokerRuntimeInfo => reading(broker, request, peer, admin::runtime_info),
        Code::GetBrokerConfig => admin::config(broker, request),
        Code::UpdateBrokerConfig => admin::update_config(broker, request),
        Code::ViewBrokerStatsData => admin::stats(broker, request),
        Code::GetSystemTopicListFromBroker => admin::system_topics(broker, request),
        // What Java cleans on demand is clean here at any time: the index goes with the log.
        Code::CleanExpiredConsumequeue | Code::CleanUnusedTopic => {
            Ok(Some(request.answer(ResponseCode::Success)))
        }
        _ => Err(Refusal::unsupported(request.code)),
    }
}

/// Answers off the async threads, where waiting for the disk holds nobody up.
fn reading(
    broker: &Arc<Broker>,
    request: &Frame,
    peer: &Arc<Peer>,
    read: impl FnOnce(&Arc<Broker>, &Frame) -> Result<Frame, Refusal> + Send + 'static,
) -> Answer {
    let received = Instant::now();
    let (broker, request, peer) = (Arc::clone(broker), request.clone(), Arc::clone(peer));
    let runtime = broker.runtime.clone();
    runtime.spawn_blocking(move || {
        let answer = read(&broker, &request).unwrap_or_else(|refusal| refusal.answer(&request));
        broker.reply(&request, &answer, &peer, received);
    });
    Ok(None)
}

/// What makes a group that is unknown.
fn missing_group(broker: &Broker, group: &str) -> Vec<Change> {
    let known = broker.tables().group(group).is_some();
    if known {
        Vec::new()
    } else {
        broker.missing(group)
    }
}

/// Serves a request when what it needs has been made.
fn once_made(
    broker: &Arc<Broker>,
    missing: Vec<Change>,
    request: &Frame,
    peer: &Arc<Peer>,
    serve: impl FnOnce(&Arc<Broker>, &Frame, &Arc<Peer>) -> Answer + Send + 'static,
) -> Answer {
    if missing.is_empty() {
        return serve(broker, request, peer);
    }
    let received = Instant::now();
    let (request, peer) = (request.clone(), Arc::clone(peer));
    broker.change(missing, move |broker, result| {
        let served = result.and_then(|()| serve(broker, &request, &peer));
        let answer = served.unwrap_or_else(|refusal| Some(refusal.answer(&request)));
        if let Some(answer) = answer {
            broker.reply(&request, &answer, &peer, received);
        }
    });
    Ok(None)
}

/// Works changes and the answer's body out, off the async threads; answers when the changes have
/// committed.
fn changing(
    broker: &Arc<Broker>,
    request: &Frame,
    peer: &Arc<Peer>,
    work: impl FnOnce(&Arc<Broker>) -> Result<(Vec<Change>, Vec<u8>), Refusal> + Send + 'static,
) -> Answer {
    let received = Instant::now();
    let (broker, request, peer) = (Arc::clone(broker), request.clone(), Arc::clone(peer));
    let runtime = broker.runtime.clone();
    runtime.spawn_blocking(move || match work(&broker) {
        Ok((changes, body)) => broker.change(changes, move |broker, result| {
            let answer = match result {
                Ok(()) => request.answer(ResponseCode::Success).with_body(body),
                Err(refusal) => refusal.answer(&request),
            };
            broker.reply(&request, &answer, &peer, received);
        }),
        Err(refusal) => broker.reply(&request, &refusal.answer(&request), &peer, received),
    });
    Ok(None)
}

/// A success with a body that Java reads.
fn with_body(request: &Frame, body: &impl serde::Serialize) -> Answer {
    let answer = request.answer(ResponseCode::Success);
    Ok(Some(answer.with_body(to_fastjson(body))))
}

/// The store could not be read.
fn failed(error: ReadError) -> Refusal {
    tracing::error!(%error, "the store can't be read");
    Refusal::new(ResponseCode::SystemError, error.to_string())
}

impl Broker {
    /// Sends the answer unless none is wanted, and counts how long it took.
    fn reply(&self, request: &Frame, answer: &Frame, peer: &Arc<Peer>, received: Instant) {
        if !request.is_oneway() {
            peer.send(answer);
        }
        self.metrics
            .answered(request, answer.code, false, received.elapsed());
    }

    /// Writes changes to the log, as one record; `done` runs once it has committed and they have
    /// been applied, or when it could not be written. It runs on the store's thread.
    pub(crate) fn change(
        self: &Arc<Self>,
        changes: Vec<Change>,
        done: impl FnOnce(&Arc<Self>, Result<(), Refusal>) + Send + 'static,
    ) {
        let broker = Arc::clone(self);
        let record = state_record(&changes);
        self.write(record, move |appended| {
            let result = appended.map(|appended| {
                let mut tables = broker.tables_mut();
                let mut registered = false;
                for change in changes {
                    let (position, ms) = (appended.position, appended.store_ms);
                    registered |= base::apply(&broker.store, &mut tables, change, position, ms);
                }
                drop(tables);
                if registered {
                    broker.registration.changed();
                }
            });
            done(&broker, result);
        });
    }

    /// Writes a state record to the log.
    pub(crate) fn write(
        &self,
        record: Bytes,
        done: impl FnOnce(Result<Appended, Refusal>) + Send + 'static,
    ) {
        let message = state_message(record, self.config.store_host);
        let then = |appended: Result<_, AppendError>| {
            done(appended.map_err(|error| append_refusal(&error)));
        };
        self.store.append(message, Box::new(then));
    }

    /// A change asked for by an administrator: answered when it has committed.
    fn change_and_answer(
        self: &Arc<Self>,
        changes: Vec<Change>,
        request: &Frame,
        peer: &Arc<Peer>,
    ) {
        let (received, peer) = (Instant::now(), Arc::clone(peer));
        // The request without its body: all that an answer needs.
        let request = Frame {
            body: Bytes::new(),
            ..request.clone()
        };
        self.change(changes, move |broker, result| {
            let answer = match result {
                Ok(()) => request.answer(ResponseCode::Success),
                Err(refusal) => refusal.answer(&request),
            };
            broker.reply(&request, &answer, &peer, received);
        });
    }
}

/// A state record on its way to the log.
pub(crate) fn state_message(record: Bytes, host: SocketAddr) -> Message {
    Message {
        topic: STATE_TOPIC.into(),
        queue: 0,
        flag: 0,
        sys_flag: 0,
        born_ms: crate::process::unix_ms(),
        born_host: host,
        reconsume_times: 0,
        prepared_offset: 0,
        body: record,
        properties: Bytes::new(),
    }
}

/// The body of the state record that says these changes.
pub(crate) fn state_record(changes: &[Change]) -> Bytes {
    let encoded: Vec<(u8, Vec<u8>)> = changes.iter().map(Change::encode).collect();
    let entries: Vec<Entry<'_>> = encoded
        .iter()
        .map(|(kind, payload)| Entry {
            kind: *kind,
            payload,
        })
        .collect();
    state::encode(&entries).into()
}

/// Not stored. Congestion is 14, on which Java and Go clients both try again, elsewhere if they
/// can; Go gives up on Java's 2. Never 10, 11 or 12, which they take for success.
fn append_refusal(error: &AppendError) -> Refusal {
    let code = match error {
        AppendError::Message(_) | AppendError::RecordTooLarge { .. } | AppendError::Targets => {
            ResponseCode::MessageIllegal
        }
        _ => ResponseCode::ServiceNotAvailable,
    };
    let remark = match error {
        AppendError::Busy => {
            format!("[OVERLOAD]broker busy, start flow control for a while: {error}")
        }
        AppendError::DiskFull { .. } => {
            format!("service not available now. The broker's disk is full: {error}")
        }
        _ => error.to_string(),
    };
    Refusal::new(code, remark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_stored_is_refused_by_a_code_that_clients_understand() {
        use protocol::record::EncodeError;
        let illegal = (ResponseCode::MessageIllegal, "");
        let later = |text| (ResponseCode::ServiceNotAvailable, text);
        for (error, (code, text)) in [
            (AppendError::Message(EncodeError::BodyTooLarge(9)), illegal),
            (AppendError::RecordTooLarge { bytes: 9 }, illegal),
            (AppendError::Busy, later("[OVERLOAD]broker busy")),
            (AppendError::Busy, later("wait for the disk")),
            (
                AppendError::DiskFull {
                    used_percent: 91,
                    held: "; held".into(),
                },
                later("91 % of the disk is used; held"),
            ),
            (AppendError::Failed, later("a write to the disk has failed")),
            (AppendError::Closed, later("the store is closed")),
        ] {
            let refusal = append_refusal(&error);
            assert_eq!(refusal.code, code, "{error}");
            assert!(refusal.remark.contains(text), "{refusal}");
        }
    }
}
