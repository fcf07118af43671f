//! A daemon with the users and files of a story file, and what is said to it.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lmtp::{self, Seen};
use crate::support::{Client, Instance, Setup, run, wait_for};

use super::script::{Entry, Script, Step, Story, Thing};
use super::trail::Trail;

/// Users that every file has, after root. What they own lies below `home/NAME`.
const USERS: [&str; 6] = ["_smtpd", "_smtpq", "alice", "bob", "carol", "vmail"];

/// The uid and gid of the first of them.
const FIRST: u32 = 54320;

/// The gid of the group that may write to the directory of mailboxes.
const MAIL: u32 = 8;

/// How long what is wrong may stay wrong once the daemon has nothing left to do.
const GRACE: Duration = Duration::from_secs(2);

/// The command `$show`: notes who runs it and with what. The message says which story it is of.
const SHOW: &str = r#"#!/bin/sh
token=$(sed -n 's/^X-Story: //p')
note="$SHOW_DIR/$token.$$"
{
	printf 'ran %s' "$(id -un)"
	[ $# = 0 ] || printf ' [%s]' "$@"
	printf '\npwd=%s\ngroups=%s\n' "$(pwd)" "$(id -Gn)"
	env
} >"$note.new" && mv "$note.new" "$note"
"#;

/// The daemon of one file.
pub struct Stage {
    daemon: Instance,
    users: Vec<String>,
    network: bool,
    /// LMTP servers, by the paths of their sockets.
    servers: Vec<(String, Seen)>,
}

/// What came of one story's message at once.
pub struct Played {
    /// The replies to its recipients.
    pub replies: Vec<String>,
    /// Its id, if it was accepted.
    pub msgid: Option<String>,
}

impl Stage {
    /// Makes users, homes and files, and starts the daemon.
    pub fn build(script: &Script) -> Stage {
        let dir = TempDir::new().expect("a temporary directory");
        let root = dir.path();
        let extra = script.users.iter().map(String::as_str);
        let users: Vec<String> = USERS.into_iter().chain(extra).map(str::to_owned).collect();
        make_users(root, &users);
        for (path, mode) in [("mailboxes", 0o2775), ("ran", 0o1777), ("out", 0o1777)] {
            make_dir(&root.join(path), mode);
        }
        chown(root.join("mailboxes"), None, Some(MAIL)).expect("chown");
        write(&root.join("show"), &show(root), 0o755);
        write(&root.join("hosts"), HOSTS, 0o644);
        // Nobody answers there.
        write(
            &root.join("resolv.conf"),
            "nameserver 127.0.0.99\noptions timeout:1 attempts:1\n",
            0o644,
        );
        if script.network {
            copy_etc(root);
        }
        let mut servers = Vec::new();
        for thing in &script.things {
            match thing {
                Thing::Lmtp(path) => {
                    servers.push((path.clone(), lmtp::on_socket(&root.join(path))))
                }
                thing => make(root, thing, &users),
            }
        }
        let mut config = script
            .config
            .replace("$show", &root.join("show").display().to_string());
        if !config.contains("listen on") {
            config.insert_str(0, "listen on 127.0.0.1 port $port\n");
        }
        // Envelopes for other hosts stay in the queue.
        let setup = Setup::new(&config).arg("-P").arg("mta");
        let setup = if script.network {
            setup.with_network()
        } else {
            setup.with_users()
        };
        Stage {
            daemon: setup.start_in(dir),
            users,
            network: script.network,
            servers,
        }
    }

    /// Hands in every message.
    pub fn play(&self, script: &Script) -> Vec<Played> {
        let tokens = 0..script.stories.len();
        let pairs = script.stories.iter().zip(tokens);
        pairs
            .map(|(story, number)| self.hand_in(story, number))
            .collect()
    }

    /// Waits until nothing is under way, and says what is otherwise than it was told.
    pub fn compare(&self, script: &Script, played: &[Played]) -> Vec<String> {
        let mut quiet_since = None;
        let mut wrong = Vec::new();
        wait_for("the daemon to have nothing to do", || {
            let trail = Trail::read(&self.daemon, &self.users, &self.servers);
            let pairs = script.stories.iter().zip(played).enumerate();
            wrong = pairs
                .filter_map(|(number, (story, played))| {
                    let wrong = trail.differences(story, played, number);
                    let at = format!("{}.story:{}: {}", script.name, story.line, story.name);
                    (!wrong.is_empty()).then(|| format!("{at}\n\t{}", wrong.join("\n\t")))
                })
                .collect();
            if !trail.quiet {
                quiet_since = None;
                return false;
            }
            let since = *quiet_since.get_or_insert_with(Instant::now);
            wrong.is_empty() || since.elapsed() > GRACE
        });
        wrong
    }

    /// Everything the daemon has said.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    fn hand_in(&self, story: &Story, number: usize) -> Played {
        for step in &story.steps {
            self.step(step);
        }
        let mut message = format!("X-Story: {number};\nSubject: {}\n", story.name);
        for line in &story.header {
            message += &format!("{line}\n");
        }
        message += "\nOnce upon a time.\n";
        match story.source.as_str() {
            "socket" => self.by_sendmail(story, &message),
            _ if self.network => self.by_smtp_inside(story, &message),
            _ => self.by_smtp(story, &message),
        }
    }

    fn step(&self, step: &Step) {
        let at = |path: &String| self.daemon.path().join(path);
        match step {
            Step::Remove(path) => fs::remove_file(at(path)).expect("remove"),
            Step::Write(path, text) => {
                let text = text.replace("\\n", "\n");
                let text = text.replace("$dir", &self.daemon.path().display().to_string());
                fs::write(at(path), format!("{text}\n")).expect("write");
            }
            Step::Map(path, kind) => make_map(self.daemon.path(), path, kind),
            Step::Ctl(words) => {
                let wanted = !words.starts_with('!');
                let output = self
                    .daemon
                    .ctl(words.trim_start_matches('!').split_whitespace());
                let done = output.status.success();
                assert_eq!(done, wanted, "smtpctl {words}: {output:?}");
            }
        }
    }

    fn by_smtp(&self, story: &Story, message: &str) -> Played {
        let server = format!("{}:{}", story.server, self.daemon.port);
        let server: SocketAddr = server.parse().expect("an address");
        let source = story.source.parse().expect("an address");
        let client = Client::connect_from(source, server).expect("a connection");
        talk(client, &story.helo, &story.sender, &rcpts(story), message)
    }

    /// This program once more, in the network of the daemon: see [`talk_inside`].
    fn by_smtp_inside(&self, story: &Story, message: &str) -> Played {
        let program = std::env::current_exe().expect("this program");
        let mut command = self.daemon.command_inside(program);
        command.args(["--exact", "stories::stage::talk_inside", "--nocapture"]);
        command
            .env("STORY_SOURCE", &story.source)
            .env("STORY_SERVER", format!("{}:25", story.server))
            .env("STORY_HELO", &story.helo)
            .env("STORY_SENDER", &story.sender)
            .env("STORY_RCPTS", rcpts(story).join(" "));
        let output = run(command, message.as_bytes());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let with = |word: &str| {
            let lines = said.lines().filter_map(|line| line.strip_prefix(word));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let replies = with("STORY REPLY ");
        assert_eq!(replies.len(), story.rcpts.len(), "{output:?}");
        Played {
            replies,
            msgid: with("STORY MSGID ").pop(),
        }
    }

    /// sendmail(8) shows the reply that it got, behind other words.
    fn by_sendmail(&self, story: &Story, message: &str) -> Played {
        let (rcpt, wanted) = &story.rcpts[0];
        let args = ["-f", story.sender.as_str(), rcpt.as_str()];
        let output = self.daemon.sendmail(args, message.as_bytes());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let as_told = if output.status.success() {
            wanted.starts_with('2')
        } else {
            said.contains(wanted.as_str())
        };
        let reply = if as_told { wanted.clone() } else { said };
        let mut msgid = None;
        if output.status.success() {
            wait_for("the log to name the message", || {
                msgid = self.msgid_of(rcpt);
                msgid.is_some()
            });
        }
        Played {
            replies: vec![reply],
            msgid,
        }
    }

    /// The id that the log gives to the last message for a recipient.
    fn msgid_of(&self, rcpt: &str) -> Option<String> {
        let log = self.daemon.log();
        let needle = format!("to=<{rcpt}>");
        let line = log
            .lines()
            .rfind(|line| line.contains(" smtp envelope ") && line.contains(&needle))?;
        let (_, rest) = line.split_once("evpid=")?;
        rest.get(..8).map(str::to_owned)
    }
}

fn rcpts(story: &Story) -> Vec<&str> {
    story.rcpts.iter().map(|(rcpt, _)| rcpt.as_str()).collect()
}

/// One message over one connection.
fn talk(mut client: Client, helo: &str, sender: &str, rcpts: &[&str], message: &str) -> Played {
    let banner = client.reply();
    assert!(banner.starts_with("220 "), "{banner}");
    client.say(&format!("EHLO {helo}"), 250);
    client.say(&format!("MAIL FROM:<{sender}>"), 250);
    let replies: Vec<String> = rcpts
        .iter()
        .map(|rcpt| client.ask(&format!("RCPT TO:<{rcpt}>")))
        .collect();
    let mut msgid = None;
    if replies.iter().any(|reply| reply.starts_with('2')) {
        client.say("DATA", 354);
        client.send(message.replace('\n', "\r\n").as_bytes());
        let reply = client.ask(".");
        assert!(reply.starts_with("250 2.0.0 "), "{reply}");
        msgid = reply.split(' ').nth(2).map(str::to_owned);
    }
    let _ = client.ask("QUIT");
    Played { replies, msgid }
}

/// Not a test of its own: what [`Stage::by_smtp_inside`] runs.
#[test]
fn talk_inside() {
    let given = |name: &str| std::env::var(format!("STORY_{name}")).unwrap_or_default();
    if given("SOURCE").is_empty() {
        return;
    }
    let rcpts = given("RCPTS");
    let rcpts: Vec<&str> = rcpts.split(' ').collect();
    let mut message = String::new();
    std::io::stdin()
        .read_to_string(&mut message)
        .expect("a message");
    let source = given("SOURCE").parse().expect("an address");
    let server = given("SERVER").parse().expect("an address");
    let client = Client::connect_from(source, server).expect("a connection");
    let played = talk(client, &given("HELO"), &given("SENDER"), &rcpts, &message);
    for reply in &played.replies {
        println!("\nSTORY REPLY {reply}");
    }
    if let Some(msgid) = &played.msgid {
        println!("\nSTORY MSGID {msgid}");
    }
}

/// Names of client addresses for `from rdns`.
const HOSTS: &str =
    "127.0.0.1 localhost\n127.0.0.3 relay.example.net\n127.0.0.4 dsl-4.example.com\n";

fn show(root: &Path) -> String {
    SHOW.replace("$SHOW_DIR", &root.join("ran").display().to_string())
}

fn make_users(root: &Path, names: &[String]) {
    let home = root.join("home/root");
    make_dir(&home, 0o755);
    let mut passwd = format!("root:x:0:0:root:{}:/bin/sh\n", home.display());
    let mut group = format!("root:x:0:\nmail:x:{MAIL}:\n");
    for (name, id) in names.iter().zip(FIRST..) {
        let home = root.join("home").join(name);
        make_dir(&home, 0o755);
        chown(&home, Some(id), Some(id)).expect("chown");
        passwd += &format!("{name}:x:{id}:{id}::{}:/bin/sh\n", home.display());
        group += &format!("{name}:x:{id}:\n");
    }
    write(&root.join("passwd"), &passwd, 0o644);
    write(&root.join("group"), &group, 0o644);
}

fn make(root: &Path, thing: &Thing, users: &[String]) {
    match thing {
        Thing::File(entry, text) => {
            let text = text.replace("$dir", &root.display().to_string());
            let text = repeat(&text);
            let mut text = text.replace("$show", &root.join("show").display().to_string());
            text.extend((text.len()..entry.size).map(|_| '#'));
            let path = place(root, entry);
            write(&path, &text, entry.mode.unwrap_or(0o644));
            own(&path, entry, users);
        }
        Thing::Dir(entry) => {
            let path = place(root, entry);
            make_dir(&path, entry.mode.unwrap_or(0o755));
            own(&path, entry, users);
        }
        Thing::Link(path, to) => symlink(to, root.join(path)).expect("a link"),
        Thing::Map(path, kind) => make_map(root, path, kind),
        Thing::Remove(path) => fs::remove_dir_all(root.join(path)).expect("remove"),
        Thing::Lmtp(_) => unreachable!("a server is none of the files"),
    }
}

/// `$x(N)` is N times `x`.
fn repeat(text: &str) -> String {
    let mut parts = text.split("$x(");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (count, rest) = part.split_once(')').expect("$x(N)");
        all += &"x".repeat(count.parse().expect("a number"));
        all += rest;
    }
    all
}

fn make_map(root: &Path, path: &str, kind: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtpctl"));
    command.arg0("makemap");
    if kind != "mapping" {
        command.args(["-t", kind]);
    }
    command.arg(root.join(path));
    let output = command.output().expect("makemap");
    assert!(output.status.success(), "{output:?}");
}

/// The daemon's own /etc: the system's, with what the story adds.
fn copy_etc(root: &Path) {
    let mut command = Command::new("cp");
    let status = command.args(["-a", "/etc"]).arg(root.join("etc")).status();
    assert!(status.expect("cp").success(), "a copy of /etc");
}

fn place(root: &Path, entry: &Entry) -> PathBuf {
    let path = root.join(&entry.path);
    let above = path.parent().expect("a path below the root");
    fs::create_dir_all(above).expect("directories");
    path
}

/// The owner is the one of the directory above unless it is said: a file in a home is its user's.
fn own(path: &Path, entry: &Entry, users: &[String]) {
    let above = path.parent().expect("a path below the root");
    let owner = match entry.owner.as_deref() {
        None => {
            let above = fs::metadata(above).expect("the directory");
            std::os::unix::fs::MetadataExt::uid(&above)
        }
        Some(name) => uid(users, name),
    };
    chown(path, Some(owner), Some(owner)).expect("chown");
}

/// The uid of a name; a number is itself.
fn uid(users: &[String], name: &str) -> u32 {
    let at = users.iter().position(|user| user == name);
    match (name, at) {
        ("root", _) => 0,
        (_, Some(at)) => FIRST + u32::try_from(at).expect("few users"),
        (number, None) => number.parse().expect("a user or uid"),
    }
}

/// The name of a uid.
pub fn owner_name(users: &[String], uid: u32) -> String {
    let known = uid.checked_sub(FIRST).and_then(|at| users.get(at as usize));
    match (uid, known) {
        (0, _) => "root".to_owned(),
        (_, Some(name)) => name.clone(),
        (uid, None) => uid.to_string(),
    }
}

fn make_dir(path: &Path, mode: u32) {
    fs::create_dir_all(path).expect("a directory");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}
