//! Questions to tables: smarthosts, source addresses, credentials.
//!
//! A table in memory is answered for at once. Each other table, which may take its time, has a line
//! of its own and threads that ask it, so that it holds up nobody who needs another one. Every
//! answer is sent as it comes, as an [`Event`].
//!
//! Bounds: [`EACH_MAX`] threads ask a table, and end when its line has been empty for a while
//! ([`STAYS`]). An envelope that has been offered asks for one smarthost, and a relay for one
//! address and one password at a time, so that a line is no longer than what is offered.
//!
//! The envelopes of a message that are offered together, up to ten as the queue hands them out, are
//! one entry of the line, with one answer, so that they leave together. Their questions are asked
//! one after the other, equal ones once, and the first waits for the last as long as none fails.
//! When one fails, as for want of time, what is known is sent, and the others go to the end of the
//! line, each for itself: a program that is silent holds them up once.

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
    /// The smarthosts of a message's envelopes: each question, and for whom it is. Answered
    /// together, they leave together.
    Smarthosts(String, Vec<(Ask, Vec<EvpId>)>),
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
            self.serve(now, ask);
        }
    }

    /// Asks for the smarthosts of envelopes that were offered together. Never waits.
    pub fn smarthosts(&self, now: &Arc<Configured>, asks: Vec<(EvpId, Ask)>) {
        let tables = &now.snapshot.tables;
        let mut known = Vec::new();
        let mut messages: BTreeMap<_, Vec<(Ask, Vec<EvpId>)>> = BTreeMap::new();
        for (id, ask) in asks {
            if tables.may_wait(ask.table()) {
                let message = (ask.table().to_owned(), id.msgid());
                let asks = messages.entry(message).or_default();
                match asks
                    .iter_mut()
                    .find(|(known, _)| known.is_answered_with(&ask))
                {
                    Some((_, ids)) => ids.push(id),
                    None => asks.push((ask, vec![id])),
                }
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

    /// Sends what the table says. It may take its time.
    fn serve(&self, now: &Arc<Configured>, ask: TableAsk) {
        let (event, others) = ask.answer(&now.snapshot.tables);
        self.answer(event);
        for other in others {
            self.line_up(now.clone(), other);
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
                asks.serve(&now, ask);
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

    /// What the table says, and what is still to be asked. It may take its time.
    fn answer(self, tables: &Tables) -> (Event, Vec<TableAsk>) {
        let event = match self {
            TableAsk::Smarthosts(table, asks) => {
                let mut hosts = Vec::new();
                let mut asks = asks.into_iter();
                for (ask, ids) in asks.by_ref() {
                    let host = smarthost(tables, &ask);
                    hosts.extend(ids.into_iter().map(|id| (id, host.clone())));
                    if let Err(BadSmarthost::Url(_)) = host {
                        break;
                    }
                }
                let alone = |ask| TableAsk::Smarthosts(table.clone(), vec![ask]);
                return (Event::Smarthosts(hosts), asks.map(alone).collect());
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
        };
        (event, Vec::new())
    }

    /// Nobody could be asked.
    fn unanswered(self) -> Event {
        match self {
            TableAsk::Smarthosts(_, asks) => {
                let ids = asks.into_iter().flat_map(|(_, ids)| ids);
                let hosts = ids.map(|id| (id, Err(BadSmarthost::None)));
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::{self, Defaults, Sources};
    use crate::deliver::relay::secure::Connectors;
    use crate::mail::MsgId;
    use crate::mail::samples::line;
    use crate::proc::{Launcher, tests::Scripts};
    use crate::table::Snapshot;

    const SOON: Duration = Duration::from_secs(20);

    /// Its answers are numbered by a port; it has none for one domain.
    const COUNTS: &str = r#"
        while read -r line; do [ "$line" = "config|ready" ] && break; done
        echo 'register|relayhost'; echo 'register|ready'; n=0
        while IFS='|' read -r t v s name op svc id key; do
            n=$((n + 1)); said="found|smtp://mx.example:$n"
            [ "$key" = bad.example ] && said='error|not now'
            echo "$op-result|$id|$said"
        done"#;

    fn configured(script: &str) -> Arc<Configured> {
        let text = "table t proc:/bin/sh\naction \"out\" relay domain <t>\n\
            match for any action \"out\"\n";
        let sources = Sources::from_text("smtpd.conf", text, &[]);
        let defaults = Defaults {
            server_name: line("mx.example.org"),
            addresses: Vec::new(),
        };
        let loaded = config::load(&sources, &defaults).unwrap();
        let snapshot = Snapshot::load(1, loaded.config, &sources).unwrap();
        let scripts = Scripts(vec![script.to_owned()], Mutex::new(0));
        let launcher: Arc<dyn Launcher> = Arc::new(scripts);
        let tables = &snapshot.tables;
        tables
            .start_programs(&|_| launcher.clone(), Instant::now() + SOON)
            .unwrap();
        Arc::new(Configured {
            snapshot: Arc::new(snapshot),
            tls: Connectors::default(),
            filters: Arc::default(),
            bound: Arc::new([]),
        })
    }

    #[test]
    fn equal_questions_are_one_and_a_failure_is_told_to_those_alone_who_asked() {
        let (events, answers) = crossbeam_channel::unbounded();
        let domains = ["a.example", "b.example", "a.example", "bad.example"];
        let others = ["c.example", "bad.example", "c.example", "a.example"];
        let asks = domains.iter().chain(&others).zip(1..);
        let asks = asks.map(|(domain, number)| {
            let id = EvpId::new(MsgId::new(1).unwrap(), number).unwrap();
            (id, Ask::Of("t".to_owned(), (*domain).to_owned()))
        });
        Asks::new(events).smarthosts(&configured(COUNTS), asks.collect());
        let next = || match answers.recv_timeout(SOON).unwrap() {
            Event::Smarthosts(hosts) => {
                let told = hosts.into_iter().map(|(id, host)| {
                    let port = host.ok().map(|host| host.port);
                    (id.get() as u32, port)
                });
                told.collect::<BTreeMap<_, _>>()
            }
            _ => panic!("another answer"),
        };
        let (one, two) = (Some(1), Some(2));
        let known = [(1, one), (2, two), (3, one), (4, None), (6, None), (8, one)];
        assert_eq!(next(), BTreeMap::from(known));
        assert_eq!(next(), BTreeMap::from([(5, Some(4)), (7, Some(4))]));
    }
}
