//! The contents of a table at one moment, with what makes them fast to ask.
//!
//! An index is built when it is first asked for, and only then: a table of aliases never pays for
//! wildcards.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use regex::RegexSet;

use crate::config::ere;

use super::contents::Contents;
use super::domain::DomainSet;
use super::mailaddr::AddressSet;
use super::network::NetworkSet;

/// Contents that never change, and indices over them.
pub struct State {
    /// Keys and values.
    pub contents: Contents,
    domains: OnceLock<DomainSet>,
    networks: OnceLock<NetworkSet>,
    addresses: OnceLock<AddressSet>,
    regexes: OnceLock<Result<RegexSet, String>>,
    next: AtomicUsize,
}

/// Compiled size of all expressions of one table, in bytes.
const REGEX_BYTES: usize = 32 << 20;

impl State {
    /// Contents without indices.
    pub fn new(contents: Contents) -> State {
        State {
            contents,
            domains: OnceLock::new(),
            networks: OnceLock::new(),
            addresses: OnceLock::new(),
            regexes: OnceLock::new(),
            next: AtomicUsize::new(0),
        }
    }

    /// Keys as host names and patterns.
    pub fn domains(&self) -> &DomainSet {
        self.domains.get_or_init(|| {
            let mut set = DomainSet::default();
            for key in self.contents.keys() {
                set.insert(&key.to_ascii_lowercase());
            }
            set
        })
    }

    /// Keys as addresses and networks.
    pub fn networks(&self) -> &NetworkSet {
        self.networks.get_or_init(|| {
            let mut set = NetworkSet::default();
            for key in self.contents.keys() {
                set.insert(&key.to_ascii_lowercase());
            }
            set
        })
    }

    /// Keys as mail addresses.
    pub fn addresses(&self, delimiter: char) -> &AddressSet {
        self.addresses.get_or_init(|| {
            let mut set = AddressSet::new(delimiter);
            for key in self.contents.keys() {
                set.insert(&key.to_ascii_lowercase());
            }
            set
        })
    }

    /// Keys as extended regular expressions.
    pub fn regexes(&self) -> Result<&RegexSet, &str> {
        let compiled = self.regexes.get_or_init(|| {
            let mut patterns = Vec::with_capacity(self.contents.len());
            for key in self.contents.keys() {
                let pattern = ere::translate(key)
                    .map_err(|reason| format!("invalid regular expression \"{key}\": {reason}"))?;
                patterns.push(pattern);
            }
            regex::RegexSetBuilder::new(patterns)
                .size_limit(REGEX_BYTES)
                .build()
                .map_err(|error| error.to_string().replace('\n', " "))
        });
        compiled.as_ref().map_err(String::as_str)
    }

    /// Keys in byte order, round and round.
    pub fn next_key(&self) -> Option<String> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let position = turn.checked_rem(self.contents.len())?;
        self.contents.nth_key(position).map(str::to_owned)
    }

    /// Builds the indices that `old` has, before this takes its place. An index that cannot be
    /// built is the reason to keep the old contents.
    pub fn rebuild_like(&self, old: &State, delimiter: char) -> Result<(), String> {
        if old.domains.get().is_some() {
            self.domains();
        }
        if old.networks.get().is_some() {
            self.networks();
        }
        if old.addresses.get().is_some() {
            self.addresses(delimiter);
        }
        if old.regexes.get().is_some() {
            self.regexes().map_err(str::to_owned)?;
        }
        Ok(())
    }
}
