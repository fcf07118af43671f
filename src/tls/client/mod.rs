//! TLS towards other hosts.
//!
//! Two libraries with different jobs: rustls speaks TLS 1.2 and 1.3; the system's library, behind
//! the feature `legacy-tls`, is for peers with which rustls shares no version and no cipher or whose
//! keys it cannot check, and for `protocols` that ask for old versions. A [`Connector`] holds what
//! one relay action asks for and is made once; [`Connector::handshake`] turns a connected stream
//! into a [`Stream`].
//!
//! Promises: with [`Verify::Always`] no byte is sent to a peer whose certificate does not hold for
//! the name. Time-outs are the underlying stream's: its errors end the handshake.

#[cfg(feature = "legacy-tls")]
mod legacy;
mod modern;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Read, Write};

use rustls::pki_types::ServerName;

use crate::mail::literal;

use super::{Choice, Facts, Identity, Trust, Version};

/// Whether the peer has to prove its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// No: whoever answers is spoken to.
    Never,
    /// Yes, by a certificate that leads to a trusted root.
    Always,
}

/// What a connector is made from.
#[derive(Clone)]
pub struct Settings {
    /// Whether the peer has to prove its name.
    pub verify: Verify,
    /// Who may vouch for it.
    pub trust: Trust,
    /// Protocol versions and ciphers.
    pub choice: Choice,
    /// The certificate that is shown to a server that asks for one.
    pub identity: Option<Identity>,
    /// The oldest version that the system's library may fall back to, where `choice` leaves it
    /// open.
    pub oldest: Version,
}

/// The library that a connection is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// rustls.
    Modern,
    /// The system's.
    Legacy,
}

/// Shakes hands as one relay action wants it. Clones share everything, resumed sessions included.
#[derive(Clone)]
pub struct Connector {
    modern: Option<modern::Connector>,
    #[cfg(feature = "legacy-tls")]
    legacy: Option<legacy::Connector>,
}

impl Connector {
    /// Fails, with words for the administrator, when neither library can do what is asked.
    pub fn new(settings: &Settings) -> Result<Connector, String> {
        let modern = modern::Connector::new(settings)?;
        #[cfg(feature = "legacy-tls")]
        let legacy = legacy::Connector::new(settings)?;
        #[cfg(feature = "legacy-tls")]
        let nothing = modern.is_none() && legacy.is_none();
        #[cfg(not(feature = "legacy-tls"))]
        let nothing = modern.is_none();
        if nothing {
            return Err(String::from(
                "protocols: TLS before 1.2 goes with neither ciphers nor a certificate of our own",
            ));
        }
        Ok(Connector {
            modern,
            #[cfg(feature = "legacy-tls")]
            legacy,
        })
    }

    /// The libraries that can be tried, best first. After [`TlsError::NoCommonGround`] or
    /// [`TlsError::HungUp`] of one, a new connection may be tried with the next.
    pub fn libraries(&self) -> Vec<Library> {
        let mut libraries = Vec::new();
        if self.modern.is_some() {
            libraries.push(Library::Modern);
        }
        #[cfg(feature = "legacy-tls")]
        if self.legacy.is_some() {
            libraries.push(Library::Legacy);
        }
        libraries
    }

    /// Shakes hands over `stream` with the host called `name`: a domain name, or an address with
    /// or without brackets.
    pub fn handshake<S: Read + Write>(
        &self,
        library: Library,
        stream: S,
        name: &str,
    ) -> Result<Stream<S>, TlsError> {
        match library {
            Library::Modern => match &self.modern {
                Some(modern) => modern.handshake(stream, name),
                None => Err(TlsError::NoCommonGround(no_library())),
            },
            #[cfg(feature = "legacy-tls")]
            Library::Legacy => match &self.legacy {
                Some(legacy) => legacy.handshake(stream, name),
                None => Err(TlsError::NoCommonGround(no_library())),
            },
            #[cfg(not(feature = "legacy-tls"))]
            Library::Legacy => Err(TlsError::NoCommonGround(no_library())),
        }
    }
}

fn no_library() -> String {
    String::from("no TLS library for what is asked")
}

/// What an error of the stream below means.
fn io_failure(error: io::Error) -> TlsError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => TlsError::HungUp,
        _ => TlsError::Io(error),
    }
}

/// Why there is no TLS.
#[derive(Debug)]
pub enum TlsError {
    /// The two sides have no version or cipher in common, or the peer or its key is too odd for
    /// this library: another one may do better.
    NoCommonGround(String),
    /// The peer hung up. Some old ones say no more when they have nothing in common with us: another
    /// library may do better here, too.
    HungUp,
    /// The certificate does not hold.
    Certificate(String),
    /// Anything else of the protocol.
    Protocol(String),
    /// The connection failed.
    Io(io::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::NoCommonGround(text)
            | TlsError::Certificate(text)
            | TlsError::Protocol(text) => f.write_str(text),
            TlsError::HungUp => f.write_str("the peer hung up during the handshake"),
            TlsError::Io(error) => write!(f, "{error}"),
        }
    }
}

/// An encrypted stream over `S`.
pub struct Stream<S: Read + Write> {
    inner: Inner<S>,
    facts: Facts,
}

enum Inner<S: Read + Write> {
    Modern(Box<rustls::StreamOwned<rustls::ClientConnection, S>>),
    #[cfg(feature = "legacy-tls")]
    Legacy(Box<native_tls::TlsStream<legacy::Watched<S>>>),
}

impl<S: Read + Write> Stream<S> {
    /// What was agreed upon.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The connection that TLS runs over.
    pub fn below(&self) -> &S {
        match &self.inner {
            Inner::Modern(stream) => stream.get_ref(),
            #[cfg(feature = "legacy-tls")]
            Inner::Legacy(stream) => &stream.get_ref().stream,
        }
    }

    /// Whether the stream below has taken all that writes have taken.
    pub fn has_written_all(&self) -> bool {
        match &self.inner {
            Inner::Modern(stream) => !stream.conn.wants_write(),
            // It takes only what it has passed on.
            #[cfg(feature = "legacy-tls")]
            Inner::Legacy(_) => true,
        }
    }

    /// The stream below, for its time-outs.
    pub fn below_mut(&mut self) -> &mut S {
        match &mut self.inner {
            Inner::Modern(stream) => stream.get_mut(),
            #[cfg(feature = "legacy-tls")]
            Inner::Legacy(stream) => &mut stream.get_mut().stream,
        }
    }
}

impl<S: Read + Write> Read for Stream<S> {
    /// A peer that closes without saying so has closed: SMTP has its own ends of replies.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.inner {
            Inner::Modern(stream) => stream.read(buf),
            #[cfg(feature = "legacy-tls")]
            Inner::Legacy(stream) => stream.read(buf),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }
}

impl<S: Read + Write> Write for Stream<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Modern(stream) => stream.write(buf),
            #[cfg(feature = "legacy-tls")]
            Inner::Legacy(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::Modern(stream) => stream.flush(),
            #[cfg(feature = "legacy-tls")]
            Inner::Legacy(stream) => stream.flush(),
        }
    }
}

impl<S: Read + Write> fmt::Debug for Stream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("facts", &self.facts)
            .finish()
    }
}

/// The name as certificates know it; brackets of address literals are not part of it.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    if let Some(address) = literal::parse(name) {
        return Some(ServerName::from(address));
    }
    let bare = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(bare.to_owned()).ok()
}
