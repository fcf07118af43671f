//! What runs out, and what then is said: 4xx, a line in the log, and service again afterwards.

use std::process::Command;

use crate::support::{Client, Setup, is_root, root_only};

/// A small file system of our own below the instance root; unmounted when dropped.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(path: &std::path::Path, options: &str) -> Option<Tmpfs> {
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
fn a_full_spool_is_said_and_recovered_from() {
    // spool-layout.md, Room: the client hears 452, the log says why, and no restart is needed.
    const NAME: &str = "a_full_spool_is_said_and_recovered_from";
    if !cfg!(target_os = "linux") || !root_only(NAME) {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    let Some(_tmpfs) = Tmpfs::mount(&spool, "size=64m,mode=755") else {
        eprintln!("NOT RUN: {NAME}: needs to mount a tmpfs");
        return;
    };
    let daemon = Setup::maildir().start_in(dir);
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@example.org"], b"\nbefore\n");
    daemon.wait_mail(1);
    let filler = spool.join("filler");
    fill(&filler);
    let reply = client
        .try_mail("a@example.net", &["b@example.org"], b"\nfull\n")
        .unwrap();
    assert!(reply.starts_with('4'), "{reply}");
    daemon.wait_log("warn: not enough disk space");
    std::fs::remove_file(&filler).unwrap();
    crate::support::wait_for("space to be noticed", || {
        let Some(mut client) = Client::try_hello(daemon.port) else {
            return false;
        };
        client
            .try_mail("a@example.net", &["b@example.org"], b"\nafter\n")
            .is_some_and(|reply| reply.starts_with("250"))
    });
    daemon.wait_mail(2);
}

fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[0; 65536]).is_ok() {}
    while file.write_all(&[0; 512]).is_ok() {}
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
        eprintln!("NOT RUN: {NAME}: needs to mount a tmpfs");
        return;
    };
    let daemon = Setup::maildir().start_in(dir);
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nbefore\n");
    let filler = spool.join("filler");
    std::fs::create_dir(&filler).unwrap();
    let mut made = 0;
    while std::fs::File::create(filler.join(made.to_string())).is_ok() {
        made += 1;
    }
    let reply = daemon
        .hello()
        .try_mail("a@example.net", &["b@example.org"], b"\nfull\n")
        .unwrap();
    assert!(reply.starts_with('4'), "{reply}");
    daemon.wait_log("warn: not enough inodes");
    std::fs::remove_dir_all(&filler).unwrap();
    crate::support::wait_for("inodes to be noticed", || {
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
    crate::support::wait_for("the listener to be back", || {
        Client::try_hello(daemon.port)
            .and_then(|mut c| c.try_mail("a@example.net", &["b@example.org"], b"\nafter\n"))
            .is_some_and(|reply| reply.starts_with("250"))
    });
    daemon.wait_mail(1);
    daemon.wait_log("fd exhaustion over, re-enabling incoming connections");
    let _ = is_root();
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
