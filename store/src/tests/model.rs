//! Random lives of a store against lists in memory. A failure prints the seed and the steps.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// So many messages of so many bytes to this queue.
    Append {
        queue: i32,
        count: usize,
        bytes: usize,
    },
    Reopen,
    /// Go on with what a killed process would have left.
    Crash,
    /// The same, but the last record is torn at this share of its bytes.
    Tear {
        percent: u64,
    },
    Read {
        queue: i32,
        from: i64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append =
        (0..3i32, 1..60usize, 0..1500usize).prop_map(|(queue, count, bytes)| Step::Append {
            queue,
            count,
            bytes,
        });
    let step = prop_oneof![
        6 => append,
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => (0..100u64).prop_map(|percent| Step::Tear { percent }),
        3 => (0..3i32, 0..200i64).prop_map(|(queue, from)| Step::Read { queue, from }),
    ];
    proptest::collection::vec(step, 1..25)
}

#[derive(Default)]
struct Model {
    queues: BTreeMap<i32, Vec<Vec<u8>>>,
    sent: u32,
    /// Queue and place of the last message, if nothing was appended after it.
    last: Option<(i32, Appended)>,
}

fn run(steps: &[Step], flush: Flush, tail_bytes_max: usize) {
    // In memory where that is possible: it is the order of steps that is tested here, and memory
    // has neither NOWAIT nor ZERO_RANGE, which takes the other way through both.
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("dir");
    let options = || Options {
        flush,
        tail_bytes_max,
        ..options()
    };
    let mut store = Some(try_open(dir.path(), options()).expect("open"));
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Append {
                queue,
                count,
                bytes,
            } => {
                append(
                    store.as_ref().expect("open"),
                    &mut model,
                    *queue,
                    *count,
                    *bytes,
                );
            }
            Step::Read { queue, from } => {
                check(store.as_ref().expect("open"), &model, *queue, *from);
            }
            Step::Reopen => {
                drop(store.take());
                store = Some(try_open(dir.path(), options()).expect("reopen"));
                model.last = None;
            }
            Step::Crash | Step::Tear { .. } => {
                store.take().expect("open").crash();
                if let (Step::Tear { percent }, Some((queue, last))) = (step, model.last) {
                    tear(dir.path(), last, *percent, &mut model, queue);
                }
                store = Some(try_open(dir.path(), options()).expect("recover"));
                model.last = None;
            }
        }
    }
    let store = store.expect("open");
    for (queue, expect) in &model.queues {
        assert_eq!(bodies(&store, "T", *queue), *expect, "queue {queue}");
    }
}

fn append(store: &Store, model: &mut Model, queue: i32, count: usize, bytes: usize) {
    let list = model.queues.entry(queue).or_default();
    let first = list.len() as i64;
    for _ in 0..count {
        let mut body = model.sent.to_be_bytes().to_vec();
        body.resize(4 + bytes, 0x5A);
        list.push(body);
        model.sent += 1;
    }
    let messages = list[first as usize..]
        .iter()
        .map(|body| message("T", queue, body, None));
    let sent = append_all(store, messages);
    for (sent, offset) in sent.iter().zip(first..) {
        assert_eq!(sent.as_ref().expect("stored").queue_offset, offset);
    }
    model.last = sent
        .last()
        .map(|sent| (queue, *sent.as_ref().expect("stored")));
}

fn check(store: &Store, model: &Model, queue: i32, from: i64) {
    let Some(list) = model.queues.get(&queue) else {
        return;
    };
    let found = read(store, "T", queue, from);
    assert_eq!((found.min, found.max), (0, list.len() as i64));
    for (record, expect) in found.records.iter().zip(list.iter().skip(from as usize)) {
        assert_eq!(Record::decode(record).expect("intact").body, expect);
    }
    let expect = (found.max - from).max(0) as usize;
    assert_eq!(found.records.len(), expect);
}

/// Damages the last record, unless it is already surely on disk.
fn tear(dir: &Path, last: Appended, percent: u64, model: &mut Model, queue: i32) {
    let checkpoint = crate::checkpoint::Checkpoint::load(dir).expect("load");
    let indexed = std::fs::read_dir(dir.join("gantry/index"))
        .expect("dir")
        .filter_map(|item| {
            let (run, _) = crate::run::Run::open(&item.expect("entry").path()).ok()??;
            Some(run.stretch.end)
        });
    let durable = indexed.max().unwrap_or(0).max(checkpoint.durable);
    if durable > last.position {
        return;
    }
    let start = last.position / SEGMENT_BYTES * SEGMENT_BYTES;
    let path = dir.join(format!("commitlog/{start:020}"));
    let mut bytes = std::fs::read(&path).expect("read");
    let at = last.position - start + u64::from(last.bytes) * percent / 100;
    bytes[at as usize] ^= 0x10;
    std::fs::write(path, bytes).expect("write");
    model.queues.get_mut(&queue).expect("a queue").pop();
}

proptest! {
    #![proptest_config(Config {
        cases: 32,
        rng_seed: RngSeed::Fixed(0x6761_6e74_7279),
        failure_persistence: None,
        ..Config::default()
    })]
    #[test]
    fn a_store_is_its_list(steps in steps(), sync in any::<bool>(), tail in any::<bool>()) {
        let flush = if sync { Flush::Sync } else { Flush::Async };
        run(&steps, flush, if tail { 32 << 20 } else { 0 });
    }
}
