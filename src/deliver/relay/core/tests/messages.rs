//! Messages that wait: how many, for whom, and what becomes of them.

use super::*;

#[test]
fn each_of_many_messages_for_a_dead_host_hears_why() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..100 {
        world.offer("bob@d.example");
    }
    let is_held = |report: &&Report| matches!(report, Report::Held(..));
    let held = world.reports.iter().filter(is_held).count();
    world.refused(0);
    // mta limit task-hiwat: the others come when the first have failed.
    assert_eq!(world.outcomes().len() + held, 100);
    assert!(held > 0);
    for _ in 0..held {
        world.offer("bob@d.example");
    }
    assert_eq!(world.outcomes(), vec![(TEMP, REFUSED.to_owned()); 100]);
}

#[test]
fn a_relay_with_enough_waiting_has_the_rest_held_and_asks_for_it_again() {
    // smtpd.conf(5), mta limit task-hiwat, task-lowat, task-release.
    let conf = "mta limit task-hiwat 4 task-lowat 2 task-release 3\naction \"out\" relay";
    let mut world = World::new(conf);
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..10 {
        world.offer("bob@d.example");
    }
    let held = |w: &World| {
        w.reports
            .iter()
            .filter(|r| matches!(r, Report::Held(..)))
            .count()
    };
    assert_eq!(held(&world), 6);
    assert_eq!(
        world.lines,
        ["smtp-out: hiwat reached on [relay:d.example,smtp]: holding envelopes"]
    );
    let id = world.started[0].id;
    world.ready(id);
    world.delivered(id);
    let release = Report::Release(crate::deliver::Release {
        key: HoldKey(1),
        count: 3,
    });
    assert!(world.reports.contains(&release));
    assert!(world.lines[1].starts_with("smtp-out: back to lowat on [relay:d.example"));
    // What is held for a destination that cannot be reached fails like the rest: it was tried, too.
    let mut world = World::new(conf);
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..10 {
        world.offer("bob@d.example");
    }
    world.refused(0);
    assert_eq!(world.outcomes().len(), 4);
    let all = Report::Release(crate::deliver::Release {
        key: HoldKey(1),
        count: usize::MAX,
    });
    assert!(world.reports.contains(&all));
    for _ in 0..6 {
        world.offer("bob@d.example");
    }
    assert_eq!(world.outcomes(), vec![(TEMP, REFUSED.to_owned()); 10]);
    assert_eq!(world.started.len(), 1);
    world.pass(5);
    assert!(world.core.relays.is_empty());
}

#[test]
fn recipients_beyond_what_a_transaction_takes_go_into_the_next_one() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for low in 1..=250 {
        let mut envelope = samples::envelope("bob");
        envelope.id = EvpId::new(MsgId::new(7).unwrap(), low).unwrap();
        envelope.action = line("out");
        envelope.kind = EnvelopeKind::Relay;
        envelope.dest = MailAddr::new("bob", "d.example").unwrap();
        world.core.offer(vec![envelope], T0);
    }
    world.obey();
    serve(&mut world);
    let sizes: Vec<usize> = world.sent.iter().map(|(_, l)| l.envelopes.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn what_was_put_off_is_tried_when_its_domain_answers() {
    // smtpd.conf(5), mta max-deferred.
    let (mut world, first) = with_idle_session();
    world.pass(11);
    world.ended(first, End::Quit);
    // Down for a while.
    let put_off = world.offer("carol@d.example");
    world.refused(1);
    world.pass(15);
    world.offer("dave@d.example");
    world.ready(world.started[2].id);
    world.delivered(world.started[2].id);
    assert!(world.reports.contains(&Report::Hurry(vec![put_off])));
    assert_eq!(
        world.core.list(Listing::HostStats, T0),
        [format!("d.example|{}|250 ok", world.now.0)]
    );
}

#[test]
fn what_has_not_begun_goes_back_when_the_daemon_stops() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    let id = world.offer("bob@d.example");
    world.core.stop();
    world.obey();
    assert_eq!(world.reports, [Report::Held(id, HoldKey(1))]);
}

#[test]
fn forwarded_mail_goes_in_a_transaction_of_its_own() {
    // smtpd.conf(5), relay: srs. Who is not forwarded to keeps the sender as it is.
    let mut world = World::new("srs key \"secret\"\naction \"out\" relay srs");
    world.mx("d.example", &[(10, "a.example")]);
    world.a("a.example", &["192.0.2.1"]);
    let direct = Envelope {
        id: EvpId::new(MsgId::new(9).unwrap(), 1).unwrap(),
        action: line("out"),
        kind: EnvelopeKind::Relay,
        dest: MailAddr::new("joe", "d.example").unwrap(),
        rcpt: MailAddr::new("joe", "d.example").unwrap(),
        created: T0,
        ..samples::envelope("bob")
    };
    let forwarded = Envelope {
        id: EvpId::new(MsgId::new(9).unwrap(), 2).unwrap(),
        rcpt: MailAddr::new("list", "fwd.example").unwrap(),
        ..direct.clone()
    };
    world.core.offer(vec![direct], T0);
    world.core.offer(vec![forwarded], T0);
    world.obey();
    let id = world.started[0].id;
    world.ready(id);
    world.delivered(id);
    let domains: Vec<_> = world
        .sent
        .iter()
        .map(|(_, load)| load.srs.clone())
        .collect();
    assert_eq!(domains, [None, Some(line("fwd.example"))]);
}
