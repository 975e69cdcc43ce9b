//! Limits: the largest message that is legal passes in both header encodings, the smallest one
//! that is not is refused with Java's code, and a connection can't take more than its share.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Against, Row};
use crate::lab::{Addresses, Lab, Target};
use crate::raw::{self, Connection, Received};

pub fn rows() -> Vec<Row> {
    vec![
        (
            "the_largest_message_passes_in_both_encodings",
            Against::Both,
            |lab, target| Box::pin(largest(lab, target)),
        ),
        (
            "a_larger_message_is_refused",
            Against::Both,
            |lab, target| Box::pin(larger(lab, target)),
        ),
        ("connections_are_limited", Against::Gantry, |lab, _| {
            Box::pin(connections(lab))
        }),
        ("idle_connections_are_closed", Against::Gantry, |lab, _| {
            Box::pin(idle(lab))
        }),
    ]
}

const SEND_MESSAGE_V2: i16 = 310;
const PULL_MESSAGE: i16 = 11;
const MESSAGE_ILLEGAL: i64 = 13;
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a client may fill of 32,767 bytes: the broker's own properties count too. Java 5.5.0
/// takes 32,716 with the cluster's name used here (measured by `Capture.java`).
const PROPERTIES_BYTES_MAX: usize = 32_600;

async fn largest(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let name = "filler\u{1}";
    let properties = format!("{name}{}", "x".repeat(PROPERTIES_BYTES_MAX - name.len()));
    let body = vec![b'b'; BODY_BYTES_MAX];
    for binary in [false, true] {
        let topic = format!("largest-{binary}");
        let answer = send(&site, binary, &topic, &properties, &body).await?;
        ensure!(
            answer.code == 0,
            "binary {binary}: {} {}",
            answer.code,
            answer.remark
        );
        ensure!(
            target == Target::Java || answer.binary == binary,
            "asked with binary {binary}, answered with binary {}",
            answer.binary
        );
        ensure!(
            answer.version == 513,
            "the answer's version is {}",
            answer.version
        );
        let queue = answer.field("queueId").unwrap_or_default().to_owned();
        let pulled = pull(&site, binary, &topic, &queue).await?;
        ensure!(
            pulled.code == 0,
            "binary {binary}: pull {} {}",
            pulled.code,
            pulled.remark
        );
        let filled = pulled.body.split(|b| *b != b'x').map(<[u8]>::len).max();
        ensure!(
            pulled.body.len() > BODY_BYTES_MAX + PROPERTIES_BYTES_MAX
                && filled == Some(PROPERTIES_BYTES_MAX - name.len()),
            "binary {binary}: a record of {} bytes",
            pulled.body.len()
        );
    }
    Ok(())
}

async fn larger(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = lab.shared(target).await?;
    let long = format!("filler\u{1}{}", "x".repeat(32_767));
    let body = vec![b'b'; BODY_BYTES_MAX + 1];
    for binary in [false, true] {
        for (what, properties, body) in [("body", "", body.as_slice()), ("properties", &long, b"b")]
        {
            let answer = send(&site, binary, "larger", properties, body).await?;
            ensure!(
                answer.code == MESSAGE_ILLEGAL,
                "{what}, binary {binary}: {} {}",
                answer.code,
                answer.remark
            );
        }
    }
    Ok(())
}

/// A message in the first queue, in one of the two encodings.
pub async fn send(
    site: &Addresses,
    binary: bool,
    topic: &str,
    properties: &str,
    body: &[u8],
) -> anyhow::Result<raw::Answer> {
    let fields = [
        ("a", "limits"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", properties),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    let request = encoded(binary, SEND_MESSAGE_V2, &fields, body);
    Connection::open(site.broker).await?.call(&request).await
}

async fn pull(
    site: &Addresses,
    binary: bool,
    topic: &str,
    queue: &str,
) -> anyhow::Result<raw::Answer> {
    let fields = [
        ("consumerGroup", "limits"),
        ("topic", topic),
        ("queueId", queue),
        ("queueOffset", "0"),
        ("maxMsgNums", "1"),
        ("sysFlag", "6"), // suspend, subscription in the request
        ("commitOffset", "0"),
        // Java's index follows its log; a pull at once after the send may come before it.
        ("suspendTimeoutMillis", "5000"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ];
    let request = encoded(binary, PULL_MESSAGE, &fields, b"");
    Connection::open(site.broker).await?.call(&request).await
}

fn encoded(binary: bool, code: i16, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    if binary {
        raw::binary_request(code, 7, fields, body)
    } else {
        raw::json_request(i32::from(code), 7, fields, body)
    }
}

/// A broker of its own with small limits.
const SMALL_LIMITS: &str = "limits:
  connectionsMax: 64
  connectionsPerAddressMax: 8
  idleSecondsMax: 2
  frameSecondsMax: 1
";

async fn connections(lab: &mut Lab) -> anyhow::Result<()> {
    const PER_ADDRESS_MAX: usize = 8;
    let site = small(lab).await?;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..PER_ADDRESS_MAX + 4 {
        let mut connection = Connection::open(site).await?;
        match connection.call(&topic_request()).await {
            Ok(_) => open.push(connection),
            Err(_) => refused += 1,
        }
    }
    ensure!(
        open.len() <= PER_ADDRESS_MAX && refused >= 4,
        "{} connections of one address served, {refused} refused",
        open.len()
    );
    // Those that are open go on being served, and a place that is left can be taken.
    open.pop();
    for connection in &mut open {
        connection.call(&topic_request()).await?;
    }
    crate::runner::until(
        "a place is free again",
        Duration::from_secs(2),
        async || {
            Connection::open(site).await?.call(&topic_request()).await?;
            Ok(())
        },
    )
    .await
}

async fn idle(lab: &mut Lab) -> anyhow::Result<()> {
    let site = small(lab).await?;
    // Nothing at all, and half a frame: each has its own limit, 2 s and 1 s.
    let rows: [(&str, &[u8], f32, f32); 2] = [
        ("no byte", b"", 1.5, 6.0),
        ("half a frame", &[0, 0, 1, 0, 0], 0.7, 4.0),
    ];
    for (what, bytes, least, most) in rows {
        let mut connection = Connection::open(site).await?;
        connection.write(bytes).await;
        let started = Instant::now();
        let ended = connection.receive(Duration::from_secs(8)).await?;
        let seconds = started.elapsed().as_secs_f32();
        ensure!(matches!(ended, Received::Closed), "{what}: {ended:?}");
        ensure!(
            (least..most).contains(&seconds),
            "{what}: closed after {seconds} s"
        );
    }
    Ok(())
}

/// The remoting port of a broker with [`SMALL_LIMITS`], which stays up until the lab ends.
async fn small(lab: &mut Lab) -> anyhow::Result<std::net::SocketAddr> {
    let mut plan = lab.plan("limits", &[])?;
    SMALL_LIMITS.clone_into(&mut plan.extra_yaml);
    let broker = lab.broker(Target::Gantry, &plan).await?;
    lab.keep(broker);
    Ok(plan.remoting())
}

/// Any request that is answered.
fn topic_request() -> Vec<u8> {
    const GET_MAX_OFFSET: i32 = 30;
    raw::json_request(
        GET_MAX_OFFSET,
        3,
        &[("topic", "TBW102"), ("queueId", "0")],
        b"",
    )
}
