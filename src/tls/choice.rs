//! `protocols` and `ciphers`: the strings of libtls and OpenSSL, mapped to what is there.

use std::collections::BTreeSet;

use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::Version;
use super::suites::{all_suites, has, is_known};

/// Protocol versions and ciphers for one action or listener.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Those that rustls speaks; empty when only older ones are asked for.
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) suites: Vec<SupportedCipherSuite>,
    /// Oldest and newest version, where `protocols` says.
    pub(super) range: Option<(Version, Version)>,
    pub(super) ciphers_chosen: bool,
}

impl Default for Choice {
    /// TLS 1.2 and 1.3 with everything that rustls holds for safe.
    fn default() -> Choice {
        Choice {
            versions: vec![&version::TLS13, &version::TLS12],
            suites: all_suites(),
            range: None,
            ciphers_chosen: false,
        }
    }
}

impl Choice {
    /// What `protocols` and `ciphers` mean. The error says which word is not understood, or that
    /// nothing is left.
    pub fn parse(protocols: Option<&str>, ciphers: Option<&str>) -> Result<Choice, String> {
        let mut choice = Choice::default();
        if let Some(text) = protocols {
            choice.set_protocols(text)?;
        }
        if let Some(text) = ciphers {
            choice.set_ciphers(text)?;
        }
        let left = choice.suites.iter().any(|suite| {
            let of = suite.version().version;
            choice.versions.iter().any(|version| version.version == of)
        });
        if !left && (choice.ciphers_chosen || choice.range.is_none()) {
            return Err(String::from(
                "no cipher is left for the protocol versions that are asked for",
            ));
        }
        if choice.is_legacy() && !cfg!(feature = "legacy-tls") {
            return Err(String::from(
                "protocols: only TLS 1.2 and 1.3 are in this build; older ones need the system's \
                 TLS library (feature legacy-tls)",
            ));
        }
        Ok(choice)
    }

    /// Whether rustls has no part in it.
    pub fn is_legacy(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether versions are asked for that are older than TLS 1.2.
    pub fn has_old_versions(&self) -> bool {
        self.range
            .is_some_and(|(oldest, _)| oldest < Version::Tls12)
    }

    /// tls_config_parse_protocols(3): names separated by commas or colons, `!` takes away.
    fn set_protocols(&mut self, text: &str) -> Result<(), String> {
        let wrong = |why: &str| format!("failed to parse protocols \"{text}\": {why}");
        let mut wanted = BTreeSet::new();
        for word in text.split([',', ':']).map(str::trim) {
            let (negated, name) = match word.strip_prefix('!') {
                Some(name) => (true, name),
                None => (false, word),
            };
            let named = versions_named(name).ok_or_else(|| {
                wrong(&format!(
                    "\"{name}\" is none of tlsv1.0, tlsv1.1, tlsv1.2, tlsv1.3, secure, legacy, all"
                ))
            })?;
            // A list that begins by taking away takes from everything.
            if negated && wanted.is_empty() {
                wanted.extend(ALL);
            }
            for version in named {
                if negated {
                    wanted.remove(version)
                } else {
                    wanted.insert(*version)
                };
            }
        }
        let (Some(oldest), Some(newest)) = (wanted.first(), wanted.last()) else {
            return Err(wrong("no version is left"));
        };
        self.range = Some((*oldest, *newest));
        self.versions = [
            (Version::Tls13, &version::TLS13),
            (Version::Tls12, &version::TLS12),
        ]
        .into_iter()
        .filter(|(version, _)| wanted.contains(version))
        .map(|(_, supported)| supported)
        .collect();
        Ok(())
    }

    /// A cipher list as ciphers(1) of OpenSSL has it, as far as rustls has such ciphers. TLS 1.3's
    /// stay as they are unless one of them is named.
    fn set_ciphers(&mut self, text: &str) -> Result<(), String> {
        let wrong = |why: String| format!("failed to parse ciphers \"{text}\": {why}");
        let all = all_suites();
        let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
        let mut banned: Vec<CipherSuite> = Vec::new();
        let mut names_tls13 = false;
        for word in words(text) {
            let (sign, name) = match word.split_at_checked(1) {
                Some((sign @ ("!" | "-" | "+"), name)) => (sign, name),
                _ => ("", word),
            };
            let parts: Vec<&str> = name.split('+').collect();
            let adds = !matches!(sign, "!" | "-");
            if let Some(unknown) = parts.iter().find(|part| adds && !is_known(part)) {
                return Err(wrong(format!("nothing is known as \"{unknown}\"")));
            }
            let matching: Vec<SupportedCipherSuite> = all
                .iter()
                .copied()
                .filter(|suite| parts.iter().all(|part| has(*suite, part)))
                .collect();
            names_tls13 |= sign.is_empty() && parts.iter().any(|part| is_tls13_name(part));
            match sign {
                "!" => {
                    banned.extend(matching.iter().map(|suite| suite.suite()));
                    chosen.retain(|suite| !banned.contains(&suite.suite()));
                }
                "-" => chosen.retain(|suite| !matching.contains(suite)),
                "+" => {}
                _ => {
                    for suite in matching {
                        if !chosen.contains(&suite) && !banned.contains(&suite.suite()) {
                            chosen.push(suite);
                        }
                    }
                }
            }
        }
        if !names_tls13 {
            chosen.retain(|suite| suite.tls13().is_none());
            let modern = all.iter().filter(|suite| suite.tls13().is_some());
            let (modern, old) = (modern.copied(), std::mem::take(&mut chosen));
            if old.is_empty() && !is_about_tls13_only(text) {
                return Err(wrong(String::from(
                    "it leaves no cipher that is safe; forward secrecy with AES-GCM or \
                     ChaCha20-Poly1305 is the least",
                )));
            }
            chosen = modern.chain(old).collect();
        }
        if chosen.is_empty() {
            return Err(wrong(String::from("it leaves no cipher")));
        }
        self.suites = chosen;
        self.ciphers_chosen = !is_default(text);
        Ok(())
    }
}

const ALL: [Version; 4] = [
    Version::Tls10,
    Version::Tls11,
    Version::Tls12,
    Version::Tls13,
];

fn versions_named(name: &str) -> Option<&'static [Version]> {
    Some(match name.to_ascii_lowercase().as_str() {
        "all" | "legacy" => &ALL,
        "secure" | "default" => &[Version::Tls12, Version::Tls13],
        "tlsv1" => &ALL,
        "tlsv1.0" => &[Version::Tls10],
        "tlsv1.1" => &[Version::Tls11],
        "tlsv1.2" => &[Version::Tls12],
        "tlsv1.3" => &[Version::Tls13],
        _ => return None,
    })
}

/// Words that say no more than "what is safe"; with these alone the system's library may help out.
fn is_default(text: &str) -> bool {
    let words = [
        "default",
        "secure",
        "high:!anull:!md5",
        "high",
        "compat",
        "legacy",
        "all",
    ];
    words.contains(&text.to_ascii_lowercase().as_str())
}

fn is_about_tls13_only(text: &str) -> bool {
    let mut words = words(text).peekable();
    words.peek().is_some() && words.all(is_tls13_name)
}

/// The words of a cipher list. What begins with `@`, alone or behind a word, is an order or a
/// level: our own order is by strength already, and our level one for all.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([':', ',', ';', ' '])
        .map(|word| word.split_once('@').map_or(word, |(word, _)| word))
        .filter(|word| !word.is_empty())
}

fn is_tls13_name(word: &str) -> bool {
    word.starts_with("TLS_") || word.starts_with("AEAD-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_mapped_or_refused() {
        // tls_config_parse_protocols(3).
        let versions =
            |text: &str| Choice::parse(Some(text), None).map(|c| (c.range, c.versions.len()));
        use Version::{Tls10, Tls11, Tls12, Tls13};
        assert_eq!(versions("secure"), Ok((Some((Tls12, Tls13)), 2)));
        assert_eq!(versions("tlsv1.2,tlsv1.3"), Ok((Some((Tls12, Tls13)), 2)));
        assert_eq!(versions("TLSv1.3"), Ok((Some((Tls13, Tls13)), 1)));
        assert_eq!(versions("all:!tlsv1.0"), Ok((Some((Tls11, Tls13)), 2)));
        assert_eq!(versions("!tlsv1.3"), Ok((Some((Tls10, Tls12)), 1)));
        if cfg!(feature = "legacy-tls") {
            assert_eq!(versions("tlsv1.0"), Ok((Some((Tls10, Tls10)), 0)));
        }
        assert!(versions("sslv3").is_err() && versions("tlsv1.2,!tlsv1.2").is_err());
        let old = Choice::parse(Some("tlsv1.0"), None);
        if cfg!(feature = "legacy-tls") {
            assert!(old.unwrap().is_legacy())
        } else {
            assert!(old.unwrap_err().contains("feature legacy-tls"))
        }
    }

    #[test]
    fn ciphers_are_mapped_or_refused() {
        // ciphers(1), as far as there is anything to choose from.
        let count = |text: &str| Choice::parse(None, Some(text)).map(|c| c.suites.len());
        assert_eq!(count("HIGH:!aNULL:!MD5"), Ok(9));
        assert_eq!(count("ECDHE-RSA-AES256-GCM-SHA384"), Ok(4));
        assert_eq!(count("ECDHE+AESGCM:@STRENGTH"), Ok(7));
        assert_eq!(count("HIGH:!CHACHA20"), Ok(7));
        assert_eq!(count("TLS_AES_128_GCM_SHA256"), Ok(1));
        assert_eq!(count("ECDHE-RSA-AES256-GCM-SHA384:AES128-SHA"), Ok(4));
        assert!(
            count("AES128-SHA")
                .unwrap_err()
                .contains("no cipher that is safe")
        );
        assert!(count("HIGH:NONSENSE").unwrap_err().contains("NONSENSE"));
        assert!(count("!ALL").is_err() && count("").is_err());
        // What others take.
        let mozillas_intermediate_of_2015 = "ECDHE-ECDSA-CHACHA20-POLY1305:\
            ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
            ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256:\
            DHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:\
            ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA:\
            ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA:\
            DHE-RSA-AES128-SHA256:DHE-RSA-AES128-SHA:DHE-RSA-AES256-SHA256:DHE-RSA-AES256-SHA:\
            ECDHE-ECDSA-DES-CBC3-SHA:ECDHE-RSA-DES-CBC3-SHA:EDH-RSA-DES-CBC3-SHA:\
            AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA256:AES256-SHA256:AES128-SHA:\
            AES256-SHA:DES-CBC3-SHA:!DSS";
        assert_eq!(count(mozillas_intermediate_of_2015), Ok(9));
        assert_eq!(count("ECDH+AESGCM:DH+AESGCM:ECDH+3DES:!aNULL:!RC2"), Ok(7));
        assert_eq!(
            count("HIGH:!kPSK:!TLSv1.0:!KRB5-DES-CBC3-SHA:-NOVELTY"),
            Ok(9)
        );
        assert_eq!(count("DEFAULT@SECLEVEL=1;ECDHE-ECDSA-AES128-CCM"), Ok(9));
        assert!(count("CAMELLIA128-SHA:RC4-SHA").is_err());
        assert!(count("HIGH:AES128--SHA").is_err());
    }
}
