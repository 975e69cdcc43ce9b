//! Requests that are written once and patched for each message: no header is encoded and nothing
//! allocated while messages are counted. Numbers that change are as wide as they can become.

use anyhow::Context as _;
use bytes::BytesMut;
use protocol::{Frame, frame};

/// The opaque of slot 0: every slot's has as many digits.
const OPAQUE_FIRST: i32 = 1_000_000_000;

/// A request in JSON, as RocketMQ's own clients write it unless told otherwise.
#[derive(Debug, Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    opaque_at: usize,
}

impl Template {
    pub(super) fn new(request: Frame) -> anyhow::Result<Self> {
        let request = Frame {
            opaque: OPAQUE_FIRST,
            ..request
        };
        let mut bytes = BytesMut::new();
        frame::encode(&request, &mut bytes);
        let mut template = Self {
            bytes: bytes.to_vec(),
            opaque_at: 0,
        };
        template.opaque_at = template.place(&OPAQUE_FIRST.to_string())?;
        Ok(template)
    }

    /// Where a text stands that is nowhere before.
    pub(super) fn place(&self, text: &str) -> anyhow::Result<usize> {
        let found = find(&self.bytes, text.as_bytes());
        found.with_context(|| format!("invariant: {text} is in the request"))
    }

    /// Writes digits that end before `end`, with zeros before them down to `start`.
    pub(super) fn set(&mut self, start: usize, end: usize, mut number: u64) {
        for digit in self.bytes[start..end].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }

    pub(super) fn write(&mut self, slot: usize, out: &mut BytesMut) {
        let at = self.opaque_at;
        self.set(at, at + 10, OPAQUE_FIRST as u64 + slot as u64);
        out.extend_from_slice(&self.bytes);
    }
}

/// An answer's slot and code, read off the bytes: members of a JSON object can't be mistaken for
/// parts of a text, where a quote has a backslash before it.
pub(super) fn slot_and_code(answer: &[u8]) -> anyhow::Result<(usize, i32)> {
    let length = answer.get(4..8).context("a short answer")?;
    let length = u32::from_be_bytes(length.try_into()?) & 0x00ff_ffff;
    let header = answer.get(8..8 + length as usize);
    let header = header.context("a short header")?;
    let number = |name: &[u8]| {
        let at = find(header, name)? + name.len();
        let digits = header.get(at..)?;
        let digits = digits.strip_prefix(b" ").unwrap_or(digits);
        let end = digits.iter().position(|b| !b.is_ascii_digit())?;
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    };
    let wrong = || format!("not an answer: {}", String::from_utf8_lossy(header));
    let opaque: i32 = number(b"\"opaque\":").with_context(wrong)?;
    let code = number(b"\"code\":").with_context(wrong)?;
    let slot = opaque.checked_sub(OPAQUE_FIRST).with_context(wrong)?;
    Ok((usize::try_from(slot).with_context(wrong)?, code))
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|part| part == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::header::QueueOf;
    use protocol::{RequestCode, ResponseCode};

    #[test]
    fn a_patched_request_is_whole_and_its_answer_is_found() {
        let header = QueueOf {
            topic: "T".to_owned(),
            queue: 77_777,
        };
        let request = Frame::request(RequestCode::GetMaxOffset, &header);
        let mut template = Template::new(request).expect("a template");
        let at = template.place("77777").expect("the queue");
        template.set(at, at + 5, 42);
        let mut out = BytesMut::new();
        template.write(17, &mut out);
        let read = frame::decode(&mut out, &frame::Limits::default());
        let read = read.expect("well formed").expect("whole");
        assert_eq!(read.fields.get("queueId"), Some("00042"));
        let remark = r#""opaque":3 "code":9"#;
        let answer = read.answer(ResponseCode::SystemBusy).with_remark(remark);
        let mut out = BytesMut::new();
        frame::encode(&answer, &mut out);
        let found = slot_and_code(&out).expect("an answer");
        assert_eq!(found, (17, ResponseCode::SystemBusy.number()));
        assert!(slot_and_code(b"\0\0\0\x04\0\0\0\x09").is_err());
    }
}
