//! `action`.

use std::collections::BTreeSet;

use crate::config::LmtpDest;
use crate::config::ast::{
    ActionText, LocalKind, LocalMethod, LocalOption, MethodText, RelayKind, RelayOption, TableRef,
    Text, Verify,
};
use crate::config::diagnostic::TokenPosition;
use crate::config::entries;
use crate::config::model::{
    Action, Delivery, LocalAction, MailFrom, Method, RelayAction, RelayTls, Route, TableName,
};
use crate::config::relayhost::RelayHost;
use crate::config::specifier::{self, Fault, Use};
use crate::mail::MailAddr;
use crate::util::Line;

use super::pki::certificate_key;
use super::table::{Service, Takes};
use super::{Checker, did_you_mean, limits, line};

impl Checker<'_> {
    pub(super) fn action(&mut self, text: &ActionText, at: TokenPosition) {
        let name = &text.name;
        if name.value.len() > limits::ACTION_NAME_BYTES {
            self.error(name.at, "action name too long");
        } else if name.value.is_empty() {
            self.error(name.at, "action name is empty");
        }
        if let Some(first) = self.declared.actions.get(&name.value).copied() {
            let text = format!(
                "dispatcher already declared with that name: {} at {}",
                name.value,
                self.position(first)
            );
            self.error(name.at, text);
        } else {
            self.declared.actions.insert(name.value.clone(), name.at);
        }
        let method = match &text.method {
            MethodText::Local(method, options) => Method::Local(self.local(method, options)),
            MethodText::Relay(options) => {
                Method::Relay(Box::new(self.relay(options, text.method_at)))
            }
        };
        let action = Action {
            name: line(name),
            method,
            ttl_s: self.action_ttl(&text.ttl),
            at: self.position(at),
        };
        self.config.actions.insert(name.value.clone(), action);
    }

    /// Refuses a text with format specifiers that can only fail, and warns of an odd one.
    pub(super) fn template(&mut self, text: &Text, place: Use) {
        match specifier::check(&text.value, place) {
            Ok(()) => {}
            Err(Fault::Fatal(why)) => self.error(text.at, why),
            Err(Fault::Odd(why)) => self.diagnostics.warning(text.at, why),
        }
    }

    fn lmtp(&mut self, dest: &Text, rcpt_to: bool) -> Delivery {
        self.template(dest, Use::Path);
        if let Err(why) = LmtpDest::parse(&dest.value)
            && !LmtpDest::varies(&dest.value)
        {
            let text = format!("invalid lmtp destination \"{}\": {why}", dest.value);
            self.error(dest.at, text);
        }
        Delivery::Lmtp {
            dest: line(dest),
            rcpt_to,
        }
    }

    fn local(&mut self, method: &LocalMethod, options: &[LocalOption]) -> LocalAction {
        match method {
            LocalMethod::Maildir(Some(path), _) => self.template(path, Use::Path),
            LocalMethod::Mda(command) => self.template(command, Use::Command),
            _ => {}
        }
        let mut action = LocalAction {
            delivery: match method {
                LocalMethod::Mbox => Delivery::Mbox,
                LocalMethod::Maildir(path, junk) => Delivery::Maildir {
                    path: path.as_ref().map(line),
                    junk: *junk,
                },
                LocalMethod::Lmtp(dest, rcpt_to) => self.lmtp(dest, *rcpt_to),
                LocalMethod::Mda(command) => Delivery::Mda(line(command)),
                LocalMethod::ForwardOnly => Delivery::ForwardOnly,
                LocalMethod::ExpandOnly => Delivery::ExpandOnly,
            },
            user: None,
            alias: None,
            virtuals: None,
            userbase: None,
            wrapper: None,
        };
        let (mut alias, mut virtuals, mut userbase) = (false, false, false);
        for option in options {
            match &option.kind {
                LocalKind::User(user) => self.user(&mut action, user, option.at),
                LocalKind::Alias(table) => {
                    self.mapping_once(alias, virtuals, option.at);
                    alias = true;
                    action.alias = self.mapping(table, entries::Use::Alias).or(action.alias);
                }
                LocalKind::Virtual(table) => {
                    self.mapping_once(alias, virtuals, option.at);
                    virtuals = true;
                    let table = self.mapping(table, entries::Use::Virtual);
                    action.virtuals = table.or(action.virtuals);
                }
                LocalKind::Userbase(table) => {
                    self.already(userbase, "userbase mapping", option.at);
                    userbase = true;
                    let table = self.mapping(table, entries::Use::Userbase);
                    action.userbase = table.or(action.userbase);
                }
                LocalKind::Wrapper(name) => self.wrapper(&mut action, name, option.at),
            }
        }
        action
    }

    /// One of `alias` and `virtual`, once. The message names the one that is there already.
    fn mapping_once(&mut self, alias: bool, virtuals: bool, at: TokenPosition) {
        self.already(alias, "alias mapping", at);
        self.already(virtuals, "virtual mapping", at);
    }

    fn already(&mut self, seen: bool, what: &str, at: TokenPosition) {
        if seen {
            self.error(at, format!("{what} already specified for this dispatcher"));
        }
    }

    fn user(&mut self, action: &mut LocalAction, user: &Text, at: TokenPosition) {
        let method = match action.delivery {
            Delivery::Mbox => Some("this dispatcher"),
            Delivery::ForwardOnly => Some("forward-only"),
            Delivery::ExpandOnly => Some("expand-only"),
            _ => None,
        };
        if let Some(method) = method {
            self.error(at, format!("user may not be specified for {method}"));
        }
        self.already(action.user.is_some(), "user", at);
        action.user = Some(line(user));
    }

    fn wrapper(&mut self, action: &mut LocalAction, name: &Text, at: TokenPosition) {
        if !self.declared.wrappers.contains_key(&name.value) {
            let known = self.declared.wrappers.keys().map(String::as_str);
            let hint = did_you_mean(&name.value, known);
            let text = format!("no mda wrapper with that name: {}{hint}", name.value);
            return self.unknown(name, text);
        }
        if action.delivery == Delivery::Mbox {
            // The method runs no command that could be wrapped.
            self.error(at, "wrapper may not be specified for mbox");
        }
        self.used.wrappers.insert(name.value.clone());
        action.wrapper = Some(name.value.clone());
    }

    fn mapping(&mut self, table: &TableRef, what: entries::Use) -> Option<TableName> {
        let (service, word) = match what {
            entries::Use::Userbase => (Service::Userinfo, "userbase"),
            entries::Use::Virtual => (Service::Text, "virtual"),
            _ => (Service::Text, "alias"),
        };
        let refused = |name: &str| format!("table \"{name}\" may not be used for {word} lookups");
        let name = self.table_for(table, Takes::Map, service, refused)?;
        self.entries_of(&name, what, table.at);
        Some(name)
    }

    fn relay(&mut self, options: &[RelayOption], method_at: TokenPosition) -> RelayAction {
        let mut action = RelayAction::default();
        let mut seen: Vec<&'static str> = Vec::new();
        for option in options {
            let word = match option.kind {
                RelayKind::Helo(_) => "helo",
                RelayKind::HeloSrc(_) => "helo-source mapping",
                RelayKind::Pki(_) => "pki",
                RelayKind::Ca(_) => "ca",
                RelayKind::Ciphers(_) => "ciphers",
                RelayKind::Protocols(_) => "protocols",
                RelayKind::Src(_) => "source mapping",
                RelayKind::MailFrom(_) => "mail-from",
                RelayKind::Backup(_) => "backup",
                RelayKind::Host(_) | RelayKind::Domain(_) => "host mapping",
                RelayKind::Tls(_) => "tls",
                RelayKind::Auth(_) => "auth mapping",
                RelayKind::Filter(_) => "filter",
                RelayKind::Srs => "srs",
            };
            self.already(seen.contains(&word), word, option.at);
            self.relay_option(&mut action, option, &seen);
            seen.push(word);
        }
        self.relay_entries(&action, options);
        if action.srs && self.declared.srs.key.is_none() {
            let text = "an srs key is required for srs to be specified in an action";
            self.error(method_at, text);
        }
        action
    }

    /// What is wrong with the entries of the tables of a relay, and with their labels.
    fn relay_entries(&mut self, action: &RelayAction, options: &[RelayOption]) {
        for option in options {
            let (table, what, at) = match (&option.kind, &action.route) {
                (RelayKind::Auth(at), _) => (&action.auth, entries::Use::Credentials, at.at),
                (RelayKind::Src(at), _) => (&action.src, entries::Use::Source, at.at),
                (RelayKind::HeloSrc(at), _) => (&action.helo_src, entries::Use::Names, at.at),
                (RelayKind::Domain(at), Route::Domain(table)) => {
                    (&Some(table.clone()), entries::Use::Routes, at.at)
                }
                _ => continue,
            };
            if let Some(table) = table {
                self.entries_of(table, what, at);
            }
        }
        self.labels(action, options);
    }

    /// A login takes a label in the URL of the host, and an entry for it among the credentials.
    fn labels(&mut self, action: &RelayAction, options: &[RelayOption]) {
        let (hosts, is_map) = match &action.route {
            Route::Host(table) => (table, false),
            Route::Domain(table) => (table, true),
            _ => return,
        };
        let mut labels = BTreeSet::new();
        let mut others = false;
        let known = self.each_entry(hosts, &mut |key, value| {
            let url = RelayHost::parse(if is_map { value } else { key });
            match url.map(|url| url.label) {
                Ok(Some(label)) => drop(labels.insert(label.to_ascii_lowercase())),
                Ok(None) => others = true,
                Err(_) => {}
            }
        });
        let at = |wanted: fn(&RelayKind) -> bool| {
            let option = options.iter().find(|option| wanted(&option.kind));
            option.map_or(TokenPosition::default(), |option| option.at)
        };
        let host_at = at(|kind| matches!(kind, RelayKind::Host(_) | RelayKind::Domain(_)));
        let auth_at = at(|kind| matches!(kind, RelayKind::Auth(_)));
        let Some(credentials) = &action.auth else {
            if let Some(label) = labels.first() {
                let text = format!(
                    "the label \"{label}\" needs auth and a table of credentials; without, mail \
                     for its host is not sent"
                );
                self.diagnostics.warning(host_at, text);
            }
            return;
        };
        if known && labels.is_empty() && others {
            let text = "auth has no effect: no host has a label; write smtp+tls://label@host or \
                        smtps://label@host";
            self.diagnostics.warning(auth_at, text);
        }
        let name = credentials.clone();
        if self.each_entry(&name, &mut |key, _| {
            labels.remove(&key.to_ascii_lowercase());
        }) && let Some(label) = labels.first()
        {
            let text = format!(
                "the label \"{label}\" is not in table \"{name}\"; mail for its host is not sent"
            );
            self.diagnostics.warning(auth_at, text);
        }
    }

    fn relay_option(
        &mut self,
        action: &mut RelayAction,
        option: &RelayOption,
        seen: &[&'static str],
    ) {
        match &option.kind {
            RelayKind::Helo(name) => action.helo = Some(line(name)),
            RelayKind::HeloSrc(table) => {
                action.helo_src = self.relay_table(table, Takes::Map, "helo-source");
            }
            RelayKind::Pki(name) => {
                action.pki = Some(certificate_key(name));
                self.relay_pki.push(name.clone());
            }
            RelayKind::Ca(name) => {
                action.ca = Some(certificate_key(name));
                self.relay_ca.push(name.clone());
            }
            RelayKind::Ciphers(names) => action.ciphers = Some(line(names)),
            RelayKind::Protocols(names) => action.protocols = Some(line(names)),
            RelayKind::Src(table) => {
                action.src = self.relay_table(table, Takes::Keys, "source");
            }
            RelayKind::MailFrom(addr) => action.mail_from = self.mail_from(addr),
            RelayKind::Backup(_) | RelayKind::Host(_) | RelayKind::Domain(_) => {
                self.relay_route(action, option, seen);
            }
            RelayKind::Tls(Verify::Yes) => action.tls = RelayTls::Verified,
            RelayKind::Tls(Verify::No) => action.tls = RelayTls::Unverified,
            RelayKind::Auth(table) => {
                if !seen.contains(&"host mapping") {
                    let text = "auth may not be specified without host on a dispatcher; \
                                write host or domain before auth";
                    self.error(option.at, text);
                }
                action.auth = self.relay_table(table, Takes::Map, "auth");
            }
            RelayKind::Filter(filter) => {
                action.filter = self.filter_ref(filter);
                self.programs_hear(action.filter.as_ref(), option.at);
            }
            RelayKind::Srs => action.srs = true,
        }
    }

    /// `backup`, `host` and `domain` exclude each other.
    fn relay_route(
        &mut self,
        action: &mut RelayAction,
        option: &RelayOption,
        seen: &[&'static str],
    ) {
        let (host, backup) = (seen.contains(&"host mapping"), seen.contains(&"backup"));
        let other = match option.kind {
            RelayKind::Domain(_) if backup => Some("domain"),
            RelayKind::Host(_) if backup => Some("host"),
            RelayKind::Backup(_) if host => Some("host"),
            _ => None,
        };
        if let Some(other) = other {
            let text = format!("backup and {other} are mutually exclusive");
            self.error(option.at, text);
        }
        let route = match &option.kind {
            RelayKind::Backup(name) => Some(Route::Backup(name.as_ref().map(line))),
            RelayKind::Host(table) => {
                let hosts = self.relay_table(table, Takes::List, "host");
                if let Some(hosts) = &hosts {
                    self.relay_hosts_of(hosts, table.at);
                }
                hosts.map(Route::Host)
            }
            RelayKind::Domain(table) => self
                .relay_table(table, Takes::Map, "host")
                .map(Route::Domain),
            _ => None,
        };
        action.route = route.unwrap_or_default();
    }

    /// `user`, `@domain` or `user@domain`.
    fn mail_from(&mut self, text: &Text) -> Option<MailFrom> {
        let (user, domain) = match text.value.rsplit_once('@') {
            Some((user, domain)) => (user, domain),
            None => (text.value.as_str(), ""),
        };
        let valid = MailAddr::new(user, domain).ok();
        let parts = valid.and_then(|addr| match (user.is_empty(), domain.is_empty()) {
            (true, true) => None,
            (true, false) => Line::new(domain).ok().map(MailFrom::Domain),
            (false, true) => Line::new(user).ok().map(MailFrom::User),
            (false, false) => Some(MailFrom::Both(addr)),
        });
        if parts.is_none() {
            self.error(text.at, format!("not a valid mail-from: {}", text.value));
        }
        parts
    }

    fn relay_table(&mut self, table: &TableRef, takes: Takes, what: &str) -> Option<TableName> {
        let refused = |name: &str| format!("table \"{name}\" may not be used for {what} lookups");
        self.table_for(table, takes, Service::Text, refused)
    }
}
