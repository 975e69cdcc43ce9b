//! Administration of topics (`AdminBrokerProcessor.java`).

use std::collections::BTreeMap;
use std::sync::Arc;

use net::Peer;
use protocol::body::{
    PERM_INHERIT, PERM_READ, PERM_WRITE, TopicConfig, TopicConfigList, TopicFilterType,
};
use protocol::header::{CreateTopic, TopicCount, TopicOf};
use protocol::json::{from_fastjson, to_fastjson, to_json};
use protocol::topic::{is_system, pop_retry_topic, validate_topic};
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::Answer;
use crate::Broker;
use crate::tables::Change;

pub(super) const QUEUES_MAX: i32 = 65_536;

pub(super) fn create(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = CreateTopic::read(&request.fields)?;
    check(broker, &header.topic)?;
    let known = broker.tables().topic(&header.topic);
    let config = config(&header, known.as_deref())?;
    tracing::info!(topic = header.topic, peer = %peer.address, "topic set");
    broker.change_and_answer(vec![Change::Topic(config)], request, peer);
    Ok(None)
}

fn config(header: &CreateTopic, known: Option<&TopicConfig>) -> Result<TopicConfig, Refusal> {
    check_numbers(header.read_queues, header.write_queues, header.perm)?;
    let current = known.map(|known| known.attributes.clone());
    let changes = changes(header.attributes.as_deref().unwrap_or_default())?;
    check_attributes(&changes, known.is_none())?;
    let attributes = altered(current.unwrap_or_default(), changes)?;
    Ok(TopicConfig {
        attributes,
        order: header.order,
        perm: header.perm,
        read_queue_nums: header.read_queues,
        topic_filter_type: TopicFilterType::from_name(&header.filter_type),
        topic_name: header.topic.clone(),
        topic_sys_flag: header.sys_flag.unwrap_or(0),
        write_queue_nums: header.write_queues,
    })
}

fn check_numbers(read_queues: i32, write_queues: i32, perm: i32) -> Result<(), Refusal> {
    let refuse = |remark: String| Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    for (name, queues) in [
        ("readQueueNums", read_queues),
        ("writeQueueNums", write_queues),
    ] {
        if !(0..=QUEUES_MAX).contains(&queues) {
            return refuse(format!("{name} is {queues}, not 0 to {QUEUES_MAX}"));
        }
    }
    if perm & !(PERM_READ | PERM_WRITE | PERM_INHERIT) != 0 {
        return refuse(format!("perm is {perm}, not a sum of 4, 2 and 1"));
    }
    Ok(())
}

/// Reads `+key=value,-key` (`AttributeParser.java`).
fn changes(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let mut changes = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        let sign = if item.contains('=') { '+' } else { '-' };
        let what = match sign {
            '+' => "add/alter",
            _ => "delete",
        };
        if !key.starts_with(sign) || key.len() < 2 {
            return refused(format!("{what} attribute format is wrong: {key}"));
        }
        if changes.insert(key.to_owned(), value.to_owned()).is_some() {
            return refused(format!("key duplication: {key}"));
        }
    }
    Ok(changes)
}

/// Attributes after changes, of which each key says by its first character whether it is set or
/// removed (`AttributeUtil.java`).
pub(super) fn altered(
    mut attributes: BTreeMap<String, String>,
    changes: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    for (key, value) in changes {
        if let Some(key) = key.strip_prefix('+') {
            attributes.insert(key.to_owned(), value);
        } else if let Some(key) = key.strip_prefix('-') {
            if attributes.remove(key).is_none() {
                return refused(format!("attempt to delete a nonexistent key: {key}"));
            }
        } else {
            return refused(format!("wrong format key: {key}"));
        }
    }
    Ok(attributes)
}

/// Topic attributes with the values they may have; `false`: only a new topic can be given one
/// (`TopicAttributes.java`).
const ATTRIBUTES: &[(&str, bool, &[&str])] = &[
    ("cleanup.policy", false, &["DELETE", "COMPACTION"]),
    ("lite.topic.expiration", true, &[]),
    (
        "message.type",
        true,
        &[
            "UNSPECIFIED",
            "NORMAL",
            "FIFO",
            "DELAY",
            "TRANSACTION",
            "PRIORITY",
            "LITE",
            "MIXED",
        ],
    ),
    ("queue.type", false, &["BatchCQ", "SimpleCQ"]),
    ("reserve.time", true, &[]),
];

fn check_attributes(changes: &BTreeMap<String, String>, new: bool) -> Result<(), Refusal> {
    for (change, value) in changes {
        let (sign, key) = change.split_at(1);
        let Some((_, changeable, values)) = ATTRIBUTES.iter().find(|(known, ..)| *known == key)
        else {
            return refused(format!("unsupported key: {key}"));
        };
        if new && sign == "-" {
            return refused(format!(
                "only add attribute is supported while creating topic. key: {key}"
            ));
        }
        if !new && !changeable {
            return refused(format!(
                "attempt to update an unchangeable attribute. key: {key}"
            ));
        }
        let legal = if values.is_empty() {
            value.parse().is_ok_and(|number: i64| number >= -1)
        } else {
            values.contains(&value.as_str())
        };
        if sign == "+" && !legal {
            return refused(format!("value is not in set: {key}={value}"));
        }
    }
    Ok(())
}

fn refused<T>(remark: String) -> Result<T, Refusal> {
    Err(Refusal::new(ResponseCode::SystemError, remark))
}

/// Several topics at once; their attributes come as changes too.
pub(super) fn create_list(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let list: TopicConfigList = from_fastjson(&request.body)?;
    let mut changes = Vec::new();
    for wanted in list.topic_config_list {
        check(broker, &wanted.topic_name)?;
        check_numbers(wanted.read_queue_nums, wanted.write_queue_nums, wanted.perm)?;
        let known = broker.tables().topic(&wanted.topic_name);
        check_attributes(&wanted.attributes, known.is_none())?;
        let current = known.map(|known| known.attributes.clone());
        let attributes = altered(current.unwrap_or_default(), wanted.attributes)?;
        tracing::info!(topic = wanted.topic_name, peer = %peer.address, "topic set");
        changes.push(Change::Topic(TopicConfig {
            attributes,
            ..wanted
        }));
    }
    broker.change_and_answer(changes, request, peer);
    Ok(None)
}

pub(super) fn all(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let table = broker.tables().registered_topics();
    let topics = table.topic_config_table.len() as i32;
    let answer = request.answer(ResponseCode::Success);
    let answer = answer.with_header(&TopicCount { topics });
    Ok(Some(answer.with_body(to_fastjson(&table))))
}

pub(super) fn delete(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = TopicOf::read(&request.fields)?;
    check(broker, &header.topic)?;
    tracing::info!(topic = header.topic, peer = %peer.address, "topic deleted");
    let mut coordination = broker.coordination();
    coordination.resets.forget_topic(&header.topic);
    coordination.pulled.forget_topic(&header.topic);
    drop(coordination);
    let mut changes = retries_of(broker, &header.topic);
    changes.push(Change::TopicDeleted(header.topic));
    broker.change_and_answer(changes, request, peer);
    Ok(None)
}

/// With a topic go the topics of its messages that groups have popped in vain.
fn retries_of(broker: &Broker, topic: &str) -> Vec<Change> {
    let tables = broker.tables();
    let groups = tables.consumed().filter(|(of, _)| *of == topic);
    let retries = groups.map(|(_, group)| pop_retry_topic(topic, group));
    let known = retries.filter(|retry| tables.topic(retry).is_some());
    known.map(Change::TopicDeleted).collect()
}

pub(super) fn get(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let header = TopicOf::read(&request.fields)?;
    let config = broker.tables().topic(&header.topic).ok_or_else(|| {
        let remark = format!("No topic in this broker. topic: {}", header.topic);
        Refusal::new(ResponseCode::TopicNotExist, remark)
    })?;
    Ok(Some(
        request
            .answer(ResponseCode::Success)
            .with_body(to_json(&*config)),
    ))
}

/// A name that an administrator may create or delete.
fn check(broker: &Broker, topic: &str) -> Result<(), Refusal> {
    validate_topic(topic)?;
    let config = &broker.config;
    if is_system(topic) || topic == config.cluster || topic == config.broker {
        let remark = format!("The topic[{topic}] is conflict with system topic.");
        return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_set_and_removed() {
        let current = || BTreeMap::from([("reserve.time".to_owned(), "9".to_owned())]);
        for (text, new, expect) in [
            ("", true, Ok("")),
            ("+message.type=FIFO", true, Ok("message.type=FIFO")),
            (
                "+queue.type=BatchCQ,+reserve.time=-1",
                true,
                Ok("queue.type=BatchCQ reserve.time=-1"),
            ),
            (
                "-message.type",
                true,
                Err("only add attribute is supported"),
            ),
            ("+message.type=X", true, Err("value is not in set")),
            ("+reserve.time=soon", true, Err("value is not in set")),
            ("+a=1", true, Err("unsupported key: a")),
            ("a=1", true, Err("add/alter attribute format is wrong: a")),
            ("+a", true, Err("delete attribute format is wrong: +a")),
            ("-", true, Err("delete attribute format is wrong: -")),
            ("-a,-a", true, Err("key duplication: -a")),
            ("", false, Ok("reserve.time=9")),
            ("+reserve.time=72", false, Ok("reserve.time=72")),
            (
                "-reserve.time,+message.type=DELAY",
                false,
                Ok("message.type=DELAY"),
            ),
            ("-message.type", false, Err("nonexistent key: message.type")),
            (
                "+cleanup.policy=DELETE",
                false,
                Err("unchangeable attribute"),
            ),
        ] {
            let before = if new { BTreeMap::new() } else { current() };
            let set = changes(text).and_then(|changes| {
                check_attributes(&changes, new)?;
                altered(before, changes)
            });
            match (set, expect) {
                (Ok(set), Ok(expect)) => {
                    let set: Vec<String> = set.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    assert_eq!(set.join(" "), expect, "{text:?}");
                }
                (Err(refused), Err(expect)) => {
                    assert!(refused.remark.contains(expect), "{text:?}: {refused}");
                }
                (set, _) => panic!("{text:?}: {set:?}"),
            }
        }
    }

    #[test]
    fn settings_are_checked() {
        let header = CreateTopic {
            topic: "T".into(),
            read_queues: 8,
            write_queues: 8,
            perm: 6,
            ..CreateTopic::default()
        };
        assert!(config(&header, None).is_ok());
        for bad in [
            CreateTopic {
                read_queues: -1,
                ..header.clone()
            },
            CreateTopic {
                write_queues: QUEUES_MAX + 1,
                ..header.clone()
            },
            CreateTopic {
                perm: 16,
                ..header.clone()
            },
        ] {
            let refused = config(&bad, None).expect_err("bad");
            assert_eq!(refused.code, ResponseCode::InvalidParameter);
        }
    }
}
