//! Peers and local users that mean harm: what they send stays data, and the daemon serves on.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use smtpd::sys::fdpass::{self, Wait};

use crate::dice::Dice;
use crate::support::{Client, Instance, Setup, wait_for};

/// Sends all of it, says nothing more, and returns whatever comes back.
fn all_replies(mut client: Client, script: &[u8]) -> Vec<String> {
    let _ = client.try_send(script);
    std::iter::from_fn(|| client.try_reply()).collect()
}

/// A new session still works, and nobody has died on the way.
pub fn still_serves(daemon: &Instance) {
    let mut client = daemon.hello();
    client.say("NOOP", 250);
    client.say("QUIT", 221);
    assert!(!daemon.log().contains("lost child"), "{}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// No line of the log holds a control character, and each one begins as ours do.
pub fn log_is_sound(daemon: &Instance) {
    for line in daemon.log().lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let session = line.get(..16).is_some_and(|id| {
            id.bytes().all(|b| b.is_ascii_hexdigit()) && line[16..].starts_with(' ')
        });
        let ours = [
            "info: ",
            "warn: ",
            "debug: ",
            "delivery: ",
            "relay: ",
            "Exiting",
        ];
        assert!(
            session || ours.iter().any(|start| line.starts_with(start)),
            "{line:?}"
        );
    }
}

/// A session with `byte` in every place where a client may put text.
fn session_with(byte: u8) -> Vec<u8> {
    let text = b"\nSubject: x\n\nx\n.\n";
    let [local, domain, param] = [b"a?z".as_slice(), b"ex?mple.net", b"+3D?q"];
    let lines: [&[&[u8]]; 12] = [
        &[b"EHLO cl", b"?", b"ent.example.net"],
        &[b"EHLO client.example.net"],
        &[b"MAIL FROM:<", local, b"@example.net>"],
        &[b"RCPT TO:<", local, b"@example.org>"],
        &[b"DATA", text],
        &[b"RSET"],
        &[b"MAIL FROM:<a@", domain, b">"],
        &[b"RCPT TO:<b@", domain, b">"],
        &[b"DATA", text],
        &[b"RSET"],
        &[b"MAIL FROM:<p@example.net> RET=HDRS ENVID=", param],
        &[
            b"RCPT TO:<p@example.org> NOTIFY=FAILURE ORCPT=rfc822;",
            param,
        ],
    ];
    let mut script = Vec::new();
    for line in lines {
        for &part in line.concat().iter() {
            match part {
                b'?' => script.push(byte),
                b'\n' => script.extend_from_slice(b"\r\n"),
                part => script.push(part),
            }
        }
        script.extend_from_slice(b"\r\n");
    }
    script.extend_from_slice(b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n");
    script
}

#[test]
fn no_byte_of_an_address_adds_a_line_anywhere() {
    // CVE-2020-8794: every byte in local part, domain, parameters and HELO.
    let daemon = Setup::maildir().arg("-Pmda").start();
    for byte in 0..=255 {
        all_replies(daemon.client(), &session_with(byte));
    }
    let envelopes = daemon.queue();
    // Letters, digits and what else a local part may hold, and the clean parameters.
    assert!(envelopes.len() > 200, "{}", envelopes.len());
    for line in &envelopes {
        let id = line.split('|').next().unwrap();
        let bytes = daemon.ctl(["show", "envelope", id]).stdout;
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains(['\r', '\0', '\x1b']), "{text:?}");
        let names: Vec<&str> = text
            .lines()
            .map(|line| line.split_once(": ").expect("a field").0)
            .collect();
        let distinct: BTreeSet<&&str> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{text}");
        for once in ["sender", "rcpt", "dest", "helo", "dispatcher"] {
            assert!(names.contains(&once), "{text}");
        }
        assert!(!names.contains(&"mda-exec"), "{text}");
    }
    daemon.ctl(["resume", "mda"]);
    for mail in daemon.wait_mail(envelopes.len()) {
        let end = mail.windows(9).position(|w| w == b"Subject: ").unwrap();
        let head = String::from_utf8(mail[..end].to_vec()).unwrap();
        let names: Vec<&str> = head
            .lines()
            .filter(|line| !line.starts_with('\t'))
            .map(|line| line.split(':').next().unwrap_or_default())
            .collect();
        assert_eq!(names, ["Return-Path", "Delivered-To", "Received"], "{head}");
        let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!head.contains(odd), "{head:?}");
    }
    log_is_sound(&daemon);
    still_serves(&daemon);
}

#[test]
fn a_client_writes_no_line_of_its_own_into_the_log() {
    // ESC, CR/LF, NUL, 8-bit and quotes are escaped within one line.
    let daemon = Setup::maildir().start();
    let evil: [&[u8]; 9] = [
        b"\x1b[2J\x1b]0;title\x07",
        b"\r0123456789abcdef smtp connected address=forged host=forged",
        b"x\0y",
        b"\xff\xfe\xc3\x28",
        b"\" result=\"250 forged\" x=\"",
        b"\\\" result=\"250 forged",
        b"\xc2\x85\xe2\x80\xa8\xe2\x80\xae",
        b"%s%n%s%n {} \\n",
        b"\t\x08\x7f",
    ];
    for text in evil {
        for verb in [
            b"HELO ".as_slice(),
            b"EHLO client.example.net\r\nMAIL FROM:<",
            b"EHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<",
            b"",
            b"VRFY \r\nAUTH PLAIN ",
        ] {
            let script = [verb, text, b">\r\nQUIT\r\n"].concat();
            all_replies(daemon.client(), &script);
        }
    }
    daemon.wait_log("disconnected reason=quit");
    log_is_sound(&daemon);
    let log = daemon.log();
    for line in log.lines().filter(|line| line.contains("failed-command")) {
        // Without what is escaped, five quotes would be one too many.
        let bare = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(bare.matches('"').count(), 4, "{line}");
    }
    let forged = |line: &&str| line.starts_with("0123456789abcdef");
    assert_eq!(log.lines().find(forged), None);
    still_serves(&daemon);
}

#[test]
fn endless_arguments_and_lines_end_the_session_only() {
    // The erratum of 2019-08-01: over-long input was fatal.
    let daemon = Setup::maildir().start();
    let long = "x".repeat(64 * 1024);
    for command in [
        "HELO ",
        "EHLO ",
        "MAIL FROM:<",
        "RCPT TO:<",
        "DATA ",
        "HELP ",
        "NOOP ",
        "",
    ] {
        for length in [2047, 2048, 65534, 65536] {
            let script = format!(
                "EHLO client.example.net\r\n{command}{}\r\nQUIT\r\n",
                &long[..length]
            );
            let replies = all_replies(daemon.client(), script.as_bytes());
            let last = replies.last().expect("an answer");
            assert!(
                last.starts_with("500 ") || last.starts_with("221 "),
                "{replies:?}"
            );
        }
    }
    let mut endless = daemon.hello();
    let piece = vec![b'x'; 64 * 1024];
    let refused = (0..32).any(|_| endless.try_send(&piece).is_err());
    let reply = endless.reply();
    assert!(
        refused || reply.starts_with("500 ") || reply.is_empty(),
        "{reply}"
    );
    let mut data = daemon.hello();
    data.say("MAIL FROM:<a@example.net>", 250);
    data.say("RCPT TO:<b@example.org>", 250);
    data.say("DATA", 354);
    let _ = (0..32).any(|_| data.try_send(&piece).is_err());
    let reply = data.reply();
    assert!(reply.starts_with("500 ") || reply.is_empty(), "{reply}");
    still_serves(&daemon);
    assert!(daemon.spooled().is_empty());
}

#[test]
fn commands_in_any_order_leave_a_daemon_that_serves() {
    // The erratum of 2016-10-03: session logic crashed on unexpected orders.
    const SEED: u64 = 0x5eed_0f5e_551d;
    const WORDS: [&[u8]; 22] = [
        b"EHLO client.example.net\r\n",
        b"HELO client.example.net\r\n",
        b"MAIL FROM:<a@example.net>\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@example.net> SIZE=9999999999999999999999\r\n",
        b"RCPT TO:<b@example.org>\r\n",
        b"RCPT TO:<>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"Subject: x\r\n\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"HELP\r\n",
        b"VRFY x\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"\r\n",
        b"\n",
        b"MAIL",
        b"\0\r\n",
        b"QUIT\r\n",
        b"BDAT 10 LAST\r\n",
    ];
    let daemon = Setup::maildir().start();
    let mut dice = Dice::new(SEED);
    for _ in 0..80 {
        let mut client = daemon.client();
        for _ in 0..dice.roll(50) {
            if client.try_send(WORDS[dice.roll(WORDS.len())]).is_err() {
                break;
            }
        }
        // Half of them go without a word, the others read to the end.
        if dice.roll(2) == 0 {
            all_replies(client, b"\r\n.\r\nQUIT\r\n");
        }
    }
    still_serves(&daemon);
    log_is_sound(&daemon);
}

#[test]
fn half_frames_hold_nobody_else_up() {
    // OpenSMTPD 5.7.2 ended it: a local user floods the control socket.
    let daemon = Setup::maildir().start();
    let half: [&[u8]; 4] = [b"", b"\x10", b"\x10\0\0\0\x01", b"\xff\xff\x03\0\x01\x09"];
    let flood: Vec<UnixStream> = (0..64)
        .filter_map(|n: usize| {
            let mut stream = UnixStream::connect(daemon.path().join("smtpd.sock")).ok()?;
            let _ = stream.write_all(half[n % half.len()]);
            Some(stream)
        })
        .collect();
    daemon.wait_log("too many connections to control socket from user with uid");
    still_serves(&daemon);
    drop(flood);
    wait_for("smtpctl to be heard", || {
        daemon.ctl(["show", "status"]).status.success()
    });
    // Each of these ends its connection at once.
    for bytes in [
        b"\0\0\0\0".to_vec(),
        b"\x01\0\0\0\x01".to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        [&[2, 0, 0, 0, 255, 1][..]].concat(),
        vec![0xff; 300 * 1024],
    ] {
        let mut stream = UnixStream::connect(daemon.path().join("smtpd.sock")).unwrap();
        let _ = stream.write_all(&bytes);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    daemon.wait_log("sent invalid imsg over control socket");
    still_serves(&daemon);
}

#[test]
fn descriptors_that_come_over_the_control_socket_are_not_kept() {
    // OpenSMTPD 5.7.2 ran out of them: a local user passes some with every frame.
    let daemon = Setup::maildir().start();
    if !cfg!(target_os = "linux") {
        return;
    }
    let engine = daemon.engine_pid();
    let open = || fs::read_dir(format!("/proc/{engine}/fd")).map_or(0, Iterator::count);
    let before = open();
    let file = fs::File::open("/dev/null").unwrap();
    let flood: Vec<UnixStream> = (0..16)
        .map(|_| {
            let stream = UnixStream::connect(daemon.path().join("smtpd.sock")).unwrap();
            // The first of these is a frame that has begun.
            for bytes in [&b""[..], b"x", b"xx", b"xxx"] {
                let _ = fdpass::send(stream.as_fd(), bytes, &[file.as_fd(); 16], Wait::No);
            }
            stream
        })
        .collect();
    still_serves(&daemon);
    assert!(open() < before + 64, "{before} before, {} after", open());
    drop(flood);
    wait_for("the connections to be closed", || open() < before + 16);
}

#[test]
fn strangers_are_relayed_nowhere() {
    // The classic forms of relaying, against the default rules.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"local_mail\" maildir\n\
         match from local for local action \"local_mail\"\n",
    )
    .start();
    let forms = [
        "victim@relay.example",
        "victim%relay.example@mx.example.org",
        "victim%relay.example@[127.0.0.1]",
        "victim%relay.example",
        "\"victim@relay.example\"",
        "\"victim%relay.example\"",
        "\"victim@relay.example\"@mx.example.org",
        "\"victim@relay.example\"@[127.0.0.1]",
        "@mx.example.org:victim@relay.example",
        "@[127.0.0.1]:victim@relay.example",
        "@mx.example.org,@b.example:victim@relay.example",
        "relay.example!victim",
        "relay.example!victim@mx.example.org",
        "relay.example!victim@[127.0.0.1]",
        "victim@relay.example@mx.example.org",
        "victim@mx.example.org@relay.example",
        "victim@[192.0.2.1]",
        "victim@[IPv6:2001:db8::1]",
        "/etc/passwd@mx.example.org",
        "|id@mx.example.org",
        "../victim@mx.example.org",
    ];
    for sender in ["a@mx.example.org", "a@relay.example", "", "root@localhost"] {
        let mut client = daemon.hello();
        client.say(&format!("MAIL FROM:<{sender}>"), 250);
        for form in forms {
            let reply = client.ask(&format!("RCPT TO:<{form}>"));
            assert!(reply.starts_with('5'), "{form}: {reply}");
        }
        let reply = client.ask("DATA");
        assert!(reply.starts_with('5'), "{reply}");
    }
    assert!(daemon.spooled().is_empty());
}
