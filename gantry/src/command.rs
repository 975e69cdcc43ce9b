//! The sub-commands, a file each.

pub(crate) mod broker;
pub(crate) mod crds;
pub(crate) mod message;
pub(crate) mod namesrv;
pub(crate) mod operator;
pub(crate) mod standalone;
pub(crate) mod store;
pub(crate) mod topic;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use net::Connection;
use protocol::body::TopicRouteData;
use protocol::header::RouteOf;
use protocol::json::from_fastjson;
use protocol::{Frame, RequestCode};

/// How long an administrator's call may take.
const CALL_MAX: Duration = Duration::from_secs(5);

fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as i64
}

/// Where a topic's queues are.
async fn route(name_server: &str, topic: &str) -> anyhow::Result<TopicRouteData> {
    let mut connection = Connection::open(name_server, CALL_MAX).await?;
    let header = RouteOf {
        topic: topic.to_owned(),
        strict_json: Some(true),
    };
    let request = Frame::request(RequestCode::GetRouteinfoByTopic, &header);
    let answer = connection.ask(request, CALL_MAX).await?;
    from_fastjson(&answer.body).with_context(|| format!("the route of {topic}"))
}
