//! Who is connected, and what is asked of a client through the broker
//! (`AdminBrokerProcessor.java`, `Broker2Client.java`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use net::Peer;
use net::peer::Unanswered;
use protocol::body::{
    ConsumerStatus, ProducerConnection, ProducerTableInfo, QueueOffsets, SubscriptionAnswer,
};
use protocol::header::{
    ConsumerClientOf, ConsumerGroupOf, ConsumerStatusOf, Empty, GroupAndTopic, ProducerGroupOf,
};
use protocol::json::{from_fastjson, to_fastjson};
use protocol::{Frame, Header as _, Refusal, RequestCode, ResponseCode, message_id};

use super::{Answer, failed, with_body};
use crate::Broker;
use crate::clients::Client;

const CALL_MAX: Duration = Duration::from_secs(10);
const STATUS_MAX: Duration = Duration::from_secs(5);

pub(super) fn consumers(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let group = ConsumerGroupOf::read(&request.fields)?.group;
    let connections = broker.clients().consumer_connections(&group);
    let connections = connections.ok_or_else(|| {
        let remark = format!("the consumer group[{group}] not online");
        Refusal::new(ResponseCode::ConsumerNotOnline, remark)
    })?;
    with_body(request, &connections)
}

pub(super) fn producers(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let group = ProducerGroupOf::read(&request.fields)?.group;
    let connection_set = broker.clients().producer_connections(&group);
    let connection_set = connection_set.ok_or_else(|| {
        let remark = format!("the producer group[{group}] not exist");
        Refusal::new(ResponseCode::SystemError, remark)
    })?;
    with_body(request, &ProducerConnection { connection_set })
}

pub(super) fn all_producers(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let data = broker.clients().producers();
    with_body(request, &ProducerTableInfo { data })
}

pub(super) fn subscription(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let GroupAndTopic { group, topic } = GroupAndTopic::read(&request.fields)?;
    let subscribed = broker.clients().subscription(&group, &topic);
    let subscription = subscribed.and_then(|subscribed| subscribed.subscription);
    let subscription_data = subscription.map(|subscription| (*subscription).clone());
    let answer = SubscriptionAnswer {
        group,
        subscription_data,
        topic,
    };
    with_body(request, &answer)
}

/// Asks a consumer what it does, and hands on its answer.
pub(super) fn running_info(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let of = ConsumerClientOf::read(&request.fields)?;
    let asked = asked(RequestCode::GetConsumerRunningInfo, request);
    relay(broker, request, peer, &of, asked)
}

/// Has a consumer consume one message, and hands on what came of it.
pub(super) fn consume_directly(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let of = ConsumerClientOf::read(&request.fields)?;
    let id = of.message_id.as_deref().unwrap_or_default();
    let record = match message_id::decode(id) {
        Some((_, position)) => broker.store.record_at(position).map_err(failed)?,
        None => None,
    };
    let record = record.ok_or_else(|| {
        let remark = format!("no message has the id {id:?}");
        Refusal::new(ResponseCode::SystemError, remark)
    })?;
    let mut asked = asked(RequestCode::ConsumeMessageDirectly, request).with_body(record);
    asked.fields.set("brokerName", &broker.config.broker);
    {
        let tables = broker.tables();
        if let Some(topic) = of.topic.as_deref().and_then(|topic| tables.topic(topic)) {
            asked.fields.set("topicSysFlag", topic.topic_sys_flag);
        }
        if let Some(group) = tables.group(&of.group) {
            asked.fields.set("groupSysFlag", group.group_sys_flag);
        }
    }
    relay(broker, request, peer, &of, asked)
}

/// The request as the client gets it: the asker's own fields.
fn asked(code: RequestCode, request: &Frame) -> Frame {
    Frame {
        fields: request.fields.clone(),
        ..Frame::request(code, &Empty)
    }
}

fn relay(
    broker: &Arc<Broker>,
    request: &Frame,
    peer: &Arc<Peer>,
    of: &ConsumerClientOf,
    asked: Frame,
) -> Answer {
    let id = of.client.clone().unwrap_or_default();
    let name = format!("<{}> <{id}>", of.group);
    let members = broker.clients().consumers(&of.group);
    let client = members.into_iter().find(|(member, _)| *member == id);
    let (_, client) = client.ok_or_else(|| {
        let remark = format!("The Consumer {name} not online");
        Refusal::new(ResponseCode::SystemError, remark)
    })?;
    let (received, answered_by) = (Instant::now(), Arc::clone(broker));
    let (request, peer) = (request.clone(), Arc::clone(peer));
    // It ends with the call's deadline.
    broker.runtime.spawn(async move {
        let answer = match client.peer.call(asked, CALL_MAX).await {
            Ok(answer) => Frame {
                code: answer.code,
                remark: answer.remark,
                fields: answer.fields,
                body: answer.body,
                ..request.answer(ResponseCode::Success)
            },
            Err(error @ Unanswered::TimedOut) => {
                let remark = format!("consumer {name} Timeout: {error}");
                Refusal::new(ResponseCode::ConsumeMsgTimeout, remark).answer(&request)
            }
            Err(error) => {
                let remark = format!("invoke consumer {name} Exception: {error}");
                Refusal::new(ResponseCode::SystemError, remark).answer(&request)
            }
        };
        answered_by.reply(&request, &answer, &peer, received);
    });
    Ok(None)
}

/// Asks the members of a group, or one of them, how far they are.
pub(super) fn status(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let of = ConsumerStatusOf::read(&request.fields)?;
    let wanted = of.client.clone().filter(|id| !id.trim().is_empty());
    let mut members = broker.clients().consumers(&of.group);
    if members.is_empty() {
        let remark = format!(
            "No Any Consumer online in the consumer group: [{}]",
            of.group
        );
        return Err(Refusal::new(ResponseCode::SystemError, remark));
    }
    members.retain(|(id, _)| wanted.as_ref().is_none_or(|wanted| wanted == id));
    let asked = Frame::request(
        RequestCode::GetConsumerStatusFromClient,
        &ConsumerStatusOf { client: None, ..of },
    );
    let (received, answered_by) = (Instant::now(), Arc::clone(broker));
    let (request, peer) = (request.clone(), Arc::clone(peer));
    broker.runtime.spawn(async move {
        let status = statuses(members, &asked).await;
        let answer = request.answer(ResponseCode::Success);
        let answer = answer.with_body(to_fastjson(&status));
        answered_by.reply(&request, &answer, &peer, received);
    });
    Ok(None)
}

/// What the members say; who does not answer is left out.
async fn statuses(members: Vec<(String, Client)>, asked: &Frame) -> ConsumerStatus {
    let deadline = tokio::time::Instant::now() + STATUS_MAX;
    let mut status = ConsumerStatus::default();
    for (id, client) in members {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let Ok(answer) = client.peer.call(asked.clone(), left).await else {
            continue;
        };
        if let Ok(said) = from_fastjson::<ConsumerStatus>(&answer.body) {
            let offsets = QueueOffsets(said.message_queue_table);
            status.consumer_table.insert(id, offsets);
        }
    }
    status
}
