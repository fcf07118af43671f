//! Networks as table(5) writes them: addresses, CIDR blocks, and the short forms of
//! inet_net_pton(3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::mail::literal;

/// A network: an address whose host bits are 0, and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// The network's address.
    pub addr: IpAddr,
    /// The prefix length in bits.
    pub bits: u8,
}

impl Network {
    /// The network of `bits` that `addr` lies in.
    pub fn of(addr: IpAddr, bits: u8) -> Network {
        let addr = match addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(bits.min(32)))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(bits.min(128)))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
        };
        Network { addr, bits }
    }

    /// Reads an entry of a table.
    pub fn parse(text: &str) -> Option<Network> {
        let (inside, after) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => (text, ""),
        };
        if !after.is_empty() && !after.starts_with('/') {
            return None;
        }
        let (body, prefix) = match inside.split_once('/') {
            Some((body, prefix)) if after.is_empty() => (body, Some(prefix)),
            Some(_) => return None,
            None => (inside, after.strip_prefix('/')),
        };
        let v6 = literal::strip_tag(body).or_else(|| body.contains(':').then_some(body));
        if let Some(v6) = v6 {
            let addr: Ipv6Addr = v6.parse().ok()?;
            let bits = prefix.map_or(Some(128), |prefix| length(prefix, 128))?;
            return Some(Network::of(IpAddr::V6(addr), bits));
        }
        if text.starts_with('[') {
            return None;
        }
        inet_net_pton(body, prefix)
    }
}

fn length(text: &str, most: u8) -> Option<u8> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|bits| *bits <= most)
}

/// IPv4 with octets left out at the end. Without a length the class of the first octet gives it,
/// but never less than the octets that are written.
fn inet_net_pton(body: &str, prefix: Option<&str>) -> Option<Network> {
    let mut octets = [0u8; 4];
    let mut written = 0;
    if let Some(hex) = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X")) {
        if hex.is_empty() || hex.len() > 8 {
            return None;
        }
        let digits: Option<Vec<u8>> = hex
            .chars()
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect();
        for (octet, pair) in octets.iter_mut().zip(digits?.chunks(2)) {
            *octet = pair.first()? << 4 | pair.get(1).copied().unwrap_or(0);
            written += 1;
        }
    } else {
        for part in body.split('.') {
            if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            *octets.get_mut(written)? = part.parse().ok()?;
            written += 1;
        }
    }
    let bits = match prefix {
        Some(prefix) => length(prefix, 32)?,
        None => classful(octets[0]).max(written as u8 * 8),
    };
    Some(Network::of(IpAddr::from(octets), bits))
}

fn classful(first: u8) -> u8 {
    match first {
        0..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        224..=239 => 8,
        240..=255 => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        Network::parse(text).map(|network| format!("{}/{}", network.addr, network.bits))
    }

    // table(5), netaddr tables: addresses and networks in CIDR notation; inet_net_pton(3).
    #[test]
    fn entries_are_read_as_inet_net_pton_reads_them() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10", "10.0.0.0/8"),
            ("172.16", "172.16.0.0/16"),
            ("192.168", "192.168.0.0/24"),
            ("192.168.5", "192.168.5.0/24"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.77/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("0x0a", "10.0.0.0/8"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::1]", "2001:db8::1/128"),
            ("[2001:db8::/32]", "2001:db8::/32"),
            ("[2001:db8::]/32", "2001:db8::/32"),
            ("[IPv6:2001:db8::1]", "2001:db8::1/128"),
            ("ipv6:::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(network), "{text}");
        }
        for bad in [
            "",
            "local",
            "10.0.0.0/33",
            "10.0.0.256",
            "1.2.3.4.5",
            "::/129",
            "[::1",
            "[10.0.0.1]",
            "10.0.0.0/",
            "0x",
            "[::/64]/64",
            "fe80::1%lo0",
            "a.b",
            "1..2",
            "::1/+4",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
