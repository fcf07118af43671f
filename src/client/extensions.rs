//! What a server offers in its reply to EHLO or LHLO.

use super::reply::Reply;

/// Offers that we know what to do with. Keywords count in any case (RFC 5321 §2.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 6152.
    pub eight_bit: bool,
    /// RFC 6531.
    pub utf8: bool,
    /// RFC 1870.
    pub size: Option<Size>,
    /// RFC 4954: whether it is offered at all, and with what.
    pub auth: Option<Auth>,
    /// RFC 9422, RCPTMAX: recipients per transaction.
    pub rcpt_max: Option<usize>,
    /// RFC 9422, MAILMAX: transactions per session.
    pub mail_max: Option<usize>,
}

/// The limit that the server gives with SIZE (RFC 1870).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// No fixed limit.
    Unlimited,
    /// Not more than this.
    Bytes(u64),
}

/// Mechanisms of AUTH that we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    pub plain: bool,
    pub login: bool,
}

impl Extensions {
    /// Reads the lines after the first, which is a greeting.
    pub fn of(reply: &Reply) -> Extensions {
        let mut found = Extensions::default();
        for line in reply.lines().iter().skip(1) {
            found.add(line);
        }
        found
    }

    fn add(&mut self, line: &str) {
        // Old servers write `AUTH=PLAIN`.
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else {
            return;
        };
        match keyword.to_ascii_uppercase().as_str() {
            "STARTTLS" => self.starttls = true,
            "PIPELINING" => self.pipelining = true,
            "DSN" => self.dsn = true,
            "8BITMIME" => self.eight_bit = true,
            "SMTPUTF8" => self.utf8 = true,
            "SIZE" => self.size = Some(size(words.next())),
            "AUTH" => {
                let auth = self.auth.get_or_insert_default();
                for word in words {
                    auth.plain |= word.eq_ignore_ascii_case("PLAIN");
                    auth.login |= word.eq_ignore_ascii_case("LOGIN");
                }
            }
            "LIMITS" => self.limits(line),
            _ => {}
        }
    }

    fn limits(&mut self, line: &str) {
        for (name, value) in line.split([' ', '\t']).filter_map(|w| w.split_once('=')) {
            let value = value.parse().ok().filter(|most| *most > 0);
            match name.to_ascii_uppercase().as_str() {
                "RCPTMAX" => self.rcpt_max = value,
                "MAILMAX" => self.mail_max = value,
                _ => {}
            }
        }
    }
}

/// RFC 1870 §4: 0, or no number, is no limit.
fn size(word: Option<&str>) -> Size {
    match word.and_then(|word| word.parse().ok()) {
        None | Some(0) => Size::Unlimited,
        Some(most) => Size::Bytes(most),
    }
}
