//! Request–reply: a consumer answers whoever has sent a message and waits for that
//! (`ReplyMessageProcessor.java`). The answer goes to that client over the connection of its
//! producer, and is then stored as any message is, whether the client has taken it or not.

use std::sync::Arc;
use std::time::Duration;

use protocol::header::PushReply;
use protocol::{Frame, Refusal, RequestCode, ResponseCode, properties};

use super::send::Send;
use crate::Broker;
use crate::process::unix_ms;

/// How long the client may take to say that it has the answer.
const CALL_MAX: Duration = Duration::from_secs(10);

pub(super) fn pass_on(broker: &Arc<Broker>, mut send: Box<Send>) {
    let then = Arc::clone(broker);
    // It ends with the call's deadline.
    broker.runtime.spawn(async move {
        send.sender.undelivered = push(&then, &send).await.err();
        send.append(&then);
    });
}

async fn push(broker: &Broker, send: &Send) -> Result<(), Refusal> {
    let failed = |remark: String| {
        tracing::info!(peer = %send.sender.peer.address, remark, "an answer is not delivered");
        Refusal::new(ResponseCode::SystemError, remark)
    };
    let sent = send.header.properties.as_deref().unwrap_or_default();
    let Some(id) = properties::get(sent.as_bytes(), properties::REPLY_TO_CLIENT) else {
        let name = properties::REPLY_TO_CLIENT;
        return Err(failed(format!("reply message properties[{name}] is null")));
    };
    let client = broker.clients().producer(id);
    let client = client.ok_or_else(|| {
        failed(format!(
            "push reply message fail, channel of <{id}> not found."
        ))
    })?;
    let request = Frame::request(
        RequestCode::PushReplyMessageToClient,
        &header(broker, send, sent),
    );
    let request = request.with_body(send.body.clone());
    match client.peer.call(request, CALL_MAX).await {
        Ok(answer) if answer.code == ResponseCode::Success.number() => Ok(()),
        _ => Err(failed(format!("push reply message to {id}fail."))),
    }
}

fn header(broker: &Broker, send: &Send, sent: &str) -> PushReply {
    let (header, now_ms) = (send.header.clone(), unix_ms());
    let now = now_ms.to_string();
    let pushed = properties::set(sent.as_bytes(), properties::PUSH_REPLY_TIME, &now);
    PushReply {
        producer_group: header.producer_group,
        topic: header.topic,
        default_topic: header.default_topic,
        default_topic_queues: header.default_topic_queues,
        queue: header.queue,
        sys_flag: header.sys_flag,
        born_ms: header.born_ms,
        flag: header.flag,
        properties: Some(String::from_utf8_lossy(&pushed).into_owned()),
        reconsume_times: header.reconsume_times,
        unit_mode: header.unit_mode,
        born_host: format!("/{}", send.sender.peer.address),
        store_host: format!("/{}", broker.config.store_host),
        store_ms: now_ms,
    }
}
