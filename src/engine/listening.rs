//! What sessions know of the listener they came in on.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Config, Listener, SocketListener};
use crate::mail::Peer;
use crate::session::{HostNames, Limits, Listening, Maillog};

/// A TCP listener, and the address that it is bound to.
pub fn tcp_listening(config: &Config, listener: &Listener, bound: Option<IpAddr>) -> Listening {
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
        observers: vec![Arc::new(Maillog)],
    }
}

/// The control socket, as a way in for mail.
pub fn socket_listening(config: &Config, socket: &SocketListener) -> Listening {
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
        observers: vec![Arc::new(Maillog)],
    }
}

fn session_limits(config: &Config) -> Limits {
    Limits {
        max_message_size: config.smtp.max_message_size,
        max_rcpt: config.smtp.max_rcpt,
        max_mails: config.smtp.max_mails,
    }
}
