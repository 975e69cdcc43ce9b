//! JSON headers as clients write them, read in one pass: no space between the tokens, each key
//! once, and nothing but texts among the fields. Whatever else a header holds, [`parse`] says
//! `None`, and a JSON library reads it; where both read it they agree.

use super::{Encoding, Frame};
use crate::code::Language;
use crate::fields::{Fields, Span};

/// The frame without its body.
pub(super) fn parse(text: &str) -> Option<Frame> {
    let mut frame = Frame {
        language: Language::Other,
        version: 0,
        fields: Fields::of_text(text),
        encoding: Encoding::Json,
        ..Frame::bare(0, 0)
    };
    let mut rest = Rest {
        bytes: text.as_bytes(),
        at: 0,
    };
    let mut seen: Vec<(u32, u32)> = Vec::with_capacity(8);
    rest.eat(b'{')?;
    loop {
        let key = rest.text(&mut frame.fields)?;
        rest.eat(b':')?;
        let is_it = |other: &(u32, u32)| frame.fields.slice(*other) == frame.fields.slice(key);
        if seen.iter().any(is_it) {
            return None;
        }
        seen.push(key);
        match frame.fields.slice(key) {
            "code" => frame.code = rest.number()?,
            "version" => frame.version = rest.number()?,
            "opaque" => frame.opaque = rest.number()?,
            "flag" => frame.flag = rest.number()?,
            "language" => {
                let value = rest.text(&mut frame.fields)?;
                frame.language = Language::from_name(frame.fields.slice(value));
            }
            "remark" => {
                let value = rest.text(&mut frame.fields)?;
                frame.remark = Some(frame.fields.slice(value).to_owned());
            }
            "serializeTypeCurrentRPC" => {
                rest.text(&mut frame.fields)?;
            }
            "extFields" => rest.fields(&mut frame.fields)?,
            _ => return None,
        }
        match rest.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    (rest.at == rest.bytes.len()).then_some(frame)
}

/// What is still unread.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Rest<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn number(&mut self) -> Option<i32> {
        let start = self.at;
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let sign = usize::from(self.bytes.get(start) == Some(&b'-'));
        let digits = self
            .bytes
            .get(start + sign..)?
            .iter()
            .take_while(is_digit)
            .count();
        self.at = start + sign + digits;
        let number = std::str::from_utf8(self.bytes.get(start..self.at)?).ok()?;
        let number: i32 = number.parse().ok()?;
        // JSON has neither -0 as an integer nor zeros in front.
        let zero = self.bytes.get(start + sign) == Some(&b'0');
        (!zero || (digits == 1 && sign == 0)).then_some(number)
    }

    fn fields(&mut self, fields: &mut Fields) -> Option<()> {
        self.eat(b'{')?;
        if self.bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
            return Some(());
        }
        loop {
            let name = self.text(fields)?;
            self.eat(b':')?;
            let value = self.text(fields)?;
            fields.add_span(Span { name, value });
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Where in the text of `fields`, which begins with the header's, the next text lies.
    fn text(&mut self, fields: &mut Fields) -> Option<(u32, u32)> {
        self.eat(b'"')?;
        let start = self.at;
        self.at += plain_bytes(self.bytes.get(start..)?);
        if self.bytes.get(self.at)? == &b'"' {
            self.at += 1;
            return Some((start as u32, self.at as u32 - 1));
        }
        self.at = start;
        fields.push_whole(|text| self.unescape(text))
    }

    /// A text up to and with its end, without its escapes, of which those above ASCII are left to
    /// the library.
    fn unescape(&mut self, text: &mut String) -> Option<()> {
        loop {
            let start = self.at;
            self.at += plain_bytes(self.bytes.get(start..)?);
            // Between ASCII characters a text can be cut.
            text.push_str(std::str::from_utf8(self.bytes.get(start..self.at)?).ok()?);
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => text.push(self.escaped()?),
                _ => return None,
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        Some(match self.next()? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                let digit = |digit: &u8| char::from(*digit).to_digit(16);
                let code = digits
                    .iter()
                    .try_fold(0, |code, d| Some(code * 16 + digit(d)?))?;
                self.at += 4;
                char::from_u32(code).filter(char::is_ascii)?
            }
            _ => return None,
        })
    }
}

/// How many bytes stand before the first that ends a text or means something in it: a quote, a
/// backslash, or a control character, which may not be there.
pub(super) fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    // Each byte's highest bit says whether the byte is 0; bits above the first may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let backslashes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found = quotes | backslashes | controls;
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let found = rest.iter().position(ends);
    words.len() * 8 + found.unwrap_or(rest.len())
}
