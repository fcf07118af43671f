use std::sync::OnceLock;

use super::*;
use crate::deliver::local::tests;

fn limits() -> MdaLimits {
    MdaLimits::default()
}

/// That of a message of its own.
fn envelope(number: u32, user: &str) -> Envelope {
    Envelope {
        id: EvpId::new(MsgId::new(number).unwrap(), number).unwrap(),
        ..tests::envelope(number, user)
    }
}

fn offer(dispatcher: &mut Dispatcher, number: u32, user: &str, mode: Mode) -> Offer {
    let envelope = envelope(number, user);
    let key = group_key(&envelope, None);
    dispatcher.offer(envelope, key, mode)
}

fn users(sessions: &[Session]) -> Vec<String> {
    sessions
        .iter()
        .map(|session| session.envelopes[0].rcpt.user().to_string())
        .collect()
}

/// All sessions that start at the beginning.
fn drain(dispatcher: &mut Dispatcher) -> Vec<Session> {
    drain_after(dispatcher, Duration::ZERO)
}

/// Those that start when so much time has passed since the beginning.
fn drain_after(dispatcher: &mut Dispatcher, time: Duration) -> Vec<Session> {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    let now = *BEGINNING.get_or_init(Instant::now) + time;
    std::iter::from_fn(|| dispatcher.start(now)).collect()
}

fn numbers(sessions: &[Session]) -> Vec<Vec<u32>> {
    let number = |envelope: &Envelope| envelope.id.get() as u32;
    let of_session = |session: &Session| session.envelopes.iter().map(number).collect();
    sessions.iter().map(of_session).collect()
}

#[test]
fn seven_run_for_a_user_and_fifty_in_all() {
    // smtpd.conf(5), mda limit.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for number in 1..=10 {
        assert_eq!(
            offer(&mut dispatcher, number, "bob", Mode::Alone),
            Offer::Taken
        );
    }
    assert_eq!(drain(&mut dispatcher).len(), 7);
    for number in 11..=200 {
        let user = format!("u{}", number % 60);
        assert_eq!(
            offer(&mut dispatcher, number, &user, Mode::Alone),
            Offer::Taken
        );
    }
    let sessions = drain(&mut dispatcher);
    assert_eq!(sessions.len(), 43);
    dispatcher.finished(sessions[0].envelopes[0].id);
    assert_eq!(drain(&mut dispatcher).len(), 1);
    dispatcher.finished(envelope(9999, "stranger").id);
    assert!(drain(&mut dispatcher).is_empty());
}

#[test]
fn users_whose_commands_take_long_leave_room_for_others() {
    // smtpd.conf(5), mda limit: twenty users fill all that they get, and a new one need not
    // wait.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for number in 1..=400 {
        let user = format!("slow{}", (number - 1) / 20);
        offer(&mut dispatcher, number, &user, Mode::Alone);
    }
    let mut slow = drain(&mut dispatcher);
    assert!(slow.len() >= 25 && slow.len() < 50, "{}", slow.len());
    let all: std::collections::BTreeSet<_> = users(&slow).into_iter().collect();
    assert_eq!(all.len(), 20, "each of them has a share");
    offer(&mut dispatcher, 401, "new", Mode::Alone);
    let started = drain(&mut dispatcher);
    assert_eq!(users(&started), ["new"]);
    slow.extend(started);
    // When the others are done, one user has all that the limit allows again.
    while let Some(session) = slow.pop() {
        dispatcher.finished(session.envelopes[0].id);
        slow.splice(0..0, drain(&mut dispatcher));
        dispatcher.releases();
    }
    assert!(dispatcher.groups.is_empty() && dispatcher.ring.is_empty());
    for number in 501..=510 {
        offer(&mut dispatcher, number, "bob", Mode::Alone);
    }
    assert_eq!(drain(&mut dispatcher).len(), 7);
}

#[test]
fn users_take_turns() {
    // OpenSMTPD gives users their turn one delivery at a time.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for (number, user) in (1..).zip(["a", "a", "a", "b", "b", "c"]) {
        offer(&mut dispatcher, number, user, Mode::Alone);
    }
    let sessions = drain(&mut dispatcher);
    assert_eq!(users(&sessions), ["a", "b", "c", "a", "b", "a"]);
}

#[test]
fn a_flooded_user_is_held_at_the_high_mark_and_released_at_the_low_one() {
    // smtpd.conf(5), mda limit: task-hiwat and task-lowat.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    let mut held = 0_usize;
    let mut key = None;
    for number in 1..=60 {
        match offer(&mut dispatcher, number, "bob", Mode::Alone) {
            Offer::Taken => assert!(number <= 50),
            Offer::Hold(found) => {
                held += 1;
                key = Some(found);
            }
        }
    }
    assert_eq!(held, 10);
    let mut running = VecDeque::from(drain(&mut dispatcher));
    let mut number = 100;
    let mut released = Vec::new();
    while let Some(session) = running.pop_front() {
        dispatcher.finished(session.envelopes[0].id);
        running.extend(drain(&mut dispatcher));
        for release in dispatcher.releases() {
            assert_eq!(Some(release.key), key);
            let waiting = dispatcher
                .groups
                .values()
                .map(|g| g.waiting())
                .sum::<usize>();
            released.push((release.count, waiting));
            for _ in 0..release.count.min(held) {
                number += 1;
                assert_eq!(
                    offer(&mut dispatcher, number, "bob", Mode::Alone),
                    Offer::Taken
                );
            }
            held = held.saturating_sub(release.count);
        }
    }
    assert_eq!(released, [(10, 30)]);
    assert!(dispatcher.groups.is_empty() && dispatcher.ids.is_empty());
    assert!(dispatcher.running.is_empty() && dispatcher.sessions.is_empty());
}

#[test]
fn a_group_that_goes_gives_back_what_is_held_for_it() {
    let tight = MdaLimits {
        task_hiwat: 1,
        task_lowat: 0,
        ..limits()
    };
    let mut dispatcher = Dispatcher::new(tight, 1);
    offer(&mut dispatcher, 1, "bob", Mode::Alone);
    let key = HoldKey(1);
    for number in 2..=13 {
        let offer = offer(&mut dispatcher, number, "bob", Mode::Alone);
        assert_eq!(offer, Offer::Hold(key));
    }
    let sessions = drain(&mut dispatcher);
    dispatcher.finished(sessions[0].envelopes[0].id);
    let asked = [10, usize::MAX].map(|count| Release { key, count });
    assert_eq!(dispatcher.releases(), asked, "some, and then all");
    assert!(dispatcher.releases().is_empty());
}

#[test]
fn no_held_envelope_is_forgotten_when_the_last_outcome_is_known() {
    let tight = MdaLimits {
        task_hiwat: 2,
        task_lowat: 1,
        task_release: 1,
        max_session: 3,
        ..limits()
    };
    let mut dispatcher = Dispatcher::new(tight, 1);
    let mut due: VecDeque<(u32, &str)> = (1..).zip(["a", "b", "c", "d"].repeat(25)).collect();
    let mut held: HashMap<HoldKey, Vec<(u32, &str)>> = HashMap::new();
    let mut running = VecDeque::new();
    let mut delivered = 0;
    loop {
        while let Some((number, user)) = due.pop_front() {
            match offer(&mut dispatcher, number, user, Mode::Alone) {
                Offer::Taken => {}
                Offer::Hold(key) => held.entry(key).or_default().push((number, user)),
            }
            running.extend(drain(&mut dispatcher));
        }
        let Some(session) = running.pop_front() else {
            break;
        };
        delivered += 1;
        dispatcher.finished(session.envelopes[0].id);
        running.extend(drain(&mut dispatcher));
        for release in dispatcher.releases() {
            let waiting = held.entry(release.key).or_default();
            let count = release.count.min(waiting.len());
            due.extend(waiting.drain(..count));
        }
    }
    assert_eq!(delivered, 100);
    assert!(held.values().all(Vec::is_empty));
}

#[test]
fn envelopes_that_share_travel_together_and_in_order() {
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for number in 1..=100 {
        assert_eq!(
            offer(&mut dispatcher, number, "bob", Mode::Shared),
            Offer::Taken
        );
    }
    let mut other = envelope(101, "bob");
    other.action = Line::new("else").unwrap();
    let key = group_key(&other, None);
    dispatcher.offer(other, key, Mode::Shared);
    let sizes = |sessions: &[Session]| -> Vec<usize> {
        sessions
            .iter()
            .map(|session| session.envelopes.len())
            .collect()
    };
    let first = drain(&mut dispatcher);
    offer(&mut dispatcher, 102, "bob", Mode::Alone);
    assert_eq!(sizes(&first), [64, 36], "and then too few wait for a third");
    let ids: Vec<_> = first
        .iter()
        .flat_map(|s| &s.envelopes)
        .map(|e| e.id)
        .collect();
    assert!(ids.is_sorted());
    for session in &first {
        for envelope in &session.envelopes {
            dispatcher.finished(envelope.id);
        }
    }
    let second = drain(&mut dispatcher);
    assert_eq!(sizes(&second), [1, 1]);
    assert_eq!(second[1].mode, Mode::Alone);
}

#[test]
fn the_same_name_in_two_userbases_is_two_users() {
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for number in 1..=14 {
        let userbase = (number % 2 == 0).then_some("virtual");
        let envelope = envelope(number, "bob");
        let key = group_key(&envelope, userbase.map(str::to_string));
        dispatcher.offer(envelope, key, Mode::Alone);
    }
    let sessions = drain(&mut dispatcher);
    assert_eq!(sessions.len(), 14);
    assert_ne!(sessions[0].gid, sessions[1].gid);
}

#[test]
fn a_recipient_for_whom_an_lmtp_server_takes_long_holds_up_no_other() {
    // smtpd.conf(5), lmtp: all of a server's recipients are one group.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    let mut sessions = Vec::new();
    for number in 1..=9 {
        offer_lmtp(&mut dispatcher, number, &format!("u{number}"), 0);
        sessions.extend(drain(&mut dispatcher));
    }
    assert_eq!(numbers(&sessions), [[1], [2], [3], [4], [5], [6], [7]]);
    assert!(!dispatcher.is_waiting(), "no time makes room");
    dispatcher.finished(sessions[1].envelopes[0].id);
    assert_eq!(numbers(&drain(&mut dispatcher)), [[8, 9]]);
}

/// Offers an envelope for a maildir of the user vmail that has failed so often.
fn offer_virtual(dispatcher: &mut Dispatcher, number: u32, to: &str, retry: u16) {
    let envelope = Envelope {
        retry,
        ..envelope(number, to)
    };
    dispatcher.offer(envelope, (Line::default(), None), Mode::Shared);
}

#[test]
fn recipients_of_a_message_that_come_a_few_at_a_time_share_its_session() {
    // smtpd.conf(5), lmtp: recipients of one message share a transaction.
    let of_one = |number: u32| Envelope {
        id: EvpId::new(MsgId::new(1).unwrap(), number).unwrap(),
        ..envelope(number, &format!("u{number}"))
    };
    let mut dispatcher = Dispatcher::new(limits(), 1);
    let offer = |dispatcher: &mut Dispatcher, envelope: Envelope| {
        dispatcher.offer(envelope, (Line::default(), None), Mode::Lmtp);
    };
    let sizes = |sessions: &[Session]| -> Vec<usize> {
        let size = |session: &Session| session.envelopes.len();
        sessions.iter().map(size).collect()
    };
    let mut started = Vec::new();
    for number in 1..=70 {
        offer(&mut dispatcher, of_one(number));
        if number % 10 == 0 {
            started.extend(drain(&mut dispatcher));
        }
    }
    assert_eq!(sizes(&started), [10]);
    // Another message does not wait for it, nor its own recipients for long.
    offer(&mut dispatcher, envelope(100, "bob"));
    assert_eq!(numbers(&drain(&mut dispatcher)), [[100]]);
    assert!(dispatcher.is_waiting());
    started.extend(drain_after(&mut dispatcher, SLOW));
    assert_eq!(sizes(&started), [10, 60]);
    offer(&mut dispatcher, of_one(71));
    for envelope in started.iter().flat_map(|session| &session.envelopes) {
        assert!(drain_after(&mut dispatcher, SLOW).is_empty());
        dispatcher.finished(envelope.id);
    }
    assert_eq!(numbers(&drain_after(&mut dispatcher, SLOW)), [[71]]);
    // One that is full is not waited for.
    for number in 101..=170 {
        offer(&mut dispatcher, of_one(number));
    }
    dispatcher.finished(of_one(71).id);
    let full = drain_after(&mut dispatcher, SLOW);
    assert_eq!(sizes(&full), [64, 6]);
    for envelope in full.iter().flat_map(|session| &session.envelopes) {
        dispatcher.finished(envelope.id);
    }
    dispatcher.finished(envelope(100, "any").id);
    assert!(dispatcher.groups.is_empty() && dispatcher.sessions.is_empty());
}

#[test]
fn a_maildir_that_hangs_holds_up_no_other_of_its_user() {
    // smtpd.conf(5), action: user; many virtual maildirs may belong to one user.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    let seconds = Duration::from_secs;
    offer_virtual(&mut dispatcher, 1, "hung", 0);
    assert_eq!(numbers(&drain(&mut dispatcher)), [[1]]);
    assert!(!dispatcher.is_waiting());
    offer_virtual(&mut dispatcher, 2, "bob", 0);
    offer_virtual(&mut dispatcher, 3, "eve", 0);
    assert!(drain_after(&mut dispatcher, seconds(4)).is_empty());
    assert!(dispatcher.is_waiting());
    let second = drain_after(&mut dispatcher, seconds(5));
    assert_eq!(numbers(&second), [[2, 3]]);
    // The one that hangs does not count; the new one has its time.
    offer_virtual(&mut dispatcher, 4, "bob", 0);
    assert!(drain_after(&mut dispatcher, seconds(9)).is_empty());
    for envelope in &second[0].envelopes {
        dispatcher.finished(envelope.id);
    }
    assert_eq!(numbers(&drain_after(&mut dispatcher, seconds(9))), [[4]]);
    for number in [1, 4] {
        dispatcher.finished(envelope(number, "any").id);
    }
    assert!(dispatcher.groups.is_empty() && dispatcher.sessions.is_empty());
}

#[test]
fn a_maildir_that_hangs_has_one_session() {
    // smtpd.conf(5), mda limit: max-session-per-user is for all maildirs of vmail.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for number in 1..=9 {
        offer_virtual(&mut dispatcher, number, "hung", 1);
    }
    offer_virtual(&mut dispatcher, 10, "bob", 0);
    // What is new does not wait for what is tried again, slow or not.
    assert_eq!(numbers(&drain(&mut dispatcher)), [[1], [10]]);
    dispatcher.finished(envelope(10, "any").id);
    for (number, seconds) in [(11, 5), (12, 10), (13, 15)] {
        offer_virtual(&mut dispatcher, number, "hung", 0);
        let later = Duration::from_secs(seconds);
        assert!(drain_after(&mut dispatcher, later).is_empty());
    }
    offer_virtual(&mut dispatcher, 14, "bob", 0);
    let later = |dispatcher: &mut Dispatcher| drain_after(dispatcher, Duration::from_secs(20));
    assert_eq!(numbers(&later(&mut dispatcher)), [[14]]);
    dispatcher.finished(envelope(14, "any").id);
    dispatcher.finished(envelope(1, "any").id);
    let last = later(&mut dispatcher);
    assert_eq!(numbers(&last), [vec![2], vec![11, 12, 13]]);
    for number in [2, 11, 12, 13, 3, 4, 5, 6, 7, 8, 9] {
        dispatcher.finished(envelope(number, "any").id);
        later(&mut dispatcher);
    }
    assert!(dispatcher.groups.is_empty() && dispatcher.sessions.is_empty());
}

#[test]
fn what_has_failed_leaves_half_of_the_sessions_to_what_is_new() {
    // smtpd.conf(5), mda limit: max-session-per-user.
    for mode in [Mode::Alone, Mode::Shared, Mode::Lmtp] {
        for (most, expected) in [(7, 3), (2, 1), (1, 1)] {
            let limits = MdaLimits {
                max_session_per_user: most,
                ..limits()
            };
            let mut dispatcher = Dispatcher::new(limits, 1);
            let offer = |dispatcher: &mut Dispatcher, number, retry| {
                let envelope = Envelope {
                    retry,
                    ..envelope(number, &format!("u{number}"))
                };
                dispatcher.offer(envelope, (Line::default(), None), mode);
            };
            for number in 1..=9 {
                offer(&mut dispatcher, number, 1);
            }
            let started = drain(&mut dispatcher);
            assert_eq!(started.len(), expected, "{mode:?}, {most}");
            offer(&mut dispatcher, 10, 0);
            dispatcher.finished(started[0].envelopes[0].id);
            let next = numbers(&drain(&mut dispatcher));
            assert_eq!(next[0], [10], "it is their turn");
            assert_eq!(next.len(), most.min(2));
        }
    }
}

#[test]
fn slow_sessions_are_of_the_half_that_is_left_to_what_has_failed() {
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for number in 1..=3 {
        offer_lmtp(&mut dispatcher, number, &format!("u{number}"), 0);
        assert_eq!(drain(&mut dispatcher).len(), 1);
    }
    // One at a time is tried all the same: how long others take says nothing of it.
    offer_lmtp(&mut dispatcher, 4, "bob", 1);
    offer_lmtp(&mut dispatcher, 5, "joe", 1);
    assert_eq!(numbers(&drain_after(&mut dispatcher, SLOW)), [[4]]);
    offer_lmtp(&mut dispatcher, 6, "eve", 0);
    assert_eq!(numbers(&drain_after(&mut dispatcher, SLOW)), [[6]]);
    for number in [1, 2] {
        dispatcher.finished(envelope(number, "any").id);
    }
    assert_eq!(numbers(&drain_after(&mut dispatcher, SLOW)), [[5]]);
}

#[test]
fn what_has_failed_is_tried_beside_quick_sessions_for_its_recipient() {
    // The address of an archive, which is never without a session.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    offer_lmtp(&mut dispatcher, 1, "archive", 0);
    assert_eq!(drain(&mut dispatcher).len(), 1);
    for number in [2, 3] {
        offer_lmtp(&mut dispatcher, number, "archive", 1);
    }
    assert_eq!(numbers(&drain(&mut dispatcher)), [[2]]);
    dispatcher.finished(envelope(2, "any").id);
    assert_eq!(numbers(&drain(&mut dispatcher)), [[3]]);
}

#[test]
fn new_mail_and_what_has_failed_are_held_and_asked_for_apart() {
    // smtpd.conf(5), mda limit: task-hiwat, task-lowat and task-release.
    for mode in [Mode::Alone, Mode::Lmtp] {
        let mut dispatcher = Dispatcher::new(limits(), 1);
        let offer = |dispatcher: &mut Dispatcher, number, retry| {
            let envelope = Envelope {
                retry,
                ..envelope(number, "bob")
            };
            dispatcher.offer(envelope, (Line::default(), None), mode)
        };
        let high = Marks::of(&limits(), mode.is_shared()).high as u32;
        for number in 1..=high {
            assert_eq!(offer(&mut dispatcher, number, 1), Offer::Taken);
        }
        for number in high + 1..high + 5 {
            let held = offer(&mut dispatcher, number, 1);
            assert_eq!(held, Offer::Hold(HoldKey(2)));
        }
        let mut running = VecDeque::new();
        for number in high + 5..high + 45 {
            assert_eq!(offer(&mut dispatcher, number, 0), Offer::Taken);
            running.extend(drain(&mut dispatcher));
        }
        // However much new mail goes, what there is no room for is not asked for; and it is when there
        // is room.
        let mut asked = Vec::new();
        while let Some(session) = running.pop_front() {
            for envelope in &session.envelopes {
                dispatcher.finished(envelope.id);
            }
            running.extend(drain(&mut dispatcher));
            let releases = dispatcher.releases().into_iter();
            asked.extend(releases.map(|release| (release, dispatcher.groups[&1].again.line.len())));
        }
        let [(release, waiting)] = asked.try_into().unwrap();
        assert_eq!((release.key, release.count), (HoldKey(2), 4));
        assert!(waiting < high as usize && waiting > 0, "{waiting}");
    }
}

/// Offers an envelope for a recipient of an LMTP server that has failed so often.
fn offer_lmtp(dispatcher: &mut Dispatcher, number: u32, user: &str, retry: u16) {
    let envelope = Envelope {
        retry,
        ..envelope(number, user)
    };
    dispatcher.offer(envelope, (Line::default(), None), Mode::Lmtp);
}

#[test]
fn what_has_failed_before_shares_with_nobody() {
    // smtpd.conf(5), lmtp: who is tried again has a transaction to himself.
    const RETRIES: [u16; 6] = [0, 0, 1, 7, 0, 0];
    const EXPECTED: [&[u32]; 3] = [&[3], &[1, 2, 5, 6], &[4]];
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for (number, retry) in (1..).zip(RETRIES) {
        offer_lmtp(&mut dispatcher, number, &format!("u{number}"), retry);
    }
    assert_eq!(numbers(&drain(&mut dispatcher)), EXPECTED);
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for (number, retry) in (1..).zip(RETRIES) {
        offer_virtual(&mut dispatcher, number, &format!("u{number}"), retry);
    }
    assert_eq!(numbers(&drain(&mut dispatcher)), EXPECTED);
}

#[test]
fn a_recipient_for_whom_an_lmtp_server_takes_long_has_one_session() {
    // smtpd.conf(5), lmtp: nor do his retries, or what comes for him meanwhile, take all of them.
    let mut dispatcher = Dispatcher::new(limits(), 1);
    for number in 1..=9 {
        offer_lmtp(&mut dispatcher, number, "slow", 1);
    }
    offer_lmtp(&mut dispatcher, 10, "bob", 0);
    assert_eq!(numbers(&drain(&mut dispatcher)), [[1], [10]]);
    dispatcher.finished(envelope(1, "slow").id);
    assert_eq!(numbers(&drain(&mut dispatcher)), [[2]]);
    // What is new for him goes out at once, as long as nobody knows.
    offer_lmtp(&mut dispatcher, 11, "slow", 0);
    assert_eq!(numbers(&drain(&mut dispatcher)), [[11]]);
    let later = |dispatcher: &mut Dispatcher| drain_after(dispatcher, SLOW);
    assert!(later(&mut dispatcher).is_empty());
    offer_lmtp(&mut dispatcher, 12, "slow", 0);
    offer_lmtp(&mut dispatcher, 13, "eve", 0);
    assert_eq!(numbers(&later(&mut dispatcher)), [[13]]);
    for number in [2, 11] {
        dispatcher.finished(envelope(number, "slow").id);
    }
    assert_eq!(numbers(&later(&mut dispatcher)), [[3], [12]]);
    for number in [10, 12, 13, 3, 4, 5, 6, 7, 8, 9] {
        dispatcher.finished(envelope(number, "any").id);
        later(&mut dispatcher);
    }
    assert!(dispatcher.groups.is_empty() && dispatcher.sessions.is_empty());
}
