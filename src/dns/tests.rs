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

mod hostile;
mod names;
mod thread;

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
        (6, "203.0.113.5"),
        (7, "mx.203.0.113.5"),
    ];
    let records = records.map(|(preference, name)| {
        let name = name.replace(' ', "\\032");
        ("d.example", Data::Mx(preference, name))
    });
    bench.say(Rcode::NOERROR, &records);
    let mx_of = |preference, name: Option<&str>| Mx {
        preference,
        name: name.map(line),
    };
    let list = vec![
        mx_of(20, Some("b.example")),
        mx_of(10, Some("a.example")),
        mx_of(0, Some(".")),
        // A domain with exchangers has some, whatever they are called.
        mx_of(5, None),
        mx_of(6, Some("203.0.113.5")),
        mx_of(7, None),
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
