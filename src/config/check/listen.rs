//! `listen on`.

use std::net::IpAddr;
use std::path::Path;

use crate::config::ast::{ListenKind, ListenOption, Number, TableRef, TableValue, Text, Verify};
use crate::config::diagnostic::TokenPosition;
use crate::config::model::{
    AuthNeed, ClientCertificate, Family, ListenAuth, ListenTls, Listener, Proxy, Senders,
    SocketListener, TableSource, TlsMode,
};
use crate::config::services;

use super::table::{Service, Takes};
use super::{Checker, limits, line};

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
    pub(super) fn listen(&mut self, on: &Text, options: &[ListenOption], at: TokenPosition) {
        let mut listener = Listener {
            on: on.value.clone(),
            port: 25,
            hostname: self.config.server_name.clone(),
            at: self.position(at),
            ..Listener::default()
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
        listener.tls = self.listen_tls(options);
        self.listen_together(&seen, on.at);
        self.listen_family(on, listener.family);
        self.config.listeners.push(listener);
    }

    pub(super) fn listen_socket(&mut self, options: &[ListenOption], at: TokenPosition) {
        if std::mem::replace(&mut self.declared.socket, true) {
            self.error(at, "socket listener already configured");
        }
        let mut socket = SocketListener::default();
        let mut seen = Seen::default();
        for option in options {
            self.once(&mut seen, option);
            match &option.kind {
                ListenKind::Filter(filter) => socket.filter = self.filter_ref(filter),
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
            ListenKind::Auth(table) => {
                listener.auth = Some(self.listen_auth(AuthNeed::Required, table.as_ref()));
            }
            ListenKind::AuthOptional(table) => {
                listener.auth = Some(self.listen_auth(AuthNeed::Optional, table.as_ref()));
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
            ListenKind::ProxyV2(from) => {
                listener.proxy_v2 = Some(self.listen_proxy(&listener.on, from.as_ref(), option.at));
            }
            ListenKind::Filter(filter) => listener.filter = self.filter_ref(filter),
            ListenKind::MaskSrc => listener.mask_src = true,
            ListenKind::NoDsn => listener.no_dsn = true,
            ListenKind::Tag(tag) => listener.tag = self.tag(tag),
            // These make one thing together.
            ListenKind::Smtps(_)
            | ListenKind::Tls
            | ListenKind::TlsRequire(_)
            | ListenKind::Pki(_)
            | ListenKind::Ca(_)
            | ListenKind::Ciphers(_)
            | ListenKind::Protocols(_) => {}
        }
    }

    fn listen_auth(&mut self, need: AuthNeed, table: Option<&TableRef>) -> ListenAuth {
        // A word that is no option is taken for the only entry of a list.
        let hint = match table.map(|table| &table.value) {
            Some(TableValue::One(word)) if word.value == "mask-source" => {
                "; did you mean \"mask-src\"?"
            }
            Some(TableValue::One(_)) => "; a table is named in <>",
            _ => "",
        };
        let refused =
            |name: &str| format!("invalid use of table \"{name}\" as AUTH parameter{hint}");
        let found = |table| self.table_for(table, Takes::Map, Service::Text, refused);
        ListenAuth {
            need,
            table: table.and_then(found),
        }
    }

    /// Whoever may send the header may say that it is anybody.
    fn listen_proxy(&mut self, on: &str, from: Option<&TableRef>, at: TokenPosition) -> Proxy {
        let inside = on.parse::<IpAddr>().is_ok_and(|addr| addr.is_loopback());
        if from.is_none() && !inside {
            let text = "proxy-v2: whoever connects may claim any address; name the proxies, as in \
                        \"proxy-v2 from { 192.0.2.1 }\"";
            self.diagnostics.warning(at, text);
        }
        let refused = |name: &str| format!("invalid use of table \"{name}\" as PROXY parameter");
        let found = |table| self.table_for(table, Takes::List, Service::Netaddr, refused);
        let name = from.and_then(found);
        let source = name.as_ref().and_then(|name| self.config.tables.get(name));
        if let (Some(table), Some(TableSource::Program(_)), Some(name)) = (from, source, &name) {
            let is = "it is a program, and nobody could connect while it is asked";
            self.error(table.at, format!("{}; {is}", refused(name)));
        }
        Proxy { from: name }
    }

    /// What the options about TLS say together; `None` without one that asks for it. Those that
    /// only say how are then without effect.
    fn listen_tls(&mut self, options: &[ListenOption]) -> Option<ListenTls> {
        let mut tls = ListenTls {
            mode: TlsMode::Offered,
            client: ClientCertificate::NotAsked,
            pki: Vec::new(),
            ca: None,
            ciphers: None,
            protocols: None,
        };
        let mut mode = None;
        let mut how = None;
        for option in options {
            let asked = match &option.kind {
                ListenKind::Tls => Some((TlsMode::Offered, Verify::No)),
                ListenKind::TlsRequire(verify) => Some((TlsMode::Required, *verify)),
                ListenKind::Smtps(verify) => Some((TlsMode::Immediate, *verify)),
                ListenKind::Pki(name) => {
                    tls.pki.extend(self.known_pki(name));
                    None
                }
                ListenKind::Ca(name) => {
                    how.get_or_insert((option.at, "ca"));
                    tls.ca = self.known_ca(name);
                    None
                }
                ListenKind::Ciphers(text) => {
                    how.get_or_insert((option.at, "ciphers"));
                    tls.ciphers = Some((line(text), self.position(text.at)));
                    None
                }
                ListenKind::Protocols(text) => {
                    how.get_or_insert((option.at, "protocols"));
                    tls.protocols = Some((line(text), self.position(text.at)));
                    None
                }
                _ => None,
            };
            mode = asked.or(mode);
        }
        let Some((mode, verify)) = mode else {
            if let Some((at, word)) = how {
                let text = format!("{word} has no effect without tls, tls-require or smtps");
                self.diagnostics.warning(at, text);
            }
            return None;
        };
        tls.mode = mode;
        if verify == Verify::Yes {
            tls.client = ClientCertificate::Required;
        }
        Some(tls)
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
            ListenKind::ProxyV2(_) => "proxy-v2",
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

    fn listen_together(&mut self, seen: &Seen, at: TokenPosition) {
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
}
