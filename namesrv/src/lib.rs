//! The name server: which broker has which queues of a topic.
//!
//! - [`route`]: the table, pure; time is an argument
//! - [`request`]: one match over the request codes, a file a family
//! - [`process`]: ports, expiry, metrics, the process's life
//!
//! A name server keeps nothing on disk and knows no other one: every broker registers with all.

pub mod route;
pub mod request;
pub mod process;

pub use process::{Options, RunError, run};
