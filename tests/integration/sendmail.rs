//! sendmail(8): submission by local programs.

use crate::support::{Setup, body, field, files};

#[test]
fn recipients_come_from_arguments_and_header() {
    // sendmail(8), -t: To, Cc and Bcc name recipients; Bcc is not sent on.
    let daemon = Setup::maildirs().start();
    let message = b"From: Alice <alice@example.net>\nTo: b1@example.org\nCc: b2@example.org\n\
                    Bcc: b3@example.org\nSubject: to all\n\n.\n..two\n8-bit \xe4\xff\n";
    let output = daemon.sendmail(["-t", "-f", "alice@example.net"], message);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for name in ["b1", "b2", "b3"] {
        let mail = daemon.wait_mail_in(name, 1).remove(0);
        let to = format!("{name}@example.org");
        assert_eq!(field(&mail, "Delivered-To").unwrap(), to);
        assert_eq!(body(&mail), b".\n..two\n8-bit \xe4\xff\n");
        assert_eq!(field(&mail, "Bcc"), None);
        assert_eq!(field(&mail, "Return-Path").unwrap(), "<alice@example.net>");
        assert!(field(&mail, "Date").is_some() && field(&mail, "Message-ID").is_some());
        assert!(String::from_utf8_lossy(&mail).contains("with ESMTPA id "));
    }
}

#[test]
fn unqualified_names_get_the_server_name() {
    let daemon = Setup::maildir().start();
    assert_eq!(
        daemon
            .sendmail(["-f", "alice", "bob"], b"To: bob\n\nx\n")
            .status
            .code(),
        Some(0)
    );
    let mail = daemon.wait_mail(1).remove(0);
    assert_eq!(field(&mail, "Delivered-To").unwrap(), "bob@mx.example.org");
    assert_eq!(field(&mail, "To").unwrap(), "bob@mx.example.org");
    assert_eq!(
        field(&mail, "Return-Path").unwrap(),
        "<alice@mx.example.org>"
    );
}

#[test]
fn a_message_waits_while_the_daemon_is_down() {
    // sendmail(8): without a daemon the message is stored and picked up at its start.
    let mut daemon = Setup::maildirs().start();
    daemon.stop();
    let message = b"To: b1@example.org\nBcc: b2@example.org\nSubject: later\n\nlater\n";
    let output = daemon.sendmail(["-t", "-f", "<alice@example.net>"], message);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(files(&daemon.path().join("spool/offline")).len(), 1);
    daemon.start();
    for name in ["b1", "b2"] {
        let mail = daemon.wait_mail_in(name, 1).remove(0);
        assert!(body(&mail) == b"later\n" && field(&mail, "Bcc").is_none());
    }
    crate::support::wait_for("the offline file to go", || {
        files(&daemon.path().join("spool/offline")).is_empty()
    });
}

#[test]
fn stored_recipients_are_judged_one_by_one_and_the_writer_hears_of_those_refused() {
    // sendmail(8), When the daemon cannot take it.
    let mut daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for domain \"example.org\" action \"in\"\n",
    )
    .start();
    daemon.stop();
    let line = [
        "-f",
        "alice@example.org",
        "x@elsewhere.example",
        "b@example.org",
    ];
    let output = daemon.sendmail(line, b"Subject: x\n\nmine\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    daemon.start();
    let mut found = daemon.wait_mail(2);
    found.sort_by_key(|mail| field(mail, "Delivered-To"));
    assert_eq!(field(&found[1], "Delivered-To").unwrap(), "b@example.org");
    assert_eq!(body(&found[1]), b"mine\n");
    let report = String::from_utf8_lossy(&found[0]).into_owned();
    for part in [
        "Delivered-To: alice@example.org\n",
        "x@elsewhere.example: 550 Invalid recipient: <x@elsewhere.example>\n",
        "Final-Recipient: rfc822; x@elsewhere.example\n",
        "Content-Type: message/rfc822\n",
        "\nmine\n",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(!report.contains("b@example.org"), "{report}");
    daemon
        .wait_log("550 Invalid recipient: <x@elsewhere.example>; reported to <alice@example.org>");
    crate::support::wait_for("the offline file to go", || {
        files(&daemon.path().join("spool/offline")).is_empty()
    });
}

#[test]
fn a_burst_of_one_user_loses_nothing() {
    // sendmail(8), When the daemon cannot take it: what is too much now comes in later.
    const BURST: usize = 200;
    let daemon = Setup::maildir().start();
    let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..BURST)
            .map(|n| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let message = format!("Subject: {n}\n\nx\n");
                    let output = daemon.sendmail(["b@example.org"], message.as_bytes());
                    output.status.code()
                })
            })
            .collect();
        senders.into_iter().map(|s| s.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|code| *code == Some(0)), "{codes:?}");
    let found = daemon.wait_mail(BURST);
    let subjects: std::collections::BTreeSet<_> = found
        .iter()
        .filter_map(|mail| field(mail, "Subject"))
        .collect();
    assert_eq!(subjects.len(), BURST);
}

#[test]
fn what_is_refused_is_kept_for_its_author() {
    // sendmail(8): a refused message goes to dead.letter, exit 70; 75 where there is no home for it.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for domain \"example.org\" action \"in\"\n",
    )
    .start();
    let output = daemon.sendmail(["nobody@elsewhere.example"], b"Subject: x\n\nmine\n");
    assert!(matches!(output.status.code(), Some(70 | 75)), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("command failed: 550 Invalid recipient"),
        "{said}"
    );
    assert!(daemon.spooled().is_empty());
}

#[test]
fn queue_runs_and_listings_have_their_old_names() {
    // sendmail -q flushes through the daemon; mailq lists.
    let daemon = Setup::maildir().arg("-Pmda").start();
    assert_eq!(
        daemon.sendmail(["b@example.org"], b"\nx\n").status.code(),
        Some(0)
    );
    let mailq = daemon.front_end("mailq", [""; 0], b"");
    assert_eq!(String::from_utf8_lossy(&mailq.stdout).lines().count(), 1);
    assert_eq!(daemon.sendmail(["-q"], b"").status.code(), Some(0));
}
