//! The engine's end of the wire: requests out from any thread, answers back to whoever asked.
//!
//! One thread, `privsep`, reads. When the parent is gone every waiting delivery is
//! [`MdaResult::Lost`], and whoever made the client is told: an engine without a parent must not
//! go on.

mod helper;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
// Not crossbeam's: those who wait for an answer would yield the processor again and again first.
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::util::{Line, Secret};

use super::channel::Channel;
use super::{
    Calls, Extent, Forward, Forwards, MdaJob, MdaResult, MdaTask, PasswordVerdict, Passwords,
    Request, Setting,
};

pub use helper::PendingHelper;
use wire::{Matter, Promise, Waiting, Wire, lock};

/// The engine's end; clones share it.
#[derive(Clone)]
pub struct Client(Arc<Wire>);

/// A configuration that the parent has read and found good.
pub struct Reloaded {
    /// For [`super::Handover::decode`].
    pub handover: Vec<u8>,
    /// A socket to the process with its private keys, if they are not those of before.
    pub keys: Option<OwnedFd>,
    /// Listening sockets, not blocking, with their position in `Config::listeners`.
    pub listeners: Vec<(u32, TcpListener)>,
}

/// What the parent says without having been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Finish what is being answered, record outcomes, and exit.
    Shutdown,
    /// Read the configuration anew.
    Hangup(Extent),
    /// The parent has gone, or speaks nonsense: exit at once.
    ParentGone,
}

/// A delivery that was asked for.
pub struct Pending {
    result: Receiver<MdaResult>,
    kill: Box<dyn Fn() + Send + Sync>,
}

impl Client {
    /// Starts reading from `channel`. `on_event` is called by the reading thread; after
    /// `ParentGone` it is not called again.
    pub fn start(
        channel: Channel,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> io::Result<Client> {
        Client::with_patience(SEND_WAIT, channel, on_event)
    }

    fn with_patience(
        patience: Duration,
        channel: Channel,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> io::Result<Client> {
        let wire = Arc::new(Wire {
            channel,
            sending: Mutex::new(()),
            patience,
            untold: Mutex::default(),
            keys: Mutex::new(None),
            listeners: Mutex::default(),
            waiting: Mutex::new(Waiting {
                last_id: 0,
                promises: HashMap::new(),
                open: true,
            }),
        });
        let reader = wire.clone();
        std::thread::Builder::new()
            .name("privsep".into())
            .spawn(move || reader.read_all(on_event))?;
        Ok(Client(wire))
    }

    /// A socket to the process that holds private keys, if there is one that was not taken yet.
    pub fn take_keys(&self) -> Option<OwnedFd> {
        lock(&self.0.keys).take()
    }

    /// The engine is up and serves.
    pub fn ready(&self) -> io::Result<()> {
        self.0.send(&Request::Ready, &[])
    }

    /// The queue has been run once; end the service.
    pub fn finished(&self) -> io::Result<()> {
        self.0.send(&Request::Finished, &[])
    }

    /// Lets the parent read a table again: it may find users in it, and hands it to the next engine.
    /// Where it is busy it does so later.
    pub fn update_table(&self, table: &str) -> io::Result<()> {
        let table =
            Line::new(table).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let matter = Matter::Table(table.clone());
        self.0.insist(matter, Request::UpdateTable { table })
    }

    /// Has the parent read and check the configuration or a part of it afresh, and waits for it;
    /// the inner error says, in lines, what is wrong with it. Whether it is used then has to be
    /// told with [`Client::reloaded`].
    pub fn reload(&self, extent: Extent) -> io::Result<Result<Reloaded, String>> {
        let (promise, answer) = sync_channel(1);
        let id = self.0.register(Promise::Reload(promise), Some("Reload"))?;
        self.0
            .ask(id, &Request::Reload { id, extent }, &answer, RELOAD_WAIT)
    }

    /// Whether the new configuration is in use.
    pub fn reloaded(&self, used: bool) -> io::Result<()> {
        self.0.send(&Request::Reloaded(used), &[])
    }

    /// Lets the parent follow what smtpctl(8) has switched. Waits for nobody, so that the event
    /// loop can call it: while somebody else sends, it is left to them.
    pub fn set(&self, what: Setting, on: bool) -> io::Result<()> {
        lock(&self.0.untold).insert(Matter::Setting(what), Request::Set { what, on });
        self.0.tell_rest()
    }
}

impl Calls for Client {
    fn start_mda(&self, job: MdaJob, stdin: OwnedFd, output: OwnedFd) -> io::Result<Pending> {
        let (promise, result) = sync_channel(1);
        // A child that is kept for other messages ends when there are none.
        let counted = (job.task != MdaTask::Batch).then_some("StartMda");
        let id = self.0.register(Promise::Mda(promise), counted)?;
        let request = Request::StartMda { id, job };
        if let Err(error) = self.0.send(&request, &[stdin, output]) {
            drop(self.0.take(id));
            return Err(error);
        }
        let killer = self.clone();
        // A parent that cannot be reached is gone, which the reader tells.
        let kill = move || drop(killer.0.insist(Matter::Kill(id), Request::KillMda { id }));
        Ok(Pending::new(result, Box::new(kill)))
    }
}

impl Forwards for Client {
    fn open_forward(&self, action: &Line, user: &Line) -> io::Result<Forward> {
        let (promise, answer) = sync_channel(1);
        let id = self
            .0
            .register(Promise::Forward(promise), Some("OpenForward"))?;
        let request = Request::OpenForward {
            id,
            action: action.clone(),
            user: user.clone(),
        };
        self.0.ask(id, &request, &answer, FORWARD_WAIT)
    }
}

impl Passwords for Client {
    fn check_password(&self, user: &Line, password: &Secret) -> io::Result<PasswordVerdict> {
        let (promise, answer) = sync_channel(1);
        let id = self
            .0
            .register(Promise::Password(promise), Some("CheckPassword"))?;
        let request = Request::CheckPassword {
            id,
            user: user.clone(),
            password: password.clone(),
        };
        self.0.ask(id, &request, &answer, PASSWORD_WAIT)
    }
}

/// How long the parent may take to read a configuration; while it does it serves nobody else.
const RELOAD_WAIT: Duration = Duration::from_secs(120);

/// How long the parent may take to read what is said to it, where it is busy.
const SEND_WAIT: Duration = Duration::from_secs(10);
/// How long a session may wait for the parent: a file is opened in no time, but not on a file
/// system that does not answer, for which the parent has a child wait a little less.
const FORWARD_WAIT: Duration = Duration::from_secs(10);
/// How long a password may take to be checked: longer than the parent gives its child.
const PASSWORD_WAIT: Duration = Duration::from_secs(40);

impl Pending {
    /// A delivery whose end comes through `result`, and which `kill` ends.
    pub fn new(result: Receiver<MdaResult>, kill: Box<dyn Fn() + Send + Sync>) -> Pending {
        Pending { result, kill }
    }

    /// Waits for the end of the delivery, `timeout` at most; `None` while it goes on. Once it
    /// has been told, every later call says `Lost`.
    pub fn try_wait(&self, timeout: Duration) -> Option<MdaResult> {
        match self.result.recv_timeout(timeout) {
            Ok(result) => Some(result),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(MdaResult::Lost),
        }
    }

    /// Asks for the delivery to be killed. Its end still has to be waited for.
    pub fn kill(&self) {
        (self.kill)();
    }
}

#[cfg(test)]
mod tests;
