//! Administration of topics and groups.

crate::header! {
    /// `UPDATE_AND_CREATE_TOPIC` (`CreateTopicRequestHeader.java`).
    pub struct CreateTopic {
        topic: String = "topic",
        default_topic: String = "defaultTopic",
        read_queues: i32 = "readQueueNums",
        write_queues: i32 = "writeQueueNums",
        perm: i32 = "perm",
        filter_type: String = "topicFilterType",
        sys_flag: Option<i32> = "topicSysFlag",
        order: bool = "order" or false,
        /// `+key=value,-key`: what is set and what is removed.
        attributes: Option<String> = "attributes",
    }

    /// `GET_TOPIC_CONFIG`, `DELETE_TOPIC_IN_BROKER`, `DELETE_TOPIC_IN_NAMESRV`.
    pub struct TopicOf {
        topic: String = "topic",
        cluster: Option<String> = "clusterName",
    }

    /// `GET_SUBSCRIPTIONGROUP_CONFIG`.
    pub struct GroupOf {
        group: String = "group",
    }

    /// `DELETE_SUBSCRIPTIONGROUP`.
    pub struct DeleteGroup {
        group: String = "groupName",
        clean_offset: bool = "cleanOffset" or false,
    }

    /// `QUERY_MESSAGE`.
    pub struct QueryMessage {
        topic: String = "topic",
        key: String = "key",
        messages_max: i32 = "maxNum",
        from_ms: i64 = "beginTimestamp",
        to_ms: i64 = "endTimestamp",
        /// The key is a unique key, of which there is one message, or a few by retries.
        unique: bool = "_UNIQUE_KEY_QUERY" or false,
    }

    pub struct QueryMessageAnswer {
        index_ms: i64 = "indexLastUpdateTimestamp",
        index_position: i64 = "indexLastUpdatePhyoffset",
    }

    /// `VIEW_MESSAGE_BY_ID`: the position in the log stands in the id.
    pub struct ViewMessage {
        topic: Option<String> = "topic",
        position: i64 = "offset",
    }

    /// `INVOKE_BROKER_TO_RESET_OFFSET`, `RESET_CONSUMER_CLIENT_OFFSET`.
    pub struct ResetOffset {
        group: String = "group",
        topic: String = "topic",
        /// Negative: every queue.
        queue: i32 = "queueId" or -1,
        offset: Option<i64> = "offset",
        /// Negative: the end of the queue.
        timestamp_ms: i64 = "timestamp",
        force: bool = "isForce" or false,
    }

    /// `INVOKE_BROKER_TO_GET_CONSUMER_STATUS`, `GET_CONSUMER_STATUS_FROM_CLIENT`.
    pub struct ConsumerStatusOf {
        topic: String = "topic",
        group: String = "group",
        client: Option<String> = "clientAddr",
    }

    /// `GET_CONSUME_STATS`.
    pub struct ConsumeStatsOf {
        group: String = "consumerGroup",
        topic: Option<String> = "topic",
        /// Separated by `;`.
        topics: Option<String> = "topicList",
    }

    /// `QUERY_CONSUME_TIME_SPAN`, `QUERY_SUBSCRIPTION_BY_CONSUMER`.
    pub struct GroupAndTopic {
        group: String = "group",
        topic: String = "topic",
    }

    /// `GET_PRODUCER_CONNECTION_LIST`.
    pub struct ProducerGroupOf {
        group: String = "producerGroup",
    }

    /// `GET_CONSUMER_RUNNING_INFO`, `CONSUME_MESSAGE_DIRECTLY`.
    pub struct ConsumerClientOf {
        group: String = "consumerGroup",
        client: Option<String> = "clientId",
        message_id: Option<String> = "msgId",
        topic: Option<String> = "topic",
    }

    /// `CLONE_GROUP_OFFSET`.
    pub struct CloneOffsets {
        from: String = "srcGroup",
        to: String = "destGroup",
        topic: Option<String> = "topic",
        offline: bool = "offline" or false,
    }

    /// `QUERY_CORRECTION_OFFSET`.
    pub struct CorrectionOf {
        /// Separated by commas; their offsets do not count.
        without: Option<String> = "filterGroups",
        compared: String = "compareGroup",
        topic: String = "topic",
    }

    /// `VIEW_BROKER_STATS_DATA`.
    pub struct StatsOf {
        name: String = "statsName",
        key: String = "statsKey",
    }

    /// `GET_BROKER_CONSUME_STATS`.
    pub struct AllConsumeStatsOf {
        order: bool = "isOrder" or false,
    }

    /// The answer to `GET_ALL_TOPIC_CONFIG`.
    pub struct TopicCount {
        topics: i32 = "totalTopicNum",
    }

    /// The answer to `GET_ALL_SUBSCRIPTIONGROUP_CONFIG`.
    pub struct GroupCount {
        groups: i32 = "totalGroupNum",
    }

    /// The answer to `GET_BROKER_CONFIG`: a `DataVersion` as JSON.
    pub struct ConfigVersion {
        version: String = "version",
    }

    /// The answer to `GET_EARLIEST_MSG_STORETIME`.
    pub struct StoreTimeAnswer {
        timestamp_ms: i64 = "timestamp",
    }
}
