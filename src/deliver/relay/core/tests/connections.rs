//! How many connections are opened, when, and who may use them.

use super::*;

#[test]
fn a_route_takes_one_connection_until_it_has_answered() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..30 {
        world.offer("bob@d.example");
    }
    world.ready(world.started[0].id);
    assert_eq!(world.started.len(), 1);
    world.delivered(world.started[0].id);
    // mta limit max-conn-per-route, and a burst that does not wait for conn-delay-relay.
    assert_eq!(world.started.len(), 5);
    for at in 0..4 {
        world.ready(world.started[1 + at].id);
    }
    assert_eq!(world.core.sessions.sending(), 5);
    while world.outcomes().len() < 30 {
        let busy: Vec<SessionId> = world
            .core
            .sessions
            .iter()
            .filter(|(_, s)| matches!(s.phase(), Phase::Sending(_)))
            .map(|(id, _)| *id)
            .collect();
        busy.into_iter().for_each(|id| world.delivered(id));
    }
    assert_eq!(world.quits.len(), 0);
    world.pass(2);
    assert_eq!(world.quits.len(), 4);
    for id in world.quits.clone() {
        world.ended(id, End::Quit);
    }
    // mta limit session-keepalive.
    world.pass(10);
    assert_eq!(world.quits.len(), 5);
    world.ended(world.quits[4], End::Quit);
    assert!(world.core.relays.is_empty());
    assert!(world.all_delivered());
}

#[test]
fn a_route_that_is_slow_to_greet_takes_some_connections_before_it_has_answered() {
    // smtpd.conf(5), mta limit: up to five, while few connections are to hosts that have not
    // answered.
    let many = Limits { sessions: 1000 };
    for (limits, greeting_ms, connections) in [
        (many, 400, 5),
        (many, 80, 5),
        (many, 79, 1),
        (Limits { sessions: 8 }, 400, 1),
    ] {
        let mut world = plain();
        world.core.limits = limits;
        world.a("d.example", &["192.0.2.1"]);
        for _ in 0..30 {
            world.offer("bob@d.example");
        }
        let first = world.started[0].id;
        world
            .core
            .greeted(first, Duration::from_millis(greeting_ms));
        world.ready(first);
        assert_eq!(world.started.len(), connections, "{greeting_ms} ms");
        serve(&mut world);
        assert_eq!(world.outcomes().len(), 30);
        let carried = |start: &Start| world.sent.iter().any(|(id, _)| *id == start.id);
        assert!(world.started.iter().all(carried), "one carried nothing");
    }
}

#[test]
fn a_session_ends_after_as_many_messages_as_it_may_take_and_another_follows_at_once() {
    // smtpd.conf(5), mta limit session-mail-max.
    let mut world = World::new("mta limit session-mail-max 2\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..3 {
        world.offer("bob@d.example");
    }
    let first = world.started[0].id;
    world.ready(first);
    let others = world.started.len();
    world.delivered(first);
    world.delivered(first);
    assert_eq!(world.quits, [first]);
    world.ended(first, End::Quit);
    assert!(
        others > 1 || world.started.len() == 2,
        "{:?}",
        world.started.len()
    );
}

#[test]
fn a_connection_that_died_idle_costs_a_message_nothing_but_another_one() {
    let (mut world, first) = with_idle_session();
    world.offer("carol@d.example");
    assert_eq!(world.sent.len(), 2);
    world.ended(first, failed("Connection closed unexpectedly"));
    world.pass(3);
    let relays = world.core.list(Listing::Relays, world.now);
    assert_eq!(world.started.len(), 2, "{relays:?} {:?}", world.lines);
    let second = world.started[1].id;
    world.ready(second);
    assert_eq!(world.sent[2].1.envelopes[0].dest.user(), "carol");
    // With a new connection that counts: put off.
    world.ended(second, failed("Connection closed unexpectedly"));
    assert_eq!(
        world.outcomes()[1],
        (TEMP, "Connection closed unexpectedly".to_owned())
    );
}

#[test]
fn destinations_that_do_not_answer_leave_room_for_those_that_do() {
    let mut world = plain();
    for n in 0..20 {
        world.a(
            &format!("dead{n}.example"),
            &[&format!("192.0.2.{}", 100 + n)],
        );
        world.offer(&format!("bob@dead{n}.example"));
    }
    assert_eq!(world.started.len(), 6);
    world.a("good.example", &["192.0.2.1"]);
    world.offer("bob@good.example");
    assert_eq!(world.started.len(), 6);
    // As those fail, the others have their turns; nobody is forgotten.
    for at in 0.. {
        let Some(start) = world.started.get(at).cloned() else {
            break;
        };
        match start.to.ip().to_string().as_str() {
            "192.0.2.1" => world.ready(start.id),
            _ => world.refused(at),
        }
    }
    assert_eq!((world.started.len(), world.sent.len()), (21, 1));
    assert_eq!(world.outcomes().len(), 20);
}

/// A host that has served one of its two URLs; the certificate is not good enough for the other.
fn with_two_urls() -> (World, SessionId) {
    let mut world = World::new("table t { d = x }\naction \"out\" relay domain <t>");
    for (domain, url) in [
        ("d.example", "smtp://mx.example"),
        ("e.example", "smtp+tls://mx.example"),
    ] {
        let host = RelayHost::parse(url).unwrap();
        world.smarthosts.insert(domain.to_owned(), Ok(host));
    }
    world.a("mx.example", &["192.0.2.1"]);
    world.offer("joe@d.example");
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    (world, first)
}

fn unfit() -> End {
    End::Unfit(Outcome::temp(Status::new(4, 7, 0), line(REFUSED)))
}

#[test]
fn a_host_that_one_relay_cannot_use_goes_on_serving_the_others() {
    let (mut world, _) = with_two_urls();
    world.offer("joe@e.example");
    world.pass(3);
    assert_eq!(world.started.len(), 2);
    world.ended(world.started[1].id, unfit());
    world.pass(3);
    let outcome = world.outcomes().pop().unwrap();
    assert_eq!(outcome, (TEMP, REFUSED.to_owned()));
    assert_eq!(world.started.len(), 2, "it was tried again and again");
    assert!(world.core.routes.values().all(|route| route.penalty == 0));
    world.offer("joe@d.example");
    assert_eq!(world.sent.len(), 2);
}

#[test]
fn a_host_that_one_relay_cannot_use_is_open_to_the_others_also_when_it_serves_none() {
    let (mut world, first) = with_two_urls();
    world.pass(15);
    world.ended(first, End::Quit);
    let refused = vec![(TEMP, REFUSED.to_owned())];
    world.offer("joe@e.example");
    world.ended(world.started[1].id, unfit());
    assert_eq!(world.outcomes()[1..], refused);
    // The others do not hear of it.
    world.offer("joe@d.example");
    world.pass(3);
    assert_eq!(world.started.len(), 3, "{:?}", world.lines);
    world.ready(world.started[2].id);
    world.delivered(world.started[2].id);
    assert_eq!(world.outcomes()[2].0, Verdict::Delivered);
    // Nor does it try at once again.
    world.offer("joe@e.example");
    assert_eq!(world.outcomes()[3..], refused);
    world.pass(12);
    world.offer("joe@e.example");
    assert_eq!(world.started.len(), 4);
}

// smtpd.conf(5), RELAYING: a password that is wrong is not tried every 15 seconds for ever.
#[test]
fn a_host_that_stays_of_no_use_to_a_relay_is_tried_less_and_less_often() {
    let (mut world, first) = with_two_urls();
    world.pass(15);
    world.ended(first, End::Quit);
    let begin = world.now;
    let mut tried = Vec::new();
    loop {
        world.offer("joe@e.example");
        if world.started.len() > tried.len() + 1 {
            tried.push(world.now.since(begin));
            if tried.len() == 4 {
                break;
            }
            world.ended(world.started[tried.len()].id, unfit());
        }
        world.pass(5);
    }
    assert_eq!(tried, [0, 15, 75, 210]);
    // Once it is of use, that is forgotten.
    let back = world.started[4].id;
    world.ready(back);
    world.delivered(back);
    world.ended(back, End::Quit);
    world.offer("joe@e.example");
    world.ended(world.started[5].id, unfit());
    world.pass(15);
    world.offer("joe@e.example");
    assert_eq!(world.started.len(), 7);
}

// smtpd.conf(5), RELAYING: what has been mended is used by the next message, and smtpctl(8), show
// routes, says until when it is not.
#[test]
fn a_route_that_is_of_no_use_to_some_is_shown_and_tried_again_after_a_reload() {
    let (mut world, first) = with_two_urls();
    world.pass(15);
    world.ended(first, End::Quit);
    world.offer("joe@e.example");
    world.ended(world.started[1].id, unfit());
    let routes = |world: &World| world.core.list(Listing::Routes, world.now);
    let shown = "1. [] <-> 192.0.2.1 -D-- nconn=0 nerror=1 penalty=0 timeout=15s";
    assert_eq!(routes(&world), [shown]);
    world.pass(3);
    world.offer("joe@e.example");
    assert_eq!(world.started.len(), 2);
    let conf = "table t { d = x }\naction \"out\" relay domain <t>";
    world.core.configure(configured(2, conf));
    world.offer("joe@e.example");
    assert_eq!(world.started.len(), 3);
    world.ended(world.started[2].id, unfit());
    assert!(routes(&world)[0].contains(" -D-- "));
    world.core.resume_route(RouteId(1), world.now);
    world.obey();
    assert!(routes(&world)[0].contains(" N--- "));
    world.offer("joe@e.example");
    assert_eq!(world.started.len(), 4);
}

#[test]
fn what_a_host_has_said_to_one_password_says_nothing_of_another() {
    let mut world = with_login();
    let tell = |world: &mut World, password: &str| {
        let credentials = Credentials {
            user: line("x"),
            password: line(password),
        };
        let relay = world.secrets.last().unwrap().0;
        world.core.secret(relay, Some(credentials), world.now);
        world.obey();
    };
    tell(&mut world, "old");
    world.ended(world.started[0].id, unfit());
    world.pass(3);
    for (count, (password, connections)) in [("old", 1), ("new", 2), ("new", 2), ("old", 3)]
        .into_iter()
        .enumerate()
    {
        world.offer("joe@d.example");
        // The table is asked for every message that finds no relay.
        assert_eq!(world.secrets.len(), count + 2);
        tell(&mut world, password);
        let started = world.started.len();
        assert_eq!(started, connections, "{count}");
        if world.outcomes().len() < count + 2 {
            world.ended(world.started[started - 1].id, unfit());
            world.pass(3);
        }
        let refused = (TEMP, REFUSED.to_owned());
        assert_eq!(world.outcomes(), vec![refused; count + 2]);
    }
    assert_eq!(world.core.list(Listing::Routes, world.now).len(), 1);
}

/// Offers so many messages to each of `count` domains, all of whose mail goes to one address.
fn share_one_host(world: &mut World, count: usize, messages: usize) {
    world.a("mx.example", &["192.0.2.1"]);
    for n in 0..count {
        world.mx(&format!("d{n}.example"), &[(10, "mx.example")]);
    }
    for n in 0..count * messages {
        world.offer(&format!("bob@d{}.example", n % count));
    }
}

// issue: sixty domains on one exchanger waited for each other's idle connections.
#[test]
fn domains_that_share_an_exchanger_share_its_connections() {
    let mut world = plain();
    share_one_host(&mut world, 60, 2);
    serve(&mut world);
    assert_eq!(world.outcomes().len(), 120);
    assert!(world.started.len() <= 5, "{}", world.started.len());
    // No time has passed.
    assert_eq!(world.now, T0);
}

#[test]
fn a_session_that_has_nothing_to_do_makes_room_for_a_relay_that_cannot_use_it() {
    let mut world = World::new(
        "mta limit max-conn-per-host 1\ntable t { d = x }\naction \"out\" relay domain <t>",
    );
    // Another port is another server.
    for (domain, url) in [
        ("d.example", "smtp://mx.example:1"),
        ("e.example", "smtp://mx.example:2"),
    ] {
        let host = RelayHost::parse(url).unwrap();
        world.smarthosts.insert(domain.to_owned(), Ok(host));
    }
    world.a("mx.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    world.ready(world.started[0].id);
    world.offer("bob@e.example");
    let lines = world.core.list(Listing::Relays, T0);
    let waits = |line: &String| line.ends_with(" wait=max-conn-per-host");
    assert!(lines.iter().any(waits), "{lines:?}");
    world.delivered(world.started[0].id);
    assert_eq!(world.quits, [world.started[0].id]);
    world.ended(world.started[0].id, End::Quit);
    assert_eq!(world.started.len(), 2);
}

// A connection that was of use does not count for conn-delay-relay and conn-delay-route; one that
// was not does.
#[test]
fn only_connections_that_come_to_nothing_are_paced() {
    let mut world = World::new("mta limit session-mail-max 1\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..40 {
        world.offer("bob@d.example");
    }
    serve(&mut world);
    assert_eq!(
        (world.outcomes().len(), world.started.len(), world.now),
        (40, 40, T0)
    );
    let mut world = World::new("mta limit reconn-delay-route 0\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..40 {
        world.offer("bob@d.example");
    }
    // It takes connections and hangs up when mail comes.
    for at in 0..20 {
        let Some(start) = world.started.get(at).cloned() else {
            break;
        };
        world.ready(start.id);
        world.ended(start.id, failed("Connection closed unexpectedly"));
    }
    assert_eq!(world.started.len(), 1);
}

// smtpd.conf(5), mta limit for domain.
#[test]
fn a_delay_that_is_set_for_one_domain_holds_up_no_other() {
    let mut world = World::new(
        "mta limit session-mail-max 1\nmta limit for domain slow.example conn-delay-source 60\n\
         action \"out\" relay",
    );
    world.a("slow.example", &["192.0.2.1"]);
    world.a("fast.example", &["192.0.2.3"]);
    world.offer("bob@slow.example");
    world.offer("bob@fast.example");
    assert_eq!(world.addresses(), ["192.0.2.1", "192.0.2.3"]);
    // Nor does mail for others keep the slow one from its turn.
    serve(&mut world);
    world.offer("bob@slow.example");
    for _ in 0..59 {
        world.offer("bob@fast.example");
        serve(&mut world);
        world.pass(1);
    }
    assert_eq!(world.started.len(), 61);
    assert!(world.addresses()[1..].iter().all(|to| to == "192.0.2.3"));
    world.pass(1);
    assert_eq!(world.addresses()[61..], ["192.0.2.1"]);
}

// smtpd.conf(5), mta limit: a delay is kept however long it is, though nothing else happens.
#[test]
fn a_long_delay_is_not_forgotten() {
    for delay in [
        "conn-delay-route",
        "conn-delay-source",
        "conn-delay-host",
        "conn-delay-domain",
        "conn-delay-relay",
        "conn-delay-connector",
        "reconn-delay-route",
    ] {
        let mut world = World::new(&format!("mta limit {delay} 600\naction \"out\" relay"));
        world.a("d.example", &["192.0.2.1"]);
        world.offer("bob@d.example");
        let first = world.started[0].id;
        world.ready(first);
        world.delivered(first);
        world.ended(first, failed("Connection closed unexpectedly"));
        world.pass(130);
        world.offer("bob@d.example");
        world.pass(469);
        assert_eq!(world.started.len(), 1, "{delay}");
        world.pass(1);
        assert_eq!(world.started.len(), 2, "{delay}");
    }
}

// RFC 5321 section 3.8: 421 may come at any time, and hosts close connections that they have
// served.
#[test]
fn a_host_that_ends_a_session_it_has_served_is_connected_to_again_at_once() {
    let (mut world, _) = with_idle_session();
    for count in 2..12 {
        let id = world.offer("bob@d.example");
        let (session, _) = world.sent.last().unwrap().clone();
        world
            .core
            .done(session, Vec::new(), &[id], Next::Over, world.now);
        world.obey();
        // It is dying: nothing is given to it.
        assert_eq!(world.sent.last().unwrap().0, session);
        world.ended(session, End::Quit);
        assert_eq!(world.started.len(), count);
        let again = world.started.last().unwrap().id;
        world.ready(again);
        assert_eq!(world.sent.last().unwrap().1.envelopes[0].id, id);
        world.delivered(again);
    }
    assert_eq!(world.outcomes().len(), 11);
    assert!(world.lines.is_empty());
}

#[test]
fn a_message_outlives_any_number_of_connections_that_died_idle() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..30 {
        world.offer("bob@d.example");
    }
    world.ready(world.started[0].id);
    world.delivered(world.started[0].id);
    for at in 1..5 {
        world.ready(world.started[at].id);
    }
    for _ in 0..3 {
        for at in 0..5 {
            world.delivered(world.started[at].id);
        }
    }
    let before = world.outcomes().len();
    for at in 0..5 {
        let id = world.started[at].id;
        let load = world.finish(id);
        let ids: Vec<EvpId> = load.envelopes.iter().map(|e| e.id).collect();
        world.core.done(id, Vec::new(), &ids, Next::Over, world.now);
        world.obey();
        world.ended(id, End::Quit);
    }
    assert_eq!(world.outcomes().len(), before);
    world.served = [5, world.sent.len(), world.quits.len()];
    serve(&mut world);
    assert_eq!(world.outcomes().len(), 30);
    let delivered = |(verdict, _): &(Verdict, String)| *verdict == Verdict::Delivered;
    assert!(world.outcomes().iter().all(delivered));
}

#[test]
fn a_host_that_takes_no_further_connection_is_not_asked_for_one_again_and_again() {
    let mut world = World::new(
        "mta limit reconn-delay-route 0 conn-delay-route 0 conn-delay-relay 0\naction \"out\" relay",
    );
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..40 {
        world.offer("bob@d.example");
    }
    world.ready(world.started[0].id);
    world.delivered(world.started[0].id);
    for at in 1..world.started.len() {
        let id = world.started[at].id;
        world.ended(id, failed("421 4.7.0 too many connections"));
    }
    assert_eq!(world.started.len(), 5);
    while world.outcomes().len() < 40 {
        world.delivered(world.started[0].id);
    }
    assert_eq!(world.started.len(), 5);
    assert!(world.all_delivered());
}

#[test]
fn a_message_does_not_wait_for_a_slow_connection_while_another_is_idle() {
    let mut world = plain();
    world.mx("d.example", &[(10, "a.example")]);
    world.a("a.example", &["192.0.2.1", "192.0.2.2"]);
    world.offer("bob@d.example");
    world.offer("bob@d.example");
    assert_eq!(world.started.len(), 2);
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    assert_eq!(world.sent.len(), 1);
    world.pass(2);
    assert_eq!(world.sent.len(), 2);
    world.delivered(first);
    assert_eq!(world.outcomes().len(), 2);
}
