//! TLS on listeners: rustls on sockets that do not block.
//!
//! A [`Server`] is what one listener shows and asks for. A [`Handshake`] with a client is moved on
//! by whoever owns the socket; the one step that needs a signature is left to be made where one
//! may wait for the process that holds the keys. What comes out is a [`Secured`] stream.
//!
//! TLS 1.2 and 1.3 only: a library for older versions would want the private key in this process.
//! Sessions are resumed by tickets, so the server keeps nothing for them; the key that seals
//! tickets is changed every few hours, and is another one for each listener and after a start.
//!
//! A certificate is chosen by the name that the client asks for: the first after the default that
//! holds for it (RFC 6125: exactly, or by a `*` for one label), else the default.

mod handshake;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};

use super::keys::{Holder, Keys};
use super::{Choice, Identity, Trust};

pub use handshake::{Handshake, HandshakeError, Step};
pub use stream::Secured;

/// What a listener's TLS is made from.
pub struct Settings {
    /// Protocol versions and ciphers.
    pub choice: Choice,
    /// `verify`: who vouches for clients. Without it they are not asked.
    pub clients: Option<Trust>,
    /// What is shown, the default first.
    pub certificates: Vec<Shown>,
    /// The way to the private keys.
    pub keys: Keys,
}

/// A certificate of ours.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The name of its pki, which is that of its key.
    pub pki: String,
    /// The certificate with its chain, in PEM.
    pub pem: Arc<[u8]>,
}

/// TLS of one listener. It is complete when its keys have been found, which the first handshake
/// sees to: the process that holds them may come up later than we do.
pub struct Server {
    settings: Settings,
    made: Mutex<Option<Arc<ServerConfig>>>,
}

impl Server {
    /// Fails, with words for the administrator, when it could never work.
    pub fn new(settings: Settings) -> Result<Server, String> {
        if settings.choice.is_legacy() {
            return Err(String::from(
                "protocols: a listener speaks TLS 1.2 and 1.3 only; clients that know nothing newer \
                 than 1.1 need a TLS proxy in front, see proxy-v2",
            ));
        }
        let server = Server {
            settings,
            made: Mutex::new(None),
        };
        server.builder()?;
        Ok(server)
    }

    /// The finished configuration. It may wait for the process that holds the keys.
    fn config(&self) -> Result<Arc<ServerConfig>, String> {
        if let Some(made) = &*self.made.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(made.clone());
        }
        let config = Arc::new(self.complete()?);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // One of two that were made at once: tickets of the other could not be opened.
        Ok(made.get_or_insert(config).clone())
    }

    fn complete(&self) -> Result<ServerConfig, String> {
        let wrong = |error: &dyn fmt::Display| format!("tls: {error}");
        let mut identities: Vec<Identity> = Vec::new();
        for shown in &self.settings.certificates {
            let holder = Holder::find(&shown.pki, &self.settings.keys)?;
            let certified = holder.certified(&shown.pem);
            let certified = certified.map_err(|why| format!("pki {}: {why}", shown.pki))?;
            identities.push(Arc::new(certified));
        }
        let mut config = self
            .builder()?
            .with_cert_resolver(Arc::new(ByName(identities)));
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| wrong(&error))?;
        config.send_tls13_tickets = 1;
        Ok(config)
    }

    fn builder(
        &self,
    ) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>, String> {
        let wrong = |error: &dyn fmt::Display| format!("tls: {error}");
        let choice = &self.settings.choice;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: choice.suites.clone(),
            ..rustls::crypto::ring::default_provider()
        });
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&choice.versions)
            .map_err(|error| wrong(&error))?;
        let Some(trust) = &self.settings.clients else {
            return Ok(builder.with_no_client_auth());
        };
        if trust.is_empty() {
            return Err(String::from(
                "verify: nobody is trusted to vouch for clients; name an authority with ca",
            ));
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), provider).build();
        let verifier = verifier.map_err(|error| wrong(&error))?;
        Ok(builder.with_client_cert_verifier(verifier))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("certificates", &self.settings.certificates.len())
            .finish_non_exhaustive()
    }
}

/// Finds the certificate for a client; the first one is the default.
#[derive(Debug)]
struct ByName(Vec<Identity>);

impl ByName {
    fn find(&self, asked: Option<&str>, may_sign: impl Fn(&Identity) -> bool) -> Option<&Identity> {
        let asked = asked.and_then(|name| ServerName::try_from(name).ok());
        let holds = |identity: &&Identity| {
            let leaf = identity
                .end_entity_cert()
                .and_then(ParsedCertificate::try_from);
            match (&asked, leaf) {
                (Some(asked), Ok(leaf)) => verify_server_name(&leaf, asked).is_ok(),
                _ => false,
            }
        };
        let (first, others) = self.0.split_first()?;
        let by_name = || {
            others
                .iter()
                .filter(|identity| may_sign(identity))
                .find(holds)
        };
        by_name().or(Some(first))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Identity> {
        let schemes = hello.signature_schemes();
        let may_sign = |identity: &Identity| identity.key.choose_scheme(schemes).is_some();
        self.find(hello.server_name(), may_sign).cloned()
    }
}
