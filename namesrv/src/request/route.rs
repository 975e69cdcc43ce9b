//! Where a topic's queues are: what every client asks first.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use protocol::code::VERSION_STRICT_JSON_ROUTE;
use protocol::header::RouteOf;
use protocol::json::{to_fastjson, to_json};
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::kv::ORDER_TOPICS;
use super::{NameServer, success};

impl NameServer {
    pub(super) fn route(&self, request: &Frame) -> Result<Frame, Refusal> {
        // No topic at all is, to Java, a topic without a route.
        let header = RouteOf::read(&request.fields).unwrap_or_default();
        let route = self.lock().route(&header.topic);
        let mut route = route.ok_or_else(|| {
            let remark = format!(
                "No topic route info in name server for the topic: {}\n\
                 See https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.",
                header.topic
            );
            Refusal::new(ResponseCode::TopicNotExist, remark)
        })?;
        if self.settings().order_message_enable {
            route.order_topic_conf = self.kv().get(ORDER_TOPICS, &header.topic);
        }
        let strict =
            request.version >= VERSION_STRICT_JSON_ROUTE || header.strict_json.unwrap_or(false);
        let body = if strict {
            to_json(&route)
        } else {
            to_fastjson(&route)
        };
        Ok(success(request).with_body(body))
    }
}
