//! A TCP proxy that keeps every frame it passes on: who sent it, on which connection, in which
//! order. It knows no more of a frame than its length, so it records what it can't parse too.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A frame as it passed, its length field included.
#[derive(Debug, Clone)]
pub struct Passed {
    pub connection: usize,
    pub from_client: bool,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub struct Recorder {
    passed: Arc<Mutex<Vec<Passed>>>,
    accepting: JoinHandle<()>,
}

/// More is no frame of this protocol.
const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;

impl Recorder {
    pub async fn start(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let passed = Arc::<Mutex<Vec<Passed>>>::default();
        let kept = Arc::clone(&passed);
        let accepting = tokio::spawn(async move {
            for connection in 0.. {
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(upstream).await {
                        both_ways(client, server, connection, kept).await;
                    }
                });
            }
        });
        Ok(Self { passed, accepting })
    }

    /// What has passed so far.
    pub fn passed(&self) -> Vec<Passed> {
        self.passed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn both_ways(
    client: TcpStream,
    server: TcpStream,
    connection: usize,
    kept: Arc<Mutex<Vec<Passed>>>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let keep = |from_client| {
        let kept = Arc::clone(&kept);
        move |bytes: &[u8]| {
            let bytes = bytes.to_vec();
            let frame = Passed {
                connection,
                from_client,
                bytes,
            };
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(frame);
        }
    };
    // Either side's end is the end of both.
    tokio::select! {
        _ = one_way(from_client, to_server, keep(true)) => {}
        _ = one_way(from_server, to_client, keep(false)) => {}
    }
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    keep: impl Fn(&[u8]),
) -> std::io::Result<()> {
    loop {
        let length = from.read_u32().await?;
        if length > FRAME_BYTES_MAX {
            return Err(std::io::Error::other("not a frame"));
        }
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.resize(4 + length as usize, 0);
        if let Some(rest) = bytes.get_mut(4..) {
            from.read_exact(rest).await?;
        }
        keep(&bytes);
        to.write_all(&bytes).await?;
    }
}
