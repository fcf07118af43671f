//! Reports each step of an evaluation of the rules: `smtpctl explain` and the trace `rules` listen.
//!
//! Without a listener, which is the usual case, no report is put together.

use crate::config::{Criterion, Rule};
use crate::table::{Service, TableError};

/// Hears every step. A step is told when it is done, in the order of the evaluation.
pub trait Watch {
    /// A rule is tried now; the criteria that follow are its.
    fn rule(&self, rule: &Rule);
    /// A criterion has been answered, its negation included; the lookups before it were its.
    fn criterion(&self, criterion: &Criterion, holds: Result<bool, &TableError>);
    /// A table has been asked.
    fn lookup(&self, lookup: &Lookup<'_>);
}

/// One question to a table, and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'l> {
    /// How keys are compared.
    pub service: Service,
    /// The table's name.
    pub table: &'l str,
    pub key: &'l str,
    /// What came of it.
    pub answer: Answer<'l>,
}

/// What a table said.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'l> {
    /// The key is there; with its value where there is one.
    Found(Option<&'l str>),
    NotFound,
    /// Nobody can say now.
    Failed(&'l TableError),
}

impl<'l> Lookup<'l> {
    /// A question whether a key is there.
    pub fn check(
        service: Service,
        table: &'l str,
        key: &'l str,
        answer: &'l Result<bool, TableError>,
    ) -> Lookup<'l> {
        let answer = match answer {
            Ok(true) => Answer::Found(None),
            Ok(false) => Answer::NotFound,
            Err(error) => Answer::Failed(error),
        };
        Lookup {
            service,
            table,
            key,
            answer,
        }
    }
}
