//! The entries of a table in memory: one text, and where keys and values lie in it.
//!
//! A table of a million entries costs its text and sixteen bytes per entry; a key is found by
//! binary search. Keys are compared without regard to case and kept as they are written, for the
//! case of a regular expression means something.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use crate::config::limits;
use crate::config::table_text::{BadEntry, Entries, Shape};

/// Entries in byte order of their keys; the last of equal keys has won.
#[derive(Default)]
pub struct Contents {
    text: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    key: u32,
    value: u32,
    value_end: u32,
}

/// Why a text makes no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadContents {
    /// A line is no entry.
    Entry(BadEntry),
    /// More than four gigabytes.
    TooLarge,
}

impl fmt::Display for BadContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadContents::Entry(bad) => write!(f, "line {}: {}", bad.line, bad.text),
            BadContents::TooLarge => f.write_str("table too large"),
        }
    }
}

impl Contents {
    /// Reads the text of a file table; says what shape it has when that can be seen.
    pub fn parse(
        text: &[u8],
        shape: Option<Shape>,
    ) -> Result<(Contents, Option<Shape>), BadContents> {
        let mut entries = Entries::new(text, shape);
        let mut contents = Contents::default();
        for entry in &mut entries {
            let entry = entry.map_err(BadContents::Entry)?;
            contents.push(entry.key, entry.value)?;
        }
        contents.sort();
        Ok((contents, entries.shape()))
    }

    /// Takes keys and values as they are written in the configuration.
    pub fn of<'e>(
        entries: impl Iterator<Item = (&'e str, &'e str)>,
    ) -> Result<Contents, BadContents> {
        let mut contents = Contents::default();
        for (key, value) in entries {
            contents.push(key, value)?;
        }
        contents.sort();
        Ok(contents)
    }

    /// The value of exactly this key, in whatever case.
    pub fn get(&self, key: &str) -> Option<&str> {
        let compare = |entry: &Entry| order(self.key(entry), key);
        let found = self.entries.binary_search_by(compare);
        self.entries.get(found.ok()?).map(|entry| self.value(entry))
    }

    /// Every key, in byte order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| self.key(entry))
    }

    /// The key at a position in byte order.
    pub fn nth_key(&self, position: usize) -> Option<&str> {
        self.entries.get(position).map(|entry| self.key(entry))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn push(&mut self, key: &str, value: &str) -> Result<(), BadContents> {
        if key.len() >= limits::KEY_BYTES {
            return Ok(());
        }
        let at = |length: usize| u32::try_from(length).map_err(|_| BadContents::TooLarge);
        let start = self.text.len();
        let end = start + key.len() + value.len();
        let entry = Entry {
            key: at(start)?,
            value: at(start + key.len())?,
            value_end: at(end)?,
        };
        self.text.push_str(key);
        self.text.push_str(value);
        self.entries.push(entry);
        Ok(())
    }

    fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        // The sort is stable: of equal keys the one written last stands last, and that is the
        // one to keep. In a list equal keys in different case may both stay.
        entries.sort_by(|a, b| order(self.key(a), self.key(b)));
        entries.reverse();
        entries.dedup_by(|a, b| {
            let bare = a.value == a.value_end && b.value == b.value_end;
            let same = order(self.key(a), self.key(b)) == Ordering::Equal;
            same && (!bare || self.key(a) == self.key(b))
        });
        entries.reverse();
        entries.shrink_to_fit();
        self.entries = entries;
        self.text.shrink_to_fit();
    }

    fn key(&self, entry: &Entry) -> &str {
        self.slice(entry.key as usize..entry.value as usize)
    }

    fn value(&self, entry: &Entry) -> &str {
        self.slice(entry.value as usize..entry.value_end as usize)
    }

    fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }
}

/// Byte order of the lower case.
fn order(a: &str, b: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    a.bytes().map(lower).cmp(b.bytes().map(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    // table(5): keys are not case sensitive, a later entry replaces an earlier one.
    #[test]
    fn case_does_not_matter_and_the_last_one_wins() {
        let text = b"Bob: one\nalice: two\nBOB: three\n";
        let (contents, shape) = Contents::parse(text, None).unwrap();
        assert_eq!(shape, Some(Shape::Map));
        assert_eq!(contents.get("bob"), Some("three"));
        assert_eq!(contents.get("Bob"), Some("three"));
        assert_eq!(contents.keys().collect::<Vec<_>>(), ["alice", "BOB"]);
        let long = format!("{}: x\n", "k".repeat(limits::KEY_BYTES));
        assert_eq!(Contents::parse(long.as_bytes(), None).unwrap().0.len(), 0);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = Contents::parse(b"a: b\nc\n", None).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("line 2: invalid map entry"));
    }
}
