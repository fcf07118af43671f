//! The resolver against name servers that fail, lie and forge.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;

use crate::mail::samples::line;
use crate::util::dice::Dice;

use super::core::{Command, Core};
use super::fake::{Data, answer, nothing};
use super::hosts::Hosts;
use super::message::Transport;
use super::*;

/// A core, a clock, and what the core wants done.
struct Bench {
    core: Core,
    now: Instant,
    asks: Vec<Asked>,
}

#[derive(Clone, Debug)]
struct Asked {
    fetch: u64,
    server: SocketAddr,
    transport: Transport,
    wire: Vec<u8>,
}

type Inbox<T> = Arc<Mutex<Vec<T>>>;

impl Bench {
    fn new() -> Bench {
        Bench::with(Settings {
            servers: vec![server(1), server(2)],
            ..Settings::default()
        })
    }

    fn with(settings: Settings) -> Bench {
        let hosts = Hosts::parse(b"127.0.0.1 localhost\n");
        Bench {
            core: Core::new(settings, hosts, chance),
            now: Instant::now(),
            asks: Vec::new(),
        }
    }

    fn lookup(&mut self, name: &str, kind: Kind) -> Inbox<DnsResult> {
        let inbox = Inbox::default();
        let kept = inbox.clone();
        let reply = Box::new(move |found| kept.lock().unwrap().push(found));
        self.core.lookup(name, kind, reply, self.now);
        self.obey();
        inbox
    }

    fn reverse(&mut self, addr: &str) -> Inbox<Reverse> {
        let inbox = Inbox::default();
        let kept = inbox.clone();
        let reply = Box::new(move |found| kept.lock().unwrap().push(found));
        self.core.reverse(addr.parse().unwrap(), reply, self.now);
        self.obey();
        inbox
    }

    fn obey(&mut self) {
        for command in self.core.take_commands() {
            if let Command::Ask {
                fetch,
                server,
                transport,
                wire,
            } = command
            {
                self.asks.push(Asked {
                    fetch,
                    server,
                    transport,
                    wire,
                });
            }
        }
    }

    /// What was asked last.
    fn asked(&self) -> Asked {
        self.asks.last().unwrap().clone()
    }

    fn receive(&mut self, fetch: u64, bytes: &[u8]) {
        self.core.received(fetch, bytes, self.now);
        self.obey();
    }

    fn say(&mut self, rcode: Rcode, records: &[(&str, Data)]) {
        let asked = self.asked();
        self.receive(asked.fetch, &answer(&asked.wire, rcode, records));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.core.tick(self.now);
        self.obey();
    }

    fn names_asked(&self) -> Vec<String> {
        let name = |asked: &Asked| {
            let message = domain::base::Message::from_slice(&asked.wire).unwrap();
            message.first_question().unwrap().qname().to_string()
        };
        self.asks.iter().map(name).collect()
    }
}

fn server(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 53))
}

fn chance() -> u32 {
    static STATE: AtomicU32 = AtomicU32::new(1);
    STATE.fetch_add(0x9e37_79b1, Ordering::Relaxed)
}

fn only<T: Clone>(inbox: &Inbox<T>) -> T {
    let got = inbox.lock().unwrap();
    assert_eq!(got.len(), 1, "answered once");
    got[0].clone()
}

const ADDR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

#[test]
fn each_kind_of_record_is_read() {
    // RFC 1035 §3.3, RFC 3596, RFC 7505 (null MX).
    let mut bench = Bench::new();
    let a = bench.lookup("h.example.", Kind::A);
    bench.say(
        Rcode::NOERROR,
        &[
            ("h.example", Data::A(ADDR)),
            ("other.example", Data::A(ADDR)),
        ],
    );
    assert_eq!(only(&a), Ok(Answer::A(vec![ADDR])));
    let aaaa = bench.lookup("h.example.", Kind::Aaaa);
    bench.say(
        Rcode::NOERROR,
        &[("H.Example", Data::Aaaa(Ipv6Addr::LOCALHOST))],
    );
    assert_eq!(only(&aaaa), Ok(Answer::Aaaa(vec![Ipv6Addr::LOCALHOST])));
    let mx = bench.lookup("d.example.", Kind::Mx);
    let records = [
        (20, "b.example"),
        (10, "a.example"),
        (0, "."),
        (5, "bad name.example"),
    ];
    let records = records.map(|(preference, name)| {
        let name = name.replace(' ', "\\032");
        ("d.example", Data::Mx(preference, name))
    });
    bench.say(Rcode::NOERROR, &records);
    let mx_of = |preference, name| Mx {
        preference,
        name: line(name),
    };
    let list = vec![
        mx_of(20, "b.example"),
        mx_of(10, "a.example"),
        mx_of(0, "."),
    ];
    assert_eq!(only(&mx), Ok(Answer::Mx(list)));
    let txt = bench.lookup("d.example.", Kind::Txt);
    bench.say(Rcode::NOERROR, &[("d.example", Data::Txt(vec![b'x'; 600]))]);
    assert_eq!(only(&txt), Ok(Answer::Txt(vec![vec![b'x'; 600]])));
}

#[test]
fn failures_are_told_apart() {
    // RFC 2308: a name that does not exist, a name without such records, and nobody who knows.
    let mut bench = Bench::new();
    let gone = bench.lookup("gone.example.", Kind::Mx);
    bench.say(Rcode::NXDOMAIN, &[]);
    assert_eq!(only(&gone), Err(DnsError::NoName));
    let none = bench.lookup("none.example.", Kind::Mx);
    bench.say(Rcode::NOERROR, &[]);
    assert_eq!(only(&none), Err(DnsError::NoData));
    let broken = bench.lookup("broken.example.", Kind::Mx);
    let before = bench.asks.len();
    while broken.lock().unwrap().is_empty() {
        let rcode = [Rcode::SERVFAIL, Rcode::REFUSED][bench.asks.len() % 2];
        bench.say(rcode, &[]);
    }
    assert_eq!(only(&broken), Err(DnsError::TempFail));
    assert_eq!(
        bench.asks.len() - before,
        3,
        "each of two servers is asked twice"
    );
    assert_eq!(
        only(&bench.lookup("no good.example.", Kind::A)),
        Err(DnsError::NoName)
    );
}

#[test]
fn a_silent_server_is_left_for_the_next_and_asked_last_for_a_while() {
    // resolv.conf(5): timeout, attempts, the order of the servers.
    let mut bench = Bench::new();
    let slow = bench.lookup("slow.example.", Kind::A);
    assert_eq!(bench.asked().server, server(1));
    bench.pass(Duration::from_millis(4999));
    assert_eq!(bench.asks.len(), 1);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.asked().server, server(2));
    bench.say(Rcode::NOERROR, &[("slow.example", Data::A(ADDR))]);
    assert_eq!(only(&slow), Ok(Answer::A(vec![ADDR])));
    bench.lookup("next.example.", Kind::A);
    assert_eq!(bench.asked().server, server(2));
    bench.pass(limits::SHUNNED);
    bench.lookup("later.example.", Kind::A);
    assert_eq!(bench.asked().server, server(1));
    let dead = bench.lookup("dead.example.", Kind::A);
    for _ in 0..20 {
        bench.pass(Duration::from_secs(5));
    }
    assert_eq!(only(&dead), Err(DnsError::TempFail));
    assert_eq!(bench.core.next_deadline(), None, "nothing is left open");
}

#[test]
fn rotating_servers_take_turns() {
    // resolv.conf(5), rotate.
    let mut bench = Bench::with(Settings {
        servers: vec![server(1), server(2)],
        rotate: true,
        ..Settings::default()
    });
    bench.lookup("a.example.", Kind::A);
    bench.lookup("b.example.", Kind::A);
    assert_ne!(bench.asks[0].server, bench.asks[1].server);
}

#[test]
fn an_answer_that_does_not_fit_is_fetched_over_tcp() {
    // RFC 7766 §5: a truncated answer is asked for again over TCP.
    let mut bench = Bench::new();
    let found = bench.lookup("big.example.", Kind::A);
    let asked = bench.asked();
    let mut cut = answer(&asked.wire, Rcode::NOERROR, &[]);
    cut[2] |= 0x02;
    bench.receive(asked.fetch, &cut);
    assert_eq!(bench.asked().transport, Transport::Tcp);
    assert_eq!(bench.asked().server, asked.server);
    bench.say(Rcode::NOERROR, &[("big.example", Data::A(ADDR))]);
    assert_eq!(only(&found), Ok(Answer::A(vec![ADDR])));
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_without() {
    // RFC 6891 §7: FORMERR or NOTIMP from a server that does not implement it.
    let mut bench = Bench::new();
    let found = bench.lookup("old.example.", Kind::A);
    let with = bench.asked().wire.len();
    bench.say(Rcode::FORMERR, &[]);
    assert_eq!(bench.asked().wire.len(), with - 11);
    bench.say(Rcode::NOERROR, &[("old.example", Data::A(ADDR))]);
    assert!(only(&found).is_ok());
}

#[test]
fn forged_answers_are_not_taken() {
    // RFC 5452 §9.1: id, question and class must be those that were sent; QR must be set.
    let mut bench = Bench::new();
    let found = bench.lookup("real.example.", Kind::A);
    let asked = bench.asked();
    let forged = [("real.example", Data::A(Ipv4Addr::LOCALHOST))];
    let mut wrong_id = answer(&asked.wire, Rcode::NOERROR, &forged);
    wrong_id[0] ^= 1;
    let mut query = answer(&asked.wire, Rcode::NOERROR, &forged);
    query[2] &= 0x7f;
    let mut other = asked.wire.clone();
    other[13] = b'x';
    let wrong_name = answer(&other, Rcode::NOERROR, &forged);
    for bytes in [&wrong_id[..], &query, &wrong_name, &[], b"short"] {
        bench.receive(asked.fetch, bytes);
        assert!(found.lock().unwrap().is_empty());
        assert_eq!(bench.asks.len(), 1, "still waiting for the real one");
    }
    for _ in 0..limits::STRANGERS {
        bench.receive(asked.fetch, &wrong_id);
    }
    assert_eq!(bench.asks.len(), 2, "a flood makes it ask anew");
    bench.say(Rcode::NOERROR, &[("real.example", Data::A(ADDR))]);
    assert_eq!(only(&found), Ok(Answer::A(vec![ADDR])));
}

#[test]
fn aliases_are_followed_within_and_across_answers_and_not_for_ever() {
    // RFC 1034 §3.6.2: aliases that loop are an error. Ours is a temporary one.
    let mut bench = Bench::new();
    let inside = bench.lookup("one.example.", Kind::A);
    bench.say(
        Rcode::NOERROR,
        &[
            ("two.example", Data::Cname("three.example")),
            ("one.example", Data::Cname("two.example")),
            ("three.example", Data::A(ADDR)),
        ],
    );
    assert_eq!(only(&inside), Ok(Answer::A(vec![ADDR])));
    let across = bench.lookup("far.example.", Kind::A);
    bench.say(
        Rcode::NOERROR,
        &[("far.example", Data::Cname("near.example"))],
    );
    assert_eq!(bench.names_asked().last().unwrap(), "near.example");
    bench.say(Rcode::NOERROR, &[("near.example", Data::A(ADDR))]);
    assert_eq!(only(&across), Ok(Answer::A(vec![ADDR])));
    let looped = bench.lookup("loop.example.", Kind::A);
    for _ in 0..10 {
        bench.say(
            Rcode::NOERROR,
            &[
                ("loop.example", Data::Cname("pool.example")),
                ("pool.example", Data::Cname("loop.example")),
            ],
        );
    }
    assert_eq!(only(&looped), Err(DnsError::TempFail));
    let endless = bench.lookup("n0.example.", Kind::A);
    let before = bench.asks.len();
    while endless.lock().unwrap().is_empty() {
        let at = bench.names_asked().pop().unwrap();
        let to = ["a.example", "b.example"][usize::from(at == "a.example")];
        bench.say(Rcode::NOERROR, &[(&at, Data::Cname(to))]);
        assert!(bench.asks.len() - before <= limits::CHAIN + 1);
    }
    assert_eq!(only(&endless), Err(DnsError::TempFail));
}

#[test]
fn thousands_of_records_and_pointers_that_loop_are_bounded() {
    // RFC 1035 §4.1.4: a pointer leads to a prior name; nothing else of an answer is sure.
    let mut bench = Bench::new();
    let many = bench.lookup("many.example.", Kind::Mx);
    let records: Vec<_> = (0..1500)
        .map(|n| ("many.example", Data::Mx(n, format!("mx{n}.example"))))
        .collect();
    bench.say(Rcode::NOERROR, &records);
    let Ok(Answer::Mx(list)) = only(&many) else {
        panic!("{many:?}");
    };
    assert_eq!(list.len(), limits::RECORDS);
    let looping = bench.lookup("x.example.", Kind::A);
    while looping.lock().unwrap().is_empty() {
        let asked = bench.asked();
        let mut bytes = answer(&asked.wire, Rcode::NOERROR, &[]);
        let end = 12 + 11 + 4;
        bytes.truncate(end);
        bytes[6..12].copy_from_slice(&[0, 2, 0, 0, 0, 0]);
        // Two records whose owners point at themselves and ahead.
        let pointer = [0xc0, end as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4];
        bytes.extend_from_slice(&pointer);
        bytes.extend_from_slice(&pointer);
        bench.receive(asked.fetch, &bytes);
    }
    assert_eq!(only(&looping), Err(DnsError::TempFail));
}

#[test]
fn garbage_never_does_more_than_fail() {
    // OpenBSD 7.2 errata 022 was an answer of a name server. Good answers with bytes changed, cut
    // and repeated; the seed is fixed.
    let mut dice = Dice::new(1);
    let mut next = |below: usize| dice.roll(below);
    let mut bench = Bench::new();
    let records = [
        ("f.example", Data::Cname("g.example")),
        ("g.example", Data::Mx(1, "mx.g.example".into())),
        ("g.example", Data::Txt(vec![7; 300])),
        ("g.example", Data::Ptr("p.example")),
        ("g.example", Data::Aaaa(Ipv6Addr::LOCALHOST)),
    ];
    let kinds = [Kind::A, Kind::Aaaa, Kind::Mx, Kind::Ptr, Kind::Txt];
    for round in 0..4000 {
        bench.asks.clear();
        let found = bench.lookup("f.example.", kinds[round % kinds.len()]);
        if bench.asks.is_empty() {
            // Remembered from an earlier round.
            bench.now += limits::TTL;
            continue;
        }
        while found.lock().unwrap().is_empty() {
            let asked = bench.asked();
            let mut bytes = answer(&asked.wire, Rcode::NOERROR, &records);
            for _ in 0..next(8) {
                let at = 2 + next(bytes.len() - 2);
                bytes[at] = next(256) as u8;
            }
            if next(4) == 0 {
                bytes.truncate(next(bytes.len()));
            }
            bench.receive(asked.fetch, &bytes);
            if next(3) == 0 {
                bench.pass(Duration::from_secs(5));
            }
        }
        assert_eq!(found.lock().unwrap().len(), 1);
    }
}

#[test]
fn callers_with_the_same_question_share_it_and_the_answer_is_remembered() {
    // RFC 1035 §7.4: an answer serves until its TTL is over.
    let mut bench = Bench::new();
    let inboxes: Vec<_> = (0..50)
        .map(|_| bench.lookup("Same.example.", Kind::A))
        .collect();
    assert_eq!(bench.asks.len(), 1);
    bench.say(Rcode::NOERROR, &[("same.example", Data::A(ADDR))]);
    assert!(inboxes.iter().all(|inbox| only(inbox).is_ok()));
    bench.pass(Duration::from_secs(59));
    assert!(only(&bench.lookup("same.example.", Kind::A)).is_ok());
    assert_eq!(bench.asks.len(), 1);
    bench.pass(Duration::from_secs(1));
    bench.lookup("same.example.", Kind::A);
    assert_eq!(bench.asks.len(), 2);
    let none = bench.lookup("none.example.", Kind::A);
    let asked = bench.asked();
    bench.receive(asked.fetch, &nothing(&asked.wire, Rcode::NXDOMAIN, 30));
    assert_eq!(only(&none), Err(DnsError::NoName));
    bench.pass(Duration::from_secs(29));
    assert_eq!(
        only(&bench.lookup("none.example.", Kind::A)),
        Err(DnsError::NoName)
    );
}

#[test]
fn questions_beyond_the_bound_wait_and_none_fails() {
    // So many questions are under way, and all others wait.
    let mut bench = Bench::new();
    let inboxes: Vec<_> = (0..limits::ACTIVE + 5000)
        .map(|n| bench.lookup(&format!("n{n}.example."), Kind::A))
        .collect();
    assert_eq!(bench.asks.len(), limits::ACTIVE);
    let answered = |inbox: &&Inbox<DnsResult>| !inbox.lock().unwrap().is_empty();
    assert_eq!(inboxes.iter().filter(answered).count(), 0);
    for at in 0..limits::ACTIVE + 5000 {
        let asked = bench.asks[at].clone();
        bench.receive(asked.fetch, &answer(&asked.wire, Rcode::NXDOMAIN, &[]));
    }
    let told =
        |inbox: &Inbox<DnsResult>| inbox.lock().unwrap().first() == Some(&Err(DnsError::NoName));
    assert!(inboxes.iter().all(told));
}

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

/// A name server on loopback: UDP answers are cut when the name starts with `big`, not given when
/// it starts with `slow`, and forged ones with a wrong id come first.
fn serve() -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = udp.recv_from(&mut buffer) {
            let query = &buffer[..count];
            if query[13..].starts_with(b"slow") {
                continue;
            }
            let mut bytes = zone(query);
            if query[13..].starts_with(b"big") {
                bytes[2] |= 0x02;
            }
            let mut forged = bytes.clone();
            forged[0] ^= 0xff;
            udp.send_to(&forged, from).unwrap();
            udp.send_to(&bytes, from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 2];
            stream.read_exact(&mut head).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(head))];
            stream.read_exact(&mut query).unwrap();
            let bytes = zone(&query);
            let framed = [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
            // In pieces, as networks do.
            framed
                .chunks(700)
                .for_each(|piece| stream.write_all(piece).unwrap());
        }
    });
    address
}

fn zone(query: &[u8]) -> Vec<u8> {
    let message = domain::base::Message::from_slice(query).unwrap();
    let asked = message.first_question().unwrap().qname().to_string();
    let many = if asked.starts_with("big") { 120 } else { 1 };
    let records: Vec<_> = (0..many)
        .map(|n| (asked.as_str(), Data::Mx(n, format!("mx{n}.{asked}"))))
        .collect();
    answer(query, Rcode::NOERROR, &records)
}

#[test]
fn the_thread_asks_over_udp_and_tcp_and_ends_with_its_last_handle() {
    // RFC 1035 §4.2: UDP, and TCP with a length in front.
    let handle = start(
        Settings {
            servers: vec![serve()],
            timeout: Duration::from_millis(200),
            attempts: 1,
            ..Settings::default()
        },
        chance,
    )
    .unwrap();
    let (sender, found) = mpsc::channel();
    let lookup = |name: &str| {
        let sender = sender.clone();
        handle.lookup(
            name,
            Kind::Mx,
            Box::new(move |found| sender.send(found).unwrap()),
        );
        found.recv_timeout(Duration::from_secs(120)).unwrap()
    };
    let count = |found: DnsResult| match found {
        Ok(Answer::Mx(list)) => list.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(count(lookup("small.example.")), 1);
    assert_eq!(count(lookup("big.example.")), 120);
    assert_eq!(lookup("slow.example."), Err(DnsError::TempFail));
    let (ended, end) = mpsc::channel::<()>();
    let reply = move |_| drop(ended);
    handle.reverse(IpAddr::from(ADDR), Box::new(reply));
    drop(handle);
    // The closure is dropped with the thread's core, run or not.
    assert!(end.recv_timeout(Duration::from_secs(20)).is_err());
}

#[test]
fn nobody_at_the_servers_address_is_a_temporary_failure_at_once() {
    // A refused port is known from ICMP, long before the time-out.
    let gone = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let handle = start(
        Settings {
            servers: vec![gone],
            ..Settings::default()
        },
        chance,
    )
    .unwrap();
    let (sender, found) = mpsc::channel();
    let begin = Instant::now();
    handle.lookup(
        "x.example.",
        Kind::A,
        Box::new(move |found| sender.send(found).unwrap()),
    );
    assert_eq!(
        found.recv_timeout(Duration::from_secs(120)).unwrap(),
        Err(DnsError::TempFail)
    );
    assert!(begin.elapsed() < Duration::from_secs(4));
}
