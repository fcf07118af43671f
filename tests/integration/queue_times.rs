//! What happens to mail that stays: expiry and warnings; and options of the receiving side that no
//! other story looks at.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

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
    let then = now_s() - seconds;
    for path in daemon.spooled() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        if path.file_name().is_some_and(|name| name == "message") {
            continue;
        }
        let aged: String = text
            .lines()
            .filter(|line| !line.starts_with("check: "))
            .map(|line| match line.starts_with("ctime: ") {
                true => format!("ctime: {then}\n"),
                false => format!("{line}\n"),
            })
            .collect();
        fs::write(&path, aged).unwrap();
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn queued_to(daemon: &Instance, rcpt: &str) -> bool {
    daemon.queue().iter().any(|line| line.contains(rcpt))
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
    assert!(queued_to(&daemon, "bob@long.example.org"));
    assert!(!queued_to(&daemon, "bob@short.example.org"));
    daemon.wait_log("stat=Envelope expired");
    daemon.stop();
    age(&daemon, 4 * 3600);
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
    let config = format!("queue ttl 1s\nbounce warn-interval 100d\n{FAILING}");
    let daemon = Setup::new(&config).start();
    daemon
        .hello()
        .mail("ann@example.net", &["bob@long.example.org"], b"\nx\n");
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
    for (hours, reports) in [(2, 1), (3, 1), (6, 2)] {
        daemon.stop();
        age(&daemon, hours * 3600);
        // What was told of keeps its time from the first creation.
        let before = failures(&daemon);
        daemon.start();
        daemon.ctl(["schedule", "all"]);
        wait_for("another failure", || failures(&daemon) > before);
        let found = match reports {
            1 if hours == 3 => daemon.maildir("mail"),
            _ => daemon.wait_mail(reports),
        };
        assert!(found.len() <= reports + usize::from(hours == 3), "{hours}");
    }
    let reports = daemon.wait_mail(2);
    for report in &reports {
        let text = String::from_utf8_lossy(report);
        assert!(text.contains("Action: delayed"), "{text}");
        assert!(text.contains("bob@long.example.org"), "{text}");
    }
    assert!(queued_to(&daemon, "bob@long.example.org"));
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
    daemon.wait_mail(1);
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
    client.say("RCPT TO:<bob+list@example.org>", 550);
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
    let received = field(&mail, "Received").unwrap();
    assert!(received.contains("by mail.example.net"), "{received}");
}
