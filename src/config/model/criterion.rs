//! Criteria as words, for whoever asks why a rule has held or not.

use std::fmt;

use super::{Criterion, Pattern, Test};

/// As in smtpd.conf(5), with the table it looks at.
impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("!")?;
        }
        match &self.test {
            Test::Tag(p) => write!(f, "tag {p}"),
            Test::FromAny => f.write_str("from any"),
            Test::FromLocal => f.write_str("from local"),
            Test::FromSocket => f.write_str("from socket"),
            Test::FromSrc(p) => write!(f, "from src {p}"),
            Test::FromRdns(None) => f.write_str("from rdns"),
            Test::FromRdns(Some(p)) => write!(f, "from rdns {p}"),
            Test::ForAny => f.write_str("for any"),
            Test::ForLocal => f.write_str("for local"),
            Test::ForDomain(p) => write!(f, "for domain {p}"),
            Test::Helo(p) => write!(f, "helo {p}"),
            Test::Auth(None) => f.write_str("auth"),
            Test::Auth(Some(p)) => write!(f, "auth {p}"),
            Test::Tls => f.write_str("tls"),
            Test::MailFrom(p) => write!(f, "mail-from {p}"),
            Test::RcptTo(p) => write!(f, "rcpt-to {p}"),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.regex {
            f.write_str("regex ")?;
        }
        write!(f, "<{}>", self.table.trim_matches(['<', '>']))
    }
}
