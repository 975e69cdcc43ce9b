//! Filters by properties: how they are refused, and which one a waiting pull goes by.

use protocol::body::CheckClient;
use protocol::header::UnregisterClient;

use super::*;
use crate::filter::SQL92;

/// A subscription of the kind, as a heartbeat or a question about it says.
fn subscription(kind: &str, text: &str, version: i64) -> SubscriptionData {
    SubscriptionData {
        topic: "T".into(),
        sub_string: text.into(),
        expression_type: Some(kind.into()),
        sub_version: version,
        ..SubscriptionData::default()
    }
}

fn heartbeat(subscription: SubscriptionData) -> Vec<u8> {
    to_json(&HeartbeatData {
        client_id: "c".into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "g".into(),
            subscription_data_set: vec![subscription],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    })
}

/// A pull that wants what its group has said.
fn pull_of_group(suspend_ms: i64) -> PullMessage {
    PullMessage {
        sys_flag: if suspend_ms > 0 { 2 } else { 0 },
        subscription: None,
        ..pull("T", 0, "", suspend_ms)
    }
}

#[tokio::test]
async fn a_filter_that_cannot_be_read_is_refused() {
    use ResponseCode as Code;
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    let deep = format!("{}a = 1{}", "(".repeat(33), ")".repeat(33));
    let long = format!("a = '{}'", "x".repeat(4_096));
    let (bad, no_data) = (Code::SubscriptionParseFailed, Code::FilterDataNotExist);
    // What it is asked about, what a pull brings itself, and what a group has said before.
    for (kind, text, asked, own, of_group) in [
        (
            SQL92,
            "a = 1",
            Code::Success,
            Code::PullNotFound,
            Code::PullNotFound,
        ),
        (SQL92, "a >", bad, bad, no_data),
        (SQL92, "a > 'x'", bad, bad, no_data),
        (SQL92, &deep, bad, bad, no_data),
        (SQL92, &long, bad, bad, no_data),
        ("REGEX", "a.*", bad, bad, no_data),
    ] {
        let body = to_json(&CheckClient {
            subscription_data: Some(subscription(kind, text, 1)),
            ..CheckClient::default()
        });
        let check = call(&mut client, RequestCode::CheckClientConfig, &Empty, body).await;
        let pulling = PullMessage {
            expression_type: Some(kind.into()),
            ..pull("T", 0, text, 0)
        };
        let pulled = call(&mut client, RequestCode::PullMessage, &pulling, "").await;
        let said = heartbeat(subscription(kind, text, 1));
        let said = call(&mut client, RequestCode::HeartBeat, &Empty, said).await;
        assert_eq!(
            said.code, 0,
            "a heartbeat is never refused for it, as in Java"
        );
        let grouped = call(&mut client, RequestCode::PullMessage, &pull_of_group(0), "").await;
        let gone = UnregisterClient {
            client_id: "c".into(),
            producer_group: None,
            consumer_group: Some("g".into()),
        };
        call(&mut client, RequestCode::UnregisterClient, &gone, "").await;
        let codes = [check.code, pulled.code, grouped.code];
        let expected = [asked, own, of_group].map(Code::number);
        let remarks = [check.remark, pulled.remark, grouped.remark];
        assert_eq!(codes, expected, "{kind} {text}: {remarks:?}");
    }
    running.stop().await;
}

/// Else it would pass over what the group has begun to want meanwhile.
#[tokio::test]
async fn a_pull_that_waits_goes_by_what_its_group_wants_now() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let (mut client, mut waiting) = (running.connect().await, running.connect().await);
    create(&mut client, "T").await;
    let first = heartbeat(subscription(SQL92, "a = 1", 1));
    call(&mut client, RequestCode::HeartBeat, &Empty, first).await;
    let pulled = tokio::spawn(async move {
        let header = pull_of_group(20_000);
        call(&mut waiting, RequestCode::PullMessage, &header, "").await
    });
    // By then the pull, which has come on another connection, waits.
    let of = TopicOf {
        topic: "T".into(),
        cluster: None,
    };
    for _ in 0..100 {
        call(&mut client, RequestCode::GetTopicConfig, &of, "").await;
    }
    let second = heartbeat(subscription(SQL92, "a = 2", 2));
    call(&mut client, RequestCode::HeartBeat, &Empty, second).await;
    for (a, body) in [("1", "wanted before"), ("2", "wanted now")] {
        let header = message("T", 0, &format!("a\u{1}{a}\u{2}"));
        let answer = call(&mut client, RequestCode::SendMessageV2, &header, body).await;
        assert_eq!(answer.code, 0);
    }
    let answer = pulled.await.expect("no panic");
    assert_eq!(bodies(&answer), ["wanted now"]);
    running.stop().await;
}
