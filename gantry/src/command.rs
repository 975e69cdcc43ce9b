//! The sub-commands, a file each.

pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod crds;
pub(crate) mod group;
pub(crate) mod inspect;
pub(crate) mod message;
pub(crate) mod namesrv;
pub(crate) mod operator;
pub(crate) mod standalone;
pub(crate) mod store;
pub(crate) mod topic;

use std::time::{SystemTime, UNIX_EPOCH};

fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as i64
}
