//! The base and the log's start: what is left when files are deleted.

use super::*;
use crate::base::{self, BaseQueue};
use crate::{Range, ReadStatus, state};

/// Stores messages of 1,000 bytes until the log has `segments` files that may go.
fn fill(store: &Store, topic: &str, segments: usize) {
    while store.sealed().len() < segments {
        let all = append_all(store, (0..70).map(|_| message(topic, 0, &[7; 1000], None)));
        assert!(all.iter().all(Result::is_ok));
        store
            .inner
            .keeper
            .nudge_and_wait(std::time::Duration::from_secs(5));
    }
}

/// A base at the log's end with this state, and all files gone that may.
fn base_and_trim(store: &Store, state: &'static [u8]) -> u64 {
    let end = store.status().confirm;
    store
        .write_base(end, Bytes::from_static(state))
        .expect("written");
    store.trim(end).expect("trimmed");
    end
}

#[test]
fn c2_an_idle_queue_keeps_its_next_offset_when_its_last_record_is_deleted() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append_all(&store, (0..40).map(|n| message("Idle", 3, &[n], None)));
    fill(&store, "T", 3);
    let end = base_and_trim(&store, b"\x01");
    assert_eq!(store.range("Idle", 3), Some(Range { min: 40, max: 40 }));
    assert!(store.status().log_start >= 3 * SEGMENT_BYTES);
    let kept = store.range("T", 0).expect("a queue");
    assert!(kept.min > 0 && kept.max > kept.min, "{kept:?}");
    let names = |path: &str| {
        let items = std::fs::read_dir(dir.path().join(path)).expect("dir");
        let mut names: Vec<_> = items
            .map(|item| {
                item.expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .collect();
        names.sort();
        names
    };
    let start = format!("{:020}", store.status().log_start);
    for path in ["commitlog", "gantry/index"] {
        assert!(names(path)[0] >= start, "{path}: {:?}", names(path));
    }
    for crash in [true, false, true] {
        let copy = copy_of(dir.path());
        let again = open(copy.path());
        assert_eq!(again.range("Idle", 3), Some(Range { min: 40, max: 40 }));
        assert_eq!(again.range("T", 0), Some(kept));
        assert_eq!(bodies(&again, "T", 0).len() as i64, kept.max - kept.min);
        let base = again.base().expect("intact").expect("written");
        assert_eq!((base.position, &base.state[..]), (end, &b"\x01"[..]));
        let sent = again.append_wait(message("Idle", 3, b"next", None));
        assert_eq!(sent.expect("stored").queue_offset, 40);
        if crash {
            again.crash();
        } else {
            drop(again);
        }
        let again = open(copy.path());
        assert_eq!(bodies(&again, "Idle", 3), [b"next"]);
    }
}

#[test]
fn c2_no_file_goes_without_a_base_above_it() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    fill(&store, "T", 2);
    let sealed = store.sealed();
    let refused = store.trim(sealed[1].end).expect_err("no base");
    assert!(
        refused.to_string().contains("while the base is of 0"),
        "{refused}"
    );
    store
        .write_base(sealed[0].end, Bytes::new())
        .expect("written");
    store.trim(sealed[1].end).expect_err("the base is too old");
    store.trim(sealed[0].end + 1).expect("trimmed");
    assert_eq!(store.status().log_start, sealed[0].end);
    let above = store.status().confirm + 1;
    store
        .write_base(above, Bytes::new())
        .expect_err("not readable");
    store.write_base(1, Bytes::new()).expect("nothing to do");
    assert_eq!(
        store.base().expect("intact").expect("one").position,
        sealed[0].end
    );
    base_and_trim(&store, b"");
    fill(&store, "T", 1);
    drop(store);
    // Without its base the log is not the truth.
    std::fs::remove_file(dir.path().join("gantry/base")).expect("removed");
    let error = try_open(dir.path(), options()).expect_err("no base");
    assert!(matches!(error, OpenError::Layout(_)), "{error}");
}

#[test]
fn c3_a_base_says_nothing_of_what_lies_above_it() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append_all(&store, (0..10).map(|n| message("T", 0, &[n], None)));
    let position = store.status().confirm;
    append_all(&store, (0..5).map(|n| message("T", 0, &[n], None)));
    append_all(&store, (0..5).map(|n| message("Later", 0, &[n], None)));
    store.write_base(position, Bytes::new()).expect("written");
    let base = store.base().expect("intact").expect("one");
    let next = |topic: &str| {
        base.queues
            .iter()
            .find(|q| &*q.topic == topic)
            .map(|q| q.next)
    };
    assert_eq!((next("T"), next("Later")), (Some(10), Some(0)));
    let copy = copy_of(dir.path());
    // As after a power loss: what followed the base never reached the disk.
    let path = copy.path().join("commitlog/00000000000000000000");
    let mut log = std::fs::read(&path).expect("read");
    log[position as usize..].fill(0);
    std::fs::write(&path, log).expect("write");
    std::fs::remove_file(copy.path().join("gantry/checkpoint")).expect("removed");
    let again = open(copy.path());
    assert_eq!(again.range("T", 0), Some(Range { min: 0, max: 10 }));
    let sent = again
        .append_wait(message("T", 0, b"x", None))
        .expect("stored");
    assert_eq!(sent.queue_offset, 10);
    // Below the base a missing record is corruption.
    let path = copy_of(dir.path());
    let file = path.path().join("commitlog/00000000000000000000");
    let mut log = std::fs::read(&file).expect("read");
    log[position as usize - 10..].fill(0);
    std::fs::write(&file, log).expect("write");
    let error = try_open(path.path(), options()).expect_err("corrupt");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn h15_hidden_messages_stay_hidden_and_offsets_go_on() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append_all(&store, (0..30).map(|n| message("T", 0, &[n], None)));
    let deleted = store
        .append_wait(message("State", 0, b"deleted", None))
        .expect("stored");
    append_all(&store, (0..5).map(|n| message("T", 0, &[n], None)));
    store.hide("T", deleted.position).expect("hidden");
    let shown = Range { min: 30, max: 35 };
    assert_eq!(store.range("T", 0), Some(shown));
    let below = read(&store, "T", 0, 3);
    assert_eq!((below.status, below.next), (ReadStatus::TooSmall, 30));
    assert_eq!(store.position_of("T", 0, 29).expect("read"), None);
    store.raise_min("T", 0, 3);
    assert_eq!(store.range("T", 0), Some(shown), "never back");
    let at = store.offset_at_time("T", 0, 0, crate::Boundary::Lower);
    assert_eq!(
        at.expect("read"),
        Some(30),
        "a search by time finds no hidden one"
    );
    store
        .write_base(store.status().confirm, Bytes::new())
        .expect("written");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.range("T", 0), Some(shown));
    // By position, whether the entries are in memory or in a run.
    assert_eq!(
        store
            .offset_at_position("T", 0, deleted.position)
            .expect("read"),
        30
    );
    assert_eq!(store.offset_at_position("T", 0, 0).expect("read"), 0);
    let end = store.status().confirm;
    assert_eq!(store.offset_at_position("T", 0, end).expect("read"), 35);
    store.raise_min("T", 0, 99);
    assert_eq!(store.range("T", 0), Some(Range { min: 35, max: 35 }));
    fill(&store, "U", 2);
    store.forget(&|_| false);
    assert!(store.range("T", 0).is_some(), "the log holds records of it");
    base_and_trim(&store, b"");
    store.forget(&|topic| topic != "T");
    assert_eq!(store.range("T", 0), None, "nothing is left of it");
    assert!(store.range("State", 0).is_some());
}

#[test]
fn a_reader_that_is_overtaken_learns_that_its_message_is_gone() {
    let dir = tempfile::tempdir().expect("dir");
    let small = Options {
        tail_bytes_max: 0,
        ..options()
    };
    let store = try_open(dir.path(), small).expect("open");
    fill(&store, "T", 3);
    let mut trimmed = false;
    let found = store.read(
        "T",
        0,
        0,
        &ALL,
        &mut |_| {
            if !trimmed {
                trimmed = true;
                base_and_trim(&store, b"");
            }
            true
        },
        Wait::ForDisk,
    );
    let found = found.expect("no error");
    let min = store.range("T", 0).expect("a queue").min;
    assert_eq!(
        (found.status, found.next, found.min),
        (ReadStatus::Gone, min, min)
    );
    assert_eq!(store.store_time("T", 0, 0).expect("no error"), None);
    assert_eq!(store.record_at(0).expect("no error"), None);
}

#[test]
fn h18_a_file_expires_by_the_store_time_of_its_last_record() {
    static NOW: AtomicI64 = AtomicI64::new(1000);
    let dir = tempfile::tempdir().expect("dir");
    let clock = || NOW.load(Ordering::Relaxed);
    let store = try_open(dir.path(), Options { clock, ..options() }).expect("open");
    for (ms, segments) in [(1000, 1), (2000, 2), (3000, 3)] {
        NOW.store(ms, Ordering::Relaxed);
        fill(&store, "T", segments);
    }
    NOW.store(9000, Ordering::Relaxed);
    append_all(&store, (0..10).map(|n| message("T", 0, &[n], None)));
    let times = |store: &Store| {
        store
            .sealed()
            .iter()
            .map(|file| file.last_ms)
            .collect::<Vec<_>>()
    };
    let expect = times(&store);
    assert!(
        expect.is_sorted() && expect[0] >= 1000 && expect[2] <= 3000,
        "{expect:?}"
    );
    drop(store);
    // A copy or a restored backup has new file times.
    let copy = copy_of(dir.path());
    let store = try_open(copy.path(), Options { clock, ..options() }).expect("open");
    assert_eq!(times(&store), expect);
    drop(store);
    // And so has an index that is made anew.
    for item in std::fs::read_dir(copy.path().join("gantry/index")).expect("dir") {
        std::fs::remove_file(item.expect("an entry").path()).expect("removed");
    }
    let store = try_open(copy.path(), Options { clock, ..options() }).expect("open");
    store
        .inner
        .keeper
        .nudge_and_wait(std::time::Duration::from_secs(5));
    assert_eq!(times(&store), expect);
}

#[test]
fn a_full_disk_says_what_holds_it() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    store.explain_full("; it is held for group g");
    store
        .inner
        .disk_used_percent_max
        .store(0, Ordering::Relaxed);
    let full = || store.append_wait(message("T", 0, b"x", None));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let refused = loop {
        match full() {
            Err(refused) => break refused.to_string(),
            Ok(_) => assert!(std::time::Instant::now() < deadline, "not refused"),
        }
    };
    assert!(
        refused.ends_with(" % of the disk is used; it is held for group g"),
        "{refused}"
    );
    store
        .append_wait(message(state::TOPIC, 0, b"\x01", None))
        .expect("state goes on");
    store
        .inner
        .disk_used_percent_max
        .store(100, Ordering::Relaxed);
    let space = std::time::Instant::now();
    while full().is_err() {
        assert!(
            space.elapsed() < std::time::Duration::from_secs(5),
            "sends do not resume"
        );
    }
}

#[test]
fn c2_a_queue_of_the_base_needs_no_record() {
    let dir = tempfile::tempdir().expect("dir");
    drop(open(dir.path()));
    let queue = BaseQueue {
        topic: "Adopted".into(),
        queue: 1,
        min: 5,
        next: 9,
    };
    let end = open(dir.path()).status().confirm;
    let base = base::Base {
        position: end,
        queues: vec![queue],
        state: Bytes::new(),
    };
    base::write(dir.path(), &base).expect("written");
    let store = open(dir.path());
    assert_eq!(store.range("Adopted", 1), Some(Range { min: 9, max: 9 }));
}
