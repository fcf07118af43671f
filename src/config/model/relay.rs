//! `relay` actions.

use crate::mail::MailAddr;
use crate::util::Line;

use super::{FilterName, TableName};

/// A relay action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayAction {
    /// Where mail goes.
    pub route: Route,
    /// `tls [no-verify]`.
    pub tls: RelayTls,
    /// `helo NAME`; the server name without it.
    pub helo: Option<Line>,
    /// `helo-src <table>`: names by source address.
    pub helo_src: Option<TableName>,
    /// `src <table>`: addresses to connect from.
    pub src: Option<TableName>,
    /// `mail-from`: replaces a sender that is not null.
    pub mail_from: Option<MailFrom>,
    /// `auth <table>`: credentials by label.
    pub auth: Option<TableName>,
    /// `pki NAME`: the certificate shown to servers that ask for one; a key of
    /// [`super::Config::pki`].
    pub pki: Option<String>,
    /// `ca NAME`: who is trusted, in place of the system's roots; a key of
    /// [`super::Config::ca`].
    pub ca: Option<String>,
    /// `ciphers`, as written; `smtp ciphers` without it.
    pub ciphers: Option<Line>,
    /// `protocols`, as written.
    pub protocols: Option<Line>,
    /// `filter`: who is told of the session.
    pub filter: Option<FilterName>,
    /// `srs`: senders of forwarded mail are rewritten.
    pub srs: bool,
}

/// Where a relay action sends mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// To the mail exchangers of the destination's domain.
    #[default]
    Exchangers,
    /// `backup [mx NAME]`: only to exchangers preferred to this one; the server name without NAME.
    Backup(Option<Line>),
    /// `host <table>`: to these relay URLs in turn.
    Host(TableName),
    /// `domain <table>`: to the relay URL of the destination's domain.
    Domain(TableName),
}

/// What a relay action asks of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelayTls {
    /// Nothing: TLS where the server offers it.
    #[default]
    Opportunistic,
    /// `tls`: with a certificate that verifies.
    Verified,
    /// `tls no-verify`.
    Unverified,
}

/// `mail-from`: which parts of the sender are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailFrom {
    /// `user@domain`.
    Both(MailAddr),
    User(Line),
    Domain(Line),
}
