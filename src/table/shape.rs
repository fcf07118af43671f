//! What a table has to be, by the use that is made of it.

use crate::config::table_text::Shape;
use crate::config::{Action, Config, How, Method, Route};

/// The shape that every use of a table wants; `None` without any, or when its keys will do.
///
/// It decides what a file is that has no entries yet: the first line that is written to it later
/// is an entry of a list in a list of networks, even if it has a colon.
pub fn of(config: &Config, table: &str) -> Option<Shape> {
    let mapping = config.actions.values().any(|action| maps(action, table))
        || config.listeners.iter().any(|listener| {
            let senders = listener.senders.as_ref().map(|senders| &senders.table);
            let auth = listener.auth.as_ref().and_then(|auth| auth.table.as_ref());
            [listener.hostnames.as_ref(), senders, auth]
                .iter()
                .flatten()
                .any(|name| *name == table)
        });
    if mapping {
        return Some(Shape::Map);
    }
    let compared = config.comparisons().filter(|found| found.table == table);
    let list = compared.map(|found| found.how).any(How::takes_list)
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
