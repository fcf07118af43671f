//! A thread that carries out sessions, one at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::deliver::lmtp::Lmtp;
use crate::deliver::pool::Pool;
use crate::deliver::{Report, Reports};
use crate::log;
use crate::mail::{Envelope, Kind};
use crate::privsep::{Calls, MdaJob, MdaTask, Single};
use crate::queue::Queue;
use crate::table::Snapshot;
use crate::util::{Live, Timestamp};

use super::batch::{self, Child, Heard, Key, State};
use super::content::{Content, NoContent};
use super::dispatcher::{Mode, Session};
use super::exit::Settled;
use super::feed::{self, Delivery};

/// What all workers share.
#[derive(Clone)]
pub struct Worker {
    /// Where messages are.
    pub queue: Queue,
    /// Who starts processes.
    pub calls: Arc<dyn Calls>,
    /// Where outcomes go.
    pub reports: Reports,
    /// Actions.
    pub live: Live<Snapshot>,
    /// Children between messages.
    pub children: Arc<Pool<Key, Child>>,
    /// Connections of `lmtp` actions.
    pub lmtp: Arc<Lmtp>,
    /// How long a single delivery may take.
    pub timeout: Duration,
}

/// How often idle children are looked at.
const SWEEP: Duration = Duration::from_secs(1);

impl Worker {
    /// Works until the other end of `sessions` is dropped.
    pub fn run(self, sessions: Receiver<Session>) {
        loop {
            match sessions.recv_timeout(SWEEP) {
                Ok(session) => self.carry_out(session),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            drop(self.children.expired());
            self.lmtp.sweep();
        }
    }

    fn carry_out(&self, session: Session) {
        let gid = session.gid;
        match session.mode {
            Mode::Shared => self.share(gid, session.envelopes.into()),
            Mode::Lmtp => {
                let report =
                    &mut |envelope: &Envelope, settled| self.report(gid, envelope, settled);
                self.lmtp
                    .deliver(&self.live.get(), session.envelopes, report);
            }
            Mode::Alone => {
                for envelope in session.envelopes {
                    let settled = self.single(&envelope);
                    self.report(gid, &envelope, settled);
                }
            }
        }
    }

    fn single(&self, envelope: &Envelope) -> Settled {
        let Some(job) = job(envelope) else {
            return Settled::not_started("not a local envelope");
        };
        let mut content = match Content::open(&self.queue, envelope) {
            Ok(content) => content,
            Err(NoContent::Loop) => return Settled::looped(),
            Err(NoContent::Io(_)) => return batch::no_message(),
        };
        match self.start(job) {
            Ok(delivery) => feed::run(delivery, &mut content, self.timeout),
            Err(_) => no_process(),
        }
    }

    fn start(&self, job: MdaJob) -> io::Result<Delivery> {
        let (child_input, input) = io::pipe()?;
        let (output, child_output) = io::pipe()?;
        let pending = self
            .calls
            .start_mda(job, child_input.into(), child_output.into())?;
        Ok(Delivery {
            pending,
            input: input.into(),
            output: output.into(),
        })
    }

    fn share(&self, gid: u64, mut envelopes: VecDeque<Envelope>) {
        let version = self.live.get().version;
        while let Some(key) = envelopes
            .front()
            .and_then(|envelope| key(version, envelope))
        {
            let (child, used) = match self.idle_child(&key) {
                Some(child) => (Ok(child), true),
                None => (Child::start(self.calls.as_ref(), &key), false),
            };
            let Ok(mut child) = child else {
                break;
            };
            let tried = used.then(|| envelopes.clone());
            let mut round = child.round(&self.queue, envelopes);
            if let Some(again) = tried.filter(|_| died_idle(&round)) {
                // It went while it was idle and has seen nothing: ask a fresh one.
                envelopes = again;
                continue;
            }
            if round.child == State::Alive && child.is_fresh() {
                drop(self.children.put(key, child));
            }
            for (envelope, settled) in round.settled.drain(..) {
                self.report(gid, &envelope, settled);
            }
            envelopes = round.left;
        }
        for envelope in envelopes {
            self.report(gid, &envelope, no_process());
        }
    }

    fn idle_child(&self, key: &Key) -> Option<Child> {
        let child = self.children.take(key)?;
        (child.is_fresh() && child.is_alive()).then_some(child)
    }

    fn report(&self, gid: u64, envelope: &Envelope, settled: Settled) {
        let now = Timestamp::now();
        log::maillog::mda_delivery(gid, envelope, now, settled.result, &settled.stat);
        // A runner that is gone has no use for it; the envelope is still on disk.
        let _ = self
            .reports
            .send(Report::Done(envelope.id, settled.outcome));
    }
}

/// Whether a child that had worked before went without a single answer.
fn died_idle(round: &batch::Round) -> bool {
    round.child == State::Gone && round.heard == Heard::Nothing
}

fn no_process() -> Settled {
    Settled::not_started("Cannot get mda fd")
}

fn key(version: u64, envelope: &Envelope) -> Option<Key> {
    match &envelope.kind {
        Kind::Local(local) => Some(Key {
            version,
            action: envelope.action.clone(),
            user: local.user.clone(),
        }),
        Kind::Relay | Kind::Bounce(_) => None,
    }
}

fn job(envelope: &Envelope) -> Option<MdaJob> {
    let Kind::Local(local) = &envelope.kind else {
        return None;
    };
    // A damaged envelope without a recipient is for nobody.
    if envelope.rcpt.is_null() {
        return None;
    }
    Some(MdaJob {
        action: envelope.action.clone(),
        user: local.user.clone(),
        task: MdaTask::Single(Box::new(Single {
            subaddress: local.subaddress.clone(),
            command: local.command.clone(),
            sender: envelope.sender.clone(),
            rcpt: envelope.rcpt.clone(),
            dest: envelope.dest.clone(),
        })),
    })
}
