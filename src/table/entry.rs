//! Which entry of a table it is that matches: for whoever asks why.
//!
//! The question itself is answered by indices that hold all entries at once and do not say which
//! one it was. Here every entry is asked alone, by the same comparison. That takes its time, and
//! nothing that is in a hurry does it.

use std::fmt;

use crate::config::ere;
use crate::mail::Peer;

use super::Tables;
use super::domain::matches as domain_matches;
use super::mailaddr::matches as mailaddr_matches;
use super::network::Networks;

/// How a key is compared with the entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// As a host name, wildcards included.
    Domain,
    /// As an address, networks included.
    Netaddr,
    /// As a mail address.
    Mailaddr,
    String,
    /// With each entry as a regular expression.
    Regex,
    /// As it is; the value is a list of expansion items.
    Alias,
    /// As it is; the value is a user.
    Userinfo,
}

/// Its name in table(5).
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

/// Whether an entry is equal to a key, in the sense of a service.
type Comparison<'k> = Box<dyn Fn(&str) -> bool + 'k>;

impl Tables {
    /// The first entry, in the order of the table, that has `key` found by this service; `None`
    /// also where entries cannot be seen.
    pub fn entry(&self, service: Service, table: &str, key: &str) -> Option<String> {
        let key = key.to_ascii_lowercase();
        let compare = self.comparison(service, &key)?;
        let first = self.ask(table, |state| {
            let mut first = None;
            state.store.each_key(&mut |entry| {
                if first.is_none() && compare(entry) {
                    first = Some(entry.to_owned());
                }
            })?;
            Ok(first)
        });
        first.ok()?
    }

    /// How one entry is compared with a key, which is in lower case.
    fn comparison<'k>(&self, service: Service, key: &'k str) -> Option<Comparison<'k>> {
        Some(match service {
            Service::Domain => Box::new(move |entry| domain_matches(key, entry)),
            Service::Netaddr => {
                let peer = Peer::parse(key)?;
                Box::new(move |entry| {
                    let mut alone = Networks::default();
                    alone.learn(entry);
                    let same = |text: &str| Ok(text.eq_ignore_ascii_case(entry));
                    alone.contains(&peer, &same) == Ok(true)
                })
            }
            Service::Mailaddr => {
                let (user, domain) = key.rsplit_once('@')?;
                let delimiter = self.delimiter;
                Box::new(move |entry| mailaddr_matches(entry, user, domain, delimiter))
            }
            Service::Regex => Box::new(move |entry| {
                let pattern = ere::translate(entry).ok();
                let compiled = pattern.and_then(|pattern| regex::Regex::new(&pattern).ok());
                compiled.is_some_and(|compiled| compiled.is_match(key))
            }),
            // The entry is the key.
            Service::String | Service::Alias | Service::Userinfo => return None,
        })
    }
}
