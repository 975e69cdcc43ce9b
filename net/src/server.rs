//! The accept loop and a connection's life: read, decode, hand over; write what is queued.
//!
//! Every connection is one task. A connection ends when the client leaves, sends what is no
//! frame, says nothing for too long, takes too long over one frame, does not read its answers,
//! or when the server stops.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use protocol::Frame;
use protocol::frame::{self, Malformed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Peer;

/// What a server does with a client's frames. Calls of one connection come one after another;
/// a handler answers through the peer, now or later, and must not block.
pub trait Handler: Send + Sync + 'static {
    fn handle(self: &Arc<Self>, request: Frame, peer: &Arc<Peer>);

    /// The connection has ended; nothing more comes from it.
    fn closed(self: &Arc<Self>, peer: &Peer);
}

/// What one server takes from all its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    pub frame: frame::Limits,
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    /// A connection on which nothing is said for so long is closed.
    pub idle_max: Duration,
    /// From the first byte of a frame to its last.
    pub frame_time_max: Duration,
    /// Bytes that wait until the client reads them.
    pub write_bytes_max: usize,
    /// From the stop signal until connections are cut off.
    pub drain_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: frame::Limits::default(),
            connections_max: 20_000,
            connections_per_address_max: 10_000,
            idle_max: Duration::from_mins(2),
            frame_time_max: Duration::from_secs(30),
            write_bytes_max: 64 * 1024 * 1024,
            drain_max: Duration::from_secs(3),
        }
    }
}

/// What a server has seen, for its metrics.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicUsize,
    pub refused: AtomicU64,
    pub malformed: AtomicU64,
}

/// Accepts and serves until `stop`, then lets connections finish what is queued.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    limits: Limits,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let server = Arc::new(Server {
        handler,
        limits,
        counts,
        per_address: Mutex::default(),
        next_id: AtomicU64::new(1),
        stop: stop.clone(),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Some(place) = Place::take(&server, address) {
                    let server = Arc::clone(&server);
                    tasks.spawn(async move { server.connection(stream, address, place).await });
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if timeout(server.limits.drain_max * 2, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(left = tasks.len(), "connections did not end in time");
    }
}

struct Server<H> {
    handler: Arc<H>,
    limits: Limits,
    counts: Arc<Counts>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
    next_id: AtomicU64,
    stop: CancellationToken,
}

impl<H: Handler> Server<H> {
    async fn connection(&self, stream: TcpStream, address: SocketAddr, _place: Place<H>) {
        let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else {
            return;
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::new(Peer::new(id, address, local, self.limits.write_bytes_max));
        let (read, mut write) = stream.into_split();
        tokio::select! {
            ended = self.read(read, &peer) => match ended {
                Ok(()) => {}
                Err(Ended::Malformed(error)) => {
                    self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(peer = %address, %error, "disconnected: malformed bytes");
                }
                Err(ended) => tracing::debug!(peer = %address, %ended, "disconnected"),
            },
            _ = write_queued(&mut write, &peer) => {}
            () = peer.closed.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
        // What was answered before the end still goes out, within a bound.
        let rest = peer.take_now();
        let _ = timeout(self.limits.drain_max, write_parts(&mut write, rest)).await;
        peer.closed.cancel();
        self.handler.closed(&peer);
    }

    async fn read(
        &self,
        mut stream: impl AsyncRead + Unpin,
        peer: &Arc<Peer>,
    ) -> Result<(), Ended> {
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        let mut frame_since: Option<Instant> = None;
        loop {
            while let Some(request) =
                frame::decode(&mut buffer, &self.limits.frame).map_err(Ended::Malformed)?
            {
                self.handler.handle(request, peer);
                frame_since = None;
            }
            let deadline = if buffer.is_empty() {
                Instant::now() + self.limits.idle_max
            } else {
                *frame_since.get_or_insert_with(Instant::now) + self.limits.frame_time_max
            };
            buffer.reserve(16 * 1024);
            match timeout_at(deadline, stream.read_buf(&mut buffer)).await {
                Ok(Ok(0)) if buffer.is_empty() => return Ok(()),
                Ok(Ok(0)) => return Err(Ended::Torn),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(Ended::Io(error)),
                Err(_) if buffer.is_empty() => return Err(Ended::Idle),
                Err(_) => return Err(Ended::Slow),
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Malformed(Malformed),
    #[error("the connection ended within a frame")]
    Torn,
    #[error("{0}")]
    Io(io::Error),
    #[error("idle for too long")]
    Idle,
    #[error("too long over one frame")]
    Slow,
}

/// One of the places for connections; given back when dropped.
struct Place<H> {
    server: Arc<Server<H>>,
    address: IpAddr,
}

impl<H> Place<H> {
    fn take(server: &Arc<Server<H>>, address: SocketAddr) -> Option<Self> {
        let ip = address.ip();
        let mut per_address = lock(&server.per_address);
        let here = per_address.entry(ip).or_default();
        let in_all = server.counts.connections.load(Ordering::Relaxed);
        if *here >= server.limits.connections_per_address_max
            || in_all >= server.limits.connections_max
        {
            if *here == 0 {
                per_address.remove(&ip);
            }
            drop(per_address);
            server.counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer = %address, in_all, "refused: too many connections");
            return None;
        }
        *here += 1;
        server.counts.connections.fetch_add(1, Ordering::Relaxed);
        drop(per_address);
        Some(Self {
            server: Arc::clone(server),
            address: ip,
        })
    }
}

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        self.server
            .counts
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        let mut per_address = lock(&self.server.per_address);
        if let Some(here) = per_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                per_address.remove(&self.address);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("invariant: no panic while a count is held")
}

async fn write_queued(stream: &mut (impl AsyncWrite + Unpin), peer: &Peer) -> io::Result<()> {
    loop {
        let parts = peer.take_queued().await;
        write_parts(stream, parts).await?;
    }
}

/// Writes all parts, as many in one call as the kernel takes.
async fn write_parts(
    stream: &mut (impl AsyncWrite + Unpin),
    mut parts: Vec<Bytes>,
) -> io::Result<()> {
    const SLICES_MAX: usize = 64;
    let mut first = 0;
    while let Some(rest) = parts.get(first..).filter(|rest| !rest.is_empty()) {
        let slices: Vec<IoSlice<'_>> = rest
            .iter()
            .take(SLICES_MAX)
            .map(|part| IoSlice::new(part))
            .collect();
        let mut written = stream.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(part) = parts.get_mut(first).filter(|_| written > 0) {
            let taken = written.min(part.len());
            part.advance(taken);
            written -= taken;
            if part.is_empty() {
                first += 1;
            }
        }
    }
    stream.flush().await
}

#[cfg(test)]
mod tests;
