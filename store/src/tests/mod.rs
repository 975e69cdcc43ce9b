//! Tests of the store as its callers and its disk see it. Each runs in a directory of its own,
//! with segments of 64 KiB and a clock that moves a millisecond a call.

mod append;
mod keys;
mod dispatch;
mod sealed;
mod many;
mod recovery;
mod retention;
mod formats;
mod java;
mod adopt;
mod model;
mod faults;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use protocol::properties;
use protocol::record::{Message, Record};

use crate::{AppendError, Appended, Flush, OpenError, Options, Read, ReadLimits, Store, Wait};

pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;
pub(crate) const ALL: ReadLimits = ReadLimits {
    messages_max: 10_000,
    bytes_max: 1 << 30,
    scan_max: 1 << 20,
};

pub(crate) fn clock() -> i64 {
    static NOW: AtomicI64 = AtomicI64::new(1_700_000_000_000);
    NOW.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn options() -> Options {
    let host = "10.0.0.2:10911".parse().expect("address");
    Options {
        flush: Flush::Async,
        segment_bytes: Some(SEGMENT_BYTES),
        run_bytes: 16 << 10,
        disk_used_percent_max: 100,
        ..Options::new("c", "b", host, clock)
    }
}

pub(crate) fn open(dir: &Path) -> Store {
    try_open(dir, options()).expect("the store opens")
}

pub(crate) fn try_open(dir: &Path, options: Options) -> Result<Store, OpenError> {
    Store::open(dir, options, Box::new(|_, _| {}))
}

pub(crate) fn message(topic: &str, queue: i32, body: &[u8], tag: Option<&str>) -> Message {
    let tags = tag.map(|tag| (properties::TAGS, tag));
    Message {
        topic: Arc::from(topic),
        queue,
        flag: 7,
        sys_flag: 0,
        born_ms: 1_699_999_999_000,
        born_host: "10.0.0.1:50000".parse().expect("address"),
        reconsume_times: 0,
        prepared_offset: 0,
        body: Bytes::copy_from_slice(body),
        properties: properties::encode(tags).into(),
    }
}

/// Appends all at once and waits for the last answer.
pub(crate) fn append_all(
    store: &Store,
    messages: impl IntoIterator<Item = Message>,
) -> Vec<Result<Appended, AppendError>> {
    let (sender, receiver) = mpsc::channel();
    for message in messages {
        let sender = sender.clone();
        store.append(
            message,
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        );
    }
    drop(sender);
    receiver.iter().collect()
}

pub(crate) fn read(store: &Store, topic: &str, queue: i32, from: i64) -> Read {
    store
        .read(topic, queue, from, &ALL, &mut |_| true, Wait::ForDisk)
        .expect("a read")
}

/// All bodies of a queue.
pub(crate) fn bodies(store: &Store, topic: &str, queue: i32) -> Vec<Vec<u8>> {
    let Some(range) = store.range(topic, queue) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let mut next = range.min;
    while next < range.max {
        let found = read(store, topic, queue, next);
        assert!(!found.records.is_empty(), "nothing at {next} of {range:?}");
        for (record, offset) in found.records.iter().zip(next..) {
            let record = Record::decode(record).expect("an intact record");
            assert_eq!(
                (record.topic, record.queue, record.queue_offset),
                (topic, queue, offset)
            );
            out.push(record.body.to_vec());
        }
        next = found.next;
    }
    out
}

/// A copy of a directory that nobody writes to.
pub(crate) fn copy_of(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    copy(from, to.path());
    to
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for item in std::fs::read_dir(from).expect("a directory") {
        let path = item.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}
