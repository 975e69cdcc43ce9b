//! The accept loops and a connection's life: read, decode, hand over; write what is queued.
//!
//! Every connection is one task. A connection ends when the client leaves, sends what is no
//! frame, says nothing for too long, takes too long over one frame, does not read its answers,
//! or when the server stops.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use protocol::Frame;
use protocol::frame::{self, Malformed};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::outbound::{Flusher, Outbound, Socket};
use crate::preamble::{self, Carrier, Refused};
use crate::{Network, Peer, Tls};

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
    /// A connection on which nothing is said for so long is closed, and one whose client does not
    /// take what it asked for.
    pub idle_max: Duration,
    /// From the first byte of a frame to its last.
    pub frame_time_max: Duration,
    /// For a PROXY header, and for a TLS handshake. Their bytes are bounded too: 4 KiB, and the
    /// 64 KiB that rustls takes of an unfinished handshake.
    pub handshake_time_max: Duration,
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
            handshake_time_max: Duration::from_secs(10),
            write_bytes_max: 64 * 1024 * 1024,
            drain_max: Duration::from_secs(3),
        }
    }
}

/// How a server takes connections.
#[derive(Debug, Clone)]
pub struct Options {
    pub limits: Limits,
    pub tls: Tls,
    /// Whose PROXY headers are believed.
    pub proxy_from: Vec<Network>,
}

impl Options {
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.proxy_from.iter().any(|from| from.contains(address))
    }
}

/// What a server has seen, for its metrics.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicUsize,
    pub refused: AtomicU64,
    pub malformed: AtomicU64,
}

/// Accepts and serves until `stop`, then lets connections finish what is queued. The limits
/// are those of all ports together.
pub async fn serve<H: Handler>(
    listeners: Vec<TcpListener>,
    handler: Arc<H>,
    options: Options,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    // As many as there are threads, so that none waits for another's.
    let threads = Handle::current().metrics().num_workers();
    let flushers: Vec<Arc<Flusher>> = (0..threads).map(|_| Arc::default()).collect();
    for flusher in &flushers {
        let (flusher, stop) = (Arc::clone(flusher), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(flusher.run()).await });
    }
    let server = Arc::new(Server {
        handler,
        options,
        counts,
        per_address: Mutex::default(),
        flushers,
        next_id: AtomicU64::new(1),
        stop: stop.clone(),
    });
    for listener in listeners {
        tasks.spawn(accept(Arc::clone(&server), listener, tasks.clone()));
    }
    stop.cancelled().await;
    tasks.close();
    if timeout(server.options.limits.drain_max * 2, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(left = tasks.len(), "connections did not end in time");
    }
}

async fn accept<H: Handler>(server: Arc<Server<H>>, listener: TcpListener, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.stop.cancelled() => return,
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
}

struct Server<H> {
    handler: Arc<H>,
    options: Options,
    counts: Arc<Counts>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
    flushers: Vec<Arc<Flusher>>,
    next_id: AtomicU64,
    stop: CancellationToken,
}

impl<H: Handler> Server<H> {
    async fn connection(&self, stream: TcpStream, from: SocketAddr, mut place: Place<H>) {
        let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else {
            return;
        };
        let opened = tokio::select! {
            opened = self.open(stream, from, &mut place) => opened,
            () = self.stop.cancelled() => return,
        };
        let (carrier, address) = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => return,
            Err(refused) if refused.is_malformed() => {
                self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(peer = %from, %refused, "disconnected");
                return;
            }
            Err(refused) => return tracing::debug!(peer = %from, %refused, "disconnected"),
        };
        match carrier {
            Carrier::Plain(stream) => {
                let (read, write) = stream.into_split();
                self.converse(read, Socket::Plain(write), (address, local))
                    .await;
            }
            Carrier::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                self.converse(read, Socket::Tls(write), (address, local))
                    .await;
            }
        }
    }

    /// Up to the first frame. `None`: the client that a proxy names has no place left.
    async fn open(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
        place: &mut Place<H>,
    ) -> Result<Option<(Carrier, SocketAddr)>, Refused> {
        let address = preamble::client(&mut stream, from, &self.options).await?;
        if !place.count(address) {
            return Ok(None);
        }
        let carrier = preamble::carrier(stream, &self.options).await?;
        Ok(Some((carrier, address)))
    }

    async fn converse(
        &self,
        read: impl AsyncRead + Unpin,
        write: Socket,
        (address, local): (SocketAddr, SocketAddr),
    ) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let flusher = self.flushers.get(id as usize % self.flushers.len());
        let flusher = flusher.expect("invariant: there is one for each thread");
        let peer = Arc::new(Peer::new(
            id,
            address,
            local,
            (Outbound::new(write), Arc::clone(flusher)),
            self.options.limits.write_bytes_max,
            self.stop.child_token(),
        ));
        let _closing = Closing {
            server: self,
            peer: &peer,
        };
        let unread_max = self.options.limits.idle_max;
        let mut writing = pin!(peer.outbound.write_blocked(unread_max));
        let mut broken = false;
        tokio::select! {
            biased;
            ended = self.read(read, &peer) => match ended {
                Ok(()) => {}
                Err(Ended::Malformed(error)) => {
                    self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(peer = %address, %error, "disconnected: malformed bytes");
                }
                Err(ended) => tracing::debug!(peer = %address, %ended, "disconnected"),
            },
            written = &mut writing => {
                broken = true;
                tracing::debug!(peer = %address, ?written, "disconnected");
            }
            () = peer.closed.cancelled() => {}
        }
        // What was answered before the end still goes out, within a bound.
        peer.outbound.end();
        if !broken {
            let _ = timeout(self.options.limits.drain_max, writing).await;
        }
    }

    async fn read(
        &self,
        mut stream: impl AsyncRead + Unpin,
        peer: &Arc<Peer>,
    ) -> Result<(), Ended> {
        let mut buffer = BytesMut::new();
        let mut frame_since: Option<Instant> = None;
        let mut timer = pin!(sleep_until(Instant::now() + self.options.limits.idle_max));
        loop {
            peer.outbound.hold();
            while let Some(request) =
                frame::decode(&mut buffer, &self.options.limits.frame).map_err(Ended::Malformed)?
            {
                self.handler.handle(request, peer);
                frame_since = None;
            }
            peer.release();
            if buffer.is_empty() {
                // What a large frame took is not kept for a small one.
                buffer = BytesMut::new();
            }
            let deadline = if buffer.is_empty() {
                Instant::now() + self.options.limits.idle_max
            } else {
                *frame_since.get_or_insert_with(Instant::now) + self.options.limits.frame_time_max
            };
            // To set a timer costs more than to look at a clock: one that comes too early is only
            // then set to where it should be.
            if deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            let read = loop {
                tokio::select! {
                    biased;
                    read = read_some(&mut stream, &mut buffer) => break Some(read),
                    () = &mut timer => {
                        if Instant::now() >= deadline {
                            break None;
                        }
                        timer.as_mut().reset(deadline);
                    }
                }
            };
            match read {
                Some(Ok(0)) if buffer.is_empty() => return Ok(()),
                Some(Ok(0)) => return Err(Ended::Torn),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Ended::Io(error)),
                None if buffer.is_empty() => return Err(Ended::Idle),
                None => return Err(Ended::Slow),
            }
        }
    }
}

/// Ends a connection when it is dropped, though its handler has panicked: others may hold the peer
/// for as long as they like.
struct Closing<'a, H: Handler> {
    server: &'a Server<H>,
    peer: &'a Peer,
}

impl<H: Handler> Drop for Closing<'_, H> {
    fn drop(&mut self) {
        self.peer.outbound.close();
        self.peer.closed.cancel();
        self.server.handler.closed(self.peer);
    }
}

/// Of one call to the kernel.
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// What a connection says is first read into a place that all of a thread share: it stays in the
/// processor's cache, and a connection that is silent holds no memory. The rest of a frame goes to
/// where its beginning is.
async fn read_some(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    if !buffer.is_empty() {
        buffer.reserve(READ_BYTES);
        return stream.read_buf(buffer).await;
    }
    poll_fn(|context| {
        READ.with_borrow_mut(|read| {
            let mut read = ReadBuf::new(read);
            let polled = Pin::new(&mut *stream).poll_read(context, &mut read);
            polled.map_ok(|()| {
                *buffer = BytesMut::from(read.filled());
                buffer.len()
            })
        })
    })
    .await
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
    /// Whose it is, once that is known.
    address: Option<IpAddr>,
}

impl<H> Place<H> {
    /// A place for a connection, which is its peer's unless the peer may be a proxy.
    fn take(server: &Arc<Server<H>>, from: SocketAddr) -> Option<Self> {
        let connections = &server.counts.connections;
        let before = connections.fetch_add(1, Ordering::Relaxed);
        let mut place = Self {
            server: Arc::clone(server),
            address: None,
        };
        if before >= server.options.limits.connections_max {
            place.refuse(from, before);
            return None;
        }
        (server.options.trusts(from.ip()) || place.count(from)).then_some(place)
    }

    /// Makes the place one of this client's, unless it has as many as it may; only once.
    fn count(&mut self, client: SocketAddr) -> bool {
        if self.address.is_some() {
            return true;
        }
        let ip = client.ip();
        let mut per_address = lock(&self.server.per_address);
        let here = per_address.get(&ip).copied().unwrap_or(0);
        let full = here >= self.server.options.limits.connections_per_address_max;
        if !full {
            per_address.insert(ip, here + 1);
        }
        drop(per_address);
        if full {
            self.refuse(client, here);
            return false;
        }
        self.address = Some(ip);
        true
    }

    fn refuse(&self, client: SocketAddr, open: usize) {
        self.server.counts.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(peer = %client, open, "refused: too many connections");
    }
}

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        self.server
            .counts
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else {
            return;
        };
        let mut per_address = lock(&self.server.per_address);
        if let Some(here) = per_address.get_mut(&address) {
            *here -= 1;
            if *here == 0 {
                per_address.remove(&address);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("invariant: no panic while a count is held")
}

#[cfg(test)]
mod tests;
