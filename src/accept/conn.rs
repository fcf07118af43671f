//! One SMTP connection as a value: its socket, its session, and what neither has digested.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use mio::event::Source as EventSource;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::session::Next;

use super::source::Source;

/// A connection. Parked, it keeps only bytes that are not yet digested or not yet taken.
pub(super) struct Conn<T> {
    pub(super) stream: Stream,
    /// `None` once it is closed.
    pub(super) session: Option<T>,
    /// What the session waits for.
    pub(super) next: Next,
    /// Read, and left over by the session: a line that is not complete.
    pub(super) input: Vec<u8>,
    /// Replies the peer has not taken yet.
    pub(super) output: Vec<u8>,
    /// Who is counted for it.
    pub(super) source: Source,
    pub(super) registered: bool,
    pub(super) progress: Progress,
}

/// What moved while a worker had the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// A byte was read or written.
    pub(super) moved: bool,
    /// The session has replied.
    pub(super) replied: bool,
    /// Bytes read.
    pub(super) received_bytes: usize,
}

impl<T> Conn<T> {
    pub(super) fn new(stream: Stream, session: T, source: Source) -> Conn<T> {
        Conn {
            stream,
            session: Some(session),
            next: Next::Read,
            input: Vec::new(),
            output: Vec::new(),
            source,
            registered: false,
            progress: Progress::default(),
        }
    }

    /// Waits in the event loop. Registering again looks at the socket again, so nothing that
    /// happened while the connection was away is lost.
    pub(super) fn park(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        if self.registered {
            match registry.reregister(&mut self.stream, token, interest) {
                // Over poll(2), mio has taken out a socket whose peer is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let _ = registry.deregister(&mut self.stream);
                }
                result => return result,
            }
        }
        registry.register(&mut self.stream, token, interest)?;
        self.registered = true;
        Ok(())
    }
}

/// A socket that does not block.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Says that nothing more will be sent.
    pub(super) fn finish(&self) {
        // A peer that is gone already needs no word.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

/// Its descriptor, for the log.
impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fd = match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        };
        write!(f, "fd {fd}")
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl EventSource for Stream {
    fn register(&mut self, registry: &Registry, token: Token, want: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.register(registry, token, want),
            Stream::Unix(stream) => stream.register(registry, token, want),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, want: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.reregister(registry, token, want),
            Stream::Unix(stream) => stream.reregister(registry, token, want),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.deregister(registry),
            Stream::Unix(stream) => stream.deregister(registry),
        }
    }
}

/// Whether a socket has nothing now. Over poll(2), mio arms a socket again when it has nothing, and
/// says that it is not there when its peer has gone meanwhile; waiting for it then ends at once.
pub(super) fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotFound
    )
}
