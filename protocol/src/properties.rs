//! The property string of a message: `name 0x01 value 0x02`, repeated.
//!
//! Read by Java's rules: a segment without a name, without a value or without the 0x01 between
//! them is skipped, and the last of several equal names wins. A segment that is not UTF-8 is
//! skipped too. The order of properties means nothing to anybody.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use memchr::memchr;

/// Between a property's name and its value.
pub const NAME_END: u8 = 1;
/// After each value.
pub const VALUE_END: u8 = 2;

pub const KEYS: &str = "KEYS";
pub const TAGS: &str = "TAGS";
pub const UNIQ_KEY: &str = "UNIQ_KEY";
pub const WAIT: &str = "WAIT";
pub const DELAY: &str = "DELAY";
pub const CLUSTER: &str = "CLUSTER";
pub const MSG_REGION: &str = "MSG_REGION";
pub const TRACE_ON: &str = "TRACE_ON";
pub const MSG_TYPE: &str = "MSG_TYPE";
/// The id of the client that waits for this answer, and when the broker has passed it on.
pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
pub const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
pub const REAL_TOPIC: &str = "REAL_TOPIC";
pub const REAL_QID: &str = "REAL_QID";
pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
pub const TRAN_MSG: &str = "TRAN_MSG";
pub const PGROUP: &str = "PGROUP";
pub const TRANSACTION_ID: &str = "__transactionId__";
/// How often the sender of a half message was asked for its end.
pub const CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
/// For so many seconds it is not asked.
pub const CHECK_IMMUNITY_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
/// Of a half message that was stored again: the offset at which its sender knows it.
pub const PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
pub const INSTANCE_ID: &str = "INSTANCE_ID";
pub const SHARDING_KEY: &str = "__SHARDINGKEY";
/// The receipt of a popped message of a retry topic: only in answers.
pub const POP_CK: &str = "POP_CK";
/// When a message that was not acknowledged was popped for the first time, Unix time in ms.
pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
pub const INNER_NUM: &str = "INNER_NUM";
/// A timer has stored the message and will not take it again.
pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
/// Topics into which a message goes besides its own, and its offsets there.
pub const INNER_MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
pub const INNER_MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
/// When the original of a delayed message was stored, Unix time in ms: in a copy of Gantry's that
/// stands in for it, never with a consumer.
pub const STORED_MS: &str = "__GANTRY_STORED_MS";
/// The checksum of the whole record; only the store writes it.
pub const CRC32: &str = "__CRC32#";

/// Every well-formed property, in the order of the string.
pub fn iter(properties: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    properties
        .split(|byte| *byte == VALUE_END)
        .filter_map(|segment| {
            let (name, value) = split(segment)?;
            Some((
                std::str::from_utf8(name).ok()?,
                std::str::from_utf8(value).ok()?,
            ))
        })
}

/// The value of one property, without allocation.
pub fn get<'a>(properties: &'a [u8], name: &str) -> Option<&'a str> {
    let [value] = get_all(properties, [name]);
    value
}

/// The values of several properties, in one go.
pub fn get_all<'a, const N: usize>(properties: &'a [u8], names: [&str; N]) -> [Option<&'a str>; N] {
    let mut values = [None; N];
    let mut rest = properties;
    while !rest.is_empty() {
        let end = memchr(VALUE_END, rest).unwrap_or(rest.len());
        let (segment, behind) = rest.split_at_checked(end).unwrap_or_default();
        for (value, name) in values.iter_mut().zip(&names) {
            // The byte behind the name rules nearly all others out.
            if segment.get(name.len()) == Some(&NAME_END)
                && !name.is_empty()
                && let Some(found) = segment.strip_prefix(name.as_bytes())
                && let Some(found) = found.get(1..).filter(|found| !found.is_empty())
            {
                *value = std::str::from_utf8(found).ok().or(*value);
            }
        }
        rest = behind.get(1..).unwrap_or_default();
    }
    values
}

/// The string of these properties; a pair with an empty name or value is left out.
pub fn encode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        push(&mut out, name, value);
    }
    out
}

/// Appends one property to an encoded string, closing an unclosed last value first.
pub fn push(out: &mut Vec<u8>, name: &str, value: &str) {
    if name.is_empty() || value.is_empty() {
        return;
    }
    if out.last().is_some_and(|last| *last != VALUE_END) {
        out.push(VALUE_END);
    }
    out.extend_from_slice(name.as_bytes());
    out.push(NAME_END);
    out.extend_from_slice(value.as_bytes());
    out.push(VALUE_END);
}

/// The same properties with `name` set to `value`.
pub fn set(properties: &[u8], name: &str, value: &str) -> Vec<u8> {
    let mut out = remove(properties, name);
    push(&mut out, name, value);
    out
}

/// The same properties without `name`; other segments stay byte for byte.
pub fn remove(properties: &[u8], name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(properties.len());
    without(&mut out, properties, |other| other == name.as_bytes());
    out
}

/// [`set`] for each of `pairs` that has another value, and [`remove`] of `gone`, in one go.
pub fn complete<const N: usize>(
    properties: &[u8],
    gone: &str,
    pairs: [(&str, &str); N],
) -> Vec<u8> {
    let old = get_all(properties, pairs.map(|(name, _)| name));
    let new = pairs.iter().zip(old);
    let new = new.filter(|((_, value), old)| *old != Some(*value));
    let new: Vec<_> = new.map(|(pair, _)| pair).collect();
    let added = new.iter().map(|(name, value)| name.len() + value.len() + 2);
    let mut out = Vec::with_capacity(properties.len() + added.sum::<usize>() + 1);
    without(&mut out, properties, |name| {
        let mut new = new.iter();
        name == gone.as_bytes() || new.any(|(other, _)| name == other.as_bytes())
    });
    for (name, value) in new {
        push(&mut out, name, value);
    }
    out
}

/// Appends all segments but those of the names that go.
fn without(out: &mut Vec<u8>, properties: &[u8], goes: impl Fn(&[u8]) -> bool) {
    for segment in properties.split_inclusive(|byte| *byte == VALUE_END) {
        let bare = segment.strip_suffix(&[VALUE_END]).unwrap_or(segment);
        if split(bare).is_none_or(|(name, _)| !goes(name)) {
            out.extend_from_slice(segment);
        }
    }
}

/// Java's `String.hashCode`: over UTF-16 units, wrapping.
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

/// What a queue entry says of a message's tag: the sign-extended hash, 0 without a tag.
pub fn tags_code(tags: Option<&str>) -> i64 {
    tags.filter(|tags| !tags.is_empty())
        .map_or(0, |tags| i64::from(java_hash(tags)))
}

fn split(segment: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr(NAME_END, segment)?;
    let (name, rest) = segment.split_at_checked(at)?;
    let value = rest.get(1..)?;
    (!name.is_empty() && !value.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_as_java_reads() {
        type Row = (&'static [u8], &'static [(&'static str, &'static str)]);
        let rows: &[Row] = &[
            (b"", &[]),
            (b"TAGS\x01a\x02", &[("TAGS", "a")]),
            (b"TAGS\x01a", &[("TAGS", "a")]),
            (
                b"TAGS\x01a\x02KEYS\x01k1 k2\x02",
                &[("TAGS", "a"), ("KEYS", "k1 k2")],
            ),
            (b"\x01a\x02K\x01v\x02", &[("K", "v")]),
            (b"a\x01\x02K\x01v\x02", &[("K", "v")]),
            (b"nothing\x02K\x01v\x02\x02", &[("K", "v")]),
            (b"K\x01v\x01w\x02", &[("K", "v\x01w")]),
            (b"K\x01\xff\x02L\x01v\x02", &[("L", "v")]),
        ];
        for (bytes, expect) in rows {
            assert_eq!(iter(bytes).collect::<Vec<_>>(), *expect, "{bytes:?}");
            for (name, value) in *expect {
                assert_eq!(get(bytes, name), Some(*value), "{bytes:?}");
            }
        }
        assert_eq!(get(b"A\x01x\x02AB\x01y\x02", "AB"), Some("y"));
        assert_eq!(
            get(b"A\x01x\x02A\x01y\x02", "A"),
            Some("y"),
            "the last wins"
        );
        assert_eq!(get(b"A\x01x\x02", "B"), None);
    }

    #[test]
    fn sets_and_removes() {
        type Row = (
            &'static [u8],
            &'static str,
            Option<&'static str>,
            &'static [u8],
        );
        let rows: &[Row] = &[
            (b"", "A", Some("x"), b"A\x01x\x02"),
            (b"A\x01x\x02", "A", Some("y"), b"A\x01y\x02"),
            (b"A\x01x\x02B\x01z", "A", Some("y"), b"B\x01z\x02A\x01y\x02"),
            (b"A\x01x\x02B\x01z\x02", "B", None, b"A\x01x\x02"),
            (b"A\x01x\x02B\x01z", "B", None, b"A\x01x\x02"),
            (b"A\x01x\x02", "A", Some(""), b""),
        ];
        for (before, name, value, after) in rows {
            let got = match value {
                Some(value) => set(before, name, value),
                None => remove(before, name),
            };
            assert_eq!(got, *after, "{before:?} {name} {value:?}");
        }
        let encoded = encode([("A", "x"), ("", "y"), ("B", ""), ("C", "z")]);
        assert_eq!(encoded, b"A\x01x\x02C\x01z\x02");
    }

    proptest! {
        #[test]
        fn in_one_go_is_one_after_the_other(
            text in "([ABP]{0,2}[\u{1}]?[xyz]{0,2}[\u{2}]?){0,5}",
            a in "[xyz]{0,2}",
            b in "[xyz]{0,2}",
        ) {
            let text = text.as_bytes();
            let pairs = [("A", a.as_str()), ("B", b.as_str())];
            let mut expect = remove(text, "P");
            for (name, value) in pairs {
                if get(text, name) != Some(value) {
                    expect = set(&expect, name, value);
                }
            }
            prop_assert_eq!(complete(text, "P", pairs), expect);
            for name in ["A", "B", "P", "AB"] {
                let last = iter(text).filter(|(other, _)| *other == name).last();
                prop_assert_eq!(get(text, name), last.map(|(_, value)| value));
                prop_assert_eq!(get_all(text, ["A", name]), [get(text, "A"), get(text, name)]);
            }
        }
    }

    #[test]
    fn hashes_as_java_hashes() {
        for (text, hash) in [
            ("", 0),
            ("TagA", 2_598_919),
            ("g1", 3242),
            ("\u{1F600}", 1_772_899),
        ] {
            assert_eq!(java_hash(text), hash, "{text}");
        }
        assert_eq!(tags_code(Some("TagA")), 2_598_919);
        assert_eq!(tags_code(Some("polygenelubricants")), i64::from(i32::MIN));
        assert_eq!(tags_code(None), 0);
    }
}
