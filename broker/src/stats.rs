//! Statistics as `mqadmin` and dashboards ask for them: sums and rates by topic and group, and
//! of the store as a whole (`BrokerStatsManager.java`, `StatsItem.java`, `StoreStatsService.java`,
//! `BrokerStats.java`). Time is an argument.
//!
//! An item is a sum that only grows. Its rates come from samples of it: the last minute by seven
//! samples 10 s apart, the last hour by seven 10 min apart, the last day by 25 an hour apart.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt as _};
use protocol::body::{BrokerStatsData, BrokerStatsItem};

pub const TOPIC_PUT_NUMS: &str = "TOPIC_PUT_NUMS";
pub const TOPIC_PUT_SIZE: &str = "TOPIC_PUT_SIZE";
pub const GROUP_GET_NUMS: &str = "GROUP_GET_NUMS";
pub const GROUP_GET_SIZE: &str = "GROUP_GET_SIZE";
pub const SNDBCK_PUT_NUMS: &str = "SNDBCK_PUT_NUMS";
pub const BROKER_PUT_NUMS: &str = "BROKER_PUT_NUMS";
pub const BROKER_GET_NUMS: &str = "BROKER_GET_NUMS";

const SECOND_MS: i64 = 1_000;
const DAY_MS: i64 = 24 * 3_600 * SECOND_MS;

/// How far apart the samples of an item are, and how many are kept.
const WINDOWS: [(i64, usize); 3] = [
    (10 * SECOND_MS, 7),
    (600 * SECOND_MS, 7),
    (3_600 * SECOND_MS, 25),
];

/// Seconds back to which the store's rates are told.
const RATE_SECONDS: [usize; 3] = [10, 60, 600];

/// Upper bounds of how long a send took, in ms, with the words that Java has for them.
const PUT_MS: [(u64, &str); 13] = [
    (0, "<=0ms"),
    (10, "0~10ms"),
    (50, "10~50ms"),
    (100, "50~100ms"),
    (200, "100~200ms"),
    (500, "200~500ms"),
    (1_000, "500ms~1s"),
    (2_000, "1~2s"),
    (3_000, "2~3s"),
    (4_000, "3~4s"),
    (5_000, "4~5s"),
    (10_000, "5~10s"),
    (u64::MAX, "10s~"),
];

#[derive(Debug)]
pub struct Stats {
    booted_ms: i64,
    /// Measure to key to item.
    items: HashMap<&'static str, HashMap<String, Item>>,
    /// When each of [`WINDOWS`] was sampled.
    sampled_ms: [i64; 3],
    totals: Totals,
    /// The totals of the last seconds.
    seconds: VecDeque<(i64, Totals)>,
    put_ms: [u64; 13],
    put_ms_max: u64,
    /// Since the day before yesterday ended, since yesterday ended, in UTC.
    mornings: [Totals; 2],
    day: i64,
}

/// Sums over the whole broker since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    put: u64,
    put_failed: u64,
    put_bytes: u64,
    /// Pulls that found messages, and that found none.
    found: u64,
    missed: u64,
    transferred: u64,
}

#[derive(Debug, Default)]
struct Item {
    sum: i64,
    times: i64,
    windows: [VecDeque<Sample>; 3],
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    ms: i64,
    sum: i64,
    times: i64,
}

impl Stats {
    pub fn new(now_ms: i64) -> Self {
        Self {
            booted_ms: now_ms,
            items: HashMap::new(),
            sampled_ms: [now_ms; 3],
            totals: Totals::default(),
            seconds: VecDeque::new(),
            put_ms: [0; 13],
            put_ms_max: 0,
            mornings: [Totals::default(); 2],
            day: now_ms.div_euclid(DAY_MS),
        }
    }

    fn add(&mut self, measure: &'static str, key: &str, value: i64) {
        let items = self.items.entry(measure).or_default();
        // A key is copied only when it is new.
        let item = match items.get_mut(key) {
            Some(item) => item,
            None => items.entry(key.to_owned()).or_default(),
        };
        item.sum += value;
        item.times += 1;
    }

    /// A message was stored.
    pub fn put(&mut self, cluster: &str, topic: &str, bytes: usize) {
        self.totals.put += 1;
        self.totals.put_bytes += bytes as u64;
        self.add(TOPIC_PUT_NUMS, topic, 1);
        self.add(TOPIC_PUT_SIZE, topic, bytes as i64);
        self.add(BROKER_PUT_NUMS, cluster, 1);
    }

    /// A send was answered.
    pub fn sent(&mut self, stored: bool, took_ms: u64) {
        if !stored {
            self.totals.put_failed += 1;
            return;
        }
        self.put_ms_max = self.put_ms_max.max(took_ms);
        let bucket = PUT_MS.iter().position(|(bound, _)| took_ms <= *bound);
        if let Some(count) = bucket.and_then(|bucket| self.put_ms.get_mut(bucket)) {
            *count += 1;
        }
    }

    /// A consumer gave a message back.
    pub fn sent_back(&mut self, group: &str, topic: &str) {
        self.add(SNDBCK_PUT_NUMS, &key(topic, group), 1);
    }

    /// A pull was answered.
    pub fn got(
        &mut self,
        cluster: &str,
        topic: &str,
        group: &str,
        (messages, bytes): (usize, usize),
    ) {
        if messages == 0 {
            self.totals.missed += 1;
            return;
        }
        self.totals.found += 1;
        self.totals.transferred += messages as u64;
        let key = key(topic, group);
        self.add(GROUP_GET_NUMS, &key, messages as i64);
        self.add(GROUP_GET_SIZE, &key, bytes as i64);
        self.add(BROKER_GET_NUMS, cluster, messages as i64);
    }

    /// Takes the samples that are due; called once a second.
    pub fn tick(&mut self, now_ms: i64) {
        self.seconds.push_back((now_ms, self.totals));
        if self.seconds.len() > 601 {
            self.seconds.pop_front();
        }
        let day = now_ms.div_euclid(DAY_MS);
        if day != self.day {
            self.day = day;
            self.mornings = [self.mornings[1], self.totals];
        }
        for (window, (every_ms, kept)) in WINDOWS.into_iter().enumerate() {
            let Some(sampled_ms) = self.sampled_ms.get_mut(window) else {
                continue;
            };
            if now_ms - *sampled_ms < every_ms {
                continue;
            }
            *sampled_ms = now_ms;
            for items in self.items.values_mut() {
                items.retain(|_, item| item.sample(window, now_ms - every_ms, now_ms, kept));
            }
        }
    }

    /// `None`: nothing of the kind was ever counted, or not for a day.
    pub fn item(&self, measure: &str, key: &str) -> Option<BrokerStatsData> {
        let item = self.items.get(measure)?.get(key)?;
        let [minute, hour, day] = &item.windows;
        Some(BrokerStatsData {
            stats_day: rate(day),
            stats_hour: rate(hour),
            stats_minute: rate(minute),
        })
    }

    /// Of the last minute, a second.
    pub fn topic_put_tps(&self, topic: &str) -> f64 {
        self.minute_tps(TOPIC_PUT_NUMS, topic)
    }

    pub fn group_get_tps(&self, topic: &str, group: &str) -> f64 {
        self.minute_tps(GROUP_GET_NUMS, &key(topic, group))
    }

    fn minute_tps(&self, measure: &str, key: &str) -> f64 {
        self.item(measure, key)
            .map_or(0.0, |data| data.stats_minute.tps)
    }

    /// The store's part of the runtime table.
    pub fn runtime(&self, now_ms: i64) -> Vec<(&'static str, String)> {
        let totals = &self.totals;
        let [yesterday, today] = &self.mornings;
        let average = totals.put_bytes as f64 / totals.put.max(1) as f64;
        let spread = PUT_MS.iter().zip(&self.put_ms);
        let spread = spread.map(|((_, w), n)| format!("[{w}]:{n} "));
        let spread = spread.collect::<Vec<_>>().concat();
        let found = |t: &Totals| t.found;
        let missed = |t: &Totals| t.missed;
        vec![
            ("bootTimestamp", self.booted_ms.to_string()),
            ("runtime", runtime_words(now_ms - self.booted_ms)),
            ("putMessageEntireTimeMax", self.put_ms_max.to_string()),
            ("putMessageTimesTotal", totals.put.max(1).to_string()),
            ("putMessageFailedTimes", totals.put_failed.to_string()),
            ("putMessageSizeTotal", totals.put_bytes.to_string()),
            ("putMessageDistributeTime", spread),
            ("putMessageAverageSize", format!("{average:?}")),
            ("putTps", self.rates(|t| t.put)),
            ("getFoundTps", self.rates(found)),
            ("getMissTps", self.rates(missed)),
            ("getTotalTps", self.rates(|t| found(t) + missed(t))),
            ("getTransferredTps", self.rates(|t| t.transferred)),
            ("putLatency99", format!("{:.2}", self.put_percentile(0.99))),
            (
                "putLatency999",
                format!("{:.2}", self.put_percentile(0.999)),
            ),
            ("msgPutTotalYesterdayMorning", yesterday.put.to_string()),
            ("msgPutTotalTodayMorning", today.put.to_string()),
            ("msgPutTotalTodayNow", totals.put.to_string()),
            (
                "msgGetTotalYesterdayMorning",
                yesterday.transferred.to_string(),
            ),
            ("msgGetTotalTodayMorning", today.transferred.to_string()),
            ("msgGetTotalTodayNow", totals.transferred.to_string()),
        ]
    }

    /// A total's growth a second over the last 10 s, minute and 10 min; over what there is while
    /// the broker is younger.
    fn rates(&self, of: impl Fn(&Totals) -> u64) -> String {
        let rate = |seconds: usize| {
            let from = self.seconds.len().saturating_sub(seconds + 1);
            let (Some((first_ms, first)), Some((last_ms, last))) =
                (self.seconds.get(from), self.seconds.back())
            else {
                return 0.0;
            };
            let ms = (last_ms - first_ms).max(1) as f64;
            (of(last) - of(first)) as f64 * 1_000.0 / ms
        };
        RATE_SECONDS.map(|s| format!("{:?}", rate(s))).join(" ")
    }

    /// In ms, taken as evenly spread within a bucket.
    fn put_percentile(&self, part: f64) -> f64 {
        let all: u64 = self.put_ms.iter().sum();
        let wanted = all as f64 * part;
        let (mut passed, mut lower) = (0.0, 0.0);
        for ((bound, _), count) in PUT_MS.iter().zip(&self.put_ms) {
            let (upper, count) = ((*bound).min(self.put_ms_max) as f64, *count as f64);
            if count > 0.0 && wanted <= passed + count {
                return lower + (upper - lower).max(0.0) * (wanted - passed) / count;
            }
            passed += count;
            lower = upper;
        }
        0.0
    }
}

/// `topic@group`
fn key(topic: &str, group: &str) -> String {
    format!("{topic}@{group}")
}

impl Item {
    /// `false` when nothing has come for a whole day.
    fn sample(&mut self, window: usize, before_ms: i64, now_ms: i64, kept: usize) -> bool {
        let Some(samples) = self.windows.get_mut(window) else {
            return true;
        };
        if samples.is_empty() {
            samples.push_back(Sample {
                ms: before_ms,
                sum: 0,
                times: 0,
            });
        }
        samples.push_back(Sample {
            ms: now_ms,
            sum: self.sum,
            times: self.times,
        });
        if samples.len() > kept {
            samples.pop_front();
        }
        let idle = samples
            .front()
            .is_some_and(|first| first.times == self.times);
        !(idle && window + 1 == WINDOWS.len() && samples.len() == kept)
    }
}

fn rate(samples: &VecDeque<Sample>) -> BrokerStatsItem {
    let (Some(first), Some(last)) = (samples.front(), samples.back()) else {
        return BrokerStatsItem::default();
    };
    let sum = last.sum - first.sum;
    let times = last.times - first.times;
    BrokerStatsItem {
        avgpt: if times > 0 {
            sum as f64 / times as f64
        } else {
            0.0
        },
        sum,
        tps: sum as f64 * 1_000.0 / (last.ms - first.ms).max(1) as f64,
    }
}

fn runtime_words(ms: i64) -> String {
    let seconds = ms / SECOND_MS;
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    format!(
        "[ {} days, {} hours, {} minutes, {} seconds ]",
        hours / 24,
        hours % 24,
        minutes % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000_000;

    /// Lets seconds pass, each with so many messages of 100 bytes.
    fn pass(stats: &mut Stats, now_ms: &mut i64, seconds: i64, messages: usize) {
        for _ in 0..seconds {
            for _ in 0..messages {
                stats.put("c", "T", 100);
            }
            *now_ms += SECOND_MS;
            stats.tick(*now_ms);
        }
    }

    #[test]
    fn rates_are_those_of_the_window() {
        let (mut stats, mut now) = (Stats::new(START), START);
        assert_eq!(stats.item(TOPIC_PUT_NUMS, "T"), None);
        stats.put("c", "T", 100);
        let fresh = stats.item(TOPIC_PUT_NUMS, "T").expect("counted");
        assert_eq!(fresh, BrokerStatsData::default(), "not sampled yet");
        pass(&mut stats, &mut now, 10, 0);
        assert!((stats.topic_put_tps("T") - 0.1).abs() < 1e-9);
        pass(&mut stats, &mut now, 120, 5);
        let size = stats.item(TOPIC_PUT_SIZE, "T").expect("counted");
        assert_eq!(size.stats_minute.sum, 60 * 500);
        assert_eq!(
            (size.stats_minute.tps, size.stats_minute.avgpt),
            (500.0, 100.0)
        );
        assert_eq!(size.stats_hour, BrokerStatsItem::default(), "too young");
        pass(&mut stats, &mut now, 60, 0);
        assert!(stats.topic_put_tps("T") < 1e-9);
        let put = stats.runtime(now).into_iter().find(|(k, _)| *k == "putTps");
        let expect = format!("0.0 0.0 {:?}", 600.0 * 1_000.0 / 189_000.0);
        assert_eq!(put, Some(("putTps", expect)));
    }

    #[test]
    fn what_is_idle_for_a_day_is_forgotten() {
        let (mut stats, mut now) = (Stats::new(START), START);
        stats.got("c", "T", "g", (3, 300));
        for hour in 1..=26 {
            now += 3_600 * SECOND_MS;
            stats.tick(now);
            let known = stats.item(GROUP_GET_NUMS, "T@g").is_some();
            assert_eq!(known, hour <= 24, "after {hour} hours");
        }
        let table: HashMap<_, _> = stats.runtime(now).into_iter().collect();
        for (key, value) in [
            ("runtime", "[ 1 days, 2 hours, 0 minutes, 0 seconds ]"),
            ("msgGetTotalTodayNow", "3"),
            ("msgGetTotalTodayMorning", "3"),
        ] {
            assert_eq!(table.get(key).map(String::as_str), Some(value), "{key}");
        }
    }

    #[test]
    fn latencies_are_spread_over_java_s_buckets() {
        let mut stats = Stats::new(START);
        for (took_ms, times) in [(0, 90), (4, 8), (700, 2)] {
            for _ in 0..times {
                stats.sent(true, took_ms);
            }
        }
        stats.sent(false, 9);
        let table: HashMap<_, _> = stats.runtime(START).into_iter().collect();
        let spread = table.get("putMessageDistributeTime").expect("there");
        assert!(
            spread.starts_with("[<=0ms]:90 [0~10ms]:8 [10~50ms]:0 "),
            "{spread}"
        );
        for (key, value) in [
            ("putMessageFailedTimes", "1"),
            ("putMessageEntireTimeMax", "700"),
            ("putLatency99", "600.00"),
        ] {
            assert_eq!(table.get(key).map(String::as_str), Some(value), "{key}");
        }
    }
}
