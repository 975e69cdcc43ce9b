//! As much HTTP as an operations port needs: one request, one answer, the connection ends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
}

const PAGE_SECONDS_MAX: u64 = 5;

pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Page> {
    ask("GET", address, path, "").await
}

pub async fn put(address: SocketAddr, path: &str, body: &str) -> anyhow::Result<Page> {
    ask("PUT", address, path, body).await
}

async fn ask(method: &str, address: SocketAddr, path: &str, body: &str) -> anyhow::Result<Page> {
    let limit = Duration::from_secs(PAGE_SECONDS_MAX);
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    tokio::time::timeout(limit, fetch(address, &request))
        .await
        .with_context(|| format!("http://{address}{path}: no answer within {limit:?}"))?
        .with_context(|| format!("http://{address}{path}"))
}

async fn fetch(address: SocketAddr, request: &str) -> anyhow::Result<Page> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Ok(Page {
        status,
        head: head.to_owned(),
        body: if chunked {
            whole(body).context("broken chunks")?
        } else {
            body.to_owned()
        },
    })
}

/// A body that came in chunks.
fn whole(mut chunks: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n")?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(rest.get(..length)?);
        chunks = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}

impl Page {
    /// The sum of a metric's samples whose labels contain `label`; `None` if there is no sample.
    pub fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let samples: Vec<f64> = self
            .body
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
                    && line.contains(label)
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!samples.is_empty()).then(|| samples.iter().sum())
    }
}
