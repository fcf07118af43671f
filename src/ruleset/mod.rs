//! Match rules: the first that holds decides.
//!
//! Facts and an address go in, an action or a refusal comes out. Tables are asked and nothing
//! else. A criterion that cannot be answered ends the evaluation with an error, even where a later
//! rule would have held: the caller says "try again". So it does where an address would be refused
//! only because the client's name is not known for now.

#![forbid(unsafe_code)]

mod criteria;
#[cfg(test)]
mod plain_tests;
#[cfg(test)]
mod tests;
pub mod watch;

use crate::config::{Action, Config, FilterName, Position, Rule};
use crate::table::TableError;

pub use criteria::Question;

/// Whether an address is the client's or comes from an alias, a virtual entry or a .forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// As the client gave it.
    Client,
    /// The product of expansion: rules see the source `local`.
    Internal,
}

/// What the rules say of an address.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'c> {
    /// This action settles it.
    Accept {
        action: &'c Action,
        /// The rule that said so.
        rule: &'c Position,
        /// Who filters the message.
        filter: Option<&'c FilterName>,
    },
    /// A `reject` rule holds.
    Reject {
        /// The rule that said so.
        rule: &'c Position,
    },
    /// No rule holds.
    NoRule,
}

/// A rule asks what nobody can say now.
#[derive(Clone, Debug)]
pub struct Unanswered<'c> {
    pub error: TableError,
    pub rule: &'c Position,
}

/// Tries the rules in their order.
pub fn decide<'c>(
    config: &'c Config,
    question: &Question<'_>,
) -> Result<Decision<'c>, Unanswered<'c>> {
    let mut open = None;
    for rule in &config.rules {
        let position = &rule.at;
        let unanswered = |error| Unanswered {
            error,
            rule: position,
        };
        let (holds, is_open) = holds(rule, question).map_err(unanswered)?;
        if is_open && holds != rule.action.is_some() {
            open.get_or_insert(position);
        }
        if !holds {
            continue;
        }
        let action = rule.action.as_ref().map(|name| config.actions.get(name));
        return Ok(match action {
            Some(Some(action)) => Decision::Accept {
                action,
                rule: position,
                filter: rule.filter.as_ref(),
            },
            // An action that is not there cannot come out of `config::load`.
            Some(None) | None => refused(open, Decision::Reject { rule: position })?,
        });
    }
    refused(open, Decision::NoRule)
}

/// A refusal, unless there is a rule that might have been in its way.
fn refused<'c>(
    open: Option<&'c Position>,
    refusal: Decision<'c>,
) -> Result<Decision<'c>, Unanswered<'c>> {
    match open {
        None => Ok(refusal),
        Some(rule) => Err(Unanswered {
            error: TableError::new("the client's name cannot be looked up now"),
            rule,
        }),
    }
}

/// Whether a rule holds, and whether the client's name might change that.
fn holds(rule: &Rule, question: &Question<'_>) -> Result<(bool, bool), TableError> {
    if let Some(watch) = question.watch {
        watch.rule(rule);
    }
    let (mut all, mut is_open) = (true, false);
    for criterion in &rule.criteria {
        let holds = match question.holds(criterion) {
            // It does not hold as it is, and so ends nothing: who takes the mail may stand behind it.
            Err(_) if is_open && !all => return Ok((false, true)),
            found => found?,
        };
        if question.is_open(criterion) {
            is_open = true;
        } else if !holds {
            return Ok((false, false));
        }
        all &= holds;
    }
    Ok((all, is_open))
}
