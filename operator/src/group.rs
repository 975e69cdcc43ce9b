//! A ConsumerGroup in the words of the admin protocol.

mod members;
mod progress;

pub(crate) use progress::Gauges;

use std::collections::BTreeMap;

use crds::group::{GroupDeletionPolicy, Retry, RetryPolicy};
use crds::{Broken, ConsumerGroup, ConsumerGroupStatus, ManagementPolicy};
use protocol::body::{SubscriptionGroupConfig, SubscriptionGroupTable};
use protocol::{Frame, RequestCode, header, json};
use serde_json::{Value, json};

use crate::Error;
use crate::admin::Admin;
use crate::declared::{
    After, Brought, Declared, Difference, Known, May, Report, Shared, Site, Terms, differences,
    missing,
};

/// The settings that every broker shall have.
pub fn group_config(group: &ConsumerGroup) -> SubscriptionGroupConfig {
    let (spec, usual) = (&group.spec, SubscriptionGroupConfig::default());
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
        group_retry_policy: retry_policy(&spec.retry),
        which_broker_when_consume_slowly: spec
            .which_broker_when_consume_slowly
            .unwrap_or(usual.which_broker_when_consume_slowly),
        ..usual
    }
}

/// The policy as a broker keeps it, in milliseconds (`GroupRetryPolicy.java`).
fn retry_policy(retry: &Retry) -> Option<Value> {
    match retry.policy? {
        RetryPolicy::Exponential => {
            let of = retry.exponential.unwrap_or_default();
            let (initial, max) = (of.initial_seconds * 1000, of.max_seconds * 1000);
            let policy = json!({"initial": initial, "max": max, "multiplier": of.multiplier});
            Some(json!({"type": "EXPONENTIAL", "exponentialRetryPolicy": policy}))
        }
        RetryPolicy::Customized if retry.delays_seconds.is_empty() => {
            Some(json!({"type": "CUSTOMIZED"}))
        }
        RetryPolicy::Customized => {
            let delays = retry.delays_seconds.iter().map(|seconds| seconds * 1000);
            let next: Vec<i64> = delays.collect();
            Some(json!({"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": next}}))
        }
    }
}

/// The part of a policy that counts: its type, and what that type reads. None is the usual one.
fn in_force(policy: Option<&Value>) -> (String, Value) {
    let member = |name: &str| {
        let found = policy.and_then(|policy| policy.get(name));
        found.cloned().unwrap_or_default()
    };
    match member("type").as_str() {
        Some("EXPONENTIAL") => ("Exponential".to_owned(), member("exponentialRetryPolicy")),
        _ => ("Customized".to_owned(), member("customizedRetryPolicy")),
    }
}

/// What a broker shall have that has `found`: what the resource does not speak of stays.
fn goal(group: &ConsumerGroup, found: &SubscriptionGroupConfig) -> SubscriptionGroupConfig {
    let wanted = group_config(group);
    let slow = group.spec.which_broker_when_consume_slowly;
    let policy = match wanted.group_retry_policy {
        Some(wanted) if in_force(Some(&wanted)) != in_force(found.group_retry_policy.as_ref()) => {
            Some(wanted)
        }
        _ => found.group_retry_policy.clone(),
    };
    SubscriptionGroupConfig {
        attributes: found.attributes.clone(),
        broker_id: found.broker_id,
        group_retry_policy: policy,
        group_sys_flag: found.group_sys_flag,
        which_broker_when_consume_slowly: slow.unwrap_or(found.which_broker_when_consume_slowly),
        ..wanted
    }
}

/// The settings of a group that differ, in the resource's words.
fn differing(
    goal: &SubscriptionGroupConfig,
    found: Option<&SubscriptionGroupConfig>,
) -> Vec<Difference> {
    let Some(found) = found else {
        return vec![missing()];
    };
    type Setting = (&'static str, fn(&SubscriptionGroupConfig) -> String);
    let settings: [Setting; 10] = [
        ("consumeEnable", |c| c.consume_enable.to_string()),
        ("consumeFromMin", |c| c.consume_from_min_enable.to_string()),
        ("broadcast", |c| c.consume_broadcast_enable.to_string()),
        ("orderly", |c| c.consume_message_orderly.to_string()),
        ("consumeTimeoutMinutes", |c| {
            c.consume_timeout_minute.to_string()
        }),
        ("notifyMembershipChange", |c| {
            c.notify_consumer_ids_changed_enable.to_string()
        }),
        ("retry.maxTimes", |c| c.retry_max_times.to_string()),
        ("retry.queues", |c| c.retry_queue_nums.to_string()),
        ("retry.policy", |c| {
            let (kind, values) = in_force(c.group_retry_policy.as_ref());
            format!("{kind} {values}")
        }),
        ("whichBrokerWhenConsumeSlowly", |c| {
            c.which_broker_when_consume_slowly.to_string()
        }),
    ];
    differences(settings.map(|(name, of)| (name, of(goal), of(found))))
}

impl Declared for ConsumerGroup {
    const FINALIZER: &'static str = "gantry.dev/consumergroup";
    type Status = ConsumerGroupStatus;
    type Config = SubscriptionGroupConfig;

    fn terms(&self) -> Terms<'_> {
        let spec = &self.spec;
        Terms {
            wire: self.wire_name(),
            cluster: spec.cluster_ref.as_ref().map(|of| of.name.as_str()),
            name_servers: spec.name_servers.as_deref().unwrap_or_default(),
            secret: spec.secret_ref.as_ref().map(|of| of.name.as_str()),
            placement: &[],
            may: match spec.management_policy {
                ManagementPolicy::Observe => May::Look,
                ManagementPolicy::Manage => May::Everything,
            },
            after: match spec.deletion_policy {
                GroupDeletionPolicy::Retain => After::Everything,
                GroupDeletionPolicy::Delete | GroupDeletionPolicy::DeleteWithOffsets => {
                    After::Nothing
                }
            },
            prevent_delete: false,
        }
    }

    fn check(&self) -> Result<(), Broken> {
        self.validate()
    }

    fn known(&self) -> Known<'_, ConsumerGroupStatus> {
        let status = self.status.as_ref();
        Known {
            status,
            generation: status.map_or(0, |status| status.observed_generation),
            brokers: status.map_or(&[], |status| &status.brokers),
            conditions: status.map_or(&[], |status| &status.conditions),
        }
    }

    fn status(&self, report: Report) -> ConsumerGroupStatus {
        let old = self.status.as_ref();
        let drift = match old {
            Some(old) if report.blind => old.drift.clone(),
            _ => report.found.drift,
        };
        let progress = report.progress;
        ConsumerGroupStatus {
            observed_generation: self.metadata.generation.unwrap_or_default(),
            group_name: self.wire_name(),
            cluster: report.cluster,
            brokers: report.found.brokers,
            drift,
            progress: progress.or_else(|| old.and_then(|old| old.progress.clone())),
            conditions: report.conditions,
        }
    }

    fn agrees(&self, found: &SubscriptionGroupConfig) -> Option<Brought> {
        (*found == goal(self, found)).then(Brought::default)
    }

    async fn list(broker: &mut Admin) -> Result<BTreeMap<String, SubscriptionGroupConfig>, Error> {
        let code = RequestCode::GetAllSubscriptiongroupConfig;
        let table: SubscriptionGroupTable = broker.read(code, &header::Empty).await?;
        Ok(table.subscription_group_table)
    }

    async fn bring(&self, broker: &mut Admin, may: May) -> Result<Brought, Error> {
        // Asked for one group by its name, a Java broker creates it.
        let found = Self::list(broker).await?.remove(&self.wire_name());
        let found = found.as_ref();
        let goal = found.map_or_else(|| group_config(self), |found| goal(self, found));
        let mut brought = Brought {
            differs: differing(&goal, found),
            ..Brought::default()
        };
        if found == Some(&goal) {
            return Ok(brought);
        }
        if may == May::Look {
            brought.left = true;
            return Ok(brought);
        }
        let body = SubscriptionGroupConfig {
            // They would be changes, and there are none.
            attributes: BTreeMap::new(),
            ..goal
        };
        let code = RequestCode::UpdateAndCreateSubscriptiongroup;
        let request = Frame::request(code, &header::Empty).with_body(json::to_json(&body));
        broker.write(request).await?;
        brought.wrote = true;
        Ok(brought)
    }

    async fn finish(&self, shared: &Shared<Self>, site: &Site, report: &mut Report) {
        progress::look(self, &shared.operator, site, report).await;
    }

    async fn remove(&self, broker: &mut Admin) -> Result<(), Error> {
        let of = header::DeleteGroup {
            group: self.wire_name(),
            clean_offset: self.spec.deletion_policy == GroupDeletionPolicy::DeleteWithOffsets,
        };
        let request = Frame::request(RequestCode::DeleteSubscriptiongroup, &of);
        broker.write(request).await
    }

    /// Messages are a topic's.
    async fn drain(&self, _: &mut Admin, _: bool) -> Result<i64, Error> {
        Ok(0)
    }

    /// Routes speak of topics alone.
    async fn unroute(&self, _: &mut Admin, _: Option<&str>) -> Result<(), Error> {
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
        let found = SubscriptionGroupConfig {
            attributes: BTreeMap::from([("lite.bind.topic".to_owned(), "t".to_owned())]),
            broker_id: 3,
            group_sys_flag: 4,
            which_broker_when_consume_slowly: 2,
            group_name: "mail".to_owned(),
            group_retry_policy: Some(json!({"type": "EXPONENTIAL"})),
            ..SubscriptionGroupConfig::default()
        };
        let expected = SubscriptionGroupConfig {
            consume_message_orderly: true,
            ..found.clone()
        };
        assert_eq!(goal(&group("orderly: true"), &found), expected);
    }

    #[test]
    fn retry_policies_are_those_of_the_java_broker() {
        let exponential =
            |values: Value| json!({"type": "EXPONENTIAL", "exponentialRetryPolicy": values});
        let usual = json!({"initial": 5000, "max": 7_200_000, "multiplier": 2});
        let list = json!({"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [1000, 60_000]}});
        let table = [
            ("", None),
            ("policy: Customized", Some(json!({"type": "CUSTOMIZED"}))),
            ("policy: Customized, delaysSeconds: [1, 60]", Some(list)),
            ("policy: Exponential", Some(exponential(usual))),
            (
                "policy: Exponential, \
                 exponential: {initialSeconds: 1, maxSeconds: 9, multiplier: 3}",
                Some(exponential(
                    json!({"initial": 1000, "max": 9000, "multiplier": 3}),
                )),
            ),
        ];
        for (retry, expected) in table {
            let spec = format!("retry: {{{retry}}}");
            assert_eq!(group_config(&group(&spec)).group_retry_policy, expected);
        }
    }

    #[test]
    fn a_policy_is_put_only_when_another_one_is_in_force() {
        let usual = Some(json!({"type": "CUSTOMIZED"}));
        let exponential = json!({"initial": 5000, "max": 7_200_000, "multiplier": 2});
        let exponential = Some(json!({
            "type": "EXPONENTIAL", "exponentialRetryPolicy": exponential,
            "customizedRetryPolicy": null,
        }));
        let table = [
            ("", None, true),
            ("", exponential.clone(), true),
            ("policy: Customized", None, true),
            ("policy: Customized", usual.clone(), true),
            ("policy: Customized", exponential.clone(), false),
            ("policy: Exponential", exponential, true),
            ("policy: Exponential", usual, false),
        ];
        for (retry, found, agrees) in table {
            let group = group(&format!("retry: {{{retry}}}"));
            let found = SubscriptionGroupConfig {
                group_name: "mail".to_owned(),
                group_retry_policy: found,
                ..SubscriptionGroupConfig::default()
            };
            let goal = goal(&group, &found);
            assert_eq!(goal == found, agrees, "{retry} {found:?}");
            let differing = differing(&goal, Some(&found));
            assert_eq!(differing.is_empty(), agrees, "{differing:?}");
        }
    }
}
