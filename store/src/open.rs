//! Opening and closing a store: lock, identity, recovery, a new epoch, threads.
//!
//! Every open begins an epoch of its own: the promise is on disk before the first record, and
//! the first record is the epoch record, which is on disk before `open` returns.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use protocol::properties;
use protocol::record::{Encoded, Message, takes_queue_offset};

use crate::checkpoint::Checkpoint;
use crate::fs::{DirLock, Volume};
use crate::identity::{self, FORMAT_VERSION, Identity};
use crate::index::Index;
use crate::keep::{self, Keeper};
use crate::log::{Arrived, Writer};
use crate::queue::{AllDone, AppendQueue, Done, Pending, gather};
use crate::recover::{Recovered, recover};
use crate::run::Run;
use crate::segment::{self, Segments};
use crate::state::{self, Epoch};
use crate::tail::Tail;
use crate::{AppendError, Appended, Flush, OpenError, Options, Status, dispatch, fs, keys};

const VOLUME_SHARE: u64 = 64;
const SEGMENT_BYTES_AUTO_MIN: u64 = 64 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const RUN_BYTES_MIN: u64 = 4096;

/// A store of one directory. A clone is the same store; the last one to go closes it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    threads: Arc<Threads>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) flush: Flush,
    pub(crate) store_host: SocketAddr,
    pub(crate) clock: fn() -> i64,
    pub(crate) run_bytes: u64,
    multi_dispatch: bool,
    pub(crate) disk_used_percent_max: AtomicU8,
    pub(crate) segments: Segments,
    pub(crate) index: Index,
    runs: Mutex<Vec<Arc<Run>>>,
    pub(crate) tail: Tail,
    pub(crate) queue: AppendQueue,
    pub(crate) keeper: Keeper,
    pub(crate) progress: Progress,
    pub(crate) checkpoint: Mutex<Checkpoint>,
    /// Held while a base is written.
    pub(crate) base_writing: Mutex<()>,
    /// Held by who makes runs of runs or takes them away.
    pub(crate) shaping: Mutex<()>,
    /// Why a full disk stays full.
    pub(crate) full_because: Mutex<Arc<str>>,
    lock: Mutex<Option<DirLock>>,
}

/// How far the log is, by what has been done with it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) confirm: AtomicU64,
    pub(crate) flushed: AtomicU64,
    pub(crate) indexed: AtomicU64,
    /// Position of the base that was written last.
    pub(crate) base: AtomicU64,
    pub(crate) last_ms: AtomicI64,
    pub(crate) appended_bytes: AtomicU64,
    pub(crate) appended_messages: AtomicU64,
    pub(crate) failed: AtomicBool,
    /// A file could not be made or written because the disk is full.
    pub(crate) short: AtomicBool,
    /// The index could not be written the last time.
    pub(crate) index_stuck: AtomicBool,
    epoch: AtomicU64,
}

impl Store {
    /// Opens or creates the store in `dir`. `arrived` is called on the writer's thread for each
    /// batch of messages that has become readable, with the answers to their senders.
    pub fn open(dir: &Path, options: Options, arrived: Arrived) -> Result<Self, OpenError> {
        let is_new = !fs::exists(dir);
        fs::create_dir_all(&dir.join("commitlog"))?;
        let lock = DirLock::acquire(dir)?.ok_or_else(|| OpenError::Locked(dir.to_owned()))?;
        crate::adopt::check_whole(dir)?;
        fs::sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| is_new && fs::exists(parent)) {
            fs::sync_dir(parent)?;
        }
        // What is written from here on may need the room.
        segment::free_reserves(dir)?;
        let identity = identify(dir, &options)?;
        crate::java::check_untouched(dir, identity.segment_bytes)?;
        let recovered = recover(dir, &identity)?;
        fs::write_new(
            &dir.join("abort"),
            std::process::id().to_string().as_bytes(),
        )?;
        let (end, last_ms) = (recovered.end, recovered.last_ms);
        let inner = Arc::new(Inner::new(dir, identity, &options, recovered, lock));
        {
            let mut checkpoint = inner
                .checkpoint
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            checkpoint.boot_id = fs::boot_id();
            checkpoint.clean = false;
            checkpoint.write(dir)?;
        }
        let mut writer = Writer::new(Arc::clone(&inner), arrived, end, last_ms);
        begin_epoch(&inner, &mut writer)?;
        inner.keep_reserve();
        let threads = Arc::new(Threads::start(&inner, writer)?);
        Ok(Self { inner, threads })
    }

    /// Stores a message. `done` is called once: on the writer's thread when the message is as
    /// durable as the store promises, or at once when it is refused. It must not block.
    pub fn append(&self, mut message: Message, done: Done) {
        let targets = match dispatch::targets(&mut message, self.inner.multi_dispatch) {
            Ok(targets) if targets.is_empty() => None,
            Ok(targets) => Some(Box::new((message.clone(), targets))),
            Err(error) => return done(Err(error)),
        };
        match message.encode(self.inner.store_host) {
            Ok(encoded) => self.inner.queue.push(Pending {
                targets,
                ..pending(message, encoded, done)
            }),
            Err(error) => done(Err(AppendError::Message(error))),
        }
    }

    /// Stores messages together: in one file of the log, with no other between them, or none of
    /// them, and each in its own queue alone. `done` is called as by `append`.
    pub fn append_all(&self, mut messages: Vec<Message>, done: AllDone) {
        for message in &mut messages {
            if let Err(error) = dispatch::targets(message, false) {
                return done(Err(error));
            }
        }
        let host = self.inner.store_host;
        let encoded: Result<Vec<_>, _> = messages.iter().map(|m| m.encode(host)).collect();
        let encoded = match encoded {
            Ok(encoded) if !encoded.is_empty() => encoded,
            Ok(_) => return done(Ok(Vec::new())),
            Err(error) => return done(Err(AppendError::Message(error))),
        };
        let (count, size) = (encoded.len(), encoded.iter().map(Encoded::size).sum());
        let all = messages.into_iter().zip(encoded).zip(gather(count, done));
        let list = all.enumerate().map(|(at, ((message, encoded), done))| {
            let followers = if at == 0 { count - 1 } else { 0 };
            Pending {
                followers,
                ..pending(message, encoded, done)
            }
        });
        self.inner.queue.push_all(list, size);
    }

    /// Stores a message and waits for it.
    pub fn append_wait(&self, message: Message) -> Result<Appended, AppendError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.append(
            message,
            Box::new(move |result| {
                let _ = sender.send(result);
            }),
        );
        receiver.recv().unwrap_or(Err(AppendError::Closed))
    }

    /// What the refusals of a full disk say behind its use, until this is called again.
    pub fn explain_full(&self, because: &str) {
        let mut held = self
            .inner
            .full_because
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *held = because.into();
    }

    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let progress = &inner.progress;
        Status {
            log_start: inner.segments.start(),
            confirm: progress.confirm.load(Ordering::Acquire),
            flushed: progress.flushed.load(Ordering::Acquire),
            indexed: progress.indexed.load(Ordering::Acquire),
            base: progress.base.load(Ordering::Acquire),
            segment_bytes: inner.segments.segment_bytes,
            volume: Volume::measure(&inner.dir).ok(),
            appended_bytes: progress.appended_bytes.load(Ordering::Relaxed),
            appended_messages: progress.appended_messages.load(Ordering::Relaxed),
            append_queue_messages: inner.queue.len(),
            epoch: progress.epoch.load(Ordering::Relaxed),
            cuts: inner
                .checkpoint
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .cuts,
            failed: progress.failed.load(Ordering::Acquire),
        }
    }

    /// Leaves the directory as a killed process would.
    #[cfg(test)]
    pub(crate) fn crash(self) {
        self.threads.stop();
        self.inner
            .lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Stores what waits, refuses the rest, and leaves the directory clean. Reads go on. Calling
    /// it again does nothing.
    pub fn close(&self) {
        self.threads.close();
    }
}

impl Inner {
    pub(crate) fn new(
        dir: &Path,
        identity: Identity,
        options: &Options,
        recovered: Recovered,
        lock: DirLock,
    ) -> Self {
        let Recovered {
            segments,
            index,
            runs,
            end,
            checkpoint,
            base_position,
            last_ms,
        } = recovered;
        let indexed = runs.last().map_or(segments.start(), |run| run.stretch.end);
        let progress = Progress {
            confirm: AtomicU64::new(end),
            flushed: AtomicU64::new(end),
            indexed: AtomicU64::new(indexed),
            base: AtomicU64::new(base_position),
            last_ms: AtomicI64::new(last_ms),
            ..Progress::default()
        };
        Self {
            dir: dir.to_owned(),
            identity,
            flush: options.flush,
            store_host: options.store_host,
            clock: options.clock,
            multi_dispatch: options.multi_dispatch,
            run_bytes: options.run_bytes.max(RUN_BYTES_MIN),
            disk_used_percent_max: AtomicU8::new(options.disk_used_percent_max),
            segments,
            index,
            runs: Mutex::new(runs),
            tail: Tail::new(options.tail_bytes_max),
            queue: AppendQueue::new(options.append_queue_max),
            keeper: Keeper::default(),
            progress,
            checkpoint: Mutex::new(checkpoint),
            base_writing: Mutex::default(),
            shaping: Mutex::default(),
            full_because: Mutex::new(Arc::from("")),
            lock: Mutex::new(Some(lock)),
        }
    }

    pub(crate) fn runs(&self) -> MutexGuard<'_, Vec<Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directory one that opens without recovery, then lets go of it.
    pub(crate) fn finish(&self) -> Result<(), OpenError> {
        let lock = self
            .lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.sync_log()?;
        segment::free_reserves(&self.dir)?;
        let confirm = self.progress.confirm.load(Ordering::Acquire);
        while self.progress.indexed.load(Ordering::Acquire) < confirm {
            self.write_run()?;
        }
        // What was made ahead of time goes again.
        self.segments
            .delete_from(self.segments.next_start(confirm.saturating_sub(1)))?;
        self.write_checkpoint(true)?;
        fs::remove_if_exists(&self.dir.join("abort"))?;
        fs::sync_dir(&self.dir)?;
        drop(lock);
        Ok(())
    }
}

fn identify(dir: &Path, options: &Options) -> Result<Identity, OpenError> {
    if let Some(identity) = Identity::load(dir)? {
        if identity.cluster != options.cluster || identity.broker != options.broker {
            return Err(OpenError::OtherBroker {
                cluster: options.cluster.clone(),
                broker: options.broker.clone(),
                found_cluster: identity.cluster,
                found_broker: identity.broker,
            });
        }
        if let Some(wanted) = options
            .segment_bytes
            .filter(|bytes| *bytes != identity.segment_bytes)
        {
            let fixed = identity.segment_bytes;
            tracing::warn!(
                wanted,
                fixed,
                "the segment size was fixed when the store was created"
            );
        }
        return Ok(identity);
    }
    if !fs::list(&dir.join("commitlog"))?.is_empty() {
        return Err(OpenError::NotGantry(dir.to_owned()));
    }
    let segment_bytes = match options.segment_bytes {
        Some(bytes) if identity::segment_bytes_valid(bytes) => bytes,
        Some(bytes) => {
            let text = format!("a segment of {bytes} bytes is no power of two of 64 KiB to 1 GiB");
            return Err(OpenError::Options(text));
        }
        None => segment_bytes_of(Volume::measure(dir)?),
    };
    fs::create_dir_all(&dir.join("gantry/index"))?;
    fs::sync_dir(&dir.join("gantry"))?;
    let identity = Identity {
        store_id: rand::random(),
        segment_bytes,
        cluster: options.cluster.clone(),
        broker: options.broker.clone(),
    };
    identity.write(dir)?;
    fs::sync_dir(dir)?;
    Ok(identity)
}

/// The largest power of two of which 64 fit the volume, within bounds.
fn segment_bytes_of(volume: Volume) -> u64 {
    let share = (volume.total_bytes / VOLUME_SHARE).max(1);
    (1u64 << share.ilog2()).clamp(SEGMENT_BYTES_AUTO_MIN, SEGMENT_BYTES_MAX)
}

fn begin_epoch(inner: &Arc<Inner>, writer: &mut Writer) -> Result<(), OpenError> {
    let epoch = identity::load_epoch(&inner.dir)? + 1;
    identity::promise_epoch(&inner.dir, epoch)?;
    inner.progress.epoch.store(epoch, Ordering::Relaxed);
    let store_id = inner.identity.store_id;
    let payload = Epoch {
        epoch,
        store_id,
        start: inner.progress.confirm.load(Ordering::Acquire),
        in_sync: vec![store_id],
        replication: 1,
        flush: inner.flush,
        format: FORMAT_VERSION,
    }
    .encode();
    let entries = [state::Entry {
        kind: state::KIND_EPOCH,
        payload: &payload,
    }];
    let message = Message {
        topic: state::TOPIC.into(),
        queue: 0,
        flag: 0,
        sys_flag: 0,
        born_ms: (inner.clock)(),
        born_host: inner.store_host,
        reconsume_times: 0,
        prepared_offset: 0,
        body: state::encode(&entries).into(),
        properties: Bytes::new(),
    };
    let encoded = message
        .encode(inner.store_host)
        .map_err(|error| OpenError::Options(error.to_string()))?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let done: Done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    writer.append(vec![pending(message, encoded, done)], true, false);
    match receiver.recv() {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(OpenError::Options(format!(
            "the epoch record failed: {error}"
        ))),
        Err(_) => Err(OpenError::Options("the epoch record was lost".into())),
    }
}

fn pending(message: Message, encoded: Encoded, done: Done) -> Pending {
    Pending {
        tags: properties::tags_code(properties::get(&message.properties, properties::TAGS)),
        keys: keys::hashes(&message.topic, message.sys_flag, &message.properties),
        takes_queue_offset: takes_queue_offset(message.sys_flag),
        topic: message.topic,
        queue: message.queue,
        encoded,
        targets: None,
        done,
        followers: 0,
    }
}

/// The threads of an open store; they end when the last handle goes.
struct Threads {
    inner: Arc<Inner>,
    writer: Mutex<Option<JoinHandle<()>>>,
    keepers: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    fn start(inner: &Arc<Inner>, writer: Writer) -> Result<Self, OpenError> {
        let spawn = |name: &str, run: fn(&Inner)| {
            let inner = Arc::clone(inner);
            thread::Builder::new()
                .name(name.into())
                .spawn(move || run(&inner))
        };
        let flush = spawn("store-flush", keep::flush_loop)?;
        let index = spawn("store-index", keep::index_loop)?;
        let writer = thread::Builder::new()
            .name("store-log".into())
            .spawn(|| writer.run())?;
        Ok(Self {
            inner: Arc::clone(inner),
            writer: Mutex::new(Some(writer)),
            keepers: Mutex::new(vec![flush, index]),
        })
    }

    fn close(&self) {
        if self.stop()
            && let Err(error) = self.inner.finish()
        {
            tracing::warn!(%error, "the store was not closed cleanly");
        }
    }

    /// Ends the threads when what waits is stored; says whether this call has done so.
    fn stop(&self) -> bool {
        self.inner.queue.close();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = writer.take() else {
            return false;
        };
        if writer.thread().id() == thread::current().id() {
            // The last handle went inside a callback; the next open recovers.
            self.inner.keeper.stop();
            return false;
        }
        let _ = writer.join();
        self.inner.keeper.stop();
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        for keeper in keepers.drain(..) {
            let _ = keeper.join();
        }
        true
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}
