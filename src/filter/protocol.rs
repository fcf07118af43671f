//! The lines of smtpd-filters(7), protocol 0.7: what we say, and what is made of what we hear.
//!
//! Fields are separated by `|`, and only the last one of a line may hold that. Bytes are passed as
//! they came, in no particular character set. Ids are sixteen hexadecimal digits. An event without
//! parameters has no `|` behind the session, a request without one has: programs depend on both.

use std::fmt::{self, Write};

use crate::mail::SessionId;
use crate::util::Line;

/// The version in every line. Programs compare it as text.
pub const VERSION: &str = "0.7";

/// When a filter is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Connect,
    Helo,
    Ehlo,
    StartTls,
    Auth,
    MailFrom,
    RcptTo,
    Data,
    /// Each line of a message.
    DataLine,
    Rset,
    Quit,
    Noop,
    /// HELP, which may be registered and is never asked.
    Help,
    /// WIZ, likewise.
    Wiz,
    /// The final dot.
    Commit,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 15] = [
        Phase::Connect,
        Phase::Helo,
        Phase::Ehlo,
        Phase::StartTls,
        Phase::Auth,
        Phase::MailFrom,
        Phase::RcptTo,
        Phase::Data,
        Phase::DataLine,
        Phase::Rset,
        Phase::Quit,
        Phase::Noop,
        Phase::Help,
        Phase::Wiz,
        Phase::Commit,
    ];

    /// The word in requests and registrations.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Helo => "helo",
            Phase::Ehlo => "ehlo",
            Phase::StartTls => "starttls",
            Phase::Auth => "auth",
            Phase::MailFrom => "mail-from",
            Phase::RcptTo => "rcpt-to",
            Phase::Data => "data",
            Phase::DataLine => "data-line",
            Phase::Rset => "rset",
            Phase::Quit => "quit",
            Phase::Noop => "noop",
            Phase::Help => "help",
            Phase::Wiz => "wiz",
            Phase::Commit => "commit",
        }
    }

    /// The word in the event `filter-response`.
    pub fn response_word(self) -> &'static str {
        match self {
            Phase::Connect => "connected",
            Phase::StartTls => "tls",
            other => other.word(),
        }
    }

    /// Its bit in a set.
    pub fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The events that programs can ask to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has connected.
    LinkConnect,
    LinkDisconnect,
    /// The banner was sent.
    LinkGreeting,
    /// HELO or EHLO was accepted.
    LinkIdentify,
    LinkTls,
    /// AUTH has ended.
    LinkAuth,
    /// A transaction is over.
    TxReset,
    /// A transaction has begun.
    TxBegin,
    /// MAIL was answered.
    TxMail,
    /// RCPT was answered.
    TxRcpt,
    /// An envelope was made.
    TxEnvelope,
    /// DATA was answered.
    TxData,
    /// The message was accepted.
    TxCommit,
    /// The transaction was given up.
    TxRollback,
    ProtocolClient,
    ProtocolServer,
    /// What a filter wants to be known.
    FilterReport,
    /// What filters have decided.
    FilterResponse,
    /// The client was silent.
    Timeout,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 19] = [
        Event::LinkConnect,
        Event::LinkDisconnect,
        Event::LinkGreeting,
        Event::LinkIdentify,
        Event::LinkTls,
        Event::LinkAuth,
        Event::TxReset,
        Event::TxBegin,
        Event::TxMail,
        Event::TxRcpt,
        Event::TxEnvelope,
        Event::TxData,
        Event::TxCommit,
        Event::TxRollback,
        Event::ProtocolClient,
        Event::ProtocolServer,
        Event::FilterReport,
        Event::FilterResponse,
        Event::Timeout,
    ];

    /// Its name in lines of the protocol.
    pub fn word(self) -> &'static str {
        match self {
            Event::LinkConnect => "link-connect",
            Event::LinkDisconnect => "link-disconnect",
            Event::LinkGreeting => "link-greeting",
            Event::LinkIdentify => "link-identify",
            Event::LinkTls => "link-tls",
            Event::LinkAuth => "link-auth",
            Event::TxReset => "tx-reset",
            Event::TxBegin => "tx-begin",
            Event::TxMail => "tx-mail",
            Event::TxRcpt => "tx-rcpt",
            Event::TxEnvelope => "tx-envelope",
            Event::TxData => "tx-data",
            Event::TxCommit => "tx-commit",
            Event::TxRollback => "tx-rollback",
            Event::ProtocolClient => "protocol-client",
            Event::ProtocolServer => "protocol-server",
            Event::FilterReport => "filter-report",
            Event::FilterResponse => "filter-response",
            Event::Timeout => "timeout",
        }
    }

    /// Its bit in a set.
    pub fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The sessions of which events are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    /// Those in which we are the server.
    In,
    /// Those in which we are the client.
    Out,
}

impl Subsystem {
    /// Its name in lines of the protocol.
    pub fn word(self) -> &'static str {
        match self {
            Subsystem::In => "smtp-in",
            Subsystem::Out => "smtp-out",
        }
    }
}

/// What filters decide about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Proceed,
    /// Go on, and ask no other filter.
    Bypass,
    /// Go on, and mark the message.
    Junk,
    /// Answer with this.
    Reject(Line),
    /// Answer with this, and close.
    Disconnect(Line),
    /// Go on with another argument.
    Rewrite(Line),
    /// Tell those who listen, and go on.
    Report(Line),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Proceed => f.write_str("proceed"),
            Decision::Bypass => f.write_str("bypass"),
            Decision::Junk => f.write_str("junk"),
            Decision::Reject(text) => write!(f, "reject {text}"),
            Decision::Disconnect(text) => write!(f, "disconnect {text}"),
            Decision::Rewrite(value) => write!(f, "rewrite {value}"),
            Decision::Report(text) => write!(f, "report {text}"),
        }
    }
}

/// What a program says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'l> {
    /// It wants an event of a subsystem; `None` wants all.
    WantsReport(Subsystem, Option<Event>),
    /// It wants to be asked.
    WantsPhase(Phase),
    /// It wants something that we do not know.
    WantsUnknown,
    /// It has said what it wants.
    Ready,
    /// It has decided.
    Result(u64, u64, Decision),
    /// A line of a message.
    Line(u64, u64, &'l [u8]),
    /// It wants something known about a session.
    Report(u64, Line),
}

/// Reads a line of a program.
pub fn parse(line: &[u8]) -> Result<Said<'_>, String> {
    let mut fields = Fields(Some(line));
    match fields.next() {
        Some(b"register") => register(fields),
        Some(b"filter-result") => {
            let (session, token) = (fields.id("session")?, fields.id("token")?);
            let word = fields.next().ok_or("Missing decision")?;
            let rest = fields.0;
            let decision = match (word, rest) {
                (b"proceed", None) => Decision::Proceed,
                (b"junk", None) => Decision::Junk,
                (b"reject", Some(text)) => Decision::Reject(text_of(text)),
                (b"disconnect", Some(text)) => Decision::Disconnect(text_of(text)),
                (b"rewrite", Some(text)) => Decision::Rewrite(text_of(text)),
                (b"report", Some(text)) => Decision::Report(text_of(text)),
                _ => return Err(format!("Invalid directive: {}", shown(line))),
            };
            Ok(Said::Result(session, token, decision))
        }
        Some(b"filter-dataline") => {
            let (session, token) = (fields.id("session")?, fields.id("token")?);
            let line = fields.0.ok_or("Missing line")?;
            Ok(Said::Line(session, token, line))
        }
        Some(b"report") => {
            let _stamp = fields.next();
            match fields.next() {
                Some(b"smtp-in" | b"smtp-out") => {}
                _ => return Err(format!("Invalid message direction: {}", shown(line))),
            }
            let session = fields.id("session")?;
            Ok(Said::Report(session, text_of(fields.0.unwrap_or_default())))
        }
        _ => Err(format!("Invalid filter message type: {}", shown(line))),
    }
}

fn register(mut fields: Fields<'_>) -> Result<Said<'_>, String> {
    let words = (fields.next(), fields.next(), fields.next(), fields.0);
    let subsystem = match words.1 {
        Some(b"smtp-in") => Some(Subsystem::In),
        Some(b"smtp-out") => Some(Subsystem::Out),
        _ => None,
    };
    match words {
        (Some(b"ready"), None, None, None) => Ok(Said::Ready),
        (Some(b"report"), Some(_), Some(word), None) => {
            let event = Event::ALL.into_iter().find(|e| e.word().as_bytes() == word);
            Ok(match (subsystem, event) {
                (Some(subsystem), None) if word == b"*" => Said::WantsReport(subsystem, None),
                (Some(subsystem), Some(_)) => Said::WantsReport(subsystem, event),
                _ => Said::WantsUnknown,
            })
        }
        (Some(b"filter"), Some(_), Some(word), None) => {
            let phase = Phase::ALL.into_iter().find(|p| p.word().as_bytes() == word);
            Ok(match (subsystem, phase) {
                (Some(Subsystem::In), Some(phase)) => Said::WantsPhase(phase),
                _ => Said::WantsUnknown,
            })
        }
        _ => Err("Invalid register line received".to_owned()),
    }
}

/// What is left of a line, field by field.
struct Fields<'l>(Option<&'l [u8]>);

impl<'l> Fields<'l> {
    fn next(&mut self) -> Option<&'l [u8]> {
        let rest = self.0?;
        match rest.iter().position(|byte| *byte == b'|') {
            Some(at) => {
                self.0 = rest.get(at + 1..);
                rest.get(..at)
            }
            None => {
                self.0 = None;
                Some(rest)
            }
        }
    }

    /// Hexadecimal, in any case, leading zeros or not.
    fn id(&mut self, what: &str) -> Result<u64, String> {
        let field = self.next().unwrap_or_default();
        let hex = !field.is_empty() && field.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(field).ok().filter(|_| hex);
        text.and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or_else(|| format!("Invalid {what}: {}", shown(field)))
    }
}

/// A line about a session, up to its parameters: `report|0.7|…|smtp-in|EVENT|SESSION`.
pub fn report(
    stamp: &str,
    subsystem: Subsystem,
    event: Event,
    session: SessionId,
    parameters: Option<&[u8]>,
) -> Vec<u8> {
    let mut line = format!(
        "report|{VERSION}|{stamp}|{}|{}|{session}",
        subsystem.word(),
        event.word()
    )
    .into_bytes();
    if let Some(parameters) = parameters {
        line.push(b'|');
        line.extend_from_slice(&one_line(parameters));
    }
    line.push(b'\n');
    line
}

/// A question.
pub fn request(
    stamp: &str,
    phase: Phase,
    session: SessionId,
    token: u64,
    parameter: &[u8],
) -> Vec<u8> {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        line,
        "filter|{VERSION}|{stamp}|{}|{}|{session}|{token:016x}|",
        Subsystem::In.word(),
        phase.word()
    );
    let mut line = line.into_bytes();
    line.extend_from_slice(&one_line(parameter));
    line.push(b'\n');
    line
}

/// What a program is told first.
pub fn greeting(session_timeout_s: u64, subsystems: &[Subsystem], admd: &str) -> Vec<u8> {
    let mut text = format!(
        "config|smtpd-version|{}\nconfig|protocol|{VERSION}\n\
         config|smtp-session-timeout|{session_timeout_s}\n",
        env!("CARGO_PKG_VERSION")
    );
    for subsystem in subsystems {
        let _ = writeln!(text, "config|subsystem|{}", subsystem.word());
    }
    let _ = write!(text, "config|admd|{admd}\nconfig|ready\n");
    text.into_bytes()
}

/// Bytes that cannot add a line.
fn one_line(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if bytes.contains(&b'\n') {
        bytes
            .iter()
            .map(|byte| if *byte == b'\n' { b'?' } else { *byte })
            .collect::<Vec<u8>>()
            .into()
    } else {
        bytes.into()
    }
}

/// A text that goes into replies and commands.
fn text_of(bytes: &[u8]) -> Line {
    Line::from_bytes(bytes).unwrap_or_else(|_| Line::sanitize(bytes))
}

/// The start of a line, for the log.
fn shown(line: &[u8]) -> Line {
    Line::sanitize(line.get(..80).unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: SessionId = SessionId(0x3f0c_5a1e_9b7d_2c44);

    fn line(text: &str) -> Line {
        Line::new(text).unwrap()
    }

    // smtpd-filters(7), answers.
    #[test]
    fn answers_are_read_strictly() {
        let result = |d| Said::Result(0x3f0c, 0xa1, d);
        for (text, want) in [
            (
                "filter-result|3f0c|00000000000000a1|proceed",
                result(Decision::Proceed),
            ),
            ("filter-result|3F0C|A1|junk", result(Decision::Junk)),
            (
                "filter-result|3f0c|a1|reject|550 a|b",
                result(Decision::Reject(line("550 a|b"))),
            ),
            (
                "filter-result|3f0c|a1|disconnect|421 x",
                result(Decision::Disconnect(line("421 x"))),
            ),
            (
                "filter-result|3f0c|a1|rewrite|",
                result(Decision::Rewrite(line(""))),
            ),
            (
                "filter-result|3f0c|a1|report|seen",
                result(Decision::Report(line("seen"))),
            ),
            (
                "filter-dataline|3f0c|a1|a|b",
                Said::Line(0x3f0c, 0xa1, b"a|b"),
            ),
            ("filter-dataline|3f0c|a1|", Said::Line(0x3f0c, 0xa1, b"")),
            (
                "report|1.000000|smtp-in|3f0c|hello",
                Said::Report(0x3f0c, line("hello")),
            ),
            ("register|ready", Said::Ready),
            (
                "register|report|smtp-in|*",
                Said::WantsReport(Subsystem::In, None),
            ),
            (
                "register|report|smtp-out|tx-mail",
                Said::WantsReport(Subsystem::Out, Some(Event::TxMail)),
            ),
            (
                "register|filter|smtp-in|data-line",
                Said::WantsPhase(Phase::DataLine),
            ),
            // What a newer program may want.
            ("register|filter|smtp-in|bdat", Said::WantsUnknown),
            ("register|filter|smtp-out|connect", Said::WantsUnknown),
            ("register|report|smtp-in|link-quic", Said::WantsUnknown),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(want), "{text}");
        }
        for bad in [
            "",
            "hello",
            "filter-result",
            "filter-result|3f0c",
            "filter-result|3f0c|a1",
            "filter-result|3f0c|a1|",
            "filter-result|3f0c|a1|proceed|x",
            "filter-result|3f0c|a1|Proceed",
            "filter-result|3f0c|a1|reject",
            "filter-result||a1|proceed",
            "filter-result|+1|a1|proceed",
            "filter-result|3f0c5a1e9b7d2c440|a1|proceed",
            "filter-result|3f0c|xyz|proceed",
            "filter-dataline|3f0c|a1",
            "report|1|elsewhere|3f0c|x",
            "register|ready|x",
            "register|ready\r",
            "register",
            "register|filter|smtp-in",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    // smtpd-filters(7): filter-rspamd ends itself when these differ by one separator.
    #[test]
    fn what_is_said_has_the_separators_that_programs_count() {
        let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stamp, dir) = ("1763755392.123456", Subsystem::In);
        assert_eq!(
            said(report(stamp, dir, Event::LinkDisconnect, S, None)),
            "report|0.7|1763755392.123456|smtp-in|link-disconnect|3f0c5a1e9b7d2c44\n"
        );
        assert_eq!(
            said(report(stamp, dir, Event::TxMail, S, Some(b"1a2b3c4d|ok|"))),
            "report|0.7|1763755392.123456|smtp-in|tx-mail|3f0c5a1e9b7d2c44|1a2b3c4d|ok|\n"
        );
        assert_eq!(
            said(request(stamp, Phase::Commit, S, 0x32b2, b"")),
            "filter|0.7|1763755392.123456|smtp-in|commit|3f0c5a1e9b7d2c44|00000000000032b2|\n"
        );
        assert_eq!(
            said(request(stamp, Phase::DataLine, S, 1, b"Subject: a|b\nc")),
            "filter|0.7|1763755392.123456|smtp-in|data-line|3f0c5a1e9b7d2c44|0000000000000001\
             |Subject: a|b?c\n"
        );
        let greeting = said(greeting(
            300,
            &[Subsystem::In, Subsystem::Out],
            "mx.example.com",
        ));
        let keys: Vec<&str> = greeting
            .lines()
            .map(|l| l.split('|').nth(1).unwrap())
            .collect();
        assert_eq!(
            keys,
            [
                "smtpd-version",
                "protocol",
                "smtp-session-timeout",
                "subsystem",
                "subsystem",
                "admd",
                "ready"
            ]
        );
    }
}
