//! Requests for a .forward.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::log;
use crate::parent::auth::Asked;
use crate::parent::forward::{self, Opened};
use crate::privsep::{ForwardFound, Reply};
use crate::sys::process::Pid;
use crate::util::Line;

use super::reap::ended_of;
use super::reload::InUse;
use super::{Parent, Stop};

impl Parent {
    pub(super) fn open_forward(&mut self, id: u32, action: &str, user: &str) {
        let asked = Asked {
            engine: self.engine_number,
            id,
        };
        let opened = match self.stop {
            Stop::No => self.look_for_forward(asked, action, user),
            _ => Some(Opened::Unusable("smtpd is stopping".to_owned())),
        };
        if let Some(opened) = opened {
            self.answer_forward(asked, opened);
        }
    }

    /// `None` while a child looks.
    fn look_for_forward(&mut self, asked: Asked, action: &str, user: &str) -> Option<Opened> {
        let InUse { config, users, .. } = &self.in_use;
        let owner = match forward::owner(config, users, action, user) {
            Ok(owner) => owner,
            Err(text) => return Some(Opened::Unusable(text)),
        };
        if forward::is_near(&mut self.mounts, &self.rights, &owner) {
            return Some(forward::open_near(&self.rights, &owner));
        }
        let setting = (self.options.exe.as_path(), &self.rights);
        let started = self.looks.start(setting, &owner, asked, Instant::now());
        started.err().map(Opened::Unusable)
    }

    fn answer_forward(&mut self, asked: Asked, opened: Opened) {
        if asked.engine != self.engine_number {
            return;
        }
        let (found, fds) = match opened {
            Opened::Absent(home) => (ForwardFound::Absent { home }, Vec::new()),
            Opened::File(file) => (ForwardFound::Opened, vec![OwnedFd::from(file)]),
            Opened::Unusable(text) => {
                let text = Line::sanitize(text.as_bytes());
                (ForwardFound::Unusable { text }, Vec::new())
            }
        };
        self.hand_over(
            &Reply::Forward {
                id: asked.id,
                found,
            },
            fds,
        );
    }

    /// The children that have looked for too long; those who wait for them do so no more.
    pub(super) fn overdue_looks(&mut self, now: Instant) -> Vec<Pid> {
        let overdue = self.looks.overdue(now);
        for line in overdue.log {
            log::warn(format_args!("smtpd: {line}"));
        }
        for (asked, why) in overdue.give_up {
            self.answer_forward(asked, Opened::Unusable(why));
        }
        overdue.kill
    }

    pub(super) fn reap_looks(&mut self) {
        for (pid, how) in ended_of(self.looks.pids()) {
            for (asked, opened) in self.looks.ended(pid, how, &self.options.paths.spool) {
                self.answer_forward(asked, opened);
            }
        }
    }
}
