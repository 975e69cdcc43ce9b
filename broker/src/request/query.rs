//! Messages by key and by place (`QueryMessageProcessor.java`). Both may read the disk.

use std::sync::Arc;

use net::Peer;
use protocol::header::{QueryMessage, QueryMessageAnswer, ViewMessage};
use protocol::topic::STATE_TOPIC;
use protocol::{Frame, Header as _, Refusal, ResponseCode};
use store::KeyLimits;

use super::{Answer, failed};
use crate::Broker;

/// Of one answer; also what a unique key may have (`defaultQueryMaxNum`).
const MESSAGES_MAX: usize = 32;
const KEYED_MAX: usize = 64;

pub(super) fn by_key(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let header = QueryMessage::read(&request.fields)?;
    let wanted = usize::try_from(header.messages_max).unwrap_or(0);
    let limits = KeyLimits {
        messages_max: if header.unique {
            MESSAGES_MAX
        } else {
            wanted.min(KEYED_MAX)
        },
        from_ms: header.from_ms,
        to_ms: header.to_ms,
    };
    super::reading(broker, request, peer, move |broker, request| {
        let records = broker
            .store
            .query(&header.topic, &header.key, limits)
            .map_err(failed)?;
        if records.is_empty() || header.topic == STATE_TOPIC {
            let remark = "can not find message, maybe time range not correct";
            return Err(Refusal::new(ResponseCode::QueryNotFound, remark));
        }
        let status = broker.store.status();
        let answer = QueryMessageAnswer {
            index_ms: crate::process::unix_ms(),
            index_position: status.confirm as i64,
        };
        Ok(request
            .answer(ResponseCode::Success)
            .with_header(&answer)
            .with_body(records.concat()))
    })
}

pub(super) fn by_position(broker: &Arc<Broker>, request: &Frame, peer: &Arc<Peer>) -> Answer {
    let position = ViewMessage::read(&request.fields)?.position;
    super::reading(broker, request, peer, move |broker, request| {
        let record = match u64::try_from(position) {
            Ok(position) => broker.store.record_at(position).map_err(failed)?,
            Err(_) => None,
        };
        let record = record.ok_or_else(|| {
            let remark = format!("can not find message by the offset, {position}");
            Refusal::new(ResponseCode::SystemError, remark)
        })?;
        Ok(request.answer(ResponseCode::Success).with_body(record))
    })
}
