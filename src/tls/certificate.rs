//! What is looked at in a certificate of our own before it is shown to anybody: whether the key is
//! its key, and until when it holds.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use crate::util::Timestamp;

/// A certificate that ends sooner than this is complained of.
const SOON_DAYS: i64 = 14;

/// The certificates of a PEM file, the host's own first.
pub fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("failed to load certificate file: {why}");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&error))?;
    if chain.is_empty() {
        Err(wrong(&"no certificate in it"))
    } else {
        Ok(chain)
    }
}

/// Whether the key of the file `key` is that of the certificate in `pem`. What is wrong with
/// either is said.
pub fn check_pair(pem: &[u8], key: &[u8]) -> Result<(), String> {
    if String::from_utf8_lossy(key).contains("ENCRYPTED") {
        return Err(String::from(
            "the key is protected by a passphrase; a key that a daemon uses cannot be",
        ));
    }
    let chain = chain(pem)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("failed to load key file: {error}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| format!("failed to load key file: {error}"))?;
    match CertifiedKey::new(chain, key).keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(String::from(
            "the key does not belong to the certificate: cert and key are of two pairs",
        )),
        // A certificate of a form that only old software makes: who is shown it will judge.
        _ => Ok(()),
    }
}

/// When the first certificate of `pem` ends, in seconds since the epoch; `None` if it does not say.
pub fn ends(pem: &[u8]) -> Option<i64> {
    not_after(chain(pem).ok()?.first()?)
}

/// What is to be said of a certificate that ends then; `None` when that is far off.
pub fn ending(ends: i64, now: Timestamp) -> Option<String> {
    const DAY: i64 = 86_400;
    match (ends - i64::try_from(now.0).ok()?).div_euclid(DAY) {
        left if left < 0 => Some("the certificate has expired".to_owned()),
        left if left < SOON_DAYS => Some(format!("the certificate expires in {left} days")),
        _ => None,
    }
}

/// RFC 5280 §4.1: Certificate, tbsCertificate, and in it version, serialNumber, signature, issuer,
/// validity. In seconds since the epoch.
fn not_after(der: &[u8]) -> Option<i64> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(der).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = element(certificate)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _ in ["serialNumber", "signature", "issuer"] {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, _, after) = element(validity)?;
    let (tag, text, _) = element(after)?;
    seconds(tag, std::str::from_utf8(text).ok()?)
}

/// Tag, contents, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    const LONG: u8 = 0x80;
    let (&[tag, first], mut rest) = der.split_first_chunk()?;
    let mut length = usize::from(first);
    if first & LONG != 0 {
        let (bytes, after) = rest.split_at_checked(usize::from(first & !LONG))?;
        if bytes.len() > 4 {
            return None;
        }
        length = bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (contents, after) = rest.split_at_checked(length)?;
    Some((tag, contents, after))
}

/// RFC 5280 §4.1.2.5: `YYMMDDhhmmssZ` (UTCTime) or `YYYYMMDDhhmmssZ` (GeneralizedTime).
fn seconds(tag: u8, text: &str) -> Option<i64> {
    const UTC: u8 = 0x17;
    let digits = text.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = digits.split_at_checked(if tag == UTC { 2 } else { 4 })?;
    let mut year: i64 = year.parse().ok()?;
    if tag == UTC {
        year += if year < 50 { 2000 } else { 1900 };
    }
    if rest.len() != 10 {
        return None;
    }
    let field = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (field(0)?, field(2)?);
    let (hour, minute, second) = (field(4)?, field(6)?, field(8)?);
    // Days from the epoch: years that begin in March make leap days come last.
    let (year, month) = match month {
        ..=2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn signed(key: &KeyPair, ends: (i32, u8, u8)) -> String {
        let mut params = CertificateParams::new(vec!["mx.example.org".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(ends.0, ends.1, ends.2);
        params.self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_key_of_another_certificate_is_found_out() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let pem = signed(&key, (2030, 1, 1));
        let check = |key: &str| check_pair(pem.as_bytes(), key.as_bytes());
        assert_eq!(check(&key.serialize_pem()), Ok(()));
        let wrong = check(&other.serialize_pem()).unwrap_err();
        assert!(wrong.contains("does not belong"), "{wrong}");
        assert!(check("").is_err());
        let text =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(check(text).unwrap_err().contains("passphrase"));
        assert!(check_pair(b"", key.serialize_pem().as_bytes()).is_err());
    }

    #[test]
    fn days_are_counted_to_the_end_of_a_certificate() {
        let key = KeyPair::generate().unwrap();
        // 2030-01-01 and 2051-03-01, seconds since the epoch: UTCTime and GeneralizedTime.
        for (ends, at) in [
            ((2030, 1, 1), 1_893_456_000),
            ((2051, 3, 1), 2_561_241_600),
            ((2028, 2, 29), 1_835_395_200),
        ] {
            let pem = signed(&key, ends);
            assert_eq!(super::ends(pem.as_bytes()), Some(at), "{ends:?}");
            let said = |now: i64| ending(at, Timestamp(now as u64)).unwrap_or_default();
            assert!(said(at - 86_400).ends_with("expires in 1 days"));
            assert!(said(at - 1).ends_with("expires in 0 days"));
            assert!(said(at + 1).ends_with("has expired"));
            assert_eq!(said(at - SOON_DAYS * 86_400), "");
        }
        let chain = chain(signed(&key, (2030, 1, 1)).as_bytes()).unwrap();
        for cut in 0..chain[0].len() {
            not_after(&chain[0][..cut]);
        }
        assert_eq!(not_after(&[0x30, 0x85, 1, 1, 1, 1, 1]), None);
    }
}
