//! What sessions have at hand besides what they send.

use super::*;

/// A destination with so many messages, whose first session has delivered one of them.
fn busy(messages: usize, conf: &str) -> (World, SessionId) {
    let mut world = World::new(conf);
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..messages {
        world.offer("bob@d.example");
    }
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    (world, first)
}

fn one_connection(messages: usize) -> (World, SessionId) {
    busy(
        messages,
        "mta limit max-conn-per-host 1\naction \"out\" relay",
    )
}

fn at_hand(world: &World, id: SessionId) -> usize {
    world.core.sessions.get(id).map_or(0, |s| s.ahead.len())
}

#[test]
fn a_session_that_has_delivered_has_the_next_messages_at_hand() {
    let (mut world, first) = one_connection(10);
    assert_eq!(at_hand(&world, first), 2);
    let order = |world: &World| -> Vec<u32> {
        let ids = world.sent.iter().map(|(_, load)| load.envelopes[0].id);
        ids.map(|id| id.msgid().get()).collect()
    };
    assert_eq!(order(&world), [1, 2, 3, 4]);
    for _ in 0..9 {
        world.delivered(first);
    }
    assert_eq!(order(&world), (1..=10).collect::<Vec<_>>());
    assert_eq!((world.outcomes().len(), world.started.len()), (10, 1));
}

#[test]
fn a_session_gets_no_more_than_it_may_take() {
    // smtpd.conf(5), mta limit session-mail-max and session-transaction-delay; LMTP.
    let limit = |line: &str| format!("mta limit max-conn-per-host 1 {line}\naction \"out\" relay");
    for (line, count) in [
        ("session-mail-max 3", 1),
        ("session-mail-max 2", 0),
        ("session-transaction-delay 1", 0),
    ] {
        let (world, first) = busy(10, &limit(line));
        assert_eq!(at_hand(&world, first), count, "{line}");
    }
}

#[test]
fn whether_a_host_keeps_step_is_tried_by_one_session() {
    let (mut world, first) = busy(30, "action \"out\" relay");
    for at in 1..5 {
        world.ready(world.started[at].id);
        world.delivered(world.started[at].id);
    }
    let counts = |world: &World| -> Vec<usize> {
        let ids = world.started.iter().map(|start| start.id);
        ids.map(|id| at_hand(world, id)).collect()
    };
    assert_eq!(counts(&world), [2, 0, 0, 0, 0]);
    world.core.in_step(first, true);
    world.delivered(first);
    assert_eq!(counts(&world), [2, 2, 2, 2, 2]);
    world.core.in_step(first, false);
    let all_deliver = |world: &mut World| {
        for start in world.started.clone() {
            if world.is_sending(start.id) {
                world.delivered(start.id);
            }
        }
    };
    all_deliver(&mut world);
    all_deliver(&mut world);
    assert_eq!(counts(&world), [0; 5], "one by one");
    while world.outcomes().len() < 30 {
        all_deliver(&mut world);
    }
}

#[test]
fn what_one_session_has_at_hand_is_there_for_another_that_has_nothing_to_do() {
    let (mut world, first) = busy(6, "action \"out\" relay");
    assert_eq!(at_hand(&world, first), 2);
    let second = world.started[1].id;
    world.ready(second);
    while at_hand(&world, first) > 0 {
        world.delivered(second);
    }
    // The first one hangs, and holds up nothing but what it has begun with.
    let rest = world.outcomes().len();
    world.delivered(second);
    assert!(world.outcomes().len() == rest + 1 && world.is_sending(first));
    // What it has taken already is its own.
    let (mut world, first) = busy(6, "action \"out\" relay");
    world.take(first, 2);
    let second = world.started[1].id;
    world.ready(second);
    while world.is_sending(second) {
        world.delivered(second);
    }
    assert_eq!(at_hand(&world, first), 1);
}

#[test]
fn a_session_that_ends_leaves_what_it_had_at_hand_in_order() {
    for end in [End::Quit, failed("Connection closed unexpectedly")] {
        let (mut world, first) = one_connection(10);
        world.ended(first, end);
        world.pass(30);
        let second = world.started[1].id;
        world.ready(second);
        let (_, load) = world.sent.last().unwrap();
        assert_eq!(load.envelopes[0].id.msgid().get(), 2);
        for _ in 0..9 {
            world.delivered(second);
        }
        assert_eq!(world.outcomes().len(), 10);
    }
    // The host says that it takes no more, with the end of a message.
    let (mut world, first) = one_connection(10);
    let id = world
        .core
        .sessions
        .get(first)
        .and_then(|s| s.load())
        .unwrap()
        .envelopes[0]
        .id;
    let settled = vec![(id, Outcome::delivered())];
    world.core.done(first, settled, &[], Next::Over, world.now);
    world.obey();
    world.ended(first, End::Quit);
    let second = world.started[1].id;
    world.ready(second);
    for _ in 0..8 {
        world.delivered(second);
    }
    assert_eq!(world.outcomes().len(), 10);
}

#[test]
fn what_is_at_hand_goes_back_when_the_daemon_stops() {
    let (mut world, first) = one_connection(10);
    world.core.stop();
    world.obey();
    world.delivered(first);
    let held = |report: &&Report| matches!(report, Report::Held(..));
    assert_eq!(world.reports.iter().filter(held).count(), 8);
    assert_eq!(world.outcomes().len(), 2);
}

#[test]
fn a_host_that_is_slow_gets_more_connections_and_one_that_is_quick_does_not() {
    // smtpd.conf(5), mta limit max-conn-per-route: 5 of them, and 20 where the host is waited for.
    for (ms, most) in [(1, 5), (100, 20)] {
        let mut world = World::new("action \"out\" relay");
        world.core.limits.sessions = 100;
        world.a("d.example", &["192.0.2.1"]);
        for _ in 0..50 {
            world.offer("bob@d.example");
        }
        let mut open = 0;
        for _ in 0..40 {
            for start in world.started.clone() {
                world.ready(start.id);
                if world.is_sending(start.id) && world.outcomes().len() < 40 {
                    world.core.took(start.id, Duration::from_millis(ms));
                    world.delivered(start.id);
                }
            }
            open = open.max(world.core.sessions.len());
        }
        assert!(open <= most && open > most / 2, "{ms} ms: {open}");
        assert_eq!(world.now, T0, "nobody waits for conn-delay-route");
    }
}
