//! The configuration of a Java broker as a broker's state, and what of it can't be taken over yet.
//!
//! Topics, groups and offsets come from `config/*.json`, from a file's `.bak` where the file
//! itself is broken, as Java reads them. What Java keeps elsewhere, or in a form that this release
//! has no use for, is refused by name: nothing is adopted in silence without it.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::body::{
    ConsumerOffsetTable, DelayOffsetTable, RequestModeTable, SubscriptionGroupTable,
    TopicConfigTable,
};
use protocol::json::from_fastjson;
use protocol::record::Record;
use protocol::topic::{SCHEDULE_TOPIC, STATE_TOPIC};
use serde::de::DeserializeOwned;
use store::Range;

use crate::request::state_record;
use crate::tables::{Change, Offset, Tables};

const WHEEL_TOPIC: &str = "rmq_sys_wheel_timer";
const REVIVE_TOPIC_PREFIX: &str = "rmq_sys_REVIVE_LOG_";
const REVIVE_GROUP: &str = "CID_RMQ_SYS_REVIVE_GROUP";
const DELIVER_MS: &str = "TIMER_OUT_MS";
const MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
/// How deep below the directory RocksDB is looked for.
const ROCKSDB_DEPTH: usize = 4;
const NO_ROCKSDB_IN: [&str; 4] = ["commitlog", "consumequeue_ext", "gantry", "java-derived"];

/// One thing that this release can't take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    RocksDb(PathBuf),
    Missing(&'static str),
    Broken(&'static str, String),
    StaticTopics(usize),
    Compaction(String),
    BatchTopic(String),
    LiteTopics,
    OrderedPops(usize),
    Timers(usize),
    Pops(i64),
    DelaysUnknown,
}

/// Why a directory is not adopted, all reasons at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused(pub Vec<Reason>);

/// What was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub topics: usize,
    pub groups: usize,
    pub offsets: usize,
    /// Offsets behind their queue's end, which were set to it.
    pub lowered: usize,
}

/// A Java broker's configuration, and what its log says about work that is not done.
#[derive(Debug)]
pub struct Java {
    topics: TopicConfigTable,
    groups: SubscriptionGroupTable,
    offsets: ConsumerOffsetTable,
    delays: Option<DelayOffsetTable>,
    modes: RequestModeTable,
    reasons: Vec<Reason>,
    /// Timers up to here have been delivered, Unix time in ms.
    timers_done_ms: i64,
    timers: usize,
    lite: bool,
}

impl Java {
    pub fn read(dir: &Path) -> Result<Self, Refused> {
        let mut reasons = Vec::new();
        find_rocksdb(dir, ROCKSDB_DEPTH, &mut reasons);
        if !reasons.is_empty() {
            return Err(Refused(reasons));
        }
        let config = dir.join("config");
        let topics: Option<TopicConfigTable> = file(&config, "topics.json", &mut reasons);
        if topics.is_none() && reasons.is_empty() {
            reasons.push(Reason::Missing("topics.json"));
        }
        let groups = file(&config, "subscriptionGroup.json", &mut reasons);
        let offsets = file(&config, "consumerOffset.json", &mut reasons);
        let delays = file(&config, "delayOffset.json", &mut reasons);
        let modes = file(&config, "messageRequestMode.json", &mut reasons);
        let count = |name: &'static str, key: &str, reasons: &mut Vec<Reason>| {
            let table: Option<BTreeMap<String, serde_json::Value>> = file(&config, name, reasons);
            let entries = table.as_ref()?.get(key)?.as_object()?.len();
            (entries > 0).then_some(entries)
        };
        let fixed = count(
            "topicQueueMapping.json",
            "topicQueueMappingInfoMap",
            &mut reasons,
        );
        reasons.extend(fixed.map(Reason::StaticTopics));
        let ordered = count("consumerOrderInfo.json", "table", &mut reasons);
        reasons.extend(ordered.map(Reason::OrderedPops));
        let lite = count("lmqConsumerOffset.json", "offsetTable", &mut reasons);
        let topics = topics.unwrap_or_default();
        for (name, topic) in &topics.topic_config_table {
            let is = |key: &str, value: &str| {
                let found = topic.attributes.get(key);
                found.is_some_and(|found| found.eq_ignore_ascii_case(value))
            };
            if is("cleanup.policy", "COMPACTION") {
                reasons.push(Reason::Compaction(name.clone()));
            }
            if is("queue.type", "BatchCQ") {
                reasons.push(Reason::BatchTopic(name.clone()));
            }
        }
        if !reasons.is_empty() {
            return Err(Refused(reasons));
        }
        let checked = std::fs::read(config.join("timercheck")).unwrap_or_default();
        Ok(Self {
            topics,
            groups: groups.unwrap_or_default(),
            offsets: offsets.unwrap_or_default(),
            delays,
            modes: modes.unwrap_or_default(),
            reasons,
            timers_done_ms: checked
                .first_chunk()
                .map_or(0, |ms| i64::from_be_bytes(*ms)),
            timers: 0,
            lite: lite.is_some(),
        })
    }

    /// Looks at a record of the log, each in its turn.
    pub fn see(&mut self, record: &Record<'_>) {
        match record.topic {
            WHEEL_TOPIC => {
                let due = record.property(DELIVER_MS).and_then(|ms| ms.parse().ok());
                let pending = due.is_none_or(|ms: i64| ms > self.timers_done_ms);
                self.timers += usize::from(pending);
            }
            _ => self.lite |= record.property(MULTI_DISPATCH).is_some(),
        }
    }

    /// The body of the state record that rebuilds the tables.
    pub fn state(
        mut self,
        cluster: &str,
        broker: &str,
        queues: &[(String, i32, Range)],
    ) -> Result<(Bytes, Counts), Refused> {
        let ranges: BTreeMap<(&str, i32), Range> = queues
            .iter()
            .map(|(topic, queue, range)| ((topic.as_str(), *queue), *range))
            .collect();
        self.refuse_unfinished(queues);
        let delays = self.delay_offsets(&ranges);
        if !self.reasons.is_empty() {
            return Err(Refused(self.reasons));
        }
        let mut counts = Counts::default();
        let mut changes = Vec::new();
        let built_in = Tables::new(cluster, broker, 0, Some(1));
        for (name, config) in self.topics.topic_config_table {
            if name != STATE_TOPIC && built_in.topic(&name).is_none() {
                counts.topics += 1;
                changes.push(Change::Topic(config));
            }
        }
        counts.groups = self.groups.subscription_group_table.len();
        changes.extend(
            self.groups
                .subscription_group_table
                .into_values()
                .map(Change::Group),
        );
        let mut offsets = Vec::new();
        for (key, table) in self.offsets.offset_table {
            let Some((topic, group)) = key.split_once('@') else {
                continue;
            };
            for (queue, offset) in table {
                let Ok(queue) = i32::try_from(queue) else {
                    continue;
                };
                let max = ranges.get(&(topic, queue)).map_or(0, |range| range.max);
                counts.lowered += usize::from(offset > max);
                offsets.push(Offset {
                    topic: topic.to_owned(),
                    group: group.to_owned(),
                    queue,
                    offset: offset.min(max),
                });
            }
        }
        counts.offsets = offsets.len();
        changes.push(Change::Offsets(offsets));
        changes.push(Change::DelayOffsets(delays));
        let modes = self.modes.message_request_mode_map.into_values();
        let modes = modes.flat_map(BTreeMap::into_values);
        changes.extend(modes.map(Change::RequestMode));
        Ok((state_record(&changes), counts))
    }

    /// What Java has begun and not ended.
    fn refuse_unfinished(&mut self, queues: &[(String, i32, Range)]) {
        let reasons = &mut self.reasons;
        let committed = |topic: &str, group: &str, queue: i32| {
            let table = self.offsets.offset_table.get(&format!("{topic}@{group}"));
            table
                .and_then(|table| table.get(&i64::from(queue)).copied())
                .unwrap_or(0)
        };
        reasons.extend((self.timers > 0).then_some(Reason::Timers(self.timers)));
        let revives = queues
            .iter()
            .filter(|queue| queue.0.starts_with(REVIVE_TOPIC_PREFIX));
        let pops: i64 = revives
            .map(|(topic, queue, range)| {
                range.max - committed(topic, REVIVE_GROUP, *queue).max(range.min)
            })
            .sum();
        reasons.extend((pops > 0).then_some(Reason::Pops(pops)));
        reasons.extend(self.lite.then_some(Reason::LiteTopics));
    }

    /// How far each queue of a delay level has been delivered.
    fn delay_offsets(&mut self, ranges: &BTreeMap<(&str, i32), Range>) -> Vec<(i32, i64)> {
        let mut offsets = Vec::new();
        let delayed = ranges
            .iter()
            .filter(|((topic, _), _)| *topic == SCHEDULE_TOPIC);
        for ((_, queue), range) in delayed {
            let Some(delays) = &self.delays else {
                self.reasons.push(Reason::DelaysUnknown);
                return offsets;
            };
            let level = i64::from(*queue) + 1;
            let offset = delays.offset_table.get(&level).copied().unwrap_or(0);
            offsets.push((*queue, offset.clamp(range.min, range.max)));
        }
        offsets
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentences: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&sentences.join("\n"))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RocksDb(path) => {
                let path = path.display();
                write!(
                    f,
                    "{path} is a RocksDB database, which this release can't adopt."
                )
            }
            Self::Missing(file) => write!(f, "config/{file} is missing, and its .bak too."),
            Self::Broken(file, why) => {
                write!(f, "config/{file} can't be read, nor its .bak: {why}.")
            }
            Self::StaticTopics(n) => {
                write!(
                    f,
                    "{n} static topics are mapped to this broker; they can't be adopted yet."
                )
            }
            Self::Compaction(topic) => {
                write!(f, "{topic} is a compaction topic; it can't be adopted yet.")
            }
            Self::BatchTopic(topic) => {
                write!(
                    f,
                    "{topic} is a topic of batch queues; it can't be adopted yet."
                )
            }
            Self::LiteTopics => {
                f.write_str("There are light message queues (LMQ); they can't be adopted yet.")
            }
            Self::OrderedPops(n) => write!(
                f,
                "{n} queues are popped in order (config/consumerOrderInfo.json); \
                this can't be adopted yet."
            ),
            Self::Timers(n) => {
                write!(
                    f,
                    "{n} timed messages are not delivered yet; they can't be adopted yet."
                )
            }
            Self::Pops(n) => write!(
                f,
                "{n} records of popped messages are not settled yet; they can't be adopted yet."
            ),
            Self::DelaysUnknown => f.write_str(
                "config/delayOffset.json is missing: nobody knows which delayed messages were \
                delivered.",
            ),
        }
    }
}

/// A JSON file, or the copy that Java keeps of the one before; `None` where there is neither.
fn file<T: DeserializeOwned>(
    config: &Path,
    name: &'static str,
    reasons: &mut Vec<Reason>,
) -> Option<T> {
    let mut broken = None;
    for path in [config.join(name), config.join(format!("{name}.bak"))] {
        match std::fs::read(&path) {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => match from_fastjson(&bytes) {
                Ok(table) => return Some(table),
                Err(error) => broken = broken.or(Some(error.to_string())),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => broken = broken.or(Some(error.to_string())),
        }
    }
    reasons.extend(broken.map(|why| Reason::Broken(name, why)));
    None
}

/// Java 5.5 makes a database also where it is told to use none; that one stays empty.
fn holds_data(database: &Path) -> bool {
    let mut items = std::fs::read_dir(database).into_iter().flatten().flatten();
    items.any(|item| {
        let path = item.path();
        let written = || item.metadata().map_or(true, |meta| meta.len() > 0);
        match path.extension().and_then(|kind| kind.to_str()) {
            Some("sst" | "blob") => true,
            Some("log") => written(),
            _ => false,
        }
    })
}

fn find_rocksdb(dir: &Path, depth: usize, reasons: &mut Vec<Reason>) {
    let current = std::fs::read(dir.join("CURRENT")).unwrap_or_default();
    if current.starts_with(b"MANIFEST-") {
        reasons.extend(holds_data(dir).then(|| Reason::RocksDb(dir.to_owned())));
        return;
    }
    let Some(deeper) = depth.checked_sub(1) else {
        return;
    };
    for item in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let skipped = NO_ROCKSDB_IN.iter().any(|name| item.file_name() == *name);
        if !skipped && item.path().is_dir() {
            find_rocksdb(&item.path(), deeper, reasons);
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::body::RequestMode;
    use protocol::record::Message;
    use store::state;

    use super::*;

    fn range(topic: &str, queue: i32, min: i64, max: i64) -> (String, i32, Range) {
        (topic.to_owned(), queue, Range { min, max })
    }

    fn put(dir: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(dir.join("config")).expect("dir");
        std::fs::write(dir.join("config").join(name), text).expect("written");
    }

    fn java(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Java, Refused>) {
        let dir = tempfile::tempdir().expect("dir");
        put(
            dir.path(),
            "topics.json",
            r#"{"topicConfigTable":{"T":{"topicName":"T"}}}"#,
        );
        for (name, text) in files {
            put(dir.path(), name, text);
        }
        let java = Java::read(dir.path());
        (dir, java)
    }

    fn changes(state: &[u8]) -> Vec<Change> {
        let entries = state::decode(state).expect("a state record");
        let read = |entry| Change::decode(entry).expect("readable");
        entries.into_iter().filter_map(read).collect()
    }

    /// A record of a topic, as `see` gets it.
    fn see(java: &mut Java, topic: &str, offset: i64, body: &str, properties: &'static [u8]) {
        let host = ([10, 0, 0, 1], 1).into();
        let message = Message {
            topic: topic.into(),
            queue: 0,
            flag: 0,
            sys_flag: 0,
            born_ms: 0,
            born_host: host,
            reconsume_times: 0,
            prepared_offset: 0,
            body: Bytes::copy_from_slice(body.as_bytes()),
            properties: Bytes::from_static(properties),
        };
        let mut encoded = message.encode(host).expect("a message");
        let bytes = encoded.place(offset, 0, 0);
        java.see(&Record::decode(bytes).expect("a record"));
    }

    #[test]
    fn who_pops_under_java_pops_here() {
        let text = concat!(
            r#"{"messageRequestModeMap":{"T":{"g":{"consumerGroup":"g","mode":"POP","#,
            r#""popShareQueueNum":8,"topic":"T"}}}}"#
        );
        let (_dir, java) = java(&[("messageRequestMode.json", text)]);
        let (state, _) = java.expect("read").state("c", "b", &[]).expect("a state");
        let mut tables = Tables::new("c", "b", 1, None);
        for change in changes(&state) {
            tables.apply(change, 0);
        }
        let mode = tables.request_mode("T", "g");
        assert_eq!((mode.mode, mode.pop_share_queue_num), (RequestMode::Pop, 8));
        let files = tables.java_files();
        let written = files
            .iter()
            .find(|(name, _)| name == "messageRequestMode.json");
        assert_eq!(written.map(|(_, text)| text.as_str()), Some(text));
    }

    #[test]
    fn offsets_are_lowered_and_a_broken_file_has_its_copy() {
        let (_dir, java) = java(&[
            ("consumerOffset.json", "{broken"),
            (
                "consumerOffset.json.bak",
                r#"{"offsetTable":{"T@g":{0:5,1:900}}}"#,
            ),
        ]);
        let queues = [range("T", 0, 0, 10), range("T", 1, 20, 30)];
        let (state, counts) = java
            .expect("read")
            .state("c", "b", &queues)
            .expect("a state");
        let expect = Counts {
            topics: 1,
            groups: 0,
            offsets: 2,
            lowered: 1,
        };
        assert_eq!(counts, expect);
        let offset = |queue, offset| Offset {
            topic: "T".into(),
            group: "g".into(),
            queue,
            offset,
        };
        let offsets = Change::Offsets(vec![offset(0, 5), offset(1, 30)]);
        assert!(changes(&state).contains(&offsets), "{:?}", changes(&state));
    }

    #[test]
    fn h13_delay_offsets_are_taken_over() {
        let queues = [
            range(SCHEDULE_TOPIC, 2, 3, 9),
            range(SCHEDULE_TOPIC, 4, 3, 9),
        ];
        let (_dir, known) = java(&[("delayOffset.json", r#"{"offsetTable":{3:7}}"#)]);
        let (state, _) = known
            .expect("read")
            .state("c", "b", &queues)
            .expect("a state");
        let delays = Change::DelayOffsets(vec![(2, 7), (4, 3)]);
        assert!(changes(&state).contains(&delays), "{:?}", changes(&state));
        let (_dir, unknown) = java(&[]);
        let refused = unknown
            .expect("read")
            .state("c", "b", &queues)
            .expect_err("unknown");
        assert_eq!(refused, Refused(vec![Reason::DelaysUnknown]));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let compaction = r#"{"topicConfigTable":{"C":{"attributes":{"cleanup.policy":"COMPACTION"}},
            "B":{"attributes":{"queue.type":"BatchCQ"}}}}"#;
        let rows: [(&str, &str, &str); 5] = [
            ("topics.json", compaction, "B is a topic of batch queues"),
            ("topics.json", compaction, "C is a compaction topic"),
            ("topics.json", "{", "config/topics.json can't be read"),
            (
                "topicQueueMapping.json",
                r#"{"topicQueueMappingInfoMap":{"S":{}}}"#,
                "1 static topics",
            ),
            (
                "consumerOrderInfo.json",
                r#"{"table":{"T@g":{}}}"#,
                "1 queues are popped in order",
            ),
        ];
        for (name, text, expect) in rows {
            let (_dir, java) = java(&[(name, text)]);
            let said = java.expect_err(expect).to_string();
            assert!(said.contains(expect), "{said}");
        }
        let (dir, _) = java(&[]);
        std::fs::create_dir_all(dir.path().join("config/topics")).expect("dir");
        put(dir.path(), "topics/CURRENT", "MANIFEST-000005");
        put(dir.path(), "topics/000004.log", "");
        Java::read(dir.path()).expect("an empty one is none");
        put(dir.path(), "topics/000007.sst", "data");
        let said = Java::read(dir.path()).expect_err("RocksDB").to_string();
        assert!(
            said.contains("config/topics is a RocksDB database"),
            "{said}"
        );
        let none = tempfile::tempdir().expect("dir");
        let said = Java::read(none.path()).expect_err("no topics").to_string();
        assert!(said.contains("topics.json is missing"), "{said}");
    }

    #[test]
    fn unfinished_work_is_counted() {
        let offsets = r#"{"offsetTable":{"rmq_sys_REVIVE_LOG_c@CID_RMQ_SYS_REVIVE_GROUP":{0:4}}}"#;
        let (dir, java) = java(&[("consumerOffset.json", offsets)]);
        drop(java);
        put(dir.path(), "timercheck", "\0\0\0\0\0\0\x03\u{68}");
        let read = || Java::read(dir.path()).expect("read");
        let mut java = read();
        see(
            &mut java,
            WHEEL_TOPIC,
            0,
            "done",
            b"TIMER_OUT_MS\x01800\x02",
        );
        see(
            &mut java,
            WHEEL_TOPIC,
            1,
            "pending",
            b"TIMER_OUT_MS\x01900\x02",
        );
        see(
            &mut java,
            "T",
            0,
            "light",
            b"INNER_MULTI_DISPATCH\x01%LMQ%a\x02",
        );
        let queues = [range("rmq_sys_REVIVE_LOG_c", 0, 0, 6)];
        let refused = java.state("c", "b", &queues).expect_err("not done");
        let expect = [Reason::Timers(1), Reason::Pops(2), Reason::LiteTopics];
        assert_eq!(refused, Refused(expect.into()));
        let (_, counts) = read().state("c", "b", &[]).expect("nothing is begun");
        assert_eq!(counts.topics, 1);
    }
}
