//! A door in front of a server that sees whether each connection begins as TLS does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Debug)]
pub struct Witness {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    tls: AtomicUsize,
    plain: AtomicUsize,
}

/// The first byte of a TLS connection: a record with a handshake.
const HANDSHAKE: u8 = 0x16;

impl Witness {
    pub async fn start(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let seen = Arc::<Seen>::default();
        let kept = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, upstream, Arc::clone(&kept)));
            }
        });
        Ok(Self {
            address,
            seen,
            accepting,
        })
    }

    /// Why not every connection was TLS, if so.
    pub fn complaint(&self) -> Option<String> {
        let tls = self.seen.tls.load(Ordering::Relaxed);
        let plain = self.seen.plain.load(Ordering::Relaxed);
        let address = self.address;
        (tls == 0 || plain > 0)
            .then(|| format!("connections to {address}: {tls} with TLS, {plain} without"))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut client: TcpStream, upstream: SocketAddr, seen: Arc<Seen>) {
    let mut first = [0];
    match client.peek(&mut first).await {
        Ok(1) if first == [HANDSHAKE] => seen.tls.fetch_add(1, Ordering::Relaxed),
        Ok(1) => seen.plain.fetch_add(1, Ordering::Relaxed),
        _ => return,
    };
    if let Ok(mut server) = TcpStream::connect(upstream).await {
        // An end of either side is the end of both.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
