//! Rules that no envelope can reach.
//!
//! A rule is said to be shadowed only when an earlier one holds whenever it holds: each criterion
//! of the earlier rule must follow from one of the later rule's. What tables that can change say
//! is not looked at, and neither is what several earlier rules take together.

use crate::config::built_in::{LOCAL_HOST, LOCAL_NAMES};
use crate::config::model::{Config, Criterion, Pattern, Rule, TableSource, Test};
use crate::config::netaddr::Network;

use super::{Checker, limits};

impl Checker<'_> {
    /// Warns of rules that never match, and of those that an earlier one always takes the mail
    /// from.
    pub(super) fn unreachable(&mut self) {
        let places = std::mem::take(&mut self.declared.rules);
        let mut entries_left = limits::COMPARED_ENTRIES;
        for (index, at) in places.iter().enumerate().take(limits::COMPARED_RULES) {
            let Some((earlier, [rule, ..])) = self.config.rules.split_at_checked(index) else {
                return;
            };
            if let Some(text) = self.never(rule) {
                self.diagnostics.warning(*at, text);
                continue;
            }
            let mut shadows = Shadows {
                config: &self.config,
                entries_left,
            };
            let taken = earlier
                .iter()
                .find(|earlier| shadows.takes_all(earlier, rule));
            entries_left = shadows.entries_left;
            if let Some(taken) = taken {
                let text = format!(
                    "this rule is never reached: the one at {} takes everything it matches",
                    taken.at
                );
                self.diagnostics.warning(*at, text);
            }
        }
    }

    /// Why a rule can match nothing.
    fn never(&self, rule: &Rule) -> Option<String> {
        rule.criteria
            .iter()
            .find_map(|criterion| match &criterion.test {
                Test::FromAny if criterion.negated => {
                    Some("this rule never matches: no source is not \"any\"".to_owned())
                }
                Test::ForAny if criterion.negated => {
                    Some("this rule never matches: no destination is not \"any\"".to_owned())
                }
                Test::Tag(pattern) if !criterion.negated && !pattern.regex => {
                    self.never_tagged(pattern)
                }
                _ => None,
            })
    }

    fn never_tagged(&self, pattern: &Pattern) -> Option<String> {
        let wanted = entries(&self.config, pattern)?;
        let listeners = self.config.listeners.iter().map(|one| &one.tag);
        let mut tags = listeners.chain([&self.config.socket.tag]).flatten();
        if tags.any(|tag| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(tag))) {
            return None;
        }
        Some(match wanted.as_slice() {
            [one] => format!("this rule never matches: no listener has the tag \"{one}\""),
            _ => "this rule never matches: no listener has one of these tags".to_owned(),
        })
    }
}

struct Shadows<'c> {
    config: &'c Config,
    /// Comparisons that may still be made.
    entries_left: usize,
}

impl Shadows<'_> {
    fn takes_all(&mut self, earlier: &Rule, later: &Rule) -> bool {
        earlier.criteria.iter().all(|wanted| {
            let mut given = later.criteria.iter();
            is_any(wanted) || given.any(|given| self.follows(wanted, given))
        })
    }

    /// Whether `wanted` holds whenever `given` does.
    fn follows(&mut self, wanted: &Criterion, given: &Criterion) -> bool {
        match (wanted.negated, given.negated) {
            (false, false) => self.implied(&wanted.test, &given.test),
            (true, true) => self.implied(&given.test, &wanted.test),
            _ => false,
        }
    }

    /// Whether every mail that `narrow` is true for has `wide` true as well.
    fn implied(&mut self, wide: &Test, narrow: &Test) -> bool {
        match (wide, narrow) {
            (Test::FromAny, Test::FromAny)
            | (Test::ForAny, Test::ForAny)
            | (Test::FromLocal, Test::FromLocal | Test::FromSocket)
            | (Test::FromSocket, Test::FromSocket)
            | (Test::ForLocal, Test::ForLocal)
            | (Test::FromRdns(None), Test::FromRdns(None))
            | (Test::Auth(None), Test::Auth(_))
            | (Test::Tls, Test::Tls) => true,
            (Test::FromLocal, Test::FromSrc(b)) => {
                self.within(&built_in(LOCAL_HOST), b, network_covers)
            }
            (Test::FromSrc(a), Test::FromSrc(b)) => self.within(a, b, network_covers),
            (Test::ForLocal, Test::ForDomain(b)) => {
                self.within(&built_in(LOCAL_NAMES), b, domain_covers)
            }
            (Test::ForDomain(a), Test::ForDomain(b))
            | (Test::Helo(a), Test::Helo(b))
            | (Test::FromRdns(Some(a)), Test::FromRdns(Some(b))) => {
                self.within(a, b, domain_covers)
            }
            (Test::MailFrom(a), Test::MailFrom(b)) | (Test::RcptTo(a), Test::RcptTo(b)) => {
                self.within(a, b, mailaddr_covers)
            }
            (Test::Tag(a), Test::Tag(b)) | (Test::Auth(Some(a)), Test::Auth(Some(b))) => {
                self.within(a, b, str::eq_ignore_ascii_case)
            }
            _ => false,
        }
    }

    /// Whether each entry of `narrow` is covered by one of `wide`.
    fn within(&mut self, wide: &Pattern, narrow: &Pattern, covers: fn(&str, &str) -> bool) -> bool {
        if wide.regex != narrow.regex {
            return false;
        }
        if wide.table == narrow.table {
            return true;
        }
        let lists = (entries(self.config, wide), entries(self.config, narrow));
        let (Some(wide_entries), Some(narrow_entries)) = lists else {
            return false;
        };
        let cost = wide_entries.len().saturating_mul(narrow_entries.len());
        let Some(left) = self.entries_left.checked_sub(cost) else {
            return false;
        };
        self.entries_left = left;
        let covers = if wide.regex { str::eq } else { covers };
        narrow_entries
            .iter()
            .all(|narrow| wide_entries.iter().any(|wide| covers(wide, narrow)))
    }
}

fn is_any(criterion: &Criterion) -> bool {
    !criterion.negated && matches!(criterion.test, Test::FromAny | Test::ForAny)
}

fn built_in(name: &str) -> Pattern {
    Pattern {
        table: name.to_owned(),
        regex: false,
    }
}

/// The entries of a table that stays as it is.
fn entries<'c>(config: &'c Config, pattern: &Pattern) -> Option<Vec<&'c str>> {
    match config.tables.get(&pattern.table)? {
        TableSource::List(keys) => Some(keys.iter().map(String::as_str).collect()),
        TableSource::Map(pairs) => Some(pairs.iter().map(|(key, _)| key.as_str()).collect()),
        _ => None,
    }
}

fn network_covers(wide: &str, narrow: &str) -> bool {
    if wide.eq_ignore_ascii_case(narrow) {
        return true;
    }
    match (Network::parse(wide), Network::parse(narrow)) {
        (Some(wide), Some(narrow)) => {
            wide.addr.is_ipv4() == narrow.addr.is_ipv4()
                && wide.bits <= narrow.bits
                && Network::of(narrow.addr, wide.bits) == wide
        }
        _ => false,
    }
}

/// table(5): `*.example.org` stands for one label in front.
fn domain_covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (wide.to_ascii_lowercase(), narrow.to_ascii_lowercase());
    if wide == narrow || (wide == "*" && !narrow.is_empty()) {
        return true;
    }
    let Some(parent) = wide.strip_prefix('*').filter(|rest| rest.starts_with('.')) else {
        return false;
    };
    let label = narrow.strip_suffix(parent);
    !parent.contains('*') && label.is_some_and(|label| !label.contains(['.', '*']))
}

fn mailaddr_covers(wide: &str, narrow: &str) -> bool {
    let (wide_user, wide_domain) = parts(wide);
    let (user, domain) = parts(narrow);
    let user_covered = wide_user.is_empty() || wide_user.eq_ignore_ascii_case(user);
    let domain_covered = match (wide_domain, domain) {
        ("", _) => true,
        (_, "") => false,
        (wide, narrow) => domain_covers(wide, narrow),
    };
    user_covered && domain_covered
}

fn parts(entry: &str) -> (&str, &str) {
    entry.rsplit_once('@').unwrap_or((entry, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    // table(5): what entries of networks, domains and addresses take in.
    #[test]
    fn one_entry_covers_another_only_if_it_takes_all_it_takes() {
        for (wide, narrow) in [
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.0.0.0/8", "10.1.0.0/16"),
            ("2001:db8::/32", "[2001:db8::1]"),
            ("local", "LOCAL"),
        ] {
            assert!(network_covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("10.1.0.0/16", "10.0.0.0/8"),
            ("0.0.0.0/0", "::1"),
            ("10.0.0.0/8", "x"),
        ] {
            assert!(!network_covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("*", "a.org"),
            ("*.a.org", "X.a.org"),
            ("*.a.org", "*.a.org"),
        ] {
            assert!(domain_covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("*.a.org", "a.org"),
            ("*.a.org", "x.y.a.org"),
            ("a.org", "*.org"),
            ("*.*.org", "a.b.org"),
        ] {
            assert!(!domain_covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("@", "bob"),
            ("@", "@"),
            ("@a.org", "bob@A.org"),
            ("bob", "Bob@a.org"),
            ("@*.org", "bob@a.org"),
        ] {
            assert!(mailaddr_covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [
            ("@a.org", "bob"),
            ("@a.org", "@"),
            ("@*", "@"),
            ("bob@a.org", "@a.org"),
            ("bob", "eve"),
        ] {
            assert!(!mailaddr_covers(wide, narrow), "{wide} {narrow}");
        }
    }
}
