//! table(5), makemap(8) and newaliases(8): what the running daemon makes of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Instance, Setup, alive, wait_for};

/// Everybody's mail is the user's, for recipients that the database knows.
const DATABASE: &str = "listen on 127.0.0.1 port $port\n\
                        table people db:$dir/people.db\n\
                        table domains db:$dir/domains.db\n\
                        action \"in\" maildir \"$dir/mail\" virtual <people>\n\
                        match from any for domain <domains> action \"in\"\n";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// makemap(8) in the instance root.
fn makemap(daemon: &Instance, options: &[&str], name: &str, entries: &str) -> Output {
    let source = daemon.path().join(name);
    fs::write(&source, entries).unwrap();
    let mut words = options.to_vec();
    let source = source.display().to_string();
    words.push(&source);
    let output = daemon.front_end("makemap", words, b"");
    assert!(output.status.success(), "{output:?}");
    output
}

/// The user that the daemon delivers to.
fn user(daemon: &Instance) -> String {
    let mut command = Command::new("id");
    command
        .arg("-un")
        .arg(fs::metadata(daemon.path()).unwrap().uid().to_string());
    text(&command.output().unwrap().stdout).trim().to_owned()
}

fn with_databases() -> Instance {
    let mut daemon = Setup::new(DATABASE).prepare();
    let user = user(&daemon);
    makemap(
        &daemon,
        &[],
        "people",
        &format!("bob@example.org: {user}\n"),
    );
    makemap(
        &daemon,
        &["-t", "set"],
        "domains",
        "Example.org\n*.example.net\n",
    );
    daemon.start();
    daemon
}

#[test]
fn a_database_answers_and_its_successor_does_so_at_once() {
    // smtpd.conf(5), table db: replaced while the daemon runs, without being told.
    let daemon = with_databases();
    let user = user(&daemon);
    let mut client = daemon.hello();
    client.mail("a@example.com", &["bob@example.org"], b"\nx\n");
    daemon.wait_mail(1);
    let mut rcpt = |address: &str, code: u16| {
        client.say("RSET", 250);
        client.say("MAIL FROM:<a@example.com>", 250);
        client.say(&format!("RCPT TO:<{address}>"), code)
    };
    rcpt("al@example.org", 524);
    rcpt("bob@example.com", 550);
    let entries = format!("bob@example.org: {user}\nAl: {user}\n");
    makemap(&daemon, &["-t", "aliases"], "people", &entries);
    rcpt("al@example.org", 250);
    rcpt("al@mx.example.net", 250);
    makemap(&daemon, &["-t", "set"], "domains", "example.org\n");
    rcpt("al@mx.example.net", 550);
}

#[test]
fn a_database_that_is_gone_or_broken_is_a_temporary_failure() {
    // table(5): never a wrong answer.
    let daemon = with_databases();
    let mut client = daemon.hello();
    let mut rcpt = |code: u16| {
        client.say("RSET", 250);
        client.say("MAIL FROM:<a@example.com>", 250);
        client.say("RCPT TO:<bob@example.org>", code)
    };
    rcpt(250);
    for (name, code) in [("domains.db", 451), ("people.db", 424)] {
        let path = daemon.path().join(name);
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        rcpt(code);
        for bad in [&good[..good.len() / 2], b"", b"root: bob\n"] {
            fs::write(&path, bad).unwrap();
            rcpt(code);
        }
        fs::write(&path, &good).unwrap();
        rcpt(250);
    }
    daemon.wait_log("No such file or directory");
    daemon.wait_log("no database of makemap(8)");
    daemon.hello().say("NOOP", 250);
}

#[test]
fn no_lookup_falls_between_two_databases() {
    // makemap(8): the database appears whole or not at all.
    let daemon = with_databases();
    let user = user(&daemon);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..40 {
                let more: String = (0..round).map(|n| format!("x{n}: {user}\n")).collect();
                let entries = format!("bob@example.org: {user}\n{more}");
                makemap(&daemon, &[], "people", &entries);
            }
            done.store(true, Ordering::Release);
        });
        let mut client = daemon.hello();
        let mut asked = 0;
        while !done.load(Ordering::Acquire) || asked == 0 {
            client.say("RSET", 250);
            client.say("MAIL FROM:<a@example.com>", 250);
            client.say("RCPT TO:<bob@example.org>", 250);
            asked += 1;
        }
    });
    let left: Vec<_> = fs::read_dir(daemon.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("people.db."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_database_of_another_program_is_refused_with_advice() {
    // smtpd.conf(5), table db: it must be there and be one of ours.
    let daemon = Setup::new(DATABASE).prepare();
    let check = || {
        let mut command = daemon.program("smtpd");
        command.args(["-n", "-R"]).arg(daemon.path());
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let path = daemon.path().join("people.db");
    let place = format!(
        "invalid configuration file {} for table people",
        path.display()
    );
    let (code, said) = check();
    assert_eq!(code, Some(1));
    assert!(
        said.contains(&format!("{place}: No such file or directory")),
        "{said}"
    );
    let mut berkeley = vec![0; 8192];
    berkeley[..4].copy_from_slice(&0x0006_1561_u32.to_le_bytes());
    fs::write(&path, berkeley).unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(1));
    assert!(
        said.contains(&format!("{place}: a Berkeley DB file; run makemap(8)")),
        "{said}"
    );
}

#[test]
fn newaliases_makes_the_database_and_the_daemon_uses_it() {
    // newaliases(8): PATH.db, `PATH: N aliases`, and the daemon is told.
    let mut daemon = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         table aliases db:$dir/aliases.db\n\
         action \"in\" maildir \"$dir/mail\" alias <aliases>\n\
         match from any for any action \"in\"\n",
    )
    .prepare();
    let aliases = daemon.path().join("aliases");
    let newaliases = |daemon: &Instance, entries: &str| {
        fs::write(&aliases, entries).unwrap();
        let output = daemon.front_end("newaliases", [""; 0], b"");
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let user = user(&daemon);
    let (code, out, _) = newaliases(&daemon, &format!("bob: {user}\n"));
    assert_eq!(
        (code, out),
        (Some(0), format!("{}: 1 aliases\n", aliases.display()))
    );
    daemon.start();
    let mut client = daemon.hello();
    client.mail("a@example.com", &["bob@example.org"], b"\nx\n");
    assert_eq!(
        newaliases(&daemon, &format!("al: {user}, {user}\n")).0,
        Some(0)
    );
    daemon.wait_log("info: Table \"aliases\" successfully updated");
    client.mail("a@example.com", &["al@example.org"], b"\nx\n");
    let (code, _, said) = newaliases(&daemon, "al: <x\n");
    assert_eq!(code, Some(1));
    assert!(said.contains("aliases:1: invalid entry"), "{said}");
    client.mail("a@example.com", &["al@example.org"], b"\nx\n");
    let sendmail = daemon.sendmail(["-bi"], b"");
    assert_eq!(sendmail.status.code(), Some(1), "{sendmail:?}");
    daemon.wait_mail(3);
}

#[test]
fn an_instance_without_configuration_has_nothing_to_do_for_newaliases() {
    // smtpd(8), -R.
    let daemon = Setup::built_in().prepare();
    for name in ["newaliases", "makemap", "sendmail"] {
        let words: &[&str] = if name == "newaliases" { &[] } else { &["-bi"] };
        let output = daemon.front_end(name, words, b"");
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
        let said = text(&output.stdout);
        assert_eq!(
            said, "the built-in configuration has no aliases\n",
            "{name}"
        );
    }
}

/// A daemon whose virtual table is a file, the user that it has bob for, and the file.
fn with_people() -> (Instance, String, PathBuf) {
    let mut daemon = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         table people file:$dir/people\n\
         action \"in\" maildir \"$dir/mail\" virtual <people>\n\
         match from any for any action \"in\"\n",
    )
    .prepare();
    let user = user(&daemon);
    let path = daemon.path().join("people");
    fs::write(&path, format!("bob {user}\n")).unwrap();
    daemon.start();
    (daemon, user, path)
}

#[test]
fn a_file_table_is_read_again_when_asked_and_a_broken_one_changes_nothing() {
    // smtpctl(8), update table.
    let (daemon, user, path) = with_people();
    let mut client = daemon.hello();
    let mut rcpt = |name: &str, code: u16| {
        client.say("RSET", 250);
        client.say("MAIL FROM:<a@example.com>", 250);
        client.say(&format!("RCPT TO:<{name}@example.org>"), code);
    };
    let update = |name: &str| {
        let output = daemon.ctl(["update", "table", name]);
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    fs::write(&path, format!("al {user} # new\n")).unwrap();
    rcpt("bob", 250);
    assert_eq!(update("people").0, Some(0));
    daemon.wait_log("info: Table \"people\" successfully updated");
    rcpt("al", 250);
    rcpt("bob", 524);
    fs::write(&path, "bob x\nnobody\n").unwrap();
    assert_eq!(update("people").0, Some(1));
    rcpt("al", 250);
    // What is written in Latin-1 keeps nobody else from their mail.
    // Nobody else gets it either.
    let others = [
        format!("al {user}\n@ {user}\n").as_bytes(),
        b"bob \xff\n\xff x\n",
    ]
    .concat();
    fs::write(&path, others).unwrap();
    assert_eq!(update("people").0, Some(0));
    rcpt("al", 250);
    rcpt("carol", 250);
    rcpt("bob", 424);
    daemon.wait_log("people:3: value of \"bob\": not UTF-8 text");
    daemon.wait_log("people:4: this entry is left out: it is not UTF-8 text");
    fs::remove_file(&path).unwrap();
    assert_eq!(update("people").0, Some(1));
    rcpt("al", 250);
    daemon.wait_log("info: Failed to update table \"people\"");
    daemon.wait_log("people: line 2: invalid map entry");
    assert_eq!(update("nosuch").0, Some(1));
    daemon.wait_log("warn: Lookup table not found: \"nosuch\"");
    assert!(!daemon.log().contains("Failed to update table \"nosuch\""));
    wait_for("the daemon to go on", || {
        daemon.ctl(["show", "status"]).status.success()
    });
}

#[test]
fn an_update_holds_for_the_next_engine_whatever_the_file_has_become() {
    // smtpctl(8), update table: what has been read stays.
    let (daemon, user, path) = with_people();
    fs::write(&path, format!("al {user}\n")).unwrap();
    let updated = daemon.ctl(["update", "table", "people"]);
    assert!(updated.status.success());
    // The parent, who is asked for a .forward, has read the file before.
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@example.com>", 250);
    client.say("RCPT TO:<al@example.org>", 250);
    fs::write(&path, "al\n[\n").unwrap();
    let engine = daemon.engine_pid();
    daemon.signal(engine, "KILL");
    wait_for("the engine to end", || !alive(engine));
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@example.com>", 250);
    client.say("RCPT TO:<al@example.org>", 250);
    client.say("RCPT TO:<bob@example.org>", 524);
}
