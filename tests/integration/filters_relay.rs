//! smtpd-filters(7), REPORTS, smtp-out: what programs hear of sessions with other hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;

use crate::relay::{Host, Script, submit};
use crate::support::{Instance, Setup, wait_for};

/// Notes every line in `heard`, or reads nothing any more once it is ready.
const RECORDER: &str = r#"#!/bin/sh
while IFS= read -r line; do
	printf '%s\n' "$line" >>"$1/heard"
	[ "$line" = "config|ready" ] && break
done
echo "register|report|smtp-out|*"
echo "register|ready"
[ -e "$1/deaf" ] && exec sleep 1000
while IFS= read -r line; do printf '%s\n' "$line" >>"$1/heard"; done
"#;

/// A daemon that relays everything so, and a recorder that hears of it.
pub fn recorded(head: &str, options: &str, deaf: bool) -> Instance {
    let mut daemon = Setup::new(&format!(
        "{head}\nfilter \"f\" proc-exec \"$dir/f/filter $dir/f\"\n\
         listen on 127.0.0.1 port $port\naction \"out\" relay {options} filter \"f\"\n\
         match from any for any action \"out\"\n"
    ))
    .prepare();
    let dir = daemon.path().join("f");
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    fs::create_dir(&dir).expect("a directory");
    open(&dir, 0o777);
    let program = dir.join("filter");
    fs::write(&program, RECORDER).expect("the recorder");
    open(&program, 0o755);
    if deaf {
        fs::write(dir.join("deaf"), "").expect("a file");
    }
    daemon.start();
    daemon
}

/// A session ends when nothing is left to send.
pub const AT_ONCE: &str = "mta limit session-keepalive 0";

fn to_host(host: &Host) -> Instance {
    recorded(AT_ONCE, &url(host), false)
}

fn url(host: &Host) -> String {
    format!("host smtp+notls://127.0.0.1:{}", host.port)
}

fn heard(daemon: &Instance) -> String {
    fs::read_to_string(daemon.path().join("f/heard")).unwrap_or_default()
}

/// What was heard of sessions, one after the other, once this has been heard so often: event and
/// parameters, times left out, ids, sizes and ports replaced.
fn transcript_until(daemon: &Instance, event: &str, count: usize) -> Vec<String> {
    wait_for(&format!("{event}; heard is {}", heard(daemon)), || {
        let text = heard(daemon);
        text.ends_with('\n') && text.matches(&format!("|{event}|")).count() >= count
    });
    let text = heard(daemon);
    let reports = || text.lines().filter(|line| line.starts_with("report|"));
    let session_of = |line: &str| line.split('|').nth(5).expect("a session").to_owned();
    let mut order: Vec<String> = Vec::new();
    for line in reports() {
        if !order.contains(&session_of(line)) {
            order.push(session_of(line));
        }
    }
    let mut told = Vec::new();
    for session in &order {
        let mut msgid = String::new();
        for line in reports().filter(|line| session_of(line) == *session) {
            told.push(shown(line, &mut msgid));
        }
    }
    told
}

/// The same once so many sessions have ended.
pub fn transcript(daemon: &Instance, sessions: usize) -> Vec<String> {
    transcript_until(daemon, "link-disconnect", sessions)
}

fn shown(line: &str, msgid: &mut String) -> String {
    let mut fields: Vec<&str> = line.split('|').collect();
    let (version, stamp, subsystem) = (fields[1], fields[2], fields[3]);
    assert_eq!((version, subsystem), ("0.7", "smtp-out"), "{line}");
    assert!(
        stamp.split_once('.').is_some_and(|(_, us)| us.len() == 6),
        "{line}"
    );
    assert_eq!(fields[5].len(), 16, "{line}");
    let event = fields[4];
    match event {
        "link-connect" => {
            // Nobody waits for the name of an address.
            assert!(
                ["localhost|pass", "<unknown>|error"].contains(&fields[6..8].join("|").as_str()),
                "{line}"
            );
            let host = |field: &str| field.split(':').next().unwrap_or_default().to_owned();
            return format!("link-connect|{}|{}", host(fields[8]), host(fields[9]));
        }
        "tx-begin" => *msgid = fields[6].to_owned(),
        "tx-envelope" => {
            assert!(fields[7].starts_with(fields[6]), "{line}");
            fields[7] = "E";
        }
        "tx-commit" => {
            assert!(fields[7].parse::<u64>().is_ok(), "{line}");
            fields[7] = "N";
        }
        _ => {}
    }
    fields.drain(..4);
    fields.remove(1);
    let text = fields.join("|");
    if event.starts_with("tx-") {
        text.replace(msgid.as_str(), "M")
    } else {
        text
    }
}

/// A session up to the first message, with a host that offers nothing.
const HELLO: [&str; 6] = [
    "link-connect|127.0.0.1|127.0.0.1",
    "protocol-server|220 fake ESMTP",
    "link-greeting|fake",
    "protocol-client|EHLO mx.example.org",
    "link-identify|EHLO|mx.example.org",
    "protocol-server|250 ok",
];
/// MAIL and one recipient.
const MAIL: [&str; 8] = [
    "protocol-client|MAIL FROM:<>",
    "protocol-server|250 ok",
    "tx-begin|M",
    "tx-mail|M|ok|",
    "protocol-client|RCPT TO:<bob@a.example>",
    "tx-envelope|M|E",
    "protocol-server|250 ok",
    "tx-rcpt|M|ok|bob@a.example",
];
const DATA: [&str; 4] = [
    "protocol-client|DATA",
    "protocol-server|354 go on",
    "tx-data|M|ok",
    "protocol-client|.",
];
const TAKEN: [&str; 3] = [
    "protocol-server|250 2.0.0 taken",
    "tx-commit|M|N",
    "tx-reset|M",
];
const QUIT: [&str; 3] = [
    "protocol-client|QUIT",
    "protocol-server|221 bye",
    "link-disconnect",
];

pub fn check(name: &str, found: &[String], wanted: &[&[&str]]) {
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, wanted.concat(), "{name}");
}

pub const BODY: &str = "Subject: x\r\n\r\n..hi";
pub const ONE: &[&str] = &["bob@a.example"];

#[test]
fn a_program_hears_of_a_message_that_is_accepted_in_the_promised_order() {
    let host =
        Host::start(|c| (c == "RCPT TO:<ann@a.example>").then_some("550 5.1.1 no such user"));
    let daemon = to_host(&host);
    submit(&daemon, &["ann@a.example", "bob@a.example"], BODY);
    let found = transcript(&daemon, 1);
    let config: Vec<String> = heard(&daemon).lines().take(4).map(str::to_owned).collect();
    assert_eq!(config[3], "config|subsystem|smtp-out");
    // The bytes of the message on the wire, without the final dot.
    let commit = format!("|{}\n", host.taken()[0].message.len());
    let of_commit = heard(&daemon)
        .split("|tx-commit|")
        .nth(1)
        .map(str::to_owned);
    let of_commit = of_commit.expect("tx-commit");
    let line = of_commit.split_inclusive('\n').next().unwrap_or_default();
    assert!(line.ends_with(&commit), "{line} {commit}");
    let (ann, bob): (&[&str], &[&str]) = (
        &[
            "protocol-client|RCPT TO:<ann@a.example>",
            "tx-envelope|M|E",
            "protocol-server|550 5.1.1 no such user",
            "tx-rcpt|M|permfail|ann@a.example",
        ],
        &MAIL[4..],
    );
    // Recipients of a message go in no particular order.
    let at = |rcpt: &[&str]| found.iter().position(|line| line == rcpt[0]);
    let mut rcpts = [ann, bob];
    rcpts.sort_by_key(|rcpt| at(rcpt));
    check(
        "accepted",
        &found,
        &[&HELLO, &MAIL[..4], &rcpts.concat(), &DATA, &TAKEN, &QUIT],
    );
}

// Where commands run ahead of replies, the events of a transaction still stand behind its beginning.
#[test]
fn commands_that_run_ahead_do_not_change_the_order_of_events() {
    let host = Host::start(|c| {
        c.starts_with("EHLO")
            .then_some("250-fake\r\n250 PIPELINING")
    });
    let daemon = to_host(&host);
    submit(&daemon, ONE, BODY);
    let found = transcript(&daemon, 1);
    check(
        "pipelining",
        &found,
        &[
            &HELLO[..5],
            &["protocol-server|250-fake", "protocol-server|250 PIPELINING"],
            &[MAIL[0], MAIL[4], DATA[0]],
            &MAIL[1..4],
            &MAIL[5..],
            &DATA[1..],
            &TAKEN,
            &QUIT,
        ],
    );
}

// A transaction that was begun and not accepted is rolled back once, whatever ended it; one that was
// not begun is none.
#[test]
fn a_program_hears_what_a_host_refuses() {
    let cases: [(&str, Script, &[&[&str]]); 8] = [
        (
            "MAIL",
            |c| c.starts_with("MAIL").then_some("451 later"),
            &[&HELLO, &[MAIL[0], "protocol-server|451 later"], &QUIT],
        ),
        (
            "RCPT",
            |c| c.starts_with("RCPT").then_some("450 4.2.1 later"),
            &[
                &HELLO,
                &MAIL[..6],
                &[
                    "protocol-server|450 4.2.1 later",
                    "tx-rcpt|M|tempfail|bob@a.example",
                ],
                &["tx-rollback|M", "tx-reset|M"],
                &QUIT,
            ],
        ),
        (
            "DATA",
            |c| (c == "DATA").then_some("554 no"),
            &[
                &HELLO,
                &MAIL,
                &[DATA[0], "protocol-server|554 no", "tx-data|M|permfail"],
                &["tx-rollback|M", "tx-reset|M"],
                &QUIT,
            ],
        ),
        (
            "DATA for now",
            |c| (c == "DATA").then_some("451 later"),
            &[
                &HELLO,
                &MAIL,
                &[DATA[0], "protocol-server|451 later", "tx-data|M|tempfail"],
                &["tx-rollback|M", "tx-reset|M"],
                &QUIT,
            ],
        ),
        (
            "dot",
            |c| (c == "DOT").then_some("550-spam\r\n550 go away"),
            &[
                &HELLO,
                &MAIL,
                &DATA,
                &["protocol-server|550-spam", "protocol-server|550 go away"],
                &["tx-rollback|M", "tx-reset|M"],
                &QUIT,
            ],
        ),
        (
            "421 to RCPT",
            |c| c.starts_with("RCPT").then_some("421 4.3.2 closing"),
            &[
                &HELLO,
                &MAIL[..6],
                &[
                    "protocol-server|421 4.3.2 closing",
                    "tx-rcpt|M|tempfail|bob@a.example",
                ],
                &["tx-rollback|M", "tx-reset|M", "link-disconnect"],
            ],
        ),
        (
            "a connection closed in DATA",
            |c| (c == "DATA").then_some(""),
            &[
                &HELLO,
                &MAIL,
                &[DATA[0], "tx-rollback|M", "tx-reset|M", "link-disconnect"],
            ],
        ),
        (
            "banner",
            |c| (c == "BANNER").then_some("554 nobody home"),
            &[&[
                HELLO[0],
                "protocol-server|554 nobody home",
                "link-disconnect",
            ]],
        ),
    ];
    for (name, script, wanted) in cases {
        let host = Host::start(script);
        let daemon = to_host(&host);
        submit(&daemon, ONE, BODY);
        check(name, &transcript(&daemon, 1), wanted);
    }
}

// The reply to QUIT is what is waited for the shortest time; `client::tests` has a transaction.
#[test]
fn a_program_hears_of_a_host_that_is_silent_for_too_long() {
    let host = Host::start(|c| {
        if c == "QUIT" {
            loop {
                thread::park();
            }
        }
        None
    });
    let daemon = to_host(&host);
    submit(&daemon, ONE, BODY);
    let silence = ["protocol-client|QUIT", "timeout", "link-disconnect"];
    let found = transcript(&daemon, 1);
    check("silence", &found, &[&HELLO, &MAIL, &DATA, &TAKEN, &silence]);
    // An event without fields of its own has no separator behind the session.
    let text = heard(&daemon);
    let line = text.lines().find(|line| line.contains("|timeout|"));
    assert_eq!(
        line.map(|line| line.split('|').count()),
        Some(6),
        "{line:?}"
    );
}

#[test]
fn a_banner_that_begins_with_no_name_is_a_greeting_without_one() {
    let host = Host::start(|c| (c == "BANNER").then_some("220 (hello) world"));
    let daemon = to_host(&host);
    submit(&daemon, ONE, BODY);
    let found = transcript(&daemon, 1);
    let start = [
        HELLO[0],
        "protocol-server|220 (hello) world",
        "link-greeting|",
    ];
    check("no name", &found[..6], &[&start, &HELLO[3..]]);
}

// RFC 5321 §3.8: 421 may come at any time; the message goes over another connection.
#[test]
fn a_session_that_a_host_ends_is_followed_by_another_one() {
    let host = Host::start(|c| (c == "MAIL 2").then_some("421 4.7.0 enough"));
    let daemon = recorded("", &url(&host), false);
    submit(&daemon, ONE, BODY);
    host.wait(1);
    submit(&daemon, ONE, BODY);
    let found = transcript_until(&daemon, "tx-reset", 2);
    check(
        "421",
        &found,
        &[
            &HELLO,
            &MAIL,
            &DATA,
            &TAKEN,
            &[
                MAIL[0],
                "protocol-server|421 4.7.0 enough",
                "link-disconnect",
            ],
            &HELLO,
            &MAIL,
            &DATA,
            &TAKEN,
        ],
    );
}

#[test]
fn nothing_is_heard_of_a_host_that_takes_no_connection() {
    // Bound and not listening: nobody else is given the port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).expect("bind");
    let port = socket.local_addr().ok().and_then(|addr| addr.as_socket());
    let port = port.expect("an address").port();
    let daemon = recorded("", &format!("host smtp+notls://127.0.0.1:{port}"), false);
    submit(&daemon, ONE, BODY);
    daemon.wait_log("stat=\"127.0.0.1: IO Error: Connection refused\"");
    assert!(
        heard(&daemon).ends_with("config|ready\n"),
        "{}",
        heard(&daemon)
    );
}

#[test]
fn a_program_hears_of_lmtp_and_of_hosts_without_ehlo() {
    let host = Host::start(|_| None);
    let url = format!("host lmtp://127.0.0.1:{}", host.port);
    let daemon = recorded(AT_ONCE, &url, false);
    submit(&daemon, ONE, BODY);
    let found = transcript(&daemon, 1);
    assert!(
        found
            .iter()
            .any(|line| line == "link-identify|LHLO|mx.example.org"),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|line| line == "tx-commit|M|N"),
        "{found:#?}"
    );
    let host = Host::start(|c| c.starts_with("EHLO").then_some("502 what?"));
    let daemon = to_host(&host);
    submit(&daemon, ONE, BODY);
    let found = transcript(&daemon, 1);
    check(
        "HELO",
        &found[4..9],
        &[&[
            "link-identify|EHLO|mx.example.org",
            "protocol-server|502 what?",
            "protocol-client|HELO mx.example.org",
            "link-identify|HELO|mx.example.org",
            "protocol-server|250 ok",
        ]],
    );
}

// Real values: the name of an address, as soon as it is known.
#[test]
fn the_name_of_the_host_is_told_when_it_is_known() {
    let host = Host::start(|c| {
        c.starts_with("EHLO")
            .then_some("250-fake\r\n250 LIMITS MAILMAX=1")
    });
    let daemon = to_host(&host);
    let mut sent = 0;
    wait_for("a connection to be told with the name", || {
        submit(&daemon, ONE, BODY);
        sent += 1;
        host.wait(sent);
        let port = host.port;
        let text = heard(&daemon);
        let told = |line: &str| {
            line.contains("|link-connect|")
                && line.contains("|localhost|pass|127.0.0.1:")
                && line.ends_with(&format!("|127.0.0.1:{port}"))
        };
        text.lines().any(told)
    });
}

// smtpd-filters(7): no session waits for a program of a relay.
#[test]
fn a_program_that_does_not_read_holds_up_no_mail() {
    static LONG: LazyLock<String> = LazyLock::new(|| format!("250 {}", "x".repeat(2000)));
    let host = Host::start(|c| c.starts_with("RCPT").then_some(LONG.as_str()));
    let daemon = recorded("", &url(&host), true);
    // What is told of these is more than a socket holds.
    let rcpts: Vec<String> = (0..100).map(|n| format!("user{n}@a.example")).collect();
    let rcpts: Vec<&str> = rcpts.iter().map(String::as_str).collect();
    for _ in 0..4 {
        daemon.hello().mail("", &rcpts, b"Subject: x\n\nhi\n");
    }
    host.wait(4);
    daemon.wait_empty();
    assert!(!daemon.log().contains("TempFail"));
}
