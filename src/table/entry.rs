//! Which entry of a table it is that matches: for whoever asks why.
//!
//! The question itself is answered by indices that hold all entries at once and do not say which
//! one it was. Here every entry is asked alone, by the same comparison. That takes its time, and
//! nothing that is in a hurry does it.

use std::fmt;

use crate::config::ere;
use crate::mail::{MailAddr, Peer};

use super::Tables;
use super::domain::DomainSet;
use super::mailaddr::AddressSet;
use super::network::NetworkSet;

/// How a key is compared with the entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// As a host name, wildcards included.
    Domain,
    /// As an address, networks included.
    Netaddr,
    /// As a mail address.
    Mailaddr,
    /// As it is.
    String,
    /// With each entry as a regular expression.
    Regex,
    /// As it is; the value is a list of expansion items.
    Alias,
    /// As it is; the value is a user.
    Userinfo,
}

/// The word of table(5).
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Service::Domain => "domain",
            Service::Netaddr => "netaddr",
            Service::Mailaddr => "mailaddr",
            Service::String => "string",
            Service::Regex => "regex",
            Service::Alias => "alias",
            Service::Userinfo => "userinfo",
        })
    }
}

impl Tables {
    /// The first entry, in the order of the table, that has `key` found by this service; `None`
    /// also where entries cannot be seen.
    pub fn entry(&self, service: Service, table: &str, key: &str) -> Option<String> {
        let state = self.table(table).ok()?.now();
        let key = key.to_ascii_lowercase();
        let mut keys = state.contents.keys();
        let found = match service {
            Service::Domain => keys.find(|entry| {
                let mut alone = DomainSet::default();
                alone.insert(&entry.to_ascii_lowercase());
                alone.contains(&key)
            }),
            Service::Netaddr => {
                let peer = Peer::parse(&key)?;
                keys.find(|entry| {
                    let mut alone = NetworkSet::default();
                    alone.insert(&entry.to_ascii_lowercase());
                    alone.contains(&peer)
                })
            }
            Service::Mailaddr => {
                let address = MailAddr::from_stored(&key)?;
                keys.find(|entry| {
                    let mut alone = AddressSet::new(self.delimiter);
                    alone.insert(&entry.to_ascii_lowercase());
                    alone.contains(address.user(), address.domain())
                })
            }
            Service::Regex => keys.find(|entry| {
                let pattern = ere::translate(entry).ok();
                let compiled = pattern.and_then(|pattern| regex::Regex::new(&pattern).ok());
                compiled.is_some_and(|compiled| compiled.is_match(&key))
            }),
            // The entry is the key.
            Service::String | Service::Alias | Service::Userinfo => None,
        };
        found.map(str::to_owned)
    }
}
