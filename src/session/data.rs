//! Message data, and the answer to the final dot.
//!
//! A message that is found faulty is still read to its end: answering earlier would have the rest
//! of it read as commands.

use std::io;

use crate::filter::{self, Phase};
use crate::log::{self, maillog};
use crate::queue::is_shortage;
use crate::smtp::Reply;
use crate::smtp::dot::Progress;
use crate::transaction::{Accepted, Fault, Writing};

use super::event::Event;
use super::limits::{DATA_CHUNK, MAX_DISCARDED};
use super::question::{FilterQuestion, Question, Store, Then, Waits};
use super::state::{Filtered, State};
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
        let size_bytes = data.decoder.size_bytes();
        let mut crowded = None;
        match &mut data.filtered {
            None => writing.write(&text, size_bytes),
            Some(filtered) => {
                writing.judge(&text, size_bytes);
                if writing.is_sound() {
                    filtered.feed(&text);
                }
                filtered.drain(writing);
                let wait = !filtered.content.has_room();
                crowded = wait.then(|| filtered.content.clone());
            }
        }
        match progress {
            Progress::More if data.discarded_bytes > MAX_DISCARDED => {
                self.bad_input(too_big(), out);
                Taken::Bytes(chunk.len())
            }
            Progress::More if writing.is_full() => {
                self.store(chunk.len(), Waits::Write, Store::Write)
            }
            Progress::More => match crowded {
                Some(content) => {
                    self.waits = Some(Box::new(Waits::Content));
                    let question = Question::Filter(FilterQuestion::Content(content));
                    Taken::Asking(chunk.len(), question)
                }
                None => Taken::Bytes(chunk.len()),
            },
            Progress::LineTooLong => {
                self.bad_input(Reply::new(500, "5.0.0 Line too long"), out);
                Taken::Bytes(chunk.len())
            }
            Progress::End { used } => {
                if let Some(filtered) = &mut data.filtered {
                    filtered.end();
                }
                match self.complete(out) {
                    Some(question) => Taken::Asking(used, question),
                    None => Taken::Bytes(used),
                }
            }
        }
    }

    /// The client has sent it all: what filters still have of it is waited for, then they are asked
    /// about the whole, and then it is made durable.
    pub(super) fn complete(&mut self, out: &mut Vec<u8>) -> Option<Question> {
        let State::Data(data) = &mut self.state else {
            return None;
        };
        let (filtered, writing) = (data.filtered.as_mut(), data.writing.as_mut());
        if let (Some(filtered), Some(writing)) = (filtered, writing) {
            match filtered.drain(writing) {
                filter::Progress::More if writing.is_full() => {
                    return self.asked(0, Waits::Write, Store::Write);
                }
                filter::Progress::More => {
                    self.waits = Some(Box::new(Waits::Content));
                    let content = filtered.content.clone();
                    return Some(Question::Filter(FilterQuestion::Content(content)));
                }
                filter::Progress::End => data.filtered = None,
                filter::Progress::Failed(name) => {
                    data.filtered = None;
                    let reply = self.content_failed(&name);
                    self.tell(&Event::Command(b"."));
                    self.refuse_message(&reply, out);
                    return None;
                }
            }
        }
        self.tell(&Event::Command(b"."));
        let State::Data(data) = &self.state else {
            return None;
        };
        let sound = data
            .writing
            .as_ref()
            .is_some_and(|writing| writing.is_sound());
        if sound {
            self.ask_filters(Phase::Commit, b"", Then::Commit, out, None)
        } else {
            self.commit()
        }
    }

    /// Nothing stands between the message and the disk any more.
    pub(super) fn commit(&mut self) -> Option<Question> {
        self.asked(0, Waits::Commit, Store::Commit)
    }

    fn asked(
        &mut self,
        used: usize,
        waits: Waits,
        what: fn(Box<Writing>) -> Store,
    ) -> Option<Question> {
        match self.store(used, waits, what) {
            Taken::Asking(_, question) => Some(question),
            _ => None,
        }
    }

    /// Filters have let go of some of the message, or taken some.
    pub(super) fn content_moved(&mut self, out: &mut Vec<u8>) -> Option<Question> {
        let State::Data(data) = &mut self.state else {
            return None;
        };
        let ended = data
            .filtered
            .as_ref()
            .is_some_and(|filtered| filtered.ended);
        if ended {
            return self.complete(out);
        }
        if let (Some(filtered), Some(writing)) = (&mut data.filtered, &mut data.writing) {
            filtered.drain(writing);
        }
        None
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
        maillog::smtp_trouble(self.id, &"write message: the disk does not answer");
        self.give_up(Reply::new(421, "4.3.0 Temporary Error"), out);
    }

    /// The final dot is answered. 250 is said only with a `Committed` in hand.
    pub(super) fn committed(
        &mut self,
        result: Result<Accepted, Fault>,
        out: &mut Vec<u8>,
        services: &dyn Services,
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
        self.end_of_transaction();
        match services.announce(accepted.committed) {
            Ok(()) => Next::Flush,
            Err(message) => {
                let question = Question::Store(Store::HandOver(message));
                self.ask(Waits::HandOver, question)
            }
        }
    }

    /// The disk has not answered in time; whoever has the message drops it.
    pub(super) fn commit_is_late(&mut self, out: &mut Vec<u8>) {
        maillog::smtp_trouble(self.id, &"commit message: the disk does not answer");
        let reply = Reply::new(451, "4.3.0 Temporary failure");
        self.refuse_message(&reply, out);
    }

    /// The message is refused at its final dot.
    pub(super) fn refuse_message(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        let State::Data(mut data) = std::mem::replace(&mut self.state, State::Identified) else {
            return;
        };
        // A small one is in memory alone.
        self.unfinished = data.writing.take().filter(|writing| !writing.is_small());
        self.say(Some(b"DATA"), reply, out);
        self.tell(&Event::Data(data.msgid, reply));
        self.tell(&Event::Rollback(data.msgid));
        self.end_of_transaction();
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
        let what = format!("{what} message: {error}");
        if is_shortage(error) {
            maillog::smtp_shortage(self.id, &what);
            return Reply::new(452, "4.3.1 Mail system full: Try again later");
        }
        maillog::smtp_trouble(self.id, &what);
        Reply::new(421, text)
    }
}

impl Filtered {
    /// Gives text of the client to the filters, as it was on the wire but for its line ends.
    fn feed(&mut self, text: &[u8]) {
        let mut lines = Vec::with_capacity(text.len() + 16);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            // Text that goes on with a line of earlier does not start one.
            let starts = lines.ends_with(b"\n") || lines.is_empty() && self.partial.is_empty();
            if starts && line.starts_with(b".") {
                lines.push(b'.');
            }
            lines.extend_from_slice(line);
        }
        let whole = lines
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let (whole, rest) = lines.split_at(whole);
        if !whole.is_empty() {
            self.partial.extend_from_slice(whole);
            self.content.feed(&std::mem::take(&mut self.partial));
        }
        self.partial.extend_from_slice(rest);
    }

    /// The message has ended.
    fn end(&mut self) {
        self.ended = true;
        let mut last = std::mem::take(&mut self.partial);
        if !last.is_empty() {
            last.push(b'\n');
        }
        last.extend_from_slice(b".\n");
        self.content.feed(&last);
    }

    /// Writes what has come out, as far as memory holds it.
    fn drain(&self, writing: &mut Writing) -> filter::Progress {
        loop {
            let mut lines = Vec::new();
            let progress = self.content.take(&mut lines);
            let mut text = Vec::with_capacity(lines.len());
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                text.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            writing.write(&text, 0);
            let more = progress == filter::Progress::More && !lines.is_empty();
            if !more || writing.is_full() {
                return progress;
            }
        }
    }
}

fn too_big() -> Reply {
    Reply::new(
        554,
        "5.3.4 Message too big for system: Transaction failed, message too big",
    )
}
