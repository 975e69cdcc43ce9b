//! The guide to monitoring lists the series of a broker, each of them and no other.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::{Frame, RequestCode};

use super::upkeep::open;
use crate::metrics::MessageType;

#[tokio::test]
async fn the_guide_lists_every_series_with_its_type() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), "");
    let metrics = &broker.metrics;
    metrics.messages_in("T", MessageType::Normal, &[100]);
    metrics.ended("T", true, 100);
    metrics.ended("T", false, 100);
    for code in [
        RequestCode::UpdateAndCreateTopic,
        RequestCode::UpdateAndCreateSubscriptiongroup,
    ] {
        let request = Frame::request(code, &protocol::header::Empty);
        metrics.answered(&request, 0, false, Duration::ZERO);
    }
    let page = net::http::metrics(&*broker);
    let shown: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(str::to_owned)
        .collect();
    let guide = include_str!("../../../docs/guide/monitoring.md");
    let of_brokers = guide.split("### ").find(|part| part.starts_with("Broker"));
    let rows = of_brokers.expect("a section").lines();
    let listed: BTreeSet<String> = rows
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some(format!("{name} {}", rest.split_once(' ')?.0))
        })
        .collect();
    assert_eq!(shown, listed);
}

#[tokio::test]
async fn delayed_messages_and_retries_count_as_in_java() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), ", limits: {metricSeriesMax: 3}");
    let metrics = &broker.metrics;
    metrics.messages_in("T", MessageType::of(b"TAGS\x01a\x02"), &[100, 200]);
    metrics.messages_in("T", MessageType::of(b"__SHARDINGKEY\x01a\x02"), &[1]);
    metrics.messages_in(
        "SCHEDULE_TOPIC_XXXX",
        MessageType::of(b"DELAY\x012\x02"),
        &[7],
    );
    metrics.delivered("T", 5);
    metrics.messages_in("%RETRY%g", MessageType::Normal, &[1]);
    metrics.sent_back("SCHEDULE_TOPIC_XXXX", 1);
    metrics.messages_out("%RETRY%g", "g", 1, 1);
    metrics.messages_out("T", "CID_RMQ_SYS_g", 1, 1);
    let page = net::http::metrics(&*broker);
    let common = r#"cluster="c",node_type="broker",node_id="b""#;
    let mut shown: Vec<String> = page
        .lines()
        .filter(|line| line.starts_with("rocketmq_messages_"))
        .map(|line| line.replace(common, "").replace("rocketmq_messages_", ""))
        .collect();
    shown.sort();
    let of = |topic, kind, system, count| {
        format!(
            r#"in_total{{,topic="{topic}",message_type="{kind}",is_system="{system}"}} {count}"#
        )
    };
    let to = |topic, group| {
        let labels = format!(r#"topic="{topic}",consumer_group="{group}",is_system="true""#);
        format!("out_total{{,{labels}}} 1")
    };
    assert_eq!(
        shown,
        [
            of("SCHEDULE_TOPIC_XXXX", "delay", true, 1),
            of("T", "fifo", false, 1),
            of("T", "normal", false, 2),
            // The limit is three.
            of("other", "delay", false, 1),
            to("SCHEDULE_TOPIC_XXXX", "SCHEDULE_CONSUMER"),
            to("T", "CID_RMQ_SYS_g"),
        ]
    );
}
