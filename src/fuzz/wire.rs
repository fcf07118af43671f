//! Wires: what clients, servers, name servers and our own processes say.

use std::sync::Arc;

use crate::client::reply::Parser;
use crate::control::message::{decode_answer, decode_ask, encode_answer, encode_ask};
use crate::filter::protocol::{self, Said};
use crate::mail::{Destination, Expanded, Facts, Kind, Local, MailAddr, Peer, Refusal, SessionId};
use crate::privsep::batch::{Answer, Chunk, Head};
use crate::privsep::{ChildJob, Handover, Reply, Request};
use crate::proc::Lines;
use crate::queue::ram::Ram;
use crate::queue::{BeginError, Committed, Incoming, Queue};
use crate::session::{
    self, Auth, Disconnect, Limits, Listening, Maillog, Next, Question, Services, Session, Tls,
    TlsFacts,
};
use crate::smtp::command::Command;
use crate::smtp::dot::{Decoder, Progress};
use crate::smtp::params::{self, DsnSupport};
use crate::smtp::{domain_name, path, xtext};
use crate::table::program;
use crate::util::{Line, Timestamp};

use super::text_of;

/// A command line and its parts; and message data, however it is cut.
pub(super) fn command(bytes: &[u8]) {
    let argument = match Command::parse(bytes) {
        Command::Mail(argument) | Command::Rcpt(argument) => argument,
        _ => bytes,
    };
    if let Ok((addr, rest)) = path::reverse(argument, "mx.example.org") {
        let _ = params::mail(rest, DsnSupport::Offered);
        // What a queue file could not hold is not accepted.
        assert_eq!(MailAddr::from_stored(&addr.stored()), Some(addr));
    }
    if let Ok((_, rest)) = path::forward(argument, "mx.example.org") {
        let _ = params::rcpt(rest, DsnSupport::Withheld);
    }
    let _ = domain_name::parse(argument);
    if xtext::is_xtext(argument) {
        let _ = xtext::decode(&text_of(argument));
    }
    assert_eq!(data(bytes, bytes.len().max(1)), data(bytes, 1));
}

/// The text of message data that comes in pieces, and where it ends.
fn data(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<usize>) {
    let (mut decoder, mut text, mut at) = (Decoder::new(), Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        match decoder.decode(piece, &mut text) {
            Progress::More => at += piece.len(),
            Progress::End { used } => return (text, Some(at + used)),
            Progress::LineTooLong => break,
        }
    }
    (text, None)
}

/// A whole dialogue. Replies are lines with codes; cut into single bytes it ends the same way.
pub(super) fn session(bytes: &[u8]) {
    let whole = dialogue(bytes, bytes.len().max(1));
    let bitwise = dialogue(bytes, 1);
    assert_eq!(whole, bitwise);
}

/// The codes of all replies.
fn dialogue(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let services = FakeServices {
        queue: Queue::new(Arc::new(Ram::default())),
    };
    let peer = Peer::parse("127.0.0.1").unwrap_or(Peer::Local);
    let mut session = Session::new(SessionId(1), Arc::new(listening()), peer);
    let (mut input, mut out, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    let next = session.open(&mut out);
    answer(next, &mut session, &mut input, &mut out, &services);
    'all: for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            let next = session.receive(&mut input, &mut out, &services);
            let next = answer(next, &mut session, &mut input, &mut out, &services);
            take_codes(&mut out, &mut codes);
            session.take_unfinished();
            match next {
                Next::Read => break,
                Next::Close => break 'all,
                Next::Flush | Next::Ask(_) | Next::Wait => {}
            }
        }
    }
    session.close(Disconnect::Hangup);
    codes
}

/// Answers at once whatever the session asks.
fn answer(
    mut next: Next,
    session: &mut Session,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
    services: &FakeServices,
) -> Next {
    while let Next::Ask(question) = next {
        let answer = match question {
            Question::Name(_) | Question::Password(_) => session::Answer::TooLate,
            Question::Tls => session::Answer::Secured(TlsFacts {
                ciphers: Line::sanitize(b"TLSv1.3:X:256"),
                certificate: None,
            }),
            Question::Lookup(lookup) => lookup.answer(services),
            Question::Store(store) => store.answer(services),
            Question::Filter(_) => session::Answer::TooLate,
            Question::Pause(_) => session::Answer::TooLate,
        };
        next = session.answered(answer, input, out, services);
    }
    next
}

fn take_codes(out: &mut Vec<u8>, codes: &mut Vec<Vec<u8>>) {
    assert!(out.is_empty() || out.ends_with(b"\r\n"));
    for line in out.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r\n").unwrap_or_default();
        let code = text.get(..4).unwrap_or_default();
        let (digits, mark) = code.split_at(code.len().min(3));
        assert!(digits.len() == 3 && digits.iter().all(u8::is_ascii_digit));
        assert!(mark == b" " || mark == b"-");
        assert!(!text.contains(&b'\r') && !text.contains(&0));
        codes.push(code.to_vec());
    }
    out.clear();
}

fn listening() -> Listening {
    let name = Line::sanitize(b"mx.example.org");
    Listening {
        server_name: name.clone(),
        hostname: name,
        hostnames: None,
        tag: None,
        mask_src: false,
        no_dsn: false,
        local: true,
        submission: true,
        // Behind STARTTLS, what came with it is forgotten: where the cut is would matter.
        tls: Some(Tls::Immediate),
        auth: Some(Auth {
            required: false,
            table: None,
        }),
        senders: None,
        received_auth: false,
        limits: Limits {
            max_message_size: 2000,
            max_rcpt: 5,
            max_mails: 3,
        },
        filter: None,
        rules_need_name: false,
        address: None,
        socket: std::path::PathBuf::new(),
        observers: vec![Arc::new(Maillog)],
    }
}

struct FakeServices {
    queue: Queue,
}

impl Services for FakeServices {
    fn begin(&self) -> Result<Incoming, BeginError> {
        self.queue.begin()
    }

    fn expand(&self, _: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal> {
        if rcpt.user().starts_with('n') {
            return Err(Refusal::new(550, "Invalid recipient"));
        }
        let user = Line::sanitize(rcpt.user().as_bytes());
        Ok(vec![Destination {
            action: Line::sanitize(b"local"),
            dest: rcpt.clone(),
            kind: Kind::Local(Local {
                user,
                subaddress: None,
                command: None,
            }),
            internal: false,
            sameness: rcpt.user().to_owned(),
        }]
        .into())
    }

    fn withdraw(&self, _: Committed) {}
    fn committed(&self, message: Committed) {
        assert!(!message.envelopes().is_empty());
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_763_754_192)
    }
}

/// A server's replies: the same, however they are cut.
pub(super) fn reply(bytes: &[u8]) {
    let read = |piece: usize| {
        let (mut parser, mut replies) = (Parser::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            parser.push(piece);
            loop {
                match parser.reply() {
                    Ok(Some(reply)) => replies.push((reply.code(), reply.text().clone())),
                    Ok(None) => break,
                    Err(_) => return replies,
                }
            }
        }
        replies
    };
    assert_eq!(read(bytes.len().max(1)), read(1));
}

/// What name servers answer, and what the system's files say.
pub(super) fn dns(bytes: &[u8]) {
    crate::dns::fuzz(bytes);
}

/// Frames between our own processes and programs: what is understood is written as it was read.
pub(super) fn frames(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(request.encode().as_deref(), Ok(bytes));
    }
    if let Ok(reply) = Reply::decode(bytes) {
        assert_eq!(reply.encode().as_deref(), Ok(bytes));
    }
    if let Ok(job) = ChildJob::decode(bytes) {
        let again = job.encode().ok().map(|bytes| ChildJob::decode(&bytes));
        assert!(again.is_none_or(|again| again == Ok(job)));
    }
    let _ = Handover::decode(bytes);
    if let Ok(ask) = decode_ask(bytes) {
        let frame = encode_ask(&ask);
        assert_eq!(decode_ask(frame.get(4..).unwrap_or_default()), Ok(ask));
    }
    if let Ok(answer) = decode_answer(bytes) {
        let mut frame = Vec::new();
        encode_answer(&answer, &mut frame);
        assert!(decode_answer(frame.get(4..).unwrap_or_default()).is_ok());
    }
    batch(bytes);
}

/// A stream of deliveries, as a child reads it, and of answers, as the engine does.
fn batch(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(head)) = Head::read(&mut rest) {
        let mut frame = Vec::new();
        head.encode(&mut frame);
        assert!(matches!(Head::read(&mut frame.as_slice()), Ok(Some(same)) if same == head));
        while let Ok(Chunk::Bytes(length)) = Chunk::read(&mut rest) {
            let Some(after) = rest.get(length..) else {
                return;
            };
            rest = after;
        }
    }
    let mut buffer = bytes.to_vec();
    while let Ok(Some(_)) = Answer::take(&mut buffer) {}
}

/// What programs of filters and tables say, line by line; however it is cut, it is the same lines.
pub(super) fn helpers(bytes: &[u8]) {
    let lines = |piece: usize| {
        let (mut reader, mut lines) = (Lines::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            let mut each = |line: &[u8]| {
                lines.push(line.to_vec());
                Ok(())
            };
            if reader.push(piece, &mut each).is_err() {
                break;
            }
        }
        lines
    };
    let whole = lines(bytes.len().max(1));
    assert_eq!(whole, lines(1));
    for line in whole {
        if let Ok(Said::Result(_, _, decision)) = protocol::parse(&line) {
            // Neither a reply nor a command gets a second line.
            let text = format!("{decision:?}");
            assert!(!text.contains(['\r', '\n', '\0']));
        }
        if let Ok((_, _, program::Answer::Found(value))) = program::answer(&text_of(&line)) {
            assert!(!value.contains(['\r', '\n', '\0']));
        }
    }
}
