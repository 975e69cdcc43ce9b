//! A broker on loopback, spoken to by frames.

mod upkeep;
mod carry;
mod monitoring;
mod filter;
mod transaction;
mod pop;

use std::path::Path;
use std::time::{Duration, Instant};

use net::Connection;
use protocol::body::{
    ALL_TAGS, ConsumerData, ConsumerList, HeartbeatData, SubscriptionData, TopicConfig,
};
use protocol::header::{
    ConsumerGroupOf, CreateTopic, Empty, OffsetAnswer, PullMessage, PullMessageAnswer,
    QueryConsumerOffset, QueueOf, SendMessage, SendMessageAnswer, TopicOf, UpdateConsumerOffset,
};
use protocol::json::{from_fastjson, to_json};
use protocol::record::Record;
use protocol::{Frame, Header, RequestCode, ResponseCode};
use tokio_util::sync::CancellationToken;

use crate::Config;

mod produce;
mod admin;

const SECOND: Duration = Duration::from_secs(1);

struct Running {
    address: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), crate::RunError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        let stopped = tokio::time::timeout(SECOND * 10, self.task).await;
        stopped
            .expect("within 10 s")
            .expect("no panic")
            .expect("in order");
    }

    async fn connect(&self) -> Connection {
        Connection::open(&self.address, SECOND)
            .await
            .expect("connects")
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound").port()
}

async fn start(dir: &Path, auto_create: bool) -> Running {
    start_with(dir, auto_create, serde_json::json!({})).await
}

async fn start_with(dir: &Path, auto_create: bool, properties: serde_json::Value) -> Running {
    let (remoting, http) = (free_port(), free_port());
    let address = format!("127.0.0.1:{remoting}");
    let config = serde_json::json!({
        "cluster": "c", "broker": "b", "dataDir": dir, "advertise": address,
        "listen": {"remoting": address, "http": format!("127.0.0.1:{http}")},
        "storeHost": address, "autoCreateTopics": auto_create, "segmentBytes": 1 << 20,
        "properties": properties,
    });
    let config = Config::parse(&config.to_string(), Path::new("test")).expect("good");
    let stop = CancellationToken::new();
    let (started, is_started) = tokio::sync::oneshot::channel();
    let running = crate::run(config, stop.clone(), move || {
        let _ = started.send(());
    });
    let task = tokio::spawn(running);
    is_started.await.expect("starts");
    Running {
        address,
        stop,
        task,
    }
}

async fn call(
    connection: &mut Connection,
    code: RequestCode,
    header: &impl Header,
    body: impl Into<bytes::Bytes>,
) -> Frame {
    let request = Frame::request(code, header).with_body(body);
    connection
        .call(request, SECOND * 30)
        .await
        .expect("answered")
}

async fn create(connection: &mut Connection, topic: &str) {
    let header = CreateTopic {
        topic: topic.into(),
        default_topic: "TBW102".into(),
        read_queues: 2,
        write_queues: 2,
        perm: 6,
        filter_type: "SINGLE_TAG".into(),
        ..CreateTopic::default()
    };
    let answer = call(connection, RequestCode::UpdateAndCreateTopic, &header, "").await;
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
}

fn message(topic: &str, queue: i32, properties: &str) -> SendMessage {
    SendMessage {
        producer_group: "p".into(),
        topic: topic.into(),
        default_topic: "TBW102".into(),
        default_topic_queues: 4,
        queue,
        properties: Some(properties.into()),
        ..SendMessage::default()
    }
}

/// A pull that says itself what it wants, held for so long.
fn pull(topic: &str, offset: i64, expression: &str, suspend_ms: i64) -> PullMessage {
    PullMessage {
        group: "g".into(),
        topic: topic.into(),
        queue: 0,
        offset,
        messages_max: 32,
        sys_flag: 4 | if suspend_ms > 0 { 2 } else { 0 },
        suspend_ms,
        subscription: Some(expression.into()),
        ..PullMessage::default()
    }
}

fn bodies(answer: &Frame) -> Vec<String> {
    let mut rest = &answer.body[..];
    let mut bodies = Vec::new();
    while let Some(size) = rest.first_chunk::<4>() {
        let (record, behind) = rest.split_at(u32::from_be_bytes(*size) as usize);
        let record = Record::decode(record).expect("a whole record");
        bodies.push(String::from_utf8_lossy(record.body).into_owned());
        rest = behind;
    }
    bodies
}

/// Three messages, tagged A, B and A, on queue 0.
async fn send_three(connection: &mut Connection) {
    for (index, tag) in ["A", "B", "A"].into_iter().enumerate() {
        let header = message("T", 0, &format!("TAGS\u{1}{tag}\u{2}"));
        let body = format!("m{index}");
        let answer = call(connection, RequestCode::SendMessageV2, &header, body).await;
        let sent = SendMessageAnswer::read(&answer.fields).expect("sent");
        assert_eq!((sent.queue, sent.queue_offset), (0, index as i64));
        assert_eq!(sent.message_id.len(), 32);
    }
}

#[tokio::test]
async fn what_is_sent_is_pulled_by_offset_and_tag() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    send_three(&mut connection).await;
    for (offset, expression, expect) in [
        (0, ALL_TAGS, vec!["m0", "m1", "m2"]),
        (1, ALL_TAGS, vec!["m1", "m2"]),
        (0, "A", vec!["m0", "m2"]),
        (0, "A || B", vec!["m0", "m1", "m2"]),
    ] {
        let header = pull("T", offset, expression, 0);
        let answer = call(&mut connection, RequestCode::PullMessage, &header, "").await;
        let found = PullMessageAnswer::read(&answer.fields).expect("an answer");
        assert_eq!(bodies(&answer), expect, "{expression}");
        let offsets = (found.next_offset, found.min_offset, found.max_offset);
        assert_eq!(offsets, (3, 0, 3));
    }
    running.stop().await;
}

#[tokio::test]
async fn messages_topics_groups_and_offsets_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    send_three(&mut connection).await;
    let commit = UpdateConsumerOffset {
        group: "g".into(),
        topic: "T".into(),
        queue: 0,
        offset: 2,
    };
    let code = RequestCode::UpdateConsumerOffset;
    let before = call(&mut connection, code, &commit, "").await;
    assert_eq!(
        before.code,
        ResponseCode::SubscriptionGroupNotExist.number()
    );
    let header = pull("T", 0, ALL_TAGS, 0);
    call(&mut connection, RequestCode::PullMessage, &header, "").await;
    let answer = call(&mut connection, code, &commit, "").await;
    assert_eq!(
        answer.code, 0,
        "the pull has created the group: {:?}",
        answer.remark
    );
    running.stop().await;

    let running = start(dir.path(), false).await;
    let mut connection = running.connect().await;
    let of = TopicOf {
        topic: "T".into(),
        cluster: None,
    };
    let answer = call(&mut connection, RequestCode::GetTopicConfig, &of, "").await;
    let topic: TopicConfig = from_fastjson(&answer.body).expect("JSON");
    assert_eq!((topic.read_queue_nums, topic.perm), (2, 6));
    let query = QueryConsumerOffset {
        group: "g".into(),
        topic: "T".into(),
        queue: 0,
        set_zero_if_not_found: None,
    };
    let answer = call(
        &mut connection,
        RequestCode::QueryConsumerOffset,
        &query,
        "",
    )
    .await;
    assert_eq!(OffsetAnswer::read(&answer.fields).expect("kept").offset, 2);
    let answer = call(&mut connection, RequestCode::PullMessage, &header, "").await;
    assert_eq!(bodies(&answer), ["m0", "m1", "m2"]);
    running.stop().await;
}

#[tokio::test]
async fn a_pull_waits_until_a_message_that_it_wants_arrives() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut sender = running.connect().await;
    create(&mut sender, "T").await;

    let mut waiting = running.connect().await;
    let since = Instant::now();
    let header = pull("T", 0, ALL_TAGS, 300);
    let answer = call(&mut waiting, RequestCode::PullMessage, &header, "").await;
    assert_eq!(answer.code, ResponseCode::PullNotFound.number());
    assert!(
        since.elapsed() >= Duration::from_millis(300),
        "{:?}",
        since.elapsed()
    );

    let pulled = tokio::spawn(async move {
        let mut offset = 0;
        loop {
            let header = pull("T", offset, "B", 20_000);
            let answer = call(&mut waiting, RequestCode::PullMessage, &header, "").await;
            // Only messages that it does not want were there: as a client does, go on.
            if answer.code != ResponseCode::PullRetryImmediately.number() {
                return answer;
            }
            offset = PullMessageAnswer::read(&answer.fields)
                .expect("an answer")
                .next_offset;
        }
    });
    for (tag, body) in [("A", "not this"), ("B", "this")] {
        let header = message("T", 0, &format!("TAGS\u{1}{tag}\u{2}"));
        let answer = call(&mut sender, RequestCode::SendMessageV2, &header, body).await;
        assert_eq!(answer.code, 0);
    }
    let since = Instant::now();
    let answer = pulled.await.expect("no panic");
    assert_eq!(bodies(&answer), ["this"]);
    assert!(
        since.elapsed() < SECOND * 5,
        "woken by its message, not by its deadline"
    );

    // Held pulls are answered when the broker stops.
    let mut waiting = running.connect().await;
    let header = pull("T", 2, ALL_TAGS, 60_000);
    let held = tokio::spawn(async move {
        waiting
            .call(
                Frame::request(RequestCode::PullMessage, &header),
                SECOND * 30,
            )
            .await
    });
    tokio::task::yield_now().await;
    running.stop().await;
    let _ = held.await.expect("no panic");
}

fn sends() -> Vec<(SendMessage, ResponseCode)> {
    use ResponseCode as Code;
    let with = |properties: &str| message("T", 0, properties);
    vec![
        (message("nosuch", 0, ""), Code::TopicNotExist),
        (message("a/b", 0, ""), Code::InvalidParameter),
        (message("T", 2, ""), Code::InvalidParameter),
        (message("rmq_sys_gantry_state", 0, ""), Code::NoPermission),
        (message("SCHEDULE_TOPIC_XXXX", 0, ""), Code::NoPermission),
        (
            with("TRAN_MSG\u{1}true\u{2}DELAY\u{1}1"),
            Code::MessageIllegal,
        ),
        (with("DELAY\u{1}x\u{2}"), Code::SystemError),
        (with("INNER_NUM\u{1}3\u{2}"), Code::MessageIllegal),
        (with("TIMER_DELIVER_MS\u{1}9\u{2}"), Code::MessageIllegal),
        (with(&"x".repeat(32_768)), Code::MessageIllegal),
        (
            SendMessage {
                batch: Some(true),
                ..with("")
            },
            Code::MessageIllegal,
        ),
        (message("T", -1, "DELAY\u{1}0\u{2}"), Code::Success),
    ]
}

fn pulls() -> Vec<(PullMessage, ResponseCode)> {
    use ResponseCode as Code;
    let all = || pull("T", 0, ALL_TAGS, 0);
    vec![
        (pull("nosuch", 0, ALL_TAGS, 0), Code::TopicNotExist),
        (PullMessage { queue: 2, ..all() }, Code::InvalidParameter),
        (
            PullMessage {
                sys_flag: 0,
                ..all()
            },
            Code::SubscriptionNotExist,
        ),
        (pull("T", 0, "||", 0), Code::SubscriptionParseFailed),
        (pull("T", 7, ALL_TAGS, 0), Code::PullOffsetMoved),
    ]
}

#[tokio::test]
async fn bad_requests_are_refused_by_code_and_the_connection_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    let send = RequestCode::SendMessageV2;
    for (header, expect) in sends() {
        let answer = call(&mut connection, send, &header, "x").await;
        assert_eq!(
            answer.code,
            expect.number(),
            "{header:?}: {:?}",
            answer.remark
        );
    }
    let large = vec![0_u8; 4 * 1024 * 1024 + 1];
    let answer = call(&mut connection, send, &message("T", 0, ""), large).await;
    assert_eq!(answer.code, ResponseCode::MessageIllegal.number());
    for (header, expect) in pulls() {
        let answer = call(&mut connection, RequestCode::PullMessage, &header, "").await;
        assert_eq!(
            answer.code,
            expect.number(),
            "{header:?}: {:?}",
            answer.remark
        );
    }
    let answer = call(&mut connection, send, &Empty, "").await;
    assert_eq!(answer.remark.as_deref(), Some("the field a is missing"));
    let unknown = Frame {
        code: 9_999,
        ..Frame::request(send, &Empty)
    };
    let answer = connection.call(unknown, SECOND).await.expect("answered");
    assert_eq!(answer.code, ResponseCode::RequestCodeNotSupported.number());
    assert_eq!(
        answer.remark.as_deref(),
        Some(" request type 9999 not supported")
    );
    let of = QueueOf {
        topic: "T".into(),
        queue: 1,
    };
    let answer = call(&mut connection, RequestCode::GetMaxOffset, &of, "").await;
    assert!(
        OffsetAnswer::read(&answer.fields)
            .expect("an offset")
            .offset
            <= 1
    );
    running.stop().await;
}

#[tokio::test]
async fn a_send_creates_its_topic_where_that_is_allowed() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), true).await;
    let mut connection = running.connect().await;
    let answer = call(
        &mut connection,
        RequestCode::SendMessageV2,
        &message("new", 3, ""),
        "x",
    )
    .await;
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
    let of = TopicOf {
        topic: "new".into(),
        cluster: None,
    };
    let answer = call(&mut connection, RequestCode::GetTopicConfig, &of, "").await;
    let topic: TopicConfig = from_fastjson(&answer.body).expect("JSON");
    assert_eq!((topic.write_queue_nums, topic.perm), (4, 6));
    let answer = call(&mut connection, RequestCode::DeleteTopicInBroker, &of, "").await;
    assert_eq!(answer.code, 0);
    let answer = call(&mut connection, RequestCode::GetTopicConfig, &of, "").await;
    assert_eq!(answer.code, ResponseCode::TopicNotExist.number());
    running.stop().await;
}

#[tokio::test]
async fn members_of_a_group_know_each_other_while_they_are_connected() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), true).await;
    let heartbeat = |id: &str| {
        let subscription = SubscriptionData::of_tags("T", ALL_TAGS, |_| 0).expect("a subscription");
        to_json(&HeartbeatData {
            client_id: id.into(),
            consumer_data_set: vec![ConsumerData {
                group_name: "g".into(),
                subscription_data_set: vec![subscription],
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        })
    };
    let mut first = running.connect().await;
    let mut second = running.connect().await;
    let of = ConsumerGroupOf { group: "g".into() };
    let nobody = call(&mut first, RequestCode::GetConsumerListByGroup, &of, "").await;
    assert_eq!(
        nobody.remark.as_deref(),
        Some("no consumer for this group, g")
    );
    for (connection, id) in [(&mut first, "c1"), (&mut second, "c2")] {
        let answer = call(connection, RequestCode::HeartBeat, &Empty, heartbeat(id)).await;
        assert_eq!(answer.fields.get("IS_SUPPORT_HEART_BEAT_V2"), Some("true"));
    }
    let answer = call(&mut first, RequestCode::GetConsumerListByGroup, &of, "").await;
    let list: ConsumerList = from_fastjson(&answer.body).expect("JSON");
    assert_eq!(list.consumer_id_list, ["c1", "c2"]);
    drop(second);
    let deadline = Instant::now() + SECOND * 10;
    loop {
        let answer = call(&mut first, RequestCode::GetConsumerListByGroup, &of, "").await;
        let list: ConsumerList = from_fastjson(&answer.body).expect("JSON");
        if list.consumer_id_list == ["c1"] {
            break;
        }
        assert!(Instant::now() < deadline, "{list:?}");
    }
    let retry = TopicOf {
        topic: "%RETRY%g".into(),
        cluster: None,
    };
    let answer = call(&mut first, RequestCode::GetTopicConfig, &retry, "").await;
    assert_eq!(answer.code, 0, "every group has its retry topic");
    running.stop().await;
}
