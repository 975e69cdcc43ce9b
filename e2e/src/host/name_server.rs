//! What administrators ask of a name server, request by request: two brokers that are nothing but
//! their registrations, so that every answer is known to the byte.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Against, Row};
use crate::lab::{Lab, Target};
use crate::raw::{self, Answer, Connection};

pub fn rows() -> Vec<Row> {
    vec![(
        "the_name_server_answers_administrators",
        Against::Both,
        |lab, target| Box::pin(answers(lab, target)),
    )]
}

/// A request, and what its answer must be.
struct Ask {
    code: i32,
    fields: &'static [(&'static str, &'static str)],
    body: String,
    expect: Expect,
}

enum Expect {
    /// A success with this body; `""` is none.
    Body(&'static str),
    /// A success whose body has this in it.
    Within(&'static str),
    /// A success with this field.
    Field(&'static str, &'static str),
    /// Another code, and the beginning of what is said.
    Refused(i64, &'static str),
}
use Expect::{Body, Field, Refused, Within};

fn ask(
    code: i32,
    fields: &'static [(&'static str, &'static str)],
    body: impl Into<String>,
    expect: Expect,
) -> Ask {
    Ask {
        code,
        fields,
        body: body.into(),
        expect,
    }
}

async fn answers(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let server = lab.name_server(target).await?;
    // Brokers live as long as the connection on which they registered.
    let mut connection = Connection::open(server.address).await?;
    let sections = [
        ("brokers", brokers()),
        ("lists", lists()),
        ("permissions", permissions()),
        ("texts", texts()),
        ("settings", settings(target)),
        ("topics", topics()),
        ("refusals", refusals()),
    ];
    let mut wrong = Vec::new();
    for (section, asks) in sections {
        for (nth, ask) in asks.iter().enumerate() {
            let request = raw::json_request(ask.code, 7, ask.fields, ask.body.as_bytes());
            let answer = connection.call(&request).await?;
            if let Err(error) = check(&answer, &ask.expect) {
                wrong.push(format!("{section} {nth}, code {}: {error}", ask.code));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn check(answer: &Answer, expect: &Expect) -> anyhow::Result<()> {
    let body = sorted(&answer.body);
    if let Refused(code, remark) = expect {
        ensure!(
            answer.code == *code && answer.remark.starts_with(remark),
            "{} {:?}",
            answer.code,
            answer.remark
        );
        return Ok(());
    }
    ensure!(answer.code == 0, "{} {:?}", answer.code, answer.remark);
    match expect {
        Body(text) => ensure!(body == *text, "{body}"),
        Within(text) => ensure!(body.contains(text), "{body}"),
        Field(name, value) => {
            ensure!(answer.field(name) == Some(value), "{:?}", answer.fields);
        }
        Refused(..) => {}
    }
    Ok(())
}

/// Java's sets have no order: lists are compared as sorted ones.
fn sorted(body: &[u8]) -> String {
    fn sort(value: &mut Value) {
        match value {
            Value::Array(items) => {
                items.iter_mut().for_each(sort);
                items.sort_by_key(Value::to_string);
            }
            Value::Object(members) => members.values_mut().for_each(sort),
            _ => {}
        }
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) => {
            sort(&mut value);
            value.to_string()
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

const BROKER_B: &[(&str, &str)] = &[
    ("brokerName", "broker-b"),
    ("brokerAddr", "127.0.0.1:20911"),
    ("clusterName", "cb"),
    ("haServerAddr", "127.0.0.1:20912"),
    ("brokerId", "0"),
    ("enableActingMaster", "false"),
    ("compressed", "false"),
    ("bodyCrc32", "0"),
];
const BROKER_C: &[(&str, &str)] = &[
    ("brokerName", "broker-c"),
    ("brokerAddr", "127.0.0.1:30911"),
    ("clusterName", "cc"),
    ("haServerAddr", "127.0.0.1:30912"),
    ("brokerId", "0"),
    ("enableActingMaster", "false"),
    ("compressed", "false"),
    ("bodyCrc32", "0"),
];

/// Topics with their flags: 1 is a unit, 2 is subscribed to by units.
fn registration(topics: &[(&str, i32)]) -> String {
    let table: serde_json::Map<String, Value> = topics
        .iter()
        .map(|(name, flag)| {
            let topic = json!({
                "attributes": {}, "order": false, "perm": 6, "readQueueNums": 4,
                "topicFilterType": "SINGLE_TAG", "topicName": name, "topicSysFlag": flag,
                "writeQueueNums": 4,
            });
            ((*name).to_owned(), topic)
        })
        .collect();
    json!({
        "filterServerList": [],
        "topicConfigSerializeWrapper": {
            "dataVersion": {"counter": 1, "stateVersion": 0, "timestamp": 5},
            "topicConfigTable": table,
        },
    })
    .to_string()
}

fn topics_of_b() -> String {
    registration(&[("TA", 0), ("TU", 1), ("TS", 2), ("TB", 3)])
}

fn brokers() -> Vec<Ask> {
    const VERSION: &str = r#"{"counter":1,"stateVersion":0,"timestamp":5}"#;
    let topics_of_c = registration(&[("TA", 0), ("OB", 0)]);
    vec![
        ask(103, BROKER_B, topics_of_b(), Body("")),
        ask(103, BROKER_C, topics_of_c, Body("")),
        ask(322, BROKER_B, VERSION, Field("changed", "false")),
        ask(322, BROKER_B, VERSION, Body(VERSION)),
        ask(904, BROKER_B, "", Body("")),
        ask(
            106,
            &[],
            "",
            Body(concat!(
                r#"{"brokerAddrTable":{"#,
                r#""broker-b":{"brokerAddrs":{0:"127.0.0.1:20911"},"brokerName":"broker-b","#,
                r#""cluster":"cb","enableActingMaster":false},"#,
                r#""broker-c":{"brokerAddrs":{0:"127.0.0.1:30911"},"brokerName":"broker-c","#,
                r#""cluster":"cc","enableActingMaster":false}},"#,
                r#""clusterAddrTable":{"cb":["broker-b"],"cc":["broker-c"]}}"#,
            )),
        ),
        ask(
            901,
            &[("clusterName", "cb"), ("brokerName", "broker-b")],
            "",
            Body(concat!(
                r#"{"brokerMemberGroup":{"brokerAddrs":{0:"127.0.0.1:20911"},"#,
                r#""brokerName":"broker-b","cluster":"cb"}}"#,
            )),
        ),
        ask(
            901,
            &[("clusterName", "cb"), ("brokerName", "none")],
            "",
            Body(r#"{"brokerMemberGroup":{"brokerAddrs":{},"brokerName":"none","cluster":"cb"}}"#),
        ),
    ]
}

fn lists() -> Vec<Ask> {
    vec![
        ask(
            206,
            &[],
            "",
            Body(r#"{"topicList":["OB","TA","TB","TS","TU"]}"#),
        ),
        ask(
            224,
            &[("cluster", "cc")],
            "",
            Body(r#"{"topicList":["OB","TA"]}"#),
        ),
        ask(224, &[("cluster", "none")], "", Body(r#"{"topicList":[]}"#)),
        ask(
            304,
            &[],
            "",
            Body(concat!(
                r#"{"brokerAddr":"127.0.0.1:20911","#,
                r#""topicList":["broker-b","broker-c","cb","cc"]}"#,
            )),
        ),
        ask(311, &[], "", Body(r#"{"topicList":["TB","TU"]}"#)),
        ask(312, &[], "", Body(r#"{"topicList":["TB","TS"]}"#)),
        ask(313, &[], "", Body(r#"{"topicList":["TS"]}"#)),
    ]
}

fn permissions() -> Vec<Ask> {
    const B: &[(&str, &str)] = &[("brokerName", "broker-b")];
    const TA: &[(&str, &str)] = &[("topic", "TA")];
    const OPEN: &str = r#""brokerName":"broker-b","perm":6,"#;
    const SHUT: &str = r#""brokerName":"broker-b","perm":4,"#;
    vec![
        ask(105, TA, "", Within(OPEN)),
        ask(205, B, "", Field("wipeTopicCount", "4")),
        ask(105, TA, "", Within(SHUT)),
        ask(105, TA, "", Within(r#""brokerName":"broker-c","perm":6,"#)),
        // A broker registers every 30 s: what it said before changes nothing.
        ask(103, BROKER_B, topics_of_b(), Body("")),
        ask(105, TA, "", Within(SHUT)),
        ask(327, B, "", Field("addTopicCount", "4")),
        ask(105, TA, "", Within(OPEN)),
        ask(
            205,
            &[("brokerName", "none")],
            "",
            Field("wipeTopicCount", "0"),
        ),
    ]
}

fn texts() -> Vec<Ask> {
    const K: &[(&str, &str)] = &[("namespace", "n"), ("key", "k")];
    const NONE: &str = "No config item, Namespace: n Key: k";
    vec![
        ask(101, K, "", Refused(22, NONE)),
        ask(
            219,
            &[("namespace", "n")],
            "",
            Refused(22, "No config item, Namespace: n"),
        ),
        ask(
            100,
            &[("namespace", "n"), ("key", "k"), ("value", "v \u{e9}")],
            "",
            Body(""),
        ),
        ask(101, K, "", Field("value", "v \u{e9}")),
        ask(
            219,
            &[("namespace", "n")],
            "",
            Body("{\"table\":{\"k\":\"v \u{e9}\"}}"),
        ),
        ask(102, K, "", Body("")),
        ask(101, K, "", Refused(22, NONE)),
        ask(219, &[("namespace", "n")], "", Body(r#"{"table":{}}"#)),
        ask(102, &[("namespace", "none"), ("key", "k")], "", Body("")),
    ]
}

/// Settings change what is answered, until they are changed back.
fn settings(target: Target) -> Vec<Ask> {
    const TA: &[(&str, &str)] = &[("topic", "TA")];
    const ORDER: &[(&str, &str)] = &[
        ("namespace", "ORDER_TOPIC_CONFIG"),
        ("key", "TA"),
        ("value", "broker-b:4"),
    ];
    let forbidden = match target {
        Target::Java => "Can not update config in black list.",
        Target::Gantry => "Can not update config kvConfigPath: only ",
    };
    vec![
        ask(319, &[], "", Within("\nenableTopicList=true\n")),
        ask(319, &[], "", Within("\norderMessageEnable=false\n")),
        ask(100, ORDER, "", Body("")),
        ask(
            103,
            BROKER_B,
            topics_of_b(),
            Body(r#"{"table":{"TA":"broker-b:4"}}"#),
        ),
        ask(318, &[], "orderMessageEnable=true\n", Body("")),
        ask(319, &[], "", Within("\norderMessageEnable=true\n")),
        ask(105, TA, "", Within(r#""orderTopicConf":"broker-b:4""#)),
        ask(318, &[], "returnOrderTopicConfigToBroker=false", Body("")),
        ask(103, BROKER_B, topics_of_b(), Body("")),
        ask(318, &[], "kvConfigPath=/tmp/x\n", Refused(16, forbidden)),
        ask(
            318,
            &[],
            "enableAllTopicList=false\nenableTopicList=false",
            Body(""),
        ),
        ask(206, &[], "", Refused(1, "disable")),
        ask(224, &[("cluster", "cb")], "", Refused(1, "disable")),
        ask(311, &[], "", Refused(1, "disable")),
        ask(
            318,
            &[],
            "enableAllTopicList=true\nenableTopicList=true",
            Body(""),
        ),
        ask(206, &[], "", Within("TA")),
    ]
}

fn topics() -> Vec<Ask> {
    const NEW: &[(&str, &str)] = &[("topic", "New")];
    const OF: &[(&str, &str)] = &[("topic", "TA"), ("clusterName", "cb")];
    const TA: &[(&str, &str)] = &[("topic", "TA")];
    const QUEUES: &str = r#""perm":6,"readQueueNums":2,"topicSysFlag":0,"writeQueueNums":2}"#;
    let queues = |broker| format!(r#"{{"queueDatas":[{{"brokerName":"{broker}",{QUEUES}]}}"#);
    vec![
        ask(217, NEW, queues("none"), Body("")),
        ask(
            105,
            NEW,
            "",
            Refused(17, "No topic route info in name server for the topic: New"),
        ),
        ask(217, NEW, queues("broker-c"), Body("")),
        ask(
            105,
            NEW,
            "",
            Within(r#""brokerName":"broker-c","perm":6,"readQueueNums":2,"#),
        ),
        ask(216, NEW, "", Body("")),
        ask(105, NEW, "", Refused(17, "No topic route")),
        ask(216, OF, "", Body("")),
        ask(
            105,
            TA,
            "",
            Within(r#""queueDatas":[{"brokerName":"broker-c","#),
        ),
        ask(
            216,
            &[("topic", "none"), ("clusterName", "none")],
            "",
            Body(""),
        ),
        // What a broker still has comes back when it registers.
        ask(103, BROKER_B, topics_of_b(), Body("")),
        ask(
            105,
            TA,
            "",
            Within(r#""queueDatas":[{"brokerName":"broker-b","#),
        ),
    ]
}

fn refusals() -> Vec<Ask> {
    vec![
        ask(10, &[], "", Refused(3, " request type 10 not supported")),
        ask(
            9_999,
            &[],
            "",
            Refused(3, " request type 9999 not supported"),
        ),
        ask(217, &[("topic", "T")], "no JSON", Refused(1, "")),
    ]
}
