//! What no client should send, and what happens then: the code or the close that answers it, and
//! whether the connection still serves afterwards.
//!
//! `testdata/bad-input.json` holds what the Java name server and broker did, renewed by
//! `e2e record-bad-input`, and beside it what Gantry does where it differs on purpose, with the
//! reason. The bytes themselves are made here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::lab::{Addresses, Lab, Target};
use crate::raw::{Connection, Received, binary_header, frame, json_request};

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// `code N`, `close`, or `silence`.
    pub answer: String,
    /// `open` when a sound request is served afterwards, else `closed`.
    pub then: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    pub java: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gantry: Option<Outcome>,
    /// Why Gantry differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// By the row's name.
pub type Table = BTreeMap<String, Recorded>;

pub fn read_table() -> anyhow::Result<Table> {
    let path = table_path();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

/// Asks Java anew; what is said of Gantry stays.
pub async fn record(lab: &mut Lab) -> anyhow::Result<()> {
    let old = read_table().unwrap_or_default();
    let site = lab.shared(Target::Java).await?;
    let mut table = Table::new();
    for row in rows() {
        let java = row.observe(&site).await?;
        let before = old.get(row.name);
        let gantry = before.and_then(|r| r.gantry.clone());
        let why = before.and_then(|r| r.why.clone());
        table.insert(row.name.to_owned(), Recorded { java, gantry, why });
    }
    let text = serde_json::to_string_pretty(&table)? + "\n";
    std::fs::write(table_path(), text)?;
    Ok(())
}

fn table_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bad-input.json")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Broker,
    NameServer,
}

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    to: To,
    bytes: Vec<u8>,
    /// Nothing follows: the sending side is closed behind the bytes.
    half_closed: bool,
}

impl Row {
    pub async fn observe(&self, site: &Addresses) -> anyhow::Result<Outcome> {
        const ANSWER_SECONDS_MAX: u64 = 2;
        let address = match self.to {
            To::Broker => site.broker,
            To::NameServer => site.name_server,
        };
        let mut connection = Connection::open(address).await?;
        connection.write(&self.bytes).await;
        if self.half_closed {
            connection.finish().await?;
        }
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        let answer = match connection.receive(limit).await? {
            Received::Answer(answer) => format!("code {}", answer.code),
            Received::Closed => "close".to_owned(),
            Received::Silence => "silence".to_owned(),
        };
        let then = if self.still_serves(&mut connection, address).await? {
            "open"
        } else {
            "closed"
        };
        Ok(Outcome {
            answer,
            then: then.to_owned(),
        })
    }

    async fn still_serves(
        &self,
        connection: &mut Connection,
        address: SocketAddr,
    ) -> anyhow::Result<bool> {
        const PROBE: i32 = 77;
        let code = if self.to == To::Broker { 30 } else { 105 };
        let fields = [("topic", "TBW102"), ("queueId", "0")];
        let probe = json_request(code, PROBE, &fields, b"");
        connection.write(&probe).await;
        let served = match connection.receive(Duration::from_secs(2)).await? {
            Received::Answer(answer) => answer.opaque == i64::from(PROBE),
            Received::Closed | Received::Silence => false,
        };
        // Whatever came of this connection, the process must be well.
        let fresh = Connection::open(address).await?.call(&probe).await;
        fresh.with_context(|| format!("{}: the process serves no more", self.name))?;
        Ok(served)
    }
}

pub fn rows() -> Vec<Row> {
    let families = [frames(), headers(), sends(), pulls(), name_server()];
    families.into_iter().flatten().collect()
}

fn row(name: &'static str, bytes: Vec<u8>) -> Row {
    Row {
        name,
        to: To::Broker,
        bytes,
        half_closed: false,
    }
}

fn word(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), rest].concat()
}

/// Lengths and encodings that are wrong before any header is read.
fn frames() -> Vec<Row> {
    let whole = json_request(30, 1, &[("topic", "TBW102"), ("queueId", "0")], b"");
    let (half, _) = whole.split_at(whole.len() / 2);
    let header = br#"{"code":30}"#;
    let over = (header.len() as u32 + 1).to_be_bytes();
    vec![
        Row {
            half_closed: true,
            ..row("frame cut in the middle", half.to_vec())
        },
        row("length 0", word(0, b"")),
        row("length 3, below the header word", word(3, &[0, 0, 0])),
        row("length negative", word(u32::MAX, &[0, 0, 0, 0])),
        row("length 2 GiB", word(i32::MAX as u32, &[0, 0, 0, 0])),
        row(
            "length one over 16 MiB",
            word(16 * 1024 * 1024 + 1, &[0, 0, 0, 0]),
        ),
        row(
            "header longer than its frame",
            word(15, &[&over[..], header].concat()),
        ),
        row("header of no bytes", frame(0, b"", b"")),
        row("encoding 2", frame(2, header, b"")),
        row(
            "an HTTP request",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
    ]
}

fn headers() -> Vec<Row> {
    let ext = [&[0, 5][..], b"topic", &[0, 0, 0, 6], b"TBW102"].concat();
    let long_name = [&[0x7f, 0xff][..], b"topic"].concat();
    let long_value = [&[0, 5][..], b"topic", &[0x7f, 0xff, 0xff, 0xff], b"TBW102"].concat();
    let binary = |bytes: u32, ext: &[u8]| frame(1, &binary_header(30, 1, bytes, ext), b"");
    let mut cut = binary_header(30, 1, 0, b"");
    cut.truncate(9);
    let response = br#"{"code":0,"flag":1,"language":"JAVA","opaque":4242,"version":513}"#;
    let oneway = br#"{"code":9999,"flag":2,"language":"JAVA","opaque":1,"version":513}"#;
    let language = br#"{"code":9999,"flag":0,"language":"COBOL","opaque":1,"version":513}"#;
    vec![
        row(
            "JSON header cut short",
            frame(0, br#"{"code":30,"opaq"#, b""),
        ),
        row("JSON header that is a list", frame(0, b"[1,2]", b"")),
        row(
            "JSON header of other bytes",
            frame(0, &[0xff, 0xfe, 0x00, 0x01], b""),
        ),
        row("binary header cut short", frame(1, &cut, b"")),
        row("binary fields longer than the header", binary(4_000, &ext)),
        row(
            "binary field name longer than the fields",
            binary(7, &long_name),
        ),
        row(
            "binary field value longer than the fields",
            binary(17, &long_value),
        ),
        row("unknown code", json_request(9_999, 1, &[], b"")),
        row(
            "unknown code, binary",
            frame(1, &binary_header(9_999, 1, 0, b""), b""),
        ),
        row("negative code", json_request(-5, 1, &[], b"")),
        row("unknown code, one way", frame(0, oneway, b"")),
        row("unknown language", frame(0, language, b"")),
        row("a response that nobody asked for", frame(0, response, b"")),
    ]
}

/// A sound send, with some fields replaced (`None`: left out).
fn send(changes: &[(&str, Option<&str>)], body: &[u8]) -> Vec<u8> {
    let sound = [
        ("a", "bad"),
        ("b", "bad-input"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", ""),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    json_request(310, 1, &changed(&sound, changes), body)
}

fn changed<'a>(
    sound: &[(&'a str, &'a str)],
    changes: &[(&'a str, Option<&'a str>)],
) -> Vec<(&'a str, &'a str)> {
    let of = |name: &str| changes.iter().find(|(changed, _)| *changed == name);
    sound
        .iter()
        .filter_map(|&(name, value)| match of(name) {
            Some(&(_, change)) => change.map(|value| (name, value)),
            None => Some((name, value)),
        })
        .collect()
}

fn sends() -> Vec<Row> {
    let long_topic = "t".repeat(128);
    let long_properties = format!("filler\u{1}{}", "p".repeat(32_768));
    let one = |name, field, value| row(name, send(&[(field, value)], b"body"));
    vec![
        one("send that is sound", "b", Some("bad-input")),
        one("send to a topic with a space", "b", Some("bad input")),
        one("send to a topic with no name", "b", Some("")),
        one("send to a topic of 128 bytes", "b", Some(&long_topic)),
        one("send to a system topic", "b", Some("SCHEDULE_TOPIC_XXXX")),
        one("send to queue 99", "e", Some("99")),
        one("send to queue -7", "e", Some("-7")),
        one("send to queue many", "e", Some("many")),
        one("send without a topic", "b", None),
        one("send without a queue", "e", None),
        one("send without a birth time", "g", None),
        one("send with too many properties", "i", Some(&long_properties)),
        row("send with an empty body", send(&[], b"")),
        row(
            "send with a body over 4 MiB",
            send(&[], &vec![b'b'; 4 * 1024 * 1024 + 1]),
        ),
    ]
}

fn pull(changes: &[(&str, Option<&str>)]) -> Vec<u8> {
    let sound = [
        ("consumerGroup", "bad"),
        ("topic", "bad-input"),
        ("queueId", "0"),
        ("queueOffset", "0"),
        ("maxMsgNums", "32"),
        ("sysFlag", "4"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "0"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ];
    json_request(11, 1, &changed(&sound, changes), b"")
}

fn pulls() -> Vec<Row> {
    let one = |name, field, value| row(name, pull(&[(field, value)]));
    vec![
        one("pull that is sound", "topic", Some("bad-input")),
        one("pull from an unknown topic", "topic", Some("never-made")),
        one("pull from queue 99", "queueId", Some("99")),
        one("pull from queue -7", "queueId", Some("-7")),
        one("pull at offset -5", "queueOffset", Some("-5")),
        one("pull at offset many", "queueOffset", Some("many")),
        one("pull without an offset", "queueOffset", None),
        one("pull of no messages", "maxMsgNums", Some("0")),
        one("pull of -1 messages", "maxMsgNums", Some("-1")),
        one(
            "pull with an unknown expression type",
            "expressionType",
            Some("REGEX"),
        ),
        row("max offset of an unknown topic", offset(30, "never-made")),
        row("min offset of an unknown topic", offset(31, "never-made")),
        row(
            "heartbeat with a broken body",
            json_request(34, 1, &[], b"{\"clientID\":"),
        ),
        row("heartbeat with no body", json_request(34, 1, &[], b"")),
        row("consumer list of an unknown group", {
            json_request(38, 1, &[("consumerGroup", "never-made")], b"")
        }),
    ]
}

fn offset(code: i32, topic: &str) -> Vec<u8> {
    json_request(code, 1, &[("topic", topic), ("queueId", "0")], b"")
}

fn name_server() -> Vec<Row> {
    let at = |name, bytes| Row {
        to: To::NameServer,
        ..row(name, bytes)
    };
    let register = [
        ("brokerName", "bad"),
        ("brokerAddr", "127.0.0.1:1"),
        ("clusterName", "e2e"),
        ("haServerAddr", "127.0.0.1:2"),
        ("brokerId", "0"),
        ("bodyCrc32", "12345"),
    ];
    vec![
        at(
            "name server: unknown code",
            json_request(9_999, 1, &[], b""),
        ),
        at(
            "name server: route of an unknown topic",
            json_request(105, 1, &[("topic", "never-made")], b""),
        ),
        at(
            "name server: route without a topic",
            json_request(105, 1, &[], b""),
        ),
        at(
            "name server: registration with a wrong CRC",
            json_request(103, 1, &register, b"{}"),
        ),
        at(
            "name server: header longer than its frame",
            word(8, &[0, 0, 1, 0, 0, 0, 0, 0]),
        ),
        at(
            "name server: length negative",
            word(u32::MAX, &[0, 0, 0, 0]),
        ),
    ]
}
