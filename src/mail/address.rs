//! Mail addresses as the envelope holds them.
//!
//! Parsing what a client typed is the business of `smtp::path`; here is only the value.

use std::fmt;

use crate::util::{Line, NotALine};

/// `user@domain`, or the null address. Case is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailAddr {
    user: Line,
    domain: Line,
}

impl MailAddr {
    /// An address of two parts; neither may hold a line end or NUL.
    pub fn new(user: &str, domain: &str) -> Result<MailAddr, NotALine> {
        Ok(MailAddr {
            user: Line::new(user)?,
            domain: Line::new(domain)?,
        })
    }

    /// The null reverse-path `<>`.
    pub fn null() -> MailAddr {
        MailAddr::default()
    }

    /// Whether this is the null address.
    pub fn is_null(&self) -> bool {
        self.user.is_empty() && self.domain.is_empty()
    }

    /// The part before the `@`.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// RFC 5321 §2.4: the case of a domain means nothing, that of a local part may.
    pub fn is_same(&self, other: &MailAddr) -> bool {
        self.user == other.user && self.domain.eq_ignore_ascii_case(&other.domain)
    }

    /// The form of envelope files and queue listings, where the null address is a bare `@`.
    pub fn stored(&self) -> String {
        format!("{}@{}", self.user, self.domain)
    }

    /// Reads [`MailAddr::stored`] back: split at the last `@`.
    pub fn from_stored(text: &str) -> Option<MailAddr> {
        let (user, domain) = text.rsplit_once('@')?;
        MailAddr::new(user, domain).ok()
    }
}

/// `user@domain`; empty for the null address.
impl fmt::Display for MailAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            return Ok(());
        }
        write!(f, "{}@{}", self.user, self.domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_address_prints_empty_and_is_stored_as_at() {
        assert_eq!(MailAddr::null().to_string(), "");
        assert_eq!(MailAddr::null().stored(), "@");
        assert_eq!(MailAddr::from_stored("@"), Some(MailAddr::null()));
        assert_eq!(MailAddr::from_stored("bob"), None);
        let bob = MailAddr::new("Bob", "example.org").unwrap();
        assert_eq!(MailAddr::from_stored(&bob.stored()), Some(bob));
    }
}
