//! The base, the retention and the JSON files, on a broker without ports and at times of our own.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use protocol::body::SubscriptionGroupConfig;
use protocol::record::Message;
use protocol::topic::STATE_TOPIC;
use store::{OpenError, Range, ReadLimits, ReadStatus, Volume, Wait, state};

use super::*;
use crate::tables::{Change, Offset, Tables};
use crate::{Broker, RunError, base, process, upkeep};

const HOUR_MS: i64 = 3_600_000;
pub(super) const HALF_USED: Option<Volume> = Some(Volume {
    used_bytes: 50 << 20,
    total_bytes: 100 << 20,
});
const FULL: Option<Volume> = Some(Volume {
    used_bytes: 99 << 20,
    total_bytes: 100 << 20,
});

/// Opens the broker of a directory, with further settings. To drop it leaves it without a base.
pub(super) fn open(dir: &Path, settings: &str) -> Arc<Broker> {
    let text = format!(
        "{{cluster: c, broker: b, dataDir: {dir:?}, advertise: 'b:1', storeHost: '10.0.0.1:1', \
         listen: {{remoting: '127.0.0.1:0', http: '127.0.0.1:0'}}, segmentBytes: 65536{settings}}}"
    );
    let config = Config::parse(&text, Path::new("test")).expect("good");
    // A callback on the store's thread may be the last to let go of the one before.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match process::open(config.clone(), Arc::default()) {
            Err(RunError::Store {
                error: OpenError::Locked(_),
                ..
            }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return Arc::new(opened.expect("opens")),
        }
    }
}

pub(super) fn change(broker: &Arc<Broker>, change: Change) {
    let (sender, receiver) = mpsc::channel();
    broker.change(vec![change], move |_, written| {
        sender.send(written).expect("waited for");
    });
    receiver.recv().expect("answered").expect("written");
}

pub(super) fn topic(name: &str, reserve_hours: Option<i64>) -> Change {
    let attribute = |hours: i64| ("reserve.time".to_owned(), hours.to_string());
    Change::Topic(TopicConfig {
        topic_name: name.into(),
        attributes: reserve_hours.map(attribute).into_iter().collect(),
        ..TopicConfig::default()
    })
}

pub(super) fn group(name: &str) -> Change {
    Change::Group(SubscriptionGroupConfig {
        group_name: name.into(),
        ..SubscriptionGroupConfig::default()
    })
}

fn offset(topic: &str, group: &str, offset: i64) -> Offset {
    Offset {
        topic: topic.into(),
        group: group.into(),
        queue: 0,
        offset,
    }
}

pub(super) fn append(
    broker: &Broker,
    topic: &str,
    bytes: usize,
) -> Result<i64, store::AppendError> {
    let host = broker.config.store_host;
    let message = Message {
        topic: topic.into(),
        ..crate::request::state_message(Bytes::from(vec![7; bytes]), host)
    };
    broker
        .store
        .append_wait(message)
        .map(|appended| appended.queue_offset)
}

/// Stores messages until so many files of the log may go, or more.
pub(super) fn fill(broker: &Broker, topic: &str, files: usize) {
    let deadline = Instant::now() + SECOND * 20;
    while broker.store.sealed().len() < files {
        append(broker, topic, 10_000).expect("stored");
        assert!(Instant::now() < deadline, "no file is complete");
    }
    let sealed = || broker.store.sealed().last().map_or(0, |file| file.end);
    while broker.store.status().confirm - sealed() > 65_536 {
        std::thread::yield_now();
        assert!(Instant::now() < deadline, "a complete file has no index");
    }
}

fn range(broker: &Broker, topic: &str) -> (i64, i64) {
    let Range { min, max } = broker.store.range(topic, 0).unwrap_or_default();
    (min, max)
}

pub(super) fn later(hours: i64) -> i64 {
    process::unix_ms() + hours * HOUR_MS
}

#[tokio::test]
async fn c2_state_outlives_the_files_of_its_records() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), "");
    for name in ["T", "Idle", "Deleted"] {
        change(&broker, topic(name, None));
    }
    change(&broker, group("g"));
    change(&broker, Change::Offsets(vec![offset("Idle", "g", 30)]));
    for _ in 0..40 {
        append(&broker, "Idle", 10).expect("stored");
        append(&broker, "Deleted", 10).expect("stored");
    }
    change(&broker, Change::TopicDeleted("Deleted".into()));
    fill(&broker, "T", 3);
    broker.commit_offset(offset("T", "g", 2));
    upkeep::pass(&broker, later(71), HALF_USED).expect("works");
    assert_eq!(broker.store.status().log_start, 0, "nothing is old enough");
    upkeep::pass(&broker, later(73), HALF_USED).expect("works");
    assert_eq!(broker.store.sealed(), [], "all are");
    assert!(broker.store.range(STATE_TOPIC, 0).expect("known").min > 5);
    let tables = broker.tables().snapshot();
    let t = range(&broker, "T");
    drop(broker);
    let broker = open(dir.path(), "");
    assert_eq!(broker.tables().snapshot(), tables);
    assert_eq!(
        broker.tables().offset("T", "g", 0),
        Some(2),
        "it was not in the log yet"
    );
    assert_eq!((range(&broker, "T"), range(&broker, "Idle")), (t, (40, 40)));
    assert_eq!(append(&broker, "Idle", 10), Ok(40));
    assert_eq!(range(&broker, "Deleted"), (40, 40));
    base::write(&broker).expect("written");
    assert_eq!(
        broker.store.range("Deleted", 0),
        None,
        "nothing is left of it"
    );
}

/// The tables that the state records below a position make, without any base.
fn replayed(broker: &Broker, below: u64) -> Tables {
    let mut tables = Tables::new("c", "b", 1, None);
    let limits = ReadLimits {
        messages_max: 1,
        bytes_max: 1,
        scan_max: 1,
    };
    for from in 0.. {
        let wait = Wait::ForDisk;
        let read = broker
            .store
            .read(STATE_TOPIC, 0, from, &limits, &mut |_| true, wait);
        let read = read.expect("read");
        if read.status != ReadStatus::Found {
            break;
        }
        let record = Record::decode(&read.records[0]).expect("intact");
        if record.position >= below {
            break;
        }
        for entry in state::decode(record.body).expect("intact") {
            if let Some(change) = Change::decode(entry).expect("known") {
                tables.apply(change, 0);
            }
        }
    }
    tables
}

#[tokio::test]
async fn c3_a_base_holds_what_the_records_below_it_say() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), "");
    let changing = Arc::clone(&broker);
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        for round in 0.. {
            let name = format!("T{}", round % 7);
            let one = if round % 3 == 2 {
                Change::TopicDeleted(name)
            } else {
                topic(&name, Some(round))
            };
            changing.change(vec![one], |_, written| written.expect("written"));
            if round % 16 == 0 {
                change(&changing, group(&format!("g{round}")));
                if stopped.try_recv() != Err(mpsc::TryRecvError::Empty) {
                    return;
                }
            }
        }
    });
    let mut positions = Vec::new();
    for _ in 0..20 {
        base::write(&broker).expect("written");
        let base = broker.store.base().expect("intact").expect("written");
        let mut tables = Tables::new("c", "b", 1, None);
        for entry in state::decode(&base.state).expect("intact") {
            tables.apply(Change::decode(entry).expect("known").expect("a change"), 0);
        }
        let expect = replayed(&broker, base.position).snapshot();
        assert_eq!(tables.snapshot(), expect, "at {}", base.position);
        positions.push(base.position);
    }
    drop(stop);
    thread.join().expect("no panic");
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
}

#[tokio::test]
async fn h15_offsets_of_a_topic_created_again_go_on() {
    let dir = tempfile::tempdir().expect("dir");
    let mut broker = open(dir.path(), "");
    change(&broker, topic("T", None));
    for _ in 0..10 {
        append(&broker, "T", 10).expect("stored");
    }
    change(&broker, Change::TopicDeleted("T".into()));
    assert_eq!(range(&broker, "T"), (10, 10), "nothing of it is shown");
    // Of a producer that had not heard of it yet.
    assert_eq!(append(&broker, "T", 10), Ok(10));
    change(&broker, topic("T", None));
    assert_eq!(range(&broker, "T"), (11, 11));
    assert_eq!(append(&broker, "T", 10), Ok(11));
    change(&broker, topic("T", Some(5)));
    assert_eq!(range(&broker, "T"), (11, 12), "a change is no creation");
    for with_base in [false, true, true] {
        if with_base {
            base::write(&broker).expect("written");
        }
        drop(broker);
        broker = open(dir.path(), "");
        assert_eq!(range(&broker, "T"), (11, 12), "base: {with_base}");
    }
}

#[tokio::test]
async fn h14_a_json_that_another_program_changed_is_the_truth() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), "");
    for name in ["Kept", "Dropped"] {
        change(&broker, topic(name, None));
    }
    change(&broker, group("g"));
    broker.commit_offset(offset("Kept", "g", 5));
    process::close(&broker);
    drop(broker);
    let path = |name: &str| dir.path().join("config").join(name);
    let names = [
        "topics.json",
        "subscriptionGroup.json",
        "consumerOffset.json",
    ];
    assert!(names.iter().all(|name| path(name).exists()));

    let broker = open(dir.path(), "");
    let before = broker.store.range(STATE_TOPIC, 0).expect("known").max;
    drop(broker);
    let records = |broker: &Broker| broker.store.range(STATE_TOPIC, 0).expect("known").max;
    let broker = open(dir.path(), "");
    assert_eq!(
        records(&broker),
        before + 1,
        "only the epoch: nobody changed a file"
    );
    drop(broker);

    let edit = |name: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(path(name)).expect("read");
        assert!(text.contains(from), "{text}");
        std::fs::write(path(name), text.replace(from, to)).expect("written");
    };
    edit("topics.json", "Dropped", "Added");
    edit("consumerOffset.json", "{0:5}", "{0:3}");
    let check = |broker: &Broker| {
        let tables = broker.tables();
        for (name, there) in [("Kept", true), ("Dropped", false), ("Added", true)] {
            assert_eq!(tables.topic(name).is_some(), there, "{name}");
        }
        assert_eq!(tables.offset("Kept", "g", 0), Some(3));
        assert!(tables.group("g").is_some());
    };
    let broker = open(dir.path(), "");
    check(&broker);
    drop(broker);
    // It is in the log now.
    std::fs::remove_dir_all(dir.path().join("config")).expect("removed");
    check(&open(dir.path(), ""));
}

#[tokio::test]
async fn a_topic_is_kept_for_its_own_time() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), ", retention: 10h");
    change(&broker, topic("Short", Some(1)));
    change(&broker, topic("Long", Some(100)));
    append(&broker, "Long", 10).expect("stored");
    append(&broker, "Short", 10).expect("stored");
    fill(&broker, "T", 2);
    append(&broker, "Long", 10).expect("stored");
    let pass = |hours| upkeep::pass(&broker, later(hours), HALF_USED).expect("works");
    pass(0);
    assert_eq!(range(&broker, "Short"), (0, 1));
    pass(2);
    // The minimum is a record like any other.
    change(&broker, group("g"));
    assert_eq!(range(&broker, "Short"), (1, 1));
    pass(50);
    assert_eq!(
        broker.store.status().log_start,
        0,
        "it holds a message of Long"
    );
    pass(101);
    change(&broker, group("g"));
    assert!(broker.store.status().log_start > 0, "now it does not");
    assert_eq!(range(&broker, "Long"), (2, 2));
    drop(broker);
    let broker = open(dir.path(), "");
    assert_eq!(
        (range(&broker, "Short"), range(&broker, "Long")),
        ((1, 1), (2, 2))
    );
}

#[tokio::test]
async fn a_used_disk_loses_only_what_every_group_has_consumed() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), "");
    for name in ["g", "h"] {
        change(&broker, group(name));
    }
    change(&broker, topic("T", None));
    fill(&broker, "T", 3);
    let start = || broker.store.status().log_start;
    upkeep::pass(&broker, later(0), FULL).expect("works");
    assert_eq!(start(), 0, "no group has consumed it");
    let (_, end) = range(&broker, "T");
    broker.commit_offset(offset("T", "g", end));
    broker.commit_offset(offset("T", "h", 8));
    upkeep::pass(&broker, later(0), HALF_USED).expect("works");
    assert_eq!(start(), 0, "there is space");
    upkeep::pass(&broker, later(0), FULL).expect("works");
    assert_eq!(start(), 65_536, "h has consumed the first file");
    broker.commit_offset(offset("T", "h", end));
    upkeep::pass(&broker, later(0), FULL).expect("works");
    assert!(start() >= 3 * 65_536 && broker.store.sealed().is_empty());
    assert_eq!(append(&broker, "T", 10), Ok(end));
}

#[tokio::test]
async fn a_full_disk_refuses_sends_says_why_and_goes_on_with_offsets() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), "");
    change(&broker, group("g"));
    change(&broker, topic("T", None));
    fill(&broker, "T", 2);
    change(&broker, Change::Offsets(vec![offset("T", "g", 1)]));
    drop(broker);
    let full = ", diskUsedPercentClean: 1, diskUsedPercentReject: 1";
    let broker = open(dir.path(), full);
    upkeep::pass(&broker, later(0), FULL).expect("works");
    let refused = append(&broker, "T", 10).expect_err("full").to_string();
    let (_, why) = refused
        .split_once(" % of the disk is used; ")
        .expect("how much");
    assert!(why.starts_with("the oldest "), "{refused}");
    assert!(
        why.ends_with(" are kept for group g (topic T, queue 0)"),
        "{refused}"
    );
    change(&broker, Change::Offsets(vec![offset("T", "g", 2)]));
    assert!(base::write(&broker).is_ok());
    let min = range(&broker, "T").0;
    drop(broker);
    let broker = open(
        dir.path(),
        &format!("{full}, deleteUnconsumedWhenFull: true"),
    );
    upkeep::pass(&broker, later(0), FULL).expect("works");
    assert!(range(&broker, "T").0 > min, "by the operator's word");
}
