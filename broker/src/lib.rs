//! The broker: topics, groups, requests, and the process that serves them.
//!
//! In the order of the data path:
//! - [`config`]: what the process is told
//! - [`request`]: one match over the request codes, a file a family
//! - [`tables`]: topics, groups and offsets, derived from state records of the log
//! - [`base`]: the tables as of a position, so that old log files can go
//! - [`tick`]: how offsets, and what pops hand out, are written
//! - [`retain`]: which log files go
//! - [`upkeep`]: the loop that lets them go
//! - [`export`]: the tables as Java's JSON files
//! - [`clients`]: who is connected, as what
//! - [`levels`]: what each delay level means
//! - [`schedule`]: messages that wait for their delay
//! - [`carry`]: those of them that outlive their log files
//! - [`coordination`]: what consumers of a group must agree on
//! - [`filter`]: which messages a consumer wants
//! - [`hold`]: pulls that wait for a message
//! - [`pop`]: messages that are handed out for a while, and taken back
//! - [`register`]: the name servers know the broker
//! - [`endpoint`]: the cluster's Service points at it
//! - [`stats`], [`metrics`]: what it counts
//! - [`adopt`]: a Java broker's configuration
//! - [`process`]: start and stop, in order

pub mod config;
pub mod request;
pub mod tables;
mod base;
mod tick;
pub mod retain;
mod upkeep;
mod export;
pub mod clients;
pub mod levels;
pub mod schedule;
pub mod carry;
pub mod coordination;
pub mod filter;
pub mod transaction;
pub mod hold;
pub mod pop;
pub mod register;
pub mod endpoint;
pub mod stats;
pub mod metrics;
pub mod adopt;
pub mod process;

use std::sync::{Arc, Mutex, RwLock};

use store::Store;
use tokio::sync::Notify;

pub use config::Config;
pub use process::{RunError, run};

#[cfg(test)]
mod tests;

/// All that a request handler reaches.
#[derive(Debug)]
pub struct Broker {
    pub config: Config,
    pub store: Store,
    pub tables: RwLock<tables::Tables>,
    pub clients: Mutex<clients::Clients>,
    pub coordination: Mutex<coordination::Coordination>,
    pub transactions: Mutex<transaction::Halves>,
    pub waiting: Waiting,
    pub metrics: metrics::Metrics,
    /// Told when the topics have changed, so that the name servers learn it at once.
    pub registration: Arc<register::Registration>,
    /// Told when offsets or flights wait for the next state record.
    pub offsets_dirty: Notify,
    pub delays: carry::Delays,
    /// For what starts on a thread of the store.
    pub runtime: tokio::runtime::Handle,
}

/// Requests that wait for messages.
#[derive(Debug)]
pub struct Waiting {
    pub holds: Arc<hold::Holds>,
    pub pops: Arc<pop::Pops>,
}

impl Broker {
    pub(crate) fn tables(&self) -> std::sync::RwLockReadGuard<'_, tables::Tables> {
        self.tables
            .read()
            .expect("invariant: no panic while the tables are held")
    }

    pub(crate) fn tables_mut(&self) -> std::sync::RwLockWriteGuard<'_, tables::Tables> {
        self.tables
            .write()
            .expect("invariant: no panic while the tables are held")
    }

    pub(crate) fn clients(&self) -> std::sync::MutexGuard<'_, clients::Clients> {
        self.clients
            .lock()
            .expect("invariant: no panic while the clients are held")
    }

    pub(crate) fn transactions(&self) -> std::sync::MutexGuard<'_, transaction::Halves> {
        self.transactions
            .lock()
            .expect("invariant: no panic while the transactions are held")
    }

    pub(crate) fn coordination(&self) -> std::sync::MutexGuard<'_, coordination::Coordination> {
        self.coordination
            .lock()
            .expect("invariant: no panic while the coordination is held")
    }
}
