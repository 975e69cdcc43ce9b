//! The bytes of Gantry's own files; docs/spec/store.md describes them.

use super::*;
use crate::keys::Key;
use crate::run::{self, Entry, Part, Run, Stretch};
use crate::state::{self, Epoch};

#[test]
fn a_run() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x.run");
    let parts = [
        Part {
            topic: "A".into(),
            queue: 2,
            first: 3,
            count: 1,
            entry: 0,
            min_ms: 4,
            max_ms: 5,
        },
        Part {
            topic: "BC".into(),
            queue: -1,
            first: 6,
            count: 2,
            entry: 1,
            min_ms: 7,
            max_ms: 8,
        },
    ];
    let entries = [(9, 10, 11), (12, 13, -1), (14, 15, 16)];
    let entries = entries.map(|(position, size, tags)| Entry {
        position,
        size,
        tags,
    });
    let stretch = Stretch {
        start: 256,
        end: 512,
        last_ms: 8,
    };
    let keys = [(1, 256), (7, 257), (7, 257), (7, 511)];
    let keys = keys.map(|(hash, position)| Key { hash, position });
    let (mut all, mut keys) = (entries.into_iter().map(Ok), keys.into_iter().map(Ok));
    run::write(&path, stretch, &parts, &mut all, &mut keys).expect("written");
    let bytes = std::fs::read(&path).expect("read");

    assert_eq!(bytes, golden_run());

    let (run, found) = Run::open(&path).expect("read").expect("intact");
    assert_eq!((run.stretch, &found[..]), (stretch, &parts[..]));
    assert_eq!(run.read(1, 9, Wait::ForDisk).expect("read"), entries[1..]);
    for (hash, below, found) in [
        (0, 999, vec![]),
        (1, 999, vec![256]),
        (7, 512, vec![257, 511]),
        (7, 511, vec![257]),
        (7, 257, vec![]),
        (8, 999, vec![]),
    ] {
        let numbers = run.keys_of(hash, below).expect("read");
        let positions: Vec<_> = numbers.map(|n| run.key(n).expect("read")).collect();
        assert_eq!(positions, found, "{hash} below {below}");
    }
}

fn golden_run() -> Vec<u8> {
    let row = |topic: &[u8], rest: (i32, i64, u32, u64, i64, i64)| {
        let (queue, first, count, entry, min_ms, max_ms) = rest;
        let mut row = (topic.len() as u16).to_be_bytes().to_vec();
        row.extend_from_slice(topic);
        row.extend_from_slice(&queue.to_be_bytes());
        row.extend_from_slice(&first.to_be_bytes());
        row.extend_from_slice(&count.to_be_bytes());
        row.extend_from_slice(&entry.to_be_bytes());
        row.extend_from_slice(&min_ms.to_be_bytes());
        row.extend_from_slice(&max_ms.to_be_bytes());
        row
    };
    let directory = [
        &[0, 0, 0, 2][..],
        &row(b"A", (2, 3, 1, 0, 4, 5)),
        &row(b"BC", (-1, 6, 2, 1, 7, 8)),
    ]
    .concat();
    let mut page = b"\0\0\0\0\0\0\0\x09\0\0\0\x0a\0\0\0\0\0\0\0\x0b\
        \0\0\0\0\0\0\0\x0c\0\0\0\x0d\xff\xff\xff\xff\xff\xff\xff\xff\
        \0\0\0\0\0\0\0\x0e\0\0\0\x0f\0\0\0\0\0\0\0\x10"
        .to_vec();
    page.extend_from_slice(&crc32fast::hash(&page).to_be_bytes());
    let mut keys = b"\0\0\0\x01\0\0\0\0\0\0\0\x07\0\0\0\x01\0\0\0\x07\0\0\0\xff".to_vec();
    keys.extend_from_slice(&crc32fast::hash(&keys).to_be_bytes());
    let mut header = b"GANTRYRN\0\x01\0\x03\
        \0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\x08\
        \0\x01\0\0\0\0\0\0\0\x6a\0\0\0\0\0\0\0\x5b"
        .to_vec();
    header.extend_from_slice(&crc32fast::hash(&directory).to_be_bytes());
    header.extend_from_slice(b"\0\x02\0\0\0\0\0\0\0\xc5\0\0\0\0\0\0\0\x40");
    header.extend_from_slice(&crc32fast::hash(&page).to_be_bytes());
    header.extend_from_slice(b"\0\x03\0\0\0\0\0\0\x01\x05\0\0\0\0\0\0\0\x1c");
    header.extend_from_slice(&crc32fast::hash(&keys).to_be_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_be_bytes());
    [header, directory, page, keys].concat()
}

#[test]
fn pages_of_a_run() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x.run");
    let entry = |n: u64| Entry {
        position: n,
        size: 1,
        tags: -(n as i64),
    };
    for count in [0u32, 1, 203, 204, 205, 1000] {
        let part = Part {
            topic: "T".into(),
            queue: 0,
            first: 0,
            count,
            entry: 0,
            min_ms: 0,
            max_ms: 0,
        };
        let stretch = Stretch {
            start: 0,
            end: 1,
            last_ms: 0,
        };
        let mut entries = (0..u64::from(count)).map(|n| Ok(entry(n)));
        let hash = |n: u64| (n * 7 / 9 * 3_000_000) as u32;
        let key = |n| Key {
            hash: hash(n),
            position: n,
        };
        let mut keys = (0..u64::from(count)).map(|n| Ok(key(n)));
        run::write(&path, stretch, &[part], &mut entries, &mut keys).expect("written");
        let (run, _) = Run::open(&path).expect("read").expect("intact");
        for n in 0..u64::from(count) {
            let same = (0..u64::from(count)).filter(|other| hash(*other) == hash(n));
            let found = run.keys_of(hash(n), 9999).expect("read");
            let found: Vec<_> = found.map(|n| run.key(n).expect("read")).collect();
            assert_eq!(found, same.collect::<Vec<_>>(), "{n} of {count}");
            assert!(run.keys_of(hash(n) + 1, 9999).expect("read").is_empty());
        }
        for (first, wanted) in [(0, 1), (0, 1000), (203, 1), (203, 2), (204, 300), (999, 5)] {
            let found = run.read(first, wanted, Wait::ForDisk).expect("read");
            let end = (first + wanted).min(u64::from(count));
            assert_eq!(
                found,
                (first..end).map(entry).collect::<Vec<_>>(),
                "{first} of {count}"
            );
        }
    }
}

#[test]
fn state_records() {
    let epoch = Epoch {
        epoch: 7,
        store_id: *b"0123456789abcdef",
        start: 258,
        in_sync: vec![*b"0123456789abcdef", *b"ABCDEFGHIJKLMNOP"],
        replication: 1,
        flush: Flush::Async,
        format: 1,
    };
    let payload = epoch.encode();
    let expect = b"\0\0\0\0\0\0\0\x070123456789abcdef\0\0\0\0\0\0\x01\x02\0\x02\
        0123456789abcdefABCDEFGHIJKLMNOP\x01\x02\0\x01";
    assert_eq!(payload, expect);
    assert_eq!(Epoch::decode(&payload), Ok(epoch));
    for len in 0..payload.len() {
        assert_eq!(
            Epoch::decode(&payload[..len]),
            Err(state::StateError::Truncated)
        );
    }
    let entries = [
        state::Entry {
            kind: 1,
            payload: b"ab",
        },
        state::Entry {
            kind: 200,
            payload: b"",
        },
    ];
    let body = state::encode(&entries);
    assert_eq!(body, b"\x01\x01\0\0\0\x02ab\xc8\0\0\0\0");
    assert_eq!(state::decode(&body).expect("intact"), entries);
    for len in [0, 2, 5, 6, 7, 9, 12] {
        assert_eq!(
            state::decode(&body[..len]),
            Err(state::StateError::Truncated),
            "{len}"
        );
    }
    assert_eq!(state::decode(b"\x02"), Err(state::StateError::Version(2)));
}
