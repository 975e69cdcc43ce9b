//! What a popped message is acknowledged with, and the tables from which clients make it
//! (`ExtraInfoUtil.java`).
//!
//! An answer names for each queue where the pop began and which messages it holds; a client finds
//! a message's receipt by its place in these lists. A message of a retry topic brings its receipt
//! along, since its topic is not the one that it names.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::{self, Write as _};

use crate::topic::{RETRY_PREFIX, pop_retry_topic, pop_retry_topic_v2};

/// Where a popped message lies: in the topic that was asked for, or in a retry topic of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    Normal,
    /// `%RETRY%group_topic`
    RetryV1,
    /// `%RETRY%group+topic`
    RetryV2,
}

/// The property `POP_CK`, and `extraInfo` in what clients send back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Where in the queue the pop began.
    pub start_offset: i64,
    pub pop_ms: i64,
    pub invisible_ms: i64,
    /// Java's queue of check points; [`REVIVE_QUEUE_ORDERED`] where the order is kept.
    pub revive_queue: i32,
    pub origin: Origin,
    pub broker: String,
    pub queue: i32,
    pub offset: i64,
}

/// Of an ordered pop.
pub const REVIVE_QUEUE_ORDERED: i32 = 999;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a receipt has 7 fields or more with spaces between: {0} is missing or wrong")]
pub struct BadReceipt(&'static str);

impl Origin {
    /// Of a topic, by its name.
    pub fn of(topic: &str) -> Self {
        match topic.strip_prefix(RETRY_PREFIX) {
            Some(rest) if rest.contains('+') => Self::RetryV2,
            Some(_) => Self::RetryV1,
            None => Self::Normal,
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::Normal),
            "1" => Some(Self::RetryV1),
            "2" => Some(Self::RetryV2),
            _ => None,
        }
    }

    /// The topic in which a message lies that was popped from `topic`.
    pub fn topic(self, topic: &str, group: &str) -> String {
        match self {
            Self::Normal => topic.to_owned(),
            Self::RetryV1 => pop_retry_topic(topic, group),
            Self::RetryV2 => pop_retry_topic_v2(topic, group),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::RetryV1 => 1,
            Self::RetryV2 => 2,
        }
    }
}

impl Receipt {
    /// Behind the fields there may be a position in the log; the offset, which a request names
    /// itself, may be missing.
    pub fn parse(text: &str) -> Result<Self, BadReceipt> {
        let mut fields = text.split(' ');
        let mut next = |name| fields.next().ok_or(BadReceipt(name));
        Ok(Self {
            start_offset: number(next("the start offset")?, "the start offset")?,
            pop_ms: number(next("the pop time")?, "the pop time")?,
            invisible_ms: number(next("the invisible time")?, "the invisible time")?,
            revive_queue: number(next("the revive queue")?, "the revive queue")?,
            origin: Origin::parse(next("the kind of topic")?).unwrap_or(Origin::Normal),
            broker: next("the broker")?.to_owned(),
            queue: number(next("the queue")?, "the queue")?,
            offset: next("the offset").map_or(Ok(-1), |text| number(text, "the offset"))?,
        })
    }

    /// The group consumes in order: its messages do not come back as retries.
    pub fn is_ordered(&self) -> bool {
        self.revive_queue == REVIVE_QUEUE_ORDERED
    }
}

fn number<T: std::str::FromStr>(text: &str, name: &'static str) -> Result<T, BadReceipt> {
    text.parse().map_err(|_| BadReceipt(name))
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            start_offset,
            pop_ms,
            invisible_ms,
            revive_queue,
            origin,
            broker,
            queue,
            offset,
        } = self;
        let origin = origin.number();
        write!(
            f,
            "{start_offset} {pop_ms} {invisible_ms} {revive_queue} {origin} {broker}"
        )?;
        write!(f, " {queue} {offset}")
    }
}

/// `startOffsetInfo`, `msgOffsetInfo` and `orderCountInfo` of an answer: what of each queue is in
/// its body.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OffsetInfo {
    pub starts: String,
    pub messages: String,
    pub counts: String,
}

impl OffsetInfo {
    /// A queue's messages, of a pop that began at `start`. Each queue once.
    pub fn add(&mut self, origin: Origin, queue: i32, start: i64, offsets: &[i64]) {
        let Some((first, rest)) = offsets.split_first() else {
            return;
        };
        let origin = origin.number();
        let starts = next(&mut self.starts);
        // A String takes all that is written.
        let _ = write!(starts, "{origin} {queue} {start}");
        let messages = next(&mut self.messages);
        let _ = write!(messages, "{origin} {queue} {first}");
        for offset in rest {
            let _ = write!(messages, ",{offset}");
        }
    }

    /// How often messages of a queue have been handed out before, of an ordered pop; those that
    /// were not are left out.
    pub fn count(&mut self, origin: Origin, queue: i32, counts: &[(i64, i32)]) {
        let origin = origin.number();
        for (offset, count) in counts.iter().filter(|(_, count)| *count > 0) {
            let _ = write!(
                next(&mut self.counts),
                "{origin} qo{queue}%{offset} {count}"
            );
        }
        let least = counts.iter().map(|(_, count)| *count).min().unwrap_or(0);
        let _ = write!(next(&mut self.counts), "{origin} {queue} {least}");
    }
}

fn next(list: &mut String) -> &mut String {
    if !list.is_empty() {
        list.push(';');
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_read_as_it_was_written() {
        let receipt = Receipt {
            start_offset: 7,
            pop_ms: 1_700_000_000_000,
            invisible_ms: 60_000,
            revive_queue: 3,
            origin: Origin::RetryV1,
            broker: "broker-a".into(),
            queue: 2,
            offset: 9,
        };
        let text = "7 1700000000000 60000 3 1 broker-a 2 9";
        assert_eq!(receipt.to_string(), text);
        for also in [text, "7 1700000000000 60000 3 1 broker-a 2 9 123456"] {
            assert_eq!(Receipt::parse(also), Ok(receipt.clone()));
        }
        let short = Receipt::parse("7 1700000000000 60000 999 2 broker-a 2").expect("good");
        assert_eq!((short.offset, short.origin), (-1, Origin::RetryV2));
        assert!(short.is_ordered() && !receipt.is_ordered());
        for (bad, missing) in [
            ("", "the start offset"),
            ("7", "the pop time"),
            ("7 x", "the pop time"),
            ("7 1 1 3 0 b", "the queue"),
            ("7 1 1 3 0 b 2 99999999999999999999", "the offset"),
        ] {
            assert_eq!(Receipt::parse(bad), Err(BadReceipt(missing)), "{bad}");
        }
    }

    #[test]
    fn topics_know_whose_retries_they_are() {
        for (origin, number, topic) in [
            (Origin::Normal, "0", "T"),
            (Origin::RetryV1, "1", "%RETRY%g_T"),
            (Origin::RetryV2, "2", "%RETRY%g+T"),
        ] {
            assert_eq!(origin.topic("T", "g"), topic);
            assert_eq!(Origin::of(topic), origin);
            assert_eq!(Origin::parse(number), Some(origin));
        }
        assert_eq!(Origin::parse(""), None);
    }

    #[test]
    fn the_offsets_of_queues_stand_in_a_row() {
        let mut info = OffsetInfo::default();
        info.add(Origin::RetryV1, 0, 5, &[5]);
        info.add(Origin::Normal, 3, 6, &[]);
        info.add(Origin::Normal, 3, 6, &[7, 9, 10]);
        assert_eq!(info.starts, "1 0 5;0 3 6");
        assert_eq!(info.messages, "1 0 5;0 3 7,9,10");
        info.count(Origin::Normal, 3, &[(7, 2), (9, 1)]);
        info.count(Origin::Normal, 4, &[(1, 1), (2, 0)]);
        let counts = "0 qo3%7 2;0 qo3%9 1;0 3 1;0 qo4%1 1;0 4 0";
        assert_eq!(info.counts, counts);
    }
}
