//! The loop of one connection: as many requests in flight as its window allows. Closed, the next
//! is asked when one is answered; open, each has a time at which it is due, and its latency counts
//! from then, so that a server that stalls is blamed for all that waited (timer steps of 1 ms).

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BytesMut};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// What is asked on a connection.
pub(super) trait Calls: Send {
    /// Appends the next request, as that of a slot; false when there is none left.
    fn ask(&mut self, slot: usize, out: &mut BytesMut) -> bool;

    fn answered(&mut self, answer: &[u8]) -> anyhow::Result<Answer>;

    /// Whether there is something to ask even when the time is over.
    fn must_go_on(&self) -> bool {
        false
    }
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) slot: usize,
    /// That it acknowledges or brings.
    pub(super) messages: u64,
    pub(super) refused: Option<i32>,
}

/// When a connection asks.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) window: usize,
    /// Open loop: when the first is due, and the time between two.
    pub(super) pace: Option<(Instant, Duration)>,
    /// The measured time.
    pub(super) from: Instant,
    pub(super) until: Instant,
}

impl Plan {
    /// Starts now; `rate` is that of all connections, of which this is number `connection`.
    pub(super) fn new(
        window: u32,
        (warmup, duration): (Duration, Duration),
        rate: Option<f64>,
        (connection, connections): (u32, u32),
        start: Instant,
    ) -> Self {
        let from = start + warmup;
        let pace = rate.map(|rate| {
            let every = Duration::from_secs_f64(f64::from(connections) / rate);
            (start + every * connection / connections, every)
        });
        Self {
            window: window as usize,
            pace,
            from,
            until: from + duration,
        }
    }
}

/// What all connections have seen.
#[derive(Debug)]
pub(super) struct Tally {
    nanoseconds: Histogram<u64>,
    /// Messages of all answers, and of those within the measured time.
    pub(super) messages: u64,
    measured: u64,
    requests: u64,
    refused: u64,
    refused_code: Option<i32>,
    unanswered: u64,
}

const LATENCY_SECONDS_MAX: u64 = 120;
/// How long answers may take when nothing is asked any more.
const DRAIN_MAX: Duration = Duration::from_secs(30);
const CONNECT_MAX: Duration = Duration::from_secs(10);
const INPUT_BYTES: usize = 64 * 1024;

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            nanoseconds: Histogram::new_with_max(LATENCY_SECONDS_MAX * 1_000_000_000, 3)?,
            messages: 0,
            measured: 0,
            requests: 0,
            refused: 0,
            refused_code: None,
            unanswered: 0,
        })
    }

    fn count(&mut self, plan: &Plan, answer: &Answer, due: Instant, now: Instant) {
        self.requests += 1;
        if answer.refused.is_some() {
            self.refused += 1;
            self.refused_code = answer.refused;
        }
        self.messages += answer.messages;
        if (plan.from..plan.until).contains(&now) {
            self.measured += answer.messages;
        }
        if (plan.from..plan.until).contains(&due) {
            let latency = now.saturating_duration_since(due).as_nanos() as u64;
            self.nanoseconds.saturating_record(latency);
        }
    }

    /// Microseconds within which this share of the requests was answered.
    pub(super) fn micros(&self, share: f64) -> f64 {
        self.nanoseconds.value_at_quantile(share) as f64 / 1e3
    }

    pub(super) fn report(&self, duration: Duration) -> Value {
        json!({
            "messagesPerSecond": (self.measured as f64 / duration.as_secs_f64()).round(),
            "seconds": duration.as_secs_f64(),
            "measured": self.measured,
            "messages": self.messages,
            "requests": self.requests,
            "refused": self.refused,
            "refusedCode": self.refused_code,
            "unanswered": self.unanswered,
            "p50Micros": self.micros(0.5),
            "p90Micros": self.micros(0.9),
            "p99Micros": self.micros(0.99),
            "p999Micros": self.micros(0.999),
            "maxMicros": self.nanoseconds.max() as f64 / 1e3,
        })
    }
}

/// Runs every connection to its end and gives back what it asked with.
pub(super) async fn run<C: Calls + 'static>(
    connections: Vec<(String, Plan, C)>,
) -> anyhow::Result<(Tally, Vec<C>)> {
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let mut tasks = JoinSet::new();
    for (address, plan, mut calls) in connections {
        let tally = Arc::clone(&tally);
        tasks.spawn(async move {
            let connect = timeout(CONNECT_MAX, TcpStream::connect(&address)).await;
            let mut stream = connect
                .map_err(anyhow::Error::from)
                .and_then(|stream| Ok(stream?))
                .with_context(|| format!("{address} can't be reached"))?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.split();
            drive(reader, writer, &mut calls, &plan, &tally).await?;
            anyhow::Ok(calls)
        });
    }
    let mut ended = Vec::new();
    while let Some(task) = tasks.join_next().await {
        ended.push(task??);
    }
    let tally = Arc::into_inner(tally).context("invariant: every connection has ended")?;
    Ok((
        tally.into_inner().map_err(|e| anyhow::anyhow!("{e}"))?,
        ended,
    ))
}

/// One connection, until the time is over and everything is answered.
pub(super) async fn drive(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    calls: &mut impl Calls,
    plan: &Plan,
    tally: &Mutex<Tally>,
) -> anyhow::Result<()> {
    let mut slots = Slots::new(plan);
    let (mut input, mut out) = (BytesMut::with_capacity(INPUT_BYTES), BytesMut::new());
    let mut due = pin!(sleep_until(slots.next));
    let mut given_up = pin!(sleep_until(plan.until + DRAIN_MAX));
    loop {
        slots.fill(plan, calls, &mut out);
        if slots.over && slots.free.len() == plan.window {
            return Ok(());
        }
        let waits = !slots.over && plan.pace.is_some() && !slots.free.is_empty();
        if waits && due.deadline() != slots.next {
            due.as_mut().reset(slots.next);
        }
        input.reserve(INPUT_BYTES);
        tokio::select! {
            biased;
            written = writer.write(&out), if !out.is_empty() => out.advance(written?),
            read = reader.read_buf(&mut input) => {
                if read? == 0 {
                    bail!("the server has closed the connection");
                }
                slots.take(plan, calls, &mut input, tally)?;
            }
            () = &mut due, if waits => {}
            () = &mut given_up => {
                let mut tally = tally.lock().map_err(|e| anyhow::anyhow!("{e}"))?;
                tally.unanswered += (plan.window - slots.free.len()) as u64;
                return Ok(());
            }
        }
    }
}

/// The requests in flight.
struct Slots {
    free: Vec<usize>,
    /// When the request of each was due.
    due: Vec<Instant>,
    /// When the next is.
    next: Instant,
    /// Nothing is asked any more.
    over: bool,
}

impl Slots {
    fn new(plan: &Plan) -> Self {
        let next = plan.pace.map_or(plan.from, |(first, _)| first);
        Self {
            free: (0..plan.window).rev().collect(),
            due: vec![next; plan.window],
            next,
            over: false,
        }
    }

    /// Asks what can be asked now.
    fn fill(&mut self, plan: &Plan, calls: &mut impl Calls, out: &mut BytesMut) {
        let now = Instant::now();
        while let (false, Some(&slot)) = (self.over, self.free.last()) {
            let due = plan.pace.map_or(now, |_| self.next);
            if due > now {
                return;
            }
            let late = due >= plan.until && !calls.must_go_on();
            self.over = late || !calls.ask(slot, out);
            if !self.over {
                self.free.pop();
                self.due[slot] = due;
                self.next = due + plan.pace.map_or(Duration::ZERO, |(_, every)| every);
            }
        }
    }

    /// Takes the whole answers off the input.
    fn take(
        &mut self,
        plan: &Plan,
        calls: &mut impl Calls,
        input: &mut BytesMut,
        tally: &Mutex<Tally>,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut tally = tally.lock().map_err(|e| anyhow::anyhow!("{e}"))?;
        while let Some(length) = input.first_chunk::<4>() {
            let length = 4 + u32::from_be_bytes(*length) as usize;
            let Some(frame) = input.get(..length) else {
                break;
            };
            let answer = calls.answered(frame)?;
            let due = self.due.get(answer.slot).context("an answer to nothing")?;
            tally.count(plan, &answer, *due, now);
            self.free.push(answer.slot);
            input.advance(length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks with its slot and is answered with the same four bytes.
    struct Echo;

    impl Calls for Echo {
        fn ask(&mut self, slot: usize, out: &mut BytesMut) -> bool {
            out.extend_from_slice(&4_u32.to_be_bytes());
            out.extend_from_slice(&(slot as u32).to_be_bytes());
            true
        }

        fn answered(&mut self, answer: &[u8]) -> anyhow::Result<Answer> {
            Ok(Answer {
                slot: u32::from_be_bytes(answer[4..].try_into()?) as usize,
                messages: 1,
                refused: None,
            })
        }
    }

    const STALL: Duration = Duration::from_secs(1);

    /// 3 s of load on a server that answers at once, but for one second in which it stalls.
    async fn stalled(rate: Option<f64>) -> Tally {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let server = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(theirs);
            let start = Instant::now();
            let (mut bytes, mut stalled) = ([0; 8], false);
            while reader.read_exact(&mut bytes).await.is_ok() {
                if !stalled && start.elapsed() > STALL {
                    stalled = true;
                    let _ = timeout(STALL, std::future::pending::<()>()).await;
                }
                writer.write_all(&bytes).await.expect("read");
            }
        });
        let tally = Mutex::new(Tally::new().expect("a tally"));
        let measured = (Duration::ZERO, 3 * STALL);
        let plan = Plan::new(1, measured, rate, (0, 1), Instant::now());
        let (reader, writer) = tokio::io::split(ours);
        let driven = drive(reader, writer, &mut Echo, &plan, &tally).await;
        driven.expect("an answer to each");
        server.await.expect("ended");
        tally.into_inner().expect("unlocked")
    }

    #[tokio::test]
    async fn a_server_that_stalls_for_a_second_shows_it_in_p99() {
        let (open, closed) = tokio::join!(stalled(Some(500.0)), stalled(None));
        assert_eq!(open.requests, 1_500);
        assert!(open.micros(0.99) > 900_000.0, "p99 {}", open.micros(0.99));
        assert!(open.micros(0.9) > 500_000.0, "p90 {}", open.micros(0.9));
        // What a closed loop hides: one request saw it.
        assert!(closed.micros(0.99) < 500_000.0, "{}", closed.micros(0.99));
        assert!(closed.micros(1.0) > 900_000.0, "{}", closed.micros(1.0));
    }
}
