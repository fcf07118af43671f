//! The resolver: its own thread, a bounded cache, hostile answers expected.
//!
//! It asks the name servers that resolv.conf(5) names, over UDP from a fresh port with a fresh id
//! for each question, and over TCP when the answer does not fit. /etc/hosts is asked first. A
//! caller hands over a closure and goes on; the closure runs in the resolver's thread, once, and
//! must not block.
//!
//! Promises: an answer counts only if it comes from the server that was asked, to the port that
//! asked, with the id and the question that were sent. Whatever else is in it costs at most that
//! question: names are followed for [`limits::CHAIN`] aliases at most, records beyond
//! [`limits::RECORDS`] are ignored, and what cannot be read counts as a server that failed. Memory,
//! sockets and time per question are bounded. A failure that may pass is [`DnsError::TempFail`].
//!
//! It does not validate DNSSEC and does not resolve from the root: the name server does.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::util::Line;

mod cache;
mod core;
mod hosts;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
pub mod limits;
mod message;
mod name;
mod recent;
mod settings;
mod thread;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::fuzz;
pub use settings::{Families, Settings};
pub use thread::{Handle, start};

/// What is asked about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Mail exchangers.
    Mx,
    /// The names of an address, asked as `….in-addr.arpa` or `….ip6.arpa`.
    Ptr,
    /// Texts.
    Txt,
}

impl Kind {
    /// The other of the two kinds of address.
    fn other_family(self) -> Option<Kind> {
        match self {
            Kind::A => Some(Kind::Aaaa),
            Kind::Aaaa => Some(Kind::A),
            Kind::Mx | Kind::Ptr | Kind::Txt => None,
        }
    }
}

/// Records of the kind that was asked for: at least one, in the order of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// IPv4 addresses.
    A(Vec<Ipv4Addr>),
    /// IPv6 addresses.
    Aaaa(Vec<Ipv6Addr>),
    /// Mail exchangers, not sorted, also those without a usable name.
    Mx(Vec<Mx>),
    /// Names that are host names; others are left out.
    Ptr(Vec<Line>),
    /// Texts, each with its strings joined.
    Txt(Vec<Vec<u8>>),
}

/// A mail exchanger of a domain (RFC 5321, section 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    /// Lower comes first.
    pub preference: u16,
    /// Its name, without the last dot: a host's, or the IPv4 address that stands in its place. A
    /// null MX (RFC 7505) has `.` alone. `None` if it is nothing of these.
    pub name: Option<Line>,
}

/// Why there are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// The name does not exist, or cannot.
    NoName,
    /// The name exists, without records of this kind.
    NoData,
    /// Nobody could say. Later perhaps.
    TempFail,
}

/// What a lookup yields.
pub type DnsResult = Result<Answer, DnsError>;

/// The name of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverse {
    /// The first name that the address has. It holds letters, digits, `-`, `_` and dots only.
    pub name: Option<Line>,
    /// Whether the name has the address.
    pub confirmed: Confirmed,
}

/// Whether the reverse name of an address leads back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The name has the address.
    Pass,
    /// There is no name, or it does not have the address.
    Fail,
    /// Nobody could say.
    Error,
}

impl Confirmed {
    /// The word of smtpd-filters(7).
    pub fn word(self) -> &'static str {
        match self {
            Confirmed::Pass => "pass",
            Confirmed::Fail => "fail",
            Confirmed::Error => "error",
        }
    }
}

/// Takes what a lookup yields, in the resolver's thread; must not block.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// The name under which the names of `addr` are found.
pub fn reverse_name(addr: IpAddr) -> String {
    match addr.to_canonical() {
        IpAddr::V4(addr) => {
            let [a, b, c, d] = addr.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(addr) => {
            let mut name = String::with_capacity(74);
            for byte in addr.octets().iter().rev() {
                name.push_str(&format!("{:x}.{:x}.", byte & 15, byte >> 4));
            }
            name + "ip6.arpa."
        }
    }
}
