//! One SMTP connection as a value: its socket, its session, and what neither has digested.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::event::Source as EventSource;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::log::stat::{self, Stat};
use crate::session::Session;
use crate::tls::server::{Handshake, Secured, Server};

use super::Door;
use super::header::Header;
use super::limits::Limits;
use super::millis;
use super::source::Source;

/// A connection. Parked, it keeps only bytes that are not yet digested or not yet taken.
pub(super) struct Conn {
    pub(super) stream: Stream,
    pub(super) session: Session,
    /// What it goes on with.
    pub(super) wants: Wants,
    /// What comes before the session, or between two parts of it.
    pub(super) prelude: Prelude,
    /// TLS of its listener.
    pub(super) server: Option<Arc<Server>>,
    /// Read, and left over by the session: a line that is not complete, or what came behind a
    /// question.
    pub(super) input: Vec<u8>,
    /// Replies the peer has not taken yet.
    pub(super) output: Vec<u8>,
    /// Who is counted for it.
    pub(super) source: Source,
    /// The socket may have something to read.
    pub(super) readable: bool,
    /// Nothing comes behind what there is to read.
    pub(super) ended: bool,
    /// The socket took less than it was given, and will say when it takes more.
    pub(super) clogged: bool,
    /// It is in line for its turn.
    pub(super) in_line: bool,
    /// The number of its last question.
    pub(super) question: u32,
    /// When somebody must look at it.
    pub(super) deadline_ms: u64,
    pub(super) progress: Progress,
    /// When it must be through with what comes before its session.
    pub(super) prelude_ms: u64,
    /// When the peer has been silent for too long.
    silent_ms: u64,
    /// When the peer has achieved nothing for too long.
    stalled_ms: u64,
}

/// What a connection goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Its session begins.
    Open,
    /// The header of a proxy.
    Header,
    /// TLS.
    Handshake,
    /// The signature that its handshake needs.
    Signature,
    /// Bytes of its peer.
    Input,
    /// Nothing: its session goes on with the input that is left over.
    Turn,
    /// An answer to the session's question, which may be given up.
    Answer,
    /// An answer of those who write to the disk: a message hangs on it.
    Disk,
    /// Its end, when the replies are sent.
    Close,
}

impl Wants {
    /// Whether it must not be fed before it is answered.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, Wants::Answer | Wants::Disk | Wants::Signature)
    }

    /// Whether nothing can be said to the peer now: it would not be understood.
    pub(super) fn is_mute(self) -> bool {
        matches!(self, Wants::Header | Wants::Handshake | Wants::Signature)
    }
}

/// What a peer has to go through before its session can go on.
pub(super) enum Prelude {
    None,
    /// A proxy says who its client is, who has come in by this door.
    Header(Box<(Header, Arc<Door>)>),
    /// TLS is being agreed upon.
    Handshake(Box<Handshake>),
}

/// What moved since the deadlines were set.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// A byte was read or written.
    pub(super) moved: bool,
    /// The session has replied.
    pub(super) replied: bool,
    /// Bytes read.
    pub(super) received_bytes: usize,
}

impl Conn {
    pub(super) fn new(stream: Stream, session: Session, source: Source) -> Conn {
        Conn {
            stream,
            session,
            wants: Wants::Open,
            prelude: Prelude::None,
            server: None,
            prelude_ms: 0,
            input: Vec::new(),
            output: Vec::new(),
            source,
            readable: false,
            ended: false,
            clogged: false,
            in_line: false,
            question: 0,
            deadline_ms: 0,
            progress: Progress::default(),
            silent_ms: 0,
            stalled_ms: 0,
        }
    }

    /// Sets the deadline after what has moved: from now on it waits for its peer.
    pub(super) fn wait_for_peer(&mut self, now_ms: u64, limits: &Limits) {
        let progress = std::mem::take(&mut self.progress);
        let is_first_time = self.silent_ms == 0;
        if progress.moved || is_first_time {
            self.silent_ms = now_ms + millis(limits.inactivity);
        }
        if progress.replied || is_first_time || progress.received_bytes >= limits.stall_bytes {
            self.stalled_ms = now_ms + millis(limits.stall);
        } else {
            self.progress.received_bytes = progress.received_bytes;
        }
        self.deadline_ms = if self.wants.is_mute() {
            self.prelude_ms
        } else {
            self.silent_ms.min(self.stalled_ms)
        };
    }

    /// Where it is counted when it is encrypted.
    pub(super) fn tls_stat(&self) -> &'static Stat {
        if self.session.opens_with_tls() {
            &stat::SMTP_SMTPS
        } else {
            &stat::SMTP_TLS
        }
    }

    /// Puts the socket into a worker's poll.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream.socket, token, Interest::READABLE)
    }

    /// Waits for other events from now on. This looks at the socket again, so that nothing that
    /// has happened meanwhile is lost.
    pub(super) fn watch(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        match registry.reregister(&mut self.stream.socket, token, interest) {
            // Over poll(2), mio has taken out a socket whose peer is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = registry.deregister(&mut self.stream.socket);
                registry.register(&mut self.stream.socket, token, interest)
            }
            result => result,
        }
    }
}

/// A socket that does not block, perhaps with TLS on it.
pub(super) struct Stream {
    pub(super) socket: Socket,
    pub(super) tls: Option<Box<Secured>>,
}

/// A socket that does not block.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// A socket on which nothing has been said.
    pub(super) fn new(socket: Socket) -> Stream {
        Stream { socket, tls: None }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.finish(&mut self.socket);
        }
        self.socket.finish();
    }
}

/// Its descriptor, for the log.
impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fd = match &self.socket {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
        };
        write!(f, "fd {fd}")
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(&mut self.socket, buffer),
            None => self.socket.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.write(&mut self.socket, bytes),
            None => self.socket.write(bytes),
        }
    }

    /// What TLS has taken is sent; a bare socket has kept nothing.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.flush(&mut self.socket),
            None => Ok(()),
        }
    }
}

impl Socket {
    /// Says that nothing more will be sent.
    fn finish(&self) {
        // A peer that is gone already needs no word.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl EventSource for Socket {
    fn register(&mut self, registry: &Registry, token: Token, want: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.register(registry, token, want),
            Socket::Unix(stream) => stream.register(registry, token, want),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, want: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.reregister(registry, token, want),
            Socket::Unix(stream) => stream.reregister(registry, token, want),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.deregister(registry),
            Socket::Unix(stream) => stream.deregister(registry),
        }
    }
}
