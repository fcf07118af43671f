//! The thread of one program: it starts it, carries what is said to it and by it, and starts it again.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::log;
use crate::sys::errno::strerror;
use crate::sys::poll::{Interest, PollFd, poll};
use crate::util::backoff::Backoff;

use super::lines::{Errors, Lines, READS};
use super::{Child, Heard, Launcher, Phase, Proc, START_TIME, Talk};

/// The thread of one helper.
pub(super) struct Runner {
    pub(super) proc: Proc,
    pub(super) launcher: Arc<dyn Launcher>,
    pub(super) talk: Box<dyn Talk>,
    pub(super) woken: UnixStream,
    pub(super) backoff: Backoff,
    /// Whether the process that ran last has got ready.
    pub(super) served: bool,
}

/// Why a program is spoken to no more.
enum End {
    /// We end.
    Stopped,
    /// It closed its side.
    Closed,
    /// It, or the wire to it, is not as it should be.
    Bad(String),
}

impl Runner {
    pub(super) fn run(&mut self) {
        loop {
            let started = Instant::now();
            let (end, how) = self.live();
            self.talk.gone();
            let why = match (end, how) {
                (End::Stopped, _) => return,
                (End::Closed, Some(how)) => format!("exited abnormally: {how}"),
                (End::Closed, None) => "exited abnormally".to_owned(),
                (End::Bad(why), _) => format!("was ended: {why}"),
            };
            let lived = started.elapsed();
            let wait = if std::mem::take(&mut self.served) {
                self.backoff.died_at_work(lived)
            } else {
                self.backoff.died(lived)
            };
            log::warn(format_args!(
                "lost processor: {} {why}; starting it again in {} s",
                self.proc.name(),
                wait.as_secs()
            ));
            if !self.sleep(wait) {
                return;
            }
            let mut process = self.proc.process();
            process.restarts = process.restarts.saturating_add(1);
            process.phase = Phase::Starting;
        }
    }

    /// One process, from its start to its end; says how that was.
    fn live(&mut self) -> (End, Option<String>) {
        let failed =
            |what: &str, error: &io::Error| End::Bad(format!("{what}: {}", strerror(error)));
        let (stream, theirs) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return (self.lay_down(failed("socketpair", &error)), None),
        };
        let (errors, their_errors) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return (self.lay_down(failed("socketpair", &error)), None),
        };
        for ours in [&stream, &errors] {
            if let Err(error) = ours.set_nonblocking(true) {
                return (self.lay_down(failed("socket", &error)), None);
            }
        }
        let child = match self.launcher.launch(theirs.into(), their_errors.into()) {
            Ok(child) => child,
            Err(error) => return (self.lay_down(failed("cannot start", &error)), None),
        };
        let stream = Arc::new(stream);
        let greeting = self.talk.greeting();
        {
            let mut process = self.proc.process();
            process.life += 1;
            process.heard = Instant::now();
            process.verdict = None;
            process.stream = Some(stream.clone());
            process.out.bytes.extend_from_slice(&greeting);
        }
        let mut errors = Errors::new(errors);
        let end = self.talk_with(&stream, &mut errors, &*child);
        let end = self.lay_down(end);
        // Closed on our side, it reads the end of its input, which tells it to go.
        drop(stream);
        let grace = match end {
            End::Bad(_) => Duration::ZERO,
            End::Stopped | End::Closed => GRACE,
        };
        let mut how = child.ended(grace);
        if how.is_none() {
            child.kill();
            how = child.ended(GRACE);
        }
        errors.hear(self.proc.name());
        (end, how)
    }

    /// From now on nobody can speak to it.
    fn lay_down(&self, end: End) -> End {
        let mut process = self.proc.process();
        process.phase = Phase::Down;
        process.stream = None;
        process.pid = None;
        process.out.clear();
        process.held = Vec::new();
        drop(process);
        self.proc.0.changed.notify_all();
        end
    }

    fn talk_with(&mut self, stream: &UnixStream, errors: &mut Errors, child: &dyn Child) -> End {
        let due = Instant::now() + START_TIME;
        let mut lines = Lines::default();
        let mut ready = false;
        loop {
            let (writing, room) = {
                let mut process = self.proc.process();
                if process.stop {
                    return End::Stopped;
                }
                if let Some(why) = process.verdict.take() {
                    return End::Bad(why);
                }
                process.pid = process.pid.or_else(|| child.pid());
                let crowded = !process.has_room();
                match process.flush() {
                    Ok(all) => (!all, crowded && process.has_room()),
                    Err(_) => return End::Closed,
                }
            };
            if room {
                self.talk.room();
            }
            let timeout = if ready {
                None
            } else {
                Some(due.saturating_duration_since(Instant::now()))
            };
            if timeout.is_some_and(|left| left.is_zero()) {
                return End::Bad("it did not get ready".to_owned());
            }
            let (readable, said) = match self.wait(stream, errors, writing, timeout) {
                Ok(found) => found,
                Err(error) => return End::Bad(format!("poll: {}", strerror(&error))),
            };
            if said {
                errors.hear(self.proc.name());
            }
            if readable {
                match self.listen(stream, &mut lines, &mut ready) {
                    Ok(true) => {}
                    Ok(false) => return End::Closed,
                    Err(why) => return End::Bad(why),
                }
            }
        }
    }

    /// Waits for the program, its errors, or one of us; says which of the first two spoke.
    fn wait(
        &self,
        stream: &UnixStream,
        errors: &Errors,
        writing: bool,
        timeout: Option<Duration>,
    ) -> io::Result<(bool, bool)> {
        let mut fds = vec![
            PollFd::new(self.woken.as_fd(), Interest::Read),
            PollFd::new(stream.as_fd(), Interest::Read),
        ];
        if writing {
            fds.push(PollFd::new(stream.as_fd(), Interest::Write));
        }
        if let Some(open) = &errors.stream {
            fds.push(PollFd::new(open.as_fd(), Interest::Read));
        }
        poll(&mut fds, timeout)?;
        let heard = |at: usize| fds.get(at).is_some_and(|fd| fd.readable || fd.hangup);
        let found = (heard(1), heard(2 + usize::from(writing)));
        let mut bytes = [0; 64];
        while matches!((&self.woken).read(&mut bytes), Ok(count) if count > 0) {}
        Ok(found)
    }

    /// Reads what is there; `false` at its end.
    fn listen(
        &mut self,
        mut stream: &UnixStream,
        lines: &mut Lines,
        ready: &mut bool,
    ) -> Result<bool, String> {
        let mut chunk = [0; 16 * 1024];
        // The others want their turn, too.
        for _ in 0..READS {
            let count = match stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(_) => return Ok(false),
            };
            self.proc.process().heard = Instant::now();
            let talk = &mut self.talk;
            let mut became_ready = false;
            lines.push(&chunk[..count], &mut |line| {
                became_ready |= talk.hear(line)? == Heard::Ready;
                Ok(())
            })?;
            if became_ready && !*ready {
                *ready = true;
                self.served = true;
                self.serve();
            }
        }
        Ok(true)
    }

    /// The program is ready: what was kept for it goes out.
    fn serve(&self) {
        let mut process = self.proc.process();
        process.phase = Phase::Ready;
        let held = std::mem::take(&mut process.held);
        process.out.bytes.extend_from_slice(&held);
        drop(process);
        self.proc.0.changed.notify_all();
    }

    /// Waits before a new start; `false` if there is to be none.
    fn sleep(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            if self.proc.process().stop {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let mut fds = [PollFd::new(self.woken.as_fd(), Interest::Read)];
            if poll(&mut fds, Some(left)).is_err() {
                return false;
            }
            let mut bytes = [0; 64];
            while matches!((&self.woken).read(&mut bytes), Ok(count) if count > 0) {}
        }
    }
}

/// How long a program may take to end once its input has.
const GRACE: Duration = Duration::from_secs(2);
