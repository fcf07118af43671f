//! How queue files lie on the disk: as they are, compressed, encrypted, or both.
//!
//! `queue compression` and `queue encryption` of smtpd.conf(5) decide how files are written; what
//! is read says by its first bytes what it is. So a spool stays readable when either option comes
//! or goes, as long as the key is there. Files of OpenSMTPD, encrypted ones too, are read.
//!
//! Promises: bodies pass through in pieces and are never held whole (but for OpenSMTPD's encrypted
//! ones, which have one seal for all of it); what a key has sealed is given out only after its seal
//! has been checked, piece by piece; a file that ends early, or lies where another belongs, is an
//! error. A file that another key has sealed is [`Unreadable::Key`], which nobody takes for damage.

mod gzip;
mod legacy;
mod seal;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::mail::{EvpId, MsgId};

use super::DiskFile;

pub use seal::Key;

/// How files are written, and the key to those that are sealed.
#[derive(Clone, Debug, Default)]
pub struct Coding {
    /// Whether new files are compressed.
    pub compress: bool,
    /// The key that new files are sealed with, and old ones opened.
    pub key: Option<Key>,
}

/// Which file of the queue it is. A sealed file is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name(u64);

impl Name {
    /// The body of a message.
    pub fn body(id: MsgId) -> Name {
        // The lower half of an envelope's id is never 0.
        Name(u64::from(id.get()) << 32)
    }

    /// An envelope.
    pub fn envelope(id: EvpId) -> Name {
        Name(id.get())
    }

    /// As a number that no other file of the queue has.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// Why a file cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// Its key is another one, or none was given. The file may be as good as ever.
    Key(String),
    Damaged(String),
    /// The disk said no.
    Io(io::Error),
}

/// What holds the bytes of a file: a file, or memory where it was a part of one.
pub enum Source {
    /// A file of its own.
    File(File),
    Memory(Vec<u8>),
}

/// What can be read at any place.
pub(super) trait ReadAt {
    /// Reads from `at` on, as much as one call gives.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

/// A body being read: plain text from its first byte, LF line ends.
pub struct Body {
    source: Arc<Source>,
    coding: Coding,
    name: Name,
    text: Text,
}

enum Text {
    Plain { at: u64 },
    Coded(Box<dyn Read + Send>),
}

/// What a file's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Gzip,
    Sealed,
    /// Sealed by OpenSMTPD.
    Legacy,
}

/// So many bytes tell a file's form.
const PROBE: usize = seal::MAGIC.len();
/// What coding adds to a small file at most.
pub const OVERHEAD_BYTES: usize = 512;
/// No text begins with these.
const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const LEGACY: u8 = 0x01;

impl Form {
    pub(super) fn of(start: &[u8]) -> Form {
        if start.starts_with(&seal::MAGIC) {
            Form::Sealed
        } else if start.starts_with(&GZIP) {
            Form::Gzip
        } else if start.first() == Some(&LEGACY) {
            Form::Legacy
        } else {
            Form::Plain
        }
    }

    pub(super) fn of_file(file: &impl ReadAt) -> io::Result<Form> {
        let mut start = [0; PROBE];
        let count = fill_at(file, &mut start, 0)?;
        Ok(Form::of(start.get(..count).unwrap_or_default()))
    }
}

impl Coding {
    /// The bytes of a small file.
    pub fn encode(&self, name: Name, text: &[u8]) -> io::Result<Vec<u8>> {
        let packed;
        let text = if self.compress {
            packed = gzip::pack(text)?;
            &packed
        } else {
            text
        };
        match &self.key {
            Some(key) => seal::seal(key, name, text),
            None => Ok(text.to_vec()),
        }
    }

    /// The text of a small file, of at most `max_bytes`; more is damage.
    pub fn decode(
        &self,
        name: Name,
        bytes: &[u8],
        max_bytes: usize,
    ) -> Result<Vec<u8>, Unreadable> {
        let opened;
        let bytes = match Form::of(bytes) {
            Form::Sealed => {
                opened = seal::open(self.key()?, name, bytes)?;
                &opened
            }
            Form::Legacy => {
                opened = legacy::open(self.key()?, bytes.to_vec())?;
                &opened
            }
            Form::Gzip | Form::Plain => bytes,
        };
        if Form::of(bytes) != Form::Gzip {
            return Ok(bytes.to_vec());
        }
        let mut text = Vec::new();
        gzip::unpack(bytes)
            .take(max_bytes as u64 + 1)
            .read_to_end(&mut text)
            .map_err(|error| Unreadable::Damaged(error.to_string()))?;
        if text.len() > max_bytes {
            Err(Unreadable::Damaged("file too large".to_owned()))
        } else {
            Ok(text)
        }
    }

    /// What is written to the file returned arrives in `file` as it is to lie there.
    pub(super) fn writer(
        &self,
        name: Name,
        file: Box<dyn DiskFile>,
    ) -> io::Result<Box<dyn DiskFile>> {
        let file: Box<dyn DiskFile> = match &self.key {
            Some(key) => Box::new(seal::Writer::new(key, name, file)?),
            None => file,
        };
        Ok(if self.compress {
            Box::new(gzip::Writer::new(file))
        } else {
            file
        })
    }

    /// Reads a body from its file. OpenSMTPD's encrypted ones are held in memory.
    pub fn open(&self, name: Name, source: impl Into<Source>) -> Result<Body, Unreadable> {
        self.open_shared(name, Arc::new(source.into()))
    }

    fn open_shared(&self, name: Name, source: Arc<Source>) -> Result<Body, Unreadable> {
        let text = match Form::of_file(&*source)? {
            Form::Plain => Text::Plain { at: 0 },
            Form::Gzip => Text::Coded(Box::new(gzip::unpack(At::start(source.clone())))),
            Form::Sealed => {
                let opened = seal::Reader::new(self.key()?, name, source.clone())?;
                Text::Coded(unpacked(opened)?)
            }
            Form::Legacy => {
                let opened = legacy::open(self.key()?, legacy::read(&source)?)?;
                Text::Coded(unpacked(Cursor::new(opened))?)
            }
        };
        Ok(Body {
            source,
            coding: self.clone(),
            name,
            text,
        })
    }

    fn key(&self) -> Result<&Key, Unreadable> {
        let none = "it is encrypted, and there is no \"queue encryption\"";
        self.key
            .as_ref()
            .ok_or_else(|| Unreadable::Key(none.to_owned()))
    }
}

/// What has been opened may be compressed.
fn unpacked(mut opened: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut start = [0; GZIP.len()];
    let mut count = 0;
    while let Some(rest) = start.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match opened.read(rest) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let whole = Cursor::new(start).take(count as u64).chain(opened);
    Ok(if count == start.len() && start == GZIP {
        Box::new(gzip::unpack(whole))
    } else {
        Box::new(whole)
    })
}

impl Body {
    /// The same from its first byte, without opening the file again.
    pub fn again(&self) -> io::Result<Body> {
        match self.text {
            Text::Plain { .. } => Ok(Body {
                source: self.source.clone(),
                coding: self.coding.clone(),
                name: self.name,
                text: Text::Plain { at: 0 },
            }),
            Text::Coded(_) => Ok(self.coding.open_shared(self.name, self.source.clone())?),
        }
    }

    /// Bytes of plain text, header included. A compressed body is read through for it.
    pub fn size_bytes(&self) -> io::Result<u64> {
        if let Text::Plain { .. } = self.text {
            return self.source.size_bytes();
        }
        let mut body = self.coding.open_shared(self.name, self.source.clone())?;
        io::copy(&mut body, &mut io::sink())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.text {
            Text::Plain { at } => {
                let count = self.source.read_at(buffer, *at)?;
                *at += count as u64;
                Ok(count)
            }
            Text::Coded(text) => text.read(buffer),
        }
    }
}

impl From<File> for Body {
    /// A body that lies there as it is.
    fn from(file: File) -> Body {
        Body {
            source: Arc::new(Source::File(file)),
            coding: Coding::default(),
            name: Name(0),
            text: Text::Plain { at: 0 },
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?})", self.name)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Key(why) | Unreadable::Damaged(why) => f.write_str(why),
            Unreadable::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        Unreadable::Io(error)
    }
}

impl From<Unreadable> for io::Error {
    fn from(unreadable: Unreadable) -> io::Error {
        match unreadable {
            Unreadable::Key(why) => io::Error::new(io::ErrorKind::PermissionDenied, why),
            Unreadable::Damaged(why) => io::Error::new(io::ErrorKind::InvalidData, why),
            Unreadable::Io(error) => error,
        }
    }
}

impl Source {
    fn size_bytes(&self) -> io::Result<u64> {
        match self {
            Source::File(file) => Ok(file.metadata()?.len()),
            Source::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }
}

impl From<File> for Source {
    fn from(file: File) -> Source {
        Source::File(file)
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Source {
        Source::Memory(bytes)
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }
}

impl ReadAt for Source {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Source::File(file) => FileExt::read_at(file, buffer, at),
            Source::Memory(bytes) => {
                let rest = bytes.get(at as usize..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }
}

/// A file read from a place of its own, whoever else reads it.
struct At {
    source: Arc<Source>,
    at: u64,
}

impl At {
    fn start(source: Arc<Source>) -> At {
        At { source, at: 0 }
    }
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Reads until `buffer` is full or the file ends; says how much that was.
pub(super) fn fill_at(file: &impl ReadAt, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Bytes in memory as a file.
struct Bytes<'a>(&'a mut Vec<u8>);

impl DiskFile for Bytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
