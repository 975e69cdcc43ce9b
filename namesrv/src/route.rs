//! The route table (`RouteInfoManager.java`). Pure: the caller says what time it is.
//!
//! Invariants:
//! - a broker is listed while it is live: registered or heard of within its own time-out
//! - one address is at most one broker id of a name
//! - queues of a topic come from the master, or from the lowest replica while there is none
//! - a registration with a lower epoch (`stateVersion`) than the live one of the same broker id
//!   is a deposed master's: refused, and the loss of its connection changes nothing

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod topics;

pub use topics::Which;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use protocol::body::{
    BrokerData, ClusterInfo, DataVersion, PERM_WRITE, QueueData, TopicConfigTable, TopicRouteData,
};

/// A broker is gone after this silence, unless it says otherwise.
pub const BROKER_TIMEOUT_MS: i64 = 120_000;

const MASTER_ID: i64 = 0;

#[derive(Debug, Default)]
pub struct RouteTable {
    /// Topic to broker name to its queues.
    topics: HashMap<String, BTreeMap<String, QueueData>>,
    brokers: BTreeMap<String, BrokerData>,
    live: HashMap<Address, Live>,
}

/// What one process of a broker group is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub cluster: String,
    pub address: String,
}

#[derive(Debug)]
struct Live {
    broker: String,
    broker_id: i64,
    heard_ms: i64,
    timeout_ms: i64,
    version: DataVersion,
    /// The connection it registered on.
    peer: u64,
    ha_address: String,
}

#[derive(Debug, Clone)]
pub struct Registration {
    pub at: Address,
    pub broker: String,
    pub broker_id: i64,
    pub ha_address: String,
    pub timeout_ms: Option<i64>,
    /// `None`: a broker older than the setting, of which replicas never give queues.
    pub acting_master: Option<bool>,
    pub zone: Option<String>,
    pub topics: TopicConfigTable,
    /// `topics` are all that the broker has: others of it are forgotten.
    pub complete: bool,
    pub peer: u64,
}

/// What a replica is told of its master.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registered {
    pub master_address: Option<String>,
    pub ha_address: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterRefused {
    #[error("epoch {offered} of {broker} is deposed: {live} is registered")]
    Deposed {
        broker: String,
        offered: i64,
        live: i64,
    },
    /// One topic is an update of a broker that is known; Java refuses it likewise.
    #[error("one topic of {broker}, which has not registered")]
    Unknown { broker: String },
}

impl RouteTable {
    pub fn register(
        &mut self,
        new: Registration,
        now_ms: i64,
    ) -> Result<Registered, RegisterRefused> {
        self.check(&new)?;
        let unchanged = self.is_unchanged(&new);
        let cluster = new.at.cluster.clone();
        let data = self
            .brokers
            .entry(new.broker.clone())
            .or_insert_with(|| BrokerData {
                broker_name: new.broker.clone(),
                cluster,
                ..BrokerData::default()
            });
        data.enable_acting_master = new.acting_master.unwrap_or(false);
        data.zone_name.clone_from(&new.zone);
        data.broker_addrs
            .retain(|id, address| *address != new.at.address || *id == new.broker_id);
        let replaced = data
            .broker_addrs
            .insert(new.broker_id, new.at.address.clone());
        let lowest = data.broker_addrs.keys().next().copied();
        let master = data.broker_addrs.get(&MASTER_ID).cloned();
        let acting = data.enable_acting_master;
        if let Some(old) = replaced.filter(|old| *old != new.at.address) {
            self.live.remove(&Address {
                cluster: new.at.cluster.clone(),
                address: old,
            });
        }
        let is_master = new.broker_id == MASTER_ID;
        let is_prime_replica =
            new.acting_master.is_some() && !is_master && lowest == Some(new.broker_id);
        if is_master || is_prime_replica {
            let write_mask = if is_prime_replica && acting {
                !PERM_WRITE
            } else {
                !0
            };
            if new.complete {
                self.forget_other_topics(&new.broker, &new.topics);
            }
            self.set_queues(&new.broker, &new.topics, write_mask, unchanged);
        }
        let master = master.filter(|_| !is_master).and_then(|address| {
            let at = Address {
                cluster: new.at.cluster.clone(),
                address,
            };
            self.live
                .get(&at)
                .map(|live| (at.address, live.ha_address.clone()))
        });
        let live = Live {
            broker: new.broker,
            broker_id: new.broker_id,
            heard_ms: now_ms,
            timeout_ms: new.timeout_ms.unwrap_or(BROKER_TIMEOUT_MS),
            version: new.topics.data_version,
            peer: new.peer,
            ha_address: new.ha_address,
        };
        self.live.insert(new.at, live);
        let (master_address, ha_address) = master.unzip();
        Ok(Registered {
            master_address,
            ha_address,
        })
    }

    fn check(&self, new: &Registration) -> Result<(), RegisterRefused> {
        let data = self.brokers.get(&new.broker);
        let known = data.and_then(|data| data.broker_addrs.get(&new.broker_id));
        let offered = new.topics.data_version.state_version;
        let live = known.and_then(|address| {
            let cluster = new.at.cluster.clone();
            self.live.get(&Address {
                cluster,
                address: address.clone(),
            })
        });
        if let Some(live) = live.filter(|live| live.version.state_version > offered) {
            let broker = new.broker.clone();
            return Err(RegisterRefused::Deposed {
                broker,
                offered,
                live: live.version.state_version,
            });
        }
        if known.is_none() && new.topics.topic_config_table.len() == 1 {
            return Err(RegisterRefused::Unknown {
                broker: new.broker.clone(),
            });
        }
        Ok(())
    }

    /// It says again what it said before: what an administrator changed since then stays.
    fn is_unchanged(&self, new: &Registration) -> bool {
        let addresses = self.brokers.get(&new.broker).map(|data| &data.broker_addrs);
        addresses.is_some_and(|addresses| addresses.contains_key(&new.broker_id))
            && self
                .live
                .get(&new.at)
                .is_some_and(|live| live.version == new.topics.data_version)
    }

    fn forget_other_topics(&mut self, broker: &str, topics: &TopicConfigTable) {
        self.topics.retain(|name, queues| {
            if !topics.topic_config_table.contains_key(name) {
                queues.remove(broker);
            }
            !queues.is_empty()
        });
    }

    fn set_queues(
        &mut self,
        broker: &str,
        topics: &TopicConfigTable,
        perm_mask: i32,
        only_missing: bool,
    ) {
        for (name, topic) in &topics.topic_config_table {
            let known = self
                .topics
                .get(name)
                .is_some_and(|q| q.contains_key(broker));
            if known && only_missing {
                continue;
            }
            let queues = QueueData {
                broker_name: broker.to_owned(),
                perm: topic.perm & perm_mask,
                read_queue_nums: topic.read_queue_nums,
                topic_sys_flag: topic.topic_sys_flag,
                write_queue_nums: topic.write_queue_nums,
            };
            self.topics
                .entry(name.clone())
                .or_default()
                .insert(broker.to_owned(), queues);
        }
    }

    /// The broker stops on purpose.
    pub fn unregister(&mut self, at: &Address, broker: &str, broker_id: i64) {
        self.live.remove(at);
        let Some(data) = self.brokers.get_mut(broker) else {
            return;
        };
        if data.broker_addrs.get(&broker_id) == Some(&at.address) {
            data.broker_addrs.remove(&broker_id);
        }
        if data.broker_addrs.is_empty() {
            self.brokers.remove(broker);
            self.topics.retain(|_, queues| {
                queues.remove(broker);
                !queues.is_empty()
            });
        } else if data.enable_acting_master && !data.broker_addrs.contains_key(&MASTER_ID) {
            self.mask_perm(broker, !PERM_WRITE);
        }
    }

    /// A sign of life that says nothing else.
    pub fn heard(&mut self, at: &Address, now_ms: i64) {
        if let Some(live) = self.live.get_mut(at) {
            live.heard_ms = now_ms;
        }
    }

    /// Whether a broker's topics differ from what it registered; being asked is a sign of life.
    pub fn query_version(
        &mut self,
        at: &Address,
        version: DataVersion,
        now_ms: i64,
    ) -> (bool, Option<DataVersion>) {
        let Some(live) = self.live.get_mut(at) else {
            return (true, None);
        };
        live.heard_ms = now_ms;
        (live.version != version, Some(live.version))
    }

    /// Forgets whom nobody has heard of for too long, and names them.
    pub fn expire(&mut self, now_ms: i64) -> Vec<Address> {
        self.drop_live(|live| live.heard_ms + live.timeout_ms < now_ms)
    }

    /// Forgets the brokers that registered on this connection, which has ended.
    pub fn peer_closed(&mut self, peer: u64) -> Vec<Address> {
        self.drop_live(|live| live.peer == peer)
    }

    fn drop_live(&mut self, gone: impl Fn(&Live) -> bool) -> Vec<Address> {
        let gone: Vec<(Address, String, i64)> = self
            .live
            .iter()
            .filter(|(_, live)| gone(live))
            .map(|(at, live)| (at.clone(), live.broker.clone(), live.broker_id))
            .collect();
        for (at, broker, broker_id) in &gone {
            self.unregister(at, broker, *broker_id);
        }
        gone.into_iter().map(|(at, ..)| at).collect()
    }

    pub fn route(&self, topic: &str) -> Option<TopicRouteData> {
        let queues = self.topics.get(topic)?;
        let broker_datas: Vec<BrokerData> = queues
            .keys()
            .filter_map(|name| self.brokers.get(name))
            .cloned()
            .collect();
        if broker_datas.is_empty() {
            return None;
        }
        let queue_datas = queues.values().cloned().collect();
        Some(TopicRouteData {
            broker_datas,
            queue_datas,
            ..TopicRouteData::default()
        })
    }

    pub fn clusters(&self) -> ClusterInfo {
        let mut info = ClusterInfo::default();
        for (name, data) in &self.brokers {
            info.broker_addr_table.insert(name.clone(), data.clone());
            let of: &mut BTreeSet<String> = info
                .cluster_addr_table
                .entry(data.cluster.clone())
                .or_default();
            of.insert(name.clone());
        }
        info
    }

    /// The processes of one broker group; an unknown group has none.
    pub fn members(&self, broker: &str) -> BTreeMap<i64, String> {
        let data = self.brokers.get(broker);
        data.map(|data| data.broker_addrs.clone())
            .unwrap_or_default()
    }

    pub fn broker_count(&self) -> usize {
        self.live.len()
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }
}

#[cfg(test)]
mod tests;
