//! Names of topics and groups, and the rules they obey (`TopicValidator.java`,
//! `NamespaceUtil.java`, `MixAll.java`).

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

pub const TOPIC_BYTES_MAX: usize = 127;
pub const RETRY_TOPIC_BYTES_MAX: usize = 255;
pub const GROUP_BYTES_MAX: usize = 120;

pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";

/// The topic from which unknown topics take their settings.
pub const DEFAULT_TOPIC: &str = "TBW102";

/// Messages with a delay level wait here, a queue a level.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";

/// Gantry's own state lies in the log under this name; no client reads or writes it.
pub const STATE_TOPIC: &str = "rmq_sys_gantry_state";

/// Topics of the broker itself, which no client may create, change or delete.
const SYSTEM_TOPICS: &[&str] = &[
    DEFAULT_TOPIC,
    SCHEDULE_TOPIC,
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

/// Topics that only the broker writes.
const WRITE_FORBIDDEN: &[&str] = &[
    SCHEDULE_TOPIC,
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    STATE_TOPIC,
];

/// Why a name can't be a topic's or a group's, in Java's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("The specified {0} is blank.")]
    Blank(&'static str),
    #[error("The specified {0} contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    Illegal(&'static str),
    #[error("The specified {what} is longer than {max} bytes.")]
    TooLong { what: &'static str, max: usize },
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
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '_' | '-');
    if !name.chars().all(legal) {
        return Err(NameError::Illegal(what));
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, max });
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

pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "x".repeat(128);
        let retry = format!("%RETRY%{}", "x".repeat(120));
        for (name, expect) in [
            ("Order_Paid-1|%", Ok(())),
            ("", Err(NameError::Blank("topic"))),
            ("  ", Err(NameError::Blank("topic"))),
            ("a/../b", Err(NameError::Illegal("topic"))),
            ("a.b", Err(NameError::Illegal("topic"))),
            ("töpic", Err(NameError::Illegal("topic"))),
            ("a\0", Err(NameError::Illegal("topic"))),
            (
                &long,
                Err(NameError::TooLong {
                    what: "topic",
                    max: 127,
                }),
            ),
            (&long[..127], Ok(())),
            (&retry, Ok(())),
        ] {
            assert_eq!(validate_topic(name), expect, "{name:?}");
        }
        assert_eq!(
            validate_group(&long[..121]),
            Err(NameError::TooLong {
                what: "group",
                max: 120
            })
        );
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
