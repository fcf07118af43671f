//! Sets of mail addresses: `user`, `@domain`, `user@domain`, and `@` for all.

use std::collections::HashMap;

use super::domain::DomainSet;

/// Many entries, asked at once.
#[derive(Debug)]
pub struct AddressSet {
    delimiter: char,
    /// By user; the empty one holds entries without.
    users: HashMap<Box<str>, Domains>,
}

#[derive(Debug, Default)]
struct Domains {
    any: bool,
    these: DomainSet,
}

impl AddressSet {
    /// A set without entries; `delimiter` starts the sub-address.
    pub fn new(delimiter: char) -> AddressSet {
        AddressSet {
            delimiter,
            users: HashMap::new(),
        }
    }

    /// Adds an entry, which is in lower case.
    pub fn insert(&mut self, entry: &str) {
        if entry.is_empty() {
            return;
        }
        let (user, domain) = entry.rsplit_once('@').unwrap_or((entry, ""));
        let domains = self.users.entry(user.into()).or_default();
        if domain.is_empty() {
            domains.any = true;
        } else {
            domains.these.insert(domain);
        }
    }

    /// Whether an entry matches; `user` and `domain` are in lower case. An entry whose user has no
    /// sub-address takes every sub-address of that user.
    pub fn contains(&self, user: &str, domain: &str) -> bool {
        let bare = user.split(self.delimiter).next().unwrap_or(user);
        let holds = |key: &str| {
            let domains = self.users.get(key);
            domains.is_some_and(|domains| domains.any || domains.these.contains(domain))
        };
        // A delimiter in front of everything leaves no user, which is not the same as any user.
        holds("") || holds(user) || (!bare.is_empty() && holds(bare))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // table(5), mailaddr tables.
    #[test]
    fn entries_name_users_domains_or_both() {
        for (entry, address, yes) in [
            ("bob", "bob@anywhere", true),
            ("bob", "bob+tag@anywhere", true),
            ("bob+tag", "bob+tag@anywhere", true),
            ("bob+tag", "bob@anywhere", false),
            ("bob+tag", "bob+other@anywhere", false),
            ("@example.org", "x@example.org", true),
            ("@*.example.org", "x@a.example.org", true),
            ("@*.example.org", "x@example.org", false),
            ("bob@example.org", "bob@example.org", true),
            ("bob@example.org", "bob+x@example.org", true),
            ("bob@example.org", "eve@example.org", false),
            ("b*@example.org", "bob@example.org", false),
            ("example.org", "bob@example.org", false),
            ("example.org", "example.org@x", true),
            ("@", "bob@example.org", true),
            ("@", "@", true),
            ("@*", "@", false),
            ("@*", "bob@example.org", true),
            ("bob", "@", false),
            ("a@b@c", "a@b@c", true),
        ] {
            let mut set = AddressSet::new('+');
            set.insert(entry);
            let (user, domain) = address.rsplit_once('@').unwrap();
            assert_eq!(set.contains(user, domain), yes, "{entry} {address}");
        }
    }
}
