//! 200 SIGKILLs, each while at least 64 sends are unanswered: 50 while the log goes over to its
//! next file, 50 while the checkpoint is written, the others when the log has reached a seeded
//! byte. The ledger of what was acknowledged is in this process. In the end the official client
//! and the log's files say the same as it.
//!
//! The kill points are seen from outside, in the broker's files; the broker knows nothing of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::messages::read_all;
use super::{Against, Row};
use crate::dice::Dice;
use crate::java::driver::Client;
use crate::lab::{Addresses, BrokerPlan, Lab, Target};
use crate::process::Process;
use crate::raw::{self, Answers, Connection};
use crate::record;
use crate::runner::is_verify;

pub fn rows() -> Vec<Row> {
    vec![(
        "nothing_acknowledged_is_lost_by_200_kills",
        Against::Gantry,
        |lab, _| Box::pin(kills(lab)),
    )]
}

const TOPIC: &str = "kills";
const QUEUES: u32 = 4;
const SEGMENT_BYTES: u64 = 4 << 20;
const UNANSWERED_MIN: usize = 64;
/// More than must be unanswered, since answers come a whole batch at a time.
const UNANSWERED_MAX: usize = 192;
const BODY_BYTES: u64 = 3_000;
const START_MAX: Duration = Duration::from_secs(2);
/// The broker writes its checkpoint at most this long after it was opened; sends begin shortly
/// before.
const BEFORE_CHECKPOINT: Duration = Duration::from_millis(850);
const POINT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Roll,
    Checkpoint,
    Byte,
}

/// How many kills of each kind are wanted; ten times as many with `GANTRY_VERIFY`.
const WANTED: [(Point, usize); 3] = [
    (Point::Roll, 50),
    (Point::Checkpoint, 50),
    (Point::Byte, 100),
];

/// A message that was sent, and where it lies if that was said.
#[derive(Debug, Clone)]
struct Sent {
    queue: u32,
    crc: u32,
    acknowledged: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: i64,
    position: u64,
}

/// Every message by its number, which is the request's opaque and the message's key.
type Ledger = Arc<Mutex<Vec<Sent>>>;

async fn kills(lab: &mut Lab) -> anyhow::Result<()> {
    let name_server = lab.name_server(Target::Gantry).await?;
    let mut plan = lab.plan("kills", &[name_server.address])?;
    plan.segment_bytes = SEGMENT_BYTES;
    plan.flush_sync = true;
    let mut dice = Dice(lab.seed);
    let ledger = Ledger::default();
    let times = if is_verify() { 10 } else { 1 };
    let mut left = BTreeMap::from(WANTED.map(|(point, count)| (point, count * times)));
    let mut histogram: BTreeMap<(Point, u64), usize> = BTreeMap::new();
    let (mut starts, mut wasted) = (Vec::new(), 0);
    while let Some(point) = pick(&mut dice, &left) {
        let (mut broker, started) = start(lab, &plan).await?;
        starts.push(started);
        let killed = kill(&mut broker, &plan, point, &ledger, &mut dice)
            .await
            .with_context(|| {
                let seed = lab.seed;
                format!("seed {seed}, {point:?}, left {left:?}: {}", broker.output())
            })?;
        if killed.unanswered < UNANSWERED_MIN || !killed.at_point {
            wasted += 1;
            ensure!(
                wasted < 400 * times,
                "too many kills miss their point: {killed:?}, left {left:?}"
            );
            continue;
        }
        left.entry(point).and_modify(|left| *left -= 1);
        left.retain(|_, left| *left > 0);
        // Where in its file the log ended, in sixteenths.
        let sixteenth = killed.end % SEGMENT_BYTES / (SEGMENT_BYTES / 16);
        *histogram.entry((point, sixteenth)).or_default() += 1;
    }
    println!(
        "\n    seed {}, {wasted} kills more missed their point",
        lab.seed
    );
    starts.sort();
    let slow = starts.iter().filter(|start| **start > START_MAX).count();
    println!(
        "    slowest start {:?}; kills by sixteenth of the log file:",
        starts.last()
    );
    // The machine may be slow once.
    ensure!(
        slow <= starts.len() / 100,
        "{slow} starts took more than {START_MAX:?}"
    );
    for (point, _) in WANTED {
        let row = (0..16).map(|n| histogram.get(&(point, n)).copied().unwrap_or(0));
        println!("    {point:<12?} {:?}", row.collect::<Vec<_>>());
    }
    let broker = lab.broker(Target::Gantry, &plan).await?;
    let addresses = Addresses {
        name_server: name_server.address,
        name_server_http: name_server.http,
        broker: plan.remoting(),
        broker_http: plan.http(),
    };
    let sent = ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    compare_with_the_client(lab, &addresses, &sent).await?;
    compare_with_the_log(&plan.store(), &sent)?;
    drop(broker);
    Ok(())
}

/// Starts the broker and sends it a first message.
async fn start(lab: &mut Lab, plan: &BrokerPlan) -> anyhow::Result<(Process, Duration)> {
    let began = Instant::now();
    let broker = lab.gantry()?.spawn_broker(plan)?;
    loop {
        match Connection::open(plan.remoting()).await {
            Ok(_) => break,
            Err(error) if began.elapsed() > POINT_MAX => {
                return Err(error.context(format!("not up: {}", broker.output())));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    Ok((broker, began.elapsed()))
}

#[derive(Debug)]
struct Killed {
    unanswered: usize,
    at_point: bool,
    /// After the last acknowledged message.
    end: u64,
}

/// Sends until the broker is at its point and dead.
async fn kill(
    broker: &mut Process,
    plan: &BrokerPlan,
    point: Point,
    ledger: &Ledger,
    dice: &mut Dice,
) -> anyhow::Result<Killed> {
    let group = broker.group().context("the broker runs")?;
    let mut pipe = Pipe::open(plan, ledger).await?;
    pipe.send(dice).await?;
    let end = pipe.first_answer().await?;
    let watch = match point {
        Point::Checkpoint => {
            tokio::time::sleep(BEFORE_CHECKPOINT).await;
            Watch::Checkpoint(plan.store().join("gantry"))
        }
        Point::Roll => Watch::Byte(plan.store(), (end / SEGMENT_BYTES + 1) * SEGMENT_BYTES),
        Point::Byte => Watch::Byte(plan.store(), end + (256 << 10) + dice.below(2 << 20)),
    };
    let watching = tokio::task::spawn_blocking(move || watch.kill(group));
    while !watching.is_finished() && pipe.send(dice).await.is_ok() {}
    let in_time = watching.await?;
    broker.kill().await?;
    // What the connection says tells more than that a byte was not written.
    let (unanswered, last) = pipe.drain().await?;
    let in_time = in_time?;
    let at_point = match point {
        // What was unanswered lies on both sides of the boundary.
        Point::Roll => last < (end / SEGMENT_BYTES + 1) * SEGMENT_BYTES,
        Point::Checkpoint | Point::Byte => in_time,
    };
    Ok(Killed {
        unanswered,
        at_point,
        end: last,
    })
}

/// What to wait for before the kill.
enum Watch {
    /// A byte of the log is written.
    Byte(PathBuf, u64),
    /// A checkpoint is written into the directory.
    Checkpoint(PathBuf),
}

impl Watch {
    /// Kills, and says whether it was in time.
    fn kill(self, group: Pid) -> anyhow::Result<bool> {
        let deadline = Instant::now() + POINT_MAX;
        match self {
            Self::Byte(store, position) => {
                let seen = byte_written(&store, position, deadline);
                kill_process_group(group, Signal::KILL)?;
                ensure!(seen, "byte {position} is not written within {POINT_MAX:?}");
                Ok(true)
            }
            Self::Checkpoint(dir) => kill_in_checkpoint(group, &dir, deadline),
        }
    }
}

/// Whether the log has come to `position` before the deadline: a byte from there on is written, or
/// one of the next file, since a file's end may stay empty.
fn byte_written(store: &Path, position: u64, deadline: Instant) -> bool {
    let here = (segment(store, position), position % SEGMENT_BYTES);
    let next = (segment(store, position + SEGMENT_BYTES), 0);
    let mut places = [(here, None), (next, None)];
    while Instant::now() < deadline {
        for ((path, at), file) in &mut places {
            if file.is_none() {
                *file = File::open(&*path).ok();
            }
            if file.as_ref().is_some_and(|file| is_written(file, *at)) {
                return true;
            }
        }
        std::thread::yield_now();
    }
    false
}

fn is_written(file: &File, at: u64) -> bool {
    // More than the longest run of zeros in a record: its prepared offset and its neighbours.
    let mut bytes = [0; 64];
    let length = file.read_at(&mut bytes, at).unwrap_or(0);
    bytes.iter().take(length).any(|byte| *byte != 0)
}

/// Kills while the broker writes its checkpoint: from the making of the temporary file on, until
/// the directory is synced with its name in it. Says whether that was so.
///
/// The wait is a sleep: who sleeps is woken sooner than who asks again and again, on processors
/// that are busy with sends.
fn kill_in_checkpoint(group: Pid, dir: &Path, deadline: Instant) -> anyhow::Result<bool> {
    const WAIT: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::CLOSE_NOWRITE;
    inotify::add_watch(&watch, dir, flags)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut killed = false;
    while Instant::now() < deadline {
        match events.next() {
            Ok(event) if killed => {
                // The directory was synced, and closed, before the signal came.
                if event.events().contains(inotify::ReadFlags::ISDIR) {
                    return Ok(false);
                }
            }
            Ok(event) => {
                if event.file_name().is_some_and(|f| f == c"checkpoint.tmp") {
                    kill_process_group(group, Signal::KILL)?;
                    killed = true;
                }
            }
            Err(Errno::AGAIN) if killed => return Ok(true),
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&WAIT))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    kill_process_group(group, Signal::KILL)?;
    bail!("no checkpoint within {POINT_MAX:?}")
}

fn segment(store: &Path, position: u64) -> PathBuf {
    let start = position / SEGMENT_BYTES * SEGMENT_BYTES;
    store.join(format!("commitlog/{start:020}"))
}

/// One connection with many sends on their way.
struct Pipe {
    requests: tokio::net::tcp::OwnedWriteHalf,
    ledger: Ledger,
    state: Arc<PipeState>,
    answers: JoinHandle<anyhow::Result<()>>,
    sent: usize,
}

#[derive(Default)]
struct PipeState {
    answered: Mutex<(usize, u64)>,
    changed: Notify,
}

impl Pipe {
    async fn open(plan: &BrokerPlan, ledger: &Ledger) -> anyhow::Result<Self> {
        let (answers, requests) = Connection::open(plan.remoting()).await?.split();
        let state = Arc::<PipeState>::default();
        let answers = tokio::spawn(receive(answers, Arc::clone(ledger), Arc::clone(&state)));
        Ok(Self {
            requests,
            ledger: Arc::clone(ledger),
            state,
            answers,
            sent: 0,
        })
    }

    /// Sends one more message, once there are not too many on their way.
    async fn send(&mut self, dice: &mut Dice) -> anyhow::Result<()> {
        let deadline = Instant::now() + POINT_MAX;
        while self.sent - self.state.answered().0 >= UNANSWERED_MAX {
            ensure!(!self.answers.is_finished(), "the connection has ended");
            ensure!(Instant::now() < deadline, "no answer within {POINT_MAX:?}");
            let changed = self.state.changed.notified();
            let _ = tokio::time::timeout(Duration::from_millis(10), changed).await;
        }
        let body = dice.bytes(BODY_BYTES + dice.0 % BODY_BYTES);
        let queue = dice.below(u64::from(QUEUES)) as u32;
        let number = {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.push(Sent {
                queue,
                crc: crc32fast::hash(&body),
                acknowledged: None,
            });
            ledger.len() - 1
        };
        self.sent += 1;
        let (queues, queue_text) = (QUEUES.to_string(), queue.to_string());
        let properties = format!("KEYS\u{1}{number}\u{2}");
        let fields = [
            ("a", TOPIC),
            ("b", TOPIC),
            ("c", "TBW102"),
            ("d", queues.as_str()),
            ("e", queue_text.as_str()),
            ("f", "0"),
            ("g", "1700000000000"),
            ("h", "0"),
            ("i", properties.as_str()),
            ("j", "0"),
            ("k", "false"),
            ("m", "false"),
        ];
        let request = raw::binary_request(SEND_MESSAGE_V2, number as i32, &fields, &body);
        Ok(self.requests.write_all(&request).await?)
    }

    /// Where the log ended when the first message was answered.
    async fn first_answer(&self) -> anyhow::Result<u64> {
        let deadline = Instant::now() + POINT_MAX;
        loop {
            match self.state.answered() {
                (0, _) if Instant::now() < deadline => {
                    let changed = self.state.changed.notified();
                    let _ = tokio::time::timeout(Duration::from_millis(10), changed).await;
                }
                (0, _) => bail!("the first send is not answered within {POINT_MAX:?}"),
                (_, end) => return Ok(end),
            }
        }
    }

    /// Of a dead broker: how many sends were unanswered, and the end of the last that was not.
    async fn drain(self) -> anyhow::Result<(usize, u64)> {
        self.answers.await??;
        let (answered, end) = self.state.answered();
        Ok((self.sent - answered, end))
    }
}

impl PipeState {
    fn answered(&self) -> (usize, u64) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SEND_MESSAGE_V2: i16 = 310;
/// What a broker on a busy machine answers, and clients send again: busy, not available.
const RETRYABLE: [i64; 2] = [2, 14];

/// Writes into the ledger what is acknowledged, to the end of the connection.
async fn receive(
    mut answers: Answers,
    ledger: Ledger,
    state: Arc<PipeState>,
) -> anyhow::Result<()> {
    while let Some(answer) = answers.next().await? {
        if RETRYABLE.contains(&answer.code) {
            let mut answered = state
                .answered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            answered.0 += 1;
            drop(answered);
            state.changed.notify_one();
            continue;
        }
        ensure!(answer.code == 0, "code {}: {}", answer.code, answer.remark);
        let id = answer.field("msgId").context("a message id")?;
        let (_, position) = id.split_at_checked(16).context("a whole message id")?;
        let place = Place {
            offset: answer.field("queueOffset").context("an offset")?.parse()?,
            position: u64::from_str_radix(position, 16)?,
        };
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = ledger
            .get_mut(answer.opaque as usize)
            .context("a known send")?;
        ensure!(
            sent.acknowledged.replace(place).is_none(),
            "answered twice: {sent:?}"
        );
        drop(ledger);
        let mut answered = state
            .answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *answered = (answered.0 + 1, answered.1.max(place.position + BODY_BYTES));
        drop(answered);
        state.changed.notify_one();
    }
    Ok(())
}

/// Reads all with the official client: every message of the ledger lies at its place, no place is
/// empty, no message is there twice, and none that was never sent.
async fn compare_with_the_client(
    lab: &mut Lab,
    addresses: &Addresses,
    sent: &[Sent],
) -> anyhow::Result<()> {
    let file = lab.record_file("read");
    let driver = lab.driver(Client::V5).await?;
    driver.ask(read_all(addresses, TOPIC, &file)).await?;
    let read = record::read(&file)?;
    record::without_gaps(&read)?;
    let mut seen = HashSet::new();
    let mut places = HashMap::new();
    for found in &read {
        let number: usize = found.key.parse()?;
        ensure!(
            seen.insert(number),
            "message {number} is there twice: {found:?}"
        );
        let known = sent.get(number).context("a message that nobody sent")?;
        ensure!(
            (known.queue, known.crc) == (found.place.queue, found.body_crc),
            "{found:?} was sent as {known:?}"
        );
        places.insert(number, found.place.offset);
    }
    let acknowledged = sent.iter().enumerate();
    let acknowledged = acknowledged.filter_map(|(n, sent)| Some((n, sent.acknowledged?)));
    let mut count = 0;
    for (number, place) in acknowledged {
        count += 1;
        ensure!(
            places.get(&number) == Some(&place.offset),
            "message {number}, acknowledged at {place:?}, is read at {:?}",
            places.get(&number)
        );
    }
    println!(
        "    {count} acknowledged of {}, {} read",
        sent.len(),
        read.len()
    );
    Ok(())
}

/// Looks into the log's files, at the positions that the acknowledgements named.
fn compare_with_the_log(store: &Path, sent: &[Sent]) -> anyhow::Result<()> {
    let mut files = HashMap::new();
    for (number, sent) in sent.iter().enumerate() {
        let Some(place) = sent.acknowledged else {
            continue;
        };
        let path = segment(store, place.position);
        let file = match files.entry(path) {
            std::collections::hash_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => {
                let file = File::open(empty.key())?;
                empty.insert(file)
            }
        };
        let at = place.position % SEGMENT_BYTES;
        let mut head = [0; 88];
        file.read_exact_at(&mut head, at)?;
        let number_at = |at: usize| {
            let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_be_bytes(bytes.unwrap_or_default())
        };
        let mut body = vec![0; number_at(80) as u32 as usize];
        file.read_exact_at(&mut body, at + 88)?;
        let queue = (number_at(12) >> 32) as u32;
        ensure!(
            (number_at(28), number_at(20) as i64) == (place.position, place.offset)
                && (queue, crc32fast::hash(&body)) == (sent.queue, sent.crc),
            "message {number} is not at {place:?}"
        );
    }
    Ok(())
}

/// One of the kinds of which some are left, each as likely as it has kills left.
fn pick(dice: &mut Dice, left: &BTreeMap<Point, usize>) -> Option<Point> {
    let sum: usize = left.values().sum();
    let mut n = dice.below(sum.max(1) as u64) as usize;
    left.iter()
        .find_map(|(point, count)| match n.checked_sub(*count) {
            Some(rest) => {
                n = rest;
                None
            }
            None => Some(*point),
        })
}
