//! Words on the wire and in a message: no I/O, no clock

pub mod properties;
pub mod record;
pub mod message_id;
