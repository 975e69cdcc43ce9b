//! Words on the wire and in a message. Pure: no socket, no file, no clock, no runtime.
//!
//! In the order of the data path:
//! - [`frame`]: length-prefixed frames in both header encodings, JSON and ROCKETMQ binary
//! - [`fields`]: the extension fields of a header, and [`header!`] structs read from them
//! - [`code`]: request codes, response codes, languages, versions
//! - [`header`]: the typed request and response headers, by family
//! - [`body`]: the JSON bodies, by family
//! - [`json`]: fastjson's dialect, read and written
//! - [`topic`]: names and the rules they obey
//! - [`properties`]: a message's property string
//! - [`record`]: a message as the commit log holds it
//! - [`batch`]: several messages in one request
//! - [`settings`]: `key=value` lines of Java's properties files
//! - [`message_id`]: the id that names a record's place
//! - [`receipt`]: what a popped message is acknowledged with
//! - [`acl`]: request signatures
//! - [`refusal`]: why a request is refused

pub mod frame;
pub mod fields;
pub mod code;
pub mod header;
pub mod body;
pub mod json;
pub mod topic;
pub mod properties;
pub mod record;
pub mod batch;
pub mod settings;
pub mod message_id;
pub mod receipt;
pub mod acl;
pub mod refusal;

pub use code::{RequestCode, ResponseCode};
pub use fields::{Fields, Header};
pub use frame::Frame;
pub use refusal::Refusal;
