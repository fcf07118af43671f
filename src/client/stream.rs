//! The connection under a session: a socket whose every call has a deadline, and the place where
//! TLS goes around it.
//!
//! [`Socket`] never blocks beyond its deadline, however little the peer sends. [`Upgrade`] is
//! implemented by whoever knows TLS; what it returns is a [`Stream`] again, over the one it was
//! given, so that the deadline still holds.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys;
use crate::sys::descriptors::set_nonblocking;
use crate::sys::errno::strerror;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::util::Line;

use super::error::{NotSecured, SessionError, Stage};

/// What a session speaks over. Reads and writes block until something could be done, or the
/// deadline has come, which is `TimedOut`.
pub trait Stream: Read + Write + Send {
    /// No call after this one waits longer. A wrapper hands it to what it wraps.
    fn set_deadline(&mut self, at: Instant);

    /// Whether nothing has come that was not read yet, be it bytes or the end: an idle connection
    /// of which this is false is of no more use.
    fn is_silent(&self) -> bool;

    /// Whether the system has all bytes that a write has taken. TLS keeps what it could not pass
    /// on, and tells of an error only at the next call.
    fn has_written_all(&self) -> bool;
}

/// Puts TLS around a connection.
pub trait Upgrade: Send + Sync {
    /// Makes the handshake, under the deadline that `plain` has. Which certificates count, which
    /// versions and whose name are the implementer's to know.
    fn upgrade(&self, plain: Box<dyn Stream>) -> Result<Secured, NotSecured>;
}

/// A connection with TLS around it.
pub struct Secured {
    pub stream: Box<dyn Stream>,
    /// What was negotiated, for the log: `TLSv1.3:TLS_AES_256_GCM_SHA384:256`.
    pub ciphers: Line,
}

/// A TCP or unix socket.
#[derive(Debug)]
pub struct Socket {
    inner: Inner,
    deadline: Instant,
}

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects to `to`, from `source` where that is given.
    pub fn tcp(
        to: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<Socket, SessionError> {
        let tcp = sys::net::connect_tcp(to, source, timeout).map_err(|error| match error {
            sys::net::ConnectError::Source(error) => {
                SessionError::new(Stage::Source, &strerror(&error))
            }
            sys::net::ConnectError::AtOnce(error) => {
                let text = format!("Connection failed: {}", strerror(&error));
                SessionError::new(Stage::NoWay, &text)
            }
            sys::net::ConnectError::Peer(error) => {
                SessionError::new(Stage::Connect, &transport_text(&error))
            }
        })?;
        // Commands are short and each is waited for.
        let _ = tcp.set_nodelay(true);
        Socket::new(Inner::Tcp(tcp))
    }

    /// Connects to the socket at `path`.
    pub fn unix(path: &Path, timeout: Duration) -> Result<Socket, SessionError> {
        let unix = sys::unix_connect::connect(path, timeout)
            .map_err(|error| SessionError::new(Stage::Connect, &transport_text(&error)))?;
        Socket::new(Inner::Unix(unix))
    }

    /// A unix socket that somebody else has connected.
    pub fn connected(unix: OwnedFd) -> Result<Socket, SessionError> {
        Socket::new(Inner::Unix(UnixStream::from(unix)))
    }

    /// The address of our end.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.inner {
            Inner::Tcp(tcp) => tcp.local_addr().ok(),
            Inner::Unix(_) => None,
        }
    }

    fn new(inner: Inner) -> Result<Socket, SessionError> {
        let fd = match &inner {
            Inner::Tcp(tcp) => tcp.as_fd(),
            Inner::Unix(unix) => unix.as_fd(),
        };
        set_nonblocking(fd)
            .map_err(|error| SessionError::new(Stage::Connect, &transport_text(&error)))?;
        Ok(Socket {
            inner,
            deadline: Instant::now(),
        })
    }

    fn wait(&self, interest: Interest) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let fd = match &self.inner {
            Inner::Tcp(tcp) => tcp.as_fd(),
            Inner::Unix(unix) => unix.as_fd(),
        };
        match poll(&mut [PollFd::new(fd, interest)], Some(left))? {
            0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
            _ => Ok(()),
        }
    }

    /// Tries, and waits where it would block. The deadline counts also where there is something to
    /// be done each time: a caller that gets nothing out of it, as TLS does of records without
    /// data, comes back at once.
    fn patiently(
        &mut self,
        interest: Interest,
        mut call: impl FnMut(&mut Inner) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            if Instant::now() >= self.deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match call(&mut self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(interest)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(Interest::Read, |inner| match inner {
            Inner::Tcp(tcp) => tcp.read(buffer),
            Inner::Unix(unix) => unix.read(buffer),
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(Interest::Write, |inner| match inner {
            Inner::Tcp(tcp) => tcp.write(bytes),
            Inner::Unix(unix) => unix.write(bytes),
        })
    }

    // TLS makes many records of a block: one call for all of them, not one for each.
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.patiently(Interest::Write, |inner| match inner {
            Inner::Tcp(tcp) => tcp.write_vectored(pieces),
            Inner::Unix(unix) => unix.write_vectored(pieces),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn set_deadline(&mut self, at: Instant) {
        self.deadline = at;
    }

    fn is_silent(&self) -> bool {
        let fd = match &self.inner {
            Inner::Tcp(tcp) => tcp.as_fd(),
            Inner::Unix(unix) => unix.as_fd(),
        };
        let mut fds = [PollFd::new(fd, Interest::Read)];
        matches!(poll(&mut fds, Some(Duration::ZERO)), Ok(0))
    }

    fn has_written_all(&self) -> bool {
        true
    }
}

/// The words for an error of the transport.
pub(super) fn transport_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "Connection timeout".to_owned(),
        io::ErrorKind::UnexpectedEof => "Connection closed unexpectedly".to_owned(),
        _ => format!("IO Error: {}", strerror(error)),
    }
}
