//! What the queue has promised, and whether a spool keeps it: invariants 1 to 3 of the crate.
//!
//! 1. A message that was committed is there, every envelope and every byte.
//! 2. A message appears in `queue` whole or not at all.
//! 3. A failed envelope is not gone before its bounce is durable.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use smtpd::mail::{BounceKind, Envelope, EvpId, Kind, MsgId};
use smtpd::queue::fs::{Fs, Options};
use smtpd::queue::{Incoming, Queue, commit_all, is_shortage};
use smtpd::util::Line;

use crate::disk::SimDisk;
use crate::samples::envelope;

/// Written into the record before or after a call of the queue.
#[derive(Clone, Debug)]
pub enum Note {
    /// A commit of these envelopes and this body begins.
    Committing(Vec<Envelope>, Vec<u8>),
    /// It has returned a `Committed`.
    Committed(MsgId),
    /// An update to this begins, or has ended.
    Updating(Envelope),
    Updated(Envelope),
    /// An envelope like this is being added to its message, or has been.
    Adding(Envelope),
    Added(Envelope),
    /// A removal begins.
    Removing(EvpId),
}

/// What a spool may and must hold after the notes so far.
#[derive(Clone, Default)]
pub struct Promise {
    messages: BTreeMap<MsgId, Message>,
}

#[derive(Clone, Default)]
struct Message {
    body: Vec<u8>,
    committed: bool,
    /// Each envelope's possible states; `None` is gone.
    envelopes: BTreeMap<EvpId, Vec<Option<Envelope>>>,
    /// Being added: the id is not known yet. Attempts that failed are kept, for a power cut may
    /// bring back what was taken away again.
    adding: Vec<Envelope>,
}

impl Promise {
    /// Takes note.
    pub fn hear(&mut self, note: &Note) {
        match note {
            Note::Committing(envelopes, body) => {
                let message = self.message(envelopes[0].id.msgid());
                message.body = body.clone();
                message.envelopes = envelopes
                    .iter()
                    .map(|envelope| (envelope.id, vec![Some(envelope.clone())]))
                    .collect();
            }
            Note::Committed(msgid) => self.message(*msgid).committed = true,
            Note::Updating(envelope) => self.states(envelope.id).push(Some(envelope.clone())),
            Note::Updated(envelope) => *self.states(envelope.id) = vec![Some(envelope.clone())],
            Note::Adding(envelope) => {
                self.message(envelope.id.msgid())
                    .adding
                    .push(envelope.clone());
            }
            Note::Added(envelope) => {
                let adding = &mut self.message(envelope.id.msgid()).adding;
                if adding.len() == 1 {
                    adding.clear();
                }
                *self.states(envelope.id) = vec![Some(envelope.clone())];
            }
            Note::Removing(id) => self.states(*id).push(None),
        }
    }

    /// Whether the queue keeps the promise; the error says what is wrong.
    pub fn kept_by(&self, queue: &Queue) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for msgid in queue.messages() {
            let envelopes = queue.envelopes(msgid).map_err(|e| e.to_string())?;
            if !envelopes.is_empty() {
                found.insert(msgid, envelopes);
            }
        }
        for (msgid, envelopes) in &found {
            let message = self
                .messages
                .get(msgid)
                .ok_or_else(|| format!("{msgid} is visible and was never to be"))?;
            message.whole(*msgid, envelopes, queue)?;
        }
        for (msgid, message) in &self.messages {
            if message.must_be_there() && !found.contains_key(msgid) {
                return Err(format!("{msgid} was promised and is gone"));
            }
        }
        Ok(())
    }

    fn message(&mut self, id: MsgId) -> &mut Message {
        self.messages.entry(id).or_default()
    }

    fn states(&mut self, id: EvpId) -> &mut Vec<Option<Envelope>> {
        self.message(id.msgid()).envelopes.entry(id).or_default()
    }
}

impl Message {
    fn must_be_there(&self) -> bool {
        self.committed
            && self
                .envelopes
                .values()
                .any(|states| !states.contains(&None))
    }

    fn whole(&self, msgid: MsgId, found: &[Envelope], queue: &Queue) -> Result<(), String> {
        let mut body = Vec::new();
        queue
            .open_body(msgid)
            .and_then(|mut file| file.read_to_end(&mut body))
            .map_err(|error| format!("{msgid}: body: {error}"))?;
        if body != self.body {
            return Err(format!("{msgid}: {} bytes of body", body.len()));
        }
        for envelope in found {
            let expected = self.envelopes.get(&envelope.id).map_or_else(
                || self.adding.iter().any(|new| same(new, envelope)),
                |states| states.contains(&Some(envelope.clone())),
            );
            if !expected {
                return Err(format!("{} is not as it should be", envelope.id));
            }
        }
        for (id, states) in &self.envelopes {
            if !states.contains(&None) && !found.iter().any(|envelope| envelope.id == *id) {
                return Err(format!("{id} is gone"));
            }
        }
        Ok(())
    }
}

fn same(new: &Envelope, found: &Envelope) -> bool {
    Envelope {
        id: found.id,
        ..new.clone()
    } == *found
}

/// Something that happens to a queue; every promise is written into the disk's record.
pub struct Teller {
    pub queue: Queue,
    pub fs: Fs,
    pub disk: SimDisk,
}

/// A call failed, as it may on a failing disk.
#[derive(Debug)]
pub struct Failed;

impl Teller {
    /// Over a spool on this disk.
    pub fn new(disk: &SimDisk, options: Options) -> io::Result<Teller> {
        let fs = Fs::with_disk(Arc::new(disk.clone()), options)?;
        Ok(Teller {
            queue: Queue::new(Arc::new(fs.clone())),
            fs,
            disk: disk.clone(),
        })
    }

    pub fn commit(&self, users: &[&str], body: &[u8]) -> Result<Vec<Envelope>, Failed> {
        self.commit_behind(&[], users, body)
    }

    /// Header fields are put in front when all of the body has come.
    pub fn commit_behind(
        &self,
        fields: &[u8],
        users: &[&str],
        body: &[u8],
    ) -> Result<Vec<Envelope>, Failed> {
        let (incoming, envelopes) = self.receive(fields, users, body)?;
        let committed = incoming.commit().map_err(|_| Failed)?;
        assert_eq!(committed.envelopes(), envelopes);
        self.disk.note(Note::Committed(committed.msgid()));
        Ok(envelopes)
    }

    /// Messages of one recipient each, committed at the same time.
    pub fn commit_together(&self, users: &[&str]) -> Result<Vec<Envelope>, Failed> {
        let received: Vec<_> = users
            .iter()
            .map(|user| self.receive(&[], &[user], user.as_bytes()))
            .collect::<Result<_, _>>()?;
        let (messages, envelopes): (Vec<_>, Vec<_>) = received.into_iter().unzip();
        let answers = commit_all(messages);
        for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(is_shortage(refused), "no 452 to {refused}");
        }
        for committed in answers {
            let committed = committed.map_err(|_| Failed)?;
            self.disk.note(Note::Committed(committed.msgid()));
        }
        Ok(envelopes.concat())
    }

    fn receive(
        &self,
        late_fields: &[u8],
        users: &[&str],
        body: &[u8],
    ) -> Result<(Incoming, Vec<Envelope>), Failed> {
        let mut incoming = self.queue.begin().map_err(|_| Failed)?;
        let mut envelopes = Vec::new();
        for user in users {
            let id = incoming.add(envelope(user)).map_err(|_| Failed)?;
            envelopes.push(Envelope {
                id,
                ..envelope(user)
            });
        }
        for piece in body.chunks(40_000) {
            incoming.write(piece).map_err(|_| Failed)?;
            if !late_fields.is_empty() && incoming.is_full() {
                incoming.spill().map_err(|_| Failed)?;
            }
        }
        incoming.put_in_front(late_fields).map_err(|_| Failed)?;
        let whole = [late_fields, body].concat();
        self.disk.note(Note::Committing(envelopes.clone(), whole));
        Ok((incoming, envelopes))
    }

    pub fn retry(&self, envelope: &Envelope) -> Result<Envelope, Failed> {
        let later = Envelope {
            retry: envelope.retry + 1,
            errorline: Some(Line::new("451 4.3.0 later").unwrap()),
            ..envelope.clone()
        };
        self.disk.note(Note::Updating(later.clone()));
        self.queue.update(&later).map_err(|_| Failed)?;
        self.disk.note(Note::Updated(later.clone()));
        Ok(later)
    }

    pub fn bounce(&self, failed: &Envelope) -> Result<Envelope, Failed> {
        let bounce = Envelope {
            kind: Kind::Bounce(BounceKind::Failed),
            ..failed.clone()
        };
        self.disk.note(Note::Adding(bounce.clone()));
        let id = self.queue.add(&bounce).map_err(|_| Failed)?;
        let bounce = Envelope { id, ..bounce };
        self.disk.note(Note::Added(bounce.clone()));
        Ok(bounce)
    }

    pub fn remove(&self, envelope: &Envelope) -> Result<(), Failed> {
        self.disk.note(Note::Removing(envelope.id));
        self.queue.remove(envelope.id).map_err(|_| Failed)
    }
}
