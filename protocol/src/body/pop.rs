//! Consumption by pop: several acknowledgements in one, and queues that a broker shares out among
//! the members of a group (`BatchAckMessageRequestBody.java`, `QueryAssignmentRequestBody.java`).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{MessageModel, MessageQueue};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchAcks {
    pub acks: Vec<BatchAck>,
    pub broker_name: Option<String>,
}

/// Messages of one queue that were popped together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchAck {
    #[serde(rename = "b", alias = "bitSet")]
    pub bits: BitSet,
    #[serde(rename = "c", alias = "consumerGroup")]
    pub group: String,
    #[serde(rename = "it", alias = "invisibleTime")]
    pub invisible_ms: i64,
    #[serde(rename = "pt", alias = "popTime")]
    pub pop_ms: i64,
    #[serde(rename = "q", alias = "queueId")]
    pub queue: i32,
    /// The number of [`crate::receipt::Origin`].
    #[serde(rename = "r", alias = "retry")]
    pub origin: String,
    #[serde(rename = "rq", alias = "reviveQueueId")]
    pub revive_queue: i32,
    #[serde(rename = "so", alias = "startOffset")]
    pub start_offset: i64,
    #[serde(rename = "t", alias = "topic")]
    pub topic: String,
}

/// Java's `BitSet.toByteArray`, in base64.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BitSet(pub String);

/// Messages that a batch may name beyond its first: more than any pop looks at.
pub const BATCH_BITS_MAX: usize = 1 << 16;

impl BitSet {
    pub fn of(bits: &[usize]) -> Self {
        let bytes = bits.iter().max().map_or(0, |last| last / 8 + 1);
        let mut set = vec![0_u8; bytes];
        for bit in bits {
            if let Some(byte) = set.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
        Self(STANDARD.encode(set))
    }

    /// The bits that are set, none from [`BATCH_BITS_MAX`] on; `None` when this is no bit set.
    pub fn ones(&self) -> Option<Vec<usize>> {
        let bytes = STANDARD.decode(&self.0).ok()?;
        let bytes = bytes.into_iter().take(BATCH_BITS_MAX / 8).enumerate();
        let ones = bytes.flat_map(|(at, byte)| {
            let set = move |bit: &usize| byte & (1 << bit) != 0;
            (0..8_usize).filter(set).map(move |bit| at * 8 + bit)
        });
        Some(ones.collect())
    }
}

/// How the members of a group get the messages of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RequestMode {
    #[default]
    Pull,
    Pop,
}

/// `SET_MESSAGE_REQUEST_MODE`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SetRequestMode {
    pub consumer_group: String,
    pub mode: RequestMode,
    /// Of how many others a member pops the queues too; none and too many are all.
    pub pop_share_queue_num: i32,
    pub topic: String,
}

/// `messageRequestMode.json`: by topic and group (`MessageRequestModeSerializeWrapper.java`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestModeTable {
    pub message_request_mode_map: BTreeMap<String, BTreeMap<String, SetRequestMode>>,
}

/// `QUERY_ASSIGNMENT`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryAssignment {
    pub client_id: String,
    pub consumer_group: String,
    pub message_model: MessageModel,
    pub strategy_name: String,
    pub topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Assignments {
    /// Absent: the broker does not know; the client keeps what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_queue_assignments: Option<Vec<Assignment>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Assignment {
    pub message_queue: MessageQueue,
    pub mode: RequestMode,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{from_fastjson, to_fastjson};

    #[test]
    fn a_batch_of_the_java_client_is_read() {
        let json = br#"{"acks":[{"b":"KgE=","c":"g","it":5000,"pt":1700000000000,"q":1,"r":"0",
            "rq":2,"so":100,"t":"T"}],"brokerName":"b"}"#;
        let acks: BatchAcks = from_fastjson(json).expect("JSON");
        let ack = &acks.acks[0];
        assert_eq!(ack.bits.ones(), Some(vec![1, 3, 5, 8]));
        assert_eq!(ack.bits, BitSet::of(&[1, 3, 5, 8]));
        let places = (ack.queue, ack.start_offset, ack.pop_ms, ack.revive_queue);
        assert_eq!(places, (1, 100, 1_700_000_000_000, 2));
        for (text, ones) in [("", Some(vec![])), ("AA==", Some(vec![])), ("%", None)] {
            assert_eq!(BitSet(text.into()).ones(), ones, "{text}");
        }
        let most = BitSet::of(&[1, BATCH_BITS_MAX]);
        assert_eq!(most.ones(), Some(vec![1]));
    }

    #[test]
    fn assignments_are_written_as_java_writes_them() {
        let one = Assignment {
            message_queue: MessageQueue {
                topic: "T".into(),
                broker_name: "b".into(),
                queue_id: -1,
            },
            mode: RequestMode::Pop,
        };
        for (assignments, json) in [
            (None, "{}"),
            (Some(vec![]), r#"{"messageQueueAssignments":[]}"#),
            (
                Some(vec![one]),
                concat!(
                    r#"{"messageQueueAssignments":[{"messageQueue":"#,
                    r#"{"topic":"T","brokerName":"b","queueId":-1},"mode":"POP"}]}"#
                ),
            ),
        ] {
            let message_queue_assignments = assignments;
            let body = to_fastjson(&Assignments {
                message_queue_assignments,
            });
            assert_eq!(String::from_utf8_lossy(&body), json);
        }
        let set: SetRequestMode = from_fastjson(
            br#"{"consumerGroup":"g","mode":"POP","popShareQueueNum":8,"topic":"T"}"#,
        )
        .expect("JSON");
        assert_eq!((set.mode, set.pop_share_queue_num), (RequestMode::Pop, 8));
    }
}
