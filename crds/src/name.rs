//! Legal names of topics and consumer groups, and the names that a broker keeps for itself.
//!
//! The CEL rules are here beside their Rust twins, so that a new reserved name is added to both.

/// Rule of a topic's own name: legal characters.
pub(crate) const TOPIC_RULE: &str = "self.matches('^[%|a-zA-Z0-9_-]{1,127}$')";
pub(crate) const TOPIC_MESSAGE: &str =
    "topicName must be 1 to 127 of the characters %, |, a-z, A-Z, 0-9, _ and -";
pub const TOPIC_CHARS_MAX: usize = 127;

pub(crate) const TOPIC_RESERVED_RULE: &str = "!(self in ['TBW102', 'SCHEDULE_TOPIC_XXXX', \
     'BenchmarkTest', 'OFFSET_MOVED_EVENT', 'CHECKPOINT_TOPIC', 'TRANS_CHECK_MAX_TIME_TOPIC']) \
     && !self.matches('^(RMQ_SYS_|rmq_sys_|%RETRY%|%DLQ%|SELF_TEST_TOPIC)')";
pub(crate) const TOPIC_RESERVED_MESSAGE: &str = "topicName is reserved for the broker itself";
const TOPICS_RESERVED: [&str; 6] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
];
const TOPIC_PREFIXES_RESERVED: [&str; 5] = [
    "RMQ_SYS_",
    "rmq_sys_",
    "%RETRY%",
    "%DLQ%",
    "SELF_TEST_TOPIC",
];

pub(crate) const GROUP_RULE: &str = "self.matches('^[%|a-zA-Z0-9_-]{1,120}$')";
pub(crate) const GROUP_MESSAGE: &str =
    "groupName must be 1 to 120 of the characters %, |, a-z, A-Z, 0-9, _ and -";
pub const GROUP_CHARS_MAX: usize = 120;

pub(crate) const GROUP_RESERVED_RULE: &str = "!(self in ['TOOLS_CONSUMER', 'SELF_TEST_C_GROUP', \
     'FILTERSRV_CONSUMER', 'DEFAULT_CONSUMER', 'CID_ONS-HTTP-PROXY', 'CID_ONSAPI_PULL', \
     'CID_ONSAPI_PERMISSION', 'CID_ONSAPI_OWNER']) && !self.startsWith('CID_RMQ_SYS_')";
pub(crate) const GROUP_RESERVED_MESSAGE: &str = "groupName is reserved for the broker itself";
const GROUPS_RESERVED: [&str; 8] = [
    "TOOLS_CONSUMER",
    "SELF_TEST_C_GROUP",
    "FILTERSRV_CONSUMER",
    "DEFAULT_CONSUMER",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
];

/// True when every character is legal and there are 1 to `chars_max` of them.
pub(crate) fn is_legal(name: &str, chars_max: usize) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'_' | b'-');
    (1..=chars_max).contains(&name.len()) && name.bytes().all(legal)
}

pub(crate) fn is_reserved_topic(name: &str) -> bool {
    TOPICS_RESERVED.contains(&name) || TOPIC_PREFIXES_RESERVED.iter().any(|p| name.starts_with(p))
}

/// True for a group of the broker's own, or of its tools.
pub fn is_reserved_group(name: &str) -> bool {
    GROUPS_RESERVED.contains(&name) || name.starts_with("CID_RMQ_SYS_")
}
