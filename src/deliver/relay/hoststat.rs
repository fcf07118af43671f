//! What was last heard of each recipient domain, and whom to try again when it works.

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::EvpId;
use crate::util::{Line, Timestamp};

/// How long an entry lives after its last change.
const LIFE_S: u64 = 4 * 3600;
/// Most domains that are remembered; then the oldest entries go.
const DOMAINS_MAX: usize = 10_000;

/// One domain.
#[derive(Clone, Debug)]
struct Entry {
    at: Timestamp,
    text: Line,
    deferred: BTreeSet<EvpId>,
}

/// Outcomes by recipient domain, in lower case.
#[derive(Debug, Default)]
pub struct HostStats {
    domains: BTreeMap<String, Entry>,
    by_age: BTreeSet<(Timestamp, String)>,
    deferred_max: usize,
}

impl HostStats {
    /// Remembers at most `deferred_max` envelopes of a domain.
    pub fn new(deferred_max: usize) -> HostStats {
        HostStats {
            deferred_max,
            ..HostStats::default()
        }
    }

    /// A session has an outcome for a recipient of `domain`.
    pub fn heard(&mut self, domain: &str, text: &Line, now: Timestamp) {
        let domain = domain.to_ascii_lowercase();
        let entry = Entry {
            at: now,
            text: text.clone(),
            deferred: BTreeSet::new(),
        };
        match self.domains.get_mut(&domain) {
            Some(known) => {
                self.by_age.remove(&(known.at, domain.clone()));
                (known.at, known.text) = (entry.at, entry.text);
            }
            None => {
                self.domains.insert(domain.clone(), entry);
            }
        }
        self.by_age.insert((now, domain));
        while self.domains.len() > DOMAINS_MAX {
            let Some((_, oldest)) = self.by_age.pop_first() else {
                break;
            };
            self.domains.remove(&oldest);
        }
    }

    /// An envelope for `domain` was put off because the domain cannot be reached. Only of domains
    /// that something was heard of.
    pub fn defer(&mut self, domain: &str, id: EvpId) {
        let most = self.deferred_max;
        if let Some(entry) = self.domains.get_mut(&domain.to_ascii_lowercase())
            && entry.deferred.len() < most
        {
            entry.deferred.insert(id);
        }
    }

    /// An envelope got a reply.
    pub fn replied(&mut self, domain: &str, id: EvpId) {
        if let Some(entry) = self.domains.get_mut(&domain.to_ascii_lowercase()) {
            entry.deferred.remove(&id);
        }
    }

    /// A recipient of `domain` was accepted: these may be tried now.
    pub fn accepted(&mut self, domain: &str) -> Vec<EvpId> {
        match self.domains.get_mut(&domain.to_ascii_lowercase()) {
            Some(entry) => std::mem::take(&mut entry.deferred).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Forgets what is too old.
    pub fn tick(&mut self, now: Timestamp) {
        while let Some((at, domain)) = self.by_age.first()
            && now.since(*at) >= LIFE_S
        {
            self.domains.remove(domain);
            self.by_age.pop_first();
        }
    }

    /// `DOMAIN|UNIXTIME|TEXT`, by domain.
    pub fn lines(&self) -> Vec<String> {
        self.domains
            .iter()
            .map(|(domain, entry)| format!("{domain}|{}|{}", entry.at.0, entry.text))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_700_000_000);

    fn id(n: u64) -> EvpId {
        EvpId::from_u64(0x1_0000_0000 | n).unwrap()
    }

    #[test]
    fn the_last_word_of_a_domain_is_kept_for_four_hours() {
        let mut stats = HostStats::new(1);
        stats.heard("Example.COM", &Line::sanitize(b"250 ok"), T0);
        stats.heard("example.com", &Line::sanitize(b"450 no"), T0.plus(5));
        assert_eq!(stats.lines(), ["example.com|1700000005|450 no"]);
        stats.tick(T0.plus(4 * 3600));
        assert_eq!(stats.lines().len(), 1);
        stats.tick(T0.plus(5 + 4 * 3600));
        assert!(stats.lines().is_empty());
    }

    #[test]
    fn envelopes_put_off_come_back_when_one_is_accepted() {
        // smtpd.conf(5), mta max-deferred.
        let mut stats = HostStats::new(2);
        stats.defer("a.org", id(1));
        assert!(stats.accepted("a.org").is_empty());
        stats.heard("a.org", &Line::default(), T0);
        for n in 1..=3 {
            stats.defer("A.org", id(n));
        }
        stats.replied("a.org", id(1));
        assert_eq!(stats.accepted("a.ORG"), [id(2)]);
        assert!(stats.accepted("a.org").is_empty());
    }
}
