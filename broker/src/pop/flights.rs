//! Messages that were handed out and are not yet acknowledged, by group and queue. No clock: times
//! are arguments.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Lane;

/// Of one lane, and of all: more are not handed out until some come back.
pub const FLIGHTS_OF_LANE_MAX: usize = 100_000;
pub const FLIGHTS_MAX: usize = 1_000_000;

/// When a message was handed out and until when nobody else gets it. The first tells this flight
/// from the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    pub pop_ms: i64,
    pub until_ms: i64,
}

/// A flight that began, or, where there is none, one that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flown {
    pub lane: Arc<Lane>,
    pub offset: i64,
    pub flight: Option<Flight>,
}

#[derive(Debug, Default)]
pub struct Flights {
    lanes: HashMap<Arc<Lane>, BTreeMap<i64, Flight>>,
    /// By when they end.
    ends: BTreeSet<(i64, Arc<Lane>, i64)>,
    /// What changed since it was last written, and whether the log knows of a flight there.
    dirty: HashMap<(Arc<Lane>, i64), bool>,
}

impl Flights {
    /// A message is handed out.
    pub fn launch(&mut self, lane: &Arc<Lane>, offset: i64, flight: Flight) {
        let known = self.put(lane, offset, Some(flight)).is_some();
        let of = (Arc::clone(lane), offset);
        self.dirty.entry(of).or_insert(known);
    }

    /// The message is acknowledged, or in the retry topic. A later flight of it goes on.
    pub fn end(&mut self, lane: &Arc<Lane>, offset: i64, pop_ms: i64) -> bool {
        if !self.flies(lane, offset, pop_ms) {
            return false;
        }
        self.put(lane, offset, None);
        let of = (Arc::clone(lane), offset);
        // What began since the last record, and ended, the log need not know.
        if self.dirty.get(&of) == Some(&false) {
            self.dirty.remove(&of);
        } else {
            self.dirty.insert(of, true);
        }
        true
    }

    /// The flight goes on as a new one; the receipts of the old one are void.
    pub fn extend(&mut self, lane: &Arc<Lane>, offset: i64, pop_ms: i64, flight: Flight) -> bool {
        let flies = self.flies(lane, offset, pop_ms);
        if flies {
            self.launch(lane, offset, flight);
        }
        flies
    }

    fn flies(&self, lane: &Lane, offset: i64, pop_ms: i64) -> bool {
        let flight = self.get(lane, offset);
        flight.is_some_and(|flight| flight.pop_ms == pop_ms)
    }

    pub fn get(&self, lane: &Lane, offset: i64) -> Option<Flight> {
        self.lanes.get(lane)?.get(&offset).copied()
    }

    /// Messages of the lane in flight.
    pub fn count(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).map_or(0, BTreeMap::len)
    }

    pub fn count_all(&self) -> usize {
        self.ends.len()
    }

    /// Whether no more of the lane may be handed out.
    pub fn full(&self, lane: &Lane) -> bool {
        self.count(lane) >= FLIGHTS_OF_LANE_MAX || self.count_all() >= FLIGHTS_MAX
    }

    /// The first message in flight of each lane that has one.
    pub fn firsts(&self) -> impl Iterator<Item = (&Lane, i64)> {
        let lanes = self.lanes.iter();
        lanes.filter_map(|(lane, flights)| Some((&**lane, *flights.first_key_value()?.0)))
    }

    pub fn first_end_ms(&self) -> Option<i64> {
        self.ends.first().map(|(end, ..)| *end)
    }

    /// Flights whose time is over, the first to end first.
    pub fn ended(&self, now_ms: i64, count_max: usize) -> Vec<(Arc<Lane>, i64, Flight)> {
        let ended = self.ends.iter().take_while(|(end, ..)| *end <= now_ms);
        let flight = |(_, lane, offset): &(i64, Arc<Lane>, i64)| {
            Some((Arc::clone(lane), *offset, self.get(lane, *offset)?))
        };
        ended.take(count_max).filter_map(flight).collect()
    }

    /// These lanes are no more; the log says so elsewhere.
    pub fn forget(&mut self, lost: impl Fn(&Lane) -> bool) {
        self.lanes.retain(|lane, _| !lost(lane));
        self.ends.retain(|(_, lane, _)| !lost(lane));
        self.dirty.retain(|(lane, _), _| !lost(lane));
    }

    /// What changed since it was last taken, in one order.
    pub fn take_dirty(&mut self) -> Vec<Flown> {
        let dirty = std::mem::take(&mut self.dirty).into_keys();
        let flown = dirty.map(|(lane, offset)| Flown {
            flight: self.get(&lane, offset),
            lane,
            offset,
        });
        in_order(flown.collect())
    }

    /// The record with these could not be written.
    pub fn not_written(&mut self, flown: &[Flown]) {
        for one in flown {
            self.dirty.insert((Arc::clone(&one.lane), one.offset), true);
        }
    }

    /// Takes over what a record of the log says.
    pub fn apply(&mut self, flown: Vec<Flown>) {
        for one in flown {
            self.put(&one.lane, one.offset, one.flight);
        }
    }

    /// All flights, in one order.
    pub fn all(&self) -> Vec<Flown> {
        let flown = self.lanes.iter().flat_map(|(lane, flights)| {
            flights.iter().map(|(offset, flight)| Flown {
                lane: Arc::clone(lane),
                offset: *offset,
                flight: Some(*flight),
            })
        });
        in_order(flown.collect())
    }

    fn put(&mut self, lane: &Arc<Lane>, offset: i64, flight: Option<Flight>) -> Option<Flight> {
        let old = match flight {
            Some(flight) => {
                let flights = self.lanes.entry(Arc::clone(lane)).or_default();
                flights.insert(offset, flight)
            }
            None => self.take(lane, offset),
        };
        let end = |flight: Flight| (flight.until_ms, Arc::clone(lane), offset);
        if let Some(old) = old {
            self.ends.remove(&end(old));
        }
        if let Some(flight) = flight {
            self.ends.insert(end(flight));
        }
        old
    }

    fn take(&mut self, lane: &Arc<Lane>, offset: i64) -> Option<Flight> {
        let flights = self.lanes.get_mut(lane)?;
        let old = flights.remove(&offset);
        if flights.is_empty() {
            self.lanes.remove(lane);
        }
        old
    }
}

fn in_order(mut flown: Vec<Flown>) -> Vec<Flown> {
    flown.sort_by(|a, b| (&a.lane, a.offset).cmp(&(&b.lane, b.offset)));
    flown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(queue: i32) -> Arc<Lane> {
        Arc::new(Lane {
            topic: "T".into(),
            group: "g".into(),
            queue,
        })
    }

    fn flight(pop_ms: i64, until_ms: i64) -> Flight {
        Flight { pop_ms, until_ms }
    }

    fn written(flights: &mut Flights) -> Vec<(i64, Option<i64>)> {
        let dirty = flights.take_dirty().into_iter();
        dirty
            .map(|one| (one.offset, one.flight.map(|flight| flight.pop_ms)))
            .collect()
    }

    #[test]
    fn what_is_acknowledged_within_a_tick_is_never_written() {
        let (mut flights, lane) = (Flights::default(), lane(0));
        for offset in [1, 2, 3] {
            flights.launch(&lane, offset, flight(10, 60));
        }
        assert!(flights.end(&lane, 1, 10));
        assert!(!flights.end(&lane, 1, 10), "once");
        assert_eq!(written(&mut flights), [(2, Some(10)), (3, Some(10))]);
        assert!(flights.end(&lane, 2, 10));
        assert_eq!(written(&mut flights), [(2, None)]);
        // Handed out anew, and acknowledged, in one tick: the log knows of the first flight.
        flights.launch(&lane, 3, flight(20, 70));
        assert!(flights.end(&lane, 3, 20));
        let lost = flights.take_dirty();
        assert_eq!(lost.len(), 1);
        flights.not_written(&lost);
        assert_eq!(written(&mut flights), [(3, None)]);
        assert_eq!(written(&mut flights), []);
        assert_eq!((flights.count(&lane), flights.first_end_ms()), (0, None));
    }

    #[test]
    fn a_receipt_ends_its_own_flight_alone() {
        let (mut flights, lane) = (Flights::default(), lane(0));
        flights.launch(&lane, 1, flight(10, 60));
        assert!(flights.extend(&lane, 1, 10, flight(30, 90)));
        assert!(!flights.extend(&lane, 1, 10, flight(40, 95)));
        assert!(!flights.end(&lane, 1, 10));
        assert_eq!(flights.get(&lane, 1), Some(flight(30, 90)));
        assert!(flights.end(&lane, 1, 30));
    }

    #[test]
    fn flights_end_in_the_order_of_their_times() {
        let mut flights = Flights::default();
        let lanes = [lane(0), lane(1)];
        for (queue, offset, until) in [(0, 5, 80), (1, 7, 60), (0, 6, 70), (1, 8, 90)] {
            flights.launch(&lanes[queue], offset, flight(10, until));
        }
        let offsets = |now, max| {
            let ended = flights.ended(now, max).into_iter();
            ended.map(|(_, offset, _)| offset).collect::<Vec<_>>()
        };
        assert_eq!(flights.first_end_ms(), Some(60));
        assert!(offsets(59, 9).is_empty());
        assert_eq!(offsets(80, 9), [7, 6, 5]);
        assert_eq!(offsets(80, 2), [7, 6]);
        let firsts: BTreeMap<_, _> = flights
            .firsts()
            .map(|(l, first)| (l.queue, first))
            .collect();
        assert_eq!(firsts, BTreeMap::from([(0, 5), (1, 7)]));
        let all = flights.all();
        let mut again = Flights::default();
        again.apply(all.clone());
        assert_eq!(again.all(), all);
        assert_eq!(written(&mut again), [], "what is in the log is not dirty");
        again.forget(|lane| lane.queue == 0);
        assert_eq!((again.all().len(), again.first_end_ms()), (2, Some(60)));
    }
}
