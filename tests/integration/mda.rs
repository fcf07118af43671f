//! Local delivery: who runs what, and what comes of its exit code.

use std::fs;

use tempfile::TempDir;

use crate::support::{Instance, Setup, body, can_have_users, field, processes, wait_for};

/// The users of a test as root.
const USERS: [(&str, u32); 4] = [
    ("_smtpd", 54320),
    ("_smtpq", 54321),
    ("alice", 54322),
    ("bob", 54323),
];

/// A daemon as root with users of its own, their homes in its instance root; `None` where that
/// cannot be.
pub fn start_with_users(test: &str, setup: Setup) -> Option<Instance> {
    if !can_have_users(test) {
        return None;
    }
    let dir = TempDir::new().unwrap();
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\n");
    let mut group = String::from("root:x:0:\nmail:x:8:\n");
    for (name, id) in USERS {
        let home = dir.path().join("home").join(name);
        fs::create_dir_all(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(id), Some(id)).unwrap();
        passwd += &format!("{name}:x:{id}:{id}::{}:/bin/sh\n", home.display());
        group += &format!("{name}:x:{id}:\n");
    }
    fs::write(dir.path().join("passwd"), passwd).unwrap();
    fs::write(dir.path().join("group"), group).unwrap();
    Some(setup.with_users().start_in(dir))
}

fn outcome(daemon: &Instance, rcpt: &str) -> String {
    let needle = format!("to=<{rcpt}>");
    let mut found = String::new();
    wait_for(&format!("an outcome for {rcpt}\n{}", daemon.log()), || {
        let log = daemon.log();
        let line = log
            .lines()
            .find(|l| l.contains(" mda delivery ") && l.contains(&needle));
        found = line
            .and_then(|l| l.split_once(" result="))
            .map_or("", |(_, r)| r)
            .to_string();
        !found.is_empty()
    });
    found
}

#[test]
fn exit_codes_decide() {
    // smtpd.conf(5), MDA COMMANDS: 0 delivered, 71 and 75 try again, everything else is final.
    let codes = [
        ("0", "Ok stat=Delivered"),
        ("1", "PermFail stat=Error (\"said 1\")"),
        (
            "64",
            "PermFail stat=Error (command line usage error: \"said 64\")",
        ),
        ("67", "PermFail stat=Error (user unknown: \"said 67\")"),
        (
            "71",
            "TempFail stat=Error (system resource problem: \"said 71\")",
        ),
        ("75", "TempFail stat=Error (temporary failure: \"said 75\")"),
        ("77", "PermFail stat=Error (permission denied: \"said 77\")"),
        (
            "78",
            "PermFail stat=Error (local configuration error: \"said 78\")",
        ),
    ];
    let mut config = String::from("listen on 127.0.0.1 port $port\n");
    for (code, _) in codes {
        config += &format!(
            "action \"x{code}\" mda \"cat >/dev/null; echo said {code}; exit {code}\" virtual $all\n\
             match from any for rcpt-to \"u{code}@example.org\" action \"x{code}\"\n"
        );
    }
    let daemon = Setup::new(&config).start();
    let mut client = daemon.hello();
    for (code, _) in codes {
        client.mail("", &[&format!("u{code}@example.org")], b"Subject: x\n\nx\n");
    }
    for (code, expected) in codes {
        assert_eq!(
            outcome(&daemon, &format!("u{code}@example.org")),
            expected,
            "{code}"
        );
    }
    // The log says how an attempt ended before the queue has settled it.
    wait_for("all but the two that are tried again to go", || {
        daemon.queue().len() == 2
    });
}

#[test]
fn a_failure_is_reported_to_its_sender() {
    // RFC 5321 §6.1: what cannot be delivered is reported to the envelope's sender.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"in\" maildir \"$dir/mail\" virtual $all\n\
         action \"no\" mda \"cat >/dev/null; echo out of luck; exit 77\" virtual $all\n\
         match from any for rcpt-to \"u@example.org\" action \"no\"\n\
         match from any for domain \"example.net\" action \"in\"\n",
    )
    .start();
    daemon.hello().mail(
        "a@example.net",
        &["u@example.org"],
        b"Subject: original\n\nx\n",
    );
    let report = daemon.wait_mail(1).remove(0);
    let text = String::from_utf8_lossy(&report);
    assert_eq!(field(&report, "Return-Path").unwrap(), "<>");
    assert_eq!(field(&report, "To").unwrap(), "a@example.net");
    assert!(
        field(&report, "Subject")
            .unwrap()
            .starts_with("Delivery status notification: failed")
    );
    assert!(
        text.contains("Final-Recipient: rfc822; u@example.org\n"),
        "{text}"
    );
    assert!(
        text.contains("Action: failed\n") && text.contains("out of luck"),
        "{text}"
    );
    assert!(text.contains("Subject: original\n"), "{text}");
    daemon.wait_empty();
}

#[test]
fn no_address_reaches_a_shell_as_text() {
    // CVE-2020-7247: addresses made of shell metacharacters run nothing.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" mda \"cat >/dev/null; printf '%s\\n' %{rcpt:raw} \\\"%{rcpt:raw}\\\" \
         '%{sender:raw}' >>$dir/out\" virtual $all\n\
         match from any for any action \"in\"\n",
    )
    .start();
    let mut client = daemon.hello();
    let evil = [
        "`touch${IFS}canary`",
        "$(touch${IFS}canary)",
        "a|touch${IFS}canary",
        "a&b",
        "*'",
    ];
    for user in evil {
        let rcpt = format!("{user}@example.org");
        let reply = client
            .try_mail("a'b@example.net", &[&rcpt], b"\nx\n")
            .unwrap();
        if reply.starts_with('5') {
            client.say("RSET", 250);
        }
    }
    daemon.wait_empty();
    let out = fs::read_to_string(daemon.path().join("out")).unwrap_or_default();
    assert!(out.contains("`touch${IFS}canary`@example.org\n"), "{out}");
    for file in crate::support::tree(daemon.path()) {
        assert!(!file.ends_with("canary"), "{}", file.display());
    }
}

#[test]
fn deliveries_run_as_the_recipient() {
    // smtpd.conf(5), COMMANDS: the environment. Uid, group and home are the recipient's.
    let setup = Setup::new(
        "table aliases { root = alice, team = \"alice, bob\" }\n\
         listen on 127.0.0.1 port $port\n\
         action \"show\" mda \"cat >/dev/null; (id -u; id -G; pwd; env) >show\" alias <aliases>\n\
         action \"dir\" maildir alias <aliases>\n\
         match from any for domain \"show.example.org\" action \"show\"\n\
         match from any for local action \"dir\"\n",
    );
    let Some(daemon) = start_with_users("deliveries_run_as_the_recipient", setup) else {
        return;
    };
    let home = |name: &str| daemon.path().join("home").join(name);
    let mut client = daemon.hello();
    client.mail("s@example.net", &["bob+tag@show.example.org"], b"\nx\n");
    assert_eq!(
        outcome(&daemon, "bob+tag@show.example.org"),
        "Ok stat=Delivered"
    );
    let shown = fs::read_to_string(home("bob").join("show")).unwrap();
    let mut lines = shown.lines();
    assert_eq!(lines.next(), Some("54323"), "{shown}");
    assert_eq!(lines.next(), Some("54323"), "{shown}");
    assert_eq!(lines.next(), home("bob").to_str(), "{shown}");
    for wanted in [
        "USER=bob",
        "LOGNAME=bob",
        "EXTENSION=tag",
        "SENDER=s@example.net",
        "SHELL=/bin/sh",
        "LOCAL=bob+tag",
        "DOMAIN=show.example.org",
        "RECIPIENT=bob+tag@show.example.org",
        "ORIGINAL_RECIPIENT=bob+tag@show.example.org",
    ] {
        assert!(
            shown.lines().any(|line| line == wanted),
            "{wanted} is not in\n{shown}"
        );
    }
    assert!(!shown.contains("LD_PRELOAD"), "{shown}");
    client.mail(
        "s@example.net",
        &["root@mx.example.org"],
        b"Subject: for root\n\nx\n",
    );
    client.mail(
        "s@example.net",
        &["team@mx.example.org"],
        b"Subject: for all\n\nx\n",
    );
    let count = |name: &str| crate::support::files(&home(name).join("Maildir/new")).len();
    wait_for("alice's and bob's mail", || {
        count("alice") == 2 && count("bob") == 1
    });
    daemon.wait_empty();
    let file = &crate::support::files(&home("bob").join("Maildir/new"))[0];
    let meta = fs::metadata(file).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 54323);
    assert_eq!(body(&fs::read(file).unwrap()), b"x\n");
    client.say("MAIL FROM:<s@example.net>", 250);
    client.say("RCPT TO:<nobody-here@mx.example.org>", 550);
    // Nothing of ours runs as root but the parent.
    let engine = processes::find(daemon.engine_pid()).unwrap();
    assert_eq!(engine.uid, 54321);
}

#[test]
fn root_itself_gets_no_delivery_but_mbox() {
    // OpenSMTPD delivers nothing as root but mbox; so do we.
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"dir\" maildir\nmatch from any for local action \"dir\"\n",
    );
    let Some(daemon) = start_with_users("root_itself_gets_no_delivery_but_mbox", setup) else {
        return;
    };
    daemon.hello().mail("", &["root@mx.example.org"], b"\nx\n");
    assert_eq!(
        outcome(&daemon, "root@mx.example.org"),
        "PermFail stat=Error (permission denied: MDA not allowed to deliver to: root)"
    );
}

#[test]
fn an_ordinary_user_delivers_only_to_itself() {
    // smtpd(8), not started by root: deliveries to other users fail temporarily.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"in\" maildir \"$dir/mail\" user root virtual $all\n\
         match from any for any action \"in\"\n",
    )
    .start();
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    let said = outcome(&daemon, "b@example.org");
    assert!(said.starts_with("TempFail stat=Error ("), "{said}");
    assert_eq!(daemon.queue().len(), 1);
}

#[test]
fn the_daemons_death_makes_no_part_of_a_message_look_whole() {
    // smtpd.conf(5), COMMANDS: a command is killed when the daemon dies before it has given it the
    // whole message; so it never takes a part for all of it, and gets all of it later.
    let text = b"0123456789\n".repeat(200_000);
    for killed in ["parent", "engine"] {
        let mut daemon = Setup::new(
            "listen on 127.0.0.1 port $port\naction \"slow\" mda \"exec 9>$dir/started; \
             while [ ! -e $dir/go ]; do sleep 0.02; done; cat >$dir/part; mv $dir/part $dir/all\" \
             virtual $all\nmatch from any for any action \"slow\"\n",
        )
        .start();
        let dir = daemon.path().to_owned();
        let body = [&b"Subject: long\n\n"[..], &text].concat();
        daemon
            .hello()
            .mail("s@example.net", &["u@example.org"], &body);
        wait_for("the command", || dir.join("started").exists());
        let before = daemon.delivery_pids();
        assert!(!before.is_empty());
        match killed {
            "parent" => daemon.kill_parent(),
            _ => daemon.signal(daemon.engine_pid(), "KILL"),
        }
        // Both the guardian and what it guards.
        wait_for("the delivery to be gone", || {
            before.iter().all(|pid| processes::find(*pid).is_none())
        });
        assert!(!dir.join("all").exists() && !dir.join("part").exists());
        std::fs::write(dir.join("go"), "").unwrap();
        if killed == "parent" {
            daemon.start();
        }
        wait_for("all of it", || dir.join("all").exists());
        let all = std::fs::read(dir.join("all")).unwrap();
        assert!(
            crate::support::body(&all) == text,
            "{killed}: {} bytes",
            all.len()
        );
        daemon.wait_empty();
    }
}

#[test]
fn users_whose_commands_take_long_keep_nobody_else_waiting() {
    // smtpd.conf(5), mda limit: twenty users with all that they may run, and one who comes after.
    let test = "users_whose_commands_take_long_keep_nobody_else_waiting";
    if !can_have_users(test) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\n");
    let mut group = String::from("root:x:0:\nmail:x:8:\n");
    let slow = |number: u32| format!("slow{number}");
    let names: Vec<String> = (0..20).map(slow).collect();
    let all = ["_smtpd", "_smtpq", "fresh"].map(str::to_owned);
    for (id, name) in (54320..).zip(all.iter().chain(&names)) {
        let home = dir.path().join("home").join(name);
        fs::create_dir_all(&home).unwrap();
        if name.starts_with("slow") {
            let wait = format!(
                "until [ -e {}/go ]; do sleep 0.2; done",
                dir.path().display()
            );
            let file = home.join(".forward");
            fs::write(&file, format!("\"|{wait}\"\n")).unwrap();
            std::os::unix::fs::chown(&file, Some(id), Some(id)).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&file, mode).unwrap();
        }
        std::os::unix::fs::chown(&home, Some(id), Some(id)).unwrap();
        passwd += &format!("{name}:x:{id}:{id}::{}:/bin/sh\n", home.display());
        group += &format!("{name}:x:{id}:\n");
    }
    fs::write(dir.path().join("passwd"), passwd).unwrap();
    fs::write(dir.path().join("group"), group).unwrap();
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"l\" maildir\nmatch from any for any action \"l\"\n",
    );
    let daemon = setup.with_users().start_in(dir);
    for name in &names {
        let mut client = daemon.hello();
        for _ in 0..8 {
            client.mail("s@example.net", &[&format!("{name}@example.org")], b"\nx\n");
        }
    }
    wait_for("all of the share to run", || {
        daemon.delivery_pids().len() >= 25
    });
    daemon
        .hello()
        .mail("s@example.net", &["fresh@example.org"], b"\nx\n");
    let new = daemon.path().join("home/fresh/Maildir/new");
    wait_for("the new user's mail", || {
        !crate::support::files(&new).is_empty()
    });
    assert!(daemon.delivery_pids().len() >= 25, "the others still run");
    fs::write(daemon.path().join("go"), "").unwrap();
    daemon.wait_empty();
}
