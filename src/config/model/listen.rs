//! TLS and authentication on a listener.

use crate::util::Line;

use super::{Position, TableName};

/// `tls`, `tls-require` or `smtps`, with the options that go with them.
#[derive(Clone, Debug)]
pub struct ListenTls {
    /// When the connection is encrypted.
    pub mode: TlsMode,
    /// `verify`: what is asked of clients.
    pub client: ClientCertificate,
    /// `pki`, never empty: the first one is shown to clients that name no server, or one that
    /// none is for. Keys of [`super::Config::pki`].
    pub pki: Vec<String>,
    /// `ca`: who signs clients' certificates; a key of [`super::Config::ca`].
    pub ca: Option<String>,
    /// `ciphers`, as written and where; `smtp ciphers` without it.
    pub ciphers: Option<(Line, Position)>,
    /// `protocols`, as written and where.
    pub protocols: Option<(Line, Position)>,
}

/// When a listener's connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// `tls`: when the client says STARTTLS.
    Offered,
    /// `tls-require`: when the client says STARTTLS, and it must before MAIL.
    Required,
    /// `smtps`: from the first byte.
    Immediate,
}

/// What a listener asks of clients' certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    NotAsked,
    /// `verify`: a valid one.
    Required,
}

/// `auth [<table>]` or `auth-optional [<table>]`.
#[derive(Clone, Debug)]
pub struct ListenAuth {
    pub need: AuthNeed,
    /// Credentials by user; the system's passwords without it.
    pub table: Option<TableName>,
}

/// Whether clients must authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthNeed {
    /// `auth`: before MAIL.
    Required,
    Optional,
}
