//! Heartbeats and membership (`ClientManageProcessor.java`, `ConsumerManageProcessor.java`).

use std::sync::Arc;
use std::time::Instant;

use net::Peer;
use protocol::body::{
    CheckClient, ConsumerList, HeartbeatData, SubscriptionGroupConfig, TopicConfig,
};
use protocol::header::{ConsumerGroupOf, HeartbeatAnswer, UnregisterClient};
use protocol::json::{from_fastjson, to_json};
use protocol::topic::{retry_topic, validate_group};
use protocol::{Frame, Header as _, Refusal, RequestCode, ResponseCode};

use super::Answer;
use super::pull::condition;
use crate::Broker;
use crate::clients::{Changed, Client};
use crate::process::unix_ms;
use crate::tables::Change;

pub(super) fn heartbeat(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let data: HeartbeatData = from_fastjson(&request.body)?;
    let groups = data
        .consumer_data_set
        .iter()
        .map(|consumer| consumer.group_name.as_str());
    let missing: Vec<Change> = groups.flat_map(|group| broker.missing(group)).collect();
    if missing.is_empty() {
        return Ok(Some(heard(broker, request, &data, peer)));
    }
    let received = Instant::now();
    let (request, peer) = (request.clone(), Arc::clone(peer));
    broker.change(missing, move |broker, result| {
        if let Err(refusal) = result {
            // The members are heard all the same; the next heartbeat tries again.
            tracing::warn!(%refusal, client = data.client_id, "groups not created");
        }
        let answer = heard(broker, &request, &data, &peer);
        broker.reply(&request, &answer, &peer, received);
    });
    Ok(None)
}

fn heard(broker: &Broker, request: &Frame, data: &HeartbeatData, peer: &Arc<Peer>) -> Frame {
    let client = Client {
        peer: Arc::clone(peer),
        language: request.language,
        version: request.version,
        heard_ms: unix_ms(),
    };
    let heard = broker.clients().heard(data, &client);
    notify_members(broker, heard.changed);
    request
        .answer(ResponseCode::Success)
        .with_header(&HeartbeatAnswer {
            version_2: true,
            subscription_changed: heard.subscription_changed,
        })
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

/// Whether a consumer's filter can be served.
pub(super) fn check(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let check: CheckClient = from_fastjson(&request.body)?;
    let subscription = check.subscription_data.unwrap_or_default();
    let failed = (
        ResponseCode::SubscriptionParseFailed,
        "the filter can't be read",
    );
    let kind = subscription.expression_type.as_deref();
    condition(broker, kind, &subscription.sub_string, failed)?;
    Ok(Some(request.answer(ResponseCode::Success)))
}

impl Broker {
    /// What must be written before the members of a group can be served: the group, where it is
    /// unknown and may be created, and the retry topic to which every consumer subscribes.
    pub(crate) fn missing(&self, name: &str) -> Vec<Change> {
        let tables = self.tables();
        let known = tables.group(name);
        let may_create = self.config.properties.auto_create_subscription_group.on()
            && validate_group(name).is_ok();
        if known.is_none() && !may_create {
            return Vec::new();
        }
        let mut missing = Vec::new();
        let group = known.map_or_else(
            || {
                let created = SubscriptionGroupConfig {
                    group_name: name.to_owned(),
                    ..SubscriptionGroupConfig::default()
                };
                missing.push(Change::Group(created.clone()));
                tracing::info!(group = name, "consumer group created by its first member");
                created
            },
            |known| (*known).clone(),
        );
        let retry = retry_topic(name);
        if group.retry_queue_nums > 0 && tables.topic(&retry).is_none() {
            missing.push(Change::Topic(TopicConfig {
                topic_name: retry,
                read_queue_nums: group.retry_queue_nums,
                write_queue_nums: group.retry_queue_nums,
                ..TopicConfig::default()
            }));
        }
        missing
    }
}
