//! Who carries an envelope to its destination.
//!
//! An [`Agent`] belongs to the runner's thread. It is offered envelopes one at a time, works on
//! them elsewhere, and sends each one's outcome back through the channel it was made with.

#![forbid(unsafe_code)]

pub mod lmtp;
pub mod local;
mod pool;
pub mod relay;

use std::sync::Arc;

use crossbeam_channel::{SendError, Sender};

use crate::config::{LocalAction, Method};
use crate::mail::{Envelope, EvpId, Outcome};
use crate::table::Snapshot;
use crate::util::alarm::Alarm;

/// The way to the runner.
#[derive(Clone)]
pub struct Reports {
    channel: Sender<Report>,
    alarm: Arc<Alarm>,
}

impl Reports {
    /// Through this channel, whose other end sleeps by `alarm`.
    pub fn new(channel: Sender<Report>, alarm: Arc<Alarm>) -> Reports {
        Reports { channel, alarm }
    }

    /// Tells the runner. An error means that it is gone.
    pub fn send(&self, report: Report) -> Result<(), SendError<Report>> {
        self.channel.send(report)?;
        self.alarm.call();
        Ok(())
    }
}

/// To whoever sleeps in the channel itself.
impl From<Sender<Report>> for Reports {
    fn from(channel: Sender<Report>) -> Reports {
        Reports::new(channel, Arc::default())
    }
}

/// What an agent tells the runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The outcome of an envelope that it had taken.
    Done(EvpId, Outcome),
    /// It cannot take this one yet after all: as [`Offer::Hold`].
    Held(EvpId, HoldKey),
    /// Held envelopes that it can take now.
    Release(Release),
    /// What kept these from being delivered has passed: they are tried now.
    Hurry(Vec<EvpId>),
}

/// Identifies whose envelopes wait together on a hold queue (a user, a relay).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldKey(pub u64);

/// What an agent says to an envelope it is offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// It will send an outcome, whatever happens.
    Taken,
    /// It has enough waiting under this key: park the envelope until [`Release`] names the key.
    Hold(HoldKey),
}

/// Held envelopes an agent can take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Whose.
    pub key: HoldKey,
    /// How many; `usize::MAX` for all of them.
    pub count: usize,
}

/// One way of settling envelopes. All calls are made by the runner's thread and none blocks.
pub trait Agent: Send {
    /// Offers an envelope that is due.
    fn offer(&mut self, envelope: Envelope) -> Offer;
    /// Everything that is due now has been offered: what was waiting for company may go.
    fn offered(&mut self) {}
    /// Whether time alone may let it begin something: then [`Agent::offered`] is called every
    /// second or so.
    fn is_waiting(&self) -> bool {
        false
    }
    /// An outcome of this agent has reached the runner; says which held envelopes may follow.
    fn finished(&mut self, id: EvpId) -> Vec<Release>;
    /// Nothing more will be offered: what has not begun may be given back as [`Report::Held`].
    fn stop(&mut self) {}
}

/// The local action of an envelope.
fn local_action<'s>(now: &'s Snapshot, envelope: &Envelope) -> Option<&'s LocalAction> {
    match &now.config.actions.get(envelope.action.as_str())?.method {
        Method::Local(action) => Some(action),
        Method::Relay(_) => None,
    }
}
