//! Pops against a model: any mix of pops, acknowledgements, changes, ends of time and crashes.
//!
//! The model is sets of messages and a clock. At any time each message is one of: not yet handed
//! out, in flight, acknowledged, or in the retry topic. A crash takes back at most what has changed
//! since the last record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use store::state;

use super::Lane;
use super::flights::Flight;
use crate::request::state_record;
use crate::tables::{Change, Found, Tables};

const STEPS: usize = 2_000;

struct World {
    tables: Tables,
    lane: Arc<Lane>,
    /// The log: state records, and messages in the retry topic.
    records: Vec<Vec<u8>>,
    retry: BTreeSet<i64>,
    sent: i64,
    now_ms: i64,
    /// What the consumer has, by message: the pop times of its receipts.
    receipts: BTreeMap<i64, Vec<i64>>,
    acknowledged: BTreeSet<i64>,
    /// As of the last record: acknowledged, and how far the group had come.
    settled: BTreeSet<i64>,
    passed: i64,
}

impl World {
    fn new() -> Self {
        let lane = Lane {
            topic: "T".into(),
            group: "g".into(),
            queue: 0,
        };
        let mut tables = Tables::new("c", "b", 1, None);
        tables.move_to(&lane, 0);
        Self {
            tables,
            lane: Arc::new(lane),
            records: Vec::new(),
            retry: BTreeSet::new(),
            sent: 0,
            now_ms: 1_000,
            receipts: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            settled: BTreeSet::new(),
            passed: 0,
        }
    }

    fn pop(&mut self, count: i64, invisible_ms: i64) {
        let from = self.tables.offset_of(&self.lane).expect("begun");
        let next = self.sent.min(from + count);
        let offsets: Vec<i64> = (from..next).collect();
        let found = Found {
            from,
            next,
            offsets: &offsets,
            flight: Flight {
                pop_ms: self.now_ms,
                until_ms: self.now_ms + invisible_ms,
            },
        };
        assert!(self.tables.hand_out(&self.lane, &found));
        assert!(from >= self.passed, "{from} was handed out before");
        for offset in offsets {
            self.receipts.entry(offset).or_default().push(self.now_ms);
        }
    }

    fn acknowledge(&mut self, offset: i64, pop_ms: i64) {
        if self.tables.flights.end(&self.lane, offset, pop_ms) {
            self.acknowledged.insert(offset);
        }
    }

    fn change(&mut self, offset: i64, pop_ms: i64, invisible_ms: i64) {
        let flight = Flight {
            pop_ms: self.now_ms,
            until_ms: self.now_ms + invisible_ms,
        };
        if self
            .tables
            .flights
            .extend(&self.lane, offset, pop_ms, flight)
        {
            self.receipts.entry(offset).or_default().push(self.now_ms);
        }
    }

    fn revive(&mut self) {
        for (lane, offset, flight) in self.tables.flights.ended(self.now_ms, 3) {
            assert!(flight.until_ms <= self.now_ms, "{offset} came back early");
            self.retry.insert(offset);
            self.tables.flights.end(&lane, offset, flight.pop_ms);
        }
    }

    fn tick(&mut self) {
        let changes = [
            Change::Flights(self.tables.flights.take_dirty()),
            Change::Offsets(self.tables.take_dirty_offsets()),
        ];
        self.records.push(state_record(&changes).to_vec());
        self.passed = self.tables.offset_of(&self.lane).expect("begun");
        self.settled = self.acknowledged.clone();
    }

    fn crash(&mut self) {
        self.tables = Tables::new("c", "b", 1, None);
        self.tables.move_to(&self.lane, 0);
        for record in &self.records {
            for entry in state::decode(record).expect("whole") {
                let change = Change::decode(entry).expect("known").expect("ours");
                self.tables.apply(change, 0);
            }
        }
        self.acknowledged = self.settled.clone();
    }

    fn check(&self) {
        let next = self.tables.offset_of(&self.lane).expect("begun");
        for offset in 0..self.sent {
            let flies = self.tables.flights.get(&self.lane, offset).is_some();
            let done = self.acknowledged.contains(&offset);
            let back = self.retry.contains(&offset);
            assert!(offset >= next || flies || done || back, "{offset} is lost");
            let settled = self.settled.contains(&offset);
            assert!(!(settled && flies), "{offset} is out again");
        }
    }
}

#[test]
fn no_message_is_lost_and_what_is_written_stays_done() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    for _ in 0..STEPS {
        world.now_ms += dice.random_range(0..20);
        let nth = dice.random_range(0..=world.receipts.len());
        let receipt = world.receipts.iter().nth(nth);
        let receipt = receipt.map(|(at, times)| (*at, times[dice.random_range(0..times.len())]));
        match (dice.random_range(0..12), receipt) {
            (0..=1, _) => world.sent += dice.random_range(0..4),
            (2..=4, _) => world.pop(dice.random_range(1..5), dice.random_range(0..200)),
            (5..=7, Some((offset, pop_ms))) => world.acknowledge(offset, pop_ms),
            (8, Some((offset, pop_ms))) => {
                world.change(offset, pop_ms, dice.random_range(0..200));
            }
            (9, _) => world.tick(),
            (10, _) if dice.random_range(0..8) == 0 => world.crash(),
            _ => world.revive(),
        }
        world.check();
    }
    let done = world.acknowledged.len() + world.retry.len();
    assert!(done > 20, "{done} came to an end");
}
