//! What was answered 250 is delivered, whatever is killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::{Client, Instance, Setup, alive, field, files, text, wait_for};

/// Kills per test; `SMTPD_TEST_KILLS=20` for the long run.
fn rounds() -> usize {
    std::env::var("SMTPD_TEST_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(4)
}

/// Clients that send numbered messages, reconnecting when the daemon goes, and remember which
/// ones were answered 250.
struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(port: u16, clients: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..clients)
            .map(|client| {
                let (stop, accepted) = (stop.clone(), accepted.clone());
                std::thread::spawn(move || client_loop(port, client, &stop, &accepted))
            })
            .collect();
        Load {
            stop,
            accepted,
            threads,
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let accepted = self.accepted.lock().unwrap();
        accepted.clone()
    }
}

fn client_loop(port: u16, client: usize, stop: &AtomicBool, accepted: &Mutex<Vec<String>>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(mut session) = Client::try_hello(port) else {
            std::thread::sleep(std::time::Duration::from_millis(2));
            continue;
        };
        for _ in 0..20 {
            number += 1;
            let name = format!("{client}-{number}");
            let message = format!("X-Name: {name}\n\n{}", "some text\n".repeat(100));
            match session.try_mail("a@example.net", &["b@example.org"], message.as_bytes()) {
                Some(reply) if reply.starts_with("250 2.0.0 ") => {
                    accepted.lock().unwrap().push(name);
                }
                Some(_) => break,
                None => break,
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

/// Everything accepted is in the maildir, and only what was in flight at a kill may be there twice.
fn check(daemon: &Instance, accepted: &[String], duplicates_at_most: usize) {
    daemon.wait_empty();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for mail in daemon.maildir("mail") {
        assert!(
            mail.ends_with(b"some text\n"),
            "a torn message was delivered"
        );
        *found
            .entry(field(&mail, "X-Name").expect("a name"))
            .or_default() += 1;
    }
    let lost: Vec<_> = accepted
        .iter()
        .filter(|name| !found.contains_key(*name))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        accepted.len()
    );
    let twice: usize = found.values().map(|count| count - 1).sum();
    eprintln!("{} accepted, {} delivered twice", accepted.len(), twice);
    assert!(twice <= duplicates_at_most, "{twice} duplicates");
}

#[test]
fn killing_the_engine_loses_nothing() {
    // smtpd(8): an engine that dies is started again; what was answered 250 is on the disk.
    let mut daemon = Setup::maildir().start();
    let load = Load::start(daemon.port, 4);
    for round in 0..rounds() {
        let before = load.accepted();
        wait_for("messages to be accepted", || {
            load.accepted() > before + 20 + round * 7 % 13
        });
        daemon.signal(daemon.engine_pid(), "KILL");
        // The parent waits longer after each death; a new one does not.
        if round % 4 == 3 {
            daemon.stop();
            daemon.start();
        }
    }
    let before = load.accepted();
    wait_for("the last engine to serve", || load.accepted() > before + 20);
    let accepted = load.finish();
    check(&daemon, &accepted, rounds() * 600);
    assert!(
        daemon
            .log()
            .contains("warn: lost child: engine terminated; signal 9")
    );
}

#[test]
fn what_is_paused_and_resumed_is_so_for_the_next_engine() {
    // smtpctl(8), pause and resume: until the daemon stops.
    let daemon = Setup::maildir().arg("-Pmta").start();
    for words in [["pause", "mda"], ["resume", "mta"], ["pause", "smtp"]] {
        assert!(daemon.ctl(words).status.success());
    }
    let engine = daemon.engine_pid();
    daemon.signal(engine, "KILL");
    wait_for("the engine to end", || !alive(engine));
    let mut status = String::new();
    wait_for("the next one", || {
        status = text(&daemon.ctl(["show", "status"]));
        !status.is_empty()
    });
    assert_eq!(status, "MDA paused\nMTA running\nSMTP paused\n");
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    assert_eq!(daemon.ctl(["resume", "mta"]).status.code(), Some(1));
}

#[test]
fn killing_the_parent_loses_nothing() {
    let mut daemon = Setup::maildir().start();
    let load = Load::start(daemon.port, 4);
    for round in 0..rounds() {
        let before = load.accepted();
        wait_for("messages to be accepted", || {
            load.accepted() > before + 20 + round * 7 % 13
        });
        daemon.kill_parent();
        daemon.start();
    }
    let before = load.accepted();
    wait_for("the last daemon to serve", || load.accepted() > before + 20);
    let accepted = load.finish();
    check(&daemon, &accepted, rounds() * 600);
}

#[test]
fn stopping_under_load_loses_nothing_and_repeats_nothing() {
    // smtpd(8): SIGTERM stops the daemon gracefully.
    let mut daemon = Setup::maildir().start();
    let load = Load::start(daemon.port, 4);
    for round in 0..rounds() {
        let before = load.accepted();
        wait_for("messages to be accepted", || {
            load.accepted() > before + 20 + round * 7 % 13
        });
        let status = daemon.stop();
        assert_eq!(status.code(), Some(0), "{}", daemon.log());
        daemon.start();
    }
    let accepted = load.finish();
    check(&daemon, &accepted, 0);
}

#[test]
fn killing_deliveries_loses_nothing() {
    // spool-layout.md, Guarantees: deliveries are at least once, also when a batch is killed.
    let daemon = Setup::maildir().start();
    let load = Load::start(daemon.port, 4);
    for _ in 0..rounds() {
        let before = load.accepted();
        wait_for("messages to be accepted", || load.accepted() > before + 20);
        wait_for("a delivery to be killed", || {
            let found = daemon.delivery_pids();
            found.iter().for_each(|pid| daemon.signal(*pid, "KILL"));
            !found.is_empty()
        });
    }
    let accepted = load.finish();
    // Those that were killed have a time to be tried again.
    wait_for("the queue to be empty", || {
        daemon.ctl(["schedule", "all"]).status.success() && daemon.queue().is_empty()
    });
    check(&daemon, &accepted, rounds() * 600);
}

/// A daemon that has taken so many messages and delivers none.
fn with_held_mail(count: usize) -> Instance {
    let daemon = Setup::maildir().arg("-Pmda").start();
    for n in 0..count {
        let text = format!("Subject: {n}\n\n{n}\n");
        daemon
            .hello()
            .mail("a@example.net", &["b@example.org"], text.as_bytes());
    }
    daemon
}

#[test]
fn a_queue_left_behind_is_delivered_at_the_next_start() {
    // spool-layout.md, Transitions: at a start queue/ is walked, beside accepting mail.
    let mut daemon = with_held_mail(50);
    assert_eq!(daemon.queue().len(), 50);
    daemon.stop();
    daemon.start();
    assert_eq!(daemon.queue().len(), 50);
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    daemon.wait_mail(50);
    daemon.wait_empty();
}

#[test]
fn small_messages_share_files_until_the_daemon_is_stopped() {
    // spool-layout.md, Bags: they survive the death of the daemon, are shown by smtpctl, and a clean
    // stop leaves what older versions know.
    let mut daemon = with_held_mail(3);
    let bags = daemon.path().join("spool/bags");
    assert!(!files(&bags).is_empty());
    let engine = daemon.engine_pid();
    daemon.signal(daemon.pid(), "KILL");
    daemon.wait_end();
    wait_for("the engine to be gone", || !alive(engine));
    let listed = daemon.queue();
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(listed.iter().all(|line| line.contains("|offline|")));
    for line in &listed {
        let id = line.split('|').next().unwrap();
        let shown = daemon.ctl(["show", "message", id]).stdout;
        assert!(String::from_utf8_lossy(&shown).contains("Subject: "));
    }
    daemon.start();
    assert_eq!(daemon.queue().len(), 3);
    daemon.stop();
    assert!(files(&bags).is_empty());
    assert_eq!(daemon.spooled().len(), 6);
    daemon.start();
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    daemon.wait_mail(3);
    daemon.wait_settled();
}

#[test]
fn an_unreadable_envelope_is_set_aside_and_the_rest_goes_on() {
    // spool-layout.md, guarantee 5: what is unreadable moves to corrupt/; the daemon goes on.
    let mut daemon = with_held_mail(3);
    let victim = daemon.queue()[0].split('|').next().unwrap().to_string();
    daemon.stop();
    let path = daemon
        .path()
        .join("spool/queue")
        .join(&victim[..2])
        .join(&victim[..8])
        .join(&victim);
    std::fs::write(&path, "version: 3\nno such field: 1\n").unwrap();
    daemon.start();
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    daemon.wait_mail(2);
    daemon.wait_empty();
    assert!(!path.exists());
    assert!(!crate::support::tree(&daemon.path().join("spool/corrupt")).is_empty());
    daemon.wait_log(&victim);
}

#[test]
fn the_queue_runs_once_in_the_foreground() {
    // smtpd(8), -q: runs the queue once and exits, for machines without a daemon.
    let mut daemon = with_held_mail(5);
    daemon.stop();
    let mut once = daemon.program("smtpd");
    once.args(["-d", "-q", "-R"]).arg(daemon.path());
    let output = crate::support::run(once, b"");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    daemon.wait_mail(5);
    assert!(daemon.spooled().is_empty());
}
