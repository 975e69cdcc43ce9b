//! What administrators and ordered consumers ask of the broker on loopback.

use bytes::BytesMut;
use protocol::body::{
    ConsumeStats, ConsumerConnection, GroupList, KvTable, LockBatch, LockBatchAnswer, MessageQueue,
    ResetOffsets, TopicStatsTable,
};
use protocol::header::{
    ConsumeStatsOf, ConsumerClientOf, QueryMessage, ResetOffset, StatsOf, StoreTimeAnswer,
    ViewMessage,
};
use protocol::message_id;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Asks and reads the body.
async fn body<T: DeserializeOwned>(
    connection: &mut Connection,
    code: RequestCode,
    header: &impl Header,
) -> T {
    let answer = call(connection, code, header, "").await;
    assert_eq!(answer.code, 0, "{code:?}: {:?}", answer.remark);
    from_fastjson(&answer.body).expect("JSON")
}

fn heartbeat() -> HeartbeatData {
    HeartbeatData {
        client_id: "c@1".into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "g".into(),
            subscription_data_set: vec![SubscriptionData {
                topic: "T".into(),
                sub_string: ALL_TAGS.into(),
                ..SubscriptionData::default()
            }],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    }
}

fn commit(offset: i64) -> UpdateConsumerOffset {
    UpdateConsumerOffset {
        group: "g".into(),
        topic: "T".into(),
        queue: 0,
        offset,
    }
}

/// A broker with three messages in T and a group g that has consumed two of them.
async fn consumed(dir: &Path) -> (Running, Connection) {
    let running = start(dir, false).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    send_three(&mut connection).await;
    let heard = to_json(&heartbeat());
    call(&mut connection, RequestCode::HeartBeat, &Empty, heard).await;
    let code = RequestCode::UpdateConsumerOffset;
    assert_eq!(call(&mut connection, code, &commit(2), "").await.code, 0);
    (running, connection)
}

#[tokio::test]
async fn queues_are_locked_for_one_client() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut connection = running.connect().await;
    let queue = MessageQueue {
        topic: "T".into(),
        broker_name: "b".into(),
        queue_id: 0,
    };
    for (code, client, locked) in [
        (RequestCode::LockBatchMq, "a", Some(1)),
        (RequestCode::LockBatchMq, "b", Some(0)),
        (RequestCode::UnlockBatchMq, "b", None),
        (RequestCode::LockBatchMq, "b", Some(0)),
        (RequestCode::UnlockBatchMq, "a", None),
        (RequestCode::LockBatchMq, "b", Some(1)),
    ] {
        let batch = LockBatch {
            client_id: client.into(),
            consumer_group: "g".into(),
            mq_set: vec![queue.clone()],
            only_this_broker: false,
        };
        let answer = call(&mut connection, code, &Empty, to_json(&batch)).await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        let answer: Option<LockBatchAnswer> = from_fastjson(&answer.body).ok();
        assert_eq!(
            answer.map(|a| a.locked.len()),
            locked,
            "{code:?} by {client}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn a_group_is_sent_elsewhere_with_its_next_pull() {
    let dir = tempfile::tempdir().expect("a directory");
    let (running, mut connection) = consumed(dir.path()).await;
    let reset = |queue, offset, timestamp_ms| ResetOffset {
        group: "g".into(),
        topic: "T".into(),
        queue,
        offset,
        timestamp_ms,
        force: true,
    };
    let code = RequestCode::InvokeBrokerToResetOffset;
    for (group, topic, refused) in [
        ("g", "nosuch", ResponseCode::TopicNotExist),
        ("nosuch", "T", ResponseCode::SubscriptionGroupNotExist),
    ] {
        let of = ResetOffset {
            group: group.into(),
            topic: topic.into(),
            ..reset(-1, None, 0)
        };
        let answer = call(&mut connection, code, &of, "").await;
        assert_eq!(answer.code, refused.number(), "{group} {topic}");
    }
    let beyond = call(&mut connection, code, &reset(0, Some(9), 0), "").await;
    assert_eq!(beyond.code, ResponseCode::SystemError.number());
    // To the end, to an offset, to a time: the last stays.
    for (header, expect) in [
        (reset(-1, None, -1), vec![3, 0]),
        (reset(0, Some(1), 0), vec![1]),
        (reset(-1, None, 0), vec![0, 0]),
    ] {
        let offsets: ResetOffsets = body(&mut connection, code, &header).await;
        let offsets: Vec<i64> = offsets.offset_table.into_values().collect();
        assert_eq!(offsets, expect, "{header:?}");
    }
    let query = QueryConsumerOffset {
        group: "g".into(),
        topic: "T".into(),
        queue: 0,
        set_zero_if_not_found: None,
    };
    let pull = pull("T", 3, ALL_TAGS, 0);
    // Until the pull has said so, what the group commits does not count.
    for (told, offset) in [(false, 0), (true, 2)] {
        let code = RequestCode::UpdateConsumerOffset;
        assert_eq!(call(&mut connection, code, &commit(2), "").await.code, 0);
        let code = RequestCode::QueryConsumerOffset;
        let answer = call(&mut connection, code, &query, "").await;
        let found = OffsetAnswer::read(&answer.fields).expect("an offset");
        assert_eq!(found.offset, offset);
        let answer = call(&mut connection, RequestCode::PullMessage, &pull, "").await;
        let next = PullMessageAnswer::read(&answer.fields)
            .expect("an answer")
            .next_offset;
        let moved = answer.code == ResponseCode::PullOffsetMoved.number() && next == 0;
        assert_eq!(moved, !told, "{:?}", answer.remark);
    }
    running.stop().await;
}

#[tokio::test]
async fn messages_are_found_by_key_and_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let header = message(
            "T",
            0,
            &format!("KEYS\u{1}all k{n}\u{2}UNIQ_KEY\u{1}u{n}\u{2}"),
        );
        let code = RequestCode::SendMessageV2;
        let answer = call(&mut connection, code, &header, format!("m{n}")).await;
        ids.push(
            SendMessageAnswer::read(&answer.fields)
                .expect("sent")
                .message_id,
        );
    }
    for (key, messages_max, unique, expect) in [
        ("all", 64, false, vec!["m2", "m1", "m0"]),
        ("all", 2, false, vec!["m2", "m1"]),
        ("k1", 64, false, vec!["m1"]),
        ("u2", 0, true, vec!["m2"]),
        ("nosuch", 64, false, vec![]),
    ] {
        let header = QueryMessage {
            topic: "T".into(),
            key: key.into(),
            messages_max,
            from_ms: 0,
            to_ms: i64::MAX,
            unique,
        };
        let answer = call(&mut connection, RequestCode::QueryMessage, &header, "").await;
        assert_eq!(bodies(&answer), expect, "{key}");
        let not_found = answer.code == ResponseCode::QueryNotFound.number();
        assert_eq!(not_found, expect.is_empty(), "{key}");
    }
    let (_, second) = message_id::decode(&ids[1]).expect("an id");
    for (position, expect) in [
        (second as i64, Some("m1")),
        (second as i64 + 1, None),
        (-1, None),
    ] {
        let header = ViewMessage {
            topic: None,
            position,
        };
        let answer = call(&mut connection, RequestCode::ViewMessageById, &header, "").await;
        match expect {
            Some(expect) => assert_eq!(bodies(&answer), [expect]),
            None => assert_eq!(answer.code, ResponseCode::SystemError.number()),
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn progress_and_members_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (running, mut connection) = consumed(dir.path()).await;
    let topic = TopicOf {
        topic: "T".into(),
        cluster: None,
    };
    let stats: TopicStatsTable =
        body(&mut connection, RequestCode::GetTopicStatsInfo, &topic).await;
    let ends: Vec<i64> = stats.offset_table.values().map(|q| q.max_offset).collect();
    assert_eq!(ends, [3, 0]);
    let last = stats
        .offset_table
        .values()
        .map(|q| q.last_update_timestamp > 0);
    assert_eq!(last.collect::<Vec<_>>(), [true, false]);

    let of = ConsumeStatsOf {
        group: "g".into(),
        ..ConsumeStatsOf::default()
    };
    let stats: ConsumeStats = body(&mut connection, RequestCode::GetConsumeStats, &of).await;
    let lags: Vec<(i64, i64)> = stats
        .offset_table
        .values()
        .map(|queue| (queue.broker_offset, queue.consumer_offset))
        .collect();
    assert_eq!(lags, [(3, 2), (0, 0)]);

    let code = RequestCode::QueryTopicConsumeByWho;
    let groups: GroupList = body(&mut connection, code, &topic).await;
    assert_eq!(groups.group_list.into_iter().collect::<Vec<_>>(), ["g"]);

    let group = ConsumerGroupOf { group: "g".into() };
    let code = RequestCode::GetConsumerConnectionList;
    let online: ConsumerConnection = body(&mut connection, code, &group).await;
    assert_eq!(online.connection_set[0].client_id, "c@1");
    assert!(online.subscription_table.contains_key("T"));
    let nobody = ConsumerGroupOf { group: "h".into() };
    let answer = call(&mut connection, code, &nobody, "").await;
    assert_eq!(answer.code, ResponseCode::ConsumerNotOnline.number());

    let code = RequestCode::GetBrokerRuntimeInfo;
    let table: KvTable = body(&mut connection, code, &Empty).await;
    for (key, value) in [
        ("brokerVersionDesc", "V5_5_0"),
        ("msgPutTotalTodayNow", "3"),
        ("brokerActive", "true"),
    ] {
        assert_eq!(
            table.table.get(key).map(String::as_str),
            Some(value),
            "{key}"
        );
    }
    for (name, known) in [("TOPIC_PUT_NUMS", true), ("NO_SUCH_NUMS", false)] {
        let of = StatsOf {
            name: name.into(),
            key: "T".into(),
        };
        let answer = call(&mut connection, RequestCode::ViewBrokerStatsData, &of, "").await;
        assert_eq!(answer.code == 0, known, "{name}");
    }
    for (queue, stored) in [(0, true), (1, false)] {
        let of = QueueOf {
            topic: "T".into(),
            queue,
        };
        let code = RequestCode::GetEarliestMsgStoretime;
        let answer = call(&mut connection, code, &of, "").await;
        let first = StoreTimeAnswer::read(&answer.fields).expect("a time");
        assert_eq!(first.timestamp_ms > 0, stored, "queue {queue}");
    }
    running.stop().await;
}

/// The next frame on a connection that is no [`Connection`]: it answers requests too.
async fn next(stream: &mut TcpStream, buffer: &mut BytesMut) -> Frame {
    loop {
        let limits = protocol::frame::Limits::default();
        if let Some(frame) = protocol::frame::decode(buffer, &limits).expect("a frame") {
            return frame;
        }
        let read = tokio::time::timeout(SECOND * 10, stream.read_buf(buffer)).await;
        assert!(read.expect("in time").expect("readable") > 0, "closed");
    }
}

#[tokio::test]
async fn a_question_to_a_client_is_handed_on_with_its_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = TcpStream::connect(&running.address)
        .await
        .expect("connects");
    let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
    let heard = Frame::request(RequestCode::HeartBeat, &Empty).with_body(to_json(&heartbeat()));
    protocol::frame::encode(&heard, &mut out);
    client.write_all(&out).await.expect("writable");
    while !next(&mut client, &mut buffer).await.is_response() {}

    let mut admin = running.connect().await;
    let of = |client: &str| ConsumerClientOf {
        group: "g".into(),
        client: Some(client.into()),
        ..ConsumerClientOf::default()
    };
    let code = RequestCode::GetConsumerRunningInfo;
    let absent = call(&mut admin, code, &of("c@2"), "").await;
    assert_eq!(
        absent.remark.as_deref(),
        Some("The Consumer <g> <c@2> not online")
    );
    let asked = tokio::spawn(async move {
        let answer = call(&mut admin, code, &of("c@1"), "").await;
        (answer.code, answer.body)
    });
    let question = loop {
        let frame = next(&mut client, &mut buffer).await;
        if frame.code == code.number() && !frame.is_response() {
            break frame;
        }
    };
    assert_eq!(question.fields.get("clientId"), Some("c@1"));
    let answer = question.answer(ResponseCode::Success).with_body("{}");
    out.clear();
    protocol::frame::encode(&answer, &mut out);
    client.write_all(&out).await.expect("writable");
    let (code, body) = asked.await.expect("no panic");
    assert_eq!((code, &body[..]), (0, &b"{}"[..]));
    running.stop().await;
}
