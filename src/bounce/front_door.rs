//! Brings reports in as mail: the same rules, expansion and queue as for a local user.
//!
//! The rules see a local, authenticated session with a null sender that greeted with the name under
//! which the original came in. A refusal is passed on; a queue that is short of space or fails is a
//! temporary one.

use std::io;
use std::sync::Arc;

use crate::log::maillog;
use crate::mail::{Facts, MailAddr, MsgId, Peer, Refusal, SessionId};
use crate::queue::BeginError;
use crate::session::{Listening, Services};
use crate::transaction::{Asked, Fault, Source, Terms, Transaction};
use crate::util::{Live, Timestamp};

use super::{Dsn, Inject};

/// The front door of this daemon.
pub struct FrontDoor {
    /// Rules, expansion, queue and runner.
    pub services: Arc<dyn Services>,
    /// `listen on socket`: our name, in the Received field and as the name of the client, and
    /// the tag.
    pub socket: Live<Listening>,
}

impl Inject for FrontDoor {
    fn inject(&self, dsn: &Dsn, now: Timestamp) -> Result<MsgId, Refusal> {
        let socket = self.socket.get();
        let facts = facts(&socket, dsn);
        // As a client would hear it, with the recipient.
        let unwanted = |refusal: Refusal| {
            let text = format!("{}: <{}>", refusal.text, dsn.to);
            Refusal::new(refusal.code, &text)
        };
        let expanded = self.services.expand(&facts, &dsn.to).map_err(unwanted)?;
        // What we write ourselves is not filtered.
        let destinations = expanded.destinations;
        if destinations.is_empty() {
            let text = "5.1.1 Invalid recipient: it leads nowhere";
            return Err(unwanted(Refusal::new(550, text)));
        }
        let incoming = self.services.begin().map_err(cannot_begin)?;
        let smtpname = socket.server_name.clone();
        let mut transaction = Transaction::begin(incoming, facts, smtpname, None, None).report();
        transaction
            .add(&dsn.to, &Asked::default(), destinations, now)
            .map_err(no_queue)?;
        let mut writing = transaction
            .write(Terms::as_it_is(Source::Shown), now)
            .map_err(no_queue)?;
        writing.write(&dsn.text, dsn.text.len() as u64);
        let accepted = writing.finish().map_err(refused)?;
        let msgid = accepted.committed.msgid();
        let session = SessionId(dsn.about.get());
        maillog::bounce_message(session, msgid, accepted.size_bytes);
        for (evpid, rcpt) in &accepted.recipients {
            maillog::bounce_envelope(session, *evpid, rcpt);
        }
        self.services.committed(accepted.committed);
        Ok(msgid)
    }
}

fn facts(socket: &Listening, dsn: &Dsn) -> Facts {
    Facts {
        peer: Peer::Local,
        rdns: Some(socket.server_name.clone()),
        rdns_failed: false,
        helo: dsn.smtpname.clone(),
        authenticated: true,
        username: None,
        tls: false,
        tag: socket.tag.clone(),
        sender: MailAddr::null(),
    }
}

fn cannot_begin(error: BeginError) -> Refusal {
    match error {
        BeginError::Full => Refusal::new(452, "4.3.1 Insufficient system storage"),
        BeginError::Io(error) => no_queue(error),
    }
}

fn refused(fault: Fault) -> Refusal {
    match fault {
        Fault::Write(error) | Fault::Commit(error) => no_queue(error),
        // A report of ours is none of these; one that were would be so the next time, too.
        Fault::TooBig | Fault::Loop | Fault::Malformed | Fault::Nul => {
            Refusal::new(554, "5.6.0 The report is not a message")
        }
    }
}

fn no_queue(error: io::Error) -> Refusal {
    Refusal::new(421, &format!("4.3.0 Temporary failure: {error}"))
}
