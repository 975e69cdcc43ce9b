//! The figures: what is done to a fresh server, and what is measured of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use super::server::{self, Loaded, Loads, Server};
use super::{calls, own};
use crate::lab::{Lab, Target};

/// A figure by its number, with the title and the text of its page.
#[derive(Debug)]
pub struct Figure {
    pub number: u8,
    pub title: &'static str,
    pub text: &'static str,
}

pub const ALL: [Figure; 5] = [
    Figure {
        number: 1,
        title: "Sends",
        text: "Closed loop: each connection sends one message of 1 KiB, waits for `SEND_OK` \
               and sends the next. One topic of 8 queues. RocketMQ's own Producer sends from 64 \
               threads over one connection, so that requests come many at a time.",
    },
    Figure {
        number: 3,
        title: "Pulls",
        text: "Pulls of up to 32 messages of 1 KiB from a backlog that the page cache holds, \
               one at a time on each connection. One topic of 8 queues. RocketMQ's own Consumer \
               is busy with itself: it does not tell the servers apart.",
    },
    Figure {
        number: 6,
        title: "Memory",
        text: "Pages of the broker's own (RssAnon) and its page tables; pages of files, which \
               the kernel takes back at need, stand apart.",
    },
    Figure {
        number: 7,
        title: "Cold start",
        text: "From the start of the process, on a directory with 100 topics, to the first \
               `SEND_OK`.",
    },
    Figure {
        number: 11,
        title: "Processor",
        text: "User and system time of the broker. With nothing to do: 1,000 topics and 1,000 \
               consumers whose pulls wait.",
    },
];

pub type Values = Vec<(String, f64)>;

const CONNECTIONS: [u32; 4] = [1, 16, 64, 256];
const BACKLOG: u64 = 1_000_000;
/// The JIT compiler of the one needs its time, the other has none.
const WARMUP: [(Target, u32); 2] = [(Target::Gantry, 5), (Target::Java, 60)];
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_mins(1);
const START_MAX: Duration = Duration::from_mins(2);
const STOP_MAX: Duration = Duration::from_mins(2);

pub async fn measure(
    (figure, pair): (u8, u32),
    lab: &mut Lab,
    loads: &Loads,
    target: Target,
) -> anyhow::Result<Values> {
    // Once is enough for what only checks our load generator.
    let checks = pair == 0;
    match figure {
        1 => sends(lab, loads, target, checks).await,
        3 => pulls(lab, loads, target, checks).await,
        6 => memory(lab, target).await,
        7 => cold_start(lab, target).await,
        11 => idle(lab, target).await,
        other => anyhow::bail!("no figure {other}"),
    }
}

fn warmup(target: Target) -> u32 {
    let mut all = WARMUP.iter();
    all.find(|(of, _)| *of == target)
        .map_or(0, |(_, seconds)| *seconds)
}

async fn sends(
    lab: &mut Lab,
    loads: &Loads,
    target: Target,
    checks: bool,
) -> anyhow::Result<Values> {
    let server = Server::start(lab, target).await?;
    let seconds = warmup(target);
    let warm = format!("send --create --connections 64 --warmup 0 --duration {seconds}");
    let mut acked = stored(&server.load(loads, &warm).await?)?;
    let mut values = Values::new();
    let mut most = server.memory()?;
    for connections in CONNECTIONS {
        let words = format!("send --connections {connections} --warmup 1 --duration 6");
        let loaded = server.load(loads, &words).await?;
        let sent = stored(&loaded)?;
        acked += sent;
        let of = |what: &str| format!("{what}, {connections} connections");
        values.extend([
            (of(SENDS), loaded.number("messagesPerSecond")?),
            (
                of("Median latency of a send, ms"),
                loaded.number("p50Micros")? / 1e3,
            ),
            (of("99th percentile, ms"), loaded.number("p99Micros")? / 1e3),
            (of(SEND_CPU), loaded.cpu_micros(sent)),
        ]);
        most.own = most.own.max(loaded.memory.own);
        most.files = most.files.max(loaded.memory.files);
    }
    values.push(("Most memory meanwhile, MiB".to_owned(), most.own));
    values.push(("Pages of files then, MiB".to_owned(), most.files));
    let read = server
        .load(loads, "consume --connections 8 --warmup 0 --duration 1")
        .await?;
    let missing = acked - read.number("consumed")?;
    values.push((MISSING.to_owned(), missing));
    if checks {
        let producer = ("Producer", &["-w", "64", "-s", "1024"][..]);
        let rate = own::rate(lab, loads, &server, producer).await?;
        let what = "Sends a second by RocketMQ's own Producer, 64 threads, best 10 s";
        values.push((what.to_owned(), rate));
        // The generator must not be what holds a server up, asked in the same way.
        let alike = "send --connections 1 --window 64 --warmup 1 --duration 10";
        let alike = server.load(loads, alike).await?;
        stored(&alike)?;
        let ours = alike.number("messagesPerSecond")?;
        let what = "Sends a second by `gantry bench`, 64 in flight on one connection";
        values.push((what.to_owned(), ours));
        ensure!(
            ours > 0.8 * rate,
            "{ours} sends a second, but {rate} by RocketMQ's own"
        );
    }
    Ok(values)
}

/// How many messages of a load were acknowledged, all of which are stored.
fn stored(loaded: &Loaded) -> anyhow::Result<f64> {
    let (acked, stored) = (loaded.number("acked")?, loaded.number("stored")?);
    ensure!(
        loaded.report["acked"] == loaded.report["stored"],
        "{acked} acknowledged, {stored} stored"
    );
    Ok(acked)
}

/// Titles that floors are held against.
pub const SENDS: &str = "Acknowledged sends a second";
pub const SEND_CPU: &str = "Processor time a send, µs";
pub const PULLS: &str = "Pulled messages a second";
pub const PULL_CPU: &str = "Processor time a pulled message, µs";
pub const MISSING: &str = "Acknowledged messages that were not consumed";
pub const IDLE_MEMORY: &str = "Idle, MiB";
pub const COLD_START: &str = "First message acknowledged after, ms";

async fn pulls(
    lab: &mut Lab,
    loads: &Loads,
    target: Target,
    checks: bool,
) -> anyhow::Result<Values> {
    let server = Server::start(lab, target).await?;
    let seconds = warmup(target) / 2;
    let warm = format!(
        "consume --create --backlog {BACKLOG} --connections 64 --warmup 0 --duration {seconds}"
    );
    let first = server.load(loads, &warm).await?;
    let missing = stored(&first)? - first.number("consumed")?;
    let mut values = Values::new();
    for connections in CONNECTIONS {
        let words = format!("consume --connections {connections} --warmup 1 --duration 6");
        let loaded = server.load(loads, &words).await?;
        let of = |what: &str| format!("{what}, {connections} connections");
        let cpu = loaded.cpu_micros(loaded.number("pulled")?);
        values.extend([
            (of(PULLS), loaded.number("messagesPerSecond")?),
            (
                of("99th percentile of a pull, ms"),
                loaded.number("p99Micros")? / 1e3,
            ),
            (of(PULL_CPU), cpu),
        ]);
    }
    values.push((MISSING.to_owned(), missing));
    if checks {
        let consumer = ("Consumer", &["-g", "check"][..]);
        let rate = own::rate(lab, loads, &server, consumer).await?;
        let what = "Messages a second by RocketMQ's own Consumer, best 10 s";
        values.push((what.to_owned(), rate));
    }
    Ok(values)
}

async fn memory(lab: &mut Lab, target: Target) -> anyhow::Result<Values> {
    const TOPICS: usize = 10_000;
    const OPEN: usize = 1_000;
    let server = Server::start(lab, target).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = server.memory()?;
    let open = calls::connections(server.plan.remoting(), OPEN).await?;
    tokio::time::sleep(SETTLE).await;
    let connected = server.memory()?;
    drop(open);
    calls::topics(server.plan.remoting(), TOPICS, 8).await?;
    tokio::time::sleep(SETTLE).await;
    let filled = server.memory()?;
    let each = (connected.own - idle.own) * 1024.0 / OPEN as f64;
    let values = [
        (IDLE_MEMORY, idle.own),
        ("Pages of files, MiB", idle.files),
        ("Each of 1,000 idle connections, KiB", each),
        ("With 10,000 topics of 8 queues, MiB", filled.own),
    ];
    Ok(values.map(|(what, value)| (what.to_owned(), value)).into())
}

async fn cold_start(lab: &mut Lab, target: Target) -> anyhow::Result<Values> {
    const TOPICS: usize = 100;
    let (_name_server, plan) = server::plan(lab, target).await?;
    let mut broker = lab.broker(target, &plan).await?;
    calls::topics(plan.remoting(), TOPICS, 8).await?;
    calls::first_send(plan.remoting(), START_MAX).await?;
    broker.signal(Signal::TERM);
    broker.ended(STOP_MAX).await?;
    let start = Instant::now();
    let (broker, sent) = tokio::join!(
        lab.broker(target, &plan),
        calls::first_send(plan.remoting(), START_MAX),
    );
    let (_broker, sent) = (broker.context("the second start")?, sent?);
    let routed = start.elapsed();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(vec![
        (COLD_START.to_owned(), ms(sent)),
        ("Found by clients after, ms".to_owned(), ms(routed)),
    ])
}

async fn idle(lab: &mut Lab, target: Target) -> anyhow::Result<Values> {
    const COUNT: usize = 1_000;
    let server = Server::start(lab, target).await?;
    calls::topics(server.plan.remoting(), COUNT, 1).await?;
    let mut consumers = calls::waiting(server.plan.remoting(), COUNT).await?;
    tokio::time::sleep(SETTLE).await;
    let before = server.cpu()?;
    tokio::select! {
        () = tokio::time::sleep(IDLE) => {}
        Some(error) = consumers.join_next() => return Err(error?),
    }
    let spent = server.cpu()?.saturating_sub(before);
    let share = spent.as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    Ok(vec![(
        "With nothing to do, % of one processor".to_owned(),
        share,
    )])
}
