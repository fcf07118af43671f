//! Who holds how many connections.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Where a session comes from, as far as it is counted: an IPv4 address, an IPv6 /64 (what one
/// subscriber has), or a local user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Loopback,
    V4(u32),
    V6(u64),
    User(u32),
}

impl Source {
    pub(super) fn of(addr: IpAddr) -> Source {
        match addr.to_canonical() {
            addr if addr.is_loopback() => Source::Loopback,
            IpAddr::V4(addr) => Source::V4(addr.to_bits()),
            IpAddr::V6(addr) => Source::V6((addr.to_bits() >> 64) as u64),
        }
    }
}

/// Connections per key. A key without connections takes no memory.
pub(super) struct Counts<K> {
    held: HashMap<K, Held>,
}

struct Held {
    count: usize,
    /// When the log was last told that these are all.
    told: Option<Instant>,
}

/// For so long the log is not told again.
const QUIET: Duration = Duration::from_secs(60);

/// What became of an attempt to hold one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Counted,
    /// There are too many, and the log has not been told for a while.
    RefusedAloud,
    Refused,
}

impl<K: Eq + Hash> Counts<K> {
    pub(super) fn new() -> Counts<K> {
        Counts {
            held: HashMap::new(),
        }
    }

    /// Counts one more for `key`, unless it has `limit` already.
    pub(super) fn enter(&mut self, key: K, limit: usize, now: Instant) -> Entry {
        let held = self.held.entry(key).or_insert(Held {
            count: 0,
            told: None,
        });
        if held.count < limit {
            held.count += 1;
            return Entry::Counted;
        }
        match held.told {
            Some(told) if now.saturating_duration_since(told) < QUIET => Entry::Refused,
            _ => {
                held.told = Some(now);
                Entry::RefusedAloud
            }
        }
    }

    /// One of `key`'s connections is gone.
    pub(super) fn leave(&mut self, key: K) {
        if let Some(held) = self.held.get_mut(&key) {
            held.count = held.count.saturating_sub(1);
            if held.count == 0 {
                self.held.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_subscriber_are_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
        assert_eq!(of("127.0.0.2"), Source::Loopback);
        assert_eq!(of("::1"), Source::Loopback);
    }

    #[test]
    fn the_limit_is_met_told_now_and_then_and_left_again() {
        let (mut counts, start) = (Counts::new(), Instant::now());
        assert_eq!(counts.enter(7, 2, start), Entry::Counted);
        assert_eq!(counts.enter(7, 2, start), Entry::Counted);
        assert_eq!(counts.enter(7, 2, start), Entry::RefusedAloud);
        let almost = start + QUIET - Duration::from_millis(1);
        assert_eq!(counts.enter(7, 2, almost), Entry::Refused);
        assert_eq!(counts.enter(7, 2, start + QUIET), Entry::RefusedAloud);
        assert_eq!(counts.enter(7, 2, start + QUIET), Entry::Refused);
        assert_eq!(counts.enter(8, 2, start), Entry::Counted);
        counts.leave(7);
        assert_eq!(counts.enter(7, 2, start), Entry::Counted);
        counts.leave(7);
        counts.leave(7);
        counts.leave(8);
        counts.leave(8);
        assert!(counts.held.is_empty());
    }
}
