//! The store on disks that tear, rot, fill up, fail and lose power: the first six faults, a test
//! each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::recovery::{FIRST_SEGMENT, crashed, edit};
use super::*;
use crate::ReadError;
use crate::checkpoint::Checkpoint;
use crate::fs::faulty::{Call, Disk, EIO, ENOSPC, Verdict};

/// What was acknowledged: the body by queue and offset.
type Ledger = BTreeMap<(i32, i64), Vec<u8>>;
/// With the position after each.
type Stored = BTreeMap<(i32, i64), (Vec<u8>, u64)>;

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
            run_bytes: 24 << 10,
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

/// Appends some messages at once; says whether all were stored, and notes those that were with
/// the position after them.
fn batch(store: &Store, rng: &mut StdRng, stored: &mut Stored) -> bool {
    let (sender, receiver) = mpsc::channel();
    let count = rng.random_range(1..20);
    for _ in 0..count {
        let mut body = vec![0; rng.random_range(8..1500)];
        rng.fill(&mut body[..]);
        let queue = rng.random_range(0..3);
        let (sender, sent) = (sender.clone(), message("T", queue, &body, None));
        let done = move |result: Result<Appended, AppendError>| {
            let end = |at: &Appended| at.position + u64::from(at.bytes);
            let _ = sender.send(result.map(|at| ((queue, at.queue_offset), (body, end(&at)))));
        };
        store.append(sent, Box::new(done));
    }
    drop(sender);
    let answers: Vec<_> = receiver.iter().flatten().collect();
    let all = answers.len() == count;
    for (place, message) in answers {
        let before = stored.insert(place, message);
        assert!(before.is_none(), "{place:?} is given out twice");
    }
    all
}

/// Every acknowledged message lies where it was said to lie, and no queue has a gap. Says how
/// many messages there are.
fn check(store: &Store, ledger: &Ledger, what: &str) -> usize {
    let queues = (0..3).map(|queue| bodies(store, "T", queue));
    let found: Vec<_> = queues.collect();
    for ((queue, offset), body) in ledger {
        let there = found[*queue as usize].get(*offset as usize);
        assert!(
            there == Some(body),
            "{what}: message {offset} of queue {queue} is lost"
        );
    }
    found.iter().map(Vec::len).sum()
}

/// One life of a store until the disk goes off, or some batches. The ledger gets what the flush
/// mode promises: `on_disk` leaves out what was not synced.
fn life(
    site: &Site,
    flush: Flush,
    on_disk: bool,
    rng: &mut StdRng,
    ledger: &mut Ledger,
    what: &str,
) {
    let store = match site.open(flush) {
        Ok(store) => store,
        Err(error) => return assert!(site.disk.is_off(), "{what}: {error}"),
    };
    check(&store, ledger, what);
    let mut stored = Stored::new();
    for _ in 0..12 {
        if !batch(&store, rng, &mut stored) {
            assert!(site.disk.is_off(), "{what}");
            break;
        }
    }
    let flushed = store.status().flushed;
    store.crash();
    let kept = stored
        .into_iter()
        .filter(|(_, (_, end))| !on_disk || *end <= flushed);
    ledger.extend(kept.map(|(place, (body, _))| (place, body)));
}

/// Lives that end at a seeded change of the disk, each going on where the one before ended.
fn lives(seeds: u64, end: impl Fn(&Disk, u64), on_disk: bool) {
    let first = std::env::var("GANTRY_SEED")
        .ok()
        .and_then(|seed| seed.parse::<u64>().ok());
    for seed in (0..seeds).map(|seed| first.unwrap_or(0) * 1000 + seed) {
        let mut rng = StdRng::seed_from_u64(seed);
        let flush = [Flush::Sync, Flush::Async][seed as usize % 2];
        let (site, mut ledger) = (Site::new(), Ledger::new());
        for round in 0..5 {
            let what = format!("{flush:?}, seed {seed}, round {round}");
            // The first lives end while the store is being made or opened.
            site.disk
                .cut_power_at(rng.random_range(1..[40, 250][round % 2]));
            life(&site, flush, on_disk, &mut rng, &mut ledger, &what);
            end(&site.disk, rng.random());
        }
        site.disk.cut_power_at(u64::MAX);
        life(
            &site,
            flush,
            on_disk,
            &mut rng,
            &mut ledger,
            &format!("{flush:?}, seed {seed}, at last"),
        );
        assert!(!ledger.is_empty(), "seed {seed}");
    }
}

/// The process ends between two calls of the kernel, which keeps all that it was given.
#[test]
fn fault_5_kill() {
    lives(16, |disk, _| disk.restart(), false);
}

/// What was not synced is gone, or in part, or in another order: bytes, names and renames.
#[test]
fn fault_6_power_loss() {
    lives(40, Disk::lose_power, true);
}

#[test]
fn fault_1_torn_write() {
    let (crashed, sent) = crashed(20);
    let last = sent.last().expect("ten");
    let (from, to) = (
        last.position as usize,
        last.position as usize + last.bytes as usize,
    );
    let whole = std::fs::read(crashed.path().join(FIRST_SEGMENT)).expect("read");
    for at in from..to {
        for tear in ["zero the rest", "flip", "garbage"] {
            let copy = copy_of(crashed.path());
            edit(copy.path(), FIRST_SEGMENT, |bytes| match tear {
                "zero the rest" => bytes[at..].fill(0),
                "flip" => bytes[at] ^= 0x40,
                _ => bytes[at..].fill(0xA5),
            });
            let torn = std::fs::read(copy.path().join(FIRST_SEGMENT)).expect("read");
            if torn == whole {
                continue;
            }
            let data_left = torn[from..].iter().any(|byte| *byte != 0);
            let identity = crate::Identity::load(copy.path())
                .expect("load")
                .expect("there");
            let recovered = crate::recover::recover(copy.path(), &identity).expect("recover");
            assert_eq!(recovered.end, last.position, "{tear} at {at}");
            let range = recovered.index.get("T", 0).expect("a queue").range();
            assert_eq!((range.min, range.max), (0, 9), "{tear} at {at}");
            let left = std::fs::read(copy.path().join(FIRST_SEGMENT)).expect("read");
            assert_eq!(left[..from], whole[..from]);
            assert!(left[from..].iter().all(|byte| *byte == 0), "{tear} at {at}");
            let cut = Checkpoint::load(copy.path()).expect("load");
            assert_eq!(cut.durable, last.position);
            let cuts = if data_left {
                (1, last.position)
            } else {
                (0, 0)
            };
            assert_eq!((cut.cuts, cut.cut_at), cuts, "{tear} at {at}");
        }
    }
}

#[test]
fn a_write_that_stops_at_any_byte_leaves_what_was_acknowledged() {
    let size = message("T", 0, &[7; 20], None).encode("10.0.0.2:1".parse().expect("address"));
    let size = size.expect("encoded").size();
    for written in 0..size {
        let site = Site::new();
        let store = site.open(Flush::Sync).expect("open");
        let append = |store: &Store| store.append_wait(message("T", 0, &[7; 20], None));
        let first = append(&store).expect("stored");
        let mut writes = 0;
        site.disk.judge(move |call, path| match call {
            Call::Write if is_log(path) => {
                writes += 1;
                if writes == 1 && written > 0 {
                    Verdict::Short(written)
                } else {
                    Verdict::Fail(EIO)
                }
            }
            _ => Verdict::Pass,
        });
        assert_eq!(append(&store), Err(AppendError::Failed), "{written}");
        store.crash();
        site.disk.restart();
        let store = site.open(Flush::Sync).expect("open");
        let next = append(&store).expect("stored");
        assert_eq!((first.queue_offset, next.queue_offset), (0, 1), "{written}");
        assert_eq!(bodies(&store, "T", 0), [[7; 20], [7; 20]], "{written}");
    }
}

fn is_log(path: &Path) -> bool {
    path.parent().is_some_and(|dir| dir.ends_with("commitlog"))
}

/// One closed store of several files, and in the first of them a record whose bits will flip.
#[test]
#[expect(clippy::too_many_lines, reason = "one table of flips")]
fn fault_2_bit_flip() {
    let dir = tempfile::tempdir().expect("dir");
    let store = open(dir.path());
    let body = |n: u16| [&n.to_be_bytes()[..], &[b'x'; 300]].concat();
    let sent = append_all(
        &store,
        (0..600).map(|n| message("T", 0, &body(n), Some("tag"))),
    );
    drop(store);
    const DAMAGED: usize = 40;
    let place = *sent[DAMAGED].as_ref().expect("stored");
    let small = || Options {
        tail_bytes_max: 0,
        ..options()
    };
    let expect = |from: usize| (from..600).map(|n| body(n as u16)).collect::<Vec<_>>();
    // Every field of the header, then some bytes of body, topic and properties.
    for at in (0..90).chain((90..place.bytes).step_by(11)) {
        let copy = copy_of(dir.path());
        edit(copy.path(), FIRST_SEGMENT, |bytes| {
            bytes[(place.position + u64::from(at)) as usize] ^= 0x10;
        });
        let store = try_open(copy.path(), small()).expect("open");
        let read = |from| store.read("T", 0, from, &ALL, &mut |_| true, Wait::ForDisk);
        let before = read(0).expect("those before it");
        assert_eq!(
            (before.records.len(), before.next),
            (DAMAGED, DAMAGED as i64),
            "byte {at}"
        );
        let error = read(DAMAGED as i64).expect_err("damaged");
        assert!(
            matches!(error, ReadError::Corrupt { position } if position == place.position),
            "byte {at}: {error}"
        );
        let after = read(DAMAGED as i64 + 1).expect("those after it");
        let bodies: Vec<_> = after
            .records
            .iter()
            .map(|bytes| Record::decode(bytes).expect("intact").body.to_vec())
            .collect();
        assert_eq!(bodies, expect(DAMAGED + 1), "byte {at}");
        assert_eq!(
            store.record_at(place.position).expect("no record"),
            None,
            "byte {at}"
        );
    }
    let index = std::fs::read_dir(dir.path().join("gantry/index")).expect("dir");
    for run in index.map(|item| item.expect("an item")) {
        let name = format!("gantry/index/{}", run.file_name().display());
        let len = run.metadata().expect("meta").len();
        for at in (0..len).step_by(997) {
            let copy = copy_of(dir.path());
            edit(copy.path(), &name, |bytes| bytes[at as usize] ^= 0x10);
            let store = try_open(copy.path(), small()).expect("open");
            assert_eq!(bodies(&store, "T", 0), expect(0), "{name} at {at}");
        }
    }
    for name in ["gantry/checkpoint", "gantry/identity", "gantry/epoch"] {
        let len = std::fs::metadata(dir.path().join(name))
            .expect("meta")
            .len();
        for at in 0..len as usize {
            let copy = copy_of(dir.path());
            edit(copy.path(), name, |bytes| bytes[at] ^= 0x10);
            let error = try_open(copy.path(), small()).expect_err("damaged");
            assert!(
                matches!(&error, OpenError::Damaged(file) if file == name),
                "{name} at {at}: {error}"
            );
        }
    }
}

/// What has no room, and whether state records find some.
#[test]
#[expect(clippy::too_many_lines, reason = "one table of what has no room")]
fn fault_3_disk_full() {
    type Row = (&'static str, fn(&Disk), bool);
    let rows: [Row; 4] = [
        (
            "no room for a log file",
            |disk| disk.set_capacity(Some(disk.used())),
            true,
        ),
        (
            "no room in the log file",
            |disk| {
                let mut writes = 0;
                disk.judge(move |call, path| {
                    writes += i32::from(call == Call::Write && is_log(path));
                    match call {
                        Call::Write if is_log(path) && writes % 2 == 1 => Verdict::Short(100),
                        Call::Write if is_log(path) => Verdict::Fail(ENOSPC),
                        _ => Verdict::Pass,
                    }
                });
            },
            false,
        ),
        (
            "no room for the index",
            |disk| {
                disk.judge(|call, path| match call {
                    Call::Write if !is_log(path) => Verdict::Fail(ENOSPC),
                    _ => Verdict::Pass,
                });
            },
            true,
        ),
        (
            "no room for names",
            |disk| {
                disk.judge(|call, _| match call {
                    Call::Create => Verdict::Fail(ENOSPC),
                    _ => Verdict::Pass,
                });
            },
            true,
        ),
    ];
    for (what, fill, state_goes_on) in rows {
        for flush in [Flush::Sync, Flush::Async] {
            let (site, mut stored) = (Site::new(), Stored::new());
            let mut store = site.open(flush).expect("open");
            assert!(batch(&store, &mut StdRng::seed_from_u64(3), &mut stored));
            fill(&site.disk);
            let text = fill_up(&store, &mut stored).expect(what).to_string();
            assert!(text.contains("% of the disk is used"), "{what}: {text}");
            let ledger = ledger_of(&stored);
            assert_eq!(
                check(&store, &ledger, what),
                ledger.len(),
                "{what}: nothing refused is there"
            );
            for _ in 0..100 {
                let state = store.append_wait(message(crate::state::TOPIC, 0, &[1; 500], None));
                assert_eq!(state.is_ok(), state_goes_on, "{what}: {state:?}");
            }
            assert!(!store.status().failed, "{what}");
            if what == "no room for a log file" {
                store.crash();
                store = site.open(flush).expect("a full disk opens");
                assert_eq!(check(&store, &ledger, what), ledger.len());
            }
            site.disk.set_capacity(None);
            site.disk.judge(|_, _| Verdict::Pass);
            resumes(&store, what);
            drop(store);
            check(&site.open(flush).expect("open"), &ledger, what);
        }
    }
}

/// Appends until a message is refused, and says why it was.
fn fill_up(store: &Store, stored: &mut Stored) -> Option<AppendError> {
    (0..500).find_map(
        |_| match store.append_wait(message("T", 1, &[9; 999], None)) {
            Ok(at) => {
                stored.insert((1, at.queue_offset), (vec![9; 999], 0));
                None
            }
            Err(error) => Some(error),
        },
    )
}

fn ledger_of(stored: &Stored) -> Ledger {
    let messages = stored
        .iter()
        .map(|(place, (body, _))| (*place, body.clone()));
    messages.collect()
}

fn resumes(store: &Store, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = store.append_wait(message("T", 2, b"again", None)) {
        assert!(Instant::now() < deadline, "{what}: {error}");
        store
            .inner
            .keeper
            .nudge_and_wait(Duration::from_millis(100));
    }
}

/// The call that fails once, and whether the store must stop for it.
#[test]
fn fault_4_eio() {
    let rows: [(&str, Hit, bool); 6] = [
        (
            "a write to the log",
            |call, path| call == Call::Write && is_log(path),
            true,
        ),
        (
            "a sync of the log",
            |call, path| call == Call::Sync && is_log(path),
            true,
        ),
        (
            "the next file's allocation",
            |call, path| call == Call::Allocate && path.ends_with("gantry/segment.tmp"),
            false,
        ),
        (
            "the next file's sync",
            |call, path| call == Call::Sync && path.ends_with("gantry/segment.tmp"),
            false,
        ),
        (
            "the next file's name",
            |call, path| call == Call::SyncDir && path.ends_with("commitlog"),
            false,
        ),
        (
            "an index run's sync",
            |call, path| call == Call::Sync && path.to_string_lossy().contains("/index/"),
            false,
        ),
    ];
    for (what, hit, stops) in rows {
        for (flush, after) in [
            (Flush::Sync, 0),
            (Flush::Sync, 5),
            (Flush::Async, 0),
            (Flush::Async, 1),
        ] {
            fails_once(
                &format!("{what}, {flush:?}, after {after}"),
                flush,
                hit,
                after,
                stops,
            );
        }
    }
}

/// Whether the failing call is this one.
type Hit = fn(Call, &Path) -> bool;

fn fails_once(what: &str, flush: Flush, hit: Hit, after: i32, stops: bool) {
    let (site, mut rng, mut stored) = (Site::new(), StdRng::seed_from_u64(4), Stored::new());
    let store = site.open(flush).expect("open");
    let syncs_after = Arc::new(AtomicI64::new(0));
    let (mut hits, mut failed_sync, seen) = (0, false, Arc::clone(&syncs_after));
    site.disk.judge(move |call, path| {
        hits += i32::from(hit(call, path));
        if hits == after + 1 && hit(call, path) {
            failed_sync = call == Call::Sync && is_log(path);
            return Verdict::Fail(EIO);
        }
        if failed_sync && call == Call::Sync && is_log(path) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        Verdict::Pass
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut all = true;
    while all && Instant::now() < deadline && (stops || stored.len() < 1_000) {
        all = batch(&store, &mut rng, &mut stored);
    }
    if stops {
        assert!(store.status().failed, "{what}");
        let more = store.append_wait(message("T", 0, b"more", None));
        assert_eq!(more, Err(AppendError::Failed), "{what}");
        assert!(store.inner.sync_log().is_err(), "{what}");
        assert_eq!(
            syncs_after.load(Ordering::Relaxed),
            0,
            "{what}: a second sync"
        );
    }
    let mut ledger = ledger_of(&stored);
    check(&store, &ledger, what);
    if store.status().failed {
        store.crash();
    } else {
        drop(store);
    }
    // Another process opens what the kernel shows; then that is put to the proof.
    site.disk.restart();
    life(&site, Flush::Sync, true, &mut rng, &mut ledger, what);
    site.disk.lose_power(7);
    check(&site.open(flush).expect("open"), &ledger, what);
}

/// A disk that takes its time holds back answers and nobody else.
#[test]
fn a_slow_sync_holds_answers_and_no_reader() {
    let site = Site::new();
    let store = site.open(Flush::Sync).expect("open");
    store
        .append_wait(message("T", 0, b"first", None))
        .expect("stored");
    let (reached, held) = mpsc::channel();
    site.disk.judge(move |call, path| {
        if call == Call::Sync && is_log(path) {
            let _ = reached.send(());
            return Verdict::Hold;
        }
        Verdict::Pass
    });
    let (sender, answer) = mpsc::channel();
    let done = move |result| {
        let _ = sender.send(result);
    };
    store.append(message("T", 0, b"second", None), Box::new(done));
    let limit = Duration::from_secs(10);
    held.recv_timeout(limit).expect("the sync has begun");
    assert_eq!(
        bodies(&store, "T", 0),
        [b"first"],
        "not readable before it is durable"
    );
    assert_eq!(answer.try_recv(), Err(mpsc::TryRecvError::Empty));
    site.disk.judge(|_, _| Verdict::Pass);
    assert!(answer.recv_timeout(limit).expect("an answer").is_ok());
    assert_eq!(bodies(&store, "T", 0).len(), 2);
}

/// The disk itself: what was synced stays, all else may go.
#[test]
fn a_lost_disk_keeps_what_was_synced() {
    use crate::fs;
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let site = Site::new();
        let path = |name: &str| site.dir.path().join(name);
        fs::create_dir_all(&path("d")).expect("dir");
        fs::sync_dir(site.dir.path()).expect("sync");
        let kept = fs::write_new(&path("d/kept"), b"kept").expect("written");
        kept.sync_all().expect("sync");
        fs::write_new(&path("d/named"), b"unsynced").expect("written");
        fs::sync_dir(&path("d")).expect("sync");
        kept.write_all_at(b"K", 0).expect("written");
        fs::rename(&path("d/kept"), &path("d/moved")).expect("renamed");
        fs::write_new(&path("d/new"), b"new")
            .expect("written")
            .sync_all()
            .expect("sync");
        site.disk.lose_power(seed);
        let read = |name| std::fs::read_to_string(path(name)).ok();
        let (kept, moved) = (read("d/kept"), read("d/moved"));
        assert!(
            kept.is_some() != moved.is_some(),
            "a rename is whole: {kept:?} {moved:?}"
        );
        let content = kept.clone().or(moved).expect("one of them");
        assert!(["kept", "Kept"].contains(&&*content), "{content}");
        let named = read("d/named").expect("its directory was synced");
        assert!(["", "unsynced"].contains(&&*named), "{named}");
        seen.insert((kept.is_some(), content, named, read("d/new")));
    }
    assert!(seen.len() > 8, "{seen:?}");
}
