//! `smtpctl requeue` and `edit`: rules and expansion are run again for envelopes that wait.
//!
//! They are paused first, so that nobody delivers them meanwhile; what rules and expansion make of
//! the recipients now becomes a new message with the same text; when that is durable, the old
//! envelopes are removed. A crash in between leaves both, paused the old ones, and loses nothing.
//!
//! A recipient may lead to several places, and some may have the message already or be getting it
//! now. Nothing remembers which, so a place gets it only for an envelope that waited for that place
//! (`places`).

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::control::message::{Answer, Ask, Change, Which};
use crate::log;
use crate::mail::{Destination, Envelope, EvpId, Facts, Kind, Local, MailAddr, MsgId};
use crate::queue::LoadError;
use crate::session::Services as _;
use crate::transaction::{Asked, Source, Terms, Transaction};
use crate::util::Timestamp;

use super::services::Services;

/// How long the runner may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does it for envelopes of one message, or of several; says how many, and why others are not.
pub fn requeue(services: &Arc<Services>, ids: &[EvpId], change: &Change) -> Answer {
    let (mut count, mut complaints) = (0, Vec::new());
    for group in ids.chunk_by(|a, b| a.msgid() == b.msgid()) {
        let mut taken = Vec::new();
        for id in group {
            match take(services, *id) {
                Ok(envelope) => taken.push(envelope),
                Err(why) => complaints.push(format!("envelope {id}: {why}")),
            }
        }
        // What differs by sender or client is another message; a recipient is expanded once.
        taken.sort_by_cached_key(|taken| (origin(&taken.envelope), taken.envelope.rcpt.clone()));
        for alike in taken.chunk_by(|a, b| origin(&a.envelope) == origin(&b.envelope)) {
            let done = again(services, alike, change, &mut complaints);
            count += u32::try_from(done).unwrap_or(u32::MAX);
        }
    }
    Answer::Requeued(count, complaints)
}

/// An envelope that is paused and not in flight.
struct Taken {
    envelope: Envelope,
    /// Whether it was paused already.
    was_paused: bool,
}

fn take(services: &Services, id: EvpId) -> Result<Taken, String> {
    let was_paused = match ask(services, Ask::Suspend(Which::Envelope(id)))? {
        Answer::Count(count) => count == 0,
        other => return Err(format!("it cannot be paused: {other:?}")),
    };
    let taken = || {
        if is_inflight(services, id)? {
            return Err("it is being delivered: try again".to_owned());
        }
        let envelope = services.queue.load(id).map_err(|error| match error {
            LoadError::Missing => "it is gone".to_owned(),
            LoadError::Corrupt(why) => why,
            LoadError::Io(error) => error.to_string(),
        })?;
        match envelope.kind {
            Kind::Bounce(_) => Err("it is a report that is not written yet".to_owned()),
            _ => Ok(envelope),
        }
    };
    match taken() {
        Ok(envelope) => Ok(Taken {
            envelope,
            was_paused,
        }),
        Err(why) => {
            give_back(services, id, was_paused);
            Err(why)
        }
    }
}

fn give_back(services: &Services, id: EvpId, was_paused: bool) {
    if !was_paused && let Err(why) = ask(services, Ask::Resume(Which::Envelope(id))) {
        log::warn(format_args!("requeue: envelope {id} stays paused: {why}"));
    }
}

/// One that is not known is gone, which loading it tells.
fn is_inflight(services: &Services, id: EvpId) -> Result<bool, String> {
    let (reply, answer) = bounded(1);
    let reply = Box::new(move |is_inflight| {
        // Who asked may have given up.
        let _ = reply.send(is_inflight);
    });
    if !services.runner.ask_inflight(id, reply) {
        return Err("the queue runner is busy".to_owned());
    }
    wait_for(&answer)
}

fn ask(services: &Services, ask: Ask) -> Result<Answer, String> {
    let (reply, answer) = bounded(1);
    let reply = Box::new(move |answer| drop(reply.send(answer)));
    if let Some(refused) = services.runner.ask(ask, reply) {
        return match refused {
            Answer::Fail(why) => Err(why),
            other => Ok(other),
        };
    }
    wait_for(&answer)
}

fn wait_for<T>(answer: &Receiver<T>) -> Result<T, String> {
    answer
        .recv_timeout(PATIENCE)
        .map_err(|_| "the queue runner does not answer".to_owned())
}

/// What envelopes of one transaction have in common.
fn origin(envelope: &Envelope) -> (MailAddr, String) {
    let flags = &envelope.flags;
    let text = format!(
        "{} {:?} {:?} {} {} {} {:?}",
        envelope.peer,
        envelope.tag,
        envelope.username,
        flags.authenticated,
        flags.bounce,
        envelope.hostname,
        envelope.dsn.envid
    );
    (envelope.sender.clone(), text)
}

/// Queues them again; says how many, and complains of the others, which stay as they were.
fn again(
    services: &Arc<Services>,
    alike: &[Taken],
    change: &Change,
    complaints: &mut Vec<String>,
) -> usize {
    let mut refused = |taken: &Taken, why: &str| {
        give_back(services, taken.envelope.id, taken.was_paused);
        complaints.push(format!("envelope {}: {why}", taken.envelope.id));
    };
    match try_again(services, alike, change, &mut refused) {
        Ok((msgid, going)) => {
            for id in &going {
                log::info(format_args!(
                    "info: requeue: envelope {id} is message {msgid} now"
                ));
                if let Err(why) = ask(services, Ask::Remove(Which::Envelope(*id))) {
                    log::warn(format_args!("requeue: envelope {id} stays, paused: {why}"));
                }
            }
            going.len()
        }
        Err(why) => {
            alike.iter().for_each(|taken| refused(taken, &why));
            0
        }
    }
}

fn try_again(
    services: &Arc<Services>,
    alike: &[Taken],
    change: &Change,
    refused: &mut dyn FnMut(&Taken, &str),
) -> Result<(MsgId, Vec<EvpId>), String> {
    let Some(first) = alike.first().map(|taken| &taken.envelope) else {
        return Err("there is no envelope".to_owned());
    };
    let now = Timestamp::now();
    let facts = facts(first, change);
    let incoming = services.begin().map_err(|error| format!("{error:?}"))?;
    let (ret, envid) = (first.dsn.ret, first.dsn.envid.clone());
    let smtpname = first.smtpname.clone();
    let mut transaction = Transaction::begin(incoming, facts.clone(), smtpname, ret, envid);
    if first.flags.bounce {
        transaction = transaction.report();
    }
    let (mut going, mut not_going) = (Vec::new(), Vec::new());
    for group in alike.chunk_by(|a, b| rcpt(a, change) == rcpt(b, change)) {
        let Some(rcpt) = group.first().map(|taken| rcpt(taken, change)) else {
            continue;
        };
        // The text has been through the filters.
        let expanded = match services.expand(&facts, rcpt) {
            Ok(expanded) => expanded.destinations,
            Err(refusal) => {
                let why = format!("{} {}", refusal.code, refusal.text);
                not_going.extend(group.iter().map(|taken| (taken, why.clone())));
                continue;
            }
        };
        for taken in group {
            let envelope = &taken.envelope;
            let destinations = match change.rcpt {
                Some(_) => expanded.clone(),
                None => places(envelope, &expanded),
            };
            if destinations.is_empty() {
                let why = format!("<{rcpt}> leads elsewhere now: edit its recipient");
                not_going.push((taken, why));
                continue;
            }
            let asked = Asked {
                notify: envelope.dsn.notify,
                orcpt: envelope.dsn.orcpt.clone(),
            };
            transaction
                .add(rcpt, &asked, destinations, now)
                .map_err(|error| error.to_string())?;
            going.push(envelope.id);
        }
    }
    let msgid = transaction.msgid();
    if !going.is_empty() {
        let mut writing = transaction
            .write(Terms::as_it_is(Source::Masked), now)
            .map_err(|e| e.to_string())?;
        let body = services.queue.open_body(first.id.msgid());
        let mut body = body.map_err(|error| error.to_string())?;
        let mut buffer = vec![0; 64 * 1024];
        let mut read_bytes = 0;
        loop {
            let count = body.read(&mut buffer).map_err(|error| error.to_string())?;
            if count == 0 {
                break;
            }
            read_bytes += count as u64;
            writing.write(&buffer[..count], read_bytes);
            if writing.is_full() {
                writing.spill();
            }
        }
        let accepted = writing.finish().map_err(|fault| format!("{fault:?}"))?;
        services.committed(accepted.committed);
    }
    for (taken, why) in not_going {
        refused(taken, &why);
    }
    Ok((msgid, going))
}

fn rcpt<'t>(taken: &'t Taken, change: &'t Change) -> &'t MailAddr {
    change.rcpt.as_ref().unwrap_or(&taken.envelope.rcpt)
}

/// Where an envelope goes now, of all to which its recipient leads now.
///
/// An address that was relayed led to nobody else, so all that comes of it now is new. A mailbox,
/// file or command may be one of several of its address, so it has to be that one still; only a
/// user whose own address is relayed now is followed there.
fn places(envelope: &Envelope, expanded: &[Destination]) -> Vec<Destination> {
    let dest = &envelope.dest;
    let is_relayed = envelope.kind == Kind::Relay;
    if is_relayed && !envelope.flags.internal && dest.is_same(&envelope.rcpt) {
        return expanded.to_vec();
    }
    let of_dest = |kept: &dyn Fn(&Kind) -> bool| -> Vec<Destination> {
        let found = expanded
            .iter()
            .filter(|to| to.dest.is_same(dest) && kept(&to.kind));
        found.cloned().collect()
    };
    let unchanged = of_dest(&|kind| *kind == envelope.kind);
    match &envelope.kind {
        _ if !unchanged.is_empty() => unchanged,
        Kind::Relay => of_dest(&|_| true),
        Kind::Local(local) if is_own(local, dest) => of_dest(&|kind| *kind == Kind::Relay),
        _ => Vec::new(),
    }
}

/// Whether it is this user whom the address names, with its sub-address.
fn is_own(local: &Local, address: &MailAddr) -> bool {
    let name = address.user().to_ascii_lowercase();
    let Some(rest) = name.strip_prefix(&*local.user) else {
        return false;
    };
    let mut rest = rest.chars();
    let is_delimited = rest.next().is_some();
    let subaddress = is_delimited.then_some(rest.as_str());
    let known = local.subaddress.as_deref().map(str::to_ascii_lowercase);
    local.command.is_none() && subaddress == known.as_deref()
}

/// What rules saw, but for TLS, which nothing remembers.
fn facts(envelope: &Envelope, change: &Change) -> Facts {
    let known = &*envelope.hostname != "<unknown>";
    Facts {
        peer: envelope.peer.clone(),
        rdns: known.then(|| envelope.hostname.clone()),
        rdns_failed: false,
        helo: envelope.helo.clone(),
        authenticated: envelope.flags.authenticated,
        username: envelope.username.clone(),
        tls: false,
        tag: envelope.tag.clone(),
        sender: change
            .sender
            .clone()
            .unwrap_or_else(|| envelope.sender.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Command;
    use crate::mail::samples::{self, line};

    fn address(text: &str) -> MailAddr {
        MailAddr::from_stored(text).unwrap()
    }

    /// A user, one with a sub-address, or a command.
    fn local(user: &str) -> Kind {
        let (command, user) = match user.strip_prefix('|') {
            Some(command) => (Some(Command::Pipe(line(command))), "_smtpd"),
            None => (None, user),
        };
        let (user, subaddress) = match user.split_once('+') {
            Some((user, subaddress)) => (user, Some(line(subaddress))),
            None => (user, None),
        };
        Kind::Local(Local {
            user: line(user),
            subaddress,
            command,
        })
    }

    /// `dest=user`, or an address that is relayed.
    fn place(text: &str) -> (MailAddr, Kind) {
        match text.split_once('=') {
            Some((dest, user)) => (address(dest), local(user)),
            None => (address(text), Kind::Relay),
        }
    }

    /// Which of the places `now` an envelope of `rcpt` that waited for `before` goes to.
    fn kept<'t>(rcpt: &str, before: &str, now: &[&'t str]) -> Vec<&'t str> {
        let mut envelope = samples::envelope("bob");
        envelope.rcpt = address(rcpt);
        (envelope.dest, envelope.kind) = place(before);
        envelope.flags.internal = !envelope.dest.is_same(&envelope.rcpt);
        let expanded: Vec<Destination> = now
            .iter()
            .map(|text| {
                let (dest, kind) = place(text);
                Destination {
                    action: line("another"),
                    dest,
                    kind,
                    internal: false,
                    sameness: (*text).to_owned(),
                }
            })
            .collect();
        let places = places(&envelope, &expanded);
        let is_kept = |text: &&&str| places.iter().any(|place| place.sameness == **text);
        now.iter().filter(is_kept).copied().collect()
    }

    #[test]
    fn an_envelope_goes_where_it_went_and_nowhere_else() {
        // smtpctl(8), requeue.
        let now = [
            "staff@a.org=bob",
            "staff@a.org=eve",
            "staff@a.org=eve+x",
            "staff@a.org=|cat",
            "c@B.org",
            "C@b.org",
        ];
        for text in now {
            assert_eq!(kept("staff@a.org", text, &now), [text]);
        }
        assert_eq!(kept("staff@a.org", "c@b.ORG", &now), ["c@B.org"]);
        for gone in [
            "staff@a.org=dan",
            "staff@a.org=bob+x",
            "staff@a.org=|dog",
            "d@b.org",
        ] {
            assert!(kept("staff@a.org", gone, &now).is_empty(), "{gone}");
        }
    }

    #[test]
    fn an_address_that_was_relayed_is_followed_to_those_it_leads_to_now() {
        // smtpctl(8), requeue: nobody else had it by that address.
        let now = ["c@b.org=carol", "c@b.org=|cat", "x@y.org"];
        assert_eq!(kept("c@b.org", "c@B.org", &now), now);
        assert_eq!(kept("staff@a.org", "c@b.org", &now), now[..2]);
        // But not if it is still relayed beside a mailbox, which has got its own.
        let now = ["c@b.org=carol", "c@b.org"];
        assert_eq!(kept("staff@a.org", "c@b.org", &now), now[1..]);
    }

    #[test]
    fn a_mailbox_is_followed_to_a_host_if_the_address_is_its_own() {
        // smtpctl(8), requeue: a host may give it to all of a list again.
        assert_eq!(kept("Bob@a.org", "Bob@a.org=bob", &["Bob@a.org"]).len(), 1);
        assert_eq!(kept("b+X@a.org", "b+X@a.org=b+x", &["b+X@a.org"]).len(), 1);
        for other in [
            "staff@a.org=bob",
            "staff@a.org=staf+f",
            "staff@a.org=sta",
            "staff@a.org=|cat",
        ] {
            let kept = kept("staff@a.org", other, &["staff@a.org"]);
            assert!(kept.is_empty(), "{other}");
        }
    }
}
