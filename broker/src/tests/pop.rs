//! Messages handed out for a while: acknowledged, taken back, waited for, kept in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::body::{
    Assignments, BatchAck, BatchAcks, BitSet, QueryAssignment, RequestMode, SetRequestMode,
};
use protocol::header::{
    AckMessage, ChangeInvisibleTime, ChangeInvisibleTimeAnswer, Notification, NotificationAnswer,
    PeekMessage, PollingInfo, PollingInfoAnswer, PopMessage, PopMessageAnswer,
};
use protocol::properties;
use protocol::receipt::{REVIVE_QUEUE_ORDERED, Receipt};

use super::upkeep::{append, change, group, open, topic};
use super::*;
use crate::pop::flights::Flight;
use crate::pop::{Lane, revive};
use crate::tables::Found;
use crate::{process, tick};

const NOT_FOUND: i32 = 210;

fn pop(queue: i32, invisible_ms: i64, poll_ms: i64) -> PopMessage {
    PopMessage {
        group: "g".into(),
        topic: "T".into(),
        queue,
        messages_max: 32,
        invisible_ms,
        poll_ms,
        ..PopMessage::default()
    }
}

/// What a client makes of a message.
#[derive(Debug)]
struct Popped {
    body: String,
    topic: String,
    reconsume_times: i32,
    first_pop: Option<i64>,
    receipt: Receipt,
}

/// Makes receipts as the Java client does: from the lists in the header, by place; what has a
/// receipt keeps it.
fn popped(answer: &Frame) -> Vec<Popped> {
    let header = PopMessageAnswer::read(&answer.fields).expect("an answer");
    let parts = |text: &Option<String>| -> BTreeMap<String, String> {
        let text = text.clone().unwrap_or_default();
        let parts = text.split(';').filter(|part| !part.is_empty());
        let pair = |part: &str| {
            let (key, value) = part.rsplit_once(' ').expect("three words");
            (key.to_owned(), value.to_owned())
        };
        parts.map(pair).collect()
    };
    let starts = parts(&header.start_offsets);
    let offsets = parts(&header.message_offsets);
    let counts = parts(&header.order_counts);
    let (mut rest, mut messages) = (&answer.body[..], Vec::new());
    while let Some(size) = rest.first_chunk::<4>() {
        let (record, behind) = rest.split_at(u32::from_be_bytes(*size) as usize);
        let record = Record::decode(record).expect("a whole record");
        rest = behind;
        let own = record.property(properties::POP_CK);
        let own = own.map(|text| Receipt::parse(text).expect("a receipt"));
        let receipt = own.unwrap_or_else(|| {
            let key = format!("0 {}", record.queue);
            let listed = offsets[&key].split(',');
            assert!(
                listed
                    .into_iter()
                    .any(|at| at == record.queue_offset.to_string())
            );
            let text = format!(
                "{} {} {} {} 0 b {} {}",
                starts[&key],
                header.pop_ms,
                header.invisible_ms,
                header.revive_queue,
                record.queue,
                record.queue_offset
            );
            Receipt::parse(&text).expect("a receipt")
        });
        let of_message = format!("0 qo{}%{}", record.queue, record.queue_offset);
        let count = counts.get(&of_message);
        let count = count.map(|count| count.parse().expect("a number"));
        let first_pop = record.property(properties::FIRST_POP_TIME);
        messages.push(Popped {
            body: String::from_utf8_lossy(record.body).into_owned(),
            topic: record.topic.to_owned(),
            reconsume_times: count.unwrap_or(record.reconsume_times),
            first_pop: first_pop.map(|ms| ms.parse().expect("a number")),
            receipt,
        });
    }
    messages
}

async fn pops(connection: &mut Connection, header: &PopMessage) -> Vec<Popped> {
    let answer = call(connection, RequestCode::PopMessage, header, "").await;
    let found = popped(&answer);
    let expect = if found.is_empty() { NOT_FOUND } else { 0 };
    assert_eq!(answer.code, expect, "{:?}", answer.remark);
    found
}

fn texts(popped: &[Popped]) -> Vec<&str> {
    popped.iter().map(|one| one.body.as_str()).collect()
}

async fn acknowledge(connection: &mut Connection, receipt: &Receipt) -> i32 {
    let header = AckMessage {
        group: "g".into(),
        topic: receipt.origin.topic("T", "g"),
        queue: receipt.queue,
        receipt: receipt.to_string(),
        offset: receipt.offset,
    };
    let answer = call(connection, RequestCode::AckMessage, &header, "").await;
    answer.code
}

/// The receipt is what it is from then on; `None`: the message is not out by it.
async fn change_time(
    connection: &mut Connection,
    receipt: &Receipt,
    invisible_ms: i64,
) -> Option<Receipt> {
    let header = ChangeInvisibleTime {
        group: "g".into(),
        topic: receipt.origin.topic("T", "g"),
        queue: receipt.queue,
        receipt: receipt.to_string(),
        offset: receipt.offset,
        invisible_ms,
    };
    let code = RequestCode::ChangeMessageInvisibletime;
    let answer = call(connection, code, &header, "").await;
    if answer.code == ResponseCode::NoMessage.number() {
        return None;
    }
    let changed = ChangeInvisibleTimeAnswer::read(&answer.fields).expect("changed");
    Some(Receipt {
        pop_ms: changed.pop_ms,
        invisible_ms: changed.invisible_ms,
        revive_queue: changed.revive_queue,
        ..receipt.clone()
    })
}

const MINUTE_MS: i64 = 60_000;

#[tokio::test]
async fn what_is_popped_is_out_until_it_is_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    send_three(&mut client).await;
    let peek = PeekMessage {
        group: "g".into(),
        topic: "T".into(),
        queue: -1,
        messages_max: 2,
    };
    let header = PopMessage {
        messages_max: 1,
        expression: Some("A".into()),
        ..pop(-1, MINUTE_MS, 0)
    };
    let tagged = pops(&mut client, &header).await;
    assert_eq!(texts(&tagged), ["m0"]);
    let peeked = call(&mut client, RequestCode::PeekMessage, &peek, "").await;
    assert_eq!(bodies(&peeked), ["m2"], "it is left where it is");
    let rest = pops(&mut client, &pop(-1, MINUTE_MS, 0)).await;
    assert_eq!(
        texts(&rest),
        ["m2"],
        "what the filter did not want is passed"
    );
    assert_eq!(rest[0].receipt.start_offset, 2);
    assert!(pops(&mut client, &pop(-1, MINUTE_MS, 0)).await.is_empty());
    assert_eq!(acknowledge(&mut client, &rest[0].receipt).await, 0);
    running.stop().await;

    // Neither comes again: one is done with, the other is still out.
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    assert!(pops(&mut client, &pop(-1, MINUTE_MS, 0)).await.is_empty());
    let none = change_time(&mut client, &rest[0].receipt, 0).await;
    assert_eq!(none, None, "an acknowledged message is not out");
    let longer = change_time(&mut client, &tagged[0].receipt, MINUTE_MS).await;
    let longer = longer.expect("it is out");
    let old = change_time(&mut client, &tagged[0].receipt, 0).await;
    assert_eq!(old, None, "the receipt from before is void");
    let over = change_time(&mut client, &longer, 0).await;
    assert!(over.is_some());
    let back = pops(&mut client, &pop(-1, MINUTE_MS, 20_000)).await;
    assert_eq!((texts(&back), &*back[0].topic), (vec!["m0"], "T"));
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_in_time_comes_back_as_a_retry() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    send_three(&mut client).await;
    let first = pops(&mut client, &pop(0, 1, 0)).await;
    assert_eq!(texts(&first), ["m0", "m1", "m2"]);
    let mut seen = BTreeMap::new();
    while seen.len() < 3 {
        let again = pops(&mut client, &pop(-1, MINUTE_MS, 20_000)).await;
        assert!(!again.is_empty(), "{seen:?}");
        for one in again {
            let receipt = &one.receipt;
            assert_eq!(receipt.origin.topic("T", "g"), "%RETRY%g_T");
            assert_eq!((&*one.topic, one.reconsume_times), ("T", 1));
            assert_eq!(one.first_pop, Some(first[0].receipt.pop_ms));
            assert_eq!(acknowledge(&mut client, receipt).await, 0);
            let twice = seen.insert(one.body.clone(), receipt.clone());
            assert_eq!(twice, None, "{one:?}");
        }
    }
    // The receipts of the first pop are of no use any more, and do no harm.
    assert_eq!(acknowledge(&mut client, &first[0].receipt).await, 0);
    let retry = TopicOf {
        topic: "%RETRY%g_T".into(),
        cluster: None,
    };
    let known = call(&mut client, RequestCode::GetTopicConfig, &retry, "").await;
    assert_eq!(known.code, 0);
    let of = TopicOf {
        topic: "T".into(),
        cluster: None,
    };
    call(&mut client, RequestCode::DeleteTopicInBroker, &of, "").await;
    let gone = call(&mut client, RequestCode::GetTopicConfig, &retry, "").await;
    assert_eq!(gone.code, ResponseCode::TopicNotExist.number());
    running.stop().await;
}

#[tokio::test]
async fn several_are_acknowledged_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    send_three(&mut client).await;
    let first = pops(&mut client, &pop(0, 3_000, 0)).await;
    let receipt = &first[0].receipt;
    let ack = |bits: &[usize], origin: &str| BatchAck {
        bits: BitSet::of(bits),
        group: "g".into(),
        topic: "T".into(),
        invisible_ms: receipt.invisible_ms,
        pop_ms: receipt.pop_ms,
        queue: receipt.queue,
        origin: origin.into(),
        revive_queue: receipt.revive_queue,
        start_offset: receipt.start_offset,
    };
    let code = RequestCode::BatchAckMessage;
    for (acks, expect) in [
        (vec![], ResponseCode::NoMessage),
        (vec![ack(&[0], "x")], ResponseCode::SystemError),
        (
            vec![ack(&[0, 9, 60_000], "0"), ack(&[0], "1")],
            ResponseCode::Success,
        ),
        (vec![ack(&[2], "0")], ResponseCode::Success),
    ] {
        let body = to_json(&BatchAcks {
            acks,
            broker_name: None,
        });
        let answer = call(&mut client, code, &Empty, body).await;
        assert_eq!(answer.code, expect.number(), "{:?}", answer.remark);
    }
    let empty = call(&mut client, code, &Empty, "").await;
    assert_eq!(empty.code, ResponseCode::NoMessage.number());
    let back = pops(&mut client, &pop(-1, MINUTE_MS, 20_000)).await;
    assert_eq!(texts(&back), ["m1"]);
    running.stop().await;
}

async fn waiting(connection: &mut Connection, queue: i32) -> i32 {
    let header = PollingInfo {
        group: "g".into(),
        topic: "T".into(),
        queue,
    };
    let answer = call(connection, RequestCode::PollingInfo, &header, "").await;
    let info = PollingInfoAnswer::read(&answer.fields).expect("an answer");
    info.waiting
}

#[tokio::test]
async fn pops_wait_for_messages_in_the_order_in_which_they_came() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    let since = Instant::now();
    assert!(pops(&mut client, &pop(-1, MINUTE_MS, 300)).await.is_empty());
    assert!(since.elapsed() >= Duration::from_millis(300));
    let mut tasks = Vec::new();
    for (at, queue) in [(1, 1), (1, -1), (2, -1)] {
        let mut connection = running.connect().await;
        let header = PopMessage {
            messages_max: 1,
            ..pop(queue, MINUTE_MS, 60_000)
        };
        let task = tokio::spawn(async move { pops(&mut connection, &header).await });
        tasks.push(task);
        let deadline = Instant::now() + SECOND * 10;
        while waiting(&mut client, queue).await < at {
            assert!(Instant::now() < deadline, "it does not wait");
        }
    }
    let mut other = running.connect().await;
    let notice = |poll_ms| Notification {
        group: "g".into(),
        topic: "T".into(),
        queue: -1,
        poll_ms,
        ..Notification::default()
    };
    let none = call(&mut client, RequestCode::Notification, &notice(0), "").await;
    let none = NotificationAnswer::read(&none.fields).expect("an answer");
    assert!(!none.has_messages && !none.polling_full);
    // The first wants queue 1, so that the second gets what comes to queue 0, and then the third.
    for (text, queue, task) in [("a", 0, 1), ("b", 0, 1), ("c", 1, 0)] {
        let header = message("T", queue, "");
        let sent = call(&mut client, RequestCode::SendMessageV2, &header, text).await;
        assert_eq!(sent.code, 0);
        let got = tasks.remove(task).await.expect("no panic");
        assert_eq!(texts(&got), [text]);
    }
    let noticed = tokio::spawn(async move {
        let header = notice(60_000);
        call(&mut other, RequestCode::Notification, &header, "").await
    });
    let header = message("T", 0, "");
    call(&mut client, RequestCode::SendMessageV2, &header, "d").await;
    let noticed = noticed.await.expect("no panic");
    let noticed = NotificationAnswer::read(&noticed.fields).expect("an answer");
    assert!(noticed.has_messages);
    let left = pops(&mut client, &pop(-1, MINUTE_MS, 0)).await;
    assert_eq!(texts(&left), ["d"], "a notification takes nothing");
    running.stop().await;
}

#[tokio::test]
async fn a_queue_that_is_popped_in_order_waits_for_its_acknowledgements() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    send_three(&mut client).await;
    let ordered = |max, invisible_ms, poll_ms, attempt: &str| PopMessage {
        messages_max: max,
        order: true,
        attempt: Some(attempt.into()),
        ..pop(-1, invisible_ms, poll_ms)
    };
    let first = pops(&mut client, &ordered(2, MINUTE_MS, 0, "1")).await;
    assert_eq!(texts(&first), ["m0", "m1"]);
    assert_eq!(first[0].receipt.revive_queue, REVIVE_QUEUE_ORDERED);
    let blocked = pops(&mut client, &ordered(2, MINUTE_MS, 0, "2")).await;
    assert!(blocked.is_empty());
    let same = pops(&mut client, &ordered(2, MINUTE_MS, 0, "1")).await;
    assert_eq!(texts(&same), ["m0", "m1"], "the same call again");
    assert_eq!(same[0].reconsume_times, 0);
    assert_eq!(acknowledge(&mut client, &same[0].receipt).await, 0);
    assert!(pops(&mut client, &ordered(2, 1, 0, "3")).await.is_empty());
    running.stop().await;

    // What is out stays out, and the second is visible again only when it is given back.
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    assert!(pops(&mut client, &ordered(2, 1, 0, "4")).await.is_empty());
    let given = change_time(&mut client, &same[1].receipt, 0).await;
    assert_eq!(given.expect("it is out").pop_ms, same[1].receipt.pop_ms);
    let again = pops(&mut client, &ordered(1, MINUTE_MS, 20_000, "5")).await;
    assert_eq!((texts(&again), again[0].reconsume_times), (vec!["m1"], 1));
    let mut waits = running.connect().await;
    let last = ordered(2, MINUTE_MS, 20_000, "6");
    let last = tokio::spawn(async move { pops(&mut waits, &last).await });
    assert_eq!(acknowledge(&mut client, &again[0].receipt).await, 0);
    let last = last.await.expect("no panic");
    assert_eq!(
        texts(&last),
        ["m2"],
        "the acknowledgement has freed the queue"
    );
    running.stop().await;
}

#[tokio::test]
async fn bad_pops_and_acknowledgements_are_refused() {
    use ResponseCode as Code;
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    let good = || pop(-1, MINUTE_MS, 0);
    let named = |topic: &str| PopMessage {
        topic: topic.into(),
        ..good()
    };
    let filtered = |kind: &str, text: &str| PopMessage {
        expression_type: Some(kind.into()),
        expression: Some(text.into()),
        ..good()
    };
    let many = PopMessage {
        messages_max: 33,
        ..good()
    };
    let late = PopMessage {
        born_ms: 1,
        ..good()
    };
    for (header, expect) in [
        // Of a group that nobody knows yet.
        (late, Code::PollingTimeout),
        (good(), Code::PollingTimeout),
        (many, Code::InvalidParameter),
        (named("nosuch"), Code::TopicNotExist),
        (pop(2, MINUTE_MS, 0), Code::InvalidParameter),
        (filtered("TAG", "||"), Code::SubscriptionParseFailed),
        (filtered("SQL92", "a >"), Code::SubscriptionParseFailed),
        (filtered("SQL92", "a > 1"), Code::PollingTimeout),
    ] {
        let answer = call(&mut client, RequestCode::PopMessage, &header, "").await;
        assert_eq!(
            answer.code,
            expect.number(),
            "{header:?}: {:?}",
            answer.remark
        );
    }
    let ack = |topic: &str, queue, offset, receipt: &str| AckMessage {
        group: "g".into(),
        topic: topic.into(),
        queue,
        receipt: receipt.into(),
        offset,
    };
    let receipt = "0 1 1 0 0 b 0 0";
    for (header, expect) in [
        (ack("nosuch", 0, 0, receipt), Code::TopicNotExist),
        (ack("T", 2, 0, receipt), Code::MessageIllegal),
        (ack("T", -1, 0, receipt), Code::MessageIllegal),
        (ack("T", 0, 1, receipt), Code::NoMessage),
        (ack("T", 0, 0, "x"), Code::SystemError),
        (ack("T", 0, 0, receipt), Code::Success),
    ] {
        let answer = call(&mut client, RequestCode::AckMessage, &header, "").await;
        assert_eq!(
            answer.code,
            expect.number(),
            "{header:?}: {:?}",
            answer.remark
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn a_broker_shares_queues_out_and_says_how_they_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(dir.path(), false).await;
    let mut client = running.connect().await;
    create(&mut client, "T").await;
    let asked = to_json(&QueryAssignment {
        client_id: "c".into(),
        consumer_group: "g".into(),
        strategy_name: "AVG".into(),
        topic: "T".into(),
        ..QueryAssignment::default()
    });
    let code = RequestCode::QueryAssignment;
    let nobody = call(&mut client, code, &Empty, asked.clone()).await;
    assert_eq!(
        &nobody.body[..],
        b"{}",
        "a group without members is not known"
    );
    let heartbeat = to_json(&HeartbeatData {
        client_id: "c".into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "g".into(),
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    });
    call(&mut client, RequestCode::HeartBeat, &Empty, heartbeat).await;
    let mode = |topic: &str, group: &str| {
        to_json(&SetRequestMode {
            topic: topic.into(),
            consumer_group: group.into(),
            mode: RequestMode::Pop,
            pop_share_queue_num: 8,
        })
    };
    let queues = |answer: &Frame| -> Vec<(i32, RequestMode)> {
        let body: Assignments = from_fastjson(&answer.body).expect("JSON");
        let all = body.message_queue_assignments.expect("known").into_iter();
        all.map(|one| (one.message_queue.queue_id, one.mode))
            .collect()
    };
    let pulled = call(&mut client, code, &Empty, asked.clone()).await;
    let pull = RequestMode::Pull;
    assert_eq!(queues(&pulled), [(0, pull), (1, pull)]);
    for (topic, group, expect) in [
        ("nosuch", "g", ResponseCode::TopicNotExist),
        ("T", "a/b", ResponseCode::SubscriptionGroupNotExist),
        ("%RETRY%g", "g", ResponseCode::NoPermission),
        ("T", "g", ResponseCode::Success),
    ] {
        let set = RequestCode::SetMessageRequestMode;
        let answer = call(&mut client, set, &Empty, mode(topic, group)).await;
        assert_eq!(answer.code, expect.number(), "{topic} {group}");
    }
    let shared = call(&mut client, code, &Empty, asked).await;
    assert_eq!(queues(&shared), [(-1, RequestMode::Pop)]);
    running.stop().await;
}

/// Without a base and without a stop in order: from the records alone.
#[tokio::test(flavor = "multi_thread")]
async fn c2_messages_in_flight_outlive_a_crash() {
    let dir = tempfile::tempdir().expect("dir");
    let broker = open(dir.path(), "");
    for change_ in [topic("T", None), group("g")] {
        change(&broker, change_);
    }
    for _ in 0..4 {
        append(&broker, "T", 10).expect("stored");
    }
    let lane = Arc::new(Lane {
        topic: "T".into(),
        group: "g".into(),
        queue: 0,
    });
    let now_ms = process::unix_ms();
    let flight = |until_ms| Flight {
        pop_ms: now_ms,
        until_ms,
    };
    let hand_out = |broker: &crate::Broker, from, offsets: &[i64], until_ms| {
        let found = Found {
            from,
            next: from + offsets.len() as i64,
            offsets,
            flight: flight(until_ms),
        };
        assert!(broker.tables_mut().hand_out(&lane, &found));
    };
    broker.tables_mut().move_to(&lane, 0);
    hand_out(&broker, 0, &[0, 1], now_ms + MINUTE_MS);
    hand_out(&broker, 2, &[2], now_ms);
    broker.tables_mut().flights.end(&lane, 1, now_ms);
    let stop = CancellationToken::new();
    stop.cancel();
    tick::run(Arc::clone(&broker), stop.clone()).await;
    // The log does not know of this one.
    hand_out(&broker, 3, &[3], now_ms + MINUTE_MS);
    drop(broker);

    let broker = open(dir.path(), "");
    assert_eq!(broker.tables().offset_of(&lane), Some(3));
    let flies = |broker: &crate::Broker, offset| broker.tables().flights.get(&lane, offset);
    let expect = [
        Some(flight(now_ms + MINUTE_MS)),
        None,
        Some(flight(now_ms)),
        None,
    ];
    let found = [0, 1, 2, 3].map(|offset| flies(&broker, offset));
    assert_eq!(found, expect);
    let owner = Arc::clone(&broker);
    let passed = tokio::task::spawn_blocking(move || revive::pass(&owner, now_ms)).await;
    assert!(passed.expect("no panic"));
    let retry = broker.store.range("%RETRY%g_T", 0).expect("a queue");
    assert_eq!((retry.min, retry.max, flies(&broker, 2)), (0, 1, None));
    let mut consumers = broker.tables().consumers();
    let kept = BTreeMap::from([(0, 0)]);
    let of_topic = consumers.remove("T").expect("consumed");
    assert_eq!(
        of_topic,
        [("g".to_owned(), kept)],
        "what is out is not consumed"
    );
}
