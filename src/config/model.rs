//! The configuration as the other rooms see it: checked, names resolved, defaults filled in.

mod comparison;
mod criterion;
mod filter;
mod listen;
mod relay;
mod secrets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::util::Line;

pub use comparison::{Comparison, How};
pub use filter::{BuiltIn, Condition, Decision, Filter, FilterName, OnFailure, Phase, Proc};
pub use listen::{AuthNeed, ClientCertificate, ListenAuth, ListenTls, TlsMode};
pub use relay::{MailFrom, RelayAction, RelayTls, Route};
pub use secrets::{Dhe, Pki, QueueKey, Srs};

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Server name (mailname file, else the host's name).
    pub server_name: Line,
    /// Listeners in the order of the file. The parent binds them.
    pub listeners: Vec<Listener>,
    /// `listen on socket`, or its defaults.
    pub socket: SocketListener,
    /// Tables by name, built-in ones (`<localhost>`, `<anyhost>`, …) and anonymous ones included.
    pub tables: BTreeMap<String, TableSource>,
    /// Actions by name.
    pub actions: BTreeMap<String, Action>,
    /// `match` rules in the order of the file.
    pub rules: Vec<Rule>,
    /// `mda wrapper` commands by name.
    pub mda_wrappers: BTreeMap<String, Line>,
    /// `smtp …`.
    pub smtp: Smtp,
    /// `queue …`.
    pub queue: QueueOptions,
    /// `mda limit …`.
    pub mda: MdaLimits,
    /// `scheduler limit …`.
    pub scheduler: SchedulerLimits,
    /// `bounce warn-interval`, in seconds, at most four.
    pub bounce_warn_s: Vec<u32>,
    /// `mta …`.
    pub mta: MtaOptions,
    /// `pki` by name, in lower case.
    pub pki: BTreeMap<String, Pki>,
    /// `ca` by name, in lower case: files of certificates.
    pub ca: BTreeMap<String, PathBuf>,
    /// Programs of filters by name: those of `proc`, and of `proc-exec` by their filter's.
    pub procs: BTreeMap<String, Proc>,
    /// Filters by name, anonymous chains included.
    pub filters: BTreeMap<FilterName, Filter>,
    /// `srs …`, if there is a key.
    pub srs: Option<Srs>,
    /// `admd`: the authserv-id that filters are told; the server name without it.
    pub admd: Option<Line>,
}

/// One `listen on` for TCP.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Interface name, address or host name, as written.
    pub on: String,
    /// `inet4` or `inet6`.
    pub family: Option<Family>,
    /// TCP port.
    pub port: u16,
    /// `hostname`, else the server name.
    pub hostname: Line,
    /// `hostnames <table>`.
    pub hostnames: Option<TableName>,
    pub tag: Option<Line>,
    pub mask_src: bool,
    pub no_dsn: bool,
    pub received_auth: bool,
    /// `senders <table> [masquerade]`.
    pub senders: Option<Senders>,
    /// `tls`, `tls-require` or `smtps`.
    pub tls: Option<ListenTls>,
    /// `auth` or `auth-optional`; only with TLS.
    pub auth: Option<ListenAuth>,
    /// `proxy-v2`: the client is the one that a PROXY header names.
    pub proxy_v2: Option<Proxy>,
    pub filter: Option<FilterName>,
    /// File and line of the directive, for messages.
    pub at: Position,
}

/// `proxy-v2 [from <table>]`.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Addresses of those who may say who their client is; anybody without it.
    pub from: Option<TableName>,
}

/// `senders <table> [masquerade]`.
#[derive(Clone, Debug)]
pub struct Senders {
    /// User to addresses.
    pub table: TableName,
    /// Whether From is rewritten to the envelope sender.
    pub masquerade: bool,
}

/// `listen on socket`.
#[derive(Clone, Debug, Default)]
pub struct SocketListener {
    pub tag: Option<Line>,
    pub mask_src: bool,
    pub no_dsn: bool,
    pub filter: Option<FilterName>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Inet4,
    /// IPv6.
    Inet6,
}

/// The name of a table; it exists in [`Config::tables`].
pub type TableName = String;

/// Where a table's contents come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSource {
    /// Values written in the file, or built in.
    List(Vec<String>),
    /// Key and value pairs written in the file.
    Map(Vec<(String, String)>),
    File(PathBuf),
    Db(PathBuf),
    /// The system's users.
    Passwd,
    /// What a program answers, see smtpd-tables(7).
    Program(TableProgram),
}

/// The program behind a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableProgram {
    /// Where it is.
    pub program: ProgramPath,
    /// Its only argument.
    pub argument: Option<Line>,
}

/// Where a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramPath {
    /// `table-NAME` among the helpers.
    Named(String),
    /// Here.
    At(PathBuf),
}

impl TableProgram {
    /// What `table` says of a program: `NAME`, `NAME:/argument`, `proc:/program` or
    /// `proc:/program:argument`. Whether there is such a program is not asked.
    pub fn parse(text: &str) -> Option<TableProgram> {
        let line = |text: &str| Line::new(text).ok();
        if let Some(rest) = text.strip_prefix("proc:") {
            let (path, argument) = match rest.split_once(':') {
                Some((path, argument)) => (path, Some(line(argument)?)),
                None => (rest, None),
            };
            let program = ProgramPath::At(PathBuf::from(path));
            return path
                .starts_with('/')
                .then_some(TableProgram { program, argument });
        }
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) if argument.starts_with('/') => (name, Some(line(argument)?)),
            Some(_) => return None,
            None => (text, None),
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let built_in = ["file", "static", "db", "getpwnam", "proc"].contains(&name);
        let valid = !name.is_empty() && name.bytes().all(known) && !built_in;
        let program = ProgramPath::Named(name.to_owned());
        valid.then_some(TableProgram { program, argument })
    }

    /// The file of the program; `libexec` holds the helpers.
    pub fn file(&self, libexec: &Path) -> PathBuf {
        match &self.program {
            ProgramPath::Named(name) => libexec.join(format!("table-{name}")),
            ProgramPath::At(path) => path.clone(),
        }
    }
}

/// What `action` says.
#[derive(Clone, Debug)]
pub struct Action {
    pub name: Line,
    /// Local delivery or relay.
    pub method: Method,
    /// `ttl`, in seconds; `queue ttl` otherwise.
    pub ttl_s: Option<u32>,
    /// File and line of the directive.
    pub at: Position,
}

/// How an action settles an envelope.
#[derive(Clone, Debug)]
pub enum Method {
    /// On this host.
    Local(LocalAction),
    /// To another host.
    Relay(Box<RelayAction>),
}

/// A local action.
#[derive(Clone, Debug)]
pub struct LocalAction {
    /// What is run.
    pub delivery: Delivery,
    /// `user`: who the delivery runs as, in place of the recipient.
    pub user: Option<Line>,
    /// `alias <table>`.
    pub alias: Option<TableName>,
    /// `virtual <table>`.
    pub virtuals: Option<TableName>,
    /// `userbase <table>`; the system's users otherwise.
    pub userbase: Option<TableName>,
    /// `wrapper NAME`; it exists in [`Config::mda_wrappers`].
    pub wrapper: Option<String>,
}

/// A local delivery method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The system's mailbox, by mail.local(8).
    Mbox,
    /// A maildir. The path may hold format specifiers and start with `~/`.
    Maildir {
        /// The path, `~/Maildir` without one.
        path: Option<Line>,
        /// Whether marked messages go to the `Junk` folder.
        junk: bool,
    },
    /// A command, with format specifiers.
    Mda(Line),
    Lmtp {
        /// `host:port` or a socket's path, which [`LmtpDest`](super::LmtpDest) reads; it may hold
        /// format specifiers.
        dest: Line,
        /// Whether the address, not the user, is the LMTP recipient.
        rcpt_to: bool,
    },
    /// Only remote addresses, out of aliases or .forward.
    ForwardOnly,
    /// Only methods given by aliases or .forward.
    ExpandOnly,
}

/// One `match` rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Every criterion must hold.
    pub criteria: Vec<Criterion>,
    /// What then happens: `None` for `reject`, else an action of [`Config::actions`].
    pub action: Option<String>,
    /// `filter`: the filters of messages for recipients whom this rule matches.
    pub filter: Option<FilterName>,
    /// The rule as it is written, macros replaced, on one line.
    pub text: Line,
    /// File and line of the directive.
    pub at: Position,
}

/// One criterion of a rule.
#[derive(Clone, Debug)]
pub struct Criterion {
    /// Written with `!`.
    pub negated: bool,
    /// What is asked.
    pub test: Test,
}

/// What a criterion asks. A `Pattern` names a list table, by value or by regex.
#[derive(Clone, Debug)]
pub enum Test {
    Tag(Pattern),
    FromAny,
    FromLocal,
    FromSocket,
    FromSrc(Pattern),
    FromRdns(Option<Pattern>),
    ForAny,
    ForLocal,
    ForDomain(Pattern),
    Helo(Pattern),
    Auth(Option<Pattern>),
    Tls,
    MailFrom(Pattern),
    RcptTo(Pattern),
}

/// A table to compare with.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub table: TableName,
    /// Whether its entries are regular expressions.
    pub regex: bool,
}

/// `smtp …`.
#[derive(Clone, Debug)]
pub struct Smtp {
    /// Bytes; 36700160.
    pub max_message_size: u64,
    /// Recipients per transaction; 1000.
    pub max_rcpt: usize,
    /// Messages per session; 100.
    pub max_mails: usize,
    /// Failed attempts to log in that a network, or a user, may make; 50. They are forgotten again.
    pub max_auth_failures: u32,
    /// Sessions of one client at a time; 100, 0 for any number.
    pub max_sessions_per_source: u32,
    /// `smtp limit bypass <table>`: addresses whose failures and sessions do not count.
    pub bypass: Option<TableName>,
    /// `smtp ciphers`, as written.
    pub ciphers: Option<Line>,
    /// File and line of it.
    pub ciphers_at: Position,
    /// `+`.
    pub sub_addr_delim: char,
}

/// `queue …`.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// Life time in seconds; four days.
    pub ttl_s: u32,
    /// `queue compression`.
    pub compression: bool,
    pub encryption: Option<QueueKey>,
}

/// `mda limit …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MdaLimits {
    /// Local deliveries at a time; 50.
    pub max_session: usize,
    /// The same for one user; 7.
    pub max_session_per_user: usize,
    /// Waiting envelopes of a user from which on more are held; 50.
    pub task_hiwat: usize,
    /// Waiting envelopes at which held ones are asked for; 30.
    pub task_lowat: usize,
    /// How many are asked for; 10.
    pub task_release: usize,
}

/// `scheduler limit …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Envelopes handed out at a time; 5000.
    pub max_inflight: usize,
    /// Envelopes per batch; 10.
    pub max_schedule: usize,
    /// Envelopes per answer when one message is listed; 256.
    pub max_evp_batch_size: usize,
    /// Messages per answer when the queue is listed; 1024.
    pub max_msg_batch_size: usize,
}

/// `mta …`.
#[derive(Clone, Debug)]
pub struct MtaOptions {
    /// Envelopes kept for a host that is suspended; 100.
    pub max_deferred: usize,
    pub limits: MtaLimits,
    /// `mta limit for domain`, by the domain as written.
    pub domains: BTreeMap<String, MtaLimits>,
}

/// `mta limit …`. Delays are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MtaLimits {
    /// Only this family; both without it.
    pub family: Option<Family>,
    /// Connections per host; 10.
    pub max_conn_per_host: u32,
    /// Connections per route; 5.
    pub max_conn_per_route: u32,
    /// Connections per source address; 1000. The largest of all sets is what all together may have.
    pub max_conn_per_source: u32,
    /// Connections per connector; 20.
    pub max_conn_per_connector: u32,
    /// Connections per relay; 100.
    pub max_conn_per_relay: u32,
    /// Connections per domain; 100.
    pub max_conn_per_domain: u32,
    /// Between connections to a host; 0.
    pub conn_delay_host_s: u32,
    /// Between connections on a route; 5.
    pub conn_delay_route_s: u32,
    /// Between connections from a source address; 0.
    pub conn_delay_source_s: u32,
    /// Between connections of a connector; 0.
    pub conn_delay_connector_s: u32,
    /// Between connections of a relay; 2.
    pub conn_delay_relay_s: u32,
    /// Between connections to a domain; 0.
    pub conn_delay_domain_s: u32,
    /// Before a route is used again after its last connection; 3.
    pub reconn_delay_route_s: u32,
    /// Messages per session; 100.
    pub session_mail_max: u32,
    /// Between transactions of a session; 0.
    pub session_transaction_delay_s: u32,
    /// How long an idle session is kept; 10.
    pub session_keepalive_s: u32,
    /// Refusals that end a session; 25.
    pub max_failures_per_session: u32,
    /// Waiting envelopes of a relay from which on more are held; 50.
    pub task_hiwat: u32,
    /// Waiting envelopes at which held ones are asked for; 30.
    pub task_lowat: u32,
    /// How many are asked for; 10.
    pub task_release: u32,
}

/// Where a directive or an option stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in bytes, from 1; 0 for the line as a whole.
    pub column: u32,
}

impl Default for Smtp {
    fn default() -> Smtp {
        Smtp {
            max_message_size: 35 * 1024 * 1024,
            max_rcpt: 1000,
            max_mails: 100,
            max_auth_failures: 50,
            max_sessions_per_source: 100,
            bypass: None,
            ciphers: None,
            ciphers_at: Position::default(),
            sub_addr_delim: '+',
        }
    }
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions {
            ttl_s: 4 * 86400,
            compression: false,
            encryption: None,
        }
    }
}

impl Default for MdaLimits {
    fn default() -> MdaLimits {
        MdaLimits {
            max_session: 50,
            max_session_per_user: 7,
            task_hiwat: 50,
            task_lowat: 30,
            task_release: 10,
        }
    }
}

impl Default for SchedulerLimits {
    fn default() -> SchedulerLimits {
        SchedulerLimits {
            max_inflight: 5000,
            max_schedule: 10,
            max_evp_batch_size: 256,
            max_msg_batch_size: 1024,
        }
    }
}

impl Default for MtaOptions {
    fn default() -> MtaOptions {
        MtaOptions {
            max_deferred: 100,
            limits: MtaLimits::default(),
            domains: BTreeMap::new(),
        }
    }
}

impl Default for MtaLimits {
    fn default() -> MtaLimits {
        MtaLimits {
            family: None,
            max_conn_per_host: 20,
            max_conn_per_route: 20,
            max_conn_per_source: 1000,
            max_conn_per_connector: 20,
            max_conn_per_relay: 100,
            max_conn_per_domain: 100,
            conn_delay_host_s: 0,
            conn_delay_route_s: 5,
            conn_delay_source_s: 0,
            conn_delay_connector_s: 0,
            conn_delay_relay_s: 2,
            conn_delay_domain_s: 0,
            reconn_delay_route_s: 3,
            session_mail_max: 100,
            session_transaction_delay_s: 0,
            session_keepalive_s: 10,
            max_failures_per_session: 25,
            task_hiwat: 50,
            task_lowat: 30,
            task_release: 10,
        }
    }
}

/// `file:line`.
impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
