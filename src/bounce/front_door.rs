//! Brings reports in as mail: the same rules, expansion and queue as for a local user.
//!
//! The rules see a local, authenticated session with a null sender that greeted with the name under
//! which the original came in. A refusal is passed on; a queue that is short of space or fails is a
//! temporary one.

use std::sync::Arc;

use crate::log::maillog;
use crate::mail::{
    Destination, Dsn as DsnParameters, Envelope, EvpId, Facts, Flags, MailAddr, MsgId, Peer,
    Refusal, SessionId,
};
use crate::queue::{BeginError, Incoming};
use crate::session::Services;
use crate::util::{Line, Timestamp};

use super::report::DateText;
use super::{Dsn, Inject};

/// The front door of this daemon.
pub struct FrontDoor {
    /// Rules, expansion, queue and runner.
    pub services: Arc<dyn Services>,
    /// Our name, in the Received field and as the name of the client.
    pub server_name: Line,
    /// The tag of `listen on socket`.
    pub tag: Option<Line>,
    /// Writes the date of a header field.
    pub date: DateText,
}

impl Inject for FrontDoor {
    fn inject(&self, dsn: &Dsn, now: Timestamp) -> Result<MsgId, Refusal> {
        let destinations = self.services.expand(&self.facts(dsn), &dsn.to)?;
        let mut incoming = self.services.begin().map_err(cannot_begin)?;
        let evpid = self.add_envelopes(&mut incoming, dsn, destinations, now)?;
        let received = self.received(dsn, incoming.msgid(), now);
        incoming.write(received.as_bytes()).map_err(no_queue)?;
        incoming.write(&dsn.text).map_err(no_queue)?;
        let size_bytes = incoming.size_bytes();
        let committed = incoming.commit(now).map_err(no_queue)?;
        let msgid = committed.msgid();
        let session = SessionId(dsn.about.get());
        maillog::bounce_message(session, msgid, size_bytes);
        maillog::bounce_envelope(session, evpid, &dsn.to);
        self.services.committed(committed);
        Ok(msgid)
    }
}

impl FrontDoor {
    fn facts(&self, dsn: &Dsn) -> Facts {
        Facts {
            peer: Peer::Local,
            rdns: Some(self.server_name.clone()),
            helo: dsn.smtpname.clone(),
            authenticated: true,
            username: None,
            tls: false,
            tag: self.tag.clone(),
            sender: MailAddr::null(),
        }
    }

    /// One envelope per destination; the last one's id stands for all in the log.
    fn add_envelopes(
        &self,
        incoming: &mut Incoming,
        dsn: &Dsn,
        destinations: Vec<Destination>,
        now: Timestamp,
    ) -> Result<EvpId, Refusal> {
        let mut last = None;
        for destination in destinations {
            let envelope = self.envelope(dsn, destination, now);
            last = Some(incoming.add(envelope).map_err(no_queue)?);
        }
        last.ok_or_else(|| Refusal::new(550, "5.1.1 Invalid recipient: it leads nowhere"))
    }

    fn envelope(&self, dsn: &Dsn, destination: Destination, now: Timestamp) -> Envelope {
        Envelope {
            // The queue names it.
            id: dsn.about,
            action: destination.action,
            tag: self.tag.clone(),
            kind: destination.kind,
            smtpname: self.server_name.clone(),
            helo: dsn.smtpname.clone(),
            hostname: self.server_name.clone(),
            username: None,
            errorline: None,
            peer: Peer::Local,
            sender: MailAddr::null(),
            rcpt: dsn.to.clone(),
            dest: destination.dest,
            created: now,
            last_try: Timestamp(0),
            last_bounce: Timestamp(0),
            ttl_s: 0,
            retry: 0,
            flags: Flags {
                authenticated: true,
                bounce: true,
                internal: destination.internal,
                suspended: false,
            },
            dsn: DsnParameters::default(),
            status: None,
        }
    }

    fn received(&self, dsn: &Dsn, msgid: MsgId, now: Timestamp) -> String {
        format!(
            "Received: from {} ({} [local])\n\tby {} (OpenSMTPD) with ESMTPA id {msgid}\n\
             \tfor <{}>;\n\t{}\n",
            dsn.smtpname,
            self.server_name,
            self.server_name,
            dsn.to,
            (self.date)(now),
        )
    }
}

fn cannot_begin(error: BeginError) -> Refusal {
    match error {
        BeginError::Full => Refusal::new(452, "4.3.1 Insufficient system storage"),
        BeginError::Io(error) => no_queue(error),
    }
}

fn no_queue(error: std::io::Error) -> Refusal {
    Refusal::new(421, &format!("4.3.0 Temporary failure: {error}"))
}
