//! How long to wait before a process that died is started again.

use std::time::Duration;

/// Doubles from a second to a ceiling; a life of a minute starts over.
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
    /// Notes that a process died after `lived`; says how long to wait, a minute at most.
    pub fn died(&mut self, lived: Duration) -> Duration {
        self.wait(lived, LAST)
    }

    /// Like [`Backoff::died`], for a process that had got to work and probably will again: sessions wait for
    /// it, and it is worth less patience.
    pub fn died_at_work(&mut self, lived: Duration) -> Duration {
        self.wait(lived, LAST_AT_WORK)
    }

    fn wait(&mut self, lived: Duration, last: Duration) -> Duration {
        if lived >= LONG_LIFE {
            self.next = FIRST;
        }
        let wait = self.next.min(last);
        self.next = (wait * 2).min(last);
        wait
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);
const LAST_AT_WORK: Duration = Duration::from_secs(4);
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

    #[test]
    fn one_that_has_worked_is_not_waited_for_long() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(10);
        let waits: Vec<u64> = (0..5)
            .map(|_| backoff.died_at_work(short).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 4, 4]);
        // What then does not even start is another matter.
        let waits: Vec<u64> = (0..5).map(|_| backoff.died(short).as_secs()).collect();
        assert_eq!(waits, [4, 8, 16, 32, 60]);
        assert_eq!(backoff.died_at_work(short).as_secs(), 4);
    }
}
