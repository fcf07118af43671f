//! Message data, and the answer to the final dot.
//!
//! A message that is found faulty is still read to its end: answering earlier would have the rest
//! of it read as commands.

use std::io;

use crate::log;
use crate::queue::is_shortage;
use crate::smtp::Reply;
use crate::smtp::dot::Progress;
use crate::transaction::{Accepted, Fault, Writing};

use super::event::Event;
use super::limits::{DATA_CHUNK, MAX_DISCARDED};
use super::question::{Question, Store, Waits};
use super::state::State;
use super::{Next, Services, Session, Taken};

impl Session {
    /// Takes message data off the front of `rest`.
    pub(super) fn take_data(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Taken {
        let State::Data(data) = &mut self.state else {
            return Taken::Nothing;
        };
        let chunk = rest.get(..DATA_CHUNK).unwrap_or(rest);
        let Some(writing) = data.writing.as_mut().filter(|_| !chunk.is_empty()) else {
            return Taken::Nothing;
        };
        let mut text = Vec::new();
        let progress = data.decoder.decode(chunk, &mut text);
        if !writing.is_sound() {
            data.discarded_bytes += chunk.len() as u64;
        }
        writing.write(&text, data.decoder.size_bytes());
        match progress {
            Progress::More if data.discarded_bytes > MAX_DISCARDED => {
                self.bad_input(too_big(), out);
                Taken::Bytes(chunk.len())
            }
            Progress::More if writing.is_full() => {
                self.store(chunk.len(), Waits::Write, Store::Write)
            }
            Progress::More => Taken::Bytes(chunk.len()),
            Progress::LineTooLong => {
                self.bad_input(Reply::new(500, "5.0.0 Line too long"), out);
                Taken::Bytes(chunk.len())
            }
            // Here the filters' `commit` will be asked first.
            Progress::End { used } => {
                self.tell(&Event::Command(b"."));
                self.store(used, Waits::Commit, Store::Commit)
            }
        }
    }

    /// Lets the message go to the disk, with `used` bytes of input in it.
    fn store(&mut self, used: usize, waits: Waits, what: fn(Box<Writing>) -> Store) -> Taken {
        match &mut self.state {
            State::Data(data) => match data.writing.take() {
                Some(writing) => {
                    self.waits = Some(Box::new(waits));
                    Taken::Asking(used, Question::Store(what(writing)))
                }
                None => Taken::Nothing,
            },
            _ => Taken::Nothing,
        }
    }

    /// A part of the message has left memory.
    pub(super) fn written(&mut self, writing: Box<Writing>) {
        if let State::Data(data) = &mut self.state {
            data.writing = Some(writing);
        }
    }

    /// A part of the message does not come back from the disk: nothing of it can be taken any more.
    pub(super) fn lost(&mut self, out: &mut Vec<u8>) {
        log::warn(format_args!(
            "smtp-in: session {}: write message: the disk does not answer",
            self.id
        ));
        self.give_up(Reply::new(421, "4.3.0 Temporary Error"), out);
    }

    /// The final dot is answered. 250 is said only with a `Committed` in hand.
    pub(super) fn committed(
        &mut self,
        result: Result<Accepted, Fault>,
        out: &mut Vec<u8>,
        world: &dyn Services,
    ) -> Next {
        let accepted = match result {
            Ok(accepted) => accepted,
            Err(fault) => {
                let reply = self.refuse(fault);
                self.refuse_message(&reply, out);
                return Next::Flush;
            }
        };
        self.state = State::Identified;
        let msgid = accepted.committed.msgid();
        let reply = Reply::echo(250, &format!("2.0.0 {msgid} Message accepted for delivery"));
        self.say(Some(b"DATA"), &reply, out);
        self.messages += 1;
        self.bad_commands = 0;
        self.idle_commands = 0;
        self.refused_rcpts = 0;
        self.tell(&Event::Commit(&accepted));
        match world.announce(accepted.committed) {
            Ok(()) => Next::Flush,
            Err(message) => {
                let question = Question::Store(Store::HandOver(message));
                self.ask(Waits::HandOver, question)
            }
        }
    }

    /// The disk has not answered in time; whoever has the message drops it.
    pub(super) fn commit_is_late(&mut self, out: &mut Vec<u8>) {
        log::warn(format_args!(
            "smtp-in: session {}: commit message: the disk does not answer",
            self.id
        ));
        let reply = Reply::new(451, "4.3.0 Temporary failure");
        self.refuse_message(&reply, out);
    }

    /// The message is refused at its final dot.
    fn refuse_message(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        let State::Data(data) = std::mem::replace(&mut self.state, State::Identified) else {
            return;
        };
        self.say(Some(b"DATA"), reply, out);
        self.tell(&Event::Data(data.msgid, reply));
        self.tell(&Event::Rollback(data.msgid));
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

fn too_big() -> Reply {
    Reply::new(
        554,
        "5.3.4 Message too big for system: Transaction failed, message too big",
    )
}
