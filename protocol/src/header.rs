//! The typed headers of requests and answers, by family. Field names on the wire are those of
//! Java's `*RequestHeader.java` and `*ResponseHeader.java` classes.

mod admin;
mod client;
mod message;
mod pop;
mod route;

pub use admin::*;
pub use client::*;
pub use message::*;
pub use pop::*;
pub use route::*;

use crate::fields::{FieldError, Fields, Header};

/// The header of a request or an answer that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Empty;

impl Header for Empty {
    fn read(_: &Fields) -> Result<Self, FieldError> {
        Ok(Self)
    }

    fn write(&self, _: &mut Fields) {}
}
