//! Frames against bytes that the official 5.5.0 classes wrote, and against bytes nobody should.

use super::*;
use std::collections::BTreeMap;

use proptest::prelude::*;

const JSON: &[u8] =
    b"\0\0\0\x7f\0\0\0\x7b{\"code\":105,\"extFields\":{\"topic\":\"T\"},\"flag\":0,\
    \"language\":\"JAVA\",\"opaque\":7,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}";
const BINARY: &[u8] = b"\0\0\0\x25\x01\0\0\x21\0\x69\0\x01\xdf\0\0\0\x07\0\0\0\0\0\0\0\0\
    \0\0\0\x0c\0\x05topic\0\0\0\x01T";

fn golden(encoding: Encoding) -> Frame {
    let mut fields = Fields::default();
    fields.set("topic", "T");
    Frame {
        code: 105,
        language: Language::Java,
        version: 479,
        opaque: 7,
        flag: 0,
        remark: None,
        fields,
        body: Bytes::new(),
        encoding,
    }
}

fn decode_all(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
    decode(&mut BytesMut::from(bytes), &Limits::default())
}

#[test]
fn both_encodings_are_read_and_written_as_java_does() {
    for (bytes, encoding) in [(JSON, Encoding::Json), (BINARY, Encoding::Binary)] {
        let frame = golden(encoding);
        assert_eq!(decode_all(bytes), Ok(Some(frame.clone())));
        let mut out = BytesMut::new();
        encode(&frame, &mut out);
        assert_eq!(&out[..], bytes, "{encoding:?}");
    }
}

#[test]
fn an_incomplete_frame_waits_and_claims_no_memory() {
    for bytes in [JSON, BINARY] {
        for len in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..len]);
            let capacity = buffer.capacity();
            assert_eq!(
                decode(&mut buffer, &Limits::default()),
                Ok(None),
                "{len} bytes"
            );
            assert_eq!((buffer.len(), buffer.capacity()), (len, capacity));
        }
    }
}

#[test]
fn bad_bytes_are_named() {
    let over = 16_777_217_u32.to_be_bytes();
    let json = |text: &str| {
        let mut bytes = (text.len() as u32 + 4).to_be_bytes().to_vec();
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes
    };
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (over.to_vec(), "a frame of 16777217 bytes is over the limit"),
        (
            vec![0xff; 4],
            "a frame of 4294967295 bytes is over the limit",
        ),
        (vec![0; 8], "a frame of 0 bytes can't hold a header of 0"),
        (
            b"\0\0\0\x08\0\0\0\x05".to_vec(),
            "a frame of 8 bytes can't hold a header of 5",
        ),
        (
            b"\0\0\0\x08\x02\0\0\x04".to_vec(),
            "the header encoding 2 is unknown",
        ),
        (
            b"\0\x08\0\0\0\x07\0\0".to_vec(),
            "a header of 458752 bytes is over the limit",
        ),
        (
            json("{\"code\":"),
            "the JSON header is broken: EOF while parsing a value",
        ),
        (
            json("{\"code\":\"x\"}"),
            "the JSON header is broken: invalid type",
        ),
        (json(&"[".repeat(10_000)), "the JSON header is broken"),
        (
            b"\0\0\0\x06\x01\0\0\x02\0\x69".to_vec(),
            "the binary header is broken at its fixed",
        ),
        (
            b"\0\0\0\x19\x01\0\0\x15\0\x69\0\x01\xdf\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0".to_vec(),
            "the binary header is broken at its remark",
        ),
        (
            b"\0\0\0\x19\x01\0\0\x15\0\x69\0\x01\xdf\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\x09".to_vec(),
            "the binary header is broken at its field length",
        ),
    ];
    for (bytes, expect) in rows {
        let error = decode_all(&bytes).expect_err(expect).to_string();
        assert!(
            error.starts_with(expect),
            "{error:?} does not start with {expect:?}"
        );
    }
}

#[test]
fn other_clients_json_is_understood() {
    let text = r#"{"extFields":{"a":1,"b":true,"c":null,"d":"x","e":{}},"language":"GOLANG",
        "code":10,"surprise":[1]}"#;
    let frame = decode_json(text.as_bytes()).expect("lenient about values and unknown keys");
    let mut expect = Fields::default();
    for (name, value) in [("a", "1"), ("b", "true"), ("d", "x")] {
        expect.set(name, value);
    }
    assert_eq!(
        (frame.fields, frame.language, frame.code),
        (expect, Language::Other, 10)
    );
}

/// The largest properties a message may have, every byte of them escaped in JSON, fit.
#[test]
fn the_largest_legal_message_fits_in_both_encodings() {
    let properties = "\u{1}".repeat(32_767);
    for encoding in [Encoding::Json, Encoding::Binary] {
        let mut frame = golden(encoding);
        frame.fields.set("i", &properties);
        frame.body = Bytes::from(vec![7; 4 * 1024 * 1024]);
        let mut out = BytesMut::new();
        encode(&frame, &mut out);
        let header_len = u32::from_be_bytes(out[4..8].try_into().expect("4 bytes")) & 0xff_ffff;
        let expect = if encoding == Encoding::Json {
            196_732
        } else {
            32_807
        };
        assert_eq!(header_len, expect, "{encoding:?}");
        assert_eq!(decode(&mut out, &Limits::default()), Ok(Some(frame)));
    }
}

/// What the official client and broker said to each other, and the two frames above.
fn corpus() -> Vec<Vec<u8>> {
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/testdata/golden");
    let files = std::fs::read_dir(recorded).expect("the recorded frames");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let recorded = paths.iter().filter_map(|path| std::fs::read(path).ok());
    [JSON.to_vec(), BINARY.to_vec()]
        .into_iter()
        .chain(recorded)
        .collect()
}

#[test]
fn recorded_frames_are_read_and_written_with_the_same_meaning() {
    for bytes in corpus() {
        let mut buffer = BytesMut::from(&bytes[..]);
        let frame = decode(&mut buffer, &Limits::default())
            .expect("good")
            .expect("whole");
        assert!(buffer.is_empty(), "one frame a file");
        if let Some(header) = json_header(&bytes) {
            let compact = compact::parse(header).expect("as Java writes");
            assert_eq!(Ok(compact), decode_any_json(header));
        }
        let mut again = BytesMut::new();
        encode(&frame, &mut again);
        assert_eq!(decode(&mut again, &Limits::default()), Ok(Some(frame)));
    }
}

/// Of a frame in JSON whose header is whole.
fn json_header(bytes: &[u8]) -> Option<&str> {
    let lengths = peek_lengths(&BytesMut::from(bytes), &Limits::default());
    let (_, kind, len) = lengths.ok().flatten()?;
    let header = bytes.get(8..8 + len).filter(|_| kind == 0)?;
    std::str::from_utf8(header).ok()
}

/// Random mutations of good frames never panic and never decode beyond the buffer; what is read
/// in one pass is what the library reads.
#[test]
fn mutated_frames_do_no_harm() {
    let seed = std::env::var("GANTRY_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(42_u64);
    println!("seed {seed}");
    let mut state = seed;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let corpus = corpus();
    assert!(corpus.len() > 20, "the recorded frames are missing");
    for _ in 0..200_000 {
        let mut bytes = corpus[random(corpus.len())].clone();
        for _ in 0..=random(4) {
            match random(4) {
                0 => bytes.truncate(random(bytes.len() + 1)),
                1 => bytes.insert(random(bytes.len()), random(256) as u8),
                _ if bytes.is_empty() => {}
                2 => {
                    let at = random(bytes.len());
                    bytes[at] ^= 1 << random(8);
                }
                _ => {
                    let at = random(bytes.len());
                    bytes[at] = [0, 0x7f, 0x80, 0xff][random(4)];
                }
            }
        }
        let compact = json_header(&bytes).map(|header| (header, compact::parse(header)));
        if let Some((header, Some(compact))) = compact {
            assert_eq!(Ok(compact), decode_any_json(header), "{header}");
        }
        let len = bytes.len();
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(Some(frame)) = decode(&mut buffer, &Limits::default()) {
            assert!(frame.body.len() <= len, "a body from nowhere: {bytes:?}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        code in 0..=32_767_i32,
        opaque: i32,
        remark in proptest::option::of("[a-zA-Z\u{1}-\u{5}é漢\"\\\\]{1,20}"),
        fields in proptest::collection::vec(("[a-zA-Z]{1,8}", "[^\u{0}]{1,20}"), 0..8),
        body in proptest::collection::vec(any::<u8>(), 0..64),
        binary: bool,
    ) {
        let mut frame = golden(if binary { Encoding::Binary } else { Encoding::Json });
        frame.code = code;
        frame.opaque = opaque;
        frame.remark = remark;
        frame.fields = Fields::default();
        for (name, value) in &fields {
            frame.fields.set(name, value);
        }
        frame.body = Bytes::from(body);
        let mut out = BytesMut::new();
        encode(&frame, &mut out);
        if !binary {
            let header = &out[8..out.len() - frame.body.len()];
            let read: serde_json::Value = serde_json::from_slice(header).unwrap();
            let remark = frame.remark.clone().map(serde_json::Value::from);
            prop_assert_eq!(read.get("remark"), remark.as_ref());
            let last: BTreeMap<_, _> = fields.iter().cloned().collect();
            let shown: Result<BTreeMap<String, String>, _> =
                serde_json::from_value(read["extFields"].clone());
            prop_assert_eq!(shown.unwrap_or_default(), last);
            let header = std::str::from_utf8(header).unwrap();
            prop_assert_eq!(compact::parse(header).map(Ok), Some(decode_any_json(header)));
        }
        let decoded = decode(&mut out, &Limits::default());
        prop_assert_eq!(decoded, Ok(Some(frame)));
        prop_assert!(out.is_empty());
    }
}
