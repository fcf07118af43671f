//! `pki`, `ca`, `proc` and `srs`.

use crate::config::ast::{PkiOption, ProcOption, ProcOptionKind, Text};
use crate::config::diagnostic::TokenPosition;
use crate::config::model::{Dhe, OnFailure, Proc, Srs};
use crate::util::Secret;

use super::{Checker, did_you_mean, limits, line};

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

/// Under which key what a `pki` or `ca` declares is found.
pub(super) fn certificate_key(name: &Text) -> String {
    name.value.to_ascii_lowercase()
}

impl Checker<'_> {
    pub(super) fn ca(&mut self, name: &Text, file: &Text) {
        if self.certificate_name(name) {
            let key = certificate_key(name);
            self.declared.ca.insert(key.clone(), name.at);
            let file = self.sources.path(&file.value);
            self.config.ca.insert(key, file);
        }
    }

    pub(super) fn pki(&mut self, name: &Text, options: &[PkiOption]) {
        let key = certificate_key(name);
        if self.certificate_name(name) {
            self.declared.pki.entry(key.clone()).or_insert(name.at);
        }
        let mut pki = self.config.pki.remove(&key).unwrap_or_default();
        for option in options {
            match option {
                PkiOption::Cert(file) => pki.cert = Some(self.sources.path(&file.value)),
                PkiOption::Key(file) => pki.key = Some(self.sources.path(&file.value)),
                PkiOption::Dhe(params) => pki.dhe = self.dhe(params),
            }
        }
        self.config.pki.insert(key, pki);
    }

    fn dhe(&mut self, params: &Text) -> Dhe {
        match params.value.to_ascii_lowercase().as_str() {
            "none" => Dhe::None,
            word @ ("auto" | "legacy") => {
                // The library has no finite-field Diffie-Hellman, for good reasons (RFC 9325 §4.1).
                let text = format!("dhe {word} has no effect: ECDHE is what there is");
                self.diagnostics.warning(params.at, text);
                match word {
                    "auto" => Dhe::Auto,
                    _ => Dhe::Legacy,
                }
            }
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

    /// Complains of each pair of which only one half is known in the end.
    pub(super) fn whole_pairs(&mut self) {
        let place_of = |name: &String| self.declared.pki.get(name).copied();
        let broken = |name: &str| self.broken.iter().any(|b| b.eq_ignore_ascii_case(name));
        let mut missing = Vec::new();
        for (name, pki) in self.config.pki.iter().filter(|(name, _)| !broken(name)) {
            for (what, file) in [("certificate", &pki.cert), ("key", &pki.key)] {
                if let (None, Some(at)) = (file, place_of(name)) {
                    missing.push((at, format!("pki {name}: missing {what} file")));
                }
            }
        }
        for (at, text) in missing {
            self.error(at, text);
        }
    }

    /// The key of a declared pki entry.
    pub(super) fn known_pki(&mut self, name: &Text) -> Option<String> {
        let key = certificate_key(name);
        if self.declared.pki.contains_key(&key) {
            self.used.pki.insert(key.clone());
            return Some(key);
        }
        let known = self.declared.pki.keys().map(String::as_str);
        let hint = did_you_mean(&name.value, known);
        let text = format!("pki name not found: {}{hint}", name.value);
        self.unknown(name, text);
        None
    }

    /// The key of a declared ca entry.
    pub(super) fn known_ca(&mut self, name: &Text) -> Option<String> {
        let key = certificate_key(name);
        if self.declared.ca.contains_key(&key) {
            self.used.ca.insert(key.clone());
            return Some(key);
        }
        let known = self.declared.ca.keys().map(String::as_str);
        let hint = did_you_mean(&name.value, known);
        let text = format!("ca name not found: {}{hint}", name.value);
        self.unknown(name, text);
        None
    }

    /// Whether those that the actions name have been declared.
    pub(super) fn certificates_of_relays(&mut self) {
        for name in std::mem::take(&mut self.relay_pki) {
            self.known_pki(&name);
        }
        for name in std::mem::take(&mut self.relay_ca) {
            self.known_ca(&name);
        }
    }

    pub(super) fn proc(
        &mut self,
        name: &Text,
        command: &Text,
        options: &[ProcOption],
        at: TokenPosition,
    ) {
        self.declared
            .procs
            .entry(name.value.clone())
            .or_insert(name.at);
        self.add_proc(name, command, options, at);
    }

    /// A program by the name of its `proc`, or of its filter.
    pub(super) fn add_proc(
        &mut self,
        name: &Text,
        command: &Text,
        options: &[ProcOption],
        at: TokenPosition,
    ) {
        if self.config.procs.contains_key(&name.value) {
            let text = format!("processor already exists with that name: {}", name.value);
            self.error(name.at, text);
        }
        let mut proc = Proc {
            command: line(command),
            user: None,
            group: None,
            chroot: None,
            on_failure: OnFailure::default(),
            at: self.position(at),
        };
        let mut said = false;
        for option in options {
            let value = line(&option.value);
            let before = match option.kind {
                ProcOptionKind::User => proc.user.replace(value).is_some(),
                ProcOptionKind::Group => proc.group.replace(value).is_some(),
                ProcOptionKind::Chroot => {
                    let dir = self.sources.path(&option.value.value);
                    proc.chroot.replace(dir).is_some()
                }
                ProcOptionKind::OnFailure => {
                    let mut known = OnFailure::ALL.into_iter();
                    let found = known.find(|known| known.word() == option.value.value);
                    proc.on_failure = found.unwrap_or_default();
                    std::mem::replace(&mut said, true)
                }
            };
            if before {
                let word = option.kind.word();
                let text = format!("{word} already specified for this processor");
                self.error(option.at, text);
            }
        }
        self.config.procs.insert(name.value.clone(), proc);
    }

    /// `*`, or what res_hnok(3) takes.
    fn certificate_name(&mut self, name: &Text) -> bool {
        let label = |label: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !label.is_empty() && !label.starts_with('-') && label.bytes().all(known)
        };
        let value = name.value.strip_suffix('.').unwrap_or(&name.value);
        let fits = value.len() <= limits::HOST_NAME_BYTES;
        let valid = value == "*" || (fits && value.split('.').all(label));
        if !valid {
            self.error(name.at, format!("not a valid domain name: {}", name.value));
        }
        valid
    }
}
