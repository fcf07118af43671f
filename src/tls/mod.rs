//! TLS, towards other hosts ([`client`]) and on listeners ([`server`]).
//!
//! Both sides share what `protocols` and `ciphers` mean ([`Choice`]), who is trusted ([`Trust`])
//! and the way to private keys ([`keys`]), which are in a process of their own. What a
//! configuration asks for is done or refused, never ignored.

#![forbid(unsafe_code)]

mod choice;
pub mod client;
pub mod certificate;
pub mod keys;

pub mod server;
mod suites;
mod trust;

pub use choice::Choice;
pub use trust::Trust;

/// A certificate and who signs with its key.
pub type Identity = std::sync::Arc<rustls::sign::CertifiedKey>;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 2246.
    Tls10,
    /// RFC 4346.
    Tls11,
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What was agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `version:cipher:bits`, as the log has it.
    pub ciphers: String,
    /// What the peer showed; `None` if nothing.
    pub peer: Option<Peer>,
}

/// The peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Whether it leads to a trusted root and names the peer.
    pub valid: bool,
    /// `SHA256:` and the digest of the certificate in lower-case hexadecimal.
    pub fingerprint: String,
}

/// `SHA256:…` of a certificate.
fn fingerprint(certificate: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let mut text = String::from("SHA256:");
    for byte in digest.as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
