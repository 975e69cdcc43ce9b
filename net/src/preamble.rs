//! What may stand before the first frame: a PROXY header, then a TLS handshake. The first byte
//! decides: a frame's is 0, because a frame is shorter than 16 MiB, a handshake's is 0x16.
//!
//! A connection may say nothing at all for as long as it may between frames. What it has begun
//! it must end in time.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::proxy::{self, BadProxyHeader};
use crate::server::Options;
use crate::tls::TlsMode;

const HANDSHAKE: u8 = 0x16;

/// What carries the frames of a connection.
#[derive(Debug)]
pub(crate) enum Carrier {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a connection ended before its first frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it said nothing")]
    Silent,
    #[error("the PROXY header is wrong: {0}")]
    Proxy(#[from] BadProxyHeader),
    #[error("{0} was not ended in time")]
    Slow(&'static str),
    #[error("TLS is disabled here")]
    Disabled,
    #[error("plain text is not taken here")]
    Plain,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
}

impl Refused {
    /// Said by a client that does not speak the protocol, rather than by one that just left.
    pub(crate) fn is_malformed(&self) -> bool {
        !matches!(self, Self::Silent)
    }
}

/// The client that an accepted connection is of: the peer, or whom a trusted proxy names.
pub(crate) async fn client(
    stream: &mut TcpStream,
    peer: SocketAddr,
    options: &Options,
) -> Result<SocketAddr, Refused> {
    if !options.trusts(peer.ip()) || !proxy::begins(first_byte(stream, options).await?) {
        return Ok(peer);
    }
    let named = within(options, "the PROXY header", proxy::read(stream)).await??;
    Ok(named.unwrap_or(peer))
}

/// What the frames come in.
pub(crate) async fn carrier(stream: TcpStream, options: &Options) -> Result<Carrier, Refused> {
    let handshake = first_byte(&stream, options).await? == HANDSHAKE;
    match (&options.tls.acceptor, options.tls.mode) {
        (Some(acceptor), _) if handshake => {
            let accepted = within(options, "the TLS handshake", acceptor.accept(stream)).await?;
            let stream = accepted.map_err(Refused::Handshake)?;
            Ok(Carrier::Tls(Box::new(stream)))
        }
        (None, _) if handshake => Err(Refused::Disabled),
        (_, TlsMode::Enforcing) => Err(Refused::Plain),
        (_, TlsMode::Permissive | TlsMode::Disabled) => Ok(Carrier::Plain(stream)),
    }
}

/// The byte that comes next, which stays to be read.
async fn first_byte(stream: &TcpStream, options: &Options) -> Result<u8, Refused> {
    let mut first = [0];
    match timeout(options.limits.idle_max, stream.peek(&mut first)).await {
        Ok(Ok(1)) => Ok(u8::from_be_bytes(first)),
        _ => Err(Refused::Silent),
    }
}

async fn within<T>(
    options: &Options,
    what: &'static str,
    read: impl Future<Output = T>,
) -> Result<T, Refused> {
    let limit: Duration = options.limits.handshake_time_max;
    timeout(limit, read).await.map_err(|_| Refused::Slow(what))
}
