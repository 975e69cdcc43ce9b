//! Transactions: messages that consumers see only once their sender says so
//! (`TransactionalMessageServiceImpl.java`).
//!
//! Such a message is first stored as a half message, in the one queue of the half topic. An op
//! record names the half messages that have ended, and lies in the log right behind what a commit
//! delivers, or alone. Of a half message that has not ended for long its sender is asked, after it
//! has been stored again at the queue's end: what lies before the oldest one is not read again.
//! Records and the two offsets of the group `CID_RMQ_SYS_TRANS` are Java's; all else is found in
//! them again at a start. This part has no clock and no disk.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub mod check;
pub mod load;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use protocol::properties;
use protocol::record::{Message, Record};
use protocol::topic::OP_TOPIC;

/// Half messages that have not ended, by their offsets in the half topic's queue.
#[derive(Debug, Default)]
pub struct Halves {
    /// All below have ended, or lie again behind.
    next: i64,
    /// Those of the others that have.
    ended: BTreeSet<i64>,
    /// Where those lie that were stored again, by the offset at which their sender knows them.
    again: HashMap<i64, i64>,
    /// Those that somebody is about to end or to store again, by the same.
    claimed: HashSet<i64>,
    /// Of op records that are needed still: its offset, and the last half message that it names.
    ops: VecDeque<(i64, i64)>,
    next_op: i64,
}

/// Why a transaction can't be ended now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unended {
    #[error("the transaction has ended already")]
    Ended,
    /// The sender is asked again if it was not this that ended it.
    #[error("the transaction is being ended, or its sender asked, right now")]
    Claimed,
}

/// A half message as it is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// At which its sender knows it.
    pub root: i64,
    /// At which it lies now.
    pub offset: i64,
}

impl Halves {
    pub fn new(next: i64, next_op: i64) -> Self {
        Self {
            next,
            next_op,
            ..Self::default()
        }
    }

    /// What is to be stored as the group's offsets in the half and in the op topic.
    pub fn offsets(&self) -> (i64, i64) {
        (self.next, self.next_op)
    }

    /// How many of those below `end` have not ended.
    pub fn pending(&self, end: i64) -> u64 {
        let open = (end - self.next).max(0) as u64;
        open.saturating_sub(self.ended.len() as u64)
    }

    pub fn has_ended(&self, offset: i64) -> bool {
        offset < self.next || self.ended.contains(&offset)
    }

    pub fn claim(&mut self, offset: i64, root: i64) -> Result<Claim, Unended> {
        let offset = self.again.get(&root).copied().unwrap_or(offset);
        if self.has_ended(offset) {
            return Err(Unended::Ended);
        }
        if !self.claimed.insert(root) {
            return Err(Unended::Claimed);
        }
        Ok(Claim { root, offset })
    }

    /// Nothing has come of it.
    pub fn release(&mut self, claim: Claim) {
        self.claimed.remove(&claim.root);
    }

    /// It has ended, as the op record at this offset says, if there is one.
    pub fn end(&mut self, claim: Claim, op: Option<i64>) {
        self.release(claim);
        self.again.remove(&claim.root);
        if let Some(op) = op {
            self.ops.push_back((op, claim.offset));
        }
        self.pass(claim.offset);
    }

    /// It lies again at `to`.
    pub fn moved(&mut self, claim: Claim, to: i64) {
        self.release(claim);
        self.again.insert(claim.root, to);
        self.pass(claim.offset);
    }

    /// It can't be read any more.
    pub fn lost(&mut self, offset: i64) {
        self.pass(offset);
    }

    /// A half message of the log that a start reads, in their order.
    pub fn found(&mut self, offset: i64, root: i64) {
        if root != offset {
            let before = self.again.insert(root, offset).unwrap_or(root);
            self.pass(before);
        }
    }

    /// An op record of the log that a start reads, in their order and after all half messages.
    pub fn found_op(&mut self, op: i64, named: impl Iterator<Item = i64>) {
        let mut last = -1;
        for offset in named {
            let offset = self.again.remove(&offset).unwrap_or(offset);
            last = last.max(offset);
            self.pass(offset);
        }
        self.ops.push_back((op, last));
        self.pass(-1);
    }

    fn pass(&mut self, offset: i64) {
        if offset >= self.next {
            self.ended.insert(offset);
        }
        while self.ended.first() == Some(&self.next) {
            self.ended.pop_first();
            self.next += 1;
        }
        while let Some((op, last)) = self.ops.front().copied()
            && last < self.next
        {
            self.ops.pop_front();
            self.next_op = op + 1;
        }
    }
}

/// The offset at which the sender of a half message knows it.
pub fn root(record: &Record<'_>) -> i64 {
    let root = record.property(properties::PREPARED_QUEUE_OFFSET);
    let root = root.and_then(|root| root.parse().ok());
    root.unwrap_or(record.queue_offset)
}

/// Which half messages an op record names.
pub fn named(op: &Record<'_>) -> Vec<i64> {
    let text = std::str::from_utf8(op.body).unwrap_or_default();
    let offsets = text.split(',').map(str::trim);
    offsets.filter_map(|offset| offset.parse().ok()).collect()
}

/// The op record that says that a half message has ended.
pub fn op(claim: Claim, like: &Message) -> Message {
    let Claim { root, offset } = claim;
    let body = if root == offset {
        format!("{offset},")
    } else {
        format!("{root},{offset},")
    };
    Message {
        topic: OP_TOPIC.into(),
        queue: 0,
        flag: 0,
        sys_flag: 0,
        reconsume_times: 0,
        prepared_offset: 0,
        body: body.into(),
        properties: Bytes::from_static(b"TAGS\x01d\x02"),
        ..like.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(halves: &mut Halves, offset: i64) -> Claim {
        halves.claim(offset, offset).expect("pending")
    }

    #[test]
    fn what_has_ended_is_passed_once_all_before_it_has() {
        let mut halves = Halves::new(10, 3);
        let claims = [12, 10, 11, 13].map(|offset| claim(&mut halves, offset));
        assert_eq!(halves.claim(12, 12), Err(Unended::Claimed));
        halves.release(claims[3]);
        let rows = [(0, 3, (10, 3), 3), (1, 4, (11, 3), 2), (2, 5, (13, 6), 1)];
        for (at, op, offsets, pending) in rows {
            halves.end(claims[at], Some(op));
            assert_eq!((halves.offsets(), halves.pending(14)), (offsets, pending));
            let ended = claims[at].offset;
            assert_eq!(halves.claim(ended, ended), Err(Unended::Ended));
        }
        claim(&mut halves, 13);
    }

    #[test]
    fn one_that_lies_again_is_ended_by_either_offset() {
        for known in [5, 7, 8] {
            let mut halves = Halves::new(5, 0);
            let first = claim(&mut halves, 5);
            halves.moved(first, 7);
            let second = halves.claim(7, 5).expect("pending");
            halves.moved(second, 8);
            let third = halves.claim(known, 5).expect("pending");
            assert_eq!((third.root, third.offset), (5, 8));
            halves.end(third, Some(0));
            for offset in [5, 7, 8] {
                assert_eq!(halves.claim(offset, 5), Err(Unended::Ended), "{offset}");
            }
            let six = claim(&mut halves, 6);
            halves.end(six, Some(1));
            assert_eq!(halves.offsets(), (9, 2));
        }
    }

    #[test]
    fn a_start_finds_the_same() {
        let mut halves = Halves::new(5, 2);
        for (offset, root) in [(5, 5), (6, 6), (7, 5), (8, 8), (9, 5), (10, 6)] {
            halves.found(offset, root);
        }
        assert_eq!((halves.offsets(), halves.pending(11)), ((8, 2), 3));
        halves.found_op(2, [5, 7].into_iter());
        halves.found_op(3, [8].into_iter());
        assert_eq!((halves.offsets(), halves.pending(11)), ((10, 4), 1));
        assert_eq!(halves.claim(7, 5), Err(Unended::Ended));
        assert_eq!(halves.claim(6, 6).expect("pending").offset, 10);
    }
}
