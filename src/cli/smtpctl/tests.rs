//! Commands against a daemon of the tests' own: what is asked, printed and exited with.

use crate::cli::fake_daemon::{Daemon, Root};
use crate::control::message::{Listed, Subsystem};
use crate::mail::EvpId;

use super::*;

fn smtpctl(root: &Root, line: &str) -> (Result<i32, ExitError>, String) {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let mut out = Vec::new();
    let result = run(&words, &root.paths, 0, &mut out);
    (result, String::from_utf8(out).unwrap())
}

/// What is printed for `line` when the daemon gives `answer`, and what it was asked.
fn answered(line: &str, answer: &Answer) -> (Result<i32, ExitError>, String, Vec<Ask>) {
    let root = Root::new();
    let answer = answer.clone();
    let daemon = Daemon::start(&root.paths.socket, &[], move |_| answer.clone());
    let (result, out) = smtpctl(&root, line);
    let asked = daemon.asked.lock().unwrap().clone();
    (result, out, asked)
}

#[test]
fn counted_commands_print_their_sentences() {
    // smtpctl(8): `N envelopes scheduled`, plural from two; discover says `0 envelopes`.
    let msgid = Which::Message("1a2b3c4d".parse().unwrap());
    let evpid = Which::Envelope("1a2b3c4d7f3e9a10".parse().unwrap());
    let cases = [
        (
            "schedule all",
            0,
            "0 envelope scheduled\n",
            Ask::Schedule(Which::All),
        ),
        (
            "schedule 1a2b3c4d",
            2,
            "2 envelopes scheduled\n",
            Ask::Schedule(msgid),
        ),
        (
            "remove 1a2b3c4d7f3e9a10",
            1,
            "1 envelope removed\n",
            Ask::Remove(evpid),
        ),
        (
            "pause envelope all",
            3,
            "3 envelopes paused\n",
            Ask::Suspend(Which::All),
        ),
        (
            "resume envelope all",
            1,
            "1 envelope resumed\n",
            Ask::Resume(Which::All),
        ),
        (
            "discover 1a2b3c4d",
            0,
            "0 envelopes discovered\n",
            Ask::Discover(msgid),
        ),
        (
            "discover 1a2b3c4d",
            1,
            "1 envelope discovered\n",
            Ask::Discover(msgid),
        ),
        (
            "discover 1a2b3c4d",
            2,
            "2 envelopes discovered\n",
            Ask::Discover(msgid),
        ),
    ];
    for (line, count, expected, ask) in cases {
        let (result, out, asked) = answered(line, &Answer::Count(count));
        assert_eq!((result, out.as_str()), (Ok(0), expected), "{line}");
        assert_eq!(asked, [ask]);
    }
}

#[test]
fn other_commands_succeed_or_fail_in_two_words() {
    // smtpctl(8): `command succeeded` and 0, or `command failed` and 1, on standard output.
    let cases = [
        ("pause mda", Ask::Pause(Subsystem::Mda, true)),
        ("pause mta", Ask::Pause(Subsystem::Mta, true)),
        ("resume smtp", Ask::Pause(Subsystem::Smtp, false)),
        ("log verbose", Ask::Verbose(true)),
        ("log brief", Ask::Verbose(false)),
        (
            "update table aliases",
            Ask::UpdateTable("aliases".to_owned()),
        ),
    ];
    for (line, ask) in cases {
        let (result, out, asked) = answered(line, &Answer::Ok);
        assert_eq!((result, out.as_str()), (Ok(0), "command succeeded\n"));
        assert_eq!(asked, [ask]);
    }
    let (result, out, _) = answered("pause mda", &Answer::Fail("is\x1bpaused".to_owned()));
    assert_eq!(result, Err(ExitError::new("is?paused")));
    assert_eq!(out, "command failed\n");
    let (result, out, _) = answered("pause mda", &Answer::Count(1));
    assert_eq!(result, Err(ExitError::new("bad message type")));
    assert_eq!(out, "");
}

#[test]
fn the_status_is_three_lines() {
    // smtpctl(8), show status: three lines, and one for each certificate that ends soon.
    let answer = Answer::Status {
        mda: true,
        mta: false,
        smtp: false,
        notes: Vec::new(),
    };
    let (result, out, _) = answered("show status", &answer);
    assert_eq!(result, Ok(0));
    assert_eq!(out, "MDA paused\nMTA running\nSMTP running\n");
    let answer = Answer::Status {
        mda: false,
        mta: false,
        smtp: false,
        notes: vec!["pki p: the certificate expires in 3 days".to_owned()],
    };
    let (_, out, _) = answered("show status", &answer);
    assert!(out.ends_with("SMTP running\npki p: the certificate expires in 3 days\n"));
}

#[test]
fn the_queue_is_listed_line_by_line() {
    // smtpctl(8), show queue: the evpid, then thirteen more fields, without a header.
    let root = Root::new();
    let id = "1a2b3c4d7f3e9a10".parse().unwrap();
    let _daemon = Daemon::start(&root.paths.socket, &[], move |ask| match ask {
        Ask::List { after: None, .. } => Answer::Envelopes(vec![Listed {
            id,
            text: "local|mda||a@b|c@d|c@d|1|1|0|0|pending|5|".to_owned(),
            action: String::new(),
            remote: String::new(),
        }]),
        _ => Answer::Envelopes(Vec::new()),
    });
    let (result, out) = smtpctl(&root, "show queue");
    assert_eq!(result, Ok(0));
    assert_eq!(
        out,
        "1a2b3c4d7f3e9a10|local|mda||a@b|c@d|c@d|1|1|0|0|pending|5|\n"
    );
    let mut out = Vec::new();
    assert_eq!(crate::cli::mailq::run(&root.paths, 0, &mut out), Ok(0));
    assert!(out.starts_with(b"1a2b3c4d7f3e9a10|local|"));
}

#[test]
fn without_a_daemon_most_commands_say_so_and_some_do_without() {
    // smtpctl(8): show queue, show envelope and show message work without the daemon.
    let root = Root::new();
    for line in [
        "schedule all",
        "show stats",
        "monitor",
        "log brief",
        "show status",
    ] {
        let down = ExitError::new("smtpd doesn\'t seem to be running");
        assert_eq!(smtpctl(&root, line), (Err(down), String::new()));
    }
    assert_eq!(smtpctl(&root, "show queue"), (Ok(0), String::new()));
    let missing = ExitError::new("fopen: No such file or directory");
    assert_eq!(smtpctl(&root, "show message 1a2b3c4d").0, Err(missing));
}

#[test]
fn a_stranger_is_told_that_root_is_needed_after_the_line_was_understood() {
    // smtpctl(8): parsing errors come first; encrypt and spf walk are for everybody.
    let root = Root::new();
    let owner = crate::sys::user::effective_uid();
    let line = |line: &str, uid| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        run(&words, &root.paths, uid, &mut Vec::new()).unwrap_err()
    };
    let stranger = owner + 1;
    assert_eq!(
        line("show queue", stranger),
        ExitError::new("need root privileges")
    );
    assert_eq!(
        line("trace all", stranger),
        ExitError::new("need root privileges")
    );
    assert_eq!(line("show nonsense", stranger).code, 255);
    let words = ["encrypt".to_owned(), "x".to_owned()];
    assert_eq!(run(&words, &root.paths, stranger, &mut Vec::new()), Ok(0));
    assert_eq!(line("show hosts", owner).code, 1);
    let queue = crate::cli::mailq::run(&root.paths, stranger, &mut Vec::new());
    assert_eq!(queue, Err(ExitError::new("need root privileges")));
}

/// Standard output after `head -1` has gone.
struct ClosedPipe;

impl Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_standard_output_ends_monitor_and_others_quietly() {
    let root = Root::new();
    let _daemon = Daemon::start(&root.paths.socket, &[], |ask| match ask {
        Ask::Stats => Answer::Stats(Vec::new()),
        _ => Answer::Ok,
    });
    for line in ["monitor", "show stats", "log brief"] {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let failure = run(&words, &root.paths, 0, &mut ClosedPipe).unwrap_err();
        assert_eq!(failure, ExitError::with(0, ""), "{line}");
    }
}

/// A page of one envelope behind the last one, without end.
fn endless(ask: &Ask) -> Answer {
    let Ask::List { after, .. } = ask else {
        return Answer::Ok;
    };
    let last = after.map_or(0x1a2b_3c4d_0000_0000, |id| id.get());
    Answer::Envelopes(vec![Listed {
        id: EvpId::from_u64(last + 1).unwrap(),
        text: "local|mda||a@b|c@d|c@d|1|1|0|0|pending|5|".to_owned(),
        action: String::new(),
        remote: String::new(),
    }])
}

#[test]
fn a_long_listing_ends_when_nobody_reads_it_any_more() {
    // smtpctl(8), show queue: it is made while it is read.
    let root = Root::new();
    let daemon = Daemon::start(&root.paths.socket, &[], endless);
    let words = ["show", "queue"].map(str::to_owned);
    let failure = run(&words, &root.paths, 0, &mut ClosedPipe).unwrap_err();
    assert_eq!(failure, ExitError::with(0, ""));
    assert!(daemon.asked.lock().unwrap().len() <= 4);
}

#[test]
fn nobody_asks_the_daemon_while_a_message_is_read_as_the_owner_of_the_queue() {
    // smtpctl(8), Selections: for `size` the message is read, and ids are those of all threads.
    let root = Root::new();
    let msgid = "1a2b3c4d".parse().unwrap();
    let body = root.paths.spool.join(crate::queue::fs::body_path(msgid));
    std::fs::create_dir_all(body.parent().unwrap()).unwrap();
    std::fs::write(&body, "Subject: x\n\nx\n").unwrap();
    let daemon = Daemon::start(&root.paths.socket, &[], endless);
    let words = ["show", "queue", "size", "1"].map(str::to_owned);
    let failure = run(&words, &root.paths, 0, &mut ClosedPipe).unwrap_err();
    assert_eq!(failure, ExitError::with(0, ""));
    assert_eq!(daemon.asked.lock().unwrap().len(), 1);
}
