//! The system calls of the store: files are written with pwrite and read with pread, never
//! through a mapping, so that a bad page or a full disk is an error and not a signal.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fcntl_lock, statvfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// How full the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    pub used_bytes: u64,
    pub total_bytes: u64,
}

impl Volume {
    pub fn measure(dir: &Path) -> io::Result<Self> {
        let stat = statvfs(dir)?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        // What only root may use counts as used up, as `df` counts it.
        let total = used + stat.f_bavail;
        Ok(Self {
            used_bytes: used * stat.f_frsize,
            total_bytes: total * stat.f_frsize,
        })
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
    if wait == Wait::ForDisk {
        return file.read_exact_at(buf, at);
    }
    match preadv2(
        file,
        &mut [IoSliceMut::new(buf)],
        at,
        ReadWriteFlags::NOWAIT,
    ) {
        Ok(read) if read == buf.len() => Ok(()),
        // A part was in memory, or the file ends: the waiting read will tell.
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
        // File systems in memory know no NOWAIT, and never wait.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.read_exact_at(buf, at),
        Err(error) => Err(error.into()),
    }
}

/// A new file of exactly `len` zero bytes, with its blocks reserved where the file system can.
pub(crate) fn create_allocated(path: &Path, len: u64) -> io::Result<File> {
    let file = open_new(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, len) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len)?,
        Err(error) => {
            drop(file);
            std::fs::remove_file(path)?;
            return Err(error.into());
        }
    }
    file.sync_all()?;
    Ok(file)
}

pub(crate) fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
}

pub(crate) fn open_rw(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Makes `[from, to)` of the file zero.
pub(crate) fn zero_range(file: &File, from: u64, to: u64) -> io::Result<()> {
    if from >= to {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::ZERO_RANGE, from, to - from) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
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

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

/// What lies in a directory, with lengths, in no order.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let item = |item: io::Result<std::fs::DirEntry>| {
        let item = item?;
        Ok((item.path(), item.metadata()?.len()))
    };
    std::fs::read_dir(dir)?.map(item).collect()
}

/// The same, but nothing where there is no directory.
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

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces the file at `path` by `bytes`: after a crash it is the old one or the new one.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = tmp_of(path);
    let mut file = open_new(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&tmp, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// The name under which the next version of a file is written.
pub(crate) fn tmp_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

pub(crate) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
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
    _file: File,
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
