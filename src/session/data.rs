//! Message data, and the answer to the final dot.
//!
//! A message that is found faulty is still read to its end: answering earlier would have the rest
//! of it read as commands.

use std::io;

use crate::log::{self, maillog};
use crate::smtp::Reply;
use crate::smtp::dot::Progress;
use crate::transaction::{Accepted, Fault};

use super::limits::{DATA_CHUNK, MAX_DISCARDED};
use super::state::{Data, State};
use super::{Services, Session};

impl Session {
    /// Takes message data off the front of `rest`; `None` if there is none.
    pub(super) fn take_data(
        &mut self,
        rest: &[u8],
        out: &mut Vec<u8>,
        world: &dyn Services,
    ) -> Option<usize> {
        let State::Data(data) = &mut self.state else {
            return None;
        };
        let chunk = rest.get(..DATA_CHUNK).unwrap_or(rest);
        if chunk.is_empty() {
            return None;
        }
        match data.take(chunk) {
            Progress::More if data.discarded_bytes > MAX_DISCARDED => {
                self.bad_input(too_big(), out);
                Some(chunk.len())
            }
            Progress::More => Some(chunk.len()),
            Progress::LineTooLong => {
                self.bad_input(Reply::new(500, "5.0.0 Line too long"), out);
                Some(chunk.len())
            }
            Progress::End { used } => {
                self.take_dot(out, world);
                Some(used)
            }
        }
    }

    fn take_dot(&mut self, out: &mut Vec<u8>, world: &dyn Services) {
        let State::Data(data) = std::mem::replace(&mut self.state, State::Identified) else {
            return;
        };
        match data.writing.finish(world.now()) {
            Ok(accepted) => self.accepted(accepted, out, world),
            Err(fault) => {
                let reply = self.refuse(fault);
                self.say(b"DATA", &reply, out);
            }
        }
    }

    /// 250 is said only with a `Committed` in hand.
    fn accepted(&mut self, accepted: Accepted, out: &mut Vec<u8>, world: &dyn Services) {
        let msgid = accepted.committed.msgid();
        let reply = Reply::echo(250, &format!("2.0.0 {msgid} Message accepted for delivery"));
        self.say(b"DATA", &reply, out);
        self.messages += 1;
        self.bad_commands = 0;
        self.idle_commands = 0;
        let nrcpt = accepted.recipients.len();
        let protocol = self.protocol().as_str();
        maillog::smtp_message(self.id, msgid, accepted.size_bytes, nrcpt, protocol);
        for (evpid, rcpt) in &accepted.recipients {
            maillog::smtp_envelope(self.id, *evpid, &accepted.sender, rcpt);
        }
        world.committed(accepted.committed);
    }

    fn refuse(&self, fault: Fault) -> Reply {
        match fault {
            Fault::TooBig => too_big(),
            Fault::Loop => {
                log::warn(format_args!("loop detected: session {}", self.id));
                Reply::new(500, "5.4.6 Routing loop detected: Loop detected")
            }
            Fault::Malformed => Reply::new(
                550,
                "5.7.1 Delivery not authorized, message refused: \
                 Message is not RFC 2822 compliant",
            ),
            Fault::Nul => Reply::new(550, "5.6.0 Other or undefined media error: NUL in message"),
            Fault::Write(error) => {
                log::warn(format_args!(
                    "smtp-in: session {}: write message: {error}",
                    self.id
                ));
                storage(&error, "4.3.0 Temporary Error")
            }
            Fault::Commit(error) => {
                log::warn(format_args!(
                    "smtp-in: session {}: commit message: {error}",
                    self.id
                ));
                storage(&error, "4.3.0 Temporary failure")
            }
        }
    }
}

impl Data {
    fn take(&mut self, chunk: &[u8]) -> Progress {
        let mut text = Vec::new();
        let progress = self.decoder.decode(chunk, &mut text);
        if !self.writing.is_sound() {
            self.discarded_bytes += chunk.len() as u64;
        }
        self.writing.write(&text, self.decoder.size_bytes());
        progress
    }
}

fn too_big() -> Reply {
    Reply::new(
        554,
        "5.3.4 Message too big for system: Transaction failed, message too big",
    )
}

/// A full disk is the message's bad luck and the session may go on; else it ends.
fn storage(error: &io::Error, text: &'static str) -> Reply {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Reply::new(452, "4.3.1 Mail system full: Try again later")
        }
        _ => Reply::new(421, text),
    }
}
