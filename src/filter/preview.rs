//! What filters of the configuration would decide in a session that is only supposed.

use crate::config::{self, Config, Filter};
use crate::table::{TableError, Tables};

use super::builtin::{self, Facts};
use super::protocol::Decision;

/// One filter at one phase, in the order of a session.
#[derive(Debug)]
pub struct Opinion<'c> {
    /// Its name.
    pub filter: &'c str,
    /// What it is asked about, and what it says; `None` for a program, which is not asked.
    pub said: Option<(config::Phase, Result<Decision, TableError>)>,
}

/// What the filters of this name decide one after the other, up to the first that ends it. `rule`
/// says that a rule names them, which is known from RCPT on only. Tables are asked.
pub fn preview<'c>(
    config: &'c Config,
    tables: &Tables,
    name: &'c str,
    facts: &Facts,
    rule: bool,
) -> Vec<Opinion<'c>> {
    let names: Vec<&str> = match config.filters.get(name) {
        Some(Filter::Chain(names)) => names.iter().map(String::as_str).collect(),
        _ => vec![name],
    };
    let filters = || {
        let found = names.iter().map(|name| (*name, config.filters.get(*name)));
        found.filter_map(|(name, filter)| Some((name, filter?)))
    };
    let programs = filters().filter(|(_, filter)| matches!(filter, Filter::Proc(_)));
    let mut opinions: Vec<Opinion<'c>> = programs
        .map(|(filter, _)| Opinion { filter, said: None })
        .collect();
    let phases = config::Phase::ALL.into_iter();
    for phase in phases.filter(|phase| happens(*phase, facts) && (!rule || is_late(*phase))) {
        for (filter, what) in filters() {
            let Filter::BuiltIn(what) = what else {
                continue;
            };
            if what.phase != phase {
                continue;
            }
            let decided = builtin::decide(what, facts, tables);
            let ends = match &decided {
                Ok(Decision::Reject(_) | Decision::Disconnect(_) | Decision::Bypass) | Err(_) => {
                    true
                }
                Ok(_) => false,
            };
            opinions.push(Opinion {
                filter,
                said: Some((phase, decided)),
            });
            if ends {
                return opinions;
            }
        }
    }
    opinions
}

/// A client that has not logged in sends no AUTH; whether it says HELO or EHLO is not supposed.
fn happens(phase: config::Phase, facts: &Facts) -> bool {
    phase != config::Phase::Auth || facts.user.is_some()
}

fn is_late(phase: config::Phase) -> bool {
    matches!(
        phase,
        config::Phase::RcptTo | config::Phase::Data | config::Phase::Commit
    )
}
