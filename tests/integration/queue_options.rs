//! `queue compression` and `queue encryption` through the whole daemon.

use std::fs;
use std::process::Stdio;

use crate::support::{Instance, Setup, body, wait_for};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "another key of thirty-two bytes.";

const REST: &str = "listen on 127.0.0.1 port $port\n\
                    action \"in\" maildir \"$dir/mail\" virtual $all\n\
                    match from any for any action \"in\"\n";

fn config(options: &str) -> String {
    format!("{options}\n{REST}")
}

fn encrypted(how: &str) -> String {
    config(&format!("queue compression\nqueue encryption \"{how}\""))
}

/// A message of some size in which one text comes again and again.
fn message() -> Vec<u8> {
    let lines: String = (0..20_000)
        .map(|n| format!("line {n} of the secret\n"))
        .collect();
    format!("Subject: secret\n\n{lines}").into_bytes()
}

fn shown(daemon: &Instance, what: &[&str]) -> Vec<u8> {
    let output = daemon.ctl(what);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what:?}: {why}");
    output.stdout
}

fn is_anywhere(text: &[u8], daemon: &Instance) -> bool {
    daemon
        .spooled()
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .any(|bytes| bytes.windows(text.len()).any(|part| part == text))
}

#[test]
fn what_is_queued_is_unreadable_and_delivered_byte_for_byte() {
    // smtpd.conf(5), queue compression, queue encryption.
    let mut daemon = Setup::new(&encrypted(KEY)).arg("-Pmda").start();
    daemon.wait_log("queue: queue compression enabled");
    daemon.wait_log("queue: queue encryption enabled");
    let text = message();
    let msgid = daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], &text);
    assert!(!is_anywhere(b"secret", &daemon) && !is_anywhere(b"example.org", &daemon));
    // smtpctl(8), show message: the key is in smtpd.conf.
    let body_shown = shown(&daemon, &["show", "message", &msgid]);
    assert!(body_shown.ends_with(body(&text)));
    let line = daemon.queue().remove(0);
    let evpid = line.split('|').next().unwrap().to_owned();
    let envelope = shown(&daemon, &["show", "envelope", &evpid]);
    assert!(envelope.starts_with(b"version: 3\n"));
    daemon.stop();
    // Without a daemon the spool itself is read.
    assert!(daemon.queue()[0].contains("|offline|"));
    daemon.set_args(&[]);
    daemon.start();
    assert!(body(&daemon.wait_mail(1)[0]) == body(&text));
    daemon.wait_settled();
}

#[test]
fn a_key_from_the_standard_input_serves_every_engine_and_shows_nowhere() {
    // smtpd.conf(5), queue encryption: stdin or a dash.
    for word in ["stdin", "-"] {
        let daemon = Setup::new(&encrypted(word))
            .input(&format!("{KEY}\nnot for smtpd\n"))
            .start();
        let engine = daemon.engine_pid();
        for pid in [daemon.pid(), engine] {
            for what in ["cmdline", "environ"] {
                let bytes = fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&bytes).contains(KEY));
            }
        }
        daemon.signal(engine, "KILL");
        wait_for("another engine", || {
            daemon.log().matches("queue encryption enabled").count() == 2
        });
        let mut session = None;
        wait_for("the new engine to serve", || {
            session = crate::support::Client::try_hello(daemon.port);
            session.is_some()
        });
        let mut session = session.unwrap();
        session.mail("a@example.net", &["b@example.org"], b"\ntext\n");
        daemon.wait_mail(1);
        assert!(!daemon.log().contains(KEY));
    }
}

#[test]
fn a_wrong_key_stops_the_start_and_loses_nothing() {
    // spool-layout.md, Coded files: a file that another key has sealed stays where it is.
    let mut daemon = Setup::new(&encrypted(KEY)).arg("-Pmda").start();
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\ntext\n");
    daemon.stop();
    let before = daemon.spooled();
    for options in [encrypted(OTHER_KEY), config("")] {
        daemon.configure(&options);
        daemon.set_args(&[]);
        daemon.spawn();
        assert_eq!(daemon.wait_end().code(), Some(1));
        assert_eq!(daemon.spooled(), before);
    }
    let log = daemon.log();
    assert!(log.contains("it is encrypted with another key: start smtpd with the key"));
    assert!(log.contains("it is encrypted, and there is no \"queue encryption\""));
    daemon.configure(&config(&format!("queue encryption \"{KEY}\"")));
    daemon.start();
    daemon.wait_mail(1);
}

#[test]
fn options_may_come_and_go_with_mail_in_the_queue() {
    let mut daemon = Setup::new(REST).arg("-Pmda").start();
    let options = [
        "",
        "queue compression",
        &format!("queue encryption \"{KEY}\""),
    ];
    for options in options {
        daemon.stop();
        daemon.configure(&config(options));
        daemon.start();
        let text = format!("\n{options}\n");
        daemon
            .hello()
            .mail("a@example.net", &["b@example.org"], text.as_bytes());
    }
    daemon.stop();
    daemon.set_args(&[]);
    daemon.start();
    let mut bodies: Vec<_> = daemon
        .wait_mail(options.len())
        .iter()
        .map(|mail| body(mail).to_vec())
        .collect();
    bodies.sort();
    let mut expected: Vec<_> = options.map(|text| format!("{text}\n").into_bytes()).into();
    expected.sort();
    assert_eq!(bodies, expected);
}

#[test]
fn a_check_asks_for_no_key_and_looks_at_one_that_is_there() {
    // smtpd(8), -n: the configuration is checked, and nothing is read but files.
    for (options, said) in [
        ("queue encryption", "configuration OK"),
        ("queue encryption stdin", "configuration OK"),
        ("queue encryption \"-\"", "configuration OK"),
        (
            "queue encryption \"short\"",
            "invalid key for queue encryption",
        ),
    ] {
        let daemon = Setup::new(&config(options)).prepare();
        let output = daemon
            .program("smtpd")
            .args(["-n", "-R"])
            .arg(daemon.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(said), "{options}: {text}");
        assert_eq!(output.status.success(), said == "configuration OK");
    }
}

#[test]
fn a_start_without_a_usable_key_says_so() {
    // Standard input at its end; and a terminal to ask at, where there is none.
    for (how, input, said) in [
        (
            "stdin",
            Some(""),
            "crypto_setup: invalid key for queue encryption",
        ),
        (
            "stdin",
            Some("too short\n"),
            "crypto_setup: invalid key for queue encryption",
        ),
    ] {
        let mut setup = Setup::new(&encrypted(how));
        if let Some(input) = input {
            setup = setup.input(input);
        }
        let mut daemon = setup.prepare();
        daemon.spawn();
        assert_eq!(daemon.wait_end().code(), Some(1));
        assert!(daemon.log().contains(said), "{}", daemon.log());
        assert!(!daemon.log().contains("too short"));
    }
}
