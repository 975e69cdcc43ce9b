//! A Java broker's directory becomes a Gantry store: an offline step in two halves.
//!
//! [`Survey::take`] reads the whole log, verifies each record and changes nothing. Its caller
//! then says what state the broker's configuration amounts to, or refuses. [`Survey::finish`]
//! writes what Gantry keeps next to the log: index runs, a base with the offsets of every queue
//! and the state, `gantry/adopted`. Java's own derived files go to `java-derived/`, out of its
//! sight. `gantry/adopting` stands from the first change to the last, so that a store whose
//! adoption was interrupted does not open; adopting it again completes it.
//!
//! The log decides what a queue holds. Java's consume queues add what the log can't tell any
//! more: the next offset of a queue whose messages have expired, and that a topic was deleted.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod queues;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use protocol::record::{Head, MAGIC_V1, MAGIC_V2, Record, head, takes_queue_offset};

use crate::adopted::Adopted;
use crate::base::{self, Base, BaseQueue};
use crate::checkpoint::Checkpoint;
use crate::exported::{self, Exported};
use crate::fs::{self, DirLock, Wait};
use crate::identity::{Identity, segment_bytes_adoptable};
use crate::recover::cut;
use crate::scan::scan;
use crate::segment::Segments;
use crate::{OpenError, Range, ReadError, envelope, run};
use queues::JavaQueue;

const MARKER: &str = "gantry/adopting";
const MARKER_MAGIC: [u8; 8] = *b"GANTRYAG";
const MARKER_VERSION: u16 = 1;
/// Where Java's derived files go.
const ASIDE: &str = "java-derived";
const QUEUES: &str = "consumequeue";
const DERIVED: [&str; 5] = [
    QUEUES,
    "consumequeue_ext",
    "batchconsumequeue",
    "index",
    "checkpoint",
];
/// A record of a Java broker that holds several messages.
const INNER_BATCH: i32 = 1 << 7;

#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{} holds no log of a Java broker", .0.display())]
    NoLog(PathBuf),
    #[error(
        "{} is a Gantry store, and no Java broker has used it: a broker may open it",
        .0.display()
    )]
    Gantry(PathBuf),
    #[error("log files of {0} bytes can't be adopted, only of 64 KiB to 2 GiB")]
    SegmentBytes(u64),
    #[error("the record of {bytes} bytes at {position} is larger than Gantry's records can be")]
    RecordTooLarge { position: u64, bytes: u32 },
    #[error("the record at {position} holds several messages; batch topics can't be adopted yet")]
    InnerBatch { position: u64 },
    #[error(
        "the log is damaged at {position} ({reason}): it goes on behind, at {found}. Let Java's \
        broker open it first if it may be cut there"
    )]
    Damaged {
        position: u64,
        reason: String,
        found: u64,
    },
}

/// What was adopted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    pub messages: u64,
    /// With messages.
    pub queues: usize,
    /// Without, but with a next offset.
    pub idle_queues: usize,
    /// In the log, but of topics that were deleted.
    pub left_out: u64,
    pub log_start: u64,
    pub log_end: u64,
    pub segment_bytes: u64,
    /// The Java broker had not closed the directory.
    pub unclean: bool,
    /// The broker's addresses, which message ids name.
    pub store_hosts: BTreeSet<SocketAddr>,
}

/// A directory that can be adopted; it stays locked.
#[derive(Debug)]
pub struct Survey {
    dir: PathBuf,
    _lock: DirLock,
    identity: Identity,
    segments: Segments,
    queues: BTreeMap<(Arc<str>, i32), Range>,
    adopted: Adopted,
    /// An earlier adoption was interrupted.
    again: bool,
    report: Report,
}

/// One queue as the log shows it.
#[derive(Debug)]
struct Found {
    first: i64,
    next: i64,
    /// Where its messages begin, and where the last of them lies.
    begin: u64,
    last: u64,
    /// Records before `begin`.
    older: u64,
}

impl Survey {
    /// Reads the directory of a broker that does not run; `each` sees every record of the log.
    pub fn take(
        dir: &Path,
        cluster: &str,
        broker: &str,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<Self, AdoptError> {
        let segment_bytes = segment_bytes_of(dir)?;
        let lock = DirLock::acquire(dir)?.ok_or_else(|| OpenError::Locked(dir.to_owned()))?;
        let identity = identify(dir, cluster, broker, segment_bytes)?;
        let again = check_whole(dir).is_err();
        // An interrupted adoption is made from the beginning.
        let mut everything = if again {
            Adopted::default()
        } else {
            Adopted::load(dir)?
        };
        everything.end = u64::MAX;
        let hidden = exported::hidden(dir)?;
        for queue in &hidden {
            let begins = everything.begins.entry(queue.topic.clone()).or_default();
            begins.insert(queue.queue, queue.begin);
        }
        let adopted = everything.clone();
        let segments = Segments::open(dir, segment_bytes, everything)?;
        let mut survey = Self {
            dir: dir.to_owned(),
            _lock: lock,
            identity,
            segments,
            queues: BTreeMap::new(),
            adopted,
            again,
            report: Report::default(),
        };
        survey.report.unclean = dir.join("abort").exists();
        survey.report.segment_bytes = segment_bytes;
        let found = survey.read_log(each)?;
        let java = survey.java_queues()?;
        survey.settle(found, &java);
        for queue in hidden {
            let (min, max) = (queue.next, queue.next);
            let key = (Arc::from(queue.topic), queue.queue);
            survey.queues.entry(key).or_insert(Range { min, max });
        }
        survey.report.idle_queues = survey.queues.len() - survey.report.queues;
        Ok(survey)
    }

    /// Every queue that has or had messages, in order of topic and number.
    pub fn queues(&self) -> Vec<(String, i32, Range)> {
        let all = self.queues.iter();
        all.map(|((topic, queue), range)| (topic.to_string(), *queue, *range))
            .collect()
    }

    /// Every record of the log, one by one, and its end.
    fn read_log(
        &mut self,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<HashMap<Arc<str>, BTreeMap<i32, Found>>, AdoptError> {
        let mut topics: HashMap<Arc<str>, BTreeMap<i32, Found>> = HashMap::new();
        let start = self.segments.start();
        let mut batch = None;
        let report = &mut self.report;
        let scanned = scan(&self.segments, start, u64::MAX, &mut |record, _| {
            if record.sys_flag & INNER_BATCH != 0 {
                batch = Some(record.position);
                return Err("it holds several messages".into());
            }
            report.store_hosts.insert(record.store_host);
            each(record);
            if takes_queue_offset(record.sys_flag) {
                if !topics.contains_key(record.topic) {
                    topics.insert(record.topic.into(), BTreeMap::new());
                }
                if let Some(queues) = topics.get_mut(record.topic) {
                    note(queues, record);
                }
            }
            Ok(())
        })?;
        if let Some(position) = batch {
            return Err(AdoptError::InnerBatch { position });
        }
        (report.log_start, report.log_end) = (start, scanned.end);
        if let Some(reason) = scanned.bad {
            self.check_end(scanned.end, reason)?;
        }
        Ok(topics)
    }

    /// The log may end here: nothing behind it says that it went on.
    fn check_end(&self, end: u64, reason: String) -> Result<(), AdoptError> {
        let segment = self.segments.at(end);
        let left = self.segments.next_start(end) - end;
        if let Some(segment) = segment.filter(|_| left >= 8) {
            let mut bytes = [0; 8];
            fs::read_exact_at(
                &segment.file,
                &mut bytes,
                end - segment.start,
                Wait::ForDisk,
            )?;
            let word = u64::from_be_bytes(bytes);
            let (size, magic) = ((word >> 32) as u32, word as u32);
            if matches!(magic, MAGIC_V1 | MAGIC_V2) && head(bytes).is_none() {
                return Err(AdoptError::RecordTooLarge {
                    position: end,
                    bytes: size,
                });
            }
        }
        let mut next = self.segments.next_start(end);
        while next < self.segments.limit() {
            if self.starts_with_a_record(next)? {
                return Err(AdoptError::Damaged {
                    position: end,
                    reason,
                    found: next,
                });
            }
            next = self.segments.next_start(next);
        }
        Ok(())
    }

    fn starts_with_a_record(&self, at: u64) -> Result<bool, AdoptError> {
        let Some(segment) = self.segments.at(at) else {
            return Ok(false);
        };
        let mut bytes = [0; 8];
        fs::read_exact_at(&segment.file, &mut bytes, 0, Wait::ForDisk)?;
        let Some(Head::Record(size)) = head(bytes) else {
            return Ok(false);
        };
        let record = self.segments.record(at, size as u32, Wait::ForDisk, None);
        Ok(record.is_ok())
    }

    /// Java's consume queues, or why they say that the log has lost its end.
    fn java_queues(&self) -> Result<Vec<JavaQueue>, AdoptError> {
        let end = self.report.log_end;
        let mut at = self.dir.join(QUEUES);
        if self.again && !at.exists() {
            at = self.dir.join(ASIDE).join(QUEUES);
        }
        let queues = queues::read(&at, end)?;
        let reach = queues.iter().map(|queue| queue.reach).max().unwrap_or(0);
        if reach > end && !self.report.unclean && !self.again {
            return Err(AdoptError::Damaged {
                position: end,
                reason: "the log ends here, and was closed in order".into(),
                found: reach,
            });
        }
        Ok(queues)
    }

    /// What each queue holds, by the log and by what Java made of it.
    fn settle(&mut self, found: HashMap<Arc<str>, BTreeMap<i32, Found>>, java: &[JavaQueue]) {
        let ends = java.iter().filter_map(|queue| Some(queue.last?.1));
        let dispatched = ends.max().unwrap_or(0);
        let log_start = self.report.log_start;
        let known: HashMap<(&str, i32), &JavaQueue> = java
            .iter()
            .map(|queue| ((queue.topic.as_str(), queue.id), queue))
            .collect();
        for (topic, queues) in found {
            for (id, queue) in queues {
                let java = known.get(&(&*topic, id));
                // Java has looked at all of its records, and keeps none: its topic was deleted.
                let keeps = |java: &JavaQueue| java.last.is_some_and(|(at, _)| at >= log_start);
                let deleted = queue.last < dispatched && !java.is_some_and(|java| keeps(java));
                let mut range = Range {
                    min: queue.first,
                    max: queue.next,
                };
                let mut begin = queue.begin;
                let count = (queue.next - queue.first) as u64;
                self.report.left_out += queue.older;
                if deleted {
                    (range.min, begin) = (range.max, queue.last + 1);
                    self.report.left_out += count;
                } else {
                    self.report.messages += count;
                    self.report.queues += 1;
                }
                if deleted || queue.older > 0 {
                    let begins = self.adopted.begins.entry(topic.to_string()).or_default();
                    begins.insert(id, begin);
                }
                self.queues.insert((Arc::clone(&topic), id), range);
            }
        }
        for queue in java.iter().filter(|queue| queue.next > 0) {
            let (min, max) = (queue.next, queue.next);
            let key = (Arc::from(queue.topic.as_str()), queue.id);
            self.queues.entry(key).or_insert(Range { min, max });
        }
        self.adopted.end = self.report.log_end;
    }

    /// Makes it a Gantry store; `state` is the body of a state record that rebuilds the broker's
    /// tables. The directory opens as soon as this has returned.
    pub fn finish(mut self, state: Bytes) -> Result<Report, AdoptError> {
        let dir = self.dir.clone();
        let end = self.report.log_end;
        fs::create_dir_all(&dir.join("gantry/index"))?;
        let marker = envelope::seal(MARKER_MAGIC, MARKER_VERSION, &[]);
        fs::write_atomic(&dir.join(MARKER), &marker)?;
        fs::sync_dir(&dir)?;
        for (path, _) in fs::list_if_exists(&dir.join("gantry/index"))? {
            fs::remove_tree(&path)?;
        }
        cut(&self.segments, end)?;
        self.segments.sync(self.segments.start(), end)?;
        self.adopted.write(&dir)?;
        self.segments.adopted = self.adopted.clone();
        self.write_runs(end)?;
        let queues = self.queues.iter().map(|((topic, queue), range)| BaseQueue {
            topic: Arc::clone(topic),
            queue: *queue,
            min: range.min,
            next: range.max,
        });
        let base = Base {
            position: end,
            queues: queues.collect(),
            state,
        };
        base::write(&dir, &base)?;
        let mut checkpoint = Checkpoint::load(&dir)?;
        (checkpoint.durable, checkpoint.clean) = (end, true);
        checkpoint.write(&dir)?;
        self.identity.write(&dir)?;
        self.move_aside()?;
        // Whatever the JSON files say is in the state.
        for gone in ["abort", "gantry/exported", "config/gantry.json", MARKER] {
            fs::remove_if_exists(&dir.join(gone))?;
        }
        fs::sync_dir(&dir.join("gantry"))?;
        fs::sync_dir(&dir)?;
        Ok(self.report)
    }

    fn write_runs(&self, end: u64) -> Result<(), AdoptError> {
        let mut at = self.segments.start();
        while at < end {
            let next = self.segments.next_start(at);
            let kind = if next <= end { "index" } else { "run" };
            let path = self.dir.join(format!("gantry/index/{at:020}.{kind}"));
            run::rebuild(&self.segments, &path, at, next.min(end))?;
            at = next;
        }
        Ok(())
    }

    /// Takes Java's derived files out of the way, one by one: those of an interrupted adoption
    /// lie there already.
    fn move_aside(&self) -> io::Result<()> {
        let aside = self.dir.join(ASIDE);
        fs::create_dir_all(&aside)?;
        for name in DERIVED {
            let from = self.dir.join(name);
            if from.exists() {
                fs::remove_tree(&aside.join(name))?;
                fs::rename(&from, &aside.join(name))?;
            }
        }
        fs::sync_dir(&aside)
    }
}

/// Adds a record to what is known of its queue.
fn note(queues: &mut BTreeMap<i32, Found>, record: &Record<'_>) {
    let (offset, position) = (record.queue_offset, record.position);
    let found = queues.entry(record.queue).or_insert(Found {
        first: offset,
        next: offset,
        begin: position,
        last: position,
        older: 0,
    });
    // The topic was deleted and made again: Java begins at 0 once more.
    if offset != found.next {
        found.older += (found.next - found.first) as u64;
        (found.first, found.begin) = (offset, position);
    }
    (found.next, found.last) = (offset + 1, position);
}

/// Refuses a store in the middle of its adoption.
pub(crate) fn check_whole(dir: &Path) -> Result<(), OpenError> {
    if dir.join(MARKER).exists() {
        return Err(OpenError::HalfAdopted(dir.to_owned()));
    }
    Ok(())
}

/// The size of the log's files, as the first of them has it.
fn segment_bytes_of(dir: &Path) -> Result<u64, AdoptError> {
    let mut files = fs::list_if_exists(&dir.join("commitlog"))?;
    files.sort();
    // Java's broker removes such a file too: it was about to give it its length.
    if let Some((path, 0)) = files.last() {
        fs::remove_file(path)?;
    }
    match files.first() {
        Some((_, 0)) | None => Err(AdoptError::NoLog(dir.to_owned())),
        Some((_, bytes)) if segment_bytes_adoptable(*bytes) => Ok(*bytes),
        Some((_, bytes)) => Err(AdoptError::SegmentBytes(*bytes)),
    }
}

/// Who the store is to be: who it was, if it was Gantry's once.
fn identify(
    dir: &Path,
    cluster: &str,
    broker: &str,
    segment_bytes: u64,
) -> Result<Identity, AdoptError> {
    let Some(identity) = Identity::load(dir)? else {
        return Ok(Identity {
            store_id: rand::random(),
            segment_bytes,
            cluster: cluster.to_owned(),
            broker: broker.to_owned(),
        });
    };
    if identity.cluster != cluster || identity.broker != broker {
        return Err(AdoptError::Open(OpenError::OtherBroker {
            cluster: cluster.to_owned(),
            broker: broker.to_owned(),
            found_cluster: identity.cluster,
            found_broker: identity.broker,
        }));
    }
    let again = check_whole(dir).is_err();
    let changed = matches!(exported::look(dir, segment_bytes)?, Exported::Changed(_));
    if !again && !changed {
        return Err(AdoptError::Gantry(dir.to_owned()));
    }
    Ok(identity)
}
