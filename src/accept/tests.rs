//! The loop and its workers on real sockets, with real sessions and services that a test can hold
//! up.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::control::{Answer, Ask};
use crate::mail::samples::line;
use crate::mail::{Destination, Expanded, Facts, Kind, Local, MailAddr, MsgId, Peer, Refusal};
use crate::queue::ram::Ram;
use crate::queue::{BeginError, Committed, Incoming, Queue};
use crate::session::{Disconnect, Event, HostNames, Observer, Session};
use crate::sys::random;
use crate::util::dice::Dice;
use crate::util::{Line, Live, Timestamp};

use super::*;

mod control;

use control::{answer, ask};

/// What has happened on one server, and its services. A recipient `slow` waits for the gate, and so
/// does the tale of a durable message when `commits_wait`.
#[derive(Default)]
struct Book {
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Default)]
struct Told {
    closed: Vec<(Peer, Disconnect)>,
    names: Vec<Option<String>>,
    /// Threads that wait at the gate.
    waiting: usize,
    is_open: bool,
    commits_wait: bool,
    committed: Vec<MsgId>,
    withdrawn: Vec<MsgId>,
}

impl Book {
    /// Waits until `want` holds.
    fn wait(&self, want: impl Fn(&Told) -> bool) -> std::sync::MutexGuard<'_, Told> {
        let told = self.told.lock().unwrap();
        let (told, timeout) = self
            .changed
            .wait_timeout_while(told, PATIENCE, |told| !want(told))
            .unwrap();
        assert!(!timeout.timed_out(), "closed so far: {:?}", told.closed);
        told
    }

    fn closed(&self, want: impl Fn(&[(Peer, Disconnect)]) -> bool) -> Vec<(Peer, Disconnect)> {
        self.wait(|told| want(&told.closed)).closed.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap());
        self.changed.notify_all();
    }

    fn pass_the_gate(&self) {
        self.change(|told| told.waiting += 1);
        drop(self.wait(|told| told.is_open));
        self.change(|told| told.waiting -= 1);
    }
}

impl Observer for Book {
    fn hear(&self, session: &Session, event: &Event<'_>) {
        match event {
            Event::Connected => {
                let name = session.rdns().map(str::to_owned);
                self.change(|told| told.names.push(name));
            }
            Event::Disconnected(why) => {
                let end = (session.peer().clone(), (*why).clone());
                self.change(|told| told.closed.push(end));
            }
            _ => {}
        }
    }
}

struct FakeServices {
    book: Arc<Book>,
    queue: Queue,
}

impl Services for FakeServices {
    fn begin(&self) -> Result<Incoming, BeginError> {
        self.queue.begin()
    }
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
    fn expand(&self, _: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal> {
        if rcpt.user() == "slow" {
            self.book.pass_the_gate();
        }
        Ok(vec![Destination {
            action: line("local"),
            dest: rcpt.clone(),
            kind: Kind::Local(Local {
                user: line(rcpt.user()),
                subaddress: None,
                command: None,
            }),
            internal: false,
            sameness: rcpt.to_string(),
        }]
        .into())
    }
    fn name_of(&self, _: &str, _: &Peer) -> Option<Line> {
        self.book.pass_the_gate();
        Some(line("other.example.org"))
    }
    fn committed(&self, message: Committed) {
        self.book
            .change(|told| told.committed.push(message.msgid()));
    }
    fn withdraw(&self, message: Committed) {
        self.book
            .change(|told| told.withdrawn.push(message.msgid()));
    }
}

fn listening(book: Arc<Book>) -> Listening {
    Listening {
        server_name: line("mx.example.org"),
        hostname: line("mx.example.org"),
        hostnames: None,
        tag: None,
        mask_src: false,
        no_dsn: false,
        local: true,
        submission: false,
        tls: None,
        auth: None,
        senders: None,
        received_auth: false,
        limits: crate::session::Limits {
            max_message_size: 1_000_000,
            max_rcpt: 10,
            max_mails: 10,
        },
        filter: None,
        address: None,
        socket: std::path::PathBuf::new(),
        observers: vec![book],
    }
}

struct Server {
    address: SocketAddr,
    control: PathBuf,
    mailbox: Mailbox,
    book: Arc<Book>,
    open_asks: Arc<Mutex<Vec<ConnId>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    _dir: tempfile::TempDir,
    _silent: UdpSocket,
}

impl Server {
    fn start(limits: Limits) -> Server {
        Server::with_hosts(limits, "127.0.0.1 localhost\n")
    }

    fn slow(limits: Limits, change: impl FnOnce(&mut Listening)) -> Server {
        Server::with(limits, "127.0.0.1 localhost\n", change)
    }

    /// A server whose resolver knows `hosts` and asks a name server that never answers.
    fn with_hosts(limits: Limits, hosts: &str) -> Server {
        Server::with(limits, hosts, |_| ())
    }

    fn with(limits: Limits, hosts: &str, change: impl FnOnce(&mut Listening)) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        std::fs::write(dir.path().join("hosts"), hosts).unwrap();
        let settings = dns::Settings {
            servers: vec![silent.local_addr().unwrap()],
            hosts: Some(dir.path().join("hosts")),
            ..dns::Settings::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = dir.path().join("sock");
        let book = Arc::new(Book::default());
        let open_asks = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, mailbox) = new().unwrap();
        let address = listener.local_addr().unwrap();
        let socket = Live::new(listening(book.clone()));
        let mut listening = listening(book.clone());
        change(&mut listening);
        let at_the_gate = {
            let book = book.clone();
            Arc::new(move || {
                let waits = book.told.lock().unwrap().commits_wait;
                if waits {
                    book.pass_the_gate();
                }
            })
        };
        let setup = Setup {
            listeners: vec![(
                listener,
                Live::new(Door {
                    listening: Arc::new(listening),
                    tls: None,
                    proxies: None,
                }),
            )],
            control: UnixListener::bind(&control).unwrap(),
            socket,
            services: Arc::new(FakeServices {
                book: book.clone(),
                queue: Queue::new(Arc::new(Ram::with_hook(at_the_gate))),
            }),
            host: Box::new(control::Questions(open_asks.clone())),
            resolver: dns::start(settings, random::number_u32).unwrap(),
            workers: 2,
            own_uid: crate::sys::user::effective_uid(),
            limits,
        };
        Server {
            address,
            control,
            mailbox,
            book,
            open_asks,
            thread: Some(std::thread::spawn(move || acceptor.run(setup))),
            _dir: dir,
            _silent: silent,
        }
    }

    fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    fn greeted(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.line(), BANNER);
        client
    }

    fn control(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.mailbox.shutdown();
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap().unwrap();
        }
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn new(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    /// The next line without its end; empty at the end of the connection.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn ask(&mut self, text: &str) -> String {
        self.say(&format!("{text}\r\n"));
        self.line()
    }

    /// Says HELO with this name, which must come back.
    fn hello(&mut self, name: &str) {
        assert_eq!(self.ask(&format!("HELO {name}")), hello(name));
    }

    /// Up to where a message is expected.
    fn data(&mut self) {
        self.hello("client.example");
        assert_eq!(self.ask("MAIL FROM:<a@example.net>"), "250 2.0.0 Ok");
        assert!(self.ask("RCPT TO:<bob@example.org>").starts_with("250 "));
        assert!(self.ask("DATA").starts_with("354 "));
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

fn hello(name: &str) -> String {
    format!("250 mx.example.org Hello {name} [127.0.0.1], pleased to meet you")
}

const BANNER: &str = "220 mx.example.org ESMTP OpenSMTPD";
const BYE: &str = "221 2.0.0 Bye";
const TIMEOUT: &str = "421 4.4.2 Timeout, closing connection";
/// Lines that HELP is answered with.
const HELP_LINES: usize = 4;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn who_only_talks_does_not_wait_behind_a_slow_disk() {
    // RFC 5321 §4.5.3.2.1: a new session's banner comes at once, whoever delivers meanwhile.
    let server = Server::start(Limits::default());
    server.book.change(|told| told.commits_wait = true);
    let mut writers: Vec<Client> = (0..100).map(|_| server.greeted()).collect();
    for client in &mut writers {
        client.data();
        client.say("a: message\r\n.\r\n");
    }
    drop(server.book.wait(|told| told.waiting == 16));
    server.greeted().hello("x");
    server.book.change(|told| told.is_open = true);
    for client in &mut writers {
        assert!(client.line().starts_with("250 2.0.0 "));
        client.hello("y");
    }
    assert_eq!(server.book.told.lock().unwrap().committed.len(), 100);
}

#[test]
fn slow_answers_to_some_delay_nobodys_banner() {
    // A .forward or a password that takes its time is asked for elsewhere: with more open
    // questions than there are threads for them, new sessions are greeted, and old ones go on.
    let server = Server::start(Limits::default());
    let mut slow: Vec<Client> = (0..40).map(|_| server.greeted()).collect();
    for client in &mut slow {
        client.hello("client.example");
        assert_eq!(client.ask("MAIL FROM:<a@example.net>"), "250 2.0.0 Ok");
        client.say("RCPT TO:<slow@example.org>\r\nNOOP\r\n");
    }
    drop(server.book.wait(|told| told.waiting == 16));
    for _ in 0..20 {
        server.greeted().hello("new.example");
    }
    server.book.change(|told| told.is_open = true);
    for client in &mut slow {
        assert!(client.line().starts_with("250 2.1.5 "));
        assert_eq!(client.line(), "250 2.0.0 Ok");
    }
}

#[test]
fn a_question_that_takes_too_long_is_a_451_and_its_answer_finds_nobody() {
    let server = Server::start(Limits {
        lookup: Duration::from_millis(50),
        ..Limits::default()
    });
    let mut client = server.greeted();
    client.hello("client.example");
    assert_eq!(client.ask("MAIL FROM:<a@example.net>"), "250 2.0.0 Ok");
    let refusal = "451 4.3.0 Temporary failure: <slow@example.org>";
    assert_eq!(client.ask("RCPT TO:<slow@example.org>"), refusal);
    assert!(client.ask("DATA").starts_with("503 "), "no recipient");
    server.book.change(|told| told.is_open = true);
    drop(server.book.wait(|told| told.waiting == 0));
    assert!(client.ask("DATA").starts_with("503 "), "still none");
    // A busy machine may not manage in the time that is allowed here.
    until("the recipient is taken", || {
        client.ask("RCPT TO:<slow@example.org>").starts_with("250 ")
    });
}

#[test]
fn a_message_that_becomes_durable_after_its_refusal_is_taken_back() {
    // RFC 5321 §4.2.5: after a 4xx the client keeps the message and sends it again.
    let server = Server::start(Limits {
        store: Duration::from_millis(50),
        ..Limits::default()
    });
    server.book.change(|told| told.commits_wait = true);
    let mut client = server.greeted();
    client.data();
    assert_eq!(client.ask("a: b\r\n."), "451 4.3.0 Temporary failure");
    client.hello("again.example");
    server.book.change(|told| told.is_open = true);
    let told = server.book.wait(|told| told.withdrawn.len() == 1);
    assert!(told.committed.is_empty());
}

#[test]
fn a_peer_that_hangs_up_while_its_question_is_open_leaves_nothing() {
    let server = Server::slow(Limits::default(), |listening| {
        listening.hostnames = Some(HostNames {
            table: "names".to_owned(),
            bound: Peer::Local,
        });
    });
    // Before its banner, and with a question about its recipient.
    drop(server.connect());
    drop(server.book.wait(|told| told.waiting == 1));
    server.book.change(|told| told.is_open = true);
    server.book.closed(|closed| closed.len() == 1);
    let mut client = server.connect();
    assert_eq!(client.line(), "220 other.example.org ESMTP OpenSMTPD");
    client.say("HELO x\r\nMAIL FROM:<>\r\n");
    client.line();
    client.line();
    server.book.change(|told| told.is_open = false);
    client.say("RCPT TO:<slow@example.org>\r\n");
    drop(server.book.wait(|told| told.waiting == 1));
    drop(client);
    server.book.change(|told| told.is_open = true);
    let closed = server.book.closed(|closed| closed.len() == 2);
    assert!(closed.iter().all(|(_, why)| *why != Disconnect::Quit));
}

#[test]
fn a_large_message_goes_to_the_disk_in_parts() {
    // The text of a message leaves memory while it comes, in threads that may wait for the disk.
    let server = Server::start(Limits::default());
    let mut client = server.greeted();
    client.data();
    let text = "0123456789abcde\r\n".repeat(50_000);
    client.say(&format!("a: b\r\n\r\n{text}.\r\n"));
    assert!(client.line().starts_with("250 2.0.0 "));
    client.data();
    client.say(&format!("a: b\r\n\r\n{text}{text}.\r\nQUIT\r\n"));
    assert!(client.line().starts_with("554 5.3.4 "));
    assert_eq!(client.line(), BYE);
}

#[test]
fn many_sessions_talk_at_the_same_time_and_each_hears_its_own() {
    // RFC 5321 §3.1: each session is a conversation of its own. No client has a thread.
    let server = Server::start(Limits::default());
    let mut clients: Vec<Client> = (0..200).map(|_| server.greeted()).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.say(&format!("HELO r{round}.n{number}\r\n"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.line(), hello(&format!("r{round}.n{number}")));
        }
    }
    for client in &mut clients {
        assert_eq!(client.ask("QUIT"), BYE);
        assert_eq!(client.line(), "");
    }
    let closed = server.book.closed(|closed| closed.len() == 200);
    assert!(closed.iter().all(|(peer, why)| {
        *peer == Peer::inet("127.0.0.1".parse().unwrap()) && *why == Disconnect::Quit
    }));
}

#[test]
fn pipelined_commands_are_answered_in_order_however_the_bytes_are_split() {
    // RFC 2920 §3.2: the server answers in order, and does not lose what is already buffered.
    let server = Server::start(Limits::default());
    let mut client = server.greeted();
    let commands: String = (0..2000).map(|n| format!("HELO n{n}\r\n")).collect();
    client.say(&(commands + "QUIT\r\n"));
    for n in 0..2000 {
        assert_eq!(client.line(), hello(&format!("n{n}")));
    }
    assert_eq!(client.line(), BYE);
    let mut client = server.greeted();
    client.0.get_ref().set_nodelay(true).unwrap();
    for byte in "HELO a\r\nHELO c\r\n".chars() {
        client.say(&byte.to_string());
    }
    assert_eq!((client.line(), client.line()), (hello("a"), hello("c")));
}

#[test]
fn a_client_that_does_not_read_is_not_fed_and_loses_nothing() {
    // A session gets no input while its replies wait; memory stays bounded by one reply.
    let server = Server::start(Limits::default());
    let mut client = server.greeted();
    client.hello("deaf.example");
    const TIMES: usize = 9_000;
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        writer
            .write_all("HELP\r\n".repeat(TIMES).as_bytes())
            .unwrap();
        writer.write_all(b"HELO behind\r\n").unwrap();
    });
    let mut other = server.greeted();
    other.hello("quick");
    for _ in 0..TIMES * HELP_LINES {
        assert!(client.line().starts_with("214"));
    }
    assert_eq!(client.line(), hello("behind"));
    thread.join().unwrap();
}

#[test]
fn a_busy_client_does_not_keep_others_waiting() {
    // RFC 2920 lets a client send commands without end, but none may keep a worker: a busy session
    // gives way after a bounded number of turns, and of milliseconds.
    let server = Server::start(Limits::default());
    let busy: Vec<_> = (0..8)
        .map(|number| {
            let mut client = server.greeted();
            std::thread::spawn(move || {
                client.data();
                let line = if number % 2 == 0 {
                    "x\r\n"
                } else {
                    "no field\r\n"
                };
                let chunk = line.repeat((1 << 20) / line.len());
                (0..16).for_each(|_| client.say(&chunk));
                client.say(".\r\n");
                client.line()
            })
        })
        .collect();
    for _ in 0..50 {
        server.greeted().hello("on");
    }
    for thread in busy {
        assert!(thread.join().unwrap().starts_with("55"));
    }
}

#[test]
fn peers_that_vanish_end_their_sessions_with_the_reason() {
    // OpenSMTPD logs reason=disconnect when the client closed, reason=io-error when the socket
    // failed.
    let server = Server::start(Limits::default());
    drop(server.greeted());
    server
        .book
        .closed(|closed| closed.len() == 1 && closed[0].1 == Disconnect::Hangup);
    let mut half = server.greeted();
    half.say("HELO last");
    half.say("\r\n");
    half.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        half.line(),
        hello("last"),
        "a half-closed client gets its reply"
    );
    assert_eq!(half.line(), "");
    server
        .book
        .closed(|closed| closed.len() == 2 && closed[1].1 == Disconnect::Hangup);
    // Closing with unread bytes makes the kernel send a reset.
    let mut reset = server.greeted();
    reset.say(&"HELP\r\n".repeat(500));
    reset.0.get_ref().peek(&mut [0]).unwrap();
    drop(reset);
    let closed = server.book.closed(|closed| closed.len() == 3);
    assert!(matches!(&closed[2].1, Disconnect::IoError(text) if !text.contains("os error")));
}

#[test]
fn a_silent_peer_is_told_and_dropped_and_one_that_speaks_is_not() {
    // RFC 5321 §3.8, §4.5.3.2: 421 and close after a time-out; any progress starts it anew.
    let server = Server::start(Limits {
        inactivity: Duration::from_millis(600),
        ..Limits::default()
    });
    let mut silent = server.greeted();
    let mut slow = server.greeted();
    let thread = std::thread::spawn(move || {
        let begin = Instant::now();
        let mut replies = 0;
        while begin.elapsed() < Duration::from_millis(1500) {
            slow.hello("here");
            std::thread::park_timeout(Duration::from_millis(1));
            replies += 1;
        }
        replies
    });
    assert_eq!(silent.line(), TIMEOUT);
    assert_eq!(silent.line(), "");
    assert!(thread.join().unwrap() > 1);
    let closed = server.book.closed(|closed| closed.len() == 2);
    assert_eq!(closed[0].1, Disconnect::Timeout);
    assert_eq!(closed[1].1, Disconnect::Hangup);
}

#[test]
fn a_peer_that_trickles_without_end_is_dropped() {
    // RFC 5321 §4.5.3.2.7: we wait five minutes for a command, not for its bytes one by one.
    let server = Server::start(Limits {
        stall: Duration::from_millis(500),
        ..Limits::default()
    });
    let mut client = server.greeted();
    client.0.get_ref().set_nodelay(true).unwrap();
    let begin = Instant::now();
    let mut peeked = [0];
    client.0.get_ref().set_nonblocking(true).unwrap();
    while client.0.get_ref().peek(&mut peeked).is_err() {
        assert!(begin.elapsed() < PATIENCE);
        let _ = client.0.get_mut().write(b"x");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    client.0.get_ref().set_nonblocking(false).unwrap();
    assert_eq!(client.line(), TIMEOUT);
    assert!(begin.elapsed() >= Duration::from_millis(400));
}

#[test]
fn a_dead_name_server_holds_the_banner_up_for_a_bounded_time() {
    // OpenSMTPD waits as long as the resolver does; we go on without a name.
    let server = Server::with_hosts(
        Limits {
            resolve: Duration::from_millis(100),
            ..Limits::default()
        },
        "",
    );
    let mut client = server.connect();
    assert_eq!(client.line(), BANNER);
    assert_eq!(server.book.told.lock().unwrap().names, [None]);
    drop(server.connect());
    server.book.closed(|closed| closed.len() == 1);
}

#[test]
fn pausing_stops_new_sessions_and_leaves_old_ones_alone() {
    // smtpctl(8), pause smtp: existing sessions go on, submissions are refused.
    let server = Server::start(Limits::default());
    let mut old = server.greeted();
    server.mailbox.pause(true);
    let mut control = server.control();
    assert!(matches!(
        ask(&mut control, &Ask::Submit),
        Some(Answer::Fail(_))
    ));
    let mut waiting = server.connect();
    old.hello("still");
    waiting
        .0
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(waiting.0.fill_buf().is_err(), "no banner while paused");
    waiting
        .0
        .get_ref()
        .set_read_timeout(Some(PATIENCE))
        .unwrap();
    server.mailbox.pause(false);
    assert!(waiting.line().starts_with("220 "));
    assert_eq!(ask(&mut control, &Ask::Submit), Some(Answer::Ok));
}

#[test]
fn one_source_gets_so_many_sessions_and_no_more() {
    // RFC 5321 §3.8: a server that has to close says 421. One address cannot have all sessions.
    let server = Server::start(Limits {
        sessions_per_loopback: 3,
        ..Limits::default()
    });
    let mut held: Vec<Client> = (0..3).map(|_| server.greeted()).collect();
    let mut excess = server.connect();
    assert!(excess.line().starts_with("421 4.7.0 "));
    assert_eq!(excess.line(), "");
    assert_eq!(held[0].ask("QUIT"), BYE);
    until("a place is free", || {
        server.connect().line().starts_with("220 ")
    });
}

#[test]
fn the_session_limit_leaves_clients_in_the_backlog() {
    // OpenSMTPD disables its listeners until there is room; so do we.
    let server = Server::start(Limits {
        sessions: 2,
        ..Limits::default()
    });
    let mut first = server.greeted();
    let _second = server.greeted();
    let mut third = server.connect();
    third
        .0
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(third.0.fill_buf().is_err());
    third.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    // Local submission is counted, and not limited by this.
    let mut local = server.control();
    assert_eq!(ask(&mut local, &Ask::Submit), Some(Answer::Ok));
    drop(local);
    assert_eq!(first.ask("QUIT"), BYE);
    assert!(third.line().starts_with("220 "));
}

#[test]
fn descriptors_that_run_out_are_a_pause_and_not_an_end() {
    // accept(2), EMFILE: the listeners rest until it is over. Runs in a process of its own that may
    // have few descriptors.
    if std::env::var_os("ACCEPT_FEW_DESCRIPTORS").is_some() {
        return few_descriptors();
    }
    let output = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "accept::tests::descriptors_that_run_out_are_a_pause_and_not_an_end",
        ])
        .env("ACCEPT_FEW_DESCRIPTORS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for line in [
        "Disabling incoming SMTP connections: ",
        "smtp: fd exhaustion over, re-enabling incoming connections",
    ] {
        let count = text.lines().filter(|said| said.contains(line)).count();
        assert!((1..=3).contains(&count), "{count} times {line}: {text}");
    }
}

fn few_descriptors() {
    // Each client takes two of this process's descriptors, its own and the server's.
    let server = Server::start(Limits {
        retry: Duration::from_millis(50),
        descriptors: 64,
        ..Limits::default()
    });
    // With its first client it has all the descriptors that it needs for itself.
    let _first = server.greeted();
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/") {
        taken.push(file);
    }
    // Room for a client, and none for the server.
    taken.pop();
    let mut client = server.connect();
    client
        .0
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(client.0.fill_buf().is_err(), "it waits in the backlog");
    taken.clear();
    client.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(client.line().starts_with("220 "));
    let free = {
        let mut clients = Vec::new();
        // The reserve is refused with 421, before the table is full.
        loop {
            let mut client = server.connect();
            if client.line().starts_with("421 4.3.2 ") {
                break clients.len();
            }
            clients.push(client);
        }
    };
    assert!(free > 5, "{free}");
    until("there is room again", || {
        server.connect().line().starts_with("220 ")
    });
}

#[test]
fn a_submission_is_a_local_session_named_after_the_server() {
    // sendmail(8): a message is handed to the daemon over its socket, as a session of this host.
    let server = Server::start(Limits::default());
    let mut stream = server.control();
    assert_eq!(ask(&mut stream, &Ask::Status), Some(Answer::Count(7)));
    assert_eq!(ask(&mut stream, &Ask::Submit), Some(Answer::Ok));
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), BANNER);
    stream.write_all(b"QUIT\r\n").unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), BYE);
    assert_eq!(server.book.told.lock().unwrap().names.len(), 1);
    assert_eq!(
        server.book.closed(|closed| closed.len() == 1),
        [(Peer::Local, Disconnect::Quit)]
    );
}

#[test]
fn a_shutdown_tells_those_who_wait_and_returns() {
    // RFC 5321 §3.8: a server that must go sends 421.
    let mut server = Server::start(Limits::default());
    let mut parked: Vec<Client> = (0..20).map(|_| server.greeted()).collect();
    let mut busy = server.greeted();
    busy.hello("busy");
    busy.say(&"HELP\r\n".repeat(5000));
    // One that waits for an answer which nobody needs any more, and one for the disk.
    let mut asking = server.greeted();
    asking.hello("asking");
    assert_eq!(asking.ask("MAIL FROM:<>"), "250 2.0.0 Ok");
    asking.say("RCPT TO:<slow@example.org>\r\n");
    let mut storing = server.greeted();
    storing.data();
    drop(server.book.wait(|told| told.waiting == 1));
    server.book.change(|told| told.commits_wait = true);
    storing.say("a: b\r\n.\r\n");
    drop(server.book.wait(|told| told.waiting == 2));
    let mut control = server.control();
    assert_eq!(ask(&mut control, &Ask::Status), Some(Answer::Count(7)));
    let begin = Instant::now();
    server.mailbox.shutdown();
    for client in parked.iter_mut().chain([&mut asking]) {
        assert!(client.line().starts_with("421 4.3.2 "));
        assert_eq!(client.line(), "");
    }
    server.book.change(|told| told.is_open = true);
    assert!(storing.line().starts_with("250 2.0.0 "));
    assert!(storing.line().starts_with("421 4.3.2 "));
    assert_eq!(answer(&mut control), None);
    server.thread.take().unwrap().join().unwrap().unwrap();
    assert!(begin.elapsed() < PATIENCE);
    assert!(TcpStream::connect(server.address).is_err());
    server.thread = Some(std::thread::spawn(|| Ok(())));
}

#[test]
fn idle_and_trickling_sessions_do_not_disturb_a_new_one() {
    // RFC 5321 §4.5.3.2.1: a client waits for its banner, however many others there are.
    const IDLE: usize = 400;
    let server = Server::start(Limits::default());
    let mut idle: Vec<Client> = (0..IDLE).map(|_| server.greeted()).collect();
    for client in idle.iter_mut().take(50) {
        client.say("E");
    }
    server.greeted().hello("new");
    idle[60].hello("old");
}

#[test]
fn what_the_loop_keeps_of_an_idle_session_is_small() {
    // Ten thousand idle sessions are to fit into 80 MiB. The row, and the connection with its
    // session, are all; buffers are released.
    let bytes = size_of::<super::conn::Conn>() + super::worker::ROW_BYTES;
    assert!(bytes <= 512, "{bytes} bytes");
}
