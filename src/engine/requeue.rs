//! `smtpctl requeue` and `edit`: rules and expansion are run again for envelopes that wait.
//!
//! They are paused first, so that nobody delivers them meanwhile; what rules and expansion make of
//! the recipients now becomes a new message with the same text; when that is durable, the old
//! envelopes are removed. A crash in between leaves both, paused the old ones, and loses nothing.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::control::message::{Answer, Ask, Change, Which};
use crate::log;
use crate::mail::{Envelope, EvpId, Facts, Kind, MailAddr, MsgId};
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
        // What differs by sender or client is another message.
        taken.sort_by_key(|taken| origin(&taken.envelope));
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

/// As the listing says. One that is not listed is gone, which loading it tells.
fn is_inflight(services: &Services, id: EvpId) -> Result<bool, String> {
    let listing = Ask::List {
        after: id.get().checked_sub(1).and_then(EvpId::from_u64),
        only: Some(id.msgid()),
    };
    match ask(services, listing)? {
        Answer::Envelopes(listed) => Ok(listed
            .iter()
            .any(|listed| listed.id == id && listed.text.contains("|inflight|"))),
        other => Err(format!("it cannot be listed: {other:?}")),
    }
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
    for taken in alike {
        let envelope = &taken.envelope;
        let rcpt = change.rcpt.as_ref().unwrap_or(&envelope.rcpt);
        let asked = Asked {
            notify: envelope.dsn.notify,
            orcpt: envelope.dsn.orcpt.clone(),
        };
        // The text has been through the filters.
        match services
            .expand(&facts, rcpt)
            .map(|expanded| expanded.destinations)
        {
            Ok(destinations) if !destinations.is_empty() => {
                transaction
                    .add(rcpt, &asked, destinations, now)
                    .map_err(|error| error.to_string())?;
                going.push(envelope.id);
            }
            Ok(_) => not_going.push((taken, format!("<{rcpt}> leads nowhere"))),
            Err(refusal) => not_going.push((taken, format!("{} {}", refusal.code, refusal.text))),
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

/// What rules saw, but for TLS, which nothing remembers.
fn facts(envelope: &Envelope, change: &Change) -> Facts {
    let known = &*envelope.hostname != "<unknown>";
    Facts {
        peer: envelope.peer.clone(),
        rdns: known.then(|| envelope.hostname.clone()),
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
