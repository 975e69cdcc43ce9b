//! The name servers know the broker: registered with each of them at start, whenever the topics
//! change, and again after a silence; unregistered at a stop (`BrokerOuterAPI.java`).
//!
//! One loop a name server, so that one that is slow delays no other. Between changes a loop asks
//! whether the name server still has the present version, and registers only when it has not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::Connection;
use net::client::CallError;
use protocol::body::{DataVersion, RegisterBrokerBody};
use protocol::header::{BrokerOf, DataVersionAnswer, RegisterBroker};
use protocol::json::to_json;
use protocol::{Frame, Header as _, RequestCode};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Broker;

const CALL_MAX: Duration = Duration::from_secs(6);
const UNREGISTER_MAX: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The id of a group's master.
const MASTER_ID: i64 = 0;

/// What is known of the registrations, and the bell that rings when topics change.
#[derive(Debug)]
pub struct Registration {
    changes: watch::Sender<u64>,
    states: Mutex<Vec<State>>,
    stopping: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Pending,
    Registered,
    Unreachable(String),
}

impl Registration {
    pub fn new(name_servers: usize) -> Self {
        let states = Mutex::new(vec![State::Pending; name_servers]);
        Self {
            changes: watch::Sender::new(0),
            states,
            stopping: AtomicBool::new(false),
        }
    }

    /// The topics have changed.
    pub fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// The broker stops: no more ready.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Ready once every name server that can be reached has the broker, and one has.
    pub fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("stopping".to_owned());
        }
        let states = self
            .states
            .lock()
            .expect("invariant: no panic while the states are held");
        if states.is_empty()
            || (states.contains(&State::Registered) && !states.contains(&State::Pending))
        {
            return Ok(());
        }
        let why = states.iter().find_map(|state| match state {
            State::Unreachable(why) => Some(why.clone()),
            State::Pending | State::Registered => None,
        });
        Err(why.unwrap_or_else(|| "not yet registered with every name server".to_owned()))
    }

    fn set(&self, index: usize, state: State) {
        let mut states = self
            .states
            .lock()
            .expect("invariant: no panic while the states are held");
        if let Some(slot) = states.get_mut(index) {
            *slot = state;
        }
    }
}

/// Keeps the broker registered with one name server until `stop`.
pub async fn run(broker: Arc<Broker>, index: usize, stop: CancellationToken) {
    let Some(address) = broker.config.name_servers.get(index) else {
        return;
    };
    let mut registrar = Registrar {
        broker: &broker,
        address,
        connection: None,
        known: None,
    };
    let mut changes = broker.registration.changes.subscribe();
    let period = Duration::from_millis(broker.config.properties.register_name_server_period);
    let mut failing = false;
    loop {
        changes.mark_unchanged();
        let wait = match registrar.refresh().await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(name_server = address, "registered again");
                }
                broker.registration.set(index, State::Registered);
                period
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(name_server = address, %error, "not registered");
                }
                registrar.connection = None;
                registrar.known = None;
                broker
                    .registration
                    .set(index, State::Unreachable(error.to_string()));
                RETRY_AFTER
            }
        };
        tokio::select! {
            _ = timeout(wait, changes.changed()) => {}
            () = stop.cancelled() => break,
        }
    }
    if let Err(error) = registrar.unregister().await {
        tracing::warn!(name_server = address, %error, "not unregistered");
    }
}

struct Registrar<'a> {
    broker: &'a Broker,
    address: &'a str,
    connection: Option<Connection>,
    /// The version that this name server was given on this connection.
    known: Option<DataVersion>,
}

impl Registrar<'_> {
    /// Registers, unless the name server has the present version.
    async fn refresh(&mut self) -> Result<(), CallError> {
        let version = self.broker.tables().version();
        if self.known == Some(version) && !self.differs(version).await? {
            return Ok(());
        }
        // Copied only when it is sent: there may be many topics, and mostly nothing has changed.
        let table = self.broker.tables().registered_topics();
        let version = table.data_version;
        let body = to_json(&RegisterBrokerBody {
            filter_server_list: Vec::new(),
            topic_config_serialize_wrapper: table,
        });
        let of = self.of();
        let header = RegisterBroker {
            broker: of.broker,
            address: of.address,
            cluster: of.cluster,
            // No replica of ours is a Java broker: nobody connects here.
            ha_address: self.broker.config.advertise.clone(),
            broker_id: of.broker_id,
            heartbeat_timeout_ms: None,
            acting_master: Some(false),
            compressed: false,
            body_crc: i64::from(crc32fast::hash(&body) & 0x7fff_ffff),
            zone: None,
        };
        let request = Frame::request(RequestCode::RegisterBroker, &header).with_body(body);
        self.ask(request).await?;
        self.known = Some(version);
        tracing::debug!(
            name_server = self.address,
            version = version.counter,
            "registered"
        );
        Ok(())
    }

    async fn differs(&mut self, version: DataVersion) -> Result<bool, CallError> {
        let request =
            Frame::request(RequestCode::QueryDataVersion, &self.of()).with_body(to_json(&version));
        let answer = self.ask(request).await?;
        Ok(DataVersionAnswer::read(&answer.fields).is_ok_and(|answer| answer.changed))
    }

    async fn unregister(&mut self) -> Result<(), CallError> {
        let request = Frame::request(RequestCode::UnregisterBroker, &self.of());
        match &mut self.connection {
            Some(connection) => connection.ask(request, UNREGISTER_MAX).await.map(drop),
            None => Ok(()),
        }
    }

    async fn ask(&mut self, request: Frame) -> Result<Frame, CallError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.address, CALL_MAX).await?,
        };
        let answer = connection.ask(request, CALL_MAX).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn of(&self) -> BrokerOf {
        let config = &self.broker.config;
        BrokerOf {
            broker: config.broker.clone(),
            address: config.advertise.clone(),
            cluster: config.cluster.clone(),
            broker_id: MASTER_ID,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_while_registered_with_every_name_server_that_is_reached() {
        let gone = || State::Unreachable("nobody is there".to_owned());
        let pending = "not yet registered with every name server";
        for (states, why) in [
            (vec![], None),
            (vec![State::Pending], Some(pending)),
            (vec![State::Registered, State::Pending], Some(pending)),
            (vec![State::Registered, State::Registered], None),
            (vec![State::Registered, gone()], None),
            (vec![gone(), gone()], Some("nobody is there")),
        ] {
            let registration = Registration::new(states.len());
            for (index, state) in states.iter().enumerate() {
                registration.set(index, state.clone());
            }
            let ready = registration.ready().err();
            assert_eq!(ready.as_deref(), why, "{states:?}");
            registration.stopping();
            let ready = registration.ready().err();
            assert_eq!(ready.as_deref(), Some("stopping"), "{states:?}");
        }
    }
}
