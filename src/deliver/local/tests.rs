//! Deliveries by real processes of /bin/sh, without a parent.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use crate::config::{Action, Config, LocalAction, Position, Sources};
use crate::deliver::{Agent as _, Report};
use crate::mail::samples;
pub(crate) use crate::mail::samples::line;
use crate::mail::{MailAddr, MsgId, Outcome, Verdict};
use crate::privsep::batch::{Answer, BodyReader, Chunk, Head};
use crate::privsep::{MdaEnd, MdaJob, MdaRefusal, MdaResult, MdaTask, Pending};
use crate::queue::ram::Ram;

use super::*;
use crate::config::Method;
use crate::util::Timestamp;

/// Envelope `number` of message 1 for `user`, by the action `local`.
pub fn envelope(number: u32, user: &str) -> Envelope {
    Envelope {
        id: EvpId::new(MsgId::new(1).unwrap(), number).unwrap(),
        sender: MailAddr::new("al", "e.org").unwrap(),
        rcpt: MailAddr::new(user, "e.net").unwrap(),
        dest: MailAddr::new(user, "host.e.net").unwrap(),
        ..samples::envelope(user)
    }
}

/// A queue that holds a message with this body for this envelope.
pub fn queue_with(envelope: Envelope, body: &[u8]) -> (Queue, Envelope) {
    let queue = Queue::new(Arc::new(Ram::default()));
    let mut incoming = queue.begin().unwrap();
    incoming.add(envelope).unwrap();
    incoming.write(body).unwrap();
    let committed = incoming.commit().unwrap();
    let envelope = committed.envelopes()[0].clone();
    (queue, envelope)
}

fn live(delivery: Delivery) -> Live<Snapshot> {
    let action = Action {
        name: line("local"),
        method: Method::Local(LocalAction {
            delivery,
            user: None,
            alias: None,
            virtuals: None,
            userbase: None,
            wrapper: None,
        }),
        ttl_s: None,
        at: Position::default(),
    };
    let config = Config {
        server_name: line("e.net"),
        listeners: Vec::new(),
        socket: Default::default(),
        tables: BTreeMap::new(),
        actions: BTreeMap::from([("local".to_string(), action)]),
        rules: Vec::new(),
        mda_wrappers: BTreeMap::new(),
        smtp: Default::default(),
        queue: Default::default(),
        mda: Default::default(),
        scheduler: Default::default(),
        bounce_warn_s: Vec::new(),
        mta: Default::default(),
        pki: BTreeMap::new(),
        ca: BTreeMap::new(),
        procs: BTreeMap::new(),
        filters: BTreeMap::new(),
        srs: None,
        admd: None,
    };
    let sources = Sources::from_text("smtpd.conf", "", &[]);
    Live::new(Snapshot::load(1, config, &sources).unwrap())
}

/// What comes when the agent asks for a process.
#[derive(Clone)]
enum Script {
    /// `sh -c` with this text.
    Shell(String),
    /// The parent refuses.
    Refuse(MdaRefusal),
    /// The request cannot be sent.
    Unreachable,
    /// The parent dies.
    Lost,
    /// A batch child: answers each message by the first word of its body (an exit code; `die`
    /// ends it before the answer), several at a time.
    Batch,
}

struct FakeParent {
    script: Mutex<Script>,
    started: Mutex<Vec<MdaJob>>,
}

impl FakeParent {
    fn new(script: Script) -> Arc<FakeParent> {
        Arc::new(FakeParent {
            script: Mutex::new(script),
            started: Mutex::default(),
        })
    }

    fn shell(text: &str) -> Arc<FakeParent> {
        FakeParent::new(Script::Shell(text.to_string()))
    }
}

impl Calls for FakeParent {
    fn start_mda(&self, job: MdaJob, stdin: OwnedFd, output: OwnedFd) -> io::Result<Pending> {
        self.started.lock().unwrap().push(job);
        let script = self.script.lock().unwrap().clone();
        let (done, result) = std::sync::mpsc::sync_channel(1);
        match script {
            Script::Unreachable => return Err(io::ErrorKind::BrokenPipe.into()),
            Script::Lost => {}
            Script::Refuse(why) => done.send(MdaResult::Refused(why)).unwrap(),
            Script::Batch => {
                thread::spawn(move || {
                    let end = batch_child(stdin, output).map_or(1, |()| 0);
                    let _ = done.send(MdaResult::Done(MdaEnd::Exited(end)));
                });
            }
            Script::Shell(text) => return Ok(spawn_shell(&text, stdin, output)),
        }
        Ok(Pending::new(result, Box::new(|| {})))
    }
}

fn spawn_shell(text: &str, stdin: OwnedFd, output: OwnedFd) -> Pending {
    let stderr = output.try_clone().unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", text])
        .stdin(Stdio::piped())
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(stderr))
        .process_group(0)
        .spawn()
        .unwrap();
    // As the child of the parent does, but for the end of a message that stops half-way.
    let mut input = child.stdin.take().unwrap();
    thread::spawn(move || {
        let mut body = BodyReader::new(std::fs::File::from(stdin));
        if io::copy(&mut body, &mut input).is_err_and(|e| e.kind() != io::ErrorKind::BrokenPipe) {
            std::mem::forget(input);
        }
    });
    let group = format!("-{}", child.id());
    let (done, result) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        let status = child.wait().unwrap();
        let end = match (status.code(), status.signal()) {
            (Some(code), _) => MdaEnd::Exited(code),
            (None, signal) => MdaEnd::Signaled(signal.unwrap_or(0)),
        };
        let _ = done.send(MdaResult::Done(end));
    });
    let kill = move || {
        let killed = Command::new("/bin/sh")
            .args(["-c", "kill -9 \"$0\"", &group])
            .status();
        assert!(killed.unwrap().success());
    };
    Pending::new(result, Box::new(kill))
}

fn batch_child(stdin: OwnedFd, output: OwnedFd) -> io::Result<()> {
    let mut input = io::BufReader::new(std::fs::File::from(stdin));
    let mut output = std::fs::File::from(output);
    while let Some(head) = Head::read(&mut input)? {
        let mut body = Vec::new();
        loop {
            match Chunk::read(&mut input)? {
                Chunk::Bytes(len) => {
                    let start = body.len();
                    body.resize(start + len, 0);
                    io::Read::read_exact(&mut input, &mut body[start..])?;
                }
                Chunk::End => break,
                Chunk::Abort => panic!("aborted"),
            }
        }
        let text = String::from_utf8_lossy(&body);
        let (headers, text) = text.split_once("\n\n").unwrap();
        assert!(headers.starts_with("Return-Path: <al@e.org>\nDelivered-To: "));
        match text.split_whitespace().next().unwrap_or("0") {
            "die" => return Err(io::ErrorKind::Other.into()),
            "babble" => io::Write::write_all(&mut output, b"thread panicked: oh\n")?,
            word => Answer {
                sequence: head.sequence,
                code: word.parse().unwrap(),
                text: line("mail.maildir: because"),
            }
            .write(&mut output)?,
        }
    }
    Ok(())
}

struct Rig {
    agent: Agent,
    queue: Queue,
    reports: Receiver<Report>,
}

impl Rig {
    fn new(delivery: Delivery, calls: Arc<FakeParent>, options: &Options) -> Rig {
        let queue = Queue::new(Arc::new(Ram::default()));
        let (sender, reports) = unbounded();
        let agent =
            Agent::with_options(live(delivery), queue.clone(), calls, sender.into(), options)
                .unwrap();
        Rig {
            agent,
            queue,
            reports,
        }
    }

    fn offer(&mut self, user: &str, body: &[u8]) -> EvpId {
        self.offer_again(user, body, 0)
    }

    /// Offers a message that has failed so often.
    fn offer_again(&mut self, user: &str, body: &[u8], retry: u16) -> EvpId {
        let mut incoming = self.queue.begin().unwrap();
        let again = Envelope {
            retry,
            ..envelope(1, user)
        };
        let id = incoming.add(again).unwrap();
        incoming.write(body).unwrap();
        let committed = incoming.commit().unwrap();
        let envelope = committed.envelopes()[0].clone();
        assert_eq!(self.agent.offer(envelope), Offer::Taken);
        id
    }

    fn next(&mut self) -> (EvpId, Outcome) {
        let Ok(Report::Done(id, outcome)) = self.reports.recv_timeout(Duration::from_secs(180))
        else {
            panic!("no outcome");
        };
        self.agent.finished(id);
        (id, outcome)
    }
}

fn mda() -> Delivery {
    Delivery::Mda(line("ignored by the fake parent"))
}

fn maildir() -> Delivery {
    Delivery::Maildir {
        path: None,
        junk: false,
    }
}

fn run_with(script: Script, body: &[u8], timeout: Duration) -> Outcome {
    let options = Options {
        threads: 2,
        timeout,
        ..Options::default()
    };
    let mut rig = Rig::new(mda(), FakeParent::new(script), &options);
    let id = rig.offer("bob", body);
    let (reported, outcome) = rig.next();
    assert_eq!(reported, id);
    outcome
}

fn run(text: &str, body: &[u8]) -> Outcome {
    run_with(
        Script::Shell(text.to_string()),
        body,
        Duration::from_secs(180),
    )
}

fn same_length(body: &[u8]) -> String {
    let added = "Return-Path: <al@e.org>\nDelivered-To: bob@e.net\n".len();
    format!("test $(wc -c) -eq {}", added + body.len())
}

#[test]
fn the_pool_follows_the_limit_within_reason() {
    // smtpd.conf(5), mda limit: max-session.
    let sizes = [0, 1, 16, 40, 128, 100_000].map(|limit| pool_size(limit, &Options::default()));
    assert_eq!(sizes, [1, 1, 16, 40, 128, 128]);
}

#[test]
fn a_program_reads_headers_and_body_byte_for_byte() {
    // RFC 5321 §4.4: Return-Path comes first; the message follows unchanged.
    let body = b"A: b\n\n.\n..\n\0\xff\r\nno final newline";
    let expected = tempfile::NamedTempFile::new().unwrap();
    let added = b"Return-Path: <al@e.org>\nDelivered-To: bob@e.net\n";
    std::fs::write(expected.path(), [&added[..], &body[..]].concat()).unwrap();
    let text = format!("cmp - {}", expected.path().display());
    assert_eq!(run(&text, body).verdict, Verdict::Delivered);
    assert_eq!(
        run("grep -q nothing-of-the-kind", body).verdict,
        Verdict::PermFail
    );
}

#[test]
fn exit_codes_signals_and_output_become_outcomes() {
    // smtpd.conf(5), MDA COMMANDS.
    for (text, verdict, said) in [
        ("cat >/dev/null", Verdict::Delivered, ""),
        ("cat >/dev/null; echo fine; exit 0", Verdict::Delivered, ""),
        (
            "cat >/dev/null; exit 75",
            Verdict::TempFail,
            "exited abnormally",
        ),
        (
            "cat >/dev/null; echo a; echo b >&2; exit 71",
            Verdict::TempFail,
            "\"b\"",
        ),
        (
            "cat >/dev/null; echo 'no such user'; exit 67",
            Verdict::PermFail,
            "\"no such user\"",
        ),
        (
            "cat >/dev/null; exit 1",
            Verdict::PermFail,
            "exited abnormally",
        ),
        ("kill -11 $$", Verdict::TempFail, "terminated; signal 11"),
    ] {
        let outcome = run(text, b"hi\n");
        assert_eq!(
            (outcome.verdict, outcome.text.as_str()),
            (verdict, said),
            "{text}"
        );
    }
}

#[test]
fn a_program_need_not_read_its_input() {
    let body = vec![b'x'; 1 << 20];
    assert_eq!(run("exit 0", &body).verdict, Verdict::Delivered);
    assert_eq!(
        run("exec 0<&-; echo done; exit 0", &body).verdict,
        Verdict::Delivered
    );
    assert_eq!(
        run("head -c 10 >/dev/null; exit 67", &body).verdict,
        Verdict::PermFail
    );
}

#[test]
fn a_flood_of_output_is_drained_and_only_its_end_kept() {
    let text = "yes no | head -c 3000000; cat >/dev/null; echo; echo the end; exit 75";
    let outcome = run(text, &vec![b'x'; 1 << 20]);
    assert_eq!(outcome.text.as_str(), "\"the end\"");
}

#[test]
fn thirty_mebibytes_go_through() {
    let body = vec![b'x'; 30 << 20];
    let silent = format!("exec >/dev/null 2>&1; {}", same_length(&body));
    for text in [same_length(&body), silent] {
        assert_eq!(run(&text, &body).verdict, Verdict::Delivered, "{text}");
    }
}

#[test]
fn a_program_that_takes_too_long_is_killed_with_its_children() {
    let shell = |text: &str| Script::Shell(text.to_string());
    let short = Duration::from_millis(300);
    for text in [
        "sleep 600",
        "exec 0<&- 1>&- 2>&-; sleep 600",
        "echo working; sleep 600 & wait",
    ] {
        let outcome = run_with(shell(text), &vec![b'x'; 1 << 20], short);
        assert_eq!(outcome.verdict, Verdict::TempFail, "{text}");
    }
    let outcome = run_with(shell("sleep 600"), b"x", short);
    assert_eq!(outcome.text.as_str(), "terminated; timeout");
}

#[test]
fn a_child_left_behind_with_the_pipes_does_not_hold_the_delivery() {
    let outcome = run("sleep 3 & echo said; cat >/dev/null; exit 75", b"x\n");
    assert_eq!(outcome.text.as_str(), "\"said\"");
}

#[test]
fn what_the_parent_says_is_passed_on() {
    let refuse = |code, text: &str| {
        let text = line(text);
        Script::Refuse(MdaRefusal::Exit { code, text })
    };
    for mode in [mda(), maildir()] {
        for (script, verdict, text) in [
            (
                refuse(77, "MDA not allowed"),
                Verdict::PermFail,
                "MDA not allowed",
            ),
            (refuse(71, "fork: no"), Verdict::TempFail, "fork: no"),
            (
                Script::Refuse(MdaRefusal::NoUser),
                Verdict::PermFail,
                exit::PERMANENT_LOOKUP,
            ),
            (Script::Unreachable, Verdict::TempFail, "Cannot get mda fd"),
            (Script::Lost, Verdict::TempFail, "lost the parent process"),
        ] {
            let mut rig = Rig::new(mode.clone(), FakeParent::new(script), &Options::default());
            rig.offer("bob", b"x\n");
            let (_, outcome) = rig.next();
            assert_eq!((outcome.verdict, outcome.text.as_str()), (verdict, text));
        }
    }
}

#[test]
fn a_loop_and_a_missing_message_start_nothing() {
    for delivery in [mda(), maildir()] {
        let parent = FakeParent::shell("exit 0");
        let mut rig = Rig::new(delivery, parent.clone(), &Options::default());
        let id = rig.offer("bob", b"Delivered-To: bob@host.e.net\n\nhi\n");
        let (_, outcome) = rig.next();
        assert_eq!(outcome, Outcome::looped());
        rig.queue.remove(id).unwrap();
        let mut gone = envelope(1, "bob");
        gone.id = id;
        rig.agent.offer(gone);
        let (_, outcome) = rig.next();
        assert_eq!(outcome.text.as_str(), "Cannot get message fd");
        let singles = parent.started.lock().unwrap();
        assert!(singles.iter().all(|job| job.task == MdaTask::Batch));
    }
}

#[test]
fn a_batch_gives_each_message_its_own_outcome_with_one_process() {
    let parent = FakeParent::new(Script::Batch);
    let mut rig = Rig::new(maildir(), parent.clone(), &Options::default());
    let mut expected = BTreeMap::new();
    for number in 0..500 {
        let code = [0, 75, 1, 0][number % 4];
        let verdict = [
            Verdict::Delivered,
            Verdict::TempFail,
            Verdict::PermFail,
            Verdict::Delivered,
        ][number % 4];
        let id = rig.offer("bob", format!("A: b\n\n{code} text\n").as_bytes());
        expected.insert(id, verdict);
    }
    while !expected.is_empty() {
        let (id, outcome) = rig.next();
        assert_eq!(expected.remove(&id), Some(outcome.verdict));
        if outcome.verdict != Verdict::Delivered {
            assert_eq!(outcome.text.as_str(), "\"mail.maildir: because\"");
        }
    }
    let started = parent.started.lock().unwrap();
    assert!(started.len() <= 7, "{} processes", started.len());
    assert!(started.iter().all(|job| job.task == MdaTask::Batch));
}

#[test]
fn a_batch_that_dies_or_babbles_fails_the_unanswered_for_now() {
    for word in ["die", "babble"] {
        let mut rig = Rig::new(
            maildir(),
            FakeParent::new(Script::Batch),
            &Options::default(),
        );
        let good = rig.offer("bob", b"A: b\n\n0\n");
        assert_eq!(rig.next(), (good, Outcome::delivered()));
        let bad = rig.offer("bob", format!("A: b\n\n{word}\n").as_bytes());
        let (id, outcome) = rig.next();
        assert_eq!((id, outcome.verdict), (bad, Verdict::TempFail));
        let again = rig.offer("bob", b"A: b\n\n0\n");
        assert_eq!(rig.next(), (again, Outcome::delivered()));
    }
}

#[test]
fn who_shared_a_process_with_one_that_dies_does_not_do_so_again() {
    let parent = FakeParent::new(Script::Batch);
    let mut rig = Rig::new(maildir(), parent, &Options::default());
    let first = rig.offer("bob", b"A: b\n\n0\n");
    let bad = rig.offer_again("bob", b"A: b\n\ndie\n", 1);
    let good = rig.offer_again("bob", b"A: b\n\n0\n", 1);
    let outcomes = BTreeMap::from([rig.next(), rig.next(), rig.next()]);
    let verdicts = [first, bad, good].map(|id| outcomes[&id].verdict);
    let expected = [Verdict::Delivered, Verdict::TempFail, Verdict::Delivered];
    assert_eq!(verdicts, expected);
}

#[test]
fn the_log_line_has_its_fields_in_order() {
    // OpenSMTPD's `mda delivery` line: parsers rely on its fields and their order.
    let mut envelope = envelope(1, "bob");
    envelope.sender = MailAddr::null();
    envelope.created = Timestamp(0);
    let line = crate::log::maillog::mda_delivery_line(
        0xab,
        &envelope,
        Timestamp(65),
        "PermFail",
        "Error (user unknown: \"x\")",
    );
    assert_eq!(
        line,
        "00000000000000ab mda delivery evpid=0000000100000001 from=<> to=<bob@host.e.net> \
         rcpt=<bob@e.net> user=bob delay=1m5s result=PermFail stat=Error (user unknown: \"x\")"
    );
}
