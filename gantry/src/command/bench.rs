//! `gantry bench`: how fast this machine is, and how fast a server on it takes and gives messages.
//!
//! - [`limits`]: what the machine can do at best
//! - [`send`], [`consume`]: load for any server that speaks RocketMQ's remoting protocol
//! - [`load`]: the loop that a connection runs, and what is measured in it

mod consume;
mod limits;
mod load;
mod send;
mod template;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use protocol::header::{CreateTopic, OffsetAnswer, QueueOf};
use protocol::topic::DEFAULT_TOPIC;
use protocol::{Frame, Header as _, RequestCode};

use crate::admin::{Common, ask};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// What this machine can do: memory, loopback, disk.
    Limits(limits::Arguments),
    /// Send messages and measure it.
    Send(send::Arguments),
    /// Pull a topic's messages, over and over, and measure it.
    Consume(consume::Arguments),
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Limits(arguments) => limits::run(&arguments),
        Command::Send(arguments) => send::run(&arguments).await,
        Command::Consume(arguments) => consume::run(&arguments).await,
    }
}

/// What both kinds of load are told.
#[derive(Debug, Clone, clap::Args)]
struct Shared {
    #[arg(long, default_value = "benchmark")]
    topic: String,
    /// Create the topic on every master before.
    #[arg(long)]
    create: bool,
    /// Queues on each broker, of a topic that is created.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..=1_024))]
    queues: i32,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: u32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before them.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Bytes of a body; the first half is random.
    #[arg(
        long,
        default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(0..=4_000_000)
    )]
    size: u32,
    #[command(flatten)]
    common: Common,
}

/// A queue of the topic and the broker that has it.
#[derive(Debug, Clone)]
struct Queue {
    address: String,
    broker: String,
    id: i32,
}

/// How long a server may take to know what it has acknowledged, or created.
const SETTLE_MAX: Duration = Duration::from_secs(15);
const SETTLE_STEP: Duration = Duration::from_millis(50);

impl Shared {
    /// The queues of the topic, which exists afterwards when it is to be created.
    async fn queues(&self) -> anyhow::Result<Vec<Queue>> {
        if self.create {
            let header = CreateTopic {
                topic: self.topic.clone(),
                default_topic: DEFAULT_TOPIC.to_owned(),
                read_queues: self.queues,
                write_queues: self.queues,
                perm: 6,
                filter_type: "SINGLE_TAG".to_owned(),
                sys_flag: Some(0),
                order: false,
                attributes: None,
            };
            for master in self.common.one_cluster(None).await? {
                let request = Frame::request(RequestCode::UpdateAndCreateTopic, &header);
                ask(&master.address, request).await?;
            }
        }
        let deadline = tokio::time::Instant::now() + SETTLE_MAX;
        loop {
            match self.routed().await {
                // The broker tells the name server, but not within the call.
                Err(_) if self.create && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(SETTLE_STEP).await;
                }
                routed => return routed,
            }
        }
    }

    async fn routed(&self) -> anyhow::Result<Vec<Queue>> {
        let route = self.common.route(&self.topic).await?;
        let mut queues = Vec::new();
        for data in &route.queue_datas {
            let mut brokers = route.broker_datas.iter();
            let broker = brokers.find(|broker| broker.broker_name == data.broker_name);
            let Some(address) = broker.and_then(|broker| broker.broker_addrs.get(&0)) else {
                continue;
            };
            queues.extend((0..data.write_queue_nums).map(|id| Queue {
                address: address.clone(),
                broker: data.broker_name.clone(),
                id,
            }));
        }
        ensure!(!queues.is_empty(), "{} has no queue", self.topic);
        Ok(queues)
    }

    /// The queues of the broker that a connection goes to; connections go round the brokers.
    fn queues_of(queues: &[Queue], connection: usize) -> Vec<&Queue> {
        let mut addresses: Vec<&str> = queues.iter().map(|q| q.address.as_str()).collect();
        addresses.dedup();
        let address = addresses[connection % addresses.len()];
        queues.iter().filter(|q| q.address == address).collect()
    }

    fn seconds(&self) -> anyhow::Result<(Duration, Duration)> {
        let warmup = Duration::try_from_secs_f64(self.warmup).context("--warmup")?;
        let duration = Duration::try_from_secs_f64(self.duration).context("--duration")?;
        ensure!(!duration.is_zero(), "--duration is nothing");
        Ok((warmup, duration))
    }
}

/// The first and the next offset of a queue.
async fn offsets(queue: &Queue, topic: &str) -> anyhow::Result<(i64, i64)> {
    let of = QueueOf {
        topic: topic.to_owned(),
        queue: queue.id,
    };
    let mut found = [0; 2];
    let codes = [RequestCode::GetMinOffset, RequestCode::GetMaxOffset];
    for (code, offset) in codes.into_iter().zip(&mut found) {
        let answer = ask(&queue.address, Frame::request(code, &of)).await?;
        *offset = OffsetAnswer::read(&answer.fields)?.offset;
    }
    Ok((found[0], found[1]))
}

/// The next offsets of all queues, summed: what has been stored.
async fn stored(queues: &[Queue], topic: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for queue in queues {
        sum += offsets(queue, topic).await?.1 as u64;
    }
    Ok(sum)
}

/// [`stored`], once it has reached `expected`, or as it is when that takes too long.
async fn settled(queues: &[Queue], topic: &str, expected: u64) -> anyhow::Result<u64> {
    let deadline = tokio::time::Instant::now() + SETTLE_MAX;
    loop {
        let stored = stored(queues, topic).await?;
        if stored >= expected || tokio::time::Instant::now() >= deadline {
            return Ok(stored);
        }
        tokio::time::sleep(SETTLE_STEP).await;
    }
}
