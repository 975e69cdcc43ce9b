//! Topics: lists of them, and single ones that an administrator adds or takes away.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use protocol::body::TopicRouteData;
use protocol::header::{TopicOf, TopicsOf};
use protocol::json::{from_fastjson, to_json};
use protocol::{Frame, Header as _, Refusal, RequestCode, ResponseCode};

use super::{NameServer, success};
use crate::route::Which;

impl NameServer {
    pub(super) fn all_topics(&self, request: &Frame) -> Result<Frame, Refusal> {
        let enabled = self.settings().enable_all_topic_list;
        self.list(request, Which::All, enabled)
    }

    pub(super) fn topics_of_cluster(&self, request: &Frame) -> Result<Frame, Refusal> {
        let enabled = self.settings().enable_topic_list;
        let TopicsOf { cluster } = TopicsOf::read(&request.fields)?;
        self.list(request, Which::OfCluster(&cluster), enabled)
    }

    pub(super) fn unit_topics(&self, request: &Frame, code: RequestCode) -> Result<Frame, Refusal> {
        let which = match code {
            RequestCode::GetUnitTopicList => Which::Unit,
            RequestCode::GetHasUnitSubTopicList => Which::UnitSubscribed,
            _ => Which::UnitSubscribedOnly,
        };
        self.list(request, which, self.settings().enable_topic_list)
    }

    fn list(&self, request: &Frame, which: Which<'_>, enabled: bool) -> Result<Frame, Refusal> {
        if !enabled {
            return Err(Refusal::new(ResponseCode::SystemError, "disable"));
        }
        let list = self.lock().topic_list(which);
        Ok(success(request).with_body(to_json(&list)))
    }

    pub(super) fn system_topics(&self, request: &Frame) -> Frame {
        success(request).with_body(to_json(&self.lock().system_topics()))
    }

    pub(super) fn register_topic(&self, request: &Frame) -> Result<Frame, Refusal> {
        let TopicOf { topic, .. } = TopicOf::read(&request.fields)?;
        if !request.body.is_empty() {
            let route: TopicRouteData = from_fastjson(&request.body)?;
            self.lock().add_queues(&topic, route.queue_datas);
        }
        Ok(success(request))
    }

    pub(super) fn delete_topic(&self, request: &Frame) -> Result<Frame, Refusal> {
        let TopicOf { topic, cluster } = TopicOf::read(&request.fields)?;
        let cluster = cluster.filter(|cluster| !cluster.is_empty());
        self.lock().delete_topic(&topic, cluster.as_deref());
        tracing::info!(topic, cluster, "topic deleted");
        Ok(success(request))
    }
}
