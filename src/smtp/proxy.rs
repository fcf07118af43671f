//! The PROXY protocol, version 2: who the client behind a proxy is.
//!
//! The header is read in two pieces whose lengths are known, so that no byte of what follows it is
//! ever taken with it: first [`FIXED`] bytes, which say how many more there are, then those. Only
//! what names a client of the network is believed: an address of IPv4 or IPv6, or `LOCAL`, which is
//! the proxy itself. A client "on a UNIX socket" would count as local and is refused, and so is one
//! without an address. What a proxy adds in other fields is passed over.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Bytes of the first piece.
pub const FIXED: usize = 16;
/// Most bytes of the second piece.
pub const MAX_REST: usize = 2048;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whom the connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The proxy itself, which looks whether we are there.
    Proxy,
    /// This client of the proxy.
    At(SocketAddr),
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It does not begin as one.
    Signature,
    /// It is of another version.
    Version,
    /// Neither `LOCAL` nor `PROXY`.
    Command,
    /// No family of the network, or not TCP.
    Family,
    /// More than anybody has to say.
    TooLong,
    /// Less than an address.
    TooShort,
}

/// Reads the first piece: how many bytes the second one has.
pub fn rest(fixed: &[u8; FIXED]) -> Result<usize, Bad> {
    let (signature, fields) = fixed.split_at(SIGNATURE.len());
    let &[version, family, high, low] = fields else {
        return Err(Bad::Signature);
    };
    if signature != SIGNATURE {
        return Err(Bad::Signature);
    }
    match version {
        0x20 | 0x21 => {}
        _ if version >> 4 != 2 => return Err(Bad::Version),
        _ => return Err(Bad::Command),
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST {
        return Err(Bad::TooLong);
    }
    if is_local(version) {
        return Ok(length);
    }
    let least = match family {
        TCP4 => 12,
        TCP6 => 36,
        _ => return Err(Bad::Family),
    };
    if length < least {
        Err(Bad::TooShort)
    } else {
        Ok(length)
    }
}

/// Reads both pieces, of which the first was read by [`rest`].
pub fn client(fixed: &[u8; FIXED], rest: &[u8]) -> Result<Client, Bad> {
    let [.., version, family, _, _] = *fixed;
    if is_local(version) {
        return Ok(Client::Proxy);
    }
    // The addresses of both ends, then their ports.
    let (address, ports) = match family {
        TCP4 => {
            let bytes = rest.first_chunk::<4>();
            (bytes.map(|bytes| IpAddr::from(*bytes)), rest.get(8..))
        }
        TCP6 => {
            let bytes = rest.first_chunk::<16>();
            (bytes.map(|bytes| IpAddr::from(*bytes)), rest.get(32..))
        }
        _ => return Err(Bad::Family),
    };
    let port = ports.and_then(<[u8]>::first_chunk).copied();
    match (address, port.map(u16::from_be_bytes)) {
        (Some(address), Some(port)) => Ok(Client::At(SocketAddr::new(address, port))),
        _ => Err(Bad::TooShort),
    }
}

fn is_local(version: u8) -> bool {
    version & 0xf == 0
}

const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bad::Signature => "protocol error (invalid signature)",
            Bad::Version => "protocol error (invalid version)",
            Bad::Command => "protocol error (unknown command)",
            Bad::Family => "protocol error (unsupported address family)",
            Bad::TooLong => "protocol error (header too long)",
            Bad::TooShort => "protocol error (address info too short)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn header(version: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([version, family]);
        header.extend((addresses.len() as u16).to_be_bytes());
        header.extend(addresses);
        header
    }

    fn read(header: &[u8]) -> Result<Client, Bad> {
        let fixed = header.first_chunk().unwrap();
        let length = rest(fixed)?;
        client(fixed, &header[FIXED..FIXED + length])
    }

    fn tcp6() -> Vec<u8> {
        let mut addresses = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        addresses.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        addresses.extend([0x12, 0x34, 0, 25]);
        addresses
    }

    const TCP4_ADDRESSES: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 0, 25];

    #[test]
    fn a_client_of_the_network_is_believed() {
        let at = |text: &str| Ok(Client::At(text.parse().unwrap()));
        let tcp4 = header(0x21, TCP4, &TCP4_ADDRESSES);
        assert_eq!(read(&tcp4), at("192.0.2.7:4660"));
        assert_eq!(read(&header(0x21, TCP6, &tcp6())), at("[2001:db8::7]:4660"));
        // More fields follow the addresses.
        let more = [&TCP4_ADDRESSES[..], &[4, 0, 1, 0]].concat();
        assert_eq!(read(&header(0x21, TCP4, &more)), at("192.0.2.7:4660"));
        for (family, addresses) in [(0, &[][..]), (TCP4, &TCP4_ADDRESSES), (0x31, &[0; 216])] {
            assert_eq!(read(&header(0x20, family, addresses)), Ok(Client::Proxy));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (version, family, addresses, why) in [
            (0x21, 0x00, &[][..], Bad::Family),
            (0x21, 0x31, &[0; 216], Bad::Family),
            (0x21, 0x12, &TCP4_ADDRESSES, Bad::Family),
            (0x21, TCP4, &TCP4_ADDRESSES[..11], Bad::TooShort),
            (0x21, TCP6, &TCP4_ADDRESSES, Bad::TooShort),
            (0x22, TCP4, &TCP4_ADDRESSES, Bad::Command),
            (0x11, TCP4, &TCP4_ADDRESSES, Bad::Version),
            (0x20, 0, &[0; MAX_REST + 1], Bad::TooLong),
        ] {
            assert_eq!(read(&header(version, family, addresses)), Err(why));
        }
        assert_eq!(
            read(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 25\r\n"),
            Err(Bad::Signature)
        );
        assert_eq!(read(b"EHLO there\r\nMAIL FROM:<>"), Err(Bad::Signature));
    }

    #[test]
    fn any_one_byte_may_be_wrong() {
        let good = header(0x21, TCP6, &tcp6());
        for at in 0..good.len() {
            for byte in 0..=255 {
                let mut bytes = good.clone();
                bytes[at] = byte;
                let fixed = bytes.first_chunk().unwrap();
                if let Ok(length) = rest(fixed) {
                    let _ = client(fixed, &bytes[FIXED..(FIXED + length).min(bytes.len())]);
                }
            }
        }
    }
}
