//! Where an `lmtp` action, or mail.lmtp(8), delivers to.

use std::fmt;
use std::path::PathBuf;

use crate::mail::literal;

/// The destination of LMTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LmtpDest {
    /// The absolute path of a unix socket.
    Socket(PathBuf),
    /// A host, by name or address, without brackets.
    Host {
        name: String,
        /// Its TCP port; 25 where none is written.
        port: u16,
    },
}

/// The text is no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDest;

impl fmt::Display for NoDest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected the absolute path of a socket, or a host and a port as in \"host:24\" or \"[::1]:24\"")
    }
}

impl LmtpDest {
    /// Reads a path, `host`, `host:port`, `[address]` or `[address]:port`; `[IPv6:address]` is the
    /// same as `[address]`. In front of a path may stand `unix:`, in front of a host `lmtp://`.
    pub fn parse(text: &str) -> Result<LmtpDest, NoDest> {
        let text = match (after(text, "unix:"), after(text, "lmtp://")) {
            (Some(path), _) if path.starts_with('/') => path,
            (_, Some(host)) if !host.starts_with('/') => host,
            _ => text,
        };
        if text.starts_with('/') {
            return Ok(LmtpDest::Socket(PathBuf::from(text)));
        }
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, port) = rest.split_once(']').ok_or(NoDest)?;
                let inside = literal::strip_tag(inside).unwrap_or(inside);
                match port.strip_prefix(':') {
                    Some(port) => (inside, Some(port)),
                    None if port.is_empty() => (inside, None),
                    None => return Err(NoDest),
                }
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            return Err(NoDest);
        }
        Ok(LmtpDest::Host {
            name: name.to_owned(),
            port: port.map_or(Ok(DEFAULT_PORT), number)?,
        })
    }

    /// Whether the text says something else for each recipient (format specifiers).
    pub fn varies(text: &str) -> bool {
        text.contains('%') || text.starts_with("~/")
    }
}

fn after<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// As mail.lmtp(8) has always had it.
const DEFAULT_PORT: u16 = 25;

fn number(text: &str) -> Result<u16, NoDest> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| *port != 0);
    port.filter(|_| digits).ok_or(NoDest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_path_or_a_host_with_or_without_a_port() {
        // smtpd.conf(5), lmtp; mail.lmtp(8), -d.
        let host = |name: &str, port| {
            let name = name.to_owned();
            Ok(LmtpDest::Host { name, port })
        };
        for (text, expected) in [
            (
                "/var/run/lmtp",
                Ok(LmtpDest::Socket("/var/run/lmtp".into())),
            ),
            (
                "unix:/var/run/lmtp",
                Ok(LmtpDest::Socket("/var/run/lmtp".into())),
            ),
            ("lmtp://localhost:24", host("localhost", 24)),
            ("LMTP://[::1]:24", host("::1", 24)),
            ("localhost:24", host("localhost", 24)),
            ("mail.example.org", host("mail.example.org", 25)),
            ("127.0.0.1:2424", host("127.0.0.1", 2424)),
            ("[::1]:24", host("::1", 24)),
            ("[IPv6:::1]:24", host("::1", 24)),
            ("[ipv6:fe80::1%eth0]", host("fe80::1%eth0", 25)),
            ("[192.0.2.1]", host("192.0.2.1", 25)),
        ] {
            assert_eq!(LmtpDest::parse(text), expected, "{text}");
        }
        for text in [
            "",
            ":24",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:lmtp",
            "unix:path",
            "lmtp:///path",
            "run/lmtp",
            "::1",
            "[::1",
            "[::1]24",
            "[]:24",
            "a b:24",
            "host:24:25",
        ] {
            assert_eq!(LmtpDest::parse(text), Err(NoDest), "{text}");
        }
        assert!(LmtpDest::varies("/run/%{user.username}") && LmtpDest::varies("~/lmtp"));
    }
}
