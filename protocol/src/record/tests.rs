//! Records against bytes that the official classes wrote, against damage, and round trips.

use proptest::prelude::*;

use super::*;

fn sample() -> Message {
    let properties = properties::encode([
        ("TAGS", "TagA"),
        ("KEYS", "k1 k2"),
        ("UNIQ_KEY", "0A00000100002A139A9E6D2B0A1C0000"),
    ]);
    Message {
        topic: "TopicTest".into(),
        queue: 3,
        flag: 7,
        sys_flag: 0,
        born_ms: 1_700_000_000_000,
        born_host: address("10.0.0.1:50000"),
        reconsume_times: 0,
        prepared_offset: 0,
        body: Bytes::from_static(b"Hello"),
        properties: properties.into(),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn bytes_of(message: &Message, host: &str) -> Vec<u8> {
    let mut encoded = message.encode(address(host)).expect("within the limits");
    let size = encoded.size();
    let bytes = encoded.place(42, 1_234_567, 1_700_000_000_123).to_vec();
    assert_eq!(bytes.len(), size);
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

/// What Java's encoder makes of the same message, with the offsets, times and CRCs of a record
/// that its commit log has stored with `enabledAppendPropCRC`.
#[test]
fn golden_bytes() {
    let bytes = bytes_of(&sample(), "10.0.0.2:10911");
    let expect = unhex(
        "000000bc daa320a7 77d18982 00000003 00000007 000000000000002a 000000000012d687 00000000
        0000018bcfe56800 0a000001 0000c350 0000018bcfe5687b 0a000002 00002a9f 00000000
        0000000000000000 00000005 48656c6c6f 09 546f70696354657374 0053
        544147530154616741 02 4b455953016b31206b32 02
        554e49515f4b45590130413030303030313030303032413133394139453644324230413143303030 30 02
        5f5f435243333223 01",
    );
    assert_eq!(crc32fast::hash(b"Hello") & 0x7FFF_FFFF, 0x77d1_8982);
    assert_eq!(bytes[..expect.len()], expect);
    let crc = crc32fast::hash(&bytes[..168]) & 0x7FFF_FFFF;
    let digits: String = format!("{crc:010}").chars().rev().collect();
    assert_eq!(bytes[177..], *format!("{digits}\x02").as_bytes());
}

#[test]
fn crc_property_is_javas() {
    for (crc, expect) in [
        (0, b"__CRC32#\x010000000000\x02"),
        (0x7FFF_FFFF, b"__CRC32#\x017463847412\x02"),
        (0xFFFF_FFFF, b"__CRC32#\x017463847412\x02"),
        (0x8000_0012, b"__CRC32#\x018100000000\x02"),
    ] {
        assert_eq!(crc_property(crc), *expect, "{crc:#x}");
    }
}

#[test]
fn hosts_topics_and_open_properties() {
    let long = "t".repeat(128);
    let rows = [
        ("10.0.0.1:1", "10.0.0.2:2", "T", MAGIC_V1, 0),
        ("[fd00::1]:1", "10.0.0.2:2", "T", MAGIC_V1, 1 << 4),
        ("10.0.0.1:1", "[fd00::2]:2", "T", MAGIC_V1, 1 << 5),
        ("[fd00::1]:1", "[fd00::2]:2", "T", MAGIC_V1, 3 << 4),
        ("10.0.0.1:1", "10.0.0.2:2", &long[1..], MAGIC_V1, 0),
        ("[fd00::1]:1", "[fd00::2]:2", &long, MAGIC_V2, 3 << 4),
    ];
    for (born, store, topic, magic, sys_flag) in rows {
        let message = Message {
            topic: topic.into(),
            born_host: address(born),
            // Flags of somebody else's hosts are not believed.
            sys_flag: 3 << 4,
            properties: Bytes::from_static(b"A\x01x"),
            ..sample()
        };
        let bytes = bytes_of(&message, store);
        assert_eq!(bytes[4..8], magic.to_be_bytes());
        let record = Record::decode(&bytes).expect("intact");
        assert_eq!(
            (record.born_host, record.store_host),
            (message.born_host, address(store))
        );
        assert_eq!((record.topic, record.sys_flag), (topic, sys_flag));
        assert_eq!(record.properties, b"A\x01x\x02", "the last value is closed");
        assert_eq!(record.property("A"), Some("x"));
    }
}

#[test]
fn limits() {
    let check = |message: Message, expect: Result<(), EncodeError>| {
        assert_eq!(message.encode(address("10.0.0.2:1")).map(|_| ()), expect);
    };
    let body = |len| Message {
        body: vec![1; len].into(),
        ..sample()
    };
    check(body(0), Ok(()));
    check(body(BODY_BYTES_MAX), Ok(()));
    check(
        body(BODY_BYTES_MAX + 1),
        Err(EncodeError::BodyTooLarge(BODY_BYTES_MAX + 1)),
    );
    let topic = |len| Message {
        topic: "t".repeat(len).into(),
        ..sample()
    };
    check(topic(0), Err(EncodeError::TopicLength(0)));
    check(topic(1), Ok(()));
    check(topic(255), Ok(()));
    check(topic(256), Err(EncodeError::TopicLength(256)));
    let properties = |len, last| {
        let mut properties = vec![b'a'; len];
        properties[len - 1] = last;
        Message {
            properties: properties.into(),
            ..sample()
        }
    };
    check(properties(32_747, 2), Ok(()));
    check(properties(32_746, b'a'), Ok(()));
    check(
        properties(32_747, b'a'),
        Err(EncodeError::PropertiesTooLarge(32_768)),
    );
    check(
        properties(32_748, 2),
        Err(EncodeError::PropertiesTooLarge(32_768)),
    );
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let whole = bytes_of(&sample(), "10.0.0.2:10911");
    Record::decode(&whole).expect("intact");
    for len in 0..whole.len() {
        Record::decode(&whole[..len]).expect_err("cut short");
    }
    Record::decode(&[&whole[..], b"x"].concat()).expect_err("too long");
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let sealed = Record::decode(&bytes).is_ok_and(|record| record.sealed);
        assert!(!sealed, "bit {bit}");
    }
}

/// What the official encoder makes, but for the body's CRC, which the log fills in.
#[test]
fn a_record_of_java_has_no_crc_of_its_own() {
    let hex = concat!(
        "000000a8daa320a7000000000000000300000007000000000000002a000000000000000000000000",
        "0000018bcfe568000a0000010000c3500000018bcfe5687b0a00000200002a9f0000000000000000",
        "000000000000000548656c6c6f09546f70696354657374003f544147530154616741024b45595301",
        "6b31206b3202554e49515f4b45590130413030303030313030303032413133394139453644324230",
        "4131433030303002",
    );
    let digits: Vec<u8> = hex.bytes().collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
    let mut bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| byte(pair).expect("hex"))
        .collect();
    bytes[8..12].copy_from_slice(&body_crc(b"Hello").to_be_bytes());
    let record = Record::decode(&bytes).expect("intact");
    assert!(!record.sealed);
    assert_eq!(
        (record.topic, record.queue_offset, record.body),
        ("TopicTest", 42, &b"Hello"[..])
    );
    assert_eq!(record.property("KEYS"), Some("k1 k2"));
    assert_eq!(
        record.property("UNIQ_KEY"),
        Some("0A00000100002A139A9E6D2B0A1C0000")
    );
    bytes[88] ^= 1;
    assert_eq!(Record::decode(&bytes), Err(DecodeError::BodyCrc));
}

/// Lengths that do not fit, under a CRC that does.
#[test]
fn lying_lengths_are_refused() {
    let whole = bytes_of(&sample(), "10.0.0.2:10911");
    for at in [84, 85, 86, 87, 93, 103, 104] {
        for value in [0, 1, 0x7F, 0xFF] {
            let mut bytes = whole.clone();
            if bytes[at] == value {
                continue;
            }
            bytes[at] = value;
            let crc = crc_property(crc32fast::hash(&bytes[..168]));
            bytes[168..].copy_from_slice(&crc);
            assert!(Record::decode(&bytes).is_err(), "{value} at {at}");
        }
    }
}

#[test]
fn heads() {
    let rows: [(&[u8; 8], Option<Head>); 6] = [
        (b"\x00\x00\x00\xbc\xda\xa3\x20\xa7", Some(Head::Record(188))),
        (b"\x00\x00\x00\xbc\xda\xa3\x20\xab", Some(Head::Record(188))),
        (b"\x7f\xff\xff\xff\xda\xa3\x20\xa7", None),
        (
            b"\x00\x01\x00\x00\xcb\xd4\x31\x94",
            Some(Head::Blank(65_536)),
        ),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", None),
        (b"\x00\x00\x00\xbc\xda\xa3\x20\xa8", None),
    ];
    for (bytes, expect) in rows {
        assert_eq!(head(*bytes), expect, "{bytes:?}");
    }
    assert_eq!(blank(65_536), *rows[3].0);
}

proptest! {
    #[test]
    fn round_trip(
        topic in "[a-zA-Z0-9_%-]{1,255}",
        body in proptest::collection::vec(any::<u8>(), 0..9000),
        tags in "[a-z\u{e4}]{1,20}",
        numbers in any::<(i32, i32, i32, i64, i32, i64)>(),
        place in any::<(i64, u32, i64)>(),
        born_v6 in any::<bool>(),
        store_v6 in any::<bool>(),
    ) {
        let (queue, flag, sys_flag, born_ms, reconsume_times, prepared_offset) = numbers;
        let host = |v6| address(if v6 { "[fd00::1]:50000" } else { "10.0.0.1:50000" });
        let message = Message {
            topic: topic.as_str().into(),
            queue,
            flag,
            sys_flag,
            born_ms,
            born_host: host(born_v6),
            reconsume_times,
            prepared_offset,
            body: body.into(),
            properties: properties::encode([("TAGS", tags.as_str())]).into(),
        };
        let (queue_offset, position, store_ms) = place;
        let mut encoded = message.encode(host(store_v6)).expect("within the limits");
        encoded.place(1, 2, 3);
        let bytes = encoded.place(queue_offset, u64::from(position), store_ms);
        let record = Record::decode(bytes).expect("intact");
        let hosts = i32::from(born_v6) << 4 | i32::from(store_v6) << 5;
        prop_assert_eq!(record, Record {
            queue,
            flag,
            queue_offset,
            position: u64::from(position),
            sys_flag: sys_flag & !(3 << 4) | hosts,
            born_ms,
            born_host: message.born_host,
            store_ms,
            store_host: host(store_v6),
            reconsume_times,
            prepared_offset,
            body: &message.body,
            topic: &topic,
            properties: &message.properties,
            sealed: true,
        });
    }

    #[test]
    fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Record::decode(&bytes);
    }
}
