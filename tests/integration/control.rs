//! smtpctl(8): what an administrator asks and what strangers may not.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use crate::dice::Dice;
use crate::support::{Setup, root_only, text, wait_for};

#[test]
fn the_queue_is_listed_scheduled_and_removed() {
    // smtpctl(8), The queue listing: fourteen fields, one line an envelope.
    let daemon = Setup::maildirs().arg("-Pmda").start();
    let mut client = daemon.hello();
    let first = client.mail(
        "a@example.net",
        &["b@example.org", "c@example.org"],
        b"\nx\n",
    );
    client.mail("", &["b@example.org"], b"\ny\n");
    let lines = daemon.queue();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        let fields: Vec<&str> = line.split('|').collect();
        assert_eq!(fields.len(), 14, "{line}");
        assert_eq!(
            (fields[1], fields[2], fields[11]),
            ("inet4", "mda", "pending"),
            "{line}"
        );
        assert!(
            fields[8].parse::<u64>().unwrap() > fields[7].parse::<u64>().unwrap(),
            "{line}"
        );
    }
    assert!(
        lines
            .iter()
            .any(|line| line.contains("|@|b@example.org|b@example.org|"))
    );
    let shown = daemon.ctl(["show", "queue", &first]);
    assert_eq!(text(&shown).lines().count(), 2);
    let evpid = text(&shown).split('|').next().unwrap().to_string();
    assert!(text(&daemon.ctl(["show", "envelope", &evpid])).contains("sender: a@example.net\n"));
    assert!(text(&daemon.ctl(["show", "message", &first])).ends_with("\n\nx\n"));
    assert_eq!(
        text(&daemon.ctl(["pause", "envelope", &evpid])),
        "1 envelope paused\n"
    );
    assert!(text(&daemon.ctl(["show", "queue", &first])).contains("suspend"));
    assert_eq!(
        text(&daemon.ctl(["resume", "envelope", &evpid])),
        "1 envelope resumed\n"
    );
    let third = client.mail("", &["b@example.org"], b"\nz\n");
    assert_eq!(
        text(&daemon.ctl(["remove", &evpid, &third])),
        "2 envelopes removed\n"
    );
    wait_for("the removal", || daemon.queue().len() == 2);
    daemon.wait_log("stat=Removed by administrator");
    assert_eq!(
        text(&daemon.ctl(["schedule", "all"])),
        "2 envelopes scheduled\n"
    );
    assert_eq!(
        text(&daemon.ctl(["show", "status"])),
        "MDA paused\nMTA running\nSMTP running\n"
    );
    assert_eq!(text(&daemon.ctl(["resume", "mda"])), "command succeeded\n");
    assert_eq!(daemon.ctl(["resume", "mda"]).status.code(), Some(1));
    wait_for("the two that are left", || {
        daemon.maildir("b").len() + daemon.maildir("c").len() == 2
    });
    daemon.wait_empty();
    assert!(text(&daemon.ctl(["show", "stats"])).contains("scheduler.delivery.ok=2\n"));
}

#[test]
fn a_paused_envelope_stays_whoever_flushes_the_queue() {
    // smtpctl(8), pause envelope: until they are resumed, whoever flushes the queue, and also after
    // the daemon is started anew. The usual cron job is one who flushes.
    let mut daemon = Setup::maildir().arg("-Pmda").start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@example.org"], b"\nheld\n");
    assert_eq!(
        text(&daemon.ctl(["pause", "envelope", "all"])),
        "1 envelope paused\n"
    );
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    client.mail("a@example.net", &["b@example.org"], b"\nfree\n");
    daemon.wait_mail(1);
    wait_for("the other to go", || daemon.queue().len() == 1);
    let held = daemon.queue().remove(0);
    let id = held.split('|').next().unwrap().to_string();
    assert!(held.contains("|suspend|"), "{held}");
    let run_queue = |daemon: &crate::support::Instance| {
        let mut run = daemon.program("smtpd");
        let output = run.arg("-q").arg("-R").arg(daemon.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        // cron(8) mails what is printed, and that mail would be in the next run.
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    };
    for which in ["all", &id[..8], &id] {
        assert_eq!(
            text(&daemon.ctl(["schedule", which])),
            "0 envelope scheduled\n"
        );
    }
    assert!(daemon.sendmail(["-q"], b"").status.success());
    run_queue(&daemon);
    daemon.stop();
    run_queue(&daemon);
    assert_eq!(daemon.queue().len(), 1, "it is read from the spool");
    assert_eq!(daemon.maildir("mail").len(), 1);
    daemon.set_args(&[]);
    daemon.start();
    assert_eq!(
        text(&daemon.ctl(["schedule", "all"])),
        "0 envelope scheduled\n"
    );
    assert!(daemon.queue()[0].contains("|suspend|"));
    assert_eq!(
        text(&daemon.ctl(["resume", "envelope", &id])),
        "1 envelope resumed\n"
    );
    daemon.wait_mail(2);
}

#[test]
fn a_report_that_is_refused_is_logged_with_the_whole_reply() {
    // smtpd(8), DIFFERENCES: the whole reply, recipient included.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"gone\" mda \"exit 67\" virtual $all\n\
         match from any for domain \"example.org\" action \"gone\"\n",
    )
    .start();
    let msgid = daemon
        .hello()
        .mail("a@elsewhere.example", &["b@example.org"], b"\nx\n");
    daemon.wait_log(&format!(
        "warn: PermFail injecting failure report on message {msgid} to <a@elsewhere.example> \
         for 1 envelope: 550 Invalid recipient: <a@elsewhere.example>\n"
    ));
}

#[test]
fn root_reads_the_spool_as_its_owner() {
    // smtpctl(8), DIFFERENCES: what the engine may have put in the place of a file is not read as root.
    if !root_only("control::root_reads_the_spool_as_its_owner") {
        return;
    }
    let mut daemon = Setup::maildir().arg("-Pmda").start();
    let mut client = daemon.hello();
    let id = client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.stop();
    let show = |what: &str| {
        let mut show = std::process::Command::new(env!("CARGO_BIN_EXE_smtpctl"));
        let show = show.arg("-R").arg(daemon.path()).args(["show", what]);
        let output = show
            .args((what == "message").then_some(&id))
            .output()
            .unwrap();
        (text(&output), output.status.code())
    };
    assert!(show("message").0.ends_with("\n\nx\n"));
    assert_eq!(show("queue").0.lines().count(), 1);
    let message = daemon.path().join("spool/queue").join(&id[..2]).join(&id);
    let secrets = daemon.path().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("message"), "secret").unwrap();
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o700)).unwrap();
    for file in std::fs::read_dir(&message).unwrap().flatten() {
        if file.file_name() != "message" {
            std::fs::copy(file.path(), secrets.join(file.file_name())).unwrap();
        }
    }
    std::fs::rename(&message, daemon.path().join("away")).unwrap();
    std::os::unix::fs::symlink(&secrets, &message).unwrap();
    assert_eq!(show("message"), (String::new(), Some(1)));
    assert_eq!(show("queue").0, "");
}

#[test]
fn a_paused_smtp_side_takes_nothing_new() {
    // smtpctl(8), pause smtp: stop accepting; sessions that are there go on.
    let daemon = Setup::maildir().start();
    let mut client = daemon.hello();
    assert!(daemon.ctl(["pause", "smtp"]).status.success());
    client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    // sendmail(8): what is submitted meanwhile is stored, and comes in when it is resumed.
    let output = daemon.sendmail(["b@example.org"], b"\ny\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    daemon.wait_mail(1);
    daemon.wait_log("server disallowed submission request: smtp is paused");
    assert!(daemon.ctl(["resume", "smtp"]).status.success());
    assert_eq!(
        daemon.sendmail(["b@example.org"], b"\ny\n").status.code(),
        Some(0)
    );
    daemon.wait_mail(3);
}

#[test]
fn a_message_moved_in_by_hand_is_discovered() {
    // smtpctl(8), discover: pick up what was put into the spool by hand.
    let mut daemon = Setup::maildir().arg("-Pmda").start();
    let id = daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.stop();
    let kept = daemon.path().join("kept");
    let place = daemon.path().join("spool/queue").join(&id[..2]).join(&id);
    std::fs::rename(&place, &kept).unwrap();
    daemon.start();
    assert!(daemon.queue().is_empty());
    std::fs::rename(&kept, &place).unwrap();
    assert_eq!(
        text(&daemon.ctl(["discover", &id])),
        "1 envelope discovered\n"
    );
    assert_eq!(daemon.queue().len(), 1);
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    daemon.wait_mail(1);
}

#[test]
fn garbage_on_the_socket_ends_only_its_connection() {
    // CVE-2025-62875: a malformed frame from a local user.
    let daemon = Setup::maildir().start();
    let mut dice = Dice::new(1);
    for round in 0..200usize {
        let Ok(mut stream) = UnixStream::connect(daemon.path().join("smtpd.sock")) else {
            panic!("the control socket is gone after {round} rounds");
        };
        let bytes: Vec<u8> = (0..round * 3 % 300)
            .map(|_| {
                // Small lengths now and then, so that frames get past their first field.
                match dice.roll(5) {
                    0 => 0,
                    _ => dice.number() as u8,
                }
            })
            .collect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.wait_mail(1);
    assert!(!daemon.log().contains("lost child"), "{}", daemon.log());
}

#[test]
fn verbosity_changes_while_running() {
    let daemon = Setup::maildir().start();
    assert_eq!(text(&daemon.ctl(["log", "verbose"])), "command succeeded\n");
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.wait_log("debug: ");
    assert_eq!(text(&daemon.ctl(["log", "brief"])), "command succeeded\n");
}
