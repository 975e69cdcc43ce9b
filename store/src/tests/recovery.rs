//! What is left after a crash, damage or a second owner.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::checkpoint::Checkpoint;

pub(super) const FIRST_SEGMENT: &str = "commitlog/00000000000000000000";

/// A crashed store of ten messages, and where each record lies. Nothing but its creation is
/// surely on disk.
pub(super) fn crashed(body_bytes: usize) -> (tempfile::TempDir, Vec<Appended>) {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let body = |n| vec![b'a' + n; body_bytes];
    let sent = append_all(&store, (0..10).map(|n| message("T", 0, &body(n), None)));
    let sent = sent.into_iter().collect::<Result<_, _>>().expect("stored");
    store.crash();
    (dir, sent)
}

pub(super) fn edit(dir: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join(file);
    let mut bytes = fs::read(&path).expect("read");
    change(&mut bytes);
    fs::write(&path, bytes).expect("write");
}

fn set_durable(dir: &Path, durable: u64) {
    let checkpoint = Checkpoint {
        durable,
        ..Checkpoint::load(dir).expect("load")
    };
    checkpoint.write(dir).expect("write");
}

#[test]
fn a_killed_store_keeps_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("dir");
    let mut expect: Vec<Vec<u8>> = Vec::new();
    for round in 1..5 {
        let store = open(dir.path());
        assert_eq!(bodies(&store, "T", 0), expect);
        assert_eq!((store.status().epoch, store.status().cuts), (round, 0));
        let sent: Vec<_> = (0..700u64)
            .map(|n| (round * 700 + n).to_be_bytes().to_vec())
            .collect();
        let results = append_all(&store, sent.iter().map(|body| message("T", 0, body, None)));
        assert!(results.iter().all(Result::is_ok));
        expect.extend(sent);
        store.crash();
        assert!(dir.path().join("abort").exists());
        // As if it had been killed while it wrote these.
        fs::write(
            dir.path().join("gantry/index/00000000000000000000.run.tmp"),
            b"x",
        )
        .expect("tmp");
        fs::write(dir.path().join("gantry/segment.tmp"), b"x").expect("tmp");
        fs::write(dir.path().join("gantry/checkpoint.tmp"), b"x").expect("tmp");
    }
}

/// Equal-sized records behind a cut would line up with what is appended there.
#[test]
fn c7_cut_records_do_not_come_back() {
    let (crashed, sent) = crashed(20);
    // The epoch record that the next open writes is of another size: tear where the records
    // after it line up again, and look for any of the old ones.
    for torn in 0..10 {
        let copy = copy_of(crashed.path());
        edit(copy.path(), FIRST_SEGMENT, |bytes| {
            bytes[sent[torn].position as usize + 60] ^= 1;
        });
        let store = open(copy.path());
        assert_eq!(bodies(&store, "T", 0).len(), torn);
        store
            .append_wait(message("T", 0, &[b'z'; 20], None))
            .expect("stored");
        store.crash();
        for _ in ["after the crash", "after a close"] {
            let store = open(copy.path());
            let found = bodies(&store, "T", 0);
            assert_eq!(found.len(), torn + 1, "torn at record {torn}");
            assert_eq!(found[torn], [b'z'; 20]);
        }
    }
}

#[test]
fn later_files_go_with_the_cut() {
    let dir = tempfile::tempdir().expect("dir");
    let store = try_open(
        dir.path(),
        Options {
            run_bytes: 1 << 30,
            ..options()
        },
    )
    .expect("open");
    let sent = append_all(
        &store,
        (0..40).map(|n| message("T", 0, &vec![n; 6000], None)),
    );
    store.crash();
    let copy = dir;
    // A run was written of each sealed segment; without them the log alone counts.
    fs::remove_dir_all(copy.path().join("gantry/index")).expect("remove");
    fs::create_dir(copy.path().join("gantry/index")).expect("dir");
    set_durable(copy.path(), 0);
    let torn = sent[3].as_ref().expect("stored").position as usize;
    edit(copy.path(), FIRST_SEGMENT, |bytes| bytes[torn + 100] ^= 1);
    let store = open(copy.path());
    assert_eq!(bodies(&store, "T", 0).len(), 3);
    assert!(!copy.path().join("commitlog/00000000000000065536").exists());
    assert_eq!(
        (store.status().cuts, store.status().confirm > torn as u64),
        (1, true)
    );
}

#[test]
fn corruption_below_the_durable_position_is_an_error_and_nothing_is_touched() {
    let (crashed, sent) = crashed(20);
    let end = sent[9].position + u64::from(sent[9].bytes);
    set_durable(crashed.path(), end);
    open(copy_of(crashed.path()).path());
    for torn in &sent {
        for zero in [false, true] {
            let copy = copy_of(crashed.path());
            edit(copy.path(), FIRST_SEGMENT, |bytes| {
                let at = torn.position as usize;
                if zero {
                    bytes[at..].fill(0);
                } else {
                    bytes[at + 70] ^= 1;
                }
            });
            let before = fs::read(copy.path().join(FIRST_SEGMENT)).expect("read");
            let error = try_open(copy.path(), options()).expect_err("corrupt");
            assert!(
                matches!(error, OpenError::Corrupt { position, .. } if position == torn.position),
                "{error}"
            );
            assert_eq!(
                fs::read(copy.path().join(FIRST_SEGMENT)).expect("read"),
                before
            );
        }
    }
}

/// A record that is intact but not the next of its queue is treated like a damaged one.
#[test]
fn a_queue_offset_out_of_order_is_corruption() {
    let (crashed, sent) = crashed(20);
    let size = sent[9].bytes as usize;
    edit(crashed.path(), FIRST_SEGMENT, |bytes| {
        let mut encoded = message("T", 0, &[b'j'; 20], None)
            .encode("10.0.0.2:10911".parse().expect("address"))
            .expect("encoded");
        let at = sent[9].position as usize;
        bytes[at..at + size].copy_from_slice(encoded.place(8, sent[9].position, 1));
    });
    let copy = copy_of(crashed.path());
    assert_eq!(
        bodies(&open(copy.path()), "T", 0).len(),
        9,
        "above: the end of the log"
    );
    set_durable(crashed.path(), sent[9].position + size as u64);
    let error = try_open(crashed.path(), options())
        .expect_err("corrupt")
        .to_string();
    assert!(
        error.contains("queue offset 8 where 9 comes next"),
        "{error}"
    );
}

#[test]
fn missing_and_misshapen_files_are_errors() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append_all(
        &store,
        (0..40).map(|n| message("T", 0, &vec![n; 6000], None)),
    );
    drop(store);
    let (second, third) = (
        "commitlog/00000000000000065536",
        "commitlog/00000000000000131072",
    );
    type Change = fn(PathBuf);
    let rows: [(&str, Change, &str); 8] = [
        (
            second,
            |path| fs::remove_file(path).expect("remove"),
            "is missing",
        ),
        (
            third,
            |path| fs::write(path, b"short").expect("write"),
            "is not 65536 bytes long",
        ),
        (
            third,
            |path| fs::write(path, vec![0; 65_537]).expect("write"),
            "is not 65536 bytes",
        ),
        (
            "commitlog/x",
            |path| fs::write(path, b"").expect("write"),
            "x is no log file",
        ),
        (
            "commitlog",
            |path| fs::remove_dir_all(path).expect("remove"),
            "the log ends at 0",
        ),
        (
            "gantry/identity",
            |path| fs::remove_file(path).expect("remove"),
            "adopt it first",
        ),
        (
            "gantry/identity",
            |path| fs::write(path, b"x").expect("write"),
            "is damaged",
        ),
        (
            "gantry/checkpoint",
            |path| fs::write(path, b"x").expect("write"),
            "is damaged",
        ),
    ];
    for (file, change, expect) in rows {
        let copy = copy_of(dir.path());
        change(copy.path().join(file));
        let error = try_open(copy.path(), options())
            .expect_err(expect)
            .to_string();
        assert!(error.contains(expect), "{error}");
    }
}

#[test]
fn a_damaged_or_missing_run_is_rebuilt() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let body = |n: u32| [&n.to_be_bytes()[..], &[0; 60]].concat();
    append_all(
        &store,
        (0..1500).map(|n| message("T", (n % 3) as i32, &body(n), Some("x"))),
    );
    drop(store);
    let mut runs: Vec<_> = fs::read_dir(dir.path().join("gantry/index"))
        .expect("dir")
        .map(|item| item.expect("entry").path())
        .collect();
    runs.sort();
    assert!(runs.len() > 2, "{runs:?}");
    let small = || Options {
        tail_bytes_max: 0,
        ..options()
    };
    for run in &runs {
        let name = format!(
            "gantry/index/{}",
            run.file_name().expect("name").to_string_lossy()
        );
        let len = fs::metadata(run).expect("meta").len() as usize;
        let mut places: Vec<_> = (0..len).step_by(len / 23).map(Some).collect();
        places.push(None);
        for place in places {
            let copy = copy_of(dir.path());
            match place {
                Some(at) => edit(copy.path(), &name, |bytes| bytes[at] ^= 1),
                None => fs::remove_file(copy.path().join(&name)).expect("remove"),
            }
            let store = try_open(copy.path(), small()).expect("open");
            for queue in 0..3 {
                let expect: Vec<_> = (0..1500).filter(|n| n % 3 == queue).map(body).collect();
                assert_eq!(
                    bodies(&store, "T", queue as i32),
                    expect,
                    "{name} at {place:?}"
                );
            }
        }
    }
}

#[test]
fn a_second_owner_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    for _ in 0..2 {
        let error = try_open(dir.path(), options()).expect_err("locked");
        assert!(matches!(error, OpenError::Locked(_)), "{error}");
    }
    drop(store);
    let other = Options {
        cluster: "other".into(),
        ..options()
    };
    let error = try_open(dir.path(), other)
        .expect_err("another cluster")
        .to_string();
    assert!(error.contains("belongs to broker b of cluster c, not to broker b of cluster other"));
    let id = open(dir.path()).identity().store_id;
    // A wish for another segment size comes too late.
    let other = Options {
        segment_bytes: Some(1 << 20),
        ..options()
    };
    let store = try_open(dir.path(), other).expect("open");
    assert_eq!(
        (store.status().segment_bytes, store.identity().store_id),
        (SEGMENT_BYTES, id)
    );
    assert_eq!(store.status().epoch, 3);
    let odd = Options {
        segment_bytes: Some(100_000),
        ..options()
    };
    let fresh = tempfile::tempdir().expect("dir");
    assert!(matches!(
        try_open(fresh.path(), odd),
        Err(OpenError::Options(_))
    ));
}

#[test]
fn another_process_is_refused_too() {
    let dir = tempfile::tempdir().expect("dir");
    let _store = open(dir.path());
    // `flock -F` and friends take another kind of lock; python's lockf takes Java's.
    let code = "import fcntl,sys\nf=open(sys.argv[1],'r+')\n\
        try:\n fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,1,0)\nexcept OSError:\n sys.exit(7)";
    let lock = dir.path().join("lock");
    match std::process::Command::new("python3")
        .args(["-c", code])
        .arg(&lock)
        .status()
    {
        Ok(status) => assert_eq!(status.code(), Some(7), "the lock is held against others"),
        Err(error) => eprintln!("not run: python3: {error}"),
    }
    assert_eq!(fs::read(lock).expect("read"), b"lock");
}

#[test]
fn small_volumes_have_small_segments() {
    let dir = tempfile::tempdir().expect("dir");
    let store = try_open(
        dir.path(),
        Options {
            segment_bytes: None,
            ..options()
        },
    )
    .expect("open");
    let bytes = store.status().segment_bytes;
    assert!(bytes.is_power_of_two() && (64 << 20..=1 << 30).contains(&bytes));
    let len = fs::metadata(dir.path().join(FIRST_SEGMENT))
        .expect("meta")
        .len();
    assert_eq!(len, bytes);
}
