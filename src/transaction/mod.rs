//! MAIL, RCPT, DATA, commit or roll back: the one door into the queue.
//!
//! A [`Transaction`] is made by MAIL and collects recipients; [`Transaction::write`] turns it into
//! a [`Writing`], which takes the message's text and ends in [`Accepted`] or a [`Fault`]. Whatever
//! is dropped before that has rolled back. After a fault the rest of the text is taken and thrown
//! away, so that the caller can read on to the final dot.

#![forbid(unsafe_code)]

mod merge;
mod message;
mod received;

use std::collections::HashMap;
use std::sync::Arc;
use std::{fmt, io};

use crate::mail::peer::UNKNOWN_NAME;
use crate::mail::{
    Destination, Dsn, Envelope, EvpId, Facts, Flags, MailAddr, MsgId, Notify, Past, Ret,
};
use crate::queue::{self, Committed, Incoming};
use crate::sys::localtime;
use crate::util::{Line, Timestamp};

use message::Message;
use received::Received;

/// An open transaction: a sender, and the recipients so far.
pub struct Transaction {
    incoming: Incoming,
    facts: Arc<Facts>,
    smtpname: Line,
    ret: Option<Ret>,
    envid: Option<Line>,
    /// Whether it is a report of ours.
    bounce: bool,
    recipients: Vec<(EvpId, MailAddr)>,
    /// The latest envelope for each destination, and for which recipient it is.
    known: HashMap<String, Addressed>,
    envelopes: usize,
}

/// Envelopes from which on a recipient that needs more of them is for another transaction. One
/// recipient alone may need more.
pub const ENVELOPES_ENOUGH: usize = 2_000;

/// An envelope of this transaction, and for whom it is.
struct Addressed {
    id: EvpId,
    rcpt: MailAddr,
    asked: Asked,
}

/// What the sender asked to be told about one recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub notify: Notify,
    pub orcpt: Option<Line>,
}

/// How a message is taken in.
#[derive(Clone, Debug)]
pub struct Terms {
    /// HELO or EHLO.
    pub protocol: Protocol,
    /// Whether Received says where the client was.
    pub source: Source,
    /// TLS, if the client came by it.
    pub tls: Option<TlsFacts>,
    /// `received-auth`: whether Received says who has logged in.
    pub user: ShownUser,
    /// Whether the header is completed.
    pub completion: Completion,
    /// Whether it is marked as junk.
    pub junk: bool,
    /// Whether our own fields go where its text comes from, and come back with that.
    pub filtered: bool,
    /// `senders … masquerade`: From gets the address of the sender.
    pub masquerade: bool,
    /// The largest message, as [`Writing::write`] is told its size.
    pub limit_bytes: u64,
}

impl Terms {
    /// The terms of a message that the daemon brings itself, a report or one of its queue: it is taken
    /// as it is.
    pub fn as_it_is(source: Source) -> Terms {
        Terms {
            protocol: Protocol::Esmtp,
            source,
            tls: None,
            user: ShownUser::Hidden,
            completion: Completion::None,
            junk: false,
            filtered: false,
            masquerade: false,
            limit_bytes: u64::MAX,
        }
    }
}

/// What the client greeted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
}

impl Protocol {
    /// `SMTP` or `ESMTP`, for Received and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Smtp => "SMTP",
            Protocol::Esmtp => "ESMTP",
        }
    }
}

/// `mask-src`, or its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Received begins with its `from` clause.
    Shown,
    /// The clause is left out.
    Masked,
}

/// What TLS with a client came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `version:cipher:bits`.
    pub ciphers: Line,
    /// The digest of the certificate that the client has shown, which is a valid one.
    pub certificate: Option<Line>,
}

/// `received-auth`, or its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownUser {
    /// Received says whether the client has logged in, and as whom.
    Shown,
    Hidden,
}

/// What may be done to the header of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Nothing but Received in front: mail from elsewhere, whose signatures must survive.
    None,
    /// RFC 6409 §8: addresses get this domain, Date and Message-ID are added, Bcc is removed.
    Submission(Line),
}

/// The mark of junk, which mail.maildir(8) and other programs look for.
const JUNK_FIELD: &str = "X-Spam: Yes\n";

/// A message being written, until the final dot.
pub struct Writing {
    /// Our own fields, where they are to be filtered.
    head: Vec<u8>,
    incoming: Incoming,
    sender: MailAddr,
    recipients: Vec<(EvpId, MailAddr)>,
    message: Message,
    limit_bytes: u64,
    /// Whether it is marked as junk.
    junk: bool,
    fault: Option<Fault>,
}

/// A message that is durable.
#[derive(Debug)]
pub struct Accepted {
    /// The proof.
    pub committed: Committed,
    /// Bytes in the queue, Received included.
    pub size_bytes: u64,
    /// The reverse-path.
    pub sender: MailAddr,
    /// Each accepted recipient, with the last of its envelopes.
    pub recipients: Vec<(EvpId, MailAddr)>,
}

/// Why a message is refused at the final dot.
#[derive(Debug)]
pub enum Fault {
    /// It is larger than the limit.
    TooBig,
    /// It has passed too many hosts.
    Loop,
    /// What stands before the first empty line is not a header section.
    Malformed,
    /// It holds a NUL.
    Nul,
    /// The queue cannot take its text.
    Write(io::Error),
    /// The queue cannot make it durable.
    Commit(io::Error),
}

impl Transaction {
    /// MAIL was accepted: `incoming` is a new message from `facts.sender`.
    pub fn begin(
        incoming: Incoming,
        facts: Facts,
        smtpname: Line,
        ret: Option<Ret>,
        envid: Option<Line>,
    ) -> Transaction {
        Transaction {
            incoming,
            facts: Arc::new(facts),
            smtpname,
            ret,
            envid,
            bounce: false,
            recipients: Vec::new(),
            known: HashMap::new(),
            envelopes: 0,
        }
    }

    /// Marks the message as a report of ours.
    pub fn report(self) -> Transaction {
        Transaction {
            bounce: true,
            ..self
        }
    }

    /// What rules may look at.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// The message's id.
    pub fn msgid(&self) -> MsgId {
        self.incoming.msgid()
    }

    /// Recipients accepted so far; one that expands to many destinations counts once.
    pub fn recipients(&self) -> usize {
        self.recipients.len()
    }

    /// Whether one more recipient with these destinations fits into the message.
    pub fn has_room(&self, destinations: &[Destination]) -> bool {
        let new = |destination: &&Destination| !self.known.contains_key(&destination.sameness);
        let more = destinations.iter().filter(new).count();
        self.envelopes == 0 || self.envelopes + more <= ENVELOPES_ENOUGH
    }

    /// Adds a recipient with its destinations, of which there is at least one; names the envelopes
    /// that are new. A destination that an earlier recipient has led to as well gets no second
    /// envelope, unless the sender is owed a report on each (`merge`). After an error the
    /// transaction holds part of them and must be dropped.
    pub fn add(
        &mut self,
        rcpt: &MailAddr,
        asked: &Asked,
        destinations: Vec<Destination>,
        now: Timestamp,
    ) -> io::Result<Vec<EvpId>> {
        let mut ids = Vec::with_capacity(destinations.len());
        let mut last = None;
        for destination in destinations {
            last = match self.merged(rcpt, asked, &destination.sameness)? {
                Some(id) => Some(id),
                None => {
                    let id = self.added(rcpt, asked, destination, now)?;
                    ids.push(id);
                    Some(id)
                }
            };
        }
        let last = last.ok_or_else(|| io::Error::other("a recipient without destinations"))?;
        self.recipients.push((last, rcpt.clone()));
        Ok(ids)
    }

    fn added(
        &mut self,
        rcpt: &MailAddr,
        asked: &Asked,
        destination: Destination,
        now: Timestamp,
    ) -> io::Result<EvpId> {
        let sameness = destination.sameness.clone();
        let envelope = self.envelope(rcpt, asked, destination, now)?;
        let id = self.incoming.add(envelope)?;
        self.envelopes += 1;
        let addressed = Addressed {
            id,
            rcpt: rcpt.clone(),
            asked: asked.clone(),
        };
        self.known.insert(sameness, addressed);
        Ok(id)
    }

    /// The envelope that serves this recipient as well, if there is one.
    fn merged(
        &mut self,
        rcpt: &MailAddr,
        asked: &Asked,
        sameness: &str,
    ) -> io::Result<Option<EvpId>> {
        let Some(known) = self.known.get_mut(sameness) else {
            return Ok(None);
        };
        let Some((name, asked)) = merge::merge((&known.rcpt, &known.asked), (rcpt, asked)) else {
            return Ok(None);
        };
        if (&known.rcpt, &known.asked) != (&name, &asked) {
            let dsn = Dsn {
                notify: asked.notify,
                ret: self.ret,
                envid: self.envid.clone(),
                orcpt: asked.orcpt.clone(),
            };
            self.incoming.readdress(known.id, name.clone(), dsn)?;
            (known.rcpt, known.asked) = (name, asked);
        }
        Ok(Some(known.id))
    }

    fn envelope(
        &self,
        rcpt: &MailAddr,
        asked: &Asked,
        destination: Destination,
        now: Timestamp,
    ) -> io::Result<Envelope> {
        let facts = &self.facts;
        Ok(Envelope {
            // Only a place: the queue names envelopes.
            id: EvpId::new(self.msgid(), 1).ok_or_else(|| io::Error::other("no envelope id"))?,
            action: destination.action,
            tag: facts.tag.clone(),
            kind: destination.kind,
            smtpname: self.smtpname.clone(),
            helo: facts.helo.clone(),
            hostname: facts
                .rdns
                .clone()
                .unwrap_or_else(|| Line::sanitize(UNKNOWN_NAME.as_bytes())),
            username: facts.username.clone(),
            errorline: None,
            peer: facts.peer.clone(),
            sender: facts.sender.clone(),
            rcpt: rcpt.clone(),
            dest: destination.dest,
            created: now,
            last_try: Timestamp(0),
            last_bounce: Timestamp(0),
            ttl_s: 0,
            retry: 0,
            flags: Flags {
                authenticated: facts.authenticated,
                bounce: self.bounce,
                internal: destination.internal,
                suspended: false,
            },
            dsn: Dsn {
                notify: asked.notify,
                ret: self.ret,
                envid: self.envid.clone(),
                orcpt: asked.orcpt.clone(),
            },
            status: None,
            past: Past::default(),
        })
    }

    /// DATA was accepted: writes Received and takes the message's text from now on.
    pub fn write(mut self, terms: Terms, now: Timestamp) -> io::Result<Writing> {
        let only = match self.recipients.as_slice() {
            [(_, rcpt)] => Some(rcpt),
            _ => None,
        };
        let received = Received {
            facts: &self.facts,
            smtpname: &self.smtpname,
            protocol: terms.protocol,
            source: terms.source,
            tls: terms.tls.as_ref(),
            user: terms.user,
            msgid: self.incoming.msgid(),
            only,
            date: &localtime::rfc5322_date(now.0),
        };
        let junk = if terms.junk { JUNK_FIELD } else { "" };
        let mut head = format!("{junk}{received}").into_bytes();
        let masquerade = terms.masquerade && !self.facts.sender.is_null();
        let masquerade = masquerade.then(|| self.facts.sender.clone());
        let message = Message::new(terms.completion, masquerade, self.incoming.msgid(), now);
        if !terms.filtered {
            self.incoming.write(&std::mem::take(&mut head))?;
        }
        Ok(Writing {
            head,
            incoming: self.incoming,
            sender: self.facts.sender.clone(),
            recipients: self.recipients,
            message,
            limit_bytes: terms.limit_bytes,
            junk: terms.junk,
            fault: None,
        })
    }
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {}", self.incoming.msgid())
    }
}

impl Writing {
    /// Takes the next piece of text, LF line ends, dots unstuffed. `received_bytes` is the size
    /// so far that counts against the limit.
    pub fn write(&mut self, text: &[u8], received_bytes: u64) {
        if self.fault.is_none() {
            self.fault = self.try_write(text, received_bytes).err();
        }
    }

    /// Our own fields, for filters; what becomes of them is written like all other text.
    pub fn take_head(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head)
    }

    /// All of it has come, and now filters call it junk: marks it, if it is not marked yet.
    pub fn mark_as_junk(&mut self) {
        if self.fault.is_none() && !self.junk {
            self.junk = true;
            let marked = self.incoming.put_in_front(JUNK_FIELD.as_bytes());
            self.fault = marked.map_err(Fault::Write).err();
        }
    }

    /// Judges what a client has sent where something else is written in its place.
    pub fn judge(&mut self, text: &[u8], received_bytes: u64) {
        if self.fault.is_none() {
            self.fault = self.fault_of(text, received_bytes);
        }
    }

    fn fault_of(&self, text: &[u8], received_bytes: u64) -> Option<Fault> {
        if received_bytes > self.limit_bytes {
            return Some(Fault::TooBig);
        }
        // RFC 5321 §4.5.2 and RFC 6152 know no NUL in mail, and programs that read C strings
        // would see another message than those that do not.
        memchr::memchr(0, text).is_some().then_some(Fault::Nul)
    }

    /// Whether text is still kept; if not, [`Writing::finish`] will say why.
    pub fn is_sound(&self) -> bool {
        self.fault.is_none()
    }

    /// Whether so much text is in memory that some should leave it: until [`Writing::spill`] has
    /// been called, [`Writing::write`] may have to wait for the disk.
    pub fn is_full(&self) -> bool {
        self.is_sound() && self.incoming.is_full()
    }

    /// Writes what is in memory. This blocks on the disk.
    pub fn spill(&mut self) {
        if self.fault.is_none() {
            self.fault = self.incoming.spill().map_err(Fault::Write).err();
        }
    }

    /// The final dot: makes the message durable. This blocks on the disk.
    pub fn finish(self) -> Result<Accepted, Fault> {
        let writing = self.complete()?;
        let size_bytes = writing.size_bytes();
        let committed = writing.incoming.commit().map_err(Fault::Commit)?;
        Ok(Accepted {
            committed,
            size_bytes,
            sender: writing.sender,
            recipients: writing.recipients,
        })
    }

    /// The final dots of several messages: makes them durable together. This blocks on the disk.
    pub fn finish_all(messages: Vec<Box<Writing>>) -> Vec<Result<Accepted, Fault>> {
        let mut ready = Vec::new();
        let mut rest = Vec::new();
        for writing in messages {
            rest.push(writing.complete().map(|writing| {
                let size_bytes = writing.size_bytes();
                ready.push(writing.incoming);
                (size_bytes, writing.sender, writing.recipients)
            }));
        }
        let mut committed = queue::commit_all(ready).into_iter();
        rest.into_iter()
            .map(|complete| {
                let (size_bytes, sender, recipients) = complete?;
                let committed = committed
                    .next()
                    .unwrap_or_else(|| Err(io::Error::other("no commit")));
                Ok(Accepted {
                    committed: committed.map_err(Fault::Commit)?,
                    size_bytes,
                    sender,
                    recipients,
                })
            })
            .collect()
    }

    /// Whether it is so small that it is best made durable together with others.
    pub fn is_small(&self) -> bool {
        self.incoming.is_small()
    }

    /// Bytes written so far.
    pub fn size_bytes(&self) -> u64 {
        self.incoming.size_bytes()
    }

    /// With all of its text, or what is wrong with it.
    fn complete(mut self) -> Result<Writing, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let last = self.message.finish()?;
        self.incoming.write(&last).map_err(Fault::Write)?;
        Ok(self)
    }

    fn try_write(&mut self, text: &[u8], received_bytes: u64) -> Result<(), Fault> {
        if let Some(fault) = self.fault_of(text, received_bytes) {
            return Err(fault);
        }
        let (header, body) = self.message.take(text)?;
        if !header.is_empty() {
            self.incoming.write(&header).map_err(Fault::Write)?;
        }
        if !body.is_empty() {
            self.incoming.write(body).map_err(Fault::Write)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
