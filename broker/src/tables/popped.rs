//! What pops change in the tables, and how it is written.
//!
//! ```text
//! 20 flights       repeated { lane; count u32; repeated { offset, pop ms, until ms: i64 } }
//!                  both times 0: the flight has ended
//! 21 orders        repeated { lane; pop ms i64; attempt text; count u32;
//!                             repeated { offset, until ms: i64; count i32; u8 acknowledged } }
//!                  count 0: there is no batch any more
//! 22 request mode  JSON as in messageRequestMode.json, of one topic and group
//! ```
//!
//! A lane is { topic, group: u16 length + text; queue i32 }.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::Buf;
use protocol::body::{RequestMode, SetRequestMode};
use protocol::topic::RETRY_PREFIX;

use super::{Offset, Tables, put_text, text};
use crate::pop::Lane;
use crate::pop::flights::{Flight, Flown};
use crate::pop::orders::{Batch, Handed};

/// Batches by lane; none where there is no more.
pub type Batches = Vec<(Arc<Lane>, Option<Batch>)>;

/// What a pop has found of a lane.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Where it began: the group's offset at that time.
    pub from: i64,
    /// Where the next one is to begin.
    pub next: i64,
    pub offsets: &'a [i64],
    pub flight: Flight,
}

impl Tables {
    /// Hands messages out, unless the group has gone on meanwhile.
    pub fn hand_out(&mut self, lane: &Arc<Lane>, found: &Found<'_>) -> bool {
        if self.offset_of(lane) != Some(found.from) {
            return false;
        }
        for offset in found.offsets {
            self.flights.launch(lane, *offset, found.flight);
        }
        self.move_to(lane, found.next);
        true
    }

    /// The same where order is kept: how often each was handed out before. The group goes on as
    /// its messages are acknowledged.
    pub fn hand_out_in_order(
        &mut self,
        lane: &Arc<Lane>,
        attempt: Option<&str>,
        found: &Found<'_>,
    ) -> Option<Vec<(i64, i32)>> {
        let Flight { pop_ms, until_ms } = found.flight;
        let same = self.offset_of(lane) == Some(found.from);
        if !same || self.orders.blocks(lane, attempt, pop_ms) {
            return None;
        }
        if found.offsets.is_empty() {
            self.move_to(lane, found.next);
            return Some(Vec::new());
        }
        let times = (pop_ms, until_ms);
        Some(self.orders.hand_out(lane, attempt, times, found.offsets))
    }

    /// Where the next pop of a lane starts.
    pub fn offset_of(&self, lane: &Lane) -> Option<i64> {
        let offset = self.offset(&lane.topic, &lane.group, lane.queue);
        offset.filter(|offset| *offset >= 0)
    }

    pub fn move_to(&mut self, lane: &Lane, offset: i64) {
        self.commit_offset(Offset {
            topic: lane.topic.clone(),
            group: lane.group.clone(),
            queue: lane.queue,
            offset,
        });
    }

    /// When a message comes back or a queue is free next.
    pub fn first_end_ms(&self) -> Option<i64> {
        let ends = [self.flights.first_end_ms(), self.orders.first_end_ms()];
        ends.into_iter().flatten().min()
    }

    /// How a group gets the messages of a topic.
    pub fn request_mode(&self, topic: &str, group: &str) -> SetRequestMode {
        let set = self.modes.get(&(topic.to_owned(), group.to_owned()));
        set.filter(|_| !topic.starts_with(RETRY_PREFIX))
            .cloned()
            .unwrap_or_else(|| SetRequestMode {
                topic: topic.to_owned(),
                consumer_group: group.to_owned(),
                mode: RequestMode::Pull,
                pop_share_queue_num: 0,
            })
    }

    pub(super) fn set_request_mode(&mut self, set: SetRequestMode) {
        let of = (set.topic.clone(), set.consumer_group.clone());
        self.modes.insert(of, set);
    }

    /// Whoever pops these lanes begins anew.
    pub(super) fn forget_lanes(&mut self, lost: impl Fn(&Lane) -> bool) {
        self.flights.forget(&lost);
        self.orders.forget(&lost);
    }
}

pub(super) fn encode_flights(flown: &[Flown]) -> Vec<u8> {
    let mut out = Vec::new();
    for of_lane in flown.chunk_by(|a, b| a.lane == b.lane) {
        if let Some(first) = of_lane.first() {
            put_lane(&mut out, &first.lane);
        }
        out.extend((of_lane.len() as u32).to_be_bytes());
        for one in of_lane {
            let flight = one.flight.map_or((0, 0), |f| (f.pop_ms, f.until_ms));
            for number in [one.offset, flight.0, flight.1] {
                out.extend(number.to_be_bytes());
            }
        }
    }
    out
}

pub(super) fn decode_flights(mut payload: &[u8]) -> Option<Vec<Flown>> {
    let mut flown = Vec::new();
    while !payload.is_empty() {
        let lane = lane(&mut payload)?;
        for _ in 0..payload.try_get_u32().ok()? {
            let offset = payload.try_get_i64().ok()?;
            let pop_ms = payload.try_get_i64().ok()?;
            let until_ms = payload.try_get_i64().ok()?;
            let flies = (pop_ms, until_ms) != (0, 0);
            flown.push(Flown {
                lane: Arc::clone(&lane),
                offset,
                flight: flies.then_some(Flight { pop_ms, until_ms }),
            });
        }
    }
    Some(flown)
}

pub(super) fn encode_orders(batches: &[(Arc<Lane>, Option<Batch>)]) -> Vec<u8> {
    let none = Batch {
        pop_ms: 0,
        attempt: String::new(),
        messages: Vec::new(),
    };
    let mut out = Vec::new();
    for (lane, batch) in batches {
        let batch = batch.as_ref().unwrap_or(&none);
        put_lane(&mut out, lane);
        out.extend(batch.pop_ms.to_be_bytes());
        put_text(&mut out, &batch.attempt);
        out.extend((batch.messages.len() as u32).to_be_bytes());
        for one in &batch.messages {
            out.extend(one.offset.to_be_bytes());
            out.extend(one.until_ms.to_be_bytes());
            out.extend(one.count.to_be_bytes());
            out.push(u8::from(one.acknowledged));
        }
    }
    out
}

pub(super) fn decode_orders(mut payload: &[u8]) -> Option<Batches> {
    let mut batches = Vec::new();
    while !payload.is_empty() {
        let lane = lane(&mut payload)?;
        let pop_ms = payload.try_get_i64().ok()?;
        let attempt = text(&mut payload)?;
        let mut messages = Vec::new();
        for _ in 0..payload.try_get_u32().ok()? {
            messages.push(Handed {
                offset: payload.try_get_i64().ok()?,
                until_ms: payload.try_get_i64().ok()?,
                count: payload.try_get_i32().ok()?,
                acknowledged: payload.try_get_u8().ok()? != 0,
            });
        }
        let batch = Batch {
            pop_ms,
            attempt,
            messages,
        };
        let some = !batch.messages.is_empty();
        batches.push((lane, some.then_some(batch)));
    }
    Some(batches)
}

fn put_lane(out: &mut Vec<u8>, lane: &Lane) {
    put_text(out, &lane.topic);
    put_text(out, &lane.group);
    out.extend(lane.queue.to_be_bytes());
}

fn lane(payload: &mut &[u8]) -> Option<Arc<Lane>> {
    Some(Arc::new(Lane {
        topic: text(payload)?,
        group: text(payload)?,
        queue: payload.try_get_i32().ok()?,
    }))
}

#[cfg(test)]
mod tests {
    use store::state::Entry;

    use super::*;
    use crate::tables::Change;

    #[test]
    fn changes_of_pops_are_frozen_bytes_and_come_back() {
        let lane = |queue| {
            Arc::new(Lane {
                topic: "T".into(),
                group: "g".into(),
                queue,
            })
        };
        let flown = |queue, offset, flight: Option<(i64, i64)>| Flown {
            lane: lane(queue),
            offset,
            flight: flight.map(|(pop_ms, until_ms)| Flight { pop_ms, until_ms }),
        };
        let batch = Batch {
            pop_ms: 7,
            attempt: "a".into(),
            messages: vec![Handed {
                offset: 5,
                until_ms: 9,
                count: 2,
                acknowledged: true,
            }],
        };
        let mode = SetRequestMode {
            topic: "T".into(),
            consumer_group: "g".into(),
            mode: RequestMode::Pop,
            pop_share_queue_num: 8,
        };
        let flights = vec![
            flown(1, 5, Some((7, 9))),
            flown(1, 6, None),
            flown(2, 8, None),
        ];
        let rows: Vec<(Change, u8, &[u8])> = vec![
            (
                Change::Flights(flights),
                20,
                b"\0\x01T\0\x01g\0\0\0\x01\0\0\0\x02\
                    \0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\
                    \0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
                    \0\x01T\0\x01g\0\0\0\x02\0\0\0\x01\
                    \0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            (
                Change::Orders(vec![(lane(1), Some(batch)), (lane(2), None)]),
                21,
                b"\0\x01T\0\x01g\0\0\0\x01\0\0\0\0\0\0\0\x07\0\x01a\0\0\0\x01\
                    \0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x09\0\0\0\x02\x01\
                    \0\x01T\0\x01g\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            (
                Change::RequestMode(mode),
                22,
                br#"{"consumerGroup":"g","mode":"POP","popShareQueueNum":8,"topic":"T"}"#,
            ),
        ];
        for (change, kind, payload) in rows {
            assert_eq!(change.encode(), (kind, payload.to_vec()));
            let entry = Entry { kind, payload };
            assert_eq!(Change::decode(entry).expect("good"), Some(change));
            let payload = &payload[..payload.len() - 1];
            assert!(Change::decode(Entry { kind, payload }).is_err());
        }
    }
}
