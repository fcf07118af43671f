//! `-T rules`, `-T lookup` and `-T expand`: what is done, as lines of the log.

use crate::config::{Criterion, Rule};
use crate::log::{self, Subject, Trace};
use crate::mail::Facts;
use crate::ruleset::watch::{Answer, Lookup, Watch as RuleWatch};
use crate::ruleset::{Decision, Unanswered};
use crate::table::TableError;

use super::watch::{Event, Watch};

/// The log, of the recipient of one session.
pub struct Log<'f> {
    client: Subject<'f>,
}

impl Log<'_> {
    /// The log, if it wants to hear of this session now.
    pub fn of(facts: &Facts) -> Option<Log<'_>> {
        let client = Subject {
            peer: &facts.peer,
            tag: facts.tag.as_deref(),
        };
        let mut any = [Trace::Rules, Trace::Lookup, Trace::Expand].into_iter();
        any.any(|what| log::tracing_of(what, &client))
            .then_some(Log { client })
    }
}

impl RuleWatch for Log<'_> {
    fn rule(&self, rule: &Rule) {
        log::trace_of(
            Trace::Rules,
            &self.client,
            format_args!("rules: {}: {}", rule.at, rule.text),
        );
    }

    fn criterion(&self, criterion: &Criterion, holds: Result<bool, &TableError>) {
        let answer = match holds {
            Ok(true) => "yes",
            Ok(false) => "no",
            Err(_) => "no answer",
        };
        log::trace_of(
            Trace::Rules,
            &self.client,
            format_args!("rules: {criterion} -> {answer}"),
        );
    }

    fn lookup(&self, lookup: &Lookup<'_>) {
        let (service, table, key) = (lookup.service, lookup.table, lookup.key);
        let found = match lookup.answer {
            Answer::Found(Some(value)) => format!("\"{value}\""),
            Answer::Found(None) => "found".to_owned(),
            Answer::NotFound => "not found".to_owned(),
            Answer::Failed(error) => format!("error: {error}"),
        };
        log::trace_of(
            Trace::Lookup,
            &self.client,
            format_args!("lookup: {service} \"{key}\" in table {table} -> {found}"),
        );
    }
}

impl Watch for Log<'_> {
    fn event(&self, event: &Event<'_>) {
        if !log::tracing_of(Trace::Expand, &self.client) {
            return;
        }
        let line = match event {
            Event::Added { at, parent, item } => match parent {
                Some(parent) => format!("node {parent} leads to node {at}: {item}"),
                None => format!("node {at}: {item}"),
            },
            Event::Repeated { item } => format!("{item} is known already"),
            Event::Taken { at } => format!("working on node {at}"),
            Event::Decided(Ok(Decision::Accept { action, rule, .. })) => {
                format!("action {} by the rule at {rule}", action.name)
            }
            Event::Decided(Ok(Decision::Reject { rule })) => {
                format!("rejected by the rule at {rule}")
            }
            Event::Decided(Ok(Decision::NoRule)) => "no rule matches".to_owned(),
            Event::Decided(Err(Unanswered { error, rule })) => {
                format!("no answer for the rule at {rule}: {error}")
            }
            Event::LedBack(address) => format!("it leads back to <{address}>"),
            Event::Forwarded => "the .forward takes the user's place".to_owned(),
            Event::NotForwarded => "no .forward".to_owned(),
            Event::User(user) => format!("user {} with uid {}", user.name, user.uid),
            Event::Warning(text) => format!("{text}"),
            Event::Destination(number) => format!("destination {number}"),
            Event::SameDestination => "a destination known already".to_owned(),
        };
        log::trace_of(Trace::Expand, &self.client, format_args!("expand: {line}"));
    }
}
