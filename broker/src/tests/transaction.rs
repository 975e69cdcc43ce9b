//! Transactions on the wire: half messages, their ends, and those that nobody ends.

use protocol::header::EndTransaction;
use protocol::message_id;
use protocol::record::{COMMITTED, ROLLBACK};
use protocol::topic::{GIVEN_UP_TOPIC, HALF_TOPIC, OP_TOPIC};

use super::*;

const SENT: &str = "PGROUP\u{1}p\u{2}TRAN_MSG\u{1}true\u{2}UNIQ_KEY\u{1}u\u{2}TAGS\u{1}A\u{2}";

/// Sends a half message and returns the header that ends it.
async fn half(client: &mut Connection, body: &str, outcome: i32) -> EndTransaction {
    let header = SendMessage {
        sys_flag: 4,
        born_ms: crate::process::unix_ms(),
        ..message("T", 1, SENT)
    };
    let answer = call(client, RequestCode::SendMessageV2, &header, body.to_owned()).await;
    let sent = SendMessageAnswer::read(&answer.fields).expect("sent");
    assert_eq!(sent.transaction_id.as_deref(), Some("u"));
    let (_, position) = message_id::decode(&sent.message_id).expect("an id");
    EndTransaction {
        producer_group: "p".into(),
        half_offset: sent.queue_offset,
        position: position as i64,
        outcome,
        unique_key: "u".into(),
        ..EndTransaction::default()
    }
}

async fn end(client: &mut Connection, header: &EndTransaction) -> i32 {
    call(client, RequestCode::EndTransaction, header, "")
        .await
        .code
}

async fn delivered(client: &mut Connection) -> Vec<String> {
    let header = PullMessage {
        queue: 1,
        ..pull("T", 0, "A", 0)
    };
    bodies(&call(client, RequestCode::PullMessage, &header, "").await)
}

async fn max(client: &mut Connection, topic: &str) -> i64 {
    let header = QueueOf {
        topic: topic.into(),
        queue: 0,
    };
    let answer = call(client, RequestCode::GetMaxOffset, &header, "").await;
    OffsetAnswer::read(&answer.fields).map_or(0, |max| max.offset)
}

/// Asks until it is so.
async fn becomes(client: &mut Connection, topic: &str, at_least: i64) {
    let since = Instant::now();
    while max(client, topic).await < at_least {
        assert!(since.elapsed() < SECOND * 20, "{topic} has not {at_least}");
    }
}

#[tokio::test]
async fn consumers_see_what_is_committed_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    let mut ends = Vec::new();
    for (body, outcome) in [("a", COMMITTED), ("b", ROLLBACK), ("c", COMMITTED)] {
        ends.push(half(&mut client, body, outcome).await);
    }
    assert!(delivered(&mut client).await.is_empty());
    type Change = fn(&mut EndTransaction);
    let wrong: [(Change, ResponseCode); 5] = [
        (
            |end| end.producer_group = "q".into(),
            ResponseCode::SystemError,
        ),
        (|end| end.half_offset = 9, ResponseCode::SystemError),
        (|end| end.position += 1, ResponseCode::SystemError),
        (|end| end.position = 0, ResponseCode::SystemError),
        (|end| end.position = -1, ResponseCode::SystemError),
    ];
    for (change, code) in wrong {
        let mut header = ends[0].clone();
        change(&mut header);
        assert_eq!(end(&mut client, &header).await, code.number(), "{header:?}");
    }
    for header in &ends {
        assert_eq!(end(&mut client, header).await, 0, "{header:?}");
        let again = ResponseCode::IllegalOperation.number();
        assert_eq!(end(&mut client, header).await, again, "{header:?}");
    }
    assert_eq!(delivered(&mut client).await, ["a", "c"]);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_what_has_not_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    let mut ends = Vec::new();
    for body in ["a", "b", "c"] {
        ends.push(half(&mut client, body, COMMITTED).await);
    }
    assert_eq!(end(&mut client, &ends[1]).await, 0);
    running.stop().await;
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    let codes = [0, ResponseCode::IllegalOperation.number(), 0];
    for (header, code) in ends.iter().zip(codes) {
        assert_eq!(end(&mut client, header).await, code, "{header:?}");
    }
    assert_eq!(delivered(&mut client).await, ["b", "a", "c"]);
    assert_eq!(max(&mut client, OP_TOPIC).await, 3);
    running.stop().await;
}

#[tokio::test]
async fn a_half_message_lies_again_until_it_ends_or_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let properties = serde_json::json!({
        "transactionTimeOut": 0, "transactionCheckInterval": 1, "transactionCheckMax": 20,
    });
    let running = start_with(dir.path(), false, properties).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    let ended = half(&mut client, "ended", COMMITTED).await;
    becomes(&mut client, HALF_TOPIC, 2).await;
    // Unless it is stored again in this very moment, which is told.
    let busy = ResponseCode::IllegalOperation.number();
    let mut code = busy;
    while code == busy && max(&mut client, GIVEN_UP_TOPIC).await == 0 {
        code = end(&mut client, &ended).await;
    }
    assert_eq!(code, 0, "ended by the offset at which its sender knows it");
    assert_eq!(delivered(&mut client).await, ["ended"]);
    let given_up = half(&mut client, "given up", COMMITTED).await;
    becomes(&mut client, GIVEN_UP_TOPIC, 1).await;
    assert_eq!(end(&mut client, &given_up).await, busy);
    assert_eq!(delivered(&mut client).await, ["ended"]);
    running.stop().await;
}
