//! The numbers of relays and routes.

use std::fmt;

use crate::deliver::HoldKey;

/// A relay, for as long as there is one. Its number is the key of what is held for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u64);

/// A route, as `smtpctl show routes` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u64);

impl RelayId {
    /// What envelopes for this relay are held under.
    pub fn hold_key(self) -> HoldKey {
        HoldKey(self.0)
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
