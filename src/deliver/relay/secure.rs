//! TLS of relaying: what each action asks for, made into connectors when the engine starts.
//!
//! A session takes its connector by its action and by what its relay demands: a relay URL that
//! asks for TLS on an action without `tls` has the certificate verified, for that relay alone.
//! [`check`] finds what is wrong with `protocols`, `ciphers` and `ca` before anything is started.
//!
//! An action with `pki` needs the process that holds its key, which may come up after the engine:
//! its connectors are made when the first session wants them, and a session that finds no key
//! fails.

use std::collections::{BTreeMap, btree_map as map};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::Secure;
use crate::config::{Config, Diagnostic, Method, Position, RelayAction, RelayTls, Route, Sources};
use crate::tls::client::{self as tls, Connector, Settings};
use crate::tls::keys::{Holder, Keys};
use crate::tls::{Choice, Identity, Trust, Version};
use crate::util::Line;

use super::key::{Security, Verify};

/// What a relay demands of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Demand {
    /// Better than none.
    Any,
    /// TLS of 1.2 or later; the certificate is not verified.
    Unverified,
    /// The certificate verifies.
    Verified,
}

/// The connectors of all relay actions. Actions that ask for the same share one: to make it costs
/// milliseconds, as the system's library reads its list of authorities each time.
#[derive(Default)]
pub struct Connectors(BTreeMap<(String, Demand), Arc<Entry>>);

/// One connector, or what it will be made of.
struct Entry {
    settings: Settings,
    client: Option<ClientCertificate>,
    made: Mutex<Option<Connector>>,
}

/// A `pki` that is shown to servers that ask.
#[derive(Clone)]
struct ClientCertificate {
    pki: String,
    pem: Arc<[u8]>,
    keys: Keys,
}

/// What an action's text comes to.
struct Wanted {
    demands: &'static [Demand],
    choice: Choice,
    /// `ca`; the system's roots without it.
    trust: Option<Trust>,
    /// The certificate of `pki`, with its name.
    certificate: Option<(String, Arc<[u8]>)>,
}

/// What is wrong with the TLS of relay actions. Nothing is asked of the system or of a key.
pub fn check(config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    relays(config)
        .filter_map(|(_, at, action)| {
            let wanted = wanted(config, sources, at, action);
            let made = wanted.and_then(|wanted| wanted.can_be(at));
            made.err()
        })
        .collect()
}

/// Whether an action asks the system who may be trusted.
pub fn wants_roots(config: &Config) -> bool {
    relays(config).any(|(_, _, action)| action.ca.is_none())
}

/// Whether mail would stay here without them.
pub fn needs_roots(config: &Config) -> bool {
    let needs = |action: &RelayAction| action.ca.is_none() && action.tls == RelayTls::Verified;
    relays(config).any(|(_, _, action)| needs(action))
}

impl Connectors {
    /// Makes what can be made now. `roots` are the system's, `keys` is the way to private keys.
    pub fn load(
        config: &Config,
        sources: &Sources,
        roots: &Trust,
        keys: &Keys,
    ) -> Result<Connectors, Diagnostic> {
        let mut connectors = Connectors::default();
        let mut made = BTreeMap::new();
        for (name, at, action) in relays(config) {
            let wanted = wanted(config, sources, at, action)?;
            for demand in wanted.demands {
                let asked = (
                    *demand,
                    &action.protocols,
                    &action.ciphers,
                    &action.ca,
                    &action.pki,
                );
                let entry = match made.entry(asked) {
                    map::Entry::Occupied(same) => Arc::clone(same.get()),
                    map::Entry::Vacant(new) => {
                        let entry = wanted.entry(*demand, roots, keys);
                        let entry = entry.map_err(|why| diagnostic(at, why))?;
                        Arc::clone(new.insert(Arc::new(entry)))
                    }
                };
                connectors.0.insert((name.clone(), *demand), entry);
            }
        }
        Ok(connectors)
    }

    /// What a session with the host called `name` needs; `None` where it is to be in plain text.
    pub fn secure(
        &self,
        action: &str,
        security: Security,
        name: &str,
    ) -> Result<Option<Secure>, Line> {
        let Some(demand) = Demand::of(security) else {
            return Ok(None);
        };
        let said = |why: &str| Line::sanitize(why.as_bytes());
        let entry = self.0.get(&(action.to_owned(), demand));
        let entry = entry.ok_or_else(|| said("there is no TLS for this action"))?;
        let connector = entry.connector().map_err(|why| said(&why))?;
        let secure = Secure::new(&connector, name);
        secure
            .map(Some)
            .ok_or_else(|| said("there is no TLS library for this"))
    }
}

impl Demand {
    fn of(security: Security) -> Option<Demand> {
        match security {
            Security::None => None,
            Security::Opportunistic => Some(Demand::Any),
            Security::StartTls(Verify::No) | Security::Smtps(Verify::No) => {
                Some(Demand::Unverified)
            }
            Security::StartTls(Verify::Yes) | Security::Smtps(Verify::Yes) => {
                Some(Demand::Verified)
            }
        }
    }

    /// What the relays of an action may demand.
    fn all_of(action: &RelayAction) -> &'static [Demand] {
        match (action.tls, &action.route) {
            (RelayTls::Verified, _) => &[Demand::Verified],
            (RelayTls::Unverified, _) => &[Demand::Unverified],
            (RelayTls::Opportunistic, Route::Exchangers | Route::Backup(_)) => &[Demand::Any],
            (RelayTls::Opportunistic, Route::Host(_) | Route::Domain(_)) => {
                &[Demand::Any, Demand::Verified]
            }
        }
    }

    fn verify(self) -> tls::Verify {
        match self {
            Demand::Verified => tls::Verify::Always,
            Demand::Any | Demand::Unverified => tls::Verify::Never,
        }
    }

    /// An old version keeps out those who only listen, which plain text does not; a demand for TLS
    /// is not met by one.
    fn oldest(self) -> Version {
        match self {
            Demand::Any => Version::Tls10,
            Demand::Unverified | Demand::Verified => Version::Tls12,
        }
    }
}

impl Wanted {
    fn settings(&self, demand: Demand, roots: &Trust) -> Settings {
        Settings {
            verify: demand.verify(),
            trust: self.trust.clone().unwrap_or_else(|| roots.clone()),
            choice: self.choice.clone(),
            identity: None,
            oldest: demand.oldest(),
        }
    }

    fn entry(&self, demand: Demand, roots: &Trust, keys: &Keys) -> Result<Entry, String> {
        let settings = self.settings(demand, roots);
        let client = self
            .certificate
            .as_ref()
            .map(|(pki, pem)| ClientCertificate {
                pki: pki.clone(),
                pem: pem.clone(),
                keys: keys.clone(),
            });
        let made = match client {
            Some(_) => None,
            None => Some(Connector::new(&settings)?),
        };
        Ok(Entry {
            settings,
            client,
            made: Mutex::new(made),
        })
    }

    /// Whether a connector can be made, as far as that can be told without roots and keys.
    fn can_be(&self, at: &Position) -> Result<(), Diagnostic> {
        if self.certificate.is_some() && self.choice.is_legacy() {
            let text = "pki: a certificate of our own needs TLS 1.2 or newer in protocols";
            return Err(diagnostic(at, text.to_owned()));
        }
        Ok(())
    }
}

impl Entry {
    fn connector(&self) -> Result<Connector, String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = &*made {
            return Ok(connector.clone());
        }
        let mut settings = self.settings.clone();
        settings.identity = match &self.client {
            Some(client) => Some(client.identity()?),
            None => None,
        };
        let connector = Connector::new(&settings)?;
        *made = Some(connector.clone());
        Ok(connector)
    }
}

impl ClientCertificate {
    /// Waits a little for the process that holds the key.
    fn identity(&self) -> Result<Identity, String> {
        let holder = Holder::find(&self.pki, &self.keys)?;
        let certified = holder.certified(&self.pem);
        let certified = certified.map_err(|why| format!("pki {}: {why}", self.pki))?;
        Ok(Identity::new(certified))
    }
}

fn relays(config: &Config) -> impl Iterator<Item = (&String, &Position, &RelayAction)> {
    config
        .actions
        .iter()
        .filter_map(|(name, action)| match &action.method {
            Method::Relay(relay) => Some((name, &action.at, relay.as_ref())),
            Method::Local(_) => None,
        })
}

fn wanted(
    config: &Config,
    sources: &Sources,
    at: &Position,
    action: &RelayAction,
) -> Result<Wanted, Diagnostic> {
    let trust = match &action.ca {
        Some(name) => Some(authority(config, sources, name).map_err(|why| diagnostic(at, why))?),
        None => None,
    };
    let certificate = match &action.pki {
        Some(name) => {
            let pem = certificate(config, sources, name).map_err(|why| diagnostic(at, why))?;
            Some((name.clone(), pem))
        }
        None => None,
    };
    Ok(Wanted {
        demands: Demand::all_of(action),
        choice: choice(config, at, action)?,
        trust,
        certificate,
    })
}

/// `smtp ciphers` are for actions without `ciphers`, and complained of where they are written.
fn choice(config: &Config, at: &Position, action: &RelayAction) -> Result<Choice, Diagnostic> {
    let protocols = action.protocols.as_deref();
    let shared = config.smtp.ciphers.as_deref();
    if let (None, Some(ciphers)) = (&action.ciphers, shared) {
        let alone = Choice::parse(None, Some(ciphers));
        alone.map_err(|why| diagnostic(&config.smtp.ciphers_at, format!("smtp ciphers: {why}")))?;
    }
    let ciphers = action.ciphers.as_deref().or(shared);
    Choice::parse(protocols, ciphers).map_err(|why| diagnostic(at, why))
}

fn authority(config: &Config, sources: &Sources, name: &str) -> Result<Trust, String> {
    let path = config.ca.get(name).map(|path| path.as_path());
    let said = |why: &str| format!("ca {name}: {why}");
    let pem = file(sources, path, "CA").map_err(|why| said(&why))?;
    Trust::from_pem(pem).map_err(|why| said(&why))
}

fn certificate(config: &Config, sources: &Sources, name: &str) -> Result<Arc<[u8]>, String> {
    let path = config.pki.get(name).and_then(|pki| pki.cert.as_deref());
    let pem = file(sources, path, "certificate");
    pem.map(Arc::from)
        .map_err(|why| format!("pki {name}: {why}"))
}

fn file<'s>(sources: &'s Sources, path: Option<&Path>, what: &str) -> Result<&'s [u8], String> {
    let path = path.ok_or_else(|| format!("missing {what} file"))?;
    let read = sources.file(path);
    read.map_err(|why| format!("failed to load {what} file {}: {why}", path.display()))
}

fn diagnostic(at: &Position, text: String) -> Diagnostic {
    Diagnostic {
        file: at.file.clone(),
        line: at.line,
        column: 0,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Defaults};

    fn configured(text: &str) -> (Config, Sources) {
        let text = format!("{text}\nmatch for any action \"a\"\n");
        let mut sources = Sources::from_text("smtpd.conf", &text, &[]);
        sources.insert(Path::new("/nowhere/ca.pem"), b"no certificate".to_vec());
        let defaults = Defaults {
            server_name: Line::new("mx.example.org").unwrap(),
            addresses: Vec::new(),
        };
        let loaded = config::load(&sources, &defaults).unwrap_or_else(|bad| panic!("{bad:?}"));
        (loaded.config, sources)
    }

    fn demands(text: &str) -> Vec<Demand> {
        let (config, sources) = configured(text);
        let keys = Keys::new(|| None);
        let connectors = Connectors::load(&config, &sources, &Trust::nobody(), &keys).unwrap();
        connectors.0.into_keys().map(|(_, demand)| demand).collect()
    }

    // smtpd.conf(5), relay: tls, and the schemes of host.
    #[test]
    fn an_action_has_what_its_relays_may_demand() {
        assert_eq!(demands("action \"a\" relay"), [Demand::Any]);
        assert_eq!(demands("action \"a\" relay tls"), [Demand::Verified]);
        assert_eq!(
            demands("action \"a\" relay host x tls no-verify"),
            [Demand::Unverified]
        );
        assert_eq!(
            demands("action \"a\" relay host x"),
            [Demand::Any, Demand::Verified]
        );
        let (config, sources) = configured("action \"a\" relay tls");
        let keys = Keys::new(|| None);
        let made = Connectors::load(&config, &sources, &Trust::nobody(), &keys).unwrap();
        let has = |security| {
            made.secure("a", security, "mx")
                .map(|found| found.is_some())
        };
        assert_eq!(has(Security::StartTls(Verify::Yes)), Ok(true));
        assert_eq!(has(Security::Smtps(Verify::Yes)), Ok(true));
        assert_eq!(has(Security::None), Ok(false));
        assert!(has(Security::Opportunistic).is_err());
        assert!(wants_roots(&config) && needs_roots(&config));
    }

    // A start with hundreds of actions takes no longer than one with a few.
    #[test]
    fn actions_that_ask_for_the_same_share_a_connector() {
        let (config, sources) = configured(
            "action \"a\" relay host x\naction \"b\" relay host y\n\
             action \"c\" relay host z protocols \"TLSv1.3\"",
        );
        let keys = Keys::new(|| None);
        let made = Connectors::load(&config, &sources, &Trust::nobody(), &keys).unwrap();
        let of = |action: &str| &made.0[&(action.to_owned(), Demand::Any)];
        assert!(Arc::ptr_eq(of("a"), of("b")));
        assert!(!Arc::ptr_eq(of("a"), of("c")));
    }

    // smtpd.conf(5): protocols, ciphers, smtp ciphers, ca and pki.
    #[test]
    fn what_cannot_be_is_found_with_its_line() {
        for (text, complaint) in [
            (
                "action \"a\" relay protocols sslv3",
                "smtpd.conf:1: failed to parse protocols \"sslv3\"",
            ),
            (
                "\naction \"a\" relay protocols tlsv1.3 ciphers ECDHE-RSA-AES128-GCM-SHA256:NOSUCH",
                "smtpd.conf:2: failed to parse ciphers",
            ),
            (
                "\nsmtp ciphers RC4\naction \"a\" relay",
                "smtpd.conf:2: smtp ciphers: failed to parse ciphers \"RC4\"",
            ),
            (
                "ca c cert \"/nowhere/ca.pem\"\naction \"a\" relay ca c",
                "smtpd.conf:2: ca c: failed to load CA file",
            ),
            (
                "pki p cert \"/nowhere/ca.pem\"\npki p key \"/nowhere/key\"\n\
                 action \"a\" relay pki p protocols tlsv1.0",
                "smtpd.conf:3: p",
            ),
        ] {
            let (config, sources) = configured(text);
            let found = check(&config, &sources);
            assert_eq!(found.len(), 1, "{text}");
            let said = found[0].to_string();
            assert!(said.starts_with(complaint), "{text}: {said}");
        }
        let (config, sources) = configured("smtp ciphers HIGH\naction \"a\" relay ciphers secure");
        assert_eq!(check(&config, &sources), []);
    }
}
