//! What the name server answers: one match over the request codes, a file a family
//! (`DefaultRequestProcessor.java`, `ClientRequestProcessor.java`).

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod broker;
mod kv;
mod route;
mod settings;
mod topic;

use std::sync::{Arc, Mutex, MutexGuard};

use net::{Handler, Peer};
use protocol::{Frame, Refusal, RequestCode, ResponseCode};

use crate::process::Metrics;
use crate::route::RouteTable;
use kv::Kv;
use settings::Settings;

#[derive(Debug)]
pub struct NameServer {
    pub(crate) table: Mutex<RouteTable>,
    kv: Mutex<Kv>,
    settings: Mutex<Settings>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: fn() -> i64,
}

impl Handler for NameServer {
    fn handle(self: &Arc<Self>, request: Frame, peer: &Arc<Peer>) {
        if request.is_response() {
            return;
        }
        self.metrics.requests.inc();
        let answer = self.answer(&request, peer.id).unwrap_or_else(|refusal| {
            tracing::debug!(peer = %peer.address, code = request.code, %refusal, "refused");
            refusal.answer(&request)
        });
        if !request.is_oneway() {
            peer.send(&answer);
        }
    }

    fn closed(self: &Arc<Self>, peer: &Peer) {
        for gone in self.lock().peer_closed(peer.id) {
            tracing::info!(broker = gone.address, "gone: its connection ended");
        }
    }
}

impl NameServer {
    pub(crate) fn new(metrics: Metrics, clock: fn() -> i64) -> Self {
        Self {
            table: Mutex::default(),
            kv: Mutex::default(),
            settings: Mutex::default(),
            metrics,
            clock,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, RouteTable> {
        self.table
            .lock()
            .expect("invariant: no panic while the table is held")
    }

    fn kv(&self) -> MutexGuard<'_, Kv> {
        self.kv
            .lock()
            .expect("invariant: no panic while the table is held")
    }

    fn settings(&self) -> Settings {
        *self
            .settings
            .lock()
            .expect("invariant: no panic while the settings are held")
    }

    fn answer(&self, request: &Frame, peer: u64) -> Result<Frame, Refusal> {
        use RequestCode as Code;
        let Some(code) = Code::from_number(request.code) else {
            return Err(Refusal::unsupported(request.code));
        };
        match code {
            Code::RegisterBroker => self.register(request, peer),
            Code::UnregisterBroker => self.unregister(request),
            Code::QueryDataVersion => self.query_data_version(request),
            Code::BrokerHeartbeat => self.heartbeat(request),
            Code::GetBrokerMemberGroup => self.members(request),
            Code::GetBrokerClusterInfo => Ok(self.clusters(request)),
            Code::WipeWritePermOfBroker => self.wipe_write_perm(request),
            Code::AddWritePermOfBroker => self.add_write_perm(request),
            Code::GetRouteinfoByTopic => self.route(request),
            Code::GetAllTopicListFromNameserver => self.all_topics(request),
            Code::GetTopicsByCluster => self.topics_of_cluster(request),
            Code::GetSystemTopicListFromNs => Ok(self.system_topics(request)),
            Code::GetUnitTopicList
            | Code::GetHasUnitSubTopicList
            | Code::GetHasUnitSubUnunitTopicList => self.unit_topics(request, code),
            Code::RegisterTopicInNamesrv => self.register_topic(request),
            Code::DeleteTopicInNamesrv => self.delete_topic(request),
            Code::PutKvConfig => self.put_kv(request),
            Code::GetKvConfig => self.get_kv(request),
            Code::DeleteKvConfig => self.delete_kv(request),
            Code::GetKvlistByNamespace => self.list_kv(request),
            Code::UpdateNamesrvConfig => self.update_settings(request),
            Code::GetNamesrvConfig => Ok(self.show_settings(request)),
            _ => Err(Refusal::unsupported(request.code)),
        }
    }
}

fn success(request: &Frame) -> Frame {
    request.answer(ResponseCode::Success)
}
