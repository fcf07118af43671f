//! rustls, with the *ring* provider.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    Error, PeerIncompatible, SignatureScheme,
};

use crate::tls::{Facts, Peer, fingerprint, suites};

use super::{Inner, Settings, Stream, TlsError, Verify, io_failure, server_name};

/// Shakes hands with rustls.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// For the log's `valid`, where nothing depends on it. `None` without any root.
    verifier: Option<Arc<Trusted>>,
}

impl Connector {
    /// `None` when only versions are asked for that rustls does not speak.
    pub fn new(settings: &Settings) -> Result<Option<Connector>, String> {
        let choice = &settings.choice;
        if choice.versions.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: choice.suites.clone(),
            ..rustls::crypto::ring::default_provider()
        });
        let wrong = |error: &dyn fmt::Display| format!("tls: {error}");
        let verifier = if settings.trust.roots.is_empty() {
            None
        } else {
            let roots = settings.trust.roots.clone();
            let built = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            Some(Arc::new(Trusted {
                chains: built.build().map_err(|error| wrong(&error))?,
                certificates: settings.trust.certificates.clone(),
            }))
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&choice.versions)
            .map_err(|error| wrong(&error))?;
        let builder = match (settings.verify, &verifier) {
            (Verify::Always, Some(verifier)) => builder
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone()),
            (Verify::Always, None) => builder.with_root_certificates(settings.trust.roots.clone()),
            (Verify::Never, _) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        };
        let config = match &settings.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(
                rustls::sign::SingleCertAndKey::from(identity.clone()),
            )),
            None => builder.with_no_client_auth(),
        };
        Ok(Some(Connector {
            config: Arc::new(config),
            verifier,
        }))
    }

    /// See [`super::Connector::handshake`].
    pub fn handshake<S: Read + Write>(
        &self,
        mut stream: S,
        name: &str,
    ) -> Result<Stream<S>, TlsError> {
        let name = server_name(name)
            .ok_or_else(|| TlsError::Protocol(format!("no certificate can name \"{name}\"")))?;
        let mut session =
            ClientConnection::new(self.config.clone(), name.clone()).map_err(failure)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).map_err(why)?;
        }
        let facts = Facts {
            ciphers: ciphers(&session),
            peer: self.peer(&session, &name),
        };
        Ok(Stream {
            inner: Inner::Modern(Box::new(rustls::StreamOwned::new(session, stream))),
            facts,
        })
    }

    fn peer(&self, session: &ClientConnection, name: &ServerName<'_>) -> Option<Peer> {
        let (leaf, others) = session.peer_certificates()?.split_first()?;
        let valid = self.verifier.as_ref().is_some_and(|verifier| {
            verifier
                .verify_server_cert(leaf, others, name, &[], UnixTime::now())
                .is_ok()
        });
        Some(Peer {
            valid,
            fingerprint: fingerprint(leaf),
        })
    }
}

fn ciphers(session: &ClientConnection) -> String {
    match session.negotiated_cipher_suite() {
        Some(suite) => suites::described(suite),
        None => String::from("unknown"),
    }
}

fn why(error: io::Error) -> TlsError {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(inner) => failure(inner.clone()),
        None => io_failure(error),
    }
}

fn failure(error: Error) -> TlsError {
    use AlertDescription::{HandshakeFailure, InsufficientSecurity, ProtocolVersion};

    let text = error.to_string();
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::ServerRejectedEncryptedClientHello(_)
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => TlsError::Protocol(text),
        Error::PeerIncompatible(_)
        | Error::AlertReceived(HandshakeFailure | InsufficientSecurity | ProtocolVersion)
        // Keys and forms of certificates that are too old for it, whatever their worth. With an RSA
        // key of fewer than 2048 bits every signature is a bad one. The other library looks for
        // itself whether they are.
        | Error::InvalidCertificate(
            CertificateError::BadEncoding
            | CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
            | CertificateError::Other(_),
        ) => TlsError::NoCommonGround(text),
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
            TlsError::Certificate(text)
        }
        _ => TlsError::Protocol(text),
    }
}

/// Takes what a trusted root vouches for, and a peer's own certificate that is itself among the
/// trusted: made by openssl(1) as it comes, that one says of itself that it is an authority's.
#[derive(Debug)]
struct Trusted {
    chains: Arc<WebPkiServerVerifier>,
    certificates: Arc<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = self
            .chains
            .verify_server_cert(leaf, others, name, ocsp, now);
        match chain {
            // Its dates have been looked at before.
            Err(error) if is_an_authoritys(&error) && self.certificates.contains(leaf) => {
                verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            chain => chain,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// The one complaint of rustls about a good certificate that stands for itself; it has no value of
/// its own.
fn is_an_authoritys(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(why)) => {
            format!("{:?}", why.0) == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

/// Takes every certificate; the peer has still to hold its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
