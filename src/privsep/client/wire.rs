//! The socket to the parent: requests out in turn, answers handed to whoever waits for them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::log::profile::{self, Profile, Timed};
use crate::log::{self, Trace};
use crate::privsep::channel::{Channel, Packet};
use crate::privsep::{
    Forward, ForwardFound, MdaEnd, MdaResult, PasswordVerdict, Reply, Request, Setting, handover,
};
use crate::sys::fdpass::Wait;
use crate::util::{Line, Zeroize};

use super::{Event, Reloaded};

pub(super) struct Wire {
    pub(super) channel: Channel,
    /// Held while a frame is sent: where the system takes it in parts, no other may come between.
    pub(super) sending: Mutex<()>,
    /// How long a parent that reads nothing may keep whoever has something to say.
    pub(super) patience: Duration,
    /// What the parent is still to be told: it must not be lost because the parent is busy.
    pub(super) untold: Mutex<BTreeMap<Matter, Request>>,
    /// A socket to the process that holds private keys, until it is taken.
    pub(super) keys: Mutex<Option<OwnedFd>>,
    /// Those of a configuration that is still to come.
    pub(super) listeners: Mutex<Vec<(u32, TcpListener)>>,
    pub(super) waiting: Mutex<Waiting>,
}

/// What a request is about that the parent hears late rather than never; of two about the same
/// matter one is enough.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    /// What smtpctl(8) has switched.
    Setting(Setting),
    /// The delivery or helper with this id, which goes on until it is killed.
    Kill(u32),
    /// A table that was read again.
    Table(Line),
}

/// `trace imsg` and `trace mproc`: what is asked and answered, but none of what goes with it.
fn traced(who: &str, message: &dyn std::fmt::Debug, of_a_delivery: bool) {
    if log::tracing(Trace::Imsg) || log::tracing(Trace::Mproc) {
        let text = format!("{message:?}");
        let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next();
        let name = name.unwrap_or_default();
        log::trace(Trace::Imsg, format_args!("imsg: {who}: {name}"));
        if of_a_delivery {
            log::trace(Trace::Mproc, format_args!("mproc: {who}: {name}"));
        }
    }
}

pub(super) struct Waiting {
    pub(super) last_id: u32,
    pub(super) promises: HashMap<u32, (Promise, Option<Timed>)>,
    pub(super) open: bool,
}

/// What the parent says of a helper.
pub(super) enum HelperNews {
    Started(u32),
    Refused(Line),
    Ended(MdaEnd),
}

/// Who waits for what.
pub(super) enum Promise {
    Mda(SyncSender<MdaResult>),
    Forward(SyncSender<Forward>),
    Password(SyncSender<PasswordVerdict>),
    Helper(SyncSender<HelperNews>),
    Reload(SyncSender<Result<Reloaded, String>>),
}

impl Wire {
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives `promise` an id that no other one has now. The time until it is answered counts for
    /// `request`.
    pub(super) fn register(
        &self,
        promise: Promise,
        request: Option<&'static str>,
    ) -> io::Result<u32> {
        let mut waiting = self.waiting();
        if !waiting.open {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        let mut id = waiting.last_id.wrapping_add(1);
        while waiting.promises.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        waiting.last_id = id;
        let timed = request.map(|name| profile::time(Profile::Imsg, name));
        waiting.promises.insert(id, (promise, timed));
        Ok(id)
    }

    /// Whoever asked with this id: it is over for them.
    pub(super) fn take(&self, id: u32) -> Option<Promise> {
        let (promise, timed) = self.waiting().promises.remove(&id)?;
        drop(timed);
        Some(promise)
    }

    /// Sends a request without descriptors and waits for its answer.
    pub(super) fn ask<T>(
        &self,
        id: u32,
        request: &Request,
        answer: &Receiver<T>,
        patience: Duration,
    ) -> io::Result<T> {
        let sent = self.send(request, &[]);
        let answer = sent.and_then(|()| {
            answer.recv_timeout(patience).map_err(|error| match error {
                RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
                RecvTimeoutError::Disconnected => io::ErrorKind::BrokenPipe.into(),
            })
        });
        if answer.is_err() {
            drop(self.take(id));
        }
        answer
    }

    pub(super) fn send(&self, request: &Request, fds: &[OwnedFd]) -> io::Result<()> {
        // Whoever waits for the turn does not begin to wait then.
        let deadline = Instant::now() + self.patience;
        let turn = lock(&self.sending);
        let sent = self.put(request, fds, Wait::Until(deadline));
        drop(turn);
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Others may have left theirs to us.
                self.tell_rest()?;
                Err(io::ErrorKind::TimedOut.into())
            }
            sent => sent.and_then(|()| self.tell_rest()),
        }
    }

    /// Sends a request that must not be lost: what a busy parent does not take now it gets later.
    pub(super) fn insist(&self, matter: Matter, request: Request) -> io::Result<()> {
        match self.send(&request, &[]) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                lock(&self.untold).insert(matter, request);
                self.tell_rest()
            }
            sent => sent,
        }
    }

    /// Sends what is to be told, unless somebody is sending now: they look here when they are done.
    pub(super) fn tell_rest(&self) -> io::Result<()> {
        while !lock(&self.untold).is_empty() {
            let Ok(turn) = self.sending.try_lock() else {
                return Ok(());
            };
            let Some((matter, request)) = lock(&self.untold).pop_first() else {
                return Ok(());
            };
            match self.put(&request, &[], Wait::No) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The wire is full: for whoever sends or hears next, unless it has been said
                    // anew.
                    lock(&self.untold).entry(matter).or_insert(request);
                    return Ok(());
                }
                sent => sent?,
            }
            drop(turn);
        }
        Ok(())
    }

    fn put(&self, request: &Request, fds: &[OwnedFd], wait: Wait) -> io::Result<()> {
        let of_a_delivery = matches!(request, Request::StartMda { .. } | Request::KillMda { .. });
        traced("engine", request, of_a_delivery);
        let mut frame = request
            .encode()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = self.channel.send(&frame, &fds, wait);
        if let Request::CheckPassword { .. } = request {
            frame.zeroize();
        }
        sent
    }

    pub(super) fn read_all(&self, mut on_event: impl FnMut(Event)) {
        while let Ok(Some(packet)) = self.channel.receive(Wait::Yes) {
            match self.hear(packet) {
                Some(Reply::Shutdown) => on_event(Event::Shutdown),
                Some(Reply::Hangup(extent)) => on_event(Event::Hangup(extent)),
                Some(_) => {}
                // Nothing else is said once the engine has been started.
                None => break,
            }
            // A parent that answers also reads. One that is gone is noticed above.
            let _ = self.tell_rest();
        }
        let mut waiting = self.waiting();
        waiting.open = false;
        waiting.promises.clear();
        drop(waiting);
        on_event(Event::ParentGone);
    }

    /// Hands an answer to the one who asked; `None` when it makes no sense.
    fn hear(&self, packet: Packet) -> Option<Reply> {
        let reply = Reply::decode(&packet.frame).ok()?;
        let of_a_delivery = matches!(reply, Reply::MdaRefused { .. } | Reply::MdaDone { .. });
        traced("parent", &reply, of_a_delivery);
        let mut fds = packet.fds.into_iter();
        match &reply {
            Reply::MdaRefused { id, why } => {
                self.settle(*id, MdaResult::Refused(why.clone()))?;
            }
            Reply::MdaDone { id, end } => self.settle(*id, MdaResult::Done(*end))?,
            Reply::Forward { id, found } => {
                let forward = match (found, fds.next()) {
                    (ForwardFound::Absent { home }, None) => Forward::Absent(*home),
                    (ForwardFound::Opened, Some(file)) => Forward::File(file),
                    // It came when we had no room for it.
                    (ForwardFound::Opened, None) if packet.lost_fds => {
                        Forward::Unusable(Line::sanitize(b"too many open files"))
                    }
                    (ForwardFound::Unusable { text }, None) => Forward::Unusable(text.clone()),
                    _ => return None,
                };
                self.hand_over(*id, forward)?;
            }
            Reply::HelperStarted { id, pid } => self.tell(*id, HelperNews::Started(*pid))?,
            Reply::HelperRefused { id, text } => {
                self.tell(*id, HelperNews::Refused(text.clone()))?;
            }
            Reply::HelperEnded { id, end } => self.tell(*id, HelperNews::Ended(*end))?,
            Reply::Keys => match fds.next() {
                Some(socket) => *lock(&self.keys) = Some(socket),
                // It came when we had no room for it; the parent sends no other.
                None if packet.lost_fds => log::warn(format_args!("keys: too many open files")),
                None => return None,
            },
            Reply::Password { id, verdict } => match self.take(*id) {
                Some(Promise::Password(promise)) => drop(promise.send(verdict.clone())),
                Some(_) => return None,
                None => {}
            },
            // One that came when we had no room for it is missed below.
            Reply::Listener { index } => {
                if let Some(fd) = fds.next() {
                    lock(&self.listeners).push((*index, TcpListener::from(fd)));
                }
            }
            Reply::NewConfig {
                id,
                keys,
                listeners: count,
            } => {
                let listeners = std::mem::take(&mut *lock(&self.listeners));
                let reloaded = match (fds.next(), fds.next()) {
                    _ if packet.lost_fds || listeners.len() != *count as usize => {
                        Err("too many open files".to_owned())
                    }
                    (Some(file), socket) if socket.is_some() == *keys => {
                        let handover = handover::read(&File::from(file));
                        let handover = handover.map_err(|error| format!("hand-over: {error}"));
                        handover.map(|handover| Reloaded {
                            handover,
                            keys: socket,
                            listeners,
                        })
                    }
                    _ => return None,
                };
                self.reloaded(*id, reloaded)?;
            }
            Reply::BadConfig { id, text } => self.reloaded(*id, Err(text.clone()))?,
            Reply::Shutdown | Reply::Hangup(_) => {}
            _ => return None,
        }
        fds.next().is_none().then_some(reply)
    }

    fn settle(&self, id: u32, result: MdaResult) -> Option<()> {
        lock(&self.untold).remove(&Matter::Kill(id));
        match self.take(id) {
            // Whoever asked may have stopped waiting.
            Some(Promise::Mda(promise)) => drop(promise.send(result)),
            Some(_) => return None,
            None => {}
        }
        Some(())
    }

    /// News of a helper, which stays known until it has ended.
    fn tell(&self, id: u32, news: HelperNews) -> Option<()> {
        let last = !matches!(news, HelperNews::Started(_));
        if last {
            lock(&self.untold).remove(&Matter::Kill(id));
        }
        let mut waiting = self.waiting();
        match waiting.promises.get(&id) {
            Some((Promise::Helper(promise), _)) => {
                // Whoever asked may have stopped waiting.
                let _ = promise.try_send(news);
                if last {
                    waiting.promises.remove(&id);
                }
            }
            Some(_) => return None,
            None => {}
        }
        Some(())
    }

    fn reloaded(&self, id: u32, reloaded: Result<Reloaded, String>) -> Option<()> {
        match self.take(id) {
            Some(Promise::Reload(promise)) => drop(promise.send(reloaded)),
            Some(_) => return None,
            None => {}
        }
        Some(())
    }

    fn hand_over(&self, id: u32, forward: Forward) -> Option<()> {
        match self.take(id) {
            Some(Promise::Forward(promise)) => drop(promise.send(forward)),
            Some(_) => return None,
            None => {}
        }
        Some(())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
