//! Directives that set something for the whole daemon.

use crate::config::ast::{Limit, MtaLimit, Number, Size, TableRef, Text};
use crate::config::model::{Family, MtaLimits, QueueKey};
use crate::config::specifier::Use;
use crate::config::values;
use crate::util::Secret;

use super::table::{Service, Takes};
use super::{Checker, did_you_mean, limits, line};

const DELAY_HINT: &str = "; a delay is a number from 1, directly followed by s, m, h or d";

impl Checker<'_> {
    pub(super) fn bounce_warn(&mut self, delays: &[Text]) {
        let mut seconds = Vec::new();
        for delay in delays {
            match values::delay_s(&delay.value) {
                Some(delay_s) => seconds.push(delay_s),
                None => {
                    let text = format!("invalid bounce delay: {}{DELAY_HINT}", delay.value);
                    self.error(delay.at, text);
                }
            }
        }
        if let Some(extra) = delays.get(limits::BOUNCE_DELAYS) {
            let text = "only the first four delays are used";
            self.diagnostics.warning(extra.at, text);
        }
        seconds.truncate(limits::BOUNCE_DELAYS);
        self.config.bounce_warn_s = seconds;
    }

    pub(super) fn admd(&mut self, name: &Text) {
        let printable = |b: u8| b.is_ascii_graphic() || b == b' ';
        if !name.value.bytes().all(printable) || name.value.trim().is_empty() {
            self.error(name.at, format!("not a valid admd: {}", name.value));
        }
        self.config.admd = Some(line(name));
    }

    pub(super) fn queue_ttl(&mut self, delay: &Text) {
        match values::delay_s(&delay.value) {
            Some(ttl_s) => self.config.queue.ttl_s = ttl_s,
            None => {
                let text = format!("invalid ttl delay: {}{DELAY_HINT}", delay.value);
                self.error(delay.at, text);
            }
        }
    }

    pub(super) fn queue_encryption(&mut self, key: Option<&Text>) {
        let Some(key) = key else {
            self.config.queue.encryption = Some(QueueKey::Terminal);
            return;
        };
        let from_stdin = key.value.eq_ignore_ascii_case("stdin") || key.value == "-";
        if !from_stdin && key.value.len() != 32 {
            let text = format!(
                "invalid key for queue encryption: it has {} bytes, 32 are needed",
                key.value.len()
            );
            self.error(key.at, text);
        }
        self.config.queue.encryption = Some(if from_stdin {
            QueueKey::Stdin
        } else {
            QueueKey::Text(Secret::new(line(key)))
        });
    }

    pub(super) fn srs_ttl(&mut self, delay: &Text) {
        match values::delay_s(&delay.value) {
            None => {
                let text = format!("ttl delay \"{}\" is invalid{DELAY_HINT}", delay.value);
                self.error(delay.at, text);
            }
            Some(ttl_s) if ttl_s < 86400 => {
                let text = format!(
                    "ttl delay \"{}\" is too short; it counts in days",
                    delay.value
                );
                self.error(delay.at, text);
            }
            Some(ttl_s) => self.declared.srs.ttl_days = Some(ttl_s / 86400),
        }
    }

    /// `ttl` of an action.
    pub(super) fn action_ttl(&mut self, delays: &[Text]) -> Option<u32> {
        if let Some(second) = delays.get(1) {
            self.error(second.at, "ttl already specified for this dispatcher");
        }
        let delay = delays.first()?;
        let ttl_s = values::delay_s(&delay.value);
        if ttl_s.is_none() {
            let text = format!("ttl delay \"{}\" is invalid{DELAY_HINT}", delay.value);
            self.error(delay.at, text);
        }
        ttl_s
    }

    pub(super) fn max_message_size(&mut self, size: &Size) {
        let (bytes, text, at) = match size {
            Size::Bytes(number) => (
                u64::try_from(number.value).ok(),
                number.value.to_string(),
                number.at,
            ),
            Size::Scaled(text) => (values::size_bytes(&text.value), text.value.clone(), text.at),
        };
        match bytes {
            Some(bytes) => self.config.smtp.max_message_size = bytes,
            None => {
                let text = format!(
                    "invalid size: {text}; a size is a number, perhaps followed by B, K, M, G, T, P or E"
                );
                self.error(at, text);
            }
        }
    }

    pub(super) fn sub_addr_delim(&mut self, text: &Text) {
        let mut bytes = text.value.bytes();
        let (Some(byte), None) = (bytes.next(), bytes.next()) else {
            let message = "subaddressing-delimiter must be one character";
            return self.error(text.at, message);
        };
        if !byte.is_ascii_graphic() || byte == b'@' {
            return self.error(text.at, "sub-addr-delim uses invalid character");
        }
        self.config.smtp.sub_addr_delim = char::from(byte);
    }

    pub(super) fn mda_wrapper(&mut self, name: &Text, command: &Text) {
        if self.declared.wrappers.contains_key(&name.value) {
            let text = format!(
                "mda wrapper already declared with that name: {}",
                name.value
            );
            return self.error(name.at, text);
        }
        self.template(command, Use::Wrapper);
        self.declared.wrappers.insert(name.value.clone(), name.at);
        self.config
            .mda_wrappers
            .insert(name.value.clone(), line(command));
    }

    pub(super) fn mda_limit(&mut self, items: &[Limit]) {
        const KEYS: [&str; 5] = [
            "max-session",
            "max-session-per-user",
            "task-hiwat",
            "task-lowat",
            "task-release",
        ];
        for item in items {
            let Some(value) = self.limit_value(item, "scheduler", &KEYS) else {
                continue;
            };
            let mda = &mut self.config.mda;
            *(match item.key.value.as_str() {
                "max-session" => &mut mda.max_session,
                "max-session-per-user" => &mut mda.max_session_per_user,
                "task-hiwat" => &mut mda.task_hiwat,
                "task-lowat" => &mut mda.task_lowat,
                _ => &mut mda.task_release,
            }) = value as usize;
        }
    }

    pub(super) fn scheduler_limit(&mut self, items: &[Limit]) {
        const KEYS: [&str; 4] = [
            "max-inflight",
            "max-schedule",
            "max-evp-batch-size",
            "max-msg-batch-size",
        ];
        for item in items {
            let Some(value) = self.limit_value(item, "scheduler", &KEYS) else {
                continue;
            };
            let scheduler = &mut self.config.scheduler;
            *(match item.key.value.as_str() {
                "max-inflight" => &mut scheduler.max_inflight,
                "max-schedule" => &mut scheduler.max_schedule,
                "max-evp-batch-size" => &mut scheduler.max_evp_batch_size,
                _ => &mut scheduler.max_msg_batch_size,
            }) = value as usize;
        }
    }

    pub(super) fn smtp_limit(&mut self, items: &[Limit]) {
        const KEYS: [&str; 4] = [
            "max-rcpt",
            "max-mails",
            "max-auth-failures",
            "max-sessions-per-source",
        ];
        for item in items {
            let Some(value) = self.limit_value(item, "session", &KEYS) else {
                continue;
            };
            let smtp = &mut self.config.smtp;
            match item.key.value.as_str() {
                "max-rcpt" => smtp.max_rcpt = value as usize,
                "max-mails" => smtp.max_mails = value as usize,
                "max-auth-failures" => smtp.max_auth_failures = value,
                _ => smtp.max_sessions_per_source = value,
            }
        }
    }

    pub(super) fn smtp_limit_bypass(&mut self, table: &TableRef) {
        let refused = |name: &str| format!("invalid use of table \"{name}\" as BYPASS parameter");
        let found = self.table_for(table, Takes::List, Service::Netaddr, refused);
        self.config.smtp.bypass = found;
    }

    pub(super) fn mta_max_deferred(&mut self, number: Number) {
        match u32::try_from(number.value) {
            Ok(value) => self.config.mta.max_deferred = value as usize,
            Err(_) => self.error(number.at, out_of_range(number.value)),
        }
    }

    /// `for domain` starts from what the limits for all domains are at that point.
    pub(super) fn mta_limit(&mut self, domain: Option<&Text>, items: &[MtaLimit]) {
        let key = domain.map(|domain| domain.value.clone());
        let known = key
            .as_ref()
            .and_then(|key| self.config.mta.domains.get(key));
        let mut limits = known.copied().unwrap_or(self.config.mta.limits);
        for item in items {
            match item {
                MtaLimit::Inet4 => limits.family = Some(Family::Inet4),
                MtaLimit::Inet6 => limits.family = Some(Family::Inet6),
                MtaLimit::Limit(item) => {
                    let keys: Vec<&str> = MTA_KEYS.iter().map(|(key, _)| *key).collect();
                    let value = self.limit_value(item, "mta", &keys);
                    let known = MTA_KEYS.iter().find(|(key, _)| *key == item.key.value);
                    if let (Some(value), Some((_, field))) = (value, known) {
                        *field(&mut limits) = value;
                    }
                }
            }
        }
        match key {
            Some(key) => {
                self.config.mta.domains.insert(key, limits);
            }
            None => self.config.mta.limits = limits,
        }
    }

    /// The value of a limit whose key is one of `keys`; `what` is the message's word for them.
    fn limit_value(&mut self, item: &Limit, what: &str, keys: &[&str]) -> Option<u32> {
        let key = &item.key.value;
        if !keys.contains(&key.as_str()) {
            let hint = did_you_mean(key, keys.iter().copied());
            let text = format!("invalid {what} limit keyword: {key}{hint}");
            self.error(item.key.at, text);
            return None;
        }
        let value = u32::try_from(item.value.value).ok();
        if value.is_none() {
            self.error(item.value.at, out_of_range(item.value.value));
        }
        value
    }
}

fn out_of_range(value: i64) -> String {
    format!("invalid limit: {value}; a limit is a number from 0 to 4294967295")
}

type Field = fn(&mut MtaLimits) -> &mut u32;

const MTA_KEYS: &[(&str, Field)] = &[
    ("max-conn-per-host", |l| &mut l.max_conn_per_host),
    ("max-conn-per-route", |l| &mut l.max_conn_per_route),
    ("max-conn-per-source", |l| &mut l.max_conn_per_source),
    ("max-conn-per-connector", |l| &mut l.max_conn_per_connector),
    ("max-conn-per-relay", |l| &mut l.max_conn_per_relay),
    ("max-conn-per-domain", |l| &mut l.max_conn_per_domain),
    ("conn-delay-host", |l| &mut l.conn_delay_host_s),
    ("conn-delay-route", |l| &mut l.conn_delay_route_s),
    ("conn-delay-source", |l| &mut l.conn_delay_source_s),
    ("conn-delay-connector", |l| &mut l.conn_delay_connector_s),
    ("conn-delay-relay", |l| &mut l.conn_delay_relay_s),
    ("conn-delay-domain", |l| &mut l.conn_delay_domain_s),
    ("reconn-delay-route", |l| &mut l.reconn_delay_route_s),
    ("session-mail-max", |l| &mut l.session_mail_max),
    ("session-transaction-delay", |l| {
        &mut l.session_transaction_delay_s
    }),
    ("session-keepalive", |l| &mut l.session_keepalive_s),
    ("max-failures-per-session", |l| {
        &mut l.max_failures_per_session
    }),
    ("task-hiwat", |l| &mut l.task_hiwat),
    ("task-lowat", |l| &mut l.task_lowat),
    ("task-release", |l| &mut l.task_release),
];
