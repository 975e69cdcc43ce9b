//! Names of topics and groups, and the rules they obey (`TopicValidator.java`,
//! `NamespaceUtil.java`, `MixAll.java`).

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub const TOPIC_BYTES_MAX: usize = 127;
pub const RETRY_TOPIC_BYTES_MAX: usize = 255;
pub const GROUP_BYTES_MAX: usize = 120;

pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";

/// Delayed messages wait here.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";

/// Messages whose transaction has not ended wait in the first, the second says which of them have,
/// and the third has those that were given up.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const OP_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
pub const GIVEN_UP_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Its offsets say how far the broker is done with the half and the op topic.
pub const TRANSACTION_GROUP: &str = "CID_RMQ_SYS_TRANS";

/// The topic from which unknown topics take their settings.
pub const DEFAULT_TOPIC: &str = "TBW102";

/// Gantry's own state lies in the log under this name; no client reads or writes it.
pub const STATE_TOPIC: &str = "rmq_sys_gantry_state";

/// Topics of the broker itself, which no client may create, change or delete.
pub const SYSTEM_TOPICS: &[&str] = &[
    DEFAULT_TOPIC,
    SCHEDULE_TOPIC,
    "BenchmarkTest",
    HALF_TOPIC,
    "RMQ_SYS_TRACE_TOPIC",
    OP_TOPIC,
    GIVEN_UP_TOPIC,
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

/// Topics that only the broker writes.
const WRITE_FORBIDDEN: &[&str] = &[
    SCHEDULE_TOPIC,
    HALF_TOPIC,
    OP_TOPIC,
    GIVEN_UP_TOPIC,
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    STATE_TOPIC,
];

/// Why a name can't be a topic's or a group's, in Java's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("The specified {0} is blank.")]
    Blank(&'static str),
    #[error(
        "The specified {what}: {name}, contains illegal characters, \
         allowing only ^[%|a-zA-Z0-9_-]+$"
    )]
    Illegal { what: &'static str, name: String },
    #[error("The specified {what}: {name}, is longer than {what} max length: {max}")]
    TooLong {
        what: &'static str,
        name: String,
        max: usize,
    },
}

/// Where answers to messages go that somebody waits for.
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_REPLY_TOPIC")
}

pub fn validate_topic(name: &str) -> Result<(), NameError> {
    let internal = name.starts_with(RETRY_PREFIX) || name.starts_with(DLQ_PREFIX);
    let max = if internal {
        RETRY_TOPIC_BYTES_MAX
    } else {
        TOPIC_BYTES_MAX
    };
    validate("topic", name, max)
}

pub fn validate_group(name: &str) -> Result<(), NameError> {
    validate("group", name, GROUP_BYTES_MAX)
}

fn validate(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank(what));
    }
    let named = || name.to_owned();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '_' | '-');
    if !name.chars().all(legal) {
        let name = named();
        return Err(NameError::Illegal { what, name });
    }
    if name.len() > max {
        let name = named();
        return Err(NameError::TooLong { what, name, max });
    }
    Ok(())
}

pub fn is_system(topic: &str) -> bool {
    SYSTEM_TOPICS.contains(&topic) || topic.starts_with("rmq_sys_")
}

pub fn may_write(topic: &str) -> bool {
    !WRITE_FORBIDDEN.contains(&topic)
}

/// The consumer group of a `%RETRY%` topic.
pub fn retry_group(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

/// The consumer group of a `%DLQ%` topic.
pub fn dlq_group(topic: &str) -> Option<&str> {
    topic.strip_prefix(DLQ_PREFIX)
}

pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// Where messages go that a group has popped and not acknowledged in time.
pub fn pop_retry_topic(topic: &str, group: &str) -> String {
    format!("{RETRY_PREFIX}{group}_{topic}")
}

/// The same with Java's `enableRetryTopicV2`.
pub fn pop_retry_topic_v2(topic: &str, group: &str) -> String {
    format!("{RETRY_PREFIX}{group}+{topic}")
}

/// Where messages go that a group has failed to consume too often.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "x".repeat(128);
        let retry = format!("%RETRY%{}", "x".repeat(120));
        for (name, expect) in [
            ("Order_Paid-1|%", ""),
            ("", "The specified topic is blank."),
            ("  ", "The specified topic is blank."),
            ("a/../b", "The specified topic: a/../b, contains illegal"),
            ("a.b", "The specified topic: a.b, contains illegal"),
            ("töpic", "The specified topic: töpic, contains illegal"),
            ("a\0", "The specified topic: a\0, contains illegal"),
            (&long, "is longer than topic max length: 127"),
            (&long[..127], ""),
            (&retry, ""),
        ] {
            let said = validate_topic(name).map_or_else(|e| e.to_string(), |()| String::new());
            assert!(said.contains(expect), "{name:?}: {said}");
            assert_eq!(said.is_empty(), expect.is_empty(), "{name:?}: {said}");
        }
        let error = validate_group(&long[..121]).expect_err("too long");
        assert!(error.to_string().ends_with("group max length: 120"));
    }

    #[test]
    fn system_topics() {
        for (name, system, write) in [
            ("T", false, true),
            ("TBW102", true, true),
            ("SCHEDULE_TOPIC_XXXX", true, false),
            ("rmq_sys_gantry_state", true, false),
            ("RMQ_SYS_TRACE_TOPIC", true, true),
            ("%RETRY%g", false, true),
        ] {
            assert_eq!(
                (is_system(name), may_write(name)),
                (system, write),
                "{name}"
            );
        }
        assert_eq!(retry_group(&retry_topic("g")), Some("g"));
    }
}
