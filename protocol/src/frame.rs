//! One frame of the remoting protocol, and how it stands on the wire (`RemotingCommand.java`,
//! `RocketMQSerializable.java`):
//!
//! ```text
//! 4  length of all that follows            big-endian, at most frame_bytes_max
//! 4  encoding (high byte) | header length   0 = JSON, 1 = ROCKETMQ binary
//! n  header
//! m  body                                  absent when the length leaves nothing
//! ```
//!
//! A frame is answered in the encoding in which it was asked. [`decode`] takes no memory for a
//! claimed length: it waits until the bytes are there.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::code::{Language, MQ_VERSION, RequestCode, ResponseCode};
use crate::fields::{Fields, Header};

mod compact;

/// A request or an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The request's or the answer's code; see [`RequestCode`] and [`ResponseCode`].
    pub code: i32,
    pub language: Language,
    /// Ordinal of the sender's release in `MQVersion.java`.
    pub version: i32,
    /// Correlates an answer with its request, by connection.
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<String>,
    pub fields: Fields,
    pub body: Bytes,
    pub encoding: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    #[default]
    Json,
    Binary,
}

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub frame_bytes_max: usize,
    pub header_bytes_max: usize,
}

impl Default for Limits {
    /// Java's frame limit; a header that holds the largest legal properties, JSON-escaped.
    fn default() -> Self {
        Self {
            frame_bytes_max: 16_777_216,
            header_bytes_max: 256 * 1024,
        }
    }
}

/// Why a connection's bytes are not a frame. The connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a frame of {0} bytes is over the limit")]
    FrameTooLong(u64),
    #[error("a header of {0} bytes is over the limit")]
    HeaderTooLong(usize),
    #[error("a frame of {frame} bytes can't hold a header of {header}")]
    HeaderBeyondFrame { frame: usize, header: usize },
    #[error("the header encoding {0} is unknown")]
    UnknownEncoding(u8),
    #[error("the JSON header is broken: {0}")]
    Json(String),
    #[error("the binary header is broken at {0}")]
    Binary(&'static str),
}

const FLAG_RESPONSE: i32 = 1;
const FLAG_ONEWAY: i32 = 2;

impl Frame {
    /// A request of ours, with its header's fields.
    pub fn request(code: RequestCode, header: &impl Header) -> Self {
        let mut fields = Fields::default();
        header.write(&mut fields);
        Self {
            fields,
            ..Self::bare(code.number(), 0)
        }
    }

    /// The answer to `self`: same correlation, same encoding.
    pub fn answer(&self, code: ResponseCode) -> Self {
        Self {
            opaque: self.opaque,
            encoding: self.encoding,
            ..Self::bare(code.number(), FLAG_RESPONSE)
        }
    }

    pub fn with_remark(self, remark: impl Into<String>) -> Self {
        Self {
            remark: Some(remark.into()),
            ..self
        }
    }

    pub fn with_header(mut self, header: &impl Header) -> Self {
        header.write(&mut self.fields);
        self
    }

    pub fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..self
        }
    }

    /// The request without what it says: as much as an answer goes by.
    pub fn head(&self) -> Self {
        Self {
            language: self.language,
            version: self.version,
            opaque: self.opaque,
            encoding: self.encoding,
            ..Self::bare(self.code, self.flag)
        }
    }

    /// Asks for no answer.
    pub fn oneway(self) -> Self {
        Self {
            flag: self.flag | FLAG_ONEWAY,
            ..self
        }
    }

    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    fn bare(code: i32, flag: i32) -> Self {
        Self {
            code,
            language: Language::Rust,
            version: MQ_VERSION,
            opaque: 0,
            flag,
            remark: None,
            fields: Fields::default(),
            body: Bytes::new(),
            encoding: Encoding::Json,
        }
    }
}

/// Takes the first whole frame off `buffer`; `None` while it is incomplete.
pub fn decode(buffer: &mut BytesMut, limits: &Limits) -> Result<Option<Frame>, Malformed> {
    let Some((frame_len, kind, header_len)) = peek_lengths(buffer, limits)? else {
        return Ok(None);
    };
    if buffer.len() < 4 + frame_len {
        return Ok(None);
    }
    let header = buffer.get(8..8 + header_len).unwrap_or_default();
    let mut frame = match kind {
        0 => decode_json(header)?,
        _ => decode_binary(header)?,
    };
    buffer.advance(8 + header_len);
    frame.body = buffer.split_to(frame_len - 4 - header_len).freeze();
    Ok(Some(frame))
}

/// The frame's length after its length field, its encoding and its header's length, all checked.
fn peek_lengths(
    buffer: &BytesMut,
    limits: &Limits,
) -> Result<Option<(usize, u8, usize)>, Malformed> {
    let mut head = buffer.as_ref();
    let Ok(frame_len) = head.try_get_u32() else {
        return Ok(None);
    };
    let frame_len = frame_len as usize;
    if frame_len > limits.frame_bytes_max {
        return Err(Malformed::FrameTooLong(frame_len as u64));
    }
    if frame_len < 4 {
        return Err(Malformed::HeaderBeyondFrame {
            frame: frame_len,
            header: 0,
        });
    }
    let Ok(word) = head.try_get_u32() else {
        return Ok(None);
    };
    let (kind, header_len) = ((word >> 24) as u8, (word & 0x00ff_ffff) as usize);
    if kind > 1 {
        return Err(Malformed::UnknownEncoding(kind));
    }
    if header_len > frame_len - 4 {
        return Err(Malformed::HeaderBeyondFrame {
            frame: frame_len,
            header: header_len,
        });
    }
    if header_len > limits.header_bytes_max {
        return Err(Malformed::HeaderTooLong(header_len));
    }
    Ok(Some((frame_len, kind, header_len)))
}

/// Appends the frame to `out`.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    encode_head(frame, frame.body.len(), out);
    out.put_slice(&frame.body);
}

/// Appends everything but the body, for a caller that writes `body_len` bytes behind it.
pub fn encode_head(frame: &Frame, body_len: usize, out: &mut BytesMut) {
    let start = out.len();
    out.put_u64(0);
    match frame.encoding {
        Encoding::Json => encode_json(frame, out),
        Encoding::Binary => encode_binary(frame, out),
    }
    let header_len = out.len() - start - 8;
    let kind = u32::from(frame.encoding == Encoding::Binary);
    if let Some(mut head) = out.get_mut(start..start + 8) {
        head.put_u32((4 + header_len + body_len) as u32);
        head.put_u32(kind << 24 | header_len as u32);
    }
}

fn decode_json(header: &[u8]) -> Result<Frame, Malformed> {
    // Checked once, not text by text.
    let text = std::str::from_utf8(header).map_err(|e| Malformed::Json(e.to_string()))?;
    compact::parse(text).map_or_else(|| decode_any_json(text), Ok)
}

fn decode_any_json(text: &str) -> Result<Frame, Malformed> {
    let header: JsonHeader =
        serde_json::from_str(text).map_err(|e| Malformed::Json(e.to_string()))?;
    let mut fields = Fields::default();
    for (name, value) in header.ext_fields.unwrap_or_default().0 {
        fields.set_text(&name, &value);
    }
    Ok(Frame {
        code: header.code,
        language: header
            .language
            .as_deref()
            .map_or(Language::Other, Language::from_name),
        version: header.version,
        opaque: header.opaque,
        flag: header.flag,
        remark: header.remark,
        fields,
        body: Bytes::new(),
        encoding: Encoding::Json,
    })
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct JsonHeader {
    code: i32,
    language: Option<String>,
    version: i32,
    opaque: i32,
    flag: i32,
    remark: Option<String>,
    ext_fields: Option<JsonFields>,
}

/// Names and values. All are texts in Java; other clients send numbers and booleans bare. What is
/// null there is absent, as in Java; an array or an object is left out.
#[derive(Default)]
struct JsonFields(Vec<(String, String)>);

impl<'de> Deserialize<'de> for JsonFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = JsonFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonFields, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    use serde_json::Value;
                    match value {
                        Value::String(text) => pairs.push((name, text)),
                        Value::Number(number) => pairs.push((name, number.to_string())),
                        Value::Bool(yes) => pairs.push((name, yes.to_string())),
                        Value::Null | Value::Array(_) | Value::Object(_) => {}
                    }
                }
                Ok(JsonFields(pairs))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Keys in alphabetical order, absent ones left out, as fastjson writes them. By hand, since the
/// many small pieces of a serializer cost more than all of a message besides.
fn encode_json(frame: &Frame, json: &mut BytesMut) {
    let pieces = frame
        .fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + 6);
    let remark = frame.remark.as_deref();
    let bytes = pieces.sum::<usize>() + remark.map_or(0, str::len) + 160;
    json.reserve(bytes);
    json.put_slice(b"{\"code\":");
    put_number(json, frame.code);
    let mut before: &[u8] = b",\"extFields\":{";
    for (name, value) in frame.fields.iter() {
        json.put_slice(before);
        before = b",";
        put_text(json, name);
        json.put_u8(b':');
        put_text(json, value);
    }
    if !frame.fields.is_empty() {
        json.put_u8(b'}');
    }
    json.put_slice(b",\"flag\":");
    put_number(json, frame.flag);
    json.put_slice(b",\"language\":");
    put_text(json, frame.language.name());
    json.put_slice(b",\"opaque\":");
    put_number(json, frame.opaque);
    if let Some(remark) = remark {
        json.put_slice(b",\"remark\":");
        put_text(json, remark);
    }
    json.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    put_number(json, frame.version);
    json.put_u8(b'}');
}

fn put_number(json: &mut BytesMut, number: i32) {
    let written = serde_json::to_writer(json.writer(), &number);
    debug_assert!(written.is_ok(), "invariant: a number always serializes");
}

fn put_text(json: &mut BytesMut, text: &str) {
    if compact::plain_bytes(text.as_bytes()) == text.len() {
        json.put_u8(b'"');
        json.put_slice(text.as_bytes());
        json.put_u8(b'"');
    } else {
        let written = serde_json::to_writer(json.writer(), text);
        debug_assert!(written.is_ok(), "invariant: a text always serializes");
    }
}

fn decode_binary(mut header: &[u8]) -> Result<Frame, Malformed> {
    let fixed = Malformed::Binary("its fixed part");
    let code = header.try_get_i16().map_err(|_| fixed.clone())?;
    let language = header.try_get_u8().map_err(|_| fixed.clone())?;
    let version = header.try_get_i16().map_err(|_| fixed.clone())?;
    let opaque = header.try_get_i32().map_err(|_| fixed.clone())?;
    let flag = header.try_get_i32().map_err(|_| fixed)?;
    let remark = take_text(&mut header, Length::Int, "its remark")?;
    let fields_len = header
        .try_get_u32()
        .map_err(|_| Malformed::Binary("its field length"))?;
    let mut rest = header
        .get(..fields_len as usize)
        .ok_or(Malformed::Binary("its field length"))?;
    let mut fields = Fields::default();
    while !rest.is_empty() {
        let name = take_text(&mut rest, Length::Short, "a field's name")?;
        let value = take_text(&mut rest, Length::Int, "a field's value")?;
        // Java reads an empty text as null, and a null is an absent field.
        if let (Some(name), Some(value)) = (name, value) {
            fields.set_text(name, value);
        }
    }
    Ok(Frame {
        code: i32::from(code),
        language: Language::from_number(language),
        version: i32::from(version),
        opaque,
        flag,
        remark: remark.map(str::to_owned),
        fields,
        body: Bytes::new(),
        encoding: Encoding::Binary,
    })
}

#[derive(Clone, Copy)]
enum Length {
    Short,
    Int,
}

/// A length-prefixed text off the front of `bytes`; `None` when it is empty.
fn take_text<'a>(
    bytes: &mut &'a [u8],
    length: Length,
    what: &'static str,
) -> Result<Option<&'a str>, Malformed> {
    let broken = || Malformed::Binary(what);
    let len = match length {
        Length::Short => bytes.try_get_u16().map_err(|_| broken())? as usize,
        Length::Int => bytes.try_get_u32().map_err(|_| broken())? as usize,
    };
    let (text, rest) = bytes.split_at_checked(len).ok_or_else(broken)?;
    *bytes = rest;
    let text = std::str::from_utf8(text).map_err(|_| broken())?;
    Ok((!text.is_empty()).then_some(text))
}

fn encode_binary(frame: &Frame, out: &mut BytesMut) {
    // The protocol has 16 bits here: codes above 32,767 can't be asked in this encoding.
    out.put_i16(frame.code as i16);
    out.put_u8(frame.language.number());
    out.put_i16(frame.version as i16);
    out.put_i32(frame.opaque);
    out.put_i32(frame.flag);
    let remark = frame.remark.as_deref().unwrap_or_default();
    out.put_u32(remark.len() as u32);
    out.put_slice(remark.as_bytes());
    let fields_len: usize = frame
        .fields
        .iter()
        .map(|(name, value)| 6 + name.len() + value.len())
        .sum();
    out.put_u32(fields_len as u32);
    for (name, value) in frame.fields.iter() {
        out.put_u16(name.len() as u16);
        out.put_slice(name.as_bytes());
        out.put_u32(value.len() as u32);
        out.put_slice(value.as_bytes());
    }
}

#[cfg(test)]
mod tests;
