//! What clients say of themselves (`HeartbeatData.java`, `SubscriptionData.java`).

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatData {
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub consumer_data_set: Vec<ConsumerData>,
    /// Java's hash of the normalised heartbeat; 0 in version 1.
    pub heartbeat_fingerprint: i32,
    pub producer_data_set: Vec<ProducerData>,
    /// Version 2, nothing changed: the subscriptions sent before still hold.
    pub without_sub: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    pub group_name: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    pub consume_from_where: ConsumeFromWhere,
    pub consume_type: ConsumeType,
    pub group_name: String,
    pub message_model: MessageModel,
    pub subscription_data_set: Vec<SubscriptionData>,
    pub unit_mode: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConsumeType {
    ConsumeActively,
    #[default]
    ConsumePassively,
    ConsumePop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MessageModel {
    Broadcasting,
    #[default]
    Clustering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConsumeFromWhere {
    #[default]
    ConsumeFromLastOffset,
    ConsumeFromLastOffsetAndFromMinWhenBootFirst,
    ConsumeFromMinOffset,
    ConsumeFromMaxOffset,
    ConsumeFromFirstOffset,
    ConsumeFromTimestamp,
}

/// What a consumer wants of a topic.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    pub class_filter_mode: bool,
    /// Java's hash of each tag; empty with [`ALL_TAGS`].
    #[serde(deserialize_with = "codes")]
    pub code_set: Vec<i32>,
    /// `TAG` or `SQL92`; absent is `TAG`.
    pub expression_type: Option<String>,
    pub sub_string: String,
    /// Grows with each change; the broker refuses pulls by an older one.
    pub sub_version: i64,
    pub tags_set: Vec<String>,
    pub topic: String,
}

pub const ALL_TAGS: &str = "*";

/// The Go client writes numbers as text.
fn codes<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<i32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Number(i32),
        Text(String),
    }
    let codes = Vec::<Code>::deserialize(json)?.into_iter();
    let codes = codes.map(|code| match code {
        Code::Number(code) => Ok(code),
        Code::Text(text) => text.parse().map_err(D::Error::custom),
    });
    codes.collect()
}

impl SubscriptionData {
    /// Reads a tag expression, `a || b` or `*` (`FilterAPI.buildSubscriptionData`). `None` when
    /// it names no tag at all.
    pub fn of_tags(topic: &str, expression: &str, hash: impl Fn(&str) -> i32) -> Option<Self> {
        let mut subscription = Self {
            topic: topic.to_owned(),
            sub_string: expression.to_owned(),
            expression_type: Some("TAG".to_owned()),
            ..Self::default()
        };
        if expression.is_empty() || expression == ALL_TAGS {
            ALL_TAGS.clone_into(&mut subscription.sub_string);
            return Some(subscription);
        }
        for tag in expression
            .split("||")
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
        {
            subscription.tags_set.push(tag.to_owned());
            subscription.code_set.push(hash(tag));
        }
        (!subscription.tags_set.is_empty()).then_some(subscription)
    }

    /// Whether a message whose tag has this hash is wanted. The client compares the tags anew.
    pub fn wants(&self, tags_code: i64) -> bool {
        self.sub_string == ALL_TAGS
            || self
                .code_set
                .iter()
                .any(|code| i64::from(*code) == tags_code)
    }
}

/// The answer to `GET_CONSUMER_LIST_BY_GROUP`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerList {
    pub consumer_id_list: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_expressions() {
        let hash = |tag: &str| tag.len() as i32;
        for (expression, tags) in [
            ("*", Some(vec![])),
            ("", Some(vec![])),
            ("TagA", Some(vec!["TagA"])),
            ("TagA || TagB||C", Some(vec!["TagA", "TagB", "C"])),
            ("||", None),
        ] {
            let got = SubscriptionData::of_tags("T", expression, hash);
            let want = tags.map(|t| t.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(
                got.as_ref().map(|s| s.tags_set.clone()),
                want,
                "{expression}"
            );
        }
        let some = SubscriptionData::of_tags("T", "ab || abcd", hash).expect("tags");
        assert_eq!([2, 3, 4].map(|code| some.wants(code)), [true, false, true]);
    }

    #[test]
    fn a_heartbeat_of_the_java_client_is_read() {
        let json = br#"{"clientID":"127.0.0.1@1","consumerDataSet":[{"consumeFromWhere":
            "CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"g",
            "messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,
            "codeSet":[2598919],"expressionType":"TAG","subString":"TagA","subVersion":17,
            "tagsSet":["TagA"],"topic":"T"}],"unitMode":false}],"heartbeatFingerprint":0,
            "producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"}],"withoutSub":false}"#;
        let data: HeartbeatData = crate::json::from_fastjson(json).expect("JSON");
        let consumer = &data.consumer_data_set[0];
        assert_eq!(
            consumer.consume_from_where,
            ConsumeFromWhere::ConsumeFromFirstOffset
        );
        assert!(consumer.subscription_data_set[0].wants(2_598_919));
    }

    #[test]
    fn tag_codes_are_numbers_or_text() {
        for (json, codes) in [
            (r#"{"codeSet":[2598919,-1]}"#, Some(vec![2_598_919, -1])),
            (r#"{"codeSet":["2598919","-1"]}"#, Some(vec![2_598_919, -1])),
            (r#"{"codeSet":[]}"#, Some(vec![])),
            ("{}", Some(vec![])),
            (r#"{"codeSet":["TagA"]}"#, None),
            (r#"{"codeSet":[99999999999]}"#, None),
        ] {
            let read = crate::json::from_fastjson::<SubscriptionData>(json.as_bytes());
            assert_eq!(read.ok().map(|data| data.code_set), codes, "{json}");
        }
    }
}
