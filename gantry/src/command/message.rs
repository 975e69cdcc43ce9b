//! `gantry message`

use anyhow::{Context as _, bail};
use net::client::CallError;
use protocol::body::{PERM_WRITE, TopicRouteData};
use protocol::header::{QueryMessage, SendMessage, SendMessageAnswer, ViewMessage};
use protocol::record::Record;
use protocol::{Frame, Header as _, RequestCode, ResponseCode, message_id, properties};
use rand::RngExt as _;
use serde_json::{Value, json};

use super::unix_ms;
use crate::admin::{Common, ask};
use crate::output;

/// In sys flags: the body is compressed.
const COMPRESSED: i32 = 1;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Send one message.
    Send {
        topic: String,
        body: String,
        /// Its tag, by which consumers filter.
        #[arg(long)]
        tag: Option<String>,
        /// Its keys, by which it can be found.
        #[arg(long)]
        keys: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Show one message by its id: the one a send was answered with, or the client's own.
    Get {
        topic: String,
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Find messages by a key, the newest first.
    Query {
        topic: String,
        #[arg(long)]
        key: String,
        /// Stored at this time or later, in ms since 1970.
        #[arg(long, default_value_t = 0)]
        from: i64,
        /// Stored at this time or before.
        #[arg(long, default_value_t = i64::MAX)]
        to: i64,
        /// Messages of each broker.
        #[arg(long, default_value_t = 32)]
        max: i32,
        #[command(flatten)]
        common: Common,
    },
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Send {
            topic,
            body,
            tag,
            keys,
            common,
        } => {
            let named = [(properties::TAGS, tag), (properties::KEYS, keys)];
            let mut text = Vec::new();
            for (name, value) in named {
                if let Some(value) = value {
                    properties::push(&mut text, name, &value);
                }
            }
            let text = String::from_utf8(text).context("the properties")?;
            send(topic, body, text, &common).await
        }
        Command::Get { topic, id, common } => get(topic, &id, &common).await,
        Command::Query {
            topic,
            key,
            from,
            to,
            max,
            common,
        } => {
            let header = QueryMessage {
                topic,
                key,
                messages_max: max,
                from_ms: from,
                to_ms: to,
                unique: false,
            };
            let found = query(&header, &common).await?;
            if found.is_empty() {
                bail!("no message of {} has the key {}", header.topic, header.key);
            }
            let columns = [
                "id", "broker", "queue", "offset", "storedMs", "tag", "keys", "bytes",
            ];
            output::rows(common.output, &columns, &found)
        }
    }
}

async fn send(
    topic: String,
    body: String,
    properties: String,
    common: &Common,
) -> anyhow::Result<()> {
    let route = common.route(&topic).await?;
    let writable = writable(&route);
    if writable.is_empty() {
        bail!("no broker takes messages of {topic}");
    }
    let (broker, queues) = writable[rand::rng().random_range(0..writable.len())];
    let header = SendMessage {
        producer_group: "gantry-cli".to_owned(),
        topic,
        default_topic: protocol::topic::DEFAULT_TOPIC.to_owned(),
        default_topic_queues: 4,
        queue: rand::rng().random_range(0..queues.max(1)),
        born_ms: unix_ms(),
        properties: Some(properties),
        ..SendMessage::default()
    };
    let request = Frame::request(RequestCode::SendMessageV2, &header).with_body(body);
    let answer = ask(broker, request).await?;
    let sent = SendMessageAnswer::read(&answer.fields)?;
    let sent = json!({
        "id": sent.message_id,
        "topic": header.topic,
        "queue": sent.queue,
        "offset": sent.queue_offset,
    });
    output::rows(common.output, &["id", "topic", "queue", "offset"], &[sent])
}

/// The masters that take messages, and how many queues each has.
fn writable(route: &TopicRouteData) -> Vec<(&str, i32)> {
    let queues = route.queue_datas.iter();
    queues
        .filter(|queues| queues.perm & PERM_WRITE != 0)
        .filter_map(|queues| {
            let mut brokers = route.broker_datas.iter();
            let broker = brokers.find(|broker| broker.broker_name == queues.broker_name)?;
            let master = broker.broker_addrs.get(&0)?;
            Some((master.as_str(), queues.write_queue_nums))
        })
        .collect()
}

/// By the id that names a place, or else by the key that the client gave the message.
async fn get(topic: String, id: &str, common: &Common) -> anyhow::Result<()> {
    if let Some((host, position)) = message_id::decode(id) {
        let view = ViewMessage {
            topic: Some(topic.clone()),
            position: position as i64,
        };
        let request = Frame::request(RequestCode::ViewMessageById, &view);
        // A client's own id may look like a place; nobody need answer there.
        if let Ok(answer) = ask(&host.to_string(), request).await {
            let record = Record::decode(&answer.body)?;
            return output::object(common.output, &shown(&record, &host.to_string(), true));
        }
    }
    let header = QueryMessage {
        topic,
        key: id.to_owned(),
        messages_max: 32,
        from_ms: 0,
        to_ms: i64::MAX,
        unique: true,
    };
    let found = query(&header, common).await?;
    let first = found.first();
    let first = first.with_context(|| format!("{} has no message {id}", header.topic))?;
    output::object(common.output, first)
}

async fn query(header: &QueryMessage, common: &Common) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for master in common.masters_of(&header.topic).await? {
        let request = Frame::request(RequestCode::QueryMessage, header);
        let answer = match ask(&master.address, request).await {
            Err(CallError::Refused { code, .. })
                if code == ResponseCode::QueryNotFound.number() =>
            {
                continue;
            }
            answer => answer?,
        };
        let mut rest = &answer.body[..];
        while let Some(size) = rest.first_chunk::<4>() {
            let size = u32::from_be_bytes(*size) as usize;
            let (record, behind) = rest.split_at_checked(size).context("a short answer")?;
            let record = Record::decode(record)?;
            // Java finds by a hash: others may be among them.
            let keys = record.property(properties::KEYS).unwrap_or_default();
            let unique = record.property(properties::UNIQ_KEY);
            if unique == Some(header.key.as_str()) || keys.split(' ').any(|key| key == header.key) {
                found.push(shown(&record, &master.name, header.unique));
            }
            rest = behind;
        }
    }
    Ok(found)
}

fn shown(record: &Record<'_>, broker: &str, body: bool) -> Value {
    let mut shown = json!({
        "id": message_id::encode(record.store_host, record.position),
        "clientId": record.property(properties::UNIQ_KEY),
        "broker": broker,
        "topic": record.topic,
        "queue": record.queue,
        "offset": record.queue_offset,
        "bornMs": record.born_ms,
        "storedMs": record.store_ms,
        "tag": record.property(properties::TAGS),
        "keys": record.property(properties::KEYS),
        "bytes": record.body.len(),
    });
    let readable = record.sys_flag & COMPRESSED == 0;
    if let (true, true, Ok(text)) = (body, readable, std::str::from_utf8(record.body)) {
        shown["body"] = json!(text);
    }
    shown
}
