//! Counters by topic, and by topic and group: no more series than a limit, the rest summed as
//! `other`. Counting takes no lock that a scrape holds while it writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::{HashMap, HashMapExt as _};

use super::text::{family, labels, sample};

/// The name that stands for those above the limit.
pub(super) const OTHER: &str = "other";

/// Bounds of `rocketmq_message_size`, in bytes.
const SIZE_BYTES: [u64; 6] = [1_024, 4_096, 524_288, 1_048_576, 2_097_152, 4_194_304];

/// Each topic has a series for every bound, for what is above, for sum and count.
const SIZE_SERIES: usize = SIZE_BYTES.len() + 3;

/// Requests by the mean size of their messages, of one topic and type: those of each bound, and
/// above all.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    counts: [AtomicU64; SIZE_BYTES.len() + 1],
    sum: AtomicU64,
}

/// Messages stored, of one topic and type; delivered to a group, or given up by it.
#[derive(Debug, Default)]
pub(super) struct Moved {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Sizes {
    pub(super) fn add(&self, messages: u64, bytes: u64) {
        let mean = bytes / messages.max(1);
        self.sum.fetch_add(mean, Ordering::Relaxed);
        let bucket = SIZE_BYTES.iter().position(|bound| mean <= *bound);
        if let Some(count) = self.counts.get(bucket.unwrap_or(SIZE_BYTES.len())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Moved {
    pub(super) fn add(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Series by topic and a second name.
#[derive(Debug)]
pub(super) struct Table<V> {
    known: RwLock<Known<V>>,
    series_max: usize,
}

#[derive(Debug)]
pub(super) struct Series<V> {
    labels: String,
    pub(super) value: V,
}

#[derive(Debug)]
struct Known<V> {
    topics: HashMap<String, HashMap<String, Arc<Series<V>>>>,
    count: usize,
}

impl<V> Known<V> {
    fn get(&self, (topic, second): (&str, &str)) -> Option<&Arc<Series<V>>> {
        self.topics.get(topic)?.get(second)
    }
}

impl<V: Default> Table<V> {
    pub(super) fn new(series_max: usize) -> Self {
        let known = Known {
            topics: HashMap::new(),
            count: 0,
        };
        Self {
            known: RwLock::new(known),
            series_max,
        }
    }

    /// The series of a pair; that of `other` when there are too many.
    pub(super) fn of(
        &self,
        pair: (&str, &str),
        other: (&str, &str),
        labels_of: impl FnOnce(&str, &str) -> String,
    ) -> Arc<Series<V>> {
        let find = |known: &Known<V>| {
            let full = known.count >= self.series_max;
            let series = known.get(pair);
            series
                .or_else(|| known.get(other).filter(|_| full))
                .cloned()
        };
        let found = find(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(series) = found {
            return series;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = find(&known) {
            return series;
        }
        let full = known.count >= self.series_max;
        let (topic, second) = if full { other } else { pair };
        let series = Arc::new(Series {
            labels: labels_of(topic, second),
            value: V::default(),
        });
        let seconds = known.topics.entry(topic.to_owned()).or_default();
        seconds.insert(second.to_owned(), Arc::clone(&series));
        known.count += 1;
        series
    }

    fn all(&self) -> Vec<Arc<Series<V>>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let topics = known.topics.values();
        topics.flat_map(HashMap::values).cloned().collect()
    }
}

/// What the broker counts of its messages.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Labels of every series.
    pub(super) common: String,
    pub(super) ins: Table<Moved>,
    pub(super) sizes: Table<Sizes>,
    pub(super) outs: Table<Moved>,
    pub(super) dead: Table<Moved>,
    pub(super) committed: Table<Moved>,
    pub(super) rolled_back: Table<Moved>,
}

impl Traffic {
    pub(super) fn new(common: String, series_max: usize) -> Self {
        Self {
            common,
            ins: Table::new(series_max),
            sizes: Table::new((series_max / SIZE_SERIES).max(1)),
            outs: Table::new(series_max),
            dead: Table::new(series_max),
            committed: Table::new(series_max),
            rolled_back: Table::new(series_max),
        }
    }

    /// These labels behind those of every series.
    pub(super) fn labels(&self, pairs: &[(&str, &str)]) -> String {
        format!("{},{}", self.common, labels(pairs))
    }

    pub(super) fn write(&self, out: &mut String) {
        let counter = |out: &mut String, name, help, all: &[Arc<Series<Moved>>], messages| {
            family(out, name, "counter", help);
            for series in all {
                let Moved { messages: m, bytes } = &series.value;
                let value = if messages { m } else { bytes };
                sample(out, name, &series.labels, value.load(Ordering::Relaxed));
            }
        };
        let ins = self.ins.all();
        let (name, help) = ("rocketmq_messages_in_total", "Messages stored");
        counter(out, name, help, &ins, true);
        let (name, help) = ("rocketmq_throughput_in_total", "Bytes of records stored");
        counter(out, name, help, &ins, false);
        write_sizes(out, &self.sizes.all());
        let outs = self.outs.all();
        let (name, help) = ("rocketmq_messages_out_total", "Messages delivered");
        counter(out, name, help, &outs, true);
        let (name, help) = ("rocketmq_throughput_out_total", "Bytes delivered");
        counter(out, name, help, &outs, false);
        let name = "rocketmq_send_to_dlq_messages_total";
        let help = "Messages that a group has given up";
        counter(out, name, help, &self.dead.all(), true);
        // As in Java, nothing is said of transactions before the first one has ended.
        for (name, help, table) in [
            (
                "rocketmq_commit_messages_total",
                "Transactions committed",
                &self.committed,
            ),
            (
                "rocketmq_rollback_messages_total",
                "Transactions rolled back",
                &self.rolled_back,
            ),
        ] {
            let all = table.all();
            if !all.is_empty() {
                counter(out, name, help, &all, true);
            }
        }
    }
}

fn write_sizes(out: &mut String, all: &[Arc<Series<Sizes>>]) {
    family(
        out,
        "rocketmq_message_size",
        "histogram",
        "Bytes of a record, of a batch their mean",
    );
    for series in all {
        let mut count = 0;
        let bounds = SIZE_BYTES.iter().map(u64::to_string);
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, of) in bounds.zip(&series.value.counts) {
            count += of.load(Ordering::Relaxed);
            for part in [
                "rocketmq_message_size_bucket{",
                &series.labels,
                ",le=\"",
                &bound,
                "\"} ",
            ] {
                out.push_str(part);
            }
            out.push_str(&count.to_string());
            out.push('\n');
        }
        let sum = series.value.sum.load(Ordering::Relaxed);
        sample(out, "rocketmq_message_size_sum", &series.labels, sum);
        sample(out, "rocketmq_message_size_count", &series.labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_above_the_limit_are_summed_as_other() {
        let traffic = Traffic::new("cluster=\"c\"".to_owned(), 3);
        for (topic, group) in [("a", "g"), ("a", "h"), ("b", "g"), ("c", "g"), ("d", "h")] {
            for _ in 0..2 {
                let series = traffic
                    .outs
                    .of((topic, group), (OTHER, OTHER), |topic, group| {
                        traffic.labels(&[("topic", topic), ("consumer_group", group)])
                    });
                series.value.add(5, 100);
            }
        }
        let mut page = String::new();
        traffic.write(&mut page);
        let mut lines: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("rocketmq_messages_out_total{"))
            .collect();
        lines.sort_unstable();
        let wanted = [
            ("a", "g", 10),
            ("a", "h", 10),
            ("b", "g", 10),
            (OTHER, OTHER, 20),
        ];
        let wanted = wanted.map(|(topic, group, value)| {
            let labels = format!(r#"cluster="c",topic="{topic}",consumer_group="{group}""#);
            format!("rocketmq_messages_out_total{{{labels}}} {value}")
        });
        assert_eq!(lines, wanted);
    }

    #[test]
    fn sizes_are_the_mean_of_a_request() {
        let traffic = Traffic::new("c=\"\\\\\"".to_owned(), 1);
        let of = |messages, bytes| {
            let (pair, other) = (("t", "normal"), (OTHER, "normal"));
            let series = traffic.ins.of(pair, other, |t, _| t.to_owned());
            series.value.add(messages, bytes);
            let series = traffic.sizes.of(pair, other, |t, _| t.to_owned());
            series.value.add(messages, bytes);
        };
        of(1, 1_024);
        of(10, 20_000);
        of(1, 5_000_000);
        let mut page = String::new();
        traffic.write(&mut page);
        for line in [
            r#"rocketmq_message_size_bucket{t,le="1024"} 1"#,
            r#"rocketmq_message_size_bucket{t,le="4096"} 2"#,
            r#"rocketmq_message_size_bucket{t,le="4194304"} 2"#,
            r#"rocketmq_message_size_bucket{t,le="+Inf"} 3"#,
            "rocketmq_message_size_sum{t} 5003024",
            "rocketmq_message_size_count{t} 3",
            "rocketmq_messages_in_total{t} 12",
            "rocketmq_throughput_in_total{t} 5021024",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} in {page}");
        }
    }
}
