//! `gantry bench consume`: pulls of 32 messages. The queues are cut into pieces, each read by one
//! connection, over and over; the first time through shows that every message is there.

use anyhow::{Context as _, bail, ensure};
use bytes::BytesMut;
use protocol::header::{PullMessage, PullMessageAnswer};
use protocol::{Frame, Header as _, RequestCode, frame};
use serde_json::json;
use tokio::time::Instant;

use super::load::{self, Answer, Calls, Plan};
use super::template::{Template, slot_and_code};
use super::{Queue, Shared, offsets, send, settled, stored};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: Shared,
    /// Messages that are written before; without it those are read that the topic has.
    #[arg(long)]
    backlog: Option<u64>,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let shared = &arguments.shared;
    ensure!(
        shared.window == 1,
        "--window: a connection waits for its pull"
    );
    let seconds = shared.seconds()?;
    let queues = shared.queues().await?;
    let mut acked = None;
    if let Some(backlog) = arguments.backlog {
        let before = stored(&queues, &shared.topic).await?;
        let count = send::fill(shared, &queues, backlog).await?;
        settled(&queues, &shared.topic, before + count).await?;
        acked = Some(count);
    }
    let mut pieces = cut(shared, &queues).await?;
    let available: u64 = pieces.iter().map(|(_, piece)| piece.to - piece.from).sum();
    ensure!(available > 0, "{} has no message", shared.topic);
    let start = Instant::now();
    let mut connections = Vec::new();
    for at in 0..shared.connections {
        let address = &Shared::queues_of(&queues, at as usize)[0].address;
        let (own, rest) = pieces
            .into_iter()
            .partition(|(connection, _)| *connection == at);
        pieces = rest;
        let own: Vec<(u32, Piece)> = own;
        let pulls = Pulls::new(own.into_iter().map(|(_, piece)| piece).collect());
        let plan = Plan::new(1, seconds, None, (at, shared.connections), start);
        if !pulls.pieces.is_empty() {
            connections.push((address.clone(), plan, pulls));
        }
    }
    let (tally, ended) = load::run(connections).await?;
    let distinct: u64 = ended.iter().map(|pulls| pulls.distinct).sum();
    let mut report = tally.report(seconds.1);
    report["pulled"] = report["messages"].take();
    report["acked"] = json!(acked);
    report["stored"] = json!(available);
    report["consumed"] = json!(distinct);
    send::show(shared, &mut report)
}

/// A part of a queue, and the request that reads it.
struct Piece {
    from: u64,
    to: u64,
    request: Template,
    offset_at: usize,
}

/// A place for the offset, as wide as it can become.
const OFFSET: i64 = 1_111_111_111_111_111_111;
const OFFSET_DIGITS: usize = 19;

/// Every queue in as many pieces as give each connection one, with the connection's number.
async fn cut(shared: &Shared, queues: &[Queue]) -> anyhow::Result<Vec<(u32, Piece)>> {
    let mut pieces = Vec::new();
    for queue in queues {
        let (min, max) = offsets(queue, &shared.topic).await?;
        let on_broker =
            |at: &u32| Shared::queues_of(queues, *at as usize)[0].address == queue.address;
        let readers: Vec<u32> = (0..shared.connections).filter(on_broker).collect();
        ensure!(!readers.is_empty(), "--connections are fewer than brokers");
        let own = queues.iter().filter(|q| q.address == queue.address);
        let parts = readers.len().div_ceil(own.count()) as u64;
        let count = (max - min) as u64;
        for part in 0..parts {
            let header = header(shared, queue);
            let request = Template::new(Frame::request(RequestCode::PullMessage, &header))?;
            let piece = Piece {
                from: min as u64 + count * part / parts,
                to: min as u64 + count * (part + 1) / parts,
                offset_at: request.place(&OFFSET.to_string())?,
                request,
            };
            let reader = readers[pieces.len() % readers.len()];
            if piece.from < piece.to {
                pieces.push((reader, piece));
            }
        }
    }
    Ok(pieces)
}

fn header(shared: &Shared, queue: &Queue) -> PullMessage {
    /// In sys flags: the subscription is in the header; nothing is held.
    const SUBSCRIPTION: i32 = 4;
    PullMessage {
        group: "benchmark_consumer".to_owned(),
        topic: shared.topic.clone(),
        queue: queue.id,
        offset: OFFSET,
        messages_max: 32,
        sys_flag: SUBSCRIPTION,
        commit_offset: 0,
        suspend_ms: 0,
        subscription: Some("*".to_owned()),
        sub_version: 0,
        expression_type: Some("TAG".to_owned()),
        bytes_max: None,
        broker: Some(queue.broker.clone()),
    }
}

/// The pulls of one connection, one at a time.
struct Pulls {
    pieces: Vec<Piece>,
    piece: usize,
    offset: u64,
    /// Of the first time through.
    distinct: u64,
    through: bool,
}

impl Pulls {
    fn new(pieces: Vec<Piece>) -> Self {
        let offset = pieces.first().map_or(0, |piece| piece.from);
        Self {
            pieces,
            piece: 0,
            offset,
            distinct: 0,
            through: false,
        }
    }

    fn advance(&mut self, messages: u64) {
        self.offset += messages;
        if self.offset >= self.pieces[self.piece].to {
            self.through |= self.piece + 1 == self.pieces.len();
            self.piece = (self.piece + 1) % self.pieces.len();
            self.offset = self.pieces[self.piece].from;
        }
    }
}

impl Calls for Pulls {
    fn ask(&mut self, slot: usize, out: &mut BytesMut) -> bool {
        let piece = &mut self.pieces[self.piece];
        let at = piece.offset_at;
        piece.request.set(at, at + OFFSET_DIGITS, self.offset);
        piece.request.write(slot, out);
        true
    }

    fn answered(&mut self, answer: &[u8]) -> anyhow::Result<Answer> {
        let (slot, code) = slot_and_code(answer)?;
        if code != 0 {
            let limits = frame::Limits::default();
            let read = frame::decode(&mut BytesMut::from(answer), &limits)?;
            let read = read.context("a short answer")?;
            let offset = PullMessageAnswer::read(&read.fields).map(|a| a.next_offset);
            bail!(
                "a pull at {} is answered {code}, {offset:?}: {:?}",
                self.offset,
                read.remark
            );
        }
        let length = u32::from_be_bytes(answer[4..8].try_into()?) & 0x00ff_ffff;
        let body = answer
            .get(8 + length as usize..)
            .context("a short answer")?;
        let left = self.pieces[self.piece].to - self.offset;
        // What lies behind the piece is another connection's.
        let messages = records(body, self.offset)?.min(left);
        if !self.through {
            self.distinct += messages;
        }
        self.advance(messages);
        Ok(Answer {
            slot,
            messages,
            refused: None,
        })
    }

    fn must_go_on(&self) -> bool {
        !self.through
    }
}

/// Counts records, each of which must have the queue offset that follows.
fn records(mut body: &[u8], first: u64) -> anyhow::Result<u64> {
    const QUEUE_OFFSET_AT: usize = 20;
    let mut count = 0;
    while let Some(size) = body.first_chunk::<4>() {
        let size = u32::from_be_bytes(*size) as usize;
        let (record, behind) = body.split_at_checked(size).context("a short record")?;
        let offset = record.get(QUEUE_OFFSET_AT..QUEUE_OFFSET_AT + 8);
        let offset = u64::from_be_bytes(offset.context("a short record")?.try_into()?);
        ensure!(
            offset == first + count,
            "offset {offset} instead of {}",
            first + count
        );
        (count, body) = (count + 1, behind);
    }
    ensure!(count > 0, "an answer without messages");
    Ok(count)
}
