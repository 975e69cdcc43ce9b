//! The loop that keeps the log's start where it belongs: minimums of topics, files that go, the
//! base before them, and the JSON files.
//!
//! A pass is a function of the time and of the disk's use. What Java's `deleteWhen` and its like
//! say is not asked: a file goes when its time has come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::topic::is_system;
use store::{Boundary, Range, ReadError, Volume};
use tokio_util::sync::CancellationToken;

use crate::process::unix_ms;
use crate::retain::{self, Holds, Plan, Rules, Unconsumed};
use crate::tables::{Change, Consumers, QueueMin};
use crate::{Broker, base, carry, export};

const PERIOD_MAX: Duration = Duration::from_secs(10);
const PERIOD_MIN: Duration = Duration::from_secs(1);
/// At most so much of the log is looked through for state records at start.
const BASE_BYTES: u64 = 256 << 20;
const EXPORT_PERIOD: Duration = Duration::from_mins(5);

pub(crate) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let rules = broker.config.retention_rules();
    let period = (rules.keep / 10).clamp(PERIOD_MIN, PERIOD_MAX);
    let mut exported = Instant::now();
    loop {
        let exports = exported.elapsed() >= EXPORT_PERIOD;
        if exports {
            exported = Instant::now();
        }
        let owner = Arc::clone(&broker);
        let worked = tokio::task::spawn_blocking(move || {
            let volume = owner.store.status().volume;
            if let Err(error) = pass(&owner, unix_ms(), volume) {
                tracing::warn!(error, "old log files can't be deleted");
            }
            if exports {
                export::write(&owner);
            }
            volume.map_or(0, Volume::used_percent)
        });
        // Space that somebody made is seen soon by the store, what may go by the next pass.
        let full = worked.await.is_ok_and(|used| used > rules.reject_percent);
        let pause = if full { PERIOD_MIN } else { period };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Does what is due now. Waits for the disk.
pub(crate) fn pass(
    broker: &Arc<Broker>,
    now_ms: i64,
    volume: Option<Volume>,
) -> Result<(), String> {
    let store = &broker.store;
    let rules = broker.config.retention_rules();
    raise_mins(broker, now_ms).map_err(|error| error.to_string())?;
    let volume = volume.unwrap_or(Volume {
        used_bytes: 0,
        total_bytes: 0,
    });
    let used = volume.used_percent() > rules.clean_percent;
    let holds = holds(broker, &rules, now_ms, used).map_err(|error| error.to_string())?;
    let plan = plan(broker, volume, now_ms, &rules, &holds);
    let status = store.status();
    if plan.files() > 0 {
        base::write(broker)?;
        store.trim(plan.start).map_err(|error| error.to_string())?;
        let (start, expired) = (plan.start, plan.expired);
        let (consumed, unconsumed) = (plan.consumed, plan.unconsumed);
        tracing::info!(
            start,
            expired,
            consumed,
            unconsumed,
            "old log files deleted"
        );
    } else if status.confirm.saturating_sub(status.base) >= BASE_BYTES {
        base::write(broker)?;
    }
    store.explain_full(&if used {
        retain::held_by(store.status().log_start, status.confirm, &rules, &holds)
    } else {
        String::new()
    });
    Ok(())
}

/// What goes now. Messages in it that are still to be delivered are stored again first; where that
/// fails, their files stay.
fn plan(broker: &Broker, volume: Volume, now_ms: i64, rules: &Rules, holds: &Holds) -> Plan {
    let sealed = broker.store.sealed();
    let free = Holds {
        live: None,
        ..holds.clone()
    };
    let plan = retain::plan(&sealed, volume, now_ms, rules, &free);
    if holds.live.is_none_or(|live| live >= plan.start) {
        return plan;
    }
    match carry::forward(broker, plan.start) {
        Ok(messages) => {
            tracing::info!(messages, "delayed messages moved to the log's end");
            plan
        }
        Err(error) => {
            tracing::warn!(error, "delayed messages can't be moved to the log's end");
            retain::plan(&sealed, volume, now_ms, rules, holds)
        }
    }
}

/// Hides what topics with a retention of their own keep no longer. The log may hold it still.
fn raise_mins(broker: &Arc<Broker>, now_ms: i64) -> Result<(), ReadError> {
    let reserved: HashMap<_, _> = broker.tables().reserved().into_iter().collect();
    if reserved.is_empty() {
        return Ok(());
    }
    let mut mins = Vec::new();
    for (topic, queue, range) in broker.store.queues() {
        let Some(keep) = reserved.get(&*topic) else {
            continue;
        };
        let min = first_kept(broker, &topic, queue, now_ms, *keep)?;
        if min > range.min {
            let topic = topic.to_string();
            mins.push(QueueMin { topic, queue, min });
        }
    }
    if !mins.is_empty() {
        broker.change(vec![Change::Mins(mins)], |_, written| {
            if let Err(refusal) = written {
                tracing::warn!(%refusal, "minimums of topics not written");
            }
        });
    }
    Ok(())
}

fn first_kept(
    broker: &Broker,
    topic: &str,
    queue: i32,
    now_ms: i64,
    keep: Duration,
) -> Result<i64, ReadError> {
    let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let since = now_ms.saturating_sub(keep_ms);
    let found = broker
        .store
        .offset_at_time(topic, queue, since, Boundary::Lower)?;
    Ok(found.unwrap_or(0))
}

/// What must stay. Who consumes is asked only when the disk is used.
fn holds(broker: &Broker, rules: &Rules, now_ms: i64, used: bool) -> Result<Holds, ReadError> {
    let (reserved, consumers) = {
        let tables = broker.tables();
        let longer = |(_, keep): &(String, Duration)| *keep > rules.keep;
        let reserved: HashMap<_, _> = tables.reserved().into_iter().filter(longer).collect();
        let consumers = if used {
            tables.consumers()
        } else {
            HashMap::new()
        };
        (reserved, consumers)
    };
    let delivered = broker.tables().delivered.clone();
    let mut holds = Holds {
        live: delivered.oldest_position(&broker.store)?,
        ..Holds::default()
    };
    let mut oldest: HashMap<Option<String>, Unconsumed> = HashMap::new();
    for (topic, queue, range) in broker.store.queues() {
        if range.min >= range.max {
            continue;
        }
        if let Some(keep) = reserved.get(&*topic) {
            let first = first_kept(broker, &topic, queue, now_ms, *keep)?;
            if let Some(position) = broker.store.position_of(&topic, queue, first)? {
                holds.reserved = Some(holds.reserved.map_or(position, |at| at.min(position)));
            }
        }
        if used && !is_system(&topic) {
            let groups = consumers.get(&*topic).map_or(&[][..], Consumers::as_slice);
            for (group, offset) in wanted_from(groups, queue, range) {
                let Some(position) = broker.store.position_of(&topic, queue, offset)? else {
                    continue;
                };
                let hold = Unconsumed {
                    position,
                    topic: topic.to_string(),
                    queue,
                    group: group.clone(),
                };
                let have = oldest.entry(group).or_insert_with(|| hold.clone());
                if hold.position < have.position {
                    *have = hold;
                }
            }
        }
    }
    holds.unconsumed = oldest.into_values().collect();
    Ok(holds)
}

/// The first offset that each group still wants; all of it is wanted where no group has consumed.
fn wanted_from(
    groups: &[(String, std::collections::BTreeMap<i64, i64>)],
    queue: i32,
    range: Range,
) -> Vec<(Option<String>, i64)> {
    if groups.is_empty() {
        return vec![(None, range.min)];
    }
    let from = groups.iter().map(|(group, queues)| {
        let offset = queues.get(&i64::from(queue)).copied();
        (
            Some(group.clone()),
            offset.unwrap_or(range.min).max(range.min),
        )
    });
    from.filter(|(_, offset)| *offset < range.max).collect()
}
