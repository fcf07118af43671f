//! What the configuration says about queued envelopes, as far as the runner needs to know.

use std::sync::Arc;

use crate::mail::{Envelope, Kind};
use crate::scheduler::Class;

/// How an action of smtpd.conf(5) settles envelopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionFacts {
    /// What an action does with an envelope.
    pub kind: ActionKind,
    /// The action's `ttl`, in seconds.
    pub ttl_s: Option<u32>,
}

/// What an action does with an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// Delivers it on this host.
    Local,
    /// Hands it to another host.
    Relay,
}

/// The action of this name; `None` if the configuration has no such action.
pub type ActionLookup = Arc<dyn Fn(&str) -> Option<ActionFacts> + Send + Sync>;

/// What the configuration says about queued envelopes. Clones share the lookup.
#[derive(Clone)]
pub struct Policy {
    /// `queue ttl`, in seconds.
    pub queue_ttl_s: u32,
    /// `bounce warn-interval`, in seconds.
    pub bounce_warn_s: Vec<u32>,
    pub action: ActionLookup,
}

/// Why an envelope cannot be handed to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Its action is not in the configuration.
    UnknownAction,
    /// Its action settles another kind of envelope now.
    OtherKind,
    /// Nobody relays in this daemon.
    NoRelay,
}

impl Policy {
    /// Who settles the envelope: decided by its action, not by what the spool says.
    pub fn class(&self, envelope: &Envelope) -> Class {
        match (&envelope.kind, (self.action)(&envelope.action)) {
            (Kind::Bounce(_), _) => Class::Bounce,
            (_, Some(facts)) if facts.kind == ActionKind::Local => Class::Mda,
            (_, Some(_)) => Class::Mta,
            (Kind::Local(_), None) => Class::Mda,
            (Kind::Relay, None) => Class::Mta,
        }
    }

    /// The envelope's life time in seconds: its own, else its action's, else the queue's. Reports
    /// live as long as the queue says.
    pub fn ttl_s(&self, envelope: &Envelope) -> u32 {
        if matches!(envelope.kind, Kind::Bounce(_)) {
            return self.queue_ttl_s;
        }
        if envelope.ttl_s > 0 {
            return envelope.ttl_s;
        }
        (self.action)(&envelope.action)
            .and_then(|facts| facts.ttl_s)
            .unwrap_or(self.queue_ttl_s)
    }

    /// Whether the envelope's action can settle it.
    pub fn misfit(&self, envelope: &Envelope) -> Option<Misfit> {
        let facts = (self.action)(&envelope.action);
        match (&envelope.kind, facts.map(|facts| facts.kind)) {
            (Kind::Bounce(_), _) => None,
            (_, None) => Some(Misfit::UnknownAction),
            (Kind::Local(_), Some(ActionKind::Local)) | (Kind::Relay, Some(ActionKind::Relay)) => {
                None
            }
            _ => Some(Misfit::OtherKind),
        }
    }
}

impl Misfit {
    /// What the administrator reads about an envelope with this action.
    pub fn text(self, action: &str) -> String {
        match self {
            Misfit::UnknownAction => format!("no action \"{action}\" in the configuration"),
            Misfit::OtherKind => {
                format!("action \"{action}\" no longer settles this kind of envelope")
            }
            Misfit::NoRelay => format!("no relaying for action \"{action}\""),
        }
    }
}
