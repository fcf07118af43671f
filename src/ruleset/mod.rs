//! Match rules: the first that holds decides.
//!
//! Facts and an address go in, an action or a refusal comes out. Tables are asked and nothing
//! else. A criterion that cannot be answered ends the evaluation with an error, even where a later
//! rule would have held: the caller says "try again".

#![forbid(unsafe_code)]

mod criteria;
#[cfg(test)]
mod plain_tests;
#[cfg(test)]
mod tests;

use crate::config::{Action, Config, Place, Rule};
use crate::mail::{Facts, MailAddr};
use crate::table::{TableError, Tables};

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
        /// The action.
        action: &'c Action,
        /// The rule that said so.
        rule: &'c Place,
    },
    /// A `reject` rule holds.
    Reject {
        /// The rule that said so.
        rule: &'c Place,
    },
    /// No rule holds.
    NoRule,
}

/// Tries the rules in their order on `dest`.
pub fn decide<'c>(
    config: &'c Config,
    tables: &Tables,
    facts: &Facts,
    dest: &MailAddr,
    origin: Origin,
) -> Result<Decision<'c>, TableError> {
    for rule in &config.rules {
        if !holds(rule, tables, facts, dest, origin)? {
            continue;
        }
        let place = &rule.at;
        let action = rule.action.as_ref().map(|name| config.actions.get(name));
        return Ok(match action {
            Some(Some(action)) => Decision::Accept {
                action,
                rule: place,
            },
            // An action that is not there cannot come out of `config::load`.
            Some(None) | None => Decision::Reject { rule: place },
        });
    }
    Ok(Decision::NoRule)
}

fn holds(
    rule: &Rule,
    tables: &Tables,
    facts: &Facts,
    dest: &MailAddr,
    origin: Origin,
) -> Result<bool, TableError> {
    let question = criteria::Question {
        tables,
        facts,
        dest,
        origin,
    };
    for criterion in &rule.criteria {
        if !question.holds(criterion)? {
            return Ok(false);
        }
    }
    Ok(true)
}
