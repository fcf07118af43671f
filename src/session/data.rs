//! Message data, and the answer to the final dot.
//!
//! A message that is found faulty is still read to its end: answering earlier would have the rest
//! of it read as commands.

use std::io;

use crate::log::{self, maillog};
use crate::queue::is_shortage;
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
            Fault::Write(error) => self.storage("write", &error, "4.3.0 Temporary Error"),
            Fault::Commit(error) => self.storage("commit", &error, "4.3.0 Temporary failure"),
        }
    }

    /// A full disk is the message's bad luck, which the queue has told the log; the session may go
    /// on. After anything else it ends.
    fn storage(&self, what: &str, error: &io::Error, text: &'static str) -> Reply {
        let line = format_args!("smtp-in: session {}: {what} message: {error}", self.id);
        if is_shortage(error) {
            log::debug(line);
            return Reply::new(452, "4.3.1 Mail system full: Try again later");
        }
        log::warn(line);
        Reply::new(421, text)
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
