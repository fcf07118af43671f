//! Encryption: AES-256-GCM in chunks, each with its own seal.
//!
//! ```text
//! 0x02 "SMTPD-Q"    8 bytes that no text and no other form begins with
//! salt             32 random bytes
//! check             8 bytes that depend on key and salt: tell another key from damage
//! chunks           64 KiB of text each and 16 bytes of seal; the last may be shorter
//! ```
//!
//! HKDF-SHA256 (RFC 5869) makes the file's own key, its nonce prefix and the check of the salt and
//! the configured key, so no two files share a key and no nonce is used twice, however many files
//! there are. A chunk's nonce is the prefix (7 bytes), its number (4, big-endian), and 1 for the
//! last chunk or 0: a chunk that is left out, moved, or cut off at a seam does not open. The seal
//! covers the file's name too, so that an envelope does not open in another's place.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use crate::queue::DiskFile;
use crate::sys;

use super::{Bytes, Name, Source, Unreadable, fill_at};

/// The first bytes of a sealed file.
pub(super) const MAGIC: [u8; 8] = *b"\x02SMTPD-Q";

const SALT_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;
const PREFIX_BYTES: usize = 7;
const HEADER_BYTES: usize = MAGIC.len() + SALT_BYTES + CHECK_BYTES;
const CHUNK_BYTES: usize = 64 * 1024;
pub(super) const TAG_BYTES: usize = 16;
const SEALED_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// Of `queue encryption`.
pub(super) const KEY_BYTES: usize = 32;
const INFO: &[u8] = b"smtpd queue file 2";

/// The key of `queue encryption`. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// Exactly 32 bytes, used as they are.
    pub fn new(text: &str) -> Option<Key> {
        text.as_bytes().try_into().ok().map(Key)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// What belongs to one file.
struct FileKey {
    key: LessSafeKey,
    prefix: [u8; PREFIX_BYTES],
    check: [u8; CHECK_BYTES],
    name: [u8; 8],
}

/// Whether a chunk is the last one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Inside,
    Last,
}

/// How much is derived.
struct Derived;

impl KeyType for Derived {
    fn len(&self) -> usize {
        KEY_BYTES + PREFIX_BYTES + CHECK_BYTES
    }
}

impl FileKey {
    fn derive(key: &Key, salt: &[u8], name: Name) -> io::Result<FileKey> {
        let mut derived = [0; KEY_BYTES + PREFIX_BYTES + CHECK_BYTES];
        Salt::new(HKDF_SHA256, salt)
            .extract(key.bytes())
            .expand(&[INFO], Derived)
            .and_then(|made| made.fill(&mut derived))
            .map_err(refused)?;
        let (file_key, rest) = derived.split_at(KEY_BYTES);
        let (prefix, check) = rest.split_at(PREFIX_BYTES);
        Ok(FileKey {
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, file_key).map_err(refused)?),
            prefix: prefix.try_into().map_err(io::Error::other)?,
            check: check.try_into().map_err(io::Error::other)?,
            name: name.0.to_be_bytes(),
        })
    }

    /// Reads the header of a file.
    fn of_file(key: &Key, name: Name, header: &[u8]) -> Result<FileKey, Unreadable> {
        let Some(header) = header.get(..HEADER_BYTES) else {
            return Err(cut_short());
        };
        let (salt, check) = header[MAGIC.len()..].split_at(SALT_BYTES);
        let file_key = FileKey::derive(key, salt, name)?;
        if file_key.check == check {
            Ok(file_key)
        } else {
            Err(Unreadable::Key(
                "it is encrypted with another key".to_owned(),
            ))
        }
    }

    fn nonce(&self, number: u32, position: Position) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..PREFIX_BYTES].copy_from_slice(&self.prefix);
        nonce[PREFIX_BYTES..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = u8::from(position == Position::Last);
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, number: u32, position: Position, chunk: &mut Vec<u8>) -> io::Result<()> {
        self.key
            .seal_in_place_append_tag(self.nonce(number, position), Aad::from(self.name), chunk)
            .map_err(refused)
    }

    fn open(&self, number: u32, position: Position, chunk: &mut Vec<u8>) -> Result<(), Unreadable> {
        let text = self
            .key
            .open_in_place(self.nonce(number, position), Aad::from(self.name), chunk)
            .map_err(|_| damaged("a part of it has been changed, lost or put elsewhere"))?;
        let length = text.len();
        chunk.truncate(length);
        Ok(())
    }
}

/// Seals what is written to it.
pub(super) struct Writer<F> {
    file: F,
    key: FileKey,
    number: u32,
    chunk: Vec<u8>,
    header: Option<Vec<u8>>,
    finished: bool,
}

impl<F: DiskFile> Writer<F> {
    pub(super) fn new(key: &Key, name: Name, file: F) -> io::Result<Writer<F>> {
        let mut salt = [0; SALT_BYTES];
        sys::random::fill(&mut salt)?;
        let key = FileKey::derive(key, &salt, name)?;
        let header = [&MAGIC[..], &salt, &key.check].concat();
        Ok(Writer {
            file,
            key,
            number: 0,
            chunk: Vec::new(),
            header: Some(header),
            finished: false,
        })
    }

    /// A full chunk is kept until it is known whether it is the last.
    fn put(&mut self, position: Position) -> io::Result<()> {
        self.key.seal(self.number, position, &mut self.chunk)?;
        match self.header.take() {
            Some(mut start) => {
                start.extend_from_slice(&self.chunk);
                self.file.write(&start)?;
            }
            None => self.file.write(&self.chunk)?,
        }
        self.chunk.clear();
        let next = self.number.checked_add(1);
        self.number = next.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(())
    }
}

impl<F: DiskFile> DiskFile for Writer<F> {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.chunk.len() == CHUNK_BYTES {
                self.put(Position::Inside)?;
            }
            let room = CHUNK_BYTES - self.chunk.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        self.put(Position::Last)?;
        self.chunk = Vec::new();
        self.finished = true;
        self.file.finish()
    }

    fn start_writeback(&mut self) {
        self.file.start_writeback();
    }

    fn sync(&mut self) -> io::Result<()> {
        self.finish()?;
        self.file.sync()
    }
}

/// Opens a sealed file, chunk by chunk.
pub(super) struct Reader {
    source: Arc<Source>,
    key: FileKey,
    number: u32,
    at: u64,
    end: u64,
    chunk: Vec<u8>,
    taken: usize,
}

impl Reader {
    pub(super) fn new(key: &Key, name: Name, source: Arc<Source>) -> Result<Reader, Unreadable> {
        let mut header = [0; HEADER_BYTES];
        let count = fill_at(&*source, &mut header, 0)?;
        let key = FileKey::of_file(key, name, header.get(..count).unwrap_or_default())?;
        let end = source.size_bytes()?;
        Ok(Reader {
            source,
            key,
            number: 0,
            at: HEADER_BYTES as u64,
            end,
            chunk: Vec::new(),
            taken: 0,
        })
    }

    fn next_chunk(&mut self) -> Result<(), Unreadable> {
        let left = self.end.saturating_sub(self.at);
        let length = left.min(SEALED_BYTES as u64) as usize;
        self.chunk.resize(length, 0);
        if fill_at(&*self.source, &mut self.chunk, self.at)? < length {
            return Err(cut_short());
        }
        let position = if left == length as u64 {
            Position::Last
        } else {
            Position::Inside
        };
        self.taken = 0;
        let opened = self.key.open(self.number, position, &mut self.chunk);
        if opened.is_err() {
            self.chunk.clear();
        }
        opened?;
        self.at += length as u64;
        self.number = self.number.checked_add(1).ok_or_else(cut_short)?;
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Without a last chunk there is no end.
        if self.taken == self.chunk.len() && (self.at < self.end || self.number == 0) {
            self.next_chunk()?;
        }
        let ready = self.chunk.get(self.taken..).unwrap_or_default();
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.taken += count;
        Ok(count)
    }
}

/// A small text, sealed.
pub(super) fn seal(key: &Key, name: Name, text: &[u8]) -> io::Result<Vec<u8>> {
    let mut sealed = Vec::new();
    let mut writer = Writer::new(key, name, Bytes(&mut sealed))?;
    writer.write(text)?;
    writer.finish()?;
    drop(writer);
    Ok(sealed)
}

/// The text again.
pub(super) fn open(key: &Key, name: Name, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let key = FileKey::of_file(key, name, sealed)?;
    let chunks = sealed.get(HEADER_BYTES..).unwrap_or_default();
    if chunks.is_empty() {
        return Err(cut_short());
    }
    let count = chunks.len().div_ceil(SEALED_BYTES);
    let mut text = Vec::with_capacity(chunks.len());
    for (number, chunk) in (0u32..).zip(chunks.chunks(SEALED_BYTES)) {
        let position = if number as usize + 1 == count {
            Position::Last
        } else {
            Position::Inside
        };
        let mut chunk = chunk.to_vec();
        key.open(number, position, &mut chunk)?;
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

fn cut_short() -> Unreadable {
    damaged("it ends early")
}

fn damaged(why: &str) -> Unreadable {
    Unreadable::Damaged(why.to_owned())
}

fn refused(_: ring::error::Unspecified) -> io::Error {
    io::Error::other("encryption failed")
}
