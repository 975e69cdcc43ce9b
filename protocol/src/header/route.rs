//! The name server: registration and routes.

crate::header! {
    pub struct RegisterBroker {
        broker: String = "brokerName",
        address: String = "brokerAddr",
        cluster: String = "clusterName",
        ha_address: String = "haServerAddr",
        broker_id: i64 = "brokerId",
        /// After this silence the broker is gone.
        heartbeat_timeout_ms: Option<i64> = "heartbeatTimeoutMillis",
        acting_master: Option<bool> = "enableActingMaster",
        compressed: bool = "compressed" or false,
        /// CRC-32 of the body without its highest bit; 0 is unchecked.
        body_crc: i64 = "bodyCrc32" or 0,
        zone: Option<String> = "__ZONE_NAME",
    }

    pub struct RegisterBrokerAnswer {
        ha_address: Option<String> = "haServerAddr",
        master_address: Option<String> = "masterAddr",
    }

    /// `UNREGISTER_BROKER` and `QUERY_DATA_VERSION`.
    pub struct BrokerOf {
        broker: String = "brokerName",
        address: String = "brokerAddr",
        cluster: String = "clusterName",
        broker_id: i64 = "brokerId",
    }

    pub struct DataVersionAnswer {
        changed: bool = "changed",
    }

    /// `GET_ROUTEINFO_BY_TOPIC`.
    pub struct RouteOf {
        topic: String = "topic",
        strict_json: Option<bool> = "acceptStandardJsonOnly",
    }

    /// `BROKER_HEARTBEAT`, as far as a name server without a controller reads it.
    pub struct BrokerAlive {
        cluster: String = "clusterName",
        address: String = "brokerAddr",
    }

    /// `GET_BROKER_MEMBER_GROUP`.
    pub struct MembersOf {
        cluster: String = "clusterName",
        broker: String = "brokerName",
    }

    /// `WIPE_WRITE_PERM_OF_BROKER` and `ADD_WRITE_PERM_OF_BROKER`.
    pub struct WritePermOf {
        broker: String = "brokerName",
    }

    pub struct WritePermWiped {
        topics: i32 = "wipeTopicCount",
    }

    pub struct WritePermAdded {
        topics: i32 = "addTopicCount",
    }

    /// `GET_TOPICS_BY_CLUSTER`.
    pub struct TopicsOf {
        cluster: String = "cluster",
    }

    /// `PUT_KV_CONFIG`.
    pub struct PutKv {
        namespace: String = "namespace",
        key: String = "key",
        value: String = "value",
    }

    /// `GET_KV_CONFIG` and `DELETE_KV_CONFIG`.
    pub struct KvOf {
        namespace: String = "namespace",
        key: String = "key",
    }

    pub struct KvAnswer {
        value: Option<String> = "value",
    }

    /// `GET_KVLIST_BY_NAMESPACE`.
    pub struct KvListOf {
        namespace: String = "namespace",
    }
}
