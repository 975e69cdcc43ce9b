//! The disk itself: what a process sees of it, what is durable, and what is left without power.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;
const HOLD_MAX: Duration = Duration::from_secs(20);
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EIO: i32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    Read,
    Write,
    Allocate,
    Zero,
    Sync,
    SyncDir,
    Rename,
    Remove,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// It fails with this error number.
    Fail(i32),
    /// A write takes only so many bytes and says so.
    Short(usize),
    /// It comes to its end when the judge is replaced.
    Hold,
}

type Judge = Box<dyn FnMut(Call, &Path) -> Verdict + Send>;

pub(crate) struct Disk {
    root: PathBuf,
    state: Mutex<State>,
    released: Condvar,
}

pub(super) struct State {
    pub(super) files: Vec<Inode>,
    /// As the process sees them.
    pub(super) names: BTreeMap<PathBuf, usize>,
    pub(super) durable: BTreeMap<PathBuf, usize>,
    pub(super) pending: Vec<NameChange>,
    judge: Judge,
    judges: u64,
    /// Calls so far that change something.
    changes: u64,
    /// The power goes in the middle of this change.
    last_change: u64,
    pub(super) capacity: Option<u64>,
}

#[derive(Default)]
pub(super) struct Inode {
    pub(super) dir: bool,
    pub(super) len: u64,
    pub(super) allocated: u64,
    pub(super) durable: Vec<u8>,
    pub(super) dirty: Vec<Dirty>,
}

pub(super) enum Dirty {
    Bytes(u64, Vec<u8>),
    Len(u64),
}

/// One or, for a rename within a directory, two names that change together.
pub(super) struct NameChange {
    pub(super) dir: PathBuf,
    names: Vec<(PathBuf, Option<usize>)>,
}

static DISKS: LazyLock<Mutex<Vec<Arc<Disk>>>> = LazyLock::new(Mutex::default);

fn disks() -> MutexGuard<'static, Vec<Arc<Disk>>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn disk_of(path: &Path) -> Option<Arc<Disk>> {
    disks()
        .iter()
        .find(|disk| path.starts_with(&disk.root))
        .cloned()
}

pub(super) fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Disk {
    /// What is in the directory now is durable.
    pub(crate) fn mount(root: &Path) -> Arc<Self> {
        let disk = Arc::new(Self {
            root: root.to_owned(),
            state: Mutex::new(State::load(root)),
            released: Condvar::new(),
        });
        disks().push(Arc::clone(&disk));
        disk
    }

    pub(crate) fn unmount(&self) {
        disks().retain(|disk| disk.root != self.root);
    }

    /// From now on `judge` decides; calls that an earlier one has held go on.
    pub(crate) fn judge(&self, judge: impl FnMut(Call, &Path) -> Verdict + Send + 'static) {
        let mut state = self.lock();
        state.judge = Box::new(judge);
        state.judges += 1;
        self.released.notify_all();
    }

    /// So many bytes fit the disk.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    pub(crate) fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Lets the power go in the middle of the change with this number.
    pub(crate) fn cut_power_at(&self, change: u64) {
        self.lock().last_change = change;
    }

    pub(crate) fn is_off(&self) -> bool {
        self.lock().is_off()
    }

    /// Everything passes again, and nothing is lost.
    pub(crate) fn restart(&self) {
        let mut state = self.lock();
        (state.changes, state.last_change) = (0, u64::MAX);
        state.judge = Box::new(|_, _| Verdict::Pass);
    }

    /// Makes the directory what is left of it, and turns the power on again. Nobody may have it
    /// open.
    pub(crate) fn lose_power(&self, seed: u64) {
        let mut state = self.lock();
        let mut rng = StdRng::seed_from_u64(seed);
        let keep = [0.0, 0.3, 0.7, 1.0][rng.random_range(0..4)];
        let names = state.surviving_names(&self.root, &mut rng, keep);
        for item in std::fs::read_dir(&self.root).expect("the disk's directory") {
            let path = item.expect("an item").path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).expect("removed");
            } else {
                std::fs::remove_file(path).expect("removed");
            }
        }
        let mut written: BTreeMap<usize, PathBuf> = BTreeMap::new();
        for (path, id) in names {
            let inode = &state.files[id];
            if inode.dir {
                std::fs::create_dir(&path).expect("a directory");
            } else if let Some(first) = written.get(&id) {
                std::fs::hard_link(first, &path).expect("a second name");
            } else {
                std::fs::write(&path, inode.surviving(&mut rng, keep)).expect("written");
                written.insert(id, path);
            }
        }
        *state = State::load(&self.root);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn look(&self, path: &Path) -> io::Result<()> {
        self.ask(Call::Read, path).map(drop)
    }

    /// Asks the judge; a call that changes something is counted.
    pub(super) fn ask(
        &self,
        call: Call,
        path: &Path,
    ) -> io::Result<(MutexGuard<'_, State>, usize)> {
        let mut state = self.lock();
        if state.is_off() {
            // What the process sees outlives the disk by some moments.
            if call == Call::Read {
                return Ok((state, usize::MAX));
            }
            return Err(io::Error::other("the power is off"));
        }
        let verdict = (state.judge)(call, path);
        if verdict == Verdict::Hold {
            let judges = state.judges;
            let held = |state: &mut State| state.judges == judges;
            let held = self.released.wait_timeout_while(state, HOLD_MAX, held);
            state = held.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_off() {
                return Err(io::Error::other("the power is off"));
            }
        }
        if call != Call::Read {
            state.changes += 1;
        }
        match verdict {
            Verdict::Fail(number) => Err(error(number)),
            Verdict::Short(most) => Ok((state, most)),
            Verdict::Pass | Verdict::Hold => Ok((state, usize::MAX)),
        }
    }
}

impl State {
    fn load(root: &Path) -> Self {
        let mut state = Self {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            judge: Box::new(|_, _| Verdict::Pass),
            judges: 0,
            changes: 0,
            last_change: u64::MAX,
            capacity: None,
        };
        let (mut dirs, mut seen) = (vec![root.to_owned()], BTreeMap::new());
        while let Some(dir) = dirs.pop() {
            for item in std::fs::read_dir(dir).expect("a directory") {
                let path = item.expect("an item").path();
                let meta = std::fs::metadata(&path).expect("an inode");
                let id = *seen.entry(meta.ino()).or_insert(state.files.len());
                if meta.is_dir() {
                    dirs.push(path.clone());
                }
                if id == state.files.len() {
                    let file = !meta.is_dir();
                    let content = file.then(|| std::fs::read(&path).expect("read"));
                    let durable = content.unwrap_or_default();
                    let len = durable.len() as u64;
                    state.files.push(Inode {
                        dir: !file,
                        len,
                        allocated: len,
                        durable,
                        dirty: Vec::new(),
                    });
                }
                state.names.insert(path, id);
            }
        }
        state.durable = state.names.clone();
        state
    }

    fn is_off(&self) -> bool {
        self.changes >= self.last_change
    }

    /// An error once the power has gone in the middle of this change.
    pub(super) fn end(&self) -> io::Result<()> {
        if self.is_off() {
            return Err(io::Error::other("the power went off"));
        }
        Ok(())
    }

    pub(super) fn used(&self) -> u64 {
        let ids: BTreeSet<_> = self.names.values().collect();
        ids.into_iter().map(|id| self.files[*id].allocated).sum()
    }

    /// How far the file can grow to `end`.
    pub(super) fn room(&mut self, id: usize, end: u64) -> u64 {
        let allocated = self.files[id].allocated;
        let free = self
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()));
        let reach = end.min(allocated.saturating_add(free)).max(allocated);
        if reach >= end {
            self.files[id].allocated = reach;
        }
        reach
    }

    pub(super) fn path_of(&self, id: usize) -> PathBuf {
        let named = self.names.iter().find(|(_, other)| **other == id);
        named.map(|(path, _)| path.clone()).unwrap_or_default()
    }

    pub(super) fn change_names(&mut self, names: Vec<(PathBuf, Option<usize>)>) {
        for (path, id) in &names {
            match id {
                Some(id) => self.names.insert(path.clone(), *id),
                None => self.names.remove(path),
            };
        }
        let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        let mut changes: Vec<NameChange> = Vec::new();
        for (path, id) in names {
            let dir = parent(&path);
            match changes.iter_mut().find(|change| change.dir == dir) {
                Some(change) => change.names.push((path, id)),
                None => changes.push(NameChange {
                    dir,
                    names: vec![(path, id)],
                }),
            }
        }
        self.pending.extend(changes);
    }

    fn surviving_names(
        &self,
        root: &Path,
        rng: &mut StdRng,
        keep: f64,
    ) -> BTreeMap<PathBuf, usize> {
        let mut names = self.durable.clone();
        for change in self.pending.iter().filter(|_| rng.random_bool(keep)) {
            apply(&mut names, change);
        }
        // What lies in a directory whose own name is lost is lost too.
        let dirs: BTreeSet<PathBuf> = names.keys().cloned().collect();
        names.retain(|path, _| {
            let above = path.ancestors().skip(1);
            above
                .take_while(|dir| *dir != root)
                .all(|dir| dirs.contains(dir))
        });
        names
    }
}

pub(super) fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    for (path, id) in &change.names {
        match id {
            Some(id) => names.insert(path.clone(), *id),
            None => names.remove(path),
        };
    }
}

impl Inode {
    /// What a sync leaves.
    pub(super) fn settle(&mut self) {
        for dirty in std::mem::take(&mut self.dirty) {
            match dirty {
                Dirty::Bytes(at, bytes) => put(&mut self.durable, at, &bytes),
                Dirty::Len(len) => self.durable.resize(len as usize, 0),
            }
        }
    }

    fn surviving(&self, rng: &mut StdRng, keep: f64) -> Vec<u8> {
        let mut content = self.durable.clone();
        for dirty in &self.dirty {
            match dirty {
                Dirty::Len(len) if rng.random_bool(keep) => content.resize(*len as usize, 0),
                Dirty::Len(_) => {}
                Dirty::Bytes(at, bytes) => {
                    let (mut at, mut rest) = (*at, &bytes[..]);
                    while !rest.is_empty() {
                        let page = (PAGE_BYTES - at as usize % PAGE_BYTES).min(rest.len());
                        let (now, later) = rest.split_at(page);
                        if rng.random_bool(keep) {
                            let torn = rng.random_bool(0.2);
                            let sectors = rng.random_range(0..PAGE_BYTES / SECTOR_BYTES);
                            let end = (SECTOR_BYTES * sectors)
                                .saturating_sub(at as usize % PAGE_BYTES)
                                .min(now.len());
                            put(&mut content, at, if torn { &now[..end] } else { now });
                        }
                        at += page as u64;
                        rest = later;
                    }
                }
            }
        }
        content
    }
}

fn put(content: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let (at, end) = (at as usize, at as usize + bytes.len());
    content.resize(content.len().max(end), 0);
    content[at..end].copy_from_slice(bytes);
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Disk").field(&self.root).finish()
    }
}
