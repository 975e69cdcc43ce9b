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
}
