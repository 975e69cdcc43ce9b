//! Heartbeats and membership (`ClientManageProcessor.java`, `ConsumerManageProcessor.java`).

use std::sync::Arc;

use net::Peer;
use protocol::body::{ConsumerList, HeartbeatData, SubscriptionGroupConfig, TopicConfig};
use protocol::header::{ConsumerGroupOf, HeartbeatAnswer, UnregisterClient};
use protocol::json::{from_fastjson, to_json};
use protocol::topic::{retry_topic, validate_group};
use protocol::{Frame, Header as _, Refusal, RequestCode, ResponseCode};

use super::Answer;
use crate::Broker;
use crate::clients::Changed;
use crate::tables::Change;

pub(super) fn heartbeat(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let heartbeat: HeartbeatData = from_fastjson(&request.body)?;
    for consumer in &heartbeat.consumer_data_set {
        // A group that may not be created is heard all the same: its pulls are refused.
        if let Some(group) = broker.group_or_create(&consumer.group_name) {
            create_retry_topic(broker, &group);
        }
    }
    let heard = broker.clients().heard(&heartbeat, peer);
    notify_members(broker, heard.changed);
    Ok(Some(request.answer(ResponseCode::Success).with_header(
        &HeartbeatAnswer {
            version_2: true,
            subscription_changed: heard.subscription_changed,
        },
    )))
}

/// Tells the members of groups that changed, where their group wants it.
pub(super) fn notify_members(broker: &Broker, changed: Vec<Changed>) {
    for Changed { group, members } in changed {
        let config = broker.tables().group(&group);
        if config.is_some_and(|config| !config.notify_consumer_ids_changed_enable) {
            continue;
        }
        let header = ConsumerGroupOf { group };
        for member in members {
            member.notify(Frame::request(
                RequestCode::NotifyConsumerIdsChanged,
                &header,
            ));
        }
    }
}

pub(super) fn unregister(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = UnregisterClient::read(&request.fields)?;
    let changed = broker.clients().unregister(
        &header.client_id,
        header.producer_group.as_deref(),
        header.consumer_group.as_deref(),
    );
    notify_members(broker, changed.into_iter().collect());
    Ok(Some(request.answer(ResponseCode::Success)))
}

pub(super) fn consumer_list(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = ConsumerGroupOf::read(&request.fields)?;
    let consumer_id_list = broker.clients().consumer_ids(&header.group);
    if consumer_id_list.is_empty() {
        let remark = format!("no consumer for this group, {}", header.group);
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    let body = to_json(&ConsumerList { consumer_id_list });
    Ok(Some(request.answer(ResponseCode::Success).with_body(body)))
}

impl Broker {
    /// The group's settings; an unknown group is created where that is allowed, and has its
    /// settings from now on.
    pub(crate) fn group_or_create(self: &Arc<Self>, name: &str) -> Option<SubscriptionGroupConfig> {
        let known = self.tables().group(name);
        if let Some(known) = known {
            return Some((*known).clone());
        }
        if !self.config.properties.auto_create_subscription_group || validate_group(name).is_err() {
            return None;
        }
        let created = SubscriptionGroupConfig {
            group_name: name.to_owned(),
            ..SubscriptionGroupConfig::default()
        };
        let group = name.to_owned();
        self.change(
            Change::Group(created.clone()),
            move |_, result| match result {
                Ok(()) => tracing::info!(group, "consumer group created by its first member"),
                Err(refusal) => tracing::warn!(group, %refusal, "consumer group not created"),
            },
        );
        Some(created)
    }
}

/// Every consumer subscribes to its group's retry topic, which must have a route.
fn create_retry_topic(broker: &Arc<Broker>, group: &SubscriptionGroupConfig) {
    let name = retry_topic(&group.group_name);
    if group.retry_queue_nums <= 0 || broker.tables().topic(&name).is_some() {
        return;
    }
    let topic = TopicConfig {
        topic_name: name.clone(),
        read_queue_nums: group.retry_queue_nums,
        write_queue_nums: group.retry_queue_nums,
        ..TopicConfig::default()
    };
    broker.change(Change::Topic(topic), move |_, result| {
        if let Err(refusal) = result {
            tracing::warn!(topic = name, %refusal, "retry topic not created");
        }
    });
}
