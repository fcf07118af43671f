//! A file of the queue while it is written: the disk's own, and what compresses or encrypts on the
//! way to it.

use std::io;

/// A file being written.
pub trait DiskFile: Send {
    /// Appends all of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Nothing more will be written.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Lets the disk begin with what has been written. Only a hint.
    fn start_writeback(&mut self) {}
    /// Makes the contents durable.
    fn sync(&mut self) -> io::Result<()>;
}

impl DiskFile for Box<dyn DiskFile> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        (**self).write(bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        (**self).finish()
    }

    fn start_writeback(&mut self) {
        (**self).start_writeback();
    }

    fn sync(&mut self) -> io::Result<()> {
        (**self).sync()
    }
}
