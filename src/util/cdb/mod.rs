//! Constant databases: the file format that cdb(5) describes, read and written.
//!
//! A file is 256 pointers to hash tables, then the records, then the tables. A key is found with
//! two reads. The reader takes any bytes: it looks at every number before it uses it, what does
//! not add up is [`Bad`], and nothing is ever mapped into memory, so that a file which shrinks
//! under us is a failed read and not a signal. It asks no system for anything but bytes at a
//! place, which a slice can give as well.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Reader, Records};
pub use write::Writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Longest key or value, in bytes.
pub const FIELD_BYTES: usize = 16 << 20;

const TABLES: usize = 256;
const HEADER_BYTES: u64 = 8 * TABLES as u64;

/// Where the bytes of a database come from.
pub trait Bytes {
    /// How many there are.
    fn length(&self) -> io::Result<u64>;
    /// Fills `buffer` with those from `offset` on, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Bytes for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Bytes for &[u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self
            .get(start..)
            .and_then(|rest| rest.get(..buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// Why bytes are no database, or cannot be had.
#[derive(Debug)]
pub enum Bad {
    /// Cut off, changed under us, or something else altogether.
    Format,
    /// A database of Berkeley DB, as other makemap(8) write it.
    BerkeleyDb,
    /// The system's error.
    Io(io::Error),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Format => f.write_str("damaged, or no database of makemap(8)"),
            Bad::BerkeleyDb => {
                f.write_str("a Berkeley DB file; run makemap(8) or newaliases(8) again")
            }
            Bad::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("cut off")
            }
            Bad::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Bad {}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Bad {
        Bad::Io(error)
    }
}

/// The hash of a key.
fn hash(key: &[u8]) -> u32 {
    let step = |hash: u32, byte: &u8| (hash << 5).wrapping_add(hash) ^ u32::from(*byte);
    key.iter().fold(5381, step)
}

/// Which table a hash belongs to.
fn table_of(hash: u32) -> usize {
    hash as usize % TABLES
}

/// Where in a table of `slots` the search begins.
fn first_slot(hash: u32, slots: u32) -> u32 {
    (hash >> 8).checked_rem(slots).unwrap_or(0)
}

/// The two numbers that pointers, slots and record heads are made of.
fn pair(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    Some((number(0)?, number(4)?))
}

fn pair_bytes(first: u32, second: u32) -> [u8; 8] {
    (u64::from(second) << 32 | u64::from(first)).to_le_bytes()
}
