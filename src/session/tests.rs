//! Whole conversations against a queue in memory and services of our own.
//!
//! `tests/dialogs/*.dialog` are scripts: `C: ` what the client says (CRLF is added), `C~ ` the
//! same with escapes (`\r \n \t \\ \xHH \*N` repeats the byte before N times) and nothing added,
//! `S: ` a line the server must answer (`<msgid>` stands for any message id), `X` the server
//! closes, `= N` messages are in the queue, `B: ` lines of the last message's text behind its
//! Received field, `@ ` a setting, `#` a comment.

use std::io;
use std::sync::{Arc, Mutex};

use crate::dns::Reverse;
use crate::mail::samples::line;
use crate::mail::{Dsn, Envelope, EvpId, Kind, Local, MsgId};
use crate::queue::ram::Ram;
use crate::queue::{Draft, LoadError, Queue, Store};
use crate::util::dice::Dice;

use super::*;
use crate::mail::Destination;
use crate::smtp::auth::{self, Credentials};

mod chance;
mod dialogs;
mod filtered;
mod hostile;
mod secured;
mod timeouts;

/// How long a test waits for what comes at once.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

/// A queue that can fail, rules for a few recipients, a clock that stands still.
struct FakeServices {
    store: Arc<Failing>,
    queue: Queue,
    committed: Mutex<Vec<MsgId>>,
}

#[derive(Default)]
struct Failing {
    ram: Ram,
    /// The call that fails, and how.
    fault: Option<(&'static str, io::ErrorKind)>,
}

struct FailingDraft(Box<dyn Draft>, Option<(&'static str, io::ErrorKind)>);

fn fail(fault: Option<(&'static str, io::ErrorKind)>, call: &str) -> io::Result<()> {
    match fault {
        Some((which, kind)) if which == call => Err(io::Error::from(kind)),
        _ => Ok(()),
    }
}

impl Store for Failing {
    fn begin(&self) -> Result<Box<dyn Draft>, BeginError> {
        match fail(self.fault, "begin") {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(BeginError::Full),
            Err(error) => Err(BeginError::Io(error)),
            Ok(()) => Ok(Box::new(FailingDraft(self.ram.begin()?, self.fault))),
        }
    }
    fn load(&self, id: EvpId) -> Result<Envelope, LoadError> {
        self.ram.load(id)
    }
    fn open_body(&self, id: MsgId) -> io::Result<crate::queue::Body> {
        self.ram.open_body(id)
    }
    fn update(&self, envelope: &Envelope) -> io::Result<()> {
        self.ram.update(envelope)
    }
    fn add(&self, envelope: &Envelope) -> io::Result<EvpId> {
        self.ram.add(envelope)
    }
    fn remove(&self, id: EvpId) -> io::Result<()> {
        self.ram.remove(id)
    }
    fn messages(&self) -> Box<dyn Iterator<Item = MsgId> + Send> {
        self.ram.messages()
    }
    fn envelopes(&self, id: MsgId) -> io::Result<Vec<Envelope>> {
        self.ram.envelopes(id)
    }
}

impl Draft for FailingDraft {
    fn msgid(&self) -> MsgId {
        self.0.msgid()
    }
    fn add(&mut self, envelope: Envelope) -> io::Result<EvpId> {
        fail(self.1, "add")?;
        self.0.add(envelope)
    }
    fn readdress(&mut self, id: EvpId, rcpt: MailAddr, dsn: Dsn) -> io::Result<()> {
        self.0.readdress(id, rcpt, dsn)
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let received = bytes.starts_with(b"Received: from localhost");
        fail(self.1, if received { "open" } else { "write" })?;
        self.0.write(bytes)
    }
    fn put_in_front(&mut self, fields: &[u8]) -> io::Result<()> {
        self.0.put_in_front(fields)
    }
    fn commit(self: Box<Self>) -> io::Result<Vec<Envelope>> {
        fail(self.1, "commit")?;
        self.0.commit()
    }
}

impl FakeServices {
    fn new(fault: Option<(&'static str, io::ErrorKind)>) -> FakeServices {
        let store = Arc::new(Failing {
            ram: Ram::default(),
            fault,
        });
        FakeServices {
            queue: Queue::new(store.clone()),
            store,
            committed: Mutex::default(),
        }
    }

    fn last_body(&self) -> Vec<u8> {
        let last = self.committed.lock().unwrap().last().copied();
        last.and_then(|id| self.store.ram.body(id))
            .unwrap_or_default()
    }
}

impl Services for FakeServices {
    fn begin(&self) -> Result<Incoming, BeginError> {
        self.queue.begin()
    }

    fn expand(&self, _: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal> {
        let copies = match (rcpt.user(), rcpt.domain()) {
            (_, domain) if !domain.ends_with("example.org") => 0,
            ("nobody", _) => 0,
            ("list", _) => 3,
            ("broken", _) => return Err(Refusal::new(451, "Temporary failure")),
            ("loop", _) => return Err(Refusal::new(524, "5.2.4 Mailing list expansion problem")),
            ("gone", _) => return Err(Refusal::new(550, "5.7.1 go away")),
            _ => 1,
        };
        let destination = |copy: usize| Destination {
            action: Line::new("local").unwrap(),
            dest: rcpt.clone(),
            kind: Kind::Local(Local {
                user: Line::new(rcpt.user()).unwrap(),
                subaddress: None,
                command: None,
            }),
            internal: false,
            sameness: format!("{rcpt} {copy}"),
        };
        match copies {
            0 => Err(Refusal::new(550, "Invalid recipient")),
            copies => Ok((0..copies).map(destination).collect::<Vec<_>>().into()),
        }
    }

    fn name_of(&self, table: &str, address: &Peer) -> Option<Line> {
        let known = table == "names" && address.to_string() == "192.0.2.1";
        known.then(|| line("other.example.org"))
    }

    fn may_send(&self, table: &str, user: &Line, sender: &MailAddr) -> Option<bool> {
        assert_eq!(table, "senders");
        match sender.user() {
            "broken" => None,
            name => Some(name == user.as_str()),
        }
    }

    fn withdraw(&self, _: Committed) {}
    fn committed(&self, message: Committed) {
        self.committed.lock().unwrap().push(message.msgid());
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_763_754_192)
    }
}

/// Who may log in: bob.
fn verdict(login: &Login) -> Verdict {
    let Credentials { user, password } = &login.credentials;
    match (user.as_str(), password.reveal()) {
        ("bob", "secret") => Verdict::Accepted,
        ("down", _) => Verdict::Unavailable,
        ("many", _) => Verdict::Exhausted(crate::auth::Exhausted::Network),
        _ => Verdict::Refused,
    }
}

fn listening() -> Listening {
    Listening {
        server_name: line("mx.example.org"),
        hostname: line("mx.example.org"),
        hostnames: None,
        tag: None,
        mask_src: false,
        no_dsn: false,
        local: false,
        submission: false,
        tls: None,
        auth: None,
        senders: None,
        received_auth: false,
        limits: Limits {
            max_message_size: 36_700_160,
            max_rcpt: 1000,
            max_mails: 100,
        },
        filter: None,
        rules_need_name: false,
        address: None,
        socket: std::path::PathBuf::new(),
        observers: vec![Arc::new(Maillog)],
    }
}

fn loopback() -> Peer {
    Peer::parse("127.0.0.1").unwrap()
}

/// A session together with its connection.
struct Talk {
    services: FakeServices,
    session: Session,
    input: Vec<u8>,
    out: Vec<u8>,
    next: Next,
    /// The last pause that a session has asked for.
    pause: Option<std::time::Duration>,
    /// What there was of refused messages.
    unfinished: Vec<Writing>,
}

impl Talk {
    fn start(listening: Listening, peer: Peer, services: FakeServices) -> Talk {
        let session = Session::new(SessionId(7), Arc::new(listening), peer);
        Talk::open(session, services)
    }

    fn open(mut session: Session, services: FakeServices) -> Talk {
        let mut out = Vec::new();
        let next = session.open(&mut out);
        let mut talk = Talk {
            services,
            session,
            input: Vec::new(),
            out,
            next: Next::Wait,
            pause: None,
            unfinished: Vec::new(),
        };
        talk.go_on(next);
        talk
    }

    /// Behind the banner.
    fn plain() -> Talk {
        let mut talk = Talk::start(listening(), loopback(), FakeServices::new(None));
        assert_eq!(talk.replies(), ["220 mx.example.org ESMTP OpenSMTPD"]);
        talk
    }

    /// After EHLO, MAIL, RCPT and DATA, with the replies taken.
    fn at_data() -> Talk {
        let mut talk = Talk::plain();
        talk.send(b"EHLO localhost\r\nMAIL FROM:<a@b.example>\r\n");
        talk.send(b"RCPT TO:<bob@example.org>\r\nDATA\r\n");
        assert!(talk.replies().last().unwrap().starts_with("354 "));
        talk
    }

    fn send(&mut self, bytes: &[u8]) {
        if matches!(self.next, Next::Close) {
            return;
        }
        self.input.extend_from_slice(bytes);
        loop {
            let next = self
                .session
                .receive(&mut self.input, &mut self.out, &self.services);
            self.go_on(next);
            match self.session.take_unfinished() {
                Some(unfinished) => self.unfinished.push(*unfinished),
                None => break,
            }
        }
        assert!(
            self.input.len() <= LINE_TOO_LONG,
            "input is used up to a partial line"
        );
    }

    /// Answers whatever the session asks, programs of filters as soon as they do; the client has
    /// no name.
    fn go_on(&mut self, mut next: Next) {
        while let Next::Ask(question) = next {
            let answer = match question {
                Question::Tls => {
                    assert!(self.input.is_empty(), "nothing of clear text is left");
                    Answer::Secured(TlsFacts {
                        ciphers: line("TLSv1.3:TLS_AES_256_GCM_SHA384:256"),
                        certificate: None,
                    })
                }
                Question::Password(login) => Answer::Password(verdict(&login)),
                Question::Name(_) => Answer::Name(Reverse {
                    name: None,
                    confirmed: Confirmed::Fail,
                }),
                Question::Lookup(lookup) => lookup.answer(&self.services),
                Question::Store(store) => store.answer(&self.services),
                Question::Filter(question) => {
                    let (reply, answered) = std::sync::mpsc::channel();
                    question.send(Box::new(move |answer| reply.send(answer).unwrap()));
                    answered.recv_timeout(LONG).unwrap()
                }
                Question::Pause(time) => {
                    self.pause = Some(time);
                    Answer::TooLate
                }
            };
            let (input, out) = (&mut self.input, &mut self.out);
            next = self.session.answered(answer, input, out, &self.services);
        }
        self.next = next;
    }

    /// What is said when the first question that `bytes` lead to is not answered in time.
    fn unanswered(&mut self, bytes: &[u8]) -> Vec<String> {
        self.input.extend_from_slice(bytes);
        let (input, out) = (&mut self.input, &mut self.out);
        let next = self.session.receive(input, out, &self.services);
        assert!(matches!(next, Next::Ask(_)), "{next:?}");
        let next = self
            .session
            .answered(Answer::TooLate, input, out, &self.services);
        self.go_on(next);
        self.replies()
    }

    fn is_over(&self) -> bool {
        matches!(self.next, Next::Close)
    }

    fn replies(&mut self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut self.out)).unwrap();
        assert!(text.is_empty() || text.ends_with("\r\n"), "{text:?}");
        let lines: Vec<String> = text.split_terminator("\r\n").map(str::to_string).collect();
        assert!(
            lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])),
            "{lines:?}"
        );
        lines
    }

    fn ask(&mut self, command: &str) -> Vec<String> {
        self.send(format!("{command}\r\n").as_bytes());
        self.replies()
    }

    fn messages(&self) -> usize {
        self.services.committed.lock().unwrap().len()
    }
}

#[test]
fn an_address_in_hostnames_gives_the_session_its_name() {
    // smtpd.conf(5), hostnames: if the address on which the connection arrives appears in the
    // mapping, the associated hostname is used.
    for (bound, reached, name) in [
        ("192.0.2.1", None, "other.example.org"),
        ("192.0.2.2", None, "mx.example.org"),
        ("0.0.0.0", Some("192.0.2.1"), "other.example.org"),
        ("0.0.0.0", Some("192.0.2.2"), "mx.example.org"),
    ] {
        let mut settings = listening();
        settings.local = true;
        settings.hostnames = Some(HostNames {
            table: "names".to_string(),
            bound: Peer::parse(bound).unwrap(),
        });
        let mut session = Session::new(SessionId(7), Arc::new(settings), loopback());
        if let Some(address) = reached {
            session.reached(Peer::parse(address).unwrap());
        }
        let mut talk = Talk::open(session, FakeServices::new(None));
        assert_eq!(talk.replies(), [format!("220 {name} ESMTP OpenSMTPD")]);
        let hello = talk.ask("EHLO client.example.net");
        assert!(
            hello[0].starts_with(&format!("250-{name} Hello ")),
            "{hello:?}"
        );
        talk.send(b"MAIL FROM:<bob>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n\r\n.\r\n");
        assert!(talk.replies().last().unwrap().starts_with("250 "));
        let body = String::from_utf8(talk.services.last_body()).unwrap();
        assert!(body.contains(&format!("\tby {name} (OpenSMTPD)")), "{body}");
        assert!(body.contains(&format!("@{name}>\n")), "{body}");
    }
}

// ---- Dialogs ----

#[test]
fn a_group_of_commands_is_answered_in_order() {
    // RFC 2920 §3.1: a client may send a whole group and read the replies afterwards.
    let group = b"EHLO localhost\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.org>\r\n\
                  RCPT TO:<nobody@example.org>\r\nRCPT TO:<list@example.org>\r\nDATA\r\n\
                  Subject: x\r\n\r\nbody\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\n\
                  DATA\r\n\r\n.\r\nNOOP\r\nQUIT\r\nNOOP\r\n";
    let want = [
        "250-",
        "250-",
        "250-",
        "250-",
        "250-",
        "250-",
        "250 ",
        "250",
        "250",
        "550",
        "250",
        "354",
        "250 2.0.0 00000001",
        "250",
        "250",
        "354",
        "250 2.0.0 00000002",
        "250",
        "221",
    ];
    for piece_bytes in [1, 2, 3, 10, 50, 1000] {
        let mut talk = Talk::plain();
        group.chunks(piece_bytes).for_each(|piece| talk.send(piece));
        let got = talk.replies();
        assert_eq!(got.len(), want.len(), "{got:?}");
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(want), "{got} for {want}");
        }
        assert_eq!((talk.is_over(), talk.messages()), (true, 2));
    }
}

#[test]
fn a_legal_message_arrives_byte_for_byte() {
    // RFC 5321 §4.5.2 and §4.5.3.1.6: dots, 8-bit bytes, lines of 998 bytes, an empty body.
    let long = "x".repeat(998);
    for text in [
        "",
        "Subject: x\n",
        "\nbody\n",
        "A: b\n\n.\n..\n.x\n\n",
        &format!("A: b\n\n{long}\n"),
        "A: \u{fc}\n\n\u{e9}\t \u{a0}\n \n",
    ] {
        let mut wire = Vec::new();
        for line in text.split_terminator('\n') {
            let dot = if line.starts_with('.') { "." } else { "" };
            wire.extend_from_slice(format!("{dot}{line}\r\n").as_bytes());
        }
        wire.extend_from_slice(b".\r\n");
        for piece_bytes in [1, 7, 4096] {
            let mut talk = Talk::at_data();
            wire.chunks(piece_bytes).for_each(|piece| talk.send(piece));
            assert!(talk.replies()[0].starts_with("250 "));
            let body = String::from_utf8(talk.services.last_body()).unwrap();
            let (_, rest) = body.split_once(";\n\t").unwrap();
            assert_eq!(rest.split_once('\n').unwrap().1, text);
        }
    }
}

#[test]
fn a_refused_mail_does_not_cost_a_pipelining_client_its_session() {
    // RFC 2920 §3.1: the RCPTs behind a refused MAIL are already on their way.
    let mut talk = Talk::plain();
    talk.ask("EHLO localhost");
    talk.send(b"MAIL FROM:<bad\r\n");
    talk.send(&b"RCPT TO:<bob@example.org>\r\n".repeat(100));
    talk.send(b"DATA\r\nRSET\r\n");
    let replies = talk.replies();
    assert_eq!(replies.len(), 103);
    assert_eq!(replies[102], "250 2.0.0 Reset state");
}

#[test]
fn an_idle_session_is_small() {
    // Ten thousand idle sessions are to fit into 80 MiB, buffers of the connection included.
    assert!(size_of::<Session>() <= 320, "{}", size_of::<Session>());
}
