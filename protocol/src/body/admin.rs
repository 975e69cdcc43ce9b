//! What administrators ask for: progress, connections, statistics (`TopicStatsTable.java`,
//! `ConsumeStats.java`, `ConsumerConnection.java` and their neighbours).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData, SubscriptionGroupConfig,
    TopicConfig,
};
use crate::json::object_keys;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueue {
    pub topic: String,
    pub broker_name: String,
    pub queue_id: i32,
}

macro_rules! bodies {
    ($($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)?
    })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            pub struct $name {
                $($(#[$field_meta])* pub $field: $type),*
            }
        )*
    };
}

bodies! {
    /// The answer to `GET_TOPIC_STATS_INFO`.
    pub struct TopicStatsTable {
        #[serde(with = "object_keys")]
        offset_table: BTreeMap<MessageQueue, TopicOffset>,
        topic_put_tps: f64,
    }

    pub struct TopicOffset {
        last_update_timestamp: i64,
        max_offset: i64,
        min_offset: i64,
    }

    /// The answer to `GET_CONSUME_STATS`.
    pub struct ConsumeStats {
        consume_tps: f64,
        #[serde(with = "object_keys")]
        offset_table: BTreeMap<MessageQueue, OffsetWrapper>,
    }

    pub struct OffsetWrapper {
        broker_offset: i64,
        consumer_offset: i64,
        /// When the last consumed message was stored; 0 where there is none.
        last_timestamp: i64,
        pull_offset: i64,
    }

    /// The answer to `GET_BROKER_CONSUME_STATS`.
    pub struct ConsumeStatsList {
        broker_addr: String,
        consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
        total_diff: i64,
        total_inflight_diff: i64,
    }

    /// The answer to `GET_CONSUMER_CONNECTION_LIST`.
    pub struct ConsumerConnection {
        connection_set: Vec<ClientConnection>,
        consume_from_where: ConsumeFromWhere,
        consume_type: ConsumeType,
        message_model: MessageModel,
        subscription_table: BTreeMap<String, SubscriptionData>,
    }

    /// The answer to `GET_PRODUCER_CONNECTION_LIST`.
    pub struct ProducerConnection {
        connection_set: Vec<ClientConnection>,
    }

    /// `Connection.java`.
    pub struct ClientConnection {
        client_addr: String,
        client_id: String,
        language: String,
        version: i32,
    }

    /// The answer to `GET_ALL_PRODUCER_INFO`.
    pub struct ProducerTableInfo {
        data: BTreeMap<String, Vec<ProducerInfo>>,
    }

    pub struct ProducerInfo {
        client_id: String,
        language: String,
        last_update_timestamp: i64,
        #[serde(rename = "remoteIP")]
        remote_ip: String,
        version: i32,
    }

    pub struct GroupList {
        group_list: BTreeSet<String>,
    }

    /// `LOCK_BATCH_MQ` and `UNLOCK_BATCH_MQ`.
    pub struct LockBatch {
        client_id: String,
        consumer_group: String,
        mq_set: Vec<MessageQueue>,
        only_this_broker: bool,
    }

    pub struct LockBatchAnswer {
        #[serde(rename = "lockOKMQSet")]
        locked: Vec<MessageQueue>,
    }

    /// `ResetOffsetBody.java`.
    pub struct ResetOffsets {
        #[serde(with = "object_keys")]
        offset_table: BTreeMap<MessageQueue, i64>,
    }

    /// `GetConsumerStatusBody.java`: a client says the first, a broker the second.
    pub struct ConsumerStatus {
        #[serde(with = "object_keys")]
        message_queue_table: BTreeMap<MessageQueue, i64>,
        consumer_table: BTreeMap<String, QueueOffsets>,
    }

    /// The answer to `QUERY_CONSUME_TIME_SPAN`.
    pub struct ConsumeTimeSpans {
        consume_time_span_set: Vec<QueueTimeSpan>,
    }

    pub struct QueueTimeSpan {
        consume_time_stamp: i64,
        delay_time: i64,
        max_time_stamp: i64,
        message_queue: MessageQueue,
        min_time_stamp: i64,
    }

    /// The answer to `QUERY_SUBSCRIPTION_BY_CONSUMER`.
    pub struct SubscriptionAnswer {
        group: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data: Option<SubscriptionData>,
        topic: String,
    }

    /// The answer to `QUERY_CORRECTION_OFFSET`.
    pub struct CorrectionOffsets {
        correction_offsets: BTreeMap<i64, i64>,
    }

    /// `CHECK_CLIENT_CONFIG`.
    pub struct CheckClient {
        client_id: String,
        group: String,
        subscription_data: Option<SubscriptionData>,
    }

    /// The answer to `VIEW_BROKER_STATS_DATA`.
    pub struct BrokerStatsData {
        stats_day: BrokerStatsItem,
        stats_hour: BrokerStatsItem,
        stats_minute: BrokerStatsItem,
    }

    pub struct BrokerStatsItem {
        avgpt: f64,
        sum: i64,
        tps: f64,
    }

    /// `UPDATE_AND_CREATE_TOPIC_LIST`.
    pub struct TopicConfigList {
        topic_config_list: Vec<TopicConfig>,
    }

    /// `UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST`.
    pub struct SubscriptionGroupList {
        group_config_list: Vec<SubscriptionGroupConfig>,
    }
}

/// How far each queue is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct QueueOffsets(#[serde(with = "object_keys")] pub BTreeMap<MessageQueue, i64>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{from_fastjson, to_fastjson};

    #[test]
    fn queues_are_keys_as_java_writes_and_reads_them() {
        let queue = MessageQueue {
            topic: "T".into(),
            broker_name: "b".into(),
            queue_id: 1,
        };
        let stats = ConsumeStats {
            consume_tps: 0.0,
            offset_table: BTreeMap::from([(queue, OffsetWrapper::default())]),
        };
        let text = concat!(
            r#"{"consumeTps":0.0,"offsetTable":{{"topic":"T","brokerName":"b","queueId":1}:"#,
            r#"{"brokerOffset":0,"consumerOffset":0,"lastTimestamp":0,"pullOffset":0}}}"#
        );
        assert_eq!(String::from_utf8_lossy(&to_fastjson(&stats)), text);
        let java = text.replace(
            r#"{"topic":"T","brokerName":"b","queueId":1}"#,
            r#"{"brokerName":"b","queueId":1,"topic":"T"}"#,
        );
        assert_eq!(
            from_fastjson::<ConsumeStats>(java.as_bytes()).expect("Java's"),
            stats
        );
    }

    #[test]
    fn a_lock_request_of_the_java_client_is_read() {
        let json = br#"{"clientId":"c@1","consumerGroup":"g","mqSet":[{"brokerName":"b",
            "queueId":3,"topic":"T"}],"onlyThisBroker":false}"#;
        let lock: LockBatch = from_fastjson(json).expect("JSON");
        assert_eq!(
            (lock.mq_set[0].queue_id, lock.client_id.as_str()),
            (3, "c@1")
        );
        let answer = LockBatchAnswer { locked: vec![] };
        assert_eq!(to_fastjson(&answer), br#"{"lockOKMQSet":[]}"#);
    }
}
