//! A new configuration while the daemon runs: SIGHUP, or `smtpctl reload`.
//!
//! The parent reads and checks the files afresh and hands them over as it did at the start. Here
//! they are made into what the rooms use. If all goes well the parent is told, and only then, in
//! the same order on the wire as everything that is asked of it later, the new configuration takes
//! the place of the old one. If anything is wrong the old one stays, everywhere.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::accept::Mailbox;
use crate::config::Paths;
use crate::log;
use crate::privsep::{Client, Extent, Handover, Reloaded};
use crate::tls::keys::Keys;

use super::configuration::{Configuration, Prepared};
use super::helpers;
use super::start::{readable, roots};

/// Replaces the configuration of an engine. One thread at a time uses it.
pub struct Reloader {
    pub configuration: Configuration,
    /// Who reads the files.
    pub client: Client,
    /// Where the instance's files are.
    pub paths: Paths,
    /// The directories that the engine can read, if it is shut in.
    pub reach: Option<BTreeSet<PathBuf>>,
    /// The private keys of the present configuration.
    pub keys: KeyRing,
    /// Where connections come in.
    pub mailbox: Mailbox,
}

impl Reloader {
    /// Does it; says, in lines, why the old configuration stays.
    pub fn reload(&self, extent: Extent) -> Result<(), String> {
        let result = self.try_reload(extent);
        match &result {
            Ok(()) => log::info(format_args!("info: configuration reloaded")),
            Err(why) => {
                for line in why.lines() {
                    log::warn(format_args!("reload: {line}"));
                }
                log::warn(format_args!("reload: the old configuration stays"));
            }
        }
        result
    }

    fn try_reload(&self, extent: Extent) -> Result<(), String> {
        let asked = self.client.reload(extent);
        let mut reloaded = asked.map_err(|error| format!("parent: {error}"))??;
        let sockets = std::mem::take(&mut reloaded.listeners);
        let has_new_keys = reloaded.keys.is_some();
        let result = self.prepare(extent, reloaded);
        if result.is_ok() && has_new_keys {
            // A socket that nobody has taken leads to the process that goes.
            drop(self.client.take_keys());
        }
        self.client
            .reloaded(result.is_ok())
            .map_err(|error| format!("parent: {error}"))?;
        let (prepared, keys) = result?;
        let before = self.configuration.snapshot.get();
        let same =
            |table: &str| prepared.config().tables.get(table) == before.config.tables.get(table);
        prepared.tables().take_programs(&before.tables, &same);
        self.keys.replace(keys);
        // Those that are new.
        if let Err(error) = helpers::start_tables(prepared.tables(), &self.client) {
            log::warn(format_args!("tables: {error}"));
        }
        self.mailbox
            .listen(self.configuration.replace(prepared, sockets));
        Ok(())
    }

    fn prepare(
        &self,
        extent: Extent,
        reloaded: Reloaded,
    ) -> Result<(Prepared, (u64, Keys)), String> {
        let handover = Handover::decode(&reloaded.handover);
        let handover = handover.map_err(|error| format!("hand-over: {error}"))?;
        let loaded = handover.load().map_err(|found| {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
        // A certificate is renewed wherever a table's link may lead by now.
        if extent == Extent::All {
            self.check_reach(&readable(&self.paths, &handover.sources, &loaded.config))?;
        }
        let keys = match reloaded.keys {
            Some(socket) => self.keys.next(&self.client, socket),
            None => self.keys.current(),
        };
        let version = self.configuration.snapshot.get().version + 1;
        let roots = roots(&loaded.config);
        let prepared = Prepared::new(version, loaded.config, &handover.sources, &roots, &keys.1)?;
        Ok((prepared, keys))
    }

    /// A sandbox cannot be widened.
    fn check_reach(&self, wanted: &[PathBuf]) -> Result<(), String> {
        let Some(reach) = &self.reach else {
            return Ok(());
        };
        let out_of_reach = wanted
            .iter()
            .find(|dir| !dir.ancestors().any(|above| reach.contains(above)));
        match out_of_reach {
            None => Ok(()),
            Some(dir) => Err(format!(
                "{}: the engine was not given this directory at its start: restart smtpd for that",
                dir.display()
            )),
        }
    }
}

/// The way to the process that holds the private keys. A configuration with other keys has a
/// process and a way of its own.
pub struct KeyRing {
    now: Mutex<(u64, Keys)>,
    /// The number of the present process: only the way to that one takes a new socket when its
    /// process had to be started again.
    present: Arc<AtomicU64>,
}

impl KeyRing {
    /// The way to the first process.
    pub fn new(client: &Client) -> KeyRing {
        let present = Arc::new(AtomicU64::new(0));
        let keys = way(0, &present, client, None);
        KeyRing {
            now: Mutex::new((0, keys)),
            present,
        }
    }

    /// The way of the present configuration, with its number.
    pub fn current(&self) -> (u64, Keys) {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    /// A way to the next process, over this socket.
    fn next(&self, client: &Client, socket: OwnedFd) -> (u64, Keys) {
        let number = self.current().0 + 1;
        (number, way(number, &self.present, client, Some(socket)))
    }

    fn replace(&self, (number, keys): (u64, Keys)) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (number, keys);
        self.present.store(number, Ordering::Release);
    }
}

fn way(number: u64, present: &Arc<AtomicU64>, client: &Client, socket: Option<OwnedFd>) -> Keys {
    let (present, client, first) = (present.clone(), client.clone(), Mutex::new(socket));
    Keys::new(move || {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.or_else(|| {
            if present.load(Ordering::Acquire) == number {
                client.take_keys()
            } else {
                None
            }
        })
    })
}
