//! `table`, built-in and anonymous tables, and whether a table can be used where it is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::ast::{TableRef, TableValue, Text};
use crate::config::diagnostic::TokenPosition;
use crate::config::model::{ProgramPath, TableName, TableProgram, TableSource};
use crate::config::sources::file_of_table;
use crate::config::table_text::{Entries, Shape};
use crate::config::{Defaults, built_in, entries, limits};
use crate::mail::Peer;

use super::{Checker, did_you_mean};

/// What is in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keys alone.
    List,
    /// Keys with values.
    Map,
    /// Nothing yet: an empty file is as good as either.
    Either,
    /// Whatever is asked for: the contents are not known beforehand.
    Dynamic,
    /// The system's users: userinfo and nothing else.
    Users,
    /// Declared wrongly; that has been said already.
    Wrong,
}

/// What is asked of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Wildcard comparison of host names.
    Domain,
    /// Addresses and networks.
    Netaddr,
    /// Mail addresses.
    Mailaddr,
    /// Equality, and everything that is looked up by its exact key.
    Text,
    /// uid, gid and home of a user.
    Userinfo,
}

/// The kinds an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    List,
    /// Mappings.
    Map,
    /// Lists, or the keys of mappings.
    Keys,
}

impl Kind {
    fn serves(self, takes: Takes, service: Service) -> bool {
        match self {
            Kind::List => takes != Takes::Map,
            Kind::Map => takes != Takes::List,
            Kind::Users => takes != Takes::List && service == Service::Userinfo,
            Kind::Either | Kind::Dynamic | Kind::Wrong => true,
        }
    }
}

/// What to write if a value stands where a table has to be, and no program.
fn as_list(config: &Text) -> String {
    let backend = config.value.split(':').next().unwrap_or_default();
    if backend.contains(['@', '.', '*', '[']) {
        format!("; a table of values is written {{ \"{}\" }}", config.value)
    } else {
        String::new()
    }
}

impl Checker<'_> {
    pub(super) fn builtin_tables(&mut self, defaults: &Defaults) {
        let list = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        self.builtin(built_in::ANY_HOST, list(&["local", "0.0.0.0/0", "::/0"]));
        self.builtin(built_in::ANY_DESTINATION, list(&["*"]));
        let mut hosts = list(&["local"]);
        let mut names = list(&["localhost", &defaults.server_name]);
        if let Some((short, _)) = defaults.server_name.split_once('.') {
            names.push(short.to_owned());
        }
        for own in &defaults.addresses {
            hosts.push(own.to_string());
            match own {
                Peer::Inet {
                    addr: IpAddr::V4(v4),
                    ..
                } => names.extend([v4.to_string(), format!("[{v4}]")]),
                Peer::Inet {
                    addr: IpAddr::V6(v6),
                    ..
                } => names.extend([format!("[{v6}]"), format!("[IPv6:{v6}]")]),
                Peer::Local => {}
            }
        }
        self.builtin(built_in::LOCAL_HOST, hosts);
        self.builtin(built_in::LOCAL_NAMES, names);
        self.add(built_in::SYSTEM_USERS, TableSource::Passwd, Kind::Users);
    }

    fn builtin(&mut self, name: &str, mut values: Vec<String>) {
        let mut seen = BTreeSet::new();
        values.retain(|value| !value.is_empty() && seen.insert(value.clone()));
        self.add(name, TableSource::List(values), Kind::List);
    }

    fn add(&mut self, name: &str, source: TableSource, kind: Kind) {
        self.config.tables.insert(name.to_owned(), source);
        self.kinds.insert(name.to_owned(), kind);
    }

    pub(super) fn table(&mut self, name: &Text, value: &TableValue) {
        if name.value.len() > limits::TABLE_NAME_BYTES {
            return self.error(name.at, "table name too long");
        }
        if self.kinds.contains_key(&name.value) {
            let mut text = format!("table \"{}\" already defined", name.value);
            if let Some(at) = self.declared.tables.get(&name.value).copied() {
                text = format!("{text} at {}", self.position(at));
            }
            return self.error(name.at, text);
        }
        self.declared.tables.insert(name.value.clone(), name.at);
        let (source, kind) = match value {
            TableValue::One(config) => self.backend(name, config),
            TableValue::List(values) => self.list(&name.value, values),
            TableValue::Map(pairs) => self.map(&name.value, pairs),
            TableValue::Named(_) => (TableSource::List(Vec::new()), Kind::Wrong),
        };
        self.add(&name.value, source, kind);
    }

    fn list(&mut self, name: &str, values: &[Text]) -> (TableSource, Kind) {
        let kept: Vec<String> = values
            .iter()
            .filter(|value| self.key_fits(name, value))
            .map(|value| value.value.clone())
            .collect();
        (TableSource::List(kept), Kind::List)
    }

    fn map(&mut self, name: &str, pairs: &[(Text, Text)]) -> (TableSource, Kind) {
        let kept: Vec<(String, String)> = pairs
            .iter()
            .filter(|(key, _)| self.key_fits(name, key))
            .map(|(key, value)| (key.value.clone(), value.value.clone()))
            .collect();
        (TableSource::Map(kept), Kind::Map)
    }

    fn key_fits(&mut self, name: &str, key: &Text) -> bool {
        if key.value.len() < limits::KEY_BYTES {
            return true;
        }
        let start: String = key.value.chars().take(40).collect();
        let text = format!("failed to add \"{start}...\" in table \"{name}\": the key is too long");
        self.diagnostics.warning(key.at, text);
        false
    }

    /// `backend:config`, `backend`, or a path.
    fn backend(&mut self, name: &Text, config: &Text) -> (TableSource, Kind) {
        let nothing = (TableSource::List(Vec::new()), Kind::Wrong);
        if let Some(path) = file_of_table(&config.value) {
            let kind = self.file(name, config.at, path);
            return (TableSource::File(PathBuf::from(path)), kind);
        }
        let (backend, parameter) = match config.value.split_once(':') {
            Some((backend, parameter)) => (backend, Some(parameter)),
            None => (config.value.as_str(), None),
        };
        let invalid = format!("invalid backend parameter for table: {}", name.value);
        match (backend, parameter) {
            ("proc", None) => {
                let text = format!("{invalid}; expected \"proc:/program\"");
                self.error(config.at, text);
            }
            ("getpwnam", None) => return (TableSource::Passwd, Kind::Users),
            ("getpwnam", Some(_)) => {
                self.error(config.at, format!("{invalid}; getpwnam takes none"));
            }
            ("file" | "static" | "db", None) => {
                let text = format!("{invalid}; expected \"{backend}:/path\"");
                self.error(config.at, text);
            }
            (_, Some(parameter)) if !parameter.starts_with('/') => {
                let text = format!("{invalid}; \"{parameter}\" is not an absolute path");
                self.error(config.at, text);
            }
            ("db", Some(path)) => {
                let kind = self.database(name, config.at, path);
                return (TableSource::Db(PathBuf::from(path)), kind);
            }
            _ => match self.program(name, config) {
                Some(program) => return (TableSource::Program(program), Kind::Dynamic),
                None => return nothing,
            },
        }
        nothing
    }

    /// A program of smtpd-tables(7). What it knows is seen when it is asked.
    fn program(&mut self, name: &Text, config: &Text) -> Option<TableProgram> {
        let backend = config.value.split(':').next().unwrap_or_default();
        let Some(program) = TableProgram::parse(&config.value) else {
            let text = format!(
                "table backend \"{backend}\" does not exist{}",
                as_list(config)
            );
            self.error(config.at, text);
            return None;
        };
        let Err(reason) = self.sources.program(&config.value) else {
            return Some(program);
        };
        let text = match &program.program {
            ProgramPath::At(path) => {
                let (name, path) = (&name.value, path.display());
                format!("invalid backend parameter for table: {name}; {path}: {reason}")
            }
            ProgramPath::Named(program) => {
                let known = ["file", "static", "db", "getpwnam", "proc"];
                let hint = match as_list(config) {
                    hint if hint.is_empty() => did_you_mean(backend, known.into_iter()),
                    hint => hint,
                };
                format!(
                    "table backend \"{backend}\" does not exist (program table-{program}: \
                     {reason}){hint}"
                )
            }
        };
        self.error(config.at, text);
        None
    }

    /// What is in a database is seen when it is asked.
    fn database(&mut self, name: &Text, at: TokenPosition, path: &str) -> Kind {
        let Err(reason) = self.sources.database(Path::new(path)) else {
            return Kind::Dynamic;
        };
        let text = format!(
            "invalid configuration file {path} for table {}: {reason}",
            name.value
        );
        self.error(at, text);
        Kind::Wrong
    }

    /// Reads through a file table to see what it is and whether every line is an entry.
    fn file(&mut self, name: &Text, at: TokenPosition, path: &str) -> Kind {
        let failed = format!("invalid configuration file {path} for table {}", name.value);
        let bytes = match self.sources.file(Path::new(path)) {
            Ok(bytes) => bytes,
            Err(reason) => {
                let text = format!("{failed}: {reason}");
                self.error(at, text);
                return Kind::Wrong;
            }
        };
        let mut entries = Entries::new(bytes, None);
        let mut spaced = None;
        let mut not_text = Vec::new();
        for entry in &mut entries {
            match entry {
                Ok(entry) if entry.spaced_colon => {
                    spaced.get_or_insert((entry.line, entry.key));
                }
                Ok(_) => {}
                Err(bad) => match entries::not_text(&bad) {
                    Some(why) if not_text.len() < entries::FEW => not_text.push((bad.line, why)),
                    Some(_) => {}
                    None => {
                        self.diagnostics.error_in(at, path, bad.line, bad.text);
                        self.error(at, failed);
                        return Kind::Wrong;
                    }
                },
            }
        }
        for (line, why) in not_text {
            self.diagnostics
                .warning(at, format!("{path}:{line}: {why}"));
        }
        if let Some((line, key)) = spaced {
            let text = format!(
                "{path}:{line}: \"{key} : ...\" is read as \"{key}: ...\"; OpenSMTPD takes the colon \
                 for a part of the value"
            );
            self.diagnostics.warning(at, text);
        }
        match entries.shape() {
            Some(Shape::List) => Kind::List,
            Some(Shape::Map) => Kind::Map,
            None => Kind::Either,
        }
    }

    /// The table an option names, if it exists. A value in its place becomes a table of its own.
    pub(super) fn named_table(&mut self, table: &TableRef) -> Option<TableName> {
        let (source, kind) = match &table.value {
            TableValue::Named(name) => {
                if self.kinds.contains_key(&name.value) {
                    self.used.tables.insert(name.value.clone());
                    return Some(name.value.clone());
                }
                let known = self.declared.tables.keys().map(String::as_str);
                let hint = did_you_mean(&name.value, known);
                let text = format!("no such table: {}{hint}", name.value);
                self.unknown(name, text);
                return None;
            }
            TableValue::One(value) => self.list(built_in::ANONYMOUS, std::slice::from_ref(value)),
            TableValue::List(values) => self.list(built_in::ANONYMOUS, values),
            TableValue::Map(pairs) => self.map(built_in::ANONYMOUS, pairs),
        };
        let name = built_in::anonymous(self.anonymous);
        self.anonymous += 1;
        self.add(&name, source, kind);
        Some(name)
    }

    /// The table an option names, if it exists and can do what is asked of it; `refused` makes
    /// the complaint out of the table's name.
    pub(super) fn table_for(
        &mut self,
        table: &TableRef,
        takes: Takes,
        service: Service,
        refused: impl Fn(&str) -> String,
    ) -> Option<TableName> {
        let name = self.named_table(table)?;
        let kind = self.kinds.get(&name).copied().unwrap_or(Kind::Wrong);
        if kind.serves(takes, service) {
            return Some(name);
        }
        let is = match kind {
            Kind::Map => "it is a mapping",
            Kind::Users => "it is the system's users",
            _ => "it is a list",
        };
        let text = format!("{}; {is}", refused(&name));
        self.error(table.at, text);
        None
    }
}
