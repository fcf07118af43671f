//! What runs out, and what then is said: 4xx, a line in the log, and service again afterwards.

use std::process::Command;

use crate::support::{Client, Instance, Setup, not_run, root_only, wait_for};

/// A small file system of our own below the instance root; unmounted when dropped.
pub(crate) struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    pub(crate) fn mount(path: &std::path::Path, options: &str) -> Option<Tmpfs> {
        std::fs::create_dir_all(path).ok()?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .stderr(std::process::Stdio::null())
            .status();
        status
            .is_ok_and(|s| s.success())
            .then(|| Tmpfs(path.to_path_buf()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_a_client_does_without_end_is_summed_up_in_the_log() {
    // smtpd(8): of failed commands and rejections a session has 100 lines in the log each.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"in\" maildir \"$dir/mail\"\n\
         match from any for domain \"example.org\" action \"in\"\n",
    )
    .start();
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@example.net>", 250);
    let rcpts = "RCPT TO:<bob@elsewhere.example>\r\n".repeat(130);
    client.send(rcpts.as_bytes());
    for _ in 0..130 {
        assert!(client.reply().starts_with("550 "));
    }
    client.say("QUIT", 221);
    daemon.wait_log(" smtp summed-up failed-command=30 reject=30 address=127.0.0.1\n");
    let log = daemon.log();
    assert_eq!(
        log.matches(" smtp failed-command command=\"RCPT").count(),
        100
    );
    assert_eq!(log.matches(" smtp reject ").count(), 100);
}

#[test]
fn a_full_spool_is_said_and_recovered_from() {
    // spool-layout.md, Room: the client hears 452, the log says why, and no restart is needed.
    const NAME: &str = "a_full_spool_is_said_and_recovered_from";
    if !cfg!(target_os = "linux") || !root_only(NAME) {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    let Some(_tmpfs) = Tmpfs::mount(&spool, "size=64m,mode=755") else {
        not_run(NAME, "needs to mount a tmpfs");
        return;
    };
    let daemon = Setup::maildir().start_in(dir);
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@example.org"], b"\nbefore\n");
    daemon.wait_mail(1);
    daemon.wait_settled();
    let filler = spool.join("filler");
    std::fs::create_dir(&filler).unwrap();
    use_up_bytes(&filler);
    let reply = client
        .try_mail("a@example.net", &["b@example.org"], b"\nfull\n")
        .unwrap();
    assert!(reply.starts_with('4'), "{reply}");
    daemon.wait_log("warn: not enough disk space");
    std::fs::remove_dir_all(&filler).unwrap();
    wait_for("space to be noticed", || {
        let Some(mut client) = Client::try_hello(daemon.port) else {
            return false;
        };
        client
            .try_mail("a@example.net", &["b@example.org"], b"\nafter\n")
            .is_some_and(|reply| reply.starts_with("250"))
    });
    daemon.wait_mail(2);
}

pub(crate) fn use_up_bytes(dir: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(dir.join("file")).unwrap();
    while file.write_all(&[0; 65536]).is_ok() {}
    while file.write_all(&[0; 512]).is_ok() {}
}

pub(crate) fn use_up_inodes(dir: &std::path::Path) {
    let mut made = 0;
    while std::fs::File::create(dir.join(made.to_string())).is_ok() {
        made += 1;
    }
}

#[test]
fn inodes_that_run_out_are_said_and_recovered_from() {
    const NAME: &str = "inodes_that_run_out_are_said_and_recovered_from";
    if !cfg!(target_os = "linux") || !root_only(NAME) {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    let Some(_tmpfs) = Tmpfs::mount(&spool, "size=256m,nr_inodes=4000,mode=755") else {
        not_run(NAME, "needs to mount a tmpfs");
        return;
    };
    let daemon = Setup::maildir().start_in(dir);
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nbefore\n");
    daemon.wait_mail(1);
    daemon.wait_settled();
    let filler = spool.join("filler");
    std::fs::create_dir(&filler).unwrap();
    use_up_inodes(&filler);
    let reply = daemon
        .hello()
        .try_mail("a@example.net", &["b@example.org"], b"\nfull\n")
        .unwrap();
    assert!(reply.starts_with('4'), "{reply}");
    daemon.wait_log("warn: not enough inodes");
    std::fs::remove_dir_all(&filler).unwrap();
    wait_for("inodes to be noticed", || {
        Client::try_hello(daemon.port)
            .and_then(|mut c| c.try_mail("a@example.net", &["b@example.org"], b"\nafter\n"))
            .is_some_and(|reply| reply.starts_with("250"))
    });
    daemon.wait_mail(2);
}

#[test]
fn descriptors_that_run_out_are_said_and_recovered_from() {
    // accept(2), EMFILE: listeners rest while there are no descriptors, and come back.
    let daemon = Setup::maildir().limit_descriptors(128).start();
    let mut held = Vec::new();
    for _ in 0..200 {
        let Ok(stream) = std::net::TcpStream::connect(("127.0.0.1", daemon.port)) else {
            break;
        };
        held.push(stream);
    }
    daemon.wait_log("warn: Disabling incoming SMTP connections");
    held.clear();
    wait_for("the listener to be back", || {
        Client::try_hello(daemon.port)
            .and_then(|mut c| c.try_mail("a@example.net", &["b@example.org"], b"\nafter\n"))
            .is_some_and(|reply| reply.starts_with("250"))
    });
    daemon.wait_mail(1);
    daemon.wait_log("fd exhaustion over, re-enabling incoming connections");
}

/// Mails until one is taken.
fn mail_again(daemon: &Instance) {
    wait_for("mail to be taken again", || {
        Client::try_hello(daemon.port)
            .and_then(|mut c| c.try_mail("a@example.net", &["b@example.org"], b"\nafter\n"))
            .is_some_and(|reply| reply.starts_with("250"))
    });
}

#[test]
fn a_message_that_finds_no_descriptor_is_put_off_and_the_log_says_why() {
    // A shortage is 452, said once, and over without a restart.
    const NAME: &str = "a_message_that_finds_no_descriptor_is_put_off_and_the_log_says_why";
    let daemon = Setup::maildir().start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@example.org"], b"\nbefore\n");
    daemon.wait_mail(1);
    daemon.wait_empty();
    let mut ready: Vec<_> = (0..3).map(|_| daemon.hello()).collect();
    for client in &mut ready {
        client.say("MAIL FROM:<a@example.net>", 250);
        client.say("RCPT TO:<b@example.org>", 250);
    }
    // Those that are idle go after a while, and would leave room.
    wait_for("deliveries to end", || daemon.delivery_pids().is_empty());
    if !daemon.limit_to_open(NAME, daemon.engine_pid()) {
        return;
    }
    let mut fillers = Vec::new();
    wait_for("descriptors to be used up", || {
        fillers.extend(std::net::TcpStream::connect(("127.0.0.1", daemon.port)));
        daemon.log().contains("warn: Disabling incoming SMTP")
    });
    let said = daemon.log().matches("Too many open files").count();
    for client in &mut ready {
        client.say("DATA", 354);
        client.send(b"\r\nshort\r\n.\r\n");
        let reply = client.reply();
        assert!(reply.starts_with("452 4.3.1 "), "{reply}");
    }
    wait_for("one line for all three", || {
        daemon.log().matches("Too many open files").count() == said + 1
    });
    // Nothing of the recipient can be looked up either.
    client.say("MAIL FROM:<a@example.net>", 250);
    client.say("RCPT TO:<b@example.org>", 451);
    client.say("RSET", 250);
    assert!(daemon.limit(NAME, daemon.engine_pid(), "--nofile=1024:"));
    client.mail("a@example.net", &["b@example.org"], b"\nafter\n");
    daemon.wait_mail(2);
}

#[test]
fn a_delivery_that_finds_no_descriptor_is_tried_again() {
    const NAME: &str = "a_delivery_that_finds_no_descriptor_is_tried_again";
    let daemon = Setup::maildir().start();
    let engine = daemon.engine_pid();
    // The recipient's .forward has been asked for when the descriptors go.
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@example.net>", 250);
    client.say("RCPT TO:<b@example.org>", 250);
    if !daemon.limit_to_open(NAME, daemon.pid()) {
        return;
    }
    client.say("DATA", 354);
    client.send(b"\r\nx\r\n.\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("250 "), "{reply}");
    daemon.wait_log("Too many open files)");
    daemon.wait_log("result=TempFail");
    assert!(daemon.limit(NAME, daemon.pid(), "--nofile=1024:"));
    wait_for("the delivery", || {
        daemon.ctl(["schedule", "all"]).status.success() && daemon.queue().is_empty()
    });
    daemon.wait_mail(1);
    assert_eq!(daemon.engine_pid(), engine, "{}", daemon.log());
}

#[test]
fn a_forward_file_that_finds_no_descriptor_puts_the_recipient_off() {
    // forward(5): a file that cannot be opened for now is 424; it may send the mail elsewhere.
    const NAME: &str = "a_forward_file_that_finds_no_descriptor_puts_the_recipient_off";
    let daemon = Setup::maildir().start();
    let engine = daemon.engine_pid();
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@example.net>", 250);
    if !daemon.limit_to_open(NAME, daemon.pid()) {
        return;
    }
    client.say("RCPT TO:<b@example.org>", 424);
    daemon.wait_log("Too many open files");
    assert!(daemon.limit(NAME, daemon.pid(), "--nofile=1024:"));
    client.say("RCPT TO:<b@example.org>", 250);
    client.say("RSET", 250);
    assert_eq!(daemon.engine_pid(), engine, "{}", daemon.log());
}

#[test]
fn a_parent_that_cannot_fork_delivers_later() {
    // A process that cannot be started is a temporary failure.
    const NAME: &str = "a_parent_that_cannot_fork_delivers_later";
    let daemon = Setup::maildir().start();
    let engine = daemon.engine_pid();
    if !daemon.limit(NAME, daemon.pid(), "--nproc=1:") {
        return;
    }
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.wait_log("Resource temporarily unavailable");
    daemon.wait_log("result=TempFail");
    assert!(daemon.limit(NAME, daemon.pid(), "--nproc=4096:"));
    wait_for("the delivery", || {
        daemon.ctl(["schedule", "all"]).status.success() && daemon.queue().is_empty()
    });
    daemon.wait_mail(1);
    assert_eq!(daemon.engine_pid(), engine, "{}", daemon.log());
}

#[test]
fn few_descriptors_are_enough_for_everything_in_the_end() {
    // Every bound that is met is answered 4xx or waited for.
    let daemon = Setup::maildir().limit_descriptors(64).start();
    let accepted = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..30)
            .map(|_| scope.spawn(|| until_taken(&daemon, 10)))
            .collect();
        clients.into_iter().map(|c| c.join().unwrap()).sum()
    });
    wait_for("the queue to be empty", || {
        daemon.ctl(["schedule", "all"]).status.success() && daemon.queue().is_empty()
    });
    daemon.wait_mail(accepted);
    mail_again(&daemon);
}

/// Sends so many messages, each again while it is put off.
fn until_taken(daemon: &Instance, count: usize) -> usize {
    let mut taken = 0;
    wait_for("messages to be taken", || {
        let Some(mut client) = Client::try_hello(daemon.port) else {
            return false;
        };
        while taken < count {
            match client.try_mail("a@example.net", &["b@example.org"], b"\nx\n") {
                Some(reply) if reply.starts_with("250") => taken += 1,
                Some(reply) => {
                    assert!(reply.starts_with('4'), "{reply}");
                    return false;
                }
                None => return false,
            }
        }
        true
    });
    taken
}

#[test]
fn recipients_and_messages_of_a_session_are_limited() {
    // smtpd.conf(5), smtp limit: max-rcpt and max-mails.
    let daemon = Setup::new(
        "smtp limit max-rcpt 3 max-mails 2\nlisten on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\nmatch from any for any action \"in\"\n",
    )
    .start();
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@example.net>", 250);
    for n in 0..3 {
        client.say(&format!("RCPT TO:<u{n}@example.org>"), 250);
    }
    client.say("RCPT TO:<u4@example.org>", 451);
    client.say("RSET", 250);
    for _ in 0..2 {
        client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    }
    client.say("MAIL FROM:<a@example.net>", 452);
}
