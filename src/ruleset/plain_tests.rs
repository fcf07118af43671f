//! The rules once more, as plainly as smtpd.conf(5) and table(5) put them: no sets, no caches, no
//! order but the written one. Whatever the rules and the session, both must say the same.

use std::net::IpAddr;

use crate::config::Position;
use crate::mail::samples::line;
use crate::mail::{Facts, MailAddr, Peer};
use crate::util::dice::Dice;

use super::tests::{TABLES, loaded};
use super::{Decision, Origin, Question, decide};

const RULE_SETS: u64 = 1000;
const SESSIONS: u64 = 100;

// smtpd.conf(5), match; table(5).
#[test]
fn the_rules_say_what_they_say_in_plain_words() {
    let mut seen = [0; 4];
    for seed in 0..RULE_SETS {
        let mut dice = Dice::new(seed);
        let rules: Vec<Rule> = (0..1 + dice.roll(6))
            .map(|_| Rule::any(&mut dice))
            .collect();
        let text: String = rules.iter().map(Rule::text).collect();
        let (config, tables) = loaded(&text);
        for _ in 0..SESSIONS {
            let session = Session::any(&mut dice);
            let (facts, dest, origin) = session.facts();
            let question = Question {
                tables: &tables,
                facts: &facts,
                dest: &dest,
                origin,
                watch: None,
            };
            let line = |rule: &Position| rule.line - TABLES.lines().count() as u32;
            let found = match decide(&config, &question) {
                Ok(Decision::Accept { action, rule, .. }) => {
                    Verdict::Accept(action.name.to_string(), line(rule))
                }
                Ok(Decision::Reject { rule }) => Verdict::Reject(line(rule)),
                Ok(Decision::NoRule) => Verdict::NoRule,
                Err(_) => Verdict::Error,
            };
            let plain = plain(&rules, &session);
            assert_eq!(found, plain, "seed {seed}\n{text}{session:?}");
            seen[plain.number()] += 1;
        }
    }
    // Chance has been to all places.
    assert!(seen.iter().all(|times| *times > 500), "{seen:?}");
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Accept(String, u32),
    Reject(u32),
    NoRule,
    Error,
}

impl Verdict {
    fn number(&self) -> usize {
        match self {
            Verdict::Accept(..) => 0,
            Verdict::Reject(_) => 1,
            Verdict::NoRule => 2,
            Verdict::Error => 3,
        }
    }
}

/// The line of the first rule: two actions are in front of it.
const FIRST_LINE: u32 = 3;

fn plain(rules: &[Rule], session: &Session) -> Verdict {
    for (rule, at) in rules.iter().zip(FIRST_LINE..) {
        match rule.holds(session) {
            Err(TooLong) => return Verdict::Error,
            Ok(false) => {}
            Ok(true) if rule.end == "reject" => return Verdict::Reject(at),
            Ok(true) => {
                return Verdict::Accept(rule.end.trim_start_matches("action ").to_owned(), at);
            }
        }
    }
    Verdict::NoRule
}

/// What no table can look up.
struct TooLong;

/// One rule: criteria in the order in which they are asked.
struct Rule {
    criteria: Vec<Criterion>,
    end: &'static str,
}

struct Criterion {
    negated: bool,
    words: &'static str,
    values: Vec<&'static str>,
}

/// Criteria by place in that order; `@` stands for mail addresses, `.` for hosts, `/` for networks,
/// `=` for strings, `~` for regular expressions.
const TAG: [&str; 2] = ["tag =", "tag regex ~"];
const FROM: [&str; 12] = [
    "from any",
    "from any",
    "from local",
    "from socket",
    "from src /",
    "from src regex ~",
    "from rdns",
    "from rdns .",
    "from rdns regex ~",
    "from auth",
    "from auth @",
    "from mail-from @",
];
const FOR: [&str; 7] = [
    "for any",
    "for any",
    "for local",
    "for domain .",
    "for domain regex ~",
    "for rcpt-to @",
    "for rcpt-to regex ~",
];
const HELO: [&str; 2] = ["helo .", "helo regex ~"];
const AUTH: [&str; 3] = ["auth", "auth @", "auth regex ~"];
const TLS: [&str; 1] = ["tls"];
const MAIL_FROM: [&str; 2] = ["mail-from @", "mail-from regex ~"];
const RCPT_TO: [&str; 2] = ["rcpt-to @", "rcpt-to regex ~"];

const STRINGS: [&str; 3] = ["web", "WEB", "smtp"];
const HOSTS: [&str; 10] = [
    "a.org",
    "*.a.org",
    "A.Org",
    "*.*.org",
    "*",
    "f*o",
    "mail.*",
    "*a.org",
    "**.org",
    "localhost",
];
const NETWORKS: [&str; 10] = [
    "local",
    "10.0.0.0/8",
    "10.1.2.3",
    "192.168",
    "2001:db8::/32",
    "[2001:db8::1]",
    "203.0.113.0/25",
    "0.0.0.0/0",
    "::/0",
    "[fe80::1%lo]",
];
const ADDRESSES: [&str; 10] = [
    "bob",
    "bob+x",
    "@a.org",
    "@*.a.org",
    "bob@a.org",
    "bob+x@a.org",
    "@",
    "@*",
    "BOB@A.org",
    "a.org",
];
const EXPRESSIONS: [&str; 7] = ["^a", "org$", "bob", "^@$", "[0-9]", "x|y", "^(b|1).*g$"];

impl Rule {
    fn any(dice: &mut Dice) -> Rule {
        let mut criteria: Vec<Criterion> = Vec::new();
        // Places, and how often of six times they are there.
        let places: [(&[&'static str], usize); 8] = [
            (&TAG, 1),
            (&FROM, 5),
            (&FOR, 5),
            (&HELO, 1),
            (&AUTH, 1),
            (&TLS, 1),
            (&MAIL_FROM, 1),
            (&RCPT_TO, 1),
        ];
        for (place, often) in places {
            let words = place[dice.roll(place.len())];
            let name = words.split(' ').next().unwrap();
            // `from auth` takes the place of `auth` as well.
            let taken = criteria.iter().any(|before| before.words.contains(name));
            if dice.roll(6) < often && !taken {
                criteria.push(Criterion {
                    negated: dice.roll(4) == 0,
                    words,
                    values: values(words, dice),
                });
            }
        }
        Rule {
            criteria,
            end: ["action a", "action b", "reject"][dice.roll(3)],
        }
    }

    fn text(&self) -> String {
        let criteria: String = self.criteria.iter().map(Criterion::text).collect();
        format!("match {criteria}{}\n", self.end)
    }

    fn holds(&self, session: &Session) -> Result<bool, TooLong> {
        let unwritten = ["from local", "for local"].map(|words| Criterion {
            negated: false,
            words,
            values: Vec::new(),
        });
        let mut asked: Vec<&Criterion> = self.criteria.iter().collect();
        for (criterion, word) in unwritten.iter().zip(["from ", "for "]) {
            if !self.criteria.iter().any(|c| c.words.starts_with(word)) {
                asked.push(criterion);
            }
        }
        asked.sort_by_key(|criterion| criterion.place());
        for criterion in asked {
            if !criterion.holds(session)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn values(words: &str, dice: &mut Dice) -> Vec<&'static str> {
    let from: &[&'static str] = match words.chars().last() {
        Some('=') => &STRINGS,
        Some('.') => &HOSTS,
        Some('/') => &NETWORKS,
        Some('@') => &ADDRESSES,
        Some('~') => &EXPRESSIONS,
        _ => return Vec::new(),
    };
    (0..1 + dice.roll(2))
        .map(|_| from[dice.roll(from.len())])
        .collect()
}

impl Criterion {
    fn text(&self) -> String {
        let words = self
            .words
            .trim_end_matches(['=', '.', '/', '@', '~'])
            .trim();
        let not = if self.negated { "!" } else { "" };
        let quoted: Vec<String> = self
            .values
            .iter()
            .map(|value| format!("\"{value}\""))
            .collect();
        if quoted.is_empty() {
            format!("{not}{words} ")
        } else {
            format!("{not}{words} {{ {} }} ", quoted.join(", "))
        }
    }

    /// When it is asked: `from auth` is asked when `auth` is.
    fn place(&self) -> usize {
        let words = self
            .words
            .trim_start_matches("from ")
            .trim_start_matches("for ");
        match words.split(' ').next() {
            Some("tag") => 0,
            Some("helo") => 3,
            Some("auth") => 4,
            Some("tls") => 5,
            Some("mail-from") => 6,
            Some("rcpt-to") => 7,
            _ if self.words.starts_with("from") => 1,
            _ => 2,
        }
    }

    fn holds(&self, session: &Session) -> Result<bool, TooLong> {
        let internal = session.internal;
        let source = if internal { "local" } else { session.source };
        let domain = session.dest.1;
        let yes = match self
            .words
            .trim_start_matches("from ")
            .trim_start_matches("for ")
        {
            "any" => true,
            "local" if self.words.starts_with("from") => session.is_from_here(),
            "local" => session.for_here(),
            "socket" | "rdns" if internal => return Ok(false),
            "socket" => source == "local",
            "src /" => self.some(|net| in_network(source, net)),
            "src regex ~" => self.expression(source)?,
            "rdns" => session.rdns.is_some(),
            "rdns ." | "rdns regex ~" => {
                let name = if internal {
                    Some("local")
                } else {
                    session.rdns
                };
                let Some(name) = name else { return Ok(false) };
                self.host(name)?
            }
            "tag =" => self.some(|tag| tag.eq_ignore_ascii_case(session.tag.unwrap_or_default())),
            "tag regex ~" => self.expression(session.tag.unwrap_or_default())?,
            "domain ." | "domain regex ~" => self.host(domain)?,
            "helo ." | "helo regex ~" => self.host(&session.helo)?,
            "auth" => session.user.is_some() || session.anonymous,
            "auth @" | "auth regex ~" => match &session.user {
                None => false,
                Some(user) if user.len() >= 1024 => return Err(TooLong),
                Some(user) if self.words.ends_with('~') => self.expression(user)?,
                Some(user) => self.some(|entry| match user.rsplit_once('@') {
                    Some((user, domain)) => is_address(user, domain, entry),
                    None => user.eq_ignore_ascii_case(entry),
                }),
            },
            "tls" => session.tls,
            "mail-from @" => {
                self.some(|entry| is_address(session.sender.0, session.sender.1, entry))
            }
            "mail-from regex ~" => self.expression(&joined(session.sender))?,
            "rcpt-to @" => self.some(|entry| is_address(session.dest.0, domain, entry)),
            "rcpt-to regex ~" => self.expression(&joined(session.dest))?,
            other => panic!("{other}"),
        };
        Ok(yes != self.negated)
    }

    fn some(&self, holds: impl Fn(&str) -> bool) -> bool {
        self.values.iter().any(|value| holds(value))
    }

    fn host(&self, name: &str) -> Result<bool, TooLong> {
        match self.words.ends_with('~') {
            true => self.expression(name),
            false if name.len() >= 1024 => Err(TooLong),
            false => Ok(self.some(|pattern| is_host(name.as_bytes(), pattern.as_bytes()))),
        }
    }

    fn expression(&self, text: &str) -> Result<bool, TooLong> {
        if text.len() >= 1024 {
            return Err(TooLong);
        }
        let text = text.to_lowercase();
        Ok(self.some(|expression| match expression {
            "^a" => text.starts_with('a'),
            "org$" => text.ends_with("org"),
            "bob" => text.contains("bob"),
            "^@$" => text == "@",
            "[0-9]" => text.contains(|c: char| c.is_ascii_digit()),
            "x|y" => text.contains(['x', 'y']),
            "^(b|1).*g$" => text.len() > 1 && text.starts_with(['b', '1']) && text.ends_with('g'),
            other => panic!("{other}"),
        }))
    }
}

fn joined((user, domain): (&str, &str)) -> String {
    format!("{user}@{domain}")
}

/// table(5), domain tables.
fn is_host(name: &[u8], pattern: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) if rest.first() == Some(&b'*') => is_host(name, rest),
        Some((b'*', [])) => !name.is_empty(),
        Some((b'*', rest)) => (0..=name.len())
            .take_while(|end| rest[0] != b'.' || !name[..*end].contains(&b'.'))
            .any(|end| is_host(&name[end..], rest)),
        Some((byte, rest)) => name
            .split_first()
            .is_some_and(|(first, name)| first.eq_ignore_ascii_case(byte) && is_host(name, rest)),
    }
}

/// table(5), mail address tables.
fn is_address(user: &str, domain: &str, entry: &str) -> bool {
    let (wanted, at) = entry.rsplit_once('@').unwrap_or((entry, ""));
    let user = if wanted.contains('+') {
        user
    } else {
        user.split('+').next().unwrap()
    };
    (wanted.is_empty() || user.eq_ignore_ascii_case(wanted))
        && (at.is_empty() || is_host(domain.as_bytes(), at.as_bytes()))
}

/// table(5), address tables.
fn in_network(source: &str, net: &str) -> bool {
    if source.eq_ignore_ascii_case(net) {
        return true;
    }
    let net = if net == "192.168" {
        "192.168.0.0/24"
    } else {
        net
    };
    let net = net.trim_matches(['[', ']']);
    let (start, bits) = net.split_once('/').unwrap_or((net, "128"));
    let source = source.trim_matches(['[', ']']);
    let (Ok(start), Ok(source)) = (start.parse::<IpAddr>(), source.parse::<IpAddr>()) else {
        return false;
    };
    let as_bits = |addr: IpAddr| -> String {
        let bytes = match addr {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:08b}")).collect()
    };
    let (start, source) = (as_bits(start), as_bits(source));
    let bits = bits.parse::<usize>().unwrap().min(start.len());
    start.len() == source.len() && start[..bits] == source[..bits]
}

/// Everything rules may look at.
#[derive(Debug)]
struct Session {
    source: &'static str,
    internal: bool,
    rdns: Option<&'static str>,
    helo: String,
    user: Option<String>,
    /// Authenticated without a name, as the local socket is.
    anonymous: bool,
    tls: bool,
    tag: Option<&'static str>,
    sender: (&'static str, &'static str),
    dest: (&'static str, &'static str),
}

const SOURCES: [&str; 11] = [
    "local",
    "127.0.0.1",
    "[::1]",
    "10.1.2.3",
    "10.200.0.1",
    "192.168.0.77",
    "192.168.1.1",
    "203.0.113.5",
    "203.0.113.200",
    "[2001:db8::1]",
    "[fe80::1%lo]",
];
const NAMES: [&str; 16] = [
    "a.org",
    "x.a.org",
    "X.A.ORG",
    "x.y.a.org",
    "foo",
    "mail.",
    "mail.a.org",
    "localhost",
    "MX.example.org",
    "mx",
    "127.0.0.1",
    "[::1]",
    "[127.0.0.1]",
    "[IPv6:::1]",
    ".a.org",
    "bog",
];
/// Names of this host.
const HERE: [&str; 7] = [
    "localhost",
    "mx.example.org",
    "mx",
    "127.0.0.1",
    "[::1]",
    "[127.0.0.1]",
    "[ipv6:::1]",
];
const PEOPLE: [&str; 7] = ["bob", "BOB", "bob+x", "bob+y", "alice", "a.org", "+x"];
const LOGINS: [&str; 5] = ["bob", "Alice", "bob@a.org", "bob+x@a.org", "x@y.a.org"];

impl Session {
    fn any(dice: &mut Dice) -> Session {
        let mut helo = NAMES[dice.roll(NAMES.len())].to_owned();
        if dice.roll(20) == 0 {
            helo = "h".repeat(1024);
        }
        let user = match dice.roll(20) {
            0 => Some("u".repeat(1024)),
            1..9 => Some(LOGINS[dice.roll(LOGINS.len())].to_owned()),
            _ => None,
        };
        let null = dice.roll(8) == 0;
        let rdns = NAMES[dice.roll(NAMES.len())];
        Session {
            source: SOURCES[dice.roll(SOURCES.len())],
            internal: dice.roll(5) == 0,
            rdns: (dice.roll(3) > 0).then_some(rdns),
            helo,
            user,
            anonymous: dice.roll(8) == 0,
            tls: dice.roll(2) == 0,
            tag: [None, Some("web"), Some("x"), Some("WEB")][dice.roll(4)],
            sender: if null { ("", "") } else { address(dice) },
            dest: address(dice),
        }
    }

    fn facts(&self) -> (Facts, MailAddr, Origin) {
        let made = |(user, domain): (&str, &str)| MailAddr::new(user, domain).unwrap();
        let facts = Facts {
            peer: Peer::parse(self.source).unwrap(),
            rdns: self.rdns.map(line),
            rdns_failed: false,
            helo: line(&self.helo),
            authenticated: self.user.is_some() || self.anonymous,
            username: self.user.as_deref().map(line),
            tls: self.tls,
            tag: self.tag.map(line),
            sender: made(self.sender),
        };
        let origin = if self.internal {
            Origin::Internal
        } else {
            Origin::Client
        };
        (facts, made(self.dest), origin)
    }

    fn is_from_here(&self) -> bool {
        self.internal || ["local", "127.0.0.1", "[::1]"].contains(&self.source)
    }

    fn for_here(&self) -> bool {
        HERE.contains(&self.dest.1.to_lowercase().as_str())
    }
}

fn address(dice: &mut Dice) -> (&'static str, &'static str) {
    (
        PEOPLE[dice.roll(PEOPLE.len())],
        NAMES[dice.roll(NAMES.len())],
    )
}
