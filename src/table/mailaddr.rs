//! Entries that name mail addresses: `user`, `@domain`, `user@domain`, and `@` for all.

use std::collections::HashMap;

use super::domain::{Has, is_odd, matches as place_matches, one_label_up};

/// Whether an entry names an address; `user` and `domain` are in lower case. An entry whose user
/// has no sub-address takes every sub-address of that user.
pub fn matches(entry: &str, user: &str, domain: &str, delimiter: char) -> bool {
    if entry.is_empty() {
        return false;
    }
    let (who, place) = split(entry);
    let named = |name: &&str| who.eq_ignore_ascii_case(name);
    let user_ok = who.is_empty() || forms(user, delimiter).any(|name| named(&name));
    user_ok && (place.is_empty() || place_matches(domain, place))
}

/// The user as it is, and without its sub-address. A delimiter in front of everything leaves no
/// user, which is not the same as any user.
fn forms(user: &str, delimiter: char) -> impl Iterator<Item = &str> {
    let bare = user.split(delimiter).next().unwrap_or(user);
    let bare = (bare != user).then_some(bare);
    [Some(user), bare]
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
}

fn split(entry: &str) -> (&str, &str) {
    entry.rsplit_once('@').unwrap_or((entry, ""))
}

/// What cannot be found in a table by a key: entries with patterns other than `*.name`.
#[derive(Debug)]
pub struct AddressPatterns {
    delimiter: char,
    /// By user, in lower case; the empty one holds entries without.
    odd: HashMap<Box<str>, Vec<Box<str>>>,
}

impl AddressPatterns {
    /// None; `delimiter` starts the sub-address.
    pub fn new(delimiter: char) -> AddressPatterns {
        AddressPatterns {
            delimiter,
            odd: HashMap::new(),
        }
    }

    /// Looks at a key of the table.
    pub fn learn(&mut self, key: &str) {
        let (user, domain) = split(key);
        if is_odd(domain) {
            let user = user.to_ascii_lowercase().into();
            self.odd.entry(user).or_default().push(domain.into());
        }
    }

    /// Whether a key of the table names the address; `user` and `domain` are in lower case.
    pub fn contains(&self, user: &str, domain: &str, has: Has<'_>) -> Result<bool, String> {
        let parent = one_label_up(domain);
        let parent = parent.as_deref();
        for who in std::iter::once("").chain(forms(user, self.delimiter)) {
            // What has an `@` in it is a user and a domain, never a user alone.
            if !who.is_empty() && !who.contains('@') && has(who)? {
                return Ok(true);
            }
            for place in [Some(""), Some(domain), parent].into_iter().flatten() {
                if has(&format!("{who}@{place}"))? {
                    return Ok(true);
                }
            }
            let odd = self.odd.get(who).map(Vec::as_slice).unwrap_or_default();
            if odd.iter().any(|pattern| place_matches(domain, pattern)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

    fn found(entry: &str, user: &str, domain: &str) -> bool {
        let mut patterns = AddressPatterns::new('+');
        patterns.learn(entry);
        let has = |key: &str| Ok(key == entry);
        patterns.contains(user, domain, &has).unwrap()
    }

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
            ("bob@*example.org", "bob+x@an.example.org", true),
            ("b*@example.org", "bob@example.org", false),
            ("example.org", "bob@example.org", false),
            ("example.org", "example.org@x", true),
            ("@", "bob@example.org", true),
            ("@", "@", true),
            ("@*", "@", false),
            ("@*", "bob@example.org", true),
            ("bob", "@", false),
            ("", "@", false),
            ("a@b@c", "a@b@c", true),
            ("a@b", "a@b@c", false),
        ] {
            let (user, domain) = address.rsplit_once('@').unwrap();
            assert_eq!(matches(entry, user, domain, '+'), yes, "{entry} {address}");
            assert_eq!(found(entry, user, domain), yes, "{entry} {address}");
        }
    }

    #[test]
    fn keys_and_comparison_agree() {
        let mut dice = Dice::new(1);
        let mut text = |letters: &[u8], most: usize| -> String {
            (0..dice.roll(most))
                .map(|_| char::from(letters[dice.roll(letters.len())]))
                .collect()
        };
        for _ in 0..50_000 {
            let (entry, user, domain) = (text(b"a@.*+", 6), text(b"a@*+", 4), text(b"a.*", 4));
            let yes = matches(&entry, &user, &domain, '+');
            assert_eq!(
                found(&entry, &user, &domain),
                yes,
                "{entry} {user}@{domain}"
            );
        }
    }
}
