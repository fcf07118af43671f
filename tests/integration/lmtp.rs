//! Delivery by LMTP: to servers that a test scripts, and to Dovecot's.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use crate::mda::start_with_users;
use crate::support::{Instance, Setup, field, files, not_run, root_only, run, wait_for};

/// What an LMTP server has seen.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    connections: usize,
    /// Recipients of each message, and the message.
    messages: Vec<(Vec<String>, String)>,
}

impl Seen {
    pub fn messages(&self) -> Vec<(Vec<String>, String)> {
        self.0.lock().unwrap().messages.clone()
    }

    fn connections(&self) -> usize {
        self.0.lock().unwrap().connections
    }
}

/// How recipients fare, by the beginning of their names. All replies behind the dot go out in one
/// segment.
fn verdict(rcpt: &str) -> &'static str {
    match rcpt {
        _ if rcpt.starts_with("full") => "452 4.2.2 mailbox is full",
        _ if rcpt.starts_with("never") => "550 5.2.1 mailbox is disabled",
        _ => "250 2.0.0 Saved",
    }
}

/// A session with the daemon. QUIT is answered by closing.
fn session(seen: &Seen, reader: &mut dyn BufRead, writer: &mut dyn Write) -> Option<()> {
    let (mut rcpts, mut line) = (Vec::new(), String::new());
    writer.write_all(b"220 fake ready\r\n").ok()?;
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let word = line.split([' ', '\r']).next().unwrap_or_default();
        let reply = match word {
            "LHLO" => "250-fake\r\n250 PIPELINING\r\n".to_owned(),
            "RCPT" => {
                let path = line.split(['<', '>']).nth(1).unwrap_or_default();
                rcpts.push(path.to_owned());
                if path.starts_with("unknown") {
                    rcpts.pop();
                    "550 5.1.1 who\r\n".to_owned()
                } else {
                    "250 2.1.5 Ok\r\n".to_owned()
                }
            }
            "DATA" if rcpts.is_empty() => "503 5.5.1 no recipients\r\n".to_owned(),
            "DATA" => {
                writer.write_all(b"354 go\r\n").ok()?;
                let message = data(reader)?;
                let rcpts = std::mem::take(&mut rcpts);
                let replies: Vec<_> = rcpts
                    .iter()
                    .map(|r| verdict(r).to_owned() + "\r\n")
                    .collect();
                let last = message.contains("Subject: bye");
                seen.0.lock().unwrap().messages.push((rcpts, message));
                if last {
                    return writer.write_all(replies.concat().as_bytes()).ok();
                }
                replies.concat()
            }
            "QUIT" => return None,
            _ => {
                if word == "MAIL" || word == "RSET" {
                    rcpts.clear();
                }
                "250 2.0.0 Ok\r\n".to_owned()
            }
        };
        writer.write_all(reply.as_bytes()).ok()?;
    }
}

fn data(reader: &mut dyn BufRead) -> Option<String> {
    let mut message = String::new();
    loop {
        let start = message.len();
        if reader.read_line(&mut message).ok()? == 0 {
            return None;
        }
        assert!(message.ends_with("\r\n"));
        if &message[start..] == ".\r\n" {
            message.truncate(start);
            return Some(message);
        }
    }
}

fn serve<S>(seen: &Seen, stream: S, clone: impl FnOnce(&S) -> S)
where
    S: Read + Write + Send + 'static,
{
    let seen = seen.clone();
    seen.0.lock().unwrap().connections += 1;
    let mut writer = clone(&stream);
    thread::spawn(move || session(&seen, &mut BufReader::new(stream), &mut writer));
}

pub fn on_tcp() -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let server = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(&server, stream, |stream| stream.try_clone().unwrap());
        }
    });
    (port, seen)
}

/// A server on a socket that everybody may use.
pub fn on_socket(path: &Path) -> Seen {
    let listener = UnixListener::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    let seen = Seen::default();
    let server = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(&server, stream, |stream| stream.try_clone().unwrap());
        }
    });
    seen
}

fn result(daemon: &Instance, rcpt: &str) -> String {
    let needle = format!("to=<{rcpt}>");
    let mut found = String::new();
    wait_for(&format!("an outcome for {rcpt}"), || {
        let log = daemon.log();
        let mut lines = log
            .lines()
            .filter(|l| l.contains(" mda delivery ") && l.contains(&needle));
        let result = lines.next_back().and_then(|l| l.split_once(" result="));
        found = result
            .map(|(_, result)| result.to_owned())
            .unwrap_or_default();
        !found.is_empty()
    });
    found
}

#[test]
fn each_recipient_has_its_own_outcome_over_one_connection() {
    // smtpd.conf(5), lmtp: one connection for several messages, an outcome for each recipient.
    let (port, seen) = on_tcp();
    let daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" lmtp \"127.0.0.1:{port}\" rcpt-to virtual $all\n\
         match from any for any action \"in\"\n"
    ))
    .start();
    let mut client = daemon.hello();
    let rcpts = [
        "a@e.org",
        "full@e.org",
        "never@e.org",
        "unknown@e.org",
        "b@e.org",
    ];
    client.mail("", &rcpts, b"Subject: x\n\n.dot\nlast\n");
    for (rcpt, expected) in [
        ("a@e.org", "Ok stat=Delivered"),
        ("b@e.org", "Ok stat=Delivered"),
        (
            "full@e.org",
            "TempFail stat=Error (temporary failure: \"LMTP server error: 452 4.2.2 mailbox is full\")",
        ),
        (
            "never@e.org",
            "PermFail stat=Error (service unavailable: \"LMTP server error: 550 5.2.1 mailbox is disabled\")",
        ),
        (
            "unknown@e.org",
            "PermFail stat=Error (service unavailable: \"LMTP server error: 550 5.1.1 who\")",
        ),
    ] {
        assert_eq!(result(&daemon, rcpt), expected);
    }
    wait_for("only the temporary failure to stay", || {
        daemon.queue().len() == 1
    });
    client.mail("s@example.net", &["c@e.org"], b"Subject: y\n\nz\n");
    assert_eq!(result(&daemon, "c@e.org"), "Ok stat=Delivered");
    let messages = seen.messages();
    let (rcpts, message) = &messages[0];
    let mut rcpts = rcpts.clone();
    rcpts.sort();
    let together = ["a@e.org", "b@e.org", "full@e.org", "never@e.org"];
    assert_eq!(rcpts, together, "one transaction");
    assert!(
        message.starts_with("Return-Path: <>\r\n")
            && message.ends_with("\r\n\r\n..dot\r\nlast\r\n")
    );
    assert_eq!(
        field(message.as_bytes(), "Delivered-To"),
        None,
        "they do not know of each other"
    );
    let (rcpts, message) = messages.last().unwrap();
    assert_eq!(rcpts, &["c@e.org"]);
    assert!(message.starts_with("Return-Path: <s@example.net>\r\nDelivered-To: c@e.org\r\n"));
    assert_eq!(seen.connections(), 1);
    // RFC 5321 §3.8: a server may close whenever it likes. That costs nobody an attempt.
    client.mail("", &["d@e.org"], b"Subject: bye\n\nx\n");
    assert_eq!(result(&daemon, "d@e.org"), "Ok stat=Delivered");
    client.mail("", &["e@e.org"], b"Subject: x\n\nx\n");
    assert_eq!(result(&daemon, "e@e.org"), "Ok stat=Delivered");
    assert_eq!(seen.connections(), 2);
}

#[test]
fn one_resolver_serves_lmtp_and_relaying() {
    // smtpd(8), -R: hosts and resolv.conf in the instance's root are read in place of the system's.
    let (port, seen) = on_tcp();
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("hosts"), "127.0.0.1 store.example\n").unwrap();
    let daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" lmtp \"store.example:{port}\" rcpt-to virtual $all\n\
         action \"out\" relay host \"lmtp://store.example:{port}\"\n\
         match from any for domain \"in.example\" action \"in\"\n\
         match from any for any action \"out\"\n"
    ))
    .start_in(dir);
    let mut client = daemon.hello();
    client.mail(
        "",
        &["a@in.example", "b@out.example"],
        b"Subject: x\n\nhi\n",
    );
    wait_for("both to arrive", || seen.messages().len() == 2);
    daemon.wait_empty();
}

#[test]
fn a_socket_is_connected_to_as_the_recipient_and_gets_the_users_name() {
    // smtpd.conf(5), lmtp: without rcpt-to the recipient is the user.
    let dir = TempDir::new().unwrap();
    let seen = on_socket(&dir.path().join("lmtp"));
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" lmtp \"$dir/lmtp\" virtual $all\n\
         action \"none\" lmtp \"$dir/nobody-there\" virtual $all\n\
         match from any for domain \"none.org\" action \"none\"\n\
         match from any for any action \"in\"\n",
    )
    .start_in(dir);
    let mut client = daemon.hello();
    for number in 0..20 {
        client.mail(
            "s@example.net",
            &[&format!("u{number}@e.org")],
            b"Subject: x\n\nhi\n",
        );
    }
    daemon.wait_empty();
    assert_eq!(seen.messages().len(), 20);
    assert!(
        seen.connections() < 10,
        "{} connections",
        seen.connections()
    );
    let (rcpts, message) = &seen.messages()[0];
    assert!(!rcpts[0].contains('@'), "{rcpts:?}");
    assert!(
        message.starts_with("Return-Path: <s@example.net>\r\nDelivered-To: u"),
        "{message}"
    );
    client.mail("", &["x@none.org"], b"\nx\n");
    let said = result(&daemon, "x@none.org");
    let expected = "TempFail stat=Error (temporary failure: \"mail.lmtp: connect: ";
    assert!(
        said.starts_with(expected) && said.ends_with("No such file or directory\")"),
        "{said}"
    );
}

#[test]
fn who_may_connect_is_for_the_sockets_mode_to_say() {
    // A socket that only its owner may open takes that user's mail and nobody else's.
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" lmtp \"$dir/alice/lmtp\"\n\
         action \"as\" lmtp \"$dir/alice/lmtp\" user alice\n\
         match from any for domain \"as.example.org\" action \"as\"\n\
         match from any for local action \"in\"\n",
    );
    let Some(daemon) = start_with_users("who_may_connect_is_for_the_sockets_mode_to_say", setup)
    else {
        return;
    };
    let room = daemon.path().join("alice");
    fs::create_dir(&room).unwrap();
    let seen = on_socket(&room.join("lmtp"));
    fs::set_permissions(&room, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&room, Some(54322), Some(54322)).unwrap();
    let mut client = daemon.hello();
    client.mail("", &["alice@mx.example.org"], b"\nx\n");
    client.mail("", &["bob@mx.example.org"], b"\nx\n");
    client.mail("", &["bob@as.example.org"], b"\nx\n");
    assert_eq!(result(&daemon, "alice@mx.example.org"), "Ok stat=Delivered");
    assert_eq!(result(&daemon, "bob@as.example.org"), "Ok stat=Delivered");
    let said = result(&daemon, "bob@mx.example.org");
    assert!(
        said.starts_with("TempFail") && said.ends_with("Permission denied\")"),
        "{said}"
    );
    let mut rcpts: Vec<String> = seen
        .messages()
        .into_iter()
        .flat_map(|(rcpts, _)| rcpts)
        .collect();
    rcpts.sort();
    assert_eq!(rcpts, ["alice", "bob"]);
}

#[test]
fn a_wrapper_wraps_the_program_and_a_destination_may_vary() {
    // smtpd.conf(5), mda wrapper; FORMAT SPECIFIERS.
    let dir = TempDir::new().unwrap();
    let seen = on_socket(&dir.path().join("lmtp-e.org"));
    let daemon = Setup::new(
        "mda wrapper \"note\" \"echo wrapped >>$dir/note; exec %{mda}\"\n\
         listen on 127.0.0.1 port $port\n\
         action \"wrapped\" lmtp \"$dir/lmtp-e.org\" rcpt-to wrapper \"note\" virtual $all\n\
         action \"varies\" lmtp \"$dir/lmtp-%{rcpt.domain}\" rcpt-to virtual $all\n\
         match from any for rcpt-to \"w@e.org\" action \"wrapped\"\n\
         match from any for any action \"varies\"\n",
    )
    .start_in(dir);
    let mut client = daemon.hello();
    client.mail("s@example.net", &["w@e.org"], b"Subject: w\n\nx\n");
    client.mail("", &["v@e.org"], b"Subject: v\n\nx\n");
    client.mail("", &["never@e.org"], b"Subject: n\n\nx\n");
    assert_eq!(result(&daemon, "w@e.org"), "Ok stat=Delivered");
    assert_eq!(result(&daemon, "v@e.org"), "Ok stat=Delivered");
    assert_eq!(
        result(&daemon, "never@e.org"),
        "PermFail stat=Error (service unavailable: \"mail.lmtp: LMTP server error: 550 5.2.1 \
         mailbox is disabled\")"
    );
    let note = fs::read_to_string(daemon.path().join("note")).unwrap();
    assert_eq!(note, "wrapped\n");
    assert_eq!(seen.connections(), 3);
}

#[test]
fn a_server_that_is_not_there_or_not_lmtp_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let odd = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"554 5.7.1 not for you\r\n");
        }
    });
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         action \"gone\" lmtp \"127.0.0.1:{gone}\" virtual $all\n\
         action \"odd\" lmtp \"localhost:{odd}\" virtual $all\n\
         match from any for rcpt-to \"gone@e.org\" action \"gone\"\n\
         match from any for any action \"odd\"\n"
    ))
    .start();
    daemon
        .hello()
        .mail("", &["gone@e.org", "odd@e.org"], b"\nx\n");
    assert_eq!(
        result(&daemon, "gone@e.org"),
        "TempFail stat=Error (temporary failure: \"connect: IO Error: Connection refused\")"
    );
    let said = result(&daemon, "odd@e.org");
    let by = "TempFail stat=Error (temporary failure: \"";
    let all = [
        "LMTP server error: BANNER rejected: 554 5.7.1 not for you\")",
        "connect: IO Error: Connection refused\")",
    ];
    assert!(all.iter().any(|end| said == format!("{by}{end}")), "{said}");
    assert_eq!(daemon.queue().len(), 2);
}

/// A Dovecot of the test's own, with LMTP on a socket and a quota for one user.
struct Dovecot {
    daemon: Child,
}

impl Dovecot {
    fn start(dir: &Path) -> Dovecot {
        let home = dir.join("dovecot");
        fs::create_dir_all(home.join("mail")).unwrap();
        chown(home.join("mail"), Some(65534), Some(65534)).unwrap();
        let home_text = home.display();
        fs::write(
            home.join("users"),
            "alice:{PLAIN}x::::::\nbob:{PLAIN}x::::::\nfull:{PLAIN}x::::::userdb_quota_rule=*:bytes=1\n",
        )
        .unwrap();
        let config = format!(
            "base_dir = {home_text}/run\nstate_dir = {home_text}/run\nlog_path = {home_text}/log\n\
             protocols = lmtp\nlisten = 127.0.0.1\nssl = no\n\
             default_internal_user = nobody\ndefault_internal_group = nogroup\n\
             default_login_user = nobody\nmail_uid = 65534\nmail_gid = 65534\nfirst_valid_uid = 1\n\
             mail_location = maildir:{home_text}/mail/%n\nmail_home = {home_text}/mail/%n\n\
             auth_username_format = %n\nmail_plugins = quota\n\
             plugin {{\n quota = maildir:User quota\n quota_rule = *:storage=1G\n}}\n\
             passdb {{\n driver = passwd-file\n args = {home_text}/users\n}}\n\
             userdb {{\n driver = passwd-file\n args = {home_text}/users\n}}\n\
             service lmtp {{\n unix_listener {home_text}/lmtp {{\n  mode = 0666\n }}\n}}\n\
             service anvil {{\n chroot =\n}}\n"
        );
        fs::write(home.join("dovecot.conf"), config).unwrap();
        let daemon = Command::new("dovecot")
            .arg("-F")
            .arg("-c")
            .arg(home.join("dovecot.conf"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let dovecot = Dovecot { daemon };
        wait_for("Dovecot to listen", || home.join("lmtp").exists());
        dovecot
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let mut term = Command::new("kill");
        term.arg(self.daemon.id().to_string());
        run(term, b"");
        let _ = self.daemon.wait();
    }
}

#[test]
fn dovecot_receives_for_several_users_and_refuses_one() {
    let test = "dovecot_receives_for_several_users_and_refuses_one";
    if !root_only(test) {
        return;
    }
    let lmtpd = ["/usr/lib/dovecot/lmtp", "/usr/local/libexec/dovecot/lmtp"];
    if !lmtpd.iter().any(|path| Path::new(path).exists()) {
        return not_run(test, "needs dovecot-lmtpd");
    }
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _dovecot = Dovecot::start(dir.path());
    let socket = dir.path().join("dovecot/lmtp");
    let mail = dir.path().join("dovecot/mail");
    let daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" lmtp \"{}\" rcpt-to virtual $all\n\
         match from any for any action \"in\"\n",
        socket.display()
    ))
    .start();
    let rcpts = [
        "alice@e.org",
        "full@e.org",
        "nobody-here@e.org",
        "bob@e.org",
    ];
    let message = b"Subject: to several\n\n.hello\n";
    daemon.hello().mail("", &rcpts, message);
    let log = || fs::read_to_string(dir.path().join("dovecot/log")).unwrap_or_default();
    for rcpt in ["alice@e.org", "bob@e.org"] {
        assert_eq!(result(&daemon, rcpt), "Ok stat=Delivered", "{}", log());
    }
    let full = result(&daemon, "full@e.org");
    assert!(
        full.starts_with("PermFail") && full.contains("552 5.2.2 "),
        "{full}\n{}",
        log()
    );
    let unknown = result(&daemon, "nobody-here@e.org");
    assert!(
        unknown.starts_with("PermFail") && unknown.contains("550 5.1.1 "),
        "{unknown}"
    );
    for user in ["alice", "bob"] {
        let new = files(&mail.join(user).join("new"));
        assert_eq!(new.len(), 1, "{user}");
        let text = fs::read_to_string(&new[0]).unwrap();
        assert!(
            text.contains("Subject: to several\n") && text.ends_with("\n\n.hello\n"),
            "{text}"
        );
    }
    daemon.wait_empty();
}
