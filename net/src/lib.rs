//! One TCP connection: bytes to frames and back.
//!
//! - [`server`]: the accept loop, its limits, and what a handler sees of a connection
//! - `preamble`: what may stand before the first frame: a proxy's word, a TLS handshake
//! - [`proxy`]: the PROXY protocol, and from whom it is believed
//! - [`tls`]: modes and certificates
//! - [`peer`]: a client's connection as the handlers hold it: answers are queued, never awaited
//! - `outbound`: what waits to be written to one connection, and who writes it
//! - [`client`]: a connection of ours to somebody else's server
//! - [`http`]: the pages of an operations port: metrics and probes

pub mod server;
mod preamble;
pub mod proxy;
pub mod tls;
pub mod peer;
mod outbound;
pub mod client;
pub mod http;

pub use client::Connection;
pub use outbound::together;
pub use peer::Peer;
pub use proxy::Network;
pub use server::{Handler, Limits, Options};
pub use tls::{PemFiles, Tls, TlsMode};
