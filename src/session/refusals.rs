//! How many recipients each network was refused lately, in all sessions together.
//!
//! Clients are counted by their network: an address of IPv4, a /64 of IPv6. Half of a count is
//! forgotten every [`HALF_LIFE_S`]. The table is bounded; where it is full, the smallest counts go.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::mail::Peer;
use crate::util::Timestamp;

/// Time in which half of the refusals are forgotten, in seconds.
const HALF_LIFE_S: u64 = 60;
/// Most networks that are remembered.
const ENTRIES_MAX: usize = 16_384;

/// Counts by network, shared by all sessions.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<Network, Count>>);

/// Who is counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

#[derive(Clone, Copy)]
struct Count {
    level: f64,
    at: Timestamp,
}

impl Refusals {
    /// Counts `more` that were refused to `peer`; says how many that makes of late. This host itself is
    /// not counted: many may send through it.
    pub fn add(&self, peer: &Peer, more: u32, now: Timestamp) -> u32 {
        let Some(network) = Network::of(peer) else {
            return 0;
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= ENTRIES_MAX && !counts.contains_key(&network) {
            let mut levels: Vec<f64> = counts.values().map(|count| count.at(now)).collect();
            let (_, middle, _) = levels.select_nth_unstable_by(ENTRIES_MAX / 2, f64::total_cmp);
            let middle = *middle;
            counts.retain(|_, count| count.at(now) > middle);
        }
        let count = counts.entry(network).or_insert(Count {
            level: 0.0,
            at: now,
        });
        let level = count.at(now) + f64::from(more);
        *count = Count { level, at: now };
        level as u32
    }
}

impl Count {
    fn at(&self, now: Timestamp) -> f64 {
        self.level * 0.5_f64.powf(now.since(self.at) as f64 / HALF_LIFE_S as f64)
    }
}

impl Network {
    fn of(peer: &Peer) -> Option<Network> {
        let Peer::Inet { addr, .. } = peer else {
            return None;
        };
        match addr.to_canonical() {
            addr if addr.is_loopback() => None,
            IpAddr::V4(addr) => Some(Network::V4(addr.to_bits())),
            IpAddr::V6(addr) => Some(Network::V6((addr.to_bits() >> 64) as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_a_network_add_up_and_are_forgotten() {
        let refusals = Refusals::default();
        let peer = |text: &str| Peer::parse(text).unwrap();
        let t0 = Timestamp(1_700_000_000);
        assert_eq!(refusals.add(&peer("192.0.2.1"), 80, t0), 80);
        assert_eq!(refusals.add(&peer("192.0.2.2"), 1, t0), 1);
        assert_eq!(refusals.add(&peer("[2001:db8::1]"), 5, t0), 5);
        assert_eq!(refusals.add(&peer("[2001:db8::ffff]"), 5, t0), 10);
        assert_eq!(refusals.add(&peer("192.0.2.1"), 0, t0.plus(120)), 20);
        assert_eq!(refusals.add(&peer("127.0.0.1"), 1000, t0), 0);
        assert_eq!(refusals.add(&Peer::Local, 1000, t0), 0);
        for host in 0..20_000u32 {
            let addr = IpAddr::from((0x0a00_0000 + host).to_be_bytes());
            refusals.add(&Peer::inet(addr), 1, t0);
        }
        assert!(refusals.0.lock().unwrap().len() <= ENTRIES_MAX);
    }
}
