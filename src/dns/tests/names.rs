//! Short names, the hosts file, and names that are confirmed.

use super::*;

fn with_search() -> Bench {
    Bench::with(Settings {
        search: vec!["a.example".into(), "b.example".into()],
        ..Settings::default()
    })
}

#[test]
fn short_names_go_through_the_search_list() {
    // resolv.conf(5), search and ndots.
    let mut bench = with_search();
    let found = bench.lookup("mx", Kind::A);
    for rcode in [Rcode::NOERROR, Rcode::NOERROR, Rcode::NXDOMAIN] {
        bench.say(rcode, &[]);
    }
    bench.say(Rcode::NXDOMAIN, &[]);
    bench.say(Rcode::NXDOMAIN, &[]);
    assert_eq!(
        bench.names_asked(),
        [
            "mx.a.example",
            "mx.a.example",
            "mx.b.example",
            "mx.b.example",
            "mx"
        ]
    );
    assert_eq!(only(&found), Err(DnsError::NoData), "one of them exists");
    // Other records have no families.
    let mut bench = with_search();
    bench.lookup("mx", Kind::Txt);
    (0..3).for_each(|_| bench.say(Rcode::NXDOMAIN, &[]));
    assert_eq!(bench.names_asked(), ["mx.a.example", "mx.b.example", "mx"]);
}

#[test]
fn a_name_with_addresses_of_one_family_is_not_searched_for_in_the_other() {
    // OpenSMTPD issue 384: a host with an A record only, and an AAAA record of the same name below
    // the search domain, got its mail delivered to the latter.
    let mut bench = with_search();
    let (v6, v4) = (
        bench.lookup("relay.example.net", Kind::Aaaa),
        bench.lookup("relay.example.net", Kind::A),
    );
    let [first, second] = [bench.asks[0].clone(), bench.asks[1].clone()];
    bench.receive(first.fetch, &answer(&first.wire, Rcode::NOERROR, &[]));
    let a = [("relay.example.net", Data::A(ADDR))];
    bench.receive(second.fetch, &answer(&second.wire, Rcode::NOERROR, &a));
    assert_eq!(only(&v4), Ok(Answer::A(vec![ADDR])));
    assert_eq!(only(&v6), Err(DnsError::NoData));
    assert_eq!(bench.names_asked(), ["relay.example.net"; 2]);
    // Where neither exists, both families go on to the same name.
    let (v6, v4) = (bench.lookup("b", Kind::Aaaa), bench.lookup("b", Kind::A));
    let mut done = 2;
    while let Some(asked) = bench.asks.get(done).cloned() {
        done += 1;
        let message = domain::base::Message::from_slice(&asked.wire).unwrap();
        let question = message.first_question().unwrap();
        let is_a = question.qtype() == domain::base::iana::Rtype::A;
        let records: &[_] = match question.qname().to_string().as_str() {
            "b.b.example" if is_a => &[("b.b.example", Data::A(ADDR))],
            "b.a.example" | "b.b.example" => &[],
            other => panic!("{other} was asked for"),
        };
        bench.receive(asked.fetch, &answer(&asked.wire, Rcode::NOERROR, records));
    }
    assert_eq!(only(&v4), Ok(Answer::A(vec![ADDR])));
    assert_eq!(only(&v6), Err(DnsError::NoData));
}

#[test]
fn a_name_that_nobody_can_tell_about_is_not_searched_for_elsewhere() {
    // Else a name server's bad hour would send the mail to another host.
    let mut bench = with_search();
    let found = bench.lookup("relay.example.net", Kind::A);
    while bench.core.next_deadline().is_some() {
        bench.pass(Duration::from_secs(5));
    }
    assert_eq!(only(&found), Err(DnsError::TempFail));
    assert!(
        bench
            .names_asked()
            .iter()
            .all(|name| name == "relay.example.net")
    );
    // Nor is one of which only one family is known to be missing.
    let mut bench = with_search();
    let found = bench.lookup("relay.example.net", Kind::Aaaa);
    bench.say(Rcode::NOERROR, &[]);
    while bench.core.next_deadline().is_some() {
        bench.pass(Duration::from_secs(5));
    }
    assert_eq!(only(&found), Err(DnsError::NoData));
    assert!(
        bench
            .names_asked()
            .iter()
            .all(|name| name == "relay.example.net")
    );
}

#[test]
fn a_name_of_the_hosts_file_is_asked_of_nobody_in_any_family() {
    // hosts(5): a name that is there has the addresses that are there, before the search list too.
    let mut bench = with_search();
    assert!(only(&bench.lookup("localhost", Kind::A)).is_ok());
    assert_eq!(
        only(&bench.lookup("localhost", Kind::Aaaa)),
        Err(DnsError::NoData)
    );
    assert!(bench.asks.is_empty());
}

#[test]
fn the_hosts_file_comes_first() {
    // hosts(5): no name server is asked for what it says.
    let mut bench = Bench::new();
    let addr = only(&bench.lookup("localhost", Kind::A));
    assert_eq!(addr, Ok(Answer::A(vec![Ipv4Addr::LOCALHOST])));
    let name = only(&bench.reverse("::ffff:127.0.0.1"));
    assert_eq!(
        (name.name, name.confirmed),
        (Some(line("localhost")), Confirmed::Pass)
    );
    assert!(bench.asks.is_empty());
}

#[test]
fn a_name_is_confirmed_by_its_own_addresses() {
    // RFC 1912 §2.1: PTR and A must match. OpenSMTPD's fcrdns=ok, fcrdns=error and rdns="".
    let ptr = [("7.100.51.198.in-addr.arpa", Data::Ptr("Mail.example"))];
    let story = |then: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::new();
        let found = bench.reverse("198.51.100.7");
        assert_eq!(bench.names_asked(), ["7.100.51.198.in-addr.arpa"]);
        then(&mut bench);
        let found = only(&found);
        (found.name.map(|name| name.to_string()), found.confirmed)
    };
    let name = || Some("Mail.example".to_owned());
    let with_a = |addr: Ipv4Addr| {
        let ptr = ptr.clone();
        move |bench: &mut Bench| {
            bench.say(Rcode::NOERROR, &ptr);
            bench.say(Rcode::NOERROR, &[("mail.example", Data::A(addr))]);
        }
    };
    assert_eq!(story(&with_a(ADDR)), (name(), Confirmed::Pass));
    assert_eq!(
        story(&with_a(Ipv4Addr::LOCALHOST)),
        (name(), Confirmed::Fail)
    );
    let no_ptr = |bench: &mut Bench| bench.say(Rcode::NXDOMAIN, &[]);
    assert_eq!(story(&no_ptr), (None, Confirmed::Fail));
    let no_forward = |bench: &mut Bench| {
        bench.say(Rcode::NOERROR, &ptr);
        bench.say(Rcode::NXDOMAIN, &[]);
    };
    assert_eq!(story(&no_forward), (name(), Confirmed::Fail));
    let dead = |bench: &mut Bench| (0..20).for_each(|_| bench.pass(Duration::from_secs(5)));
    assert_eq!(story(&dead), (None, Confirmed::Error));
    let half = |bench: &mut Bench| {
        bench.say(Rcode::NOERROR, &ptr);
        dead(bench);
    };
    assert_eq!(story(&half), (name(), Confirmed::Error));
    let hostile = |bench: &mut Bench| {
        let names = ["a\\010b.example", "192.0.2.1", "x\\027[m"];
        let records = names.map(|name| ("7.100.51.198.in-addr.arpa", Data::Ptr(name)));
        bench.say(Rcode::NOERROR, &records);
    };
    assert_eq!(story(&hostile), (None, Confirmed::Fail));
    let mut bench = Bench::new();
    bench.reverse("2001:db8::1");
    assert!(
        bench.names_asked()[0].starts_with("1.0.0.0.")
            && bench.names_asked()[0].ends_with(".8.b.d.0.1.0.0.2.ip6.arpa")
    );
}
