//! One message to the daemon: SMTP over the socket that `Submit` yields, one command at a time.
//!
//! Promises: the message is only called accepted when the daemon has said so behind the final
//! dot; every wait has an end; a reply is bounded. What the daemon does about QUIT changes
//! nothing any more.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::control::client::{Client, Error};
use crate::sys::errno::strerror;

/// The envelope of a message that is submitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// Empty is the null sender.
    pub sender: Vec<u8>,
    /// At least one.
    pub recipients: Vec<Vec<u8>>,
    /// RET of MAIL.
    pub ret: Option<Vec<u8>>,
    /// ENVID of MAIL.
    pub envid: Option<Vec<u8>>,
    /// NOTIFY of every RCPT.
    pub notify: Option<Vec<u8>>,
}

/// Why the message was not accepted.
#[derive(Debug)]
pub enum Undelivered {
    /// The daemon refused: its reply.
    Refused(String),
    Failed(String),
}

impl Undelivered {
    /// Whether the daemon has said that it will never take this.
    pub fn is_final(&self) -> bool {
        matches!(self, Undelivered::Refused(reply) if reply.starts_with('5'))
    }
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undelivered::Refused(reply) => write!(f, "command failed: {reply}"),
            Undelivered::Failed(why) => f.write_str(why),
        }
    }
}

/// A session with the daemon, or why there is none now.
pub fn session(socket: &Path) -> Result<UnixStream, String> {
    let client = Client::connect(socket).map_err(|error| error.to_string())?;
    client.submit().map_err(|error| match error {
        Error::Refused(why) => format!("server disallowed submission request: {why}"),
        other => other.to_string(),
    })
}

/// Sends a message whose lines end in LF, written by `body`. `dialogue` hears both sides (`-v`).
pub fn submit(
    stream: &UnixStream,
    letter: &Letter,
    mut body: impl FnMut(&mut dyn Write) -> io::Result<()>,
    dialogue: Option<&mut dyn Write>,
) -> Result<(), Undelivered> {
    let mut session = Session::open(stream, dialogue)?;
    session.command(&mail(letter))?;
    for recipient in &letter.recipients {
        session.command(&rcpt(letter, recipient))?;
    }
    session.content(&mut body)
}

/// Asks what the daemon would say to each recipient: its replies, in their order. Nothing is sent.
pub fn verify(
    stream: &UnixStream,
    letter: &Letter,
    dialogue: Option<&mut dyn Write>,
) -> Result<Vec<String>, Undelivered> {
    let mut session = Session::open(stream, dialogue)?;
    session.command(&mail(letter))?;
    let ask = |recipient: &Vec<u8>| session.ask(&rcpt(letter, recipient));
    let replies = letter.recipients.iter().map(ask).collect();
    session.quit();
    replies
}

/// What became of recipients, by their places in the letter, with the daemon's words.
#[derive(Debug, Default)]
pub struct Pass {
    /// The message is the daemon's for these.
    pub accepted: Vec<usize>,
    pub refused: Vec<(usize, String)>,
    pub put_off: Vec<(usize, String)>,
}

/// Whether some get the message where others are put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Some,
    /// Nobody gets it then.
    AllOrNone,
}

/// Sends a message to those of the `wanted` recipients that the daemon takes: each is judged alone.
///
/// When it `is_late`, those who are accepted get it before others are asked for.
pub fn submit_each(
    stream: &UnixStream,
    letter: &Letter,
    wanted: &[usize],
    share: Share,
    is_late: &dyn Fn() -> bool,
    mut body: impl FnMut(&mut dyn Write) -> io::Result<()>,
) -> Pass {
    let mut pass = Pass::default();
    let judged = judge_each(stream, letter, wanted, share, is_late, &mut pass, &mut body);
    if let Err(end) = judged {
        pass.accepted.clear();
        let settled: BTreeSet<usize> = pass
            .refused
            .iter()
            .chain(&pass.put_off)
            .map(|(at, _)| *at)
            .collect();
        let rest = wanted.iter().filter(|at| !settled.contains(at));
        let rest = rest.map(|at| (*at, end.to_string()));
        if end.is_final() {
            pass.refused.extend(rest)
        } else {
            pass.put_off.extend(rest)
        }
    }
    pass
}

fn judge_each(
    stream: &UnixStream,
    letter: &Letter,
    wanted: &[usize],
    share: Share,
    is_late: &dyn Fn() -> bool,
    pass: &mut Pass,
    body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Undelivered> {
    let mut session = Session::open(stream, None)?;
    session.command(&mail(letter))?;
    let mut rest = wanted.iter();
    while let Some(at) = rest.next() {
        let Some(recipient) = letter.recipients.get(*at) else {
            continue;
        };
        let reply = session.ask(&rcpt(letter, recipient))?;
        let is_full = is_too_many(&reply);
        match reply.as_bytes() {
            [b'2', ..] => pass.accepted.push(*at),
            [b'5', ..] => pass.refused.push((*at, reply)),
            // The session is over, and with it what it has accepted.
            [b'4', b'2', b'1', ..] => return Err(Undelivered::Refused(reply)),
            _ => pass.put_off.push((*at, reply)),
        }
        // The others are asked for when these have the message.
        let may_stop = share == Share::Some && !pass.accepted.is_empty();
        if may_stop && (is_full || is_late()) {
            pass.put_off
                .extend(rest.map(|at| (*at, NOT_ASKED.to_owned())));
            break;
        }
    }
    if share == Share::AllOrNone
        && let Some((_, reply)) = pass.put_off.first().cloned()
    {
        let with_them = pass.accepted.drain(..).map(|at| (at, reply.clone()));
        pass.put_off.extend(with_them);
    }
    if pass.accepted.is_empty() {
        session.quit()
    } else {
        session.content(body)?
    }
    Ok(())
}

/// What is said of whom nothing is known yet.
const NOT_ASKED: &str = "there was no time to ask";

/// Whether the transaction takes no more recipients (RFC 5321 §4.5.3.1.10).
fn is_too_many(reply: &str) -> bool {
    ["451 4.5.3 ", "452 4.5.3 "]
        .iter()
        .any(|start| reply.starts_with(start))
}

/// The daemon syncs before it answers; RFC 5321 §4.5.3.2.6 allows ten minutes.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(600);
/// Lines of one reply, and bytes of one line.
const MOST_LINES: usize = 100;
const LONGEST_LINE: u64 = 4096;

fn mail(letter: &Letter) -> Vec<u8> {
    let mut line = [b"MAIL FROM:<", letter.sender.as_slice(), b">"].concat();
    append(&mut line, b" RET=", letter.ret.as_deref());
    append(&mut line, b" ENVID=", letter.envid.as_deref());
    line
}

fn rcpt(letter: &Letter, recipient: &[u8]) -> Vec<u8> {
    let mut line = [b"RCPT TO:<", recipient, b">"].concat();
    append(&mut line, b" NOTIFY=", letter.notify.as_deref());
    line
}

fn append(line: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    if let Some(value) = value {
        line.extend_from_slice(name);
        line.extend_from_slice(value);
    }
}

fn accepted(reply: String) -> Result<(), Undelivered> {
    match reply.as_bytes().first() {
        Some(b'2' | b'3') => Ok(()),
        _ => Err(Undelivered::Refused(reply)),
    }
}

fn broken(what: &str, error: &io::Error) -> Undelivered {
    Undelivered::Failed(format!("{what}: {}", strerror(error)))
}

struct Session<'a, 'd> {
    reader: BufReader<&'a UnixStream>,
    stream: &'a UnixStream,
    dialogue: Option<&'a mut (dyn Write + 'd)>,
}

impl<'a, 'd> Session<'a, 'd> {
    /// Waits for the banner and introduces itself.
    fn open(
        stream: &'a UnixStream,
        dialogue: Option<&'a mut (dyn Write + 'd)>,
    ) -> Result<Session<'a, 'd>, Undelivered> {
        stream
            .set_read_timeout(Some(REPLY_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(REPLY_TIMEOUT)))
            .map_err(|e| broken("write error", &e))?;
        let mut session = Session {
            reader: BufReader::new(stream),
            stream,
            dialogue,
        };
        accepted(session.reply()?)?;
        session.command(b"EHLO localhost")?;
        Ok(session)
    }

    fn command(&mut self, line: &[u8]) -> Result<(), Undelivered> {
        accepted(self.ask(line)?)
    }

    fn ask(&mut self, line: &[u8]) -> Result<String, Undelivered> {
        self.tell(">>> ", line);
        if let Err(error) = self.stream.write_all(&[line, b"\r\n"].concat()) {
            return Err(self.last_words("write error", &error));
        }
        self.reply()
    }

    /// DATA, the message, and the end.
    fn content(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Undelivered> {
        self.command(b"DATA")?;
        self.message(body)?;
        accepted(self.reply()?)?;
        self.quit();
        Ok(())
    }

    /// What was to be said has been said; whatever becomes of QUIT is no failure.
    fn quit(&mut self) {
        let _ = self.command(b"QUIT");
    }

    fn message(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Undelivered> {
        let mut wire = Wire {
            out: io::BufWriter::with_capacity(64 * 1024, self.stream),
            line_start: true,
        };
        let sent = body(&mut wire).and_then(|()| wire.finish());
        sent.map_err(|error| self.last_words("write error", &error))
    }

    /// A daemon that hangs up has usually said why.
    fn last_words(&mut self, what: &str, error: &io::Error) -> Undelivered {
        let gone = matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        );
        match gone.then(|| self.reply()) {
            Some(Ok(reply)) => Undelivered::Refused(reply),
            _ => broken(what, error),
        }
    }

    /// The last line of a reply.
    fn reply(&mut self) -> Result<String, Undelivered> {
        for _ in 0..MOST_LINES {
            let mut line = Vec::new();
            self.reader
                .by_ref()
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .map_err(|e| broken("read error", &e))?;
            let Some(line) = line.strip_suffix(b"\n") else {
                let text = "smtpd closed the connection".to_owned();
                return Err(Undelivered::Failed(text));
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.tell("<<< ", line);
            let [code @ .., b'-'] = line.get(..4).unwrap_or(line) else {
                return Ok(String::from_utf8_lossy(line).replace(char::is_control, "?"));
            };
            debug_assert!(code.len() <= 3);
        }
        Err(Undelivered::Failed("reply is too long".to_owned()))
    }

    fn tell(&mut self, arrow: &str, line: &[u8]) {
        if let Some(out) = &mut self.dialogue {
            // Nobody watching is no reason to stop.
            let line = String::from_utf8_lossy(line).replace(char::is_control, "?");
            let _ = writeln!(out, "{arrow}{line}").and_then(|()| out.flush());
        }
    }
}

/// LF becomes CRLF, a leading dot is doubled (RFC 5321 §4.5.2).
struct Wire<W: Write> {
    out: W,
    line_start: bool,
}

impl<W: Write> Wire<W> {
    fn finish(&mut self) -> io::Result<()> {
        if !self.line_start {
            self.out.write_all(b"\r\n")?;
        }
        self.out.write_all(b".\r\n")?;
        self.out.flush()
    }
}

impl<W: Write> Write for Wire<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line_start && piece.starts_with(b".") {
                self.out.write_all(b".")?;
            }
            match piece.strip_suffix(b"\n") {
                Some(line) => {
                    self.out.write_all(line)?;
                    self.out.write_all(b"\r\n")?;
                    self.line_start = true;
                }
                None => {
                    self.out.write_all(piece)?;
                    self.line_start = false;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_out_in_crlf_with_their_dots_doubled_however_they_are_cut() {
        // RFC 5321 §4.5.2: transparency.
        let text = b".\n..x\na.b\n\n.\nlast";
        let expected = b"..\r\n...x\r\na.b\r\n\r\n..\r\nlast\r\n.\r\n";
        for cut in 0..=text.len() {
            let mut wire = Wire {
                out: Vec::new(),
                line_start: true,
            };
            wire.write_all(&text[..cut]).unwrap();
            wire.write_all(&text[cut..]).unwrap();
            wire.finish().unwrap();
            assert_eq!(wire.out, expected, "{cut}");
        }
    }

    #[test]
    fn parameters_follow_the_addresses() {
        let letter = Letter {
            sender: b"a@x".to_vec(),
            recipients: vec![b"b@x".to_vec()],
            ret: Some(b"HDRS".to_vec()),
            envid: Some(b"id".to_vec()),
            notify: Some(b"SUCCESS".to_vec()),
        };
        assert_eq!(mail(&letter), b"MAIL FROM:<a@x> RET=HDRS ENVID=id");
        assert_eq!(rcpt(&letter, b"b@x"), b"RCPT TO:<b@x> NOTIFY=SUCCESS");
        let plain = Letter::default();
        assert_eq!(mail(&plain), b"MAIL FROM:<>");
        assert_eq!(rcpt(&plain, b"b@x"), b"RCPT TO:<b@x>");
    }
}
