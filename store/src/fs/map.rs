//! Files that are written no more, read through a mapping: the one home of `unsafe`.
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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Mmap, MmapOptions};

use super::{File, Wait};

/// At most so many files of a process are mapped; others are read with pread.
const MAPPINGS_MAX: usize = 4096;

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

    /// Reads from the mapping if that may take its time, else from what the kernel has in memory.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], at: u64, wait: Wait) -> io::Result<()> {
        match &self.mapping {
            Some(mapping) if wait == Wait::ForDisk && mapping.read(buf, at) => Ok(()),
            _ => super::read_exact_at(&self.file, buf, at, wait),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Mapping {
    map: Mmap,
    slot: &'static Slot,
}

impl Mapping {
    /// `None` where the file cannot be mapped, or should not be since too many are.
    pub(crate) fn new(file: &File) -> Option<Self> {
        guard()?;
        // SAFETY: the bytes are only ever copied, by `read`, into a buffer that is then verified;
        // no reference into the mapping is made, so a change of the file breaks none.
        let map = unsafe { MmapOptions::new().map(file.to_map()?.as_raw_fd()) }.ok()?;
        if map.is_empty() {
            return None;
        }
        let start = map.as_ptr() as usize;
        let slot = SLOTS.iter().find(|slot| slot.take(start, map.len()))?;
        Some(Self { map, slot })
    }

    /// Copies the bytes at `at`; false if they are not there or a page could not be read.
    pub(crate) fn read(&self, buf: &mut [u8], at: u64) -> bool {
        let inside = |at: usize| {
            at.checked_add(buf.len())
                .is_some_and(|end| end <= self.map.len())
        };
        let Some(at) = usize::try_from(at).ok().filter(|at| inside(*at)) else {
            return false;
        };
        if self.is_damaged() {
            return false;
        }
        // SAFETY: source and target are valid for `buf.len()` bytes, as was just checked, and do
        // not overlap. A page that is missing nevertheless is put there by `on_fault`.
        unsafe { ptr::copy_nonoverlapping(self.map.as_ptr().add(at), buf.as_mut_ptr(), buf.len()) };
        !self.is_damaged()
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.slot.damaged.load(Ordering::SeqCst)
    }
}

impl Drop for Mapping {
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
        start != 0 && (start..self.end.load(Ordering::SeqCst)).contains(&address)
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
