//! Brokers: registration, signs of life, who is there, and whether producers may write to them.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use protocol::body::{
    BrokerMemberGroup, BrokerMembers, DataVersion, RegisterBrokerBody, TopicConfigTable,
};
use protocol::code::VERSION_REGISTER_BODY;
use protocol::header::{
    BrokerAlive, BrokerOf, DataVersionAnswer, MembersOf, RegisterBroker, RegisterBrokerAnswer,
    WritePermAdded, WritePermOf, WritePermWiped,
};
use protocol::json::{from_fastjson, to_fastjson, to_json};
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::kv::ORDER_TOPICS;
use super::{NameServer, success};
use crate::route::{Address, Registration};

impl NameServer {
    pub(super) fn register(&self, request: &Frame, peer: u64) -> Result<Frame, Refusal> {
        let refuse = |why: String| {
            tracing::warn!(why, "registration refused");
            Refusal::new(
                ResponseCode::SystemError,
                format!("register broker failed: {why}"),
            )
        };
        let header = RegisterBroker::read(&request.fields)?;
        let topics = topics(request, &header).map_err(refuse)?;
        let settings = self.settings();
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
            topics,
            complete: settings.delete_topic_with_broker_registration,
            peer,
        };
        let registered = self
            .lock()
            .register(new, (self.clock)())
            .map_err(|error| refuse(error.to_string()))?;
        let answer = success(request).with_header(&RegisterBrokerAnswer {
            ha_address: registered.ha_address,
            master_address: registered.master_address,
        });
        let order = settings
            .return_order_topic_config_to_broker
            .then(|| self.kv().list(ORDER_TOPICS))
            .flatten();
        Ok(match order {
            Some(table) => answer.with_body(to_json(&table)),
            None => answer,
        })
    }

    pub(super) fn unregister(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header = BrokerOf::read(&request.fields)?;
        let at = Address {
            cluster: header.cluster,
            address: header.address,
        };
        self.lock()
            .unregister(&at, &header.broker, header.broker_id);
        tracing::info!(broker = header.broker, address = at.address, "unregistered");
        Ok(success(request))
    }

    pub(super) fn query_data_version(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header = BrokerOf::read(&request.fields)?;
        let at = Address {
            cluster: header.cluster,
            address: header.address,
        };
        let version: DataVersion = from_fastjson(&request.body)?;
        let (changed, ours) = self.lock().query_version(&at, version, (self.clock)());
        let answer = success(request).with_header(&DataVersionAnswer { changed });
        Ok(match ours {
            Some(version) => answer.with_body(to_json(&version)),
            None => answer,
        })
    }

    pub(super) fn heartbeat(&self, request: &Frame) -> Result<Frame, Refusal> {
        let BrokerAlive { cluster, address } = BrokerAlive::read(&request.fields)?;
        self.lock()
            .heard(&Address { cluster, address }, (self.clock)());
        Ok(success(request))
    }

    pub(super) fn members(&self, request: &Frame) -> Result<Frame, Refusal> {
        let header = MembersOf::read(&request.fields)?;
        let broker_addrs = self.lock().members(&header.broker);
        let members = BrokerMembers {
            broker_member_group: BrokerMemberGroup {
                broker_addrs,
                broker_name: header.broker,
                cluster: header.cluster,
            },
        };
        Ok(success(request).with_body(to_fastjson(&members)))
    }

    pub(super) fn clusters(&self, request: &Frame) -> Frame {
        success(request).with_body(to_fastjson(&self.lock().clusters()))
    }

    pub(super) fn wipe_write_perm(&self, request: &Frame) -> Result<Frame, Refusal> {
        let topics = self.set_writable(request, false)?;
        Ok(success(request).with_header(&WritePermWiped { topics }))
    }

    pub(super) fn add_write_perm(&self, request: &Frame) -> Result<Frame, Refusal> {
        let topics = self.set_writable(request, true)?;
        Ok(success(request).with_header(&WritePermAdded { topics }))
    }

    fn set_writable(&self, request: &Frame, writable: bool) -> Result<i32, Refusal> {
        let WritePermOf { broker } = WritePermOf::read(&request.fields)?;
        let topics = self.lock().set_writable(&broker, writable);
        tracing::info!(broker, writable, topics, "permission of a broker's topics");
        Ok(topics as i32)
    }
}

/// What a broker registers: nothing at all, its topics alone from a release of before 2014, or
/// the body of today.
fn topics(request: &Frame, header: &RegisterBroker) -> Result<TopicConfigTable, String> {
    if request.body.is_empty() {
        return Ok(TopicConfigTable::default());
    }
    if request.version < VERSION_REGISTER_BODY {
        return from_fastjson(&request.body).map_err(|error| error.to_string());
    }
    RegisterBrokerBody::read(&request.body, header.compressed, header.body_crc)
        .map(|body| body.topic_config_serialize_wrapper)
        .map_err(|error| error.to_string())
}
