//! The engine's end of the wire: requests out from any thread, answers back to whoever asked.
//!
//! One thread, `privsep`, reads. When the parent is gone every waiting delivery is
//! [`MdaResult::Lost`], and whoever made the client is told: an engine without a parent must not
//! go on.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::log::profile::{self, Profile, Timed};
use crate::log::{self, Trace};
use crate::sys::fdpass::Wait;
use crate::util::{Line, Secret, Zeroize};

use super::channel::{Channel, Packet};
use super::handover;
use super::{
    Calls, Extent, Forward, ForwardFound, Forwards, Helper, MdaEnd, MdaJob, MdaResult, MdaTask,
    PasswordVerdict, Passwords, Reply, Request,
};

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
        let wire = Arc::new(Wire {
            channel,
            sending: Mutex::new(()),
            verbose: Mutex::new(None),
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

    /// Lets the parent read a table again in which it finds users.
    pub fn update_table(&self, table: &str) -> io::Result<()> {
        let table =
            Line::new(table).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.0.send(&Request::UpdateTable { table }, &[])
    }

    /// Has the parent read and check the configuration or a part of it afresh, and waits for it; the inner error
    /// says, in lines, what is wrong with it. Whether it is used then has to be told with
    /// [`Client::reloaded`].
    pub fn reload(&self, extent: Extent) -> io::Result<Result<Reloaded, String>> {
        let (promise, answer) = bounded(1);
        let id = self.0.register(Promise::Reload(promise), Some("Reload"))?;
        self.0
            .ask(id, &Request::Reload { id, extent }, &answer, RELOAD_WAIT)
    }

    /// Whether the new configuration is in use.
    pub fn reloaded(&self, used: bool) -> io::Result<()> {
        self.0.send(&Request::Reloaded(used), &[])
    }

    /// Lets the parent follow `smtpctl log verbose|brief`. Waits for nobody, so that the event
    /// loop can call it: while somebody else sends, it is left to them.
    pub fn set_verbose(&self, verbose: bool) -> io::Result<()> {
        *lock(&self.0.verbose) = Some(verbose);
        self.0.tell_verbose()
    }
}

/// A helper that was asked for.
pub struct PendingHelper {
    id: u32,
    client: Client,
    news: Receiver<HelperNews>,
    told: Mutex<Told>,
}

enum HelperNews {
    Started(u32),
    Refused(Line),
    Ended(MdaEnd),
}

impl Client {
    /// Asks for a helper, with its standard input and output and its standard error.
    pub fn start_helper(
        &self,
        helper: Helper,
        stream: OwnedFd,
        errors: OwnedFd,
    ) -> io::Result<PendingHelper> {
        // Room for all that is ever said of it.
        let (promise, news) = bounded(2);
        let id = self.0.register(Promise::Helper(promise), None)?;
        let request = Request::StartHelper { id, helper };
        if let Err(error) = self.0.send(&request, &[stream, errors]) {
            drop(self.0.take(id));
            return Err(error);
        }
        Ok(PendingHelper {
            id,
            client: self.clone(),
            news,
            told: Mutex::default(),
        })
    }
}

impl PendingHelper {
    /// Its process, once the parent has told.
    pub fn pid(&self) -> Option<u32> {
        let mut told = lock(&self.told);
        while let Ok(news) = self.news.try_recv() {
            told.take(news);
        }
        told.pid
    }

    /// Asks for it to be killed. Its end still has to be waited for.
    pub fn kill(&self) {
        // A parent that cannot be reached is gone, which the reader tells.
        let _ = self
            .client
            .0
            .send(&Request::KillHelper { id: self.id }, &[]);
    }

    /// How it ended; waits for each piece of news no longer than `timeout`.
    pub fn ended(&self, timeout: Duration) -> Option<String> {
        let mut told = lock(&self.told);
        while told.end.is_none() {
            match self.news.recv_timeout(timeout) {
                Ok(news) => told.take(news),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some("not known".to_owned()),
            }
        }
        told.end.clone()
    }
}

/// What the parent has told of a helper.
#[derive(Default)]
struct Told {
    pid: Option<u32>,
    end: Option<String>,
}

impl Told {
    fn take(&mut self, news: HelperNews) {
        match news {
            HelperNews::Started(pid) => self.pid = Some(pid),
            HelperNews::Refused(text) => self.end = Some(format!("not started: {text}")),
            HelperNews::Ended(MdaEnd::Exited(code)) => {
                self.end = Some(format!("exited with status {code}"));
            }
            HelperNews::Ended(MdaEnd::Signaled(signal)) => {
                self.end = Some(format!("terminated; signal {signal}"));
            }
            HelperNews::Ended(MdaEnd::TimedOut) => self.end = Some("timed out".to_owned()),
        }
    }
}

impl Calls for Client {
    fn start_mda(&self, job: MdaJob, stdin: OwnedFd, output: OwnedFd) -> io::Result<Pending> {
        let (promise, result) = bounded(1);
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
        let kill = move || drop(killer.0.send(&Request::KillMda { id }, &[]));
        Ok(Pending::new(result, Box::new(kill)))
    }
}

impl Forwards for Client {
    fn open_forward(&self, action: &Line, user: &Line) -> io::Result<Forward> {
        let (promise, answer) = bounded(1);
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
        let (promise, answer) = bounded(1);
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

/// How long a session may wait for the parent: a file is opened in no time, but not on a file
/// system that does not answer.
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

struct Wire {
    channel: Channel,
    /// Held while a frame is sent: where the system takes it in parts, no other may come between.
    sending: Mutex<()>,
    /// What the parent is still to be told of `smtpctl log`.
    verbose: Mutex<Option<bool>>,
    /// A socket to the process that holds private keys, until it is taken.
    keys: Mutex<Option<OwnedFd>>,
    /// Those of a configuration that is still to come.
    listeners: Mutex<Vec<(u32, TcpListener)>>,
    waiting: Mutex<Waiting>,
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

struct Waiting {
    last_id: u32,
    promises: HashMap<u32, (Promise, Option<Timed>)>,
    open: bool,
}

/// Who waits for what.
enum Promise {
    Mda(Sender<MdaResult>),
    Forward(Sender<Forward>),
    Password(Sender<PasswordVerdict>),
    Helper(Sender<HelperNews>),
    Reload(Sender<Result<Reloaded, String>>),
}

impl Wire {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives `promise` an id that no other one has now. The time until it is answered counts for
    /// `request`.
    fn register(&self, promise: Promise, request: Option<&'static str>) -> io::Result<u32> {
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
    fn take(&self, id: u32) -> Option<Promise> {
        let (promise, timed) = self.waiting().promises.remove(&id)?;
        drop(timed);
        Some(promise)
    }

    /// Sends a request without descriptors and waits for its answer.
    fn ask<T>(
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

    fn send(&self, request: &Request, fds: &[OwnedFd]) -> io::Result<()> {
        let turn = lock(&self.sending);
        let sent = self.put(request, fds, Wait::Yes);
        drop(turn);
        sent.and_then(|()| self.tell_verbose())
    }

    /// Sends what is to be told, unless somebody is sending now: they look here when they are done.
    fn tell_verbose(&self) -> io::Result<()> {
        while lock(&self.verbose).is_some() {
            let Ok(turn) = self.sending.try_lock() else {
                return Ok(());
            };
            let Some(verbose) = lock(&self.verbose).take() else {
                return Ok(());
            };
            match self.put(&Request::SetVerbose(verbose), &[], Wait::No) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The wire is full: for whoever sends next, unless it has been said anew.
                    lock(&self.verbose).get_or_insert(verbose);
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

    fn read_all(&self, mut on_event: impl FnMut(Event)) {
        while let Ok(Some(packet)) = self.channel.receive(Wait::Yes) {
            match self.hear(packet) {
                Some(Reply::Shutdown) => on_event(Event::Shutdown),
                Some(Reply::Hangup(extent)) => on_event(Event::Hangup(extent)),
                Some(_) => {}
                // Nothing else is said once the engine has been started.
                None => break,
            }
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
                    (ForwardFound::Absent, None) => Forward::Absent,
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
                None if packet.lost_fds => {
                    log::warn(format_args!("warn: keys: too many open files"))
                }
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
        let mut waiting = self.waiting();
        match waiting.promises.get(&id) {
            Some((Promise::Helper(promise), _)) => {
                let last = !matches!(news, HelperNews::Started(_));
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;
    use crate::privsep::MdaEnd;
    use crate::privsep::MdaRefusal;
    use crate::privsep::frame::tests::Chance;
    use crate::util::Line;

    const LONG: Duration = Duration::from_secs(20);

    fn started() -> (Channel, Client, Receiver<Event>) {
        let (parent, engine) = Channel::pair().unwrap();
        let (sender, events) = bounded(8);
        let client = Client::start(engine, move |event| sender.send(event).unwrap()).unwrap();
        (parent, client, events)
    }

    fn start(client: &Client) -> Pending {
        let (stdin, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let job = Chance::new(6).job();
        client.start_mda(job, stdin.into(), output.into()).unwrap()
    }

    fn next(parent: &Channel) -> (Request, Vec<OwnedFd>) {
        let packet = parent.receive(Wait::Yes).unwrap().unwrap();
        let request = Request::decode(&packet.frame).unwrap();
        assert_eq!(packet.fds.len(), request.descriptors());
        (request, packet.fds)
    }

    fn next_id(parent: &Channel) -> u32 {
        match next(parent).0 {
            Request::StartMda { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn say(parent: &Channel, reply: &Reply) {
        parent
            .send(&reply.encode().unwrap(), &[], Wait::Yes)
            .unwrap();
    }

    #[test]
    fn numbers_of_requests_start_over_past_those_that_are_in_use() {
        // OpenSMTPD 5.7.2 ended when its numbers of connections did.
        let (parent, client, _events) = started();
        let from = |last: u32| client.0.waiting().last_id = last;
        from(u32::MAX - 1);
        let old = [start(&client), start(&client), start(&client)];
        let ids: Vec<u32> = old.iter().map(|_| next_id(&parent)).collect();
        assert_eq!(ids, [u32::MAX, 0, 1]);
        from(u32::MAX - 1);
        let new = start(&client);
        assert_eq!(next_id(&parent), 2);
        let end = MdaEnd::Exited(9);
        say(&parent, &Reply::MdaDone { id: 2, end });
        assert_eq!(new.try_wait(LONG), Some(MdaResult::Done(end)));
        for (pending, id) in old.into_iter().zip(ids) {
            let end = MdaEnd::Exited(id as i32 & 3);
            say(&parent, &Reply::MdaDone { id, end });
            assert_eq!(pending.try_wait(LONG), Some(MdaResult::Done(end)));
        }
    }

    #[test]
    fn answers_reach_the_one_who_asked_in_any_order() {
        let (parent, client, _events) = started();
        let (first, second) = (start(&client), start(&client));
        let (a, b) = (next_id(&parent), next_id(&parent));
        assert_ne!(a, b);
        say(
            &parent,
            &Reply::MdaDone {
                id: b,
                end: MdaEnd::TimedOut,
            },
        );
        let why = MdaRefusal::NoUser;
        say(
            &parent,
            &Reply::MdaRefused {
                id: a,
                why: why.clone(),
            },
        );
        say(
            &parent,
            &Reply::MdaDone {
                id: 99,
                end: MdaEnd::Exited(0),
            },
        );
        assert_eq!(first.try_wait(LONG), Some(MdaResult::Refused(why)));
        assert_eq!(
            second.try_wait(LONG),
            Some(MdaResult::Done(MdaEnd::TimedOut))
        );
    }

    #[test]
    fn descriptors_arrive_in_their_order() {
        let (parent, client, _events) = started();
        let (mut stdin, mut output) =
            (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        stdin.write_all(b"message").unwrap();
        output.write_all(b"output").unwrap();
        let job = Chance::new(7).job();
        let _pending = client
            .start_mda(job.clone(), stdin.into(), output.into())
            .unwrap();
        let (request, fds) = next(&parent);
        assert!(matches!(request, Request::StartMda { job: sent, .. } if sent == job));
        let texts: Vec<String> = fds
            .into_iter()
            .map(|fd| {
                let (mut file, mut text) = (std::fs::File::from(fd), String::new());
                file.rewind().unwrap();
                file.read_to_string(&mut text).unwrap();
                text
            })
            .collect();
        assert_eq!(texts, ["message", "output"]);
    }

    #[test]
    fn kill_names_the_delivery() {
        let (parent, client, _events) = started();
        let pending = start(&client);
        let id = next_id(&parent);
        assert_eq!(pending.try_wait(Duration::ZERO), None);
        pending.kill();
        assert_eq!(next(&parent).0, Request::KillMda { id });
    }

    #[test]
    fn verbosity_is_told_by_whoever_is_sending() {
        // smtpctl(8), log verbose: it works however busy the wire is.
        let (parent, client, _events) = started();
        client.set_verbose(true).unwrap();
        assert_eq!(next(&parent).0, Request::SetVerbose(true));
        let busy = client.0.sending.lock().unwrap();
        client.set_verbose(true).unwrap();
        client.set_verbose(false).unwrap();
        drop(busy);
        client.ready().unwrap();
        assert_eq!(next(&parent).0, Request::Ready);
        assert_eq!(next(&parent).0, Request::SetVerbose(false));
    }

    #[test]
    fn without_a_parent_everything_is_lost_and_the_engine_is_told() {
        let (parent, client, events) = started();
        let pending = start(&client);
        say(&parent, &Reply::Shutdown);
        assert_eq!(events.recv_timeout(LONG), Ok(Event::Shutdown));
        drop(parent);
        assert_eq!(pending.try_wait(LONG), Some(MdaResult::Lost));
        assert_eq!(events.recv_timeout(LONG), Ok(Event::ParentGone));
        let (stdin, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let job = Chance::new(8).job();
        let again = client.start_mda(job, stdin.into(), output.into());
        assert!(again.is_err());
    }

    #[test]
    fn a_forward_comes_as_a_descriptor_or_not_at_all() {
        let (parent, client, events) = started();
        let line = |text: &str| Line::new(text).unwrap();
        let asked = |client: Client| {
            let (action, user) = (line("local"), line("bob"));
            std::thread::spawn(move || client.open_forward(&action, &user))
        };
        let answer = |found: ForwardFound, file: Option<std::fs::File>| {
            let waiting = asked(client.clone());
            let (Request::OpenForward { id, action, user }, _) = next(&parent) else {
                panic!("something else was asked for");
            };
            assert_eq!((&*action, &*user), ("local", "bob"));
            let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            let frame = Reply::Forward { id, found }.encode().unwrap();
            parent.send(&frame, &fds, Wait::Yes).unwrap();
            waiting.join().unwrap()
        };
        assert!(matches!(
            answer(ForwardFound::Absent, None),
            Ok(Forward::Absent)
        ));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"alice\n").unwrap();
        file.rewind().unwrap();
        let Ok(Forward::File(opened)) = answer(ForwardFound::Opened, Some(file)) else {
            panic!("no file");
        };
        let mut text = String::new();
        std::fs::File::from(opened)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "alice\n");
        let found = ForwardFound::Unusable { text: line("no") };
        assert!(matches!(answer(found, None), Ok(Forward::Unusable(text)) if text == line("no")));
        // A file where none should be, or none where one should be, is not what we started.
        assert!(answer(ForwardFound::Opened, None).is_err());
        assert_eq!(events.recv_timeout(LONG), Ok(Event::ParentGone));
        assert!(client.open_forward(&line("local"), &line("bob")).is_err());
    }

    #[test]
    fn a_parent_that_speaks_nonsense_is_gone() {
        let (parent, _client, events) = started();
        parent.send(b"nonsense", &[], Wait::Yes).unwrap();
        assert_eq!(events.recv_timeout(LONG), Ok(Event::ParentGone));
    }
}
