//! A Topic in the words of the admin protocol.

use std::collections::BTreeMap;

use crds::topic::{MessageType, Permission};
use crds::{Broken, DeletionPolicy, OnBroker, Topic, TopicStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use protocol::body::{PERM_READ, PERM_WRITE, TopicConfig, TopicFilterType, TopicRouteData};
use protocol::{Frame, RequestCode, ResponseCode, header, topic::DEFAULT_TOPIC};

use crate::Error;
use crate::admin::Admin;
use crate::declared::Declared;

const MESSAGE_TYPE: &str = "message.type";

/// The settings that every broker shall have.
pub fn topic_config(topic: &Topic) -> TopicConfig {
    let (read_queue_nums, write_queue_nums) = topic.queue_numbers();
    let mut attributes = topic.spec.attributes.clone();
    if let Some(kind) = topic.spec.message_type {
        attributes.insert(MESSAGE_TYPE.to_owned(), type_name(kind).to_owned());
    }
    TopicConfig {
        attributes,
        order: topic.spec.order,
        perm: match topic.spec.permission {
            Permission::ReadWrite => PERM_READ | PERM_WRITE,
            Permission::ReadOnly => PERM_READ,
            Permission::WriteOnly => PERM_WRITE,
            Permission::None => 0,
        },
        read_queue_nums,
        topic_filter_type: TopicFilterType::SingleTag,
        topic_name: topic.wire_name(),
        topic_sys_flag: 0,
        write_queue_nums,
    }
}

fn type_name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Normal => "NORMAL",
        MessageType::Fifo => "FIFO",
        MessageType::Delay => "DELAY",
        MessageType::Transaction => "TRANSACTION",
        MessageType::Mixed => "MIXED",
    }
}

/// The request that turns what a broker has into what it shall have.
pub fn create_topic(wanted: &TopicConfig, found: Option<&TopicConfig>) -> header::CreateTopic {
    let none = BTreeMap::new();
    let found = found.map_or(&none, |found| &found.attributes);
    header::CreateTopic {
        topic: wanted.topic_name.clone(),
        default_topic: DEFAULT_TOPIC.to_owned(),
        read_queues: wanted.read_queue_nums,
        write_queues: wanted.write_queue_nums,
        perm: wanted.perm,
        filter_type: "SINGLE_TAG".to_owned(),
        sys_flag: Some(wanted.topic_sys_flag),
        order: wanted.order,
        attributes: attribute_changes(&wanted.attributes, found),
    }
}

/// `+key=value` for what is set anew and `-key` for what is removed.
fn attribute_changes(
    wanted: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> Option<String> {
    let set = wanted
        .iter()
        .filter(|(key, value)| found.get(*key) != Some(value));
    let set = set.map(|(key, value)| format!("+{key}={value}"));
    let removed = found.keys().filter(|key| !wanted.contains_key(*key));
    let changes: Vec<String> = set.chain(removed.map(|key| format!("-{key}"))).collect();
    Some(changes.join(",")).filter(|changes| !changes.is_empty())
}

impl Declared for Topic {
    const FINALIZER: &'static str = "gantry.dev/topic";
    type Status = TopicStatus;

    fn cluster(&self) -> &str {
        &self.spec.cluster_ref.name
    }

    fn wire(&self) -> String {
        self.wire_name()
    }

    fn check(&self) -> Result<(), Broken> {
        self.validate()
    }

    fn deletion_policy(&self) -> DeletionPolicy {
        self.spec.deletion_policy
    }

    fn found(&self) -> (Option<&TopicStatus>, &[Condition], &[OnBroker]) {
        let Some(status) = &self.status else {
            return (None, &[], &[]);
        };
        (Some(status), &status.conditions, &status.brokers)
    }

    fn status(&self, brokers: Vec<OnBroker>, conditions: Vec<Condition>) -> TopicStatus {
        TopicStatus {
            observed_generation: self.metadata.generation.unwrap_or_default(),
            topic_name: self.wire_name(),
            brokers,
            conditions,
        }
    }

    async fn put(&self, broker: &mut Admin) -> Result<bool, Error> {
        let wanted = topic_config(self);
        let of = header::TopicOf {
            topic: wanted.topic_name.clone(),
            cluster: None,
        };
        let missing = ResponseCode::TopicNotExist;
        let found: Option<TopicConfig> = broker
            .find(RequestCode::GetTopicConfig, &of, missing)
            .await?;
        if found.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        let header = create_topic(&wanted, found.as_ref());
        broker
            .ask(Frame::request(RequestCode::UpdateAndCreateTopic, &header))
            .await?;
        Ok(true)
    }

    async fn remove(&self, broker: &mut Admin) -> Result<(), Error> {
        let of = header::TopicOf {
            topic: self.wire_name(),
            cluster: None,
        };
        broker
            .ask(Frame::request(RequestCode::DeleteTopicInBroker, &of))
            .await?;
        Ok(())
    }

    async fn is_routed(
        &self,
        name_server: &mut Admin,
        brokers: &[OnBroker],
    ) -> Result<bool, Error> {
        let of = header::RouteOf {
            topic: self.wire_name(),
            strict_json: Some(true),
        };
        let missing = ResponseCode::TopicNotExist;
        let route: Option<TopicRouteData> = name_server
            .find(RequestCode::GetRouteinfoByTopic, &of, missing)
            .await?;
        let shows = |route: &TopicRouteData, broker: &OnBroker| {
            route
                .queue_datas
                .iter()
                .any(|queues| queues.broker_name == broker.name)
        };
        Ok(route.is_some_and(|route| brokers.iter().all(|broker| shows(&route, broker))))
    }

    async fn unroute(&self, name_server: &mut Admin, cluster: &str) -> Result<(), Error> {
        let cluster = Some(cluster.to_owned());
        let of = header::TopicOf {
            topic: self.wire_name(),
            cluster,
        };
        name_server
            .ask(Frame::request(RequestCode::DeleteTopicInNamesrv, &of))
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::read::{Document, read};

    fn topic(spec: &str) -> Topic {
        let yaml = format!(
            "{{apiVersion: gantry.dev/v1alpha1, kind: Topic, metadata: {{name: orders}}, \
             spec: {{clusterRef: {{name: demo}}, {spec}}}}}"
        );
        match read(&yaml).unwrap().remove(0) {
            Document::Topic(topic) => *topic,
            other => panic!("{other:?}"),
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn settings_follow_the_resource() {
        let usual = TopicConfig {
            topic_name: "orders".to_owned(),
            read_queue_nums: 8,
            write_queue_nums: 8,
            ..TopicConfig::default()
        };
        let table = [
            ("", usual.clone()),
            (
                "topicName: A_b",
                TopicConfig {
                    topic_name: "A_b".to_owned(),
                    ..usual.clone()
                },
            ),
            (
                "queues: 1",
                TopicConfig {
                    read_queue_nums: 1,
                    write_queue_nums: 1,
                    ..usual.clone()
                },
            ),
            (
                "readQueues: 8, writeQueues: 4",
                TopicConfig {
                    write_queue_nums: 4,
                    ..usual.clone()
                },
            ),
            (
                "permission: ReadOnly",
                TopicConfig {
                    perm: 4,
                    ..usual.clone()
                },
            ),
            (
                "permission: WriteOnly",
                TopicConfig {
                    perm: 2,
                    ..usual.clone()
                },
            ),
            (
                "permission: None",
                TopicConfig {
                    perm: 0,
                    ..usual.clone()
                },
            ),
            (
                "order: true",
                TopicConfig {
                    order: true,
                    ..usual.clone()
                },
            ),
            (
                "messageType: FIFO, attributes: {cleanup.policy: DELETE}",
                TopicConfig {
                    attributes: map(&[("cleanup.policy", "DELETE"), ("message.type", "FIFO")]),
                    ..usual
                },
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(topic_config(&topic(spec)), expected, "{spec}");
        }
    }

    #[test]
    fn attributes_travel_as_changes() {
        type Pairs = &'static [(&'static str, &'static str)];
        let table: [(Pairs, Pairs, Option<&str>); 6] = [
            (&[], &[], None),
            (&[("a", "1")], &[("a", "1")], None),
            (&[("a", "1")], &[], Some("+a=1")),
            (&[("a", "2"), ("b", "1")], &[("a", "1")], Some("+a=2,+b=1")),
            (&[], &[("a", "1")], Some("-a")),
            (&[("b", "1")], &[("a", "1")], Some("+b=1,-a")),
        ];
        for (wanted, found, expected) in table {
            let changes = attribute_changes(&map(wanted), &map(found));
            assert_eq!(changes.as_deref(), expected, "{wanted:?} {found:?}");
        }
    }
}
