//! Entries that name addresses and networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::netaddr::Network;
use crate::mail::Peer;

use super::domain::Has;

/// The networks of a table, asked at once: one search per prefix length in use.
#[derive(Debug, Default)]
pub struct Networks {
    v4: BTreeMap<u8, Vec<u32>>,
    v6: BTreeMap<u8, Vec<u128>>,
}

impl Networks {
    /// Looks at a key of the table. What is no network still equals itself.
    pub fn learn(&mut self, key: &str) {
        let Some(network) = Network::parse(key) else {
            return;
        };
        match network.addr {
            IpAddr::V4(addr) => self.v4.entry(network.bits).or_default().push(addr.into()),
            IpAddr::V6(addr) => self.v6.entry(network.bits).or_default().push(addr.into()),
        }
    }

    /// Has to be called when all keys are learnt.
    pub fn settle(&mut self) {
        self.v4.values_mut().for_each(settle);
        self.v6.values_mut().for_each(settle);
    }

    /// Whether a key of the table is this peer or a network it is in.
    pub fn contains(&self, peer: &Peer, has: Has<'_>) -> Result<bool, String> {
        if has(&peer.to_string())? {
            return Ok(true);
        }
        // An address with a zone is no address of a network that is written without one.
        let Peer::Inet { addr, scope: None } = peer else {
            return Ok(false);
        };
        Ok(match addr {
            IpAddr::V4(_) => self.v4.iter().any(|(bits, networks)| {
                let network = Network::of(*addr, *bits).addr;
                matches!(network, IpAddr::V4(v4) if networks.binary_search(&v4.into()).is_ok())
            }),
            IpAddr::V6(_) => self.v6.iter().any(|(bits, networks)| {
                let network = Network::of(*addr, *bits).addr;
                matches!(network, IpAddr::V6(v6) if networks.binary_search(&v6.into()).is_ok())
            }),
        })
    }
}

fn settle<T: Ord>(networks: &mut Vec<T>) {
    networks.sort_unstable();
    networks.dedup();
    networks.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    // table(5), netaddr tables: addresses and networks, `local` for the local socket.
    #[test]
    fn a_peer_is_in_the_networks_that_hold_it() {
        let entries = [
            "local",
            "10.0.0.0/8",
            "192.0.2.1",
            "2001:db8::/32",
            "[fe80::1%lo]",
            "junk",
        ];
        let mut set = Networks::default();
        entries.iter().for_each(|entry| set.learn(entry));
        set.settle();
        let has = |key: &str| Ok(entries.contains(&key));
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
            let peer = Peer::parse(peer).unwrap();
            assert_eq!(set.contains(&peer, &has), Ok(yes), "{peer}");
        }
        let mut all = Networks::default();
        all.learn("0.0.0.0/0");
        all.settle();
        let any = |peer: &str| all.contains(&Peer::parse(peer).unwrap(), &|_| Ok(false));
        assert_eq!(any("203.0.113.9"), Ok(true));
        assert_eq!(any("[::1]"), Ok(false));
        assert_eq!(any("local"), Ok(false));
    }
}
