//! A client that writes bytes of its own making: what no official client would send. It knows the
//! frame format by itself, so that a mistake in Gantry's codec can't hide here.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

/// What came back within the time given.
#[derive(Debug)]
pub enum Received {
    Answer(Answer),
    /// End of stream or reset.
    Closed,
    /// The connection is open and says nothing.
    Silence,
}

/// An answer, in either encoding.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: i64,
    pub opaque: i64,
    pub version: i64,
    pub remark: String,
    pub fields: Map<String, Value>,
    pub body: Vec<u8>,
    pub binary: bool,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }
}

const ANSWER_SECONDS_MAX: u64 = 10;

impl Connection {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("no connection to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Writes; a peer that has closed meanwhile is not an error, [`Connection::receive`] says so.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Says that nothing more will be written.
    pub async fn finish(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    /// One answer to one request.
    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.write(request).await;
        match self
            .receive(Duration::from_secs(ANSWER_SECONDS_MAX))
            .await?
        {
            Received::Answer(answer) => Ok(answer),
            other => anyhow::bail!("no answer: {other:?}"),
        }
    }

    pub async fn receive(&mut self, limit: Duration) -> anyhow::Result<Received> {
        match tokio::time::timeout(limit, self.read_frame()).await {
            Err(_) => Ok(Received::Silence),
            Ok(Err(_)) => Ok(Received::Closed),
            Ok(Ok(frame)) => Ok(Received::Answer(parse(&frame)?)),
        }
    }

    /// Whether the peer closes in time, whatever it says before: a TLS alert is no frame.
    pub async fn closes_within(&mut self, limit: Duration) -> bool {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(limit, self.stream.read_to_end(&mut bytes)).await;
        read.is_ok()
    }

    async fn read_frame(&mut self) -> std::io::Result<Vec<u8>> {
        read_frame(&mut self.stream).await
    }

    /// Both directions for themselves: many requests on their way before the first answer.
    pub fn split(self) -> (Answers, OwnedWriteHalf) {
        let (answers, requests) = self.stream.into_split();
        (Answers(BufReader::new(answers)), requests)
    }
}

/// The answers of a connection, whatever they answer.
#[derive(Debug)]
pub struct Answers(BufReader<OwnedReadHalf>);

impl Answers {
    /// `None` at the end of the connection.
    pub async fn next(&mut self) -> anyhow::Result<Option<Answer>> {
        match read_frame(&mut self.0).await {
            Ok(frame) => parse(&frame).map(Some),
            Err(_) => Ok(None),
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// A request with a JSON header.
pub fn json_request(code: i32, opaque: i32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    let header = json!({
        "code": code, "language": "JAVA", "version": 513, "opaque": opaque, "flag": 0,
        "extFields": fields, "serializeTypeCurrentRPC": "JSON",
    });
    frame(0, header.to_string().as_bytes(), body)
}

/// A request with a ROCKETMQ binary header.
pub fn binary_request(code: i16, opaque: i32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut ext = Vec::new();
    for (name, value) in fields {
        ext.extend((name.len() as u16).to_be_bytes());
        ext.extend(name.as_bytes());
        ext.extend((value.len() as u32).to_be_bytes());
        ext.extend(value.as_bytes());
    }
    frame(
        1,
        &binary_header(code, opaque, ext.len() as u32, &ext),
        body,
    )
}

/// A binary header whose claimed length of the extension fields need not be true.
pub fn binary_header(code: i16, opaque: i32, ext_bytes: u32, ext: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(code.to_be_bytes());
    header.push(0); // Java
    header.extend(513_u16.to_be_bytes());
    header.extend(opaque.to_be_bytes());
    header.extend(0_i32.to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // no remark
    header.extend(ext_bytes.to_be_bytes());
    header.extend(ext);
    header
}

/// A frame of an encoding, a header and a body.
pub fn frame(encoding: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + header.len() + body.len());
    frame.extend((4 + header.len() as u32 + body.len() as u32).to_be_bytes());
    frame.extend((u32::from(encoding) << 24 | header.len() as u32).to_be_bytes());
    frame.extend(header);
    frame.extend(body);
    frame
}

/// A frame without its length field.
fn parse(frame: &[u8]) -> anyhow::Result<Answer> {
    let (word, rest) = frame
        .split_first_chunk::<4>()
        .context("a frame of nothing")?;
    let word = u32::from_be_bytes(*word);
    let (header, body) = rest
        .split_at_checked((word & 0x00ff_ffff) as usize)
        .context("a header beyond its frame")?;
    let mut answer = if word >> 24 == 0 {
        parse_json(header)?
    } else {
        parse_binary(header).context("a short binary header")?
    };
    answer.body = body.to_vec();
    Ok(answer)
}

fn parse_json(header: &[u8]) -> anyhow::Result<Answer> {
    let header: Value = serde_json::from_slice(header)?;
    let number = |name: &str| header.get(name).and_then(Value::as_i64).unwrap_or_default();
    let object = header.get("extFields").and_then(Value::as_object);
    Ok(Answer {
        code: number("code"),
        opaque: number("opaque"),
        version: number("version"),
        remark: header
            .get("remark")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        fields: object.cloned().unwrap_or_default(),
        body: Vec::new(),
        binary: false,
    })
}

fn parse_binary(header: &[u8]) -> Option<Answer> {
    let mut rest = header;
    let code = i16::from_be_bytes(take(&mut rest)?);
    let _language: [u8; 1] = take(&mut rest)?;
    let version = i16::from_be_bytes(take(&mut rest)?);
    let opaque = i32::from_be_bytes(take(&mut rest)?);
    let _flag: [u8; 4] = take(&mut rest)?;
    let remark = text(&mut rest)?;
    let mut ext = {
        let length = u32::from_be_bytes(take(&mut rest)?);
        rest.get(..length as usize)?
    };
    let mut fields = Map::new();
    while !ext.is_empty() {
        let length = u16::from_be_bytes(take(&mut ext)?) as usize;
        let (name, tail) = ext.split_at_checked(length)?;
        ext = tail;
        let name = String::from_utf8_lossy(name).into_owned();
        fields.insert(name, Value::String(text(&mut ext)?));
    }
    Some(Answer {
        code: i64::from(code),
        opaque: i64::from(opaque),
        version: i64::from(version),
        remark,
        fields,
        body: Vec::new(),
        binary: true,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = u32::from_be_bytes(take(rest)?) as usize;
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(String::from_utf8_lossy(text).into_owned())
}
