//! Requests whose user a program has to be asked for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crate::parent::children::Delivery;
use crate::parent::helpers::{self, Programs};
use crate::parent::user_programs::Parked;
use crate::privsep::{Helper, Request};
use crate::sys::errno::strerror;
use crate::util::Line;

use super::{MOST_HELPERS, Parent};

/// In the place of an engine's number: the parent's own programs.
const OURS: u64 = 0;

impl Parent {
    pub(super) fn ask_for_user(
        &mut self,
        request: Request,
        fds: Vec<OwnedFd>,
        table: String,
        user: String,
    ) {
        let (config, rights) = (&self.in_use.config, &self.rights);
        let programs = Programs {
            libexec: &self.options.paths.libexec,
            exe: &self.options.exe,
        };
        let running = &mut self.helpers;
        let mut start = |table: &str, stream: &OwnedFd| {
            if running.pids().len() >= MOST_HELPERS {
                return Err("too many programs".to_owned());
            }
            let helper = Helper::Table(Line::sanitize(table.as_bytes()));
            let errors = io::stderr()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| strerror(&error))?;
            let pid = helpers::start(config, rights, programs, &helper, stream, &errors)?;
            let request = Delivery {
                engine: OURS,
                id: pid.number(),
            };
            running.started(pid, request);
            Ok(request.id)
        };
        let parked = Parked {
            request,
            fds,
            engine: self.engine_number,
            table,
            user,
        };
        self.user_programs.ask(parked, Instant::now(), &mut start);
        self.serve_answered();
    }

    pub(super) fn hear_user_programs(&mut self) {
        self.user_programs.talk(Instant::now());
        self.serve_answered();
    }

    /// Nobody is asked any more.
    pub(in crate::parent) fn close_user_programs(&mut self) {
        self.user_programs.close();
        self.serve_answered();
    }

    /// Serves the requests whose users are known, but those of an engine that is gone.
    fn serve_answered(&mut self) {
        let left = self.user_programs.left();
        let ours = |request: Delivery| request.engine == OURS && left.contains(&request.id);
        self.helpers.give_up(ours, Instant::now());
        for (parked, told) in self.user_programs.answered() {
            if parked.engine != self.engine_number {
                continue;
            }
            let (table, user) = (&parked.table, &parked.user);
            self.in_use.users.tell(table, user, Some(told));
            self.serve(parked.request, parked.fds);
            self.in_use.users.tell(table, user, None);
        }
    }
}
