//! `pki`, `ca` and `proc`.

use crate::config::ast::{PkiOption, ProcOption, ProcOptionKind, Text};

use super::Checker;

impl Checker<'_> {
    pub(super) fn ca(&mut self, name: &Text) {
        if self.certificate_name(name) {
            self.declared.ca.insert(name.value.to_ascii_lowercase());
        }
    }

    pub(super) fn pki(&mut self, name: &Text, options: &[PkiOption]) {
        if self.certificate_name(name) {
            self.declared.pki.insert(name.value.to_ascii_lowercase());
        }
        for option in options {
            let PkiOption::Dhe(params) = option else {
                continue;
            };
            let known = ["none", "auto", "legacy"];
            if !known.iter().any(|k| k.eq_ignore_ascii_case(&params.value)) {
                let text = format!(
                    "invalid DHE keyword: {}; expected none, auto or legacy",
                    params.value
                );
                self.error(params.at, text);
            }
        }
    }

    pub(super) fn proc(&mut self, name: &Text, options: &[ProcOption]) {
        if self.declared.procs.contains_key(&name.value) {
            let text = format!("processor already exists with that name: {}", name.value);
            self.error(name.at, text);
        }
        self.declared.procs.insert(name.value.clone(), name.at);
        self.proc_options(options);
    }

    pub(super) fn proc_options(&mut self, options: &[ProcOption]) {
        let mut seen: Vec<ProcOptionKind> = Vec::new();
        for option in options {
            if seen.contains(&option.kind) {
                let text = format!(
                    "{} already specified for this processor",
                    option.kind.word()
                );
                self.error(option.at, text);
            }
            seen.push(option.kind);
        }
    }

    /// `*`, or what res_hnok(3) takes.
    fn certificate_name(&mut self, name: &Text) -> bool {
        let label = |label: &str| {
            let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            let middle = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            edge(label.as_bytes().first())
                && edge(label.as_bytes().last())
                && label.bytes().all(middle)
        };
        let value = name.value.strip_suffix('.').unwrap_or(&name.value);
        let valid = value == "*" || (value.len() <= 255 && value.split('.').all(label));
        if !valid {
            self.error(name.at, format!("not a valid domain name: {}", name.value));
        }
        valid
    }
}
