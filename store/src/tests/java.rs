//! The directory after an export, byte by byte as Java reads it.

use super::*;
use crate::java::{ExportError, Report, export};
use crate::state;

fn unit(bytes: &[u8], index: usize) -> (u64, u32, i64) {
    let unit = &bytes[index * 20..index * 20 + 20];
    (
        u64::from_be_bytes(unit[..8].try_into().expect("8")),
        u32::from_be_bytes(unit[8..12].try_into().expect("4")),
        i64::from_be_bytes(unit[12..].try_into().expect("8")),
    )
}

#[test]
fn a_crashed_store_is_exported_whole() {
    let dir = tempfile::tempdir().expect("dir");
    let dir = dir.path();
    let (sent, last) = crashed(dir, |n| vec![n as u8; n % 900]);

    let configs = [("topics.json".to_owned(), "{}".to_owned())];
    let report = export(dir, &configs, &[]).expect("exported");
    let log_end = last.position + u64::from(last.bytes);
    let segment_bytes = SEGMENT_BYTES;
    let expect = Report {
        queues: 3,
        messages: 2002,
        log_start: 0,
        log_end,
        segment_bytes,
    };
    assert_eq!(report, expect);
    assert_eq!(export(dir, &configs, &[]).expect("exported again"), expect);

    for gone in [
        "abort",
        "index/20260101000000000",
        "consumequeue/Old",
        "consumequeue/H",
    ] {
        assert!(!dir.join(gone).exists(), "{gone}");
    }
    assert_eq!(
        std::fs::read(dir.join("config/topics.json")).expect("read"),
        b"{}"
    );
    for id in 0..2 {
        let bytes = queue_file(dir, &format!("T/{id}"));
        assert_eq!(bytes.len(), 6_000_000);
        for (n, sent) in (id..2000).step_by(2).zip(sent.iter().skip(id).step_by(2)) {
            let tags = if n % 3 == 0 { 2_598_919 } else { 0 };
            assert_eq!(
                unit(&bytes, n / 2),
                (sent.position, sent.bytes, tags),
                "{n}"
            );
        }
        assert!(bytes[1001 * 20..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(
        unit(&queue_file(dir, &format!("{}/0", state::TOPIC)), 0).0,
        0
    );
    for item in std::fs::read_dir(dir.join("commitlog")).expect("dir") {
        assert_eq!(
            item.expect("entry").metadata().expect("meta").len(),
            SEGMENT_BYTES
        );
    }
    check_checkpoint(dir, last.store_ms, log_end as i64);
}

fn check_checkpoint(dir: &Path, last_ms: i64, log_end: i64) {
    let mut expect = [last_ms, last_ms, last_ms, log_end, log_end]
        .map(i64::to_be_bytes)
        .concat();
    expect.resize(4096, 0);
    assert_eq!(std::fs::read(dir.join("checkpoint")).expect("read"), expect);
}

fn queue_file(dir: &Path, name: &str) -> Vec<u8> {
    let path = dir.join(format!("consumequeue/{name}/00000000000000000000"));
    std::fs::read(path).expect("a queue file")
}

/// 2,000 messages on two queues, a prepared one, a last one, and what Java once derived.
fn crashed(dir: &Path, body: impl Fn(usize) -> Vec<u8>) -> (Vec<Appended>, Appended) {
    let store = open(dir);
    let tag = |n| (n % 3 == 0).then_some("TagA");
    let messages = (0..2000).map(|n| message("T", (n % 2) as i32, &body(n), tag(n)));
    let sent = append_all(&store, messages)
        .into_iter()
        .collect::<Result<_, _>>();
    let half = message("H", 0, b"half", None);
    store
        .append_wait(Message {
            sys_flag: 4,
            ..half
        })
        .expect("stored");
    let last = store
        .append_wait(message("T", 0, b"last", None))
        .expect("stored");
    store.crash();
    for stale in ["consumequeue/Old/0", "index", "config"] {
        std::fs::create_dir_all(dir.join(stale)).expect("dir");
    }
    std::fs::write(dir.join("consumequeue/Old/0/00000000000000000000"), b"x").expect("write");
    std::fs::write(dir.join("index/20260101000000000"), b"x").expect("write");
    (sent.expect("stored"), last)
}

#[test]
fn a_queue_that_starts_late_has_placeholders() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append_all(
        &store,
        (0..400).map(|n| message("T", 0, &[n as u8; 1000], None)),
    );
    let end = store.status().confirm;
    store.write_base(end, Bytes::new()).expect("written");
    drop(store);
    // What retention does: the oldest files go.
    for segment in ["00000000000000000000", "00000000000000065536"] {
        std::fs::remove_file(dir.path().join("commitlog").join(segment)).expect("remove");
    }
    let store = open(dir.path());
    let range = store.range("T", 0).expect("a queue");
    assert!(range.min > 0 && range.max == 400, "{range:?}");
    assert_eq!(bodies(&store, "T", 0).len() as i64, 400 - range.min);
    drop(store);
    export(dir.path(), &[], &[]).expect("exported");
    let path = dir.path().join("consumequeue/T/0/00000000000000000000");
    let bytes = std::fs::read(path).expect("read");
    for index in 0..range.min as usize {
        assert_eq!(unit(&bytes, index), (0, i32::MAX as u32, 0), "{index}");
    }
    assert!(unit(&bytes, range.min as usize).0 >= 131_072);
    assert_eq!(unit(&bytes, 400), (0, 0, 0));
}

#[test]
fn what_another_broker_wrote_is_not_cut_away() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    append_all(&store, (0..10).map(|n| message("T", 0, &[n], None)));
    let busy = export(dir.path(), &[], &[]).expect_err("in use");
    assert!(
        matches!(busy, ExportError::Open(OpenError::Locked(_))),
        "{busy}"
    );
    drop(store);
    let report = export(dir.path(), &[], &[]).expect("exported");
    drop(open(copy_of(dir.path()).path()));
    let path = dir.path().join("commitlog/00000000000000000000");
    let mut log = std::fs::read(&path).expect("read");
    log[report.log_end as usize + 3] = 200;
    std::fs::write(&path, &log).expect("write");
    let error = try_open(dir.path(), options()).expect_err("written elsewhere");
    let end = report.log_end.to_string();
    assert!(
        matches!(&error, OpenError::WrittenElsewhere { what } if what.contains(&end)),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).expect("read"), log);
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().expect("dir");
    let none = export(dir.path(), &[], &[]).expect_err("no store");
    assert!(matches!(none, ExportError::NoStore(_)), "{none}");
    assert!(
        std::fs::read_dir(dir.path()).expect("dir").next().is_none(),
        "nothing was made"
    );
    for name in ["", "..", "a/b"] {
        let error = export(dir.path(), &[(name.into(), String::new())], &[]).expect_err("a name");
        assert!(matches!(error, ExportError::Name(_)), "{error}");
    }
}
