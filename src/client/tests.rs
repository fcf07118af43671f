//! Sessions over real sockets, with a server that a test scripts.

mod blocks;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::order::Content;
use super::*;
use crate::mail::samples::line;
use crate::mail::{EvpId, MailAddr, Notify, Verdict};

/// The server's end.
struct Peer {
    reader: BufReader<UnixStream>,
}

impl Peer {
    fn say(&mut self, text: &str) {
        // A client that has gone is what some tests are about.
        let _ = self.reader.get_mut().write_all(text.as_bytes());
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        let _ = self.reader.read_line(&mut line);
        line.trim_end_matches("\r\n").to_owned()
    }

    /// Hears commands that start so, and answers them.
    fn serve(&mut self, pairs: &[(&str, &str)]) {
        for (command, reply) in pairs {
            let heard = self.hear();
            assert!(heard.starts_with(command), "{heard:?} is not {command}");
            self.say(reply);
        }
    }

    fn greet(&mut self) {
        self.say("220 mx.e.net ready\r\n");
        self.serve(&[("EHLO me", "250-mx.e.net\r\n250 PIPELINING\r\n")]);
    }

    /// The message, with the final dot; to the end if there is none.
    fn message(&mut self) -> String {
        let mut text = String::new();
        while let Ok(1..) = self.reader.read_line(&mut text) {
            if text.ends_with("\r\n.\r\n") || text == ".\r\n" {
                break;
            }
        }
        text
    }
}

/// Runs `server` on the other end of a connection.
fn connect(server: impl FnOnce(Peer) + Send + 'static) -> Socket {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        server(Peer {
            reader: BufReader::new(theirs),
        })
    });
    Socket::connected(ours.into()).unwrap()
}

fn quick() -> Timeouts {
    Timeouts::default().at_most(Duration::from_millis(300))
}

fn opening(timeouts: Timeouts) -> Opening<'static> {
    let hello = Hello {
        timeouts,
        ..Hello::new(Protocol::Smtp, line("me"))
    };
    Opening {
        hello,
        name: line("mx.e.net"),
        upgrade: None,
        tap: None,
    }
}

fn open(
    server: impl FnOnce(Peer) + Send + 'static,
    timeouts: Timeouts,
) -> Result<Session, SessionError> {
    Session::open(Box::new(connect(server)), opening(timeouts))
}

fn recipients(count: u32) -> Vec<Recipient> {
    let recipient = |number: u32| Recipient {
        id: EvpId::from_u64(7 << 32 | u64::from(number)).unwrap(),
        to: line(&format!("u{number}@e.net")),
        notify: Notify::default(),
        orcpt: None,
    };
    (1..=count).map(recipient).collect()
}

fn message(content: &dyn Content) -> Message<'_> {
    Message {
        eight_bit: false,
        sender: MailAddr::null(),
        size_bytes: None,
        ret: None,
        envid: None,
        content,
    }
}

fn text() -> io::Result<&'static [u8]> {
    Ok(b"Subject: x\n\n.dot\nbare\rcr\nlast")
}

/// The text of the only outcome, with its verdict.
fn only(transacted: &Transacted) -> (Verdict, String) {
    let [(_, outcome)] = &transacted.settled[..] else {
        panic!("{transacted:?}");
    };
    (outcome.verdict, outcome.text.to_string())
}

#[test]
fn many_recipients_travel_in_transactions_of_a_hundred() {
    // RFC 5321 §4.5.3.1.8. The message is read anew for each.
    let (seen, messages) = mpsc::channel();
    let server = move |mut peer: Peer| {
        peer.greet();
        for count in [100, 100, 50] {
            peer.serve(&[("MAIL FROM:<>", "250 Ok\r\n")]);
            for _ in 0..count {
                peer.serve(&[("RCPT TO:<u", "250 Ok\r\n")]);
            }
            peer.serve(&[("DATA", "354 go\r\n")]);
            seen.send(peer.message()).unwrap();
            peer.say("250 2.0.0 Ok\r\n");
        }
        assert_eq!(peer.hear(), "QUIT");
    };
    let mut session = open(server, Timeouts::default()).unwrap();
    let transacted = session.transaction(&message(&text), recipients(250));
    assert_eq!(
        (transacted.settled.len(), transacted.untried.len()),
        (250, 0)
    );
    assert!(
        transacted
            .settled
            .iter()
            .all(|(_, o)| o.verdict == Verdict::Delivered)
    );
    assert_eq!(session.accepted(), 3);
    assert!(session.can_take_more());
    assert_eq!(session.greeting().as_str(), "mx.e.net ready");
    session.quit();
    let messages: Vec<String> = messages.iter().collect();
    assert_eq!(
        messages,
        vec!["Subject: x\r\n\r\n..dot\r\nbare cr\r\nlast\r\n.\r\n"; 3]
    );
}

#[test]
fn a_server_gains_nothing_by_sending_a_little_now_and_then() {
    // A phase has one deadline, whatever comes in the meantime.
    let trickle = |mut peer: Peer| {
        while peer.reader.get_mut().write_all(b"2").is_ok() {
            thread::yield_now();
            let _ = peer
                .reader
                .get_ref()
                .set_read_timeout(Some(Duration::from_millis(20)));
            let _ = peer.reader.get_mut().read(&mut [0; 1]);
        }
    };
    let begun = Instant::now();
    let failure = open(trickle, quick()).map(drop).unwrap_err();
    assert_eq!(
        (failure.stage, failure.text.as_str()),
        (Stage::Banner, "Connection timeout")
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    let silent = |peer: Peer| drop(io::copy(&mut peer.reader.get_ref(), &mut io::sink()));
    let failure = open(silent, quick()).map(drop).unwrap_err();
    assert_eq!(failure.text.as_str(), "Connection timeout");
}

#[test]
fn a_server_that_never_ends_its_reply_or_line_is_left() {
    for (piece, text) in [
        ("220-more\r\n".to_owned(), "Bad response: too many lines"),
        ("x".repeat(1 << 16), "Input too long"),
    ] {
        let server = move |mut peer: Peer| {
            while peer.reader.get_mut().write_all(piece.as_bytes()).is_ok() {}
        };
        let failure = open(server, Timeouts::default()).map(drop).unwrap_err();
        assert_eq!(failure.text.as_str(), text);
    }
}

#[test]
fn a_server_that_closes_in_any_phase_leaves_a_temporary_failure() {
    // With what it had said before, if it said anything.
    let phases: [&'static [(&str, &str)]; 4] = [
        &[],
        &[("MAIL", "250 Ok\r\n")],
        &[("MAIL", "250 Ok\r\n"), ("RCPT", "250 Ok\r\n")],
        &[
            ("MAIL", "250 Ok\r\n"),
            ("RCPT", "250 Ok\r\n"),
            ("DATA", "354 go\r\n"),
        ],
    ];
    for phase in phases {
        let server = move |mut peer: Peer| {
            peer.greet();
            peer.serve(phase);
            if phase.len() == 3 {
                peer.message();
            } else {
                peer.hear();
            }
        };
        let mut session = open(server, Timeouts::default()).unwrap();
        let transacted = session.transaction(&message(&text), recipients(1));
        let (verdict, text) = only(&transacted);
        assert_eq!(verdict, Verdict::TempFail, "{phase:?}");
        // Bytes of ours that it had not read make its close a reset.
        let closed = [
            "Connection closed unexpectedly",
            "IO Error: Connection reset by peer",
        ];
        assert!(closed.contains(&text.as_str()), "{text}");
        assert!(!session.can_take_more());
    }
}

#[test]
fn a_server_that_gives_up_half_way_is_heard() {
    // Its reply is the outcome, not the broken pipe that it leaves.
    let server = |mut peer: Peer| {
        peer.greet();
        peer.serve(&[
            ("MAIL", "250 Ok\r\n"),
            ("RCPT", "250 Ok\r\n"),
            ("DATA", "354 go\r\n"),
        ]);
        peer.hear();
        peer.say("552 5.3.4 too big\r\n");
        // All that is on its way is read, so that the close is not a reset.
        let _ = peer.reader.get_ref().shutdown(std::net::Shutdown::Read);
    };
    let mut session = open(server, Timeouts::default()).unwrap();
    let endless = || Ok(io::repeat(b'x').take(64 << 20));
    let transacted = session.transaction(&message(&endless), recipients(1));
    let said = (Verdict::PermFail, "552 5.3.4 too big".to_owned());
    assert_eq!(only(&transacted), said);
}

#[test]
fn a_server_that_takes_nothing_is_left_after_its_time() {
    let (done, wait) = mpsc::channel::<()>();
    let server = move |mut peer: Peer| {
        peer.greet();
        peer.serve(&[
            ("MAIL", "250 Ok\r\n"),
            ("RCPT", "250 Ok\r\n"),
            ("DATA", "354 go\r\n"),
        ]);
        let _ = wait.recv();
    };
    let mut session = open(server, quick()).unwrap();
    let endless = || Ok(io::repeat(b'x'));
    let transacted = session.transaction(&message(&endless), recipients(1));
    assert_eq!(
        only(&transacted),
        (Verdict::TempFail, "Connection timeout".to_owned())
    );
    drop(done);
}

#[test]
fn a_message_that_cannot_be_read_is_never_ended() {
    // Enough to be on its way before the error comes.
    const SENT: u64 = 40_000;
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => io::repeat(b'x').take(SENT).read(buffer),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
    let (seen, messages) = mpsc::channel();
    let server = move |mut peer: Peer| {
        peer.greet();
        peer.serve(&[
            ("MAIL", "250 Ok\r\n"),
            ("RCPT", "250 Ok\r\n"),
            ("DATA", "354 go\r\n"),
        ]);
        seen.send(peer.message()).unwrap();
    };
    let mut session = open(server, Timeouts::default()).unwrap();
    let broken = || Ok(Broken(0));
    let transacted = session.transaction(&message(&broken), recipients(1));
    assert_eq!(
        only(&transacted),
        (Verdict::TempFail, "Error reading content file".to_owned())
    );
    assert_eq!(messages.recv().unwrap(), "x".repeat(40_000));
    let missing = || Err::<io::Empty, _>(io::ErrorKind::NotFound.into());
    let mut session = open(|mut peer| peer.greet(), Timeouts::default()).unwrap();
    let transacted = session.transaction(&message(&missing), recipients(1));
    assert_eq!(
        only(&transacted),
        (Verdict::TempFail, "Could not get message fd".to_owned())
    );
}

/// One message, to be sent after the one that is being sent.
struct After(bool);

impl Follow for After {
    fn next(&mut self, offered: &Extensions) -> Option<(Message<'_>, Vec<Recipient>)> {
        assert!(offered.pipelining);
        std::mem::take(&mut self.0).then(|| (message(&text), recipients(1)))
    }
}

#[test]
fn the_end_of_a_message_and_what_follows_it_are_one_write() {
    // RFC 2920 §3.1. Half of the servers close where they should answer the end.
    for closes in [false, true] {
        let server = move |mut peer: Peer| {
            peer.greet();
            let begin = [
                ("MAIL", "250 Ok\r\n"),
                ("RCPT", "250 Ok\r\n"),
                ("DATA", "354 go\r\n"),
            ];
            for number in 1..=3 {
                peer.serve(&begin);
                assert_eq!(
                    peer.message(),
                    "Subject: x\r\n\r\n..dot\r\nbare cr\r\nlast\r\n.\r\n"
                );
                let more = String::from_utf8_lossy(peer.reader.buffer()).into_owned();
                assert_eq!(
                    more.starts_with("MAIL FROM:<>\r\nRCPT"),
                    number == 2,
                    "{more}"
                );
                if number == 2 && closes {
                    return;
                }
                peer.say("250 2.0.0 Ok\r\n");
            }
            assert_eq!(peer.hear(), "QUIT");
        };
        let mut session = open(server, Timeouts::default()).unwrap();
        let message = message(&text);
        let delivered = (Verdict::Delivered, "250 2.0.0 Ok".to_owned());
        let first = session.transaction_with(&message, recipients(1), Some(&mut After(true)));
        assert_eq!(only(&first), delivered);
        assert!(!session.is_under_way(), "the host has not taken any before");
        let second = session.transaction_with(&message, recipients(1), Some(&mut After(true)));
        assert!(session.is_under_way());
        let third = session.transaction_with(&message, recipients(1), Some(&mut After(false)));
        assert!(!session.is_under_way());
        assert_eq!(session.is_out_of_step(), closes);
        if closes {
            assert_eq!(only(&second).0, Verdict::TempFail);
            assert_eq!((third.settled.len(), third.untried.len()), (0, 1));
        } else {
            assert_eq!(
                (only(&second), only(&third)),
                (delivered.clone(), delivered)
            );
            session.quit();
        }
    }
}

#[test]
fn an_unanswered_quit_is_not_waited_for() {
    let (done, wait) = mpsc::channel::<()>();
    let server = move |mut peer: Peer| {
        peer.greet();
        assert_eq!(peer.hear(), "QUIT");
        let _ = wait.recv();
    };
    let session = open(server, quick()).unwrap();
    session.quit();
    drop(done);
}

#[test]
fn an_idle_connection_that_was_closed_or_spoken_on_takes_no_more() {
    for words in ["", "421 4.4.2 idle too long\r\n"] {
        let (opened, wait) = mpsc::channel::<()>();
        let server = move |mut peer: Peer| {
            peer.greet();
            // Behind the reply to EHLO in one packet they would belong to nothing.
            let _ = wait.recv();
            peer.say(words);
            if !words.is_empty() {
                let _ = wait.recv();
            }
        };
        let session = open(server, Timeouts::default()).unwrap();
        opened.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while session.can_take_more() {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        drop(opened);
    }
}

/// Changes nothing, so that a test sees what would be encrypted.
struct Clear;

impl Upgrade for Clear {
    fn upgrade(&self, plain: Box<dyn Stream>) -> Result<Secured, NotSecured> {
        Ok(Secured {
            stream: plain,
            ciphers: line("none"),
        })
    }
}

#[test]
fn tls_goes_around_the_connection_where_the_engine_asks_for_it() {
    let server = |mut peer: Peer| {
        peer.say("220 hi\r\n");
        peer.serve(&[
            ("EHLO me", "250-mx.e.net\r\n250 STARTTLS\r\n"),
            ("STARTTLS", "220 go\r\n"),
            ("EHLO me", "250-mx.e.net\r\n250 AUTH PLAIN\r\n"),
            ("AUTH PLAIN AGpvZQBzZWNyZXQ=", "235 welcome\r\n"),
        ]);
    };
    let mut wanted = opening(Timeouts::default());
    wanted.hello.tls = Tls::Required;
    wanted.hello.auth = Some(Credentials {
        user: line("joe"),
        password: line("secret"),
    });
    let mut without = opening(Timeouts::default());
    without.hello = wanted.hello.clone();
    wanted.upgrade = Some(&Clear);
    let session = Session::open(Box::new(connect(server)), wanted).unwrap();
    assert_eq!(session.ciphers().unwrap().as_str(), "none");
    let server = |mut peer: Peer| {
        peer.say("220 hi\r\n");
        peer.serve(&[
            ("EHLO me", "250-x\r\n250 STARTTLS\r\n"),
            ("STARTTLS", "220 go\r\n"),
        ]);
    };
    let failure = Session::open(Box::new(connect(server)), without)
        .map(drop)
        .unwrap_err();
    let text = "IO Error: TLS is not available";
    assert_eq!(
        (failure.stage, failure.text.as_str()),
        (Stage::Handshake, text)
    );
}

#[test]
fn both_sides_are_heard_by_who_wants_to() {
    let (seen, said) = mpsc::channel();
    let mut wanted = opening(Timeouts::default());
    wanted.tap = Some(Box::new(move |said| seen.send(said).unwrap()));
    let session = Session::open(Box::new(connect(|mut peer| peer.greet())), wanted).unwrap();
    drop(session);
    let said: Vec<Event> = said.iter().collect();
    assert_eq!(
        said,
        [
            Event::Server(Reply::sample("220 mx.e.net ready")),
            Event::Greeted(line("mx.e.net")),
            Event::Client(line("EHLO me")),
            Event::Identified("EHLO", line("me")),
            Event::Server(Reply::sample("250-mx.e.net\n250 PIPELINING")),
        ]
    );
}

// smtpd-filters(7), REPORTS: the server is silent for too long, then the transaction is given up.
#[test]
fn a_server_that_falls_silent_is_told_of_before_what_comes_of_it() {
    let (done, wait) = mpsc::channel::<()>();
    let server = move |mut peer: Peer| {
        peer.greet();
        peer.serve(&[("MAIL", "250 Ok\r\n")]);
        let _ = wait.recv();
    };
    let (seen, said) = mpsc::channel();
    let mut wanted = opening(quick());
    wanted.tap = Some(Box::new(move |said| seen.send(said).unwrap()));
    let mut session = Session::open(Box::new(connect(server)), wanted).unwrap();
    let transacted = session.transaction(&message(&text), recipients(1));
    assert_eq!(transacted.untried.len(), 0, "{transacted:?}");
    drop((session, done));
    let said: Vec<Event> = said.iter().skip_while(|said| !is_begin(said)).collect();
    let msgid = recipients(1)[0].id.msgid();
    assert_eq!(
        said,
        [
            Event::Begin(msgid, String::new()),
            Event::Timeout,
            Event::Rollback(msgid),
        ]
    );
}

fn is_begin(event: &Event) -> bool {
    matches!(event, Event::Begin(..))
}

#[test]
fn tcp_says_who_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let soon = Duration::from_secs(5);
    let socket = Socket::tcp(addr, Some(addr.ip()), soon).unwrap();
    assert_eq!(socket.local_addr().unwrap().ip(), addr.ip());
    let (accepted, _): (TcpStream, _) = listener.accept().unwrap();
    drop((listener, accepted, socket));
    let failure = Socket::tcp(addr, None, soon).unwrap_err();
    let text = "IO Error: Connection refused";
    assert_eq!(
        (failure.stage, failure.text.as_str()),
        (Stage::Connect, text)
    );
    let failure = Socket::unix(std::path::Path::new("/no/such/socket"), soon).unwrap_err();
    assert_eq!(failure.text.as_str(), "IO Error: No such file or directory");
}

#[test]
fn a_peer_that_always_has_something_to_say_does_not_move_a_deadline() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"more").unwrap();
    let mut socket = Socket::connected(ours.into()).unwrap();
    let mut buffer = [0; 1];
    let soon = Duration::from_secs(120);
    socket.set_deadline(Instant::now() + soon);
    assert_eq!(socket.read(&mut buffer).unwrap(), 1);
    assert_eq!(socket.write(b"x").unwrap(), 1);
    socket.set_deadline(Instant::now());
    let late = |result: io::Result<usize>| result.unwrap_err().kind() == io::ErrorKind::TimedOut;
    assert!(late(socket.read(&mut buffer)));
    assert!(late(socket.write(b"x")));
}
