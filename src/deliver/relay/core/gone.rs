//! Delays of what has nothing to do any more: a domain or relay goes with its last message, but the
//! time to its next connection, where the administrator has set one, goes on.
//!
//! Bound: what has had a connection within such a delay; [`Gone::sweep`] forgets the others.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::deliver::relay::key::Key;
use crate::deliver::relay::routes::Connections;
use crate::util::Timestamp;

use super::Destination;

/// Whose connections they were.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Domain(Destination),
    Relay(Key),
    Connector(Key, Option<IpAddr>),
}

/// Connections that are closed and still count.
#[derive(Default)]
pub(super) struct Gone(BTreeMap<Whose, Connections>);

impl Gone {
    /// They are kept while the next one has to wait.
    pub(super) fn keep(&mut self, whose: Whose, all: Connections, now: Timestamp) {
        if all.are_delayed(now) {
            self.0.insert(whose, all);
        }
    }

    /// Who is back goes on with his; others begin with none.
    pub(super) fn take(&mut self, whose: &Whose) -> Connections {
        self.0.remove(whose).unwrap_or_default()
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.0.retain(|_, all| all.are_delayed(now));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
