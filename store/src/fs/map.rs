//! Files read through a mapping: the one home of `unsafe`. What is read of them is written no
//! more: index runs, and the records of log files.
//!
//! A reader that may wait copies. One that must not wait gets a slice of the mapping, without a
//! copy, where the kernel has lately said that the bytes are in memory; a page that has left it
//! since stops that reader's thread for one read of the disk, which is the price of not asking
//! each time.
//!
//! A page that cannot be read, since the disk fails or the file has become shorter, is a signal
//! where pread has an error. The guard turns it back into one: its handler of SIGBUS looks the
//! address up in a table of this process's mappings, puts a page of zeros there, flags the
//! mapping, and the copy that was interrupted goes on. Who copies asks for the flag afterwards;
//! a flagged mapping is not used again, and the file's own read tells what is wrong with which
//! bytes. A fault at any other address is the former handler's.
//!
//! What the handler does is safe in a signal: it reads atomics and calls mmap.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use super::known::{Owner, STRETCH_BYTES};
use super::{File, Wait};

/// At most so many files of a process are mapped; others are read with pread.
const MAPPINGS_MAX: usize = 4096;

/// For how long it holds that a stretch is in memory.
const IN_MEMORY_FOR_MS: u32 = 1_000;
/// Of one record, so that a large one does not push others out.
const PREFETCH_BYTES_MAX: usize = 2 << 10;
const LINE_BYTES: usize = 64;
/// No page is smaller.
const PAGE_BYTES_MIN: usize = 4096;

/// A file that nobody writes to any more.
#[derive(Debug)]
pub(crate) struct MappedFile {
    file: File,
    mapping: Option<Mapping>,
}

impl MappedFile {
    pub(crate) fn new(file: File) -> Self {
        let mapping = Mapping::new(&file);
        Self { file, mapping }
    }

    /// As `Mapping::slice`.
    pub(crate) fn slice(&self, at: u64, len: usize) -> Option<(Bytes, &Mapping)> {
        let mapping = self.mapping.as_ref()?;
        Some((mapping.slice(at, len)?, mapping))
    }

    /// Reads from the mapping if that may take its time or the bytes are in memory, else from what
    /// the kernel has there.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], at: u64, wait: Wait) -> io::Result<()> {
        let may = |mapping: &Mapping| wait == Wait::ForDisk || mapping.has(at, buf.len());
        match &self.mapping {
            Some(mapping) if may(mapping) && mapping.read(buf, at) => Ok(()),
            _ => super::read_exact_at(&self.file, buf, at, wait),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Mapping {
    /// All of it, to be sliced; the memory goes with its last slice.
    whole: Bytes,
    slot: &'static Slot,
    /// Per stretch, when it was last seen to be in memory, as `now_ms` says; 0 is never.
    seen_ms: Box<[AtomicU32]>,
    known: Owner,
}

/// The memory, and its place in the handler's table.
struct Memory {
    map: Mmap,
    slot: &'static Slot,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapping {
    /// `None` where the file cannot be mapped, or should not be since too many are.
    pub(crate) fn new(file: &File) -> Option<Self> {
        guard()?;
        // SAFETY: whoever looks at the bytes, by `read` or a `slice`, asks for those that are
        // written no more; should another process change them nevertheless, they are found to
        // differ from their checksum, or go to a client that finds it.
        let map = unsafe { MmapOptions::new().map(file.to_map()?.as_raw_fd()) }.ok()?;
        if map.is_empty() {
            return None;
        }
        let start = map.as_ptr() as usize;
        let slot = SLOTS.iter().find(|slot| slot.take(start, map.len()))?;
        let stretches = map.len().div_ceil(STRETCH_BYTES);
        Some(Self {
            whole: Bytes::from_owner(Memory { map, slot }),
            slot,
            seen_ms: (0..stretches).map(|_| AtomicU32::new(0)).collect(),
            known: Owner::new(stretches),
        })
    }

    /// Copies the bytes at `at`; false if they are not there or a page could not be read.
    pub(crate) fn read(&self, buf: &mut [u8], at: u64) -> bool {
        let Some(from) = self.place(at, buf.len()) else {
            return false;
        };
        // SAFETY: source and target are valid for `buf.len()` bytes, as was just checked, and do
        // not overlap. A page that is missing nevertheless is put there by `on_fault`.
        unsafe {
            let from = self.whole.as_ptr().add(from);
            ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len());
        }
        !self.is_damaged()
    }

    /// Whether what begins at `at` was found whole, and its stretch has not left memory since.
    pub(crate) fn knows(&self, at: u64) -> bool {
        self.known.knows(at as usize)
    }

    /// What lies at `at` was verified. What lies in two stretches is not kept in mind: one of them
    /// could leave memory without the other.
    pub(crate) fn learn(&self, at: u64, len: usize) {
        let (first, last) = (at as usize, at as usize + len.max(1) - 1);
        if first / STRETCH_BYTES == last / STRETCH_BYTES && !self.is_damaged() {
            self.known.learn(first);
        }
    }

    /// The bytes at `at`, if they are in memory. Who has verified them asks `is_damaged` then.
    pub(crate) fn slice(&self, at: u64, len: usize) -> Option<Bytes> {
        let from = at as usize;
        self.has(at, len)
            .then(|| self.whole.slice(from..from + len))
    }

    /// Whether the bytes at `at` are in memory.
    fn has(&self, at: u64, len: usize) -> bool {
        let Some(from) = self.place(at, len) else {
            return false;
        };
        let now_ms = now_ms();
        let mut stretches = from / STRETCH_BYTES..=(from + len.max(1) - 1) / STRETCH_BYTES;
        stretches.all(|stretch| self.is_in_memory(stretch, now_ms, from + len))
    }

    /// Has these bytes brought near, if they are in memory.
    pub(crate) fn prefetch(&self, at: u64, len: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(from) = self.place(at, len) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let first = self.whole.as_ptr().wrapping_add(from);
            for line in (0..len.min(PREFETCH_BYTES_MAX)).step_by(LINE_BYTES) {
                let line = first.wrapping_add(line);
                // SAFETY: a hint, which may name any address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, len);
    }

    fn place(&self, at: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(at).ok()?;
        let inside = at.checked_add(len)? <= self.whole.len();
        (inside && !self.is_damaged()).then_some(at)
    }

    /// Whether a stretch is in memory, or what of it lies below `end`: the stretch to which the
    /// log is written has pages that never were.
    fn is_in_memory(&self, stretch: usize, now_ms: u32, end: usize) -> bool {
        let Some(seen_ms) = self.seen_ms.get(stretch) else {
            return false;
        };
        let seen = seen_ms.load(Ordering::Relaxed);
        if seen != 0 && now_ms.wrapping_sub(seen) < IN_MEMORY_FOR_MS {
            return true;
        }
        let from = stretch * STRETCH_BYTES;
        let bytes = STRETCH_BYTES.min(self.whole.len() - from);
        let mut pages = [0; STRETCH_BYTES / PAGE_BYTES_MIN];
        // SAFETY: the range begins on a page and lies in the mapping, and there is a byte in
        // `pages` for each of its pages, which have at least `PAGE_BYTES_MIN` bytes.
        let asked = unsafe {
            let from = self.whole.as_ptr().add(from).cast_mut().cast();
            libc::mincore(from, bytes, pages.as_mut_ptr())
        };
        let page_bytes = GUARD
            .get()
            .and_then(Option::as_ref)
            .map_or(PAGE_BYTES_MIN, |g| g.page_bytes);
        let in_memory = |bytes: usize| {
            let mut pages = pages.iter().take(bytes.div_ceil(page_bytes));
            asked == 0 && pages.all(|page| page & 1 == 1)
        };
        if in_memory(bytes) {
            seen_ms.store(now_ms, Ordering::Relaxed);
            return true;
        }
        self.known.forget(stretch);
        in_memory(end.saturating_sub(from).min(bytes))
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.slot.damaged.load(Ordering::SeqCst)
    }
}

/// Milliseconds of a clock that is cheap to ask and never goes back; not 0.
fn now_ms() -> u32 {
    // SAFETY: all-zero bytes are a `timespec`, which the call fills in.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now);
        now
    };
    let ms = now
        .tv_sec
        .wrapping_mul(1_000)
        .wrapping_add(now.tv_nsec / 1_000_000);
    (ms as u32).max(1)
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Before the memory goes: from here on a fault there is a foreign one.
        self.slot.end.store(0, Ordering::SeqCst);
        self.slot.start.store(0, Ordering::SeqCst);
    }
}

/// Addresses of one mapping, for the handler. Free while `start` is 0.
#[derive(Debug)]
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    damaged: AtomicBool,
}

static SLOTS: [Slot; MAPPINGS_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        damaged: AtomicBool::new(false),
    }
}; MAPPINGS_MAX];

impl Slot {
    fn take(&self, start: usize, len: usize) -> bool {
        let free = (Ordering::SeqCst, Ordering::SeqCst);
        if (self.start.compare_exchange(0, start, free.0, free.1)).is_err() {
            return false;
        }
        self.damaged.store(false, Ordering::SeqCst);
        self.end.store(start + len, Ordering::SeqCst);
        true
    }

    fn holds(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::SeqCst);
        let end = self.end.load(Ordering::SeqCst);
        // Else the slot has changed hands, and the end is another mapping's.
        let same = start != 0 && self.start.load(Ordering::SeqCst) == start;
        same && (start..end).contains(&address)
    }
}

/// What the handler needs, and the handler that was there before.
struct Guard {
    page_bytes: usize,
    former: libc::sigaction,
}

static GUARD: OnceLock<Option<Guard>> = OnceLock::new();
static INSTALLED: OnceLock<bool> = OnceLock::new();

/// Installs the handler, once in a process.
fn guard() -> Option<&'static Guard> {
    let guard = GUARD.get_or_init(|| {
        // SAFETY: all-zero bytes are a `sigaction`, which the call then fills in; asking for the
        // page size has no conditions.
        let (former, asked, page_bytes) = unsafe {
            let mut former: libc::sigaction = std::mem::zeroed();
            let asked = libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut former);
            (former, asked, libc::sysconf(libc::_SC_PAGESIZE))
        };
        let page_bytes = usize::try_from(page_bytes).ok()?;
        let usable = asked == 0 && page_bytes.is_power_of_two();
        usable.then_some(Guard { page_bytes, former })
    });
    // Only now, since the handler reads what has just been stored.
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: the action is complete, and `on_fault` is a handler that takes three arguments.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) == 0
        }
    });
    guard.as_ref().filter(|_| *installed)
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(Some(guard)) = GUARD.get() else {
        return;
    };
    // SAFETY: the kernel hands a valid `siginfo_t` to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(slot) = SLOTS.iter().find(|slot| slot.holds(address)) {
        slot.damaged.store(true, Ordering::SeqCst);
        if zero_page(address & !(guard.page_bytes - 1), guard.page_bytes) {
            return;
        }
    }
    chain(&guard.former, signal, info, context);
}

/// Puts a page of zeros at `page`, which lies in a mapping of ours.
fn zero_page(page: usize, page_bytes: usize) -> bool {
    // SAFETY: the page belongs to a live mapping, which is only ever read, by copying; errno is
    // the interrupted thread's.
    unsafe {
        let errno = *libc::__errno_location();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let at = page as *mut libc::c_void;
        let mapped = libc::mmap(at, page_bytes, libc::PROT_READ, flags, -1, 0);
        *libc::__errno_location() = errno;
        mapped == at
    }
}

/// Does what would have been done without the guard.
fn chain(
    former: &libc::sigaction,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    type Plain = extern "C" fn(i32);
    type Full = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    // SAFETY: a handler that is neither default nor ignore is a function of the kind that its
    // flags name; setting the default action has no conditions.
    unsafe {
        match former.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                // The instruction is done again on return, and ends the process.
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, ptr::null_mut());
            }
            full if former.sa_flags & libc::SA_SIGINFO != 0 => {
                std::mem::transmute::<usize, Full>(full)(signal, info, context);
            }
            plain => std::mem::transmute::<usize, Plain>(plain)(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const DIES: &str = "GANTRY_TEST_DIES";

    /// A file of sevens, and the same one to cut it short.
    fn file(len: usize) -> (File, std::fs::File) {
        let mut same = tempfile::NamedTempFile::new().expect("a file");
        io::Write::write_all(&mut same, &vec![7; len]).expect("written");
        let file = crate::fs::open_read(same.path()).expect("opened");
        (file, same.into_file())
    }

    #[test]
    fn h16_a_page_that_is_gone_is_an_error_and_not_the_end() {
        let (whole, _) = file(40_000);
        let (sealed, cut) = file(40_000);
        let (others, mapping) = (
            MappedFile::new(whole),
            Mapping::new(&sealed).expect("mapped"),
        );
        let mut buf = [0; 100];
        for at in [0, 9_000, 39_900] {
            assert!(mapping.read(&mut buf, at) && buf == [7; 100], "{at}");
        }
        assert!(!mapping.read(&mut buf, 39_901), "beyond the end");
        assert!(!mapping.read(&mut buf, u64::MAX), "beyond all ends");
        cut.set_len(10_000).expect("truncated");
        assert!(mapping.read(&mut buf, 9_000) && buf == [7; 100]);
        assert!(!mapping.read(&mut buf, 30_000), "behind the cut");
        assert!(mapping.is_damaged());
        assert!(!mapping.read(&mut buf, 9_000), "out of use");
        let sealed = MappedFile::new(sealed);
        sealed
            .read_exact_at(&mut buf, 9_000, Wait::ForDisk)
            .expect("read");
        let error = sealed.read_exact_at(&mut buf, 30_000, Wait::ForDisk);
        assert_eq!(
            error.expect_err("gone").kind(),
            io::ErrorKind::UnexpectedEof
        );
        others
            .read_exact_at(&mut buf, 30_000, Wait::ForDisk)
            .expect("others are well");
        assert!(others.mapping.is_some_and(|mapping| !mapping.is_damaged()));
    }

    #[test]
    fn a_slice_is_of_what_is_in_memory() {
        let (written, same) = file(3 * STRETCH_BYTES / 2);
        let mapping = Mapping::new(&written).expect("mapped");
        for (at, len) in [
            (0, 100),
            (STRETCH_BYTES - 50, 100),
            (STRETCH_BYTES, STRETCH_BYTES / 2),
        ] {
            let slice = mapping.slice(at as u64, len).expect("just written");
            assert!(
                slice.len() == len && slice.iter().all(|byte| *byte == 7),
                "{at} {len}"
            );
        }
        assert_eq!(
            mapping.slice(STRETCH_BYTES as u64, STRETCH_BYTES),
            None,
            "beyond the end"
        );
        // A hole is nowhere, as is what has not been written to the log yet.
        same.set_len(4 * STRETCH_BYTES as u64).expect("longer");
        let mapping = Mapping::new(&written).expect("mapped");
        let written = STRETCH_BYTES * 3 / 2;
        assert!(mapping.slice(written as u64 - 100, 100).is_some());
        assert_eq!(mapping.slice(written as u64 + 8_192, 100), None);
        assert_eq!(mapping.slice(3 * STRETCH_BYTES as u64, 100), None);
    }

    #[test]
    fn h16_a_slot_is_used_again() {
        let (file, _) = file(5000);
        for round in 0..2 * MAPPINGS_MAX {
            assert!(Mapping::new(&file).is_some(), "{round}");
        }
    }

    #[test]
    fn h16_a_fault_elsewhere_still_ends_the_process() {
        let test = std::env::current_exe().expect("this test");
        let name = "fs::map::tests::dies_of_a_fault_elsewhere";
        let output = std::process::Command::new(test)
            .args(["--exact", name])
            .env(DIES, "1")
            .output()
            .expect("run");
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
    }

    /// The process of the test above.
    #[test]
    fn dies_of_a_fault_elsewhere() {
        if std::env::var_os(DIES).is_none() {
            return;
        }
        let (file, same) = file(20_000);
        let _guarded = Mapping::new(&file).expect("mapped");
        // SAFETY: none; that is the point.
        let foreign = unsafe { Mmap::map(&same) }.expect("mapped");
        same.set_len(0).expect("truncated");
        println!("{}", foreign[10_000]);
    }
}
