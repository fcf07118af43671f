//! What sessions know of the listener they came in on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::accept::{Door, Peers};
use crate::config::{AuthNeed, Config, Listener, Proxy, SocketListener, Test, TlsMode};
use crate::filter::Filters;
use crate::log;
use crate::mail::Peer;
use crate::session::{Auth, HostNames, Limits, Listening, Maillog, Reports, Senders, Tls};
use crate::table::Snapshot;
use crate::tls::server::Server;

/// A TCP listener, and the address that it is bound to. `server` is its TLS.
pub fn door(
    now: &Arc<Snapshot>,
    listener: &Listener,
    bound: Option<SocketAddr>,
    filters: &Filters,
    server: Option<Arc<Server>>,
) -> Door {
    let smtp = &now.config.smtp;
    // Nobody who connects is to wait for a table.
    let at_hand = |table: &&String| !now.tables.may_wait(table);
    let exempt = smtp.bypass.as_ref().filter(at_hand);
    Door {
        listening: Arc::new(tcp_listening(&now.config, listener, bound, filters)),
        tls: server,
        proxies: listener.proxy_v2.as_ref().map(|proxy| proxies(proxy, now)),
        most_per_source: match smtp.max_sessions_per_source {
            0 => usize::MAX,
            most => most as usize,
        },
        exempt: exempt.map(|table| peers_in(table, now, "smtp limit bypass")),
    }
}

/// Who may send the header of a proxy.
fn proxies(proxy: &Proxy, now: &Arc<Snapshot>) -> Peers {
    match &proxy.from {
        Some(table) => peers_in(table, now, "proxy-v2"),
        None => Arc::new(|_| true),
    }
}

/// Those in a table; nobody while it cannot say.
fn peers_in(table: &str, now: &Arc<Snapshot>, what: &'static str) -> Peers {
    let (table, now) = (table.to_owned(), now.clone());
    Arc::new(move |peer| {
        now.tables.netaddr(&table, peer).unwrap_or_else(|error| {
            log::warn(format_args!("{what}: {error}"));
            false
        })
    })
}

fn tcp_listening(
    config: &Config,
    listener: &Listener,
    address: Option<SocketAddr>,
    filters: &Filters,
) -> Listening {
    let bound = address.map(|addr| addr.ip());
    const SUBMISSION: [u16; 2] = [587, 465];
    let names = |table: &String| {
        Some(HostNames {
            table: table.clone(),
            bound: Peer::inet(bound?),
        })
    };
    Listening {
        server_name: listener.hostname.clone(),
        hostname: listener.hostname.clone(),
        hostnames: listener.hostnames.as_ref().and_then(names),
        tag: listener.tag.clone(),
        mask_src: listener.mask_src,
        no_dsn: listener.no_dsn,
        local: bound.is_some_and(|addr| addr.is_loopback()),
        submission: SUBMISSION.contains(&listener.port),
        tls: listener.tls.as_ref().map(|tls| match tls.mode {
            TlsMode::Offered => Tls::Offered,
            TlsMode::Required => Tls::Required,
            TlsMode::Immediate => Tls::Immediate,
        }),
        auth: listener.auth.as_ref().map(|auth| Auth {
            required: auth.need == AuthNeed::Required,
            table: auth.table.clone(),
        }),
        senders: listener.senders.as_ref().map(|senders| Senders {
            table: senders.table.clone(),
            masquerade: senders.masquerade,
        }),
        received_auth: listener.received_auth,
        limits: session_limits(config),
        filter: filters.of_sessions(&listener.filter),
        rules_need_name: rules_need_name(config),
        address,
        socket: PathBuf::new(),
        observers: vec![Arc::new(Maillog), Arc::new(Reports)],
    }
}

/// The control socket, as a way in for mail.
pub fn socket_listening(
    config: &Config,
    socket: &SocketListener,
    path: &Path,
    filters: &Filters,
) -> Listening {
    Listening {
        server_name: config.server_name.clone(),
        hostname: config.server_name.clone(),
        hostnames: None,
        tag: socket.tag.clone(),
        mask_src: socket.mask_src,
        no_dsn: socket.no_dsn,
        local: true,
        submission: true,
        tls: None,
        auth: None,
        senders: None,
        received_auth: false,
        limits: session_limits(config),
        filter: filters.of_sessions(&socket.filter),
        rules_need_name: rules_need_name(config),
        address: None,
        socket: path.to_owned(),
        observers: vec![Arc::new(Maillog), Arc::new(Reports)],
    }
}

fn rules_need_name(config: &Config) -> bool {
    let mut criteria = config.rules.iter().flat_map(|rule| &rule.criteria);
    criteria.any(|criterion| matches!(criterion.test, Test::FromRdns(_)))
}

fn session_limits(config: &Config) -> Limits {
    Limits {
        max_message_size: config.smtp.max_message_size,
        max_rcpt: config.smtp.max_rcpt,
        max_mails: config.smtp.max_mails,
    }
}
