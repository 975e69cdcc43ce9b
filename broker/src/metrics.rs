//! What the broker counts, under the names and labels of RocketMQ 5
//! (`BrokerMetricsConstant.java`, `RemotingMetricsConstant.java`, `DefaultStoreMetricsConstant
//! .java`), with the units that its Prometheus exporter appends.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use net::server::Counts;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use protocol::topic::{is_system, retry_group};
use protocol::{Frame, RequestCode, ResponseCode};

use crate::Broker;
use crate::process::unix_ms;
use crate::stats::Stats;

#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    /// The same, as `mqadmin` asks for it.
    stats: Mutex<Stats>,
    cluster: String,
    messages_in: IntCounterVec,
    messages_out: IntCounterVec,
    bytes_in: IntCounterVec,
    bytes_out: IntCounterVec,
    dead_letters: IntCounterVec,
    latency: HistogramVec,
    /// Those of `latency` that have been asked for, by what makes their labels: no more than
    /// there are pairs of known codes.
    answers: RwLock<HashMap<Answer, Histogram>>,
    message_size: HistogramVec,
    /// By what is measured: see [`Gauges`].
    gauges: Gauges,
    counts: Arc<Counts>,
}

/// What the labels of `rocketmq_rpc_latency` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Answer {
    request: Option<RequestCode>,
    response: Option<ResponseCode>,
    long_polling: bool,
    oneway: bool,
}

#[derive(Debug)]
struct Gauges {
    connections: IntGaugeVec,
    storage_size: IntGauge,
    flush_behind: IntGauge,
    disk_used: IntGauge,
    disk_size: IntGauge,
    held_pulls: IntGauge,
    append_queue: IntGauge,
}

/// Bounds of `rocketmq_rpc_latency`, in ms.
const LATENCY_MS: &[f64] = &[1.0, 3.0, 5.0, 7.0, 10.0, 100.0, 1_000.0, 2_000.0, 3_000.0];

/// Bounds of `rocketmq_message_size`, in bytes.
const SIZE_BYTES: &[f64] = &[
    1_024.0,
    4_096.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
];

impl Metrics {
    pub fn new(cluster: &str, broker: &str, counts: Arc<Counts>) -> Self {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| {
            Opts::new(name, help)
                .const_label("cluster", cluster)
                .const_label("node_type", "broker")
                .const_label("node_id", broker)
        };
        let counter = |name, help, labels: &[&str]| {
            register(&registry, IntCounterVec::new(opts(name, help), labels))
        };
        let gauge = |name, help| register(&registry, IntGauge::with_opts(opts(name, help)));
        let storage = |name, help| {
            let opts = opts(name, help).const_label("storage_type", "local");
            let opts = opts.const_label("storage_medium", "disk");
            register(&registry, IntGauge::with_opts(opts))
        };
        let topic = ["topic", "message_type", "is_system"];
        let group = ["topic", "consumer_group", "is_system", "is_retry"];
        let latency = HistogramOpts::from(opts(
            "rocketmq_rpc_latency_milliseconds",
            "From a request's arrival to its answer",
        ))
        .buckets(LATENCY_MS.to_vec());
        let labels = [
            "protocol_type",
            "request_code",
            "response_code",
            "is_long_polling",
            "result",
        ];
        let size = HistogramOpts::from(opts("rocketmq_message_size", "Bytes of records stored"))
            .buckets(SIZE_BYTES.to_vec());
        let connections = opts("gantry_connections", "What is connected, by kind");
        Self {
            messages_in: counter("rocketmq_messages_in_total", "Messages stored", &topic),
            messages_out: counter("rocketmq_messages_out_total", "Messages delivered", &group),
            bytes_in: counter(
                "rocketmq_throughput_in_total",
                "Bytes of records stored",
                &topic,
            ),
            bytes_out: counter("rocketmq_throughput_out_total", "Bytes delivered", &group),
            dead_letters: counter(
                "rocketmq_send_to_dlq_messages_total",
                "Messages that a group has given up",
                &["topic", "consumer_group", "is_system"],
            ),
            latency: register(&registry, HistogramVec::new(latency, &labels)),
            answers: RwLock::default(),
            message_size: register(&registry, HistogramVec::new(size, &topic)),
            gauges: Gauges {
                connections: register(&registry, IntGaugeVec::new(connections, &["kind"])),
                storage_size: storage("rocketmq_storage_size_bytes", "Bytes of log kept"),
                flush_behind: storage(
                    "rocketmq_storage_flush_behind_bytes",
                    "Bytes of log that are not yet on disk",
                ),
                disk_used: gauge("gantry_disk_used_bytes", "Used bytes of the data volume"),
                disk_size: gauge("gantry_disk_size_bytes", "Size of the data volume"),
                held_pulls: gauge("gantry_held_pulls", "Pulls that wait for a message"),
                append_queue: gauge(
                    "gantry_append_queue_messages",
                    "Sends that wait for the log",
                ),
            },
            registry,
            stats: Mutex::new(Stats::new(unix_ms())),
            cluster: cluster.to_owned(),
            counts,
        }
    }

    pub(crate) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn message_in(&self, topic: &str, bytes: usize) {
        self.stats().put(&self.cluster, topic, bytes);
        let labels = [topic, "normal", flag(is_system(topic))];
        self.message_size
            .with_label_values(&labels)
            .observe(bytes as f64);
        self.messages_in.with_label_values(&labels).inc();
        self.bytes_in
            .with_label_values(&labels)
            .inc_by(bytes as u64);
    }

    pub(crate) fn dead_letter(&self, topic: &str, group: &str) {
        let labels = [topic, group, flag(is_system(topic))];
        self.dead_letters.with_label_values(&labels).inc();
    }

    pub(crate) fn messages_out(&self, topic: &str, group: &str, messages: usize, bytes: usize) {
        self.stats()
            .got(&self.cluster, topic, group, (messages, bytes));
        if messages > 0 {
            let retry = flag(retry_group(topic).is_some());
            let labels = [topic, group, flag(is_system(topic)), retry];
            self.messages_out
                .with_label_values(&labels)
                .inc_by(messages as u64);
            self.bytes_out
                .with_label_values(&labels)
                .inc_by(bytes as u64);
        }
    }

    /// An answer, or what a one-way request would have been answered.
    pub(crate) fn answered(
        &self,
        request: &Frame,
        response: i32,
        long_polling: bool,
        after: Duration,
    ) {
        let answer = Answer {
            request: RequestCode::from_number(request.code),
            response: ResponseCode::from_number(response),
            long_polling,
            oneway: request.is_oneway(),
        };
        if let Some(
            RequestCode::SendMessage | RequestCode::SendMessageV2 | RequestCode::SendBatchMessage,
        ) = answer.request
        {
            let stored = response == ResponseCode::Success.number();
            self.stats().sent(stored, after.as_millis() as u64);
        }
        self.latency_of(answer)
            .observe(after.as_secs_f64() * 1_000.0);
    }

    fn latency_of(&self, answer: Answer) -> Histogram {
        let known = self.answers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(latency) = known.get(&answer) {
            return latency.clone();
        }
        drop(known);
        let lower = |name: Option<&str>| name.unwrap_or("unknown").to_lowercase();
        let labels = [
            "remoting",
            &lower(answer.request.map(RequestCode::java_name)),
            &lower(answer.response.map(ResponseCode::java_name)),
            flag(answer.long_polling),
            if answer.oneway { "oneway" } else { "success" },
        ];
        let latency = self.latency.with_label_values(&labels);
        let mut known = self.answers.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(answer, latency.clone());
        latency
    }

    pub(crate) fn refresh(&self, broker: &Broker) {
        let status = broker.store.status();
        let (producers, consumers) = broker.clients().counts();
        let gauges = &self.gauges;
        let connections = self.counts.connections.load(Ordering::Relaxed);
        for (kind, count) in [
            ("tcp", connections),
            ("producer", producers),
            ("consumer", consumers),
        ] {
            gauges
                .connections
                .with_label_values(&[kind])
                .set(count as i64);
        }
        gauges
            .storage_size
            .set((status.confirm - status.log_start) as i64);
        gauges
            .flush_behind
            .set(status.confirm.saturating_sub(status.flushed) as i64);
        if let Some(volume) = status.volume {
            gauges.disk_used.set(volume.used_bytes as i64);
            gauges.disk_size.set(volume.total_bytes as i64);
        }
        gauges.held_pulls.set(broker.holds.count() as i64);
        gauges.append_queue.set(status.append_queue_messages as i64);
    }
}

fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("invariant: names and labels are legal");
    registry
        .register(Box::new(collector.clone()))
        .expect("invariant: each name once");
    collector
}
