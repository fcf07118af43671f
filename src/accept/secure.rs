//! TLS and PROXY of listeners: what each one's directive comes to.
//!
//! [`check`] finds what is wrong with `protocols`, `ciphers`, `ca`, `verify` and certificates
//! before anything is started; [`warnings`] says what has no effect and what ends soon.

use std::path::Path;
use std::sync::Arc;

use crate::config::{
    ClientCertificate, Config, Diagnostic, ListenTls, Listener, Position, Sources,
};
use crate::tls::keys::Keys;
use crate::tls::server::{Server, Settings, Shown};
use crate::tls::{Choice, Trust, certificate};
use crate::util::Timestamp;

/// What is wrong with the TLS of listeners. Nothing is asked of the system or of a key.
pub fn check(config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let keys = Keys::new(|| None);
    let listeners = config.listeners.iter();
    let found = listeners.filter_map(|listener| {
        let tls = listener.tls.as_ref()?;
        let made = settings(config, sources, listener, tls, None, &keys);
        let made = made.and_then(|settings| match &settings.clients {
            // The system's list is read when the engine starts.
            Some(trust) if trust.is_empty() && tls.ca.is_none() => Ok(()),
            _ => Server::new(settings)
                .map(drop)
                .map_err(|why| at(position_of_protocols(listener, tls), why)),
        });
        made.err()
    });
    found.collect()
}

/// Warnings about certificates and keys that can be used.
pub fn warnings(config: &Config, sources: &Sources, now: Timestamp) -> Vec<String> {
    let mut found = Vec::new();
    for listener in &config.listeners {
        let Some((text, position)) = listener.tls.as_ref().and_then(|tls| tls.protocols.as_ref())
        else {
            continue;
        };
        if Choice::parse(Some(text), None).is_ok_and(|choice| choice.has_old_versions()) {
            let why = "protocols: a listener speaks nothing older than TLS 1.2";
            found.push(at(position, why.to_owned()).to_string());
        }
    }
    found.extend(ending(&ends(config, sources), now));
    found
}

/// When certificates end, by the name of their pki.
pub fn ends(config: &Config, sources: &Sources) -> Vec<(String, i64)> {
    let pki = config.pki.iter();
    let ends = pki.filter_map(|(name, pki)| {
        let pem = sources.file(pki.cert.as_deref()?).ok()?;
        Some((name.clone(), certificate::ends(pem)?))
    });
    ends.collect()
}

/// What is to be said of certificates that end soon or have ended.
pub fn ending(ends: &[(String, i64)], now: Timestamp) -> Vec<String> {
    let said = ends.iter().filter_map(|(name, ends)| {
        let text = certificate::ending(*ends, now)?;
        Some(format!("pki {name}: {text}"))
    });
    said.collect()
}

/// Whether a listener asks the system who may vouch for clients.
pub fn wants_roots(config: &Config) -> bool {
    let listeners = config.listeners.iter();
    let mut tls = listeners.filter_map(|listener| listener.tls.as_ref());
    tls.any(|tls| tls.client == ClientCertificate::Required && tls.ca.is_none())
}

/// TLS of every listener, in their order.
pub fn servers(
    config: &Config,
    sources: &Sources,
    roots: &Trust,
    keys: &Keys,
) -> Result<Vec<Option<Arc<Server>>>, Diagnostic> {
    let listeners = config.listeners.iter();
    let servers = listeners.map(|listener| {
        let Some(tls) = &listener.tls else {
            return Ok(None);
        };
        let settings = settings(config, sources, listener, tls, Some(roots), keys)?;
        let server = Server::new(settings).map_err(|why| at(&listener.at, why))?;
        Ok(Some(Arc::new(server)))
    });
    servers.collect()
}

fn settings(
    config: &Config,
    sources: &Sources,
    listener: &Listener,
    tls: &ListenTls,
    roots: Option<&Trust>,
    keys: &Keys,
) -> Result<Settings, Diagnostic> {
    let said = |why: String| at(&listener.at, why);
    let clients = match (tls.client, &tls.ca) {
        (ClientCertificate::NotAsked, _) => None,
        (ClientCertificate::Required, None) => Some(roots.cloned().unwrap_or_else(Trust::nobody)),
        (ClientCertificate::Required, Some(name)) => {
            let pem = file(
                sources,
                config.ca.get(name).map(|path| path.as_path()),
                "CA",
            );
            let trust = pem.and_then(Trust::from_pem);
            Some(trust.map_err(|why| said(format!("ca {name}: {why}")))?)
        }
    };
    let certificates = tls.pki.iter().map(|name| {
        let path = config.pki.get(name).and_then(|pki| pki.cert.as_deref());
        let pem = file(sources, path, "certificate");
        let pem = pem.and_then(|pem| certificate::chain(pem).map(|_| pem));
        let pem = pem.map_err(|why| said(format!("pki {name}: {why}")))?;
        Ok(Shown {
            pki: name.clone(),
            pem: Arc::from(pem),
        })
    });
    Ok(Settings {
        choice: choice(config, tls)?,
        clients,
        certificates: certificates.collect::<Result<_, _>>()?,
        keys: keys.clone(),
    })
}

/// `smtp ciphers` are for listeners without `ciphers`. Each text is complained of where it stands.
fn choice(config: &Config, tls: &ListenTls) -> Result<Choice, Diagnostic> {
    let shared = config.smtp.ciphers.as_ref();
    let (ciphers, position) = match (&tls.ciphers, shared) {
        (Some((own, position)), _) => (Some(own), position.clone()),
        (None, shared) => (shared, config.smtp.ciphers_at.clone()),
    };
    let said = |position: &Position| {
        let position = position.clone();
        move |why: String| at(&position, why)
    };
    let protocols = tls.protocols.as_ref();
    if let Some((text, position)) = protocols {
        Choice::parse(Some(text), None).map_err(said(position))?;
    }
    if let Some(ciphers) = ciphers {
        Choice::parse(None, Some(ciphers)).map_err(said(&position))?;
    }
    let protocols = protocols.map(|(text, _)| text.as_str());
    Choice::parse(protocols, ciphers.map(|text| text.as_str())).map_err(said(&position))
}

fn position_of_protocols<'c>(listener: &'c Listener, tls: &'c ListenTls) -> &'c Position {
    tls.protocols
        .as_ref()
        .map_or(&listener.at, |(_, position)| position)
}

fn file<'s>(sources: &'s Sources, path: Option<&Path>, what: &str) -> Result<&'s [u8], String> {
    let path = path.ok_or_else(|| format!("missing {what} file"))?;
    let read = sources.file(path);
    read.map_err(|why| format!("failed to load {what} file {}: {why}", path.display()))
}

fn at(position: &Position, text: String) -> Diagnostic {
    Diagnostic {
        file: position.file.clone(),
        line: position.line,
        column: position.column,
        text,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use crate::config::{self, Defaults};
    use crate::util::Line;

    use super::*;

    fn configured(options: &str) -> (Config, Sources) {
        let text = format!(
            "pki p cert \"/p.pem\"\npki p key \"/p.key\"\nca c cert \"/c.pem\"\n\
             listen on lo {options}\nmatch reject\n"
        );
        let mut params = CertificateParams::new(vec!["mx.example.org".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let pem = params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .pem();
        let mut sources = Sources::from_text("smtpd.conf", &text, &[]);
        sources.insert(Path::new("/p.pem"), pem.clone().into_bytes());
        sources.insert(Path::new("/c.pem"), pem.into_bytes());
        let defaults = Defaults {
            server_name: Line::new("mx.example.org").unwrap(),
            addresses: Vec::new(),
        };
        let loaded = config::load(&sources, &defaults).unwrap_or_else(|bad| panic!("{bad:?}"));
        (loaded.config, sources)
    }

    // smtpd.conf(5), listen on: protocols, ciphers, ca.
    #[test]
    fn what_cannot_be_is_found_with_line_and_column() {
        for (options, complaint) in [
            ("tls pki p", ""),
            ("smtps verify pki p ca c", ""),
            ("tls-require verify pki p", ""),
            ("tls pki p protocols \"tlsv1.2,tlsv1.3\" ciphers HIGH", ""),
            (
                "tls pki p protocols sslv3",
                "smtpd.conf:4:34: failed to parse protocols",
            ),
            (
                "tls pki p ciphers RC4",
                "smtpd.conf:4:32: failed to parse ciphers",
            ),
        ] {
            let (config, sources) = configured(options);
            let found = check(&config, &sources);
            let found: String = found.iter().map(ToString::to_string).collect();
            assert!(found.starts_with(complaint), "{options}: {found}");
            assert_eq!(found.is_empty(), complaint.is_empty(), "{options}: {found}");
        }
        if cfg!(feature = "legacy-tls") {
            let (config, sources) = configured("tls pki p protocols tlsv1.0");
            let found = check(&config, &sources)[0].to_string();
            assert!(
                found.starts_with("smtpd.conf:4:34: protocols: a listener speaks"),
                "{found}"
            );
        }
    }

    #[test]
    fn what_ends_soon_is_told() {
        let (config, sources) = configured("tls pki p");
        let end = 1_893_456_000;
        let told = |now: u64| warnings(&config, &sources, Timestamp(now));
        assert!(told(end - 15 * 86_400).is_empty());
        assert_eq!(
            told(end - 3 * 86_400),
            ["pki p: the certificate expires in 3 days"]
        );
        assert_eq!(told(end + 10), ["pki p: the certificate has expired"]);
        let (config, sources) = configured("tls pki p protocols all");
        if cfg!(feature = "legacy-tls") {
            let found = warnings(&config, &sources, Timestamp(0));
            assert!(
                found[0].starts_with("smtpd.conf:4:34: protocols: "),
                "{found:?}"
            );
        }
    }
}
