//! A client's connection as handlers hold it. Any thread may answer at any time: answers are
//! queued, never awaited. A client that does not read what it asked for is disconnected when too
//! many bytes wait for it.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::iter::once;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::Frame;
use protocol::frame::encode_head;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::outbound::{Flusher, Outbound};

#[derive(Debug)]
pub struct Peer {
    /// Unique in this process.
    pub id: u64,
    pub address: SocketAddr,
    /// The address on which the client came in.
    pub local: SocketAddr,
    /// Ends the connection when cancelled, as the server's stop does.
    pub closed: CancellationToken,
    pub(crate) outbound: Outbound,
    flusher: Arc<Flusher>,
    write_bytes_max: usize,
    /// Correlates the requests that we send on this connection.
    opaque: AtomicI32,
    /// Requests of ours that wait for the client's answer.
    calls: Mutex<HashMap<i32, oneshot::Sender<Frame>>>,
}

/// Of one connection, at the same time: each of a client's threads may wait for an answer.
const CALLS_MAX: usize = 1_024;

/// Why the client has not answered a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error("the connection is closed")]
    Closed,
    #[error("it did not answer in time")]
    TimedOut,
    #[error("{CALLS_MAX} calls wait for it already")]
    Busy,
}

impl Peer {
    pub(crate) fn new(
        id: u64,
        address: SocketAddr,
        local: SocketAddr,
        (outbound, flusher): (Outbound, Arc<Flusher>),
        write_bytes_max: usize,
        closed: CancellationToken,
    ) -> Self {
        Self {
            id,
            address,
            local,
            closed,
            outbound,
            flusher,
            write_bytes_max,
            opaque: AtomicI32::new(1),
            calls: Mutex::default(),
        }
    }

    /// Queues a frame.
    pub fn send(self: &Arc<Self>, frame: &Frame) {
        self.send_parts(frame, [frame.body.clone()]);
    }

    /// Queues a frame whose body is these parts, which are not copied.
    pub fn send_parts(
        self: &Arc<Self>,
        frame: &Frame,
        body: impl AsRef<[Bytes]> + IntoIterator<Item = Bytes>,
    ) {
        let body_len = body.as_ref().iter().map(Bytes::len).sum();
        let mut head = BytesMut::with_capacity(512);
        encode_head(frame, body_len, &mut head);
        let queued = self.outbound.push(once(head.freeze()).chain(body));
        if queued.bytes > self.write_bytes_max {
            tracing::warn!(peer = %self.address, "disconnected: it does not read its answers");
            self.closed.cancel();
        }
        if queued.unseen {
            self.flusher.push(Arc::clone(self));
        }
    }

    /// Queues a request of ours that wants no answer.
    pub fn notify(self: &Arc<Self>, request: Frame) {
        let opaque = self.opaque.fetch_add(1, Ordering::Relaxed);
        self.send(&Frame {
            opaque,
            ..request.oneway()
        });
    }

    /// Sends a request of ours and waits for the client's answer, whatever its code.
    pub async fn call(
        self: &Arc<Self>,
        request: Frame,
        within: Duration,
    ) -> Result<Frame, Unanswered> {
        let opaque = self.opaque.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        {
            let mut calls = self.lock_calls();
            if calls.len() >= CALLS_MAX {
                // Calls whose future was dropped have no receiver any more.
                calls.retain(|_, waiting| !waiting.is_closed());
            }
            if calls.len() >= CALLS_MAX {
                return Err(Unanswered::Busy);
            }
            calls.insert(opaque, answered);
        }
        self.send(&Frame { opaque, ..request });
        let answer = tokio::select! {
            answer = answer => answer.map_err(|_| Unanswered::Closed),
            () = self.closed.cancelled() => Err(Unanswered::Closed),
            () = tokio::time::sleep(within) => Err(Unanswered::TimedOut),
        };
        self.lock_calls().remove(&opaque);
        answer
    }

    /// Hands a client's answer to the call that waits for it, if one does.
    pub fn answered(&self, answer: Frame) {
        let waiting = self.lock_calls().remove(&answer.opaque);
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    /// Its reader has no more requests at hand.
    pub(crate) fn release(self: &Arc<Self>) {
        if self.outbound.release() {
            self.flusher.push_hot(Arc::clone(self));
        }
    }

    /// Writes what is queued as far as the kernel takes it at once.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.outbound.flush() {
            tracing::debug!(peer = %self.address, %error, "disconnected");
            self.closed.cancel();
        }
    }

    fn lock_calls(&self) -> std::sync::MutexGuard<'_, HashMap<i32, oneshot::Sender<Frame>>> {
        self.calls
            .lock()
            .expect("invariant: no panic while the calls are held")
    }
}
