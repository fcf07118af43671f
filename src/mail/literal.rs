//! An address in brackets where the name of a host could stand (RFC 5321 §4.1.3).
//!
//! `[192.0.2.1]`, `[IPv6:2001:db8::1]` and, because people write it, `[2001:db8::1]`. The tag may
//! be in either case, and clients write it before any address.

use std::fmt;
use std::net::IpAddr;

/// Prints an address as a literal, IPv6 with its tag.
#[derive(Clone, Copy, Debug)]
pub struct Literal(pub IpAddr);

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(addr) => write!(f, "[{addr}]"),
            IpAddr::V6(addr) => write!(f, "[IPv6:{addr}]"),
        }
    }
}

/// The address of a literal.
pub fn parse(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    strip_tag(inside).unwrap_or(inside).parse().ok()
}

/// The address of a literal, or one without brackets.
pub fn parse_or_bare(text: &str) -> Option<IpAddr> {
    parse(text).or_else(|| text.parse().ok())
}

/// What follows the tag `IPv6:`.
pub fn strip_tag(inside: &str) -> Option<&str> {
    let (tag, rest) = inside.split_at_checked(5)?;
    tag.eq_ignore_ascii_case("IPv6:").then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_an_address_in_brackets_with_or_without_a_tag() {
        // RFC 5321 §4.1.3.
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for text in ["[192.0.2.1]", "[ipv6:192.0.2.1]"] {
            assert_eq!(parse(text), ip("192.0.2.1"));
        }
        for text in ["[IPv6:2001:db8::1]", "[ipv6:2001:DB8::1]", "[2001:db8::1]"] {
            assert_eq!(parse(text), ip("2001:db8::1"));
        }
        for text in ["192.0.2.1", "[192.0.2.1", "[]", "[::1]x", "[::1%em0]"] {
            assert_eq!(parse(text), None);
        }
        assert_eq!(parse_or_bare("::1"), ip("::1"));
        assert_eq!(parse_or_bare("[IPv6:::1]"), ip("::1"));
        for text in ["192.0.2.1", "2001:db8::1"] {
            let addr = ip(text).unwrap();
            assert_eq!(parse(&Literal(addr).to_string()), Some(addr));
        }
        assert_eq!(Literal(ip("::1").unwrap()).to_string(), "[IPv6:::1]");
    }
}
