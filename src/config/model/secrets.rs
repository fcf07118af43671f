//! Certificates, and keys that are no certificate's.

use std::path::PathBuf;

use crate::mail::srs::Keys;
use crate::util::Secret;

/// `pki NAME …`.
#[derive(Clone, Debug, Default)]
pub struct Pki {
    /// `cert FILE`.
    pub cert: Option<PathBuf>,
    /// `key FILE`.
    pub key: Option<PathBuf>,
    pub dhe: Dhe,
}

/// `dhe none|auto|legacy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dhe {
    /// No finite-field Diffie-Hellman.
    #[default]
    None,
    /// Of the certificate's strength.
    Auto,
    /// 1024 bits.
    Legacy,
}

/// `srs …`.
#[derive(Clone, Debug)]
pub struct Srs {
    pub key: Secret,
    /// `srs key backup`: still accepted.
    pub backup: Option<Secret>,
    /// `srs ttl` in days; four.
    pub ttl_days: u32,
}

impl Srs {
    /// For those who make and check addresses.
    pub fn keys(&self) -> Keys<'_> {
        Keys {
            key: self.key.reveal(),
            backup: self.backup.as_ref().map(Secret::reveal),
            ttl_days: self.ttl_days,
        }
    }
}

/// `queue encryption [KEY]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueKey {
    /// The key itself, 32 bytes.
    Text(Secret),
    /// `stdin` or `-`: the first line of the standard input.
    Stdin,
    /// Nothing: it is asked for on the terminal.
    Terminal,
}
