//! The entries of a table in memory: one text, and where keys and values lie in it.
//!
//! A table of a million entries costs its keys and values and fourteen bytes per entry; a key is
//! found by its hash. Keys are compared without regard to case and kept as they are written, for
//! the case of a regular expression means something.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::config::limits;
use crate::config::table_text::{BadEntry, Entries, Shape};

/// Entries in the order of their text; the last of equal keys has won.
#[derive(Default)]
pub struct Contents {
    text: String,
    entries: Vec<Entry>,
    /// Numbers of entries plus one, where the hash of the key says; 0 is a free place.
    index: Vec<u32>,
    hasher: RandomState,
}

/// Where key and value begin; the value ends where the next key begins.
#[derive(Clone, Copy)]
struct Entry {
    key: u32,
    value: u32,
}

/// Why a text makes no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadContents {
    /// A line, from 1, is no entry.
    Entry(u32, &'static str),
    /// More than four gigabytes.
    TooLarge,
}

impl fmt::Display for BadContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadContents::Entry(line, text) => write!(f, "line {line}: {text}"),
            BadContents::TooLarge => f.write_str("table too large"),
        }
    }
}

/// Stands for a value that is not UTF-8. No text of a table holds it.
const UNREADABLE: &str = "\0";

impl Contents {
    /// Reads the text of a file table; says what shape it has when that can be seen.
    pub fn parse(
        text: &[u8],
        shape: Option<Shape>,
    ) -> Result<(Contents, Option<Shape>), BadContents> {
        let mut entries = Entries::new(text, shape);
        let mut contents = Contents::default();
        contents.text.reserve(text.len());
        for entry in &mut entries {
            match entry {
                Ok(entry) => contents.push(entry.key, &entry.value)?,
                Err(BadEntry { key: Some(key), .. }) => contents.push(key, UNREADABLE)?,
                Err(bad) if bad.is_left_out() => {}
                Err(bad) => return Err(BadContents::Entry(bad.line, bad.text)),
            }
        }
        contents.settle();
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
        contents.settle();
        Ok(contents)
    }

    /// The value of exactly this key, in whatever case. One that is not UTF-8 is an error: an
    /// answer that there is none would have another entry looked for.
    pub fn get(&self, key: &str) -> Result<Option<&str>, String> {
        match self.find(key).map(|(_, number)| self.value(number)) {
            Ok(UNREADABLE) => Err(format!("value of {key}: not UTF-8 text")),
            found => Ok(found.ok()),
        }
    }

    /// Whether there is exactly this key, in whatever case.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Keys and values, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.len()).map(|number| (self.key(number), self.value(number)))
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
        at(start + key.len() + value.len())?;
        self.entries.push(Entry {
            key: at(start)?,
            value: at(start + key.len())?,
        });
        self.text.push_str(key);
        self.text.push_str(value);
        Ok(())
    }

    /// Builds the index, and throws out what a later entry replaces.
    fn settle(&mut self) {
        let replaced = self.build_index();
        if !replaced.is_empty() {
            self.remove(&replaced);
            self.build_index();
        }
        self.entries.shrink_to_fit();
        self.text.shrink_to_fit();
    }

    /// Entries that a later one replaces, for each key the one before. In a list, keys that differ
    /// in case all stay.
    fn build_index(&mut self) -> Vec<usize> {
        self.index = vec![0; self.len() + self.len() / 3 + 1];
        let mut replaced = Vec::new();
        for number in 0..self.len() {
            let place = match self.find(self.key(number)) {
                Ok((place, before)) => {
                    let bare = self.value(before).is_empty() && self.value(number).is_empty();
                    if !bare || self.key(before) == self.key(number) {
                        replaced.push(before);
                    }
                    place
                }
                Err(free) => free,
            };
            if let Some(slot) = self.index.get_mut(place) {
                *slot = number as u32 + 1;
            }
        }
        replaced
    }

    fn remove(&mut self, numbers: &[usize]) {
        let mut gone = vec![false; self.len()];
        for number in numbers {
            if let Some(gone) = gone.get_mut(*number) {
                *gone = true;
            }
        }
        let (mut text, mut entries) = (String::with_capacity(self.text.len()), Vec::new());
        for (number, _) in gone.iter().enumerate().filter(|(_, gone)| !**gone) {
            let key = text.len() as u32;
            text.push_str(self.key(number));
            let value = text.len() as u32;
            text.push_str(self.value(number));
            entries.push(Entry { key, value });
        }
        (self.text, self.entries) = (text, entries);
    }

    /// The place in the index, and the number, of the entry with this key; else the place where
    /// it would be.
    fn find(&self, key: &str) -> Result<(usize, usize), usize> {
        let places = self.index.len();
        let start = ((u128::from(self.hash(key)) * places as u128) >> 64) as usize;
        for place in (start..places).chain(0..start) {
            match self.index.get(place).copied().unwrap_or(0) {
                0 => return Err(place),
                found => {
                    let number = found as usize - 1;
                    if self.key(number).eq_ignore_ascii_case(key) {
                        return Ok((place, number));
                    }
                }
            }
        }
        Err(places)
    }

    fn hash(&self, key: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        let mut lower = [0; 64];
        for bytes in key.as_bytes().chunks(lower.len()) {
            for (to, from) in lower.iter_mut().zip(bytes) {
                *to = from.to_ascii_lowercase();
            }
            hasher.write(lower.get(..bytes.len()).unwrap_or_default());
        }
        hasher.finish()
    }

    fn key(&self, number: usize) -> &str {
        let entry = self.entries.get(number);
        let range = entry.map(|entry| entry.key as usize..entry.value as usize);
        range.and_then(|r| self.text.get(r)).unwrap_or_default()
    }

    fn value(&self, number: usize) -> &str {
        let start = self.entries.get(number).map(|entry| entry.value as usize);
        let next = self.entries.get(number + 1);
        let end = next.map_or(self.text.len(), |next| next.key as usize);
        let range = start.map(|start| start..end);
        range.and_then(|r| self.text.get(r)).unwrap_or_default()
    }
}

/// Byte order of the lower case.
pub fn order(a: &str, b: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    a.bytes().map(lower).cmp(b.bytes().map(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(contents: &Contents) -> Vec<&str> {
        contents.iter().map(|(key, _)| key).collect()
    }

    // table(5): keys are not case sensitive, a later entry replaces an earlier one.
    #[test]
    fn case_does_not_matter_and_the_last_one_wins() {
        let text = b"Bob: one\nalice: two\nBOB: three\nbob: four\nBoB: five\n";
        let (contents, shape) = Contents::parse(text, None).unwrap();
        assert_eq!(shape, Some(Shape::Map));
        assert_eq!(contents.get("bob"), Ok(Some("five")));
        assert_eq!(contents.get("Bob"), Ok(Some("five")));
        assert_eq!(contents.get("alice"), Ok(Some("two")));
        assert_eq!(contents.get("alic"), Ok(None));
        assert_eq!(keys(&contents), ["alice", "BoB"]);
        let long = format!("{}: x\n", "k".repeat(limits::KEY_BYTES));
        assert_eq!(Contents::parse(long.as_bytes(), None).unwrap().0.len(), 0);
        assert_eq!(Contents::default().get("x"), Ok(None));
    }

    #[test]
    fn a_list_keeps_what_differs_in_case() {
        let (contents, _) = Contents::parse(b"\\S\n\\s\na\n\\S\n", None).unwrap();
        assert_eq!(keys(&contents), ["\\S", "\\s", "a", "\\S"]);
        assert_eq!(contents.get("\\S"), Ok(Some("")));
        assert_eq!(contents.get("b"), Ok(None));
    }

    #[test]
    fn long_keys_are_found() {
        let key = "k".repeat(limits::KEY_BYTES - 1);
        let text = format!("{key}: v\n{}: w\n", &key[1..]);
        let (contents, _) = Contents::parse(text.as_bytes(), None).unwrap();
        assert_eq!(contents.get(&key.to_ascii_uppercase()), Ok(Some("v")));
        assert_eq!(contents.get(&key[1..]), Ok(Some("w")));
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = Contents::parse(b"a: b\nc\n", None).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("line 2: invalid map entry"));
        let text = b"a: b\nc: \xe9\nd: e\nD: f, \xe9\n\xe9: g\nh\xe9\n";
        let (contents, _) = Contents::parse(text, None).unwrap();
        assert_eq!(keys(&contents), ["a", "c", "D"]);
        assert_eq!(contents.get("a"), Ok(Some("b")));
        assert!(contents.get("c").is_err() && contents.has("c"));
        assert!(contents.get("d").is_err());
        assert_eq!(contents.get("h"), Ok(None));
    }
}
