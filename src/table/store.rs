//! Keys and values, in memory or in a database: one face for both.

use std::borrow::Cow;
use std::path::Path;

use super::contents::{Contents, order};
use super::db::Db;

/// Where the entries of a table are.
pub enum Store {
    Memory(Contents),
    /// In a file of makemap(8).
    Db(Db),
}

impl Store {
    /// The value of exactly this key, in whatever case.
    pub fn get(&self, key: &str) -> Result<Option<Cow<'_, str>>, String> {
        match self {
            Store::Memory(contents) => Ok(contents.get(key)?.map(Cow::Borrowed)),
            Store::Db(db) => Ok(db.get(key)?.map(Cow::Owned)),
        }
    }

    /// Whether there is exactly this key, in whatever case.
    pub fn has(&self, key: &str) -> Result<bool, String> {
        match self {
            Store::Memory(contents) => Ok(contents.has(key)),
            Store::Db(db) => Ok(db.get(key)?.is_some()),
        }
    }

    /// Every key, as it was written.
    pub fn each_key(&self, each: &mut dyn FnMut(&str)) -> Result<(), String> {
        match self {
            Store::Memory(contents) => {
                contents.iter().for_each(|(key, _)| each(key));
                Ok(())
            }
            // A list in a database: see `as_written`.
            Store::Db(db) => db.each(&mut |key, value| each(as_written(key, value))),
        }
    }

    /// Every key once, in lower case and in byte order.
    pub fn sorted_keys(&self) -> Result<Vec<Box<str>>, String> {
        let mut keys: Vec<Box<str>> = Vec::new();
        self.each_key(&mut |key| keys.push(key.to_ascii_lowercase().into()))?;
        keys.sort_by(|a, b| order(a, b));
        keys.dedup();
        Ok(keys)
    }

    /// Whether a name still leads to these entries; those in memory have none.
    pub fn is_current(&self, path: &Path) -> Result<bool, String> {
        match self {
            Store::Memory(_) => Ok(true),
            Store::Db(db) => db.is_current(path),
        }
    }

    /// Whether what has been read since the store was opened is of one piece.
    pub fn is_unchanged(&self) -> bool {
        match self {
            Store::Memory(_) => true,
            Store::Db(db) => db.is_unchanged(),
        }
    }
}

/// A key of a database as its source had it. Keys are in lower case there; makemap(8) keeps the
/// line of a list in the value where that changes the meaning of a regular expression.
fn as_written<'e>(key: &'e str, value: &'e str) -> &'e str {
    if value.eq_ignore_ascii_case(key) {
        value
    } else {
        key
    }
}
