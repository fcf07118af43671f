//! smtpctl(8), reload, and SIGHUP: a new configuration without a restart.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::lmtp::on_tcp;
use crate::relay::Host;
use crate::support::{Client, Instance, Setup, field, free_port, not_run, processes, wait_for};

/// What `smtpctl reload` says on standard error; it fails.
fn refused(daemon: &Instance) -> String {
    let output = daemon.ctl(["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}\n{}", daemon.log());
    assert_eq!(output.stdout, b"command failed\n");
    said
}

fn reload(daemon: &Instance) {
    let output = daemon.ctl(["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", daemon.log());
    assert_eq!(output.stdout, b"command succeeded\n");
}

/// How many the log tells of.
fn reloads(daemon: &Instance) -> usize {
    daemon.log().matches("info: configuration reloaded").count()
}

fn banner(daemon: &Instance) -> String {
    Client::connect(daemon.port).reply()
}

/// The reply to a recipient, in a transaction that is given up.
fn rcpt(client: &mut Client, rcpt: &str) -> String {
    client.say("MAIL FROM:<a@example.net>", 250);
    let reply = client.ask(&format!("RCPT TO:<{rcpt}>"));
    client.say("RSET", 250);
    reply
}

/// Mail for `domain` goes to the maildir `mail`.
fn takes(domain: &str, options: &str) -> String {
    format!(
        "listen on 127.0.0.1 port $port {options}\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for domain \"{domain}\" action \"in\"\n"
    )
}

#[test]
fn rules_tables_and_options_of_listeners_are_those_of_the_new_configuration() {
    // smtpctl(8), reload: what begins from now on goes by it; sessions that are open see the new
    // rules with their next transaction.
    let daemon = Setup::new(&takes("one.org", "")).start();
    let mut open = Client::connect(daemon.port);
    assert!(open.reply().starts_with("220 mx.example.org "));
    open.say("EHLO client.example.net", 250);
    assert!(rcpt(&mut open, "x@one.org").starts_with("250 "));
    assert!(rcpt(&mut open, "x@two.org").starts_with("550 "));
    daemon.configure(&takes("two.org", "hostname \"new.example.org\""));
    reload(&daemon);
    assert!(rcpt(&mut open, "x@one.org").starts_with("550 "));
    assert!(rcpt(&mut open, "x@two.org").starts_with("250 "));
    assert!(banner(&daemon).starts_with("220 new.example.org "));
    open.mail("a@example.net", &["x@two.org"], b"Subject: x\n\nhi\n");
    daemon.wait_mail(1);
    // A file table is read with it, and so is one that was not there before.
    let table = daemon.path().join("domains");
    fs::write(&table, "three.org\n").unwrap();
    daemon.configure(
        &takes("two.org", "")
            .replace("\"two.org\"", "<served>")
            .replacen("listen", "table served file:$dir/domains\nlisten", 1),
    );
    daemon.signal(daemon.pid(), "HUP");
    wait_for("SIGHUP to do the same", || {
        rcpt(&mut open, "x@three.org").starts_with("250 ")
    });
    fs::write(&table, "four.org\n").unwrap();
    reload(&daemon);
    assert!(rcpt(&mut open, "x@three.org").starts_with("550 "));
    assert!(rcpt(&mut open, "x@four.org").starts_with("250 "));
    wait_for("a line for each", || reloads(&daemon) == 3);
}

#[test]
fn a_bad_configuration_changes_nothing_and_is_explained() {
    // smtpctl(8), reload: the old configuration stays; file, line and column say why.
    let mut daemon = Setup::new(&takes("one.org", "")).start();
    let conf = daemon.path().join("smtpd.conf");
    let conf = conf.display();
    daemon.configure(&(takes("two.org", "") + "match from any for any action \"none\"\n"));
    let said = refused(&daemon);
    assert!(said.contains(&format!("{conf}:4:")), "{said}");
    daemon.configure("listen on 127.0.0.1 port $port\nmatch form any\n");
    let said = refused(&daemon);
    assert!(said.contains(&format!("{conf}:2:7:")), "{said}");
    daemon.signal(daemon.pid(), "HUP");
    wait_for("the complaint in the log", || {
        daemon
            .log()
            .matches("reload: the old configuration stays")
            .count()
            == 3
    });
    // A table that cannot be read is as bad.
    daemon.configure(&(takes("two.org", "") + "table x file:$dir/nowhere\n"));
    assert!(refused(&daemon).contains("nowhere"));
    // So is an address that cannot be bound.
    daemon.configure(&("listen on 192.0.2.1 port 2525\n".to_owned() + &takes("two.org", "")));
    let said = refused(&daemon);
    assert!(said.contains("192.0.2.1:2525"), "{said}");
    // What is fixed at the start is refused by name.
    daemon.configure(&(takes("two.org", "") + "queue compression\n"));
    assert!(refused(&daemon).contains("queue compression"));
    let mut client = daemon.hello();
    assert!(rcpt(&mut client, "x@one.org").starts_with("250 "));
    assert!(rcpt(&mut client, "x@two.org").starts_with("550 "));
    // An engine that is started again has what was in use last.
    daemon.configure(&takes("two.org", ""));
    reload(&daemon);
    daemon.configure("nonsense\n");
    let engine = daemon.engine_pid();
    daemon.signal(engine, "KILL");
    wait_for("another engine", || {
        Client::try_hello(daemon.port)
            .is_some_and(|mut client| rcpt(&mut client, "x@two.org").starts_with("250 "))
    });
    daemon.stop();
}

#[test]
fn listeners_come_and_go_and_the_others_notice_nothing() {
    // smtpctl(8), reload: listeners that are new are opened, those that are gone are closed; who
    // waits at one that stays, or has a session over one that goes, is served.
    let daemon = Setup::new(&takes("one.org", "")).start();
    let other = free_port();
    let two = format!("listen on 127.0.0.1 port {other} tag x\n") + &takes("one.org", "");
    daemon.configure(&two);
    reload(&daemon);
    let mut over_the_other = Client::try_hello(other).expect("the new listener");
    // Those who wait in the backlog are there after a reload that changes the numbers of listeners.
    assert!(daemon.ctl(["pause", "smtp"]).status.success());
    let mut waiting = Client::connect(daemon.port);
    daemon.configure(&takes("one.org", ""));
    reload(&daemon);
    assert!(daemon.ctl(["resume", "smtp"]).status.success());
    assert!(waiting.reply().starts_with("220 "));
    waiting.say("EHLO client.example.net", 250);
    assert!(rcpt(&mut waiting, "x@one.org").starts_with("250 "));
    wait_for("the other listener to be closed", || {
        TcpStream::connect(("127.0.0.1", other)).is_err()
    });
    assert!(rcpt(&mut over_the_other, "x@one.org").starts_with("250 "));
    // A new engine has the listeners of the configuration in use.
    daemon.configure(&two);
    reload(&daemon);
    let engine = daemon.engine_pid();
    daemon.signal(engine, "KILL");
    for port in [daemon.port, other] {
        wait_for("another engine", || {
            daemon.engine_pid() != engine && Client::try_hello(port).is_some()
        });
    }
}

#[test]
fn programs_whose_line_has_not_changed_go_on() {
    // smtpctl(8), reload: filters and programs of tables are started anew where their line changed.
    let config = |word: &str| {
        "filter \"a\" proc-exec \"$dir/filter\"\nfilter \"b\" proc-exec \"$dir/filter WORD\"\n"
            .replace("WORD", word)
            + &takes("one.org", "")
    };
    let mut daemon = Setup::new("").prepare();
    let program = daemon.path().join("filter");
    let text = "#!/bin/sh\necho 'register|ready'\nexec cat >/dev/null\n";
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    daemon.configure(&config("one"));
    daemon.start();
    let pids = || -> Vec<String> {
        let output = daemon.ctl(["show", "filters"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pid = |line: &str| line.split('|').nth(2).map(str::to_owned);
        text.lines().filter_map(pid).collect()
    };
    let before = pids();
    daemon.configure(&config("two"));
    reload(&daemon);
    wait_for("the program to be another one", || {
        let now = pids();
        now.len() == 2 && now[1] != "0" && now[1] != before[1]
    });
    assert_eq!(pids()[0], before[0]);
}

#[test]
fn destinations_change_for_mail_that_comes_later() {
    // smtpctl(8), reload: connections and processes that were kept for an action are those of the
    // old one and not used again.
    let (old_lmtp, new_lmtp) = (on_tcp(), on_tcp());
    let (old_host, new_host) = (Host::start(|_| None), Host::start(|_| None));
    let config = |dir: &str, lmtp: u16, host: u16| {
        format!(
            "listen on 127.0.0.1 port $port\n\
             action \"m\" maildir \"$dir/{dir}\" virtual $all\n\
             action \"l\" lmtp \"127.0.0.1:{lmtp}\" rcpt-to virtual $all\n\
             action \"r\" relay host \"smtp://127.0.0.1:{host}\"\n\
             match from any for domain \"m.org\" action \"m\"\n\
             match from any for domain \"l.org\" action \"l\"\n\
             match from any for any action \"r\"\n"
        )
    };
    let daemon = Setup::new(&config("old", old_lmtp.0, old_host.port)).start();
    let mut client = daemon.hello();
    let mut send = || {
        client.mail(
            "a@example.net",
            &["x@m.org", "x@l.org", "x@r.org"],
            b"\nhi\n",
        );
        daemon.wait_empty();
    };
    send();
    daemon.configure(&config("new", new_lmtp.0, new_host.port));
    reload(&daemon);
    send();
    for maildir in ["old", "new"] {
        assert_eq!(
            daemon.maildir(maildir).len(),
            1,
            "{maildir}\n{}",
            daemon.log()
        );
    }
    for (_, seen) in [&old_lmtp, &new_lmtp] {
        assert_eq!(seen.messages().len(), 1);
    }
    for host in [&old_host, &new_host] {
        assert_eq!(host.taken().len(), 1);
    }
}

#[test]
fn two_hundred_reloads_under_load_lose_double_and_refuse_nothing() {
    // smtpctl(8), reload: good and bad configurations in turn while mail comes in over kept and
    // new sessions and goes out to maildirs and to a host. Another listener comes and goes.
    let host = Host::start(|_| None);
    let other = free_port();
    let (good, bad) = (
        |turn: usize| {
            let listen = ["".to_owned(), format!("listen on 127.0.0.1 port {other}\n")];
            listen[turn].clone()
                + &format!(
                    "listen on 127.0.0.1 port $port tag \"t{turn}\"\n\
                 action \"in{turn}\" maildir \"$dir/mail\" virtual $all\n\
                 action \"out\" relay host \"smtp://127.0.0.1:{}\"\n\
                 match from any for domain \"in.org\" action \"in{turn}\"\n\
                 match from any for any action \"out\"\n",
                    host.port
                )
        },
        "listen on 127.0.0.1 port $port\nmatch form any\n",
    );
    // Envelopes that wait name the action they came with: two names take turns, and both stay.
    let good = |turn: usize| {
        let other = (turn + 1) % 2;
        good(turn % 2) + &format!("action \"in{other}\" maildir \"$dir/mail\" virtual $all\n")
    };
    let daemon = Setup::new(&good(0)).start();
    let mut warm = None;
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (done, sent, daemon) = (&done, &sent, &daemon);
            scope.spawn(move || {
                let mut client = daemon.hello();
                // smtpd.conf(5), max-mails: a session takes a hundred.
                let per_session = if thread % 2 == 0 { 1 } else { 100 };
                for count in 1.. {
                    if done.load(Ordering::Acquire) {
                        break;
                    }
                    let number = sent.fetch_add(1, Ordering::AcqRel);
                    let message = format!("X-Name: {number}\n\nhi\n");
                    let rcpts = ["a@in.org", "b@out.org"];
                    client.mail("s@example.net", &rcpts, message.as_bytes());
                    if count % per_session == 0 {
                        client.say("QUIT", 221);
                        client = daemon.hello();
                    }
                }
            });
        }
        for turn in 0..200 {
            if turn == WARM_TURNS {
                warm = Some(Held::by(&daemon));
            }
            if turn % 2 == 0 {
                daemon.configure(&good(turn / 2 + 1));
                reload(&daemon);
            } else {
                daemon.configure(bad);
                assert!(refused(&daemon).contains("smtpd.conf:2:7:"));
            }
        }
        done.store(true, Ordering::Release);
    });
    daemon.wait_empty();
    let sent = sent.load(Ordering::Acquire);
    let relayed = host.taken();
    for (what, messages) in [
        ("delivered", daemon.maildir("mail")),
        (
            "relayed",
            relayed.into_iter().map(|taken| taken.message).collect(),
        ),
    ] {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for message in &messages {
            let name = field(message, "X-Name").expect("a name");
            *found.entry(name).or_default() += 1;
        }
        assert_eq!((found.len(), messages.len()), (sent, sent), "{what}");
    }
    wait_for("a line for each", || reloads(&daemon) == 100);
    let log = daemon.log();
    assert!(!log.contains("result=TempFail"), "{log}");
    let warm = warm.expect("what was held");
    wait_for("descriptors to be no more than before", || {
        let now = Held::by(&daemon);
        now.descriptors
            .iter()
            .zip(&warm.descriptors)
            .all(|(now, warm)| now <= warm)
    });
    println!("{sent} messages while 200 configurations were read; {warm:?}");
    // Nothing else takes memory now, and the configuration is large: what a reload keeps is seen.
    let addresses: Vec<String> = (0..4000)
        .map(|n| format!("\"user{n}@example.org\""))
        .collect();
    let large = format!("table many {{ {} }}\n", addresses.join(", "));
    let reload_often = |times: usize| {
        for turn in 0..times {
            daemon.configure(&(large.clone() + &good(turn)));
            reload(&daemon);
        }
        Held::by(&daemon)
    };
    let before = reload_often(5);
    if !before.is_known() {
        return not_run("what reloads leave behind", "needs /proc");
    }
    let after = reload_often(QUIET_TURNS);
    for (after, before) in after.memory_kib.iter().zip(&before.memory_kib) {
        assert!(
            *after < before + GROWTH_KIB,
            "{before} KiB, then {after} KiB"
        );
    }
    println!("{QUIET_TURNS} more: {before:?}, then {after:?}");
}

/// Reloads after which what is made once has been made, whatever the order.
const WARM_TURNS: usize = 60;
/// Reloads whose memory is measured, and what they may keep: a third of what their text is.
const QUIET_TURNS: usize = 30;
const GROWTH_KIB: u64 = 1024;

/// What the parent and the engine hold.
#[derive(Debug)]
struct Held {
    descriptors: Vec<usize>,
    memory_kib: Vec<u64>,
}

impl Held {
    fn by(daemon: &Instance) -> Held {
        let pids = [daemon.pid(), daemon.engine_pid()];
        let known = |pid: &u32| {
            let memory = processes::memory_kib(*pid, "VmRSS")?;
            Some((processes::descriptors(*pid)?, memory))
        };
        let (descriptors, memory_kib) = pids.iter().filter_map(known).unzip();
        Held {
            descriptors,
            memory_kib,
        }
    }

    fn is_known(&self) -> bool {
        self.descriptors.len() == 2
    }
}
