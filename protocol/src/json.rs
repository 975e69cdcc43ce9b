//! fastjson's dialect of JSON, which Java brokers and clients write and older ones need.
//!
//! It differs in its keys: integers stand bare (`{0:"a"}`), and an object may be a key
//! (`{{"queueId":1}:5}`). [`to_fastjson`] writes integer-keyed maps that way, and maps marked with
//! [`object_keys`]; [`from_fastjson`] reads both dialects by rewriting keys into texts, an object
//! key into the text of its JSON.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// How deep a body may nest.
pub const DEPTH_MAX: usize = 64;

/// Why a body is no JSON of either dialect.
#[derive(Debug, thiserror::Error)]
#[error("the JSON body is broken: {0}")]
pub struct JsonError(String);

/// Strict JSON.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: bodies are maps with text or integer keys")
}

/// JSON with bare integer keys.
pub fn to_fastjson(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, Fastjson::default());
    value
        .serialize(&mut serializer)
        .expect("invariant: bodies are maps with text or integer keys");
    out
}

/// Reads a body of either dialect.
pub fn from_fastjson<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    // Strict JSON, the common case, is read as it is.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let strict = rewrite_keys(bytes)?;
    serde_json::from_slice(&strict).map_err(|e| JsonError(e.to_string()))
}

/// For a map whose keys are objects: in Rust they are texts, each the JSON of its object, which
/// [`to_fastjson`] writes bare.
pub mod object_keys {
    use std::collections::BTreeMap;

    use serde::de::{DeserializeOwned, Error as _};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = |key: &K| String::from_utf8_lossy(&super::to_json(key)).into_owned();
        serializer.collect_map(map.iter().map(|(key, value)| (text(key), value)))
    }

    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: DeserializeOwned + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let texts = BTreeMap::<String, V>::deserialize(deserializer)?;
        let object = |(key, value): (String, V)| {
            let key = super::from_fastjson(key.as_bytes()).map_err(D::Error::custom)?;
            Ok((key, value))
        };
        texts.into_iter().map(object).collect()
    }
}

/// Holds the quote of a key back until its first character tells whether it is an integer or an
/// object.
#[derive(Default)]
struct Fastjson {
    in_key: bool,
    quote_held: bool,
    bare: bool,
}

impl Fastjson {
    fn release_quote<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if std::mem::take(&mut self.quote_held) {
            writer.write_all(b"\"")?;
        }
        Ok(())
    }
}

impl Formatter for Fastjson {
    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.in_key = true;
        CompactFormatter.begin_object_key(writer, first)
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.in_key = false;
        Ok(())
    }

    fn begin_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.bare = false;
        self.quote_held = self.in_key;
        if self.in_key {
            Ok(())
        } else {
            writer.write_all(b"\"")
        }
    }

    fn write_i64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        self.bare = std::mem::take(&mut self.quote_held);
        CompactFormatter.write_i64(writer, value)
    }

    fn write_i32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i32) -> io::Result<()> {
        self.write_i64(writer, i64::from(value))
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment == "{" && std::mem::take(&mut self.quote_held) {
            self.bare = true;
        }
        self.release_quote(writer)?;
        CompactFormatter.write_string_fragment(writer, fragment)
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: serde_json::ser::CharEscape,
    ) -> io::Result<()> {
        use serde_json::ser::CharEscape;
        match escape {
            CharEscape::Quote if self.bare => return writer.write_all(b"\""),
            CharEscape::ReverseSolidus if self.bare => return writer.write_all(b"\\"),
            _ => {}
        }
        self.release_quote(writer)?;
        CompactFormatter.write_char_escape(writer, escape)
    }

    fn end_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.release_quote(writer)?;
        if std::mem::take(&mut self.bare) {
            Ok(())
        } else {
            writer.write_all(b"\"")
        }
    }
}

/// Strict JSON with the same values: every key a text.
fn rewrite_keys(bytes: &[u8]) -> Result<Vec<u8>, JsonError> {
    let mut reader = Reader {
        rest: bytes,
        depth: 0,
    };
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    reader.value(&mut out)?;
    reader.skip_space();
    if reader.rest.is_empty() {
        Ok(out)
    } else {
        Err(JsonError("more than one value".into()))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl Reader<'_> {
    fn value(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        self.skip_space();
        match self.rest.first() {
            Some(b'{') => self.nested(out, b'}', |this, out| {
                this.key(out)?;
                this.expect(b':', out)?;
                this.value(out)
            }),
            Some(b'[') => self.nested(out, b']', Self::value),
            Some(b'"' | b'\'') => self.text(out),
            Some(_) => self.bare(out),
            None => Err(JsonError("it ends in the middle".into())),
        }
    }

    fn key(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        self.skip_space();
        match self.rest.first() {
            Some(b'"' | b'\'') => self.text(out),
            Some(b'{') => {
                let mut object = Vec::new();
                self.value(&mut object)?;
                let text = String::from_utf8_lossy(&object);
                out.extend(to_json(&text));
                Ok(())
            }
            _ => {
                out.push(b'"');
                self.bare(out)?;
                out.push(b'"');
                Ok(())
            }
        }
    }

    /// An object or an array: items between its brackets, a trailing comma allowed.
    fn nested(
        &mut self,
        out: &mut Vec<u8>,
        close: u8,
        item: impl Fn(&mut Self, &mut Vec<u8>) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(JsonError(format!("it nests deeper than {DEPTH_MAX}")));
        }
        out.push(self.take()?);
        let mut first = true;
        loop {
            self.skip_space();
            if self.rest.first() == Some(&close) {
                break;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            item(self, out)?;
            self.skip_space();
            if self.rest.first() == Some(&b',') {
                self.take()?;
            } else if self.rest.first() != Some(&close) {
                return Err(JsonError("a comma or a closing bracket is missing".into()));
            }
        }
        self.depth -= 1;
        out.push(self.take()?);
        Ok(())
    }

    /// A text in either quote, its escapes kept.
    fn text(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let quote = self.take()?;
        out.push(b'"');
        loop {
            match self.take()? {
                b'\\' => match self.take()? {
                    b'\'' => out.push(b'\''),
                    escaped => out.extend([b'\\', escaped]),
                },
                b'"' if quote == b'\'' => out.extend(b"\\\""),
                c if c == quote => break,
                c => out.push(c),
            }
        }
        out.push(b'"');
        Ok(())
    }

    /// A number, a word, or an unquoted key.
    fn bare(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let legal = |c: &u8| c.is_ascii_alphanumeric() || b"+-._$%".contains(c);
        let len = self.rest.iter().take_while(|c| legal(c)).count();
        let (word, rest) = self.rest.split_at_checked(len).unwrap_or_default();
        if word.is_empty() {
            return Err(JsonError("a value is missing".into()));
        }
        out.extend_from_slice(word);
        self.rest = rest;
        Ok(())
    }

    fn expect(&mut self, wanted: u8, out: &mut Vec<u8>) -> Result<(), JsonError> {
        self.skip_space();
        if self.take()? != wanted {
            return Err(JsonError(format!("{:?} is missing", wanted as char)));
        }
        out.push(wanted);
        Ok(())
    }

    fn take(&mut self) -> Result<u8, JsonError> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| JsonError("it ends in the middle".into()))?;
        self.rest = rest;
        Ok(*first)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    #[test]
    fn integer_keys_stand_bare_as_in_java() {
        let table = BTreeMap::from([(0_i64, 2_i64), (1, 10)]);
        assert_eq!(to_fastjson(&table), b"{0:2,1:10}");
        assert_eq!(to_json(&table), br#"{"0":2,"1":10}"#);
        let nested = BTreeMap::from([("a\"b", BTreeMap::from([(-1_i64, "x")]))]);
        assert_eq!(to_fastjson(&nested), br#"{"a\"b":{-1:"x"}}"#);
        let empty = BTreeMap::from([("", 1)]);
        assert_eq!(to_fastjson(&empty), br#"{"":1}"#);
    }

    #[test]
    fn objects_are_keys_as_in_java() {
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        struct Table(#[serde(with = "object_keys")] BTreeMap<BTreeMap<String, String>, String>);
        let key = BTreeMap::from([("t".to_owned(), "a\\\"b".to_owned())]);
        let table = Table(BTreeMap::from([(key, "\"{".to_owned())]));
        let text = to_fastjson(&table);
        assert_eq!(text, br#"{{"t":"a\\\"b"}:"\"{"}"#);
        assert_eq!(from_fastjson::<Table>(&text).expect("ours"), table);
    }

    #[test]
    fn both_dialects_are_read() {
        let check = |text: &str, expect: Option<Value>| {
            let value: Option<Value> = from_fastjson(text.as_bytes()).ok();
            assert_eq!(value, expect, "{text}");
        };
        check(
            r#"{"a":{0:"x",1:[2,3]}}"#,
            Some(json!({"a": {"0": "x", "1": [2, 3]}})),
        );
        check(
            r#"{{"brokerName":"b","queueId":1,"topic":"T"}:5}"#,
            Some(json!({"{\"brokerName\":\"b\",\"queueId\":1,\"topic\":\"T\"}": 5})),
        );
        check(
            "{a:'it\\'s \"so\"',b:true,}",
            Some(json!({"a": "it's \"so\"", "b": true})),
        );
        check(r#"{"a":"\u00e9\n"}"#, Some(json!({"a": "é\n"})));
        for broken in [
            "",
            "{",
            "{a:}",
            "{a 1}",
            "[1 2]",
            "{}{}",
            "'x",
            &"[".repeat(1_000),
        ] {
            check(broken, None);
        }
    }
}
