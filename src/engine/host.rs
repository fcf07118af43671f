//! Answers what smtpctl(8) asks: some of it here, most of it by the runner.
//!
//! What may take its time, such as reading tables, the thread `admin` does.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never, select};

use crate::accept::{self, ConnId, Mailbox};
use crate::control::message::{Answer, Ask, Block, Change, Listing, Subsystem};
use crate::control::server::permitted;
use crate::deliver::relay::{self, Admin};
use crate::explain::explain;
use crate::filter::{Figures, Filters};
use crate::log::{self, stat};
use crate::mail::{EvpId, Supposed};
use crate::privsep::{Client, Extent, Setting};
use crate::runner;
use crate::table::Tables;

use crate::util::{Live, Timestamp};

use super::reload::Reloader;
use super::requeue::requeue;
use super::services::Services;
use super::traces;

/// The daemon behind the control socket.
pub struct Host {
    runner: runner::Handle,
    relaying: relay::Handle,
    filters: Live<Filters>,
    mailbox: Mailbox,
    client: Client,
    /// What the `admin` thread is to do, and who asked.
    work: Sender<(ConnId, Work)>,
    owner_uid: u32,
    /// When certificates end.
    certificates: Live<Vec<(String, i64)>>,
    started: Instant,
}

/// What takes its time.
enum Work {
    /// A table is read again.
    Update(String),
    /// A recipient is explained.
    Explain(Box<Supposed>),
    /// The configuration is read again.
    Reload,
    /// Envelopes go through the rules again.
    Requeue(Vec<EvpId>, Change),
}

/// Does what takes its time.
struct AdminThread {
    services: Arc<Services>,
    reloader: Reloader,
    mailbox: Mailbox,
}

impl AdminThread {
    fn run(&self, wanted: &Receiver<(ConnId, Work)>, mut hangups: Receiver<Extent>) {
        loop {
            select! {
                recv(wanted) -> wanted => match wanted {
                    Ok((conn, work)) => self.mailbox.answer(conn, self.carry_out(work)),
                    Err(_) => return,
                },
                recv(hangups) -> hangup => match hangup {
                    // What came of it is in the log.
                    Ok(extent) => drop(self.reloader.reload(extent)),
                    Err(_) => hangups = never(),
                },
            }
        }
    }

    fn carry_out(&self, work: Work) -> Answer {
        let now = self.services.live.get();
        match work {
            Work::Update(name) => update(&now.tables, &self.reloader.client, &name),
            Work::Explain(supposed) => {
                let libexec = &self.reloader.paths.libexec;
                Answer::Text(explain(&self.services.context(&now), libexec, &supposed))
            }
            Work::Reload => match self.reloader.reload(Extent::All) {
                Ok(()) => Answer::Ok,
                Err(why) => Answer::Fail(why),
            },
            Work::Requeue(ids, change) => requeue(&self.services, &ids, &change),
        }
    }
}

impl Host {
    /// A host for the instance of `owner_uid`, with its thread, which also reloads the
    /// configuration after each of `hangups`.
    pub fn start(
        services: Arc<Services>,
        relaying: relay::Handle,
        mailbox: Mailbox,
        reloader: Reloader,
        hangups: Receiver<Extent>,
        owner_uid: u32,
    ) -> std::io::Result<Host> {
        let (work, wanted) = bounded::<(ConnId, Work)>(WORK_MAX);
        let client = reloader.client.clone();
        let filters = reloader.configuration.filters.clone();
        let runner = services.runner.clone();
        let certificates = reloader.configuration.certificates.clone();
        let admin = AdminThread {
            services,
            reloader,
            mailbox: mailbox.clone(),
        };
        std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || admin.run(&wanted, hangups))?;
        Ok(Host {
            runner,
            relaying,
            filters,
            mailbox,
            client,
            work,
            owner_uid,
            certificates,
            started: Instant::now(),
        })
    }

    fn pause_smtp(&self, pause: bool) -> Answer {
        if self.mailbox.paused() == pause {
            return Answer::Fail(String::new());
        }
        self.mailbox.pause(pause);
        log::info(format_args!(
            "info: smtp {}",
            if pause { "paused" } else { "resumed" }
        ));
        keep(&self.client, Setting::PauseSmtp, pause);
        Answer::Ok
    }

    /// smtpctl(8), log: what was traced no longer is.
    fn verbose(&self, verbose: bool) -> Answer {
        log::set_trace(0);
        log::set_verbose(verbose);
        match self.client.set(Setting::Verbose, verbose) {
            Ok(()) => Answer::Ok,
            Err(error) => Answer::Fail(format!("parent: {error}")),
        }
    }

    fn stats(&self) -> Answer {
        let mut stats = stat::snapshot();
        let uptime_s = i64::try_from(self.started.elapsed().as_secs()).unwrap_or(i64::MAX);
        stats.push(("uptime".to_owned(), uptime_s));
        Answer::Stats(stats)
    }

    fn ask_runner(&self, conn: ConnId, ask: Ask) -> Option<Answer> {
        let (mailbox, ends) = (self.mailbox.clone(), self.certificates.clone());
        let client = self.client.clone();
        let pause = match &ask {
            Ask::Pause(Subsystem::Mda, on) => Some((Setting::PauseMda, *on)),
            Ask::Pause(Subsystem::Mta, on) => Some((Setting::PauseMta, *on)),
            _ => None,
        };
        let reply = move |answer: Answer| {
            if let (Answer::Ok, Some((what, on))) = (&answer, pause) {
                keep(&client, what, on);
            }
            let answer = match answer {
                Answer::Status { mda, mta, .. } => Answer::Status {
                    mda,
                    mta,
                    smtp: mailbox.paused(),
                    notes: accept::secure::ending(&ends.get(), Timestamp::now()),
                },
                answer => answer,
            };
            mailbox.answer(conn, answer);
        };
        self.runner.ask(ask, Box::new(reply))
    }

    /// One part of a listing: what fits into a frame.
    fn relaying(&self, conn: ConnId, listing: Listing, seen: u32) -> Option<Answer> {
        if listing == Listing::Filters {
            let figures = self.filters.get().figures();
            let lines = figures.iter().map(shown);
            return Some(Answer::Lines(lines.skip(seen as usize).collect()));
        }
        let mailbox = self.mailbox.clone();
        let wanted = Admin::Show(match listing {
            Listing::Hosts | Listing::Filters => relay::core::Listing::Hosts,
            Listing::HostStats => relay::core::Listing::HostStats,
            Listing::Blocks => relay::core::Listing::Blocks,
            Listing::Relays => relay::core::Listing::Relays,
            Listing::Routes => relay::core::Listing::Routes,
        });
        let reply = move |lines: Option<Vec<String>>| {
            let mut lines = lines.unwrap_or_default();
            lines.drain(..lines.len().min(seen as usize));
            mailbox.answer(conn, Answer::Lines(lines));
        };
        self.relaying.ask(wanted, Box::new(reply));
        None
    }

    fn ask_relay(&self, conn: ConnId, admin: Admin) -> Option<Answer> {
        let mailbox = self.mailbox.clone();
        let reply = move |done: Option<Vec<String>>| {
            let answer = match done {
                Some(_) => Answer::Ok,
                None => Answer::Fail(String::new()),
            };
            mailbox.answer(conn, answer);
        };
        self.relaying.ask(admin, Box::new(reply));
        None
    }

    fn later(&self, conn: ConnId, work: Work) -> Option<Answer> {
        match self.work.try_send((conn, work)) {
            Ok(()) => None,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                Some(Answer::Fail("tables are being read already".to_owned()))
            }
        }
    }
}

impl accept::Host for Host {
    fn ask(&mut self, conn: ConnId, uid: u32, ask: Ask) -> Option<Answer> {
        if !permitted(&ask, uid, self.owner_uid) {
            return Some(Answer::Fail("not permitted".to_owned()));
        }
        match ask {
            Ask::Pause(Subsystem::Smtp, pause) => Some(self.pause_smtp(pause)),
            Ask::Verbose(verbose) => Some(self.verbose(verbose)),
            Ask::Stats => Some(self.stats()),
            Ask::UpdateTable(name) => self.later(conn, Work::Update(name)),
            Ask::Reload => self.later(conn, Work::Reload),
            Ask::Requeue(ids, change) => self.later(conn, Work::Requeue(ids, change)),
            Ask::Explain(supposed) => self.later(conn, Work::Explain(supposed)),
            Ask::Trace(word, on) => Some(traces::trace(&word, on)),
            Ask::TraceOf(word, whom) => Some(traces::trace_of(&word, &whom)),
            Ask::Profile(word, on) => Some(traces::profile(&word, on)),
            Ask::Relaying(listing, seen) => self.relaying(conn, listing, seen),
            Ask::ResumeRoute(route) => {
                self.ask_relay(conn, Admin::ResumeRoute(relay::core::RouteId(route)))
            }
            Ask::Block(Block { source, domain, on }) => {
                self.ask_relay(conn, Admin::Block(source, domain, on))
            }
            ask => self.ask_runner(conn, ask),
        }
    }
}

/// smtpctl(8), show filters.
fn shown(figures: &Figures) -> String {
    let Figures {
        name,
        status,
        requests,
        timeouts,
        percentiles_us: [half, most, nearly_all],
    } = figures;
    let (phase, restarts) = (status.phase, status.restarts);
    let pid = status.pid.unwrap_or(0);
    format!("{name}|{phase}|{pid}|{restarts}|{requests}|{timeouts}|{half}|{most}|{nearly_all}")
}

/// The next engine starts with what was paused or resumed.
fn keep(client: &Client, what: Setting, on: bool) {
    if let Err(error) = client.set(what, on) {
        log::warn(format_args!("parent: {error}"));
    }
}

/// What may wait for the `admin` thread.
const WORK_MAX: usize = 16;

/// The parent has copies of its own: of tables with users, and of all files for the next engine.
fn update(tables: &Tables, parent: &Client, name: &str) -> Answer {
    match tables.update(name) {
        Ok(()) => {
            if let Err(error) = parent.update_table(name) {
                log::warn(format_args!("parent: {error}"));
            }
            log::info(format_args!("info: Table \"{name}\" successfully updated"));
            Answer::Ok
        }
        Err(error) => {
            log::warn(format_args!("{error}"));
            if tables.has(name) {
                log::info(format_args!("info: Failed to update table \"{name}\""));
            }
            Answer::Fail(String::new())
        }
    }
}
