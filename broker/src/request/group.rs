//! Administration of consumer groups (`AdminBrokerProcessor.java`).

use std::sync::Arc;

use net::Peer;
use protocol::body::SubscriptionGroupConfig;
use protocol::header::{DeleteGroup, GroupOf};
use protocol::json::{from_fastjson, to_json};
use protocol::topic::validate_group;
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::Answer;
use crate::Broker;
use crate::tables::Change;

pub(super) fn create(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let config: SubscriptionGroupConfig = from_fastjson(&request.body)?;
    validate_group(&config.group_name)?;
    tracing::info!(group = config.group_name, peer = %peer.address, "consumer group set");
    broker.change_and_answer(Change::Group(config), request, peer);
    Ok(None)
}

pub(super) fn delete(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = DeleteGroup::read(&request.fields)?;
    tracing::info!(group = header.group, peer = %peer.address, "consumer group deleted");
    let change = Change::GroupDeleted {
        group: header.group,
        clean_offsets: header.clean_offset,
    };
    broker.change_and_answer(change, request, peer);
    Ok(None)
}

pub(super) fn get(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = GroupOf::read(&request.fields)?;
    let config = broker.tables().group(&header.group).ok_or_else(|| {
        let remark = format!("No group in this broker. group: {}", header.group);
        Refusal::new(ResponseCode::SubscriptionGroupNotExist, remark)
    })?;
    Ok(Some(
        request
            .answer(ResponseCode::Success)
            .with_body(to_json(&*config)),
    ))
}
