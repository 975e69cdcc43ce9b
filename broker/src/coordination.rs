//! What consumers of a group must agree on: who reads a queue in order, and where an
//! administrator has sent the group (`RebalanceLockManager.java`, `ConsumerOffsetManager.java`).
//!
//! Both tables are in memory only: clients lock anew every 20 s, and the offset of a reset is
//! also written as the group's own. Time is an argument.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use foldhash::HashMap;
use protocol::body::MessageQueue;

#[derive(Debug, Default)]
pub struct Coordination {
    pub locks: Locks,
    /// Where groups were sent, until their next pull of the queue has been told so.
    pub resets: QueueOffsets,
    /// What members have been given: it may not be consumed yet.
    pub pulled: QueueOffsets,
}

/// A lock that is not renewed for so long is free (`lockMaxLiveTime`).
pub const LOCK_MS_MAX: i64 = 60_000;

/// Which client of a group has which queues for itself.
#[derive(Debug, Default)]
pub struct Locks {
    groups: HashMap<String, HashMap<MessageQueue, Lock>>,
    swept_ms: i64,
}

#[derive(Debug)]
struct Lock {
    client: String,
    renewed_ms: i64,
}

impl Lock {
    fn free(&self, now_ms: i64) -> bool {
        now_ms - self.renewed_ms > LOCK_MS_MAX
    }
}

impl Locks {
    /// Takes or renews queues; those that the client now has are returned.
    pub fn lock(
        &mut self,
        group: &str,
        client: &str,
        queues: Vec<MessageQueue>,
        now_ms: i64,
    ) -> Vec<MessageQueue> {
        self.sweep(now_ms);
        let locks = self.groups.entry(group.to_owned()).or_default();
        let mut locked = Vec::new();
        for queue in queues {
            let held = locks.get(&queue);
            if held.is_none_or(|lock| lock.client == client || lock.free(now_ms)) {
                let lock = Lock {
                    client: client.to_owned(),
                    renewed_ms: now_ms,
                };
                locks.insert(queue.clone(), lock);
                locked.push(queue);
            }
        }
        locked
    }

    /// Gives back the queues that the client has.
    pub fn unlock(&mut self, group: &str, client: &str, queues: &[MessageQueue]) {
        let Some(locks) = self.groups.get_mut(group) else {
            return;
        };
        for queue in queues {
            if locks.get(queue).is_some_and(|lock| lock.client == client) {
                locks.remove(queue);
            }
        }
    }

    /// Whether a client of the group reads some queue in order.
    pub fn held(&self, group: &str, now_ms: i64) -> bool {
        let locks = self.groups.get(group);
        locks.is_some_and(|locks| locks.values().any(|lock| !lock.free(now_ms)))
    }

    /// Forgets what nobody has renewed, once in a lock's life.
    fn sweep(&mut self, now_ms: i64) {
        if (now_ms - self.swept_ms).abs() <= LOCK_MS_MAX {
            return;
        }
        self.swept_ms = now_ms;
        self.groups.retain(|_, locks| {
            locks.retain(|_, lock| !lock.free(now_ms));
            !locks.is_empty()
        });
    }
}

/// Offsets of groups, by topic and queue.
#[derive(Debug, Default)]
pub struct QueueOffsets {
    /// Topic to group to queue to offset.
    topics: HashMap<String, HashMap<String, BTreeMap<i32, i64>>>,
}

impl QueueOffsets {
    pub fn set(&mut self, topic: &str, group: &str, queues: impl IntoIterator<Item = (i32, i64)>) {
        let known = self.topics.get_mut(topic).and_then(|g| g.get_mut(group));
        if let Some(known) = known {
            known.extend(queues);
            return;
        }
        let groups = self.topics.entry(topic.to_owned()).or_default();
        groups.entry(group.to_owned()).or_default().extend(queues);
    }

    pub fn get(&self, topic: &str, group: &str, queue: i32) -> Option<i64> {
        self.topics.get(topic)?.get(group)?.get(&queue).copied()
    }

    pub fn take(&mut self, topic: &str, group: &str, queue: i32) -> Option<i64> {
        let groups = self.topics.get_mut(topic)?;
        let queues = groups.get_mut(group)?;
        let offset = queues.remove(&queue);
        if queues.is_empty() {
            groups.remove(group);
        }
        if groups.is_empty() {
            self.topics.remove(topic);
        }
        offset
    }

    pub fn forget_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    pub fn forget_group(&mut self, group: &str) {
        self.topics.retain(|_, groups| {
            groups.remove(group);
            !groups.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(id: i32) -> MessageQueue {
        MessageQueue {
            topic: "T".into(),
            broker_name: "b".into(),
            queue_id: id,
        }
    }

    #[test]
    fn a_queue_is_locked_for_one_client_until_it_lets_go_or_falls_silent() {
        let mut locks = Locks::default();
        let now = 1_700_000_000_000;
        let end = now + LOCK_MS_MAX;
        // Who asks for which queues when, and gets which; `None` gives queue 0 back.
        for (client, at, asked, got) in [
            ("a", now, Some(vec![0, 1]), vec![0, 1]),
            ("b", now, Some(vec![0, 2]), vec![2]),
            ("a", now + 1, Some(vec![0]), vec![0]),
            ("b", end, Some(vec![0, 1]), vec![]),
            ("b", end + 1, Some(vec![0, 1]), vec![1]),
            ("b", end + 1, None, vec![]),
            ("b", end + 1, Some(vec![0]), vec![]),
            ("a", end + 1, None, vec![]),
            ("b", end + 1, Some(vec![0]), vec![0]),
            ("a", end * 2, Some(vec![0]), vec![0]),
        ] {
            match asked {
                Some(asked) => {
                    let asked = asked.into_iter().map(queue).collect();
                    let locked = locks.lock("g", client, asked, at);
                    let locked: Vec<i32> = locked.iter().map(|queue| queue.queue_id).collect();
                    assert_eq!(locked, got, "{client} at {at}");
                }
                None => locks.unlock("g", client, &[queue(0)]),
            }
        }
        assert!(locks.held("g", end * 2) && !locks.held("other", end * 2));
        assert!(!locks.held("g", end * 2 + LOCK_MS_MAX + 1));
        locks.lock("other", "a", vec![], end * 4);
        assert!(
            !locks.groups.contains_key("g"),
            "what is not renewed is forgotten"
        );
    }

    #[test]
    fn a_reset_is_told_once() {
        let mut resets = QueueOffsets::default();
        resets.set("T", "g", [(0, 5), (1, 7)]);
        assert_eq!(resets.get("T", "g", 0), Some(5));
        assert_eq!(resets.take("T", "g", 0), Some(5));
        assert_eq!(resets.take("T", "g", 0), None);
        assert_eq!(resets.take("T", "h", 1), None);
        resets.forget_group("g");
        assert!(resets.topics.is_empty());
        resets.set("T", "g", [(0, 5)]);
        resets.forget_topic("T");
        assert_eq!(resets.get("T", "g", 0), None);
    }
}
