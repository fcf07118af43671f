//! One table: where its entries come from, and how they are replaced.
//!
//! Who asks holds on to the entries of that moment; nobody waits for a file that is read again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crate::config::entries::Use;
use crate::config::table_text::Shape;
use crate::config::{Sources, TableSource, limits};
use crate::log;
use crate::sys::errno::strerror;
use crate::sys::open;

use super::contents::{BadContents, Contents};
use super::db::Db;
use super::program::Program;
use super::state::State;
use super::store::Store;

/// A table as it was read, and what it is used for.
pub struct Table {
    /// Where its entries come from.
    pub source: Source,
    /// `None`: a database that could not be opened so far.
    state: RwLock<Option<Arc<State>>>,
    /// Held by who opens a database that was replaced.
    reopening: Mutex<()>,
    pub uses: Vec<Use>,
}

/// Where the entries of a table come from.
pub enum Source {
    /// Written in the configuration.
    Inline,
    /// A file; its shape stays what it was at first.
    File(PathBuf, Option<Shape>),
    /// A database of makemap(8).
    Db(PathBuf),
    /// The system's users.
    Passwd,
    /// A program, once it has been started.
    Program(OnceLock<Arc<Program>>),
}

impl Table {
    fn new(source: Source, state: Option<State>) -> Table {
        Table {
            source,
            state: RwLock::new(state.map(Arc::new)),
            reopening: Mutex::new(()),
            uses: Vec::new(),
        }
    }

    /// The table as it is now: a database that was replaced is opened.
    pub fn now(&self, delimiter: char) -> Result<Arc<State>, String> {
        if let Some(state) = self.current()? {
            return Ok(state);
        }
        let _alone = self
            .reopening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = self.current()? {
            return Ok(state);
        }
        let Source::Db(path) = &self.source else {
            return Err("no entries".to_owned());
        };
        let fresh = Db::open(path).map_err(|reason| self.named(reason))?;
        let fresh = State::new(Store::Db(fresh));
        if let Some(old) = self.state() {
            fresh
                .rebuild_like(&old, delimiter)
                .map_err(|reason| self.named(reason))?;
        }
        let fresh = Arc::new(fresh);
        self.set(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// What there is, if it is what its file holds.
    fn current(&self) -> Result<Option<Arc<State>>, String> {
        let Some(state) = self.state() else {
            return Ok(None);
        };
        let current = match &self.source {
            Source::Db(path) => state.store.is_current(path),
            _ => Ok(true),
        };
        let current = current.map_err(|reason| self.named(reason))?;
        Ok(current.then_some(state))
    }

    /// What there is, old as it may be.
    pub fn state(&self) -> Option<Arc<State>> {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts other entries in the place of what there is.
    pub fn set(&self, fresh: Arc<State>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
    }

    /// A reason, with the file that it is about.
    pub fn named(&self, reason: String) -> String {
        match &self.source {
            Source::File(path, _) | Source::Db(path) => format!("{}: {reason}", path.display()),
            Source::Inline | Source::Passwd | Source::Program(_) => reason,
        }
    }
}

/// Makes a table; `wanted` is its shape if its entries do not say one.
pub fn build(
    source: &TableSource,
    sources: &Sources,
    wanted: Option<Shape>,
) -> Result<Table, String> {
    let said = |error: BadContents| error.to_string();
    let memory = |contents| Some(State::new(Store::Memory(contents)));
    match source {
        TableSource::List(keys) => {
            let entries = keys.iter().map(|key| (key.as_str(), ""));
            let contents = Contents::of(entries).map_err(said)?;
            Ok(Table::new(Source::Inline, memory(contents)))
        }
        TableSource::Map(pairs) => {
            let entries = pairs
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()));
            let contents = Contents::of(entries).map_err(said)?;
            Ok(Table::new(Source::Inline, memory(contents)))
        }
        TableSource::File(path) => {
            let bytes = sources.file(path).map_err(str::to_owned)?;
            of_file(path, bytes, wanted)
        }
        TableSource::Db(path) => {
            let state = Db::open(path).map(|db| State::new(Store::Db(db)));
            let table = Table::new(Source::Db(path.clone()), None);
            match state {
                Ok(state) => table.set(Arc::new(state)),
                // It may come back. Until it does, every lookup is a temporary failure.
                Err(reason) => log::warn(format_args!("table: {}", table.named(reason))),
            }
            Ok(table)
        }
        TableSource::Program(_) => Ok(Table::new(Source::Program(OnceLock::new()), None)),
        TableSource::Passwd => Ok(Table::new(Source::Passwd, memory(Contents::default()))),
    }
}

/// Makes the table that is in a file.
pub fn of_file(path: &Path, bytes: &[u8], wanted: Option<Shape>) -> Result<Table, String> {
    let (contents, shape) = Contents::parse(bytes, None).map_err(|error| error.to_string())?;
    let source = Source::File(path.to_owned(), shape.or(wanted));
    Ok(Table::new(
        source,
        Some(State::new(Store::Memory(contents))),
    ))
}

/// Reads the file of a table.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    open::read_plain(path, limits::TABLE_BYTES).map_err(|error| strerror(&error))
}

/// Entries for a file table whose shape is known.
pub fn parse(bytes: &[u8], shape: Option<Shape>) -> Result<State, String> {
    let (contents, _) = Contents::parse(bytes, shape).map_err(|error| error.to_string())?;
    Ok(State::new(Store::Memory(contents)))
}
