//! Consumption by pop: messages handed out for a while, acknowledged one by one.

crate::header! {
    /// `POP_MESSAGE` (`PopMessageRequestHeader.java`).
    pub struct PopMessage {
        group: String = "consumerGroup",
        topic: String = "topic",
        /// Negative: all queues.
        queue: i32 = "queueId",
        messages_max: i32 = "maxMsgNums",
        /// For so long nobody else gets a message that is handed out.
        invisible_ms: i64 = "invisibleTime",
        /// How long to wait for a message.
        poll_ms: i64 = "pollTime",
        /// When the client asked, by its own clock; 0 says nothing.
        born_ms: i64 = "bornTime" or 0,
        /// Where a group begins that has no offset: see [`INIT_MIN`].
        init_mode: i32 = "initMode",
        expression_type: Option<String> = "expType",
        expression: Option<String> = "exp",
        order: bool = "order" or false,
        /// The same in a call that is made again.
        attempt: Option<String> = "attemptId",
    }

    pub struct PopMessageAnswer {
        pop_ms: i64 = "popTime",
        invisible_ms: i64 = "invisibleTime",
        revive_queue: i32 = "reviveQid",
        /// Messages that are left.
        rest: i64 = "restNum",
        /// See [`crate::receipt::OffsetInfo`].
        start_offsets: Option<String> = "startOffsetInfo",
        message_offsets: Option<String> = "msgOffsetInfo",
        order_counts: Option<String> = "orderCountInfo",
    }

    /// `ACK_MESSAGE` (`AckMessageRequestHeader.java`).
    pub struct AckMessage {
        group: String = "consumerGroup",
        /// The one in which the message lies.
        topic: String = "topic",
        queue: i32 = "queueId",
        /// See [`crate::receipt::Receipt`].
        receipt: String = "extraInfo",
        offset: i64 = "offset",
    }

    /// `CHANGE_MESSAGE_INVISIBLETIME` (`ChangeInvisibleTimeRequestHeader.java`).
    pub struct ChangeInvisibleTime {
        group: String = "consumerGroup",
        topic: String = "topic",
        queue: i32 = "queueId",
        receipt: String = "extraInfo",
        offset: i64 = "offset",
        /// From now on.
        invisible_ms: i64 = "invisibleTime",
    }

    /// What a client puts into the receipt in place of what was there.
    pub struct ChangeInvisibleTimeAnswer {
        pop_ms: i64 = "popTime",
        invisible_ms: i64 = "invisibleTime",
        revive_queue: i32 = "reviveQid",
    }

    /// `PEEK_MESSAGE` (`PeekMessageRequestHeader.java`).
    pub struct PeekMessage {
        group: String = "consumerGroup",
        topic: String = "topic",
        queue: i32 = "queueId",
        messages_max: i32 = "maxMsgNums",
    }

    /// `NOTIFICATION` (`NotificationRequestHeader.java`): waits for a message, takes none.
    pub struct Notification {
        group: String = "consumerGroup",
        topic: String = "topic",
        queue: i32 = "queueId",
        poll_ms: i64 = "pollTime",
        born_ms: i64 = "bornTime" or 0,
        order: bool = "order" or false,
        attempt: Option<String> = "attemptId",
    }

    pub struct NotificationAnswer {
        has_messages: bool = "hasMsg",
        polling_full: bool = "pollingFull" or false,
    }

    /// `POLLING_INFO` (`PollingInfoRequestHeader.java`).
    pub struct PollingInfo {
        group: String = "consumerGroup",
        topic: String = "topic",
        queue: i32 = "queueId",
    }

    pub struct PollingInfoAnswer {
        waiting: i32 = "pollingNum",
    }
}

/// [`PopMessage::init_mode`]: at the first message that is there; else near the last
/// (`ConsumeInitMode.java`).
pub const INIT_MIN: i32 = 0;
