//! Administration of consumer groups (`AdminBrokerProcessor.java`).

use std::sync::Arc;

use net::Peer;
use protocol::body::{SubscriptionGroupConfig, SubscriptionGroupList};
use protocol::header::{DeleteGroup, GroupCount, GroupOf};
use protocol::json::{from_fastjson, to_fastjson, to_json};
use protocol::topic::validate_group;
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::Answer;
use super::topic::altered;
use crate::Broker;
use crate::tables::Change;

pub(super) fn create(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let config: SubscriptionGroupConfig = from_fastjson(&request.body)?;
    set(broker, vec![config], request, peer)
}

pub(super) fn create_list(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let list: SubscriptionGroupList = from_fastjson(&request.body)?;
    set(broker, list.group_config_list, request, peer)
}

fn set(
    broker: &Arc<Broker>,
    configs: Vec<SubscriptionGroupConfig>,
    request: &Frame,
    peer: &Arc<Peer>,
) -> Answer {
    let mut changes = Vec::new();
    for mut config in configs {
        validate_group(&config.group_name)?;
        let known = broker.tables().group(&config.group_name);
        let attributes = known.map(|known| known.attributes.clone());
        config.attributes = altered(attributes.unwrap_or_default(), config.attributes)?;
        tracing::info!(group = config.group_name, peer = %peer.address, "consumer group set");
        changes.push(Change::Group(config));
    }
    broker.change_and_answer(changes, request, peer);
    Ok(None)
}

pub(super) fn delete(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = DeleteGroup::read(&request.fields)?;
    tracing::info!(group = header.group, peer = %peer.address, "consumer group deleted");
    let mut coordination = broker.coordination();
    coordination.resets.forget_group(&header.group);
    coordination.pulled.forget_group(&header.group);
    drop(coordination);
    let change = Change::GroupDeleted {
        group: header.group,
        clean_offsets: header.clean_offset,
    };
    broker.change_and_answer(vec![change], request, peer);
    Ok(None)
}

pub(super) fn all(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let table = broker.tables().group_table();
    let groups = table.subscription_group_table.len() as i32;
    let answer = request.answer(ResponseCode::Success);
    let answer = answer.with_header(&GroupCount { groups });
    Ok(Some(answer.with_body(to_fastjson(&table))))
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
