//! table(5): lists and mappings behind the services that other rooms ask for.
//!
//! Every question has three answers: `Ok(Some)` or `Ok(true)` is found, `Ok(None)` or `Ok(false)`
//! is not found, and a [`TableError`] means that nobody can say now: the caller answers with a
//! temporary failure. A value that cannot be read for the service is an error, not "not found".
//!
//! Keys are compared in lower case. File tables are in memory; [`Tables::update`] reads one again
//! and swaps it in as a whole, and a broken file leaves the old contents where they are. Lookups
//! never wait for an update.

#![forbid(unsafe_code)]

mod contents;
pub mod domain;
mod entry;
pub mod include;
mod mailaddr;
mod network;
pub mod service;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use crate::config::relayhost::RelayHost;
use crate::config::table_text::Shape;
use crate::config::{Config, Criterion, Diagnostic, Place, Sources, TableSource, Test, limits};
use crate::mail::{MailAddr, Peer};
use crate::sys::open;
use crate::sys::user::{self, User};
use crate::util::Line;

pub use entry::Service;

use contents::Contents;
use state::State;

pub use service::Credentials;

/// Nobody can say now; the text is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// What was asked, of what, and why there is no answer.
    pub text: Line,
}

impl TableError {
    fn new(text: &str) -> TableError {
        TableError {
            text: Line::sanitize(text.as_bytes()),
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl std::error::Error for TableError {}

/// A question to a table.
type Ask = fn(&Tables, &str) -> Result<bool, TableError>;

/// All tables of a configuration. Shared by every thread.
pub struct Tables {
    by_name: BTreeMap<String, Table>,
    delimiter: char,
}

struct Table {
    source: Source,
    state: RwLock<Arc<State>>,
}

enum Source {
    /// Written in the configuration.
    Inline,
    /// A file; its shape stays what it was at first.
    File(PathBuf, Option<Shape>),
    /// The system's users.
    Passwd,
}

impl Tables {
    /// Builds every table of `config` out of `sources`, and what the rules need to ask them fast.
    pub fn load(config: &Config, sources: &Sources) -> Result<Tables, Vec<Diagnostic>> {
        let mut tables = Tables {
            by_name: BTreeMap::new(),
            delimiter: config.smtp.sub_addr_delim,
        };
        let mut errors = Vec::new();
        for (name, source) in &config.tables {
            match build(source, sources) {
                Ok((source, contents)) => {
                    let state = RwLock::new(Arc::new(State::new(contents)));
                    let table = Table { source, state };
                    tables.by_name.insert(name.clone(), table);
                }
                Err(text) => {
                    let text = format!("table {name}: {text}");
                    errors.push(complaint(&sources.main().display().to_string(), 0, &text));
                }
            }
        }
        if errors.is_empty() {
            errors = tables.prepare(config);
        }
        if errors.is_empty() {
            Ok(tables)
        } else {
            Err(errors)
        }
    }

    /// Reads a file table again. Inline tables and the system's users are always up to date.
    pub fn update(&self, name: &str) -> Result<(), TableError> {
        let table = self.table(name)?;
        let Source::File(path, shape) = &table.source else {
            return Ok(());
        };
        let failed = |reason: String| {
            TableError::new(&format!("table {name}: {}: {reason}", path.display()))
        };
        let bytes =
            open::read_plain(path, limits::TABLE_BYTES).map_err(|e| failed(e.to_string()))?;
        let (contents, _) = Contents::parse(&bytes, *shape).map_err(|e| failed(e.to_string()))?;
        let fresh = Arc::new(State::new(contents));
        fresh
            .rebuild_like(&table.now(), self.delimiter)
            .map_err(failed)?;
        match table.state.write() {
            Ok(mut state) => *state = fresh,
            Err(poisoned) => *poisoned.into_inner() = fresh,
        }
        Ok(())
    }

    /// Whether a domain or host name is in a table, wildcards included.
    pub fn domain(&self, table: &str, name: &str) -> Result<bool, TableError> {
        let key = self.key(table, name)?;
        Ok(self.table(table)?.now().domains().contains(&key))
    }

    /// Whether an address is in a table, networks included.
    pub fn netaddr(&self, table: &str, peer: &Peer) -> Result<bool, TableError> {
        Ok(self.table(table)?.now().networks().contains(peer))
    }

    /// Whether a mail address is in a table.
    pub fn mailaddr(&self, table: &str, address: &MailAddr) -> Result<bool, TableError> {
        let user = self.key(table, address.user())?;
        let domain = self.key(table, address.domain())?;
        let state = self.table(table)?.now();
        Ok(state.addresses(self.delimiter).contains(&user, &domain))
    }

    /// Whether a string is in a table.
    pub fn string(&self, table: &str, text: &str) -> Result<bool, TableError> {
        let key = self.key(table, text)?;
        Ok(self.table(table)?.now().contents.get(&key).is_some())
    }

    /// Whether a regular expression of a table is found in a text.
    pub fn regex(&self, table: &str, text: &str) -> Result<bool, TableError> {
        let key = self.key(table, text)?;
        let state = self.table(table)?.now();
        match state.regexes() {
            Ok(set) => Ok(set.is_match(&key)),
            Err(reason) => Err(TableError::new(&format!("table {table}: {reason}"))),
        }
    }

    /// The value of an alias or virtual entry, unread.
    pub fn alias(&self, table: &str, key: &str) -> Result<Option<String>, TableError> {
        let key = self.key(table, key)?;
        let state = self.table(table)?.now();
        Ok(state.contents.get(&key).map(str::to_owned))
    }

    /// The user of this name.
    pub fn userinfo(&self, table: &str, name: &str) -> Result<Option<User>, TableError> {
        let key = self.key(table, name)?;
        let known = self.table(table)?;
        if matches!(known.source, Source::Passwd) {
            return user::by_name(&key)
                .map_err(|error| TableError::new(&format!("user {key}: {error}")));
        }
        let state = known.now();
        let Some(value) = state.contents.get(&key) else {
            return Ok(None);
        };
        let malformed = || TableError::new(&format!("table {table}: bad userinfo for {key}"));
        service::userinfo(&key, value)
            .map(Some)
            .ok_or_else(malformed)
    }

    /// The name given to an address: `192.0.2.1` or `[2001:db8::1]`.
    pub fn addrname(&self, table: &str, peer: &Peer) -> Result<Option<Line>, TableError> {
        let key = self.key(table, &peer.to_string())?;
        let state = self.table(table)?.now();
        let Some(value) = state.contents.get(&key) else {
            return Ok(None);
        };
        let name = service::addrname(value).and_then(|name| Line::new(name).ok());
        let malformed = || TableError::new(&format!("table {table}: bad name for {key}"));
        name.map(Some).ok_or_else(malformed)
    }

    /// Whether a user may send as `sender`; `Ok(None)` when the table does not know the user.
    pub fn mailaddrmap(
        &self,
        table: &str,
        user: &str,
        sender: &MailAddr,
    ) -> Result<Option<bool>, TableError> {
        let key = self.key(table, user)?;
        let state = self.table(table)?.now();
        let Some(value) = state.contents.get(&key) else {
            return Ok(None);
        };
        let mut set = mailaddr::AddressSet::new(self.delimiter);
        for entry in value.split(',').map(str::trim) {
            if !entry.is_empty() {
                set.insert(&entry.to_ascii_lowercase());
            }
        }
        let user = self.key(table, sender.user())?;
        let domain = self.key(table, sender.domain())?;
        Ok(Some(set.contains(&user, &domain)))
    }

    /// The next address to relay from, each in its turn; `Ok(None)` for an empty table.
    pub fn source_fetch(&self, table: &str) -> Result<Option<IpAddr>, TableError> {
        let Some(key) = self.fetch(table)? else {
            return Ok(None);
        };
        let malformed = || TableError::new(&format!("table {table}: bad address {key}"));
        service::source(&key).map(Some).ok_or_else(malformed)
    }

    /// The next host to relay to, each in its turn; `Ok(None)` for an empty table.
    pub fn relayhost_fetch(&self, table: &str) -> Result<Option<RelayHost>, TableError> {
        let Some(url) = self.fetch(table)? else {
            return Ok(None);
        };
        relayhost(table, &url).map(Some)
    }

    /// The host that takes the mail of a domain; wildcards do not count.
    pub fn relayhost_lookup(
        &self,
        table: &str,
        domain: &str,
    ) -> Result<Option<RelayHost>, TableError> {
        let key = self.key(table, domain)?;
        let state = self.table(table)?.now();
        let Some(url) = state.contents.get(&key) else {
            return Ok(None);
        };
        relayhost(table, url).map(Some)
    }

    /// The credentials of a label (for relaying) or of a user (for a listener).
    pub fn credentials(&self, table: &str, label: &str) -> Result<Option<Credentials>, TableError> {
        let key = self.key(table, label)?;
        let state = self.table(table)?.now();
        let Some(value) = state.contents.get(&key) else {
            return Ok(None);
        };
        let malformed = || TableError::new(&format!("credentials parse error for {table}:{label}"));
        service::credentials(&key, value)
            .map(Some)
            .ok_or_else(malformed)
    }

    /// The next key in byte order, in lower case.
    fn fetch(&self, table: &str) -> Result<Option<String>, TableError> {
        let key = self.table(table)?.now().next_key();
        Ok(key.map(|key| key.to_ascii_lowercase()))
    }

    fn table(&self, name: &str) -> Result<&Table, TableError> {
        self.by_name
            .get(name)
            .ok_or_else(|| TableError::new(&format!("no such table: {name}")))
    }

    /// A key as it is looked up.
    fn key(&self, table: &str, key: &str) -> Result<String, TableError> {
        if key.len() >= limits::KEY_BYTES {
            let start: String = key.chars().take(64).collect();
            let text = format!("table {table}: lookup key too long: {start}...");
            return Err(TableError::new(&text));
        }
        Ok(key.to_ascii_lowercase())
    }

    /// Asks every question of the rules once, so that the first client does not wait for it and a
    /// bad expression is seen at the start.
    fn prepare(&self, config: &Config) -> Vec<Diagnostic> {
        let mut errors = Vec::new();
        for rule in &config.rules {
            for criterion in &rule.criteria {
                if let Err(error) = self.ask_once(criterion) {
                    errors.push(at(&rule.at, &error.text));
                }
            }
        }
        for name in ["<localhost>", "<localnames>"] {
            if self.by_name.contains_key(name) {
                let asked = self
                    .netaddr(name, &Peer::Local)
                    .and_then(|_| self.domain(name, ""));
                errors.extend(asked.err().map(|e| at(&Place::default(), &e.text)));
            }
        }
        errors
    }

    fn ask_once(&self, criterion: &Criterion) -> Result<bool, TableError> {
        let (pattern, ask): (_, Ask) = match &criterion.test {
            Test::FromSrc(p) => (p, |t, name| t.netaddr(name, &Peer::Local)),
            Test::FromRdns(Some(p)) | Test::ForDomain(p) | Test::Helo(p) => {
                (p, |t, name| t.domain(name, ""))
            }
            Test::MailFrom(p) | Test::RcptTo(p) | Test::Auth(Some(p)) => {
                (p, |t, name| t.mailaddr(name, &MailAddr::null()))
            }
            Test::Tag(p) => (p, |t, name| t.string(name, "")),
            _ => return Ok(true),
        };
        if pattern.regex {
            return self.regex(&pattern.table, "");
        }
        ask(self, &pattern.table)
    }
}

impl Table {
    fn now(&self) -> Arc<State> {
        match self.state.read() {
            Ok(state) => Arc::clone(&state),
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        }
    }
}

fn build(source: &TableSource, sources: &Sources) -> Result<(Source, Contents), String> {
    let said = |error: contents::BadContents| error.to_string();
    match source {
        TableSource::List(keys) => {
            let entries = keys.iter().map(|key| (key.as_str(), ""));
            Ok((Source::Inline, Contents::of(entries).map_err(said)?))
        }
        TableSource::Map(pairs) => {
            let entries = pairs
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()));
            Ok((Source::Inline, Contents::of(entries).map_err(said)?))
        }
        TableSource::File(path) => {
            let bytes = sources.file(path).map_err(str::to_owned)?;
            let (contents, shape) = Contents::parse(bytes, None).map_err(said)?;
            Ok((Source::File(path.clone(), shape), contents))
        }
        TableSource::Passwd => Ok((Source::Passwd, Contents::default())),
        TableSource::Db(_) => Err("\"db\" tables are not available in this version".to_owned()),
    }
}

fn relayhost(table: &str, url: &str) -> Result<RelayHost, TableError> {
    RelayHost::parse(url)
        .map_err(|bad| TableError::new(&format!("table {table}: bad relay host {url}: {bad}")))
}

fn at(place: &Place, text: &str) -> Diagnostic {
    complaint(&place.file, place.line, text)
}

fn complaint(file: &str, line: u32, text: &str) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        line,
        column: 0,
        text: text.to_owned(),
    }
}
