//! The controller of the three custom resources

use crds::{ConsumerGroup, Topic};
use protocol::body::{SubscriptionGroupConfig, TopicConfig};

pub fn topic_config(topic: &Topic) -> TopicConfig {
    let (read_queue_nums, write_queue_nums) = topic.queue_numbers();
    TopicConfig {
        topic_name: topic.wire_name(),
        read_queue_nums,
        write_queue_nums,
        ..TopicConfig::default()
    }
}

pub fn group_config(group: &ConsumerGroup) -> SubscriptionGroupConfig {
    SubscriptionGroupConfig {
        group_name: group.wire_name(),
        ..SubscriptionGroupConfig::default()
    }
}
