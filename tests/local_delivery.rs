//! Local delivery with both ends real: the engine's agent, and the code that runs as the
//! recipient. Only the parent between them is played.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use smtpd::config::{self, Defaults, Delivery, Sources};
use smtpd::deliver::local::Agent;
use smtpd::deliver::{Agent as _, Offer, Report};
use smtpd::mail::{Envelope, EvpId, MailAddr, Outcome, Verdict};
use smtpd::mda;
use smtpd::privsep::job::ChildJob;
use smtpd::privsep::{Calls, MdaEnd, MdaJob, MdaResult, MdaTask, Pending};
use smtpd::queue::Queue;
use smtpd::queue::ram::Ram;
use smtpd::table::Snapshot;
use smtpd::util::Live;

#[path = "../src/mail/samples.rs"]
mod samples;

use samples::line;

/// Runs batches in a thread of this process: it is the recipient already.
struct Parent {
    delivery: Delivery,
    home: String,
}

impl Calls for Parent {
    fn start_mda(&self, job: MdaJob, stdin: OwnedFd, output: OwnedFd) -> io::Result<Pending> {
        assert_eq!(job.task, MdaTask::Batch, "a plain maildir action");
        let (done, result) = std::sync::mpsc::sync_channel(1);
        let job = ChildJob {
            user: job.user.clone(),
            job,
            delivery: self.delivery.clone(),
            own_forward: false,
            wrapper: None,
            home: self.home.clone(),
            uid: 0,
            libexec: PathBuf::new(),
            delimiter: '+',
        };
        let home = self.home.clone();
        std::thread::spawn(move || {
            let served = mda::batch::serve(&job, &home, File::from(stdin), File::from(output));
            let code = served.map_or_else(|failure| failure.code, |()| 0);
            let _ = done.send(MdaResult::Done(MdaEnd::Exited(code)));
        });
        Ok(Pending::new(result, Box::new(|| {})))
    }
}

struct Rig {
    dir: tempfile::TempDir,
    queue: Queue,
    agent: Agent,
    reports: Receiver<Report>,
}

impl Rig {
    fn new(path: &str) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap().to_string();
        let delivery = Delivery::Maildir {
            path: Some(line(path)),
            junk: false,
        };
        let queue = Queue::new(Arc::new(Ram::default()));
        let (sender, reports) = unbounded();
        let parent = Parent { delivery, home };
        let agent = Agent::new(live(path), queue.clone(), Arc::new(parent), sender.into()).unwrap();
        Rig {
            dir,
            queue,
            agent,
            reports,
        }
    }

    fn offer(&mut self, local: &str, body: &[u8]) -> EvpId {
        let mut incoming = self.queue.begin().unwrap();
        incoming.add(envelope(local)).unwrap();
        incoming.write(body).unwrap();
        let committed = incoming.commit().unwrap();
        let envelope = committed.envelopes()[0].clone();
        let id = envelope.id;
        assert_eq!(self.agent.offer(envelope), Offer::Taken);
        id
    }

    fn settle(&mut self) -> (EvpId, Outcome) {
        let Ok(Report::Done(id, outcome)) = self.reports.recv_timeout(Duration::from_secs(120))
        else {
            panic!("no outcome");
        };
        self.agent.finished(id);
        (id, outcome)
    }

    fn messages(&self, maildir: &str) -> Vec<Vec<u8>> {
        let new = self.dir.path().join(maildir).join("new");
        let mut messages: Vec<_> = std::fs::read_dir(new)
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        messages.sort();
        messages
    }
}

fn live(path: &str) -> Live<Snapshot> {
    let text = format!("action \"local\" maildir \"{path}\"\nmatch for any action \"local\"\n");
    let defaults = Defaults {
        server_name: line("e.net"),
        addresses: Vec::new(),
    };
    let sources = Sources::from_text("smtpd.conf", &text, &[]);
    let config = config::load(&sources, &defaults).unwrap().config;
    Live::new(Snapshot::load(1, config, &sources).unwrap())
}

/// From nobody to `local`, who is another name of bob.
fn envelope(local: &str) -> Envelope {
    let addr = MailAddr::new(local, "e.net").unwrap();
    Envelope {
        sender: MailAddr::null(),
        rcpt: addr.clone(),
        dest: addr,
        ..samples::envelope("bob")
    }
}

fn with_headers(local: &str, body: &[u8]) -> Vec<u8> {
    let headers = format!("Return-Path: <>\nDelivered-To: {local}@e.net\n");
    [headers.as_bytes(), body].concat()
}

#[test]
fn each_message_arrives_once_and_byte_for_byte_where_its_specifiers_say() {
    // smtpd.conf(5), maildir and FORMAT SPECIFIERS.
    let mut rig = Rig::new("~/%{rcpt.user}");
    let mut expected: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for number in 0..300 {
        let local = ["ann", "bob", "cid"][number % 3];
        let body = format!("Subject: {number}\n\n.\n..\r\n\0\u{e9}\n");
        waiting.push(rig.offer(local, body.as_bytes()));
        let messages = expected.entry(local).or_default();
        messages.push(with_headers(local, body.as_bytes()));
    }
    while !waiting.is_empty() {
        let (id, outcome) = rig.settle();
        assert_eq!(outcome.verdict, Verdict::Delivered, "{outcome:?}");
        let at = waiting.iter().position(|waiting| *waiting == id).unwrap();
        waiting.swap_remove(at);
    }
    for (local, mut messages) in expected {
        messages.sort();
        assert_eq!(rig.messages(local), messages);
    }
}

#[test]
fn thirty_mebibytes_and_an_empty_message_arrive() {
    let mut rig = Rig::new("~/box");
    let mut big = b"A: b\n\n".to_vec();
    big.resize(30 << 20, b'x');
    big.push(b'\n');
    rig.offer("bob", &big);
    rig.offer("bob", b"");
    for _ in 0..2 {
        assert_eq!(rig.settle().1.verdict, Verdict::Delivered);
    }
    let mut expected = [with_headers("bob", &big), with_headers("bob", b"")];
    expected.sort();
    assert!(rig.messages("box") == expected);
}

#[test]
fn a_maildir_that_cannot_be_written_is_told_as_the_helper_would() {
    // mail.maildir(8), EXIT STATUS. The error's text is what the helper prints.
    let mut rig = Rig::new("~/file/box");
    std::fs::write(rig.dir.path().join("file"), b"").unwrap();
    rig.offer("bob", b"A: b\n\n");
    let (_, outcome) = rig.settle();
    assert_eq!(outcome.verdict, Verdict::TempFail);
    assert_eq!(outcome.status.to_string(), "4.3.0");
    assert!(outcome.text.starts_with("\"mail.maildir: "), "{outcome:?}");
    assert!(outcome.text.ends_with(": Not a directory\""), "{outcome:?}");
}

fn helper(program: &str, args: &[&str], home: &Path, input: &[u8]) -> (i32, String) {
    let mut child = Command::new(program)
        .args(args)
        .env("HOME", home)
        .env_remove("EXTENSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A helper that refuses does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn helpers_deliver_for_users_and_refuse_root() {
    // mail.maildir(8), mail.mboxfile(8), mail.mda(8).
    let root = smtpd::sys::user::effective_uid() == 0;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("box");
    let file = file.to_str().unwrap();
    for (name, program, args, code) in [
        (
            "mail.maildir",
            env!("CARGO_BIN_EXE_mail_maildir"),
            &[][..],
            0,
        ),
        (
            "mail.mboxfile",
            env!("CARGO_BIN_EXE_mail_mboxfile"),
            &["-f", "a@b", file],
            0,
        ),
        (
            "mail.mda",
            env!("CARGO_BIN_EXE_mail_mda"),
            &["cat >/dev/null; exit 69"],
            69,
        ),
    ] {
        let result = helper(program, args, home.path(), b"A: b\n\nhi\n");
        if root {
            assert_eq!(
                result,
                (1, format!("{name}: may not be executed as root\n"))
            );
        } else {
            assert_eq!(result, (code, String::new()));
        }
    }
    if !root {
        let new = home.path().join("Maildir/new");
        assert_eq!(std::fs::read_dir(new).unwrap().count(), 1);
        assert!(std::fs::read(file).unwrap().ends_with(b"\nA: b\n\nhi\n\n"));
    }
}

#[test]
fn mail_local_knows_its_usage_and_its_users() {
    // mail.local(8).
    let program = env!("CARGO_BIN_EXE_mail_local");
    let home = tempfile::tempdir().unwrap();
    let (code, said) = helper(program, &[], home.path(), b"");
    assert_eq!(code, 64);
    assert!(said.starts_with("usage: mail.local "));
    let (code, said) = helper(program, &["no-such-user-here"], home.path(), b"x\n");
    assert_eq!(
        (code, said.as_str()),
        (67, "mail.local: unknown name: no-such-user-here\n")
    );
}
