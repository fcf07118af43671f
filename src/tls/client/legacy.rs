//! The system's TLS library, through native-tls.
//!
//! It chooses its ciphers itself: where `ciphers` says which, it is not asked. What it agreed upon
//! it does not tell.

use std::io::{Read, Write};

use native_tls::{Certificate, HandshakeError, Protocol, TlsConnector};

use crate::tls::{Facts, Peer, Version, fingerprint};

use super::{Inner, Settings, Stream, TlsError, Verify};

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
        let stream = self
            .connector
            .connect(name, stream)
            .map_err(|error| match error {
                HandshakeError::Failure(error) => TlsError::Protocol(error.to_string()),
                // The stream below gave up waiting.
                HandshakeError::WouldBlock(_) => TlsError::Io(std::io::ErrorKind::TimedOut.into()),
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

fn protocol(version: Version) -> Protocol {
    match version {
        Version::Tls10 => Protocol::Tlsv10,
        Version::Tls11 => Protocol::Tlsv11,
        Version::Tls12 => Protocol::Tlsv12,
        Version::Tls13 => Protocol::Tlsv13,
    }
}
