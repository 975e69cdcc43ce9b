//! Batches, delays and retries.

use bytes::Bytes;
use protocol::header::SendMessageBack;
use protocol::properties;
use serde_json::json;

use super::*;

/// A batch of bodies, the first of them with these properties.
fn batch(bodies: &[&str], properties: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for (at, body) in bodies.iter().enumerate() {
        let properties = if at == 0 { properties } else { "" };
        all.extend((22 + body.len() as u32 + properties.len() as u32).to_be_bytes());
        all.extend([0; 12]);
        all.extend((body.len() as u32).to_be_bytes());
        all.extend(body.as_bytes());
        all.extend((properties.len() as u16).to_be_bytes());
        all.extend(properties.as_bytes());
    }
    all
}

fn batched(topic: &str, properties: &str) -> SendMessage {
    SendMessage {
        batch: Some(true),
        ..message(topic, 0, properties)
    }
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    let code = RequestCode::SendBatchMessage;
    let body = batch(&["a", "b", "c"], "TAGS\u{1}A\u{2}");
    let answer = call(&mut connection, code, &batched("T", ""), body).await;
    let sent = SendMessageAnswer::read(&answer.fields).expect("sent");
    let ids: Vec<&str> = sent.message_id.split(',').collect();
    assert_eq!((ids.len(), sent.queue_offset), (3, 0));
    assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
    let transaction = SendMessage {
        sys_flag: 4,
        ..batched("T", "")
    };
    let good = || batch(&["x"], "");
    let illegal = ResponseCode::MessageIllegal;
    for (header, body) in [
        (batched("T", ""), good()[..20].to_vec()),
        (batched("T", ""), batch(&["x"], "DELAY\u{1}1\u{2}")),
        (batched("T", ""), batch(&["x"], "TRAN_MSG\u{1}true\u{2}")),
        (batched("T", "DELAY\u{1}1\u{2}"), good()),
        (batched("%RETRY%g", ""), good()),
        (transaction, good()),
    ] {
        let answer = call(&mut connection, code, &header, body).await;
        assert_eq!(answer.code, illegal.number(), "{header:?}");
    }
    for (expression, expect) in [(ALL_TAGS, vec!["a", "b", "c"]), ("A", vec!["a"])] {
        let header = pull("T", 0, expression, 0);
        let answer = call(&mut connection, RequestCode::PullMessage, &header, "").await;
        assert_eq!(bodies(&answer), expect);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_delayed_message_comes_once_and_not_before_its_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = json!({"messageDelayLevel": "1s 1h"});
    let running = start_with(dir.path(), false, config.clone()).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    let since = Instant::now();
    for level in [1, 9] {
        let header = message("T", 0, &format!("DELAY\u{1}{level}\u{2}"));
        let body = format!("level {level}");
        let answer = call(&mut connection, RequestCode::SendMessageV2, &header, body).await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
    }
    let header = pull("T", 0, ALL_TAGS, 20_000);
    let answer = call(&mut connection, RequestCode::PullMessage, &header, "").await;
    assert_eq!(bodies(&answer), ["level 1"]);
    assert!(since.elapsed() >= SECOND, "it came early");
    let record = Record::decode(&answer.body).expect("a record");
    assert_eq!(record.property(properties::REAL_TOPIC), Some("T"));
    assert_eq!(record.property(properties::DELAY), Some("1"));
    running.stop().await;

    let running = start_with(dir.path(), false, config).await;
    let mut connection = running.connect().await;
    let header = message("T", 0, "DELAY\u{1}1\u{2}");
    call(&mut connection, RequestCode::SendMessageV2, &header, "next").await;
    let header = pull("T", 1, ALL_TAGS, 20_000);
    let answer = call(&mut connection, RequestCode::PullMessage, &header, "").await;
    assert_eq!(bodies(&answer), ["next"], "the first one came again");
    running.stop().await;
}

/// The only message of a topic's queue 0.
async fn only(connection: &mut Connection, topic: &str) -> Bytes {
    let header = pull(topic, 0, ALL_TAGS, 20_000);
    let answer = call(connection, RequestCode::PullMessage, &header, "").await;
    assert_eq!(bodies(&answer).len(), 1, "{topic}: {:?}", answer.remark);
    answer.body
}

#[tokio::test]
async fn what_fails_comes_again_until_it_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start_with(dir.path(), false, json!({"messageDelayLevel": "1s"})).await;
    let mut connection = running.connect().await;
    create(&mut connection, "T").await;
    let code = RequestCode::SendMessageV2;
    call(
        &mut connection,
        code,
        &message("T", 0, "TAGS\u{1}A\u{2}"),
        "x",
    )
    .await;
    let mut stored = only(&mut connection, "T").await;
    let code = RequestCode::ConsumerSendMsgBack;
    for (times, to) in [(1, "%RETRY%g"), (2, "%DLQ%g")] {
        let back = SendMessageBack {
            position: Record::decode(&stored).expect("a record").position as i64,
            group: "g".into(),
            max_reconsume_times: Some(1),
            ..SendMessageBack::default()
        };
        let answer = call(&mut connection, code, &back, "").await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        stored = only(&mut connection, to).await;
        let record = Record::decode(&stored).expect("a record");
        assert_eq!((record.reconsume_times, record.body), (times, &b"x"[..]));
        assert_eq!(record.property(properties::RETRY_TOPIC), Some("T"));
        assert_eq!(record.property(properties::TAGS), Some("A"));
    }
    for (position, group, expect) in [
        (7, "g", ResponseCode::SystemError),
        (-7, "g", ResponseCode::SystemError),
        (0, "a/b", ResponseCode::SubscriptionGroupNotExist),
    ] {
        let back = SendMessageBack {
            position,
            group: group.into(),
            ..SendMessageBack::default()
        };
        let answer = call(&mut connection, code, &back, "").await;
        assert_eq!(answer.code, expect.number(), "{:?}", answer.remark);
    }
    // A consumer whose send-back failed sends the message itself.
    for (group, reconsumed, max, to) in [
        ("h", 3, Some(2), "%DLQ%h"),
        ("i", 17, None, "%DLQ%i"),
        ("k", 2, Some(2), "%RETRY%k"),
    ] {
        let header = SendMessage {
            reconsume_times: Some(reconsumed),
            max_reconsume_times: max,
            ..message(&format!("%RETRY%{group}"), 0, "DELAY\u{1}1\u{2}")
        };
        let code = RequestCode::SendMessageV2;
        let answer = call(&mut connection, code, &header, "self").await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        let stored = only(&mut connection, to).await;
        let record = Record::decode(&stored).expect("a record");
        assert_eq!(record.reconsume_times, reconsumed, "{to}");
    }
    running.stop().await;
}
