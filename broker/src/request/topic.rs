//! Administration of topics (`AdminBrokerProcessor.java`).

use std::collections::BTreeMap;
use std::sync::Arc;

use net::Peer;
use protocol::body::{PERM_INHERIT, PERM_READ, PERM_WRITE, TopicConfig, TopicFilterType};
use protocol::header::{CreateTopic, TopicOf};
use protocol::json::to_json;
use protocol::topic::{is_system, validate_topic};
use protocol::{Frame, Header as _, Refusal, ResponseCode};

use super::Answer;
use crate::Broker;
use crate::tables::Change;

const QUEUES_MAX: i32 = 65_536;

pub(super) fn create(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = CreateTopic::read(&request.fields)?;
    check(broker, &header.topic)?;
    let known = broker.tables().topic(&header.topic);
    let config = config(&header, known.as_deref())?;
    tracing::info!(topic = header.topic, peer = %peer.address, "topic set");
    broker.change_and_answer(Change::Topic(config), request, peer);
    Ok(None)
}

fn config(header: &CreateTopic, known: Option<&TopicConfig>) -> Result<TopicConfig, Refusal> {
    let refuse = |remark: String| Err(Refusal::new(ResponseCode::InvalidParameter, remark));
    for (name, queues) in [
        ("readQueueNums", header.read_queues),
        ("writeQueueNums", header.write_queues),
    ] {
        if !(0..=QUEUES_MAX).contains(&queues) {
            return refuse(format!("{name} is {queues}, not 0 to {QUEUES_MAX}"));
        }
    }
    if header.perm & !(PERM_READ | PERM_WRITE | PERM_INHERIT) != 0 {
        return refuse(format!("perm is {}, not a sum of 4, 2 and 1", header.perm));
    }
    let mut attributes = known
        .map(|known| known.attributes.clone())
        .unwrap_or_default();
    set_attributes(
        &mut attributes,
        header.attributes.as_deref().unwrap_or_default(),
    )?;
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

/// Applies `+key=value,-key`.
fn set_attributes(attributes: &mut BTreeMap<String, String>, text: &str) -> Result<(), Refusal> {
    for item in text.split(',').filter(|item| !item.is_empty()) {
        match (
            item.strip_prefix('+').and_then(|set| set.split_once('=')),
            item.strip_prefix('-'),
        ) {
            (Some((key, value)), _) if !key.is_empty() => {
                attributes.insert(key.to_owned(), value.to_owned());
            }
            (None, Some(key)) if !key.is_empty() => {
                attributes.remove(key);
            }
            _ => {
                let remark = format!("the attribute {item:?} is neither +key=value nor -key");
                return Err(Refusal::new(ResponseCode::InvalidParameter, remark));
            }
        }
    }
    Ok(())
}

pub(super) fn delete(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = TopicOf::read(&request.fields)?;
    check(broker, &header.topic)?;
    tracing::info!(topic = header.topic, peer = %peer.address, "topic deleted");
    broker.change_and_answer(Change::TopicDeleted(header.topic), request, peer);
    Ok(None)
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
        for (text, expect) in [
            ("", Some(vec![("a", "1")])),
            ("+b=2", Some(vec![("a", "1"), ("b", "2")])),
            ("-a,+b=x=y", Some(vec![("b", "x=y")])),
            ("+a=2", Some(vec![("a", "2")])),
            ("b=2", None),
            ("+b", None),
            ("-", None),
        ] {
            let mut attributes = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
            let set = set_attributes(&mut attributes, text)
                .ok()
                .map(|()| attributes);
            let expect = expect.map(|pairs| {
                pairs
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect()
            });
            assert_eq!(set, expect, "{text:?}");
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
