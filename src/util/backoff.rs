//! How long to wait before a process that died is started again.

use std::time::Duration;

/// Doubles from a second to a minute; a life of a minute starts over.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

/// For a process that has not died yet.
impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: FIRST }
    }
}

impl Backoff {
    /// It died after `lived`; says how long to wait.
    pub fn died(&mut self, lived: Duration) -> Duration {
        if lived >= LONG_LIFE {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = (self.next * 2).min(LAST);
        wait
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);
const LONG_LIFE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_minute_and_a_minute_of_life_starts_over() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(10);
        let waits: Vec<u64> = (0..8).map(|_| backoff.died(short).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.died(LONG_LIFE).as_secs(), 1);
        assert_eq!(backoff.died(short).as_secs(), 2);
    }
}
