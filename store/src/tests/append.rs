//! Appending and reading in one life of a store.

use std::sync::{Arc, Mutex};

use protocol::record::{Record, head};

use super::*;
use crate::{Answers, Arrival, Boundary, ReadStatus, state};

#[test]
fn a_message_comes_back_as_it_was_sent() {
    let dir = tempfile::tempdir().expect("dir");
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&arrivals);
    let arrived =
        move |new: &[Arrival], _: Answers| seen.lock().expect("lock").extend_from_slice(new);
    let options = Options {
        flush: Flush::Sync,
        ..options()
    };
    let store = Store::open(dir.path(), options, Box::new(arrived)).expect("open");
    let appended = store
        .append_wait(message("T", 3, b"Hello", Some("TagA")))
        .expect("stored");
    assert_eq!(appended.queue_offset, 0);
    assert_eq!(
        store.status().flushed,
        appended.position + u64::from(appended.bytes)
    );
    let arrivals = arrivals.lock().expect("lock").clone();
    assert_eq!(arrivals.len(), 1, "the epoch record is not announced");
    assert_eq!(
        (&*arrivals[0].topic, arrivals[0].queue, arrivals[0].tags),
        ("T", 3, 2_598_919)
    );

    let found = store.read("T", 3, 0, &ALL, &mut |tags| tags == 2_598_919, Wait::Never);
    let found = found.expect("read");
    assert_eq!(
        (found.status, found.next, found.min, found.max),
        (ReadStatus::Found, 1, 0, 1)
    );
    let record = Record::decode(&found.records[0]).expect("intact");
    assert_eq!(
        (record.topic, record.body, record.flag),
        ("T", &b"Hello"[..], 7)
    );
    assert_eq!(record.store_ms, appended.store_ms);
    assert_eq!(record.position, appended.position);

    let (_, position) = protocol::message_id::decode(&appended.message_id()).expect("an id");
    assert_eq!(
        store.record_at(position).expect("read").as_deref(),
        Some(&found.records[0][..])
    );
    for wrong in [position + 1, position - 1, 1 << 40, 60_000] {
        assert_eq!(store.record_at(wrong).expect("read"), None, "{wrong}");
    }

    let epoch = read(&store, state::TOPIC, 0, 0);
    let record = Record::decode(&epoch.records[0]).expect("intact");
    assert_eq!(record.position, 0, "the first record of the log");
    let entries = state::decode(record.body).expect("a state record");
    let epoch = state::Epoch::decode(entries[0].payload).expect("an epoch");
    assert_eq!((epoch.epoch, epoch.start), (1, 0));
    assert_eq!(epoch.store_id, store.identity().store_id);
}

#[test]
fn statuses_are_javas() {
    use ReadStatus::{Empty, Found, NoMatch, NoQueue, OverflowBadly, OverflowOne, TooSmall};
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let tagged = |n: u8| {
        message(
            "T",
            0,
            &[n],
            Some(if n.is_multiple_of(2) { "even" } else { "odd" }),
        )
    };
    append_all(&store, (0..10).map(tagged));
    store.inner.index.get_or_create(&"T".into(), 9);
    let rows = [
        ("U", 0, 0, NoQueue, 0, 0),
        ("T", 5, 7, NoQueue, 0, 0),
        ("T", 9, 0, Empty, 0, 0),
        ("T", 9, 4, Empty, 0, 0),
        ("T", 0, -1, TooSmall, 0, 0),
        ("T", 0, 0, Found, 10, 5),
        ("T", 0, 4, Found, 10, 3),
        ("T", 0, 9, NoMatch, 10, 0),
        ("T", 0, 10, OverflowOne, 10, 0),
        ("T", 0, 11, OverflowBadly, 10, 0),
        ("T", 0, i64::MAX, OverflowBadly, 10, 0),
    ];
    let even = properties::tags_code(Some("even"));
    for (topic, queue, from, status, next, count) in rows {
        let limits = ReadLimits {
            messages_max: 5,
            ..ALL
        };
        let found = store.read(
            topic,
            queue,
            from,
            &limits,
            &mut |tags| tags == even,
            Wait::Never,
        );
        let found = found.expect("read");
        let got = (found.status, found.next, found.records.len());
        assert_eq!(got, (status, next, count), "{topic} {queue} {from}");
    }
}

#[test]
fn limits_hold() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let sent = append_all(&store, (0..10).map(|n| message("T", 0, &[n; 100], None)));
    let bytes = sent[0].as_ref().expect("stored").bytes as usize;
    // messages, bytes, scan -> records, next
    let rows = [
        ((3, usize::MAX, 100), 3, 3),
        ((100, bytes * 2, 100), 2, 2),
        ((100, bytes * 2 + 1, 100), 2, 2),
        ((100, 1, 100), 1, 1),
        ((0, usize::MAX, 100), 1, 1),
        ((100, usize::MAX, 4), 4, 4),
        ((100, usize::MAX, 0), 1, 1),
        ((100, usize::MAX, usize::MAX >> 1), 10, 10),
    ];
    for ((messages_max, bytes_max, scan_max), count, next) in rows {
        let limits = ReadLimits {
            messages_max,
            bytes_max,
            scan_max,
        };
        let found = store
            .read("T", 0, 0, &limits, &mut |_| true, Wait::Never)
            .expect("read");
        assert_eq!(
            (found.records.len(), found.next),
            (count, next),
            "{limits:?}"
        );
    }
}

#[test]
fn segments_roll_with_a_blank_and_all_is_read_back() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let body = |n: usize| format!("{n:0>width$}", width = 10 + n % 700).into_bytes();
    let sent = append_all(
        &store,
        (0..3000).map(|n| message("T", (n % 2) as i32, &body(n), None)),
    );
    assert!(sent.iter().all(Result::is_ok));
    let first = std::fs::read(dir.path().join("commitlog/00000000000000000000")).expect("read");
    let mut at = 0;
    let blank = loop {
        match head(*first[at..].first_chunk().expect("eight bytes remain")) {
            Some(protocol::record::Head::Record(size)) => at += size,
            Some(protocol::record::Head::Blank(size)) => break size,
            None => panic!("no record at {at}"),
        }
    };
    assert_eq!(at + blank, SEGMENT_BYTES as usize);
    for queue in 0..2 {
        let expect: Vec<_> = (0..3000).filter(|n| n % 2 == queue).map(body).collect();
        assert_eq!(bodies(&store, "T", queue as i32), expect);
    }
    store.close();
    store.close();
    assert_eq!(
        bodies(&store, "T", 1).len(),
        1500,
        "reads go on after close"
    );
    let closed = store.append_wait(message("T", 0, b"x", None));
    assert_eq!(closed, Err(AppendError::Closed));
    drop(store);
    let names = |sub: &str| {
        let items = std::fs::read_dir(dir.path().join(sub)).expect("dir");
        let mut names: Vec<_> = items
            .map(|item| {
                item.expect("entry")
                    .file_name()
                    .into_string()
                    .expect("name")
            })
            .collect();
        names.sort();
        names
    };
    let segments = names("commitlog").len();
    let runs = names("gantry/index");
    let merged = runs.iter().filter(|name| name.contains(".index")).count();
    assert_eq!(merged, segments - 1, "one index a sealed segment: {runs:?}");
    assert!(runs.len() <= segments + 4, "{runs:?}");
    assert!(!dir.path().join("abort").exists());
    let small = Options {
        tail_bytes_max: 0,
        ..options()
    };
    let store = try_open(dir.path(), small).expect("open");
    for queue in 0..2 {
        let expect: Vec<_> = (0..3000).filter(|n| n % 2 == queue).map(body).collect();
        assert_eq!(bodies(&store, "T", queue as i32), expect);
    }
}

#[test]
fn offsets_by_time() {
    static NOW: AtomicI64 = AtomicI64::new(0);
    let dir = tempfile::tempdir().expect("dir");
    let clock = || NOW.load(Ordering::Relaxed);
    let store = try_open(dir.path(), Options { clock, ..options() }).expect("open");
    let filler = vec![0; 2000];
    for ms in [100, 200, 200, 200, 300, 250, 400] {
        NOW.store(ms, Ordering::Relaxed);
        store
            .append_wait(message("T", 0, &filler, None))
            .expect("stored");
        append_all(&store, (0..10).map(|_| message("U", 0, &filler, None)));
    }
    // Stored at 100 200 200 200 300 300 400: the clock went back once.
    let rows = [
        (i64::MIN, 0, 0),
        (0, 0, 0),
        (100, 0, 0),
        (101, 1, 0),
        (200, 1, 3),
        (250, 4, 3),
        (300, 4, 5),
        (301, 6, 5),
        (400, 6, 6),
        (401, 7, 6),
        (i64::MAX, 7, 6),
    ];
    let check = |store: &Store| {
        for (ms, lower, upper) in rows {
            let at = |boundary| store.offset_at_time("T", 0, ms, boundary).expect("read");
            assert_eq!(at(Boundary::Lower), Some(lower), "lower {ms}");
            assert_eq!(at(Boundary::Upper), Some(upper), "upper {ms}");
        }
        assert_eq!(store.store_time("T", 0, 4).expect("read"), Some(300));
        assert_eq!(store.store_time("T", 0, 7).expect("read"), None);
        assert_eq!(
            store
                .offset_at_time("V", 0, 0, Boundary::Lower)
                .expect("read"),
            None
        );
    };
    check(&store);
    drop(store);
    check(&open(dir.path()));
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let long = "t".repeat(256);
    let large = vec![0; SEGMENT_BYTES as usize];
    let check = |message, expect: &str| {
        let error = store.append_wait(message).expect_err(expect);
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(message(&long, 0, b"x", None), "the topic has 256 bytes");
    check(message("T", 0, &large, None), "does not fit a log file");
    check(
        message("T", 0, &vec![0; (4 << 20) + 1], None),
        "the body has 4194305 bytes",
    );
    drop(store);
    let full = Options {
        disk_used_percent_max: 0,
        ..options()
    };
    let store = try_open(dir.path(), full).expect("a full disk still opens");
    let refused = store
        .append_wait(message("T", 0, b"x", None))
        .expect_err("full");
    assert!(
        matches!(
            refused,
            AppendError::DiskFull {
                used_percent: 1..,
                ..
            }
        ),
        "{refused}"
    );
    store
        .append_wait(message(state::TOPIC, 0, b"\x01", None))
        .expect("state goes on");
    let none = Options {
        append_queue_max: 0,
        ..options()
    };
    drop(store);
    let store = try_open(dir.path(), none).expect("open");
    assert_eq!(
        store.append_wait(message("T", 0, b"x", None)),
        Err(AppendError::Busy)
    );
}

/// Stores messages together and waits for the one answer.
fn together(store: &Store, messages: Vec<Message>) -> Result<Vec<Appended>, AppendError> {
    let (sender, receiver) = mpsc::channel();
    let done = move |result| sender.send(result).expect("one answer is waited for");
    store.append_all(messages, Box::new(done));
    let answer = receiver.recv().expect("an answer");
    assert!(receiver.recv().is_err(), "one answer only");
    answer
}

#[test]
fn messages_that_belong_together_lie_together() {
    const BATCHES: usize = 20;
    const EACH: usize = 10;
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let mut stored = Vec::new();
    std::thread::scope(|scope| {
        let send = |thread: u8| {
            let list = || vec![message("T", 0, &[thread; 500], None); EACH];
            let all = (0..BATCHES).map(|_| together(&store, list()).expect("stored"));
            all.collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..3).map(|n| scope.spawn(move || send(n))).collect();
        for thread in threads {
            stored.extend(thread.join().expect("no panic"));
        }
    });
    let mut rolled = false;
    for batch in &stored {
        let (first, last) = (batch[0], batch[EACH - 1]);
        assert_eq!(
            first.position / SEGMENT_BYTES,
            last.position / SEGMENT_BYTES
        );
        rolled |= first.position % SEGMENT_BYTES == 0;
        for (at, one) in batch.iter().enumerate() {
            assert_eq!(one.queue_offset, first.queue_offset + at as i64);
            let bytes = u64::from(first.bytes);
            assert_eq!(one.position, first.position + at as u64 * bytes);
        }
    }
    assert!(rolled, "no batch went to the next file as a whole");
    drop(store);
    let store = open(dir.path());
    assert_eq!(bodies(&store, "T", 0).len(), 3 * BATCHES * EACH);
}

#[test]
fn messages_that_belong_together_are_refused_together() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    assert_eq!(together(&store, Vec::new()), Ok(Vec::new()));
    let list = |bytes| vec![message("T", 0, &vec![0; bytes], None); 4];
    let refused = together(&store, list(SEGMENT_BYTES as usize / 4));
    assert!(
        matches!(refused, Err(AppendError::RecordTooLarge { .. })),
        "{refused:?}"
    );
    let mut bad = list(10);
    bad[3] = message(&"t".repeat(256), 0, b"x", None);
    let refused = together(&store, bad);
    assert!(
        matches!(refused, Err(AppendError::Message(_))),
        "{refused:?}"
    );
    assert_eq!(store.range("T", 0), None, "nothing of them is there");
    assert_eq!(together(&store, list(10)).map(|list| list.len()), Ok(4));
    store.close();
    assert_eq!(together(&store, list(10)), Err(AppendError::Closed));
}

#[test]
fn prepared_messages_take_no_queue_offset() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let flags = [(0, 0, 1), (4, 0, 1), (12, 0, 1), (8, 1, 2)];
    for (sys_flag, offset, max) in flags {
        let sent = store.append_wait(Message {
            sys_flag,
            ..message("T", 0, b"x", None)
        });
        let sent = sent.expect("stored");
        assert_eq!(sent.queue_offset, offset, "{sys_flag}");
        assert_eq!(store.range("T", 0).expect("a queue").max, max);
        assert!(store.record_at(sent.position).expect("read").is_some());
    }
    drop(store);
    assert_eq!(bodies(&open(dir.path()), "T", 0).len(), 2);
}
