//! Who is connected: producers and consumers by language and version.

use std::collections::BTreeMap;

use super::text::{family, sample};
use super::traffic::{OTHER, Traffic};
use super::{flag, is_system_group};
use crate::Broker;

pub(super) fn write(broker: &Broker, traffic: &Traffic, out: &mut String) {
    let (producers, consumers) = {
        let clients = broker.clients();
        (clients.producer_kinds(), clients.consumer_kinds())
    };
    let name = "rocketmq_producer_connections";
    family(out, name, "gauge", "Producers that are connected");
    for ((language, version), count) in producers {
        let labels = traffic.labels(&[
            ("language", &language.to_lowercase()),
            ("version", &version_name(version)),
            ("protocol_type", "remoting"),
        ]);
        sample(out, name, &labels, count);
    }
    let series_max = broker.config.limits.metric_series_max;
    let mut by_kind = BTreeMap::new();
    for ((mut group, language, version, mode), count) in consumers {
        let kind = (group.clone(), language, version, mode);
        if by_kind.len() >= series_max && !by_kind.contains_key(&kind) {
            OTHER.clone_into(&mut group);
        }
        *by_kind.entry((group, language, version, mode)).or_default() += count;
    }
    let name = "rocketmq_consumer_connections";
    family(out, name, "gauge", "Consumers that are connected");
    for ((group, language, version, mode), count) in by_kind {
        let count: usize = count;
        let labels = traffic.labels(&[
            ("consumer_group", &group),
            ("language", &language.to_lowercase()),
            ("version", &version_name(version)),
            ("consume_mode", mode),
            ("protocol_type", "remoting"),
            ("is_system", flag(is_system_group(&group))),
        ]);
        sample(out, name, &labels, count);
    }
}

/// The name of a client's version (`MQVersion.java`): from 3.9.1 on, ten patches a minor release
/// and ten minors a major one, each of them as snapshot and as release.
fn version_name(version: i32) -> String {
    const V3_9_1_SNAPSHOT: i32 = 194;
    const V5_9_9: i32 = 611;
    if version < V3_9_1_SNAPSHOT {
        return "before_v3_9_1".to_owned();
    }
    let version = version.min(V5_9_9);
    let patches = 391 + (version - V3_9_1_SNAPSHOT) / 2;
    let snapshot = if version % 2 == 0 { "_snapshot" } else { "" };
    let (major, minor, patch) = (patches / 100, patches / 10 % 10, patches % 10);
    format!("v{major}_{minor}_{patch}{snapshot}")
}

#[cfg(test)]
mod tests {
    use super::version_name;

    #[test]
    fn versions_have_the_names_of_java() {
        for (number, name) in [
            (0, "before_v3_9_1"),
            (399, "v4_9_3"),
            (398, "v4_9_3_snapshot"),
            (479, "v5_3_3"),
            (513, "v5_5_0"),
            (611, "v5_9_9"),
            (i32::MAX, "v5_9_9"),
        ] {
            assert_eq!(version_name(number), name, "{number}");
        }
    }
}
