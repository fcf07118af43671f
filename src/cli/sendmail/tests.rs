//! sendmail(8) against a daemon of the tests' own, and without one.

use std::fs;
use std::io::Cursor;

use crate::cli::fake_daemon::{Daemon, Root, Said};

use std::io::Seek;

use super::*;

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

fn replayed(root: &Root, input: &[u8]) -> Result<i32, ExitError> {
    replayed_file(root, &stored_file(input))
}

fn stored_file(input: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file
}

fn replayed_file(root: &Root, mut file: &File) -> Result<i32, ExitError> {
    file.rewind().unwrap();
    replay::run(&mut env(root, b"", &mut Vec::new()), file)
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
fn without_a_daemon_the_message_is_stored_whole_and_replayed_later() {
    // sendmail(8): stored offline with every recipient, Bcc's too; the daemon replays it.
    let root = Root::new();
    let input = b"To: a@x\nBcc: secret@x\n\n.hi";
    let line = ["-t", "-N", "NEVER", "-f", "<x@y>", "b@x,c|d@x"];
    let ran = sendmail(&root, &line, input);
    assert_eq!((ran.result, ran.output.as_str()), (Ok(0), ""));
    let files = root.offline_files();
    let stored = fs::read(&files[0]).unwrap();
    let text = String::from_utf8_lossy(&stored).into_owned();
    assert_eq!(files.len(), 1);
    assert!(
        text.contains("\nFrom: <x@y>\nDate: ") && !text.contains("Bcc:"),
        "{text}"
    );

    // Still down: the daemon tries later, and there is no dead.letter.
    let failure = replayed(&root, &stored).unwrap_err();
    assert_eq!(failure.code, sysexits::UNAVAILABLE);

    let daemon = Daemon::accepting(&root.paths.socket);
    assert_eq!(replayed(&root, &stored), Ok(0));
    let said = daemon.sessions.recv().unwrap();
    assert_eq!(
        said.commands[1..6],
        [
            "MAIL FROM:<x@y>",
            "RCPT TO:<b@x> NOTIFY=NEVER",
            "RCPT TO:<c|d@x> NOTIFY=NEVER",
            "RCPT TO:<a@x> NOTIFY=NEVER",
            "RCPT TO:<secret@x> NOTIFY=NEVER"
        ]
    );
    let message = String::from_utf8(said.message).unwrap();
    let date = text
        .lines()
        .find(|line| line.starts_with("Date: "))
        .unwrap();
    assert!(message.contains(date), "the original date is kept");
    assert!(
        message.ends_with("\r\nTo: a@x\r\n\r\n..hi\r\n"),
        "{message}"
    );
    assert_eq!(dead_letter(&root), None);
}

const RECIPIENTS: &str = "rcpt: good@x\nrcpt: bad@x\nrcpt: later@x\nrcpt: fine@x\n";
const JUDGED: &[(&str, &str)] = &[
    ("RCPT TO:<bad@x>", "550 5.1.1 no"),
    ("RCPT TO:<later@x>", "451 4.3.0 later"),
];

/// A message that is stored for these recipients, `age_s` ago.
fn stored(sender: &str, rest: &str, age_s: u64) -> String {
    let date = Timestamp::now().0 - age_s;
    format!("smtpd-offline 1\ndate: {date}\nsender: {sender}\n{rest}\nFrom: w@x\n\nhi\n")
}

/// Who got the message in each session, and the message.
fn sessions(daemon: &Daemon) -> Vec<(Vec<String>, String)> {
    let said = daemon.heard().into_iter();
    said.map(|said| {
        let rcpt = |line: String| Some(line.strip_prefix("RCPT TO:<")?.replace('>', ""));
        let rcpts = said.commands.into_iter().filter_map(rcpt).collect();
        (rcpts, String::from_utf8(said.message).unwrap())
    })
    .collect()
}

#[test]
fn a_replay_judges_each_recipient_alone_and_reports_those_who_are_refused() {
    // sendmail(8), When the daemon cannot take it: the others get it, and the writer a report.
    let root = Root::new();
    let daemon = Daemon::start(&root.paths.socket, JUDGED, |_| Answer::Ok);
    let file = stored_file(stored("w@x", RECIPIENTS, 0).as_bytes());
    let failure = replayed_file(&root, &file).unwrap_err();
    assert_eq!(failure, ExitError::with(75, "451 4.3.0 later"));
    let found = sessions(&daemon);
    let all = ["good@x", "bad@x", "later@x", "fine@x"];
    assert_eq!(found[0].0, all);
    assert!(found[0].1.ends_with("\r\nhi\r\n"));
    assert_eq!(
        (&found[1].0[..], found[1].1.as_str()),
        (&["later@x".to_owned()][..], "")
    );
    assert_eq!(found[2].0, ["w@x"]);
    let report = &found[2].1;
    for part in [
        "bad@x: 550 5.1.1 no",
        "Status: 5.1.1\r\n",
        "From: w@x\r\n\r\nhi\r\n",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(
        !report.contains("later@x") && !report.contains("good@x"),
        "{report}"
    );

    // What is settled is settled: nobody gets it twice.
    let failure = replayed_file(&root, &file).unwrap_err();
    assert_eq!(failure.code, 75);
    assert_eq!(sessions(&daemon).concat_rcpts(), ["later@x"]);
    drop(daemon);
    let daemon = Daemon::accepting(&root.paths.socket);
    assert_eq!(replayed_file(&root, &file), Ok(0));
    assert_eq!(sessions(&daemon).concat_rcpts(), ["later@x"]);
    assert_eq!(replayed_file(&root, &file), Ok(0));
    assert!(sessions(&daemon).is_empty());
    assert_eq!(dead_letter(&root), None);
}

trait Rcpts {
    fn concat_rcpts(&self) -> Vec<String>;
}

impl Rcpts for Vec<(Vec<String>, String)> {
    fn concat_rcpts(&self) -> Vec<String> {
        self.iter().flat_map(|(rcpts, _)| rcpts.clone()).collect()
    }
}

#[test]
fn what_the_daemon_puts_off_for_four_days_is_reported_too() {
    let root = Root::new();
    let daemon = Daemon::start(&root.paths.socket, JUDGED, |_| Answer::Ok);
    let told = replayed(&root, stored("w@x", RECIPIENTS, 4 * 86_400).as_bytes()).unwrap_err();
    assert_eq!(told.code, 0);
    assert_eq!(
        told.text,
        "<bad@x> (and 1 more): 550 5.1.1 no; reported to <w@x>"
    );
    let report = sessions(&daemon).pop().unwrap().1;
    assert!(
        report.contains("later@x: Envelope expired: 451 4.3.0 later"),
        "{report}"
    );
    // A daemon that takes nothing at all says nothing of the message.
    drop(daemon);
    let failure = replayed(&root, stored("w@x", RECIPIENTS, 9 * 86_400).as_bytes());
    assert_eq!(failure.unwrap_err().code, sysexits::UNAVAILABLE);
}

#[test]
fn a_refused_message_that_nobody_can_be_told_of_is_left_in_dead_letter() {
    let refused: [(&str, &str, Refusals); 3] = [
        // RFC 5321 §4.5.5: no report about what has no sender.
        ("", "", &[("RCPT", "550 5.1.1 no")]),
        // The report is refused, too.
        ("w@x", "", &[("RCPT", "550 5.1.1 no")]),
        ("w@x", "", &[("MAIL", "550 5.7.1 no")]),
    ];
    for (sender, rest, refuse) in refused {
        let root = Root::new();
        let _daemon = Daemon::start(&root.paths.socket, refuse, |_| Answer::Ok);
        let text = stored(sender, &format!("rcpt: b@x\n{rest}"), 0);
        let told = replayed(&root, text.as_bytes()).unwrap_err();
        assert_eq!(told.code, 0, "{told:?}");
        assert!(told.text.ends_with("; left in dead.letter"), "{told:?}");
        assert!(dead_letter(&root).unwrap().ends_with("From: w@x\n\nhi\n\n"));
        // Where that cannot be, the file stays.
        fs::remove_file(root.dir.path().join("dead.letter")).unwrap();
        fs::create_dir(root.dir.path().join("dead.letter")).unwrap();
        assert_eq!(replayed(&root, text.as_bytes()).unwrap_err().code, 75);
    }
    // RFC 3461 §4.1: who does not want to hear of failures does not.
    let root = Root::new();
    let daemon = Daemon::start(&root.paths.socket, &[("RCPT", "550 no")], |_| Answer::Ok);
    let text = stored("w@x", "rcpt: b@x\nnotify: NEVER\n", 0);
    let told = replayed(&root, text.as_bytes()).unwrap_err();
    assert_eq!((told.code, sessions(&daemon).len()), (0, 1));
    assert_eq!(dead_letter(&root), None);
}

#[test]
fn a_session_that_ends_among_many_recipients_goes_on_in_the_next() {
    // The daemon ends a session after so many refusals; each brings the end nearer.
    let root = Root::new();
    const REFUSE: &[(&str, &str)] = &[
        ("RCPT TO:<bad@x>", "550 no"),
        ("RCPT TO:<enough@x>", "421 4.7.0 too many errors"),
    ];
    let daemon = Daemon::start(&root.paths.socket, REFUSE, |_| Answer::Ok);
    let text = stored("w@x", "rcpt: bad@x\nrcpt: good@x\nrcpt: enough@x\n", 0);
    assert_eq!(replayed(&root, text.as_bytes()).unwrap_err().code, 75);
    let found = sessions(&daemon);
    assert_eq!(found[0].0, ["bad@x", "good@x", "enough@x"]);
    assert_eq!(found[1].0, ["good@x", "enough@x"]);
}

#[test]
fn a_file_that_is_no_message_is_told() {
    let root = Root::new();
    assert_eq!(replayed(&root, b"").unwrap_err().code, sysexits::DATAERR);
    assert_eq!(replayed(&root, b"-bs\n").unwrap_err().code, sysexits::USAGE);
    // OpenSMTPD stores `-f '<bob@x>'` as this, and could never read it back.
    let told = replayed(&root, b"-f|<bob@x|al\nhi\n").unwrap_err();
    assert_eq!(told, ExitError::with(0, "leading < but no trailing >"));
    assert!(dead_letter(&root).unwrap().ends_with("\nhi\n\n"));
}

#[test]
fn files_of_the_older_format_are_replayed() {
    let root = Root::new();
    let daemon = Daemon::accepting(&root.paths.socket);
    let stored = b"-t|-f|x@y|b\nTo: a@x\n\nhi|there\n";
    assert_eq!(replayed(&root, stored), Ok(0));
    let said = daemon.sessions.recv().unwrap();
    assert_eq!(
        said.commands[1..4],
        [
            "MAIL FROM:<x@y>",
            "RCPT TO:<b@mx.example.org>",
            "RCPT TO:<a@x>"
        ]
    );
    assert!(said.message.ends_with(b"To: a@x\r\n\r\nhi|there\r\n"));
    drop(daemon);
    // Nobody can be marked in it: while one is put off, nobody gets it, and then nobody twice.
    let daemon = Daemon::start(&root.paths.socket, JUDGED, |_| Answer::Ok);
    let file = stored_file(b"-f|w@x|good@x|later@x\nhi\n");
    assert_eq!(replayed_file(&root, &file).unwrap_err().code, 75);
    assert!(
        sessions(&daemon)
            .iter()
            .all(|(_, message)| message.is_empty())
    );
    // Nor twice because the report has to wait: then the writer has the message.
    const NO_REPORT: Refusals = &[
        ("RCPT TO:<bad@x>", "550 no"),
        ("RCPT TO:<w@x>", "451 later"),
    ];
    drop(daemon);
    let daemon = Daemon::start(&root.paths.socket, NO_REPORT, |_| Answer::Ok);
    let file = stored_file(b"-f|w@x|good@x|bad@x\nhi\n");
    assert_eq!(replayed_file(&root, &file).unwrap_err().code, 0);
    assert!(dead_letter(&root).unwrap().ends_with("\nhi\n\n"));
    drop(daemon);
    let daemon = Daemon::start(&root.paths.socket, JUDGED, |_| Answer::Ok);
    let file = stored_file(b"-f|w@x|good@x|bad@x\nhi\n");
    assert_eq!(replayed_file(&root, &file).unwrap_err().code, 0);
    assert_eq!(sessions(&daemon).concat_rcpts(), ["good@x", "bad@x", "w@x"]);
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
