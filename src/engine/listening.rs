//! What sessions know of the listener they came in on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, Listener, SocketListener};
use crate::filter::Filters;
use crate::mail::Peer;
use crate::session::{HostNames, Limits, Listening, Maillog, Reports};

/// A TCP listener, and the address that it is bound to.
pub fn tcp_listening(
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
        limits: session_limits(config),
        filter: listener
            .filter
            .as_ref()
            .and_then(|name| filters.chain(name)),
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
        limits: session_limits(config),
        filter: socket.filter.as_ref().and_then(|name| filters.chain(name)),
        address: None,
        socket: path.to_owned(),
        observers: vec![Arc::new(Maillog), Arc::new(Reports)],
    }
}

fn session_limits(config: &Config) -> Limits {
    Limits {
        max_message_size: config.smtp.max_message_size,
        max_rcpt: config.smtp.max_rcpt,
        max_mails: config.smtp.max_mails,
    }
}
