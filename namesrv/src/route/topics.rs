//! What an administrator asks and changes of topics: lists, permissions, single topics.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use protocol::body::{PERM_READ, PERM_WRITE, QueueData, TopicList};

use super::RouteTable;

/// Which topics a list shall have.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    All,
    OfCluster(&'a str),
    Unit,
    UnitSubscribed,
    UnitSubscribedOnly,
}

/// `TopicSysFlag.java`.
const FLAG_UNIT: i32 = 1;
const FLAG_UNIT_SUBSCRIBED: i32 = 2;

impl RouteTable {
    pub fn topic_list(&self, which: Which<'_>) -> TopicList {
        let brokers_of = |cluster| {
            let all = self.brokers.iter();
            all.filter(move |(_, data)| data.cluster == cluster)
                .map(|(name, _)| name)
        };
        let topic_list = self.topics.iter().filter(|(_, queues)| {
            let flag = queues.values().next().map_or(0, |q| q.topic_sys_flag);
            let has = |bit| flag & bit != 0;
            match which {
                Which::All => true,
                Which::OfCluster(cluster) => {
                    brokers_of(cluster).any(|broker| queues.contains_key(broker))
                }
                Which::Unit => has(FLAG_UNIT),
                Which::UnitSubscribed => has(FLAG_UNIT_SUBSCRIBED),
                Which::UnitSubscribedOnly => has(FLAG_UNIT_SUBSCRIBED) && !has(FLAG_UNIT),
            }
        });
        TopicList {
            topic_list: topic_list.map(|(name, _)| name.clone()).collect(),
            broker_addr: None,
        }
    }

    /// Names that belong to the system: clusters and brokers, and a broker that knows more.
    pub fn system_topics(&self) -> TopicList {
        let names = self.brokers.iter();
        let topic_list: BTreeSet<String> = names
            .flat_map(|(name, data)| [name.clone(), data.cluster.clone()])
            .collect();
        let mut addresses = self.brokers.values();
        TopicList {
            topic_list,
            broker_addr: addresses.find_map(|data| data.broker_addrs.values().next().cloned()),
        }
    }

    /// Lets producers write to a broker's topics, or keeps them off; how many topics it has.
    /// It lasts until the broker registers something new.
    pub fn set_writable(&mut self, broker: &str, writable: bool) -> usize {
        if writable {
            self.set_perm(broker, |_| PERM_READ | PERM_WRITE)
        } else {
            self.mask_perm(broker, !PERM_WRITE)
        }
    }

    pub(super) fn mask_perm(&mut self, broker: &str, mask: i32) -> usize {
        self.set_perm(broker, |perm| perm & mask)
    }

    fn set_perm(&mut self, broker: &str, perm: impl Fn(i32) -> i32) -> usize {
        let topics = self.topics.values_mut();
        let queues = topics.filter_map(|queues| queues.get_mut(broker));
        queues.map(|queues| queues.perm = perm(queues.perm)).count()
    }

    /// Adds queues to a topic's route, up to the first that belongs to no known broker.
    pub fn add_queues(&mut self, topic: &str, queues: Vec<QueueData>) {
        let known = |queues: &QueueData| self.brokers.contains_key(&queues.broker_name);
        let is_new = !self.topics.contains_key(topic);
        // A new topic comes whole or not at all.
        if is_new && (queues.is_empty() || !queues.iter().all(known)) {
            return;
        }
        let queues: Vec<QueueData> = queues.into_iter().take_while(known).collect();
        let route = self.topics.entry(topic.to_owned()).or_default();
        route.extend(queues.into_iter().map(|q| (q.broker_name.clone(), q)));
    }

    /// Forgets a topic, on the brokers of one cluster or on all.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(queues) = self.topics.get_mut(topic) else {
            return;
        };
        let brokers = &self.brokers;
        queues.retain(|name, _| {
            cluster.is_some_and(|c| brokers.get(name).is_some_and(|data| data.cluster != c))
        });
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }
}
