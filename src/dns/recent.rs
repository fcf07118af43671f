//! Names of addresses that were asked for a moment ago, at hand for every thread: a client that
//! comes again and again costs the resolver's thread nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Confirmed, Reverse};

/// For so long an answer is given again, whatever its TTL: no name server means less.
const FRESH: Duration = Duration::from_secs(1);
const MOST: usize = 1024;

#[derive(Default)]
pub(super) struct Recent(Mutex<HashMap<IpAddr, (Instant, Reverse)>>);

impl Recent {
    /// What was found for the address a moment ago.
    pub(super) fn find(&self, address: IpAddr, now: Instant) -> Option<Reverse> {
        let known = self.lock();
        let (at, found) = known.get(&address)?;
        (now.saturating_duration_since(*at) < FRESH).then(|| found.clone())
    }

    /// Keeps what was found; that nobody could say is not kept.
    pub(super) fn keep(&self, address: IpAddr, found: &Reverse, now: Instant) {
        if found.confirmed == Confirmed::Error {
            return;
        }
        let mut known = self.lock();
        if known.len() >= MOST {
            known.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
        }
        if known.len() < MOST {
            known.insert(address, (now, found.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, (Instant, Reverse)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_given_again_for_a_moment_and_failures_are_not() {
        let (recent, start) = (Recent::default(), Instant::now());
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let found = |confirmed| Reverse {
            name: None,
            confirmed,
        };
        recent.keep(address(1), &found(Confirmed::Fail), start);
        recent.keep(address(2), &found(Confirmed::Error), start);
        assert!(recent.find(address(1), start).is_some());
        assert!(recent.find(address(1), start + FRESH).is_none());
        assert!(recent.find(address(2), start).is_none());
        for n in 0..2 * MOST as u32 {
            recent.keep(address(n), &found(Confirmed::Pass), start);
        }
        assert!(recent.lock().len() <= MOST);
        recent.keep(address(7_000_000), &found(Confirmed::Pass), start + FRESH);
        assert!(recent.find(address(7_000_000), start + FRESH).is_some());
        assert_eq!(recent.lock().len(), 1);
    }
}
