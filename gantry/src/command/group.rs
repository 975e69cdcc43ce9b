//! `gantry group`

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use protocol::body::{ConsumeStats, ConsumerConnection, ResetOffsets, SubscriptionGroupTable};
use protocol::header::{ConsumeStatsOf, ConsumerGroupOf, Empty, ResetOffset};
use protocol::topic::retry_topic;
use protocol::{RequestCode, ResponseCode};
use serde_json::json;

use super::unix_ms;
use crate::admin::{Common, Master, fetch};
use crate::output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Every consumer group and who of it is connected.
    List {
        /// Only of this cluster.
        #[arg(long)]
        cluster: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// How far a group is behind, queue by queue.
    Lag {
        group: String,
        /// Only of this topic.
        #[arg(long)]
        topic: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Send a group to another place of a topic.
    Reset {
        group: String,
        #[arg(long)]
        topic: String,
        /// `earliest`, `latest`, or a time in ms since 1970.
        #[arg(long)]
        to: To,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum To {
    Earliest,
    Latest,
    Time(i64),
}

impl std::str::FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            other => match other.parse() {
                Ok(ms) if ms >= 0 => Ok(Self::Time(ms)),
                _ => Err("neither `earliest`, `latest` nor a time in ms".to_owned()),
            },
        }
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { cluster, common } => list(cluster.as_deref(), &common).await,
        Command::Lag {
            group,
            topic,
            common,
        } => lag(group, topic, &common).await,
        Command::Reset {
            group,
            topic,
            to,
            common,
        } => {
            let timestamp_ms = match to {
                To::Earliest => 0,
                To::Latest => -1,
                To::Time(ms) => ms.min(unix_ms()),
            };
            let header = ResetOffset {
                group,
                topic,
                queue: -1,
                offset: None,
                timestamp_ms,
                force: true,
            };
            reset(&header, &common).await
        }
    }
}

async fn list(cluster: Option<&str>, common: &Common) -> anyhow::Result<()> {
    let mut groups: BTreeMap<String, (usize, BTreeMap<String, ConsumerConnection>)> =
        BTreeMap::new();
    for master in common.masters(cluster).await? {
        let code = RequestCode::GetAllSubscriptiongroupConfig;
        let table: Option<SubscriptionGroupTable> =
            fetch(&master.address, code, &Empty, &[]).await?;
        for name in table
            .unwrap_or_default()
            .subscription_group_table
            .into_keys()
        {
            let of = ConsumerGroupOf {
                group: name.clone(),
            };
            let code = RequestCode::GetConsumerConnectionList;
            let none = [ResponseCode::ConsumerNotOnline.number()];
            let online = fetch(&master.address, code, &of, &none).await?;
            let (brokers, connections) = groups.entry(name).or_default();
            *brokers += 1;
            connections.extend(online.map(|online| (master.name.clone(), online)));
        }
    }
    let rows: Vec<_> = groups
        .into_iter()
        .map(|(group, (brokers, connections))| {
            // A member is connected to every broker; the fullest list is the group.
            let fullest = connections.values().max_by_key(|c| c.connection_set.len());
            json!({
                "group": group,
                "brokers": brokers,
                "members": fullest.map_or(0, |online| online.connection_set.len()),
                "model": fullest.map(|online| online.message_model),
                "type": fullest.map(|online| online.consume_type),
                "connections": fullest.map(|online| &online.connection_set),
            })
        })
        .collect();
    let columns = ["group", "brokers", "members", "model", "type"];
    output::rows(common.output, &columns, &rows)
}

/// The masters that know a group: those that have its retry topic, or queues of the topic.
async fn masters(common: &Common, group: &str, topic: Option<&str>) -> anyhow::Result<Vec<Master>> {
    if let Ok(masters) = common.masters_of(&retry_topic(group)).await {
        return Ok(masters);
    }
    match topic {
        Some(topic) => common.masters_of(topic).await,
        None => common.masters(None).await,
    }
}

async fn lag(group: String, topic: Option<String>, common: &Common) -> anyhow::Result<()> {
    let masters = masters(common, &group, topic.as_deref()).await?;
    let of = ConsumeStatsOf {
        group,
        topic,
        topics: None,
    };
    let mut rows = Vec::new();
    for master in masters {
        let code = RequestCode::GetConsumeStats;
        let stats: Option<ConsumeStats> = fetch(&master.address, code, &of, &[]).await?;
        for (queue, offset) in stats.unwrap_or_default().offset_table {
            let last = Some(offset.last_timestamp).filter(|ms| *ms > 0);
            rows.push(json!({
                "topic": queue.topic,
                "broker": queue.broker_name,
                "queue": queue.queue_id,
                "end": offset.broker_offset,
                "consumed": offset.consumer_offset,
                "lag": offset.broker_offset - offset.consumer_offset,
                "lastConsumedMs": last,
            }));
        }
    }
    if rows.is_empty() {
        bail!("the group {} has consumed nothing", of.group);
    }
    let columns = ["topic", "broker", "queue", "end", "consumed", "lag"];
    output::rows(common.output, &columns, &rows)
}

async fn reset(header: &ResetOffset, common: &Common) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for master in common.masters_of(&header.topic).await? {
        let code = RequestCode::InvokeBrokerToResetOffset;
        let reset: Option<ResetOffsets> = fetch(&master.address, code, header, &[]).await?;
        for (queue, offset) in reset.context("no offsets")?.offset_table {
            rows.push(json!({
                "topic": queue.topic,
                "broker": queue.broker_name,
                "queue": queue.queue_id,
                "offset": offset,
            }));
        }
    }
    output::rows(
        common.output,
        &["topic", "broker", "queue", "offset"],
        &rows,
    )
}
