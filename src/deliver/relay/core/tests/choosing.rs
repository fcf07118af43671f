//! Which host mail goes to, and from which address.

use super::*;

#[test]
fn what_the_name_server_says_decides_in_the_words_of_the_manual() {
    // smtpd(8): NXDOMAIN and a null MX are for good, what a name server does not say is not.
    type Case = (fn(&mut World), Verdict, &'static str);
    let cases: [Case; 8] = [
        (
            |w| w.fails("d.example", DnsError::NoName),
            PERM,
            "Domain does not exist",
        ),
        (
            |w| w.fails("d.example", DnsError::TempFail),
            TEMP,
            "Temporary failure in MX lookup",
        ),
        (
            |w| w.mx("d.example", &[(0, ".")]),
            PERM,
            "Domain does not accept mail",
        ),
        (
            |w| w.mx("d.example", &[(10, "localhost")]),
            PERM,
            "Domain does not accept mail",
        ),
        (
            |w| w.mx("d.example", &[(10, "a.example")]),
            TEMP,
            "No MX found for domain",
        ),
        (|_| {}, TEMP, "No MX found for domain"),
        (
            |w| {
                w.mx("d.example", &[(10, "us.example"), (20, "b.example")]);
                w.a("us.example", &["192.0.2.9"]);
                w.a("b.example", &["192.0.2.2"]);
            },
            PERM,
            "Mail for domain loops back to this host",
        ),
        (
            |w| {
                let many: Vec<(u16, String)> =
                    (0..5000).map(|n| (n, format!("m{n}.example"))).collect();
                let many: Vec<(u16, &str)> = many.iter().map(|(n, m)| (*n, m.as_str())).collect();
                w.mx("d.example", &many);
            },
            TEMP,
            "No MX found for domain",
        ),
    ];
    for (prepare, verdict, text) in cases {
        let mut world = plain();
        prepare(&mut world);
        world.offer("bob@D.example");
        assert_eq!(world.only_outcome(), (verdict, text.to_owned()));
        assert_eq!(
            world.lines,
            [format!(
                "smtp-out: Failed to resolve MX for [relay:d.example,smtp]: {text}"
            )]
        );
        assert!(world.core.relays.is_empty() && world.core.domains.is_empty());
    }
    let mut world = plain();
    world.offer("bob@-bad..name");
    assert_eq!(
        world.only_outcome(),
        (PERM, "Invalid domain name".to_owned())
    );
}

// RFC 5321 §5.1: a domain that has exchangers is not its own, even if none can be used.
#[test]
fn an_exchanger_that_is_no_name_is_the_address_it_gives_or_none() {
    let named = |preference, name: Option<&str>| Mx {
        preference,
        name: name.map(line),
    };
    let offered = |list: Vec<Mx>| {
        let mut world = plain();
        let key = ("d.example.".to_owned(), Kind::Mx);
        world.zone.insert(key, Ok(Answer::Mx(list)));
        world.a("d.example", &["192.0.2.1"]);
        world.a("us.example", &["192.0.2.9"]);
        world.offer("bob@d.example");
        world
    };
    let world = offered(vec![named(10, None), named(10, Some("203.0.113.5"))]);
    assert_eq!(world.addresses(), ["203.0.113.5"]);
    for list in [
        vec![named(10, None)],
        vec![named(10, None), named(0, Some("."))],
        vec![named(10, None), named(20, Some("us.example"))],
        vec![named(10, Some("0.0.0.0"))],
    ] {
        let world = offered(list);
        let text = "No MX found for domain".to_owned();
        assert_eq!(world.only_outcome(), (TEMP, text));
        assert!(world.started.is_empty());
    }
}

#[test]
fn exchangers_are_tried_by_preference_and_equals_in_random_order() {
    // RFC 5321 §5.1.
    let mut firsts = BTreeSet::new();
    for _ in 0..40 {
        let mut world = plain();
        world.mx(
            "d.example",
            &[(20, "c.example"), (10, "a.example"), (10, "b.example")],
        );
        world.a("a.example", &["192.0.2.1"]);
        world.a("b.example", &["192.0.2.2"]);
        world.a("c.example", &["192.0.2.3"]);
        world.offer("bob@d.example");
        world.refused(0);
        world.refused(1);
        world.refused(2);
        let tried = world.addresses();
        assert_eq!((tried.len(), tried[2].as_str()), (3, "192.0.2.3"));
        firsts.insert(tried[0].clone());
        assert_eq!(world.only_outcome(), (TEMP, REFUSED.to_owned()));
    }
    assert_eq!(firsts.len(), 2);
}

#[test]
fn a_refused_connection_is_told_as_the_manual_shows() {
    // smtpd(8): the route is disabled, nothing is left, the mail is put off at once.
    let mut world = plain();
    world.a("example.com", &["192.0.2.25"]);
    world.offer("bob@example.com");
    assert_eq!(world.started[0].to.to_string(), "192.0.2.25:25");
    world.refused(0);
    assert_eq!(world.only_outcome(), (TEMP, REFUSED.to_owned()));
    world.pass(15);
    assert_eq!(
        world.lines,
        [
            "smtp-out: Disabling route [] <-> 192.0.2.25 for 15s",
            "smtp-out: No valid route for [connector:[]->[relay:example.com,smtp],0x0]",
            "smtp-out: Enabling route [] <-> 192.0.2.25",
        ]
    );
    // What comes while the route is disabled fails without an attempt.
    let mut world = plain();
    world.a("example.com", &["192.0.2.25"]);
    world.offer("bob@example.com");
    world.refused(0);
    world.offer("bob@example.com");
    assert_eq!((world.started.len(), world.outcomes().len()), (1, 2));
    assert!(world.core.relays.is_empty());
}

// smtpd.conf(5), RELAYING: 15 seconds, 60 the next time, and so on; until it takes mail again.
#[test]
fn a_host_that_stays_away_is_tried_less_and_less_often() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    let mut tried = Vec::new();
    loop {
        world.offer("bob@d.example");
        if world.started.len() > tried.len() {
            tried.push(world.now.since(T0));
            if tried.len() == 4 {
                break;
            }
            world.refused(tried.len() - 1);
        }
        world.pass(5);
    }
    assert_eq!(tried, [0, 15, 75, 210]);
    let back = world.started[3].id;
    world.ready(back);
    world.delivered(back);
    world.ended(back, End::Quit);
    world.offer("bob@d.example");
    world.refused(4);
    let disabled = |line: &&String| line.starts_with("smtp-out: Disabling");
    let last = world.lines.iter().rfind(disabled);
    assert!(last.unwrap().ends_with(" for 15s"), "{:?}", world.lines);
}

// smtpd.conf(5), RELAYING: 60 seconds come after a next time, not after a second connection.
#[test]
fn connections_that_fail_together_count_as_one_failure() {
    let mut world = plain();
    world.core.limits = Limits { sessions: 1000 };
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..30 {
        world.offer("bob@d.example");
    }
    let first = world.started[0].id;
    world.core.greeted(first, Duration::from_millis(400));
    world.ready(first);
    let count = world.started.len();
    assert_eq!(count, 5);
    for at in 0..count {
        world.refused(at);
    }
    assert_eq!(
        world.core.list(Listing::Routes, world.now),
        ["1. [] <-> 192.0.2.1 -D-- nconn=0 nerror=5 penalty=1 timeout=15s"]
    );
    let outcomes = world.outcomes();
    assert!(outcomes.len() == 30 && outcomes.iter().all(|(verdict, _)| *verdict == TEMP));
    world.pass(15);
    world.offer("bob@d.example");
    assert_eq!(world.started.len(), 6);
}

#[test]
fn a_host_is_not_blamed_for_a_network_that_is_down_here() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for at in 0..5 {
        world.offer("bob@d.example");
        assert_eq!(world.started.len(), at + 1);
        let why = line("Connection failed: Network is unreachable");
        let end = End::NoWay(Outcome::temp(Status::new(4, 4, 1), why));
        world.ended(world.started[at].id, end);
        world.offer("bob@d.example");
        assert_eq!(
            (world.started.len(), world.outcomes().len()),
            (at + 1, 2 * at + 2)
        );
        world.pass(15);
    }
    assert!(world.core.routes.values().all(|route| route.penalty == 0));
}

#[test]
fn both_families_are_tried_in_one_attempt_and_limits_choose_one() {
    let mut world = plain();
    world.core.own = Own::new(&["2001:db8::9".parse().unwrap()], &[]);
    world.a("d.example", &["192.0.2.1", "2001:db8::1"]);
    world.offer("bob@d.example");
    world.refused(0);
    assert_eq!(world.addresses(), ["2001:db8::1", "192.0.2.1"]);
    world.ready(world.started[1].id);
    assert_eq!(world.sent.len(), 1);
    // smtpd.conf(5), mta limit inet6.
    let mut world = World::new("mta limit inet6\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (
            TEMP,
            "Address family mismatch on destination MXs".to_owned()
        )
    );
    assert_eq!(
        world.lines,
        ["smtp-out: Address family mismatch on [connector:[]->[relay:d.example,smtp],0x0]"]
    );
}

#[test]
fn one_family_alone_or_first_is_what_resolv_conf_says() {
    // resolv.conf(5), family.
    let (four, six) = ("192.0.2.1", "2001:db8::1");
    for (families, tried) in [
        (Families::Inet6First, &[six, four][..]),
        (Families::Inet4First, &[four, six]),
        (Families::Inet4, &[four]),
        (Families::Inet6, &[six]),
    ] {
        let mut world = plain();
        world.core.reach(families);
        world.core.configure(configured(2, "action \"out\" relay"));
        assert_eq!(world.core.own.families, families);
        world.core.own = Own::new(&["2001:db8::9".parse().unwrap()], &[]);
        world.core.reach(families);
        world.a("d.example", &[four, six]);
        world.offer("bob@d.example");
        for at in 0..tried.len() {
            world.refused(at);
        }
        assert_eq!(world.addresses(), tried);
        assert_eq!(world.only_outcome(), (TEMP, REFUSED.to_owned()));
    }
}

#[test]
fn a_backup_relays_only_to_exchangers_that_are_preferred_to_it() {
    // smtpd.conf(5), relay backup.
    let conf = "action \"out\" relay backup mx mx2.example";
    let mut world = World::new(conf);
    world.mx(
        "d.example",
        &[
            (10, "mx1.example"),
            (20, "MX2.example"),
            (30, "mx3.example"),
        ],
    );
    for (name, addr) in [
        ("mx1", "192.0.2.1"),
        ("MX2", "192.0.2.2"),
        ("mx3", "192.0.2.3"),
    ] {
        world.a(&format!("{name}.example"), &[addr]);
    }
    world.offer("bob@d.example");
    world.refused(0);
    assert_eq!(world.addresses(), ["192.0.2.1"]);
    let mut world = World::new(conf);
    world.mx("d.example", &[(20, "mx2.example")]);
    world.a("mx2.example", &["192.0.2.2"]);
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (TEMP, "No MX found for destination".to_owned())
    );
    let mut world = World::new(conf);
    world.mx("d.example", &[(20, "other.example")]);
    world.a("other.example", &["192.0.2.2"]);
    world.offer("bob@d.example");
    assert_eq!(world.addresses(), ["192.0.2.2"]);
    assert_eq!(
        world.lines,
        ["Couldn't find backup preference for [relay:d.example,smtp,backup=mx2.example]: error 4"]
    );
}

// smtpd.conf(5), RELAYING: a backup that is the best exchanger itself keeps the mail.
#[test]
fn a_backup_that_no_exchanger_is_preferred_to_keeps_the_mail() {
    for list in [
        &[(20, "mx2.example")][..],
        &[(10, "mx1.example"), (10, "mx2.example")],
    ] {
        let mut world = World::new("action \"out\" relay backup mx mx2.example");
        world.mx("d.example", list);
        world.a("mx1.example", &["192.0.2.1"]);
        world.a("mx2.example", &["192.0.2.9"]);
        world.offer("bob@d.example");
        let text = "No MX found for destination".to_owned();
        assert_eq!(world.only_outcome(), (TEMP, text), "{list:?}");
        assert!(world.started.is_empty());
    }
}

// smtpd.conf(5), RELAYING: whatever may pass does not fail for good.
#[test]
fn nothing_bounces_while_there_may_be_an_exchanger_that_is_preferred_to_us() {
    let no_answer = "Temporary failure in MX lookup";
    type Case = (&'static str, fn(&mut World), &'static str);
    let cases: [Case; 4] = [
        (
            "nobody can say where the better one is",
            |w| {
                w.mx("d.example", &[(10, "a.example"), (20, "us.example")]);
                w.has_no_answer("a.example");
                w.a("us.example", &["192.0.2.9"]);
            },
            no_answer,
        ),
        (
            "the better one has no address",
            |w| {
                w.mx("d.example", &[(10, "a.example"), (20, "us.example")]);
                w.a("us.example", &["192.0.2.9"]);
            },
            "No MX found for domain",
        ),
        (
            "we are best by our name alone",
            |w| {
                w.mx("d.example", &[(10, "mx.example.org")]);
                w.has_no_answer("mx.example.org");
            },
            no_answer,
        ),
        (
            "what is left would hand it back to us",
            |w| {
                let list = [(10, "a.example"), (20, "MX.example.org"), (30, "b.example")];
                w.mx("d.example", &list);
                w.has_no_answer("a.example");
                w.has_no_answer("MX.example.org");
                w.a("b.example", &["192.0.2.2"]);
            },
            no_answer,
        ),
    ];
    for (what, prepare, text) in cases {
        let mut world = plain();
        prepare(&mut world);
        world.offer("bob@d.example");
        assert_eq!(world.addresses(), [""; 0], "{what}");
        assert_eq!(world.only_outcome(), (TEMP, text.to_owned()), "{what}");
    }
    // We have no IPv6 ourselves; that says nothing of the better one.
    let mut world = plain();
    world.mx("d.example", &[(10, "a.example"), (20, "us.example")]);
    world.a("a.example", &["2001:db8::1"]);
    world.a("us.example", &["192.0.2.9"]);
    world.offer("bob@d.example");
    assert_eq!(world.addresses(), ["2001:db8::1"]);
}

#[test]
fn we_know_ourselves_by_name_while_nobody_can_say_our_address() {
    let mut world = plain();
    world.mx(
        "d.example",
        &[(10, "a.example"), (20, "mx.example.org"), (30, "b.example")],
    );
    world.a("a.example", &["192.0.2.1"]);
    world.has_no_answer("mx.example.org");
    world.a("b.example", &["192.0.2.2"]);
    world.offer("bob@d.example");
    world.refused(0);
    assert_eq!(world.addresses(), ["192.0.2.1"]);
    // An answer that we are elsewhere is believed: another server may bear the name.
    let mut world = plain();
    world.mx("d.example", &[(20, "mx.example.org"), (30, "b.example")]);
    world.a("mx.example.org", &["192.0.2.3"]);
    world.offer("bob@d.example");
    assert_eq!(world.addresses(), ["192.0.2.3"]);
}

// What was asked for a relay that is gone says nothing to the one that came after it.
#[test]
fn an_answer_belongs_to_the_resolution_that_asked() {
    let mut world = plain();
    world.mx("d.example", &[(10, "a.example"), (20, "b.example")]);
    world.a("b.example", &["192.0.2.2"]);
    // One connection is kept until the answer is old and is asked for again.
    world.offer("bob@d.example");
    let session = world.started[0].id;
    world.ready(session);
    for _ in 0..61 {
        world.delivered(session);
        world.pass(5);
        world.offer("bob@d.example");
    }
    world.served = [1, world.sent.len() - 1, 0];
    world.slow_names = true;
    world.offer("bob@d.example");
    assert_eq!(world.asked.len(), 1);
    serve(&mut world);
    world.pass(10);
    serve(&mut world);
    assert!(world.core.domains.is_empty());
    world.offer("bob@d.example");
    for (name, question) in std::mem::take(&mut world.asked) {
        assert_eq!(question.kind, Kind::Mx);
        world.answer(name, &question);
        world.obey();
    }
    assert_eq!(world.asked.len(), 4);
    let before = (world.outcomes().len(), world.started.len());
    for (name, question) in std::mem::take(&mut world.asked) {
        assert_eq!((world.outcomes().len(), world.started.len()), before);
        world.answer(name, &question);
        world.obey();
    }
    assert_eq!(world.addresses()[before.1..], ["192.0.2.2"]);
}

#[test]
fn smarthosts_come_from_tables_and_fail_in_the_words_of_the_manual() {
    let smtp = |url: &str| Ok(RelayHost::parse(url).unwrap());
    let mut world = World::new("action \"out\" relay host { \"x\" }");
    world
        .smarthosts
        .insert(String::new(), smtp("smtp://[192.0.2.7]:2525"));
    world.offer("bob@d.example");
    assert_eq!(world.started[0].to.to_string(), "192.0.2.7:2525");
    let mut world = World::new("action \"out\" relay domain { \"a\" = \"b\" }");
    world
        .smarthosts
        .insert("d.example".to_owned(), smtp("lmtp://lmtp.example:24"));
    world.offer("bob@D.example");
    assert_eq!(world.only_outcome(), (TEMP, "Host not found".to_owned()));
    world.offer("bob@other.example");
    assert!(
        world.lines[1].starts_with("Failed to retrieve smarthost for envelope 0000000200000001")
    );
    assert_eq!(world.outcomes()[1].1, "Cannot retrieve smarthost");
    let bad = Err(BadSmarthost::Url(line("tls://x")));
    world.smarthosts.insert("bad.example".to_owned(), bad);
    world.offer("bob@bad.example");
    assert_eq!(world.outcomes()[2].1, "Cannot parse smarthost");
}

#[test]
fn sources_are_drawn_until_one_works_and_no_longer() {
    // smtpd.conf(5), relay src.
    let conf = "action \"out\" relay src { \"192.0.2.100\", \"2001:db8::100\" }";
    let mut world = World::new(conf);
    world.core.own = Own::new(&["2001:db8::9".parse().unwrap()], &[]);
    world.sources = ["192.0.2.100", "2001:db8::100"]
        .map(|addr| Some(addr.parse().unwrap()))
        .to_vec();
    world.a("d.example", &["192.0.2.1", "2001:db8::1"]);
    world.offer("bob@d.example");
    assert_eq!(world.addresses(), ["192.0.2.1"]);
    world.refused(0);
    assert_eq!(world.addresses(), ["192.0.2.1", "2001:db8::1"]);
    world.refused(1);
    assert_eq!(world.only_outcome(), (TEMP, REFUSED.to_owned()));
    let mut world = World::new(conf);
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (TEMP, "Could not retrieve source address".to_owned())
    );
    assert!(world.lines[0].starts_with("Failed to get source address for [relay:d.example,"));
    // One that this host does not have.
    let mut world = World::new(conf);
    world.sources = vec![Some("192.0.2.100".parse().unwrap())];
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    let id = world.started[0].id;
    world.ended(id, End::Source(line("Cannot assign requested address")));
    assert_eq!(
        world.only_outcome(),
        (
            TEMP,
            "No valid route to destination: Cannot assign requested address".to_owned()
        )
    );
    assert_eq!(
        world.lines,
        ["smtp-out: Error on 192.0.2.100 <-> 192.0.2.1: Cannot assign requested address"]
    );
}

#[test]
fn a_blocked_source_is_not_used_until_it_is_resumed() {
    // smtpctl(8), pause mta from.
    let mut world = World::new("action \"out\" relay src { \"192.0.2.100\" }");
    let addr = "192.0.2.100".parse().unwrap();
    world.sources = vec![Some(addr)];
    world.a("d.example", &["192.0.2.1"]);
    assert!(world.core.block(addr, "D.example", true, T0));
    assert!(!world.core.block(addr, "d.example", true, T0));
    assert_eq!(
        world.core.list(Listing::Blocks, T0),
        ["192.0.2.100 -> d.example"]
    );
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (TEMP, "All routes to destination blocked".to_owned())
    );
    assert!(world.core.block(addr, "d.example", false, T0));
    world.offer("bob@d.example");
    assert_eq!(world.started.len(), 1);
}
