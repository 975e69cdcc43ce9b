//! The system calls of the store: files are written with pwrite, never through a mapping, so that
//! a full disk is an error and not a signal. What is written is read through `map`, or with
//! pread.
//!
//! `kernel` makes the calls. In the tests of this crate `faulty` stands before it: a disk that is
//! full, fails, or loses power.

mod kernel;
#[cfg(test)]
pub(crate) mod faulty;
mod known;
mod map;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

#[cfg(test)]
use self::faulty as medium;
#[cfg(not(test))]
use self::kernel as medium;

pub(crate) use medium::{
    File, create_dir_all, list, open_read, open_rw, remove_file, rename, sync_dir,
};

pub(crate) use self::map::{MappedFile, Mapping};

const ZERO_CHUNK_BYTES: usize = 1 << 20;
const APPEND_BUFFER_BYTES: usize = 1 << 18;

/// How full the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    pub used_bytes: u64,
    pub total_bytes: u64,
}

impl Volume {
    pub fn measure(dir: &Path) -> io::Result<Self> {
        medium::volume(dir)
    }

    pub fn used_percent(self) -> u8 {
        (self.used_bytes.saturating_mul(100))
            .checked_div(self.total_bytes)
            .unwrap_or(0) as u8
    }
}

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Only what is in memory; anything else is `WouldBlock`.
    Never,
    ForDisk,
}

pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], at: u64, wait: Wait) -> io::Result<()> {
    match wait {
        Wait::ForDisk => file.read_exact_at(buf, at),
        Wait::Never => file.read_cached_at(buf, at),
    }
}

/// A new file of exactly `len` zero bytes, with its blocks reserved where the file system can.
pub(crate) fn create_allocated(path: &Path, len: u64) -> io::Result<File> {
    let file = open_new(path)?;
    if let Err(error) = file.allocate(len) {
        drop(file);
        remove_file(path)?;
        return Err(error);
    }
    file.sync_all()?;
    Ok(file)
}

/// An empty file. An older one of this name goes, and with it nothing that has another name too:
/// after a power loss a rename may have left both.
pub(crate) fn open_new(path: &Path) -> io::Result<File> {
    remove_if_exists(path)?;
    medium::create(path)
}

/// Makes `[from, to)` of the file zero.
pub(crate) fn zero_range(file: &File, from: u64, to: u64) -> io::Result<()> {
    if from >= to {
        return Ok(());
    }
    match file.zero_range(from, to) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        result => return result,
    }
    let zeros = vec![0; ZERO_CHUNK_BYTES];
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZERO_CHUNK_BYTES as u64) as usize;
        file.write_all_at(zeros.get(..len).unwrap_or_default(), at)?;
        at += len as u64;
    }
    Ok(())
}

/// As `list`, but nothing where there is no directory.
pub(crate) fn list_if_exists(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    match list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        items => items,
    }
}

/// Removes a directory and all in it, or a file, if it is there.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces the file at `path` by `bytes`: after a crash it is the old one or the new one.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = tmp_of(path);
    write_new(&tmp, bytes)?.sync_all()?;
    rename(&tmp, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// A new file with `bytes`, whose fate in a crash is nobody's concern until it is synced.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let file = open_new(path)?;
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

/// Writes a file from its start to its end, through a buffer.
#[derive(Debug)]
pub(crate) struct Appender<'a> {
    file: &'a File,
    at: u64,
}

impl<'a> Appender<'a> {
    pub(crate) fn new(file: &'a File) -> io::BufWriter<Self> {
        io::BufWriter::with_capacity(APPEND_BUFFER_BYTES, Self { file, at: 0 })
    }
}

impl Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether nothing is broken: there was no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The name under which the next version of a file is written.
pub(crate) fn tmp_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

pub(crate) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match medium::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}

pub(crate) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Names this run of the kernel: what it had not written back is gone when the id is another.
pub(crate) fn boot_id() -> [u8; 16] {
    let mut id = [0; 16];
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut digits = text.chars().filter_map(|digit| digit.to_digit(16));
    for byte in &mut id {
        let (high, low) = (digits.next().unwrap_or(0), digits.next().unwrap_or(0));
        *byte = (high << 4 | low) as u8;
    }
    id
}

/// The lock of a store's directory, taken as the Java broker takes it, on `lock`.
///
/// A record lock belongs to the process and is lost when any descriptor of the file is closed,
/// so a table of this process's own directories is asked first.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: std::fs::File,
    id: (u64, u64),
}

static LOCKED: LazyLock<Mutex<HashSet<(u64, u64)>>> = LazyLock::new(Mutex::default);

impl DirLock {
    /// `None` when somebody else holds it.
    pub(crate) fn acquire(dir: &Path) -> io::Result<Option<Self>> {
        let meta = std::fs::metadata(dir)?;
        let id = (meta.dev(), meta.ino());
        let mut locked = LOCKED.lock().unwrap_or_else(PoisonError::into_inner);
        if locked.contains(&id) {
            return Ok(None);
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(dir.join("lock"))?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.write_all(b"lock")?;
        locked.insert(id);
        Ok(Some(Self { _file: file, id }))
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        LOCKED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}
