//! What a relay is: a destination, and how it is talked to.

use crate::config::relayhost::{RelayHost, Scheme};
use crate::config::{MailFrom, RelayAction, RelayTls, Route};
use crate::mail::{Envelope, MailAddr, Status};
use crate::util::Line;

use super::mx::{self, AsHost, RelayError};

/// Identity of a relay. The action is part of it, and with the action all of its settings: mail of
/// one action never goes out in the way of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub action: Line,
    /// Domain or smarthost, in lower case.
    pub name: String,
    /// Whether the name is a smarthost's.
    pub as_host: AsHost,
    /// The port of a smarthost; 25 without one.
    pub port: Option<u16>,
    pub scheme: Spoken,
    /// The key of the credentials.
    pub label: Option<Line>,
    /// Our name among the exchangers, for `backup`.
    pub backup: Option<Line>,
}

/// [`Scheme`], in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spoken {
    /// STARTTLS where it is offered.
    Smtp,
    /// STARTTLS or nothing.
    SmtpTls,
    SmtpNoTls,
    /// TLS at once.
    Smtps,
    Lmtp,
}

impl Spoken {
    /// As listings and log lines have it.
    pub fn name(self) -> &'static str {
        match self {
            Spoken::Smtp => "smtp",
            Spoken::SmtpTls => "smtp+tls",
            Spoken::SmtpNoTls => "smtp+notls",
            Spoken::Smtps => "smtps",
            Spoken::Lmtp => "lmtp",
        }
    }
}

impl From<Scheme> for Spoken {
    fn from(scheme: Scheme) -> Spoken {
        match scheme {
            Scheme::Smtp => Spoken::Smtp,
            Scheme::SmtpTls => Spoken::SmtpTls,
            Scheme::SmtpNoTls => Spoken::SmtpNoTls,
            Scheme::Smtps => Spoken::Smtps,
            Scheme::Lmtp => Spoken::Lmtp,
        }
    }
}

/// What a session does about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    None,
    /// STARTTLS where it is offered; whatever goes wrong with it, plain text.
    Opportunistic,
    /// STARTTLS, or no mail.
    StartTls(Verify),
    /// TLS from the first byte.
    Smtps(Verify),
}

/// Whether the certificate must verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// It must.
    Yes,
    /// It need not.
    No,
}

impl Security {
    /// Out of the URL's scheme and the action's `tls`. A URL that asks for TLS implies that the
    /// certificate verifies, for that relay alone.
    pub fn of(scheme: Spoken, tls: RelayTls) -> Option<Security> {
        let verify = match tls {
            RelayTls::Unverified => Verify::No,
            RelayTls::Verified | RelayTls::Opportunistic => Verify::Yes,
        };
        match (scheme, tls) {
            (Spoken::Smtp, RelayTls::Opportunistic) => Some(Security::Opportunistic),
            (Spoken::Smtp | Spoken::SmtpTls, _) => Some(Security::StartTls(verify)),
            (Spoken::Smtps, _) => Some(Security::Smtps(verify)),
            (Spoken::SmtpNoTls | Spoken::Lmtp, RelayTls::Opportunistic) => Some(Security::None),
            (Spoken::SmtpNoTls | Spoken::Lmtp, _) => None,
        }
    }
}

/// Nobody could say which smarthost takes an envelope.
pub const NO_SMARTHOST: RelayError =
    RelayError::temporary(Status::new(4, 3, 0), "Cannot retrieve smarthost");
/// The URL of the smarthost asks for credentials, and the action has none.
pub const NO_AUTH_TABLE: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "No auth table for relaying");
/// The URL of the smarthost forbids the TLS that the action demands.
pub const TLS_REQUIRED: RelayError =
    RelayError::temporary(Status::new(4, 3, 5), "TLS required for relaying");

/// The relay of an envelope that goes to the exchangers of its domain.
pub fn of_domain(action: &RelayAction, envelope: &Envelope) -> Key {
    let backup = match &action.route {
        Route::Backup(Some(name)) => Some(name.clone()),
        Route::Backup(None) => Some(envelope.smtpname.clone()),
        Route::Exchangers | Route::Host(_) | Route::Domain(_) => None,
    };
    Key {
        action: envelope.action.clone(),
        name: envelope.dest.domain().to_ascii_lowercase(),
        as_host: AsHost::No,
        port: None,
        scheme: match action.tls {
            RelayTls::Opportunistic => Spoken::Smtp,
            RelayTls::Verified | RelayTls::Unverified => Spoken::SmtpTls,
        },
        label: None,
        backup,
    }
}

/// The relay of an envelope that goes to this smarthost; else what the log and the envelope are
/// told.
pub fn of_smarthost(
    action: &RelayAction,
    envelope: &Envelope,
    host: &RelayHost,
) -> Result<Key, (String, RelayError)> {
    let name = &envelope.action;
    let scheme = Spoken::from(host.scheme);
    if host.label.is_some() && action.auth.is_none() {
        let warning = format!("No auth table on action \"{name}\" for relay {host}");
        return Err((warning, NO_AUTH_TABLE));
    }
    if Security::of(scheme, action.tls).is_none() {
        let warning = format!("TLS required for action \"{name}\"");
        return Err((warning, TLS_REQUIRED));
    }
    let scheme = match (scheme, action.tls) {
        (Spoken::Smtp, RelayTls::Verified | RelayTls::Unverified) => Spoken::SmtpTls,
        (scheme, _) => scheme,
    };
    Ok(Key {
        action: name.clone(),
        name: host.host.to_ascii_lowercase(),
        as_host: AsHost::Yes,
        port: Some(host.port),
        scheme,
        label: host.label.clone(),
        backup: None,
    })
}

impl Key {
    /// Whose addresses are wanted.
    pub fn destination(&self) -> (String, AsHost) {
        (self.name.clone(), self.as_host)
    }

    /// Where its hosts listen.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(mx::PORT)
    }

    /// Whether a session that was made for one relay is as good for the other: only their
    /// destinations differ.
    pub fn is_as_good_as(&self, other: &Key) -> bool {
        self.action == other.action
            && self.scheme == other.scheme
            && self.label == other.label
            && self.port_or_default() == other.port_or_default()
    }

    /// `[relay:NAME,port=N,MODE,…]`, as log lines and listings have it. `mx` marks smarthosts.
    pub fn printed(&self, action: &RelayAction) -> String {
        let mut text = format!("[relay:{}", self.name);
        if let Some(port) = self.port {
            text.push_str(&format!(",port={port}"));
        }
        text.push(',');
        text.push_str(self.scheme.name());
        if let (Some(table), Some(label)) = (&action.auth, &self.label) {
            text.push_str(&format!(",auth={table}:{label}"));
        }
        if let Some(pki) = &action.pki {
            text.push_str(&format!(",pki_name={pki}"));
        }
        if self.as_host == AsHost::Yes {
            text.push_str(",mx");
        }
        if let Some(name) = &self.backup {
            text.push_str(&format!(",backup={name}"));
        }
        if let Some(table) = &action.src {
            text.push_str(&format!(",sourcetable={table}"));
        }
        if let Some(table) = &action.helo_src {
            text.push_str(&format!(",helotable={table}"));
        }
        if let Some(name) = &action.helo {
            text.push_str(&format!(",heloname={name}"));
        }
        text.push(']');
        text
    }
}

/// The sender of a transaction: `mail-from` replaces what it names of a sender that is not null.
pub fn sender(action: &RelayAction, envelope: &Envelope) -> MailAddr {
    let given = &envelope.sender;
    if given.is_null() {
        return given.clone();
    }
    // Each part is a line already.
    let made = |user: &str, domain: &str| MailAddr::new(user, domain).unwrap_or(given.clone());
    match &action.mail_from {
        None => given.clone(),
        Some(MailFrom::Both(addr)) => addr.clone(),
        Some(MailFrom::User(user)) => made(user, given.domain()),
        Some(MailFrom::Domain(domain)) => made(given.user(), domain),
    }
}

/// With `srs`, the domain whose address leads a report back, if we forward this: the recipient was
/// another address than the one that the mail goes to.
pub fn forwarded_by(action: &RelayAction, envelope: &Envelope) -> Option<Line> {
    let forwarded = action.srs && envelope.rcpt != envelope.dest;
    forwarded.then(|| Line::sanitize(envelope.rcpt.domain().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::samples;

    fn line(text: &str) -> Line {
        Line::new(text).unwrap()
    }

    #[test]
    fn a_relay_prints_what_it_is() {
        let mut action = RelayAction::default();
        let envelope = samples::envelope("bob");
        let key = of_domain(&action, &envelope);
        assert_eq!(key.printed(&action), "[relay:example.org,smtp]");
        let host = RelayHost::parse("smtps://label@MX.example.com").unwrap();
        action.auth = Some("secrets".to_owned());
        action.src = Some("s".to_owned());
        action.helo = Some(line("me"));
        let key = of_smarthost(&action, &envelope, &host).unwrap();
        assert_eq!(
            key.printed(&action),
            "[relay:mx.example.com,port=465,smtps,auth=secrets:label,mx,sourcetable=s,heloname=me]"
        );
        action = RelayAction {
            route: Route::Backup(None),
            ..RelayAction::default()
        };
        let key = of_domain(&action, &envelope);
        assert_eq!(
            key.printed(&action),
            "[relay:example.org,smtp,backup=mx.example.org]"
        );
    }

    // smtpd.conf(5), relay: tls, and the schemes of host.
    #[test]
    fn security_is_decided_for_each_relay() {
        use RelayTls::{Opportunistic, Unverified, Verified};
        for (scheme, tls, meant) in [
            (Spoken::Smtp, Opportunistic, Some(Security::Opportunistic)),
            (
                Spoken::Smtp,
                Verified,
                Some(Security::StartTls(Verify::Yes)),
            ),
            (
                Spoken::Smtp,
                Unverified,
                Some(Security::StartTls(Verify::No)),
            ),
            (
                Spoken::SmtpTls,
                Opportunistic,
                Some(Security::StartTls(Verify::Yes)),
            ),
            (
                Spoken::Smtps,
                Opportunistic,
                Some(Security::Smtps(Verify::Yes)),
            ),
            (Spoken::Smtps, Unverified, Some(Security::Smtps(Verify::No))),
            (Spoken::SmtpNoTls, Opportunistic, Some(Security::None)),
            (Spoken::Lmtp, Opportunistic, Some(Security::None)),
            (Spoken::SmtpNoTls, Verified, None),
            (Spoken::Lmtp, Unverified, None),
        ] {
            assert_eq!(Security::of(scheme, tls), meant, "{scheme:?} {tls:?}");
        }
    }

    #[test]
    fn smarthosts_that_do_not_fit_the_action_are_refused_in_the_words_of_the_manual() {
        let envelope = samples::envelope("bob");
        let refused = |action: &RelayAction, url: &str| {
            let host = RelayHost::parse(url).unwrap();
            of_smarthost(action, &envelope, &host).unwrap_err()
        };
        let (warning, failure) = refused(&RelayAction::default(), "smtps://bob@mx");
        assert_eq!(
            warning,
            "No auth table on action \"local\" for relay smtps://bob@mx:465"
        );
        assert_eq!(failure.text, "No auth table for relaying");
        let strict = RelayAction {
            tls: RelayTls::Verified,
            ..RelayAction::default()
        };
        for url in ["smtp+notls://mx", "lmtp://mx:24"] {
            let (warning, failure) = refused(&strict, url);
            assert_eq!(warning, "TLS required for action \"local\"");
            assert_eq!(failure.text, "TLS required for relaying");
        }
    }

    // smtpd.conf(5), relay: mail-from.
    #[test]
    fn mail_from_replaces_what_it_names_and_never_the_null_sender() {
        let mut envelope = samples::envelope("bob");
        let mut with = |mail_from: MailFrom, null: bool| {
            if null {
                envelope.sender = MailAddr::null();
            }
            let action = RelayAction {
                mail_from: Some(mail_from),
                ..RelayAction::default()
            };
            sender(&action, &envelope).to_string()
        };
        let both = MailAddr::new("x", "y.org").unwrap();
        assert_eq!(with(MailFrom::Both(both.clone()), false), "x@y.org");
        assert_eq!(with(MailFrom::User(line("x")), false), "x@example.net");
        assert_eq!(with(MailFrom::Domain(line("y.org")), false), "alice@y.org");
        assert_eq!(with(MailFrom::Both(both), true), "");
    }
}
