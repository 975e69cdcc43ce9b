//! A topic that a send creates is there for all of the cluster: the broker of the first send makes
//! it on every other master of the route too. With Java, a topic lives on the one broker that met
//! it until others happen to, and clients that read the route meanwhile know only that one.

use std::sync::Arc;
use std::time::Duration;

use net::Connection;
use net::client::CallError;
use protocol::body::{TopicConfig, TopicFilterType, TopicRouteData};
use protocol::header::{CreateTopic, RouteOf, TopicOf};
use protocol::json::from_fastjson;
use protocol::{Frame, RequestCode, ResponseCode};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Broker;

/// The sender waits no longer for the others.
const EVERYWHERE_MAX: Duration = Duration::from_secs(1);
/// Of which a name server gets so much, so that the next one can be asked.
const NAME_SERVER_MAX: Duration = Duration::from_millis(300);

const MASTER_ID: i64 = 0;

/// Makes a topic that is new here on all masters on which its default topic is, then goes on.
pub(super) fn everywhere(
    broker: &Arc<Broker>,
    topic: TopicConfig,
    default_topic: String,
    then: impl FnOnce(&Arc<Broker>) + Send + 'static,
) {
    if broker.config.name_servers.is_empty() {
        return then(broker);
    }
    let broker_then = Arc::clone(broker);
    broker.runtime.spawn(async move {
        let mut left = JoinSet::new();
        let made = make(&broker_then, topic, &default_topic, &mut left);
        if timeout(EVERYWHERE_MAX, made).await.is_err() {
            tracing::warn!(default_topic, "a new topic is not everywhere in time");
        }
        then(&broker_then);
    });
}

async fn make(
    broker: &Broker,
    topic: TopicConfig,
    default_topic: &str,
    calls: &mut JoinSet<(String, Result<(), CallError>)>,
) {
    let topic = Arc::new(topic);
    for (name, address) in others(broker, default_topic).await {
        let topic = Arc::clone(&topic);
        calls.spawn(async move { (name, make_at(&address, &topic).await) });
    }
    while let Some(made) = calls.join_next().await {
        if let Ok((name, Err(error))) = made {
            tracing::warn!(topic = topic.topic_name, broker = name, %error, "topic not made there");
        }
    }
}

/// Names and addresses of the other masters of the cluster.
async fn others(broker: &Broker, default_topic: &str) -> Vec<(String, String)> {
    let config = &broker.config;
    for name_server in &config.name_servers {
        match route(name_server, default_topic, NAME_SERVER_MAX).await {
            Ok(route) => {
                let brokers = route.broker_datas.into_iter();
                let others = brokers
                    .filter(|b| b.cluster == config.cluster && b.broker_name != config.broker);
                let masters = others.filter_map(|mut other| {
                    let address = other.broker_addrs.remove(&MASTER_ID)?;
                    Some((other.broker_name, address))
                });
                return masters.collect();
            }
            Err(error) => tracing::warn!(%error, "no route for a new topic"),
        }
    }
    Vec::new()
}

/// Of a topic, as a name server has it.
pub(super) async fn route(
    name_server: &str,
    topic: &str,
    within: Duration,
) -> Result<TopicRouteData, CallError> {
    let of = RouteOf {
        topic: topic.to_owned(),
        strict_json: Some(true),
    };
    let request = Frame::request(RequestCode::GetRouteinfoByTopic, &of);
    let mut connection = Connection::open(name_server, within).await?;
    let answer = connection.ask(request, within).await?;
    Ok(from_fastjson(&answer.body).unwrap_or_default())
}

/// A topic that is there already keeps its settings.
async fn make_at(address: &str, topic: &TopicConfig) -> Result<(), CallError> {
    let mut connection = Connection::open(address, EVERYWHERE_MAX).await?;
    let of = TopicOf {
        topic: topic.topic_name.clone(),
        cluster: None,
    };
    let request = Frame::request(RequestCode::GetTopicConfig, &of);
    let known = connection.call(request, EVERYWHERE_MAX).await?;
    if known.code != ResponseCode::TopicNotExist.number() {
        return Ok(());
    }
    let several_tags = topic.topic_filter_type == TopicFilterType::MultiTag;
    let create = CreateTopic {
        topic: topic.topic_name.clone(),
        default_topic: protocol::topic::DEFAULT_TOPIC.to_owned(),
        read_queues: topic.read_queue_nums,
        write_queues: topic.write_queue_nums,
        perm: topic.perm,
        filter_type: if several_tags {
            "MULTI_TAG"
        } else {
            "SINGLE_TAG"
        }
        .to_owned(),
        sys_flag: Some(topic.topic_sys_flag),
        ..CreateTopic::default()
    };
    let request = Frame::request(RequestCode::UpdateAndCreateTopic, &create);
    connection.ask(request, EVERYWHERE_MAX).await.map(drop)
}
