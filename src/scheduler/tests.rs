//! The scheduler's rules, weeks of retries in a moment, and storms of random calls.

use crate::mail::MsgId;
use crate::util::dice::Dice;

use super::*;

const T0: Timestamp = Timestamp(1_700_000_000);
const FOUR_DAYS_S: u32 = 345_600;

fn id(message: u32, low: u32) -> EvpId {
    EvpId::new(MsgId::new(message).unwrap(), low).unwrap()
}

fn facts(class: Class) -> Facts {
    Facts {
        class,
        to: Destination(0),
        created: T0,
        ttl_s: FOUR_DAYS_S,
        retry: 0,
        suspended: false,
    }
}

fn with(class: Class, count: u32) -> Scheduler {
    let mut scheduler = Scheduler::new(Limits::default());
    for n in 1..=count {
        assert!(scheduler.insert(id(n, 1), &facts(class), T0));
    }
    scheduler
}

/// Lets every attempt fail until the envelope expires; the times of the attempts and the expiry,
/// in seconds since creation.
fn life(class: Class) -> (Vec<u64>, u64) {
    let mut scheduler = with(class, 1);
    let mut times = Vec::new();
    loop {
        let at = scheduler.next_event().unwrap().max(T0);
        scheduler.check();
        for work in scheduler.batch(at) {
            match work {
                Work::Deliver(id, _) => {
                    times.push(at.since(T0));
                    scheduler.tempfail(id, at).unwrap();
                }
                Work::Expire(id) => {
                    scheduler.settled(id).unwrap();
                    return (times, at.since(T0));
                }
                Work::Remove(_) => panic!("nobody removed it"),
            }
        }
    }
}

#[test]
fn an_envelope_is_tried_on_its_grid_until_it_expires() {
    // smtpd.conf(5), queue ttl: 4d. That is 30 attempts of a relay, 186 of a local delivery.
    let (times, expired) = life(Class::Mta);
    assert_eq!((times.len(), expired), (30, 345_600));
    assert_eq!(times[..5], [0, 400, 1600, 3600, 6400]);
    for class in [Class::Mda, Class::Bounce] {
        let (times, expired) = life(class);
        assert_eq!((times.len(), expired), (186, 345_600));
        assert_eq!(times[..5], [0, 10, 40, 90, 160]);
    }
}

#[test]
fn a_loaded_envelope_goes_on_where_it_stopped() {
    // smtpd.conf(5), queue ttl: a restart does not begin anew; what is overdue is due at once.
    let mut scheduler = Scheduler::new(Limits::default());
    let mut facts = facts(Class::Mta);
    facts.retry = 3;
    scheduler.insert(id(1, 1), &facts, T0);
    assert_eq!(scheduler.next_event(), Some(T0.plus(3600)));
    assert_eq!(scheduler.batch(T0.plus(3599)), []);
    let late = T0.plus(86_400);
    assert_eq!(scheduler.batch(late), [Work::Deliver(id(1, 1), Class::Mta)]);
    // An outage skips points of the grid: the smallest k with 400 k² > 86400 is 15.
    assert_eq!(
        scheduler.tempfail(id(1, 1), late),
        Ok(After::Pending(T0.plus(90_000)))
    );
}

#[test]
fn a_clock_that_is_set_changes_no_age_and_no_wait() {
    // smtpd.conf(5), queue ttl: mail keeps its age when the clock is set.
    let mut scheduler = Scheduler::new(Limits::default());
    scheduler.insert(id(1, 1), &facts(Class::Mta), T0);
    scheduler.insert(id(2, 1), &facts(Class::Mda), T0);
    assert_eq!(scheduler.batch(T0).len(), 2);
    scheduler.tempfail(id(1, 1), T0).unwrap();
    let day_ago = Timestamp(T0.0 - 86_400);
    scheduler.clock_set(|time| Timestamp(time.0 - 86_400));
    scheduler.check();
    assert_eq!(scheduler.next_event(), Some(day_ago.plus(400)));
    assert_eq!(scheduler.batch(day_ago.plus(400)).len(), 1);
    scheduler.tempfail(id(1, 1), day_ago.plus(400)).unwrap();
    // Years ahead: nothing expires, and what waited is due.
    let years = 300_000_000;
    scheduler.clock_set(|time| time.plus(years));
    scheduler.check();
    let now = day_ago.plus(400 + years);
    let due = scheduler.batch(now);
    assert_eq!(due, [Work::Deliver(id(1, 1), Class::Mta)]);
    let rows = scheduler.list(None, None, 10);
    assert!(rows.iter().all(|row| row.expire > now), "{rows:?}");
    scheduler.settled(id(2, 1)).unwrap();
    scheduler.check();
}

#[test]
fn a_batch_takes_one_of_each_line_in_turn() {
    // OpenSMTPD takes removed, expired, bounce, mda and mta in turn, each first in, first out.
    let mut scheduler = Scheduler::new(Limits {
        max_inflight: 100,
        max_schedule: 7,
    });
    let mut old = facts(Class::Mda);
    old.ttl_s = 5;
    scheduler.insert(id(1, 1), &old, T0);
    for n in 1..=2 {
        scheduler.insert(id(2, n), &facts(Class::Mta), T0);
        scheduler.insert(id(3, n), &facts(Class::Mda), T0);
        scheduler.insert(id(4, n), &facts(Class::Bounce), T0);
        scheduler.insert(id(5, n), &facts(Class::Mda), T0);
    }
    scheduler.remove(id(5, 1), T0);
    scheduler.remove(id(5, 2), T0);
    let now = T0.plus(5);
    let first = scheduler.batch(now);
    let expected = [
        Work::Remove(id(5, 1)),
        Work::Expire(id(1, 1)),
        Work::Deliver(id(4, 1), Class::Bounce),
        Work::Deliver(id(3, 1), Class::Mda),
        Work::Deliver(id(2, 1), Class::Mta),
        Work::Remove(id(5, 2)),
        Work::Deliver(id(4, 2), Class::Bounce),
    ];
    assert_eq!(first, expected);
    scheduler.check();
}

#[test]
fn no_more_than_max_inflight_are_handed_out() {
    // smtpd.conf(5), scheduler limit max-inflight: it counts all classes together.
    let mut scheduler = Scheduler::new(Limits {
        max_inflight: 12,
        max_schedule: 10,
    });
    for n in 1..=30 {
        let class = [Class::Mda, Class::Mta, Class::Bounce][n as usize % 3];
        insert_for(&mut scheduler, id(n, 1), class, n, 0);
    }
    scheduler.remove(id(30, 1), T0);
    assert_eq!(scheduler.batch(T0).len(), 10);
    assert_eq!(scheduler.batch(T0).len(), 2);
    assert_eq!(scheduler.batch(T0), []);
    assert_eq!(scheduler.next_event(), None);
    scheduler.settled(id(1, 1)).unwrap();
    assert_eq!(scheduler.batch(T0).len(), 1);
}

#[test]
fn a_paused_class_waits_in_its_line() {
    // smtpctl(8), pause mda: no more local deliveries are started; nothing else changes.
    let mut scheduler = with(Class::Mda, 2);
    scheduler.insert(id(9, 1), &facts(Class::Mta), T0);
    assert!(scheduler.pause(Class::Mda, true));
    assert!(!scheduler.pause(Class::Mda, true));
    assert_eq!(scheduler.batch(T0), [Work::Deliver(id(9, 1), Class::Mta)]);
    assert_eq!(scheduler.next_event(), None);
    assert_eq!(scheduler.state(id(1, 1)), Some(State::Scheduled));
    assert!(scheduler.pause(Class::Mda, false));
    assert_eq!(scheduler.batch(T0).len(), 2);
}

#[test]
fn a_hold_queue_lets_the_oldest_go_first() {
    // RFC 5321 §4.5.4.1: what waits longest goes first. OpenSMTPD releases the newest first.
    let mut scheduler = with(Class::Mda, 3);
    let later = T0.plus(100);
    for _ in scheduler.batch(T0) {}
    for n in [2, 3, 1] {
        assert_eq!(scheduler.hold(id(n, 1), 7, T0), Ok(Hold::Held));
    }
    assert_eq!(
        (scheduler.counts().held, scheduler.counts().inflight),
        (3, 0)
    );
    assert_eq!(scheduler.batch(later), []);
    assert_eq!(scheduler.release(Class::Mta, 7, 9, later), 0);
    assert_eq!(scheduler.release(Class::Mda, 7, 2, later), 2);
    scheduler.check();
    assert_eq!(scheduler.state(id(1, 1)), Some(State::Held));
    assert_eq!(scheduler.batch(later).len(), 2);
    assert_eq!(scheduler.release(Class::Mda, 7, usize::MAX, later), 1);
    assert_eq!(scheduler.counts().hold_queues, 0);
    assert_eq!(scheduler.batch(later).len(), 1);
}

#[test]
fn a_full_hold_queue_sends_envelopes_back_on_the_short_grid() {
    // As in OpenSMTPD, though it holds 1000: the next ones come back on the base-3 grid.
    let mut scheduler = Scheduler::new(Limits {
        max_inflight: 2000,
        max_schedule: 2000,
    });
    let last = u32::try_from(HOLD_MAX).unwrap() + 1;
    for n in 1..=last {
        scheduler.insert(id(n, 1), &facts(Class::Mda), T0);
    }
    let now = T0.plus(2);
    let mut handed = 0;
    while handed <= HOLD_MAX {
        for work in scheduler.batch(now) {
            let Work::Deliver(id, _) = work else {
                panic!("only deliveries are due");
            };
            let full = id.msgid().get() == last;
            let expected = if full { Hold::Overflow } else { Hold::Held };
            assert_eq!(scheduler.hold(id, 1, now), Ok(expected));
            handed += 1;
        }
    }
    scheduler.check();
    assert_eq!(scheduler.next_event(), Some(T0.plus(3)));
}

#[test]
fn schedule_ignores_the_time_but_not_the_grid() {
    // smtpctl(8), schedule: try now. The retry counter stays; in flight it is refused.
    let mut scheduler = with(Class::Mta, 1);
    let one = id(1, 1);
    scheduler.batch(T0);
    assert!(!scheduler.schedule(one, T0));
    scheduler.tempfail(one, T0).unwrap();
    assert!(scheduler.schedule(one, T0.plus(5)));
    assert!(scheduler.schedule(one, T0.plus(5)), "a no-op when due");
    scheduler.check();
    assert_eq!(scheduler.batch(T0.plus(5)).len(), 1);
    assert_eq!(
        scheduler.tempfail(one, T0.plus(5)),
        Ok(After::Pending(T0.plus(1600)))
    );
    assert!(!scheduler.schedule(id(2, 1), T0));
}

#[test]
fn a_suspended_envelope_neither_goes_nor_expires() {
    // smtpctl(8), pause envelope: not tried until resumed. Listed, not expiring, its time kept.
    let mut scheduler = with(Class::Mda, 1);
    let one = id(1, 1);
    assert!(scheduler.suspend(one));
    assert!(!scheduler.suspend(one));
    let much_later = T0.plus(10 * 86_400);
    assert_eq!(scheduler.batch(much_later), []);
    assert_eq!(scheduler.list(None, None, 9).len(), 1);
    assert!(!scheduler.schedule(one, T0), "whoever flushes the queue");
    assert_eq!(scheduler.batch(T0.plus(3600)), []);
    assert!(scheduler.resume(one));
    assert!(!scheduler.resume(one));
    assert_eq!(scheduler.batch(much_later), [Work::Expire(one)]);
    scheduler.check();
}

#[test]
fn removal_in_flight_waits_for_the_outcome() {
    // smtpctl(8), remove, in flight: a success deletes, a temporary failure turns into removal.
    let mut scheduler = with(Class::Mda, 1);
    let one = id(1, 1);
    scheduler.batch(T0);
    assert!(scheduler.remove(one, T0));
    assert!(!scheduler.remove(one, T0));
    assert!(scheduler.is_removed(one));
    assert_eq!(scheduler.tempfail(one, T0), Ok(After::Removing));
    assert_eq!(scheduler.list(None, None, 9), []);
    assert_eq!(scheduler.batch(T0), [Work::Remove(one)]);
    assert_eq!(scheduler.settled(one), Ok(()));
    assert_eq!(scheduler.settled(one), Err(NotInflight));
    assert_eq!(scheduler.counts(), Counts::default());
}

#[test]
fn a_parked_envelope_is_shown_and_expires() {
    // smtpd.conf(5), action: an envelope whose action is gone stays visible and expires.
    let mut scheduler = with(Class::Mta, 1);
    let one = id(1, 1);
    scheduler.batch(T0);
    scheduler.park(one, T0).unwrap();
    let row = scheduler.list(None, None, 1)[0];
    assert_eq!(row.hold, Holding::Parked);
    assert_eq!(row.at, T0.plus(345_600));
    assert_eq!(scheduler.batch(T0.plus(345_599)), []);
    assert!(scheduler.schedule(one, T0));
    assert_eq!(scheduler.batch(T0).len(), 1);
    scheduler.park(one, T0).unwrap();
    assert_eq!(scheduler.batch(T0.plus(345_600)), [Work::Expire(one)]);
}

#[test]
fn listings_come_in_order_of_the_ids_page_by_page() {
    // smtpctl(8), The queue listing: in order of the ids, as unsigned numbers.
    let mut scheduler = Scheduler::new(Limits::default());
    for (message, low) in [
        (0xffff_0000, 3),
        (5, 9),
        (5, 2),
        (0xffff_0000, 1),
        (5, u32::MAX),
    ] {
        scheduler.insert(id(message, low), &facts(Class::Mda), T0);
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = scheduler.list(after, None, 2);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|row| row.id.get()));
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted());
    let only = MsgId::new(5);
    assert_eq!(scheduler.list(None, only, 9).len(), 3);
    assert_eq!(scheduler.list(Some(id(5, 9)), only, 9).len(), 1);
    assert_eq!(scheduler.list(Some(id(5, u32::MAX)), only, 9), []);
    assert_eq!(scheduler.list(Some(id(1, 1)), only, 9).len(), 3);
}

/// Hands out all that may be handed out now.
fn drain(scheduler: &mut Scheduler, now: Timestamp) -> Vec<EvpId> {
    let mut ids = Vec::new();
    loop {
        let batch = scheduler.batch(now);
        if batch.is_empty() {
            scheduler.check();
            return ids;
        }
        ids.extend(batch.into_iter().map(|work| match work {
            Work::Deliver(id, _) | Work::Expire(id) | Work::Remove(id) => id,
        }));
    }
}

fn insert_for(scheduler: &mut Scheduler, id: EvpId, class: Class, to: u32, retry: u16) {
    let facts = Facts {
        to: Destination(to),
        retry,
        created: Timestamp(T0.0 - 3700),
        ..facts(class)
    };
    assert!(scheduler.insert(id, &facts, T0));
}

// smtpd.conf(5), scheduler limit max-inflight: an eighth of it is kept for each class.
#[test]
fn mail_that_hangs_keeps_no_mail_of_another_class_waiting() {
    let mut scheduler = Scheduler::new(Limits::default());
    for n in 1..=8000 {
        insert_for(&mut scheduler, id(n, 1), Class::Mta, n, 0);
    }
    // The relay never answers.
    let out = drain(&mut scheduler, T0).len();
    assert_eq!(out, 5000 - 3 * 625);
    assert_eq!(scheduler.next_event(), None);
    for n in 1..=700 {
        insert_for(&mut scheduler, id(n, 2), Class::Mda, n, 0);
        insert_for(&mut scheduler, id(n, 3), Class::Bounce, n, 0);
    }
    assert_eq!(drain(&mut scheduler, T0).len(), 1250);
    scheduler.remove(id(8000, 1), T0);
    assert_eq!(drain(&mut scheduler, T0), [id(8000, 1)]);
}

#[test]
fn later_attempts_leave_room_for_first_ones() {
    let mut scheduler = Scheduler::new(Limits::default());
    for n in 1..=8000 {
        insert_for(&mut scheduler, id(n, 1), Class::Mta, n, 3);
    }
    let out = drain(&mut scheduler, T0).len();
    assert!(out > 1000 && out < 2000, "{out}");
    insert_for(&mut scheduler, id(1, 2), Class::Mta, 9000, 0);
    assert_eq!(drain(&mut scheduler, T0), [id(1, 2)]);
}

#[test]
fn destinations_take_turns() {
    let mut scheduler = Scheduler::new(Limits::default());
    for n in 1..=1000 {
        insert_for(&mut scheduler, id(n, 1), Class::Mta, 1, 0);
    }
    insert_for(&mut scheduler, id(1, 2), Class::Mta, 2, 0);
    let ids: Vec<_> = scheduler.batch(T0).into_iter().take(2).collect();
    assert_eq!(
        ids,
        [
            Work::Deliver(id(1, 1), Class::Mta),
            Work::Deliver(id(1, 2), Class::Mta)
        ]
    );
}

#[test]
fn destinations_with_much_in_flight_leave_room_for_others() {
    let mut scheduler = Scheduler::new(Limits::default());
    for n in 1..=300 * 50 {
        insert_for(&mut scheduler, id(n, 1), Class::Mta, n % 300, 0);
    }
    let out = drain(&mut scheduler, T0).len();
    assert!(out >= 300 * 7, "{out}");
    for n in 1..=500 {
        insert_for(&mut scheduler, id(n, 2), Class::Mta, 1000 + n, 0);
    }
    assert_eq!(drain(&mut scheduler, T0).len(), 500);
}

#[test]
fn storms_of_calls_keep_every_envelope_in_exactly_one_state() {
    // Invariant 7: every envelope is in exactly one scheduler state.
    for seed in 0..40 {
        storm(seed);
    }
}

fn storm(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut scheduler = Scheduler::new(Limits {
        max_inflight: 20,
        max_schedule: 5,
    });
    let mut now = T0;
    let mut alive = std::collections::BTreeSet::new();
    for turn in 0..1500 {
        let one = id(1 + dice.roll(12) as u32, 1 + dice.roll(5) as u32);
        let class = [Class::Mda, Class::Mta, Class::Bounce][dice.roll(3)];
        match dice.roll(16) {
            0..4 => {
                let facts = Facts {
                    created: Timestamp(now.0 - dice.roll(3000) as u64),
                    ttl_s: dice.roll(20_000) as u32,
                    retry: dice.roll(4) as u16,
                    suspended: dice.roll(9) == 0,
                    to: Destination(dice.roll(4) as u32),
                    ..facts(class)
                };
                if scheduler.insert(one, &facts, T0) {
                    assert!(alive.insert(one), "seed {seed} turn {turn}");
                }
            }
            4..7 => {
                assert!(scheduler.batch(now).len() <= 5);
            }
            7 => now = now.plus(dice.roll(2000) as u64),
            8 => {
                let _ = scheduler.tempfail(one, now);
            }
            9 => {
                if scheduler.settled(one).is_ok() {
                    alive.remove(&one);
                }
            }
            10 => {
                let _ = scheduler.hold(one, dice.roll(3) as u64, now);
            }
            11 => {
                scheduler.release(class, dice.roll(3) as u64, dice.roll(4), now);
            }
            12 => {
                let _ = scheduler.park(one, now);
            }
            13 => {
                scheduler.schedule(one, now);
                scheduler.resume(id(1 + dice.roll(12) as u32, 1));
            }
            14 => {
                scheduler.suspend(one);
            }
            _ => {
                scheduler.remove(one, now);
                scheduler.pause(class, dice.roll(2) == 0);
            }
        }
        scheduler.check();
        assert!(
            scheduler.all().eq(alive.iter().copied()),
            "seed {seed} turn {turn}"
        );
    }
}
