//! The steps of the system's clock, seen by a clock that has none.
//!
//! Queued mail counts in the time of day, for that is what outlives a restart. Somebody may set it
//! anew: mail must then neither wait for the clock to come back to where it was, nor be returned
//! for an age that it does not have.

use std::time::Instant;

use crate::util::Timestamp;

/// A step back of so many seconds or more is one; less is how clocks are kept right.
const BACK_S: u64 = 60;
/// A step ahead of so many seconds or more is one; less may have been a pause of the machine.
const AHEAD_S: u64 = 3600;

/// Both clocks at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    steady: Instant,
}

/// The system's clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many seconds back.
    Back(u64),
    /// So many seconds ahead.
    Ahead(u64),
}

impl Clock {
    /// Compares the two clocks from now on.
    pub fn new(wall: Timestamp, steady: Instant) -> Clock {
        Clock { wall, steady }
    }

    /// Takes both clocks again; says if the one has not gone as the other has.
    pub fn look(&mut self, wall: Timestamp, steady: Instant) -> Option<Step> {
        let passed_s = steady.saturating_duration_since(self.steady).as_secs();
        let expected = self.wall.plus(passed_s);
        let (back_s, ahead_s) = (expected.since(wall), wall.since(expected));
        // Fractions of a second that were cut off would add up.
        if passed_s > 0 || back_s > 0 || ahead_s > 1 {
            *self = Clock { wall, steady };
        }
        match (back_s, ahead_s) {
            (BACK_S.., _) => Some(Step::Back(back_s)),
            (_, AHEAD_S..) => Some(Step::Ahead(ahead_s)),
            _ => None,
        }
    }
}

impl Step {
    /// A time of before, as it would have been taken by the clock as it is now.
    pub fn shift(self, time: Timestamp) -> Timestamp {
        match self {
            Step::Back(by_s) => Timestamp(time.0.saturating_sub(by_s)),
            Step::Ahead(by_s) => time.plus(by_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const T0: Timestamp = Timestamp(1_700_000_000);

    #[test]
    fn steps_are_told_from_time_that_passes() {
        let start = Instant::now();
        let mut clock = Clock::new(T0, start);
        let mut now = start;
        // Weeks of looks at odd moments add up to no step.
        let mut millis = 0;
        for look in 0..100_000u64 {
            millis += 1 + (look * 7919) % 30_000;
            now = start + Duration::from_millis(millis);
            assert_eq!(clock.look(T0.plus(millis / 1000), now), None);
        }
        let wall = T0.plus(millis / 1000);
        assert_eq!(clock.look(Timestamp(wall.0 - 59), now), None);
        let mut clock = Clock::new(wall, now);
        let day_ago = Timestamp(wall.0 - 86_400);
        assert_eq!(clock.look(day_ago, now), Some(Step::Back(86_400)));
        assert_eq!(
            clock.look(day_ago.plus(5), now + Duration::from_secs(5)),
            None
        );
        let later = day_ago.plus(400_000_000);
        let step = clock.look(later, now + Duration::from_secs(65));
        assert_eq!(step, Some(Step::Ahead(400_000_000 - 65)));
        // A machine that slept.
        let woken = later.plus(3000);
        assert_eq!(clock.look(woken, now + Duration::from_secs(65)), None);
    }
}
