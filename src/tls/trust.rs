//! Who may vouch for a peer.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Trusted roots. Clones share them.
#[derive(Clone)]
pub struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    /// The same for the system's library, which would read its own list when it is too late: a
    /// process that has shut itself in may not.
    #[cfg_attr(not(feature = "legacy-tls"), allow(dead_code))]
    pub(super) certificates: Arc<Vec<CertificateDer<'static>>>,
}

impl Trust {
    /// Trusts no authority: every certificate is unknown.
    pub fn nobody() -> Trust {
        Trust {
            roots: Arc::new(RootCertStore::empty()),
            certificates: Arc::default(),
        }
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The system's roots, and what was wrong with some of them. None at all is no error here:
    /// verification then fails and says so.
    pub fn system() -> (Trust, Vec<String>) {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(found.certs.iter().cloned());
        let mut complaints: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        if ignored > 0 {
            complaints.push(format!(
                "{ignored} of the system's root certificates are unusable"
            ));
        }
        let trust = Trust {
            roots: Arc::new(roots),
            certificates: Arc::new(found.certs),
        };
        (trust, complaints)
    }

    /// The certificates of a PEM file, `ca NAME cert FILE`.
    pub fn from_pem(pem: &[u8]) -> Result<Trust, String> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("failed to load CA file: {error}"))?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.clone())
                .map_err(|error| format!("failed to load CA file: {error}"))?;
        }
        if roots.is_empty() {
            return Err(String::from("failed to load CA file: no certificate in it"));
        }
        Ok(Trust {
            roots: Arc::new(roots),
            certificates: Arc::new(certificates),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_no_authority() {
        assert!(Trust::from_pem(b"").is_err());
        assert!(
            Trust::from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
                .is_err()
        );
    }
}
