//! smtpd-filters(7): what is asked about sessions and messages, and who answers.
//!
//! A session's filters are a [`Chain`]: its listener's, and those of rules, which are asked once a
//! recipient has met such a rule. A session asks it at each phase ([`Chain::ask`]) and goes
//! through what it answers step by step: filters of the configuration decide at once, or on a
//! thread that may wait for a table; a program's decision comes later, from the thread that reads
//! it. Content goes through programs as [`content`] describes. Programs are shared by all chains
//! that name them, and none of them can hold up another one, or end the service.

#![forbid(unsafe_code)]

pub mod builtin;
pub mod chain;
pub mod content;
mod preview;
pub mod program;
pub mod protocol;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Config, Filter, Method};
use crate::proc::Launcher;
use crate::table::Snapshot;
use crate::util::Line;

pub use builtin::Facts;
pub use chain::{Asking, Chain, Lives, Outcome, Request, Step, Verdict, between_brackets};
pub use content::{Content, Progress};
pub use preview::{Opinion, preview};
pub use program::{Figures, Program, WAIT};
pub use protocol::{Decision, Event, Phase, Subsystem};

use chain::{Kind, Member};
use program::Settings;

/// All filters of a configuration.
#[derive(Default)]
pub struct Filters {
    programs: BTreeMap<String, Arc<Program>>,
    chains: BTreeMap<String, Arc<Chain>>,
    /// For sessions, by the filter of their listener.
    sessions: BTreeMap<Option<String>, Arc<Chain>>,
}

impl Filters {
    /// Starts every program that did not run `before`, or is another one now, and waits for all of
    /// them to be ready, until `deadline`. `dir` is for content that memory does not hold.
    pub fn start(
        now: &Arc<Snapshot>,
        before: Option<&Filters>,
        dir: &Path,
        launcher: &dyn Fn(&Line) -> Arc<dyn Launcher>,
        deadline: Instant,
    ) -> io::Result<Filters> {
        let config = &now.config;
        let admd = config.admd.as_ref().unwrap_or(&config.server_name);
        let mut programs = BTreeMap::new();
        for (name, proc) in &config.procs {
            let line = Line::sanitize(name.as_bytes());
            let settings = Settings {
                name: &line,
                subsystems: subsystems(config, name),
                admd,
            };
            let running = before.and_then(|before| before.programs.get(name));
            let program = match running.filter(|running| running.is(proc, &settings)) {
                Some(running) => running.clone(),
                None => Arc::new(Program::start(proc, settings, launcher(&line))?),
            };
            programs.insert(name.clone(), program);
        }
        for program in programs.values() {
            program.proc().wait_until_ready(deadline);
        }
        let rules: BTreeSet<String> = config.rules.iter().flat_map(|r| r.filter.clone()).collect();
        let chain = |members, rules| {
            Arc::new(Chain {
                members,
                rules,
                tables: now.clone(),
                dir: dir.to_owned(),
            })
        };
        let named = |name: &String| chain(members(config, &programs, name, None), BTreeSet::new());
        let chains = config
            .filters
            .keys()
            .map(|name| (name.clone(), named(name)));
        let chains = chains.collect();
        let listeners = config.listeners.iter().map(|one| &one.filter);
        let mut sessions = BTreeMap::new();
        for filter in listeners.chain([&config.socket.filter]) {
            let members = of_sessions(config, &programs, &rules, filter.as_ref());
            if !members.is_empty() {
                sessions.insert(filter.clone(), chain(members, rules.clone()));
            }
        }
        Ok(Filters {
            programs,
            chains,
            sessions,
        })
    }

    /// The filters of this name.
    pub fn chain(&self, name: &str) -> Option<Arc<Chain>> {
        self.chains.get(name).cloned()
    }

    /// The filters of a listener's sessions, if they have any: those that it names, and those of
    /// rules.
    pub fn of_sessions(&self, filter: &Option<String>) -> Option<Arc<Chain>> {
        self.sessions.get(filter).cloned()
    }

    /// How every program does.
    pub fn figures(&self) -> Vec<Figures> {
        self.programs
            .values()
            .map(|program| program.figures())
            .collect()
    }
}

/// What a filter's name stands for, in their order. `rule` is the name that a rule says.
fn members(
    config: &Config,
    programs: &BTreeMap<String, Arc<Program>>,
    name: &String,
    rule: Option<&str>,
) -> Vec<Member> {
    let names = match config.filters.get(name) {
        Some(Filter::Chain(names)) => names.as_slice(),
        _ => std::slice::from_ref(name),
    };
    let member = |name| member(config, programs, name, rule);
    names.iter().filter_map(member).collect()
}

/// A listener's filters, and behind them those of each rule that the listener does not ask anyhow.
fn of_sessions(
    config: &Config,
    programs: &BTreeMap<String, Arc<Program>>,
    rules: &BTreeSet<String>,
    listener: Option<&String>,
) -> Vec<Member> {
    let own = listener.map(|name| members(config, programs, name, None));
    let mut all = own.unwrap_or_default();
    let count = all.len();
    for name in rules {
        for member in members(config, programs, name, Some(name)) {
            let known = all.iter().take(count).any(|own| own.is_same(&member));
            if !known {
                all.push(member);
            }
        }
    }
    all
}

fn member(
    config: &Config,
    programs: &BTreeMap<String, Arc<Program>>,
    name: &String,
    rule: Option<&str>,
) -> Option<Member> {
    let kind = match config.filters.get(name)? {
        Filter::BuiltIn(filter) => Kind::BuiltIn(filter.clone()),
        Filter::Proc(proc) => Kind::Program(programs.get(proc)?.clone()),
        Filter::Chain(_) => return None,
    };
    let name = Line::sanitize(name.as_bytes());
    let rule = rule.map(Arc::from);
    Some(Member { name, kind, rule })
}

/// In which sessions a program is used.
fn subsystems(config: &Config, program: &str) -> Vec<Subsystem> {
    let is =
        |name: &String| matches!(config.filters.get(name), Some(Filter::Proc(p)) if p == program);
    let leads = |name: &String| match config.filters.get(name) {
        Some(Filter::Chain(names)) => names.iter().any(is),
        _ => is(name),
    };
    let listeners = config.listeners.iter().filter_map(|l| l.filter.as_ref());
    let rules = config.rules.iter().filter_map(|rule| rule.filter.as_ref());
    let mut inward = listeners.chain(&config.socket.filter).chain(rules);
    let mut outward = config
        .actions
        .values()
        .filter_map(|action| match &action.method {
            Method::Relay(relay) => relay.filter.as_ref(),
            Method::Local(_) => None,
        });
    let mut found = Vec::new();
    if inward.any(leads) {
        found.push(Subsystem::In);
    }
    if outward.any(leads) {
        found.push(Subsystem::Out);
    }
    found
}
