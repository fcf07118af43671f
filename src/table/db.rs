//! `db` tables: a constant database that makemap(8) has written.
//!
//! The file is looked at before each answer and after it. One that was replaced is opened in the
//! place of the old one; one that is gone, cut off or no database is an error, and so is one that
//! is written to while it is read: an answer is never made of two files.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::limits;
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::util::cdb::{Bad, Bytes, Reader};

/// An open database, and what its file was when it was opened.
pub struct Db {
    reader: Reader<File>,
    stamp: Stamp,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    written: (u64, i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Stamp {
        Stamp {
            device: found.dev(),
            inode: found.ino(),
            written: (found.size(), found.mtime(), found.mtime_nsec()),
        }
    }
}

impl Db {
    /// Opens the file that has this name now.
    pub fn open(path: &Path) -> Result<Db, String> {
        let file = open::plain(path).map_err(|error| strerror(&error))?;
        let found = file.metadata().map_err(|error| strerror(&error))?;
        Ok(Db {
            reader: Reader::open(file).map_err(said)?,
            stamp: Stamp::of(&found),
        })
    }

    /// Whether the name still leads to this file as it was.
    pub fn is_current(&self, path: &Path) -> Result<bool, String> {
        let found = std::fs::metadata(path).map_err(|error| strerror(&error))?;
        Ok(Stamp::of(&found) == self.stamp)
    }

    /// Whether nobody has written to the open file, whatever its name leads to by now.
    pub fn is_unchanged(&self) -> bool {
        let found = self.reader.bytes().metadata();
        found.is_ok_and(|found| Stamp::of(&found).written == self.stamp.written)
    }

    /// The value of a key, in whatever case.
    pub fn get(&self, key: &str) -> Result<Option<String>, String> {
        get(&self.reader, key)
    }

    /// Every key and value.
    pub fn each(&self, each: &mut dyn FnMut(&str, &str)) -> Result<(), String> {
        self::each(&self.reader, each)
    }
}

/// The values that may include files, out of a database that is there; the others say nothing of
/// what else must be readable.
pub fn including_values(path: &Path) -> Vec<String> {
    let mut values = Vec::new();
    let mut keep = |_: &str, value: &str| {
        if value.to_ascii_lowercase().contains("include:") {
            values.push(value.to_owned());
        }
    };
    // What is wrong with the file is said when the table is opened.
    let _ = Db::open(path).and_then(|db| db.each(&mut keep));
    values
}

/// The value of a key in any database.
pub fn get<B: Bytes>(reader: &Reader<B>, key: &str) -> Result<Option<String>, String> {
    if key.len() >= limits::KEY_BYTES {
        return Ok(None);
    }
    let value = reader.get(key.to_ascii_lowercase().as_bytes());
    let value = value.map_err(said)?.map(String::from_utf8).transpose();
    value.map_err(|_| NOT_TEXT.to_owned())
}

/// Every key and value of any database, in the order of the file.
pub fn each<B: Bytes>(reader: &Reader<B>, each: &mut dyn FnMut(&str, &str)) -> Result<(), String> {
    let mut records = reader.records();
    while let Some((key, value)) = records.next().map_err(said)? {
        match (std::str::from_utf8(key), std::str::from_utf8(value)) {
            (Ok(key), Ok(value)) => each(key, value),
            _ => return Err(NOT_TEXT.to_owned()),
        }
    }
    Ok(())
}

const NOT_TEXT: &str = "an entry is not UTF-8 text";

fn said(bad: Bad) -> String {
    match bad {
        Bad::Io(error) if error.raw_os_error().is_some() => strerror(&error),
        bad => bad.to_string(),
    }
}
