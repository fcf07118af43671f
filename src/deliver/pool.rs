//! Connections and processes that are kept a little for the next message.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most that are kept, and how long one stays without work.
const IDLE_MAX: usize = 16;
const IDLE_TIME: Duration = Duration::from_secs(5);

/// What is kept, each under what it is good for.
pub struct Pool<K, V>(Mutex<Vec<Idle<K, V>>>);

struct Idle<K, V> {
    key: K,
    value: V,
    since: Instant,
}

impl<K: PartialEq, V> Pool<K, V> {
    /// The one that was put back last for `key`, if there is one.
    pub fn take(&self, key: &K) -> Option<V> {
        let mut idle = self.lock();
        let at = idle.iter().rposition(|idle| idle.key == *key)?;
        Some(idle.remove(at).value)
    }

    /// Keeps one; the one that has been idle the longest makes room and is handed out, to be ended.
    #[must_use]
    pub fn put(&self, key: K, value: V) -> Option<V> {
        let mut idle = self.lock();
        let since = Instant::now();
        idle.push(Idle { key, value, since });
        (idle.len() > IDLE_MAX).then(|| idle.remove(0).value)
    }

    /// Takes out what nothing has come for, to be ended.
    #[must_use]
    pub fn expired(&self) -> Vec<V> {
        let is_old = |idle: &mut Idle<K, V>| idle.since.elapsed() >= IDLE_TIME;
        let mut idle = self.lock();
        let old = idle.extract_if(.., is_old);
        old.map(|idle| idle.value).collect()
    }

    /// In the order in which they became idle.
    fn lock(&self) -> MutexGuard<'_, Vec<Idle<K, V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Default for Pool<K, V> {
    fn default() -> Pool<K, V> {
        Pool(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_is_taken_first_and_the_oldest_makes_room() {
        let pool = Pool::default();
        for number in 0..IDLE_MAX {
            assert_eq!(pool.put(number % 2, number), None);
        }
        assert_eq!(pool.put(0, IDLE_MAX), Some(0));
        assert_eq!(pool.take(&0), Some(IDLE_MAX));
        assert_eq!(pool.take(&1), Some(IDLE_MAX - 1));
        assert_eq!(pool.take(&2), None);
        assert!(pool.expired().is_empty());
    }
}
