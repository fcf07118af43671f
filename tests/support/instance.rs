//! A daemon of a test's own: what can be done with it, and asked of it, until it ends. It lives in a
//! temporary directory, and goes when its [`Instance`] does.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::Client;
use super::namespaces::with_its_own_users;
use super::processes;
use super::setup::ordinary_name;
use super::{PATIENCE, alive, files, not_run, run, tail, tree, wait, wait_for};

/// A running daemon.
pub struct Instance {
    pub(super) dir: TempDir,
    pub port: u16,
    pub(super) daemon: Option<Child>,
    pub(super) uid: Option<u32>,
    pub(super) args: Vec<String>,
    pub(super) envs: Vec<(String, String)>,
    /// Where the programs are when an ordinary user cannot reach the build's.
    pub(super) programs: Option<PathBuf>,
    pub(super) descriptors: Option<u32>,
    pub(super) users: bool,
    pub(super) network: bool,
    pub(super) input: Option<String>,
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
