//! RocketMQ's own broker properties, as far as they mean something here.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::schedule::Levels;

/// Keys of `BrokerConfig.java` and `MessageStoreConfig.java`, with their defaults. Values may be
/// written as texts, as they stand in a properties file.
#[derive(Debug, Clone)]
pub struct Properties {
    /// Queues of a topic that is created by a send.
    pub default_topic_queue_nums: i32,
    pub auto_create_subscription_group: Live,
    /// Bytes of a message body.
    pub max_message_size: usize,
    pub long_polling_enable: Live,
    /// How long a pull is held without long polling, in ms.
    pub short_polling_time_mills: Live,
    /// ms
    pub register_name_server_period: u64,
    pub region_id: String,
    /// How long messages are kept, in hours.
    pub file_reserved_time: u64,
    /// How long a message of each delay level waits.
    pub message_delay_level: Levels,
    pub reject_transaction_message: Live,
    /// How often the broker asks about transactions that have not ended, in ms.
    pub transaction_check_interval: Live,
    /// A transaction about which it has asked so often is given up.
    pub transaction_check_max: Live,
    /// For how long it does not ask, in ms.
    pub transaction_time_out: Live,
}

impl Properties {
    const KEYS: [&'static str; 13] = [
        "autoCreateSubscriptionGroup",
        "defaultTopicQueueNums",
        "fileReservedTime",
        "longPollingEnable",
        "maxMessageSize",
        "messageDelayLevel",
        "regionId",
        "registerNameServerPeriod",
        "rejectTransactionMessage",
        "shortPollingTimeMills",
        "transactionCheckInterval",
        "transactionCheckMax",
        "transactionTimeOut",
    ];

    /// Keys and values as they stand in a properties file.
    pub fn texts(&self) -> [(&'static str, String); Self::KEYS.len()] {
        Self::KEYS.map(|key| {
            let fixed = match key {
                "defaultTopicQueueNums" => self.default_topic_queue_nums.to_string(),
                "fileReservedTime" => self.file_reserved_time.to_string(),
                "maxMessageSize" => self.max_message_size.to_string(),
                "messageDelayLevel" => self.message_delay_level.to_string(),
                "regionId" => self.region_id.clone(),
                "registerNameServerPeriod" => self.register_name_server_period.to_string(),
                _ => self.live(key).map(Live::to_string).unwrap_or_default(),
            };
            (key, fixed)
        })
    }

    /// The properties that may change while the broker runs.
    pub fn live(&self, key: &str) -> Option<&Live> {
        match key {
            "autoCreateSubscriptionGroup" => Some(&self.auto_create_subscription_group),
            "longPollingEnable" => Some(&self.long_polling_enable),
            "rejectTransactionMessage" => Some(&self.reject_transaction_message),
            "shortPollingTimeMills" => Some(&self.short_polling_time_mills),
            "transactionCheckInterval" => Some(&self.transaction_check_interval),
            "transactionCheckMax" => Some(&self.transaction_check_max),
            "transactionTimeOut" => Some(&self.transaction_time_out),
            _ => None,
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        fn parse<T: FromStr<Err: Display>>(value: &str, to: &mut T) -> Result<(), String> {
            *to = value
                .parse()
                .map_err(|error| format!("{value:?}: {error}"))?;
            Ok(())
        }
        match key {
            "defaultTopicQueueNums" => parse(value, &mut self.default_topic_queue_nums),
            "fileReservedTime" => parse(value, &mut self.file_reserved_time),
            "maxMessageSize" => parse(value, &mut self.max_message_size),
            "messageDelayLevel" => parse(value, &mut self.message_delay_level),
            "regionId" => parse(value, &mut self.region_id),
            "registerNameServerPeriod" => parse(value, &mut self.register_name_server_period),
            _ => {
                let live = self.live(key).ok_or_else(|| {
                    format!("no such property; there are {}", Self::KEYS.join(", "))
                })?;
                live.set(live.parse(value)?);
                Ok(())
            }
        }
    }
}

/// A number or a switch that may change while the broker runs. Clones are one.
#[derive(Debug, Clone)]
pub struct Live {
    value: Arc<AtomicU64>,
    is_switch: bool,
}

impl Live {
    fn switch(on: bool) -> Self {
        Self {
            is_switch: true,
            ..Self::number(u64::from(on))
        }
    }

    fn number(value: u64) -> Self {
        Self {
            value: Arc::new(AtomicU64::new(value)),
            is_switch: false,
        }
    }

    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    pub fn on(&self) -> bool {
        self.value() != 0
    }

    pub fn set(&self, value: u64) {
        self.value.store(value, Ordering::Relaxed);
    }

    pub fn parse(&self, text: &str) -> Result<u64, String> {
        let value = match text {
            "true" if self.is_switch => Some(1),
            "false" if self.is_switch => Some(0),
            number if !self.is_switch => number.parse().ok(),
            _ => None,
        };
        let wanted = if self.is_switch {
            "true or false"
        } else {
            "a number"
        };
        value.ok_or_else(|| format!("{text:?}: not {wanted}"))
    }
}

impl Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_switch {
            self.on().fmt(f)
        } else {
            self.value().fmt(f)
        }
    }
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            default_topic_queue_nums: 8,
            auto_create_subscription_group: Live::switch(true),
            max_message_size: 4 * 1024 * 1024,
            long_polling_enable: Live::switch(true),
            short_polling_time_mills: Live::number(1_000),
            register_name_server_period: 30_000,
            region_id: "DefaultRegion".to_owned(),
            file_reserved_time: 72,
            message_delay_level: Levels::default(),
            reject_transaction_message: Live::switch(false),
            transaction_check_interval: Live::number(30_000),
            transaction_check_max: Live::number(15),
            transaction_time_out: Live::number(6_000),
        }
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PropertiesVisitor;
        impl<'de> Visitor<'de> for PropertiesVisitor {
            type Value = Properties;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of properties")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Properties, A::Error> {
                let mut properties = Properties::default();
                while let Some(key) = map.next_key::<String>()? {
                    let value = match map.next_value::<Scalar>()? {
                        Scalar::Text(text) => text,
                        Scalar::Bool(value) => value.to_string(),
                        Scalar::Number(value) => value.to_string(),
                    };
                    let set = properties.set(&key, &value);
                    set.map_err(|reason| A::Error::custom(format!("{key}: {reason}")))?;
                }
                Ok(properties)
            }
        }
        deserializer.deserialize_map(PropertiesVisitor)
    }
}

/// Reads `8` and `"8"` alike.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Bool(bool),
    Number(u64),
}
