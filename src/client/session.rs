//! A session over a connection, for a thread that may block.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::mail::{EvpId, Outcome, Status};
use crate::smtp::stuffing::Encoder;
use crate::util::Line;

use super::engine::{Action, Engine, Loss};
use super::error::{NotSecured, SessionError};
use super::event::{Event, Tap};
use super::extensions::Extensions;
use super::order::{Hello, Message, Recipient, Transacted};
use super::stream::{Secured, Stream, Upgrade, transport_text};

/// What a session needs besides a connection.
pub struct Opening<'a> {
    /// How to introduce ourselves.
    pub hello: Hello,
    /// The server's name, or its address where it has none: Remote-MTA.
    pub name: Line,
    /// Who makes TLS handshakes; without one they fail.
    pub upgrade: Option<&'a dyn Upgrade>,
    /// Who hears what happens.
    pub tap: Option<Tap>,
}

/// Who knows what is to be sent next.
pub trait Follow {
    /// The end of a message is about to be sent, and the server would take another one with it:
    /// which one, if there is one. Whoever has named one goes on with it whatever the first has
    /// come to ([`Session::transaction_with`]).
    fn next(&mut self, offered: &Extensions) -> Option<(Message<'_>, Vec<Recipient>)>;
}

/// A session in which mail can be sent.
pub struct Session {
    engine: Engine,
    /// None while a handshake is made, and after one that failed.
    stream: Option<Box<dyn Stream>>,
    /// What was negotiated.
    ciphers: Option<Line>,
    /// How long the handshake took.
    handshake: Duration,
    /// Since which reply is waited for, and until when.
    wait: Option<(u64, Instant)>,
    tap: Option<Tap>,
}

/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;

/// What ends a message.
const DOT: &[u8] = b".\r\n";

/// Bytes of a message that are read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The least of it.
const LEAST_BYTES: usize = 1024;

/// Bytes of a message that are sent at once. As long as the system takes them all without a wait,
/// it gets twice as many the next time: the fewer calls, the faster a large message is through.
const FIRST_BLOCK_BYTES: usize = 32 * 1024;

/// The most of it.
const LAST_BLOCK_BYTES: usize = 1024 * 1024;

/// A server that takes a message more slowly than this holds us up.
const SLOWEST_BYTES_PER_S: u64 = 4096;

/// How long what a server said before it closed may be on its way.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Session {
    /// Hears the greeting, introduces us, makes TLS and logs in, as `opening` says.
    pub fn open(stream: Box<dyn Stream>, opening: Opening<'_>) -> Result<Session, SessionError> {
        let mut session = Session {
            engine: Engine::new(opening.hello, opening.name, opening.tap.is_some()),
            stream: Some(stream),
            ciphers: None,
            handshake: Duration::ZERO,
            wait: None,
            tap: opening.tap,
        };
        session.drive(opening.upgrade, None);
        match session.engine.failure() {
            Some(failure) => Err(failure.clone()),
            None => Ok(session),
        }
    }

    /// Sends `message` to `recipients`, in as many transactions as that takes. Every recipient is
    /// either settled or untried.
    pub fn transaction(&mut self, message: &Message<'_>, recipients: Vec<Recipient>) -> Transacted {
        self.transaction_with(message, recipients, None)
    }

    /// The same; `follow` may name another message to go out right behind this one. That one has to
    /// be the next: if it is under way, its recipients are those that it was named with.
    pub fn transaction_with(
        &mut self,
        message: &Message<'_>,
        mut recipients: Vec<Recipient>,
        mut follow: Option<&mut dyn Follow>,
    ) -> Transacted {
        let mut all = Transacted::default();
        while !recipients.is_empty() {
            let rest = recipients.split_off(self.engine.most_recipients().min(recipients.len()));
            let is_last = rest.is_empty();
            let mut content = match message.content.open() {
                Ok(content) => content,
                Err(_) if self.engine.is_under_way() => {
                    self.engine.unreadable(NO_CONTENT);
                    Box::new(io::empty())
                }
                Err(_) => {
                    recipients.extend(rest);
                    all.settled.extend(no_content(recipients));
                    return all;
                }
            };
            if !self.engine.is_under_way() {
                self.engine.begin(message, recipients);
            }
            let follow: Option<&mut dyn Follow> = match &mut follow {
                Some(follow) if is_last => Some(&mut **follow),
                _ => None,
            };
            let text = Text {
                content: content.as_mut(),
                size: message.size_bytes,
                follow,
            };
            self.drive(None, Some(text));
            let mut some = self.engine.take();
            self.tell();
            all.settled.append(&mut some.settled);
            recipients = some.untried;
            recipients.extend(rest);
            if !self.engine.can_take_more() {
                break;
            }
        }
        match self.engine.after_all(recipients) {
            Ok(settled) => all.settled.extend(settled),
            Err(untried) => all.untried = untried,
        }
        all
    }

    /// Whether somebody hears what happens.
    pub fn is_watched(&self) -> bool {
        self.tap.is_some()
    }

    /// Tells `tap` what happens from now on.
    pub fn watch(&mut self, tap: Tap) {
        self.engine.watch();
        self.tap = Some(tap);
    }

    /// Whether a message that was named by [`Follow`] has been begun and has come to nothing yet.
    pub fn is_under_way(&self) -> bool {
        self.engine.is_under_way()
    }

    /// Whether the server does not cope with a message that follows another in one go.
    pub fn is_out_of_step(&self) -> bool {
        self.engine.is_out_of_step()
    }

    /// Whether another transaction may be tried. A connection that the server has closed, or said
    /// anything on, since the last one is of no more use.
    pub fn can_take_more(&self) -> bool {
        let silent = self.stream.as_ref().is_some_and(|s| s.is_silent());
        self.engine.can_take_more() && silent
    }

    /// Whether so many transactions in a row came to nothing that the session should end.
    pub fn rejects_all(&self) -> bool {
        self.engine.rejects_all()
    }

    /// Messages that were accepted for at least one recipient.
    pub fn accepted(&self) -> usize {
        self.engine.accepted()
    }

    /// What went wrong after the session was made, if anything did.
    pub fn failure(&self) -> Option<&SessionError> {
        self.engine.failure()
    }

    /// What the server offers.
    pub fn extensions(&self) -> &Extensions {
        self.engine.extensions()
    }

    /// What the server said first, without the code.
    pub fn greeting(&self) -> &Line {
        self.engine.greeting()
    }

    /// What TLS negotiated; none in plain text.
    pub fn ciphers(&self) -> Option<&Line> {
        self.ciphers.as_ref()
    }

    /// How long the handshake took; no time in plain text.
    pub fn handshake(&self) -> Duration {
        self.handshake
    }

    /// Says QUIT and waits for the answer, not for long. Whatever it is changes nothing.
    pub fn quit(mut self) {
        self.engine.quit();
        self.drive(None, None);
    }

    /// Does what the engine wants until it wants nothing more.
    fn drive(&mut self, upgrade: Option<&dyn Upgrade>, mut text: Option<Text<'_>>) {
        loop {
            self.tell();
            if self.engine.has_ended_before() {
                return;
            }
            match self.engine.action() {
                Action::Write(bytes, within) => {
                    self.wait = None;
                    let end = Instant::now() + within;
                    if let Err(Broken { error, .. }) = self.write(&bytes, within, end) {
                        self.hung_up(&error);
                    }
                }
                Action::Read(within, number) => self.read(within, number),
                Action::Secure(within) => self.secure(upgrade, within),
                Action::Send => match &mut text {
                    Some(text) => self.send(text),
                    None => self.engine.unreadable("Error reading content file"),
                },
                Action::Rest => return,
                Action::Over => {
                    self.tell();
                    self.stream = None;
                    return;
                }
            }
        }
    }

    fn read(&mut self, within: Duration, number: u64) {
        let until = match self.wait {
            Some((since, until)) if since == number => until,
            _ => Instant::now() + within,
        };
        self.wait = Some((number, until));
        if Instant::now() >= until {
            return self.lost(&io::ErrorKind::TimedOut.into());
        }
        if let Err(error) = self.read_until(until) {
            self.lost(&error);
        }
    }

    /// Hands on what comes first.
    fn read_until(&mut self, until: Instant) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.set_deadline(until);
        let mut buffer = [0; READ_BYTES];
        match stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.engine.received(buffer.get(..n).unwrap_or_default());
                Ok(())
            }
        }
    }

    /// Writes all of it, and says whether that was one call. The server has so long for each part
    /// that it takes, and until `end` for all.
    fn write(&mut self, bytes: &[u8], within: Duration, end: Instant) -> Result<bool, Broken> {
        let (mut taken, mut gone, mut calls) = (0, 0, 0);
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest, within, end) {
                Ok(n) => taken += n,
                Err(error) => return Err(Broken { gone, error }),
            }
            if self.stream.as_ref().is_some_and(|s| s.has_written_all()) {
                gone = taken;
            }
            calls += 1;
        }
        match self.stream.as_mut().map(|stream| stream.flush()) {
            Some(Err(error)) => Err(Broken { gone, error }),
            _ => Ok(calls == 1),
        }
    }

    fn write_some(&mut self, bytes: &[u8], within: Duration, end: Instant) -> io::Result<usize> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let now = Instant::now();
        if now >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_deadline(end.min(now + within));
        match stream.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            n => Ok(n),
        }
    }

    /// Sends the message, however long it is, in blocks; with its end the first commands of the
    /// next one.
    fn send(&mut self, from: &mut Text<'_>) {
        let times = *self.engine.timeouts();
        let slowest = Duration::from_secs(from.size.unwrap_or(0) / SLOWEST_BYTES_PER_S);
        let end = Instant::now() + times.dot + slowest;
        let room = piece_bytes(from.size);
        let mut text = vec![0; room];
        let mut wire = Vec::with_capacity(room + room / 8);
        let mut block_bytes = FIRST_BLOCK_BYTES;
        let mut encoder = Encoder::new();
        let mut sent = 0;
        loop {
            let n = match from.content.read(&mut text) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.engine.unreadable("Error reading content file"),
            };
            encoder.encode(text.get(..n).unwrap_or_default(), &mut wire);
            if n == 0 {
                encoder.finish(&mut wire);
            } else if wire.len() < block_bytes {
                // Another look costs less than another packet: a short message is one write.
                continue;
            }
            sent += wire.len() as u64;
            let text_bytes = wire.len();
            if n == 0
                && let Some(follow) = &mut from.follow
                && let Some(commands) = self.followed(*follow)
            {
                wire.extend(commands);
            }
            match self.write(&wire, times.block, end) {
                Ok(true) => block_bytes = LAST_BLOCK_BYTES.min(2 * block_bytes),
                Ok(false) => {}
                Err(Broken { gone, error }) => {
                    if n == 0 && gone >= text_bytes {
                        // What broke is what follows: a reply that comes is that to the dot.
                        self.engine.sent(sent - DOT.len() as u64);
                    }
                    return self.hung_up(&error);
                }
            }
            if n == 0 {
                return self.engine.sent(sent - DOT.len() as u64);
            }
            wire.clear();
        }
    }

    /// What may go out with the end of a message.
    fn followed(&mut self, follow: &mut dyn Follow) -> Option<Vec<u8>> {
        if !self.engine.can_follow() {
            return None;
        }
        let (message, recipients) = follow.next(self.engine.extensions())?;
        self.engine.follow(&message, recipients)
    }

    fn secure(&mut self, upgrade: Option<&dyn Upgrade>, within: Duration) {
        let missing = NotSecured {
            text: Line::sanitize(b"TLS is not available"),
            lost: false,
        };
        let began = Instant::now();
        let result = match (self.stream.take(), upgrade) {
            (Some(mut plain), Some(upgrade)) => {
                plain.set_deadline(Instant::now() + within);
                upgrade.upgrade(plain)
            }
            _ => Err(missing),
        };
        self.handshake = began.elapsed();
        self.engine
            .secured(result.map(|Secured { stream, ciphers }| {
                self.stream = Some(stream);
                self.ciphers.insert(ciphers).clone()
            }));
    }

    /// A server that closes while we write has usually said why.
    fn hung_up(&mut self, error: &io::Error) {
        let gone = matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        );
        if gone {
            // What matters is what it brings; that there may be nothing is known.
            let _ = self.read_until(Instant::now() + LAST_WORDS);
        }
        self.lost(error);
    }

    fn lost(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.tell();
            if let Some(tap) = &mut self.tap {
                tap(Event::Timeout);
            }
        }
        let text = || Line::sanitize(transport_text(error).as_bytes());
        self.engine.lost(&match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Loss::Closed,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                Loss::Reset(text())
            }
            io::ErrorKind::TimedOut => Loss::Late(text()),
            _ => Loss::Broken(text()),
        });
    }

    fn tell(&mut self) {
        if let Some(tap) = &mut self.tap {
            self.engine.take_events().into_iter().for_each(tap);
        }
    }
}

/// How much of a message is read at once: no more memory than it has bytes where it is short.
fn piece_bytes(size_bytes: Option<u64>) -> usize {
    let size = size_bytes.and_then(|size| usize::try_from(size).ok());
    size.map_or(PIECE_BYTES, |size| size.clamp(LEAST_BYTES, PIECE_BYTES))
}

/// A connection of which it is known that so many bytes of what was to be written went out.
struct Broken {
    gone: usize,
    error: io::Error,
}

/// What is sent once the server says so.
struct Text<'a> {
    content: &'a mut dyn Read,
    size: Option<u64>,
    follow: Option<&'a mut (dyn Follow + 'a)>,
}

const NO_CONTENT: &str = "Could not get message fd";

fn no_content(recipients: Vec<Recipient>) -> impl Iterator<Item = (EvpId, Outcome)> {
    let text = Line::sanitize(NO_CONTENT.as_bytes());
    let outcome = Outcome::temp(Status::new(4, 3, 0), text);
    recipients
        .into_iter()
        .map(move |recipient| (recipient.id, outcome.clone()))
}
