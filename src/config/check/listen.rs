//! `listen on`.

use std::net::IpAddr;
use std::path::Path;

use crate::config::ast::{ListenKind, ListenOption, Number, Text};
use crate::config::lexer::Pos;
use crate::config::model::{Family, Listener, Senders, SocketListener};
use crate::config::services;

use super::table::{Service, Takes};
use super::{Checker, did_you_mean, limits, line};

/// Options seen so far on one listener, by the word of the message about a second one.
#[derive(Default)]
struct Seen {
    words: Vec<&'static str>,
    pki: usize,
}

impl Seen {
    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }
}

impl Checker<'_> {
    pub(super) fn listen(&mut self, on: &Text, options: &[ListenOption], at: Pos) {
        let mut listener = Listener {
            on: on.value.clone(),
            family: None,
            port: 25,
            hostname: self.config.server_name.clone(),
            hostnames: None,
            tag: None,
            mask_src: false,
            no_dsn: false,
            received_auth: false,
            senders: None,
            at: self.place(at),
        };
        let smtps = |option: &ListenOption| matches!(option.kind, ListenKind::Smtps(_));
        if options.iter().any(smtps) {
            listener.port = 465;
        }
        let mut seen = Seen::default();
        for option in options {
            self.once(&mut seen, option);
            self.listen_option(&mut listener, option);
        }
        self.listen_together(&seen, on.at);
        self.listen_family(on, listener.family);
        self.config.listeners.push(listener);
    }

    pub(super) fn listen_socket(&mut self, options: &[ListenOption], at: Pos) {
        if std::mem::replace(&mut self.declared.socket, true) {
            self.error(at, "socket listener already configured");
        }
        let mut socket = SocketListener::default();
        let mut seen = Seen::default();
        for option in options {
            self.once(&mut seen, option);
            match &option.kind {
                ListenKind::Filter(filter) => self.filter_ref(filter),
                ListenKind::MaskSrc => socket.mask_src = true,
                ListenKind::NoDsn => socket.no_dsn = true,
                ListenKind::Tag(tag) => socket.tag = self.tag(tag),
                _ => {}
            }
        }
        self.config.socket = socket;
    }

    fn listen_option(&mut self, listener: &mut Listener, option: &ListenOption) {
        match &option.kind {
            ListenKind::Inet4 => listener.family = Some(Family::Inet4),
            ListenKind::Inet6 => listener.family = Some(Family::Inet6),
            ListenKind::PortNumber(number) => listener.port = self.port(*number),
            ListenKind::PortName(name) => listener.port = self.port_name(name),
            ListenKind::Pki(name) => self.known_pki(name),
            ListenKind::Ca(name) => self.known_ca(name),
            ListenKind::Auth(Some(table)) | ListenKind::AuthOptional(Some(table)) => {
                let refused =
                    |name: &str| format!("invalid use of table \"{name}\" as AUTH parameter");
                self.table_for(table, Takes::Map, Service::Text, refused);
            }
            ListenKind::Hostname(name) => listener.hostname = line(name),
            ListenKind::Hostnames(table) => {
                let refused =
                    |name: &str| format!("invalid use of table \"{name}\" as HOSTNAMES parameter");
                listener.hostnames = self.table_for(table, Takes::Map, Service::Text, refused);
            }
            ListenKind::ReceivedAuth => listener.received_auth = true,
            ListenKind::Senders(table, masquerade) => {
                let refused =
                    |name: &str| format!("invalid use of table \"{name}\" as SENDERS parameter");
                let table = self.table_for(table, Takes::Map, Service::Text, refused);
                listener.senders = table.map(|table| Senders {
                    table,
                    masquerade: *masquerade,
                });
            }
            ListenKind::Filter(filter) => self.filter_ref(filter),
            ListenKind::MaskSrc => listener.mask_src = true,
            ListenKind::NoDsn => listener.no_dsn = true,
            ListenKind::Tag(tag) => listener.tag = self.tag(tag),
            ListenKind::Smtps(_)
            | ListenKind::Tls
            | ListenKind::TlsRequire(_)
            | ListenKind::Ciphers(_)
            | ListenKind::Protocols(_)
            | ListenKind::Auth(None)
            | ListenKind::AuthOptional(None)
            | ListenKind::ProxyV2 => {}
        }
    }

    fn once(&mut self, seen: &mut Seen, option: &ListenOption) {
        let word = match &option.kind {
            ListenKind::Filter(_) => "filter",
            ListenKind::MaskSrc => "mask-source",
            ListenKind::NoDsn => "no-dsn",
            ListenKind::Tag(_) => "tag",
            ListenKind::Inet4 | ListenKind::Inet6 => "address family",
            ListenKind::PortNumber(_) | ListenKind::PortName(_) => "port",
            ListenKind::Smtps(_) | ListenKind::Tls | ListenKind::TlsRequire(_) => "TLS mode",
            ListenKind::Ciphers(_) => "ciphers",
            ListenKind::Protocols(_) => "protocols",
            ListenKind::Ca(_) => "ca",
            ListenKind::Auth(_) | ListenKind::AuthOptional(_) => "auth",
            ListenKind::Hostname(_) => "hostname",
            ListenKind::Hostnames(_) => "hostnames",
            ListenKind::ReceivedAuth => "received-auth",
            ListenKind::ProxyV2 => "proxy-v2",
            ListenKind::Senders(..) => "senders",
            ListenKind::Pki(_) => {
                seen.pki += 1;
                if seen.pki == limits::LISTENER_PKI + 1 {
                    self.error(option.at, "too many pki specified");
                }
                return;
            }
        };
        if seen.has(word) {
            self.error(option.at, format!("{word} already specified"));
        }
        seen.words.push(word);
    }

    fn listen_together(&mut self, seen: &Seen, at: Pos) {
        let tls = seen.has("TLS mode");
        if seen.has("auth") && !tls {
            self.error(at, "invalid listen option: auth requires tls/smtps");
        }
        if seen.pki > 0 && !tls {
            self.error(at, "invalid listen option: pki requires tls/smtps");
        }
        if seen.pki == 0 && tls {
            self.error(at, "invalid listen option: pki required for tls/smtps");
        }
    }

    /// An address of one family cannot be listened on with the other.
    fn listen_family(&mut self, on: &Text, family: Option<Family>) {
        let Ok(addr) = on.value.parse::<IpAddr>() else {
            return;
        };
        let word = match (addr, family) {
            (IpAddr::V4(_), Some(Family::Inet6)) => "inet6",
            (IpAddr::V6(_), Some(Family::Inet4)) => "inet4",
            _ => return,
        };
        let text = format!(
            "invalid virtual ip or interface: {}; it is no {word} address",
            on.value
        );
        self.error(on.at, text);
    }

    fn tag(&mut self, tag: &Text) -> Option<crate::util::Line> {
        if tag.value.len() > limits::TAG_BYTES {
            self.error(tag.at, "tag name too long; at most 32 bytes");
        } else if tag.value.is_empty() {
            self.error(tag.at, "tag name is empty");
        }
        Some(line(tag))
    }

    fn port(&mut self, number: Number) -> u16 {
        match u16::try_from(number.value) {
            Ok(port) if port > 0 => port,
            _ => {
                let text = format!("invalid port: {}; expected 1 to 65535", number.value);
                self.error(number.at, text);
                25
            }
        }
    }

    fn port_name(&mut self, name: &Text) -> u16 {
        let file = self.sources.file(Path::new(services::FILE));
        let found = services::well_known(&name.value)
            .or_else(|| services::in_file(file.unwrap_or_default(), &name.value));
        found.unwrap_or_else(|| {
            let text = format!(
                "invalid port: {}; no such service in services(5)",
                name.value
            );
            self.error(name.at, text);
            25
        })
    }

    pub(super) fn known_pki(&mut self, name: &Text) {
        if !self.declared.pki.contains(&name.value.to_ascii_lowercase()) {
            let hint = did_you_mean(&name.value, self.declared.pki.iter().map(String::as_str));
            let text = format!("pki name not found: {}{hint}", name.value);
            self.unknown(name, text);
        }
    }

    pub(super) fn known_ca(&mut self, name: &Text) {
        if !self.declared.ca.contains(&name.value.to_ascii_lowercase()) {
            let hint = did_you_mean(&name.value, self.declared.ca.iter().map(String::as_str));
            let text = format!("ca name not found: {}{hint}", name.value);
            self.unknown(name, text);
        }
    }
}
