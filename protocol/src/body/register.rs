//! What a broker registers at a name server (`RegisterBrokerBody.java`): plain JSON, or a zlib
//! stream of length-prefixed parts.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Buf;
use serde::{Deserialize, Serialize};

use super::{TopicConfig, TopicConfigTable, TopicFilterType};
use crate::json::{JsonError, from_fastjson};

/// An inflated registration may be this long: 200,000 topics and more.
pub const INFLATED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Which of two states of a broker's topics is the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    pub counter: i64,
    /// The broker's epoch: a lower one is a deposed master's.
    pub state_version: i64,
    pub timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    pub filter_server_list: Vec<String>,
    pub topic_config_serialize_wrapper: TopicConfigTable,
}

/// Why a registration's body can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("the body's CRC-32 is {found}, the header says {expected}")]
    Crc { expected: i64, found: i64 },
    #[error("the compressed body is broken: {0}")]
    Compressed(&'static str),
    #[error(transparent)]
    Json(#[from] JsonError),
}

impl RegisterBrokerBody {
    /// Reads a body; a `crc` of 0 is not compared.
    pub fn read(body: &[u8], compressed: bool, crc: i64) -> Result<Self, RegisterError> {
        let found = i64::from(crc32fast::hash(body) & 0x7fff_ffff);
        if crc != 0 && crc != found {
            return Err(RegisterError::Crc {
                expected: crc,
                found,
            });
        }
        if compressed {
            Self::inflate(body)
        } else {
            Ok(from_fastjson(body)?)
        }
    }

    fn inflate(body: &[u8]) -> Result<Self, RegisterError> {
        let mut inflated = Vec::new();
        flate2::read::ZlibDecoder::new(body)
            .take(INFLATED_BYTES_MAX + 1)
            .read_to_end(&mut inflated)
            .map_err(|_| RegisterError::Compressed("no zlib stream"))?;
        if inflated.len() as u64 > INFLATED_BYTES_MAX {
            return Err(RegisterError::Compressed("it inflates beyond the limit"));
        }
        let mut rest = inflated.as_slice();
        let data_version = from_fastjson(part(&mut rest)?)?;
        let mut topic_config_table = BTreeMap::new();
        let topics = rest
            .try_get_u32()
            .map_err(|_| RegisterError::Compressed("no topic count"))?;
        for _ in 0..topics {
            let text = std::str::from_utf8(part(&mut rest)?)
                .map_err(|_| RegisterError::Compressed("a topic is no UTF-8"))?;
            let topic =
                topic(text).ok_or(RegisterError::Compressed("a topic's settings are short"))?;
            topic_config_table.insert(topic.topic_name.clone(), topic);
        }
        let filter_server_list = from_fastjson(part(&mut rest)?)?;
        // Behind them stand the mappings of static topics, which have no place here.
        Ok(Self {
            filter_server_list,
            topic_config_serialize_wrapper: TopicConfigTable {
                data_version,
                topic_config_table,
            },
        })
    }
}

/// The next part of the stream: its length, then its bytes.
fn part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], RegisterError> {
    let short = || RegisterError::Compressed("it ends in the middle");
    let len = rest.try_get_u32().map_err(|_| short())? as usize;
    let (part, behind) = rest.split_at_checked(len).ok_or_else(short)?;
    *rest = behind;
    Ok(part)
}

/// `TopicConfig.encode`: name, read queues, write queues, perm, filter type, attributes.
fn topic(text: &str) -> Option<TopicConfig> {
    let mut words = text.splitn(6, ' ');
    let topic = TopicConfig {
        topic_name: words.next()?.to_owned(),
        read_queue_nums: words.next()?.parse().ok()?,
        write_queue_nums: words.next()?.parse().ok()?,
        perm: words.next()?.parse().ok()?,
        topic_filter_type: TopicFilterType::from_name(words.next()?),
        ..TopicConfig::default()
    };
    let attributes = match words.next().map(str::trim) {
        None | Some("") => BTreeMap::new(),
        Some(json) => from_fastjson(json.as_bytes()).ok()?,
    };
    Some(TopicConfig {
        attributes,
        ..topic
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    fn compressed(parts: &[&[u8]]) -> Vec<u8> {
        let mut stream = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        for part in parts {
            stream.write_all(part).expect("a Vec");
        }
        stream.finish().expect("a Vec")
    }

    #[test]
    fn both_forms_say_the_same() {
        let json = br#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":
            {"counter":2,"stateVersion":1,"timestamp":3},"mappingDataVersion":{"counter":0},
            "topicConfigTable":{"T":{"attributes":{"message.type":"FIFO"},"order":false,"perm":6,
            "readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,
            "writeQueueNums":4}},"topicQueueMappingInfoMap":{"S":{"currIdMap":{0:1}}}}}"#;
        let plain = RegisterBrokerBody::read(json, false, 0).expect("plain");
        let version = br#"{"counter":2,"stateVersion":1,"timestamp":3}"#;
        let topic = br#"T 8 4 6 SINGLE_TAG {"message.type":"FIFO"}"#;
        let body = compressed(&[
            &(version.len() as u32).to_be_bytes(),
            version,
            &1_u32.to_be_bytes(),
            &(topic.len() as u32).to_be_bytes(),
            topic,
            &2_u32.to_be_bytes(),
            b"[]",
            &0_u32.to_be_bytes(),
        ]);
        let crc = i64::from(crc32fast::hash(&body) & 0x7fff_ffff);
        assert_eq!(
            RegisterBrokerBody::read(&body, true, crc).expect("zlib"),
            plain
        );
        assert_eq!(
            plain.topic_config_serialize_wrapper.topic_config_table["T"].perm,
            6
        );
        for (body, crc, expect) in [
            (body.clone(), crc + 1, "the body's CRC-32 is"),
            (
                b"x".to_vec(),
                0,
                "the compressed body is broken: no zlib stream",
            ),
            (
                compressed(&[&9_u32.to_be_bytes()]),
                0,
                "the compressed body is broken: it ends",
            ),
        ] {
            let error = RegisterBrokerBody::read(&body, true, crc).expect_err(expect);
            assert!(error.to_string().starts_with(expect), "{error}");
        }
    }

    #[test]
    fn a_bomb_does_not_inflate() {
        let zeros = vec![0_u8; 65 * 1024 * 1024];
        let bomb = compressed(&[&zeros]);
        let error = RegisterBrokerBody::read(&bomb, true, 0).expect_err("a bomb");
        assert!(error.to_string().contains("beyond the limit"), "{error}");
    }
}
