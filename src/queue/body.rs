//! How a message's bytes are kept: as they are, through a buffer, never whole in memory.
//!
//! Nothing touches the disk until the buffer is full or the body is finished, so a small message
//! that is refused at its end costs no file. Who must not wait for the disk looks at
//! [`BodyWriter::is_full`] after each write, and lets somebody else call [`BodyWriter::spill`]. The
//! first error is kept and told again at every later call. Compression and encryption are another
//! [`DiskFile`] around the one of the disk ([`super::coding`]).

use std::io;

use super::DiskFile;
use super::shared_error::SharedError;

/// So many bytes in memory are enough for a first write to the disk.
const FULL_BYTES: usize = 64 * 1024;
/// A message that has a file already has more to come: fewer calls, of more bytes each.
const FULL_AGAIN_BYTES: usize = 192 * 1024;
/// So many are never exceeded: one more write of what a session takes in one go fits in above
/// these.
const BUFFER_BYTES: usize = 256 * 1024;

/// A body being written.
#[derive(Default)]
pub(super) struct BodyWriter {
    buffer: Vec<u8>,
    file: Option<Box<dyn DiskFile>>,
    failure: Option<SharedError>,
}

impl BodyWriter {
    /// Appends bytes; `create` makes the file when the buffer is full for the first time.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        create: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<()> {
        self.healthy()?;
        if self.buffer.len() + bytes.len() <= BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let result = self.write_through(bytes, create);
        self.keep(result)
    }

    /// Bytes in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing has been written to the disk.
    pub(super) fn is_unwritten(&self) -> bool {
        self.file.is_none() && self.failure.is_none()
    }

    /// All of it, if nothing has been written to the disk.
    pub(super) fn take_unwritten(&mut self) -> Option<Vec<u8>> {
        self.is_unwritten()
            .then(|| std::mem::take(&mut self.buffer))
    }

    /// Puts bytes in front of all others, if nothing has been written to the disk; says whether it
    /// did.
    pub(super) fn put_in_front(&mut self, bytes: &[u8]) -> bool {
        let fits = self.is_unwritten();
        if fits {
            self.buffer.splice(0..0, bytes.iter().copied());
        }
        fits
    }

    /// Whether [`BodyWriter::spill`] is due.
    pub(super) fn is_full(&self) -> bool {
        let enough = match self.file {
            None => FULL_BYTES,
            Some(_) => FULL_AGAIN_BYTES,
        };
        self.buffer.len() >= enough
    }

    /// Writes out what is in memory.
    pub(super) fn spill(
        &mut self,
        create: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<()> {
        self.healthy()?;
        let result = self.write_through(&[], create);
        self.keep(result)
    }

    /// Writes what is left and gives up the file, for the caller to sync.
    pub(super) fn finish(
        &mut self,
        create: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<Box<dyn DiskFile>> {
        self.healthy()?;
        let result = self.write_out(create);
        self.keep(result)?;
        self.file
            .take()
            .ok_or_else(|| io::Error::other("the body was already finished"))
    }

    fn write_out(
        &mut self,
        create: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<()> {
        self.write_through(&[], create)?;
        if let Some(file) = &mut self.file {
            file.finish()?;
        }
        Ok(())
    }

    fn write_through(
        &mut self,
        bytes: &[u8],
        create: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(create()?),
        };
        if !self.buffer.is_empty() {
            file.write(&self.buffer)?;
            self.buffer.clear();
        }
        if bytes.len() < FULL_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        file.write(bytes)
    }

    fn healthy(&self) -> io::Result<()> {
        match &self.failure {
            Some(failure) => Err(failure.to_error()),
            None => Ok(()),
        }
    }

    fn keep(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            self.failure = Some(SharedError::of(error));
            self.buffer = Vec::new();
        }
        result
    }
}
