//! Every cipher suite there is: what it is called, and which words of a cipher list mean it.
//!
//! The words are those of ciphers(1) of OpenSSL. A word that means no suite of ours is known all
//! the same where OpenSSL knows it: a list may name what is not there, beside what is.

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
    "ECDH", "ECDHE", "EECDH", "kECDHE", "kEECDH",
];

/// Words for what rustls has none of. Taking it away changes nothing, and asking for it adds
/// nothing.
const ABSENT: &[&str] = &[
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
    "TLSv1",
    "TLSv1.0",
    "SSLv2",
    "SSLv3",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "LOW",
    "MEDIUM",
    "NULL",
    "eNULL",
    "aNULL",
    "ADH",
    "AECDH",
    "DH",
    "DHE",
    "EDH",
    "kDH",
    "kDHE",
    "kDHd",
    "kDHr",
    "kECDH",
    "kECDHe",
    "kECDHr",
    "kEDH",
    "kRSA",
    "aDH",
    "aDSS",
    "aECDH",
    "DSS",
    "PSK",
    "aPSK",
    "kDHEPSK",
    "kECDHEPSK",
    "kPSK",
    "kRSAPSK",
    "SRP",
    "aSRP",
    "kSRP",
    "KRB5",
    "aKRB5",
    "kKRB5",
    "GOST",
    "GOST89MAC",
    "GOST94",
    "aGOST",
    "aGOST01",
    "kGOST",
    "3DES",
    "AESCCM",
    "AESCCM8",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "ARIAGCM",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "CBC",
    "CCM",
    "CCM8",
    "DES",
    "IDEA",
    "MD5",
    "RC2",
    "RC4",
    "SEED",
    "SHA",
    "SHA1",
];

/// Every suite that rustls has here, best first.
pub fn all_suites() -> Vec<SupportedCipherSuite> {
    rustls::crypto::ring::ALL_CIPHER_SUITES.to_vec()
}

/// Whether a word of a cipher list means anything. What may be the name of a suite does: OpenSSL
/// has had hundreds.
pub fn is_known(word: &str) -> bool {
    let named = |suite: &Suite| suite.words.contains(&word);
    EVERY.contains(&word)
        || ABSENT.contains(&word)
        || may_be_a_name(word)
        || SUITES.iter().any(named)
}

/// All names have several parts: `AES128-SHA`, `TLS_RSA_WITH_AES_128_CBC_SHA`.
fn may_be_a_name(word: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    word.contains(['-', '_']) && word.split(['-', '_']).all(is_part)
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
