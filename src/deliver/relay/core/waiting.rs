//! Who waits for which limit, first come first served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Destination, RelayId, RouteId};

/// A count of connections that is full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Limit {
    Sessions,
    /// Those on routes of which it is not known that they answer.
    Unproven,
    Source(Option<IpAddr>),
    Host(IpAddr),
    Route(RouteId),
    Domain(Destination),
    /// The relay's own. Nobody else waits for that, and the relay looks again whenever one of its
    /// sessions ends.
    Own(&'static str),
}

impl Limit {
    /// The key of smtpd.conf(5), for a listing.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Limit::Sessions => "sessions",
            Limit::Unproven => "sessions-to-new-hosts",
            Limit::Source(_) => "max-conn-per-source",
            Limit::Host(_) => "max-conn-per-host",
            Limit::Route(_) => "max-conn-per-route",
            Limit::Domain(_) => "max-conn-per-domain",
            Limit::Own(name) => name,
        }
    }
}

/// A relay's place in a line.
pub(super) type InLine = (Limit, u64);

/// The lines, one for each limit that somebody waits for.
#[derive(Default)]
pub(super) struct Waiting {
    lines: BTreeMap<Limit, BTreeMap<u64, RelayId>>,
    /// Limits at which somebody may have his turn.
    freed: BTreeSet<Limit>,
    last: u64,
}

impl Waiting {
    /// Puts a relay at the end of a line.
    pub(super) fn join(&mut self, limit: Limit, relay: RelayId) -> InLine {
        self.last += 1;
        let line = self.lines.entry(limit.clone()).or_default();
        line.insert(self.last, relay);
        (limit, self.last)
    }

    pub(super) fn leave(&mut self, (limit, number): &InLine) {
        if let Some(line) = self.lines.get_mut(limit) {
            line.remove(number);
            if line.is_empty() {
                self.lines.remove(limit);
            }
        }
    }

    /// How many wait for a limit.
    pub(super) fn len(&self, limit: &Limit) -> usize {
        self.lines.get(limit).map_or(0, BTreeMap::len)
    }

    /// There may be room under this limit.
    pub(super) fn free(&mut self, limit: Limit) {
        if self.lines.contains_key(&limit) {
            self.freed.insert(limit);
        }
    }

    /// A limit at which it is somebody's turn, and whose.
    pub(super) fn next(&mut self) -> Option<(Limit, RelayId)> {
        while let Some(limit) = self.freed.first().cloned() {
            let line = self.lines.get(&limit);
            if let Some(relay) = line.and_then(|line| line.first_key_value()) {
                return Some((limit, *relay.1));
            }
            self.freed.remove(&limit);
        }
        None
    }

    /// Whoever is first could not be helped: the others have to wait, too.
    pub(super) fn is_full(&mut self, limit: &Limit) {
        self.freed.remove(limit);
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (InLine, RelayId)> {
        self.lines.iter().flat_map(|(limit, line)| {
            let place = move |(number, relay): (&u64, &RelayId)| ((limit.clone(), *number), *relay);
            line.iter().map(place)
        })
    }
}
