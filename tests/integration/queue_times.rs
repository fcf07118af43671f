//! What happens to mail that stays: expiry and warnings; and options of the receiving side that no
//! other story looks at.

use std::fs;

use crate::support::{Instance, Setup, field, wait_for};

/// Everything fails for now, but what goes to `ann`, who has a maildir for reports.
const FAILING: &str = "listen on 127.0.0.1 port $port\n\
                       action \"reports\" maildir \"$dir/mail\" virtual $all\n\
                       action \"short\" mda \"exit 75\" virtual $all ttl 1h\n\
                       action \"long\" mda \"exit 75\" virtual $all\n\
                       match from any for rcpt-to \"ann@example.net\" action \"reports\"\n\
                       match from any for domain \"short.example.org\" action \"short\"\n\
                       match from any for any action \"long\"\n";

/// Makes every envelope in the spool of a stopped daemon older, as an administrator can.
fn age(daemon: &Instance, seconds: u64) {
    for path in daemon.spooled() {
        let is_envelope = path.file_name().is_some_and(|name| name.len() == 16);
        let Some(text) = is_envelope
            .then(|| fs::read_to_string(&path).ok())
            .flatten()
        else {
            continue;
        };
        let aged: String = text
            .lines()
            .filter(|line| !line.starts_with("check: "))
            .map(|line| format!("{}\n", earlier(line, seconds)))
            .collect();
        fs::write(&path, aged).unwrap();
    }
}

fn earlier(line: &str, seconds: u64) -> String {
    match line.split_once(": ") {
        Some((name @ ("ctime" | "last-bounce"), value)) => {
            let then: u64 = value.parse().unwrap();
            format!("{name}: {}", then.saturating_sub(seconds))
        }
        _ => line.to_owned(),
    }
}

#[test]
fn an_actions_ttl_goes_before_that_of_the_queue() {
    // smtpd.conf(5), queue ttl and action ttl: what is older comes back as a failure.
    let config = format!("queue ttl 3h\nbounce warn-interval 100d\n{FAILING}");
    let mut daemon = Setup::new(&config).arg("-Pmda").start();
    daemon.hello().mail(
        "ann@example.net",
        &["bob@short.example.org", "bob@long.example.org"],
        b"\nx\n",
    );
    daemon.stop();
    age(&daemon, 2 * 3600);
    daemon.set_args(&[]);
    daemon.start();
    let report = String::from_utf8(daemon.wait_mail(1).remove(0)).unwrap();
    assert!(
        report.contains("Final-Recipient: rfc822; bob@short.example.org"),
        "{report}"
    );
    assert!(report.contains("Status: 5.4.7"), "{report}");
    assert!(!report.contains("bob@long.example.org"), "{report}");
    daemon.wait_queue(&["bob@long.example.org"]);
    daemon.wait_log("stat=Envelope expired");
    daemon.stop();
    age(&daemon, 2 * 3600);
    daemon.start();
    let reports = daemon.wait_mail(2);
    assert!(
        reports
            .iter()
            .any(|mail| String::from_utf8_lossy(mail).contains("bob@long.example.org"))
    );
    daemon.wait_empty();
}

#[test]
fn a_short_ttl_passes_while_the_daemon_runs() {
    let failing = FAILING.replace("ttl 1h", "ttl 1s");
    let config = format!("bounce warn-interval 100d\n{failing}");
    let daemon = Setup::new(&config).start();
    daemon
        .hello()
        .mail("ann@example.net", &["bob@short.example.org"], b"\nx\n");
    let report = String::from_utf8(daemon.wait_mail(1).remove(0)).unwrap();
    assert!(report.contains("Status: 5.4.7"), "{report}");
    daemon.wait_empty();
}

#[test]
fn a_delay_is_told_when_its_time_has_passed_and_only_once() {
    // smtpd.conf(5), bounce warn-interval: a warning after each of these times.
    let config = format!("bounce warn-interval 1h, 5h\n{FAILING}");
    let mut daemon = Setup::new(&config).start();
    daemon
        .hello()
        .mail("ann@example.net", &["bob@long.example.org"], b"\nx\n");
    let failures = |daemon: &Instance| daemon.log().matches("result=TempFail").count();
    wait_for("the first failure", || failures(&daemon) >= 1);
    assert!(daemon.maildir("mail").is_empty());
    // After two hours, three, and six.
    for (hours, reports) in [(2, 1), (1, 1), (3, 2)] {
        daemon.stop();
        age(&daemon, hours * 3600);
        let before = failures(&daemon);
        daemon.start();
        wait_for("another failure", || {
            // The first time it may not have been read from the disk yet.
            daemon.ctl(["schedule", "all"]);
            failures(&daemon) > before
        });
        daemon.wait_mail(reports);
        daemon.wait_queue(&["bob@long.example.org"]);
    }
    let reports = daemon.wait_mail(2);
    for report in &reports {
        let text = String::from_utf8_lossy(report);
        assert!(text.contains("Action: delayed"), "{text}");
        assert!(text.contains("bob@long.example.org"), "{text}");
    }
}

#[test]
fn the_size_limit_is_announced_and_kept_at_its_edge() {
    // smtpd.conf(5), smtp max-message-size; RFC 1870 §4: SIZE is announced.
    let daemon = Setup::new(
        "smtp max-message-size 2K\nlisten on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\nmatch from any for any action \"in\"\n",
    )
    .start();
    let mut client = daemon.client();
    assert!(client.say("EHLO x", 250).contains("250-SIZE 2048\n"));
    let refused = client.ask("MAIL FROM:<a@example.net> SIZE=2049");
    assert_eq!(
        refused,
        "552 5.3.4 Message too big for system: Size limit exceeded"
    );
    client.say("MAIL FROM:<a@example.net> SIZE=2048", 250);
    client.say("RSET", 250);
    // One byte for each line end, whatever the client sends.
    let exact = [b"A: b\n\n", [b'x'; 2041].as_slice(), b"\n"].concat();
    client.mail("a@example.net", &["b@example.org"], &exact);
    let over = [b"A: b\n\n", [b'x'; 2042].as_slice(), b"\n"].concat();
    let reply = client
        .try_mail("a@example.net", &["b@example.org"], &over)
        .unwrap();
    assert_eq!(
        reply,
        "554 5.3.4 Message too big for system: Transaction failed, message too big"
    );
    // The rest of what is too large is not taken for commands: the session goes on.
    let over = b"0123456789\n".repeat(10_000);
    let reply = client.try_mail("a@example.net", &["b@example.org"], &over);
    assert!(reply.is_some_and(|reply| reply.starts_with("554 5.3.4 ")));
    client.mail("a@example.net", &["b@example.org"], b"\nsmall\n");
    daemon.wait_mail(2);
}

#[test]
fn the_sub_address_delimiter_is_the_one_that_was_chosen() {
    // smtpd.conf(5), smtp sub-addr-delim: what follows it does not name the user.
    let daemon = Setup::new(
        "smtp sub-addr-delim \"_\"\nlisten on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/mail\" virtual { \"bob@example.org\" = \"$user\" }\n\
         match from any for any action \"in\"\n",
    )
    .start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["bob_list@example.org"], b"\nx\n");
    let mail = daemon.wait_mail(1).remove(0);
    assert_eq!(
        field(&mail, "Delivered-To").unwrap(),
        "bob_list@example.org"
    );
    client.say("MAIL FROM:<a@example.net>", 250);
    let reply = client.ask("RCPT TO:<bob+list@example.org>");
    assert!(reply.starts_with('5'), "{reply}");
}

#[test]
fn the_first_line_of_mailname_names_the_server_everywhere() {
    // smtpd.conf(5), FILES, mailname.
    let dir = tempfile::TempDir::new().unwrap();
    fs::write(dir.path().join("mailname"), "  mail.example.net \nother\n").unwrap();
    let daemon = Setup::maildir().start_in(dir);
    let mut client = crate::support::Client::connect(daemon.port);
    assert!(client.reply().starts_with("220 mail.example.net ESMTP"));
    assert!(
        client
            .say("EHLO x", 250)
            .starts_with("250-mail.example.net Hello")
    );
    client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    let mail = daemon.wait_mail(1).remove(0);
    let text = String::from_utf8_lossy(&mail);
    assert!(text.contains("\tby mail.example.net (OpenSMTPD)"), "{text}");
}
