//! The process: its ports, the expiry of silent brokers, its metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::http;
use net::server::Counts;
use prometheus::{IntCounter, IntGauge, Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::request::NameServer;

/// How often silent brokers are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// Metrics and probes.
    pub http: SocketAddr,
    pub net: net::Options,
    /// Unix time in milliseconds.
    pub clock: fn() -> i64,
}

#[derive(Debug, thiserror::Error)]
#[error("the port {address} can't be opened: {error}")]
pub struct RunError {
    address: SocketAddr,
    error: std::io::Error,
}

/// Serves until `stop`; `started` is told once the ports are open.
pub async fn run(
    options: Options,
    stop: CancellationToken,
    started: impl FnOnce() + Send,
) -> Result<(), RunError> {
    let bind = |address| async move {
        TcpListener::bind(address)
            .await
            .map_err(|error| RunError { address, error })
    };
    let (remoting, pages) = (bind(options.listen).await?, bind(options.http).await?);
    let counts = Arc::<Counts>::default();
    let metrics = Metrics::new(Arc::clone(&counts));
    let server = Arc::new(NameServer::new(metrics, options.clock));
    tracing::info!(remoting = %options.listen, http = %options.http, "name server started");
    started();
    tokio::join!(
        net::server::serve(
            vec![remoting],
            Arc::clone(&server),
            options.net,
            counts,
            stop.clone()
        ),
        http::serve(pages, Arc::clone(&server), stop.clone()),
        expire(&server, stop),
    );
    tracing::info!("name server stopped");
    Ok(())
}

async fn expire(server: &NameServer, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EXPIRE_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let gone = server.lock().expire((server.clock)());
        for broker in gone {
            tracing::warn!(broker = broker.address, "gone: silent for too long");
        }
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: IntCounter,
    brokers: IntGauge,
    topics: IntGauge,
    connections: IntGauge,
    counts: Arc<Counts>,
}

impl Metrics {
    fn new(counts: Arc<Counts>) -> Self {
        let registry = Registry::new();
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help).expect("invariant: the names are legal");
            registry
                .register(Box::new(gauge.clone()))
                .expect("invariant: each name once");
            gauge
        };
        let requests = IntCounter::new("gantry_requests_total", "Requests received")
            .expect("invariant: the name is legal");
        registry
            .register(Box::new(requests.clone()))
            .expect("invariant: each name once");
        Self {
            requests,
            brokers: gauge("gantry_brokers", "Brokers that are live"),
            topics: gauge("gantry_topics", "Topics that have a route"),
            connections: gauge("gantry_connections", "Connections that are open"),
            counts,
            registry,
        }
    }
}

impl http::Pages for NameServer {
    fn registry(&self) -> &Registry {
        &self.metrics.registry
    }

    fn refresh(&self) {
        let (brokers, topics) = {
            let table = self.lock();
            (table.broker_count(), table.topic_count())
        };
        let connections = self
            .metrics
            .counts
            .connections
            .load(std::sync::atomic::Ordering::Relaxed);
        self.metrics.brokers.set(brokers as i64);
        self.metrics.topics.set(topics as i64);
        self.metrics.connections.set(connections as i64);
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_lists_every_series() {
        let server = NameServer::new(Metrics::new(Arc::default()), || 0);
        let page = http::metrics(&server);
        let mut shown: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        shown.sort_unstable();
        let guide = include_str!("../../docs/guide/monitoring.md");
        let rows = guide
            .split("### ")
            .find(|part| part.starts_with("Name server"));
        let rows = rows.expect("a section").lines();
        let mut listed: Vec<String> = rows
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
                Some(format!("{name} {}", rest.split_once(' ')?.0))
            })
            .collect();
        listed.sort_unstable();
        assert_eq!(shown, listed);
    }
}
