//! How offsets and other soft state are written to the log.
//!
//! What changed since the last time travels as one record a tick. A tick is a second, and
//! stretches up to five so that these records stay below 2 % of all that is written, or below
//! 64 KB a second where little is.
//!
//! What pops have handed out never comes behind the offsets that passed it: where it needs more
//! records than one, the offsets are in the last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::pop::flights::Flown;
use crate::request::state_record;
use crate::tables::{Batches, Change, Offset, Tables};

const TICK_MIN: Duration = Duration::from_secs(1);
const TICK_MAX: Duration = Duration::from_secs(5);
const SHARE_PERCENT: u64 = 2;
const BYTES_A_SECOND_MIN: u64 = 64_000;

/// Of one record; each is at most 300 bytes long.
const FLIGHTS_A_RECORD_MAX: usize = 10_000;
/// What is not written by then is written again.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// Writes what changed once a tick, and what is left at the stop at once.
pub(crate) async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut pause = next(0, 0, Duration::ZERO);
    let (mut written_at, mut log_bytes) = (Instant::now(), 0);
    loop {
        tokio::select! {
            () = broker.offsets_dirty.notified() => {}
            () = stop.cancelled() => {}
        }
        let tick = tokio::time::sleep(pause);
        let stopping = tokio::select! {
            () = tick => false,
            () = stop.cancelled() => true,
        };
        let soft = Soft::take(&mut broker.tables_mut());
        let mut record_bytes = 0;
        for changes in soft.records() {
            let record = state_record(&changes);
            record_bytes += record.len() as u64;
            if !written(&broker, record).await {
                soft.put_back(&mut broker.tables_mut());
                broker.offsets_dirty.notify_one();
                break;
            }
        }
        if record_bytes > 0 {
            let bytes = broker.store.status().appended_bytes;
            pause = next(record_bytes, bytes - log_bytes, written_at.elapsed());
            (written_at, log_bytes) = (Instant::now(), bytes);
        }
        if stopping {
            return;
        }
    }
}

/// They count already: to apply them again at the commit could undo newer ones.
async fn written(broker: &Broker, record: bytes::Bytes) -> bool {
    let (done, is_done) = oneshot::channel();
    broker.write(record, move |written| {
        if let Err(refusal) = &written {
            tracing::warn!(%refusal, "offsets not written");
        }
        let _ = done.send(written.is_ok());
    });
    timeout(WRITE_MAX, is_done).await == Ok(Ok(true))
}

/// What changed since the last record.
#[derive(Debug)]
struct Soft {
    delivered: Option<Vec<(i32, i64)>>,
    offsets: Vec<Offset>,
    flights: Vec<Flown>,
    orders: Batches,
}

impl Soft {
    fn take(tables: &mut Tables) -> Self {
        Self {
            delivered: tables.delivered.take_dirty(),
            offsets: tables.take_dirty_offsets(),
            flights: tables.flights.take_dirty(),
            orders: tables.orders.take_dirty(),
        }
    }

    /// The changes of each record, in the order in which they are written.
    fn records(&self) -> Vec<Vec<Change>> {
        let flights = self.flights.chunks(FLIGHTS_A_RECORD_MAX);
        let mut records: Vec<Vec<Change>> = flights
            .map(|chunk| vec![Change::Flights(chunk.to_vec())])
            .collect();
        let mut last = records.pop().unwrap_or_default();
        if !self.orders.is_empty() {
            last.push(Change::Orders(self.orders.clone()));
        }
        last.extend(self.delivered.clone().map(Change::DelayOffsets));
        if !self.offsets.is_empty() {
            last.push(Change::Offsets(self.offsets.clone()));
        }
        if !last.is_empty() {
            records.push(last);
        }
        records
    }

    fn put_back(&self, tables: &mut Tables) {
        tables.offsets_not_written(&self.offsets);
        tables.flights.not_written(&self.flights);
        tables.orders.not_written(&self.orders);
        if self.delivered.is_some() {
            tables.delivered.not_written();
        }
    }
}

/// The time until the next record, after one of `record_bytes` bytes. In the time `since` the
/// record before it, the log took `log_bytes`.
pub(crate) fn next(record_bytes: u64, log_bytes: u64, since: Duration) -> Duration {
    let millis = u64::try_from(since.max(TICK_MIN).as_millis()).unwrap_or(u64::MAX);
    let share = log_bytes.saturating_mul(10 * SHARE_PERCENT) / millis;
    let rate = share.max(BYTES_A_SECOND_MIN);
    Duration::from_millis(record_bytes.saturating_mul(1_000) / rate).clamp(TICK_MIN, TICK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pop::Lane;
    use crate::pop::flights::Flight;
    use crate::tables::Found;

    #[test]
    fn h12_state_records_stay_a_small_share_of_the_log() {
        let second = Duration::from_secs(1);
        let rows = [
            // Record, log in the time before, that time, and the next tick in ms.
            (0, 0, second, 1_000),
            (300, 1_000, second, 1_000),
            (64_000, 0, second, 1_000),
            (128_000, 0, second, 2_000),
            (128_000, 100, second * 60, 2_000),
            (1_000_000, 0, second, 5_000),
            // 2 % of 100 MB/s are 2 MB/s.
            (1_000_000, 100_000_000, second, 1_000),
            (6_000_000, 100_000_000, second, 3_000),
            (6_000_000, 200_000_000, second * 2, 3_000),
            (6_000_000, 100_000_000, second * 2, 5_000),
            (u64::MAX, u64::MAX, Duration::ZERO, 1_000),
            (u64::MAX, 0, Duration::MAX, 5_000),
        ];
        for (record, log, since, expect) in rows {
            let tick = next(record, log, since);
            assert_eq!(tick.as_millis(), expect, "{record} {log} {since:?}");
        }
    }

    #[test]
    fn offsets_are_in_the_last_record_of_a_tick() {
        let mut tables = Tables::new("c", "b", 1, None);
        let lane = Arc::new(Lane {
            topic: "T".into(),
            group: "g".into(),
            queue: 0,
        });
        assert!(Soft::take(&mut tables).records().is_empty());
        let flight = Flight {
            pop_ms: 1,
            until_ms: 2,
        };
        tables.move_to(&lane, 0);
        let offsets: Vec<i64> = (0..=FLIGHTS_A_RECORD_MAX as i64).collect();
        let found = Found {
            from: 0,
            next: 20_000,
            offsets: &offsets,
            flight,
        };
        assert!(tables.hand_out(&lane, &found));
        let soft = Soft::take(&mut tables);
        for _ in 0..2 {
            let records = soft.records();
            let kinds = |record: &Vec<Change>| {
                let kinds = record.iter().map(|change| change.encode().0);
                kinds.collect::<Vec<_>>()
            };
            let kinds: Vec<_> = records.iter().map(kinds).collect();
            assert_eq!(kinds, [vec![20], vec![20, 6]]);
            assert!(
                records
                    .iter()
                    .all(|record| state_record(record).len() < 1 << 20)
            );
            // What could not be written is taken again.
            soft.put_back(&mut tables);
            assert_eq!(Soft::take(&mut tables).records(), records);
        }
    }

    #[test]
    fn h12_a_thousand_groups_write_less_than_64_kb_a_second() {
        // Each tick every group has moved on; the record's size does not depend on the tick.
        let (mut now, mut written, mut tick) = (Duration::ZERO, 0, TICK_MIN);
        let record_bytes = 250_000;
        while now < Duration::from_mins(10) {
            now += tick;
            written += record_bytes;
            tick = next(record_bytes, record_bytes, tick);
        }
        let rate = written / now.as_secs();
        // The first tick was a short one.
        assert!(
            rate <= BYTES_A_SECOND_MIN * 101 / 100,
            "{rate} bytes a second"
        );
    }
}
