//! Records found by key: their order, limits and damage.

use std::fs;

use super::*;
use crate::KeyLimits;

const ANY: KeyLimits = KeyLimits {
    messages_max: 1000,
    from_ms: i64::MIN,
    to_ms: i64::MAX,
};

fn keyed(topic: &str, n: u32, keys: &str, unique: &str) -> Message {
    let pairs = [(properties::KEYS, keys), (properties::UNIQ_KEY, unique)];
    Message {
        properties: properties::encode(pairs).into(),
        ..message(topic, 0, &[&n.to_be_bytes()[..], &[0; 60]].concat(), None)
    }
}

/// The numbers of the messages with a key.
fn numbers(store: &Store, topic: &str, key: &str, limits: KeyLimits) -> Vec<u32> {
    let found = store.query(topic, key, limits).expect("a query");
    let number = |bytes: &Bytes| {
        let record = Record::decode(bytes).expect("an intact record");
        assert_eq!(record.topic, topic);
        u32::from_be_bytes(record.body[..4].try_into().expect("four"))
    };
    found.iter().map(number).collect()
}

/// 1,500 messages over several segments: each has a key of its own, one of ten and one of all.
fn filled(dir: &Path) -> Store {
    let store = open(dir);
    let message = |n: u32| keyed("T", n, &format!("all d{}", n % 10), &format!("U{n}"));
    let sent = append_all(&store, (0..1500).map(message));
    assert!(sent.iter().all(Result::is_ok));
    store
}

fn check_filled(store: &Store, what: &str) {
    for n in [0, 1, 99, 100, 700, 1498, 1499] {
        assert_eq!(numbers(store, "T", &format!("U{n}"), ANY), [n], "{what}");
    }
    let tens: Vec<_> = (0..150).rev().map(|n| n * 10 + 3).collect();
    assert_eq!(numbers(store, "T", "d3", ANY), tens, "{what}");
    let limits = KeyLimits {
        messages_max: 5,
        ..ANY
    };
    let newest = [1499, 1498, 1497, 1496, 1495];
    assert_eq!(numbers(store, "T", "all", limits), newest, "{what}");
    for (topic, key) in [("T", "U1500"), ("T", ""), ("T", "al"), ("S", "all")] {
        assert_eq!(numbers(store, topic, key, ANY), [0; 0], "{what} {key}");
    }
}

#[test]
fn h20_keys_are_found_in_every_life_of_a_record() {
    let dir = tempfile::tempdir().expect("dir");
    let store = filled(dir.path());
    check_filled(&store, "written");
    store.crash();
    let store = open(dir.path());
    check_filled(&store, "recovered");
    store.close();
    check_filled(&store, "closed");
    drop(store);
    check_filled(&open(dir.path()), "opened");
}

#[test]
fn rules_of_keys() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let flagged = |n, sys_flag| Message {
        sys_flag,
        ..keyed("T", n, "flag", "")
    };
    append_all(
        &store,
        [
            keyed("T", 0, "a b", "u"),
            keyed("S", 1, "a", "u"),
            keyed("T", 2, " b  b ", "b"),
            flagged(3, 0),
            flagged(4, 4),
            flagged(5, 8),
            flagged(6, 12),
        ],
    );
    let rows: [(&str, &str, &[u32]); 6] = [
        ("T", "a", &[0]),
        ("T", "b", &[2, 0]),
        ("T", "u", &[0]),
        ("S", "a", &[1]),
        ("T", "a b", &[]),
        ("T", "flag", &[5, 4, 3]),
    ];
    for _ in ["in memory", "in a run"] {
        for (topic, key, expect) in rows {
            assert_eq!(numbers(&store, topic, key, ANY), expect, "{topic} {key}");
        }
        store.close();
    }
}

#[test]
fn keys_by_time() {
    static NOW: AtomicI64 = AtomicI64::new(0);
    let dir = tempfile::tempdir().expect("dir");
    let clock = || NOW.load(Ordering::Relaxed);
    let store = try_open(dir.path(), Options { clock, ..options() }).expect("open");
    let mut times = Vec::new();
    for n in 0..300u32 {
        let ms = i64::from(n / 7 * 10);
        NOW.store(ms, Ordering::Relaxed);
        times.push(ms);
        let key = if n % 2 == 0 { "k" } else { "" };
        let message = Message {
            body: [&n.to_be_bytes()[..], &[0; 900]].concat().into(),
            ..keyed("T", n, key, "")
        };
        store.append_wait(message).expect("stored");
    }
    let check = |store: &Store| {
        for (from_ms, to_ms, messages_max) in [
            (i64::MIN, i64::MAX, 1000),
            (0, 0, 1000),
            (1, 9, 1000),
            (100, 100, 1000),
            (95, 205, 1000),
            (95, 205, 4),
            (200, 100, 1000),
            (420, i64::MAX, 1000),
            (i64::MIN, 55, 1),
            (i64::MIN, -1, 1000),
            (500, i64::MAX, 1000),
            (0, 1000, 0),
        ] {
            let limits = KeyLimits {
                messages_max,
                from_ms,
                to_ms,
            };
            let inside = |n: &u32| (from_ms..=to_ms).contains(&times[*n as usize]);
            let all = (0..300u32).rev().filter(|n| n % 2 == 0);
            let expect: Vec<_> = all.filter(inside).take(messages_max).collect();
            assert_eq!(numbers(store, "T", "k", limits), expect, "{limits:?}");
        }
    };
    check(&store);
    drop(store);
    check(&open(dir.path()));
}

#[test]
fn h20_damaged_keys_are_rebuilt() {
    let dir = tempfile::tempdir().expect("dir");
    drop(filled(dir.path()));
    let mut flips = 0;
    for item in fs::read_dir(dir.path().join("gantry/index")).expect("dir") {
        let path = item.expect("entry").path();
        let mut bytes = fs::read(&path).expect("read");
        // The keys are the last section.
        let from = bytes.len() - bytes.len() / 3;
        for at in (from..bytes.len()).step_by(bytes.len() / 7) {
            bytes[at] ^= 1;
            flips += 1;
        }
        fs::write(&path, bytes).expect("write");
    }
    assert!(flips > 4, "{flips}");
    check_filled(&open(dir.path()), "damaged");
    check_filled(&open(dir.path()), "rebuilt");
}

/// A run of a version that knew no keys.
#[test]
fn h20_runs_without_keys_are_read() {
    let dir = tempfile::tempdir().expect("dir");
    drop(filled(dir.path()));
    for item in fs::read_dir(dir.path().join("gantry/index")).expect("dir") {
        let path = item.expect("entry").path();
        let mut bytes = fs::read(&path).expect("read");
        // Section 3 becomes one that nobody knows.
        bytes[81] = 77;
        let crc = crc32fast::hash(&bytes[..102]).to_be_bytes();
        bytes[102..106].copy_from_slice(&crc);
        fs::write(&path, bytes).expect("write");
    }
    let store = open(dir.path());
    assert_eq!(numbers(&store, "T", "all", ANY), [0; 0]);
    assert_eq!(bodies(&store, "T", 0).len(), 1500);
    let more = (1500..3000).map(|n| keyed("T", n, "all", ""));
    append_all(&store, more);
    store.close();
    // The segment that was open then has got its keys by being merged.
    let found = numbers(
        &store,
        "T",
        "all",
        KeyLimits {
            messages_max: 3000,
            ..ANY
        },
    );
    assert!(found.len() > 1500, "{}", found.len());
}

#[test]
fn h17_a_damaged_record_is_passed_over() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let keys = |n| if n == 4 { "k only" } else { "k" };
    let sent = append_all(&store, (0..9).map(|n| keyed("T", n, keys(n), "")));
    let position = sent[4].as_ref().expect("stored").position;
    let path = dir.path().join("commitlog/00000000000000000000");
    let mut log = fs::read(&path).expect("read");
    // Its queue, which the body's CRC does not cover.
    log[position as usize + 15] ^= 1;
    fs::write(&path, log).expect("write");
    assert_eq!(numbers(&store, "T", "k", ANY), [8, 7, 6, 5, 3, 2, 1, 0]);
    let error = store.query("T", "only", ANY).expect_err("damaged");
    assert!(
        matches!(error, crate::ReadError::Corrupt { position: at } if at == position),
        "{error}"
    );
    store.crash();
}

#[test]
fn keys_are_cut_with_the_log() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let sent = append_all(&store, (0..9).map(|n| keyed("T", n, "k", "")));
    store.crash();
    let path = dir.path().join("commitlog/00000000000000000000");
    let mut log = fs::read(&path).expect("read");
    log[sent[6].as_ref().expect("stored").position as usize + 60] ^= 1;
    fs::write(&path, log).expect("write");
    let store = open(dir.path());
    assert_eq!(numbers(&store, "T", "k", ANY), [5, 4, 3, 2, 1, 0]);
    append_all(&store, (20..22).map(|n| keyed("T", n, "k", "")));
    assert_eq!(numbers(&store, "T", "k", ANY), [21, 20, 5, 4, 3, 2, 1, 0]);
}

#[test]
fn h15_hidden_messages_are_not_found_by_key() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append_all(&store, (0..9).map(|n| keyed("T", n, "k", "")));
    store.raise_min("T", 0, 5);
    assert_eq!(numbers(&store, "T", "k", ANY), [8, 7, 6, 5]);
}
