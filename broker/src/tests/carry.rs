//! Delayed messages outlive the log files that they lie in.

use std::sync::{Arc, mpsc};

use protocol::properties;
use protocol::record::Message;
use protocol::topic::SCHEDULE_TOPIC;
use store::{AppendError, Appended, ReadLimits, ReadStatus, Wait};

use super::upkeep::{HALF_USED, fill, later, open};
use super::*;
use crate::{Broker, schedule, upkeep};

const DAYS: &str = ", properties: {messageDelayLevel: '1s 1s 100d'}";

/// Sends a message with the delay of a level; what the store says comes later.
fn send(broker: &Broker, level: i32, key: &str) -> mpsc::Receiver<Result<Appended, AppendError>> {
    let pairs = [("KEYS", key), ("DELAY", &level.to_string())];
    let message = Message {
        topic: "T".into(),
        properties: properties::encode(pairs).into(),
        ..crate::request::state_message(bytes::Bytes::from(vec![7; 100]), broker.config.store_host)
    };
    let levels = &broker.config.properties.message_delay_level;
    let message = levels.redirect(message).expect("good");
    let (sender, receiver) = mpsc::channel();
    let done = move |appended| sender.send(appended).expect("waited for");
    broker.delays.append(&broker.store, message, Box::new(done));
    receiver
}

fn stored(broker: &Broker, level: i32, key: &str) -> Appended {
    send(broker, level, key)
        .recv_timeout(SECOND * 10)
        .expect("in time")
        .expect("stored")
}

/// Keys and the time from which the delay counts, of a level's messages from an offset on.
fn waiting(broker: &Broker, level: i32, from: i64) -> Vec<(String, i64)> {
    let limits = ReadLimits {
        messages_max: 1_000,
        bytes_max: 1 << 20,
        scan_max: 1_000,
    };
    let (mut found, mut from) = (Vec::new(), from);
    loop {
        let any = &mut |_| true;
        let read = broker
            .store
            .read(SCHEDULE_TOPIC, level - 1, from, &limits, any, Wait::ForDisk)
            .expect("read");
        if read.status != ReadStatus::Found {
            return found;
        }
        found.extend(read.records.iter().map(|stored| {
            let record = Record::decode(stored).expect("intact");
            let key = record.property("KEYS").expect("a key").to_owned();
            (key, record.delayed_since_ms())
        }));
        from = read.next;
    }
}

async fn pass(broker: &Arc<Broker>, hours: i64) {
    let owner = Arc::clone(broker);
    let passed = tokio::task::spawn_blocking(move || upkeep::pass(&owner, later(hours), HALF_USED));
    passed.await.expect("no panic").expect("works");
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_delayed_messages_outlive_their_log_files() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), DAYS);
    let stop = CancellationToken::new();
    let task = tokio::spawn(schedule::run(Arc::clone(&broker), stop.clone()));
    let sent: Vec<_> = (0..70)
        .map(|n| {
            (
                format!("k{n}"),
                stored(&broker, 3, &format!("k{n}")).store_ms,
            )
        })
        .collect();
    fill(&broker, "T", 2);
    let late = stored(&broker, 3, "late").store_ms;
    let mut expect = sent.clone();
    expect.push(("late".to_owned(), late));
    for round in 1..=2 {
        let before = broker.store.status().confirm;
        pass(&broker, 80).await;
        let status = broker.store.status();
        assert!(status.log_start > 0 && status.log_start <= before);
        let next = broker.tables().delivered.next(2);
        assert_eq!(next, 71 * round, "what was copied is done with");
        assert_eq!(waiting(&broker, 3, next), expect);
        fill(&broker, "T", 2);
    }
    // The copies are as good as their originals, after a crash too.
    stop.cancel();
    task.await.expect("no panic");
    drop(broker);
    let broker = open(dir.path(), DAYS);
    let next = broker.tables().delivered.next(2);
    assert_eq!(waiting(&broker, 3, next), expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_while_messages_move_come_behind_them() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), DAYS);
    let stop = CancellationToken::new();
    let task = tokio::spawn(schedule::run(Arc::clone(&broker), stop.clone()));
    for n in 0..200 {
        stored(&broker, 3, &format!("k{n}"));
    }
    fill(&broker, "T", 2);
    let sender = Arc::clone(&broker);
    let (end, ended) = mpsc::channel::<()>();
    let sending = std::thread::spawn(move || {
        let mut count = 0;
        while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
            stored(&sender, 3, &format!("new{count}"));
            count += 1;
        }
        count
    });
    pass(&broker, 80).await;
    drop(end);
    let count = sending.join().expect("no panic");
    let found = waiting(&broker, 3, broker.tables().delivered.next(2));
    let times: Vec<i64> = found.iter().map(|(_, since)| *since).collect();
    assert!(times.is_sorted(), "{found:?}");
    assert_eq!(found.len(), 200 + count);
    stop.cancel();
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_delayed_message_that_cannot_move_keeps_its_file() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), DAYS);
    stored(&broker, 3, "k");
    fill(&broker, "T", 2);
    // The task that delivers is about to end.
    drop(broker.delays.asks());
    upkeep::pass(&broker, later(80), HALF_USED).expect("works");
    assert_eq!(broker.store.status().log_start, 0);
    assert_eq!(waiting(&broker, 3, 0).len(), 1);
}
