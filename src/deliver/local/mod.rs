//! Local delivery: mail.local, maildirs and commands, run by the parent as the recipient.
//!
//! [`Agent`] belongs to the runner's thread and never blocks it; a bounded pool of threads
//! carries out the sessions that [`dispatcher`] hands out. A message goes to a process of its own
//! ([`feed`]), or, for plain maildir actions, to a process that takes many ([`batch`]). Either
//! way one envelope gets one outcome and one log line, and nothing is called delivered that was
//! not.

pub mod batch;
pub mod content;
pub mod dispatcher;
pub mod exit;
pub mod feed;
pub mod worker;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::{Delivery, LocalAction};
use crate::log;
use crate::mail::{Envelope, EvpId, Kind};
use crate::privsep::Calls;
use crate::privsep::batch::FIELD_MAX;
use crate::queue::Queue;
use crate::sys;
use crate::sys::errno::strerror;
use crate::table::Snapshot;
use crate::util::Live;

use self::dispatcher::{Dispatcher, Mode, Session, group_key};
use self::worker::Worker;
use super::lmtp::{self, Lmtp, Names};
use super::{Offer, Release, Reports, local_action};

/// How the pool is made; [`Options::default`] is what the daemon uses.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most threads, and with them sessions at a time, whatever `mda limit max-session` says.
    pub threads: usize,
    /// Longest single delivery. The parent has a limit of 300 seconds of its own.
    pub timeout: Duration,
    /// Who finds the hosts of `lmtp` actions.
    pub names: Names,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: 128,
            timeout: Duration::from_secs(305),
            names: Names::default(),
        }
    }
}

/// The agent for local envelopes.
pub struct Agent {
    live: Live<Snapshot>,
    dispatcher: Dispatcher,
    sessions: Sender<Session>,
    worker: Worker,
    work: Receiver<Session>,
    /// How many there are; there come to be as many as sessions have run at a time.
    threads: usize,
}

impl Agent {
    /// An agent with its pool, which ends when the agent is dropped and running deliveries have
    /// ended.
    pub fn new(
        live: Live<Snapshot>,
        queue: Queue,
        calls: Arc<dyn Calls>,
        reports: Reports,
    ) -> io::Result<Agent> {
        Agent::with_options(live, queue, calls, reports, &Options::default())
    }

    /// Starts an agent with other options than the usual ones.
    pub fn with_options(
        live: Live<Snapshot>,
        queue: Queue,
        calls: Arc<dyn Calls>,
        reports: Reports,
        options: &Options,
    ) -> io::Result<Agent> {
        let mut limits = live.get().config.mda;
        let most = pool_size(limits.max_session, options);
        limits.max_session = most;
        limits.max_session_per_user = limits.max_session_per_user.max(1);
        // Never more sessions than threads: the channel takes them all without waiting.
        let (sessions, work) = bounded(most);
        let names = options.names.clone();
        let lmtp = Lmtp::new(queue.clone(), calls.clone(), names);
        let worker = Worker {
            queue,
            calls,
            reports,
            lmtp: Arc::new(lmtp),
            children: Arc::default(),
            live: live.clone(),
            timeout: options.timeout,
        };
        spawn(&worker, &work, 1)?;
        Ok(Agent {
            dispatcher: Dispatcher::new(limits, sys::random::number_u64()),
            live,
            sessions,
            worker,
            work,
            threads: 1,
        })
    }

    fn start_sessions(&mut self) {
        let now = Instant::now();
        while let Some(session) = self.dispatcher.start(now) {
            if self.threads < self.dispatcher.running() {
                // Without one more it waits for those that there are.
                match spawn(&self.worker, &self.work, self.threads + 1) {
                    Ok(()) => self.threads += 1,
                    Err(error) => {
                        log::warn(format_args!("local delivery: thread: {}", strerror(&error)));
                    }
                }
            }
            // The threads outlive this sender.
            let _ = self.sessions.send(session);
        }
    }
}

impl super::Agent for Agent {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        let now = self.live.get();
        let action = local_action(&now, &envelope);
        if let Some(way) = lmtp::connection_key(action, &envelope) {
            // Others of its message may follow, and share its transaction: see `offered`.
            let key = (way.user, Some(format!("lmtp {}", way.action)));
            return self.dispatcher.offer(envelope, key, Mode::Lmtp);
        }
        let mode = mode(action, &envelope);
        let userbase = action.and_then(|action| action.userbase.clone());
        let key = group_key(&envelope, userbase);
        let offer = self.dispatcher.offer(envelope, key, mode);
        self.start_sessions();
        offer
    }

    fn offered(&mut self) {
        self.start_sessions();
    }

    fn is_waiting(&self) -> bool {
        self.dispatcher.is_waiting()
    }

    fn finished(&mut self, id: EvpId) -> Vec<Release> {
        self.dispatcher.finished(id);
        self.start_sessions();
        self.dispatcher.releases()
    }
}

/// A thread for each delivery that may run, within reason.
fn pool_size(max_session: usize, options: &Options) -> usize {
    max_session.clamp(1, options.threads.max(1))
}

fn spawn(worker: &Worker, work: &Receiver<Session>, number: usize) -> io::Result<()> {
    let (worker, work) = (worker.clone(), work.clone());
    thread::Builder::new()
        .name(format!("local delivery {number}"))
        .spawn(move || worker.run(work))
        .map(drop)
}

/// Only our own maildir method takes many messages in one process, and only without anything
/// that asks for a command.
fn mode(action: Option<&LocalAction>, envelope: &Envelope) -> Mode {
    let plain = matches!(
        action,
        Some(LocalAction {
            delivery: Delivery::Maildir { .. },
            wrapper: None,
            ..
        })
    );
    match &envelope.kind {
        Kind::Local(local) if plain && local.command.is_none() && fits(envelope) => Mode::Shared,
        _ => Mode::Alone,
    }
}

/// Whether an envelope goes into a frame. What came by SMTP does; a damaged one gets its failure
/// alone and does not spoil a batch.
fn fits(envelope: &Envelope) -> bool {
    let subaddress = match &envelope.kind {
        Kind::Local(local) => local.subaddress.as_deref().unwrap_or_default(),
        Kind::Relay | Kind::Bounce(_) => "",
    };
    let addrs = [&envelope.sender, &envelope.rcpt, &envelope.dest];
    let texts = addrs.map(|addr| addr.user().len().max(addr.domain().len()));
    !envelope.rcpt.is_null()
        && texts.iter().all(|len| *len <= FIELD_MAX)
        && subaddress.len() <= FIELD_MAX
}
