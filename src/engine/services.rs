//! What sessions and reports call: the rules, the queue and the runner behind one face.

use crate::expansion::{self, World};
use crate::log;
use crate::mail::{Destination, Facts, MailAddr, Peer, Refusal};
use crate::privsep::Client;
use crate::queue::{BeginError, Committed, Incoming, Queue};
use crate::runner;
use crate::session::{self, Refusals};
use crate::table::Snapshot;
use crate::table::include::Disk;
use crate::util::{Line, Live, Timestamp};

/// The world of a session in the engine.
pub struct Services {
    /// Rules, actions and tables.
    pub live: Live<Snapshot>,
    /// Where messages go.
    pub queue: Queue,
    /// Who carries them on.
    pub runner: runner::Handle,
    /// Who opens .forward files.
    pub parent: Client,
    /// The user that runs commands of aliases.
    pub daemon_user: String,
    /// Recipients that were refused, by client.
    pub refusals: Refusals,
}

impl Services {
    /// What expansion looks at, with the rules and tables of `now`.
    pub fn world<'w>(&'w self, now: &'w Snapshot) -> World<'w> {
        World {
            config: &now.config,
            tables: &now.tables,
            includes: &Disk,
            forwards: &self.parent,
            daemon_user: &self.daemon_user,
            now: Timestamp::now(),
            watch: expansion::trace::wanted(),
        }
    }
}

impl session::Services for Services {
    fn begin(&self) -> Result<Incoming, BeginError> {
        self.queue.begin()
    }

    fn expand(&self, facts: &Facts, rcpt: &MailAddr) -> Result<Vec<Destination>, Refusal> {
        expansion::expand(&self.world(&self.live.get()), facts, rcpt)
    }

    fn refused(&self, peer: &Peer, more: u32) -> u32 {
        self.refusals.add(peer, more, self.now())
    }

    fn announce(&self, message: Committed) -> Result<(), Committed> {
        self.runner.try_committed(message)
    }

    fn withdraw(&self, message: Committed) {
        for envelope in message.into_envelopes() {
            if let Err(error) = self.queue.remove(envelope.id) {
                log::warn(format_args!("withdraw {}: {error}", envelope.id));
            }
        }
    }

    fn committed(&self, message: Committed) {
        self.runner.committed(message);
    }

    /// smtpd.conf(5), hostnames: an address that is not in the table keeps the listener's name.
    fn name_of(&self, table: &str, address: &Peer) -> Option<Line> {
        self.live
            .get()
            .tables
            .addrname(table, address)
            .unwrap_or_else(|error| {
                log::warn(format_args!("hostnames: {error}"));
                None
            })
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
