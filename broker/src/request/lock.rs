//! Queues that one consumer of a group reads alone (`AdminBrokerProcessor.lockBatchMQ`).

use std::sync::Arc;

use protocol::body::{LockBatch, LockBatchAnswer};
use protocol::json::{from_fastjson, to_fastjson};
use protocol::{Frame, ResponseCode};

use super::Answer;
use crate::Broker;
use crate::process::unix_ms;

/// Answered with the queues that the client has for itself from now on.
pub(super) fn lock(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let batch: LockBatch = from_fastjson(&request.body)?;
    let locked = broker.coordination().locks.lock(
        &batch.consumer_group,
        &batch.client_id,
        batch.mq_set,
        unix_ms(),
    );
    let body = to_fastjson(&LockBatchAnswer { locked });
    Ok(Some(request.answer(ResponseCode::Success).with_body(body)))
}

pub(super) fn unlock(broker: &Arc<Broker>, request: &Frame) -> Answer {
    let batch: LockBatch = from_fastjson(&request.body)?;
    broker
        .coordination()
        .locks
        .unlock(&batch.consumer_group, &batch.client_id, &batch.mq_set);
    Ok(Some(request.answer(ResponseCode::Success)))
}
