//! How many failed attempts to log in are borne, before the next one is not even looked at.
//!
//! They are counted by the client's network (an address of IPv4, a /64 of IPv6) and by the user's
//! name, and forgotten again: every [`HALF_LIFE_S`] half of them. A user's budget does not bind a
//! client that has lately logged in as that user from the same network, so that nobody can lock
//! out somebody else. The tables are bounded; where one is full, the smallest counts go first.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use crate::mail::Peer;
use crate::util::Timestamp;

/// Time in which half of the failures are forgotten, in seconds.
pub const HALF_LIFE_S: u64 = 600;
/// Most networks, users, and users with their networks, that are remembered.
const ENTRIES_MAX: usize = 16_384;
/// How long a client is known by its last log-in, in seconds.
const KNOWN_S: u64 = 30 * 86_400;

/// Failed logins by network and by user, and from where each user has logged in.
pub struct Budget {
    networks: Counts<Network>,
    users: Counts<String>,
    known: HashMap<(String, Network), Timestamp>,
}

/// Whose budget it is that has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The client's network.
    Network,
    /// The user, for networks without a recent login of that user.
    User,
}

/// Who is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Network {
    Local,
    V4(u32),
    V6(u64),
}

impl Budget {
    /// A budget that nobody has used yet.
    pub fn new() -> Budget {
        Budget {
            networks: Counts(HashMap::new()),
            users: Counts(HashMap::new()),
            known: HashMap::new(),
        }
    }

    /// Whether an attempt is to be looked at, where a network and a user may have `limit` failures.
    pub fn check(
        &self,
        limit: u32,
        peer: &Peer,
        user: &str,
        now: Timestamp,
    ) -> Result<(), Exhausted> {
        // A part of one is forgotten within seconds.
        let limit = f64::from(limit) - 0.5;
        let (network, user) = (Network::of(peer), user.to_ascii_lowercase());
        if self.networks.level(&network, now) >= limit {
            return Err(Exhausted::Network);
        }
        if self.users.level(&user, now) < limit {
            return Ok(());
        }
        match self.known.get(&(user, network)) {
            Some(last) if now.since(*last) < KNOWN_S => Ok(()),
            _ => Err(Exhausted::User),
        }
    }

    /// An attempt has failed.
    pub fn failed(&mut self, peer: &Peer, user: &str, now: Timestamp) {
        self.networks.add(Network::of(peer), now);
        self.users.add(user.to_ascii_lowercase(), now);
    }

    /// An attempt has succeeded. What this network has done before is not forgotten for it: whoever
    /// has one account must not have a try at all others.
    pub fn succeeded(&mut self, peer: &Peer, user: &str, now: Timestamp) {
        if self.known.len() >= ENTRIES_MAX {
            let mut times: Vec<Timestamp> = self.known.values().copied().collect();
            let (_, middle, _) = times.select_nth_unstable(ENTRIES_MAX / 2);
            let middle = *middle;
            self.known.retain(|_, last| *last > middle);
        }
        self.known
            .insert((user.to_ascii_lowercase(), Network::of(peer)), now);
    }
}

impl Network {
    fn of(peer: &Peer) -> Network {
        match peer {
            Peer::Local => Network::Local,
            Peer::Inet { addr, .. } => match addr.to_canonical() {
                IpAddr::V4(addr) => Network::V4(addr.to_bits()),
                IpAddr::V6(addr) => Network::V6((addr.to_bits() >> 64) as u64),
            },
        }
    }
}

struct Counts<K>(HashMap<K, Count>);

struct Count {
    level: f64,
    at: Timestamp,
}

impl Count {
    fn level(&self, now: Timestamp) -> f64 {
        let half_lives = now.since(self.at) as f64 / HALF_LIFE_S as f64;
        self.level * (-half_lives).exp2()
    }
}

impl<K: Hash + Eq + Clone> Counts<K> {
    fn level(&self, key: &K, now: Timestamp) -> f64 {
        self.0.get(key).map_or(0.0, |count| count.level(now))
    }

    fn add(&mut self, key: K, now: Timestamp) {
        if self.0.len() >= ENTRIES_MAX && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        let level = self.level(&key, now) + 1.0;
        self.0.insert(key, Count { level, at: now });
    }

    /// The smaller half goes, so that this is done seldom.
    fn make_room(&mut self, now: Timestamp) {
        let mut levels: Vec<f64> = self.0.values().map(|count| count.level(now)).collect();
        let middle = levels.len() / 2;
        let (_, median, _) = levels.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        let mut spare = self.0.len() / 2;
        self.0.retain(|_, count| {
            let goes = spare > 0 && count.level(now) <= median;
            spare -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 50;

    fn peer(text: &str) -> Peer {
        Peer::parse(text).unwrap()
    }

    #[test]
    fn a_network_has_a_budget_that_comes_back() {
        let (mut budget, now, bad) = (Budget::new(), Timestamp(1000), peer("192.0.2.1"));
        for number in 0..LIMIT {
            assert_eq!(budget.check(LIMIT, &bad, "ann", now), Ok(()), "{number}");
            budget.failed(&bad, &format!("user{number}"), now);
        }
        assert_eq!(
            budget.check(LIMIT, &bad, "ann", now),
            Err(Exhausted::Network)
        );
        assert_eq!(budget.check(LIMIT, &peer("192.0.2.2"), "ann", now), Ok(()));
        budget.succeeded(&bad, "bob", now);
        assert_eq!(
            budget.check(LIMIT, &bad, "bob", now),
            Err(Exhausted::Network)
        );
        let later = now.plus(HALF_LIFE_S);
        assert_eq!(budget.check(LIMIT, &bad, "ann", later), Ok(()));
        for _ in 0..=LIMIT / 2 {
            budget.failed(&bad, "ann", later);
        }
        assert_eq!(
            budget.check(LIMIT, &bad, "ann", later),
            Err(Exhausted::Network)
        );
    }

    #[test]
    fn a_64_of_ipv6_is_one_network() {
        let (mut budget, now) = (Budget::new(), Timestamp(1000));
        for number in 0..LIMIT {
            budget.failed(&peer(&format!("[2001:db8::{number:x}]")), "x", now);
        }
        let check = |text: &str| budget.check(LIMIT, &peer(text), "ann", now);
        assert!(check("[2001:db8::ffff:1]").is_err());
        assert_eq!(check("[2001:db8:0:1::1]"), Ok(()));
    }

    #[test]
    fn a_user_is_not_locked_out_by_others() {
        let (mut budget, now, home) = (Budget::new(), Timestamp(1000), peer("192.0.2.1"));
        budget.succeeded(&home, "Ann", now);
        for number in 0..LIMIT {
            budget.failed(&peer(&format!("198.51.100.{number}")), "ann", now);
        }
        let strange = peer("203.0.113.1");
        assert_eq!(
            budget.check(LIMIT, &strange, "ANN", now),
            Err(Exhausted::User)
        );
        assert_eq!(budget.check(LIMIT, &strange, "bob", now), Ok(()));
        assert_eq!(budget.check(LIMIT, &home, "ann", now), Ok(()));
    }

    #[test]
    fn a_flood_of_networks_takes_no_memory_and_the_worst_are_remembered() {
        let (mut budget, now, bad) = (Budget::new(), Timestamp(1000), peer("192.0.2.1"));
        for _ in 0..LIMIT {
            budget.failed(&bad, "x", now);
        }
        for number in 0..3 * ENTRIES_MAX as u32 {
            let other = Peer::inet(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into());
            budget.failed(&other, &format!("user{number}"), now);
            budget.succeeded(&other, "x", now.plus(u64::from(number)));
            if number == 10 {
                assert!(budget.check(LIMIT, &bad, "ann", now).is_err());
            }
        }
        assert!(budget.networks.0.len() <= ENTRIES_MAX && budget.users.0.len() <= ENTRIES_MAX);
        assert!(budget.known.len() <= ENTRIES_MAX);
        assert_eq!(
            budget.check(LIMIT, &bad, "ann", now),
            Err(Exhausted::Network)
        );
    }
}
