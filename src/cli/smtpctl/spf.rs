//! `smtpctl spf walk`: which addresses the SPF records of some domains allow to send.
//!
//! Reads domain names, follows their records (RFC 7208) through `include:` and `redirect=`, and
//! prints every address and prefix, in the order in which the answers come. It evaluates nothing:
//! what is printed is for a list of senders to be let through.
//!
//! Promises: whatever the records say, it ends. Each question is asked once, includes are followed
//! to a depth, and there is a most of questions; only addresses are printed. A name that cannot be
//! looked up is passed over in silence.

use std::collections::{HashSet, VecDeque};
use std::io::{BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc;
use std::time::Duration;

use crate::config::paths::{self, Paths};
use crate::dns::{self, Answer, DnsResult, Kind, Reply};
use crate::sys::creds::{self, Identity};
use crate::sys::{random, user};

use crate::cli::exit_error::ExitError;

use super::spool::eprintln_quietly;

/// Asks the resolver, which answers by a callback.
pub type Lookup<'a> = &'a dyn Fn(&str, Kind, Reply<DnsResult>);

/// Longest line of the input, and longest name.
const LINE_MAX: usize = 1024;
const NAME_MAX: usize = 253;
/// Most questions, and how many are open at a time.
const QUESTIONS_MAX: usize = 20_000;
const OPEN_MAX: usize = 16;
/// How far includes are followed; RFC 7208 §4.6.4 allows ten of them in all.
const DEPTH_MAX: u8 = 20;
/// The resolver gives up long before.
const PATIENCE: Duration = Duration::from_secs(300);

/// The command: as the daemon's user, with the resolver that the daemon would use.
pub fn run(
    paths: &Paths,
    uid: u32,
    names: impl BufRead,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    if uid == 0 {
        drop_root()?;
    }
    let resolver = dns::start(
        dns::Settings::of_instance(paths.root.as_deref()),
        random::number_u32,
    )
    .map_err(|e| ExitError::io("resolver", &e))?;
    walk(
        names,
        &|name, kind, reply| resolver.lookup(name, kind, reply),
        out,
    )
}

/// What comes from the network is read without root's rights.
fn drop_root() -> Result<(), ExitError> {
    let user = user::by_name(paths::USER)
        .map_err(|e| ExitError::io(paths::USER, &e))?
        .ok_or_else(|| ExitError::new(format!("unknown user {}", paths::USER)))?;
    creds::become_for_good(&Identity::alone(user.uid, user.gid))
        .map_err(|e| ExitError::io("setresuid", &e))
}

/// Walks the records of all `names`.
pub fn walk(
    names: impl BufRead,
    lookup: Lookup<'_>,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let mut walk = Walk::default();
    walk.read(names)?;
    let (sender, answers) = mpsc::channel();
    let mut open = 0;
    loop {
        while open < OPEN_MAX
            && let Some(question) = walk.wanted.pop_front()
        {
            open += 1;
            let sender = sender.clone();
            let (name, kind) = (format!("{}.", question.name), question.kind);
            let reply = move |found| {
                // Nobody listens any more only when the walk has failed.
                let _ = sender.send((question, found));
            };
            lookup(&name, kind, Box::new(reply));
        }
        if open == 0 {
            break;
        }
        let (question, found) = answers
            .recv_timeout(PATIENCE)
            .map_err(|_| ExitError::new("no answer from the resolver"))?;
        open -= 1;
        walk.take(&question, found, out)?;
    }
    if walk.full {
        Err(ExitError::new(format!(
            "stopped after {QUESTIONS_MAX} questions: the list is not complete"
        )))
    } else {
        Ok(0)
    }
}

/// What an answer is for. Two questions that differ in nothing are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    /// A record, so many includes deep.
    Record(Depth),
    /// Addresses, printed with these prefixes.
    Addresses(Prefixes),
    /// Mail exchangers, whose addresses are printed with these prefixes.
    Exchangers(Prefixes),
}

/// A depth does not make another question.
#[derive(Clone, Copy, Debug, Eq)]
struct Depth(u8);

impl PartialEq for Depth {
    fn eq(&self, _: &Depth) -> bool {
        true
    }
}

impl std::hash::Hash for Depth {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// `/n//m` of a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Prefixes {
    v4: Option<u8>,
    v6: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    name: String,
    kind: Kind,
    purpose: Purpose,
}

#[derive(Default)]
struct Walk {
    wanted: VecDeque<Question>,
    asked: HashSet<Question>,
    full: bool,
}

impl Walk {
    /// Takes the names, one per line; blanks behind them do not count, and a name of one character
    /// is none.
    fn read(&mut self, mut names: impl BufRead) -> Result<(), ExitError> {
        loop {
            let mut line = Vec::new();
            let read = names
                .by_ref()
                .take(LINE_MAX as u64)
                .read_until(b'\n', &mut line);
            if read.map_err(|e| ExitError::io("standard input", &e))? == 0 {
                return Ok(());
            }
            if line.len() == LINE_MAX && !line.ends_with(b"\n") {
                return Err(ExitError::new("a line of the input is too long"));
            }
            let name = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            if name.len() > 1 {
                self.ask(&name, Kind::Txt, Purpose::Record(Depth(0)));
            }
        }
    }

    fn ask(&mut self, name: &str, kind: Kind, purpose: Purpose) {
        if name.contains('%') {
            let shown = name.replace(char::is_control, "?");
            eprintln_quietly(&format!(
                "smtpctl: lookup_record: {shown} contains macros and can't be resolved"
            ));
            return;
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name.is_empty() || name.len() > NAME_MAX || self.full {
            return;
        }
        let question = Question {
            name,
            kind,
            purpose,
        };
        if self.asked.contains(&question) {
            return;
        }
        if self.asked.len() >= QUESTIONS_MAX {
            self.full = true;
            return;
        }
        self.asked.insert(question.clone());
        self.wanted.push_back(question);
    }

    fn addresses(&mut self, name: &str, prefixes: Prefixes) {
        self.ask(name, Kind::A, Purpose::Addresses(prefixes));
        self.ask(name, Kind::Aaaa, Purpose::Addresses(prefixes));
    }

    fn take(
        &mut self,
        question: &Question,
        found: DnsResult,
        out: &mut dyn Write,
    ) -> Result<(), ExitError> {
        match (question.purpose, found) {
            (Purpose::Record(Depth(depth)), Ok(Answer::Txt(texts))) => {
                for text in texts {
                    self.record(&question.name, &text, depth, out)?;
                }
            }
            (Purpose::Addresses(prefixes), Ok(Answer::A(found))) => {
                for addr in found {
                    print(out, IpAddr::V4(addr), prefixes.v4)?;
                }
            }
            (Purpose::Addresses(prefixes), Ok(Answer::Aaaa(found))) => {
                for addr in found {
                    print(out, IpAddr::V6(addr), prefixes.v6)?;
                }
            }
            (Purpose::Exchangers(prefixes), Ok(Answer::Mx(hosts))) => {
                for name in hosts.into_iter().filter_map(|host| host.name) {
                    self.addresses(&name, prefixes);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn record(
        &mut self,
        domain: &str,
        text: &[u8],
        depth: u8,
        out: &mut dyn Write,
    ) -> Result<(), ExitError> {
        let text = String::from_utf8_lossy(text);
        let mut terms = text.split_ascii_whitespace();
        if !terms
            .next()
            .is_some_and(|v| v.eq_ignore_ascii_case("v=spf1"))
        {
            return Ok(());
        }
        let terms: Vec<&str> = terms.collect();
        // RFC 7208 §6.1: beside `all`, a redirect does not count.
        let decided = terms.iter().any(|term| {
            let term = term.trim_start_matches(['+', '-', '~', '?']);
            term.eq_ignore_ascii_case("all")
        });
        for term in terms {
            self.term(domain, term, depth, decided, out)?;
        }
        Ok(())
    }

    fn term(
        &mut self,
        domain: &str,
        term: &str,
        depth: u8,
        decided: bool,
        out: &mut dyn Write,
    ) -> Result<(), ExitError> {
        if term.starts_with(['-', '~']) {
            return Ok(());
        }
        let term = term.strip_prefix(['+', '?']).unwrap_or(term);
        if let Some(text) = after(term, "ip4:") {
            return print_if(out, text, is_prefix::<Ipv4Addr>(text, 32));
        }
        if let Some(text) = after(term, "ip6:") {
            return print_if(out, text, is_prefix::<Ipv6Addr>(text, 128));
        }
        if let Some(name) = after(term, "include:") {
            self.follow(name, depth);
        } else if let Some(name) = after(term, "redirect=").filter(|_| !decided) {
            self.follow(name, depth);
        } else if let Some(name) = after(term, "exists:") {
            self.ask(name, Kind::A, Purpose::Addresses(Prefixes::default()));
        } else if let Some((name, prefixes)) = hosts(term, "mx", domain) {
            self.ask(name, Kind::Mx, Purpose::Exchangers(prefixes));
        } else if let Some((name, prefixes)) = hosts(term, "a", domain) {
            self.addresses(name, prefixes);
        }
        Ok(())
    }

    fn follow(&mut self, name: &str, depth: u8) {
        if depth < DEPTH_MAX {
            self.ask(name, Kind::Txt, Purpose::Record(Depth(depth + 1)));
        }
    }
}

/// What follows `start`, which is in any case (RFC 7208 §4.6.1).
fn after<'a>(term: &'a str, start: &str) -> Option<&'a str> {
    let (head, rest) = term.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

/// Name and prefixes of an `a` or `mx` term; without a name it is the domain's own. None if it is
/// another term, or none at all.
fn hosts<'a>(term: &'a str, word: &str, domain: &'a str) -> Option<(&'a str, Prefixes)> {
    let rest = after(term, word)?;
    let (name, prefixes) = match rest.find('/') {
        Some(at) => rest.split_at_checked(at)?,
        None => (rest, ""),
    };
    let name = match name {
        "" => domain,
        name => name.strip_prefix(':').filter(|name| !name.is_empty())?,
    };
    Some((name, self::prefixes(prefixes)?))
}

/// `/n`, `//m` or both.
fn prefixes(text: &str) -> Option<Prefixes> {
    let (v4, v6) = match text.split_once("//") {
        Some((v4, v6)) => (v4, Some(v6)),
        None => (text, None),
    };
    let v4 = match v4 {
        "" => None,
        v4 => Some(v4.strip_prefix('/')?),
    };
    Some(Prefixes {
        v4: v4.map(|text| bits(text, 32)).transpose().ok()?,
        v6: v6.map(|text| bits(text, 128)).transpose().ok()?,
    })
}

fn bits(text: &str, most: u8) -> Result<u8, ()> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let bits = text.parse().map_err(|_| ())?;
    (digits && bits <= most).then_some(bits).ok_or(())
}

fn is_prefix<A: std::str::FromStr>(text: &str, most: u8) -> bool {
    match text.split_once('/') {
        Some((addr, length)) => addr.parse::<A>().is_ok() && bits(length, most).is_ok(),
        None => text.parse::<A>().is_ok(),
    }
}

fn print(out: &mut dyn Write, addr: IpAddr, prefix: Option<u8>) -> Result<(), ExitError> {
    match prefix {
        Some(bits) => writeln!(out, "{addr}/{bits}"),
        None => writeln!(out, "{addr}"),
    }
    .map_err(|e| ExitError::output(&e))
}

fn print_if(out: &mut dyn Write, text: &str, valid: bool) -> Result<(), ExitError> {
    if valid {
        writeln!(out, "{text}").map_err(|e| ExitError::output(&e))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::dns::{DnsError, Mx};
    use crate::util::Line;

    use super::*;

    fn txt(text: &str) -> DnsResult {
        Ok(Answer::Txt(vec![
            b"unrelated".to_vec(),
            text.as_bytes().to_vec(),
        ]))
    }

    fn a(addrs: &[&str]) -> DnsResult {
        Ok(Answer::A(
            addrs.iter().map(|a| a.parse().unwrap()).collect(),
        ))
    }

    fn aaaa(addrs: &[&str]) -> DnsResult {
        Ok(Answer::Aaaa(
            addrs.iter().map(|a| a.parse().unwrap()).collect(),
        ))
    }

    /// The sorted lines printed for these names, and how many questions that took.
    fn walked(names: &str, zone: impl Fn(&str, Kind) -> DnsResult) -> (Vec<String>, usize) {
        let mut out = Vec::new();
        let count = std::cell::Cell::new(0);
        let lookup = |name: &str, kind, reply: Reply<DnsResult>| {
            count.set(count.get() + 1);
            reply(zone(name, kind));
        };
        walk(names.as_bytes(), &lookup, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        (lines, count.get())
    }

    #[test]
    fn every_mechanism_that_names_addresses_is_followed() {
        // RFC 7208 §5; smtpctl(8), spf walk.
        let zone = |name: &str, kind| match (name, kind) {
            ("one.example.", Kind::Txt) => txt(
                "v=spf1 ip4:192.0.2.1 +ip4:192.0.2.64/26 IP6:2001:db8::/32 ip4:192.0.2.300 \
                 ip4:192.0.2.1/33 a a:www.one.example/24//64 mx mx:two.example//48 \
                 ?exists:here.example -ip4:203.0.113.1 ~a:no.example ptr include:inc.example \
                 a:/24 mx: a:x/y unknown:z -all",
            ),
            ("inc.example.", Kind::Txt) => txt("v=spf1 a/28 redirect=red.example"),
            ("red.example.", Kind::Txt) => txt("v=spf1 ip4:192.0.2.9"),
            ("one.example.", Kind::A) => a(&["198.51.100.1"]),
            ("www.one.example.", Kind::A) => a(&["198.51.100.2"]),
            ("www.one.example.", Kind::Aaaa) => aaaa(&["2001:db8:1::2"]),
            ("inc.example.", Kind::A) => a(&["198.51.100.3"]),
            ("here.example.", Kind::A) => a(&["198.51.100.4"]),
            ("one.example." | "two.example.", Kind::Mx) => Ok(Answer::Mx(vec![Mx {
                preference: 1,
                name: Line::new("mx.example").ok(),
            }])),
            ("mx.example.", Kind::A) => a(&["198.51.100.5"]),
            ("mx.example.", Kind::Aaaa) => aaaa(&["2001:db8:1::5"]),
            _ => Err(DnsError::NoName),
        };
        let (lines, _) = walked("one.example \n\nx\n", zone);
        let mut expected = vec![
            "192.0.2.1",
            "192.0.2.64/26",
            "2001:db8::/32",
            "198.51.100.1",
            "198.51.100.2/24",
            "2001:db8:1::2/64",
            "198.51.100.3/28",
            "198.51.100.4",
            "192.0.2.9",
            "198.51.100.5",
            "2001:db8:1::5",
            "198.51.100.5",
            "2001:db8:1::5/48",
        ];
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_term_without_a_name_belongs_to_its_own_domain() {
        // OpenSMTPD takes `a` of the first domain for that of all others, and loses `a/24`.
        let zone = |name: &str, kind| match (name, kind) {
            (_, Kind::Txt) => txt("v=spf1 a/24 -all"),
            ("a.example.", Kind::A) => a(&["192.0.2.1"]),
            ("b.example.", Kind::A) => a(&["192.0.2.2"]),
            _ => Err(DnsError::NoData),
        };
        let (lines, _) = walked("a.example\nb.example\nB.example.\n", zone);
        assert_eq!(lines, ["192.0.2.1/24", "192.0.2.2/24"]);
    }

    #[test]
    fn loops_ends_and_failures_end_the_walk() {
        // RFC 7208 §4.6.4: a record must not make its reader ask for ever.
        let (lines, asked) = walked("loop.example\n", |_, _| {
            txt("v=spf1 include:loop.example redirect=loop.example ip4:192.0.2.1")
        });
        assert_eq!((lines.len(), asked), (1, 1));
        let endless = |name: &str, kind| match kind {
            Kind::Txt => txt(&format!("v=spf1 include:x{name}")),
            _ => Err(DnsError::TempFail),
        };
        assert_eq!(walked("e.example\n", endless).1, usize::from(DEPTH_MAX) + 1);
        let all = |name: &str, _| match name {
            "all.example." => txt("v=spf1 redirect=other.example ?all include:%{i}.example"),
            _ => txt("v=spf1 ip4:192.0.2.1"),
        };
        assert_eq!(walked("all.example\n", all), (Vec::new(), 1));
        let (lines, _) = walked("gone.example\n", |_, _| Err(DnsError::NoName));
        assert_eq!(lines, Vec::<String>::new());
        let long = "x".repeat(LINE_MAX + 1);
        let nobody = |_: &str, _, reply: Reply<DnsResult>| reply(Err(DnsError::NoName));
        assert!(walk(long.as_bytes(), &nobody, &mut Vec::new()).is_err());
    }

    #[test]
    fn there_is_a_most_of_questions() {
        // A record that names a thousand others, each of which names some more.
        let mut out = Vec::new();
        let wide = |name: &str, _, reply: Reply<DnsResult>| {
            let width = match name.matches('.').count() {
                2 => 1000,
                3 => 25,
                _ => 0,
            };
            let terms: Vec<String> = (0..width).map(|n| format!("include:{n}.{name}")).collect();
            reply(txt(&format!("v=spf1 {}", terms.join(" "))));
        };
        let failure = walk(&b"wide.example\n"[..], &wide, &mut out).unwrap_err();
        assert!(failure.text.contains("20000 questions"), "{failure:?}");
    }
}
