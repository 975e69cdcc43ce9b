//! `gantry message`

use std::io::Write as _;

use anyhow::{Context as _, bail};
use net::Connection;
use protocol::header::{SendMessage, SendMessageAnswer};
use protocol::{Frame, Header as _, RequestCode, properties};
use rand::RngExt as _;

use super::{CALL_MAX, route, unix_ms};

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
        /// `host:port` of a name server.
        #[arg(long, env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
        name_server: String,
    },
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Send {
        topic,
        body,
        tag,
        keys,
        name_server,
    } = command;
    let route = route(&name_server, &topic).await?;
    let writable: Vec<(&str, i32)> = route
        .queue_datas
        .iter()
        .filter(|queues| queues.perm & protocol::body::PERM_WRITE != 0)
        .filter_map(|queues| {
            let broker = route
                .broker_datas
                .iter()
                .find(|b| b.broker_name == queues.broker_name)?;
            Some((
                broker.broker_addrs.get(&0)?.as_str(),
                queues.write_queue_nums,
            ))
        })
        .collect();
    if writable.is_empty() {
        bail!("no broker takes messages of {topic}");
    }
    let (broker, queues) = writable[rand::rng().random_range(0..writable.len())];
    let mut text = Vec::new();
    for (name, value) in [(properties::TAGS, &tag), (properties::KEYS, &keys)] {
        if let Some(value) = value {
            properties::push(&mut text, name, value);
        }
    }
    let header = SendMessage {
        producer_group: "gantry-cli".to_owned(),
        topic: topic.clone(),
        default_topic: protocol::topic::DEFAULT_TOPIC.to_owned(),
        default_topic_queues: 4,
        queue: rand::rng().random_range(0..queues.max(1)),
        born_ms: unix_ms(),
        properties: Some(String::from_utf8(text).context("the properties")?),
        ..SendMessage::default()
    };
    let request = Frame::request(RequestCode::SendMessageV2, &header).with_body(body);
    let mut connection = Connection::open(broker, CALL_MAX).await?;
    let answer = connection.ask(request, CALL_MAX).await?;
    let sent = SendMessageAnswer::read(&answer.fields)?;
    writeln!(
        std::io::stdout(),
        "sent {} to {topic}, queue {}, offset {}",
        sent.message_id,
        sent.queue,
        sent.queue_offset
    )?;
    Ok(())
}
