//! `lmtp` actions: many messages over few connections, an outcome for each recipient.
//!
//! A worker of the local delivery pool brings envelopes of one action that may share a
//! connection. Envelopes of one message travel in one transaction. A connection is kept a little
//! for the next message; one that turns out to have been closed meanwhile is replaced, once, before
//! anything is called a failure. To a host the engine connects itself. To a unix socket a child
//! connects that has become the recipient (`connect`), for it may be open to the recipient only.
//!
//! What cannot be done so is not done here: with a wrapper, or a destination that differs from
//! user to user, mail.lmtp(8) is run.

mod connect;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use crate::client::{Content as _, Message, Recipient, Session, Transacted};
use crate::config::{Delivery, LmtpDest, LocalAction};
use crate::mail::{Envelope, EvpId, Kind, MailAddr, Notify, Outcome, Verdict};
use crate::privsep::Calls;
use crate::queue::Queue;
use crate::table::Snapshot;
use crate::util::Line;

use super::local::content::{Content, NoContent};
use super::local::exit::{Settled, quote_last_line};
use super::local_action;
use super::pool::Pool;

/// Finds the addresses of a host; the words say why there are none.
#[derive(Clone)]
pub struct Names(Arc<Find>);

type Find = dyn Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync;

impl Names {
    /// By this function, which may block.
    pub fn new(
        find: impl Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync + 'static,
    ) -> Names {
        Names(Arc::new(find))
    }
}

/// Finds addresses that are written as such, and no others.
impl Default for Names {
    fn default() -> Names {
        Names::new(|_| Err("Name or service not known".to_owned()))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// Which connection an envelope can travel on: the action, and who connects, where that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionKey {
    pub action: Line,
    /// As whom it is connected to; empty for a host.
    pub user: Line,
}

/// How `envelope` travels by this room; `None` if it takes a process of its own.
pub fn connection_key(action: Option<&LocalAction>, envelope: &Envelope) -> Option<ConnectionKey> {
    let (action, Kind::Local(local)) = (action?, &envelope.kind) else {
        return None;
    };
    let (Delivery::Lmtp { dest, .. }, None, None) =
        (&action.delivery, &action.wrapper, &local.command)
    else {
        return None;
    };
    if LmtpDest::varies(dest) {
        return None;
    }
    let user = match LmtpDest::parse(dest).ok()? {
        LmtpDest::Host { .. } => Line::default(),
        LmtpDest::Socket(_) => action.user.clone().unwrap_or_else(|| local.user.clone()),
    };
    Some(ConnectionKey {
        action: envelope.action.clone(),
        user,
    })
}

/// What all workers share.
pub struct Lmtp {
    queue: Queue,
    calls: Arc<dyn Calls>,
    names: Names,
    /// Connections by what they are for, with the version of the configuration that this is of.
    idle: Pool<(u64, ConnectionKey), Session>,
}

impl Lmtp {
    /// Nothing is connected yet.
    pub fn new(queue: Queue, calls: Arc<dyn Calls>, names: Names) -> Lmtp {
        Lmtp {
            queue,
            calls,
            names,
            idle: Pool::default(),
        }
    }

    /// Delivers envelopes of one [`ConnectionKey`]; each comes out of `report` once.
    pub fn deliver(
        &self,
        now: &Snapshot,
        envelopes: Vec<Envelope>,
        report: &mut dyn FnMut(&Envelope, Settled),
    ) {
        let Some((key, rcpt_to)) = envelopes.first().and_then(|first| find(now, first)) else {
            let settled = Settled::not_started("not an envelope for lmtp");
            return envelopes.iter().for_each(|e| report(e, settled.clone()));
        };
        let mut batches = by_message(envelopes);
        let key = (now.version, key);
        let mut used = self.take(&key);
        while let Some(batch) = batches.pop_front() {
            let batch = self.without_loops(batch, report);
            let Some(first) = batch.first() else {
                continue;
            };
            let reused = used.is_some();
            let session = match used.take() {
                Some(session) => Ok(session),
                None => connect::open(self, now, first),
            };
            let mut session = match session {
                Ok(session) => session,
                Err(settled) => {
                    let rest = batches.iter().flatten();
                    return batch
                        .iter()
                        .chain(rest)
                        .for_each(|e| report(e, settled.clone()));
                }
            };
            let before = batch.len();
            let left = self.send(&mut session, batch, rcpt_to, report);
            if left.len() < before || reused {
                batches.push_front(left);
            } else {
                let settled = unwilling(&session);
                left.iter().for_each(|e| report(e, settled.clone()));
            }
            used = session.can_take_more().then_some(session);
        }
        if let Some(session) = used {
            self.put(key, session);
        }
    }

    /// Lets connections go that nothing has come for.
    pub fn sweep(&self) {
        // The answer to QUIT is waited for.
        self.idle.expired().into_iter().for_each(Session::quit);
    }

    /// Sends one message; says which envelopes were not tried.
    fn send(
        &self,
        session: &mut Session,
        batch: Vec<Envelope>,
        rcpt_to: bool,
        report: &mut dyn FnMut(&Envelope, Settled),
    ) -> Vec<Envelope> {
        let content = || Content::open_for(&self.queue, &batch);
        let message = Message {
            sender: batch
                .first()
                .map_or_else(MailAddr::null, |e| e.sender.clone()),
            size_bytes: None,
            eight_bit: content.is_eight_bit(),
            // What the sender wants to be told is ours to tell.
            ret: None,
            envid: None,
            content: &content,
        };
        let recipients = batch.iter().map(|e| recipient(e, rcpt_to)).collect();
        let Transacted { settled, untried } = session.transaction(&message, recipients);
        for (id, outcome) in settled {
            if let Some(envelope) = batch.iter().find(|envelope| envelope.id == id) {
                report(envelope, self::settled(outcome));
            }
        }
        let is_untried = |id: EvpId| untried.iter().any(|recipient| recipient.id == id);
        batch.into_iter().filter(|e| is_untried(e.id)).collect()
    }

    /// Settles those that were delivered here before, or cannot be read.
    fn without_loops(
        &self,
        batch: Vec<Envelope>,
        report: &mut dyn FnMut(&Envelope, Settled),
    ) -> Vec<Envelope> {
        let mut batch = batch;
        batch.retain(|envelope| match Content::open(&self.queue, envelope) {
            Ok(_) => true,
            Err(NoContent::Loop) => {
                report(envelope, Settled::looped());
                false
            }
            Err(NoContent::Io(_)) => {
                report(envelope, super::local::batch::no_message());
                false
            }
        });
        batch
    }

    fn take(&self, key: &(u64, ConnectionKey)) -> Option<Session> {
        let session = self.idle.take(key)?;
        session.can_take_more().then_some(session)
    }

    fn put(&self, key: (u64, ConnectionKey), session: Session) {
        if let Some(oldest) = self.idle.put(key, session) {
            oldest.quit();
        }
    }
}

/// How an envelope travels, and whether the server hears the recipient's address.
fn find(now: &Snapshot, envelope: &Envelope) -> Option<(ConnectionKey, bool)> {
    let action = local_action(now, envelope)?;
    match &action.delivery {
        Delivery::Lmtp { rcpt_to, .. } => Some((connection_key(Some(action), envelope)?, *rcpt_to)),
        _ => None,
    }
}

/// Envelopes of the same message together, in the order the messages came.
fn by_message(envelopes: Vec<Envelope>) -> VecDeque<Vec<Envelope>> {
    let mut batches: VecDeque<Vec<Envelope>> = VecDeque::new();
    for envelope in envelopes {
        let same = |batch: &&mut Vec<Envelope>| {
            batch.first().is_some_and(|first| {
                first.id.msgid() == envelope.id.msgid() && first.sender == envelope.sender
            })
        };
        match batches.iter_mut().find(same) {
            Some(batch) => batch.push(envelope),
            None => batches.push_back(vec![envelope]),
        }
    }
    batches
}

fn recipient(envelope: &Envelope, rcpt_to: bool) -> Recipient {
    let user = match &envelope.kind {
        Kind::Local(local) if !rcpt_to => local.user.clone(),
        _ => Line::sanitize(envelope.dest.to_string().as_bytes()),
    };
    Recipient {
        id: envelope.id,
        to: user,
        notify: Notify::default(),
        orcpt: None,
    }
}

/// The words of the log for an outcome, those of mail.lmtp(8) run as a command.
fn settled(outcome: Outcome) -> Settled {
    let said = match outcome.remote {
        Some(_) => format!("LMTP server error: {}", outcome.text),
        None => outcome.text.to_string(),
    };
    let said = quote_last_line(said.as_bytes()).unwrap_or_default();
    match outcome.verdict {
        // Success has no text in envelopes and reports of local deliveries.
        Verdict::Delivered => Settled::delivered(),
        Verdict::TempFail => Settled {
            outcome,
            result: "TempFail",
            stat: format!("Error (temporary failure: {said})"),
        },
        Verdict::PermFail | Verdict::Loop => Settled {
            outcome,
            result: "PermFail",
            stat: format!("Error (service unavailable: {said})"),
        },
    }
}

/// A new connection that took nothing.
fn unwilling(session: &Session) -> Settled {
    let text = match session.failure() {
        Some(failure) => failure.text.clone(),
        None => Line::sanitize(b"LMTP server takes no message"),
    };
    Settled::temporary(&text)
}

fn io_error(error: NoContent) -> io::Error {
    match error {
        NoContent::Io(error) => error,
        NoContent::Loop => io::Error::other("loop"),
    }
}

impl Content {
    /// The message as several recipients may all see it: one's own header if there is one only.
    fn open_for(queue: &Queue, envelopes: &[Envelope]) -> io::Result<Content> {
        match envelopes {
            [one] => Content::open(queue, one).map_err(io_error),
            [first, ..] => Content::open_shared(queue, first),
            [] => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}
