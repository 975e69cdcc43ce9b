//! One TCP connection: bytes to frames and back.
//!
//! - [`server`]: the accept loop, its limits, and what a handler sees of a connection
//! - [`peer`]: a client's connection as the handlers hold it: answers are queued, never awaited
//! - [`client`]: a connection of ours to somebody else's server
//! - [`http`]: the pages of an operations port: metrics and probes

pub mod server;
pub mod peer;
pub mod client;
pub mod http;

pub use client::Connection;
pub use peer::Peer;
pub use server::{Handler, Limits};
