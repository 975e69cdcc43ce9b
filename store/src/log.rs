//! The writer: one thread that turns waiting messages into records at the log's end.
//!
//! A batch is placed (queue offset, position, store time, CRC), written with one write a file,
//! synced if the store promises it, and only then readable and answered. Store times never go
//! back. After a failed write or sync nothing is appended any more: what the kernel still holds
//! of it is unknown, and a second sync would say nothing about it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::record::{BLANK_BYTES, blank};

use crate::fs::{self, File, Volume};
use crate::index::{Queue, Recent};
use crate::keys::Key;
use crate::open::Inner;
use crate::queue::{Done, Pending};
use crate::run::Entry;
use crate::segment::Segment;
use crate::{AppendError, Appended, Arrival, dispatch, state};

/// Called on the writer's thread for each batch that has become readable.
pub type Arrived = Box<dyn Fn(&[Arrival], Answers) + Send + Sync>;

/// The answers to those whose messages have become readable, given when this is dropped.
pub struct Answers(Vec<Placed>);

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Answers").field(&self.0.len()).finish()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for placed in self.0.drain(..) {
            (placed.done)(Ok(placed.appended));
        }
    }
}

const BATCH_BYTES_MAX: usize = 4 << 20;
const VOLUME_CHECK: Duration = Duration::from_secs(1);
const INDEX_WAIT: Duration = Duration::from_secs(5);
const INDEX_ROUND: Duration = Duration::from_millis(20);

pub(crate) struct Writer {
    inner: Arc<Inner>,
    arrived: Arrived,
    end: u64,
    last_ms: i64,
    volume_checked: Option<Instant>,
    /// Used percent, while it is too much.
    full: Option<u8>,
}

/// A batch that has its place but is not yet written.
#[derive(Default)]
struct Batch {
    /// Of all its messages, so that a piece is allocated once.
    bytes: usize,
    pieces: Vec<Piece>,
    placed: Vec<Placed>,
}

/// Bytes for one file.
struct Piece {
    segment: Arc<Segment>,
    position: u64,
    bytes: Vec<u8>,
}

struct Placed {
    /// With the tags code; `None` for a record that takes no place in its queue.
    queue: Option<(Arc<Queue>, i64)>,
    keys: Vec<u32>,
    /// Other queues in which the record lies, and its offsets there.
    targets: Vec<(Arc<Queue>, i64)>,
    appended: Appended,
    done: Done,
}

impl Placed {
    /// Adds the record's entries to all its queues, and says so in `arrivals`.
    fn publish(&self, arrivals: &mut Vec<Arrival>) {
        let Some((queue, tags)) = &self.queue else {
            return;
        };
        let Appended {
            position,
            queue_offset,
            bytes: size,
            store_ms,
            ..
        } = self.appended;
        let tags = *tags;
        let entry = Entry {
            position,
            size,
            tags,
        };
        let targets = self.targets.iter().map(|(queue, offset)| (queue, *offset));
        for (queue, offset) in [(queue, queue_offset)].into_iter().chain(targets) {
            queue.publish(offset, Recent { entry, store_ms });
            arrivals.push(Arrival {
                topic: Arc::clone(&queue.topic),
                queue: queue.id,
                offset,
                tags,
                store_ms,
            });
        }
    }
}

impl Writer {
    pub(crate) fn new(inner: Arc<Inner>, arrived: Arrived, end: u64, last_ms: i64) -> Self {
        Self {
            inner,
            arrived,
            end,
            last_ms,
            volume_checked: None,
            full: None,
        }
    }

    /// Runs until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        while let Some(batch) = self.inner.queue.take(BATCH_BYTES_MAX) {
            let sync = self.inner.flush == crate::Flush::Sync;
            self.append(batch, sync, true);
        }
    }

    pub(crate) fn append(&mut self, pending: Vec<Pending>, sync: bool, announce: bool) {
        self.check_volume();
        self.wait_for_index();
        self.last_ms = self.last_ms.max((self.inner.clock)());
        let end = self.end;
        let sizes = pending
            .iter()
            .map(|message| message.encoded.size())
            .sum::<usize>();
        let mut batch = Batch {
            bytes: sizes + BLANK_BYTES,
            ..Batch::default()
        };
        let mut pending = VecDeque::from(pending);
        while let Some(first) = pending.front() {
            let count = (1 + first.followers).min(pending.len());
            self.place_all(&mut batch, &mut pending, count);
        }
        if batch.placed.is_empty() {
            return;
        }
        let written = match write(&batch.pieces) {
            Err(error) if fs::is_full(&error) => {
                self.inner.disk_is_full(&error);
                self.take_back(&batch, end).map(|()| false)
            }
            Err(error) => Err(error),
            Ok(()) if sync => sync_all(&batch.pieces).map(|()| true),
            Ok(()) => Ok(true),
        };
        let refusal = match written {
            Ok(true) => return self.publish(batch, sync, announce),
            Ok(false) => self.disk_full(),
            Err(error) => {
                tracing::error!(%error, "a write to the log failed; nothing is appended any more");
                self.inner.progress.failed.store(true, Ordering::Release);
                AppendError::Failed
            }
        };
        for placed in batch.placed {
            (placed.done)(Err(refusal.clone()));
        }
    }

    /// Leaves the log as it was before a batch of which only a part found room.
    fn take_back(&mut self, batch: &Batch, end: u64) -> io::Result<()> {
        for piece in &batch.pieces {
            let zeros = vec![0; piece.bytes.len()];
            let at = piece.position - piece.segment.start;
            match piece.segment.file.write_all_at(&zeros, at) {
                // There was no room for more of the batch either.
                Err(error) if fs::is_full(&error) => {}
                result => result?,
            }
            piece.segment.file.sync_data()?;
        }
        let placed = batch.placed.iter();
        for (queue, _) in placed.flat_map(|placed| placed.queue.iter().chain(&placed.targets)) {
            queue.take_back();
        }
        self.end = end;
        Ok(())
    }

    /// Gives the first `count` messages, which belong together, their places in one file, or
    /// answers why they get none. Only a message that is alone has other queues.
    fn place_all(&mut self, batch: &mut Batch, pending: &mut VecDeque<Pending>, count: usize) {
        let aimed = pending.front_mut().map(|first| self.aim(first));
        let (mut targets, refused) = match aimed.unwrap_or_else(|| Ok(Vec::new())) {
            Ok(targets) => (targets, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let together = pending.range(..count);
        let size = together.clone().map(|message| message.encoded.size()).sum();
        let refused = refused.or_else(|| together.into_iter().find_map(|m| self.refuse(m, size)));
        let is_state = pending.front().is_some_and(|m| &*m.topic == state::TOPIC);
        let refused = refused.or_else(|| self.room(batch, size, is_state).err());
        for message in pending.drain(..count) {
            match &refused {
                Some(error) => (message.done)(Err(error.clone())),
                None => self.place(batch, message, std::mem::take(&mut targets)),
            }
        }
    }

    fn place(&mut self, batch: &mut Batch, mut message: Pending, targets: Vec<(Arc<Queue>, i64)>) {
        let size = message.encoded.size();
        for (queue, _) in &targets {
            queue.take_next();
        }
        let queue = self
            .inner
            .index
            .get_or_create(&message.topic, message.queue);
        let queue_offset = if message.takes_queue_offset {
            queue.take_next()
        } else {
            0
        };
        let record = message.encoded.place(queue_offset, self.end, self.last_ms);
        if let Some(piece) = batch.pieces.last_mut() {
            piece.bytes.extend_from_slice(record);
        }
        let appended = Appended {
            position: self.end,
            queue_offset,
            bytes: size as u32,
            store_ms: self.last_ms,
            store_host: self.inner.store_host,
        };
        let queue = message.takes_queue_offset.then_some((queue, message.tags));
        batch.placed.push(Placed {
            queue,
            keys: message.keys,
            targets,
            appended,
            done: message.done,
        });
        self.end += size as u64;
    }

    /// Writes into the record which offsets it is about to get in its other queues.
    fn aim(&self, pending: &mut Pending) -> Result<Vec<(Arc<Queue>, i64)>, AppendError> {
        let Some(targets) = pending.targets.take() else {
            return Ok(Vec::new());
        };
        let (mut message, topics) = *targets;
        let queues = topics
            .iter()
            .map(|topic| self.inner.index.get_or_create(topic, 0));
        let targets: Vec<_> = queues
            .map(|queue| (Arc::clone(&queue), queue.next()))
            .collect();
        let offsets: Vec<_> = targets.iter().map(|(_, offset)| *offset).collect();
        message.properties = dispatch::with_offsets(&message.properties, &offsets);
        pending.encoded = message.encode(self.inner.store_host)?;
        Ok(targets)
    }

    fn refuse(&self, message: &Pending, size: usize) -> Option<AppendError> {
        if self.inner.progress.failed.load(Ordering::Acquire) {
            return Some(AppendError::Failed);
        }
        if (size + BLANK_BYTES) as u64 > self.inner.segments.segment_bytes {
            return Some(AppendError::RecordTooLarge { bytes: size });
        }
        // A broker's own state goes on: it is small, and consumers that commit free the disk.
        let full = self.full.is_some() || self.inner.progress.short.load(Ordering::Acquire);
        (full && &*message.topic != state::TOPIC).then(|| self.disk_full())
    }

    /// Makes the batch's last piece one that takes `size` more bytes at the log's end.
    fn room(&mut self, batch: &mut Batch, size: usize, state: bool) -> Result<(), AppendError> {
        let segments = &self.inner.segments;
        let next_start = segments.next_start(self.end);
        // At a file's very start the file may still have to be made.
        let rolls = (size + BLANK_BYTES) as u64 > next_start - self.end;
        let start = if rolls {
            next_start
        } else {
            next_start - segments.segment_bytes
        };
        if batch
            .pieces
            .last()
            .is_some_and(|piece| piece.segment.start == start)
        {
            return Ok(());
        }
        let made = if state {
            segments.ensure_reserved(start)
        } else {
            segments.ensure(start)
        };
        let segment = made.map_err(|error| self.creation_failed(&error))?;
        if rolls {
            let current = segments.at(self.end).ok_or(AppendError::Failed)?;
            let piece = piece_of(batch, &current, self.end);
            piece
                .bytes
                .extend_from_slice(&blank((next_start - self.end) as u32));
            self.end = next_start;
        }
        piece_of(batch, &segment, self.end);
        Ok(())
    }

    fn creation_failed(&self, error: &io::Error) -> AppendError {
        if fs::is_full(error) {
            self.inner.disk_is_full(error);
            return self.disk_full();
        }
        tracing::error!(%error, "a log file could not be made; nothing is appended any more");
        self.inner.progress.failed.store(true, Ordering::Release);
        AppendError::Failed
    }

    fn disk_full(&self) -> AppendError {
        let measured = || Volume::measure(&self.inner.dir).map(Volume::used_percent);
        let used_percent = self.full.or_else(|| measured().ok()).unwrap_or(100);
        let held = self.inner.full_because.lock();
        let held = Arc::clone(&held.unwrap_or_else(PoisonError::into_inner));
        AppendError::DiskFull { used_percent, held }
    }

    /// Makes a written batch readable and answers its senders.
    fn publish(&mut self, batch: Batch, sync: bool, announce: bool) {
        let progress = &self.inner.progress;
        for piece in batch.pieces {
            self.inner
                .tail
                .push(piece.position, Bytes::from(piece.bytes));
        }
        let mut arrivals = Vec::with_capacity(batch.placed.len());
        for placed in &batch.placed {
            placed.publish(&mut arrivals);
        }
        let keys = batch.placed.iter().flat_map(|placed| {
            let position = placed.appended.position;
            placed.keys.iter().map(move |&hash| Key { hash, position })
        });
        self.inner.index.keys.add(keys);
        let bytes = self.end - progress.confirm.load(Ordering::Relaxed);
        progress.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
        progress
            .appended_messages
            .fetch_add(batch.placed.len() as u64, Ordering::Relaxed);
        progress.last_ms.store(self.last_ms, Ordering::Relaxed);
        // After the entries: whoever sees this position finds all entries below it.
        progress.confirm.store(self.end, Ordering::Release);
        if sync {
            progress.flushed.store(self.end, Ordering::Release);
        }
        self.inner.nudge_if_due();
        let answers = Answers(batch.placed);
        if announce {
            (self.arrived)(&arrivals, answers);
        }
    }

    fn check_volume(&mut self) {
        if self
            .volume_checked
            .is_some_and(|checked| checked.elapsed() < VOLUME_CHECK)
        {
            return;
        }
        self.volume_checked = Some(Instant::now());
        let percent_max = self.inner.disk_used_percent_max.load(Ordering::Relaxed);
        let used = Volume::measure(&self.inner.dir).map(Volume::used_percent);
        self.full = used.ok().filter(|used| *used > percent_max);
    }

    /// Holds the writer back while the index on disk is a whole run behind, so that a start
    /// never has to replay more than that.
    fn wait_for_index(&self) {
        let deadline = Instant::now() + INDEX_WAIT;
        while self.inner.is_run_late()
            && Instant::now() < deadline
            && !self.inner.progress.failed.load(Ordering::Acquire)
            && !self.inner.progress.index_stuck.load(Ordering::Acquire)
        {
            self.inner.keeper.nudge_and_wait(INDEX_ROUND);
        }
    }
}

fn write(pieces: &[Piece]) -> io::Result<()> {
    for piece in pieces {
        let at = piece.position - piece.segment.start;
        piece.segment.file.write_all_at(&piece.bytes, at)?;
    }
    Ok(())
}

fn sync_all(pieces: &[Piece]) -> io::Result<()> {
    let mut files = pieces.iter().map(|piece| &piece.segment.file);
    files.try_for_each(File::sync_data)
}

/// The last piece if it goes on at `position` in this file, else a new one.
fn piece_of<'a>(batch: &'a mut Batch, segment: &Arc<Segment>, position: u64) -> &'a mut Piece {
    let fits = |piece: &Piece| {
        piece.segment.start == segment.start
            && piece.position + piece.bytes.len() as u64 == position
    };
    if !batch.pieces.last().is_some_and(fits) {
        let written = batch
            .pieces
            .iter()
            .map(|piece| piece.bytes.len())
            .sum::<usize>();
        let bytes = Vec::with_capacity(batch.bytes.saturating_sub(written));
        batch.pieces.push(Piece {
            segment: Arc::clone(segment),
            position,
            bytes,
        });
    }
    let last = batch.pieces.len() - 1;
    &mut batch.pieces[last]
}
