//! Many queues: descriptors, memory and the restart of a killed process. The process is this very
//! test program, which runs one of the tests that do nothing without a directory.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use protocol::properties::INNER_MULTI_DISPATCH;

use super::*;

const DIR: &str = "GANTRY_TEST_DIR";
const BODY_BYTES: usize = 16 << 10;
const DESCRIPTORS_MAX: usize = 1000;
/// What the allocator takes for a queue that has messages in one index file.
const QUEUE_BYTES_MAX: u64 = 448;

/// With `GANTRY_VERIFY` the size of a release: 100,000 queues and 10 GiB.
fn size() -> (i32, u64) {
    match std::env::var_os("GANTRY_VERIFY") {
        Some(_) => (100_000, 10 << 30),
        None => (10_000, 1 << 30),
    }
}

fn large() -> Options {
    Options {
        segment_bytes: Some(256 << 20),
        run_bytes: 64 << 20,
        ..options()
    }
}

/// Runs one test of this program as a process of its own.
fn start(name: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", name, "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

fn line_with(child: &mut Child, word: &str) -> String {
    let out = BufReader::new(child.stdout.as_mut().expect("piped"));
    let mut lines = out.lines().map_while(Result::ok);
    lines.find(|line| line.contains(word)).expect(word)
}

#[test]
fn h20_a_killed_store_of_many_queues_replays_at_most_a_run() {
    let dir = tempfile::tempdir().expect("dir");
    let (queues, bytes) = size();
    let mut child = start("tests::many::fills_many_queues", dir.path());
    line_with(&mut child, "full");
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let descriptors = std::fs::read_dir(proc.join("fd")).expect("proc").count();
    let maps = std::fs::read_to_string(proc.join("maps"))
        .expect("proc")
        .lines()
        .count();
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(descriptors < DESCRIPTORS_MAX, "{descriptors} descriptors");
    assert!(maps < DESCRIPTORS_MAX, "{maps} mappings");

    let from = std::time::Instant::now();
    let identity = crate::Identity::load(dir.path())
        .expect("load")
        .expect("a store");
    let recovered = crate::recover::recover(dir.path(), &identity).expect("recover");
    let indexed = recovered.runs.last().map_or(0, |run| run.stretch.end);
    let replayed = recovered.end - indexed;
    assert!(
        recovered.end >= bytes && replayed <= large().run_bytes,
        "{replayed} of the log"
    );
    drop(recovered);
    let store = try_open(dir.path(), large()).expect("open");
    println!("{descriptors} descriptors, {maps} mappings, {replayed} bytes replayed");
    println!("opened twice in {:?}", from.elapsed());
    let messages = (bytes / BODY_BYTES as u64) as i64;
    for queue in 0..queues {
        let range = store.range("T", queue).expect("a queue");
        assert!(
            range.max >= messages / i64::from(queues),
            "{queue}: {range:?}"
        );
    }
    for queue in [0, queues / 2, queues - 1] {
        assert_eq!(bodies(&store, "T", queue)[0].len(), BODY_BYTES);
    }
}

/// Fills a store, says so, and goes on until it is killed: the process of the test above.
#[test]
fn fills_many_queues() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let (queues, bytes) = size();
    let store = try_open(&dir, large()).expect("open");
    let messages = (bytes / BODY_BYTES as u64) as i32;
    let body = vec![0x5A; BODY_BYTES];
    let mut next = 0;
    loop {
        let batch = (next..next + 500).map(|n| message("T", n % queues, &body, None));
        assert!(append_all(&store, batch).iter().all(Result::is_ok));
        next += 500;
        if (messages..messages + 500).contains(&next) {
            println!("full");
        }
    }
}

#[test]
fn m6_memory_of_a_queue() {
    let dir = tempfile::tempdir().expect("dir");
    let mut child = start("tests::many::measures_queues", dir.path());
    let line = line_with(&mut child, "bytes a queue");
    child.wait().expect("ended");
    println!("{line}");
    let mut words = line.split(' ').rev().skip_while(|word| *word != "bytes");
    let bytes = words.nth(1).and_then(|number| number.parse::<u64>().ok());
    assert!(
        bytes.is_some_and(|bytes| bytes <= QUEUE_BYTES_MAX),
        "{line}"
    );
}

/// The process of the test above.
#[test]
fn measures_queues() {
    const QUEUES: u64 = 200_000;
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let options = Options {
        multi_dispatch: true,
        tail_bytes_max: 0,
        segment_bytes: Some(64 << 20),
        run_bytes: 1 << 20,
        ..options()
    };
    let store = try_open(&dir, options).expect("open");
    let append = |n: u64| {
        let names: Vec<_> = (0..200)
            .map(|k| format!("%LMQ%lite{}", n * 200 + k))
            .collect();
        let properties = properties::encode([(INNER_MULTI_DISPATCH, &*names.join(","))]);
        let message = Message {
            properties: properties.into(),
            ..message("T", 0, b"x", None)
        };
        store.append_wait(message).expect("stored");
    };
    append(0);
    let before = resident();
    for n in 1..=QUEUES / 200 {
        append(n);
    }
    store.close();
    let used = resident().saturating_sub(before);
    println!("{} bytes a queue", used / QUEUES);
}

/// Bytes of memory that are not of a file.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let mut pages = text.split(' ').map_while(|pages| pages.parse::<u64>().ok());
    let (all, shared) = (
        pages.nth(1).expect("resident"),
        pages.next().expect("shared"),
    );
    (all - shared) * 4096
}
