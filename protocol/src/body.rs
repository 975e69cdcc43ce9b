//! The JSON bodies of requests and answers, by family. Names are those of Java's getters, in
//! alphabetical order, as fastjson writes them; unknown members are passed over.

mod admin;
mod client;
mod group;
mod pop;
mod register;
mod route;
mod topic;

pub use admin::*;
pub use client::*;
pub use group::*;
pub use pop::*;
pub use register::*;
pub use route::*;
pub use topic::*;
