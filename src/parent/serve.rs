//! The parent's loop: signals, the engine's requests, ended children, and time.

mod engine;
mod forwards;
mod reap;
mod reload;
mod users;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::config::TableSource;
use crate::log::{self, Trace};
use crate::privsep::identity::Rights;
use crate::privsep::{Helper, MdaJob, MdaRefusal, Reply, Request};
use crate::sys::errno::strerror;
use crate::sys::mounts::Mounts;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::sys::process::{self, Pid};
use crate::sys::signal::{Signal, Signals};
use crate::util::{Line, Secret, sysexits};

use super::auth::{Asked, Checks};
use super::children::{Children, Delivery};
use super::chores::{Chore, Chores};
use super::held::Held;
use super::helpers::{self, Helpers, Programs};
use super::link::{Heard, Link};
use super::looks::Looks;
use super::offline::Offline;
use super::user_programs::UserPrograms;
use super::userbase::Userbases;
use super::{Options, Reread, mda, purge};
use crate::util::backoff::Backoff;

pub use reload::InUse;
use reload::Next;

/// All that the parent knows while it runs.
pub struct Parent {
    pub(super) options: Options,
    rights: Rights,
    pub(super) in_use: InUse,
    pub(super) reread: Reread,
    /// Handed to the engine, which has not said yet whether it can use it.
    pub(super) next: Option<Next>,
    pub(super) held: Held,
    signals: Signals,
    engine: Engine,
    /// Counts engines, so that answers to a dead one's requests go nowhere.
    engine_number: u64,
    ever_ready: bool,
    backoff: Backoff,
    children: Children,
    checks: Checks,
    looks: Looks,
    mounts: Mounts,
    helpers: Helpers,
    user_programs: UserPrograms,
    chores: Chores,
    offline: Offline,
    purge: Option<Pid>,
    next_purge: Instant,
    run: Run,
    stop: Stop,
}

/// What the engine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// To serve.
    Always,
    /// `-q`, first part: to take in what sendmail(8) has stored.
    Offline,
    /// `-q`, second part: to run the queue.
    Once,
}

/// The engine, or when there will be one.
enum Engine {
    Runs(Running),
    Starts(Instant),
}

struct Running {
    pid: Pid,
    /// None once it has been killed: its end is still to be waited for.
    link: Option<Link>,
    since: Instant,
    run: Run,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Not begun.
    No,
    /// The engine finishes and deliveries end, until then.
    Gently(Instant),
    /// All is killed; whatever is still there then is left behind.
    AtOnce(Instant),
    /// Something is so wrong that the daemon cannot run.
    Failed,
}

/// Programs of tables and filters that may run at a time; a new configuration starts its own
/// before those of the old one end.
const MOST_HELPERS: usize = 256;
/// How long a graceful stop may take.
const GENTLE_STOP: Duration = Duration::from_secs(30);
const HARD_STOP: Duration = Duration::from_secs(5);
const BETWEEN_PURGES: Duration = Duration::from_secs(10);
/// Requests served before signals and time are looked at again.
const REQUESTS_PER_TURN: usize = 64;

impl Parent {
    /// Holds everything and has started nothing.
    pub fn new(
        options: Options,
        rights: Rights,
        in_use: InUse,
        reread: Reread,
        held: Held,
        signals: Signals,
    ) -> Parent {
        let now = Instant::now();
        Parent {
            offline: Offline::new(&options.paths, now),
            run: if options.run_once {
                Run::Offline
            } else {
                Run::Always
            },
            options,
            rights,
            in_use,
            reread,
            next: None,
            held,
            signals,
            engine: Engine::Starts(now),
            engine_number: 0,
            ever_ready: false,
            backoff: Backoff::default(),
            children: Children::default(),
            checks: Checks::default(),
            looks: Looks::default(),
            mounts: Mounts::default(),
            helpers: Helpers::default(),
            user_programs: UserPrograms::default(),
            chores: Chores::new(now),
            purge: None,
            next_purge: now,
            stop: Stop::No,
        }
    }

    /// Serves until the end; says what to exit with.
    pub fn run(mut self) -> i32 {
        loop {
            self.keep_time(Instant::now());
            if let Some(code) = self.ended() {
                log::info(format_args!("Exiting"));
                return code;
            }
            if let Err(error) = self.wait() {
                log::fatal(format_args!("poll: {}", strerror(&error)));
                return 1;
            }
            self.hear_signals();
            self.hear_engine();
            self.hear_user_programs();
            self.reap(Instant::now());
        }
    }

    fn ended(&self) -> Option<i32> {
        let nobody = matches!(self.engine, Engine::Starts(_))
            && self.children.is_empty()
            && self.helpers.is_empty()
            && self.offline.pids().is_empty();
        match self.stop {
            Stop::Failed => Some(1),
            Stop::Gently(_) if nobody => Some(0),
            Stop::AtOnce(until) if nobody || Instant::now() >= until => Some(0),
            _ => None,
        }
    }

    /// Does what is due.
    fn keep_time(&mut self, now: Instant) {
        let mut overdue = self.children.overdue(now);
        overdue.extend(self.checks.overdue(now));
        overdue.extend(self.helpers.overdue(now));
        overdue.extend(self.overdue_looks(now));
        overdue.into_iter().for_each(process::kill);
        match self.stop {
            Stop::No => {
                self.offline.step(&self.options.paths, &self.rights, now);
                if self.run == Run::Offline && self.offline.is_done() {
                    self.run = Run::Once;
                    self.tell(&Reply::Shutdown);
                }
                if self.held.keys.step(&self.options, now) {
                    self.connect_keys();
                }
                if matches!(self.engine, Engine::Starts(when) if when <= now) {
                    self.start_engine(now);
                }
                if now >= self.next_purge {
                    self.start_purge(now);
                }
                self.read_again(now);
            }
            Stop::Gently(until) if until <= now => self.stop_at_once(now),
            _ => {}
        }
    }

    /// Waits for a signal, the engine, or the next thing that is due.
    fn wait(&mut self) -> io::Result<()> {
        let timeout = self.deadline().saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(self.signals.as_fd(), Interest::Read)];
        if let Engine::Runs(Running {
            link: Some(link), ..
        }) = &self.engine
        {
            let wanted = [
                (link.wants_read(), Interest::Read),
                (link.wants_write(), Interest::Write),
            ];
            for (_, interest) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
                fds.push(PollFd::new(link.as_fd(), interest));
            }
        }
        for (fd, writes) in self.user_programs.fds() {
            fds.push(PollFd::new(fd, Interest::Read));
            if writes {
                fds.push(PollFd::new(fd, Interest::Write));
            }
        }
        poll(&mut fds, Some(timeout)).map(drop)
    }

    fn deadline(&self) -> Instant {
        let of_stop = match self.stop {
            Stop::Gently(until) | Stop::AtOnce(until) => until,
            Stop::No | Stop::Failed => {
                let own = self.offline.deadline().min(self.next_purge);
                let own = own.min(self.chores.deadline());
                let own = self.held.keys.deadline().map_or(own, |keys| own.min(keys));
                match self.engine {
                    Engine::Starts(when) => own.min(when),
                    Engine::Runs(_) => own,
                }
            }
        };
        let checks = self.checks.deadline();
        let helpers = self.helpers.deadline();
        let users = self.user_programs.deadline();
        let looks = self.looks.deadline();
        [self.children.deadline(), checks, looks, helpers, users]
            .into_iter()
            .flatten()
            .fold(of_stop, Instant::min)
    }

    fn hear_signals(&mut self) {
        for signal in self.signals.take() {
            match signal {
                Signal::Terminate | Signal::Interrupt => match self.stop {
                    Stop::No => self.stop_gently(),
                    _ => self.stop_at_once(Instant::now()),
                },
                Signal::Hangup if self.stop == Stop::No => self.hangup(),
                Signal::Hangup => {}
                // reap() follows in any case.
                Signal::Child => {}
            }
        }
    }

    /// Sends what is kept and serves what was asked.
    fn hear_engine(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(link) = self.link() else { return };
            let heard = match link.flush() {
                Ok(()) if link.wants_read() => link.receive(),
                Ok(()) => Ok(Heard::Nothing),
                Err(error) => Err(error),
            };
            match heard {
                Ok(Heard::Nothing) => return,
                Ok(Heard::Request(request, fds)) => self.take(request, fds),
                // It is ending, or should be.
                Ok(Heard::Closed) => return self.kill_engine(None),
                Err(error) => return self.kill_engine(Some(&strerror(&error))),
            }
        }
    }

    /// A request waits for its user where a program has to be asked.
    fn take(&mut self, request: Request, fds: Vec<OwnedFd>) {
        match Userbases::needed(&self.in_use.config, &request) {
            Some((table, user)) if self.stop == Stop::No => {
                self.ask_for_user(request, fds, table, user);
            }
            _ => self.serve(request, fds),
        }
    }

    /// The whole list of what the engine may ask.
    fn serve(&mut self, request: Request, fds: Vec<OwnedFd>) {
        log::trace(Trace::Imsg, format_args!("imsg: engine: {request:?}"));
        match request {
            Request::StartMda { id, job } => self.start_mda(id, job, fds),
            Request::KillMda { id } => {
                let delivery = self.delivery(id);
                if let Some(pid) = self.children.unwanted(delivery, Instant::now()) {
                    process::kill(pid);
                } else if self.user_programs.take_back(self.engine_number, id) {
                    self.tell(&not_wanted(id));
                }
            }
            Request::OpenForward { id, action, user } => self.open_forward(id, &action, &user),
            Request::CheckPassword { id, user, password } => {
                self.check_password(id, &user, &password);
            }
            Request::StartHelper { id, helper } => self.start_helper(id, helper, fds),
            Request::KillHelper { id } => {
                if let Some(pid) = self.helpers.find(self.delivery(id)) {
                    process::kill(pid);
                }
            }
            Request::UpdateTable { table } => {
                // Deliveries asked for after it know of it, unless there is to be a rest.
                let now = Instant::now();
                match self.in_use.config.tables.get(table.as_str()) {
                    Some(TableSource::File(_)) => {
                        self.chores.update(&table);
                        self.read_again(now);
                    }
                    Some(TableSource::Program(_)) => self.user_programs.update(&table, now),
                    _ => {}
                }
            }
            Request::Reload { id, extent } => self.chores.reload(id, extent),
            Request::Reloaded(used) => self.reloaded(used),
            Request::Set { what, on } => self.set(what, on),
            Request::Ready => {
                self.ever_ready = true;
                if let Some(advice) = self.held.advice.take() {
                    // Standard error may be closed; then there is nobody to tell.
                    let _ = io::stderr().write_all(advice.as_bytes());
                }
            }
            Request::Finished if self.run == Run::Once => self.stop_gently(),
            Request::Finished => self.kill_engine(Some("finished a run that nobody asked for")),
        }
    }

    fn delivery(&self, id: u32) -> Delivery {
        Delivery {
            engine: self.engine_number,
            id,
        }
    }

    fn start_mda(&mut self, id: u32, job: MdaJob, fds: Vec<OwnedFd>) {
        let delivery = self.delivery(id);
        if self.children.find(delivery).is_some() {
            return self.kill_engine(Some("delivery asked for twice"));
        }
        let mut fds = fds.into_iter();
        let message = (fds.next(), fds.next());
        let user = job.user.clone();
        match self.try_mda(job, message) {
            Ok(pid) => self.children.started(pid, delivery, user, Instant::now()),
            Err(why) => self.tell(&Reply::MdaRefused { id, why }),
        }
    }

    /// Without its descriptors a request came when we had no room for them.
    fn try_mda(
        &self,
        job: MdaJob,
        message: (Option<OwnedFd>, Option<OwnedFd>),
    ) -> Result<Pid, MdaRefusal> {
        let refused = |code, text: &str| {
            Err(MdaRefusal::Exit {
                code,
                text: Line::sanitize(text.as_bytes()),
            })
        };
        if self.stop != Stop::No {
            return refused(sysexits::TEMPFAIL, "smtpd is stopping");
        }
        let share = self.in_use.config.mda.max_session_per_user;
        self.children.have_room(&job.user, share, Instant::now())?;
        let (Some(stdin), Some(output)) = message else {
            return refused(sysexits::OSERR, "smtpd: Too many open files");
        };
        let context = mda::DeliveryContext {
            config: &self.in_use.config,
            users: &self.in_use.users,
            paths: &self.options.paths,
            exe: &self.options.exe,
            rights: &self.rights,
            umask: self.held.umask,
        };
        mda::start(&context, job, stdin, output)
    }

    /// A helper whose descriptors were lost came when we had no room for them.
    fn start_helper(&mut self, id: u32, helper: Helper, fds: Vec<OwnedFd>) {
        let request = self.delivery(id);
        if self.helpers.find(request).is_some() {
            return self.kill_engine(Some("helper asked for twice"));
        }
        let refused = |text: &str| Err(text.to_owned());
        let started = match &fds[..] {
            _ if self.stop != Stop::No => refused("smtpd is stopping"),
            _ if self.helpers.pids().len() >= MOST_HELPERS => refused("too many programs"),
            [stream, errors] => helpers::start(
                &self.in_use.config,
                &self.rights,
                Programs {
                    libexec: &self.options.paths.libexec,
                    exe: &self.options.exe,
                },
                &helper,
                stream,
                errors,
            ),
            _ => refused("too many open files"),
        };
        let reply = match started {
            Ok(pid) => {
                self.helpers.started(pid, request);
                let pid = pid.number();
                Reply::HelperStarted { id, pid }
            }
            Err(text) => {
                let text = Line::sanitize(text.as_bytes());
                Reply::HelperRefused { id, text }
            }
        };
        self.tell(&reply);
    }

    fn read_again(&mut self, now: Instant) {
        match self.chores.take(now) {
            Some(Chore::Table(name)) => self.update_table(&name),
            Some(Chore::Reload(id, extent)) => self.reload(id, extent),
            Some(Chore::Certificates) => self.look_at_certificates(),
            None => return,
        }
        let end = Instant::now();
        self.chores.done(end.saturating_duration_since(now), end);
    }

    fn check_password(&mut self, id: u32, user: &Line, password: &Secret) {
        let asked = Asked {
            engine: self.engine_number,
            id,
        };
        let setting = (&self.options, &self.rights);
        let started = self
            .checks
            .start(setting, asked, (user, password), Instant::now());
        if let Some(verdict) = started {
            self.tell(&Reply::Password { id, verdict });
        }
    }

    pub(super) fn tell(&mut self, reply: &Reply) {
        self.hand_over(reply, Vec::new());
    }

    pub(super) fn hand_over(&mut self, reply: &Reply, fds: Vec<OwnedFd>) {
        let Some(link) = self.link() else { return };
        log::trace(Trace::Imsg, format_args!("imsg: parent: {reply:?}"));
        if let Err(error) = link.send(reply, fds) {
            self.kill_engine(Some(&strerror(&error)));
        }
    }

    fn start_purge(&mut self, now: Instant) {
        self.next_purge = now + BETWEEN_PURGES;
        if self.purge.is_some() {
            return;
        }
        match purge::start(&self.options) {
            Ok(pid) => self.purge = pid,
            Err(error) => log::warn(format_args!("cannot purge: {}", strerror(&error))),
        }
    }

    fn stop_gently(&mut self) {
        if self.stop == Stop::No {
            self.close_user_programs();
            // Whoever waits for one is told when it has ended.
            self.looks.pids().into_iter().for_each(process::kill);
            self.stop = Stop::Gently(Instant::now() + GENTLE_STOP);
            self.tell(&Reply::Shutdown);
        }
    }

    fn stop_at_once(&mut self, now: Instant) {
        if let Engine::Runs(running) = &self.engine {
            process::kill(running.pid);
        }
        let own = self.children.pids().into_iter().chain(self.checks.pids());
        let others = self.offline.pids().into_iter().chain(self.helpers.pids());
        for pid in own.chain(others) {
            process::kill(pid);
        }
        if !matches!(self.stop, Stop::AtOnce(_)) {
            self.stop = Stop::AtOnce(now + HARD_STOP);
        }
    }
}

fn not_wanted(id: u32) -> Reply {
    Reply::MdaRefused {
        id,
        why: MdaRefusal::Exit {
            code: sysexits::TEMPFAIL,
            text: Line::sanitize(b"the delivery is not wanted any more"),
        },
    }
}
