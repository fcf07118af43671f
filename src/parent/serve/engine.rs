//! The engine's process: how it is started, what it is given, and what its end means.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use crate::log::{self, Target};
use crate::parent::link::Link;
use crate::privsep::{Channel, Reply, Setting};
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::sys::process::{self, Ended, Pid, Spawn};

use super::{Engine, Parent, Run, Running, Stop};

impl Parent {
    pub(super) fn start_engine(&mut self, now: Instant) {
        self.engine_number += 1;
        // It starts with what the one before was asked to read.
        for name in self.chores.tables() {
            self.update_table(&name);
        }
        match self.launch_engine() {
            Ok((pid, link)) => {
                self.engine = Engine::Runs(Running {
                    pid,
                    link: Some(link),
                    since: now,
                    run: self.run,
                });
                match self.brief_engine() {
                    Ok(()) => self.connect_keys(),
                    Err(error) => self.kill_engine(Some(&strerror(&error))),
                }
            }
            Err(error) => {
                log::warn(format_args!("cannot start engine: {}", strerror(&error)));
                self.engine = Engine::Starts(now + self.backoff.died(Duration::ZERO));
            }
        }
    }

    fn launch_engine(&self) -> io::Result<(Pid, Link)> {
        let (ours, theirs) = Channel::pair()?;
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        let stderr = io::stderr();
        let argv = self.engine_argv()?;
        let env = ["TZ", "RUST_BACKTRACE"]
            .into_iter()
            .filter_map(|name| std::env::var_os(name).map(|value| (name, value)))
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<_, _>>()?;
        let pid = process::spawn(&Spawn {
            program: CString::new(self.options.exe.as_os_str().as_bytes())?,
            argv,
            env,
            fds: vec![null.as_fd(), null.as_fd(), stderr.as_fd(), theirs.as_fd()],
            identity: None,
            dirs: vec![c"/".into()],
            umask: 0o077,
        })?;
        Ok((pid, Link::new(ours)))
    }

    fn engine_argv(&self) -> io::Result<Vec<CString>> {
        let options = &self.options;
        let mut argv = vec![
            CString::new(options.exe.as_os_str().as_bytes())?,
            c"-x".into(),
            c"engine".into(),
        ];
        argv.push(match options.log {
            Target::Stderr => c"-d".into(),
            Target::Syslog => c"-F".into(),
        });
        if log::is_verbose() {
            argv.push(c"-v".into());
        }
        if log::is_json() {
            argv.extend([c"-L".into(), c"json".into()]);
        }
        for word in &options.traces {
            argv.push(c"-T".into());
            argv.push(CString::new(word.as_bytes())?);
        }
        if let Some(root) = &options.paths.root {
            argv.push(c"-R".into());
            argv.push(CString::new(root.as_os_str().as_bytes())?);
        }
        Ok(argv)
    }

    /// Everything an engine starts with; see `engine::start`.
    fn brief_engine(&mut self) -> io::Result<()> {
        let config = open::to_pass_on(&self.options.paths.spool, self.in_use.handover())?;
        let mut frames = vec![(Reply::Config, vec![OwnedFd::from(config)])];
        for bound in &self.held.listeners {
            let copy = OwnedFd::from(bound.socket.try_clone()?);
            frames.push((Reply::Listener { index: bound.index }, vec![copy]));
        }
        let control = OwnedFd::from(self.held.control.listener.try_clone()?);
        frames.push((Reply::Control, vec![control]));
        if let Some(key) = &self.options.queue_key {
            frames.push((Reply::QueueKey(key.clone()), Vec::new()));
        }
        let start = Reply::Start {
            verbose: log::is_verbose(),
            pause_mda: self.options.pause_mda,
            pause_mta: self.options.pause_mta,
            pause_smtp: self.options.pause_smtp,
            run_once: self.run == Run::Once,
        };
        frames.push((start, Vec::new()));
        let Some(link) = self.link() else {
            return Ok(());
        };
        for (reply, fds) in frames {
            link.send(&reply, fds)?;
        }
        Ok(())
    }

    /// For us, and for the next engine.
    pub(super) fn set(&mut self, what: Setting, on: bool) {
        match what {
            Setting::Verbose => log::set_verbose(on),
            Setting::PauseMda => self.options.pause_mda = on,
            Setting::PauseMta => self.options.pause_mta = on,
            Setting::PauseSmtp => self.options.pause_smtp = on,
        }
    }

    /// Gives the engine a socket to the process that holds the keys.
    pub(super) fn connect_keys(&mut self) {
        let socket = match self.held.keys.socket() {
            Ok(Some(socket)) => socket,
            Ok(None) => return,
            // Whoever does not take it is ending.
            Err(error) => return log::warn(format_args!("keys: {}", strerror(&error))),
        };
        let Some(link) = self.link() else { return };
        if let Err(error) = link.send(&Reply::Keys, vec![socket]) {
            self.kill_engine(Some(&strerror(&error)));
        }
    }

    /// The wire is of no use any more, and an engine without it must not go on. reap() sees its
    /// end; one that was ending by itself keeps the exit code it had.
    pub(super) fn kill_engine(&mut self, why: Option<&str>) {
        let Engine::Runs(running) = &mut self.engine else {
            return;
        };
        if let Some(why) = why {
            log::warn(format_args!("engine: {why}: killed"));
        }
        running.link = None;
        process::kill(running.pid);
    }

    pub(in crate::parent) fn link(&mut self) -> Option<&mut Link> {
        match &mut self.engine {
            Engine::Runs(running) => running.link.as_mut(),
            Engine::Starts(_) => None,
        }
    }

    pub(super) fn engine_ended(&mut self, how: Ended, now: Instant) {
        self.reloaded(false);
        self.chores.forget_reload();
        self.looks.forget_askers();
        let Engine::Runs(running) = &self.engine else {
            return;
        };
        self.helpers.orphan(self.engine_number, now);
        if self.run == Run::Once && running.run == Run::Offline && how == Ended::Exited(0) {
            self.engine = Engine::Starts(now);
            return;
        }
        let lived = now.saturating_duration_since(running.since);
        self.engine = Engine::Starts(now + self.backoff.died(lived));
        if self.stop != Stop::No {
            return;
        }
        match how {
            Ended::Exited(_) => log::warn(format_args!("lost child: engine exited abnormally")),
            Ended::Signaled(signal) => {
                log::warn(format_args!(
                    "lost child: engine terminated; signal {signal}"
                ));
            }
        }
        // An engine that says by itself that it cannot start will not do better next time.
        if !self.ever_ready && matches!(how, Ended::Exited(_)) {
            log::fatal(format_args!("engine failed to start"));
            self.stop = Stop::Failed;
        }
    }
}
