//! The system's TLS library, through native-tls.
//!
//! It chooses its ciphers itself: where `ciphers` says which, it is not asked. What it agreed upon
//! it does not tell.

use std::error::Error;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use native_tls::{Certificate, HandshakeError, Protocol, TlsConnector};

use crate::tls::{Facts, Peer, Version, fingerprint};

use super::{Inner, Settings, Stream, TlsError, Verify, io_failure};

/// Shakes hands with the system's library.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
    verify: Verify,
}

impl Connector {
    /// `None` when what is asked for is rustls's alone: chosen ciphers, or a certificate of ours,
    /// whose key this library would have to hold.
    pub fn new(settings: &Settings) -> Result<Option<Connector>, String> {
        let choice = &settings.choice;
        if choice.ciphers_chosen || settings.identity.is_some() {
            return Ok(None);
        }
        let (oldest, newest) = choice.range.unwrap_or((settings.oldest, Version::Tls13));
        let mut builder = TlsConnector::builder();
        builder
            .min_protocol_version(Some(protocol(oldest)))
            .max_protocol_version(Some(protocol(newest)));
        if settings.verify == Verify::Never {
            builder
                .danger_accept_invalid_certs(true)
                .danger_accept_invalid_hostnames(true);
        }
        builder.disable_built_in_roots(true);
        if settings.verify == Verify::Always {
            let certificates = settings.trust.certificates.iter();
            // What it cannot read vouches for nobody; rustls has looked at them, too.
            let roots = certificates.filter_map(|der| Certificate::from_der(der).ok());
            for root in roots {
                builder.add_root_certificate(root);
            }
        }
        let connector = builder.build().map_err(|error| format!("tls: {error}"))?;
        Ok(Some(Connector {
            connector,
            verify: settings.verify,
        }))
    }

    /// See [`super::Connector::handshake`].
    pub fn handshake<S: Read + Write>(&self, stream: S, name: &str) -> Result<Stream<S>, TlsError> {
        let name = name.trim_matches(['[', ']']);
        let closed = Arc::new(AtomicBool::new(false));
        let watched = Watched {
            stream,
            closed: closed.clone(),
        };
        let stream = self
            .connector
            .connect(name, watched)
            .map_err(|error| match error {
                HandshakeError::Failure(error) => why(&error, closed.load(Ordering::Relaxed)),
                // The stream below gave up waiting.
                HandshakeError::WouldBlock(_) => TlsError::Io(io::ErrorKind::TimedOut.into()),
            })?;
        let shown = stream.peer_certificate().ok().flatten();
        let peer = shown
            .and_then(|shown| shown.to_der().ok())
            .map(|leaf| Peer {
                valid: self.verify == Verify::Always,
                fingerprint: fingerprint(&leaf),
            });
        Ok(Stream {
            inner: Inner::Legacy(Box::new(stream)),
            facts: Facts {
                ciphers: String::from("system-library"),
                peer,
            },
        })
    }
}

fn why(error: &native_tls::Error, closed: bool) -> TlsError {
    let below = error.source().and_then(|below| below.downcast_ref());
    match below.map(io::Error::kind) {
        Some(kind) => io_failure(kind.into()),
        None if closed => TlsError::HungUp,
        None => TlsError::Protocol(error.to_string()),
    }
}

/// A connection, and whether the peer has closed it: the library says so in words alone, which are
/// others with each version.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    closed: Arc<AtomicBool>,
}

impl<S: Read> Read for Watched<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buf)?;
        if read == 0 && !buf.is_empty() {
            self.closed.store(true, Ordering::Relaxed);
        }
        Ok(read)
    }
}

impl<S: Write> Write for Watched<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn protocol(version: Version) -> Protocol {
    match version {
        Version::Tls10 => Protocol::Tlsv10,
        Version::Tls11 => Protocol::Tlsv11,
        Version::Tls12 => Protocol::Tlsv12,
        Version::Tls13 => Protocol::Tlsv13,
    }
}
