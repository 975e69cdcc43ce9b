//! Messages in and out: send, send back, pull, offsets.

use crate::fields::{FieldError, Fields, Header as _};

crate::header! {
    /// `SEND_MESSAGE_V2` and `SEND_BATCH_MESSAGE`: one letter a field
    /// (`SendMessageRequestHeaderV2.java`).
    pub struct SendMessage {
        producer_group: String = "a",
        topic: String = "b",
        /// The topic whose settings an unknown topic is created with.
        default_topic: String = "c",
        default_topic_queues: i32 = "d",
        /// Negative: any queue that is writable.
        queue: i32 = "e",
        sys_flag: i32 = "f",
        born_ms: i64 = "g",
        flag: i32 = "h",
        properties: Option<String> = "i",
        reconsume_times: Option<i32> = "j",
        unit_mode: Option<bool> = "k",
        max_reconsume_times: Option<i32> = "l",
        batch: Option<bool> = "m",
        broker: Option<String> = "n",
    }

    /// `CONSUMER_SEND_MSG_BACK` (`ConsumerSendMsgBackRequestHeader.java`).
    pub struct SendMessageBack {
        /// The record's position in the log.
        position: i64 = "offset",
        group: String = "group",
        /// 0 lets the broker choose, negative gives the message up.
        delay_level: i32 = "delayLevel",
        origin_topic: Option<String> = "originTopic",
        unit_mode: bool = "unitMode" or false,
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }

    /// `END_TRANSACTION` (`EndTransactionRequestHeader.java`).
    pub struct EndTransaction {
        producer_group: String = "producerGroup",
        /// The half message's offset in its queue, and its position in the log.
        half_offset: i64 = "tranStateTableOffset",
        position: i64 = "commitLogOffset",
        /// The bits of a transaction in a system flag; 0: not known yet.
        outcome: i32 = "commitOrRollback",
        from_check: Option<bool> = "fromTransactionCheck",
        unique_key: String = "msgId",
        transaction_id: Option<String> = "transactionId",
        topic: Option<String> = "topic",
        broker: Option<String> = "bname",
    }

    /// `CHECK_TRANSACTION_STATE` (`CheckTransactionStateRequestHeader.java`).
    pub struct CheckTransaction {
        topic: Option<String> = "topic",
        half_offset: i64 = "tranStateTableOffset",
        position: i64 = "commitLogOffset",
        unique_key: Option<String> = "msgId",
        transaction_id: Option<String> = "transactionId",
        message_id: Option<String> = "offsetMsgId",
        broker: Option<String> = "bname",
    }

    /// `PUSH_REPLY_MESSAGE_TO_CLIENT` (`ReplyMessageRequestHeader.java`).
    pub struct PushReply {
        producer_group: String = "producerGroup",
        topic: String = "topic",
        default_topic: String = "defaultTopic",
        default_topic_queues: i32 = "defaultTopicQueueNums",
        queue: i32 = "queueId",
        sys_flag: i32 = "sysFlag",
        born_ms: i64 = "bornTimestamp",
        flag: i32 = "flag",
        properties: Option<String> = "properties",
        reconsume_times: Option<i32> = "reconsumeTimes",
        unit_mode: Option<bool> = "unitMode",
        /// As `InetSocketAddress.toString` writes it.
        born_host: String = "bornHost",
        store_host: String = "storeHost",
        store_ms: i64 = "storeTimestamp",
    }

    pub struct SendMessageAnswer {
        /// The offset message id: store host and log position, in hex. Those of a batch, with
        /// commas.
        message_id: String = "msgId",
        queue: i32 = "queueId",
        queue_offset: i64 = "queueOffset",
        transaction_id: Option<String> = "transactionId",
    }

    /// `PULL_MESSAGE` and `LITE_PULL_MESSAGE` (`PullMessageRequestHeader.java`).
    pub struct PullMessage {
        group: String = "consumerGroup",
        topic: String = "topic",
        queue: i32 = "queueId",
        offset: i64 = "queueOffset",
        messages_max: i32 = "maxMsgNums",
        /// See [`PullFlags`].
        sys_flag: i32 = "sysFlag",
        commit_offset: i64 = "commitOffset",
        suspend_ms: i64 = "suspendTimeoutMillis",
        subscription: Option<String> = "subscription",
        sub_version: i64 = "subVersion" or 0,
        expression_type: Option<String> = "expressionType",
        bytes_max: Option<i32> = "maxMsgBytes",
        broker: Option<String> = "bname",
    }

    pub struct PullMessageAnswer {
        /// The broker id to ask the next time: 0 is the master.
        suggested_broker: i64 = "suggestWhichBrokerId",
        next_offset: i64 = "nextBeginOffset",
        min_offset: i64 = "minOffset",
        max_offset: i64 = "maxOffset",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        group_sys_flag: Option<i32> = "groupSysFlag",
    }

    pub struct QueryConsumerOffset {
        group: String = "consumerGroup",
        topic: String = "topic",
        queue: i32 = "queueId",
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }

    pub struct UpdateConsumerOffset {
        group: String = "consumerGroup",
        topic: String = "topic",
        queue: i32 = "queueId",
        offset: i64 = "commitOffset",
    }

    /// `GET_MAX_OFFSET` and `GET_MIN_OFFSET`.
    pub struct QueueOf {
        topic: String = "topic",
        queue: i32 = "queueId",
    }

    /// `SEARCH_OFFSET_BY_TIMESTAMP`.
    pub struct SearchOffset {
        topic: String = "topic",
        queue: i32 = "queueId",
        timestamp_ms: i64 = "timestamp",
        /// `lower` (the first at or after the time, the default) or `upper`.
        boundary: Option<String> = "boundaryType",
    }

    pub struct OffsetAnswer {
        offset: i64 = "offset",
    }
}

impl SendMessage {
    /// `SEND_MESSAGE`: the same fields by their long names (`SendMessageRequestHeader.java`).
    pub fn read_v1(fields: &Fields) -> Result<Self, FieldError> {
        const NAMES: [(&str, &str); 14] = [
            ("producerGroup", "a"),
            ("topic", "b"),
            ("defaultTopic", "c"),
            ("defaultTopicQueueNums", "d"),
            ("queueId", "e"),
            ("sysFlag", "f"),
            ("bornTimestamp", "g"),
            ("flag", "h"),
            ("properties", "i"),
            ("reconsumeTimes", "j"),
            ("unitMode", "k"),
            ("maxReconsumeTimes", "l"),
            ("batch", "m"),
            ("bname", "n"),
        ];
        let mut letters = Fields::default();
        for (name, letter) in NAMES {
            if let Some(value) = fields.get(name) {
                letters.set(letter, value);
            }
        }
        Self::read(&letters)
    }
}

/// The bits of [`PullMessage::sys_flag`] (`PullSysFlag.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullFlags(pub i32);

impl PullFlags {
    /// The header's commit offset is to be stored.
    pub fn commit(self) -> bool {
        self.0 & 1 != 0
    }

    /// The request may be held until a message arrives.
    pub fn suspend(self) -> bool {
        self.0 & 2 != 0
    }

    /// The subscription stands in the header itself.
    pub fn subscription(self) -> bool {
        self.0 & 4 != 0
    }

    pub fn class_filter(self) -> bool {
        self.0 & 8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_names_say_what_the_letters_say() {
        let short = SendMessage {
            producer_group: "p".into(),
            topic: "T".into(),
            default_topic: "TBW102".into(),
            default_topic_queues: 4,
            queue: -1,
            sys_flag: 1,
            born_ms: 1_700_000_000_000,
            flag: 7,
            properties: Some("K\u{1}v\u{2}".into()),
            reconsume_times: Some(2),
            unit_mode: Some(false),
            max_reconsume_times: Some(16),
            batch: Some(true),
            broker: Some("b".into()),
        };
        let mut fields = Fields::default();
        for (name, value) in [
            ("producerGroup", "p"),
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("defaultTopicQueueNums", "4"),
            ("queueId", "-1"),
            ("sysFlag", "1"),
            ("bornTimestamp", "1700000000000"),
            ("flag", "7"),
            ("properties", "K\u{1}v\u{2}"),
            ("reconsumeTimes", "2"),
            ("unitMode", "false"),
            ("maxReconsumeTimes", "16"),
            ("batch", "true"),
            ("bname", "b"),
        ] {
            fields.set(name, value);
        }
        assert_eq!(SendMessage::read_v1(&fields), Ok(short));
        let missing = SendMessage::read_v1(&Fields::default());
        assert_eq!(missing, Err(FieldError::Missing("a")));
    }
}
