//! The entries of a table at one moment, with what makes them fast to ask.
//!
//! Keys that are equal are found where they are; an index holds what cannot be found so. It is
//! built when it is first asked for, and only then: a table of aliases never pays for wildcards.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use regex::RegexSet;

use crate::config::ere;
use crate::log;
use crate::mail::Peer;

use super::domain::DomainPatterns;
use super::mailaddr::AddressPatterns;
use super::network::Networks;
use super::store::Store;

/// Entries that never change, and indices over them.
pub struct State {
    pub store: Store,
    domains: Index<DomainPatterns>,
    networks: Index<Networks>,
    addresses: Index<AddressPatterns>,
    regexes: Index<Result<RegexSet, String>>,
    order: Index<Vec<Box<str>>>,
    next: AtomicUsize,
}

/// Compiled size of all expressions of one table, in bytes.
const REGEX_BYTES: usize = 32 << 20;

impl State {
    /// Entries as they were read; each index is made when it is first needed.
    pub fn new(store: Store) -> State {
        State {
            store,
            domains: Index::default(),
            networks: Index::default(),
            addresses: Index::default(),
            regexes: Index::default(),
            order: Index::default(),
            next: AtomicUsize::new(0),
        }
    }

    /// Whether a key is this host name or a pattern that matches it.
    pub fn domain(&self, name: &str) -> Result<bool, String> {
        self.domains()?.contains(name, &|key| self.store.has(key))
    }

    /// Whether a key is this peer or a network it is in.
    pub fn netaddr(&self, peer: &Peer) -> Result<bool, String> {
        self.networks()?.contains(peer, &|key| self.store.has(key))
    }

    /// Whether a key names this mail address; both parts are in lower case.
    pub fn mailaddr(&self, user: &str, domain: &str, delimiter: char) -> Result<bool, String> {
        let patterns = self.addresses(delimiter)?;
        patterns.contains(user, domain, &|key| self.store.has(key))
    }

    /// Whether a key is an extended regular expression that is found in a text.
    pub fn regex(&self, text: &str) -> Result<bool, String> {
        match self.regexes()? {
            Ok(set) => Ok(set.is_match(text)),
            Err(reason) => Err(reason.clone()),
        }
    }

    /// Keys in byte order, round and round.
    pub fn next_key(&self) -> Result<Option<String>, String> {
        let keys = self.order.get(|| self.store.sorted_keys())?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let key = turn.checked_rem(keys.len()).and_then(|at| keys.get(at));
        Ok(key.map(|key| key.to_string()))
    }

    /// Builds the indices that `old` has, before this takes its place. An index that cannot be
    /// built is the reason to keep the old entries.
    pub fn rebuild_like(&self, old: &State, delimiter: char) -> Result<(), String> {
        if old.domains.is_built() {
            self.domains()?;
        }
        if old.networks.is_built() {
            self.networks()?;
        }
        if old.addresses.is_built() {
            self.addresses(delimiter)?;
        }
        if old.regexes.is_built() {
            self.regexes()?.as_ref().map_err(String::clone)?;
        }
        Ok(())
    }

    fn domains(&self) -> Result<&DomainPatterns, String> {
        self.domains.get(|| {
            let mut patterns = DomainPatterns::default();
            self.store.each_key(&mut |key| patterns.learn(key))?;
            Ok(patterns)
        })
    }

    fn networks(&self) -> Result<&Networks, String> {
        self.networks.get(|| {
            let mut networks = Networks::default();
            self.store.each_key(&mut |key| networks.learn(key))?;
            networks.settle();
            Ok(networks)
        })
    }

    fn addresses(&self, delimiter: char) -> Result<&AddressPatterns, String> {
        self.addresses.get(|| {
            let mut patterns = AddressPatterns::new(delimiter);
            self.store.each_key(&mut |key| patterns.learn(key))?;
            Ok(patterns)
        })
    }

    /// The inner error is the text's, and stays.
    fn regexes(&self) -> Result<&Result<RegexSet, String>, String> {
        self.regexes.get(|| {
            let mut patterns = Vec::new();
            self.store.each_key(&mut |key| match ere::translate(key) {
                Ok(pattern) => patterns.push(pattern),
                // The configuration's check has warned of it.
                Err(reason) => log::debug(format_args!(
                    "regular expression \"{key}\" never matches: {reason}"
                )),
            })?;
            Ok(compile(patterns))
        })
    }
}

fn compile(patterns: Vec<String>) -> Result<RegexSet, String> {
    regex::RegexSetBuilder::new(patterns)
        .size_limit(REGEX_BYTES)
        .build()
        .map_err(|error| error.to_string().replace('\n', " "))
}

/// Something that is made once, by the first who asks. A failure is not kept: the next one tries
/// again.
struct Index<T> {
    made: OnceLock<T>,
    making: Mutex<()>,
}

impl<T> Index<T> {
    fn is_built(&self) -> bool {
        self.made.get().is_some()
    }

    fn get(&self, make: impl FnOnce() -> Result<T, String>) -> Result<&T, String> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let made = make()?;
        Ok(self.made.get_or_init(|| made))
    }
}

impl<T> Default for Index<T> {
    fn default() -> Index<T> {
        Index {
            made: OnceLock::new(),
            making: Mutex::new(()),
        }
    }
}
