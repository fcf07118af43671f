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

mod bounds;
mod control;
mod questions;

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
    /// Whether each question about the recipient `here` was answered without waiting.
    at_once: Vec<bool>,
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
    fn expand_at_once(&self, _: &Facts, rcpt: &MailAddr) -> Option<Result<Expanded, Refusal>> {
        if rcpt.user() != "here" {
            return None;
        }
        // No turn has time for another.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        self.book.change(|told| told.at_once.push(true));
        Some(destination(rcpt))
    }
    fn expand(&self, _: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal> {
        match rcpt.user() {
            "slow" => self.book.pass_the_gate(),
            "here" => self.book.change(|told| told.at_once.push(false)),
            _ => {}
        }
        destination(rcpt)
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

fn destination(rcpt: &MailAddr) -> Result<Expanded, Refusal> {
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
        rules_need_name: false,
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
    silent: UdpSocket,
}

impl Server {
    fn start(limits: Limits) -> Server {
        Server::with_hosts(limits, "127.0.0.1 localhost\n")
    }

    fn slow(limits: Limits, change: impl FnOnce(&mut Listening)) -> Server {
        Server::with(limits, "127.0.0.1 localhost\n", |door| {
            change(Arc::get_mut(&mut door.listening).unwrap());
        })
    }

    /// A server whose resolver knows `hosts` and asks a name server that never answers.
    fn with_hosts(limits: Limits, hosts: &str) -> Server {
        Server::with(limits, hosts, |_| ())
    }

    fn with(limits: Limits, hosts: &str, change: impl FnOnce(&mut Door)) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
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
        let mut door = Door {
            listening: Arc::new(listening(book.clone())),
            tls: None,
            proxies: None,
            most_per_source: 100,
            exempt: None,
        };
        change(&mut door);
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
            listeners: vec![(listener, Live::new(door))],
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
            silent,
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
