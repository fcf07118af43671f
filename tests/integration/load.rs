//! Much at once: everything arrives, once, and nothing is left behind.

use std::collections::BTreeMap;

use crate::support::{Instance, Setup, field, files};

/// Sends `count` numbered messages from each of `clients` threads.
fn send(daemon: &Instance, clients: usize, count: usize, name: &str, sessions: Sessions) {
    std::thread::scope(|scope| {
        for client in 0..clients {
            scope.spawn(move || {
                let mut kept = daemon.hello();
                for number in 0..count {
                    if sessions == Sessions::New && number > 0 {
                        kept.say("QUIT", 221);
                        kept = daemon.hello();
                    }
                    let message = format!(
                        "X-Name: {name}-{client}-{number}\n\n{}",
                        "text of a line\n".repeat(number % 300)
                    );
                    kept.mail("a@example.net", &["b@example.org"], message.as_bytes());
                }
                kept.say("QUIT", 221);
            });
        }
    });
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sessions {
    Kept,
    New,
}

#[test]
fn each_message_of_many_sessions_is_delivered_exactly_once() {
    // RFC 5321 §4.2.5: 250 is a promise, for many sessions and many messages at a time.
    let daemon = Setup::maildir().start();
    send(&daemon, 20, 50, "kept", Sessions::Kept);
    send(&daemon, 10, 30, "new", Sessions::New);
    daemon.wait_empty();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for mail in daemon.maildir("mail") {
        let name = field(&mail, "X-Name").expect("a name");
        *found.entry(name).or_default() += 1;
    }
    assert_eq!(found.len(), 1300);
    let more: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
    assert!(more.is_empty(), "delivered twice: {more:?}");
    assert!(!daemon.log().contains("warn:"), "{}", daemon.log());
    assert!(daemon.spooled().is_empty(), "{:?}", daemon.spooled());
}

#[test]
fn messages_that_end_at_the_same_time_are_committed_together() {
    // spool-layout.md, Bags: one file, and its syncs, for all that wait.
    let daemon = Setup::maildir().arg("-Pmda").start();
    let mut clients: Vec<_> = (0..50).map(|_| daemon.hello()).collect();
    for client in &mut clients {
        client.say("MAIL FROM:<a@example.net>", 250);
        client.say("RCPT TO:<b@example.org>", 250);
        client.say("DATA", 354);
        client.send(b"Subject: x\r\n\r\nx\r\n");
    }
    for client in &mut clients {
        client.send(b".\r\n");
    }
    for client in &mut clients {
        assert!(client.reply().starts_with("250 "));
    }
    let shared = files(&daemon.path().join("spool/bags")).len();
    assert!((1..50).contains(&shared), "{shared} files for 50 messages");
    assert_eq!(daemon.queue().len(), 50);
}

#[test]
fn a_session_that_says_little_holds_nobody_up() {
    // RFC 5321 §4.5.3.2.7: a client may take its minutes. No worker waits for it.
    let daemon = Setup::maildir().start();
    let mut slow: Vec<_> = (0..100).map(|_| daemon.hello()).collect();
    for client in &mut slow {
        client.send(b"MAIL FROM:<slow@example.net>\r\nRCPT TO:<b@exam");
    }
    for n in 0..50 {
        let message = format!("X-Name: {n}\n\n");
        daemon
            .hello()
            .mail("a@example.net", &["b@example.org"], message.as_bytes());
    }
    daemon.wait_mail(50);
    for client in &mut slow {
        client.send(b"ple.org>\r\n");
        assert!(client.reply().starts_with("250 "));
        assert!(client.reply().starts_with("250 "));
    }
}
