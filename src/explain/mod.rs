//! What would become of a recipient, and why: smtpctl(8)'s `explain` and smtpd(8)'s `-E`.
//!
//! Nothing is judged here. The recipient goes through the very code that a session's would go
//! through, which tells what it does ([`crate::expansion::watch`]); what is heard is put on a
//! `page`. Nothing is queued, delivered or asked of another host. The page is bounded, whatever
//! the configuration; every line of it is printable.

#![forbid(unsafe_code)]

mod destination;
mod filters;
mod page;
mod recorder;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::expansion::{self, Context};
use crate::mail::{Destination, Facts, Literal, MailAddr, Peer, Refusal, Supposed};
use crate::session::{bad_recipient, bad_sender, recipient_reply};
use crate::smtp::domain_name::is_host_name;
use crate::smtp::path;
use crate::util::Line;

use destination::Deliveries;
use page::Page;
use recorder::Recorder;

/// Says what would become of the recipient. `libexec` is where the mail.* helpers are. The
/// context's own watch does not hear of it.
pub fn explain(context: &Context<'_>, libexec: &Path, supposed: &Supposed) -> String {
    let mut page = Page::default();
    let reply = match envelope(context, supposed) {
        Err(reply) => reply.to_string(),
        Ok((facts, rcpt)) => {
            introduce(&facts, &rcpt, &mut page);
            filters::of_listeners(context, supposed, &facts, &rcpt, &mut page);
            let recorder = Recorder::new(context.config, context.tables);
            let watched = Context {
                watch: Some(&recorder),
                ..*context
            };
            let judged = expansion::expand(&watched, &facts, &rcpt);
            recorder.write(&mut page);
            if let Ok(Some(name)) = judged.as_ref().map(|judged| judged.filter.as_ref()) {
                filters::of_rule(context, name, &facts, &rcpt, &mut page);
            }
            let judged = judged.map(|judged| judged.destinations);
            page.line(0, &reason(&judged));
            let deliveries = Deliveries {
                context,
                libexec,
                sender: &facts.sender,
                rcpt: &rcpt,
            };
            for (number, destination) in judged.iter().flatten().enumerate() {
                page.line(0, &deliveries.words(number + 1, destination));
            }
            recipient_reply(&rcpt, judged.as_ref().map(drop)).to_string()
        }
    };
    page.finish(&format!("reply {reply}"))
}

/// The session and the recipient, or what the client hears instead.
fn envelope(
    context: &Context<'_>,
    supposed: &Supposed,
) -> Result<(Facts, MailAddr), crate::smtp::Reply> {
    let server_name = &context.config.server_name;
    let sender = argument(supposed.sender.as_deref().unwrap_or_default());
    let (sender, rest) = path::reverse(&sender, server_name).map_err(|_| bad_sender())?;
    if !rest.is_empty() {
        return Err(bad_sender());
    }
    let rcpt = argument(supposed.rcpt.as_deref().unwrap_or("postmaster"));
    let (rcpt, rest) = path::forward(&rcpt, server_name).map_err(|_| bad_recipient())?;
    if !rest.is_empty() {
        return Err(bad_recipient());
    }
    Ok((facts(context, supposed, sender), rcpt))
}

/// An address as an argument of MAIL or RCPT.
fn argument(text: &str) -> Vec<u8> {
    if text.starts_with('<') {
        text.as_bytes().to_vec()
    } else {
        format!("<{text}>").into_bytes()
    }
}

/// What a session with these properties knows when its recipients are judged.
fn facts(context: &Context<'_>, supposed: &Supposed, sender: MailAddr) -> Facts {
    let peer = supposed.peer.clone().unwrap_or(Peer::Local);
    let local = peer == Peer::Local;
    let rdns = if local {
        Some(context.config.server_name.clone())
    } else {
        supposed.rdns.clone().filter(|name| is_host_name(name))
    };
    let socket_tag = context.config.socket.tag.clone().filter(|_| local);
    Facts {
        helo: supposed.helo.clone().unwrap_or_else(|| own_name(&peer)),
        rdns,
        rdns_failed: false,
        authenticated: local || supposed.username.is_some(),
        username: supposed.username.clone(),
        tls: supposed.tls,
        tag: supposed.tag.clone().or(socket_tag),
        sender,
        peer,
    }
}

/// RFC 5321 §4.1.3: what a client without a name greets with.
fn own_name(peer: &Peer) -> Line {
    let name = match peer {
        Peer::Local => "localhost".to_owned(),
        Peer::Inet { addr, .. } => Literal(*addr).to_string(),
    };
    Line::sanitize(name.as_bytes())
}

fn introduce(facts: &Facts, rcpt: &MailAddr, page: &mut Page) {
    let or_none = |line: &Option<Line>| line.as_deref().unwrap_or("none").to_owned();
    let auth = match (&facts.username, facts.authenticated) {
        (Some(user), _) => user.to_string(),
        (None, true) => "local".to_owned(),
        (None, false) => "none".to_owned(),
    };
    page.line(
        0,
        &format!(
            "session src={} rdns={} helo={} auth={auth} tag={} tls={}",
            facts.peer,
            or_none(&facts.rdns),
            facts.helo,
            or_none(&facts.tag),
            if facts.tls { "yes" } else { "no" },
        ),
    );
    page.line(0, &format!("sender <{}>", facts.sender));
    page.line(0, &format!("recipient <{rcpt}>"));
}

fn reason(judged: &Result<Vec<Destination>, Refusal>) -> String {
    match judged {
        Ok(found) if found.len() == 1 => "accepted: 1 destination".to_owned(),
        Ok(found) => format!("accepted: {} destinations", found.len()),
        Err(refusal) => {
            let rule = refusal.rule.as_deref().unwrap_or("none");
            let reason = refusal.reason.as_deref().unwrap_or("not known");
            format!("refused: {reason}; rule {rule}")
        }
    }
}
