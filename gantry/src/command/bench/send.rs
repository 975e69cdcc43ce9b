//! `gantry bench send`: messages like those of RocketMQ's own client, with a unique key each.

use anyhow::ensure;
use bytes::BytesMut;
use protocol::header::SendMessage;
use protocol::topic::DEFAULT_TOPIC;
use protocol::{Frame, RequestCode, properties};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::load::{self, Answer, Calls, Plan};
use super::template::{Template, slot_and_code};
use super::{Queue, Shared, settled, stored};
use crate::command::unix_ms;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: Shared,
    /// Open loop: messages a second of all connections; latency counts from when each is due.
    #[arg(long)]
    rate: Option<f64>,
    /// Messages in one request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    batch: u32,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let shared = &arguments.shared;
    let rate = arguments.rate.map(|rate| rate / f64::from(arguments.batch));
    ensure!(rate.is_none_or(|rate| rate > 0.0), "--rate is nothing");
    let seconds = shared.seconds()?;
    let queues = shared.queues().await?;
    let before = stored(&queues, &shared.topic).await?;
    let start = Instant::now();
    let mut connections = Vec::new();
    for at in 0..shared.connections {
        let own = Shared::queues_of(&queues, at as usize);
        let plan = Plan::new(
            shared.window,
            seconds,
            rate,
            (at, shared.connections),
            start,
        );
        let sends = Sends::new(shared, &own, arguments.batch, at)?;
        connections.push((own[0].address.clone(), plan, sends));
    }
    let (tally, _) = load::run(connections).await?;
    let stored = settled(&queues, &shared.topic, before + tally.messages).await? - before;
    let mut report = tally.report(seconds.1);
    report["acked"] = report["messages"].take();
    report["stored"] = json!(stored);
    show(shared, &mut report)
}

pub(super) fn show(shared: &Shared, report: &mut Value) -> anyhow::Result<()> {
    report["connections"] = json!(shared.connections);
    report["window"] = json!(shared.window);
    report["bytes"] = json!(shared.size);
    if let Some(members) = report.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    output::object(shared.common.output, report)
}

/// Fills a topic; gives back how many messages were acknowledged.
pub(super) async fn fill(shared: &Shared, queues: &[Queue], messages: u64) -> anyhow::Result<u64> {
    const CONNECTIONS: u32 = 16;
    const WINDOW: u32 = 8;
    const FILL_MAX: std::time::Duration = std::time::Duration::from_mins(10);
    let start = Instant::now();
    let mut connections = Vec::new();
    for at in 0..CONNECTIONS {
        let own = Shared::queues_of(queues, at as usize);
        let times = (std::time::Duration::ZERO, FILL_MAX);
        let plan = Plan::new(WINDOW, times, None, (at, CONNECTIONS), start);
        let mut sends = Sends::new(shared, &own, 1, at)?;
        let (at, all) = (u64::from(at), u64::from(CONNECTIONS));
        sends.left = Some(messages * (at + 1) / all - messages * at / all);
        connections.push((own[0].address.clone(), plan, sends));
    }
    Ok(load::run(connections).await?.0.messages)
}

/// The sends of one connection: a request a queue, in turn.
struct Sends {
    requests: Vec<(Template, Vec<usize>)>,
    next: usize,
    serial: u64,
    batch: u64,
    /// Requests; `None` until the time is over.
    left: Option<u64>,
}

/// Digits of a unique key that count; those before them are the connection's.
const SERIAL_DIGITS: usize = 16;

impl Sends {
    fn new(shared: &Shared, queues: &[&Queue], batch: u32, at: u32) -> anyhow::Result<Self> {
        let mut random = rand::rng();
        let mut body = vec![0; shared.size as usize];
        random.fill(&mut body[..shared.size as usize / 2]);
        let run: u64 = random.random_range(0..10_000_000_000);
        let mut requests = Vec::new();
        for queue in queues {
            let mut keys = Vec::new();
            let mut parts = BytesMut::new();
            for part in 0..batch {
                let key = format!("{run:010}{at:06}{:0SERIAL_DIGITS$}", part + 1);
                let text = message_properties(&key);
                if batch > 1 {
                    push_part(&mut parts, &body, text.as_bytes());
                }
                keys.push(key);
            }
            let many = batch > 1;
            let text = if many {
                String::new()
            } else {
                message_properties(&keys[0])
            };
            let header = header(shared, queue, text, many);
            let code = if many {
                RequestCode::SendBatchMessage
            } else {
                RequestCode::SendMessageV2
            };
            let content = if many { parts.to_vec() } else { body.clone() };
            let template = Template::new(Frame::request(code, &header).with_body(content))?;
            let places = keys.iter().map(|key| template.place(key));
            let places = places.collect::<anyhow::Result<Vec<usize>>>()?;
            requests.push((template, places));
        }
        Ok(Self {
            next: at as usize % requests.len(),
            requests,
            serial: 0,
            batch: u64::from(batch),
            left: None,
        })
    }
}

fn message_properties(key: &str) -> String {
    let mut text = Vec::new();
    properties::push(&mut text, properties::UNIQ_KEY, key);
    properties::push(&mut text, "WAIT", "true");
    String::from_utf8_lossy(&text).into_owned()
}

fn push_part(out: &mut BytesMut, body: &[u8], text: &[u8]) {
    let size = 22 + body.len() + text.len();
    out.extend_from_slice(&(size as u32).to_be_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

fn header(shared: &Shared, queue: &Queue, properties: String, batch: bool) -> SendMessage {
    SendMessage {
        producer_group: "benchmark_producer".to_owned(),
        topic: shared.topic.clone(),
        default_topic: DEFAULT_TOPIC.to_owned(),
        default_topic_queues: 4,
        queue: queue.id,
        sys_flag: 0,
        born_ms: unix_ms(),
        flag: 0,
        properties: Some(properties),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        max_reconsume_times: Some(0),
        batch: Some(batch),
        broker: Some(queue.broker.clone()),
    }
}

impl Calls for Sends {
    fn ask(&mut self, slot: usize, out: &mut BytesMut) -> bool {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return false;
            }
            *left -= 1;
        }
        let (template, keys) = &mut self.requests[self.next];
        for key in keys {
            self.serial += 1;
            let start = *key + 16;
            template.set(start, start + SERIAL_DIGITS, self.serial);
        }
        template.write(slot, out);
        self.next = (self.next + 1) % self.requests.len();
        true
    }

    fn answered(&mut self, answer: &[u8]) -> anyhow::Result<Answer> {
        let (slot, code) = slot_and_code(answer)?;
        // Stored, but not flushed or not copied in time: 10, 11 and 12 count as refused.
        let refused = (code != 0).then_some(code);
        let messages = if refused.is_some() { 0 } else { self.batch };
        Ok(Answer {
            slot,
            messages,
            refused,
        })
    }
}
