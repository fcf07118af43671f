//! sendmail(8) against a daemon of the tests' own, and without one.

use std::fs;
use std::io::Cursor;

use crate::cli::fake_daemon::{Daemon, Root, Said};

use super::*;

mod replay;

type Refusals = &'static [(&'static str, &'static str)];

/// What a run of sendmail came to.
struct Ran {
    result: Result<i32, ExitError>,
    output: String,
}

fn env<'a>(root: &Root, input: &[u8], output: &'a mut Vec<u8>) -> Environment<'a> {
    let home = root.dir.path().to_owned();
    Environment {
        paths: root.paths.clone(),
        uid: 0,
        group: Group::default(),
        caller: Box::new(move |_| Caller {
            login: "bob".to_owned(),
            full_name: "Bob Builder".to_owned(),
            home: Some(home.clone()),
        }),
        input: Box::new(Cursor::new(input.to_vec())),
        output,
    }
}

fn sendmail(root: &Root, line: &[&str], input: &[u8]) -> Ran {
    let mut output = Vec::new();
    let words = line.iter().map(|word| word.as_bytes().to_vec()).collect();
    let result = run(words, &mut env(root, input, &mut output));
    Ran {
        result,
        output: String::from_utf8(output).unwrap(),
    }
}

/// What the daemon heard of an accepted message.
fn accepted(line: &[&str], input: &[u8]) -> Said {
    let root = Root::new();
    let daemon = Daemon::accepting(&root.paths.socket);
    let ran = sendmail(&root, line, input);
    assert_eq!((ran.result, ran.output.as_str()), (Ok(0), ""), "{line:?}");
    assert!(root.offline_files().is_empty());
    daemon.sessions.recv().unwrap()
}

fn dead_letter(root: &Root) -> Option<String> {
    fs::read_to_string(root.dir.path().join("dead.letter")).ok()
}

#[test]
fn a_message_is_submitted_command_by_command() {
    // sendmail(8): EHLO, MAIL, RCPT for each recipient, DATA, the message, QUIT.
    let said = accepted(&["al", "c@x,d"], b"Subject: x\nDate: now\n\n.hi\nthere");
    assert_eq!(
        said.commands,
        [
            "EHLO localhost",
            "MAIL FROM:<bob@mx.example.org>",
            "RCPT TO:<al@mx.example.org>",
            "RCPT TO:<c@x>",
            "RCPT TO:<d@mx.example.org>",
            "DATA",
            "QUIT"
        ]
    );
    assert_eq!(
        String::from_utf8(said.message).unwrap(),
        "From: Bob Builder <bob@mx.example.org>\r\nSubject: x\r\nDate: now\r\n\r\n..hi\r\nthere\r\n"
    );
}

#[test]
fn the_sender_is_the_flag_then_the_header_then_the_caller() {
    // sendmail(8), -f: any sender may be claimed; without it, From's last address counts.
    let mail = |line: &[&str], input: &[u8]| {
        let said = accepted(&[line, &["al"]].concat(), input);
        let from = String::from_utf8_lossy(&said.message);
        let from = from.lines().find(|line| line.starts_with("From: "));
        (
            said.commands[1].clone(),
            from.unwrap_or_default().to_owned(),
        )
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        mail(&["-f", "<x@y>"], b"\n"),
        pair("MAIL FROM:<x@y>", "From: <x@y>")
    );
    assert_eq!(
        mail(&["-r", "x", "-F", "A. B"], b"\n"),
        pair(
            "MAIL FROM:<x@mx.example.org>",
            "From: \"A. B\" <x@mx.example.org>"
        )
    );
    assert_eq!(
        mail(&["-f", ""], b"\n"),
        pair("MAIL FROM:<>", "From: <MAILER-DAEMON@mx.example.org>")
    );
    assert_eq!(
        mail(&[], b"From: a@b, C <c@d>\n\n"),
        pair("MAIL FROM:<c@d>", "From: a@b, C <c@d>")
    );
    assert_eq!(
        mail(&["-f", "x@y"], b"From: a@b\n\n"),
        pair("MAIL FROM:<x@y>", "From: a@b")
    );
}

#[test]
fn header_recipients_come_behind_the_operands_and_bcc_leaves_the_message() {
    // sendmail(8), -t: recipients of To, Cc and Bcc in addition to the operands.
    let input = b"To: a@x\nBcc: secret@x,\n other\nFrom: f@x\n\nhi\n";
    let said = accepted(
        &["-t", "-N", "SUCCESS", "-R", "HDRS", "-V", "id", "op@x"],
        input,
    );
    assert_eq!(
        said.commands[1..6],
        [
            "MAIL FROM:<f@x> RET=HDRS ENVID=id",
            "RCPT TO:<op@x> NOTIFY=SUCCESS",
            "RCPT TO:<a@x> NOTIFY=SUCCESS",
            "RCPT TO:<secret@x> NOTIFY=SUCCESS",
            "RCPT TO:<other@mx.example.org> NOTIFY=SUCCESS"
        ]
    );
    let message = String::from_utf8(said.message).unwrap();
    assert!(!message.contains("Bcc") && !message.contains("secret"));
    assert!(message.contains("To: a@x\r\nFrom: f@x\r\n\r\nhi\r\n"));
}

#[test]
fn bodies_of_every_kind_arrive_byte_for_byte() {
    let head = b"From: f@x\nDate: now\n\n";
    let all: Vec<u8> = (0..=255).filter(|b| !matches!(b, b'\n' | b'\r')).collect();
    let longest = [&b"y".repeat(998)[..], b"\n"].concat();
    let large = [&all[..], b"\n"].concat().repeat(30 * 1024 * 1024 / 255);
    for body in [
        &b""[..],
        b".\n",
        b"..\n.\n",
        b"\xff\xfe\n",
        &all,
        &longest,
        &large,
    ] {
        let said = accepted(&["al"], &[&head[..], body].concat());
        let mut expected = Vec::new();
        for line in [&head[..], body].concat().split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b".") {
                expected.push(b'.');
            }
            expected.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            expected.extend_from_slice(b"\r\n");
        }
        assert!(said.message == expected, "{} bytes", body.len());
    }
}

#[test]
fn a_refusal_is_told_and_the_message_is_left_in_dead_letter() {
    // sendmail(8): a refused message is written to dead.letter, exit 70.
    const NO: &str = "550-5.1.1 No\r\n550 5.1.1 such \x1buser";
    let refusals: [Refusals; 5] = [
        &[("EHLO", NO)],
        &[("MAIL", NO)],
        &[("RCPT TO:<bad@x>", NO)],
        &[("DATA", NO)],
        &[("<dot>", NO)],
    ];
    for what in refusals {
        let root = Root::new();
        let _daemon = Daemon::start(&root.paths.socket, what, |_| Answer::Ok);
        let ran = sendmail(&root, &["-t", "bad@x"], b"Date: now\nBcc: s@x\n\n.hi");
        let text = "command failed: 550 5.1.1 such ?user";
        assert_eq!(ran.result, Err(ExitError::with(70, text)), "{what:?}");
        let letter = dead_letter(&root).unwrap();
        let (stamp, letter) = letter.split_once('\n').unwrap();
        assert!(stamp.starts_with("From bob@mx.example.org "), "{stamp}");
        assert_eq!(
            letter,
            "From: Bob Builder <bob@mx.example.org>\nDate: now\n\n.hi\n\n"
        );
        assert!(root.offline_files().is_empty());
    }
}

#[test]
fn what_cannot_be_sent_is_kept_or_left_to_the_caller() {
    // sendmail(8), EXIT STATUS: 75 is the caller's; every other failure leaves a dead.letter.
    let refuse = |line: &[&str], input: &[u8]| {
        let root = Root::new();
        let refuse = &[("RCPT TO:<bad@x>", "550 no")];
        let _daemon = Daemon::start(&root.paths.socket, refuse, |_| Answer::Ok);
        fs::write(root.dir.path().join("dead.letter"), "an older one\n\n").unwrap();
        let ran = sendmail(&root, line, input);
        let letters = dead_letter(&root).unwrap();
        assert!(letters.starts_with("an older one\n\nFrom "), "{letters}");
        assert!(letters.ends_with("\nhi\n\n"), "{letters}");
        ran.result.unwrap_err()
    };
    assert_eq!(refuse(&["bad@x"], b"\nhi\n").code, 70);
    assert_eq!(refuse(&[], b"\nhi\n"), ExitError::with(70, "no recipients"));
    assert_eq!(
        refuse(&["-t"], b"To: (a\n\nhi\n"),
        ExitError::new("syntax error in address")
    );
    assert_eq!(refuse(&["-f", "<a", "b"], b"\nhi\n").code, 1);
    assert_eq!(refuse(&["a\nb"], b"\nhi\n").code, 1);

    // Where no letter can be left, the caller must keep it.
    let root = Root::new();
    fs::create_dir(root.dir.path().join("dead.letter")).unwrap();
    for line in [&[][..], &["-f", "<a", "b"]] {
        let failure = sendmail(&root, line, b"hi\n").result.unwrap_err();
        assert_eq!(failure.code, 75, "{failure:?}");
    }
}

#[test]
fn what_happens_to_quit_is_no_failure() {
    let replies: [Refusals; 2] = [&[("QUIT", "550 no")], &[("QUIT", "")]];
    for reply in replies {
        let root = Root::new();
        let _daemon = Daemon::start(&root.paths.socket, reply, |_| Answer::Ok);
        assert_eq!(sendmail(&root, &["al"], b"hi\n").result, Ok(0));
        assert_eq!(dead_letter(&root), None);
    }
}

#[test]
fn a_daemon_that_will_not_now_or_goes_away_costs_no_mail() {
    // sendmail(8), When the daemon cannot take it: stored, whatever the daemon cannot do now.
    let paused = || Answer::Fail("smtp is paused".to_owned());
    let cases: [(Refusals, Answer); 7] = [
        (&[], paused()),
        (&[], Answer::Count(1)),
        (&[("BANNER", "421 4.3.0 busy")], Answer::Ok),
        (&[("RCPT", "451 4.3.0 later")], Answer::Ok),
        (&[("RCPT", "421 4.3.0 Temporary failure")], Answer::Ok),
        (&[("RCPT", "")], Answer::Ok),
        (&[("<dot>", "452 4.3.1 full")], Answer::Ok),
    ];
    for (refuse, answer) in cases {
        let root = Root::new();
        let _daemon = Daemon::start(&root.paths.socket, refuse, move |_| answer.clone());
        let ran = sendmail(&root, &["al", "b@x"], b"hi\n");
        assert_eq!((ran.result, ran.output.as_str()), (Ok(0), ""), "{refuse:?}");
        assert_eq!(dead_letter(&root), None);
        assert_eq!(root.offline_files().len(), 1, "{refuse:?}");
        // Where it cannot be stored, the caller must keep it.
        fs::remove_dir_all(offline_dir(&root.paths)).unwrap();
        let failure = sendmail(&root, &["al"], b"hi\n").result.unwrap_err();
        assert_eq!(failure.code, 75);
        let both = failure.text.contains("; cannot create temporary file ");
        assert!(both, "{failure:?}");
    }
    let root = Root::new();
    let _daemon = Daemon::start(&root.paths.socket, &[], move |_| paused());
    let ran = sendmail(&root, &["-v", "al"], b"hi\n");
    let text = "stored for later: server disallowed submission request: smtp is paused\n";
    assert_eq!(ran.output, text);
}

#[test]
fn v_prints_the_dialogue_and_not_the_message() {
    let root = Root::new();
    let _daemon = Daemon::accepting(&root.paths.socket);
    let ran = sendmail(&root, &["-v", "al"], b"Subject: secret\n\nhi\n");
    assert_eq!(
        ran.output,
        "<<< 220 mx.example.org ESMTP\n>>> EHLO localhost\n<<< 250-mx.example.org Hello\n\
         <<< 250-8BITMIME\n<<< 250 HELP\n>>> MAIL FROM:<bob@mx.example.org>\n\
         <<< 250 2.0.0 Ok\n>>> RCPT TO:<al@mx.example.org>\n<<< 250 2.0.0 Ok\n>>> DATA\n\
         <<< 354 Enter mail\n<<< 250 2.0.0 queued\n>>> QUIT\n<<< 221 2.0.0 Bye\n"
    );
}

#[test]
fn bad_arguments_are_refused_before_anything_is_sent_or_stored() {
    let root = Root::new();
    let long = "x".repeat(100_000);
    let cases: &[(&[&str], i32)] = &[
        (&["a\nRCPT TO:<b>"], 1),
        (&["a\rb"], 1),
        (&["-f", "a\nb", "c"], 1),
        (&["-N", "NEVER\r\nDATA", "c"], 1),
        (&["-R", "FULL\n", "c"], 1),
        (&["-V", "\n", "c"], 1),
        (&["-f", "<a", "c"], 1),
        (&[&long], 1),
        (&["-f", &long, "c"], 1),
        (&["--help"], 1),
        (&[], 70),
        (&["", ","], 70),
    ];
    for (line, code) in cases {
        let ran = sendmail(&root, line, b"hi\n");
        assert_eq!(ran.result.unwrap_err().code, *code);
    }
    assert!(root.offline_files().is_empty());
    // A full name may hold anything; it stays one line.
    let said = accepted(&["-F", "x\r\nBcc: y@z", "al"], b"hi\n");
    let message = String::from_utf8(said.message).unwrap();
    assert!(message.starts_with("From: \"x  Bcc: y@z\" <bob@mx.example.org>\r\n"));
}

#[test]
fn the_shells_characters_mean_nothing() {
    let odd = "$(id)`id`;id&&id|id>x<*?'@x";
    let said = accepted(&[odd], b"hi\n");
    assert_eq!(said.commands[2], format!("RCPT TO:<{odd}>"));
}

#[test]
fn bs_passes_smtp_both_ways() {
    // sendmail(8), -bs: SMTP on standard input and output.
    let root = Root::new();
    let daemon = Daemon::accepting(&root.paths.socket);
    let input = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n";
    let ran = sendmail(&root, &["-bs"], input);
    assert_eq!(ran.result, Ok(0));
    assert!(ran.output.starts_with("220 ") && ran.output.ends_with("221 2.0.0 Bye\r\n"));
    assert_eq!(daemon.sessions.recv().unwrap().message, b"hi\r\n");
    drop(daemon);
    let ran = sendmail(&root, &["-bs"], b"");
    assert_eq!(ran.result.unwrap_err().code, 75);
    assert_eq!(ran.output, "421 4.3.2 Service not available\r\n");
}

#[test]
fn bs_understands_lines_that_end_in_lf_and_tells_of_a_message_without_end() {
    // sendmail(8), -bs: lines that end in LF, too.
    let root = Root::new();
    let daemon = Daemon::accepting(&root.paths.socket);
    let input = b"EHLO x\nMAIL FROM:<>\nRCPT TO:<a@x>\nDATA\nhi\n.\nQUIT\n";
    let ran = sendmail(&root, &["-bs"], input);
    assert_eq!(ran.result, Ok(0));
    assert!(ran.output.ends_with("221 2.0.0 Bye\r\n"));
    assert_eq!(daemon.sessions.recv().unwrap().message, b"hi\r\n");
    let input = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\nhi\n.\nQUIT\n";
    assert_eq!(
        sendmail(&root, &["-bs"], input).result.unwrap_err().code,
        75
    );
}

const JUDGED: &[(&str, &str)] = &[
    ("RCPT TO:<bad@x>", "550 5.1.1 no"),
    ("RCPT TO:<later@x>", "451 4.3.0 later"),
];

#[test]
fn bv_says_what_would_become_of_each_recipient_and_sends_nothing() {
    // sendmail(8), -bv.
    let root = Root::new();
    let daemon = Daemon::start(&root.paths.socket, JUDGED, |_| Answer::Ok);
    let mut ran = sendmail(&root, &["-bv", "al", "bad@x,later@x"], b"");
    let text = "al@mx.example.org... deliverable\nbad@x... 550 5.1.1 no\n\
                later@x... 451 4.3.0 later\n";
    assert_eq!((ran.result, ran.output.as_str()), (Ok(67), text));
    let said = daemon.sessions.recv().unwrap();
    assert!(said.message.is_empty() && !said.commands.contains(&"DATA".to_owned()));
    ran = sendmail(&root, &["-bv", "later@x"], b"");
    assert_eq!(ran.result, Ok(75));
    ran = sendmail(&root, &["-bv", "al"], b"");
    assert_eq!(ran.result, Ok(0));
    assert_eq!(
        sendmail(&root, &["-bv"], b"hi\n").result.unwrap_err().code,
        70
    );
    drop(daemon);
    assert_eq!(
        sendmail(&root, &["-bv", "al"], b"")
            .result
            .unwrap_err()
            .code,
        75
    );
    assert!(root.offline_files().is_empty() && dead_letter(&root).is_none());
}

#[test]
fn q_asks_the_daemon_to_try_everything() {
    // sendmail(8), -q: flushes the queue through the daemon.
    let root = Root::new();
    let daemon = Daemon::start(&root.paths.socket, &[], |_| Answer::Count(3));
    for flag in ["-q", "-q30m"] {
        let ran = sendmail(&root, &[flag], b"");
        assert_eq!((ran.result, ran.output.as_str()), (Ok(0), ""));
    }
    let asked = daemon.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [Ask::Schedule(Which::All), Ask::Schedule(Which::All)]
    );
    drop(daemon);
    assert_eq!(sendmail(&root, &["-q"], b"").result.unwrap_err().code, 75);
    let stranger = crate::sys::user::effective_uid() + 1;
    let failure = flush(&root.paths, stranger).unwrap_err();
    assert_eq!(failure, ExitError::with(77, "need root privileges"));
}

#[test]
fn an_offline_directory_that_cannot_be_used_is_a_failure() {
    let root = Root::new();
    fs::remove_dir(offline_dir(&root.paths)).unwrap();
    let failure = sendmail(&root, &["al"], b"hi\n").result.unwrap_err();
    assert_eq!(failure.code, sysexits::TEMPFAIL);
    let both = "smtpd doesn't seem to be running; cannot create temporary file ";
    assert!(failure.text.starts_with(both), "{failure:?}");
}
