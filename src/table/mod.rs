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
pub mod db;
pub mod domain;
mod entry;
pub mod include;
mod mailaddr;
mod network;
pub mod program;
mod shape;
mod snapshot;
mod source;
mod state;
mod store;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::config::built_in;
use crate::config::relayhost::RelayHost;
use crate::config::table_text::Shape;
use crate::config::{
    Comparison, Config, Diagnostic, How, Position, Sources, TableSource, entries, limits, service,
};
use crate::log::{self, Trace};
use crate::mail::{MailAddr, Peer};
use crate::proc::Launcher;
use crate::sys::user::{self, User};
use crate::util::{Line, Zeroizing};

pub use crate::config::service::Credentials;
pub use entry::Service;
use program::Program;
pub use snapshot::Snapshot;

use source::{Source, Table};
use state::State;

/// Nobody can say now; the text is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// What was asked, of what, and why there is no answer.
    pub text: Line,
}

impl TableError {
    /// Of this reason.
    pub fn new(text: &str) -> TableError {
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

/// All tables of a configuration. Shared by every thread.
pub struct Tables {
    by_name: BTreeMap<String, Table>,
    delimiter: char,
    rules_may_wait: bool,
}

impl Tables {
    /// Builds every table of `config` out of `sources`, and what the rules need to ask them fast.
    pub fn load(config: &Config, sources: &Sources) -> Result<Tables, Vec<Diagnostic>> {
        let mut tables = Tables {
            by_name: BTreeMap::new(),
            delimiter: config.smtp.sub_addr_delim,
            rules_may_wait: false,
        };
        let mut errors = Vec::new();
        for (name, source) in &config.tables {
            match source::build(source, sources, shape::of(config, name)) {
                Ok(mut table) => {
                    table.uses = entries::uses(config, name);
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
        let criteria = config.rules.iter().flat_map(|rule| &rule.criteria);
        let mut asked = criteria.filter_map(|criterion| criterion.test.compared());
        tables.rules_may_wait = asked.any(|(pattern, _)| tables.may_wait(&pattern.table));
        if errors.is_empty() {
            Ok(tables)
        } else {
            Err(errors)
        }
    }

    /// Whether there is a table of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Reads a file table again, and looks at a database. Inline tables and the system's users are
    /// always up to date.
    pub fn update(&self, name: &str) -> Result<(), TableError> {
        let table = self.known(name)?;
        let failed = |reason: String| TableError::new(&format!("table {name}: {reason}"));
        match &table.source {
            Source::Inline | Source::Passwd => Ok(()),
            Source::Db(_) => table.now(self.delimiter).map(drop).map_err(failed),
            Source::Program(program) => running(program).and_then(Program::update).map_err(failed),
            Source::File(path, _) => {
                let named = |reason: String| failed(table.named(reason));
                let bytes = source::read(path).map_err(named)?;
                self.replace(name, &bytes)?;
                for (line, why) in entries::complaints(&table.uses, &bytes) {
                    log::warn(format_args!(
                        "table {name}: {}:{line}: {why}",
                        path.display()
                    ));
                }
                log::trace(Trace::Tables, format_args!("tables: {name} is read anew"));
                Ok(())
            }
        }
    }

    /// Takes these bytes for what is in the file of a table now. What is no table of the shape that
    /// it had at first changes nothing, and neither do other tables than those in files.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), TableError> {
        let table = self.known(name)?;
        let failed = |reason: String| TableError::new(&format!("table {name}: {reason}"));
        let Source::File(_, shape) = &table.source else {
            return Ok(());
        };
        let fresh = source::parse(bytes, *shape).map_err(|reason| failed(table.named(reason)))?;
        if let Some(old) = table.state() {
            fresh.rebuild_like(&old, self.delimiter).map_err(failed)?;
        }
        table.set(Arc::new(fresh));
        Ok(())
    }

    /// Whether [`Tables::load`], and the check of the configuration before it, would take these bytes
    /// for what is in the file of a table; why not otherwise. No other table is looked at.
    pub fn check_file(config: &Config, name: &str, bytes: &[u8]) -> Result<(), String> {
        let Some(TableSource::File(path)) = config.tables.get(name) else {
            return Ok(());
        };
        let wanted = shape::of(config, name);
        let table = source::of_file(path, bytes, wanted)?;
        if let Source::File(_, Some(is)) = table.source
            && wanted.is_some_and(|wanted| wanted != is)
        {
            return Err(match is {
                Shape::Map => "it is a mapping".to_owned(),
                Shape::List => "it is a list".to_owned(),
            });
        }
        let tables = Tables {
            by_name: BTreeMap::from([(name.to_owned(), table)]),
            delimiter: config.smtp.sub_addr_delim,
            rules_may_wait: false,
        };
        match tables.prepare(config).first() {
            Some(error) => Err(error.to_string()),
            None => Ok(()),
        }
    }

    fn known(&self, name: &str) -> Result<&Table, TableError> {
        let unknown = || TableError::new(&format!("Lookup table not found: \"{name}\""));
        self.by_name.get(name).ok_or_else(unknown)
    }

    /// Whether a domain or host name is in a table, wildcards included.
    pub fn domain(&self, table: &str, name: &str) -> Result<bool, TableError> {
        let key = self.key(table, name)?;
        if let Some(program) = self.program(table)? {
            return told(table, program.check("domain", &key));
        }
        self.ask(table, |state| state.domain(&key))
    }

    /// Whether an address is in a table, networks included.
    pub fn netaddr(&self, table: &str, peer: &Peer) -> Result<bool, TableError> {
        if let Some(program) = self.program(table)? {
            return told(table, program.check("netaddr", &peer.to_string()));
        }
        self.ask(table, |state| state.netaddr(peer))
    }

    /// Whether a mail address is in a table.
    pub fn mailaddr(&self, table: &str, address: &MailAddr) -> Result<bool, TableError> {
        let user = self.key(table, address.user())?;
        let domain = self.key(table, address.domain())?;
        if let Some(program) = self.program(table)? {
            let key = match (user.is_empty(), domain.is_empty()) {
                // The null sender, as OpenSMTPD writes it.
                (true, true) => "@".to_owned(),
                (_, true) => user,
                _ => format!("{user}@{domain}"),
            };
            return told(table, program.check("mailaddr", &key));
        }
        self.ask(table, |state| {
            state.mailaddr(&user, &domain, self.delimiter)
        })
    }

    /// Whether a string is in a table.
    pub fn string(&self, table: &str, text: &str) -> Result<bool, TableError> {
        let key = self.key(table, text)?;
        if let Some(program) = self.program(table)? {
            return told(table, program.check("string", &key));
        }
        self.ask(table, |state| state.store.has(&key))
    }

    /// Whether a regular expression of a table is found in a text.
    pub fn regex(&self, table: &str, text: &str) -> Result<bool, TableError> {
        let key = self.key(table, text)?;
        if let Some(program) = self.program(table)? {
            return told(table, program.check("regex", &key));
        }
        self.ask(table, |state| state.regex(&key))
    }

    /// The value of an alias or virtual entry, unread.
    pub fn alias(&self, table: &str, key: &str) -> Result<Option<String>, TableError> {
        self.value(table, "alias", &self.key(table, key)?)
    }

    /// The user of this name.
    pub fn userinfo(&self, table: &str, name: &str) -> Result<Option<User>, TableError> {
        let key = self.key(table, name)?;
        if matches!(self.table(table)?.source, Source::Passwd) {
            return user::by_name(&key)
                .map_err(|error| TableError::new(&format!("user {key}: {error}")));
        }
        self.read(table, "userinfo", &key, "bad userinfo for", |value| {
            service::userinfo(&key, value)
        })
    }

    /// The name given to an address: `192.0.2.1` or `[2001:db8::1]`.
    pub fn addrname(&self, table: &str, peer: &Peer) -> Result<Option<Line>, TableError> {
        let key = self.key(table, &peer.to_string())?;
        self.read(table, "addrname", &key, "bad name for", |value| {
            service::addrname(value).and_then(|name| Line::new(name).ok())
        })
    }

    /// Whether a user may send as `sender`; `Ok(None)` when the table does not know the user.
    pub fn mailaddrmap(
        &self,
        table: &str,
        user: &str,
        sender: &MailAddr,
    ) -> Result<Option<bool>, TableError> {
        let key = self.key(table, user)?;
        let Some(value) = self.value(table, "mailaddrmap", &key)? else {
            return Ok(None);
        };
        let user = self.key(table, sender.user())?;
        let domain = self.key(table, sender.domain())?;
        let mut entries = service::addresses(&value);
        let may = entries.any(|entry| mailaddr::matches(entry, &user, &domain, self.delimiter));
        Ok(Some(may))
    }

    /// The next address to relay from, each in its turn; `Ok(None)` for an empty table.
    pub fn source_fetch(&self, table: &str) -> Result<Option<IpAddr>, TableError> {
        let Some(key) = self.next(table, "source")? else {
            return Ok(None);
        };
        let malformed = || TableError::new(&format!("table {table}: bad address {key}"));
        service::source(&key).map(Some).ok_or_else(malformed)
    }

    /// The next host to relay to, each in its turn; `Ok(None)` for an empty table.
    pub fn relayhost_fetch(&self, table: &str) -> Result<Option<RelayHost>, TableError> {
        let Some(url) = self.next(table, "relayhost")? else {
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
        let Some(url) = self.value(table, "relayhost", &self.key(table, domain)?)? else {
            return Ok(None);
        };
        relayhost(table, &url).map(Some)
    }

    /// The credentials of a label (for relaying) or of a user (for a listener).
    pub fn credentials(&self, table: &str, label: &str) -> Result<Option<Credentials>, TableError> {
        let key = self.key(table, label)?;
        let Some(value) = self.value(table, "credentials", &key)? else {
            return Ok(None);
        };
        let malformed = || TableError::new(&format!("credentials parse error for {table}:{label}"));
        service::credentials(&key, &value)
            .map(Some)
            .ok_or_else(malformed)
    }

    /// Whether the program of a table judges passwords itself (its service `auth`). Before it has
    /// been ready nobody can say.
    pub fn judges_passwords(&self, table: &str) -> Result<bool, TableError> {
        let Some(program) = self.program(table)? else {
            return Ok(false);
        };
        let judges = program.serves("auth");
        told(
            table,
            judges.ok_or_else(|| "its program has not been ready yet".to_owned()),
        )
    }

    /// Lets the program of a table judge a password. The user's name is compared in lower case,
    /// the password is not changed.
    pub fn password(&self, table: &str, user: &str, password: &str) -> Result<bool, TableError> {
        let key = Zeroizing::new(format!("{}:{password}", self.key(table, user)?));
        match self.program(table)? {
            Some(program) => told(table, program.check("auth", &key)),
            None => Err(TableError::new(&format!(
                "table {table}: it judges no passwords"
            ))),
        }
    }

    /// Starts the programs of all tables; `launcher` says who starts the one of this name. Until
    /// then, and where nobody does, their lookups fail for now.
    pub fn start_programs(
        &self,
        launcher: &dyn Fn(&Line) -> Arc<dyn Launcher>,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut started = Vec::new();
        for (name, table) in &self.by_name {
            if let Source::Program(place) = &table.source
                && place.get().is_none()
            {
                let name = Line::sanitize(name.as_bytes());
                let program = Arc::new(Program::start(&name, launcher(&name))?);
                started.push(place.get_or_init(|| program));
            }
        }
        for program in started {
            program.wait_until_ready(deadline);
        }
        Ok(())
    }

    /// Takes over the programs that run for the tables of the same names before.
    pub fn take_programs(&self, before: &Tables, is_same: &dyn Fn(&str) -> bool) {
        for (name, table) in &self.by_name {
            if let Source::Program(place) = &table.source
                && let Some(Source::Program(running)) = before.by_name.get(name).map(|t| &t.source)
                && let Some(program) = running.get()
                && is_same(name)
            {
                place.get_or_init(|| program.clone());
            }
        }
    }

    /// The program behind a table, if there is one.
    fn program(&self, name: &str) -> Result<Option<&Program>, TableError> {
        match &self.table(name)?.source {
            Source::Program(program) => told(name, running(program).map(Some)),
            _ => Ok(None),
        }
    }

    /// Keys in their turn.
    fn next(&self, table: &str, service: &str) -> Result<Option<String>, TableError> {
        match self.program(table)? {
            Some(program) => told(table, program.fetch(service)),
            None => self.ask(table, State::next_key),
        }
    }

    /// The value of a key.
    fn value(&self, table: &str, service: &str, key: &str) -> Result<Option<String>, TableError> {
        if let Some(program) = self.program(table)? {
            return told(table, program.lookup(service, key));
        }
        self.ask(table, |state| {
            Ok(state.store.get(key)?.map(Cow::into_owned))
        })
    }

    /// What the value of a key says. One that `parse` cannot read is an error.
    fn read<T>(
        &self,
        table: &str,
        service: &str,
        key: &str,
        complaint: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, TableError> {
        let Some(value) = self.value(table, service, key)? else {
            return Ok(None);
        };
        let malformed = || TableError::new(&format!("table {table}: {complaint} {key}"));
        parse(&value).map(Some).ok_or_else(malformed)
    }

    /// Asks a table as it is now. What was read of a file that somebody wrote to meanwhile is no
    /// answer.
    fn ask<T>(
        &self,
        name: &str,
        question: impl Fn(&State) -> Result<T, String>,
    ) -> Result<T, TableError> {
        const TRIES: usize = 3;
        let table = self.table(name)?;
        let failed = |reason: String| TableError::new(&format!("table {name}: {reason}"));
        for _ in 0..TRIES {
            let state = table.now(self.delimiter).map_err(failed)?;
            let answer = question(&state);
            if state.store.is_unchanged() {
                let how = if answer.is_ok() {
                    "has answered"
                } else {
                    "has failed"
                };
                log::trace(Trace::Tables, format_args!("tables: {name} {how}"));
                return answer.map_err(|reason| failed(table.named(reason)));
            }
        }
        Err(failed(table.named("it is being written to".to_owned())))
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

    /// Asks every question of rules and filters once, so that the first client does not wait for it
    /// and a bad expression is seen at the start.
    fn prepare(&self, config: &Config) -> Vec<Diagnostic> {
        let mut errors = Vec::new();
        // Who needs some of the tables only loads only those.
        for comparison in config.comparisons().filter(|found| self.has(found.table)) {
            if let Err(error) = self.ask_once(&comparison) {
                let place = comparison.at.cloned().unwrap_or_default();
                errors.push(at(&place, &error.text));
            }
        }
        for name in [built_in::LOCAL_HOST, built_in::LOCAL_NAMES] {
            if self.by_name.contains_key(name) {
                let asked = self
                    .netaddr(name, &Peer::Local)
                    .and_then(|_| self.domain(name, ""));
                errors.extend(asked.err().map(|e| at(&Position::default(), &e.text)));
            }
        }
        errors
    }

    fn ask_once(&self, comparison: &Comparison<'_>) -> Result<bool, TableError> {
        let table = comparison.table;
        if self.is_program(table) {
            return Ok(false);
        }
        let answer = match comparison.how {
            How::Expression => self.regex(table, ""),
            How::Network => self.netaddr(table, &Peer::Local),
            How::Domain => self.domain(table, ""),
            How::Address => self.mailaddr(table, &MailAddr::null()),
            How::User | How::Tag => self.string(table, ""),
        };
        match answer {
            Err(error) if self.may_come_back(table) => {
                log::warn(format_args!("{error}"));
                Ok(false)
            }
            answer => answer,
        }
    }

    /// Whether the answers of a table that rules ask may take their time.
    pub fn rules_may_wait(&self) -> bool {
        self.rules_may_wait
    }

    /// Whether its users are those of the system.
    pub fn has_system_users(&self, table: &str) -> bool {
        let source = self.by_name.get(table).map(|table| &table.source);
        matches!(source, Some(Source::Passwd))
    }

    /// Whether its answers may take their time.
    pub fn may_wait(&self, table: &str) -> bool {
        let source = self.by_name.get(table).map(|table| &table.source);
        !matches!(source, Some(Source::Inline | Source::File(..)))
    }

    fn is_program(&self, table: &str) -> bool {
        let source = self.by_name.get(table).map(|table| &table.source);
        matches!(source, Some(Source::Program(_)))
    }

    /// Whether what is wrong with a table may be right with the next file of its name.
    fn may_come_back(&self, table: &str) -> bool {
        let source = self.by_name.get(table).map(|table| &table.source);
        matches!(source, Some(Source::Db(_)))
    }
}

fn running(program: &OnceLock<Arc<Program>>) -> Result<&Program, String> {
    program
        .get()
        .map(Arc::as_ref)
        .ok_or_else(|| "its program does not run".to_owned())
}

fn told<T>(table: &str, answer: Result<T, String>) -> Result<T, TableError> {
    answer.map_err(|reason| TableError::new(&format!("table {table}: {reason}")))
}

fn relayhost(table: &str, url: &str) -> Result<RelayHost, TableError> {
    RelayHost::parse(url)
        .map_err(|bad| TableError::new(&format!("table {table}: bad relay host {url}: {bad}")))
}

fn at(position: &Position, text: &str) -> Diagnostic {
    complaint(&position.file, position.line, text)
}

fn complaint(file: &str, line: u32, text: &str) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        line,
        column: 0,
        text: text.to_owned(),
    }
}
