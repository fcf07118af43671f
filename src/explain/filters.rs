//! What filters of the configuration would say of the supposed session.

use std::collections::BTreeSet;

use crate::expansion::Context;
use crate::filter::{self, Opinion, preview};
use crate::mail::{Facts, MailAddr, Peer, Supposed};
use crate::util::Line;

use super::page::Page;

/// The filters of the listeners that the session may have come by: nobody has said which one it was.
pub fn of_listeners(
    context: &Context<'_>,
    supposed: &Supposed,
    facts: &Facts,
    rcpt: &MailAddr,
    page: &mut Page,
) {
    let config = context.config;
    let mut named: BTreeSet<&str> = BTreeSet::new();
    if facts.peer == Peer::Local {
        named.extend(config.socket.filter.as_deref());
    } else {
        let tagged = |tag: &Option<Line>| supposed.tag.is_none() || *tag == supposed.tag;
        let listeners = config.listeners.iter().filter(|one| tagged(&one.tag));
        named.extend(listeners.filter_map(|one| one.filter.as_deref()));
    }
    for name in named {
        page.line(0, &format!("filter {name} of a listener"));
        write(context, name, facts, rcpt, false, page);
    }
}

/// The filters of the recipient's rule.
pub fn of_rule(context: &Context<'_>, name: &str, facts: &Facts, rcpt: &MailAddr, page: &mut Page) {
    page.line(0, &format!("filter {name} of the rule"));
    write(context, name, facts, rcpt, true, page);
}

fn write(
    context: &Context<'_>,
    name: &str,
    facts: &Facts,
    rcpt: &MailAddr,
    rule: bool,
    page: &mut Page,
) {
    let line = |address: &MailAddr| Some(Line::sanitize(address.to_string().as_bytes()));
    let known = filter::Facts {
        peer: facts.peer.clone(),
        tag: facts.tag.clone(),
        rdns: facts.rdns.clone(),
        // A name that is supposed is supposed to lead back.
        confirmed: Some(facts.rdns.is_some()),
        helo: Some(facts.helo.clone()),
        user: facts.username.clone(),
        sender: line(&facts.sender),
        rcpt: line(rcpt),
    };
    for opinion in preview(context.config, context.tables, name, &known, rule) {
        page.line(1, &words(&opinion));
    }
}

fn words(opinion: &Opinion<'_>) -> String {
    let filter = opinion.filter;
    let Some((phase, decided)) = &opinion.said else {
        return format!("{filter}: a program, which is not asked");
    };
    let decision = match decided {
        Ok(decision) => decision.to_string(),
        Err(error) => format!("reject 451 4.3.0 Temporary failure: {error}"),
    };
    format!("{} {filter}: {decision}", phase.word())
}
