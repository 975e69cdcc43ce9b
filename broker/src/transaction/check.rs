//! Asks the senders of half messages that have not ended for long, and gives those up that nobody
//! ends (`TransactionalMessageServiceImpl.java#check`).

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::body::TopicConfig;
use protocol::header::CheckTransaction;
use protocol::record::{Message, Record};
use protocol::topic::{GIVEN_UP_TOPIC, HALF_TOPIC, OP_TOPIC, TRANSACTION_GROUP};
use protocol::{Frame, RequestCode, properties};
use store::{Appended, ReadError, ReadLimits, ReadStatus, Wait};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Claim, root};
use crate::Broker;
use crate::process::unix_ms;
use crate::schedule;
use crate::tables::{Change, Offset};

/// How far transactions have come is written so often at most.
const NOTE_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const CHUNK_MESSAGES_MAX: usize = 256;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What of a half message is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Neither it nor what has come after it is looked at now.
    TooYoung,
    /// It is stored again, and its sender not asked.
    Immune,
    /// Its sender is asked, for the so-manieth time.
    Ask(i64),
    GiveUp,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    timeout_ms: i64,
    checks_max: i64,
    kept_ms: i64,
}

impl Rules {
    fn of(broker: &Broker) -> Self {
        let properties = &broker.config.properties;
        Self {
            timeout_ms: properties.transaction_time_out.value() as i64,
            checks_max: properties.transaction_check_max.value() as i64,
            kept_ms: properties.file_reserved_time as i64 * 3_600_000,
        }
    }

    /// The age of one that was never asked for counts from its arrival, as this broker's clock had
    /// it; only how long it is immune counts from its birth, since it may have been stored again.
    fn judge(self, half: &Record<'_>, now_ms: i64) -> Verdict {
        let number = |name| half.property(name).and_then(|n| n.parse::<i64>().ok());
        let checked = number(properties::CHECK_TIMES);
        if checked.unwrap_or(0) >= self.checks_max || now_ms - half.born_ms > self.kept_ms {
            return Verdict::GiveUp;
        }
        if let Some(seconds) = number(properties::CHECK_IMMUNITY_SECONDS) {
            let immune_ms = match seconds {
                -1 => self.timeout_ms,
                seconds => seconds.saturating_mul(1_000),
            };
            if now_ms - half.born_ms <= immune_ms {
                return Verdict::Immune;
            }
        } else if checked.is_none() && now_ms - half.store_ms <= self.timeout_ms {
            return Verdict::TooYoung;
        }
        Verdict::Ask(checked.unwrap_or(0) + 1)
    }
}

/// Checks every `transactionCheckInterval` until `stop`.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let (mut checked, mut noted) = (Instant::now(), Instant::now());
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => false,
            () = stop.cancelled() => true,
        };
        let every = broker.config.properties.transaction_check_interval.value();
        if !stopping && checked.elapsed() >= Duration::from_millis(every) {
            check(&broker, &stop).await;
            checked = Instant::now();
        }
        if stopping || noted.elapsed() >= NOTE_EVERY {
            note(&broker);
            noted = Instant::now();
        }
        if stopping {
            return;
        }
    }
}

/// How far transactions have come goes with the consumers' offsets.
fn note(broker: &Broker) {
    let (next, next_op) = broker.transactions().offsets();
    let mut tables = broker.tables_mut();
    for (topic, offset) in [(HALF_TOPIC, next), (OP_TOPIC, next_op)] {
        if tables.offset(topic, TRANSACTION_GROUP, 0).unwrap_or(0) != offset {
            tables.commit_offset(Offset {
                topic: topic.to_owned(),
                group: TRANSACTION_GROUP.to_owned(),
                queue: 0,
                offset,
            });
            broker.offsets_dirty.notify_one();
        }
    }
}

/// A half message that is stored anew.
#[derive(Debug)]
struct Step {
    claim: Claim,
    verdict: Verdict,
    message: Message,
}

/// Looks at those that are there now, a chunk at a time.
async fn check(broker: &Arc<Broker>, stop: &CancellationToken) {
    let end = broker.store.range(HALF_TOPIC, 0).unwrap_or_default().max;
    let mut from = broker.transactions().offsets().0;
    while from < end && !stop.is_cancelled() {
        let reader = Arc::clone(broker);
        let chunk = tokio::task::spawn_blocking(move || chunk(&reader, from, end));
        let (steps, next) = match chunk.await {
            Ok(Ok(chunk)) => chunk,
            // What comes before it has been read.
            Ok(Err(ReadError::Corrupt { position })) => {
                tracing::error!(position, "a half message is damaged and lost");
                broker.transactions().lost(from);
                from += 1;
                continue;
            }
            Ok(Err(error)) => {
                return tracing::error!(%error, from, "half messages can't be read");
            }
            // The runtime is going down.
            Err(_) => return,
        };
        if !store(broker, steps).await {
            return;
        }
        match next {
            Some(next) => from = next,
            None => return,
        }
    }
}

/// What is to be done with half messages from one on, and where to go on; `None`: later.
fn chunk(broker: &Broker, from: i64, end: i64) -> Result<(Vec<Step>, Option<i64>), ReadError> {
    let bytes_max = broker.store.status().segment_bytes as usize / 4;
    let limits = ReadLimits {
        messages_max: CHUNK_MESSAGES_MAX.min((end - from) as usize),
        bytes_max: CHUNK_BYTES_MAX.min(bytes_max),
        scan_max: CHUNK_MESSAGES_MAX,
    };
    let any = &mut |_| true;
    let read = broker
        .store
        .read(HALF_TOPIC, 0, from, &limits, any, Wait::ForDisk)?;
    let goes_on = read.status == ReadStatus::Found || read.next > from;
    let (rules, now_ms) = (Rules::of(broker), unix_ms());
    let mut steps = Vec::new();
    for stored in &read.records {
        let Ok(half) = Record::decode(stored) else {
            continue;
        };
        if broker.transactions().has_ended(half.queue_offset) {
            continue;
        }
        let verdict = rules.judge(&half, now_ms);
        if verdict == Verdict::TooYoung {
            return Ok((steps, None));
        }
        // One that is being ended right now needs nothing.
        let claim = broker.transactions().claim(half.queue_offset, root(&half));
        if let Ok(claim) = claim {
            let message = anew(&half, stored, claim, verdict);
            steps.push(Step {
                claim,
                verdict,
                message,
            });
        }
    }
    Ok((steps, goes_on.then_some(read.next)))
}

fn anew(half: &Record<'_>, stored: &Bytes, claim: Claim, verdict: Verdict) -> Message {
    let known = claim.root.to_string();
    let mut all = properties::set(half.properties, properties::PREPARED_QUEUE_OFFSET, &known);
    if let Verdict::Ask(times) = verdict {
        all = properties::set(&all, properties::CHECK_TIMES, &times.to_string());
    }
    let topic = match verdict {
        Verdict::GiveUp => GIVEN_UP_TOPIC,
        _ => HALF_TOPIC,
    };
    Message {
        properties: all.into(),
        ..half.message(stored, topic, 0)
    }
}

/// Stores half messages anew and asks; `false`: it did not work, and none has moved.
async fn store(broker: &Arc<Broker>, steps: Vec<Step>) -> bool {
    let release = |steps: &[Step]| {
        for step in steps {
            broker.transactions().release(step.claim);
        }
    };
    let given_up = steps.iter().any(|step| step.verdict == Verdict::GiveUp);
    if given_up && !make_topic(broker).await {
        release(&steps);
        return false;
    }
    let messages = steps.iter().map(|step| step.message.clone()).collect();
    let appended = match schedule::append(broker, messages).await {
        Ok(appended) => appended,
        Err(error) => {
            tracing::warn!(%error, "half messages wait");
            release(&steps);
            return false;
        }
    };
    for (step, appended) in steps.iter().zip(&appended) {
        let claim = step.claim;
        if step.verdict == Verdict::GiveUp {
            tracing::warn!(
                offset = claim.root,
                "a transaction that nobody ends is given up"
            );
            broker.transactions().end(claim, None);
            continue;
        }
        broker.transactions().moved(claim, appended.queue_offset);
        if matches!(step.verdict, Verdict::Ask(_)) {
            ask(broker, &step.message, appended);
        }
    }
    true
}

async fn make_topic(broker: &Arc<Broker>) -> bool {
    if broker.tables().topic(GIVEN_UP_TOPIC).is_some() {
        return true;
    }
    let (sender, made) = oneshot::channel();
    let change = Change::Topic(one_queue(GIVEN_UP_TOPIC));
    broker.change(vec![change], move |_, written| {
        let _ = sender.send(written.is_ok());
    });
    made.await.unwrap_or(false)
}

/// The settings of a topic of transactions.
pub(crate) fn one_queue(topic: &str) -> TopicConfig {
    TopicConfig {
        topic_name: topic.to_owned(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        ..TopicConfig::default()
    }
}

/// Asks some member of the sender's group that is here, as Java does: the sender may have gone.
fn ask(broker: &Broker, half: &Message, appended: &Appended) {
    let get = |name| properties::get(&half.properties, name);
    let group = get(properties::PGROUP).unwrap_or_default();
    let Some(client) = broker.clients().any_producer(group) else {
        tracing::warn!(
            group,
            "nobody of the group is here to be asked for a transaction"
        );
        return;
    };
    let Some((topic, queue)) = get(properties::REAL_TOPIC).zip(get(properties::REAL_QID)) else {
        return;
    };
    let message = Message {
        topic: topic.into(),
        queue: queue.parse().unwrap_or_default(),
        ..half.clone()
    };
    let Ok(mut record) = message.encode(broker.config.store_host) else {
        return;
    };
    let (offset, position) = (appended.queue_offset, appended.position);
    let body = record.place(offset, position, appended.store_ms).to_vec();
    let unique = get(properties::UNIQ_KEY).map(str::to_owned);
    let header = CheckTransaction {
        topic: Some(HALF_TOPIC.to_owned()),
        half_offset: offset,
        position: position as i64,
        unique_key: unique.clone(),
        transaction_id: unique,
        message_id: Some(appended.message_id()),
        broker: Some(broker.config.broker.clone()),
    };
    let request = Frame::request(RequestCode::CheckTransactionState, &header);
    client.peer.notify(request.with_body(body));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_asked_in_time_and_not_for_ever() {
        const NOW_MS: i64 = 1_700_000_000_000;
        let rules = Rules {
            timeout_ms: 6_000,
            checks_max: 3,
            kept_ms: 3_600_000,
        };
        let (checked, immune) = ("TRANSACTION_CHECK_TIMES", "CHECK_IMMUNITY_TIME_IN_SECONDS");
        // Seconds since its birth, and since it was stored.
        let rows = [
            ("", "", 5, 5, Verdict::TooYoung),
            ("", "", 500, 5, Verdict::TooYoung),
            ("", "", -500, 7, Verdict::Ask(1)),
            ("", "", 7, 7, Verdict::Ask(1)),
            (checked, "1", 37, 1, Verdict::Ask(2)),
            (checked, "3", 97, 30, Verdict::GiveUp),
            ("", "", 3_601, 3, Verdict::GiveUp),
            (immune, "60", 59, 2, Verdict::Immune),
            (immune, "60", 61, 2, Verdict::Ask(1)),
            (immune, "-1", 5, 5, Verdict::Immune),
            (immune, "x", 5, 5, Verdict::TooYoung),
        ];
        for (name, value, born, stored, expect) in rows {
            let message = Message {
                topic: HALF_TOPIC.into(),
                queue: 0,
                flag: 0,
                sys_flag: 0,
                born_ms: NOW_MS - born * 1_000,
                born_host: ([127, 0, 0, 1], 9).into(),
                reconsume_times: 0,
                prepared_offset: 0,
                body: Bytes::from_static(b"x"),
                properties: properties::encode([(name, value)]).into(),
            };
            let encoded = message.encode(([127, 0, 0, 1], 9).into());
            let mut encoded = encoded.expect("encodes");
            let bytes = encoded.place(0, 0, NOW_MS - stored * 1_000);
            let half = Record::decode(bytes).expect("a record");
            assert_eq!(rules.judge(&half, NOW_MS), expect, "{name} {value} {born}");
        }
    }
}
