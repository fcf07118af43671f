//! smtpd.conf(5), listen on; the receiving side over real sockets.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::submission;
use crate::support::tls_client::TlsClient;
use crate::support::{Client, Setup, run};

#[test]
fn a_session_that_idles_disturbs_nobody() {
    // RFC 5321 §4.5.3.2.7: a client may take its minutes. Those who do cost memory, not threads.
    let daemon = Setup::maildir().start();
    let idle: Vec<Client> = (0..300).map(|_| daemon.hello()).collect();
    let mut slow: Vec<Client> = (0..50).map(|_| daemon.hello()).collect();
    let mut client = daemon.hello();
    for n in 0..50usize {
        for session in &mut slow {
            session.send(&b"NOOP xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"[n..=n]);
        }
        let start = Instant::now();
        client.mail("a@example.net", &["b@example.org"], b"\nx\n");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "the session was starved"
        );
    }
    daemon.wait_mail(50);
    drop(idle);
}

#[test]
fn a_client_that_vanishes_in_its_data_leaves_nothing() {
    // RFC 5321 §4.1.1.4: without the end of data indication nothing is accepted.
    let daemon = Setup::maildir().start();
    for _ in 0..20 {
        let mut client = daemon.hello();
        client.say("MAIL FROM:<a@example.net>", 250);
        client.say("RCPT TO:<b@example.org>", 250);
        client.say("DATA", 354);
        client.send(b"Subject: half\r\n\r\nhalf a message\r\n.");
    }
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nwhole\n");
    daemon.wait_mail(1);
    daemon.wait_empty();
}

#[test]
fn configuration_errors_name_file_line_and_column() {
    // smtpd(8): -n checks the configuration and says what is wrong with it.
    let check = |text: &str| {
        let instance = Setup::new(text).prepare();
        let mut command = Command::new(env!("CARGO_BIN_EXE_smtpd"));
        command
            .arg("-n")
            .arg("-f")
            .arg(instance.path().join("smtpd.conf"));
        let output = run(command, b"");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let rules = "action \"a\" maildir\nmatch from any for any action \"a\"\n";
    assert_eq!(check(rules), (Some(0), "configuration OK\n".to_string()));
    let (code, text) = check(&format!("{rules}lisen on lo0\n"));
    assert_eq!(code, Some(1));
    assert!(text.contains("smtpd.conf:3:1: "), "{text}");
    let (code, text) = check("action \"a\" maildir\n");
    assert_eq!(code, Some(1));
    assert!(text.contains("no rules, nothing to do"), "{text}");
}

#[test]
fn a_check_looks_at_what_a_start_would_need() {
    // smtpd(8), -n: names of interfaces are looked up; nothing is bound. A configuration that
    // others may write is warned of.
    let instance = Setup::new(
        "listen on \"no interface\"\nlisten on 127.0.0.1 port $port\n\
         listen on \"none here\"\naction \"a\" maildir\nmatch for any action \"a\"\n",
    )
    .prepare();
    let conf = instance.path().join("smtpd.conf");
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smtpd"));
        command.arg("-n").arg("-f").arg(&conf);
        let output = run(command, b"");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = check();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(code, Some(1));
    let wrong = "invalid virtual ip or interface: ";
    assert!(
        lines[0].ends_with(&format!("smtpd.conf:1: {wrong}no interface")),
        "{text}"
    );
    assert!(
        lines[1].ends_with(&format!("smtpd.conf:3: {wrong}none here")),
        "{text}"
    );
    let _taken = std::net::TcpListener::bind(("127.0.0.1", instance.port));
    let good = std::fs::read_to_string(&conf).unwrap();
    let good: String = good
        .lines()
        .skip(1)
        .filter(|line| !line.contains("none here"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&conf, good).unwrap();
    std::fs::set_permissions(&conf, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let (code, text) = check();
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("warn: ") && text.contains("insecure permissions"),
        "{text}"
    );
    assert!(text.ends_with("\nconfiguration OK\n"), "{text}");
}

#[test]
fn stopping_answers_what_is_asked_and_leaves_no_socket() {
    // smtpd(8): SIGTERM ends the daemon; its socket and pid file go.
    let mut daemon = Setup::maildir().start();
    assert!(daemon.path().join("smtpd.sock").exists());
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nx\n");
    let mut idle = daemon.hello();
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!daemon.path().join("smtpd.sock").exists());
    assert!(!daemon.path().join("smtpd.pid").exists());
    assert!(idle.closed());
}

#[test]
fn a_stop_closes_connections_with_an_alert() {
    // RFC 8446 §6.1: without one a client cannot tell the end from a connection that was cut.
    let mut daemon = submission::daemon(submission::world(), submission::SUBMISSION);
    let mut idle = TlsClient::starttls(submission::address(&daemon, 1));
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(idle.reply().starts_with("421 "));
    assert!(idle.hears_the_end());
}

#[test]
fn hostnames_name_us_by_the_address_that_is_listened_on() {
    // smtpd.conf(5), listen on, hostnames: the names table maps addresses to host names.
    let daemon = Setup::new(
        "table names { 127.0.0.1 = loop.example.org, 192.0.2.1 = far.example.org }\n\
         listen on 127.0.0.1 port $port hostname mx.example.org hostnames <names>\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for any action \"in\"\n",
    )
    .start();
    let mut client = daemon.client();
    let hello = client.ask("EHLO c.example.net");
    assert!(hello.starts_with("250-loop.example.org Hello"), "{hello}");
    client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    let received = daemon.wait_mail(1);
    let text = String::from_utf8_lossy(&received[0]);
    assert!(text.contains("by loop.example.org (OpenSMTPD)"), "{text}");
}
