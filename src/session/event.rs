//! What happens in a session, told to everybody who watches its listener.
//!
//! The log watches every session; reports to filters (smtpd-filters(7)) are another observer.
//! Observers hear, and change nothing. The order is theirs to rely on: [`Event::Connected`] comes
//! first and [`Event::Disconnected`] last; a transaction begins with [`Event::Begin`] and ends
//! with one [`Event::Commit`] or [`Event::Rollback`]; the event of what a command has done follows
//! the [`Event::Reply`] to it, but for [`Event::Rejected`] and [`Event::Envelope`], which say why.

use std::cell::Cell;

use crate::auth::Verdict;
use crate::filter::{Outcome, Phase};
use crate::log::maillog;
use crate::mail::{EvpId, MailAddr, MsgId, Refusal};
use crate::smtp::Reply;
use crate::transaction::{Accepted, TlsFacts};
use crate::util::Line;

use super::{Disconnect, Session};

/// Something that has happened.
pub enum Event<'e> {
    /// The client has connected, and its reverse name has been looked up.
    Connected,
    /// The banner is on its way.
    Greeted,
    /// A command line has come, without its line end; credentials are masked.
    Command(&'e [u8]),
    /// A reply to this command line, or to none.
    Reply(Option<&'e [u8]>, &'e Reply),
    /// Input that no client sends ends the session with this reply.
    BadInput(&'e Reply),
    /// HELO or EHLO was accepted.
    Identified,
    /// The connection is encrypted.
    Secured(&'e TlsFacts),
    /// AUTH was tried as this user.
    Login(&'e Line, Verdict),
    /// A transaction has begun.
    Begin(MsgId),
    /// MAIL was answered.
    Mail(MsgId, &'e MailAddr, &'e Reply),
    /// A recipient is refused by the rules or by what they lead to.
    Rejected(&'e MailAddr, &'e Refusal),
    /// A recipient has led to an envelope.
    Envelope(EvpId),
    /// RCPT was answered.
    Rcpt(MsgId, &'e MailAddr, &'e Reply),
    /// DATA was answered, or the final dot with a refusal.
    Data(MsgId, &'e Reply),
    /// The message is durable.
    Commit(&'e Accepted),
    /// The transaction is given up.
    Rollback(MsgId),
    /// Filters have answered RCPT with this.
    Refused(MsgId, &'e Reply),
    /// Filters have decided about a command.
    Filtered(Phase, &'e Outcome),
    /// A filter wants something known: its kind, its name, and what.
    FilterReport(&'e str, &'e str, &'e str),
    /// The client was silent for too long.
    Timeout,
    /// The session is over.
    Disconnected(&'e Disconnect),
}

/// Hears what happens in sessions. It is called by the thread that owns the session and must not
/// wait.
pub trait Observer: Send + Sync {
    /// Something has happened in `session`.
    fn hear(&self, session: &Session, event: &Event<'_>);
}

/// Writes the lines of the mail log. Of a kind that a client can cause at will, a session has
/// `LINES_MAX` lines; what comes after is counted, and said at its end.
pub struct Maillog;

/// Lines of one kind that a session gets.
const LINES_MAX: u16 = 100;

/// How often something was to be logged in a session.
#[derive(Default)]
pub struct Tally {
    failed_commands: Cell<u16>,
    rejections: Cell<u16>,
}

/// Counts one more; false if there were too many to log this one.
fn has_line(count: &Cell<u16>) -> bool {
    count.set(count.get().saturating_add(1));
    count.get() <= LINES_MAX
}

impl Observer for Maillog {
    fn hear(&self, session: &Session, event: &Event<'_>) {
        let id = session.id();
        match event {
            Event::Connected => maillog::smtp_connected(id, session.peer(), session.rdns()),
            Event::Reply(Some(command), reply)
                if reply.is_failure() && has_line(&session.tally.failed_commands) =>
            {
                maillog::smtp_failed_command(id, session.peer(), command, &reply.to_string());
            }
            Event::BadInput(reply) => maillog::smtp_bad_input(id, &reply.to_string()),
            Event::Secured(facts) => {
                maillog::smtp_tls(id, &facts.ciphers);
                if let Some(fingerprint) = &facts.certificate {
                    maillog::smtp_cert_check(id, fingerprint);
                }
            }
            Event::Login(user, verdict) => {
                let result = match verdict {
                    Verdict::Accepted => "ok",
                    Verdict::Refused => "permfail",
                    Verdict::Exhausted(_) | Verdict::Unavailable => "tempfail",
                };
                maillog::smtp_authentication(id, user, result, session.peer());
            }
            Event::Rejected(rcpt, refusal) if has_line(&session.tally.rejections) => {
                maillog::smtp_reject(id, rcpt, refusal);
            }
            Event::Commit(accepted) => {
                let (msgid, nrcpt) = (accepted.committed.msgid(), accepted.recipients.len());
                let protocol = session.protocol().as_str();
                maillog::smtp_message(id, msgid, accepted.size_bytes, nrcpt, protocol);
                for (evpid, rcpt) in &accepted.recipients {
                    maillog::smtp_envelope(id, *evpid, &accepted.sender, rcpt);
                }
            }
            Event::Disconnected(why) => {
                let unsaid = |count: &Cell<u16>| count.get().saturating_sub(LINES_MAX);
                let tally = &session.tally;
                let (failed, rejected) =
                    (unsaid(&tally.failed_commands), unsaid(&tally.rejections));
                if failed > 0 || rejected > 0 {
                    maillog::smtp_summed_up(id, session.peer(), failed, rejected);
                }
                match why {
                    Disconnect::Quit => maillog::smtp_disconnected(id, "quit"),
                    Disconnect::Hangup => maillog::smtp_disconnected(id, "disconnect"),
                    Disconnect::Timeout => maillog::smtp_disconnected(id, "timeout"),
                    Disconnect::IoError(error) => maillog::smtp_io_error(id, error),
                }
            }
            _ => {}
        }
    }
}
