//! Requests that the load generator does not make: topics by the thousand, pulls that wait, the
//! first message after a start.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::raw::{self, Connection, Received};

const UPDATE_AND_CREATE_TOPIC_LIST: i32 = 18;
const PULL_MESSAGE: i32 = 11;
const SEND_MESSAGE: i32 = 10;
const TOPICS_A_CALL: usize = 500;
const CONNECTS_AT_ONCE: usize = 64;
const STEP: Duration = Duration::from_millis(1);

/// Creates `topic-0` and so on, of this many queues each.
pub async fn topics(broker: SocketAddr, count: usize, queues: u32) -> anyhow::Result<()> {
    let mut connection = Connection::open(broker).await?;
    let names: Vec<usize> = (0..count).collect();
    for names in names.chunks(TOPICS_A_CALL) {
        let topic = |number: &usize| {
            json!({
                "topicName": format!("topic-{number}"), "perm": 6, "order": false,
                "readQueueNums": queues, "writeQueueNums": queues,
                "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "attributes": {},
            })
        };
        let topics: Vec<_> = names.iter().map(topic).collect();
        let body = json!({ "topicConfigList": topics }).to_string();
        let code = UPDATE_AND_CREATE_TOPIC_LIST;
        let request = raw::json_request(code, 1, &[], body.as_bytes());
        let answer = connection.call(&request).await?;
        ensure!(
            answer.code == 0,
            "topics: {} {}",
            answer.code,
            answer.remark
        );
    }
    Ok(())
}

/// Opens connections that say nothing.
pub async fn connections(broker: SocketAddr, count: usize) -> anyhow::Result<Vec<Connection>> {
    let opened = (0..count).map(|_| Connection::open(broker));
    let opened = stream::iter(opened).buffer_unordered(CONNECTS_AT_ONCE);
    opened.try_collect().await
}

/// Consumers that wait for messages which nobody sends: consumer n at topic n, over and over.
pub async fn waiting(broker: SocketAddr, count: usize) -> anyhow::Result<JoinSet<anyhow::Error>> {
    let mut consumers = JoinSet::new();
    for (number, connection) in connections(broker, count).await?.into_iter().enumerate() {
        consumers.spawn(async move {
            match wait(connection, number).await {
                Ok(never) => match never {},
                Err(error) => error,
            }
        });
    }
    Ok(consumers)
}

async fn wait(
    mut connection: Connection,
    number: usize,
) -> anyhow::Result<std::convert::Infallible> {
    const HELD_MS: u64 = 15_000;
    const PULL_NOT_FOUND: i64 = 19;
    let topic = format!("topic-{number}");
    let held = HELD_MS.to_string();
    let fields = [
        ("consumerGroup", "waiting"),
        ("topic", topic.as_str()),
        ("queueId", "0"),
        ("queueOffset", "0"),
        ("maxMsgNums", "32"),
        // Held when there is nothing; the subscription is in the header.
        ("sysFlag", "6"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", held.as_str()),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ];
    let request = raw::json_request(PULL_MESSAGE, 1, &fields, b"");
    loop {
        connection.write(&request).await;
        match connection
            .receive(Duration::from_millis(4 * HELD_MS))
            .await?
        {
            Received::Answer(answer) if answer.code == PULL_NOT_FOUND => {}
            other => anyhow::bail!("a pull that waits has got {other:?}"),
        }
    }
}

/// A message to each of the first topics, over one connection.
pub async fn send_to_each(broker: SocketAddr, count: usize) -> anyhow::Result<()> {
    const IN_FLIGHT: usize = 500;
    let (mut answers, mut writer) = Connection::open(broker).await?.split();
    let numbers: Vec<usize> = (0..count).collect();
    for numbers in numbers.chunks(IN_FLIGHT) {
        let requests = numbers
            .iter()
            .map(|number| message(&format!("topic-{number}")));
        writer
            .write_all(&requests.collect::<Vec<_>>().concat())
            .await?;
        for _ in numbers {
            let answer = answers.next().await?.context("the connection is closed")?;
            ensure!(answer.code == 0, "{} {}", answer.code, answer.remark);
        }
    }
    Ok(())
}

fn message(topic: &str) -> Vec<u8> {
    let fields = [
        ("producerGroup", "first"),
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "0"),
        ("sysFlag", "0"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "0"),
        ("properties", ""),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
        ("batch", "false"),
    ];
    raw::json_request(SEND_MESSAGE, 1, &fields, &[b'x'; 1024])
}

/// Tries to send from now on; how long it took until a message was acknowledged.
pub async fn first_send(broker: SocketAddr, within: Duration) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let request = message("topic-0");
    loop {
        if let Ok(mut connection) = Connection::open(broker).await
            && let Ok(answer) = connection.call(&request).await
            && answer.code == 0
        {
            return Ok(start.elapsed());
        }
        ensure!(
            start.elapsed() < within,
            "no message was taken in {within:?}"
        );
        tokio::time::sleep(STEP).await;
    }
}
