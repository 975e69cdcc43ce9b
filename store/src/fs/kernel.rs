//! Files and directories as the kernel has them. Everything that the store does to a disk is one
//! of these calls; `faulty` has the same ones.

use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::Volume;

#[derive(Debug)]
pub(crate) struct File(std::fs::File);

/// Makes a file that is not there yet.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(path)?;
    Ok(File(file))
}

pub(crate) fn open_rw(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(File(file))
}

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    std::fs::File::open(path).map(File)
}

pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// Path and length of everything in a directory.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let item = |item: io::Result<std::fs::DirEntry>| {
        let item = item?;
        Ok((item.path(), item.metadata()?.len()))
    };
    std::fs::read_dir(dir)?.map(item).collect()
}

pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

/// Returns when the names in `dir` are on disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

pub(crate) fn volume(dir: &Path) -> io::Result<Volume> {
    let stat = statvfs(dir)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    // What only root may use counts as used up, as `df` counts it.
    let total = used + stat.f_bavail;
    Ok(Volume {
        used_bytes: used * stat.f_frsize,
        total_bytes: total * stat.f_frsize,
    })
}

impl File {
    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    pub(crate) fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, at)
    }

    /// As `read_exact_at`, but `WouldBlock` where the disk is needed.
    pub(crate) fn read_cached_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let wanted = buf.len();
        let slice = &mut [IoSliceMut::new(buf)];
        match preadv2(&self.0, slice, at, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == wanted => Ok(()),
            // A part was in memory, or the file ends: the waiting read will tell.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
            // File systems in memory know no NOWAIT, and never wait.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.read_exact_at(buf, at),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the file `len` zero bytes long, with its blocks reserved where the file system can.
    pub(crate) fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.set_len(len),
            result => Ok(result?),
        }
    }

    /// Makes `[from, to)` zero; `Unsupported` where the file system can't without writing.
    pub(crate) fn zero_range(&self, from: u64, to: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::ZERO_RANGE, from, to - from) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    /// What a mapping is made of.
    #[expect(clippy::unnecessary_wraps, reason = "`faulty` may have none")]
    pub(crate) fn to_map(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
