//! `pki`, `ca`, `proc` and `srs`.

use std::path::PathBuf;

use crate::config::ast::{PkiOption, ProcOption, ProcOptionKind, Text};
use crate::config::model::{Dhe, Secret, Srs};

use super::Checker;

/// What the `srs` statements have said so far; without a key the others have no effect.
#[derive(Default)]
pub(super) struct SrsText {
    pub(super) key: Option<Secret>,
    pub(super) backup: Option<Secret>,
    pub(super) ttl_days: Option<u32>,
}

impl SrsText {
    const TTL_DAYS: u32 = 4;

    pub(super) fn finished(&self) -> Option<Srs> {
        Some(Srs {
            key: self.key.clone()?,
            backup: self.backup.clone(),
            ttl_days: self.ttl_days.unwrap_or(SrsText::TTL_DAYS),
        })
    }
}

impl Checker<'_> {
    pub(super) fn ca(&mut self, name: &Text, file: &Text) {
        if self.certificate_name(name) {
            let key = name.value.to_ascii_lowercase();
            self.declared.ca.insert(key.clone());
            self.config.ca.insert(key, PathBuf::from(&file.value));
        }
    }

    pub(super) fn pki(&mut self, name: &Text, options: &[PkiOption]) {
        let key = name.value.to_ascii_lowercase();
        if self.certificate_name(name) {
            self.declared.pki.insert(key.clone());
        }
        let mut pki = self.config.pki.remove(&key).unwrap_or_default();
        for option in options {
            match option {
                PkiOption::Cert(file) => pki.cert = Some(PathBuf::from(&file.value)),
                PkiOption::Key(file) => pki.key = Some(PathBuf::from(&file.value)),
                PkiOption::Dhe(params) => pki.dhe = self.dhe(params),
            }
        }
        self.config.pki.insert(key, pki);
    }

    fn dhe(&mut self, params: &Text) -> Dhe {
        match params.value.to_ascii_lowercase().as_str() {
            "none" => Dhe::None,
            "auto" => Dhe::Auto,
            "legacy" => Dhe::Legacy,
            _ => {
                let text = format!(
                    "invalid DHE keyword: {}; expected none, auto or legacy",
                    params.value
                );
                self.error(params.at, text);
                Dhe::None
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
