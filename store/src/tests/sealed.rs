//! Reads of files that are written no more: damage, cold pages, time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::*;
use crate::{Boundary, ReadError, ReadStatus};

fn cold() -> Options {
    Options {
        tail_bytes_max: 0,
        ..options()
    }
}

/// 200 messages of 1,000 bytes: three sealed segments and a bit.
fn filled(dir: &Path) -> (Store, Vec<Appended>) {
    let store = try_open(dir, cold()).expect("open");
    let sent = append_all(&store, (0..200).map(|n| message("T", 0, &[n; 1000], None)));
    let sent = sent.into_iter().collect::<Result<_, _>>().expect("stored");
    store.close();
    (store, sent)
}

fn one(store: &Store, offset: i64) -> Result<Read, ReadError> {
    let limits = ReadLimits {
        messages_max: 1,
        scan_max: 1,
        ..ALL
    };
    store.read("T", 0, offset, &limits, &mut |_| true, Wait::ForDisk)
}

#[test]
fn h16_a_truncated_segment_fails_its_own_records_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let (store, sent) = filled(dir.path());
    one(&store, 0).expect("read");
    let segment = OpenOptions::new()
        .write(true)
        .open(dir.path().join("commitlog/00000000000000000000"))
        .expect("open");
    segment.set_len(20_000).expect("truncated");
    for _ in ["through the mapping", "by pread"] {
        for (offset, sent) in (0..).zip(&sent) {
            let end = sent.position + u64::from(sent.bytes);
            // Up to the end of its page the kernel has zeros, not a fault.
            if end <= 20_000 || sent.position >= SEGMENT_BYTES {
                assert_eq!(
                    one(&store, offset).expect("read").records.len(),
                    1,
                    "{offset}"
                );
                continue;
            }
            let error = one(&store, offset).expect_err("gone");
            assert!(
                matches!(error, ReadError::Corrupt { position } if position == sent.position),
                "{offset}: {error}"
            );
        }
    }
}

#[test]
fn h16_a_truncated_run_is_rebuilt() {
    let dir = tempfile::tempdir().expect("dir");
    let (store, sent) = filled(dir.path());
    for item in std::fs::read_dir(dir.path().join("gantry/index")).expect("dir") {
        let path = item.expect("entry").path();
        let file = OpenOptions::new().write(true).open(path).expect("open");
        file.set_len(150).expect("truncated");
    }
    assert_eq!(bodies(&store, "T", 0).len(), sent.len());
}

#[test]
fn h17_a_flipped_bit_anywhere_in_a_record_is_found() {
    let dir = tempfile::tempdir().expect("dir");
    let (store, sent) = filled(dir.path());
    // In a sealed segment, and in the one that is not.
    for number in [3, 199] {
        let sent = &sent[number];
        let start = sent.position / SEGMENT_BYTES * SEGMENT_BYTES;
        let segment = OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.path().join(format!("commitlog/{start:020}")))
            .expect("open");
        for at in 0..u64::from(sent.bytes) {
            let at = sent.position - start + at;
            let mut byte = [0];
            segment.read_exact_at(&mut byte, at).expect("read");
            segment.write_all_at(&[byte[0] ^ 0x10], at).expect("write");
            let error = one(&store, number as i64).expect_err("damaged");
            assert!(matches!(error, ReadError::Corrupt { .. }), "{at}: {error}");
            segment.write_all_at(&byte, at).expect("write");
        }
        one(&store, number as i64).expect("as before");
    }
}

/// Whether the first page of a file is in memory; `None` where the file system can't say.
fn is_cached(file: &File) -> Option<bool> {
    let mut byte = [0];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    match preadv2(file, &mut buffers, 0, ReadWriteFlags::NOWAIT) {
        Ok(_) => Some(true),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    }
}

#[test]
fn h16_a_read_that_must_not_wait_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let (store, _) = filled(dir.path());
    let run = "gantry/index/00000000000000000000.index";
    for cold in [run, "commitlog/00000000000000000000"] {
        let file = File::open(dir.path().join(cold)).expect("open");
        file.sync_all().expect("synced");
        fadvise(&file, 0, None, Advice::DontNeed).expect("advised");
        let now = || {
            store
                .read("T", 0, 0, &ALL, &mut |_| true, Wait::Never)
                .expect("read")
        };
        let found = now();
        if found.status != ReadStatus::WouldBlock {
            let cached = is_cached(&file);
            assert!(
                cached != Some(false),
                "{cold} is not in memory, and was waited for"
            );
            eprintln!("not run: {cold} stays in memory");
            continue;
        }
        assert_eq!((found.records.len(), found.next), (0, 0));
        assert_eq!(one(&store, 0).expect("read").status, ReadStatus::Found);
        assert_eq!(now().status, ReadStatus::Found, "now it is in memory");
    }
}

#[test]
fn h20_offsets_by_time_over_runs_and_segments() {
    static NOW: AtomicI64 = AtomicI64::new(1000);
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("dir");
    let options = || Options {
        clock: || NOW.load(Ordering::Relaxed),
        ..cold()
    };
    let store = try_open(dir.path(), options()).expect("open");
    let mut times = Vec::new();
    while times.len() < 600 {
        // Long stretches of one time, which no run's end keeps together, and gaps.
        let count = random.random_range(1..60);
        NOW.fetch_add([1, 2, 50][random.random_range(0..3)], Ordering::Relaxed);
        let messages = (0..count).map(|n| message("T", n % 2, &[0; 500], None));
        for sent in append_all(&store, messages).into_iter().step_by(2) {
            times.push(sent.expect("stored").store_ms);
        }
    }
    let (first, last) = (times[0], times[times.len() - 1]);
    let check = |store: &Store, what: &str| {
        for ms in (first - 2..last + 3).chain([i64::MIN, 0, i64::MAX]) {
            let lower = times.partition_point(|time| *time < ms) as i64;
            let upper = (times.partition_point(|time| *time <= ms) as i64 - 1).max(0);
            for (boundary, expect) in [(Boundary::Lower, lower), (Boundary::Upper, upper)] {
                let found = store.offset_at_time("T", 0, ms, boundary).expect("read");
                assert_eq!(found, Some(expect), "{what}: {boundary:?} {ms}");
            }
        }
    };
    check(&store, "written");
    store.crash();
    let store = try_open(dir.path(), options()).expect("open");
    check(&store, "recovered");
    store.close();
    check(&store, "closed");
}
