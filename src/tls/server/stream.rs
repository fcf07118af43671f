//! What is said after the handshake.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};

use rustls::ServerConnection;

use crate::tls::Facts;

/// TLS with a client, without its socket: each call is given that. Reading and writing are as on a
/// socket that does not block. What [`Secured::write`] has taken may still be here when the socket
/// is slow; then [`Secured::wants_write`], and [`Secured::flush`] sends it.
pub struct Secured {
    connection: Box<ServerConnection>,
    facts: Facts,
}

impl Secured {
    pub(super) fn new(connection: Box<ServerConnection>, facts: Facts) -> Secured {
        Secured { connection, facts }
    }

    /// What was agreed upon.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Reads; 0 is the end. A client that closes its socket without saying so has closed: SMTP has
    /// ends of its own. Call it until it would block: bytes that are decrypted already wait here,
    /// and the socket knows nothing of them. Records without data are taken for so long only: a
    /// client that sends nothing else would keep us reading.
    pub fn read<S: Read + Write>(
        &mut self,
        socket: &mut S,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let mut fruitless = 0;
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            // No error but the socket's: what follows from a client that has gone is seen by
            // those who write.
            let _ = self.flush(socket);
            if fruitless > MAX_FRUITLESS {
                let error = "tls: too many records without data";
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            fruitless += self.connection.read_tls(socket)?;
            if let Err(error) = self.connection.process_new_packets() {
                // The client is told why, if it listens.
                let _ = self.flush(socket);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }

    /// Takes some of `bytes` to be encrypted, and sends as much as the socket takes.
    pub fn write<S: Write>(&mut self, socket: &mut S, bytes: &[u8]) -> io::Result<usize> {
        if self.connection.wants_write() {
            self.flush(socket)?;
        }
        let taken = self.connection.writer().write(bytes)?;
        // What has been taken is not to be given again: an error is met by the next call.
        let _ = self.flush(socket);
        Ok(taken)
    }

    /// Whether there is something to be sent.
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Sends what there is.
    pub fn flush<S: Write>(&mut self, socket: &mut S) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be sent (RFC 8446 §6.1), as far as the socket takes it.
    pub fn finish<S: Write>(&mut self, socket: &mut S) {
        self.connection.send_close_notify();
        let _ = self.flush(socket);
    }
}

/// Bytes that may be read at a time without any data coming out of them: four records of the
/// greatest length.
const MAX_FRUITLESS: usize = 64 * 1024;

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}
