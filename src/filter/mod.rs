//! smtpd-filters(7): what is asked about sessions and messages, and who answers.
//!
//! A listener's filters are a [`Chain`]. A session asks it at each phase ([`Chain::ask`]) and goes
//! through what it answers step by step: filters of the configuration decide at once, or on a
//! thread that may wait for a table; a program's decision comes later, from the thread that reads
//! it. Content goes through programs as [`content`] describes. Programs are shared by all chains
//! that name them, and none of them can hold up another one, or end the service.

#![forbid(unsafe_code)]

pub mod builtin;
pub mod chain;
pub mod content;
pub mod program;
pub mod protocol;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Config, Filter, Method};
use crate::proc::Launcher;
use crate::sys::random;
use crate::table::Snapshot;
use crate::util::Line;

pub use builtin::Facts;
pub use chain::{Asking, Chain, Lives, Outcome, Request, Step, Verdict, between_brackets};
pub use content::{Content, Progress};
pub use program::{Figures, Program, WAIT};
pub use protocol::{Decision, Event, Phase, Subsystem};

use chain::{Kind, Member};
use program::Settings;

/// All filters of a configuration.
pub struct Filters {
    programs: BTreeMap<String, Arc<Program>>,
    chains: BTreeMap<String, Arc<Chain>>,
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
        let mut chains = BTreeMap::new();
        for (name, filter) in &config.filters {
            let names = match filter {
                Filter::Chain(names) => names.as_slice(),
                Filter::Proc(_) | Filter::BuiltIn(_) => std::slice::from_ref(name),
            };
            let member = |name: &String| member(config, &programs, name);
            let chain = Chain {
                name: name.clone(),
                members: names.iter().filter_map(member).collect(),
                tables: now.clone(),
                dir: dir.to_owned(),
            };
            chains.insert(name.clone(), Arc::new(chain));
        }
        Ok(Filters { programs, chains })
    }

    /// The filters of this name.
    pub fn chain(&self, name: &str) -> Option<Arc<Chain>> {
        self.chains.get(name).cloned()
    }

    /// How every program does.
    pub fn figures(&self) -> Vec<Figures> {
        self.programs
            .values()
            .map(|program| program.figures())
            .collect()
    }
}

fn member(
    config: &Config,
    programs: &BTreeMap<String, Arc<Program>>,
    name: &String,
) -> Option<Member> {
    let kind = match config.filters.get(name)? {
        Filter::BuiltIn(filter) => Kind::BuiltIn(filter.clone()),
        Filter::Proc(proc) => {
            let tokens = std::array::from_fn(|_| random::number_u64());
            Kind::Program(programs.get(proc)?.clone(), tokens)
        }
        Filter::Chain(_) => return None,
    };
    let name = Line::sanitize(name.as_bytes());
    Some(Member { name, kind })
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
    let mut inward = listeners.chain(&config.socket.filter);
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
