//! README: a fresh clone, an ordinary user, and mail arrives.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::{Setup, body, field, give, root_only};

fn numbered(lines: usize) -> Vec<u8> {
    (0..lines)
        .flat_map(|n| format!("line {n}\n").into_bytes())
        .collect()
}

/// Everything that the README tells a newcomer to do, with a daemon that has no configuration.
fn try_it(setup: Setup) {
    let daemon = setup.start();
    let port = daemon.port;
    daemon.wait_log(&format!("swaks --server 127.0.0.1:{port} --to "));
    daemon.wait_log("SMTPD_ROOT=");
    daemon.wait_log(&format!("{}/Maildir/new", daemon.path().display()));
    let rcpts = ["anybody@localhost", "anybody", "root@example.org", "a+b@vm"];
    let mut client = daemon.hello();
    for rcpt in rcpts {
        client.mail("me@example.net", &[rcpt], b"Subject: smtp\n\nHi.\n");
    }
    let done = daemon.sendmail(["-t"], b"To: somebody, else@localhost\n\nHi.\n");
    assert!(done.status.success(), "{done:?}");
    let done = daemon.sendmail(["anybody"], b"Subject: x\n\nHi.\n");
    assert!(done.status.success(), "{done:?}");
    // One copy of each message: all of it goes to one mailbox.
    let found = daemon.wait_mail_in("Maildir", rcpts.len() + 2);
    assert!(found.iter().all(|mail| body(mail) == b"Hi.\n"));
    daemon.wait_empty();
    let maildir = fs::metadata(daemon.path().join("Maildir")).unwrap();
    assert_eq!(maildir.mode() & 0o777, 0o700);
    assert_ne!(maildir.uid(), 0);
}

#[test]
fn an_instance_without_configuration_keeps_everybodys_mail() {
    // smtpd(8), -R: without a smtpd.conf all mail submitted on this machine lands in Maildir.
    try_it(Setup::built_in());
}

#[test]
fn root_may_try_it_too() {
    // smtpd(8), -R: started by root, the mail belongs to nobody, since root gets none.
    if root_only("root_may_try_it_too") {
        try_it(Setup::built_in().with_root());
    }
}

#[test]
fn a_root_that_the_engine_cannot_reach_is_named() {
    // smtpd(8), processes: the engine is no root, and has to reach the spool.
    if !root_only("a_root_that_the_engine_cannot_reach_is_named") {
        return;
    }
    let mut daemon = Setup::built_in().with_root().prepare();
    fs::set_permissions(daemon.path(), fs::Permissions::from_mode(0o700)).unwrap();
    daemon.spawn();
    assert_eq!(daemon.wait_end().code(), Some(1));
    let log = daemon.log();
    assert!(log.contains("has to reach it; -R chooses"), "{log}");
    assert!(!log.contains("swaks"), "{log}");
}

#[test]
fn the_instance_of_a_user_stays_that_users() {
    // README: make run as root after an ordinary user leaves that user's tree alone.
    if !root_only("the_instance_of_a_user_stays_that_users") {
        return;
    }
    let mut daemon = Setup::built_in().with_root().prepare();
    let spool = daemon.path().join("spool");
    fs::create_dir(&spool).unwrap();
    give(&spool, 65534);
    daemon.spawn();
    assert_eq!(daemon.wait_end().code(), Some(1));
    let log = daemon.log();
    assert!(
        log.contains("/spool belongs to nobody: start smtpd as that user"),
        "{log}"
    );
    assert_eq!(fs::metadata(&spool).unwrap().uid(), 65534);
}

#[test]
fn signals_that_mean_nothing_end_no_process() {
    // smtpd(8), SIGNALS.
    let daemon = Setup::maildir().start();
    let engine = daemon.engine_pid();
    for name in ["USR1", "USR2", "ALRM", "PIPE"] {
        for pid in [daemon.pid(), engine] {
            daemon.signal(pid, name);
        }
    }
    daemon
        .hello()
        .mail("a@example.net", &["bob@example.org"], b"\nHi.\n");
    daemon.wait_mail(1);
    assert_eq!(daemon.engine_pid(), engine);
}

#[test]
fn a_message_arrives_in_the_maildir_with_its_trace() {
    // RFC 5321 §4.4: Received and Return-Path are put in front, Delivered-To between them.
    let daemon = Setup::maildir().start();
    let id = daemon.hello().mail(
        "alice@example.net",
        &["bob@example.org"],
        b"Subject: hello\nFrom: alice@example.net\n\nHi Bob.\n",
    );
    let mail = daemon.wait_mail(1).remove(0);
    let text = String::from_utf8(mail.clone()).unwrap();
    assert_eq!(body(&mail), b"Hi Bob.\n");
    assert_eq!(field(&mail, "Return-Path").unwrap(), "<alice@example.net>");
    assert_eq!(field(&mail, "Delivered-To").unwrap(), "bob@example.org");
    assert_eq!(field(&mail, "Subject").unwrap(), "hello");
    assert!(
        text.contains("Received: from client.example.net ("),
        "{text}"
    );
    assert!(
        text.contains(&format!("with ESMTP id {id}\n\tfor <bob@example.org>;\n")),
        "{text}"
    );
    daemon.wait_empty();
    daemon.wait_log(&format!("smtp message msgid={id} size="));
    daemon.wait_log("result=Ok stat=Delivered");
    daemon.wait_log("smtp disconnected reason=disconnect");
    assert!(!daemon.log().contains("warn:"), "{}", daemon.log());
}

#[test]
fn bodies_arrive_byte_for_byte() {
    // RFC 6152 §3, RFC 5321 §4.5.2: 8-bit, leading dots, long lines, nothing at all, and a lot.
    let daemon = Setup::maildir().start();
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\n".to_vec(),
        b".\n..\n...\n.dot at the start\n".to_vec(),
        (0..=255u8)
            .filter(|b| ![b'\n', b'\r', 0].contains(b))
            .chain(*b"\n")
            .collect(),
        [vec![b'x'; 998], b"\n".to_vec()].concat(),
        b"From the start\n>From quoted\nFrom  again\n".to_vec(),
        numbered(2_500_000),
    ];
    let mut client = daemon.hello();
    for (n, text) in bodies.iter().enumerate() {
        let message = [format!("X-Number: {n}\n\n").into_bytes(), text.clone()].concat();
        client.mail("alice@example.net", &["bob@example.org"], &message);
    }
    let found = daemon.wait_mail(bodies.len());
    for mail in found {
        let n: usize = field(&mail, "X-Number").unwrap().parse().unwrap();
        assert!(
            body(&mail) == bodies[n],
            "body {n}: {:?}",
            String::from_utf8_lossy(&mail)
        );
    }
}

#[test]
fn several_recipients_share_one_body_and_get_a_copy_each() {
    // spool-layout.md, Directories: one body, and an envelope for each destination.
    let daemon = Setup::maildirs().start();
    let users: Vec<String> = (0..20).map(|n| format!("user{n}")).collect();
    let rcpts: Vec<String> = users.iter().map(|u| format!("{u}@example.org")).collect();
    let rcpts: Vec<&str> = rcpts.iter().map(String::as_str).collect();
    daemon
        .hello()
        .mail("a@example.net", &rcpts, b"Subject: x\n\nall of you\n");
    for (user, rcpt) in users.iter().zip(rcpts) {
        let found = daemon.wait_mail_in(user, 1);
        assert_eq!(field(&found[0], "Delivered-To").unwrap(), rcpt);
    }
    daemon.wait_empty();
    let left = daemon.spooled();
    assert!(left.is_empty(), "{left:?}");
}
