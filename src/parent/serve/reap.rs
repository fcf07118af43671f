//! Children that have ended.

use std::time::Instant;

use crate::parent::auth::Asked;
use crate::privsep::Reply;
use crate::sys::process::{self, Ended, Pid};
use crate::util::sysexits;

use super::{Engine, Parent, Running};

/// Orphans that are waited for before requests are looked at again.
const ORPHANS_PER_TURN: usize = 64;

impl Parent {
    /// Waits for every child of ours that has ended. Nobody else's are touched.
    pub(super) fn reap(&mut self, now: Instant) {
        if let Engine::Runs(Running { pid, .. }) = &self.engine
            && let Some(how) = ended(*pid)
        {
            self.engine_ended(how, now);
        }
        for (pid, how) in ended_of(self.children.pids()) {
            if let Some((asked, end)) = self.children.ended(pid, how) {
                self.tell_who_asked(asked.engine, &Reply::MdaDone { id: asked.id, end });
            }
        }
        for (pid, how) in ended_of(self.checks.pids()) {
            if let Some((Asked { engine, id }, verdict)) = self.checks.ended(pid, how) {
                self.tell_who_asked(engine, &Reply::Password { id, verdict });
            }
        }
        self.reap_looks();
        for (pid, how) in ended_of(self.helpers.pids()) {
            if let Some((asked, end)) = self.helpers.ended(pid, how) {
                self.tell_who_asked(asked.engine, &Reply::HelperEnded { id: asked.id, end });
            }
        }
        for (pid, how) in ended_of(self.offline.pids()) {
            self.offline.ended(pid, how, now);
        }
        for (_, how) in ended_of(self.held.keys.pid()) {
            self.held.keys.ended(how, now);
        }
        let has_ended = |pid| ended(pid).is_some();
        self.held.keys.reap_retired(now, has_ended);
        self.purge.take_if(|pid| has_ended(*pid));
        // Whoever has no parent any more is given to process 1 of a container.
        if std::process::id() == 1 {
            self.reap_orphans();
        }
    }

    /// Waits for those who have ended and are not ours, or they would stay for ever. One of ours that
    /// has just ended hides those behind it until it is waited for where it belongs.
    fn reap_orphans(&self) {
        for _ in 0..ORPHANS_PER_TURN {
            match process::any_ended() {
                Some(pid) if !self.is_ours(pid) => {
                    ended(pid);
                }
                _ => return,
            }
        }
    }

    fn is_ours(&self, pid: Pid) -> bool {
        let engine = match &self.engine {
            Engine::Runs(running) => Some(running.pid),
            Engine::Starts(_) => None,
        };
        let next = self.next.as_ref().and_then(|next| next.keys.as_ref());
        let mut keys = next.into_iter().chain([&self.held.keys]);
        let lists = [
            self.children.pids(),
            self.checks.pids(),
            self.looks.pids(),
            self.helpers.pids(),
            self.offline.pids(),
        ];
        [engine, self.purge].contains(&Some(pid))
            || keys.any(|keys| keys.is_ours(pid))
            || lists.iter().any(|pids| pids.contains(&pid))
    }

    /// Answers the engine that asked; where another one runs by now, nobody.
    fn tell_who_asked(&mut self, engine: u64, reply: &Reply) {
        if engine == self.engine_number {
            self.tell(reply);
        }
    }
}

/// Which of `pids` have ended, and how.
pub(super) fn ended_of(pids: impl IntoIterator<Item = Pid>) -> Vec<(Pid, Ended)> {
    let pids = pids.into_iter();
    pids.filter_map(|pid| Some((pid, ended(pid)?))).collect()
}

/// How `pid` ended, if it has. One that cannot be waited for is gone.
fn ended(pid: Pid) -> Option<Ended> {
    process::try_wait(pid).unwrap_or(Some(Ended::Exited(sysexits::OSERR)))
}
