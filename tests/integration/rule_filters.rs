//! smtpd.conf(5), match: `filter`. Filters of a rule are those of the recipients whom it matches.

use std::fs;

use crate::filters::{ALL, heard, prepare};
use crate::support::{Instance, Setup, field, wait_for};

/// Mail for scanned.org is filtered by a program and two filters of the configuration; that for
/// checked.org by one of the configuration; other mail is not.
fn start(answers: &str) -> Instance {
    let mut daemon = Setup::new("").prepare();
    prepare(daemon.path(), "f", ALL, answers);
    daemon.configure(
        "filter \"f\" proc-exec \"$dir/f/filter $dir/f one\"\n\
         filter late phase commit match mail-from { \"late@e.org\" } reject \"552 too late\"\n\
         filter no phase rcpt-to match rcpt-to { \"no@scanned.org\" } reject \"550 5.1.1 nobody\"\n\
         filter early phase connect match src { 127.0.0.1 } reject \"550 not asked\"\n\
         listen on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for domain scanned.org filter { no, late, \"f\", early } action \"in\"\n\
         match from any for domain checked.org filter late action \"in\"\n\
         match from any for any action \"in\"\n",
    );
    daemon.start();
    daemon
}

fn requests(daemon: &Instance) -> Vec<String> {
    let text = heard(daemon, "f");
    let asked = text.lines().filter(|line| line.starts_with("filter|"));
    asked
        .map(|line| line.split('|').nth(4).unwrap().to_owned())
        .collect()
}

#[test]
fn they_are_asked_from_the_recipient_on_and_by_no_other_mail() {
    let daemon = start("");
    let mut client = daemon.hello();
    client.mail("a@e.org", &["x@plain.org"], b"Subject: x\n\nx\n");
    let mail = daemon.wait_mail(1);
    assert_eq!(field(&mail[0], "X-Filter"), None);
    assert_eq!(requests(&daemon), Vec::<String>::new());
    // Its reports are those of every session, from the start on.
    let told = heard(&daemon, "f");
    for event in ["link-connect", "link-identify", "tx-begin", "tx-commit"] {
        assert!(told.contains(&format!("|smtp-in|{event}|")), "{told}");
    }
    client.say("MAIL FROM:<a@e.org>", 250);
    let reply = client.say("RCPT TO:<no@scanned.org>", 550);
    assert!(reply.contains("5.1.1 nobody"), "{reply}");
    client.say("RCPT TO:<x@scanned.org>", 250);
    client.say("RCPT TO:<y@scanned.org>", 250);
    client.say("DATA", 354);
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert!(client.reply().starts_with("250 "));
    let mail = daemon.wait_mail(2);
    let filtered = mail.iter().filter(|m| field(m, "X-Filter").is_some());
    assert_eq!(filtered.count(), 1);
    let mut asked = requests(&daemon);
    asked.retain(|phase| phase != "data-line");
    assert_eq!(asked, ["rcpt-to", "rcpt-to", "data", "commit"]);
    let refused = client.try_mail("late@e.org", &["x@checked.org"], b"\nx\n");
    assert!(refused.is_some_and(|reply| reply.starts_with("552")));
    client.mail("late@e.org", &["x@plain.org"], b"\nx\n");
}

// RFC 5321 §4.5.3.1.10: a client sends a message to those that one transaction does not take in
// another one.
#[test]
fn recipients_of_other_filters_come_in_another_transaction() {
    let daemon = start("");
    let mut client = daemon.hello();
    for (first, other) in [
        ("x@scanned.org", "x@plain.org"),
        ("x@plain.org", "x@scanned.org"),
        ("x@scanned.org", "x@checked.org"),
    ] {
        client.say("MAIL FROM:<a@e.org>", 250);
        client.say(&format!("RCPT TO:<{first}>"), 250);
        let reply = client.say(&format!("RCPT TO:<{other}>"), 451);
        assert!(reply.contains("4.5.3"), "{reply}");
        client.say("RSET", 250);
        client.say("MAIL FROM:<a@e.org>", 250);
        client.say(&format!("RCPT TO:<{other}>"), 250);
        client.say("RSET", 250);
    }
}

#[test]
fn a_program_that_fails_costs_its_recipients_only() {
    let daemon =
        start("rcpt-to|die@scanned.org|die\nrcpt-to|al@scanned.org|rewrite|<b@plain.org>\n");
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@e.org>", 250);
    // The rule was that of the address as it is.
    client.say("RCPT TO:<al@scanned.org>", 250);
    daemon.wait_log("rewrite at rcpt-to is ignored in the filters of a rule");
    client.say("RSET", 250);
    client.say("MAIL FROM:<a@e.org>", 250);
    client.say("RCPT TO:<die@scanned.org>", 451);
    client.say("RCPT TO:<x@scanned.org>", 451);
    client.say("RCPT TO:<x@checked.org>", 250);
    client.say("RSET", 250);
    client.mail("a@e.org", &["x@plain.org"], b"\nx\n");
    wait_for("the filter to be back", || {
        let mut client = daemon.hello();
        client.say("MAIL FROM:<a@e.org>", 250);
        client.ask("RCPT TO:<x@scanned.org>").starts_with("250")
    });
}

// smtpctl(8), explain: what filters of the configuration would decide.
#[test]
fn explain_says_what_they_would_decide() {
    let daemon = start("");
    let explain = |args: &[&str]| {
        let output = daemon.ctl([&["explain"], args].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = explain(&[
        "src",
        "192.0.2.1",
        "from",
        "late@e.org",
        "rcpt",
        "x@scanned.org",
    ]);
    for line in [
        "filter <dynchain:no,late,f,early> of the rule\n",
        "  f: a program, which is not asked\n",
        "  rcpt-to no: proceed\n",
        "  commit late: reject 552 too late\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("early:"), "{text}");
    let text = explain(&[
        "src",
        "192.0.2.1",
        "from",
        "late@e.org",
        "rcpt",
        "no@scanned.org",
    ]);
    assert!(
        text.contains("  rcpt-to no: reject 550 5.1.1 nobody\n"),
        "{text}"
    );
    assert!(!text.contains("commit late"), "{text}");
    let text = explain(&["src", "192.0.2.1", "rcpt", "x@plain.org"]);
    assert!(!text.contains("\nfilter "), "{text}");
    // Those of listeners are said where the session may come by them.
    let config = fs::read_to_string(daemon.path().join("smtpd.conf")).unwrap();
    let config = config.replace(
        "listen on 127.0.0.1 port",
        "listen on 127.0.0.1 filter early port",
    );
    fs::write(daemon.path().join("smtpd.conf"), config).unwrap();
    assert!(daemon.ctl(["reload"]).status.success());
    let text = explain(&["src", "127.0.0.1", "rcpt", "x@plain.org"]);
    let line = "filter early of a listener\n  connect early: reject 550 not asked\n";
    assert!(text.contains(line), "{text}");
}

// smtpd.conf(5), match: filters of a rule are not asked a second time if the listener has them, too.
#[test]
fn filters_that_a_listener_has_too_are_asked_once() {
    let mut daemon = Setup::new("").prepare();
    prepare(daemon.path(), "f", ALL, "");
    daemon.configure(
        "proc p \"$dir/f/filter $dir/f one\"\n\
         filter spam proc p\n\
         filter same proc p\n\
         filter no phase rcpt-to match rcpt-to { \"no@built.org\" } reject \"550 5.1.1 built\"\n\
         listen on 127.0.0.1 port $port filter { spam, no }\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for domain x.org filter spam action \"in\"\n\
         match from any for domain y.org filter same action \"in\"\n\
         match from any for domain built.org filter no action \"in\"\n",
    );
    daemon.start();
    let mut client = daemon.hello();
    for (number, domain) in ["x.org", "y.org", "built.org"].into_iter().enumerate() {
        let before = requests(&daemon).len();
        client.mail("a@e.org", &[&format!("x@{domain}")], b"Subject: x\n\nx\n");
        daemon.wait_mail(number + 1);
        let mut asked = requests(&daemon).split_off(before);
        asked.retain(|phase| !matches!(phase.as_str(), "data-line" | "helo" | "ehlo" | "connect"));
        assert_eq!(
            asked,
            ["mail-from", "rcpt-to", "data", "commit"],
            "{domain}"
        );
    }
    client.say("MAIL FROM:<a@e.org>", 250);
    client.say("RCPT TO:<no@built.org>", 550);
}
