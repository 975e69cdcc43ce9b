//! What the broker counts, under the names and labels of RocketMQ 5
//! (`BrokerMetricsConstant.java`, `RemotingMetricsConstant.java`, `DefaultStoreMetricsConstant
//! .java`), with the units that its Prometheus exporter appends.

mod text;
mod traffic;
mod lag;
mod connections;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use foldhash::HashMap;
use net::server::Counts;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntGauge, IntGaugeVec, Opts, Registry};
use protocol::record::Record;
use protocol::topic::{dlq_group, is_system, retry_group};
use protocol::{Frame, RequestCode, ResponseCode, properties};

use crate::Broker;
use crate::process::unix_ms;
use crate::stats::Stats;
use traffic::{OTHER, Traffic};

#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    /// The same, as `mqadmin` asks for it.
    stats: Mutex<Stats>,
    cluster: String,
    traffic: Traffic,
    latency: HistogramVec,
    /// Those of `latency` that have been asked for, by what makes their labels: no more than
    /// there are pairs of known codes.
    answers: RwLock<HashMap<Answer, Histogram>>,
    topics_created: HistogramVec,
    groups_created: HistogramVec,
    gauges: Gauges,
    counts: Arc<Counts>,
}

/// The type of a message (`TopicMessageType.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageType {
    Normal,
    Fifo,
    Delay,
    Transaction,
}

impl MessageType {
    /// As the properties say that were sent.
    pub(crate) fn of(sent: &[u8]) -> Self {
        let names = [
            properties::TRAN_MSG,
            properties::SHARDING_KEY,
            "__STARTDELIVERTIME",
            properties::DELAY,
            properties::TIMER_DELIVER_MS,
            properties::TIMER_DELAY_SEC,
            properties::TIMER_DELAY_MS,
        ];
        let [half, sharded, delayed @ ..] = properties::get_all(sent, names);
        if half == Some("true") {
            Self::Transaction
        } else if sharded.is_some() {
            Self::Fifo
        } else if delayed.iter().any(Option::is_some) {
            Self::Delay
        } else {
            Self::Normal
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fifo => "fifo",
            Self::Delay => "delay",
            Self::Transaction => "transaction",
        }
    }
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
    waiting: IntGaugeVec,
    topics: IntGauge,
    groups: IntGauge,
    storage_size: IntGauge,
    flush_behind: IntGauge,
    dispatch_behind: IntGauge,
    reserve_time: IntGauge,
    disk_used: IntGauge,
    disk_size: IntGauge,
    held_pulls: IntGauge,
    held_pops: IntGauge,
    popped: IntGauge,
    append_queue: IntGauge,
}

/// Bounds of `rocketmq_rpc_latency`, in ms.
const LATENCY_MS: &[f64] = &[1.0, 3.0, 5.0, 7.0, 10.0, 100.0, 1_000.0, 2_000.0, 3_000.0];

/// Bounds of the times that topics and groups take to be made, in ms.
const CREATE_MS: &[f64] = &[10.0, 100.0, 1_000.0, 3_000.0, 5_000.0];

/// Java's thread pools. Here requests wait for the log alone: at the others nothing ever waits.
const PROCESSORS: [&str; 12] = [
    "send",
    "async_put",
    "pull",
    "ack",
    "query_message",
    "client_manager",
    "heartbeat",
    "lite_pull",
    "transaction",
    "consumer_manager",
    "admin",
    "reply",
];

/// The group under which delayed messages are read.
const SCHEDULE_GROUP: &str = "SCHEDULE_CONSUMER";

impl Gauges {
    fn new(registry: &Registry, opts: impl Fn(&str, &str) -> Opts) -> Self {
        let gauge = |name, help| register(registry, IntGauge::with_opts(opts(name, help)));
        let by =
            |name, help, label| register(registry, IntGaugeVec::new(opts(name, help), &[label]));
        let storage = |name, help| {
            let opts = opts(name, help).const_label("storage_type", "local");
            let opts = opts.const_label("storage_medium", "disk");
            register(registry, IntGauge::with_opts(opts))
        };
        // A broker that may not be read or written is not a broker yet.
        gauge("rocketmq_broker_permission", "Read and write: 6").set(6);
        Self {
            connections: by("gantry_connections", "What is connected, by kind", "kind"),
            waiting: by(
                "rocketmq_processor_watermark",
                "Requests that wait, by what serves them",
                "processor",
            ),
            topics: gauge("rocketmq_topic_number", "Topics, the broker's own too"),
            groups: gauge("rocketmq_consumer_group_number", "Consumer groups"),
            storage_size: storage("rocketmq_storage_size_bytes", "Bytes of log kept"),
            flush_behind: storage(
                "rocketmq_storage_flush_behind_bytes",
                "Bytes of log that are not yet on disk",
            ),
            dispatch_behind: storage(
                "rocketmq_storage_dispatch_behind_bytes",
                "Bytes of log that are not yet in the index: none, it follows each write",
            ),
            reserve_time: storage(
                "rocketmq_storage_message_reserve_time_milliseconds",
                "Age of the oldest record",
            ),
            disk_used: gauge("gantry_disk_used_bytes", "Used bytes of the data volume"),
            disk_size: gauge("gantry_disk_size_bytes", "Size of the data volume"),
            held_pulls: gauge("gantry_held_pulls", "Pulls that wait for a message"),
            held_pops: gauge("gantry_held_pops", "Pops that wait for a message"),
            popped: gauge(
                "gantry_popped_messages",
                "Messages that are popped and not acknowledged",
            ),
            append_queue: gauge(
                "gantry_append_queue_messages",
                "Sends that wait for the log",
            ),
        }
    }
}

impl Metrics {
    pub fn new(cluster: &str, broker: &str, series_max: usize, counts: Arc<Counts>) -> Self {
        let registry = Registry::new();
        let common = [
            ("cluster", cluster),
            ("node_type", "broker"),
            ("node_id", broker),
        ];
        let opts = |name: &str, help: &str| {
            let opts = Opts::new(name, help);
            let common = common.iter();
            common.fold(opts, |opts, (name, value)| opts.const_label(*name, *value))
        };
        let histogram = |name, help, bounds: &[f64], labels: &[&str]| {
            let opts = HistogramOpts::from(opts(name, help)).buckets(bounds.to_vec());
            register(&registry, HistogramVec::new(opts, labels))
        };
        Self {
            traffic: Traffic::new(text::labels(&common), series_max),
            latency: histogram(
                "rocketmq_rpc_latency_milliseconds",
                "From a request's arrival to its answer",
                LATENCY_MS,
                &[
                    "protocol_type",
                    "request_code",
                    "response_code",
                    "is_long_polling",
                    "result",
                ],
            ),
            answers: RwLock::default(),
            topics_created: histogram(
                "rocketmq_topic_create_execution_time_milliseconds",
                "From the request for a topic to its answer",
                CREATE_MS,
                &["invocation_status", "is_system"],
            ),
            groups_created: histogram(
                "rocketmq_consumer_group_create_execution_time_milliseconds",
                "From the request for a consumer group to its answer",
                CREATE_MS,
                &["invocation_status"],
            ),
            gauges: Gauges::new(&registry, opts),
            registry,
            stats: Mutex::new(Stats::new(unix_ms())),
            cluster: cluster.to_owned(),
            counts,
        }
    }

    pub(crate) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages of one request were stored, with these sizes.
    pub(crate) fn messages_in(&self, topic: &str, of: MessageType, sizes: &[usize]) {
        {
            let mut stats = self.stats();
            for bytes in sizes {
                stats.put(&self.cluster, topic, *bytes);
            }
        }
        if retry_group(topic).is_none() && dlq_group(topic).is_none() {
            self.count_in(topic, of, sizes.len(), sizes.iter().sum());
        }
    }

    /// A consumer's message was stored for its retry: of the metrics only its delivery counts.
    pub(crate) fn sent_back(&self, topic: &str, bytes: usize) {
        self.stats().put(&self.cluster, topic, bytes);
    }

    /// A delayed message has come to its topic.
    pub(crate) fn delivered(&self, topic: &str, bytes: usize) {
        self.stats().put(&self.cluster, topic, bytes);
        self.count_in(topic, MessageType::Delay, 1, bytes);
        let from = protocol::topic::SCHEDULE_TOPIC;
        self.count_out(from, SCHEDULE_GROUP, 1, bytes);
    }

    fn count_in(&self, topic: &str, of: MessageType, messages: usize, bytes: usize) {
        let of = of.name();
        let labels = |topic: &str, of: &str| {
            self.traffic.labels(&[
                ("topic", topic),
                ("message_type", of),
                ("is_system", flag(is_system(topic))),
            ])
        };
        let (messages, bytes) = (messages as u64, bytes as u64);
        let Traffic { ins, sizes, .. } = &self.traffic;
        let series = ins.of((topic, of), (OTHER, of), labels);
        series.value.add(messages, bytes);
        let series = sizes.of((topic, of), (OTHER, of), labels);
        series.value.add(messages, bytes);
    }

    fn count_out(&self, topic: &str, group: &str, messages: usize, bytes: usize) {
        let labels = |topic: &str, group: &str| self.group_labels(topic, group);
        let outs = &self.traffic.outs;
        let series = outs.of((topic, group), (OTHER, OTHER), labels);
        series.value.add(messages as u64, bytes as u64);
    }

    fn group_labels(&self, topic: &str, group: &str) -> String {
        let system = is_system(topic) || is_system_group(group);
        self.traffic.labels(&[
            ("topic", topic),
            ("consumer_group", group),
            ("is_system", flag(system)),
        ])
    }

    pub(crate) fn dead_letter(&self, topic: &str, group: &str) {
        let labels = |topic: &str, group: &str| self.group_labels(topic, group);
        let dead = &self.traffic.dead;
        let series = dead.of((topic, group), (OTHER, OTHER), labels);
        series.value.add(1, 0);
    }

    /// A transaction has ended; what a commit has delivered has so many bytes.
    pub(crate) fn ended(&self, topic: &str, committed: bool, bytes: usize) {
        let table = if committed {
            self.stats().put(&self.cluster, topic, bytes);
            &self.traffic.committed
        } else {
            &self.traffic.rolled_back
        };
        let labels = |topic: &str, _: &str| self.traffic.labels(&[("topic", topic)]);
        table.of((topic, ""), (OTHER, ""), labels).value.add(1, 0);
    }

    pub(crate) fn messages_out(&self, topic: &str, group: &str, messages: usize, bytes: usize) {
        self.stats()
            .got(&self.cluster, topic, group, (messages, bytes));
        if messages > 0 && retry_group(topic).is_none() && dlq_group(topic).is_none() {
            self.count_out(topic, group, messages, bytes);
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
        let after_ms = after.as_secs_f64() * 1_000.0;
        self.latency_of(answer).observe(after_ms);
        let done = response == ResponseCode::Success.number();
        let status = if done { "success" } else { "failure" };
        match answer.request {
            Some(RequestCode::UpdateAndCreateTopic) => {
                let topic = request.fields.get("topic").unwrap_or_default();
                let labels = [status, flag(is_system(topic))];
                self.topics_created
                    .with_label_values(&labels)
                    .observe(after_ms);
            }
            Some(RequestCode::UpdateAndCreateSubscriptiongroup) if done => {
                self.groups_created
                    .with_label_values(&[status])
                    .observe(after_ms);
            }
            _ => {}
        }
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
        for processor in PROCESSORS {
            let waiting = match processor {
                "send" => status.append_queue_messages as i64,
                _ => 0,
            };
            gauges.waiting.with_label_values(&[processor]).set(waiting);
        }
        let (topics, groups) = broker.tables().counts();
        gauges.topics.set(topics as i64);
        gauges.groups.set(groups as i64);
        gauges.dispatch_behind.set(0);
        let oldest = broker.store.record_at(status.log_start);
        if let Ok(Some(bytes)) = oldest
            && let Ok(record) = Record::decode(&bytes)
        {
            gauges
                .reserve_time
                .set((unix_ms() - record.store_ms).max(0));
        }
        gauges.held_pulls.set(broker.waiting.holds.count() as i64);
        gauges
            .held_pops
            .set(broker.waiting.pops.waiting.count_all() as i64);
        gauges
            .popped
            .set(broker.tables().flights.count_all() as i64);
        gauges.append_queue.set(status.append_queue_messages as i64);
    }
}

impl Metrics {
    /// The series by topic, group and client.
    pub(crate) fn write(&self, broker: &Broker, out: &mut String) {
        self.traffic.write(out);
        connections::write(broker, &self.traffic, out);
        lag::write(broker, &self.traffic, out);
    }
}

fn is_system_group(group: &str) -> bool {
    const PREFIX: &str = "CID_RMQ_SYS_";
    let start = group.get(..PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
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
