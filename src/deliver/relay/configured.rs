//! What relaying is told to do, as one relay or session sees it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::built_in::LOCAL_HOST;
use crate::config::{Config, Method, MtaLimits, RelayAction, Route, TableSource};
use crate::filter::Filters;
use crate::mail::Peer;
use crate::table::Snapshot;

use super::mx::Own;
use super::secure::Connectors;

/// A configuration with what was made of it for relaying. A relay whose action says something else
/// after a change keeps the old one until it has nothing more to do; envelopes that come later go
/// to a relay of their own.
pub struct Configured {
    /// Actions and tables.
    pub snapshot: Arc<Snapshot>,
    pub tls: Connectors,
    /// Who hears of sessions.
    pub filters: Arc<Filters>,
    /// What the listeners are bound to.
    pub bound: Arc<[SocketAddr]>,
}

impl Configured {
    /// Actions, limits and names.
    pub fn config(&self) -> &Config {
        &self.snapshot.config
    }

    /// The relay action of this name, if the configuration has it.
    pub fn action(&self, name: &str) -> Option<&RelayAction> {
        match &self.config().actions.get(name)?.method {
            Method::Relay(action) => Some(action),
            Method::Local(_) => None,
        }
    }

    /// Whether an action says the same in `other`, the tables that it names included.
    pub fn has_the_same(&self, other: &Configured, action: &str) -> bool {
        let (Some(ours), Some(theirs)) = (self.action(action), other.action(action)) else {
            return false;
        };
        let route = match &ours.route {
            Route::Host(table) | Route::Domain(table) => Some(table),
            Route::Exchangers | Route::Backup(_) => None,
        };
        let mut tables = [
            route,
            ours.src.as_ref(),
            ours.auth.as_ref(),
            ours.helo_src.as_ref(),
        ]
        .into_iter()
        .flatten();
        ours == theirs
            && tables.all(|name| self.config().tables.get(name) == other.config().tables.get(name))
    }

    /// The limits of a destination.
    pub fn limits_for(&self, destination: &str) -> MtaLimits {
        let mta = &self.config().mta;
        let own = mta
            .domains
            .iter()
            .find(|(domain, _)| domain.eq_ignore_ascii_case(destination));
        own.map_or(mta.limits, |(_, limits)| *limits)
    }

    /// What of this host matters to where mail goes.
    pub fn own(&self) -> Own {
        // The rules' table of all addresses of the interfaces, as they were when it was made.
        let interfaces: Vec<IpAddr> = match self.config().tables.get(LOCAL_HOST) {
            Some(TableSource::List(entries)) => {
                let address = |entry: &String| match Peer::parse(entry)? {
                    Peer::Inet { addr, .. } => Some(addr),
                    Peer::Local => None,
                };
                entries.iter().filter_map(address).collect()
            }
            _ => Vec::new(),
        };
        Own::new(&interfaces, &self.bound).called(&self.config().server_name)
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Configured({})", self.snapshot.version)
    }
}
