//! Questions to tables: smarthosts, source addresses, credentials.
//!
//! A table in memory is answered for at once. Each other table, which may take its time, has a line
//! of its own and threads that ask it, so that it holds up nobody who needs another one. Every
//! answer is sent as it comes, as an [`Event`].
//!
//! Bounds: [`EACH_MAX`] threads ask a table, and end when its line has been empty for a while
//! ([`STAYS`]). An envelope that has been offered asks for one smarthost, and a relay for one
//! address and one password at a time, so that a line is no longer than what is offered.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::client::Credentials;
use crate::log;
use crate::mail::EvpId;
use crate::table::Tables;
use crate::util::Line;

use super::core::{Ask, BadSmarthost, RelayId, Smarthost};
use super::{Configured, Event};

/// Threads that ask one table.
const EACH_MAX: usize = 8;

/// How long a thread waits for the next question.
const STAYS: Duration = Duration::from_secs(5);

/// What is asked of a table.
pub enum TableAsk {
    /// The smarthosts of a message's envelopes. Answered together, they leave together.
    Smarthosts(String, Vec<(EvpId, Ask)>),
    /// The next address that a relay connects from.
    Source(RelayId, String),
    /// Who a relay logs in as: table and label.
    Secret(RelayId, String, Line),
}

/// Asks tables; clones ask with the same threads.
#[derive(Clone)]
pub struct Asks {
    lines: Arc<Mutex<HashMap<String, Waiting>>>,
    events: Sender<Event>,
}

/// Who waits for a table.
#[derive(Default)]
struct Waiting {
    line: VecDeque<(Arc<Configured>, TableAsk)>,
    threads: usize,
    /// Those that wait for a question.
    idle: usize,
    come: Arc<Condvar>,
}

impl Asks {
    /// Answers go there.
    pub fn new(events: Sender<Event>) -> Asks {
        let lines = Arc::default();
        Asks { lines, events }
    }

    /// Asks a table of this configuration. Never waits.
    pub fn ask(&self, now: &Arc<Configured>, ask: TableAsk) {
        let tables = &now.snapshot.tables;
        if tables.may_wait(ask.table()) {
            self.line_up(now.clone(), ask);
        } else {
            self.answer(ask.answer(tables));
        }
    }

    /// Asks for the smarthosts of envelopes that were offered together. Never waits.
    pub fn smarthosts(&self, now: &Arc<Configured>, asks: Vec<(EvpId, Ask)>) {
        let tables = &now.snapshot.tables;
        let mut known = Vec::new();
        let mut messages: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, ask) in asks {
            if tables.may_wait(ask.table()) {
                let message = (ask.table().to_owned(), id.msgid());
                messages.entry(message).or_default().push((id, ask));
            } else {
                known.push((id, smarthost(tables, &ask)));
            }
        }
        if !known.is_empty() {
            self.answer(Event::Smarthosts(known));
        }
        for ((table, _), asks) in messages {
            self.line_up(now.clone(), TableAsk::Smarthosts(table, asks));
        }
    }

    fn line_up(&self, now: Arc<Configured>, ask: TableAsk) {
        let table = ask.table().to_owned();
        let mut lines = self.lock();
        let waiting = lines.entry(table.clone()).or_default();
        waiting.line.push_back((now, ask));
        waiting.come.notify_one();
        if waiting.idle >= waiting.line.len() || waiting.threads == EACH_MAX {
            return;
        }
        waiting.threads += 1;
        drop(lines);
        if let Err(error) = self.start(&table) {
            self.not_started(&table, &error);
        }
    }

    fn start(&self, table: &str) -> io::Result<()> {
        let (asks, table) = (self.clone(), table.to_owned());
        let thread = thread::Builder::new().name("relay tables".to_owned());
        let work = move || {
            while let Some((now, ask)) = asks.next(&table) {
                asks.answer(ask.answer(&now.snapshot.tables));
            }
        };
        thread.spawn(work).map(drop)
    }

    /// The next in a line; a thread that has waited long enough for one ends.
    fn next(&self, table: &str) -> Option<(Arc<Configured>, TableAsk)> {
        let mut lines = self.lock();
        let mut is_over = false;
        loop {
            let waiting = lines.get_mut(table)?;
            if let Some(next) = waiting.line.pop_front() {
                return Some(next);
            }
            if is_over {
                waiting.threads -= 1;
                if waiting.threads == 0 {
                    lines.remove(table);
                }
                return None;
            }
            waiting.idle += 1;
            let come = waiting.come.clone();
            let waited = come.wait_timeout(lines, STAYS);
            let (locked, result) = waited.unwrap_or_else(PoisonError::into_inner);
            lines = locked;
            is_over = result.timed_out();
            lines.get_mut(table)?.idle -= 1;
        }
    }

    /// Those who wait are left to the threads that there are; without any, nobody can say.
    fn not_started(&self, table: &str, error: &io::Error) {
        log::warn(format_args!(
            "table {table}: cannot start a thread: {error}"
        ));
        let mut lines = self.lock();
        let left = match lines.get_mut(table) {
            Some(waiting) if waiting.threads > 1 => {
                waiting.threads -= 1;
                return;
            }
            _ => lines.remove(table).unwrap_or_default(),
        };
        drop(lines);
        for (_, ask) in left.line {
            self.answer(ask.unanswered());
        }
    }

    fn answer(&self, event: Event) {
        // The relay thread may be gone; then nobody wants to know.
        let _ = self.events.send(event);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TableAsk {
    fn table(&self) -> &str {
        match self {
            TableAsk::Smarthosts(table, _)
            | TableAsk::Source(_, table)
            | TableAsk::Secret(_, table, _) => table,
        }
    }

    /// What the table says. It may take its time.
    fn answer(self, tables: &Tables) -> Event {
        match self {
            TableAsk::Smarthosts(_, asks) => {
                let hosts = asks.iter().map(|(id, ask)| (*id, smarthost(tables, ask)));
                Event::Smarthosts(hosts.collect())
            }
            TableAsk::Source(relay, table) => {
                let found = tables.source_fetch(&table).unwrap_or_else(|error| {
                    log::warn(format_args!("{error}"));
                    None
                });
                Event::Source(relay, found)
            }
            TableAsk::Secret(relay, table, label) => {
                Event::Secret(relay, secret(tables, &table, &label))
            }
        }
    }

    /// Nobody could be asked.
    fn unanswered(self) -> Event {
        match self {
            TableAsk::Smarthosts(_, asks) => {
                let hosts = asks.iter().map(|(id, _)| (*id, Err(BadSmarthost::None)));
                Event::Smarthosts(hosts.collect())
            }
            TableAsk::Source(relay, _) => Event::Source(relay, None),
            TableAsk::Secret(relay, ..) => Event::Secret(relay, None),
        }
    }
}

fn smarthost(tables: &Tables, ask: &Ask) -> Smarthost {
    let found = match ask {
        Ask::Next(table) => tables.relayhost_fetch(table),
        Ask::Of(table, domain) => tables.relayhost_lookup(table, domain),
    };
    match found {
        Ok(Some(host)) => Ok(host),
        Ok(None) => Err(BadSmarthost::None),
        Err(error) => Err(BadSmarthost::Url(error.text)),
    }
}

fn secret(tables: &Tables, table: &str, label: &str) -> Option<Credentials> {
    match tables.credentials(table, label) {
        Ok(Some(found)) => Some(Credentials {
            password: Line::sanitize(found.secret.reveal().as_bytes()),
            user: found.user,
        }),
        Ok(None) => {
            log::warn(format_args!("credentials not found for {table}:{label}"));
            None
        }
        Err(error) => {
            log::warn(format_args!("{error}"));
            None
        }
    }
}
