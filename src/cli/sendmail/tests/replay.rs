//! Messages that are stored while the daemon cannot take them, and replayed later.

use std::cell::Cell;
use std::io::Seek;
use std::time::Duration;

use crate::cli::sendmail::replay;

use super::*;

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

/// A replay that finds itself so old, one age at each look and the last one ever after.
fn replayed_slowly(root: &Root, mut file: &File, ages: &[Duration]) -> Result<i32, ExitError> {
    file.rewind().unwrap();
    let looks = Cell::new(0);
    let age = || {
        let look = looks.replace(looks.get() + 1);
        ages[look.min(ages.len() - 1)]
    };
    replay::run_at(&mut env(root, b"", &mut Vec::new()), file, &age)
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
fn more_recipients_than_a_transaction_takes_are_not_asked_for_again_and_again() {
    // smtpd.conf(5), smtp limit max-rcpt: a list of thousands comes in part by part.
    let root = Root::new();
    const FULL: Refusals = &[("RCPT TO:<c@x>", "451 4.5.3 Too many recipients: x")];
    let daemon = Daemon::start(&root.paths.socket, FULL, |_| Answer::Ok);
    let rcpts = "rcpt: a@x\nrcpt: b@x\nrcpt: c@x\nrcpt: d@x\nrcpt: e@x\n";
    let file = stored_file(stored("w@x", rcpts, 0).as_bytes());
    assert_eq!(replayed_file(&root, &file).unwrap_err().code, 75);
    let found = sessions(&daemon);
    assert_eq!(found[0].0, ["a@x", "b@x", "c@x"]);
    // Where nobody has been accepted yet, it may be about this one alone.
    assert_eq!(found[1].0, ["c@x", "d@x", "e@x"]);
    assert!(
        found[..2]
            .iter()
            .all(|(_, message)| message.ends_with("\r\nhi\r\n"))
    );
}

#[test]
fn a_replay_that_is_too_old_to_hear_the_reply_does_not_send_the_message() {
    // spool-layout.md, offline: whoever is ended while he waits for the 250 sends it twice.
    let root = Root::new();
    let daemon = Daemon::accepting(&root.paths.socket);
    let file = stored_file(stored("w@x", RECIPIENTS, 0).as_bytes());
    let (young, slow, old) = (Duration::ZERO, replay::ASKS, replay::SENDS);
    // It looks behind each recipient, before the message and behind it.
    for looks in [4, 5] {
        let ages = [vec![young; looks], vec![old]].concat();
        let failure = replayed_slowly(&root, &file, &ages).unwrap_err();
        let why = "write error: the daemon was too slow";
        assert_eq!(failure, ExitError::with(75, why));
        let said = daemon.heard();
        let last = said[0].commands.last().map(String::as_str);
        assert_eq!((said.len(), last), (1, Some("DATA")));
    }
    // One that is only slow sees to it that some have it, and leaves the others.
    let failure = replayed_slowly(&root, &file, &[young, slow]).unwrap_err();
    assert_eq!(failure, ExitError::with(75, "there was no time to ask"));
    assert_eq!(sessions(&daemon).concat_rcpts(), ["good@x", "bad@x"]);
    assert_eq!(replayed_file(&root, &file), Ok(0));
    assert_eq!(sessions(&daemon).concat_rcpts(), ["later@x", "fine@x"]);
    // In a file without marks there are no others to be left.
    let file = stored_file(b"-f|w@x|a@x|b@x\nhi\n");
    assert_eq!(replayed_slowly(&root, &file, &[slow]), Ok(0));
    assert_eq!(sessions(&daemon).concat_rcpts(), ["a@x", "b@x"]);
}

#[test]
fn a_replay_that_is_too_old_to_hear_the_reply_does_not_send_the_report() {
    let root = Root::new();
    const REFUSED: Refusals = &[("RCPT TO:<bad@x>", "550 no")];
    let daemon = Daemon::start(&root.paths.socket, REFUSED, |_| Answer::Ok);
    let file = stored_file(stored("w@x", "rcpt: bad@x\n", 0).as_bytes());
    // It looks before the report and behind it.
    for ages in [&[replay::SENDS][..], &[Duration::ZERO, replay::SENDS]] {
        let failure = replayed_slowly(&root, &file, ages).unwrap_err();
        assert_eq!(failure.code, 75);
        assert!(
            failure.text.contains("not yet reported to <w@x>"),
            "{failure:?}"
        );
        let said = daemon.heard();
        let last = said.last().unwrap().commands.last().map(String::as_str);
        assert_eq!(last, Some("DATA"));
    }
    let told = replayed_file(&root, &file).unwrap_err();
    assert!(
        told.code == 0 && told.text.contains("reported to <w@x>"),
        "{told:?}"
    );
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
