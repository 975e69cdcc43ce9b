//! Who is connected, and as what: the producers and consumers that heartbeats name.
//!
//! A client lives as long as its connection. Subscriptions belong to the group, as the newest
//! heartbeat of a member says them (`ConsumerManager.java`, `ConsumerGroupInfo.java`).

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};
use net::Peer;
use protocol::body::{
    ClientConnection, ConsumeFromWhere, ConsumeType, ConsumerConnection, ConsumerData,
    HeartbeatData, MessageModel, ProducerInfo, SubscriptionData,
};
use protocol::code::Language;
use rand::seq::IteratorRandom as _;

use crate::filter::Conditions;

#[derive(Debug, Default)]
pub struct Clients {
    /// Producer group to the ids of its members and their connections.
    producers: HashMap<String, BTreeMap<String, Client>>,
    consumers: HashMap<String, Group>,
    /// What they want by SQL92.
    pub conditions: Conditions,
}

/// Where a heartbeat came from.
#[derive(Debug, Clone)]
pub struct Client {
    pub peer: Arc<Peer>,
    pub language: Language,
    pub version: i32,
    pub heard_ms: i64,
}

#[derive(Debug)]
struct Group {
    consume_from_where: ConsumeFromWhere,
    consume_type: ConsumeType,
    message_model: MessageModel,
    subscriptions: HashMap<String, Arc<SubscriptionData>>,
    members: BTreeMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    client: Client,
    /// Of its last heartbeat with subscriptions; 0 in version 1.
    fingerprint: i32,
}

/// What a heartbeat has changed.
#[derive(Debug, Default)]
pub struct Heard {
    /// The members of the groups whose membership or subscriptions changed.
    pub changed: Vec<Changed>,
    pub subscription_changed: bool,
}

/// A group whose members must rebalance.
#[derive(Debug)]
pub struct Changed {
    pub group: String,
    pub members: Vec<Arc<Peer>>,
}

impl Clients {
    /// Takes note of a heartbeat on this connection.
    pub fn heard(&mut self, heartbeat: &HeartbeatData, client: &Client) -> Heard {
        let id = &heartbeat.client_id;
        for producer in &heartbeat.producer_data_set {
            let group = self
                .producers
                .entry(producer.group_name.clone())
                .or_default();
            group.insert(id.clone(), client.clone());
        }
        let fingerprint = heartbeat.heartbeat_fingerprint;
        let mut heard = Heard {
            subscription_changed: fingerprint == 0,
            ..Heard::default()
        };
        for consumer in &heartbeat.consumer_data_set {
            let group = self
                .consumers
                .entry(consumer.group_name.clone())
                .or_insert_with(|| Group {
                    consume_from_where: consumer.consume_from_where,
                    consume_type: consumer.consume_type,
                    message_model: consumer.message_model,
                    subscriptions: HashMap::new(),
                    members: BTreeMap::new(),
                });
            let member = Member {
                client: client.clone(),
                fingerprint,
            };
            let before = group.members.insert(id.clone(), member);
            let joined = before
                .as_ref()
                .is_none_or(|before| before.client.peer.id != client.peer.id);
            heard.subscription_changed |=
                before.is_none_or(|before| before.fingerprint != fingerprint);
            // Without its subscriptions a client says: they are as I said before.
            let resubscribed = !heartbeat.without_sub && group.subscribe(consumer);
            if joined || resubscribed {
                heard.changed.push(group.changed(&consumer.group_name));
            }
        }
        heard
    }

    /// A client leaves one producer group, one consumer group, or both.
    pub fn unregister(
        &mut self,
        id: &str,
        producer_group: Option<&str>,
        consumer_group: Option<&str>,
    ) -> Option<Changed> {
        if let Some(group) = producer_group
            && let Some(members) = self.producers.get_mut(group)
        {
            members.remove(id);
            if members.is_empty() {
                self.producers.remove(group);
            }
        }
        let name = consumer_group?;
        let group = self.consumers.get_mut(name)?;
        group.members.remove(id)?;
        let changed = group.changed(name);
        if changed.members.is_empty() {
            self.consumers.remove(name);
        }
        Some(changed)
    }

    /// The connection has ended, and with it its clients.
    pub fn peer_closed(&mut self, peer: u64) -> Vec<Changed> {
        self.producers.retain(|_, members| {
            members.retain(|_, client| client.peer.id != peer);
            !members.is_empty()
        });
        let mut changed = Vec::new();
        self.consumers.retain(|name, group| {
            let before = group.members.len();
            group
                .members
                .retain(|_, member| member.client.peer.id != peer);
            if group.members.len() != before {
                changed.push(group.changed(name));
            }
            !group.members.is_empty()
        });
        changed
    }

    /// Ids of a consumer group's members, in order.
    pub fn consumer_ids(&self, group: &str) -> Vec<String> {
        self.consumers
            .get(group)
            .map(|g| g.members.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The members of a consumer group by id.
    pub fn consumers(&self, group: &str) -> Vec<(String, Client)> {
        let members = self.consumers.get(group).map(|group| group.members.iter());
        let members = members.into_iter().flatten();
        members
            .map(|(id, member)| (id.clone(), member.client.clone()))
            .collect()
    }

    /// `None`: no member of the group is here.
    pub fn consumer_connections(&self, group: &str) -> Option<ConsumerConnection> {
        let group = self.consumers.get(group)?;
        let members = group.members.iter();
        let subscriptions = group.subscriptions.iter();
        Some(ConsumerConnection {
            connection_set: members
                .map(|(id, member)| member.client.connection(id))
                .collect(),
            consume_from_where: group.consume_from_where,
            consume_type: group.consume_type,
            message_model: group.message_model,
            subscription_table: subscriptions
                .map(|(topic, subscription)| (topic.clone(), (**subscription).clone()))
                .collect(),
        })
    }

    /// `None`: no member of the group is here.
    pub fn producer_connections(&self, group: &str) -> Option<Vec<ClientConnection>> {
        let members = self.producers.get(group)?.iter();
        Some(members.map(|(id, client)| client.connection(id)).collect())
    }

    /// Some member of a producer group, each time another.
    pub fn any_producer(&self, group: &str) -> Option<Client> {
        let members = self.producers.get(group)?;
        members.values().choose(&mut rand::rng()).cloned()
    }

    /// A client by its id, whatever it sends for.
    pub fn producer(&self, id: &str) -> Option<Client> {
        let mut groups = self.producers.values();
        groups.find_map(|members| members.get(id)).cloned()
    }

    pub fn producers(&self) -> BTreeMap<String, Vec<ProducerInfo>> {
        let info = |(id, client): (&String, &Client)| ProducerInfo {
            client_id: id.clone(),
            language: client.language.name().to_owned(),
            last_update_timestamp: client.heard_ms,
            remote_ip: client.peer.address.ip().to_string(),
            version: client.version,
        };
        let groups = self.producers.iter();
        groups
            .map(|(group, members)| (group.clone(), members.iter().map(info).collect()))
            .collect()
    }

    /// The consumer groups that subscribe to a topic.
    pub fn subscribers(&self, topic: &str) -> BTreeSet<String> {
        let groups = self.consumers.iter();
        groups
            .filter(|(_, group)| group.subscriptions.contains_key(topic))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether a group that is here, and says what it wants, does not want this topic.
    pub fn has_left(&self, group: &str, topic: &str) -> bool {
        self.consumers.get(group).is_some_and(|group| {
            !group.subscriptions.is_empty() && !group.subscriptions.contains_key(topic)
        })
    }

    /// `None`: no member of the group is here.
    pub fn subscription(&self, group: &str, topic: &str) -> Option<Subscribed> {
        let group = self.consumers.get(group)?;
        Some(Subscribed {
            message_model: group.message_model,
            subscription: group.subscriptions.get(topic).cloned(),
        })
    }

    /// What each consumer group subscribes to.
    pub fn subscriptions(&self) -> Vec<(String, Vec<Arc<SubscriptionData>>)> {
        let groups = self.consumers.iter();
        groups
            .map(|(name, group)| {
                (
                    name.clone(),
                    group.subscriptions.values().cloned().collect(),
                )
            })
            .collect()
    }

    /// How many producers are of each language and version.
    pub fn producer_kinds(&self) -> BTreeMap<(&'static str, i32), usize> {
        let mut kinds = BTreeMap::new();
        for client in self.producers.values().flat_map(BTreeMap::values) {
            *kinds
                .entry((client.language.name(), client.version))
                .or_default() += 1;
        }
        kinds
    }

    /// How many members of a group are of each language, version and mode.
    pub fn consumer_kinds(&self) -> BTreeMap<ConsumerKind, usize> {
        let mut kinds = BTreeMap::new();
        for (name, group) in &self.consumers {
            let mode = match group.consume_type {
                ConsumeType::ConsumeActively => "pull",
                ConsumeType::ConsumePassively => "push",
                ConsumeType::ConsumePop => "pop",
            };
            for member in group.members.values() {
                let Client {
                    language, version, ..
                } = member.client;
                let kind = (name.clone(), language.name(), version, mode);
                *kinds.entry(kind).or_default() += 1;
            }
        }
        kinds
    }

    /// Connected members: producers, then consumers.
    pub fn counts(&self) -> (usize, usize) {
        let producers = self.producers.values().map(BTreeMap::len).sum();
        let consumers = self
            .consumers
            .values()
            .map(|group| group.members.len())
            .sum();
        (producers, consumers)
    }
}

/// Group, language, version and mode.
pub type ConsumerKind = (String, &'static str, i32, &'static str);

/// What a group has said of one topic.
#[derive(Debug)]
pub struct Subscribed {
    pub message_model: MessageModel,
    pub subscription: Option<Arc<SubscriptionData>>,
}

impl Client {
    fn connection(&self, id: &str) -> ClientConnection {
        ClientConnection {
            client_addr: self.peer.address.to_string(),
            client_id: id.to_owned(),
            language: self.language.name().to_owned(),
            version: self.version,
        }
    }
}

impl Group {
    /// Takes over what a member subscribes to; `true` when that differs.
    fn subscribe(&mut self, consumer: &ConsumerData) -> bool {
        self.consume_from_where = consumer.consume_from_where;
        self.consume_type = consumer.consume_type;
        self.message_model = consumer.message_model;
        let mut changed = false;
        for new in &consumer.subscription_data_set {
            let old = self.subscriptions.get(&new.topic);
            if old.is_none_or(|old| old.sub_version < new.sub_version) {
                changed |= old.is_none_or(|old| old.sub_string != new.sub_string);
                self.subscriptions
                    .insert(new.topic.clone(), Arc::new(new.clone()));
            }
        }
        let topics = self.subscriptions.len();
        self.subscriptions.retain(|topic, _| {
            consumer
                .subscription_data_set
                .iter()
                .any(|s| s.topic == *topic)
        });
        changed || self.subscriptions.len() != topics
    }

    fn changed(&self, name: &str) -> Changed {
        let members = self
            .members
            .values()
            .map(|member| Arc::clone(&member.client.peer))
            .collect();
        Changed {
            group: name.to_owned(),
            members,
        }
    }
}
