//! Retry and delay-warning arithmetic: pure functions of whole seconds.
//!
//! The grid of attempts is fixed by the envelope's creation: `created + base * k * k`. Delays grow
//! with age, and an outage of the daemon only skips points of the grid.

use crate::util::Timestamp;

use super::Class;

/// Seconds between the first two attempts of a relayed envelope.
pub const BASE_MTA_S: u64 = 400;
/// Seconds between the first two attempts of a local delivery or a bounce.
pub const BASE_LOCAL_S: u64 = 10;
/// Seconds between the first two points of the grid for envelopes that a full hold queue refused.
pub const BASE_OVERFLOW_S: u64 = 3;

/// The base of a class's grid.
pub fn base_s(class: Class) -> u64 {
    match class {
        Class::Mta => BASE_MTA_S,
        Class::Mda | Class::Bounce => BASE_LOCAL_S,
    }
}

/// When an envelope that has failed `failures` times is tried after being loaded. It may lie in
/// the past, and then the envelope is due at once.
pub fn on_load(created: Timestamp, base_s: u64, failures: u16) -> Timestamp {
    point(created, base_s, u64::from(failures))
}

/// When an envelope was made, as far as that can be believed: not after now, and not so long ago
/// that it would be returned without having been tried, for which a clock that was wrong is to
/// blame. It is then as old as its failures say.
pub fn believable(
    created: Timestamp,
    base_s: u64,
    failures: u16,
    ttl_s: u32,
    now: Timestamp,
) -> Timestamp {
    let tried_s = point(Timestamp(0), base_s, u64::from(failures)).0;
    let ttl_s = u64::from(ttl_s);
    let absurd = now.since(created) > ttl_s.saturating_add(OUTAGE_MAX_S) && tried_s < ttl_s;
    if absurd {
        Timestamp(now.0.saturating_sub(tried_s))
    } else {
        created.min(now)
    }
}

/// The longest time that a daemon is thought to have been down, in seconds.
const OUTAGE_MAX_S: u64 = 90 * 86_400;

/// The first point of the grid later than `now`, but not before point `least`.
pub fn after(created: Timestamp, base_s: u64, least: u16, now: Timestamp) -> Timestamp {
    let age_s = now.since(created);
    let passed = (age_s / base_s.max(1)).isqrt();
    let first = point(created, base_s, u64::from(least));
    if first > now {
        return first;
    }
    point(created, base_s, passed + 1)
}

/// The delay warning that is due now, if any: the longest of `intervals_s` that the envelope's
/// age has passed and that no earlier warning (`last_bounce`) has covered.
///
/// A warning says "delayed for more than", so it waits until that is true. After a long outage
/// one warning with the longest interval replaces the shorter ones.
pub fn warning_due(
    created: Timestamp,
    last_bounce: Timestamp,
    intervals_s: &[u32],
    now: Timestamp,
) -> Option<u32> {
    let passed = |interval_s: &u32| {
        let threshold = created.plus(u64::from(*interval_s));
        threshold <= now && last_bounce < threshold
    };
    intervals_s.iter().copied().filter(passed).max()
}

fn point(created: Timestamp, base_s: u64, k: u64) -> Timestamp {
    created.plus(base_s.saturating_mul(k.saturating_mul(k)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_700_000_000);

    /// Lets every attempt fail at the second it is due and collects the times since creation.
    fn attempts(base_s: u64, ttl_s: u64) -> Vec<u64> {
        let mut times = Vec::new();
        let mut now = on_load(T0, base_s, 0);
        let mut failures = 0;
        while now.since(T0) < ttl_s {
            times.push(now.since(T0));
            failures += 1;
            now = after(T0, base_s, failures, now);
        }
        times
    }

    #[test]
    fn relays_are_tried_at_the_documented_times() {
        // OpenSMTPD's times: mta 0, 400, 1600 … 336400; 30 attempts in four days.
        let times = attempts(BASE_MTA_S, 345_600);
        let table = [
            0, 400, 1600, 3600, 6400, 10000, 14400, 19600, 25600, 32400, 40000, 48400, 57600,
        ];
        assert_eq!(times[..table.len()], table);
        assert_eq!(times.len(), 30);
        assert_eq!(times.last(), Some(&336_400));
    }

    #[test]
    fn local_deliveries_are_tried_at_the_documented_times() {
        // OpenSMTPD's times: mda and bounce 0, 10, 40 … 342250; 186 attempts in four days.
        let times = attempts(BASE_LOCAL_S, 345_600);
        assert_eq!(
            times[..11],
            [0, 10, 40, 90, 160, 250, 360, 490, 640, 810, 1000]
        );
        assert_eq!((times[19], times[38]), (3610, 14440));
        assert_eq!(times.len(), 186);
        assert_eq!(times.last(), Some(&342_250));
    }

    #[test]
    fn the_next_attempt_is_the_smallest_later_point_not_before_the_failures() {
        // OpenSMTPD's rule: the smallest T0 + base * k * k with k >= n that is later than now.
        for base in [3, 10, 400] {
            for least in [0u16, 1, 5, 40] {
                for age in (0..20_000).step_by(7).chain([1, 9, 10, 11, 399, 400, 401]) {
                    let now = T0.plus(age);
                    let expected = (u64::from(least)..)
                        .map(|k| T0.plus(base * k * k))
                        .find(|at| *at > now)
                        .unwrap();
                    assert_eq!(
                        after(T0, base, least, now),
                        expected,
                        "{base} {least} {age}"
                    );
                }
            }
        }
        let earlier = Timestamp(T0.0 - 500);
        assert_eq!(after(T0, 400, 1, earlier), T0.plus(400));
    }

    // smtpd.conf(5), queue ttl: a clock that was wrong neither returns mail nor holds it.
    #[test]
    fn what_cannot_be_is_not_believed() {
        let (ttl_s, now) = (345_600, T0);
        let made = |age_s: u64| Timestamp(T0.0 - age_s);
        let ten_years = 10 * 365 * 86_400;
        for (created, failures, expected) in [
            (T0.plus(86_400), 0, T0),
            (made(86_400), 3, made(86_400)),
            // Down for a month.
            (made(30 * 86_400), 0, made(30 * 86_400)),
            (made(ten_years), 0, T0),
            (made(ten_years), 3, made(3600)),
            // It has been tried for its whole time.
            (made(ten_years), 30, made(ten_years)),
        ] {
            let found = believable(created, BASE_MTA_S, failures, ttl_s, now);
            assert_eq!(found, expected, "{created:?} {failures}");
        }
    }

    #[test]
    fn a_warning_is_sent_once_its_threshold_has_really_passed() {
        // smtpd.conf(5), bounce warn-interval. OpenSMTPD warns at the failure before the threshold.
        let hours4 = 14_400;
        let zero = Timestamp(0);
        assert_eq!(warning_due(T0, zero, &[hours4], T0.plus(14_399)), None);
        assert_eq!(
            warning_due(T0, zero, &[hours4], T0.plus(14_400)),
            Some(hours4)
        );
        let warned = T0.plus(14_400);
        assert_eq!(warning_due(T0, warned, &[hours4], T0.plus(90_000)), None);
        assert_eq!(
            warning_due(T0, warned, &[hours4, 86_400], T0.plus(90_000)),
            Some(86_400)
        );
        assert_eq!(
            warning_due(T0, zero, &[hours4, 86_400], T0.plus(90_000)),
            Some(86_400)
        );
    }
}
