//! The broker itself: its runtime table, its configuration, its statistics, and the housekeeping
//! that an administrator may ask for (`AdminBrokerProcessor.java`).

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::body::{DataVersion, KvTable, TopicList};
use protocol::code::MQ_VERSION_NAME;
use protocol::header::{ConfigVersion, StatsOf};
use protocol::json::{to_fastjson, to_json};
use protocol::record::Record;
use protocol::topic::SYSTEM_TOPICS;
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::{Answer, failed, with_body};
use crate::Broker;
use crate::config::Flush;
use crate::process::unix_ms;

/// What `mqadmin brokerStatus` shows. Queues and pools that only Java has are told as empty:
/// dashboards and exporters read these numbers and fail when one is missing.
pub(super) fn runtime_info(broker: &Arc<Broker>, request: &Frame) -> Result<Frame, Refusal> {
    let status = broker.store.status();
    let first = broker.store.record_at(status.log_start).map_err(failed)?;
    let first_ms = first.and_then(|first| Some(Record::decode(&first).ok()?.store_ms));
    let volume = status.volume;
    let used = volume.map_or(-1.0, |v| v.used_bytes as f64 / v.total_bytes.max(1) as f64);
    let capacity = volume.map(|volume| {
        let (total, used) = (volume.total_bytes, volume.used_bytes);
        let free = human(total.saturating_sub(used));
        format!("Total : {}, Free : {free}.", human(total))
    });
    let unflushed = human(status.confirm.saturating_sub(status.flushed));
    let limits = &broker.config.limits;
    let mut table: BTreeMap<String, String> = BTreeMap::new();
    let mut put = |key: &str, value: String| table.insert(key.to_owned(), value);
    for (key, value) in broker.metrics.stats().runtime(unix_ms()) {
        put(key, value);
    }
    put("brokerActive", (!status.failed).to_string());
    put("brokerVersionDesc", MQ_VERSION_NAME.to_owned());
    put("commitLogMinOffset", status.log_start.to_string());
    put("commitLogMaxOffset", status.confirm.to_string());
    put("commitLogDiskRatio", format!("{used:?}"));
    put("consumeQueueDiskRatio", format!("{used:?}"));
    put("commitLogDirCapacity", capacity.unwrap_or_default());
    put(
        "earliestMessageTimeStamp",
        first_ms.unwrap_or(-1).to_string(),
    );
    put("remainHowManyDataToFlush", unflushed);
    put("remainTransientStoreBufferNumbs", i32::MAX.to_string());
    put(
        "sendThreadPoolQueueSize",
        status.append_queue_messages.to_string(),
    );
    put(
        "sendThreadPoolQueueCapacity",
        limits.append_queue_max.to_string(),
    );
    put(
        "pullThreadPoolQueueSize",
        broker.waiting.holds.count().to_string(),
    );
    put(
        "pullThreadPoolQueueCapacity",
        limits.held_pulls_max.to_string(),
    );
    for key in EMPTY {
        put(key, "0".to_owned());
    }
    for key in ["timerEnqueueTps", "timerDequeueTps"] {
        put(key, "0.0".to_owned());
    }
    let answer = request.answer(ResponseCode::Success);
    Ok(answer.with_body(to_fastjson(&KvTable { table })))
}

/// What there is nothing of here: the log and its index are one, and answers wait in no pool.
const EMPTY: &[&str] = &[
    "EndTransactionQueueSize",
    "EndTransactionThreadPoolQueueCapacity",
    "ackThreadPoolQueueCapacity",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueSize",
    "dispatchBehindBytes",
    "dispatchMaxBuffer",
    "getMessageEntireTimeMax",
    "litePullThreadPoolQueueCapacity",
    "litePullThreadPoolQueueHeadWaitTimeMills",
    "litePullThreadPoolQueueSize",
    "pageCacheLockTimeMills",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueCapacity",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "startAcceptSendRequestTimeStamp",
    "timerCongestNum",
    "timerOffsetBehind",
    "timerReadBehind",
];

/// `1.5 GiB`
fn human(bytes: u64) -> String {
    let exponent = bytes.checked_ilog2().unwrap_or(0) / 10;
    let unit = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(exponent as usize);
    match unit {
        None | Some(&"") => format!("{bytes} B"),
        Some(unit) => format!(
            "{:.1} {unit}B",
            bytes as f64 / 1024_f64.powi(exponent as i32)
        ),
    }
}

/// The configuration as Java's properties, as far as it means something here.
pub(super) fn config(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let config = &broker.config;
    let flush = match config.flush {
        Flush::Sync => "SYNC_FLUSH",
        Flush::Async => "ASYNC_FLUSH",
    };
    let (host, port) = config.advertise.rsplit_once(':').unwrap_or_default();
    let mut lines: BTreeMap<&str, String> = config.properties.texts().into_iter().collect();
    lines.extend([
        (
            "autoCreateTopicEnable",
            config.auto_create_topics.to_string(),
        ),
        ("brokerClusterName", config.cluster.clone()),
        ("brokerIP1", host.to_owned()),
        ("brokerId", "0".to_owned()),
        ("brokerName", config.broker.clone()),
        ("flushDiskType", flush.to_owned()),
        ("listenPort", port.to_owned()),
        (
            "mappedFileSizeCommitLog",
            broker.store.status().segment_bytes.to_string(),
        ),
        ("namesrvAddr", config.name_servers.join(";")),
    ]);
    let text = lines.iter().map(|(k, v)| format!("{k}={v}\n"));
    let text = text.collect::<Vec<_>>().concat();
    let version = String::from_utf8_lossy(&to_json(&DataVersion::default())).into_owned();
    let answer = request.answer(ResponseCode::Success);
    let answer = answer.with_header(&ConfigVersion { version });
    Ok(Some(answer.with_body(text)))
}

/// Sets properties until the next start: the file belongs to the deployment. Only those that name
/// no path, address or command, and that are looked at anew with each request; all or none.
pub(super) fn update_config(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let text = String::from_utf8_lossy(&request.body);
    let mut updates = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let (key, value) = (key.trim(), value.trim());
        let live = broker.config.properties.live(key).ok_or_else(|| {
            let remark = format!("{key} can't be changed while the broker runs");
            Refusal::new(ResponseCode::NoPermission, remark)
        })?;
        let value = live.parse(value).map_err(|reason| {
            Refusal::new(ResponseCode::InvalidParameter, format!("{key}: {reason}"))
        })?;
        updates.push((live, value));
    }
    for (live, value) in updates {
        live.set(value);
    }
    tracing::info!(properties = %text, "set until the next start");
    Ok(Some(request.answer(ResponseCode::Success)))
}

pub(super) fn stats(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let StatsOf { name, key } = StatsOf::read(&request.fields)?;
    let data = broker.metrics.stats().item(&name, &key);
    let data = data.ok_or_else(|| {
        let remark = format!("The stats <{name}> <{key}> not exist");
        Refusal::new(ResponseCode::SystemError, remark)
    })?;
    with_body(request, &data)
}

pub(super) fn system_topics(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let config = &broker.config;
    let own = [config.cluster.as_str(), config.broker.as_str()];
    let list = TopicList {
        broker_addr: None,
        topic_list: SYSTEM_TOPICS
            .iter()
            .copied()
            .chain(own)
            .map(str::to_owned)
            .collect(),
    };
    with_body(request, &list)
}

pub(super) fn all_offsets(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let offsets = broker.tables().offset_table();
    with_body(request, &offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_java_does() {
        for (bytes, words) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), words);
        }
    }
}
