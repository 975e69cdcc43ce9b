//! The store on disks that tear, rot, fill up, fail and lose power: the first six faults, a test
//! each.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::fs::faulty::{Call, Disk, EIO, Verdict};

/// What was acknowledged: the body by queue and offset.
type Ledger = BTreeMap<(i32, i64), Vec<u8>>;

/// A directory on a faulty disk of its own.
struct Site {
    disk: Arc<Disk>,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.expect("dir");
        let disk = Disk::mount(dir.path());
        Self { disk, dir }
    }

    fn open(&self, flush: Flush) -> Result<Store, OpenError> {
        let options = Options {
            flush,
            tail_bytes_max: 0,
            run_bytes: 8 << 10,
            ..options()
        };
        try_open(self.dir.path(), options)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.disk.unmount();
    }
}

/// Appends some messages at once; says whether all were stored, and notes those that were.
fn batch(store: &Store, rng: &mut StdRng, ledger: &mut Ledger) -> bool {
    let (sender, receiver) = mpsc::channel();
    let count = rng.random_range(1..20);
    for _ in 0..count {
        let mut body = vec![0; rng.random_range(8..1500)];
        rng.fill(&mut body[..]);
        let queue = rng.random_range(0..3);
        let (sender, sent) = (sender.clone(), message("T", queue, &body, None));
        let done = move |result: Result<Appended, AppendError>| {
            let _ = sender.send(result.map(|at| ((queue, at.queue_offset), body)));
        };
        store.append(sent, Box::new(done));
    }
    drop(sender);
    let stored: Vec<_> = receiver.iter().flatten().collect();
    let all = stored.len() == count;
    for (place, body) in stored {
        assert!(
            ledger.insert(place, body).is_none(),
            "{place:?} is given out twice"
        );
    }
    all
}

/// Every acknowledged message lies where it was said to lie, and no queue has a gap.
fn check(store: &Store, ledger: &Ledger, what: &str) {
    let found: BTreeMap<i32, _> = (0..3)
        .map(|queue| (queue, bodies(store, "T", queue)))
        .collect();
    for ((queue, offset), body) in ledger {
        let there = found[queue].get(*offset as usize);
        assert!(
            there == Some(body),
            "{what}: message {offset} of queue {queue} is lost"
        );
    }
}

/// One life between two losses of power: `batches` or until it goes.
fn life(site: &Site, flush: Flush, rng: &mut StdRng, ledger: &mut Ledger, what: &str) {
    let store = match site.open(flush) {
        Ok(store) => store,
        Err(error) => return assert!(site.disk.is_off(), "{what}: {error}"),
    };
    if !site.disk.is_off() {
        check(&store, ledger, what);
    }
    let mut stored = Ledger::new();
    for _ in 0..30 {
        if !batch(&store, rng, &mut stored) {
            assert!(site.disk.is_off(), "{what}");
            break;
        }
    }
    let flushed = store.status().flushed;
    store.crash();
    match flush {
        Flush::Sync => ledger.extend(stored),
        Flush::Async => drop(flushed),
    }
}

#[test]
fn fault_6_power_loss() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (site, mut ledger) = (Site::new(), Ledger::new());
        for round in 0..4 {
            let what = format!("seed {seed}, round {round}");
            site.disk.cut_power_at(rng.random_range(1..200));
            life(&site, Flush::Sync, &mut rng, &mut ledger, &what);
            site.disk.lose_power(rng.random());
        }
        life(
            &site,
            Flush::Sync,
            &mut rng,
            &mut ledger,
            &format!("seed {seed}, at last"),
        );
    }
}

#[test]
fn fault_4_eio() {
    let (site, mut ledger) = (Site::new(), Ledger::new());
    let mut rng = StdRng::seed_from_u64(1);
    let store = site.open(Flush::Sync).expect("open");
    site.disk.judge(|call, path| {
        if call == Call::Sync && path.starts_with("commitlog") {
            Verdict::Fail(EIO)
        } else {
            Verdict::Pass
        }
    });
    batch(&store, &mut rng, &mut ledger);
}
