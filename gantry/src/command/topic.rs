//! `gantry topic`

use std::collections::BTreeMap;

use anyhow::bail;
use protocol::body::{TopicConfig, TopicConfigTable, TopicStatsTable};
use protocol::header::{CreateTopic, Empty, TopicOf};
use protocol::topic::{DEFAULT_TOPIC, DLQ_PREFIX, RETRY_PREFIX, is_system};
use protocol::{Frame, RequestCode, ResponseCode};
use serde_json::json;

use crate::admin::{Common, ask, fetch};
use crate::output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Every topic with its queues, over all brokers.
    List {
        /// Those of the brokers themselves, of retries and of dead letters too.
        #[arg(long)]
        all: bool,
        /// Only of this cluster.
        #[arg(long)]
        cluster: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Where a topic's queues are, and how many messages they hold.
    Get {
        topic: String,
        #[command(flatten)]
        common: Common,
    },
    /// Create a topic on every master of a cluster, or change it.
    Create {
        topic: String,
        /// Queues on each broker.
        #[arg(long, default_value_t = 8)]
        queues: i32,
        /// Queues to read from, where they differ: lower them after --queues.
        #[arg(long)]
        read_queues: Option<i32>,
        /// What clients may do: 2 write, 4 read, 6 both.
        #[arg(long, default_value_t = 6)]
        perm: i32,
        /// `+key=value` sets an attribute, `-key` removes it.
        #[arg(long = "attribute", allow_hyphen_values = true)]
        attributes: Vec<String>,
        /// May be left out where there is only one.
        #[arg(long)]
        cluster: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a topic on every broker and every name server given.
    Delete {
        topic: String,
        /// Only on this cluster.
        #[arg(long)]
        cluster: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List {
            all,
            cluster,
            common,
        } => list(all, cluster.as_deref(), &common).await,
        Command::Get { topic, common } => get(&topic, &common).await,
        Command::Create {
            topic,
            queues,
            read_queues,
            perm,
            attributes,
            cluster,
            common,
        } => {
            let header = CreateTopic {
                topic,
                default_topic: DEFAULT_TOPIC.to_owned(),
                read_queues: read_queues.unwrap_or(queues),
                write_queues: queues,
                perm,
                filter_type: "SINGLE_TAG".to_owned(),
                sys_flag: Some(0),
                order: false,
                attributes: Some(attributes.join(",")),
            };
            create(&header, cluster.as_deref(), &common).await
        }
        Command::Delete {
            topic,
            cluster,
            common,
        } => delete(topic, cluster, &common).await,
    }
}

async fn list(all: bool, cluster: Option<&str>, common: &Common) -> anyhow::Result<()> {
    let mut topics: BTreeMap<String, (usize, TopicConfig)> = BTreeMap::new();
    for master in common.masters(cluster).await? {
        let code = RequestCode::GetAllTopicConfig;
        let table: Option<TopicConfigTable> = fetch(&master.address, code, &Empty, &[]).await?;
        for (name, config) in table.unwrap_or_default().topic_config_table {
            let own = name == master.cluster || name == master.name;
            let internal = name.starts_with(RETRY_PREFIX) || name.starts_with(DLQ_PREFIX);
            if !all && (own || internal || is_system(&name)) {
                continue;
            }
            let (brokers, sum) = topics.entry(name).or_insert_with(|| {
                let none = TopicConfig {
                    read_queue_nums: 0,
                    write_queue_nums: 0,
                    ..config.clone()
                };
                (0, none)
            });
            *brokers += 1;
            sum.read_queue_nums += config.read_queue_nums;
            sum.write_queue_nums += config.write_queue_nums;
        }
    }
    let rows: Vec<_> = topics
        .into_iter()
        .map(|(topic, (brokers, config))| {
            json!({
                "topic": topic,
                "brokers": brokers,
                "readQueues": config.read_queue_nums,
                "writeQueues": config.write_queue_nums,
                "perm": config.perm,
                "attributes": config.attributes,
                "type": config.attributes.get("message.type"),
            })
        })
        .collect();
    let columns = [
        "topic",
        "brokers",
        "readQueues",
        "writeQueues",
        "perm",
        "type",
    ];
    output::rows(common.output, &columns, &rows)
}

async fn get(topic: &str, common: &Common) -> anyhow::Result<()> {
    let route = common.route(topic).await?;
    let mut rows = Vec::new();
    for queues in &route.queue_datas {
        let broker = route
            .broker_datas
            .iter()
            .find(|broker| broker.broker_name == queues.broker_name);
        let master = broker.and_then(|broker| broker.broker_addrs.get(&0));
        let mut messages = None;
        if let Some(master) = master {
            let of = TopicOf {
                topic: topic.to_owned(),
                cluster: None,
            };
            let code = RequestCode::GetTopicStatsInfo;
            let none = [ResponseCode::TopicNotExist.number()];
            let stats: Option<TopicStatsTable> = fetch(master, code, &of, &none).await?;
            messages = stats.map(|stats| {
                let queues = stats.offset_table.values();
                queues
                    .map(|queue| queue.max_offset - queue.min_offset)
                    .sum::<i64>()
            });
        }
        rows.push(json!({
            "broker": queues.broker_name,
            "master": master,
            "read": queues.read_queue_nums,
            "write": queues.write_queue_nums,
            "perm": queues.perm,
            "messages": messages,
        }));
    }
    let columns = ["broker", "master", "read", "write", "perm", "messages"];
    output::rows(common.output, &columns, &rows)
}

async fn create(
    header: &CreateTopic,
    cluster: Option<&str>,
    common: &Common,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for master in common.one_cluster(cluster).await? {
        let request = Frame::request(RequestCode::UpdateAndCreateTopic, header);
        ask(&master.address, request).await?;
        rows.push(json!({"topic": header.topic, "broker": master.name, "set": true}));
    }
    output::rows(common.output, &["topic", "broker", "set"], &rows)
}

async fn delete(topic: String, cluster: Option<String>, common: &Common) -> anyhow::Result<()> {
    let masters = common.masters_of(&topic).await?;
    let of = TopicOf { topic, cluster };
    let wanted = |name: &String| of.cluster.as_ref().is_none_or(|cluster| cluster == name);
    let mut rows = Vec::new();
    for master in masters.into_iter().filter(|master| wanted(&master.cluster)) {
        let request = Frame::request(RequestCode::DeleteTopicInBroker, &of);
        ask(&master.address, request).await?;
        rows.push(json!({"topic": of.topic, "broker": master.name, "deleted": true}));
    }
    if rows.is_empty() {
        bail!("{} is on no broker of the cluster", of.topic);
    }
    for name_server in common.name_servers() {
        ask(
            name_server,
            Frame::request(RequestCode::DeleteTopicInNamesrv, &of),
        )
        .await?;
    }
    output::rows(common.output, &["topic", "broker", "deleted"], &rows)
}
