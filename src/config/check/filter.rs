//! `filter`, and filters on listeners and relays.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ast::{self, ConditionKind, FilterRef, FilterValue, PatternText, Text};
use crate::config::diagnostic::TokenPosition;
use crate::config::model::{BuiltIn, Condition, Decision, Filter, FilterName, Pattern, Phase};
use crate::util::Line;

use super::table::Service;
use super::{Checker, did_you_mean, line};

impl Checker<'_> {
    pub(super) fn filter(&mut self, name: &Text, value: &FilterValue, at: TokenPosition) {
        if self.config.filters.contains_key(&name.value) {
            let text = format!("filter already exists with that name: {}", name.value);
            self.error(name.at, text);
        }
        let filter = match value {
            FilterValue::Chain(names) => Some(self.chain(names)),
            FilterValue::Proc(proc) => {
                self.known_proc(proc);
                Some(Filter::Proc(proc.value.clone()))
            }
            FilterValue::ProcExec(command, options) => {
                self.add_proc(name, command, options, at);
                Some(Filter::Proc(name.value.clone()))
            }
            FilterValue::Phase(phase, condition, decision) => {
                let built_in = self.built_in(*phase, condition, decision);
                built_in.map(Filter::BuiltIn)
            }
        };
        let place = self.declared.filters.entry(name.value.clone());
        place.or_insert(name.at);
        match filter {
            Some(filter) => drop(self.config.filters.insert(name.value.clone(), filter)),
            // What is wrong with it has been said; its uses are no errors of their own.
            None => drop(
                self.config
                    .filters
                    .insert(name.value.clone(), Filter::Chain(Vec::new())),
            ),
        }
    }

    /// The filter that an option names. Names in braces make a chain of their own.
    pub(super) fn filter_ref(&mut self, filter: &FilterRef) -> Option<FilterName> {
        match filter {
            FilterRef::Chain(names) => {
                let chain = self.chain(names);
                // It says what it is, so that it is the same one in another configuration.
                let members: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
                let name = format!("<dynchain:{}>", members.join(","));
                self.config.filters.insert(name.clone(), chain);
                Some(name)
            }
            FilterRef::Named(name) => self.known_filter(name).map(|_| name.value.clone()),
        }
    }

    /// smtpd.conf(5), relay, filter: programs are told of sessions, and no filter decides in them.
    pub(super) fn programs_hear(&mut self, name: Option<&FilterName>, at: TokenPosition) {
        let filters = &self.config.filters;
        let decides = |name: &FilterName| matches!(filters.get(name), Some(Filter::BuiltIn(_)));
        let is_useless = name.is_some_and(|name| match filters.get(name) {
            Some(Filter::Chain(names)) => !names.is_empty() && names.iter().all(decides),
            _ => decides(name),
        });
        if is_useless {
            let text = "this filter has no effect: sessions with other hosts are told to \
                        programs, and no filter decides in them";
            self.diagnostics.warning(at, text);
        }
    }

    fn chain(&mut self, names: &[Text]) -> Filter {
        let mut seen = BTreeSet::new();
        let mut programs: BTreeMap<String, &str> = BTreeMap::new();
        let mut members = Vec::new();
        for name in names {
            let value = &name.value;
            let (chain, program) = match self.known_filter(name) {
                None => continue,
                Some(Filter::Chain(members)) => (!members.is_empty(), None),
                Some(Filter::Proc(program)) => (false, Some(program.clone())),
                Some(Filter::BuiltIn(_)) => (false, None),
            };
            if chain {
                let text = format!("no filter chain allowed within a filter chain: {value}");
                self.error(name.at, text);
            }
            if !seen.insert(value) {
                let text = format!("no filter allowed twice within a filter chain: {value}");
                self.error(name.at, text);
                continue;
            }
            if let Some(program) = program
                && let Some(first) = programs.insert(program, value)
            {
                let text = format!("filters {first} and {value} of this chain are one processor");
                self.diagnostics.warning(name.at, text);
            }
            members.push(value.clone());
        }
        Filter::Chain(members)
    }

    fn known_filter(&mut self, name: &Text) -> Option<&Filter> {
        if !self.config.filters.contains_key(&name.value) {
            let known = self.declared.filters.keys().map(String::as_str);
            let hint = did_you_mean(&name.value, known);
            let text = format!("no filter exist with that name: {}{hint}", name.value);
            self.unknown(name, text);
        }
        self.used.filters.insert(name.value.clone());
        self.config.filters.get(&name.value)
    }

    fn known_proc(&mut self, name: &Text) {
        if !self.config.procs.contains_key(&name.value) {
            let known = self.declared.procs.keys().map(String::as_str);
            let hint = did_you_mean(&name.value, known);
            let text = format!("no processor exist with that name: {}{hint}", name.value);
            self.unknown(name, text);
        }
        self.used.procs.insert(name.value.clone());
    }

    fn built_in(
        &mut self,
        phase: Phase,
        condition: &ast::Condition,
        decision: &ast::Decision,
    ) -> Option<BuiltIn> {
        let negated = condition.negated;
        let condition = self.condition(&condition.kind);
        let decision = match decision {
            ast::Decision::Reject(text) => match self.reply(text, "reject") {
                Some(reply) => Decision::Reject(reply),
                None => no_reply(),
            },
            ast::Decision::Disconnect(text) => match self.reply(text, "disconnect") {
                Some(reply) => Decision::Disconnect(reply),
                None => no_reply(),
            },
            ast::Decision::Rewrite(text) => Decision::Rewrite(line(text)),
            ast::Decision::Report(text) => Decision::Report(line(text)),
            ast::Decision::Junk => Decision::Junk,
            ast::Decision::Bypass => Decision::Bypass,
        };
        Some(BuiltIn {
            phase,
            negated,
            condition: condition?,
            decision,
        })
    }

    /// smtpd.conf(5): a message must start with a 4xx or 5xx status code (RFC 5321 §4.2). `None`
    /// for one that does not; what is said instead is OpenSMTPD's.
    fn reply(&mut self, text: &Text, word: &str) -> Option<Line> {
        let bytes = text.value.as_bytes();
        let valid = matches!(bytes, [b'4' | b'5', b'0'..=b'9', b'0'..=b'9', b' ', ..]);
        if valid && bytes.len() > 4 {
            return Some(line(text));
        }
        let example = match word {
            "reject" => "550 no",
            _ => "421 bye",
        };
        let warning = format!(
            "unusable message of {word}: \"{}\"; whoever meets this filter will be told \
             \"{NO_REPLY}\" and disconnected; a message starts with a code from 400 to 599 and a \
             blank, as in \"{example}\"",
            text.value
        );
        self.diagnostics.warning(text.at, warning);
        None
    }

    fn condition(&mut self, kind: &ConditionKind) -> Option<Condition> {
        let mut pattern = |pattern: &PatternText, service, what| -> Option<Pattern> {
            self.pattern(pattern, service, what)
        };
        match kind {
            ConditionKind::Fcrdns => Some(Condition::Fcrdns),
            ConditionKind::Rdns(None) => Some(Condition::Rdns(None)),
            ConditionKind::Rdns(Some(p)) => {
                pattern(p, Service::Domain, "rdns").map(|p| Condition::Rdns(Some(p)))
            }
            ConditionKind::Src(p) => pattern(p, Service::Netaddr, "src").map(Condition::Src),
            ConditionKind::Helo(p) => pattern(p, Service::Domain, "helo").map(Condition::Helo),
            ConditionKind::Auth(None) => Some(Condition::Auth(None)),
            ConditionKind::Auth(Some(p)) => {
                pattern(p, Service::Mailaddr, "auth").map(|p| Condition::Auth(Some(p)))
            }
            ConditionKind::MailFrom(p) => {
                pattern(p, Service::Mailaddr, "mail-from").map(Condition::MailFrom)
            }
            ConditionKind::RcptTo(p) => {
                pattern(p, Service::Mailaddr, "rcpt-to").map(Condition::RcptTo)
            }
        }
    }
}

/// What a client is told in place of a message that is no reply.
const NO_REPLY: &str = "421 Internal server error";

fn no_reply() -> Decision {
    Decision::Disconnect(Line::sanitize(NO_REPLY.as_bytes()))
}
