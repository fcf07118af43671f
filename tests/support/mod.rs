//! The harness of the integration tests: an instance of the daemon of its own, on loopback and in
//! a temporary directory, and clients that speak to it. Nothing of it outlives a test.
//!
//! Run as root, the daemon of an ordinary test is started as an ordinary user; tests of what only
//! root can do say so with [`root_only`].

#![allow(dead_code)]

pub mod anybody;
pub mod exposition;
pub mod json;
pub mod processes;
pub mod tls_client;
pub mod tls_host;

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The uid that stands for an ordinary user when the tests run as root (nobody).
const ORDINARY: u32 = 65534;

/// A running daemon.
pub struct Instance {
    dir: TempDir,
    pub port: u16,
    daemon: Option<Child>,
    uid: Option<u32>,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    /// Where the programs are when an ordinary user cannot reach the build's.
    programs: Option<PathBuf>,
    descriptors: Option<u32>,
    users: bool,
    network: bool,
    input: Option<String>,
}

/// What a daemon is started with.
pub struct Setup {
    config: String,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    root: bool,
    descriptors: Option<u32>,
    users: bool,
    network: bool,
    input: Option<String>,
}

impl Setup {
    /// A daemon with this configuration. `$port` is its port, `$dir` its instance root, `$user`
    /// the user it runs as and `$all` a virtual table that gives that user everybody's mail.
    pub fn new(config: &str) -> Setup {
        Setup {
            config: config.to_string(),
            args: Vec::new(),
            envs: Vec::new(),
            root: false,
            descriptors: None,
            users: false,
            network: false,
            input: None,
        }
    }

    /// The configuration that most tests use: everything local goes to the maildir `mail`.
    pub fn maildir() -> Setup {
        Setup::new(
            "listen on 127.0.0.1 port $port\n\
             action \"in\" maildir \"$dir/mail\" virtual $all\n\
             match from any for any action \"in\"\n",
        )
    }

    /// The same, with a maildir for each address, named for its local part.
    pub fn maildirs() -> Setup {
        Setup::new(
            "listen on 127.0.0.1 port $port\n\
             action \"in\" maildir \"$dir/%{dest.user}\" virtual $all\n\
             match from any for any action \"in\"\n",
        )
    }

    /// No configuration: the one that is built in, on a port of the test's own.
    pub fn built_in() -> Setup {
        Setup::new("").arg("-D").arg("port=$port")
    }

    /// One more argument for smtpd.
    pub fn arg(mut self, arg: &str) -> Setup {
        self.args.push(arg.to_string());
        self
    }

    /// One more variable for smtpd and everything it starts.
    pub fn env(mut self, key: &str, value: &str) -> Setup {
        self.envs.push((key.to_string(), value.to_string()));
        self
    }

    /// Keep root's rights.
    pub fn with_root(mut self) -> Setup {
        self.root = true;
        self
    }

    /// Keep root's rights, and let only this daemon see the users of the files `passwd` and `group`
    /// in its instance root.
    pub fn with_users(mut self) -> Setup {
        self.users = true;
        self.with_root()
    }

    /// The same, in a network of its own; see [`Instance::command_inside`].
    pub fn with_network(mut self) -> Setup {
        self.network = true;
        self.with_users()
    }

    /// No more descriptors than this for the daemon.
    pub fn limit_descriptors(mut self, count: u32) -> Setup {
        self.descriptors = Some(count);
        self
    }

    /// What smtpd reads on its standard input.
    pub fn input(mut self, text: &str) -> Setup {
        self.input = Some(text.to_string());
        self
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Instance {
        self.start_in(TempDir::new().expect("a temporary directory"))
    }

    /// The same, with an instance root that the test has filled.
    pub fn start_in(self, dir: TempDir) -> Instance {
        let mut instance = self.prepare_in(dir);
        instance.start();
        instance
    }

    /// Everything but the start.
    pub fn prepare(self) -> Instance {
        self.prepare_in(TempDir::new().expect("a temporary directory"))
    }

    /// The same, with an instance root that the test has filled.
    pub fn prepare_in(self, dir: TempDir) -> Instance {
        let port = free_port();
        let path = dir.path();
        let config = self
            .config
            .replace("$dir", path.to_str().expect("a UTF-8 path"))
            .replace("$port", &port.to_string())
            .replace("$all", "{ \"@\" = \"$user\" }")
            .replace("$user", &ordinary_name());
        if !config.is_empty() {
            fs::write(path.join("smtpd.conf"), config).expect("smtpd.conf");
        }
        if !path.join("mailname").exists() {
            fs::write(path.join("mailname"), "mx.example.org\n").expect("mailname");
        }
        let uid = (is_root() && !self.root).then_some(ORDINARY);
        if let Some(uid) = uid {
            give(path, uid);
        } else {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let programs = is_root().then(|| reachable_programs(path)).flatten();
        let mut args: Vec<String> = self
            .args
            .iter()
            .map(|arg| arg.replace("$port", &port.to_string()))
            .collect();
        args.splice(
            0..0,
            ["-d".into(), "-R".into(), path.to_str().unwrap_or("").into()],
        );
        Instance {
            dir,
            port,
            daemon: None,
            uid,
            args,
            envs: self.envs,
            programs,
            descriptors: self.descriptors,
            users: self.users,
            network: self.network,
            input: self.input,
        }
    }
}

impl Instance {
    /// Writes another configuration for the next start.
    pub fn configure(&self, config: &str) {
        let config = config
            .replace("$dir", self.path().to_str().expect("a UTF-8 path"))
            .replace("$port", &self.port.to_string())
            .replace("$all", "{ \"@\" = \"$user\" }")
            .replace("$user", &ordinary_name());
        fs::write(self.path().join("smtpd.conf"), config).expect("smtpd.conf");
    }

    /// Other arguments for the next start, in place of those of the test.
    pub fn set_args(&mut self, args: &[&str]) {
        self.args.truncate(3);
        self.args.extend(args.iter().map(|arg| arg.to_string()));
    }

    /// The instance root.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the daemon and waits until its listener and its control socket answer.
    pub fn start(&mut self) {
        self.spawn();
        wait_for("the daemon to serve", || {
            if let Some(status) = self
                .daemon
                .as_mut()
                .and_then(|d| d.try_wait().ok().flatten())
            {
                panic!("smtpd ended with {status}:\n{}", self.log());
            }
            self.ready()
        });
    }

    /// Starts the daemon without waiting.
    pub fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log");
        let mut command = self.program("smtpd");
        if let Some(count) = self.descriptors {
            let program = command.get_program().to_os_string();
            command = Command::new("sh");
            command
                .args(["-c", &format!("ulimit -n {count}; exec \"$0\" \"$@\"")])
                .arg(program);
            self.drop_rights(&mut command);
        }
        if self.users {
            let program = command.get_program().to_os_string();
            command = with_its_own_users(self.path(), self.network);
            command.arg(program);
        }
        command
            .args(&self.args)
            .envs(self.envs.iter().map(|(k, v)| (k, v)));
        command
            .stdin(match self.input {
                Some(_) => Stdio::piped(),
                None => Stdio::null(),
            })
            .stdout(Stdio::null())
            .stderr(log);
        let mut daemon = command.spawn().expect("smtpd");
        if let (Some(mut stdin), Some(input)) = (daemon.stdin.take(), &self.input) {
            // A daemon that ends before it reads is looked at by the test.
            let _ = stdin.write_all(input.as_bytes());
        }
        self.daemon = Some(daemon);
    }

    /// A command of ours, to be run as the daemon's own user.
    pub fn program(&self, name: &str) -> Command {
        let built = match name {
            "smtp" => env!("CARGO_BIN_EXE_smtp"),
            "smtpd" => env!("CARGO_BIN_EXE_smtpd"),
            _ => env!("CARGO_BIN_EXE_smtpctl"),
        };
        let mut command = match &self.programs {
            Some(dir) => Command::new(dir.join(name)),
            None => Command::new(built),
        };
        self.drop_rights(&mut command);
        command
    }

    /// A shell, run as the daemon's own user.
    pub fn shell(&self) -> Command {
        let mut command = Command::new("sh");
        self.drop_rights(&mut command);
        command
    }

    fn ready(&self) -> bool {
        if self.network {
            return self.ctl(["show", "status"]).status.success();
        }
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let mut client = Client::over(stream);
        client.reply().starts_with("220 ") && self.ctl(["show", "status"]).status.success()
    }

    /// A command that runs in the network of the daemon.
    pub fn command_inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid()));
        command.arg("--").arg(program);
        command
    }

    fn drop_rights(&self, command: &mut Command) {
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("log")
    }

    /// Everything the daemon has said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Waits until a log line holds `text`.
    pub fn wait_log(&self, text: &str) {
        wait_for(
            &format!("the log to say {text:?}; it says\n{}", self.log()),
            || self.log().contains(text),
        );
    }

    /// A session, greeted.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.port);
        let banner = client.reply();
        assert!(banner.starts_with("220 "), "{banner}");
        client
    }

    /// A session that has said EHLO.
    pub fn hello(&self) -> Client {
        let mut client = self.client();
        client.say("EHLO client.example.net", 250);
        client
    }

    /// smtpctl with these arguments.
    pub fn ctl<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Output {
        self.front_end("smtpctl", args, b"")
    }

    /// A name of smtpctl's with these arguments and this standard input.
    pub fn front_end<I, S>(&self, name: &str, args: I, input: &[u8]) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.program("smtpctl");
        command
            .arg0(name)
            .args(args)
            .env("SMTPD_ROOT", self.path())
            .env("HOME", self.path());
        run(command, input)
    }

    /// sendmail with these arguments and this message.
    pub fn sendmail<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        args: I,
        message: &[u8],
    ) -> Output {
        self.front_end("sendmail", args, message)
    }

    /// The messages of a maildir below the instance root, in no order.
    pub fn maildir(&self, name: &str) -> Vec<Vec<u8>> {
        files(&self.path().join(name).join("new"))
            .iter()
            .filter_map(|f| fs::read(f).ok())
            .collect()
    }

    /// Waits until the maildir `mail` holds `count` messages and returns them.
    pub fn wait_mail(&self, count: usize) -> Vec<Vec<u8>> {
        self.wait_mail_in("mail", count)
    }

    /// The same for another maildir below the instance root.
    pub fn wait_mail_in(&self, name: &str, count: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let new = self.path().join(name).join("new");
        let what = format!("{count} messages in {}", new.display());
        let done = wait(|| files(&new).len() >= count);
        found.append(&mut self.maildir(name));
        assert!(
            done && found.len() == count,
            "{what}: {} there\n{}",
            found.len(),
            tail(&self.log())
        );
        found
    }

    /// Lines of `smtpctl show queue`.
    pub fn queue(&self) -> Vec<String> {
        let output = self.ctl(["show", "queue"]);
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_string)
            .collect()
    }

    /// The files of all messages in the spool: while the daemon runs, small ones may share some.
    pub fn spooled(&self) -> Vec<PathBuf> {
        let buckets = files(&self.path().join("spool/queue"));
        let rooms = buckets.iter().filter(|bucket| bucket.is_dir());
        let mut spooled: Vec<PathBuf> = rooms.flat_map(|bucket| tree(bucket)).collect();
        spooled.extend(files(&self.path().join("spool/bags")));
        spooled
    }

    /// Waits until the queue is empty. A message is in its maildir before its envelope is gone.
    pub fn wait_empty(&self) {
        self.wait_queue(&[]);
    }

    /// Waits until the queue has one envelope for each of these recipients, and no others.
    pub fn wait_queue(&self, rcpts: &[&str]) {
        wait_for(&format!("the queue to hold {rcpts:?}"), || {
            let queue = self.queue();
            let is_there = |rcpt: &&str| queue.iter().any(|line| line.contains(*rcpt));
            queue.len() == rcpts.len() && rcpts.iter().all(is_there)
        });
    }

    /// Waits until nothing of what was delivered takes up room in the spool.
    pub fn wait_settled(&self) {
        self.wait_empty();
        wait_for("the spool to be empty", || {
            self.spooled().is_empty() && files(&self.path().join("spool/purge")).is_empty()
        });
    }

    /// The process id of the parent.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon").id()
    }

    /// The process id of the engine, once it is there.
    pub fn engine_pid(&self) -> u32 {
        let mut found = None;
        wait_for("the engine", || {
            found = processes::children(self.pid(), "engine").first().copied();
            found.is_some()
        });
        found.unwrap_or(0)
    }

    /// The process ids of the deliveries under way.
    pub fn delivery_pids(&self) -> Vec<u32> {
        processes::children(self.pid(), "mda")
    }

    /// Sets the soft limits of a process of the daemon as prlimit(1) is told to; says the test's
    /// name and does nothing where that program is missing.
    pub fn limit(&self, test: &str, pid: u32, limit: &str) -> bool {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid.to_string(), limit]);
        self.drop_rights(&mut command);
        let done = command.status().is_ok_and(|status| status.success());
        if !done {
            not_run(test, "needs prlimit(1)");
        }
        done
    }

    /// Lets a process of the daemon open nothing more than it has open now, as [`Instance::limit`]
    /// does.
    pub fn limit_to_open(&self, test: &str, pid: u32) -> bool {
        // poll(2) wants no fewer than it is asked about.
        let open = files(Path::new(&format!("/proc/{pid}/fd")));
        let numbers = open
            .iter()
            .filter_map(|fd| fd.file_name()?.to_str()?.parse::<u32>().ok());
        match numbers.max() {
            Some(last) => self.limit(test, pid, &format!("--nofile={}:", last + 1)),
            None => {
                not_run(test, "needs /proc");
                false
            }
        }
    }

    /// Sends a signal to a process.
    pub fn signal(&self, pid: u32, name: &str) {
        processes::signal(pid, name);
    }

    /// Stops the daemon as an administrator does and says how it ended.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(self.pid(), "TERM");
        self.wait_end()
    }

    /// Waits for the daemon to end by itself.
    pub fn wait_end(&mut self) -> std::process::ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.try_wait().expect("wait") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "smtpd does not end:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the parent without warning; the engine must follow by itself.
    pub fn kill_parent(&mut self) {
        let engine = self.engine_pid();
        let mut daemon = self.daemon.take().expect("a daemon");
        let _ = daemon.kill();
        let _ = daemon.wait();
        wait_for("the engine to follow its parent", || !alive(engine));
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            self.signal(daemon.id(), "TERM");
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(daemon.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", tail(&self.log()));
        }
    }
}

/// A scripted SMTP client.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to a port on loopback.
    pub fn connect(port: u16) -> Client {
        Client::over(TcpStream::connect(("127.0.0.1", port)).expect("connect"))
    }

    /// A session that has said EHLO, or nothing when the daemon is not there.
    pub fn try_hello(port: u16) -> Option<Client> {
        let mut client = Client::over(TcpStream::connect(("127.0.0.1", port)).ok()?);
        client
            .try_reply()
            .filter(|reply| reply.starts_with("220 "))?;
        client.try_send(b"EHLO client.example.net\r\n").ok()?;
        client
            .try_reply()
            .filter(|reply| reply.starts_with("250"))?;
        Some(client)
    }

    /// Connects to `to` with the address `from`, which may be any on loopback.
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<Client> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect(&to.into())?;
        Ok(Client::over(socket.into()))
    }

    /// The connection alone; nothing that has come may be unread.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.stream.buffer().is_empty());
        self.stream.into_inner()
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("nodelay");
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream
            .get_mut()
            .write_all(bytes)
            .expect("write to the daemon");
    }

    /// Sends bytes as they are; the daemon may have gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// One whole reply, its lines joined by LF; empty when the connection is closed.
    pub fn reply(&mut self) -> String {
        self.try_reply().unwrap_or_default()
    }

    /// One whole reply, or `None` when the connection is closed or broken.
    pub fn try_reply(&mut self) -> Option<String> {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            assert!(
                line.ends_with("\r\n"),
                "a reply line without CRLF: {line:?}"
            );
            all.push_str(line.trim_end_matches("\r\n"));
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(all);
            }
            all.push('\n');
        }
    }

    /// Sends a command and returns the reply.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply()
    }

    /// Sends a command and checks the reply's code.
    pub fn say(&mut self, command: &str, code: u16) -> String {
        let reply = self.ask(command);
        assert!(reply.starts_with(&code.to_string()), "{command}: {reply}");
        reply
    }

    /// A whole transaction; returns the last reply. `None`: the connection broke before it came.
    pub fn try_mail(&mut self, from: &str, rcpts: &[&str], message: &[u8]) -> Option<String> {
        self.try_send(format!("MAIL FROM:<{from}>\r\n").as_bytes())
            .ok()?;
        let mut reply = self.try_reply()?;
        for rcpt in rcpts {
            if !reply.starts_with("250") {
                return Some(reply);
            }
            self.try_send(format!("RCPT TO:<{rcpt}>\r\n").as_bytes())
                .ok()?;
            reply = self.try_reply()?;
        }
        if !reply.starts_with("250") {
            return Some(reply);
        }
        self.try_send(b"DATA\r\n").ok()?;
        reply = self.try_reply()?;
        if !reply.starts_with("354") {
            return Some(reply);
        }
        self.try_send(&on_the_wire(message)).ok()?;
        self.try_reply()
    }

    /// A whole transaction that must succeed; returns the message's id.
    pub fn mail(&mut self, from: &str, rcpts: &[&str], message: &[u8]) -> String {
        let reply = self.try_mail(from, rcpts, message).unwrap_or_default();
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        reply.split(' ').nth(2).unwrap_or_default().to_string()
    }

    /// Gives the daemon time to see what was sent as a piece of its own: it has nothing to answer.
    pub fn say_nothing(&mut self) {
        let stream = self.stream.get_ref();
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        let quiet = self.stream.fill_buf().is_err();
        let _ = self.stream.get_ref().set_read_timeout(Some(PATIENCE));
        assert!(
            quiet,
            "the daemon answered half a message: {:?}",
            self.stream.buffer()
        );
    }

    /// Whether the daemon has closed the connection.
    pub fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }
}

/// A message with LF line ends as DATA carries it: CRLF, dots doubled, final dot.
pub fn on_the_wire(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 40 + 16);
    for line in message.split_inclusive(|&b| b == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// The part of a delivered message behind its header.
pub fn body(message: &[u8]) -> &[u8] {
    message
        .windows(2)
        .position(|w| w == b"\n\n")
        .map_or(b"", |at| &message[at + 2..])
}

/// A header field's value in a delivered message.
pub fn field(message: &[u8], name: &str) -> Option<String> {
    let header = message
        .split(|&b| b == b'\n')
        .take_while(|line| !line.is_empty());
    let prefix = format!("{}:", name.to_lowercase());
    header
        .map(String::from_utf8_lossy)
        .find(|line| line.to_lowercase().starts_with(&prefix))
        .map(|line| line[prefix.len()..].trim().to_string())
}

/// Runs a command with this standard input.
pub fn run(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("output");
    writer.join().expect("the writer");
    output
}

/// What a program has written to its standard output.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a process is there.
pub fn alive(pid: u32) -> bool {
    processes::signal(pid, "0")
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|o| o.stdout == b"0\n")
}

/// Says that a test cannot run here, and why: past the capture of what passing tests print.
pub fn not_run(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "NOT RUN: {test}: {why}");
}

/// For tests of what only root can do: says the test's name when it cannot run.
pub fn root_only(test: &str) -> bool {
    if !is_root() {
        not_run(test, "needs root");
    }
    is_root()
}

/// Waits until `condition` holds; panics when it never does.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(wait(condition), "waited in vain for {what}");
}

/// Waits until `condition` holds, or gives up.
pub fn wait(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The files of a directory; none when it is not there.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map_or(Vec::new(), |d| {
        d.flatten().map(|entry| entry.path()).collect()
    })
}

/// Every file below a directory.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in files(dir) {
        if path.is_dir() {
            all.append(&mut tree(&path))
        } else {
            all.push(path)
        }
    }
    all
}

/// Gives a tree to a user.
pub fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).expect("chown");
    for file in files(path) {
        give(&file, uid);
    }
}

/// The end of a long text.
pub fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(8000);
    let start = (start..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    &text[start..]
}

/// Puts what `dir` has of these in the place of the system's.
const FILES: &str = "for pair in etc:/etc passwd:/etc/passwd shadow:/etc/shadow group:/etc/group hosts:/etc/hosts \
                     resolv.conf:/etc/resolv.conf mailboxes:/var/mail; do \
                     [ ! -e \"$0/${pair%%:*}\" ] || \
                     mount --bind \"$0/${pair%%:*}\" \"${pair#*:}\" || exit 1; done; ";

/// Makes a network: lo0, and an interface with a default route and the address 192.0.2.1. Clients
/// in it may have any address of 198.51.100.0/24, which none of the interfaces has.
const NETWORK: &str = "ip link set lo name lo0 && ip link set lo0 up && \
                       ip link add egress0 type veth peer name wire0 && \
                       ip link set egress0 addrgenmode none && \
                       ip addr add 192.0.2.1/24 dev egress0 && ip link set egress0 up && ip link set wire0 up && \
                       ip route add default via 192.0.2.254 && \
                       ip route add local 198.51.100.0/24 dev lo0 || exit 1; ";

/// A command that runs another one where `/etc/passwd`, `/etc/group` and, if they are there,
/// `/etc/hosts`, `/etc/resolv.conf`, all of `/etc`, and `/var/mail` (`mailboxes`) are those of
/// `dir`; in a network of its own, if that is wanted.
fn with_its_own_users(dir: &Path, network: bool) -> Command {
    let mut command = Command::new("unshare");
    match network {
        true => command
            .args(["-mn", "sh", "-c"])
            .arg(format!("{NETWORK}{FILES}exec \"$@\"")),
        false => command
            .args(["-m", "sh", "-c"])
            .arg(format!("{FILES}exec \"$@\"")),
    };
    command.arg(dir);
    command
}

/// Whether a test may give a daemon a network of its own; says the test's name when it cannot.
pub fn can_have_network(test: &str) -> bool {
    if !can_have_users(test) {
        return false;
    }
    let can = Command::new("unshare")
        .args(["-n", "sh", "-c", &format!("{NETWORK}nsenter -V")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        not_run(test, "needs a network namespace");
    }
    can
}

/// Whether a test may give a daemon users of its own (a private mount namespace); says the test's
/// name when it cannot run.
pub fn can_have_users(test: &str) -> bool {
    if !cfg!(target_os = "linux") || !root_only(test) {
        return false;
    }
    let can = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount --bind /etc/passwd /etc/passwd"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        not_run(test, "needs a mount namespace");
    }
    can
}

/// The name of the user that an ordinary test's daemon runs as.
fn ordinary_name() -> String {
    let mut command = Command::new("id");
    command.arg("-un");
    if is_root() {
        command.arg(ORDINARY.to_string());
    }
    let output = command.output().expect("id");
    String::from_utf8(output.stdout)
        .expect("a name")
        .trim()
        .to_string()
}

/// Links the programs into the instance root when others cannot reach them where they were built.
fn reachable_programs(root: &Path) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_smtpd")).parent()?;
    let open =
        |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o005 == 0o005);
    if built.ancestors().all(open) {
        return None;
    }
    let dir = root.join("bin");
    fs::create_dir_all(&dir).expect("bin");
    for name in [
        "smtpd",
        "smtp",
        "smtpctl",
        "mail_lmtp",
        "mail_local",
        "mail_maildir",
        "mail_mboxfile",
        "mail_mda",
    ] {
        let (from, to) = (built.join(name), dir.join(name));
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .expect("a program");
    }
    Some(dir)
}

/// A port that nobody has, and that no client gets either: a daemon wants it back after a restart,
/// however many connections the tests have made meanwhile.
pub fn free_port() -> u16 {
    const BELOW_CLIENTS: std::ops::Range<u64> = 2000..10_000;
    let width = BELOW_CLIENTS.end - BELOW_CLIENTS.start;
    loop {
        let port = (BELOW_CLIENTS.start + RandomState::new().hash_one(0) % width) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
