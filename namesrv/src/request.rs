//! What the name server answers: one match over the request codes
//! (`DefaultRequestProcessor.java`, `ClientRequestProcessor.java`).

use std::sync::{Arc, Mutex, MutexGuard};

use net::{Handler, Peer};
use protocol::body::{DataVersion, RegisterBrokerBody};
use protocol::code::VERSION_STRICT_JSON_ROUTE;
use protocol::header::{
    BrokerOf, DataVersionAnswer, RegisterBroker, RegisterBrokerAnswer, RouteOf, TopicOf,
};
use protocol::json::{from_fastjson, to_fastjson, to_json};
use protocol::{Frame, Header as _, Refusal, RequestCode, ResponseCode};

use crate::process::Metrics;
use crate::route::{Address, Registration, RouteTable};

#[derive(Debug)]
pub struct NameServer {
    pub(crate) table: Mutex<RouteTable>,
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
    pub(crate) fn lock(&self) -> MutexGuard<'_, RouteTable> {
        self.table
            .lock()
            .expect("invariant: no panic while the table is held")
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
            Code::GetRouteinfoByTopic => self.route(request),
            Code::GetBrokerClusterInfo => {
                let body = to_fastjson(&self.lock().clusters());
                Ok(request.answer(ResponseCode::Success).with_body(body))
            }
            Code::DeleteTopicInNamesrv => {
                let header = TopicOf::read(&request.fields)?;
                self.lock()
                    .delete_topic(&header.topic, header.cluster.as_deref());
                Ok(request.answer(ResponseCode::Success))
            }
            _ => Err(Refusal::unsupported(request.code)),
        }
    }

    fn register(&self, request: &Frame, peer: u64) -> Result<Frame, Refusal> {
        let refuse = |why: String| {
            tracing::warn!(why, "registration refused");
            Refusal::new(
                ResponseCode::SystemError,
                format!("register broker failed: {why}"),
            )
        };
        let header = RegisterBroker::read(&request.fields)?;
        let body = RegisterBrokerBody::read(&request.body, header.compressed, header.body_crc)
            .map_err(|error| refuse(error.to_string()))?;
        let new = Registration {
            at: Address {
                cluster: header.cluster,
                address: header.address,
            },
            broker: header.broker,
            broker_id: header.broker_id,
            ha_address: header.ha_address,
            timeout_ms: header.heartbeat_timeout_ms,
            acting_master: header.acting_master,
            zone: header.zone,
            topics: body.topic_config_serialize_wrapper,
            peer,
        };
        let registered = self
            .lock()
            .register(new, (self.clock)())
            .map_err(|error| refuse(error.to_string()))?;
        Ok(request
            .answer(ResponseCode::Success)
            .with_header(&RegisterBrokerAnswer {
                ha_address: registered.ha_address,
                master_address: registered.master_address,
            }))
    }

    fn unregister(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header = BrokerOf::read(&request.fields)?;
        let at = Address {
            cluster: header.cluster,
            address: header.address,
        };
        self.lock()
            .unregister(&at, &header.broker, header.broker_id);
        tracing::info!(broker = header.broker, address = at.address, "unregistered");
        Ok(request.answer(ResponseCode::Success))
    }

    fn query_data_version(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header = BrokerOf::read(&request.fields)?;
        let at = Address {
            cluster: header.cluster,
            address: header.address,
        };
        let version: DataVersion = from_fastjson(&request.body)?;
        let (changed, ours) = self.lock().query_version(&at, version, (self.clock)());
        let answer = request
            .answer(ResponseCode::Success)
            .with_header(&DataVersionAnswer { changed });
        Ok(match ours {
            Some(version) => answer.with_body(to_json(&version)),
            None => answer,
        })
    }

    fn route(&self, request: &Frame) -> Result<Frame, Refusal> {
        // No topic at all is, to Java, a topic without a route.
        let header = RouteOf::read(&request.fields).unwrap_or_default();
        let route = self.lock().route(&header.topic).ok_or_else(|| {
            let remark = format!(
                "No topic route info in name server for the topic: {}",
                header.topic
            );
            Refusal::new(ResponseCode::TopicNotExist, remark)
        })?;
        let strict =
            request.version >= VERSION_STRICT_JSON_ROUTE || header.strict_json.unwrap_or(false);
        let body = if strict {
            to_json(&route)
        } else {
            to_fastjson(&route)
        };
        Ok(request.answer(ResponseCode::Success).with_body(body))
    }
}
