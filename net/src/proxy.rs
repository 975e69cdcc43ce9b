//! The PROXY protocol, versions 1 and 2: who the client behind a load balancer is.
//!
//! A header is believed from the addresses in `proxyProtocolFrom` alone. The Java server takes
//! it from anyone, so that any client can give itself any address: for the limits by address,
//! for the address in every message, for access rules.
//!
//! ```text
//! 1  PROXY TCP4 192.0.2.1 192.0.2.9 50000 10911\r\n       at most 107 bytes
//! 2  12 signature | 1 version 2 and command | 1 family | 2 length of what follows
//!    addresses and ports, then fields of which none is used here
//! ```

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let shift = 32 - u32::from(self.prefix);
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let shift = 128 - u32::from(self.prefix);
                (ours.to_bits() ^ theirs.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address and no network such as 10.0.0.0/8")]
pub struct NoNetwork(String);

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let parsed = || {
            let address: IpAddr = address.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok())?;
            (prefix <= longest).then_some(Self { address, prefix })
        };
        parsed().ok_or_else(|| NoNetwork(text.to_owned()))
    }
}

/// Why what a proxy sent is no header.
#[derive(Debug, thiserror::Error)]
pub enum BadProxyHeader {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Broken(&'static str),
}

const V1_BYTES_MAX: usize = 107;
const V2_BYTES_MAX: usize = 4_096;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whether a connection that begins so begins with a header: no frame and no handshake does.
pub(crate) fn begins(first: u8) -> bool {
    first == b'P' || first == b'\r'
}

/// Reads a header and not a byte more. `None` when it names no client: a proxy's own check, or
/// a client without an address.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, BadProxyHeader> {
    let first = stream.read_u8().await?;
    if first == b'P' {
        read_v1(stream).await
    } else {
        read_v2(stream).await
    }
}

async fn read_v1(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, BadProxyHeader> {
    let mut line = vec![b'P'];
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_BYTES_MAX {
            return Err(BadProxyHeader::Broken("its line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    parse_v1(&line)
}

fn parse_v1(line: &[u8]) -> Result<Option<SocketAddr>, BadProxyHeader> {
    let broken = BadProxyHeader::Broken;
    let line = std::str::from_utf8(line).map_err(|_| broken("its line is no ASCII"))?;
    let mut words = line.trim_end_matches("\r\n").split(' ');
    if words.next() != Some("PROXY") {
        return Err(broken("its line does not begin with PROXY"));
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let words: Vec<&str> = words.collect();
    let [source, destination, source_port, destination_port] = words.as_slice() else {
        return Err(broken("its line has not six words"));
    };
    let address = |ip: &str, port: &str| {
        let ip: IpAddr = ip.parse().ok()?;
        let of_family = match family {
            Some("TCP4") => ip.is_ipv4(),
            Some("TCP6") => ip.is_ipv6(),
            _ => false,
        };
        of_family.then_some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
    };
    match (
        address(source, source_port),
        address(destination, destination_port),
    ) {
        (Some(source), Some(_)) => Ok(Some(source)),
        _ => Err(broken("its line holds wrong addresses")),
    }
}

async fn read_v2(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, BadProxyHeader> {
    let mut head = [b'\r'; 16];
    if let Some(rest) = head.get_mut(1..) {
        stream.read_exact(rest).await?;
    }
    let (signature, mut rest) = head.split_at(V2_SIGNATURE.len());
    if signature != V2_SIGNATURE {
        return Err(BadProxyHeader::Broken("its signature is wrong"));
    }
    let (command, family) = (rest.get_u8(), rest.get_u8());
    let len = usize::from(rest.get_u16());
    if len > V2_BYTES_MAX {
        return Err(BadProxyHeader::Broken("it is too long"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    parse_v2(command, family, &body)
}

fn parse_v2(
    command: u8,
    family: u8,
    mut body: &[u8],
) -> Result<Option<SocketAddr>, BadProxyHeader> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let short = |_| BadProxyHeader::Broken("its addresses are short");
    match (command, family) {
        (LOCAL, _) | (PROXY, 0x00 | 0x31) => Ok(None),
        (PROXY, 0x11) => {
            let ip = Ipv4Addr::from_bits(body.try_get_u32().map_err(short)?);
            body.try_get_u32().map_err(short)?;
            let port = body.try_get_u16().map_err(short)?;
            body.try_get_u16().map_err(short)?;
            Ok(Some(SocketAddr::new(ip.into(), port)))
        }
        (PROXY, 0x21) => {
            let ip = Ipv6Addr::from_bits(body.try_get_u128().map_err(short)?);
            body.try_get_u128().map_err(short)?;
            let port = body.try_get_u16().map_err(short)?;
            body.try_get_u16().map_err(short)?;
            Ok(Some(SocketAddr::new(IpAddr::V6(ip).to_canonical(), port)))
        }
        (PROXY, _) => Err(BadProxyHeader::Broken("its family is none of a stream")),
        _ => Err(BadProxyHeader::Broken("its version or command is unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    #[tokio::test]
    async fn headers_are_read_to_their_end_or_refused() {
        let tcp4 = [192, 0, 2, 1, 192, 0, 2, 9, 0xc3, 0x50, 0x2a, 0x9f];
        let mut tcp6 = Ipv6Addr::LOCALHOST.octets().to_vec();
        tcp6.extend([0xfd; 16]);
        tcp6.extend([0xc3, 0x50, 0x2a, 0x9f]);
        let mut mapped = Ipv4Addr::new(192, 0, 2, 1)
            .to_ipv6_mapped()
            .octets()
            .to_vec();
        mapped.extend([0; 16]);
        mapped.extend([0xc3, 0x50, 0x2a, 0x9f]);
        let with_fields = [&tcp4[..], &[0x04, 0, 2, b'h', b'i']].concat();
        let line = |text: &str| text.as_bytes().to_vec();
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for (header, expect) in [
            (
                line("PROXY TCP4 192.0.2.1 192.0.2.9 50000 10911\r\n"),
                Ok(Some("192.0.2.1:50000")),
            ),
            (
                line("PROXY TCP6 ::1 fd00::1 50000 1\r\n"),
                Ok(Some("[::1]:50000")),
            ),
            (line("PROXY UNKNOWN\r\n"), Ok(None)),
            (line("PROXY UNKNOWN what ever\r\n"), Ok(None)),
            (v2(0x21, 0x11, &tcp4), Ok(Some("192.0.2.1:50000"))),
            (v2(0x21, 0x11, &with_fields), Ok(Some("192.0.2.1:50000"))),
            (v2(0x21, 0x21, &tcp6), Ok(Some("[::1]:50000"))),
            (v2(0x21, 0x21, &mapped), Ok(Some("192.0.2.1:50000"))),
            (v2(0x20, 0x00, b""), Ok(None)),
            (v2(0x20, 0x11, &tcp4), Ok(None)),
            (v2(0x21, 0x31, &[0; 216]), Ok(None)),
            (
                line("PROXY TCP4 ::1 ::2 1 2\r\n"),
                Err("its line holds wrong"),
            ),
            (
                line("PROXY TCP4 1.2.3.4 1.2.3.4 1 x\r\n"),
                Err("its line holds wrong"),
            ),
            (line("PROXY TCP4 1.2.3.4\r\n"), Err("its line has not")),
            (line("PUT / HTTP/1.1\r\n"), Err("its line does not begin")),
            (line("PROXY \u{e9}\r\n"), Err("its line has not")),
            (line(&long), Err("its line does not end")),
            (line("PROXY TCP4 1.2.3"), Err("unexpected end of file")),
            (v2(0x21, 0x11, &tcp4[..11]), Err("its addresses are short")),
            (v2(0x21, 0x21, &tcp6[..12]), Err("its addresses are short")),
            (v2(0x21, 0x12, &tcp4), Err("its family")),
            (v2(0x31, 0x11, &tcp4), Err("its version")),
            (v2(0x22, 0x11, &tcp4), Err("its version")),
            (
                v2(0x21, 0x11, &[0; V2_BYTES_MAX + 1]),
                Err("it is too long"),
            ),
            (line("\r\n\r\n\0\r\nQUIT!----"), Err("its signature")),
            (V2_SIGNATURE.to_vec(), Err("early eof")),
        ] {
            check(&header, expect).await;
        }
    }

    async fn check(header: &[u8], expect: Result<Option<&str>, &str>) {
        let shown = String::from_utf8_lossy(header);
        let torn =
            matches!(expect, Err(text) if text.contains("eof") || text.contains("end of file"));
        let rest: &[u8] = if torn { b"" } else { b"rest" };
        let mut stream = &[header, rest].concat()[..];
        match (read(&mut stream).await, expect) {
            (Ok(found), Ok(expect)) => {
                let expect = expect.map(|a| a.parse().expect("an address"));
                assert_eq!((found, stream), (expect, rest), "{shown}");
            }
            (Err(found), Err(expect)) => {
                assert!(found.to_string().starts_with(expect), "{shown}: {found}");
            }
            (found, expect) => panic!("{shown}: {found:?}, not {expect:?}"),
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let check = |network: &str, address: &str, expect: bool| {
            let found = network.parse::<Network>().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(found.contains(address), expect, "{network} {address}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.1.2.3", "10.1.2.3", true);
        check("10.1.2.3", "10.1.2.2", false);
        check("10.1.2.3", "::ffff:10.1.2.3", true);
        check("0.0.0.0/0", "8.8.8.8", true);
        check("0.0.0.0/0", "::1", false);
        check("fd00::/8", "fd12::1", true);
        check("fd00::/8", "fe80::1", false);
        check("::/0", "fe80::1", true);
        for wrong in [
            "",
            "10.0.0.0/33",
            "::/129",
            "ten/8",
            "10.0.0.0/-1",
            "10.0.0/8",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
