//! Where a domain's mail goes: exchangers and their addresses, out of the answers of the DNS.
//!
//! RFC 5321 §5.1: exchangers by rising preference, equals in random order; without MX records the
//! domain itself; of exchangers that we are ourselves, and all that are not preferred to them, none
//! is used. RFC 7505: a null MX says that a domain takes no mail.

use std::net::{IpAddr, SocketAddr};

use crate::dns::{Answer, DnsError, DnsResult, Families, Kind, Mx};
use crate::mail::{Outcome, Status, literal};
use crate::util::Line;

/// Where exchangers take mail.
pub const PORT: u16 = 25;
/// Most exchangers of a domain that are looked up, the preferred ones first.
pub const EXCHANGERS_MAX: usize = 48;
/// Most addresses of a domain that are kept.
pub const ADDRESSES_MAX: usize = 128;

/// One address to which mail for a domain may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanger {
    /// The exchanger's name, or the literal.
    pub name: Line,
    /// One of its addresses.
    pub addr: IpAddr,
    /// Lower is tried first.
    pub preference: u16,
}

/// Why a destination's mail cannot go anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayError {
    /// Whether this is for good.
    pub lasting: Lasting,
    /// For the report.
    pub status: Status,
    /// For the log and the report.
    pub text: &'static str,
}

/// Whether a failure passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Later perhaps.
    Temporary,
    /// Never.
    Permanent,
}

impl RelayError {
    /// One that may pass.
    pub const fn temporary(status: Status, text: &'static str) -> RelayError {
        RelayError {
            lasting: Lasting::Temporary,
            status,
            text,
        }
    }

    /// One that does not pass.
    pub const fn permanent(status: Status, text: &'static str) -> RelayError {
        RelayError {
            lasting: Lasting::Permanent,
            status,
            text,
        }
    }

    /// What it is for an envelope.
    pub fn outcome(&self) -> Outcome {
        let text = Line::sanitize(self.text.as_bytes());
        match self.lasting {
            Lasting::Temporary => Outcome::temp(self.status, text),
            Lasting::Permanent => Outcome::perm(self.status, text),
        }
    }
}

/// The name was refused by every name server that knows.
pub const NO_DOMAIN: RelayError =
    RelayError::permanent(Status::new(5, 1, 2), "Domain does not exist");
/// The name cannot be one.
pub const BAD_DOMAIN: RelayError =
    RelayError::permanent(Status::new(5, 1, 2), "Invalid domain name");
/// Nobody could say.
pub const NO_ANSWER: RelayError =
    RelayError::temporary(Status::new(4, 4, 3), "Temporary failure in MX lookup");
/// Exchangers without addresses.
pub const NO_ADDRESS: RelayError =
    RelayError::temporary(Status::new(4, 4, 4), "No MX found for domain");
/// A smarthost without addresses.
pub const NO_HOST: RelayError = RelayError::temporary(Status::new(4, 4, 4), "Host not found");
/// RFC 7505.
pub const NULL_MX: RelayError =
    RelayError::permanent(Status::new(5, 1, 10), "Domain does not accept mail");
/// RFC 5321 §5.1: we are the best exchanger and do not take its mail.
pub const OURSELVES: RelayError = RelayError::permanent(
    Status::new(5, 4, 6),
    "Mail for domain loops back to this host",
);

/// What is to be asked of the resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, with its last dot where it is not to be searched for.
    pub name: String,
    /// What about it.
    pub kind: Kind,
    /// Which resolution asks.
    pub by: u64,
}

/// A destination's resolution, under way.
#[derive(Clone, Debug)]
pub struct Resolution {
    number: u64,
    as_host: AsHost,
    /// By rising preference.
    hosts: Vec<Host>,
    /// Answers that have not come.
    open: usize,
}

/// An exchanger, or a smarthost.
#[derive(Clone, Debug)]
struct Host {
    preference: u16,
    name: Line,
    /// Those that are known so far.
    addrs: Vec<IpAddr>,
    /// It may have others: nobody could say.
    unsure: bool,
}

impl Host {
    fn is_called(&self, name: &str) -> bool {
        let bare = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        bare(&self.name) == bare(name)
    }
}

/// Whether a destination's name is a host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AsHost {
    /// A smarthost: its addresses are wanted.
    Yes,
    /// A domain: its exchangers are wanted.
    No,
}

/// Where a resolution stands.
pub enum Step {
    /// These are to be asked.
    Ask(Vec<Question>),
    /// An answer is still missing.
    Wait,
    /// All is known.
    Done(Result<Vec<Exchanger>, RelayError>),
}

impl Resolution {
    /// Begins with the question for the domain's exchangers, or for the host's addresses. No other
    /// resolution has this number.
    pub fn begin(number: u64, name: &str, as_host: AsHost, own: &Own) -> (Resolution, Step) {
        let mut resolution = Resolution {
            number,
            as_host,
            hosts: Vec::new(),
            open: 0,
        };
        let step = resolution.first(name, own);
        (resolution, step)
    }

    fn first(&mut self, name: &str, own: &Own) -> Step {
        if let Some(addr) = literal::parse_or_bare(name) {
            if self.as_host == AsHost::No && own.takes_mail_at(addr) {
                return Step::Done(Err(OURSELVES));
            }
            return Step::Done(Ok(vec![Exchanger {
                name: Line::sanitize(name.as_bytes()),
                addr,
                preference: 0,
            }]));
        }
        if !is_name(name) {
            return Step::Done(Err(match self.as_host {
                AsHost::Yes => NO_HOST,
                AsHost::No => BAD_DOMAIN,
            }));
        }
        match self.as_host {
            // As getaddrinfo(3) would: short names go through the search list.
            AsHost::Yes => {
                let name = Line::sanitize(name.as_bytes());
                self.ask_addresses(vec![(0, Some(name))], "", own)
            }
            AsHost::No => {
                self.open = 1;
                Step::Ask(vec![Question {
                    name: absolute(name),
                    kind: Kind::Mx,
                    by: self.number,
                }])
            }
        }
    }

    /// Whether the question is one of these, not one of a resolution that was given up.
    pub fn has_asked(&self, question: &Question) -> bool {
        question.by == self.number
    }

    /// The answer to the question for exchangers of `name`.
    pub fn exchangers(
        &mut self,
        name: &str,
        found: DnsResult,
        random: fn() -> u32,
        own: &Own,
    ) -> Step {
        let records = match found {
            Ok(Answer::Mx(records)) => records,
            Ok(_) | Err(DnsError::NoData) => Vec::new(),
            Err(DnsError::NoName) => return Step::Done(Err(NO_DOMAIN)),
            Err(DnsError::TempFail) => return Step::Done(Err(NO_ANSWER)),
        };
        if records.is_empty() {
            let itself = Line::sanitize(name.as_bytes());
            return self.ask_addresses(vec![(0, Some(itself))], ".", own);
        }
        let mut usable: Vec<(u16, u32, Option<Line>)> = records
            .into_iter()
            .filter(|mx| !says_no_mail(mx))
            .map(|mx| (mx.preference, random(), mx.name))
            .collect();
        if usable.is_empty() {
            return Step::Done(Err(NULL_MX));
        }
        usable.sort_by_key(|(preference, dice, _)| (*preference, *dice));
        usable.truncate(EXCHANGERS_MAX);
        let hosts = usable
            .into_iter()
            .map(|(preference, _, name)| (preference, name));
        self.ask_addresses(hosts.collect(), ".", own)
    }

    /// An exchanger without a usable name is one without addresses.
    fn ask_addresses(&mut self, hosts: Vec<(u16, Option<Line>)>, dot: &str, own: &Own) -> Step {
        let mut questions = Vec::new();
        for (preference, name) in hosts {
            let name = name.unwrap_or_default();
            if self.hosts.iter().any(|host| host.name == name) {
                continue;
            }
            let written: Option<IpAddr> = name.parse().ok();
            if written.is_none() && !name.is_empty() {
                for kind in [Kind::Aaaa, Kind::A] {
                    let name = format!("{}{dot}", name.trim_end_matches('.'));
                    let by = self.number;
                    questions.push(Question { name, kind, by });
                }
            }
            self.hosts.push(Host {
                preference,
                name,
                addrs: written
                    .filter(|addr| is_usable(*addr))
                    .into_iter()
                    .collect(),
                unsure: false,
            });
        }
        self.open = questions.len();
        match self.open {
            0 => Step::Done(self.finish(own)),
            _ => Step::Ask(questions),
        }
    }

    /// The answer to a question for the addresses of the exchanger `name`.
    pub fn addresses(&mut self, name: &str, found: DnsResult, own: &Own) -> Step {
        let unsure = matches!(found, Err(DnsError::TempFail));
        let addrs: Vec<IpAddr> = match found {
            Ok(Answer::A(list)) => list.into_iter().map(IpAddr::V4).collect(),
            Ok(Answer::Aaaa(list)) => list.into_iter().map(IpAddr::V6).collect(),
            Ok(_) | Err(_) => Vec::new(),
        };
        if let Some(host) = self.hosts.iter_mut().find(|host| host.is_called(name)) {
            host.unsure |= unsure;
            for addr in addrs.into_iter().map(|addr| addr.to_canonical()) {
                if !host.addrs.contains(&addr) && is_usable(addr) {
                    host.addrs.push(addr);
                }
            }
        }
        self.open = self.open.saturating_sub(1);
        match self.open {
            0 => Step::Done(self.finish(own)),
            _ => Step::Wait,
        }
    }

    fn finish(&mut self, own: &Own) -> Result<Vec<Exchanger>, RelayError> {
        let (proven, ours) = match self.as_host {
            AsHost::Yes => (None, None),
            AsHost::No => self.ours(own),
        };
        let preferred = |host: &Host| ours.is_none_or(|ours| host.preference < ours);
        let mut list = Vec::new();
        for host in self.hosts.iter_mut().filter(|host| preferred(host)) {
            // In the order in which getaddrinfo(3) would have them.
            host.addrs.sort_by_key(|addr| !own.families.prefer(*addr));
            let wanted = host.addrs.iter().filter(|addr| own.families.have(**addr));
            list.extend(wanted.map(|addr| Exchanger {
                name: host.name.clone(),
                addr: *addr,
                preference: host.preference,
            }));
        }
        if !own.has_ipv6 && list.iter().any(|entry| entry.addr.is_ipv4()) {
            list.retain(|entry| entry.addr.is_ipv4() || entry.addr.is_loopback());
        }
        list.truncate(ADDRESSES_MAX);
        if !list.is_empty() {
            return Ok(list);
        }
        // A better exchanger without addresses may have some tomorrow.
        let best = self.hosts.iter().map(|host| host.preference).min();
        Err(match self.as_host {
            AsHost::Yes => NO_HOST,
            AsHost::No if proven.is_some() && proven == best => OURSELVES,
            AsHost::No if self.hosts.iter().any(|host| host.unsure) => NO_ANSWER,
            AsHost::No => NO_ADDRESS,
        })
    }

    /// The best preference at which we are an exchanger: by an address; and by an address, or by
    /// our name while nobody could say all of the addresses.
    fn ours(&self, own: &Own) -> (Option<u16>, Option<u16>) {
        let best = |is_us: &dyn Fn(&Host) -> bool| {
            let us = self.hosts.iter().filter(|host| is_us(host));
            us.map(|host| host.preference).min()
        };
        let by_address = |host: &Host| host.addrs.iter().any(|addr| own.takes_mail_at(*addr));
        let by_name = |host: &Host| host.unsure && host.is_called(&own.name);
        (
            best(&by_address),
            best(&|host| by_address(host) || by_name(host)),
        )
    }

    /// The preference of the exchanger `name` in a domain whose resolution is done.
    pub fn preference_of(&self, name: &str) -> Option<u16> {
        let found = self.hosts.iter().filter(|host| host.is_called(name));
        found.map(|host| host.preference).min()
    }
}

/// What of this host matters to where mail goes.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// What it is called.
    name: String,
    /// Addresses at which a connection to an exchanger's port comes to us.
    listening: Vec<IpAddr>,
    /// All of 127.0.0.0/8 leads here, whatever of it the interfaces have.
    loopback: bool,
    has_ipv6: bool,
    /// At which addresses it connects to others.
    pub families: Families,
}

impl Own {
    /// Of these interface addresses and the addresses that listeners are bound to.
    pub fn new(interfaces: &[IpAddr], bound: &[SocketAddr]) -> Own {
        let global = |addr: &IpAddr| match addr {
            IpAddr::V4(_) => false,
            IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
        };
        let mut own = Own {
            has_ipv6: interfaces.iter().any(global),
            ..Own::default()
        };
        for addr in bound.iter().filter(|addr| addr.port() == PORT) {
            let addr = addr.ip().to_canonical();
            if addr.is_unspecified() {
                let same_family = |other: &&IpAddr| other.is_ipv4() == addr.is_ipv4();
                own.listening.extend(interfaces.iter().filter(same_family));
                own.loopback |= addr.is_ipv4();
            } else {
                own.listening.push(addr);
            }
        }
        own
    }

    /// The same, called this.
    pub fn called(self, name: &str) -> Own {
        let name = name.to_owned();
        Own { name, ..self }
    }

    /// Whether an exchanger with this address is this host. An address of an interface alone is
    /// not enough: another server, or another port of ours, may be what answers there.
    fn takes_mail_at(&self, addr: IpAddr) -> bool {
        self.listening.contains(&addr) || self.loopback && addr.is_ipv4() && addr.is_loopback()
    }
}

fn says_no_mail(mx: &Mx) -> bool {
    mx.name.as_ref().is_some_and(|name| {
        let name = name.trim_end_matches('.');
        name.is_empty() || name.eq_ignore_ascii_case("localhost")
    })
}

fn is_usable(addr: IpAddr) -> bool {
    !addr.is_unspecified() && !addr.is_multicast() && addr != IpAddr::from([255, 255, 255, 255])
}

fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| (1..=63).contains(&label.len());
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b) || !b.is_ascii();
    name.len() <= 253 && name.bytes().all(byte) && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interfaces: &[&str], bound: &[&str]) -> Own {
        let interfaces: Vec<IpAddr> = interfaces.iter().map(|a| a.parse().unwrap()).collect();
        let bound: Vec<SocketAddr> = bound.iter().map(|a| a.parse().unwrap()).collect();
        Own::new(&interfaces, &bound)
    }

    // smtpd.conf(5), RELAYING: an exchanger is this host if one of its addresses is that of a
    // listener on port 25.
    #[test]
    fn an_address_is_ours_where_a_listener_takes_mail_for_exchangers() {
        let interfaces = ["127.0.0.1", "::1", "192.0.2.9", "192.0.2.10", "2001:db8::9"];
        let all = [&interfaces[..], &["127.0.0.2", "198.51.100.1"]].concat();
        let cases: [(&[&str], &[&str]); 8] = [
            (&[], &[]),
            (&["192.0.2.9:25"], &["192.0.2.9"]),
            (&["192.0.2.9:587", "192.0.2.10:2525"], &[]),
            (&["127.0.0.1:25", "[::1]:25"], &["127.0.0.1", "::1"]),
            (
                &["0.0.0.0:25"],
                &["127.0.0.1", "192.0.2.9", "192.0.2.10", "127.0.0.2"],
            ),
            (&["0.0.0.0:587"], &[]),
            (&["[::]:25"], &["::1", "2001:db8::9"]),
            // An address that came to an interface later, or belongs to none.
            (&["198.51.100.1:25"], &["198.51.100.1"]),
        ];
        for (bound, ours) in cases {
            let own = own(&interfaces, bound);
            let mut found = all.clone();
            found.retain(|addr| own.takes_mail_at(addr.parse().unwrap()));
            let mut ours = ours.to_vec();
            ours.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, ours, "{bound:?}");
        }
    }

    #[test]
    fn a_literal_of_ours_is_where_mail_comes_from() {
        let own = own(&["192.0.2.9", "192.0.2.10"], &["192.0.2.9:25"]);
        let begin = |name: &str, as_host| match Resolution::begin(1, name, as_host, &own).1 {
            Step::Done(result) => result.map(|list| list[0].addr.to_string()),
            Step::Ask(_) | Step::Wait => panic!("{name} is asked for"),
        };
        assert_eq!(begin("[192.0.2.9]", AsHost::No), Err(OURSELVES));
        assert_eq!(
            begin("[192.0.2.10]", AsHost::No),
            Ok("192.0.2.10".to_owned())
        );
        // A smarthost is what the administrator says, on the port that he says.
        assert_eq!(
            begin("[192.0.2.9]", AsHost::Yes),
            Ok("192.0.2.9".to_owned())
        );
    }
}
