//! What sessions and reports call: the rules, the queue and the runner behind one face.

use std::sync::Arc;

use crate::config::Config;
use crate::expansion::{self, World};
use crate::log;
use crate::mail::{Destination, Facts, MailAddr, Peer, Refusal};
use crate::privsep::Client;
use crate::queue::{BeginError, Committed, Incoming, Queue};
use crate::runner;
use crate::session;
use crate::table::Tables;
use crate::table::include::Disk;
use crate::util::{Line, Timestamp};

/// The world of a session in the engine.
pub struct Services {
    /// Rules and actions.
    pub config: Arc<Config>,
    /// Tables.
    pub tables: Arc<Tables>,
    /// Where messages go.
    pub queue: Queue,
    /// Who carries them on.
    pub runner: runner::Handle,
    /// Who opens .forward files.
    pub parent: Client,
    /// The user that runs commands of aliases.
    pub daemon_user: String,
}

impl Services {
    /// What expansion looks at.
    pub fn world(&self) -> World<'_> {
        World {
            config: &self.config,
            tables: &self.tables,
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
        expansion::expand(&self.world(), facts, rcpt)
    }

    fn announce(&self, message: Committed) -> Result<(), Committed> {
        self.runner.try_committed(message)
    }

    fn committed(&self, message: Committed) {
        self.runner.committed(message);
    }

    /// smtpd.conf(5), hostnames: an address that is not in the table keeps the listener's name.
    fn name_of(&self, table: &str, address: &Peer) -> Option<Line> {
        self.tables
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
