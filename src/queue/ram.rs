//! A store in memory, for tests of other rooms.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mail::{Dsn, Envelope, EvpId, MailAddr, MsgId};
use crate::sys::open;

use super::{BeginError, Body, Draft, LoadError, Store};

/// Messages in memory; bodies are unlinked temporary files when opened.
#[derive(Default)]
pub struct Ram {
    inner: Arc<Mutex<Inner>>,
    before_commit: Option<Hook>,
}

type Hook = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inner {
    last: u32,
    messages: BTreeMap<MsgId, Message>,
}

#[derive(Default)]
struct Message {
    last: u32,
    body: Vec<u8>,
    envelopes: BTreeMap<EvpId, Envelope>,
}

struct RamDraft {
    inner: Arc<Mutex<Inner>>,
    before_commit: Option<Hook>,
    msgid: MsgId,
    message: Message,
}

impl Ram {
    /// A store that calls `hook` before each commit, in the thread that commits.
    pub fn with_hook(hook: Hook) -> Ram {
        Ram {
            before_commit: Some(hook),
            ..Ram::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a message, for a test to look at.
    pub fn body(&self, id: MsgId) -> Option<Vec<u8>> {
        self.lock().messages.get(&id).map(|m| m.body.clone())
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

/// One that nothing of this message ever had.
fn next_id(message: &mut Message, msgid: MsgId) -> io::Result<EvpId> {
    message.last += 1;
    EvpId::new(msgid, message.last).ok_or_else(gone)
}

impl Store for Ram {
    fn begin(&self) -> Result<Box<dyn Draft>, BeginError> {
        let mut inner = self.lock();
        inner.last += 1;
        let msgid = MsgId::new(inner.last).ok_or_else(|| BeginError::Io(gone()))?;
        Ok(Box::new(RamDraft {
            inner: self.inner.clone(),
            before_commit: self.before_commit.clone(),
            msgid,
            message: Message::default(),
        }))
    }

    fn load(&self, id: EvpId) -> Result<Envelope, LoadError> {
        let inner = self.lock();
        let message = inner.messages.get(&id.msgid()).ok_or(LoadError::Missing)?;
        message
            .envelopes
            .get(&id)
            .cloned()
            .ok_or(LoadError::Missing)
    }

    fn open_body(&self, id: MsgId) -> io::Result<Body> {
        let body = self.body(id).ok_or_else(gone)?;
        let file = open::nameless_with(&std::env::temp_dir(), &body)?;
        Ok(Body::from(file))
    }

    fn update(&self, envelope: &Envelope) -> io::Result<()> {
        let mut inner = self.lock();
        let message = inner
            .messages
            .get_mut(&envelope.id.msgid())
            .ok_or_else(gone)?;
        *message.envelopes.get_mut(&envelope.id).ok_or_else(gone)? = envelope.clone();
        Ok(())
    }

    fn add(&self, envelope: &Envelope) -> io::Result<EvpId> {
        let mut inner = self.lock();
        let message = inner
            .messages
            .get_mut(&envelope.id.msgid())
            .ok_or_else(gone)?;
        let id = next_id(message, envelope.id.msgid())?;
        message.envelopes.insert(
            id,
            Envelope {
                id,
                ..envelope.clone()
            },
        );
        Ok(id)
    }

    fn remove(&self, id: EvpId) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(message) = inner.messages.get_mut(&id.msgid()) {
            message.envelopes.remove(&id);
            if message.envelopes.is_empty() {
                inner.messages.remove(&id.msgid());
            }
        }
        Ok(())
    }

    fn messages(&self) -> Box<dyn Iterator<Item = MsgId> + Send> {
        let ids: Vec<MsgId> = self.lock().messages.keys().copied().collect();
        Box::new(ids.into_iter())
    }

    fn envelopes(&self, id: MsgId) -> io::Result<Vec<Envelope>> {
        let inner = self.lock();
        let message = inner.messages.get(&id).ok_or_else(gone)?;
        Ok(message.envelopes.values().cloned().collect())
    }
}

impl Draft for RamDraft {
    fn msgid(&self) -> MsgId {
        self.msgid
    }

    fn add(&mut self, envelope: Envelope) -> io::Result<EvpId> {
        let id = next_id(&mut self.message, self.msgid)?;
        self.message
            .envelopes
            .insert(id, Envelope { id, ..envelope });
        Ok(id)
    }

    fn readdress(&mut self, id: EvpId, rcpt: MailAddr, dsn: Dsn) -> io::Result<()> {
        let envelope = self.message.envelopes.get_mut(&id).ok_or_else(gone)?;
        (envelope.rcpt, envelope.dsn) = (rcpt, dsn);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.message.body.extend_from_slice(bytes);
        Ok(())
    }

    fn put_in_front(&mut self, fields: &[u8]) -> io::Result<()> {
        self.message.body.splice(0..0, fields.iter().copied());
        Ok(())
    }

    fn commit(self: Box<Self>) -> io::Result<Vec<Envelope>> {
        if self.message.envelopes.is_empty() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        if let Some(hook) = &self.before_commit {
            hook();
        }
        let envelopes = self.message.envelopes.values().cloned().collect();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.messages.insert(self.msgid, self.message);
        Ok(envelopes)
    }
}
