//! Two threads behind the writer: one syncs and writes the checkpoint, one writes the index to
//! disk, merges the runs of a sealed segment, and makes the next log file ahead of time.
//!
//! Runs cover only what has been synced, and never cross a segment's end.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::{self, Wait};
use crate::keys::{self, RECENT_KEYS_MAX};
use crate::open::Inner;
use crate::run::{self, Entry, Part, Run, Stretch};
use crate::{Flush, ReadError};

/// With `Flush::Async` nothing stays longer in the kernel alone.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
const MERGE_READ_ENTRIES: u64 = 4096;

/// How the threads are woken and waited for.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    flush: bool,
    index: bool,
    stopping: bool,
    /// Of the index thread, done so far.
    rounds: u64,
}

impl Keeper {
    pub(crate) fn nudge(&self) {
        let mut wanted = self.lock();
        if !(wanted.flush && wanted.index) {
            wanted.flush = true;
            wanted.index = true;
            self.wake.notify_all();
        }
    }

    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_all();
    }

    /// Wakes the threads and waits until the index thread has done a round, at most so long.
    pub(crate) fn nudge_and_wait(&self, timeout: Duration) {
        self.nudge();
        let wanted = self.lock();
        let before = wanted.rounds;
        let _ = self
            .done
            .wait_timeout_while(wanted, timeout, |wanted| wanted.rounds == before);
    }

    fn round_done(&self) {
        self.lock().rounds += 1;
        self.done.notify_all();
    }

    /// Waits for a wish or the interval; false when it is time to stop.
    fn wait(&self, wish: fn(&mut Wanted) -> &mut bool) -> bool {
        let idle = |wanted: &mut Wanted| !wanted.stopping && !*wish(wanted);
        let waited = self
            .wake
            .wait_timeout_while(self.lock(), FLUSH_INTERVAL, idle);
        let (mut wanted, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *wish(&mut wanted) = false;
        !wanted.stopping
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that syncs.
pub(crate) fn flush_loop(inner: &Inner) {
    let mut checkpointed = Instant::now();
    while inner.keeper.wait(|wanted| &mut wanted.flush) {
        if inner.flush == Flush::Async && inner.sync_log().is_ok() && inner.run_due() {
            inner.keeper.lock().index = true;
            inner.keeper.wake.notify_all();
        }
        if checkpointed.elapsed() >= CHECKPOINT_INTERVAL {
            checkpointed = Instant::now();
            if let Err(error) = inner.write_checkpoint(false) {
                tracing::warn!(%error, "the checkpoint could not be written");
            }
        }
    }
}

/// The thread that writes the index.
pub(crate) fn index_loop(inner: &Inner) {
    while inner.keeper.wait(|wanted| &mut wanted.index) {
        let written = inner.write_due_runs();
        let stuck = &inner.progress.index_stuck;
        stuck.store(written.is_err(), Ordering::Release);
        match written {
            Ok(()) => inner.keep_reserve(),
            Err(ReadError::Io(error)) if fs::is_full(&error) => inner.disk_is_full(&error),
            Err(error) => tracing::warn!(%error, "an index run could not be written"),
        }
        if let Err(error) = inner.prepare_segment() {
            tracing::debug!(%error, "the next log file could not be made ahead of time");
        }
        inner.keeper.round_done();
    }
}

impl Inner {
    /// Syncs what has been written. After a failure there is no second try.
    pub(crate) fn sync_log(&self) -> io::Result<()> {
        let progress = &self.progress;
        if progress.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier write has failed"));
        }
        let from = progress.flushed.load(Ordering::Acquire);
        let to = progress.confirm.load(Ordering::Acquire);
        if let Err(error) = self.segments.sync(from, to) {
            tracing::error!(%error, "a sync of the log failed; nothing is appended any more");
            progress.failed.store(true, Ordering::Release);
            return Err(error);
        }
        progress.flushed.fetch_max(to, Ordering::AcqRel);
        Ok(())
    }

    /// Makes the reserve again once there is room, and with that ends the refusal of messages.
    pub(crate) fn keep_reserve(&self) {
        match self.segments.fill_reserves() {
            Ok(()) => {
                if self.progress.short.swap(false, Ordering::AcqRel) {
                    tracing::info!("there is room on the disk again");
                }
            }
            Err(error) if fs::is_full(&error) => self.disk_is_full(&error),
            Err(error) => tracing::warn!(%error, "the reserve could not be made"),
        }
    }

    /// Refuses messages from now on, but for state records.
    pub(crate) fn disk_is_full(&self, error: &io::Error) {
        if !self.progress.short.swap(true, Ordering::AcqRel) {
            tracing::warn!(%error, "the disk is full; messages are refused until there is room");
        }
    }

    /// Records how far the log is surely on disk, if that has changed.
    pub(crate) fn write_checkpoint(&self, clean: bool) -> io::Result<()> {
        let mut checkpoint = self
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let durable = self.progress.flushed.load(Ordering::Acquire);
        if checkpoint.durable == durable && checkpoint.clean == clean {
            return Ok(());
        }
        let mut next = *checkpoint;
        next.durable = durable;
        next.clean = clean;
        next.write(&self.dir)?;
        *checkpoint = next;
        Ok(())
    }

    /// Whether so much of the log has no run yet that a start would take too long.
    pub(crate) fn is_run_late(&self) -> bool {
        let indexed = self.progress.indexed.load(Ordering::Acquire);
        let confirm = self.progress.confirm.load(Ordering::Acquire);
        confirm.saturating_sub(indexed) >= self.run_bytes
            || confirm > indexed && self.index.keys.len() >= RECENT_KEYS_MAX
    }

    pub(crate) fn nudge_if_due(&self) {
        let indexed = self.progress.indexed.load(Ordering::Acquire);
        let confirm = self.progress.confirm.load(Ordering::Acquire);
        if self.due(indexed, confirm) {
            self.keeper.nudge();
        }
    }

    fn run_due(&self) -> bool {
        let indexed = self.progress.indexed.load(Ordering::Acquire);
        self.due(indexed, self.progress.flushed.load(Ordering::Acquire))
    }

    /// Half of the bound, so that the writer does not have to wait.
    fn due(&self, indexed: u64, reached: u64) -> bool {
        reached.saturating_sub(indexed) >= self.run_bytes / 2
            || self.segments.next_start(indexed) <= reached
            || reached > indexed && self.index.keys.len() >= RECENT_KEYS_MAX / 2
    }

    fn write_due_runs(&self) -> Result<(), ReadError> {
        while self.run_due() {
            self.write_run()?;
        }
        Ok(())
    }

    /// Writes the index up to what is synced, or to the segment's end if that is less.
    pub(crate) fn write_run(&self) -> Result<(), ReadError> {
        let start = self.progress.indexed.load(Ordering::Acquire);
        let segment_end = self.segments.next_start(start);
        let end = self
            .progress
            .flushed
            .load(Ordering::Acquire)
            .min(segment_end);
        if end <= start {
            return Ok(());
        }
        let (parts, entries) = self.index.recent_below(end);
        let last_ms = parts.iter().map(|part| part.max_ms).max().unwrap_or(0);
        let last_ms = last_ms.max(self.runs().last().map_or(0, |run| run.stretch.last_ms));
        let path = self.dir.join(format!("gantry/index/{start:020}.run"));
        let stretch = Stretch {
            start,
            end,
            last_ms,
        };
        let keys = self.index.keys.within(start, end);
        let (mut entries, mut keys) = (entries.into_iter().map(Ok), keys.into_iter().map(Ok));
        run::write(&path, stretch, &parts, &mut entries, &mut keys)?;
        let run = Run::reopen(&path)?;
        self.index.settle(&run, &parts);
        self.runs().push(run);
        self.index.keys.settle(end);
        self.progress.indexed.store(end, Ordering::Release);
        if end == segment_end {
            self.merge(segment_end - self.segments.segment_bytes, segment_end)?;
        }
        Ok(())
    }

    /// One file for the sealed segment `[start, end)` in place of its runs.
    fn merge(&self, start: u64, end: u64) -> Result<(), ReadError> {
        let _shaping = self.shaping.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = |run: &Arc<Run>| run.stretch.start >= start && run.stretch.end <= end;
        let old: Vec<_> = self
            .runs()
            .iter()
            .filter(|run| inside(run))
            .cloned()
            .collect();
        let (Some(first), Some(last)) = (old.first(), old.last()) else {
            return Ok(());
        };
        let parts = self.index.merged(start, end);
        let stretch = Stretch {
            start: first.stretch.start,
            ..last.stretch
        };
        let path = self
            .dir
            .join(format!("gantry/index/{:020}.index", stretch.start));
        let mut entries = parts.iter().flat_map(|part| self.part(part));
        let mut keys = keys::merged(&old);
        let written = if old.iter().all(|run| run.has_keys()) {
            run::write(&path, stretch, &parts, &mut entries, &mut keys)
        } else {
            Err(ReadError::IndexDamaged)
        };
        match written {
            Err(ReadError::IndexDamaged) => self.rebuild_at(&path, stretch)?,
            written => written?,
        }
        let run = Run::reopen(&path)?;
        self.index.replace(&run, &parts);
        let mut runs = self.runs();
        let at = runs.partition_point(|run| run.stretch.start < start);
        runs.retain(|run| !inside(run));
        runs.insert(at, run);
        drop(runs);
        for run in &old {
            fs::remove_file(&run.path)?;
        }
        Ok(())
    }

    /// Writes a run from the log.
    fn rebuild_at(&self, path: &Path, stretch: Stretch) -> Result<(), ReadError> {
        let rebuilt = run::rebuild(&self.segments, path, stretch.start, stretch.end);
        rebuilt.map_err(|error| {
            tracing::error!(%error, "the index run could not be rebuilt");
            ReadError::IndexDamaged
        })
    }

    /// The entries of one queue, read from its runs.
    fn part(&self, part: &Part) -> Vec<Result<Entry, ReadError>> {
        let Some(queue) = self.index.get(&part.topic, part.queue) else {
            return vec![Err(ReadError::IndexDamaged)];
        };
        let mut list = Vec::with_capacity(part.count as usize);
        let end = part.first + i64::from(part.count);
        let mut from = part.first;
        while from < end {
            let count = (end - from).min(MERGE_READ_ENTRIES as i64) as usize;
            match self.entries(&queue, from, count, Wait::ForDisk) {
                Ok(entries) if !entries.is_empty() => {
                    from += entries.len() as i64;
                    list.extend(entries.into_iter().map(Ok));
                }
                Ok(_) => return vec![Err(ReadError::IndexDamaged)],
                Err(error) => return vec![Err(error)],
            }
        }
        list
    }

    /// Makes the next log file when the last one is half full.
    fn prepare_segment(&self) -> io::Result<()> {
        let confirm = self.progress.confirm.load(Ordering::Acquire);
        let next = self.segments.next_start(confirm);
        if next - confirm < self.segments.segment_bytes / 2 {
            self.segments.ensure(next)?;
        }
        Ok(())
    }
}
