//! What waits to be written to one connection, and who writes it.
//!
//! The connection's writing half lies beside the queue: who takes it out writes, and looks into
//! the queue again before it rests, so that nobody waits for the other. Whose answers nobody is
//! about to write is put on the list of a [`Flusher`], which is woken once for many connections;
//! what a connection's reader answers itself, when it has no more requests at hand. The
//! connection's own task writes only what the kernel does not take at once, and all of TLS.
//!
//! What waits for a client is a copy. A slice of a mapped log file would keep that file's blocks
//! for as long, though retention has deleted it, and its pages may have left memory when its turn
//! comes: whoever then wrote it would wait for the disk.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::Peer;

/// The half of a connection that is written.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub(crate) struct Outbound {
    waiting: Mutex<Waiting>,
    /// Wakes the connection's own task.
    task: Notify,
    /// All is the task's.
    tls: bool,
}

#[derive(Debug)]
struct Waiting {
    parts: Vec<Bytes>,
    /// Of these parts and of those that are being written.
    bytes: usize,
    /// `None` while somebody writes.
    socket: Option<Socket>,
    /// The reader is about to release it.
    held: bool,
    /// A flusher is about to flush.
    listed: bool,
    /// The connection's own task is about to write.
    blocked: bool,
    /// Nothing is queued any more; the task writes the rest.
    ended: bool,
    /// Nobody writes any more.
    closed: bool,
}

/// What has become of parts that were queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queued {
    /// Nobody looks yet: a flusher must be told.
    pub(crate) unseen: bool,
    /// Of all that waits.
    pub(crate) bytes: usize,
}

impl Waiting {
    /// Whether a flusher must be told, which from now on is taken for granted.
    fn list(&mut self) -> bool {
        let seen = self.held || self.listed || self.blocked || self.ended;
        let unseen = !seen && !self.parts.is_empty() && self.socket.is_some();
        self.listed |= unseen;
        unseen
    }
}

impl Outbound {
    pub(crate) fn new(socket: Socket) -> Self {
        let tls = matches!(socket, Socket::Tls(_));
        let waiting = Waiting {
            parts: Vec::new(),
            bytes: 0,
            socket: Some(socket),
            held: false,
            listed: false,
            blocked: false,
            ended: false,
            closed: false,
        };
        Self {
            waiting: Mutex::new(waiting),
            task: Notify::new(),
            tls,
        }
    }

    pub(crate) fn push(&self, parts: impl Iterator<Item = Bytes>) -> Queued {
        let mut waiting = self.lock();
        if !waiting.ended {
            let waits = self.tls || waiting.blocked;
            for part in parts.filter(|part| !part.is_empty()) {
                waiting.bytes += part.len();
                waiting.parts.push(if waits {
                    Bytes::copy_from_slice(&part)
                } else {
                    part
                });
            }
        }
        Queued {
            unseen: waiting.list(),
            bytes: waiting.bytes,
        }
    }

    /// Until it is released, what is queued needs no flusher.
    pub(crate) fn hold(&self) {
        self.lock().held = true;
    }

    /// Whether something waits that nobody looks at: a flusher must be told.
    pub(crate) fn release(&self) -> bool {
        let mut waiting = self.lock();
        waiting.held = false;
        waiting.list()
    }

    /// Writes what waits as far as the kernel takes it at once, the rest is the task's.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut waiting = self.lock();
        waiting.listed = false;
        while !waiting.parts.is_empty() && !waiting.blocked && !waiting.ended {
            let socket = match waiting.socket.take() {
                Some(Socket::Plain(socket)) => socket,
                Some(socket) => {
                    waiting.socket = Some(socket);
                    waiting.blocked = true;
                    self.task.notify_one();
                    return Ok(());
                }
                None => return Ok(()),
            };
            let mut parts = std::mem::take(&mut waiting.parts);
            let taken = waiting.bytes;
            drop(waiting);
            let written = write_at_once(&socket, &mut parts);
            copy_all(&mut parts);
            let left: usize = parts.iter().map(Bytes::len).sum();
            waiting = self.lock();
            waiting.bytes = (waiting.bytes + left).saturating_sub(taken);
            if waiting.closed {
                return written;
            }
            waiting.socket = Some(Socket::Plain(socket));
            waiting.blocked = !parts.is_empty();
            if waiting.blocked {
                copy_all(&mut waiting.parts);
            }
            if !parts.is_empty() || waiting.parts.is_empty() && parts.capacity() <= PARTS_KEPT {
                parts.append(&mut waiting.parts);
                waiting.parts = parts;
            }
            if waiting.blocked || waiting.ended {
                self.task.notify_one();
            }
            written?;
        }
        Ok(())
    }

    /// What is queued until now is the last; the task ends when it is written.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.task.notify_one();
    }

    /// The connection is over, whatever still waits.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        (waiting.ended, waiting.closed) = (true, true);
        (waiting.socket, waiting.parts) = (None, Vec::new());
    }

    /// The writing part of the connection's own task. A client that takes nothing for so long is
    /// one that has gone.
    pub(crate) async fn write_blocked(&self, unread_max: Duration) -> io::Result<()> {
        loop {
            let Some((mut socket, parts, last)) = self.take() else {
                self.task.notified().await;
                continue;
            };
            let taken: usize = parts.iter().map(Bytes::len).sum();
            match &mut socket {
                Socket::Plain(socket) => write_all(socket, parts, unread_max).await?,
                Socket::Tls(socket) => write_all(socket, parts, unread_max).await?,
            }
            if last {
                return match &mut socket {
                    Socket::Plain(socket) => socket.shutdown().await,
                    Socket::Tls(socket) => socket.shutdown().await,
                };
            }
            let mut waiting = self.lock();
            waiting.bytes = waiting.bytes.saturating_sub(taken);
            waiting.socket = Some(socket);
            waiting.blocked = !waiting.parts.is_empty();
        }
    }

    /// For the task: the socket, what to write to it, and whether it is the last.
    fn take(&self) -> Option<(Socket, Vec<Bytes>, bool)> {
        let mut waiting = self.lock();
        if !waiting.blocked && !waiting.ended {
            return None;
        }
        let socket = waiting.socket.take()?;
        Some((socket, std::mem::take(&mut waiting.parts), waiting.ended))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .expect("invariant: no panic while the queue is held")
    }
}

/// Room for so many parts is kept from one flush to the next.
const PARTS_KEPT: usize = 64;

/// Of one call to the kernel.
const SLICES_MAX: usize = 64;

/// Flushes connections whose answers come from elsewhere than their readers: all that have come
/// while it was on its way, without waking their tasks.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    peers: Mutex<Vec<Arc<Peer>>>,
    filled: Notify,
}

/// Connections flushed before others get their turn.
const FLUSHED_AT_ONCE: usize = 32;

/// Connections that wait for others with answers which were just read from the log: those of so
/// many, of 32 KiB each, fit into a processor's cache.
const HOT_MAX: usize = 8;

impl Flusher {
    /// For answers from elsewhere than the connection's reader.
    pub(crate) fn push(self: &Arc<Self>, peer: Arc<Peer>) {
        if self.list(peer).len() > 1 {
            return;
        }
        let later = TOGETHER.with_borrow_mut(|filled| {
            let filled = filled.as_mut();
            filled.map(|filled| filled.push(Arc::clone(self))).is_some()
        });
        if !later {
            self.filled.notify_one();
        }
    }

    /// For the answers of a reader, which go out while the processor has them at hand.
    pub(crate) fn push_hot(&self, peer: Arc<Peer>) {
        let mut peers = self.list(peer);
        if peers.len() == 1 {
            drop(peers);
            self.filled.notify_one();
        } else if peers.len() >= HOT_MAX {
            let some = std::mem::take(&mut *peers);
            drop(peers);
            for peer in some {
                peer.flush();
            }
        }
    }

    pub(crate) async fn run(&self) {
        loop {
            self.filled.notified().await;
            // What others have asked meanwhile is worked on first, so that answers go out
            // together: each that finds its reader asleep costs a wake-up.
            tokio::task::yield_now().await;
            let peers = std::mem::take(&mut *self.lock());
            for some in peers.chunks(FLUSHED_AT_ONCE) {
                for peer in some {
                    peer.flush();
                }
                tokio::task::yield_now().await;
            }
        }
    }

    fn list(&self, peer: Arc<Peer>) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        let mut peers = self.lock();
        peers.push(peer);
        peers
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.peers
            .lock()
            .expect("invariant: no panic while the list is held")
    }
}

thread_local! {
    static TOGETHER: RefCell<Option<Vec<Arc<Flusher>>>> = const { RefCell::new(None) };
}

/// What this work answers to many clients goes out when it has ended: a thread that answers one
/// after another would else be held up by whom it has woken for the first.
pub fn together(work: impl FnOnce()) {
    let outermost = TOGETHER.with_borrow_mut(|filled| {
        let outermost = filled.is_none();
        filled.get_or_insert_default();
        outermost
    });
    let _told = outermost.then_some(Told);
    work();
}

/// Tells the flushers when it is dropped, though the work has panicked: none waits for ever.
struct Told;

impl Drop for Told {
    fn drop(&mut self) {
        for flusher in TOGETHER.take().unwrap_or_default() {
            flusher.filled.notify_one();
        }
    }
}

fn copy_all(parts: &mut [Bytes]) {
    for part in parts {
        *part = Bytes::copy_from_slice(part);
    }
}

/// Leaves what the kernel does not take at once.
fn write_at_once(socket: &OwnedWriteHalf, parts: &mut Vec<Bytes>) -> io::Result<()> {
    let mut first = 0;
    let ended = loop {
        let tried = match parts.get(first..).unwrap_or_default() {
            [] => break Ok(()),
            [part] => socket.try_write(part),
            rest => socket.try_write_vectored(&slices(rest)),
        };
        match tried {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => first += advance(parts.get_mut(first..).unwrap_or_default(), written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    parts.drain(..first);
    ended
}

/// Writes all parts, as many in one call as the kernel takes; each call within `unread_max`.
async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    mut parts: Vec<Bytes>,
    unread_max: Duration,
) -> io::Result<()> {
    let mut first = 0;
    while let Some(rest) = parts.get_mut(first..).filter(|rest| !rest.is_empty()) {
        let written = timeout(unread_max, stream.write_vectored(&slices(rest))).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        first += advance(rest, written);
    }
    timeout(unread_max, stream.flush()).await?
}

fn slices(parts: &[Bytes]) -> Vec<IoSlice<'_>> {
    let parts = parts.iter().take(SLICES_MAX);
    parts.map(|part| IoSlice::new(part)).collect()
}

/// Takes so many bytes off the parts' front; says how many of them are done.
fn advance(parts: &mut [Bytes], mut written: usize) -> usize {
    let mut done = 0;
    for part in parts {
        let taken = written.min(part.len());
        written -= taken;
        if taken < part.len() {
            part.advance(taken);
            break;
        }
        done += 1;
    }
    done
}
