//! What the broker answers: one match over the request codes, a file a family.
//!
//! A handler returns the answer, or [`Later`] when it answers through the peer itself.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub mod pull;
mod client;
mod group;
mod offset;
mod send;
mod topic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use net::{Handler, Peer};
use protocol::record::Message;
use protocol::topic::STATE_TOPIC;
use protocol::{Frame, Refusal, RequestCode, ResponseCode};
use store::state::{self, Entry};
use store::{AppendError, Appended};

use crate::tables::Change;
use crate::{Broker, base};

/// The answer, or the promise that it comes through the peer.
type Answer = Result<Option<Frame>, Refusal>;

impl Handler for Broker {
    fn handle(self: &Arc<Self>, request: Frame, peer: &Arc<Peer>) {
        if request.is_response() {
            return;
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
        Code::SendMessageV2 => send::send(broker, request, peer),
        Code::PullMessage | Code::LitePullMessage => pull::pull(broker, request, peer),
        Code::HeartBeat => client::heartbeat(broker, request, peer),
        Code::UnregisterClient => client::unregister(broker, request),
        Code::GetConsumerListByGroup => client::consumer_list(broker, request),
        Code::QueryConsumerOffset => offset::query(broker, request),
        Code::UpdateConsumerOffset => offset::update(broker, request),
        Code::GetMaxOffset => offset::max(broker, request),
        Code::GetMinOffset => offset::min(broker, request),
        Code::SearchOffsetByTimestamp => offset::search(broker, request),
        Code::UpdateAndCreateTopic => topic::create(broker, request, peer),
        Code::DeleteTopicInBroker => topic::delete(broker, request, peer),
        Code::GetTopicConfig => topic::get(broker, request),
        Code::UpdateAndCreateSubscriptiongroup => group::create(broker, request, peer),
        Code::DeleteSubscriptiongroup => group::delete(broker, request, peer),
        Code::GetSubscriptiongroupConfig => group::get(broker, request),
        _ => Err(Refusal::unsupported(request.code)),
    }
}

impl Broker {
    /// Sends the answer unless none is wanted, and counts how long it took.
    fn reply(&self, request: &Frame, answer: &Frame, peer: &Peer, received: Instant) {
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
    fn change_and_answer(self: &Arc<Self>, change: Change, request: &Frame, peer: &Arc<Peer>) {
        let (received, peer) = (Instant::now(), Arc::clone(peer));
        // The request without its body: all that an answer needs.
        let request = Frame {
            body: Bytes::new(),
            ..request.clone()
        };
        self.change(vec![change], move |broker, result| {
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

/// Not stored: 14, on which Java and Go clients try again elsewhere. Never 10, 11 or 12, which
/// they take for success.
fn append_refusal(error: &AppendError) -> Refusal {
    let code = match error {
        AppendError::Message(_) | AppendError::RecordTooLarge { .. } => {
            ResponseCode::MessageIllegal
        }
        _ => ResponseCode::ServiceNotAvailable,
    };
    Refusal::new(code, error.to_string())
}
