//! The process: opens the store, rebuilds the tables, opens the ports; and the way back.
//!
//! A stop is in order: no new connection, the name servers told, held pulls answered, what waits
//! for the log written, the store closed. All of it within [`STOP_MAX`].

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use net::http;
use net::server::Counts;
use prometheus::Registry;
use protocol::record::Record;
use protocol::topic::{SCHEDULE_TOPIC, STATE_TOPIC};
use store::{OpenError, ReadError, ReadLimits, ReadStatus, Store, Wait, state};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::carry::Delays;
use crate::clients::Clients;
use crate::hold::{self, Holds};
use crate::metrics::Metrics;
use crate::pop::{self, Pops};
use crate::register::{self, Registration};
use crate::request::state_record;
use crate::tables::{Change, Tables};
use crate::{
    Broker, Config, Waiting, base, config, endpoint, export, schedule, tick, transaction, upkeep,
};

pub const STOP_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the store {dir} can't be opened: {error}")]
    Store {
        dir: std::path::PathBuf,
        error: OpenError,
    },
    #[error("the broker's state can't be read: {0}")]
    State(String),
    #[error("the port {address} can't be opened: {error}")]
    Port {
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error("TLS: {0}")]
    Tls(#[from] net::tls::TlsError),
    #[error("{0}")]
    Kubernetes(&'static str),
}

pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as i64
}

/// Serves until `stop`; `started` is told once the ports are open.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    started: impl FnOnce() + Send,
) -> Result<(), RunError> {
    let place = place(&config)?;
    let options = net::Options {
        limits: config.limits.net(),
        tls: config.listen.tls.open()?,
        proxy_from: config.listen.proxy_protocol_from.clone(),
    };
    let (remoting, pages) = ports(&config).await?;
    let counts = Arc::<Counts>::default();
    let opening = (config.clone(), Arc::clone(&counts));
    let broker = tokio::task::spawn_blocking(move || open(opening.0, opening.1))
        .await
        .map_err(|error| RunError::State(error.to_string()))??;
    let broker = Arc::new(broker);
    let epoch = broker.store.status().epoch;
    tracing::info!(broker = config.broker, remoting = %config.listen.remoting, epoch, "started");
    let mut loops = JoinSet::new();
    // The pages outlive the rest, so that a probe can see a broker that stops.
    let pages_stop = CancellationToken::new();
    loops.spawn(http::serve(pages, Arc::clone(&broker), pages_stop.clone()));
    let (broker_then, stopped) = (Arc::clone(&broker), stop.clone());
    loops.spawn(async move {
        stopped.cancelled().await;
        broker_then.registration.stopping();
    });
    loops.spawn(hold::run(Arc::clone(&broker), stop.clone()));
    loops.spawn(sample(Arc::clone(&broker), stop.clone()));
    loops.spawn(upkeep::run(Arc::clone(&broker), stop.clone()));
    loops.spawn(schedule::run(Arc::clone(&broker), stop.clone()));
    loops.spawn(transaction::check::run(Arc::clone(&broker), stop.clone()));
    loops.spawn(pop::waiting::run(Arc::clone(&broker), stop.clone()));
    loops.spawn(pop::revive::run(Arc::clone(&broker), stop.clone()));
    // Last of all, so that nothing is left that the others have still done.
    let others_ended = CancellationToken::new();
    let offsets = tokio::spawn(tick::run(Arc::clone(&broker), others_ended.clone()));
    for index in 0..config.name_servers.len() {
        loops.spawn(register::run(Arc::clone(&broker), index, stop.clone()));
    }
    if let Some((kubernetes, pod_ip)) = place {
        let place = endpoint::Place {
            pod_ip,
            port: config.listen.remoting.port(),
            vip_port: config.listen.vip_address().map(|vip| vip.port()),
            epoch,
        };
        loops.spawn(endpoint::run(kubernetes, place, stop.clone()));
    }
    started();
    net::server::serve(remoting, Arc::clone(&broker), options, counts, stop).await;
    pages_stop.cancel();
    if tokio::time::timeout(STOP_MAX / 2, loops.join_all())
        .await
        .is_err()
    {
        tracing::warn!("background loops did not end in time");
    }
    others_ended.cancel();
    if offsets.await.is_err() {
        tracing::warn!("the loop that writes offsets has failed");
    }
    let closing = Arc::clone(&broker);
    let closed = tokio::task::spawn_blocking(move || close(&closing)).await;
    if let Err(error) = closed {
        return Err(RunError::State(error.to_string()));
    }
    tracing::info!("stopped");
    Ok(())
}

/// Opens the ports of clients, and that of the pages.
async fn ports(config: &Config) -> Result<(Vec<TcpListener>, TcpListener), RunError> {
    let bind = |address| async move {
        TcpListener::bind(address)
            .await
            .map_err(|error| RunError::Port { address, error })
    };
    let mut remoting = vec![bind(config.listen.remoting).await?];
    if let Some(vip) = config.listen.vip_address() {
        remoting.push(bind(vip).await?);
    }
    Ok((remoting, bind(config.listen.http).await?))
}

/// Leaves a base and the JSON files of all that has been written, then closes the store.
pub(crate) fn close(broker: &Arc<Broker>) {
    if let Err(error) = base::write(broker) {
        tracing::warn!(error, "no base is written");
    }
    export::write(broker);
    broker.store.close();
}

/// On Kubernetes: the slice to write and this pod's address.
fn place(config: &Config) -> Result<Option<(config::Kubernetes, IpAddr)>, RunError> {
    let Some(kubernetes) = config.kubernetes.clone() else {
        return Ok(None);
    };
    let pod_ip = std::env::var("POD_IP").ok().and_then(|ip| ip.parse().ok());
    let pod_ip = pod_ip.ok_or(RunError::Kubernetes(
        "kubernetes.endpointSlice is set, but POD_IP holds no address",
    ))?;
    Ok(Some((kubernetes, pod_ip)))
}

pub(crate) fn open(config: Config, counts: Arc<Counts>) -> Result<Broker, RunError> {
    let holds = Arc::new(Holds::new(config.limits.held_pulls_max));
    let pops = Arc::new(Pops::new(config.limits.held_pulls_max));
    let (arrived, popped) = (Arc::clone(&holds), Arc::clone(&pops));
    let delayed = Arc::new(Notify::new());
    let bell = Arc::clone(&delayed);
    let options = store::Options {
        flush: match config.flush {
            config::Flush::Sync => store::Flush::Sync,
            config::Flush::Async => store::Flush::Async,
        },
        segment_bytes: config.segment_bytes,
        append_queue_max: config.limits.append_queue_max,
        disk_used_percent_max: config.disk_used_percent_reject,
        ..store::Options::new(&config.cluster, &config.broker, config.store_host, unix_ms)
    };
    let store = Store::open(
        &config.data_dir,
        options,
        Box::new(move |arrivals, answers| {
            net::together(|| drop(answers));
            arrived.arrived(arrivals);
            popped.waiting.arrived(arrivals);
            if arrivals.iter().any(|new| &*new.topic == SCHEDULE_TOPIC) {
                bell.notify_one();
            }
        }),
    )
    .map_err(|error| RunError::Store {
        dir: config.data_dir.clone(),
        error,
    })?;
    let queues = config.properties.default_topic_queue_nums;
    let auto_create = config.auto_create_topics.then_some(queues);
    let tables = replay(&store, &config.cluster, &config.broker, auto_create)?;
    let halves = transaction::load::load(&store, &tables)
        .map_err(|error| RunError::State(error.to_string()))?;
    Ok(Broker {
        store,
        tables: RwLock::new(tables),
        clients: Mutex::new(Clients::default()),
        coordination: Mutex::default(),
        transactions: Mutex::new(halves),
        waiting: Waiting { holds, pops },
        metrics: Metrics::new(
            &config.cluster,
            &config.broker,
            config.limits.metric_series_max,
            counts,
        ),
        registration: Arc::new(Registration::new(config.name_servers.len())),
        offsets_dirty: Notify::new(),
        delays: Delays::new(delayed),
        runtime: tokio::runtime::Handle::current(),
        config,
    })
}

/// Main memory: what lies within 40 % of it from the log's end counts as in memory.
pub(crate) fn memory_bytes() -> u64 {
    let memory = rustix::system::sysinfo();
    memory.totalram as u64 * u64::from(memory.mem_unit.max(1))
}

/// Rebuilds the tables from the base, the state records above it, and the JSON files that another
/// program has changed.
pub fn replay(
    store: &Store,
    cluster: &str,
    broker: &str,
    auto_create_queues: Option<i32>,
) -> Result<Tables, RunError> {
    let mut tables = Tables::new(cluster, broker, store.status().epoch, auto_create_queues);
    let limits = ReadLimits {
        messages_max: 1_024,
        bytes_max: 4 << 20,
        scan_max: 1_024,
    };
    let mut from = base::read(store, &mut tables)?;
    let broken = |error: &dyn std::fmt::Display| RunError::State(error.to_string());
    loop {
        let read = store
            .read(STATE_TOPIC, 0, from, &limits, &mut |_| true, Wait::ForDisk)
            .map_err(|error: ReadError| broken(&error))?;
        if read.status != ReadStatus::Found {
            export::import(store, &mut tables)?;
            return Ok(tables);
        }
        for bytes in &read.records {
            let record = Record::decode(bytes).map_err(|error| broken(&error))?;
            for entry in state::decode(record.body).map_err(|error| broken(&error))? {
                if let Some(change) = Change::decode(entry).map_err(|error| broken(&error))? {
                    base::apply(store, &mut tables, change, record.position, record.store_ms);
                }
            }
        }
        from = read.next;
    }
}

/// Writes the base of a store that no broker serves, whose tables these are: whoever opens it
/// next without them still knows which messages are not shown.
pub fn settle(store: &Store, tables: &Tables) -> Result<(), RunError> {
    store
        .write_base(store.status().confirm, state_record(&tables.snapshot()))
        .map_err(|error| RunError::State(error.to_string()))
}

/// Samples the statistics once a second.
async fn sample(broker: Arc<Broker>, stop: CancellationToken) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = seconds.tick() => broker.metrics.stats().tick(unix_ms()),
            () = stop.cancelled() => return,
        }
    }
}

impl http::Pages for Broker {
    fn registry(&self) -> &Registry {
        &self.metrics.registry
    }

    fn refresh(&self) {
        self.metrics.refresh(self);
    }

    fn more(&self, out: &mut String) {
        self.metrics.write(self, out);
    }

    fn ready(&self) -> Result<(), String> {
        if self.store.status().failed {
            return Err("a write to the disk has failed".to_owned());
        }
        self.registration.ready()
    }
}
