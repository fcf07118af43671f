//! Sets of addresses and networks.

use std::collections::HashSet;

use crate::config::netaddr::Network;
use crate::mail::Peer;

/// Many entries, asked at once: one step per prefix length in use.
#[derive(Debug, Default)]
pub struct NetworkSet {
    texts: HashSet<Box<str>>,
    networks: HashSet<Network>,
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

impl NetworkSet {
    /// Adds an entry, which is in lower case. What is no network still equals itself.
    pub fn insert(&mut self, entry: &str) {
        if let Some(network) = Network::parse(entry) {
            let lengths = match network.addr {
                std::net::IpAddr::V4(_) => &mut self.lengths_v4,
                std::net::IpAddr::V6(_) => &mut self.lengths_v6,
            };
            if !lengths.contains(&network.bits) {
                lengths.push(network.bits);
            }
            self.networks.insert(network);
        }
        self.texts.insert(entry.into());
    }

    /// Whether an entry is this peer or a network it is in.
    pub fn contains(&self, peer: &Peer) -> bool {
        let text = peer.to_string().to_ascii_lowercase();
        if self.texts.contains(text.as_str()) {
            return true;
        }
        // An address with a zone is no address of a network that is written without one.
        let Peer::Inet { addr, scope: None } = peer else {
            return false;
        };
        let lengths = match addr {
            std::net::IpAddr::V4(_) => &self.lengths_v4,
            std::net::IpAddr::V6(_) => &self.lengths_v6,
        };
        lengths
            .iter()
            .any(|bits| self.networks.contains(&Network::of(*addr, *bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // table(5), netaddr tables: addresses and networks, `local` for the local socket.
    #[test]
    fn a_peer_is_in_the_networks_that_hold_it() {
        let mut set = NetworkSet::default();
        for entry in [
            "local",
            "10.0.0.0/8",
            "192.0.2.1",
            "2001:db8::/32",
            "[fe80::1%lo]",
            "junk",
        ] {
            set.insert(entry);
        }
        for (peer, yes) in [
            ("local", true),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("[2001:db8::77]", true),
            ("[2001:db9::77]", false),
            ("[fe80::1%lo]", true),
            ("[fe80::1%em0]", false),
            ("[::ffff:10.0.0.1]", false),
        ] {
            assert_eq!(set.contains(&Peer::parse(peer).unwrap()), yes, "{peer}");
        }
        let mut all = NetworkSet::default();
        all.insert("0.0.0.0/0");
        assert!(all.contains(&Peer::parse("203.0.113.9").unwrap()));
        assert!(!all.contains(&Peer::parse("[::1]").unwrap()));
        assert!(!all.contains(&Peer::Local));
    }
}
