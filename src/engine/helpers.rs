//! How programs of tables and filters come to be: the parent starts them, and we hold the other
//! end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, Paths};
use crate::filter::Filters;
use crate::privsep::{Client, Helper, PendingHelper};
use crate::proc::{Child, Launcher};
use crate::queue::fs::layout;
use crate::session::Listening;
use crate::table::{Snapshot, Tables};
use crate::util::Line;

use super::listening;

/// How long the start waits for programs to be ready.
const READY: Duration = Duration::from_secs(10);

/// Starts the programs of tables.
pub fn start_tables(tables: &Tables, parent: &Client) -> io::Result<()> {
    let launcher = |table: &Line| -> Arc<dyn Launcher> {
        Arc::new(ByParent {
            client: parent.clone(),
            helper: Helper::Table(table.clone()),
        })
    };
    tables.start_programs(&launcher, Instant::now() + READY)
}

/// How programs of filters come to be.
pub struct Programs {
    /// Who starts them.
    pub parent: Client,
    /// Where the instance's files are.
    pub paths: Paths,
}

impl Programs {
    /// Starts those of a configuration, but for those that run already, and are the same.
    pub fn start(&self, now: &Arc<Snapshot>, before: Option<&Filters>) -> io::Result<Filters> {
        let launcher = |proc: &Line| -> Arc<dyn Launcher> {
            Arc::new(ByParent {
                client: self.parent.clone(),
                helper: Helper::Proc(proc.clone()),
            })
        };
        let dir = self.paths.spool.join(layout::TEMPORARY);
        Filters::start(now, before, &dir, &launcher, Instant::now() + READY)
    }

    /// What sessions over the control socket are told.
    pub fn socket_listening(&self, config: &Config, filters: &Filters) -> Listening {
        listening::socket_listening(config, &config.socket, &self.paths.socket, filters)
    }
}

/// Has one helper started by the parent.
struct ByParent {
    /// The wire.
    client: Client,
    helper: Helper,
}

impl Launcher for ByParent {
    fn launch(&self, stream: OwnedFd, errors: OwnedFd) -> io::Result<Box<dyn Child>> {
        let helper = self.helper.clone();
        Ok(Box::new(self.client.start_helper(helper, stream, errors)?))
    }
}

impl Child for PendingHelper {
    fn pid(&self) -> Option<u32> {
        self.pid()
    }

    fn kill(&self) {
        self.kill();
    }

    fn ended(&self, timeout: Duration) -> Option<String> {
        self.ended(timeout)
    }
}
