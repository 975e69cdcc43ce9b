//! Directories as a Java broker leaves them, made by hand: adopted, opened, and exported again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::*;
use crate::adopt::{AdoptError, Report, Survey};
use crate::java::export;
use crate::{Range, base};

/// A Java broker's directory in the making.
struct Java {
    dir: tempfile::TempDir,
    at: u64,
    segment: Vec<u8>,
    /// By topic and queue: the units of its consume queue from its first file's start on.
    queues: BTreeMap<(String, i32), Vec<(u64, u32)>>,
}

impl Java {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("commitlog")).expect("dir");
        Self {
            dir,
            at: 0,
            segment: Vec::new(),
            queues: BTreeMap::new(),
        }
    }

    /// Writes a record and its unit, as the queue's next.
    fn put(&mut self, message: &Message) -> u64 {
        let units = self
            .queues
            .entry((message.topic.to_string(), message.queue))
            .or_default();
        let offset = units.len() as i64;
        let (position, size) = self.log(message, offset);
        let key = (message.topic.to_string(), message.queue);
        self.queues.entry(key).or_default().push((position, size));
        position
    }

    /// Writes a record that no consume queue knows.
    fn log(&mut self, message: &Message, offset: i64) -> (u64, u32) {
        let host: SocketAddr = "10.9.9.9:10911".parse().expect("address");
        let mut record = java_record(message, offset, self.at, host);
        let left = SEGMENT_BYTES - self.segment.len() as u64;
        if record.len() as u64 + 8 > left {
            self.segment.extend((left as u32).to_be_bytes());
            self.segment.extend(0xCBD4_3194u32.to_be_bytes());
            self.seal();
            record = java_record(message, offset, self.at, host);
        }
        let place = (self.at, record.len() as u32);
        self.at += record.len() as u64;
        self.segment.extend(record);
        place
    }

    fn seal(&mut self) {
        let start = self.at - self.at % SEGMENT_BYTES;
        let mut bytes = std::mem::take(&mut self.segment);
        bytes.resize(SEGMENT_BYTES as usize, 0);
        std::fs::write(self.path(&format!("commitlog/{start:020}")), bytes).expect("written");
        self.at = start + SEGMENT_BYTES;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The topic is deleted: its consume queues go, its records stay.
    fn delete_topic(&mut self, topic: &str) {
        self.queues.retain(|(name, _), _| name != topic);
    }

    /// Everything on disk, with the file ahead that Java makes; the end is unclean if so said.
    fn finish(mut self, unclean: bool) -> (tempfile::TempDir, u64) {
        let end = self.at;
        self.seal();
        let ahead = vec![0; SEGMENT_BYTES as usize];
        std::fs::write(self.path(&format!("commitlog/{:020}", self.at)), ahead).expect("written");
        for ((topic, id), units) in &self.queues {
            let dir = self.path(&format!("consumequeue/{topic}/{id}"));
            std::fs::create_dir_all(&dir).expect("dir");
            let mut bytes = Vec::new();
            for (position, size) in units {
                bytes.extend(position.to_be_bytes());
                bytes.extend(size.to_be_bytes());
                bytes.extend([0; 8]);
            }
            bytes.resize(6_000_000, 0);
            std::fs::write(dir.join("00000000000000000000"), bytes).expect("written");
        }
        for file in ["checkpoint", "lock"] {
            std::fs::write(self.path(file), b"lock").expect("written");
        }
        std::fs::create_dir(self.path("index")).expect("dir");
        std::fs::write(self.path("index/20260101000000000"), b"x").expect("written");
        if unclean {
            std::fs::write(self.path("abort"), b"7").expect("written");
        }
        (self.dir, end)
    }
}

/// The record without the CRC that ours have.
fn java_record(message: &Message, offset: i64, position: u64, host: SocketAddr) -> Vec<u8> {
    let mut encoded = message.encode(host).expect("a message");
    let mut bytes = encoded
        .place(offset, position, 1_700_000_000_000 + position as i64)
        .to_vec();
    let properties_at = bytes.len() - 20 - message.properties.len() - 2;
    bytes.truncate(bytes.len() - 20);
    let (size, properties) = (bytes.len() as u32, message.properties.len() as u16);
    bytes[..4].copy_from_slice(&size.to_be_bytes());
    bytes[properties_at..properties_at + 2].copy_from_slice(&properties.to_be_bytes());
    bytes
}

fn survey(dir: &Path) -> Result<Survey, AdoptError> {
    Survey::take(dir, "c", "b", &mut |_| {})
}

fn adopt(dir: &Path) -> Result<Report, AdoptError> {
    survey(dir)?.finish(Bytes::from_static(b"\x01"))
}

fn range(store: &Store, topic: &str, queue: i32) -> (i64, i64) {
    let Range { min, max } = store.range(topic, queue).unwrap_or_default();
    (min, max)
}

fn numbered(topic: &str, queue: i32, n: usize) -> Message {
    message(
        topic,
        queue,
        format!("{topic}-{n}").as_bytes(),
        Some("TagA"),
    )
}

/// Ten files and more, the first two expired; an idle queue that lived in them; a topic deleted,
/// one deleted and made again; IPv6 hosts; a topic name of V2; a torn end.
fn varied(unclean: bool) -> (tempfile::TempDir, u64) {
    let mut java = Java::new();
    let v6 = |message: Message| Message {
        born_host: "[fd00::1]:50000".parse().expect("address"),
        ..message
    };
    for n in 0..40 {
        java.put(&numbered("Idle", 1, n));
        java.put(&numbered("Gone", 0, n));
        java.put(&numbered("Again", 0, n));
    }
    for n in 0..200 {
        java.put(&message("T", 0, &[n as u8; 1000], None));
    }
    for n in 40..100 {
        java.put(&numbered("Gone", 0, n));
        java.put(&numbered("Again", 0, n));
    }
    java.delete_topic("Gone");
    java.delete_topic("Again");
    for n in 100..130 {
        java.put(&numbered("Again", 0, n));
    }
    let long = format!("%RETRY%{}", "g".repeat(130));
    for n in 0..500 {
        java.put(&v6(message("T", n % 2, &[n as u8; 1000], Some("TagB"))));
        java.put(&numbered(&long, 0, n as usize));
    }
    if unclean {
        // Not dispatched yet, and a record that was not written to its end.
        java.log(&numbered("Again", 0, 130), 30);
        let end = java.at;
        let torn = java_record(
            &numbered("T", 0, 0),
            0,
            end,
            "10.9.9.9:1".parse().expect("host"),
        );
        java.segment.extend(&torn[..60]);
    }
    let (dir, end) = java.finish(unclean);
    for start in [0, SEGMENT_BYTES] {
        let path = dir.path().join(format!("commitlog/{start:020}"));
        std::fs::remove_file(path).expect("removed");
    }
    (dir, end)
}

fn check_varied(dir: &Path, unclean: bool) {
    let store = open(dir);
    assert_eq!(range(&store, "Idle", 1), (40, 40));
    let text = |n: usize| format!("Again-{n}").into_bytes();
    let last = if unclean { 131 } else { 130 };
    assert_eq!(
        bodies(&store, "Again", 0),
        (100..last).map(text).collect::<Vec<_>>()
    );
    assert_eq!(
        range(&store, "Gone", 0),
        (100, 100),
        "deleted, and never given out again"
    );
    let (min, max) = range(&store, "T", 0);
    assert!(min > 0 && max == 450, "{min} {max}");
    assert_eq!(bodies(&store, "T", 0).len() as i64, max - min);
    assert_eq!(range(&store, "T", 1), (0, 250));
    let found = read(&store, "T", 1, 249);
    let record = Record::decode(&found.records[0]).expect("intact");
    assert_eq!(
        record.born_host,
        "[fd00::1]:50000".parse().expect("address")
    );
    assert!(!record.sealed);
    let long = format!("%RETRY%{}", "g".repeat(130));
    assert_eq!(range(&store, &long, 0), (0, 500));
    let appended = store.append_wait(numbered("Idle", 1, 40)).expect("stored");
    assert_eq!(appended.queue_offset, 40, "an idle queue goes on");
    let own = read(&store, "Idle", 1, 40);
    assert!(
        Record::decode(&own.records[0]).expect("intact").sealed,
        "ours has its CRC"
    );
}

#[test]
fn a_java_directory_is_adopted() {
    for unclean in [false, true] {
        let (dir, end) = varied(unclean);
        let dir = dir.path();
        let error = try_open(dir, options()).expect_err("not yet");
        assert!(matches!(error, OpenError::NotGantry(_)), "{error}");
        let report = adopt(dir).expect("adopted");
        assert_eq!((report.log_start, report.log_end), (2 * SEGMENT_BYTES, end));
        assert_eq!((report.unclean, report.idle_queues), (unclean, 2));
        assert_eq!(report.left_out, 120, "of Gone and of the first Again");
        assert_eq!(report.segment_bytes, SEGMENT_BYTES);
        for gone in ["consumequeue", "index", "checkpoint", "abort"] {
            assert!(!dir.join(gone).exists(), "{gone}");
        }
        assert!(dir.join("java-derived/consumequeue/Idle/1").is_dir());
        let base = base::load(dir).expect("read").expect("a base");
        assert_eq!((base.position, &base.state[..]), (end, &b"\x01"[..]));
        check_varied(dir, unclean);
        // The index can be made again from the log, which says the same.
        for item in std::fs::read_dir(dir.join("gantry/index"))
            .expect("dir")
            .skip(1)
        {
            std::fs::write(item.expect("entry").path(), b"damaged").expect("written");
        }
        let store = open(dir);
        assert_eq!(range(&store, "Again", 0).0, 0);
        assert_eq!(bodies(&store, "Again", 0)[0], b"Again-100");
        drop(store);
        let again = adopt(dir).expect_err("it is Gantry's");
        assert!(matches!(again, AdoptError::Gantry(_)), "{again}");
    }
}

#[test]
fn an_interrupted_adoption_is_completed() {
    let obstacles = [
        "gantry/adopted.tmp",
        "gantry/base.tmp",
        "gantry/checkpoint.tmp",
        "gantry/identity.tmp",
        "java-derived",
    ];
    for obstacle in obstacles {
        let (dir, _) = varied(true);
        let dir = dir.path();
        let path = dir.join(obstacle);
        let survey = survey(dir).expect("a directory");
        if obstacle == "java-derived" {
            std::fs::write(&path, b"in the way").expect("written");
        } else {
            std::fs::create_dir_all(path.join("in the way")).expect("dir");
        }
        let error = survey.finish(Bytes::new()).expect_err(obstacle);
        assert!(
            matches!(
                error,
                AdoptError::Io(_) | AdoptError::Read(_) | AdoptError::Open(_)
            ),
            "{error}"
        );
        let error = try_open(dir, options()).expect_err("half of a store");
        assert!(matches!(error, OpenError::HalfAdopted(_)), "{error}");
        if path.is_dir() {
            std::fs::remove_dir_all(&path).expect("removed");
        } else {
            std::fs::remove_file(&path).expect("removed");
        }
        // As if the first had come to the very last step.
        if obstacle == "java-derived" {
            std::fs::create_dir(&path).expect("dir");
            std::fs::rename(dir.join("consumequeue"), path.join("consumequeue")).expect("moved");
            std::fs::remove_file(dir.join("abort")).expect("removed");
        }
        adopt(dir).expect("adopted");
        check_varied(dir, true);
    }
}

#[test]
fn there_and_back_and_there() {
    let (dir, _) = varied(true);
    let dir = dir.path();
    adopt(dir).expect("adopted");
    let store = open(dir);
    let all = |store: &Store| -> Vec<Vec<u8>> {
        let queues = store.queues().into_iter();
        queues
            .flat_map(|(topic, queue, _)| bodies(store, &topic, queue))
            .collect()
    };
    append_all(&store, (0..50).map(|n| numbered("Ours", 0, n)));
    let (first, ranges) = (all(&store), store.queues());
    drop(store);
    let configs = [("topics.json".to_owned(), "{}".to_owned())];
    export(dir, &configs, &[]).expect("exported");
    let same = adopt(dir).expect_err("nothing changed");
    assert!(matches!(same, AdoptError::Gantry(_)), "{same}");
    std::fs::write(dir.join("config/topics.json"), "{1:2}").expect("written");
    let error = try_open(dir, options()).expect_err("written elsewhere");
    assert!(error.to_string().contains("config/topics.json"), "{error}");
    let other = Survey::take(dir, "c", "other", &mut |_| {}).expect_err("another broker's");
    assert!(
        matches!(other, AdoptError::Open(OpenError::OtherBroker { .. })),
        "{other}"
    );
    let report = adopt(dir).expect("adopted again");
    assert_eq!(
        (report.left_out, report.idle_queues),
        (0, 2),
        "known to be left out"
    );
    let store = open(dir);
    let epoch = (Arc::from(crate::state::TOPIC), 0);
    let without = |ranges: Vec<(Arc<str>, i32, Range)>| -> Vec<_> {
        ranges
            .into_iter()
            .filter(|(topic, queue, _)| (topic.clone(), *queue) != epoch)
            .collect()
    };
    assert_eq!(without(store.queues()), without(ranges));
    assert_eq!(
        all(&store).len(),
        first.len() + 1,
        "and this opening's epoch"
    );
}

#[test]
fn refusals() {
    let row = |spoil: &dyn Fn(&Path, u64)| {
        let (dir, end) = varied(false);
        spoil(dir.path(), end);
        let before = copy_of(dir.path());
        let error = adopt(dir.path()).expect_err("refused").to_string();
        assert!(
            !dir.path().join("gantry").exists(),
            "nothing was made: {error}"
        );
        let queue = "consumequeue/Idle/1/00000000000000000000";
        assert!(dir.path().join(queue).exists() == before.path().join(queue).exists());
        error
    };
    let log = |dir: &Path, at: u64, bytes: &[u8]| {
        let start = at - at % SEGMENT_BYTES;
        let path = dir.join(format!("commitlog/{start:020}"));
        let mut log = std::fs::read(&path).expect("read");
        let at = (at - start) as usize;
        log[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, log).expect("written");
    };
    let damaged = row(&|dir, _| log(dir, 3 * SEGMENT_BYTES, b"damage"));
    assert!(damaged.contains("damaged at 196608"), "{damaged}");
    let cut = row(&|dir, end| log(dir, end - 200, &[0; 200]));
    assert!(cut.contains("closed in order"), "{cut}");
    let large = row(&|dir, end| log(dir, end, b"\0\x50\0\0\xda\xa3\x20\xa7"));
    assert!(
        large.contains("5242880 bytes") || large.contains("damaged"),
        "{large}"
    );
    let none = row(&|dir, _| std::fs::remove_dir_all(dir.join("commitlog")).expect("removed"));
    assert!(none.contains("no log of a Java broker"), "{none}");
    let lock = std::cell::RefCell::new(None);
    let busy = row(&|dir, _| {
        *lock.borrow_mut() = crate::fs::DirLock::acquire(dir).expect("a lock");
    });
    assert!(busy.contains("in use by another process"), "{busy}");
}

/// Offsets are given out twice: only the second life of each counts, in the index made anew too.
#[test]
fn h15_a_topic_made_again_by_java_keeps_its_new_messages() {
    let mut java = Java::new();
    for n in 0..100 {
        java.put(&numbered("T", 0, n));
        java.put(&numbered("Other", 0, n));
    }
    java.delete_topic("T");
    for n in 100..130 {
        java.put(&numbered("T", 0, n));
    }
    let (dir, _) = java.finish(false);
    let dir = dir.path();
    assert_eq!(adopt(dir).expect("adopted").left_out, 100);
    let text = |n: usize| format!("T-{n}").into_bytes();
    let expect: Vec<_> = (100..130).map(text).collect();
    let store = open(dir);
    assert_eq!(range(&store, "T", 0), (0, 30));
    assert_eq!(bodies(&store, "T", 0), expect);
    assert_eq!(bodies(&store, "Other", 0).len(), 100);
    drop(store);
    let run = dir.join("gantry/index/00000000000000000000.run");
    std::fs::write(run, b"damaged").expect("written");
    assert_eq!(bodies(&open(dir), "T", 0), expect);
}
