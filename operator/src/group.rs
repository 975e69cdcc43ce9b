//! A ConsumerGroup in the words of the admin protocol.

use crds::{Broken, ConsumerGroup, ConsumerGroupStatus, DeletionPolicy, OnBroker};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use protocol::body::SubscriptionGroupConfig;
use protocol::{Frame, RequestCode, ResponseCode, header, json};

use crate::Error;
use crate::admin::Admin;
use crate::declared::Declared;

/// The settings that every broker shall have.
pub fn group_config(group: &ConsumerGroup) -> SubscriptionGroupConfig {
    let spec = &group.spec;
    SubscriptionGroupConfig {
        consume_broadcast_enable: spec.broadcast,
        consume_enable: spec.consume_enable,
        consume_from_min_enable: spec.consume_from_min,
        consume_message_orderly: spec.orderly,
        consume_timeout_minute: spec.consume_timeout_minutes,
        group_name: group.wire_name(),
        notify_consumer_ids_changed_enable: spec.notify_membership_change,
        retry_max_times: spec.retry.max_times,
        retry_queue_nums: spec.retry.queues,
        ..SubscriptionGroupConfig::default()
    }
}

/// What a broker has, but for the settings that the resource does not speak of.
fn declared_part(
    found: &SubscriptionGroupConfig,
    wanted: &SubscriptionGroupConfig,
) -> SubscriptionGroupConfig {
    SubscriptionGroupConfig {
        attributes: found.attributes.clone(),
        broker_id: found.broker_id,
        group_retry_policy: found.group_retry_policy.clone(),
        group_sys_flag: found.group_sys_flag,
        which_broker_when_consume_slowly: found.which_broker_when_consume_slowly,
        ..wanted.clone()
    }
}

impl Declared for ConsumerGroup {
    const FINALIZER: &'static str = "gantry.dev/consumergroup";
    type Status = ConsumerGroupStatus;

    fn cluster(&self) -> &str {
        &self.spec.cluster_ref.name
    }

    fn wire(&self) -> String {
        self.wire_name()
    }

    fn check(&self) -> Result<(), Broken> {
        self.validate()
    }

    fn deletion_policy(&self) -> DeletionPolicy {
        self.spec.deletion_policy
    }

    fn found(&self) -> (Option<&ConsumerGroupStatus>, &[Condition], &[OnBroker]) {
        let Some(status) = &self.status else {
            return (None, &[], &[]);
        };
        (Some(status), &status.conditions, &status.brokers)
    }

    fn status(&self, brokers: Vec<OnBroker>, conditions: Vec<Condition>) -> ConsumerGroupStatus {
        ConsumerGroupStatus {
            observed_generation: self.metadata.generation.unwrap_or_default(),
            group_name: self.wire_name(),
            brokers,
            conditions,
        }
    }

    async fn put(&self, broker: &mut Admin) -> Result<bool, Error> {
        let wanted = group_config(self);
        let of = header::GroupOf {
            group: wanted.group_name.clone(),
        };
        let missing = ResponseCode::SubscriptionGroupNotExist;
        let code = RequestCode::GetSubscriptiongroupConfig;
        let found: Option<SubscriptionGroupConfig> = broker.find(code, &of, missing).await?;
        let wanted = found
            .as_ref()
            .map_or(wanted.clone(), |found| declared_part(found, &wanted));
        if found.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        let code = RequestCode::UpdateAndCreateSubscriptiongroup;
        let request = Frame::request(code, &header::Empty).with_body(json::to_json(&wanted));
        broker.ask(request).await?;
        Ok(true)
    }

    async fn remove(&self, broker: &mut Admin) -> Result<(), Error> {
        let of = header::DeleteGroup {
            group: self.wire_name(),
            clean_offset: true,
        };
        broker
            .ask(Frame::request(RequestCode::DeleteSubscriptiongroup, &of))
            .await?;
        Ok(())
    }

    /// Routes speak of topics alone.
    async fn is_routed(&self, _: &mut Admin, _: &[OnBroker]) -> Result<bool, Error> {
        Ok(true)
    }

    async fn unroute(&self, _: &mut Admin, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::read::{Document, read};

    fn group(spec: &str) -> ConsumerGroup {
        let yaml = format!(
            "{{apiVersion: gantry.dev/v1alpha1, kind: ConsumerGroup, metadata: {{name: mail}}, \
             spec: {{clusterRef: {{name: demo}}, {spec}}}}}"
        );
        match read(&yaml).unwrap().remove(0) {
            Document::ConsumerGroup(group) => *group,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_follow_the_resource() {
        let usual = SubscriptionGroupConfig {
            group_name: "mail".to_owned(),
            ..SubscriptionGroupConfig::default()
        };
        assert_eq!(group_config(&group("")), usual);
        let all = "groupName: Orders_Mail, consumeEnable: false, consumeFromMin: false, \
                   broadcast: false, orderly: true, retry: {maxTimes: 3, queues: 2}, \
                   consumeTimeoutMinutes: 30, notifyMembershipChange: false";
        let expected = SubscriptionGroupConfig {
            consume_broadcast_enable: false,
            consume_enable: false,
            consume_from_min_enable: false,
            consume_message_orderly: true,
            consume_timeout_minute: 30,
            group_name: "Orders_Mail".to_owned(),
            notify_consumer_ids_changed_enable: false,
            retry_max_times: 3,
            retry_queue_nums: 2,
            ..usual
        };
        assert_eq!(group_config(&group(all)), expected);
    }

    #[test]
    fn what_the_resource_does_not_speak_of_stays() {
        let wanted = group_config(&group("orderly: true"));
        let found = SubscriptionGroupConfig {
            group_sys_flag: 4,
            which_broker_when_consume_slowly: 2,
            group_name: "mail".to_owned(),
            ..SubscriptionGroupConfig::default()
        };
        let put = declared_part(&found, &wanted);
        assert_eq!(
            put,
            SubscriptionGroupConfig {
                consume_message_orderly: true,
                ..found
            }
        );
    }
}
