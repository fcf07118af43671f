//! The configuration in use, and one that may take its place: SIGHUP, `smtpctl reload`.
//!
//! The files are read and checked as at the start. A configuration that is good is handed to the
//! engine, with a way to its private keys; once the engine has it in use it is used here too. What
//! is wrong, or takes a restart, is said, and nothing changes.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::config::{Config, needs_restart};
use crate::log;
use crate::privsep::{Handover, Reply};
use crate::sys::errno::strerror;
use crate::util::cut;

use super::keys::Keeper;
use super::serve::Parent;
use super::start::scratch_file;
use super::userbase::Userbases;

/// A configuration, for us and for every engine.
pub struct InUse {
    /// As an engine gets it.
    pub handover: Vec<u8>,
    /// What it says.
    pub config: Config,
    /// Who its users are.
    pub users: Userbases,
}

impl InUse {
    /// Reads the tables in which users are found.
    pub fn new(handover: &Handover, config: Config) -> Result<InUse, String> {
        let users = Userbases::load(&config, &handover.sources)?;
        let handover = handover
            .encode()
            .map_err(|error| format!("configuration: {error}"))?;
        Ok(InUse {
            handover,
            config,
            users,
        })
    }
}

/// What will be in use once the engine says that it is.
pub struct Next {
    in_use: InUse,
    /// Its private keys, if they differ.
    keys: Option<Keeper>,
}

impl Parent {
    /// SIGHUP. An engine asks for what it will have to take over; without one there is nothing
    /// that could go wrong behind our back.
    pub(super) fn hangup(&mut self) {
        if self.link().is_some() {
            return self.tell(&Reply::Hangup);
        }
        match self.read_anew() {
            Ok(next) => {
                self.use_next(next);
                log::info(format_args!("info: configuration reloaded"));
            }
            Err(why) => {
                for line in why.lines() {
                    log::warn(format_args!("reload: {line}"));
                }
                log::warn(format_args!("reload: the old configuration stays"));
            }
        }
    }

    /// The engine asks for a new configuration.
    pub(super) fn reload(&mut self, id: u32) {
        self.reloaded(false);
        let fds = self.read_anew().and_then(|next| {
            let fds = self.for_engine(&next);
            self.next = Some(next);
            fds.map_err(|error| strerror(&error))
        });
        match fds {
            Ok(fds) => {
                let keys = fds.len() > 1;
                self.hand_over(&Reply::NewConfig { id, keys }, fds);
            }
            Err(text) => self.tell(&Reply::BadConfig {
                id,
                text: cut(&text, TEXT_MAX).to_owned(),
            }),
        }
    }

    /// What the engine made of it.
    pub(super) fn reloaded(&mut self, used: bool) {
        match self.next.take() {
            Some(next) if used => self.use_next(next),
            Some(next) => self.discard(next),
            None => {}
        }
    }

    /// Nobody will say any more whether it is to be used.
    pub(super) fn discard(&mut self, next: Next) {
        if let Some(keys) = next.keys {
            self.held.keys.retire(keys, Instant::now());
        }
    }

    fn use_next(&mut self, next: Next) {
        self.in_use = next.in_use;
        if let Some(keys) = next.keys {
            self.held.keys.replace(keys, Instant::now());
        }
    }

    fn read_anew(&mut self) -> Result<Next, String> {
        let (handover, config) = (self.reread)().map_err(|lines| lines.join("\n"))?;
        let restart = needs_restart(&self.in_use.config, &config);
        if !restart.is_empty() {
            return Err(restart.join("\n"));
        }
        let keys = Keeper::load(&config)?;
        let in_use = InUse::new(&handover, config)?;
        let keys = match self.held.keys.has_those_of(&keys) {
            true => None,
            false => Some(keys.started(&self.options)?),
        };
        Ok(Next { in_use, keys })
    }

    fn for_engine(&mut self, next: &Next) -> io::Result<Vec<OwnedFd>> {
        let file = scratch_file(&self.options.paths.spool, &next.in_use.handover)?;
        let mut fds = vec![OwnedFd::from(file)];
        fds.extend(match &next.keys {
            Some(keys) => keys.socket()?,
            None => None,
        });
        Ok(fds)
    }
}

/// Most bytes of what is said about a configuration: some dozen lines.
const TEXT_MAX: usize = 8 * 1024;
