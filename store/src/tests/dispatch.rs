//! One record in many queues.

use std::fs;

use protocol::properties::{INNER_MULTI_DISPATCH, INNER_MULTI_QUEUE_OFFSET};

use super::*;
use crate::Boundary;

const FIRST_SEGMENT: &str = "commitlog/00000000000000000000";

fn multi() -> Options {
    Options {
        multi_dispatch: true,
        tail_bytes_max: 0,
        ..options()
    }
}

fn to_all(topic: &str, n: u32, targets: &str) -> Message {
    let pairs = [
        (INNER_MULTI_DISPATCH, targets),
        (INNER_MULTI_QUEUE_OFFSET, "77"),
    ];
    Message {
        properties: properties::encode(pairs).into(),
        ..message(topic, 1, &[&n.to_be_bytes()[..], &[0; 200]].concat(), None)
    }
}

/// The number in each record of a queue, and the offsets that the record names.
fn list(store: &Store, topic: &str, queue: i32) -> Vec<(u32, Option<String>)> {
    let found = read(store, topic, queue, 0);
    let number = |bytes: &Bytes| {
        let record = Record::decode(bytes).expect("an intact record");
        let number = u32::from_be_bytes(record.body[..4].try_into().expect("four"));
        (
            number,
            record.property(INNER_MULTI_QUEUE_OFFSET).map(Into::into),
        )
    };
    found.records.iter().map(number).collect()
}

/// Message n goes to `a` if it is even, to `b` always, and every tenth is sent to `a` itself.
fn fill(store: &Store, count: u32) {
    let all = (0..count).map(|n| match n {
        n if n % 10 == 0 => message("%LMQ%a", 0, &n.to_be_bytes(), None),
        n if n % 2 == 0 => to_all("T", n, "%LMQ%b,%LMQ%a"),
        n => to_all("T", n, "%LMQ%b"),
    });
    assert!(append_all(store, all).iter().all(Result::is_ok));
}

fn check(store: &Store, count: u32, what: &str) {
    let direct = |n: &u32| n.is_multiple_of(10);
    let in_a: Vec<_> = (0..count).filter(|n| n % 2 == 0).collect();
    let in_b: Vec<_> = (0..count).filter(|n| !direct(n)).collect();
    let at = |list: &[u32], n| list.iter().position(|other| *other == n);
    let offsets = |n: u32| match (direct(&n), at(&in_b, n), at(&in_a, n)) {
        (false, Some(b), Some(a)) => Some(format!("{b},{a}")),
        (false, Some(b), None) => Some(b.to_string()),
        _ => None,
    };
    let expect = |list: &[u32]| list.iter().map(|n| (*n, offsets(*n))).collect::<Vec<_>>();
    assert_eq!(list(store, "%LMQ%a", 0), expect(&in_a), "a, {what}");
    assert_eq!(list(store, "%LMQ%b", 0), expect(&in_b), "b, {what}");
    assert_eq!(list(store, "T", 1), expect(&in_b), "T, {what}");
    let late = store.offset_at_time("%LMQ%a", 0, i64::MAX, Boundary::Upper);
    assert_eq!(late.expect("read"), Some(in_a.len() as i64 - 1), "{what}");
}

#[test]
fn m6_one_record_in_many_queues() {
    let dir = tempfile::tempdir().expect("dir");
    let store = try_open(dir.path(), multi()).expect("open");
    fill(&store, 1500);
    check(&store, 1500, "written");
    store.crash();
    let store = try_open(dir.path(), multi()).expect("open");
    check(&store, 1500, "recovered");
    drop(store);
    check(
        &try_open(dir.path(), multi()).expect("open"),
        1500,
        "opened",
    );
    for item in fs::read_dir(dir.path().join("gantry/index")).expect("dir") {
        fs::remove_file(item.expect("entry").path()).expect("removed");
    }
    // Read by a store that does not take new ones.
    check(&open(dir.path()), 1500, "rebuilt");
}

#[test]
fn m6_arrivals_and_refusals() {
    let dir = tempfile::tempdir().expect("dir");
    let (sender, arrived) = mpsc::channel();
    let announce = Box::new(move |new: &[crate::Arrival], _| {
        let places = new
            .iter()
            .map(|new| (new.topic.to_string(), new.queue, new.offset));
        let places: Vec<_> = places.collect();
        if !places.is_empty() {
            let _ = sender.send(places);
        }
    });
    let store = Store::open(dir.path(), multi(), announce).expect("open");
    let own = Message {
        queue: 0,
        ..to_all("%LMQ%o", 0, "%LMQ%o")
    };
    let flagged = Message {
        sys_flag: 4,
        ..to_all("T", 0, "%LMQ%x")
    };
    let many = (0..257)
        .map(|n| format!("%LMQ%{n}"))
        .collect::<Vec<_>>()
        .join(",");
    for message in [
        to_all("T", 0, "LMQ"),
        to_all("T", 0, "%LMQ%"),
        to_all("T", 0, "%LMQ%a,"),
        to_all("T", 0, "%LMQ%a,%LMQ%a"),
        to_all("T", 0, &format!("%LMQ%{}", "x".repeat(251))),
        to_all("T", 0, &many),
        own,
    ] {
        let refused = store.append_wait(message);
        assert_eq!(refused, Err(AppendError::Targets));
    }
    for ignored in [
        to_all("%RETRY%g", 0, "%LMQ%x"),
        to_all("rmq_sys_x", 0, "%LMQ%x"),
        to_all("SCHEDULE_TOPIC_XXXX", 0, "%LMQ%x"),
        flagged,
    ] {
        store.append_wait(ignored).expect("stored");
        assert_eq!(store.range("%LMQ%x", 0), None);
    }
    for _ in 0..3 {
        arrived.recv().expect("announced");
    }
    store
        .append_wait(to_all("T", 0, "%LMQ%x,%LMQ%y"))
        .expect("stored");
    let expect = [("T", 1, 0), ("%LMQ%x", 0, 0), ("%LMQ%y", 0, 0)];
    let expect = expect.map(|(topic, queue, offset)| (topic.to_owned(), queue, offset));
    assert_eq!(arrived.recv().expect("announced"), expect);
    drop(store);
    let off = open(dir.path());
    off.append_wait(to_all("T", 1, "%LMQ%x")).expect("stored");
    assert_eq!(off.range("%LMQ%x", 0).expect("a queue").max, 1, "not taken");
    assert_eq!(
        list(&off, "T", 1)[1],
        (1, None),
        "the sender's claim is gone"
    );
}

#[test]
fn m6_offsets_that_do_not_follow_are_corruption() {
    for claimed in ["1", "3", "-1", "2,2", "x", ""] {
        let dir = tempfile::tempdir().expect("dir");
        let store = try_open(dir.path(), multi()).expect("open");
        for n in 0..2 {
            store.append_wait(to_all("T", n, "%LMQ%a")).expect("stored");
        }
        let last = store.append_wait(to_all("T", 2, "%LMQ%a")).expect("stored");
        store.crash();
        let path = dir.path().join(FIRST_SEGMENT);
        let mut log = fs::read(&path).expect("read");
        let mut forged = to_all("T", 2, "%LMQ%a");
        let pairs = [
            (INNER_MULTI_DISPATCH, "%LMQ%a"),
            (INNER_MULTI_QUEUE_OFFSET, claimed),
        ];
        forged.properties = properties::encode(pairs).into();
        let mut encoded = forged.encode(last.store_host).expect("encoded");
        let record = encoded.place(2, last.position, last.store_ms);
        let at = last.position as usize;
        log[at..].fill(0);
        log[at..at + record.len()].copy_from_slice(record);
        let end = last.position + record.len() as u64;
        fs::write(&path, log).expect("write");
        if claimed.is_empty() {
            // No offsets, so no other queues, as Java without multi-dispatch writes it.
            let store = open(dir.path());
            assert_eq!(store.range("%LMQ%a", 0).expect("a queue").max, 2);
            assert_eq!(store.range("T", 1).expect("a queue").max, 3);
            continue;
        }
        let copy = copy_of(dir.path());
        let store = open(copy.path());
        assert_eq!(
            (list(&store, "T", 1).len(), store.status().cuts),
            (2, 1),
            "{claimed}"
        );
        let checkpoint = crate::checkpoint::Checkpoint::load(dir.path()).expect("load");
        let durable = crate::checkpoint::Checkpoint {
            durable: end,
            ..checkpoint
        };
        durable.write(dir.path()).expect("write");
        let error = try_open(dir.path(), multi()).expect_err("corrupt");
        assert!(
            matches!(error, OpenError::Corrupt { position, .. } if position == last.position),
            "{claimed}: {error}"
        );
    }
}
