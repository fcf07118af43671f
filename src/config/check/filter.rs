//! `filter`, and filters on listeners and relays.

use std::collections::BTreeSet;

use crate::config::ast::{ConditionKind, FilterRef, FilterValue, PatternText, Text};

use super::table::Service;
use super::{Checker, did_you_mean};

/// What a filter's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterKind {
    /// One filter.
    Single,
    /// A chain of them.
    Chain,
}

impl Checker<'_> {
    pub(super) fn filter(&mut self, name: &Text, value: &FilterValue) {
        if self.declared.filters.contains_key(&name.value) {
            let text = format!("filter already exists with that name: {}", name.value);
            self.error(name.at, text);
        }
        let kind = match value {
            FilterValue::Chain(names) => {
                self.chain(names);
                FilterKind::Chain
            }
            FilterValue::Proc(proc) => {
                self.known_proc(proc);
                FilterKind::Single
            }
            FilterValue::ProcExec(_, options) => {
                self.proc_options(options);
                FilterKind::Single
            }
            FilterValue::Phase(_, condition, _) => {
                self.condition(&condition.kind);
                FilterKind::Single
            }
        };
        self.declared.filters.insert(name.value.clone(), kind);
    }

    pub(super) fn filter_ref(&mut self, filter: &FilterRef) {
        match filter {
            FilterRef::Chain(names) => self.chain(names),
            FilterRef::Named(name) => {
                self.known_filter(name);
            }
        }
    }

    fn chain(&mut self, names: &[Text]) {
        let mut seen = BTreeSet::new();
        for name in names {
            if self.known_filter(name) == Some(FilterKind::Chain) {
                let text = format!(
                    "no filter chain allowed within a filter chain: {}",
                    name.value
                );
                self.error(name.at, text);
            }
            if !seen.insert(&name.value) {
                let text = format!(
                    "no filter allowed twice within a filter chain: {}",
                    name.value
                );
                self.error(name.at, text);
            }
        }
    }

    fn known_filter(&mut self, name: &Text) -> Option<FilterKind> {
        let kind = self.declared.filters.get(&name.value).copied();
        if kind.is_none() {
            let known = self.declared.filters.keys().map(String::as_str);
            let hint = did_you_mean(&name.value, known);
            let text = format!("no filter exist with that name: {}{hint}", name.value);
            self.unknown(name, text);
        }
        kind
    }

    fn known_proc(&mut self, name: &Text) {
        if !self.declared.procs.contains_key(&name.value) {
            let known = self.declared.procs.keys().map(String::as_str);
            let hint = did_you_mean(&name.value, known);
            let text = format!("no processor exist with that name: {}{hint}", name.value);
            self.unknown(name, text);
        }
    }

    fn condition(&mut self, kind: &ConditionKind) {
        let (pattern, service, what): (&PatternText, _, _) = match kind {
            ConditionKind::Fcrdns | ConditionKind::Rdns(None) | ConditionKind::Auth(None) => return,
            ConditionKind::Rdns(Some(pattern)) => (pattern, Service::Domain, "rdns"),
            ConditionKind::Src(pattern) => (pattern, Service::Netaddr, "src"),
            ConditionKind::Helo(pattern) => (pattern, Service::Domain, "helo"),
            ConditionKind::Auth(Some(pattern)) => (pattern, Service::Text, "auth"),
            ConditionKind::MailFrom(pattern) => (pattern, Service::Mailaddr, "mail-from"),
            ConditionKind::RcptTo(pattern) => (pattern, Service::Mailaddr, "rcpt-to"),
        };
        self.pattern(pattern, service, what);
    }
}
