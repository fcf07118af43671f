//! Every cipher suite there is: what it is called, and which words of a cipher list mean it.
//!
//! The words are those of ciphers(1) of OpenSSL. A word that means no suite of ours is known all
//! the same where OpenSSL knows it: a list may take away what is not there.

use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite};

/// A suite and its words.
struct Suite {
    id: CipherSuite,
    /// OpenSSL's name, which log lines have, and other names.
    names: &'static [&'static str],
    bits: u32,
    /// Words that mean it and not all others.
    words: &'static [&'static str],
}

/// In the order of the standards.
const SUITES: &[Suite] = &[
    Suite {
        id: CipherSuite::TLS13_AES_256_GCM_SHA384,
        names: &["TLS_AES_256_GCM_SHA384", "AEAD-AES256-GCM-SHA384"],
        bits: 256,
        words: &[
            "TLSv1.3", "ECDSA", "aECDSA", "RSA", "aRSA", "AES", "AESGCM", "AES256", "SHA384",
        ],
    },
    Suite {
        id: CipherSuite::TLS13_AES_128_GCM_SHA256,
        names: &["TLS_AES_128_GCM_SHA256", "AEAD-AES128-GCM-SHA256"],
        bits: 128,
        words: &[
            "TLSv1.3", "ECDSA", "aECDSA", "RSA", "aRSA", "AES", "AESGCM", "AES128", "SHA256",
        ],
    },
    Suite {
        id: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        names: &[
            "TLS_CHACHA20_POLY1305_SHA256",
            "AEAD-CHACHA20-POLY1305-SHA256",
        ],
        bits: 256,
        words: &[
            "TLSv1.3", "ECDSA", "aECDSA", "RSA", "aRSA", "CHACHA20", "SHA256",
        ],
    },
    Suite {
        id: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        names: &[
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        ],
        bits: 256,
        words: &[
            "TLSv1.2", "ECDSA", "aECDSA", "AES", "AESGCM", "AES256", "SHA384",
        ],
    },
    Suite {
        id: CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        names: &[
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ],
        bits: 128,
        words: &[
            "TLSv1.2", "ECDSA", "aECDSA", "AES", "AESGCM", "AES128", "SHA256",
        ],
    },
    Suite {
        id: CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        names: &[
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        ],
        bits: 256,
        words: &["TLSv1.2", "ECDSA", "aECDSA", "CHACHA20"],
    },
    Suite {
        id: CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        names: &[
            "ECDHE-RSA-AES256-GCM-SHA384",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        ],
        bits: 256,
        words: &[
            "TLSv1.2", "RSA", "aRSA", "AES", "AESGCM", "AES256", "SHA384",
        ],
    },
    Suite {
        id: CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        names: &[
            "ECDHE-RSA-AES128-GCM-SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ],
        bits: 128,
        words: &[
            "TLSv1.2", "RSA", "aRSA", "AES", "AESGCM", "AES128", "SHA256",
        ],
    },
    Suite {
        id: CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        names: &[
            "ECDHE-RSA-CHACHA20-POLY1305",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        ],
        bits: 256,
        words: &["TLSv1.2", "RSA", "aRSA", "CHACHA20"],
    },
];

/// Words that mean every suite: all have forward secrecy and authenticate what they encrypt.
const EVERY: &[&str] = &[
    "HIGH", "ALL", "DEFAULT", "default", "secure", "compat", "legacy", "all", "AEAD", "FIPS",
    "ECDHE", "EECDH", "kECDHE", "kEECDH",
];

/// Words for what rustls has none of. Taking it away changes nothing, and asking for it adds
/// nothing.
const ABSENT: &[&str] = &[
    "COMPLEMENTOFDEFAULT",
    "TLSv1",
    "aNULL",
    "eNULL",
    "NULL",
    "MD5",
    "RC4",
    "DES",
    "3DES",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "LOW",
    "MEDIUM",
    "SSLv2",
    "SSLv3",
    "PSK",
    "SRP",
    "DSS",
    "aDSS",
    "DH",
    "kDHE",
    "kEDH",
    "DHE",
    "EDH",
    "ADH",
    "AECDH",
    "kRSA",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "SEED",
    "IDEA",
    "ARIA",
    "SHA",
    "SHA1",
    "CBC",
    "aECDH",
    "kECDH",
    "kDH",
    "CCM",
    "CCM8",
    "AESCCM",
    "AESCCM8",
    "GOST",
];

/// Suites that OpenSSL knows and rustls does not have: among others in a list they are passed over.
const OLD_NAMES: &[&str] = &[
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-RSA-AES256-SHA384",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "DHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-CHACHA20-POLY1305",
    "DHE-RSA-AES256-SHA256",
    "DHE-RSA-AES128-SHA256",
    "DHE-RSA-AES256-SHA",
    "DHE-RSA-AES128-SHA",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
    "AES256-SHA256",
    "AES128-SHA256",
    "AES256-SHA",
    "AES128-SHA",
    "DES-CBC3-SHA",
];

/// Every suite that rustls has here, best first.
pub fn all_suites() -> Vec<SupportedCipherSuite> {
    rustls::crypto::ring::ALL_CIPHER_SUITES.to_vec()
}

/// Whether a word of a cipher list means anything.
pub fn is_known(word: &str) -> bool {
    let named = |suite: &Suite| suite.names.contains(&word) || suite.words.contains(&word);
    EVERY.contains(&word)
        || ABSENT.contains(&word)
        || OLD_NAMES.contains(&word)
        || SUITES.iter().any(named)
}

/// Whether a word of a cipher list means this suite.
pub fn has(suite: SupportedCipherSuite, word: &str) -> bool {
    let Some(suite) = find(suite) else {
        return false;
    };
    EVERY.contains(&word) || suite.words.contains(&word) || suite.names.contains(&word)
}

/// `version:cipher:bits`, with OpenSSL's name of the cipher.
pub fn described(suite: SupportedCipherSuite) -> String {
    let version = match suite.version().version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "TLSv1.2",
    };
    match find(suite).and_then(|found| Some((found.names.first()?, found.bits))) {
        Some((name, bits)) => format!("{version}:{name}:{bits}"),
        None => format!("{version}:{:?}", suite.suite()),
    }
}

fn find(suite: SupportedCipherSuite) -> Option<&'static Suite> {
    SUITES.iter().find(|known| known.id == suite.suite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_library_is_in_the_table() {
        for suite in all_suites() {
            assert!(find(suite).is_some(), "{suite:?}");
            assert!(has(suite, "HIGH") && !has(suite, "RC4"));
            assert_ne!(has(suite, "TLSv1.2"), has(suite, "TLSv1.3"));
        }
        assert_eq!(all_suites().len(), SUITES.len());
    }
}
