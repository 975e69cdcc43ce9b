//! Clients: heartbeats, membership, and what the broker tells them.

crate::header! {
    /// The answer to `HEART_BEAT`.
    pub struct HeartbeatAnswer {
        /// The broker keeps subscriptions by fingerprint: unchanged ones need not be sent again.
        version_2: bool = "IS_SUPPORT_HEART_BEAT_V2",
        subscription_changed: bool = "IS_SUB_CHANGE",
    }

    pub struct UnregisterClient {
        client_id: String = "clientID",
        producer_group: Option<String> = "producerGroup",
        consumer_group: Option<String> = "consumerGroup",
    }

    /// `GET_CONSUMER_LIST_BY_GROUP`, `NOTIFY_CONSUMER_IDS_CHANGED`.
    pub struct ConsumerGroupOf {
        group: String = "consumerGroup",
    }
}
