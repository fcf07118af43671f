//! Where a session comes from.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What stands for the name of a client without a reverse name.
pub const UNKNOWN_NAME: &str = "<unknown>";

/// The client's address as rules, envelopes and log lines see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The unix socket: sendmail(8) and our own bounces.
    Local,
    /// A TCP client. `scope` is the zone of a link-local IPv6 address, without the `%`.
    Inet {
        /// The address.
        addr: IpAddr,
        /// The zone of a link-local address.
        scope: Option<Box<str>>,
    },
}

impl Peer {
    /// A client at `addr`; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn inet(addr: IpAddr) -> Peer {
        Peer::Inet {
            addr: addr.to_canonical(),
            scope: None,
        }
    }

    /// `192.0.2.1:25`, `[2001:db8::1]:25`.
    pub fn endpoint(addr: SocketAddr) -> String {
        format!("{}:{}", Peer::inet(addr.ip()), addr.port())
    }

    /// `[192.0.2.1]`, `[2001:db8::1]`, `[local]`: as a greeting and Received fields show it.
    pub fn bracketed(&self) -> String {
        match self {
            Peer::Inet { addr, .. } if addr.is_ipv6() => self.to_string(),
            _ => format!("[{self}]"),
        }
    }

    /// Reads the form that `Display` prints.
    pub fn parse(text: &str) -> Option<Peer> {
        if text == "local" {
            return Some(Peer::Local);
        }
        let Some(inner) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        else {
            return Some(Peer::Inet {
                addr: IpAddr::V4(text.parse().ok()?),
                scope: None,
            });
        };
        let (addr, scope) = match inner.split_once('%') {
            Some((addr, scope)) => (addr, Some(scope.into())),
            None => (inner, None),
        };
        Some(Peer::Inet {
            addr: IpAddr::V6(addr.parse().ok()?),
            scope,
        })
    }
}

/// `local`, `192.0.2.1`, or `[2001:db8::1]` (with `%scope` inside the brackets).
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Local => f.write_str("local"),
            Peer::Inet {
                addr: IpAddr::V4(addr),
                ..
            } => write!(f, "{addr}"),
            Peer::Inet {
                addr: IpAddr::V6(addr),
                scope: None,
            } => write!(f, "[{addr}]"),
            Peer::Inet {
                addr: IpAddr::V6(addr),
                scope: Some(scope),
            } => {
                write!(f, "[{addr}%{scope}]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printed_peer_reads_back() {
        for text in ["local", "192.0.2.1", "[2001:db8::1]", "[fe80::1%lo]"] {
            assert_eq!(Peer::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Peer::inet("::ffff:192.0.2.1".parse().unwrap()).to_string(),
            "192.0.2.1"
        );
        assert_eq!(Peer::parse("2001:db8::1"), None);
    }
}
