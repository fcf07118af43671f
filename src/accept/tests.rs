//! The loop on real sockets, with sessions that speak a toy protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::control::message::{decode_answer, encode_ask, frame_length};
use crate::control::{Answer, Ask, Which};
use crate::mail::samples::line;
use crate::mail::{Destination, Facts, MailAddr, Refusal};
use crate::queue::{BeginError, Committed, Incoming};
use crate::sys::random;
use crate::util::dice::Dice;
use crate::util::{Live, Timestamp};

use super::*;

/// What happened to the sessions of one server.
#[derive(Default)]
struct Book {
    closed: Mutex<Vec<(Peer, Disconnect)>>,
    changed: Condvar,
    received_bytes: AtomicUsize,
    /// Sessions that write mail.
    writing: Mutex<usize>,
    /// Mail is written once this is true.
    disk_answers: Mutex<bool>,
    disk: Condvar,
}

impl Book {
    /// Waits until `want` holds for the list of closed sessions.
    fn wait(&self, want: impl Fn(&[(Peer, Disconnect)]) -> bool) -> Vec<(Peer, Disconnect)> {
        let mut closed = self.closed.lock().unwrap();
        while !want(&closed) {
            let (next, timeout) = self.changed.wait_timeout(closed, PATIENCE).unwrap();
            assert!(
                !timeout.timed_out(),
                "still waiting, closed so far: {next:?}"
            );
            closed = next;
        }
        closed.clone()
    }

    fn write_mail(&self) {
        *self.writing.lock().unwrap() += 1;
        let answers = self.disk_answers.lock().unwrap();
        let (_answers, timeout) = self
            .disk
            .wait_timeout_while(answers, PATIENCE, |answers| !*answers)
            .unwrap();
        assert!(!timeout.timed_out());
    }
}

/// A toy: `ECHO x` answers x, `BIG n` answers n bytes and flushes, `EAT` takes all that comes
/// without a word, `DATA` takes a line and writes it to a disk that the test holds up, `QUIT` ends.
struct Toy {
    id: SessionId,
    book: Arc<Book>,
    peer: Peer,
    eating: bool,
    mailing: bool,
}

impl Conversation for Toy {
    type Listening = Book;

    fn new(id: SessionId, book: Arc<Book>, peer: Peer) -> Toy {
        Toy {
            id,
            book,
            peer,
            eating: false,
            mailing: false,
        }
    }

    fn reached(&mut self, _: Peer) {}

    fn open(&mut self, _: &mut Vec<u8>) -> Next {
        Next::Ask(session::Question::Name([127, 0, 0, 1].into()))
    }

    fn answered(
        &mut self,
        answer: session::Answer,
        _: &mut Vec<u8>,
        out: &mut Vec<u8>,
        _: &dyn Services,
    ) -> Next {
        let name = match (&self.peer, answer) {
            (Peer::Local, _) => Some(line("mx.example.org")),
            (_, session::Answer::Name(found)) => found.name,
            _ => None,
        };
        let name = name.as_deref().unwrap_or("<unknown>").to_owned();
        out.extend_from_slice(format!("220 {name} {}\r\n", self.id).as_bytes());
        Next::Read
    }

    fn receive(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>, _: &dyn Services) -> Next {
        if self.eating {
            self.book
                .received_bytes
                .fetch_add(input.len(), Ordering::Relaxed);
            input.clear();
            return Next::Read;
        }
        while let Some(end) = input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = input.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if std::mem::take(&mut self.mailing) {
                self.book.write_mail();
                out.extend_from_slice(b"250 written\r\n");
                continue;
            }
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("ECHO", text) => out.extend_from_slice(format!("250 {text}\r\n").as_bytes()),
                ("BIG", count) => {
                    out.resize(out.len() + count.parse::<usize>().unwrap(), b'x');
                    out.extend_from_slice(b"\r\n");
                    return Next::Flush;
                }
                ("EAT", _) => self.eating = true,
                ("DATA", _) => {
                    self.mailing = true;
                    out.extend_from_slice(b"354 go on\r\n");
                }
                ("QUIT", _) => {
                    out.extend_from_slice(b"221 bye\r\n");
                    return Next::Close;
                }
                _ => out.extend_from_slice(b"500 what\r\n"),
            }
        }
        Next::Read
    }

    fn lane(&self) -> Lane {
        match self.mailing {
            true => Lane::Mail,
            false => Lane::Talk,
        }
    }

    fn timeout(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"421 timeout\r\n");
    }

    fn shutdown(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"421 4.3.2 going\r\n");
    }

    fn close(self, why: Disconnect) {
        self.book.closed.lock().unwrap().push((self.peer, why));
        self.book.changed.notify_all();
    }
}

struct World;

impl Services for World {
    fn begin(&self) -> Result<Incoming, BeginError> {
        Err(BeginError::Full)
    }
    fn expand(&self, _: &Facts, _: &MailAddr) -> Result<Vec<Destination>, Refusal> {
        Err(Refusal::new(451, "not here"))
    }
    fn committed(&self, _: Committed) {}
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// Answers `Status` at once, leaves `Stats` open, refuses the rest.
struct Desk(Arc<Mutex<Vec<ConnId>>>);

impl Host for Desk {
    fn ask(&mut self, conn: ConnId, uid: u32, ask: Ask) -> Option<Answer> {
        assert_eq!(uid, crate::sys::user::effective_uid());
        match ask {
            Ask::Status => Some(Answer::Count(7)),
            Ask::Stats => {
                self.0.lock().unwrap().push(conn);
                None
            }
            _ => Some(Answer::Fail("no".to_owned())),
        }
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

    /// A server whose resolver knows `hosts` and asks a name server that never answers.
    fn with_hosts(limits: Limits, hosts: &str) -> Server {
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
        let setup = Setup::<Toy> {
            listeners: vec![(listener, book.clone().into())],
            control: UnixListener::bind(&control).unwrap(),
            socket: book.clone().into(),
            services: Arc::new(World),
            host: Box::new(Desk(open_asks.clone())),
            resolver: dns::start(settings, random::number_u32).unwrap(),
            workers: 4,
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
        assert!(client.line().starts_with("220 localhost "));
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
}

fn ask(stream: &mut UnixStream, ask: &Ask) -> Option<Answer> {
    stream.write_all(&encode_ask(ask)).unwrap();
    answer(stream)
}

fn answer(stream: &mut UnixStream) -> Option<Answer> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut body = vec![0; frame_length(head).unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(decode_answer(&body).unwrap())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn who_only_talks_does_not_wait_behind_a_slow_disk() {
    // RFC 5321 §4.5.3.2.1: a new session's banner comes at once, whoever delivers meanwhile.
    let server = Server::start(Limits::default());
    let mut writers: Vec<Client> = (0..100).map(|_| server.greeted()).collect();
    for client in &mut writers {
        assert_eq!(client.ask("DATA"), "354 go on");
        client.say("a message\r\n");
    }
    until("all who may write do", || {
        *server.book.writing.lock().unwrap() == 16
    });
    assert_eq!(server.greeted().ask("ECHO x"), "250 x");
    *server.book.disk_answers.lock().unwrap() = true;
    server.book.disk.notify_all();
    for client in &mut writers {
        assert_eq!(client.line(), "250 written");
        assert_eq!(client.ask("ECHO y"), "250 y");
    }
}

#[test]
fn many_sessions_talk_at_the_same_time_and_each_hears_its_own() {
    // RFC 5321 §3.1: each session is a conversation of its own. No client has a thread.
    let server = Server::start(Limits::default());
    let mut clients: Vec<Client> = (0..200).map(|_| server.greeted()).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.say(&format!("ECHO {round} {number}\r\n"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.line(), format!("250 {round} {number}"));
        }
    }
    for client in &mut clients {
        assert_eq!(client.ask("QUIT"), "221 bye");
        assert_eq!(client.line(), "");
    }
    let closed = server.book.wait(|closed| closed.len() == 200);
    assert!(closed.iter().all(|(peer, why)| {
        *peer == Peer::inet("127.0.0.1".parse().unwrap()) && *why == Disconnect::Quit
    }));
}

#[test]
fn pipelined_commands_are_answered_in_order_however_the_bytes_are_split() {
    // RFC 2920 §3.2: the server answers in order, and does not lose what is already buffered.
    let server = Server::start(Limits::default());
    let mut client = server.greeted();
    let commands: String = (0..2000).map(|n| format!("ECHO {n}\r\n")).collect();
    client.say(&(commands + "QUIT\r\n"));
    for n in 0..2000 {
        assert_eq!(client.line(), format!("250 {n}"));
    }
    assert_eq!(client.line(), "221 bye");
    let mut client = server.greeted();
    client.0.get_ref().set_nodelay(true).unwrap();
    for byte in "ECHO a b\r\nECHO c\r\n".chars() {
        client.say(&byte.to_string());
    }
    assert_eq!(
        (client.line(), client.line()),
        ("250 a b".into(), "250 c".into())
    );
}

#[test]
fn a_client_that_does_not_read_is_not_fed_and_loses_nothing() {
    // A session gets no input while its replies wait; memory stays bounded by one reply.
    let server = Server::start(Limits::default());
    let mut client = server.greeted();
    const BYTES: usize = 20_000_000;
    client.say(&format!("BIG {BYTES}\r\nECHO behind\r\n"));
    let mut other = server.greeted();
    assert_eq!(other.ask("ECHO quick"), "250 quick");
    let mut big = vec![0; BYTES + 2];
    client.0.read_exact(&mut big).unwrap();
    assert!(big[..BYTES].iter().all(|&byte| byte == b'x'));
    assert_eq!(client.line(), "250 behind");
}

#[test]
fn a_busy_client_does_not_keep_others_waiting() {
    // RFC 2920 lets a client send commands without end, but none may keep a worker: a busy session
    // is passed on after a bounded number of turns.
    let server = Server::start(Limits::default());
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let mut client = server.greeted();
            std::thread::spawn(move || {
                client.say("EAT\r\n");
                let chunk = "x".repeat(1 << 20);
                (0..32).for_each(|_| client.say(&chunk));
            })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(server.greeted().ask("ECHO on"), "250 on");
    }
    for thread in busy {
        thread.join().unwrap();
    }
    until("all is eaten", || {
        server.book.received_bytes.load(Ordering::Relaxed) >= 8 * (32 << 20)
    });
}

#[test]
fn peers_that_vanish_end_their_sessions_with_the_reason() {
    // OpenSMTPD logs reason=disconnect when the client closed, reason=io-error when the socket
    // failed.
    let server = Server::start(Limits::default());
    drop(server.greeted());
    server
        .book
        .wait(|closed| closed.len() == 1 && closed[0].1 == Disconnect::Hangup);
    let mut half = server.greeted();
    half.say("ECHO last");
    half.say("\r\n");
    half.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        half.line(),
        "250 last",
        "a half-closed client gets its reply"
    );
    assert_eq!(half.line(), "");
    server
        .book
        .wait(|closed| closed.len() == 2 && closed[1].1 == Disconnect::Hangup);
    // Closing with unread bytes makes the kernel send a reset.
    let mut reset = server.greeted();
    reset.say("BIG 100000\r\n");
    reset.0.get_ref().peek(&mut [0]).unwrap();
    drop(reset);
    let closed = server.book.wait(|closed| closed.len() == 3);
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
            assert_eq!(slow.ask("ECHO here"), "250 here");
            replies += 1;
        }
        replies
    });
    assert_eq!(silent.line(), "421 timeout");
    assert_eq!(silent.line(), "");
    assert!(thread.join().unwrap() > 1);
    let closed = server.book.wait(|closed| closed.len() == 2);
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
    assert_eq!(client.line(), "421 timeout");
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
    assert!(client.line().starts_with("220 <unknown> "));
    drop(server.connect());
    server.book.wait(|closed| closed.len() == 1);
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
    assert_eq!(old.ask("ECHO still"), "250 still");
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
    assert_eq!(held[0].ask("QUIT"), "221 bye");
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
    assert_eq!(first.ask("QUIT"), "221 bye");
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
    assert!(line.starts_with("220 mx.example.org "));
    stream.write_all(b"QUIT\r\n").unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "221 bye\r\n");
    assert_eq!(
        server.book.wait(|closed| closed.len() == 1),
        [(Peer::Local, Disconnect::Quit)]
    );
}

#[test]
fn an_answer_may_come_later_and_questions_keep_their_order() {
    // accept::Host: `None` means that the answer comes through the mailbox.
    let server = Server::start(Limits::default());
    let mut stream = server.control();
    stream
        .write_all(&[encode_ask(&Ask::Stats), encode_ask(&Ask::Status)].concat())
        .unwrap();
    until("the host is asked", || {
        !server.open_asks.lock().unwrap().is_empty()
    });
    let id = server.open_asks.lock().unwrap()[0];
    server.mailbox.answer(id, Answer::Count(1));
    assert_eq!(answer(&mut stream), Some(Answer::Count(1)));
    assert_eq!(answer(&mut stream), Some(Answer::Count(7)));
    // The next answer finds nobody, and its row may already belong to somebody else.
    drop(stream);
    let mut other = server.control();
    assert_eq!(ask(&mut other, &Ask::Status), Some(Answer::Count(7)));
    server.mailbox.answer(id, Answer::Count(2));
    assert_eq!(
        ask(&mut other, &Ask::Remove(Which::All)),
        Some(Answer::Fail("no".into()))
    );
}

#[test]
fn garbage_on_the_control_socket_costs_its_sender_the_connection() {
    // CVE-2025-62875: random bytes, replayed and cut frames end nothing else.
    let server = Server::start(Limits::default());
    let mut dice = Dice::new(1);
    let mut next = || dice.number();
    for round in 0..300 {
        let mut stream = server.control();
        let mut bytes: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
        match round % 4 {
            // A frame that is as long as it says, with anything in it.
            0 => bytes
                .splice(..0, (bytes.len() as u32).to_le_bytes())
                .for_each(drop),
            // A good frame with one byte changed.
            1 => {
                bytes = encode_ask(&Ask::UpdateTable("aliases".into()));
                let at = next() as usize % bytes.len();
                bytes[at] ^= (next() as u8).max(1);
            }
            // A frame that ends early.
            2 => {
                bytes = encode_ask(&Ask::Status);
                bytes.truncate(next() as usize % bytes.len());
            }
            _ => {}
        }
        // The server may have hung up before it has read all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    let mut stream = server.control();
    assert_eq!(ask(&mut stream, &Ask::Status), Some(Answer::Count(7)));
    let mut long = server.control();
    long.write_all(&u32::MAX.to_le_bytes()).unwrap();
    assert!(matches!(answer(&mut long), Some(Answer::Fail(_))));
    assert_eq!(answer(&mut long), None);
}

#[test]
fn a_frame_that_is_never_finished_times_out() {
    // OpenSMTPD 5.7.2 ended a flood of half messages by local users: none is held for ever.
    let server = Server::start(Limits {
        frame: Duration::from_millis(100),
        ..Limits::default()
    });
    let mut stream = server.control();
    stream.write_all(&encode_ask(&Ask::Status)[..5]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_byte_now_and_then_does_not_keep_a_frame_open() {
    // CVE-2025-62875, and its kin: what counts is a frame that ends, not that something moves.
    let server = Server::start(Limits {
        frame: Duration::from_millis(300),
        ..Limits::default()
    });
    let mut stream = server.control();
    stream.write_all(&60_000_u32.to_le_bytes()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let closed = (0..1000).any(|_| {
        let sent = stream.write_all(b"x");
        sent.is_err() || matches!(stream.read(&mut [0]), Ok(0))
    });
    assert!(closed);
}

#[test]
fn one_user_gets_32_control_connections() {
    // OpenSMTPD gives each uid 32 connections at a time; so do we.
    let server = Server::start(Limits::default());
    let mut held: Vec<UnixStream> = (0..32).map(|_| server.control()).collect();
    for stream in &mut held {
        assert_eq!(ask(stream, &Ask::Status), Some(Answer::Count(7)));
    }
    let mut excess = server.control();
    let _ = excess.write_all(&encode_ask(&Ask::Status));
    assert_eq!(answer(&mut excess), None);
    held.pop();
    until("a place is free", || {
        let mut stream = server.control();
        let _ = stream.write_all(&encode_ask(&Ask::Status));
        answer(&mut stream) == Some(Answer::Count(7))
    });
}

#[test]
fn a_shutdown_tells_those_who_wait_and_returns() {
    // RFC 5321 §3.8: a server that must go sends 421.
    let mut server = Server::start(Limits::default());
    let mut parked: Vec<Client> = (0..20).map(|_| server.greeted()).collect();
    let mut busy = server.greeted();
    busy.say("BIG 50000000\r\n");
    let mut control = server.control();
    assert_eq!(ask(&mut control, &Ask::Status), Some(Answer::Count(7)));
    let begin = Instant::now();
    server.mailbox.shutdown();
    for client in &mut parked {
        assert!(client.line().starts_with("421 4.3.2 "));
        assert_eq!(client.line(), "");
    }
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
    assert_eq!(server.greeted().ask("ECHO new"), "250 new");
    assert!(idle[60].ask("ECHO old") == "250 old");
}

#[test]
fn the_loop_carries_real_sessions() {
    // RFC 5321 §3.1–3.2 over the sockets of the loop: banner, EHLO, QUIT.
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let name = line("mx.example.org");
    let listening = Live::new(Listening {
        server_name: name.clone(),
        hostname: name.clone(),
        hostnames: None,
        tag: None,
        mask_src: false,
        no_dsn: false,
        local: true,
        submission: false,
        limits: crate::session::Limits {
            max_message_size: 1000,
            max_rcpt: 10,
            max_mails: 10,
        },
        observers: Vec::new(),
    });
    let nobody = dns::Settings {
        servers: Vec::new(),
        ..dns::Settings::default()
    };
    let (acceptor, mailbox) = new().unwrap();
    let setup = Setup::<Session> {
        listeners: vec![(listener, listening.clone())],
        control: UnixListener::bind(dir.path().join("sock")).unwrap(),
        socket: listening,
        services: Arc::new(World),
        host: Box::new(Desk(Arc::default())),
        resolver: dns::start(nobody, random::number_u32).unwrap(),
        workers: 0,
        own_uid: 0,
        limits: Limits::of_this_process(),
    };
    let thread = std::thread::spawn(move || acceptor.run(setup));
    let mut client = Client::new(TcpStream::connect(address).unwrap());
    assert_eq!(client.line(), "220 mx.example.org ESMTP OpenSMTPD");
    assert!(
        client
            .ask("EHLO client.example")
            .starts_with("250-mx.example.org Hello ")
    );
    while client.line().starts_with("250-") {}
    assert!(client.ask("QUIT").starts_with("221 "));
    assert_eq!(client.line(), "");
    let mut waiting = Client::new(TcpStream::connect(address).unwrap());
    assert!(waiting.line().starts_with("220 "));
    mailbox.shutdown();
    assert!(waiting.line().starts_with("421 "));
    thread.join().unwrap().unwrap();
}

#[test]
fn what_the_loop_keeps_of_an_idle_session_is_small() {
    // Ten thousand idle sessions are to fit into 80 MiB, their own state included. The row,
    // the connection and its timer are all that this room adds; buffers are released.
    let bytes = size_of::<super::conn::Conn<()>>() + super::event_loop::ROW_BYTES;
    assert!(bytes <= 320, "{bytes} bytes");
}
