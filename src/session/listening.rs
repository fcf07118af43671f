//! What sessions know of the listener that they come in by.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::filter::Chain;
use crate::mail::Peer;
use crate::util::Line;

use super::event::Observer;

/// What sessions of one listener have in common.
#[derive(Clone)]
pub struct Listening {
    /// The name in the banner, in Received, and behind addresses without a domain.
    pub server_name: Line,
    /// The name that completes header fields.
    pub hostname: Line,
    /// `hostnames`: may give another name to both.
    pub hostnames: Option<HostNames>,
    pub tag: Option<Line>,
    pub mask_src: bool,
    pub no_dsn: bool,
    /// Mail starts its journey here: the socket, or an address of this host to itself.
    pub local: bool,
    /// Mail starts its journey here: a submission port (587, 465).
    pub submission: bool,
    /// `tls`, `tls-require` or `smtps`.
    pub tls: Option<Tls>,
    /// `auth` or `auth-optional`.
    pub auth: Option<Auth>,
    pub senders: Option<Senders>,
    pub received_auth: bool,
    /// Limits of smtpd.conf(5).
    pub limits: Limits,
    pub filter: Option<Arc<Chain>>,
    /// A rule has `from rdns`.
    pub rules_need_name: bool,
    /// Where it listens, as filters are told.
    pub address: Option<SocketAddr>,
    /// The path of the socket, for sessions that come by it.
    pub socket: PathBuf,
    /// Who hears what happens, in this order.
    pub observers: Vec<Arc<dyn Observer>>,
}

/// `hostnames <table>` of a listener.
#[derive(Clone, Debug)]
pub struct HostNames {
    /// Names by address.
    pub table: String,
    /// The address that the listener is bound to; which one a client of a wildcard reaches is
    /// for [`Session::reached`](super::Session::reached) to say.
    pub bound: Peer,
}

/// When connections of a listener are encrypted. With what is for those who own the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// When the client says STARTTLS.
    Offered,
    /// The same, and it must before MAIL.
    Required,
    /// From the first byte.
    Immediate,
}

/// AUTH on a listener.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Whether it must come before MAIL.
    pub required: bool,
    /// Credentials by user; the system's passwords without it.
    pub table: Option<String>,
}

/// `senders <table> [masquerade]`.
#[derive(Clone, Debug)]
pub struct Senders {
    /// Addresses by user.
    pub table: String,
    /// Whether From gets the address of the sender.
    pub masquerade: bool,
}

/// `smtp max-message-size` and `smtp limit`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a message.
    pub max_message_size: u64,
    /// Recipients of a transaction.
    pub max_rcpt: usize,
    /// Messages of a session.
    pub max_mails: usize,
}
