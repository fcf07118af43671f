//! What a table has to be, by the use that is made of it.

use crate::config::table_text::Shape;
use crate::config::{Action, Config, Criterion, Method, Route, Test};

/// The shape that every use of a table wants; `None` without any, or when its keys will do.
///
/// It decides what a file is that has no entries yet: the first line that is written to it later
/// is an entry of a list in a list of networks, even if it has a colon.
pub fn of(config: &Config, table: &str) -> Option<Shape> {
    let mapping = config.actions.values().any(|action| maps(action, table))
        || config.listeners.iter().any(|listener| {
            let senders = listener.senders.as_ref().map(|senders| &senders.table);
            [listener.hostnames.as_ref(), senders]
                .iter()
                .flatten()
                .any(|name| *name == table)
        });
    if mapping {
        return Some(Shape::Map);
    }
    let criteria = config.rules.iter().flat_map(|rule| &rule.criteria);
    let list = criteria
        .into_iter()
        .any(|criterion| lists(criterion, table))
        || config.actions.values().any(|action| match &action.method {
            Method::Relay(relay) => relay.route == Route::Host(table.to_owned()),
            Method::Local(_) => false,
        });
    list.then_some(Shape::List)
}

fn maps(action: &Action, table: &str) -> bool {
    let mut names = match &action.method {
        Method::Local(local) => vec![&local.alias, &local.virtuals, &local.userbase],
        Method::Relay(relay) => vec![&relay.helo_src, &relay.auth],
    };
    let domain = match &action.method {
        Method::Relay(relay) => match &relay.route {
            Route::Domain(name) => Some(name.clone()),
            _ => None,
        },
        Method::Local(_) => None,
    };
    names.push(&domain);
    names.into_iter().flatten().any(|name| name == table)
}

fn lists(criterion: &Criterion, table: &str) -> bool {
    let pattern = match &criterion.test {
        Test::FromSrc(pattern)
        | Test::FromRdns(Some(pattern))
        | Test::ForDomain(pattern)
        | Test::Helo(pattern)
        | Test::Tag(pattern) => pattern,
        // Keys of a mapping will do here.
        Test::MailFrom(pattern) | Test::RcptTo(pattern) | Test::Auth(Some(pattern))
            if pattern.regex =>
        {
            pattern
        }
        _ => return false,
    };
    pattern.table == table
}
