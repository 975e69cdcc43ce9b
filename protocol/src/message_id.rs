//! The id that a broker gives a stored message: where it lies.
//!
//! Upper-case hex of the store host's address (4 or 16 bytes), its port (i32) and the record's
//! position in the commit log (i64), big-endian: 32 characters for IPv4, 56 for IPv6.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The id of the record at `position` in the log of the broker at `host`.
pub fn encode(host: SocketAddr, position: u64) -> String {
    let mut bytes = Vec::with_capacity(28);
    match host.ip() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.extend_from_slice(&i32::from(host.port()).to_be_bytes());
    bytes.extend_from_slice(&position.to_be_bytes());
    let digit = |nibble| char::from_digit(u32::from(nibble), 16).map(|c| c.to_ascii_uppercase());
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .flatten()
        .collect()
}

/// Host and position; `None` for anything that is not such an id.
pub fn decode(id: &str) -> Option<(SocketAddr, u64)> {
    let bytes = hex(id)?;
    let (ip, rest): (IpAddr, &[u8]) = match bytes.len() {
        16 => {
            let (ip, rest) = bytes.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*ip).into(), rest)
        }
        28 => {
            let (ip, rest) = bytes.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*ip).into(), rest)
        }
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<4>()?;
    let port = u16::try_from(i32::from_be_bytes(*port)).ok()?;
    let position = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    i64::try_from(position).ok()?;
    Some((SocketAddr::new(ip, port), position))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut digits = text.chars().map(|digit| digit.to_digit(16));
    while let Some(high) = digits.next() {
        bytes.push((high? << 4 | digits.next()??) as u8);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_javas() {
        let rows = [
            (
                "10.0.0.2:10911",
                1_234_567,
                "0A00000200002A9F000000000012D687",
            ),
            (
                "255.255.255.255:65535",
                i64::MAX as u64,
                "FFFFFFFF0000FFFF7FFFFFFFFFFFFFFF",
            ),
            (
                "[fd00::1]:80",
                1,
                "FD000000000000000000000000000001000000500000000000000001",
            ),
        ];
        for (host, position, id) in rows {
            let host = host.parse().expect("address");
            assert_eq!(encode(host, position), id);
            assert_eq!(decode(id), Some((host, position)));
            assert_eq!(decode(&id.to_lowercase()), Some((host, position)));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for id in [
            "",
            "0A00000200002A9F000000000012D68",
            "0A00000200002A9F000000000012D6877",
            "0A00000200012A9F000000000012D687",
            "0A00000200002A9F800000000012D687",
            "0X00000200002A9F000000000012D687",
            "01C0FFEE0A00000200002A9F000000000012D687",
            "\u{e9}A00000200002A9F000000000012D68",
        ] {
            assert_eq!(decode(id), None, "{id}");
        }
    }
}
