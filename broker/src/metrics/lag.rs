//! How far groups that are connected lie behind, measured at each scrape
//! (`ConsumerLagCalculator.java`).

use protocol::body::{ALL_TAGS, SubscriptionData};
use protocol::topic::{is_system, retry_group};
use store::{Range, ReadLimits, Wait};

use super::text::{family, sample};
use super::traffic::{OTHER, Traffic};
use super::{flag, is_system_group};
use crate::Broker;
use crate::filter::SQL92;
use crate::pop::Lane;
use crate::process::unix_ms;

/// Entries of one queue, and of all, that a scrape looks at to learn how many messages a group
/// wants that wants but some tags. What lies beyond is taken as like what was seen, and beyond
/// all every message counts.
const SCAN_OF_QUEUE_MAX: usize = 20_000;
const SCAN_MAX: usize = 200_000;

/// Name, help, and whether it is a time: of those `other` shows the longest, not the sum.
const FAMILIES: [(&str, &str, bool); 5] = [
    (
        "rocketmq_consumer_lag_messages",
        "Messages that the group has not consumed",
        false,
    ),
    (
        "rocketmq_consumer_lag_latency_milliseconds",
        "Age of the oldest message that the group has not consumed",
        true,
    ),
    (
        "rocketmq_consumer_inflight_messages",
        "Messages that the group has pulled and not consumed",
        false,
    ),
    (
        "rocketmq_consumer_queueing_latency_milliseconds",
        "Age of the oldest message that the group has not pulled",
        true,
    ),
    (
        "rocketmq_consumer_ready_messages",
        "Messages that the group has not pulled",
        false,
    ),
];

type Values = [i64; FAMILIES.len()];

pub(super) fn write(broker: &Broker, traffic: &Traffic, out: &mut String) {
    let rows = rows(broker, traffic);
    for (index, (name, help, _)) in FAMILIES.into_iter().enumerate() {
        family(out, name, "gauge", help);
        for (labels, values) in &rows {
            sample(out, name, labels, values.get(index).copied().unwrap_or(0));
        }
    }
}

fn rows(broker: &Broker, traffic: &Traffic) -> Vec<(String, Values)> {
    let series_max = broker.config.limits.metric_series_max;
    let (now_ms, mut scan_left) = (unix_ms(), SCAN_MAX);
    let mut rows = Vec::new();
    let mut others: Option<Values> = None;
    let groups = broker.clients().subscriptions();
    for (group, subscriptions) in &groups {
        if broker.tables().group(group).is_none() {
            continue;
        }
        for subscription in subscriptions {
            let topic = subscription.topic.as_str();
            let Some(config) = broker.tables().topic(topic) else {
                continue;
            };
            if retry_group(topic).is_some() || !(config.readable() || config.writable()) {
                continue;
            }
            let mut behind = Behind::default();
            for queue in 0..config.write_queue_nums {
                behind.add(broker, group, subscription, queue, &mut scan_left);
            }
            let values = behind.values(now_ms);
            if rows.len() < series_max && (topic, group.as_str()) != (OTHER, OTHER) {
                rows.push((labels(traffic, topic, group), values));
            } else {
                let others = others.get_or_insert_default();
                for ((sum, value), (_, _, time)) in others.iter_mut().zip(values).zip(FAMILIES) {
                    *sum = if time { value.max(*sum) } else { *sum + value };
                }
            }
        }
    }
    rows.extend(others.map(|values| (labels(traffic, OTHER, OTHER), values)));
    rows
}

fn labels(traffic: &Traffic, topic: &str, group: &str) -> String {
    let system = flag(is_system(topic) || is_system_group(group));
    traffic.labels(&[
        ("consumer_group", group),
        ("topic", topic),
        ("is_retry", "false"),
        ("is_system", system),
    ])
}

#[derive(Debug, Default)]
struct Behind {
    lag: i64,
    inflight: i64,
    ready: i64,
    unconsumed_ms: Option<i64>,
    unpulled_ms: Option<i64>,
}

impl Behind {
    fn add(
        &mut self,
        broker: &Broker,
        group: &str,
        subscription: &SubscriptionData,
        queue: i32,
        scan_left: &mut usize,
    ) {
        let topic = &subscription.topic;
        let Range { max, .. } = broker.range(topic, queue);
        let consumed = broker.group_offset(topic, group, queue);
        let pulled = broker.coordination().pulled.get(topic, group, queue);
        let mut count =
            |from: i64, to: i64| count(broker, subscription, queue, from..to, scan_left);
        let unpulled = pulled.unwrap_or(0);
        self.lag += count(consumed.unwrap_or(max), max);
        self.inflight += count(consumed.unwrap_or(unpulled), unpulled);
        let lane = Lane {
            topic: topic.clone(),
            group: group.to_owned(),
            queue,
        };
        self.inflight += broker.tables().flights.count(&lane) as i64;
        self.ready += count(pulled.unwrap_or(max), max);
        let oldest = |known: &mut Option<i64>, offset: i64| {
            // A message that can't be read has no age; who reads it is told.
            let stored = (offset < max).then(|| broker.store.store_time(topic, queue, offset));
            if let Some(Ok(Some(ms))) = stored {
                *known = Some(known.map_or(ms, |known| known.min(ms)));
            }
        };
        oldest(&mut self.unconsumed_ms, consumed.unwrap_or(max));
        oldest(&mut self.unpulled_ms, unpulled);
    }

    fn values(&self, now_ms: i64) -> Values {
        let age = |since: Option<i64>| since.map_or(0, |ms| (now_ms - ms).max(0));
        [
            self.lag,
            age(self.unconsumed_ms),
            self.inflight,
            age(self.unpulled_ms),
            self.ready,
        ]
    }
}

/// How many messages of these offsets a subscription wants.
fn count(
    broker: &Broker,
    subscription: &SubscriptionData,
    queue: i32,
    offsets: std::ops::Range<i64>,
    scan_left: &mut usize,
) -> i64 {
    let all = (offsets.end - offsets.start).max(0);
    // As Java does, which asks only what stands beside the log.
    let by_properties = subscription.expression_type.as_deref() == Some(SQL92);
    let every = by_properties || subscription.sub_string == ALL_TAGS;
    if all == 0 || every || *scan_left == 0 {
        return all;
    }
    let scan_max = SCAN_OF_QUEUE_MAX.min(*scan_left);
    let limits = ReadLimits {
        messages_max: 1,
        bytes_max: 1,
        scan_max: scan_max.min(usize::try_from(all).unwrap_or(scan_max)),
    };
    let (mut seen, mut wanted) = (0_usize, 0_i128);
    let mut look = |tags_code| {
        seen += 1;
        wanted += i128::from(subscription.wants(tags_code));
        false
    };
    let topic = &subscription.topic;
    let read = broker.store.read(
        topic,
        queue,
        offsets.start,
        &limits,
        &mut look,
        Wait::ForDisk,
    );
    *scan_left = scan_left.saturating_sub(seen);
    match read {
        Ok(_) if seen > 0 => (wanted * i128::from(all) / seen as i128) as i64,
        _ => all,
    }
}
