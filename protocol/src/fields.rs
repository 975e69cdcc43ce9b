//! The extension fields of a frame header: names and values, both text.
//!
//! A header carries 5 to 30 short fields and is read once or twice, so they live in one string
//! with a span each: two allocations a header, a linear look-up. [`header!`] declares a typed
//! header once: field, wire name, whether it is required.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;

/// A typed header: what a request or an answer says in its extension fields.
pub trait Header: Sized {
    fn read(fields: &Fields) -> Result<Self, FieldError>;
    fn write(&self, fields: &mut Fields);
}

/// Why a header could not be read: the field's wire name and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("the field {0} is missing")]
    Missing(&'static str),
    #[error("the field {name} has the value {value:?}, which is no {wanted}")]
    Invalid {
        name: &'static str,
        value: String,
        wanted: &'static str,
    },
}

/// Extension fields in the order in which they were set. A later value of a name wins.
#[derive(Default, Clone)]
pub struct Fields {
    text: String,
    spans: Vec<Span>,
}

/// Where in the text name and value lie.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) name: (u32, u32),
    pub(crate) value: (u32, u32),
}

const FIELDS: usize = 8;
const FIELDS_BYTES: usize = 192;

impl Fields {
    pub fn get(&self, name: &str) -> Option<&str> {
        // By their bytes: to cut a text out costs more than to compare a few letters.
        let (text, name) = (self.text.as_bytes(), name.as_bytes());
        let is_it = |span: &&Span| {
            let (start, end) = (span.name.0 as usize, span.name.1 as usize);
            let found = text.get(start..end);
            found.is_some_and(|found| found.first() == name.first() && found == name)
        };
        let span = self.spans.iter().rev().find(is_it)?;
        Some(self.slice(span.value))
    }

    pub fn set(&mut self, name: &str, value: impl fmt::Display) {
        self.add(name, |text| {
            // Writing into a String can't fail.
            let _ = write!(text, "{value}");
        });
    }

    /// The same of a text, which costs less: most values are.
    pub(crate) fn set_text(&mut self, name: &str, value: &str) {
        self.add(name, |text| text.push_str(value));
    }

    fn add(&mut self, name: &str, value: impl FnOnce(&mut String)) {
        if self.spans.is_empty() {
            // For the few that most headers have.
            self.text.reserve(FIELDS_BYTES);
            self.spans.reserve(FIELDS);
        }
        let name = self.push(|text| text.push_str(name));
        let value = self.push(value);
        self.spans.push(Span { name, value });
    }

    /// None yet, of a header whose text is kept as a whole, not piece by piece.
    pub(crate) fn of_text(header: &str) -> Self {
        // What has escapes is written behind it once more: the properties of a message, as a rule.
        let mut text = String::with_capacity(header.len() + header.len() / 2);
        text.push_str(header);
        Self {
            text,
            spans: Vec::with_capacity(16),
        }
    }

    /// Adds a field that lies in the text already.
    pub(crate) fn add_span(&mut self, span: Span) {
        self.spans.push(span);
    }

    /// Writes behind the text, and says where, unless `write` fails.
    pub(crate) fn push_whole(
        &mut self,
        write: impl FnOnce(&mut String) -> Option<()>,
    ) -> Option<(u32, u32)> {
        let start = self.text.len();
        write(&mut self.text)?;
        Some((start as u32, self.text.len() as u32))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spans
            .iter()
            .map(|s| (self.slice(s.name), self.slice(s.value)))
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Reads one field into its type; an absent field is `None`.
    pub fn parse<T: FieldValue>(&self, name: &'static str) -> Result<Option<T>, FieldError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        T::parse(value)
            .map(Some)
            .ok_or_else(|| FieldError::Invalid {
                name,
                value: value.chars().take(64).collect(),
                wanted: T::WANTED,
            })
    }

    fn push(&mut self, write: impl FnOnce(&mut String)) -> (u32, u32) {
        let start = self.text.len();
        write(&mut self.text);
        (start as u32, self.text.len() as u32)
    }

    pub(crate) fn slice(&self, (start, end): (u32, u32)) -> &str {
        let range: Range<usize> = start as usize..end as usize;
        self.text.get(range).unwrap_or_default()
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Equal when they answer every look-up alike, whatever their order.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        let within = |a: &Self, b: &Self| a.iter().all(|(name, _)| a.get(name) == b.get(name));
        within(self, other) && within(other, self)
    }
}

/// A value that stands in one field, as Java's `toString` writes it.
pub trait FieldValue: Sized {
    const WANTED: &'static str;
    fn parse(value: &str) -> Option<Self>;

    fn put(&self, fields: &mut Fields, name: &str);
}

/// A member of a header: a value that must be there, or an `Option` of one.
pub trait Member: Sized {
    fn read(fields: &Fields, name: &'static str) -> Result<Self, FieldError>;
    fn write(&self, fields: &mut Fields, name: &'static str);
}

impl<T: FieldValue> Member for Option<T> {
    fn read(fields: &Fields, name: &'static str) -> Result<Self, FieldError> {
        fields.parse(name)
    }

    fn write(&self, fields: &mut Fields, name: &'static str) {
        if let Some(value) = self {
            value.put(fields, name);
        }
    }
}

macro_rules! field_values {
    ($($type:ty => $wanted:literal, $parse:expr, $put:ident;)*) => {
        $(
            impl FieldValue for $type {
                const WANTED: &'static str = $wanted;

                fn parse(value: &str) -> Option<Self> {
                    let parse: fn(&str) -> Option<Self> = $parse;
                    parse(value)
                }

                fn put(&self, fields: &mut Fields, name: &str) {
                    fields.$put(name, self);
                }
            }

            impl Member for $type {
                fn read(fields: &Fields, name: &'static str) -> Result<Self, FieldError> {
                    fields.parse(name)?.ok_or(FieldError::Missing(name))
                }

                fn write(&self, fields: &mut Fields, name: &'static str) {
                    self.put(fields, name);
                }
            }
        )*
    };
}

field_values! {
    i32 => "32-bit integer", |v| v.parse().ok(), set;
    i64 => "64-bit integer", |v| v.parse().ok(), set;
    String => "text", |v| Some(v.to_owned()), set_text;
    // `Boolean.parseBoolean`: anything but `true` is false.
    bool => "boolean", |v| Some(v.eq_ignore_ascii_case("true")), set;
}

/// Declares typed headers. `name: Type = "wire"` is required, `name: Option<Type> = "wire"`
/// may be absent, `name: Type = "wire" or default` is filled in.
#[macro_export]
macro_rules! header {
    ($($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* $field:ident : $type:ty = $wire:literal
            $(or $default:expr)?),* $(,)?
    })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Default)]
            pub struct $name {
                $($(#[$field_meta])* pub $field: $type),*
            }

            impl $crate::fields::Header for $name {
                fn read(fields: &$crate::fields::Fields)
                    -> Result<Self, $crate::fields::FieldError> {
                    Ok(Self {
                        $($field: $crate::header!(@read fields, $wire, $($default)?)),*
                    })
                }

                fn write(&self, fields: &mut $crate::fields::Fields) {
                    $($crate::fields::Member::write(&self.$field, fields, $wire);)*
                }
            }
        )*
    };
    (@read $fields:ident, $wire:literal,) => {
        $crate::fields::Member::read($fields, $wire)?
    };
    (@read $fields:ident, $wire:literal, $default:expr) => {
        $fields.parse($wire)?.unwrap_or($default)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    header! {
        #[allow(unreachable_pub)]
        pub struct Sample {
            topic: String = "topic",
            queue: i32 = "queueId",
            order: Option<bool> = "order",
            wait_ms: i64 = "wait" or 15_000,
        }
    }

    #[test]
    fn a_header_is_read_and_written_by_its_wire_names() {
        let check = |given: &[(&str, &str)], expect: Result<Sample, FieldError>| {
            let mut fields = Fields::default();
            for (name, value) in given {
                fields.set(name, value);
            }
            assert_eq!(Sample::read(&fields), expect, "{given:?}");
            if let Ok(sample) = expect {
                let mut again = Fields::default();
                sample.write(&mut again);
                assert_eq!(Sample::read(&again), Ok(sample));
            }
        };
        let sample = |order, wait_ms| Sample {
            topic: "T".into(),
            queue: 3,
            order,
            wait_ms,
        };
        check(
            &[("topic", "T"), ("queueId", "3")],
            Ok(sample(None, 15_000)),
        );
        check(
            &[
                ("topic", "X"),
                ("topic", "T"),
                ("queueId", "3"),
                ("order", "TRUE"),
                ("wait", "1"),
            ],
            Ok(sample(Some(true), 1)),
        );
        check(&[("topic", "T")], Err(FieldError::Missing("queueId")));
        check(
            &[("topic", "T"), ("queueId", "x")],
            Err(FieldError::Invalid {
                name: "queueId",
                value: "x".into(),
                wanted: "32-bit integer",
            }),
        );
    }
}
