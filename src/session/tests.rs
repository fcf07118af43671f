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
mod secured;

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
        let next = self
            .session
            .receive(&mut self.input, &mut self.out, &self.services);
        self.go_on(next);
        assert!(
            self.input.len() <= LINE_TOO_LONG,
            "input is used up to a partial line"
        );
    }

    /// Answers at once whatever the session asks; the client has no name.
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
                Question::Filter(_) => Answer::TooLate,
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
fn a_client_that_does_not_read_stops_being_read() {
    let mut talk = Talk::plain();
    talk.input = b"HELP\r\n".repeat(4000);
    let mut rounds = 0;
    loop {
        let next = talk
            .session
            .receive(&mut talk.input, &mut talk.out, &talk.services);
        talk.go_on(next);
        assert!(talk.out.len() <= OUT_HIGH_WATER + 4096);
        if !matches!(talk.next, Next::Flush) {
            break;
        }
        talk.out.clear();
        rounds += 1;
    }
    assert!(rounds > 3 && talk.input.is_empty());
}

// ---- End of data ----

#[test]
fn no_fake_end_of_data_makes_a_second_message() {
    // CVE-2023-51764, -51765, -51766: each sequence, then a second envelope, whole and split at
    // every byte: exactly one message, never two.
    let fakes = [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\n",
        "\n.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\n.\r\r\n",
        "\r\r\n.\r\r\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
    ];
    let second = "MAIL FROM:<admin@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n\
                  Subject: smuggled\r\n\r\nx";
    for fake in fakes {
        let data = format!("Subject: x\r\n\r\nbody{fake}{second}\r\n.\r\n");
        for split in 0..=data.len() {
            let mut talk = Talk::at_data();
            let (head, tail) = data.as_bytes().split_at(split);
            talk.send(head);
            talk.send(tail);
            let replies = talk.replies();
            assert_eq!(replies.len(), 1, "{fake:?} at {split}: {replies:?}");
            match fake.contains('\0') {
                true => assert!(replies[0].starts_with("550 5.6.0 "), "{replies:?}"),
                false => assert!(replies[0].starts_with("250 2.0.0 "), "{replies:?}"),
            }
            assert!(talk.messages() <= 1);
            let body = talk.services.last_body();
            assert!(!body.contains(&b'\r') && !body.contains(&0));
        }
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
fn lines_without_end_and_messages_without_end_are_cut_off() {
    let mut talk = Talk::at_data();
    talk.send(&vec![b'x'; 2 * LINE_TOO_LONG]);
    assert_eq!(talk.replies(), ["500 5.0.0 Line too long"]);
    assert_eq!((talk.is_over(), talk.messages()), (true, 0));

    let mut talk = Talk::at_data();
    talk.send(b"no colon\r\n");
    let State::Data(data) = &mut talk.session.state else {
        panic!("not in a message")
    };
    assert!(!data.writing.as_ref().unwrap().is_sound());
    data.discarded_bytes = limits::MAX_DISCARDED;
    talk.send(b"more\r\n");
    assert!(talk.replies()[0].starts_with("554 5.3.4 "));
    assert!(talk.is_over());
}

// ---- Hostile input ----

#[test]
fn arguments_of_64_kib_are_refused_and_end_the_session() {
    // OpenBSD's erratum of August 2019: over-long input ended the daemon.
    for word in ["HELO ", "MAIL FROM:<", "RCPT TO:<", ""] {
        for (bytes, text) in [(2048, "Command line too long"), (65535, "Line too long")] {
            let mut talk = Talk::plain();
            talk.ask("EHLO localhost");
            let command = format!("{word}{}\r\n", "a".repeat(bytes));
            command
                .as_bytes()
                .chunks(1000)
                .for_each(|piece| talk.send(piece));
            let replies = talk.replies();
            assert_eq!(replies, [format!("500 5.0.0 {text}")], "{word}");
            assert!(talk.is_over());
        }
    }
    let mut talk = Talk::plain();
    let fits = format!("NOOP {}", "a".repeat(2042));
    assert_eq!(talk.ask(&fits), ["250 2.0.0 Ok"]);
}

#[test]
fn no_byte_anywhere_in_a_command_reaches_a_line_of_ours() {
    // CVE-2020-8794: every byte 0–255 in addresses, names and parameters.
    let forms = [
        "EHLO h?st",
        "MAIL FROM:<a?b@example.org>",
        "MAIL FROM:<\"a?b\"@example.org>",
        "MAIL FROM:<a@exam?ple.org>",
        "MAIL FROM:<a@b> ENVID=x?y",
        "MAIL FROM:<a@b> X?=1",
        "RCPT TO:<a?b@example.org>",
        "RCPT TO:<\"a?b\"@example.org>",
        "RCPT TO:<bob@?example.org>",
        "RCPT TO:<bob@example.org> ORCPT=rfc822;a?b",
        "RCPT TO:<bob@example.org> ORCPT=rf?c;b",
        "RCPT TO:<bob@example.org> NOTIFY=?",
        "RCPT TO:<bob@example.org> ?",
    ];
    for byte in (0..=255u8).filter(|byte| *byte != b'\n') {
        let mut talk = Talk::plain();
        talk.ask("EHLO localhost");
        for form in forms {
            if form.starts_with("RCPT") && !matches!(talk.session.state, State::Mail(_)) {
                talk.ask("MAIL FROM:<a@b.example>");
            }
            let mut command: Vec<u8> = form
                .bytes()
                .map(|b| if b == b'?' { byte } else { b })
                .collect();
            command.extend_from_slice(b"\r\n");
            talk.send(&command);
            let replies = talk.replies();
            assert!(
                form.starts_with("EHLO") || replies.len() == 1,
                "{form} {byte}: {replies:?}"
            );
            if form.starts_with("MAIL") {
                talk.ask("RSET");
            }
        }
        talk.send(b"RCPT TO:<bob@example.org>\r\nDATA\r\n\r\n.\r\n");
        assert_eq!(talk.messages(), 1, "{:?}", talk.replies());
        let body = String::from_utf8(talk.services.last_body()).unwrap();
        assert!(
            body.bytes()
                .all(|b| b.is_ascii_graphic() || b" \t\n".contains(&b)),
            "{body:?}"
        );
        assert!(body.lines().count() <= 5, "{body:?}");
        let id = talk.services.committed.lock().unwrap()[0];
        for envelope in talk.services.queue.envelopes(id).unwrap() {
            let text = format!("{} {} {:?}", envelope.helo, envelope.rcpt, envelope.dsn);
            assert!(
                text.bytes().all(|b| b.is_ascii_graphic() || b == b' '),
                "{text:?}"
            );
        }
    }
}

#[test]
fn commands_in_any_order_and_cut_anywhere_never_break_it() {
    // OpenBSD's erratum of October 2016 was a crash in the session's logic. Seeded; the seed is in
    // the message.
    let words: [&[u8]; 28] = [
        b"HELO a\r\n",
        b"EHLO b\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@b> SIZE=9\r\n",
        b"RCPT TO:<bob@example.org>\r\n",
        b"RCPT TO:<list@example.org> NOTIFY=NEVER\r\n",
        b"RCPT TO:<nobody>\r\n",
        b"DATA\r\n",
        b"DATA\r\n",
        b"DATA x\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"HELP\r\n",
        b"VRFY x\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN\r\n",
        b"WIZ\r\n",
        b".\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"\r\n.\r\n",
        b"From: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0\r\n",
        b"\xff",
        b" \r\n",
    ];
    for seed in 1..400_u64 {
        let mut dice = Dice::new(seed);
        let mut draw = |below: usize| dice.roll(below);
        let peer = if draw(2) == 0 {
            Peer::Local
        } else {
            loopback()
        };
        let mut talk = Talk::start(listening(), peer, FakeServices::new(None));
        talk.send(b"EHLO localhost\r\n");
        for _ in 0..200 {
            let word = words[draw(words.len())];
            let (head, tail) = word.split_at(draw(word.len() + 1));
            talk.send(head);
            talk.send(tail);
            for reply in talk.replies() {
                let code: u16 = reply[..3].parse().unwrap();
                assert!((200..600).contains(&code), "seed {seed}: {reply}");
            }
        }
        assert_eq!(
            talk.messages(),
            talk.services.queue.messages().count(),
            "seed {seed}"
        );
        talk.session.close(Disconnect::Hangup);
    }
}

#[test]
fn errors_in_a_row_and_endless_idling_end_the_session() {
    let mut talk = Talk::plain();
    for _ in 1..MAX_BAD_COMMANDS {
        assert!(talk.ask("FOO")[0].starts_with("500 5.5.1 "));
    }
    assert!(talk.ask("FOO")[0].starts_with("421 4.7.0 "));
    assert!(talk.is_over());

    let mut talk = Talk::plain();
    talk.ask("EHLO localhost");
    let mut asked = 1;
    while matches!(talk.next, Next::Read) {
        talk.ask("RSET");
        asked += 1;
    }
    assert_eq!(asked, MAX_IDLE_COMMANDS);
}

// smtpd(8): a client that has had 1,000 recipients refused since its last message is told to go.
#[test]
fn recipients_that_are_refused_without_end_end_the_session() {
    let mut talk = Talk::plain();
    talk.ask("EHLO localhost");
    talk.ask("MAIL FROM:<a@b.example>");
    for refused in 1..MAX_REFUSED_RCPTS {
        assert!(talk.ask("RCPT TO:<nobody@example.org>")[0].starts_with("550 "));
        let millis = u32::from(refused).saturating_sub(limits::REFUSED_RCPTS_FREE);
        let pause = talk.pause.take().map(|pause| pause.as_millis());
        assert_eq!(pause.unwrap_or(0), u128::from(millis));
    }
    // A message is progress.
    talk.ask("RCPT TO:<bob@example.org>");
    talk.ask("DATA");
    assert!(talk.ask("\r\n.")[0].starts_with("250 "));
    talk.ask("MAIL FROM:<a@b.example>");
    for _ in 1..MAX_REFUSED_RCPTS {
        talk.ask("RCPT TO:<nobody@example.org>");
    }
    assert!(talk.ask("RCPT TO:<nobody@example.org>")[0].starts_with("421 4.7.0 "));
    assert!(talk.is_over());
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

// ---- Questions ----

#[test]
fn a_question_that_nobody_answers_ends_in_a_temporary_refusal() {
    // RFC 5321 §4.5.3.2: the client's patience ends some time, and it must hear that it may come
    // again. Without a name it is greeted all the same.
    let mut talk = Talk::plain();
    talk.ask("EHLO localhost");
    talk.ask("MAIL FROM:<a@b.example>");
    let rcpt = b"RCPT TO:<bob@example.org>\r\n";
    assert_eq!(
        talk.unanswered(&[rcpt.as_slice(), b"NOOP\r\n"].concat()),
        [
            "451 4.3.0 Temporary failure: <bob@example.org>",
            "250 2.0.0 Ok"
        ]
    );
    talk.send(&[rcpt.as_slice(), b"DATA\r\n"].concat());
    talk.replies();
    let dot = [b"\r\n.\r\n".as_slice(), b"MAIL FROM:<>\r\n"].concat();
    assert_eq!(
        talk.unanswered(&dot),
        ["451 4.3.0 Temporary failure", "250 2.0.0 Ok"]
    );
    assert_eq!((talk.is_over(), talk.messages()), (false, 0));

    let mut session = Session::new(SessionId(7), Arc::new(listening()), loopback());
    let (services, mut input, mut out) = (FakeServices::new(None), Vec::new(), Vec::new());
    session.open(&mut out);
    session.answered(Answer::TooLate, &mut input, &mut out, &services);
    assert_eq!(out, b"220 mx.example.org ESMTP OpenSMTPD\r\n");
    assert_eq!(session.fcrdns(), Confirmed::Error);
}

// ---- The ends of a session ----

#[test]
fn names_from_reverse_dns_are_checked_before_they_are_printed() {
    for (name, printed) in [
        ("client.example.org", "client.example.org"),
        ("a b", "<unknown>"),
        ("x\"y", "<unknown>"),
        ("", "<unknown>"),
    ] {
        let services = FakeServices::new(None);
        let mut session = Session::new(SessionId(1), Arc::new(listening()), loopback());
        let (mut input, mut out) = (b"EHLO x\r\n".to_vec(), Vec::new());
        let asked = session.open(&mut out);
        assert!(matches!(asked, Next::Ask(Question::Name(_))));
        let next = session.receive(&mut input, &mut out, &services);
        assert!(
            matches!(next, Next::Wait) && out.is_empty() && !input.is_empty(),
            "nothing is read before the banner"
        );
        let answer = Answer::Name(Reverse {
            name: Some(line(name)),
            confirmed: Confirmed::Pass,
        });
        let next = session.answered(answer, &mut input, &mut out, &services);
        let is_confirmed = session.fcrdns() == Confirmed::Pass;
        assert_eq!(is_confirmed, printed != "<unknown>");
        let mut talk = Talk {
            services,
            session,
            input,
            out,
            next,
            pause: None,
        };
        talk.send(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n.\r\n");
        let body = String::from_utf8(talk.services.last_body()).unwrap();
        assert!(
            body.starts_with(&format!("Received: from x ({printed} [127.0.0.1])\n")),
            "{body}"
        );
    }
}

#[test]
fn a_silent_client_is_told_once_and_its_transaction_is_gone() {
    // RFC 5321 §4.5.3.2.7 and RFC 3463: 4.4.2 bad connection.
    let mut talk = Talk::at_data();
    talk.send(b"half a mess");
    talk.session.timeout(&mut talk.out);
    talk.session.timeout(&mut talk.out);
    assert_eq!(talk.replies(), ["421 4.4.2 Timeout, closing connection"]);
    talk.send(b"age\r\n.\r\n");
    assert_eq!((talk.is_over(), talk.messages()), (true, 0));
    assert_eq!(talk.services.queue.messages().count(), 0);
}

/// The program's lines, with names in the place of times, ports and ids.
fn transcript(path: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let lines = text.lines().filter(|line| line.starts_with("report|"));
    let mut message = String::new();
    let mut told = String::new();
    for line in lines {
        let mut fields: Vec<&str> = line.split('|').collect();
        (fields[2], fields[5]) = ("T", "S1");
        if fields[4] == "tx-begin" {
            message = fields[6].to_owned();
        }
        let mut line = fields.join("|");
        if !message.is_empty() {
            line = line.replace(&message, "M1");
        }
        told += &(line + "\n");
    }
    text.ends_with('\n')
        .then_some(told)
        .filter(|told| told.contains("link-disconnect"))
}

// tests/transcripts: what a filter hears of a client that is silent for too long.
#[test]
fn the_transcript_of_a_time_out() {
    let dir = tempfile::tempdir().unwrap();
    let heard = dir.path().join("heard");
    let script = format!(
        "while read -r line; do [ \"$line\" = 'config|ready' ] && break; done\n\
         echo 'register|report|smtp-in|*'; echo 'register|ready'; exec cat >'{}'",
        heard.display()
    );
    let filters = crate::filter::tests::filters(
        "filter f proc-exec x\nlisten on 127.0.0.1 port 25 filter f",
        &script,
    );
    let mut listening = listening();
    listening.filter = filters.of_sessions(&Some("f".to_owned()));
    listening.observers.push(Arc::new(Reports));
    let mut talk = Talk::start(listening, loopback(), FakeServices::new(None));
    talk.send(b"EHLO client.example.org\r\nMAIL FROM:<alice@example.org>\r\n");
    talk.session.timeout(&mut talk.out);
    assert_eq!(
        talk.replies().last().unwrap(),
        "421 4.4.2 Timeout, closing connection"
    );
    drop(talk.session.close(Disconnect::Timeout));
    let due = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let told = loop {
        match transcript(&heard) {
            Some(told) => break told,
            None => assert!(std::time::Instant::now() < due),
        }
        std::thread::yield_now();
    };
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/transcripts/timeout.transcript"
    );
    let text = std::fs::read_to_string(golden).unwrap();
    let (head, want) = text.split_once("[told]\n").unwrap();
    if std::env::var_os("SMTPD_WRITE_GOLDEN").is_some() {
        std::fs::write(golden, format!("{head}[told]\n{told}")).unwrap();
    } else {
        assert_eq!(told, want);
    }
}

#[test]
fn an_idle_session_is_small() {
    // Ten thousand idle sessions are to fit into 80 MiB, buffers of the connection included.
    assert!(size_of::<Session>() <= 320, "{}", size_of::<Session>());
}
