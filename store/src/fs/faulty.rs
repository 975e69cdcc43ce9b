//! The second implementation of the file layer: the same calls on a disk that can be full, fail,
//! and lose power.
//!
//! A [`Disk`] stands over a real directory, which always is what the process sees; other paths
//! go straight to the kernel. Beside it the disk knows what is durable: the content of a file as
//! of its last sync, the names in a directory as of the directory's last sync. All else is
//! pending, and [`Disk::lose_power`] keeps a seeded part of it, whatever the order of writing:
//! bytes by the page, some torn at a sector, and each name, rename and unlink by itself, but for
//! a rename within a directory, which is one. The directory is then rewritten to be that.
//!
//! Each call is first shown to the disk's judge, a closure of the test. A sync that the judge
//! fails has lost what it should have written, as Linux does it: the pages stay readable and
//! count as clean, so that a second sync is a success that says nothing.

mod disk;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use super::{Volume, kernel};

pub(crate) use self::disk::{Call, Disk, EIO, ENOSPC, Verdict};
use self::disk::{Dirty, Inode, State, apply, disk_of, error};

/// A file of the kernel, and if it lies on a disk of ours the number of it there.
#[derive(Debug)]
pub(crate) struct File {
    real: kernel::File,
    on: Option<(Arc<Disk>, usize)>,
}

pub(crate) fn create(path: &Path) -> io::Result<File> {
    let Some(disk) = disk_of(path) else {
        return Ok(File {
            real: kernel::create(path)?,
            on: None,
        });
    };
    let (mut state, _) = disk.ask(Call::Create, path)?;
    let real = kernel::create(path)?;
    let id = state.files.len();
    state.files.push(Inode::default());
    state.change_names(vec![(path.to_owned(), Some(id))]);
    state.end()?;
    drop(state);
    Ok(File {
        real,
        on: Some((disk, id)),
    })
}

pub(crate) fn open_rw(path: &Path) -> io::Result<File> {
    opened(path, kernel::open_rw(path)?)
}

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    opened(path, kernel::open_read(path)?)
}

fn opened(path: &Path, real: kernel::File) -> io::Result<File> {
    let Some(disk) = disk_of(path) else {
        return Ok(File { real, on: None });
    };
    let (state, _) = disk.ask(Call::Read, path)?;
    let id = state.names.get(path).copied();
    drop(state);
    Ok(File {
        real,
        on: id.map(|id| (disk, id)),
    })
}

pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if let Some(disk) = disk_of(path) {
        disk.look(path)?;
    }
    kernel::read(path)
}

pub(crate) fn list(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    if let Some(disk) = disk_of(dir) {
        disk.look(dir)?;
    }
    kernel::list(dir)
}

pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().take_while(|dir| !dir.exists());
    let missing: Vec<_> = missing.map(Path::to_owned).collect();
    for dir in missing.iter().rev() {
        let disk = disk_of(dir);
        let asked = disk
            .as_ref()
            .map(|disk| disk.ask(Call::Create, dir))
            .transpose()?;
        kernel::create_dir_all(dir)?;
        if let Some((mut state, _)) = asked {
            let id = state.files.len();
            state.files.push(Inode {
                dir: true,
                ..Inode::default()
            });
            state.change_names(vec![(dir.clone(), Some(id))]);
            state.end()?;
        }
    }
    Ok(())
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let Some(disk) = disk_of(from) else {
        return kernel::rename(from, to);
    };
    let (mut state, _) = disk.ask(Call::Rename, to)?;
    kernel::rename(from, to)?;
    let id = state
        .names
        .get(from)
        .copied()
        .expect("the disk knows its files");
    state.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
    state.end()
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    let Some(disk) = disk_of(path) else {
        return kernel::remove_file(path);
    };
    if !path.exists() {
        return kernel::remove_file(path);
    }
    let (mut state, _) = disk.ask(Call::Remove, path)?;
    kernel::remove_file(path)?;
    state.change_names(vec![(path.to_owned(), None)]);
    state.end()
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let Some(disk) = disk_of(dir) else {
        return kernel::sync_dir(dir);
    };
    let (mut state, _) = disk.ask(Call::SyncDir, dir)?;
    state.end()?;
    let pending = std::mem::take(&mut state.pending);
    for change in pending {
        if change.dir == dir {
            apply(&mut state.durable, &change);
        } else {
            state.pending.push(change);
        }
    }
    Ok(())
}

pub(crate) fn volume(dir: &Path) -> io::Result<Volume> {
    if let Some(disk) = disk_of(dir) {
        let state = disk.lock();
        if let Some(total_bytes) = state.capacity {
            let used_bytes = state.used().min(total_bytes);
            return Ok(Volume {
                used_bytes,
                total_bytes,
            });
        }
    }
    kernel::volume(dir)
}

impl File {
    /// Asks the disk that the file lies on.
    fn ask(&self, call: Call) -> io::Result<Option<(MutexGuard<'_, State>, usize, usize)>> {
        let Some((disk, id)) = &self.on else {
            return Ok(None);
        };
        let path = disk.lock().path_of(*id);
        let (state, most) = disk.ask(call, &path)?;
        Ok(Some((state, *id, most)))
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        self.real.len()
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut bytes, mut at) = (bytes, at);
        while !bytes.is_empty() {
            let Some((mut state, id, most)) = self.ask(Call::Write)? else {
                return self.real.write_all_at(bytes, at);
            };
            let end = at + bytes.len().min(most) as u64;
            let reach = state.room(id, end);
            let taken = reach.min(end).saturating_sub(at) as usize;
            let (now, later) = bytes.split_at(taken);
            self.real.write_all_at(now, at)?;
            let inode = &mut state.files[id];
            inode.len = inode.len.max(at + taken as u64);
            inode.dirty.push(Dirty::Bytes(at, now.to_vec()));
            state.end()?;
            if reach < end {
                return Err(error(ENOSPC));
            }
            (bytes, at) = (later, at + taken as u64);
        }
        Ok(())
    }

    pub(crate) fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.ask(Call::Read)?;
        self.real.read_exact_at(buf, at)
    }

    pub(crate) fn read_cached_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.ask(Call::Read)?;
        self.real.read_cached_at(buf, at)
    }

    pub(crate) fn allocate(&self, len: u64) -> io::Result<()> {
        let Some((mut state, id, _)) = self.ask(Call::Allocate)? else {
            return self.real.allocate(len);
        };
        if state.room(id, len) < len {
            return Err(error(ENOSPC));
        }
        self.real.allocate(len)?;
        let inode = &mut state.files[id];
        inode.len = inode.len.max(len);
        let len = inode.len;
        inode.dirty.push(Dirty::Len(len));
        state.end()
    }

    pub(crate) fn zero_range(&self, from: u64, to: u64) -> io::Result<()> {
        let Some((mut state, id, _)) = self.ask(Call::Zero)? else {
            return self.real.zero_range(from, to);
        };
        self.real.zero_range(from, to)?;
        let zeros = vec![0; (to - from) as usize];
        state.files[id].dirty.push(Dirty::Bytes(from, zeros));
        state.end()
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        match &self.on {
            Some(_) => self.sync_data(),
            None => self.real.sync_all(),
        }
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        match self.ask(Call::Sync) {
            Ok(None) => self.real.sync_data(),
            Ok(Some((mut state, id, _))) => {
                state.end()?;
                state.files[id].settle();
                Ok(())
            }
            Err(failed) => {
                if let Some((disk, id)) = &self.on
                    && failed.raw_os_error().is_some()
                {
                    disk.lock().files[*id].dirty.clear();
                }
                Err(failed)
            }
        }
    }
}

impl File {
    /// A disk with faults is asked at each read, which a mapping would not do.
    pub(crate) fn to_map(&self) -> Option<BorrowedFd<'_>> {
        self.real.to_map().filter(|_| self.on.is_none())
    }
}
