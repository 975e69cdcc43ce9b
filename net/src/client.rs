//! A connection of ours to somebody else's server: one call at a time, each with a deadline.
//! `host:port` is spoken to in plain text, `tls://host:port` in TLS that checks no certificate, as
//! the Java clients do by default: it keeps listeners out, not somebody in the middle.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;
use std::{fmt, io};

use bytes::BytesMut;
use protocol::frame::{self, Malformed};
use protocol::{Frame, ResponseCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls;

/// Why a call got no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{address} can't be reached: {error}")]
    Io { address: String, error: io::Error },
    #[error("{address} did not answer in {after:?}")]
    TimedOut { address: String, after: Duration },
    #[error("{address} does not speak the protocol: {error}")]
    Malformed { address: String, error: Malformed },
    /// The server answered, with another code than success.
    #[error("{address} answered {code}{}: {remark}", name(*code))]
    Refused {
        address: String,
        code: i32,
        remark: String,
    },
}

fn name(code: i32) -> String {
    ResponseCode::from_number(code)
        .map(|c| format!(" {}", c.java_name()))
        .unwrap_or_default()
}

#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    opaque: i32,
    limits: frame::Limits,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Stream for S {}

impl Connection {
    /// Opens a connection to `host:port` or `tls://host:port`.
    pub async fn open(address: &str, within: Duration) -> Result<Self, CallError> {
        let io = |error| CallError::Io {
            address: address.to_owned(),
            error,
        };
        let stream = timeout(within, connect(address))
            .await
            .map_err(|_| CallError::TimedOut {
                address: address.to_owned(),
                after: within,
            })?
            .map_err(io)?;
        Ok(Self {
            address: address.to_owned(),
            stream,
            buffer: BytesMut::new(),
            opaque: 0,
            limits: frame::Limits::default(),
        })
    }

    /// Sends a request and waits for its answer, whatever its code. Frames that answer nothing
    /// are passed over, so that a call after a late answer still finds its own.
    pub async fn call(&mut self, request: Frame, within: Duration) -> Result<Frame, CallError> {
        let address = self.address.clone();
        timeout(within, self.exchange(request))
            .await
            .unwrap_or(Err(CallError::TimedOut {
                address,
                after: within,
            }))
    }

    /// Like [`Self::call`], but any code other than success is an error.
    pub async fn ask(&mut self, request: Frame, within: Duration) -> Result<Frame, CallError> {
        let answer = self.call(request, within).await?;
        if answer.code == ResponseCode::Success.number() {
            return Ok(answer);
        }
        Err(CallError::Refused {
            address: self.address.clone(),
            code: answer.code,
            remark: answer.remark.unwrap_or_default(),
        })
    }

    async fn exchange(&mut self, request: Frame) -> Result<Frame, CallError> {
        self.opaque = self.opaque.wrapping_add(1);
        let request = Frame {
            opaque: self.opaque,
            ..request
        };
        let mut out = BytesMut::new();
        frame::encode(&request, &mut out);
        self.stream.write_all(&out).await.map_err(|e| self.io(e))?;
        loop {
            let decoded = frame::decode(&mut self.buffer, &self.limits).map_err(|error| {
                CallError::Malformed {
                    address: self.address.clone(),
                    error,
                }
            })?;
            match decoded {
                Some(answer) if answer.is_response() && answer.opaque == self.opaque => {
                    return Ok(answer);
                }
                Some(_) => {}
                None => {
                    self.buffer.reserve(16 * 1024);
                    let read = self.stream.read_buf(&mut self.buffer).await;
                    if read.map_err(|e| self.io(e))? == 0 {
                        return Err(self.io(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    fn io(&self, error: io::Error) -> CallError {
        CallError::Io {
            address: self.address.clone(),
            error,
        }
    }
}

pub(crate) async fn connect(address: &str) -> io::Result<Box<dyn Stream>> {
    let Some(address) = address.strip_prefix("tls://") else {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        return Ok(Box::new(stream));
    };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name = host.trim_matches(['[', ']']).to_owned().try_into();
    let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = tls::unverified().map_err(io::Error::other)?;
    Ok(Box::new(connector.connect(name, stream).await?))
}
