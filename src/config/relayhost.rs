//! Relay hosts as smtpd.conf(5) writes them: `[scheme://][label@]host[:port]`.

use std::fmt;
use std::net::IpAddr;

use crate::mail::literal;
use crate::util::Line;

use super::limits;

/// A URL of this many bytes or more is refused.
const URL_BYTES: usize = 1024;

/// A host to relay to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayHost {
    /// What is spoken, and whether it is encrypted.
    pub scheme: Scheme,
    /// The key in the table of credentials.
    pub label: Option<Line>,
    /// A host name, or an address; brackets are kept.
    pub host: Line,
    /// The TCP port.
    pub port: u16,
}

/// The scheme of a relay URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `smtp://`, or none: STARTTLS where the host offers it.
    Smtp,
    /// `smtp+tls://`: STARTTLS or nothing.
    SmtpTls,
    /// `smtp+notls://`: never STARTTLS.
    SmtpNoTls,
    /// `smtps://`: TLS from the first byte.
    Smtps,
    /// `lmtp://`: LMTP, never encrypted.
    Lmtp,
}

/// Why a text is no relay host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRelayHost(pub &'static str);

impl fmt::Display for BadRelayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Scheme {
    const ALL: [Scheme; 5] = [
        Scheme::Smtp,
        Scheme::SmtpTls,
        Scheme::SmtpNoTls,
        Scheme::Smtps,
        Scheme::Lmtp,
    ];

    /// As it is written, without `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Smtp => "smtp",
            Scheme::SmtpTls => "smtp+tls",
            Scheme::SmtpNoTls => "smtp+notls",
            Scheme::Smtps => "smtps",
            Scheme::Lmtp => "lmtp",
        }
    }

    /// The port of a URL that names none; there is no usual one for LMTP.
    fn port(self) -> Option<u16> {
        match self {
            Scheme::Smtp | Scheme::SmtpTls | Scheme::SmtpNoTls => Some(25),
            Scheme::Smtps => Some(465),
            Scheme::Lmtp => None,
        }
    }

    /// Whether credentials may be sent: only where nobody can read them on the way.
    fn takes_label(self) -> bool {
        matches!(self, Scheme::SmtpTls | Scheme::Smtps)
    }
}

impl RelayHost {
    /// Reads a URL. What follows the host and is no port is ignored, as it always was.
    pub fn parse(text: &str) -> Result<RelayHost, BadRelayHost> {
        if text.len() >= URL_BYTES {
            return Err(BadRelayHost("it is too long"));
        }
        let (scheme, rest) = scheme(text)?;
        let (label, rest) = match rest.split_once('@') {
            Some((label, rest)) => (label, rest),
            None => ("", rest),
        };
        if !label.is_empty() && !scheme.takes_label() {
            return Err(BadRelayHost("a label needs smtp+tls:// or smtps://"));
        }
        let label = match label {
            "" => None,
            label => Some(Line::new(label).map_err(|_| BadRelayHost("the label is not one line"))?),
        };
        let (host, rest) = host(rest)?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => Some(port(digits)?),
            None => scheme.port(),
        };
        Ok(RelayHost {
            scheme,
            label,
            host: Line::new(host).map_err(|_| BadRelayHost("the host is not one line"))?,
            port: port.ok_or(BadRelayHost("lmtp:// needs a port"))?,
        })
    }

    /// The host as an address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        literal::parse_or_bare(&self.host)
    }
}

fn scheme(text: &str) -> Result<(Scheme, &str), BadRelayHost> {
    let Some((name, rest)) = text.split_once("://") else {
        return Ok((Scheme::Smtp, text));
    };
    let named = |scheme: &&Scheme| scheme.name().eq_ignore_ascii_case(name);
    let scheme = Scheme::ALL.iter().find(named);
    let scheme = scheme.ok_or(BadRelayHost(
        "expected smtp://, smtp+tls://, smtp+notls://, smtps:// or lmtp://",
    ))?;
    Ok((*scheme, rest))
}

fn host(text: &str) -> Result<(&str, &str), BadRelayHost> {
    let bad = BadRelayHost("the host is no host name and no address in brackets");
    let literal_end = text.starts_with('[').then(|| text.find(']')).flatten();
    let end = match literal_end {
        Some(end) => end + 1,
        None => text
            .find(|c: char| !c.is_ascii_alphanumeric() && !"_.-".contains(c))
            .unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(end).ok_or(bad)?;
    if is_name(host) || literal::parse(host).is_some() {
        Ok((host, rest))
    } else {
        Err(bad)
    }
}

fn is_name(host: &str) -> bool {
    let label = |label: &str| (1..=63).contains(&label.len());
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    host.len() <= limits::HOST_NAME_BYTES
        && !host.starts_with('-')
        && host.bytes().all(byte)
        && host.split('.').all(label)
}

fn port(digits: &str) -> Result<u16, BadRelayHost> {
    let number = digits.bytes().all(|b| b.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| number && *port > 0);
    port.ok_or(BadRelayHost("a port is a number from 1 to 65535"))
}

/// The whole URL, port and all.
impl fmt::Display for RelayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.name())?;
        if let Some(label) = &self.label {
            write!(f, "{label}@")?;
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> Result<String, BadRelayHost> {
        RelayHost::parse(text).map(|host| host.to_string())
    }

    // smtpd.conf(5), relay host: [proto://[label@]]host[:port].
    #[test]
    fn urls_are_read_with_their_defaults() {
        for (text, meaning) in [
            ("mx.example.org", "smtp://mx.example.org:25"),
            ("smtp://mx_1.example.org", "smtp://mx_1.example.org:25"),
            ("SMTP+TLS://mx", "smtp+tls://mx:25"),
            ("smtp+notls://mx:2525", "smtp+notls://mx:2525"),
            ("smtps://bob@mx", "smtps://bob@mx:465"),
            ("smtp+tls://bob@mx:587", "smtp+tls://bob@mx:587"),
            ("smtps://@mx", "smtps://mx:465"),
            ("smtp://@mx", "smtp://mx:25"),
            ("lmtp://[::1]:24", "lmtp://[::1]:24"),
            ("smtp://[IPv6:2001:db8::1]:1", "smtp://[IPv6:2001:db8::1]:1"),
            ("192.0.2.1:26", "smtp://192.0.2.1:26"),
            ("smtp://mx/path", "smtp://mx:25"),
            ("smtp://mx:65535", "smtp://mx:65535"),
        ] {
            assert_eq!(printed(text).as_deref(), Ok(meaning), "{text}");
        }
        for bad in [
            "",
            "smtp://",
            "tls://mx",
            "secure://mx",
            "lmtps://mx:24",
            "lmtp://mx",
            "smtp://bob@mx",
            "bob@mx",
            "lmtp://bob@mx:24",
            "smtp://mx:0",
            "smtp://mx:65536",
            "smtp://mx:+1",
            "smtp://mx:25/",
            "smtp://mx:",
            "smtp://[::1",
            "smtp://[mx]",
            "smtp://-mx",
            "smtp://mx..org",
            "lmtp:///var/run/lmtp",
            &format!("smtp://{}", "a.".repeat(600)),
        ] {
            assert!(printed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_seen_as_such() {
        let address = |text: &str| RelayHost::parse(text).unwrap().address();
        for (text, addr) in [
            ("192.0.2.1", "192.0.2.1"),
            ("[192.0.2.1]", "192.0.2.1"),
            ("[ipv6:::1]", "::1"),
        ] {
            assert_eq!(address(text), addr.parse().ok(), "{text}");
        }
        assert_eq!(address("mx.example.org"), None);
    }
}
