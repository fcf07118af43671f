//! RFC 3461, RFC 3464: what the sender's mailbox gets to know of mail that was relayed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::relay::{Host, Script};
use crate::support::{Instance, Setup, wait_for};

/// A daemon that keeps `example.net` in the maildir `mail` and relays all else to `host`; senders
/// hear of what is late after a second.
fn instance(host: &Host) -> Instance {
    Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         bounce warn-interval 1s\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         action \"out\" relay host smtp://127.0.0.1:{}\n\
         match from any for domain \"example.net\" action \"in\"\n\
         match from any for any action \"out\"\n",
        host.port
    ))
    .start()
}

/// Hands one message of alice's over.
fn submit(daemon: &Instance, mail: &str, rcpts: &[(&str, &str)], body: &str) {
    let mut client = daemon.hello();
    client.say(&format!("MAIL FROM:<alice@example.net>{mail}"), 250);
    for (rcpt, options) in rcpts {
        client.say(&format!("RCPT TO:<{rcpt}>{options}"), 250);
    }
    client.say("DATA", 354);
    client.say(&format!("{body}\r\n."), 250);
    client.say("QUIT", 221);
}

/// Tries what is queued again and again, until `count` notices have come.
fn notices(daemon: &Instance, count: usize) -> Vec<Notice> {
    let mut last = Instant::now();
    wait_for("the notices", || {
        if daemon.maildir("mail").len() >= count {
            return true;
        }
        if last.elapsed() > Duration::from_secs(1) {
            last = Instant::now();
            daemon.ctl(["schedule", "all"]);
        }
        false
    });
    let mail = daemon.wait_mail(count);
    mail.iter().map(|text| Notice::read(text)).collect()
}

/// A report, taken apart.
#[derive(Debug)]
struct Notice {
    text: String,
    /// The fields of the message, then those of each recipient.
    blocks: Vec<BTreeMap<String, String>>,
    returned: String,
}

impl Notice {
    fn read(text: &[u8]) -> Notice {
        let text = String::from_utf8_lossy(text).replace("\r\n", "\n");
        let (_, rest) = text.split_once("boundary=\"").expect("a boundary");
        let (boundary, rest) = rest.split_once('"').expect("a boundary");
        let parts: Vec<&str> = rest.split(&format!("\n--{boundary}")).collect();
        assert_eq!(parts.len(), 5, "{text}");
        assert_eq!(parts[4].trim(), "--");
        let (head, status) = parts[2].split_once("\n\n").expect("a part");
        assert!(head.contains("message/delivery-status"), "{head}");
        let blocks = status.trim().split("\n\n").map(fields).collect();
        Notice {
            blocks,
            returned: parts[3].to_string(),
            text: text.clone(),
        }
    }

    fn action(&self) -> &str {
        &self.blocks[1]["Action"]
    }

    fn recipients(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.blocks[1..]
            .iter()
            .map(|block| block["Final-Recipient"].as_str())
            .collect();
        names.sort_unstable();
        names
    }
}

fn fields(block: &str) -> BTreeMap<String, String> {
    block
        .replace("\n\t", " ")
        .lines()
        .map(|line| line.split_once(": ").expect("a field"))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn find<'a>(notices: &'a [Notice], action: &str) -> &'a Notice {
    let mut found = notices.iter().filter(|notice| notice.action() == action);
    let first = found
        .next()
        .unwrap_or_else(|| panic!("{action}: {notices:#?}"));
    assert!(found.next().is_none(), "two of {action}: {notices:#?}");
    first
}

const RCPTS: [(&str, &str); 4] = [
    (
        "yes@a.example",
        " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Yes+2Bsir@a.example",
    ),
    ("no@a.example", " NOTIFY=FAILURE ORCPT=rfc822;no@a.example"),
    ("later@a.example", " NOTIFY=DELAY,FAILURE"),
    ("quiet@a.example", " NOTIFY=NEVER"),
];

fn verdict(command: &str) -> Option<&'static str> {
    // Recipients of a host that offers DSN are followed by parameters.
    let rcpt = command.split('>').next().unwrap_or_default();
    match rcpt {
        "RCPT TO:<no@a.example" => Some("550-5.1.1 There is nobody\r\n550 5.1.1 of that name"),
        "RCPT TO:<later@a.example" => Some("450 4.2.0 try again"),
        "RCPT TO:<quiet@a.example" => Some("550 5.1.1 nobody"),
        _ => None,
    }
}

const PLAIN: Script = verdict;
const WITH_DSN: Script = |command| {
    if command.starts_with("EHLO") {
        Some("250-fake\r\n250 DSN")
    } else {
        verdict(command)
    }
};

#[test]
fn each_recipient_of_a_host_without_dsn_is_told_of() {
    // RFC 3461 §5.2.2: a success is ours to report, as relayed; failures and delays always are.
    let host = Host::start(PLAIN);
    let daemon = instance(&host);
    submit(
        &daemon,
        " RET=HDRS ENVID=QQ+2B1",
        &RCPTS,
        "Subject: x\r\nMessage-ID: <m@example.net>\r\n\r\nhi",
    );
    let notices = notices(&daemon, 3);
    for notice in &notices {
        assert!(notice.text.contains("\nAuto-Submitted: auto-replied\n"));
        assert!(notice.text.contains("\nIn-Reply-To: <m@example.net>\n"));
        assert!(
            notice.text.starts_with("Return-Path: <>\n"),
            "{}",
            notice.text
        );
        let message = &notice.blocks[0];
        assert_eq!(message["Reporting-MTA"], "dns; mx.example.org");
        assert_eq!(message["Original-Envelope-Id"], "QQ+1");
        assert!(message.contains_key("Arrival-Date"));
        assert!(
            notice
                .returned
                .contains("Content-Type: text/rfc822-headers")
        );
        assert!(notice.returned.contains("Subject: x\n") && !notice.returned.contains("\nhi"));
        let rcpt = &notice.blocks[1];
        assert!(rcpt["Remote-MTA"].starts_with("dns; "), "{rcpt:?}");
        assert!(rcpt.contains_key("Last-Attempt-Date"));
    }
    let failed = &find(&notices, "failed").blocks;
    assert_eq!(failed.len(), 2);
    assert_eq!(failed[1]["Final-Recipient"], "rfc822; no@a.example");
    assert_eq!(failed[1]["Original-Recipient"], "rfc822; no@a.example");
    assert_eq!(failed[1]["Status"], "5.1.1");
    let said = &failed[1]["Diagnostic-Code"];
    assert!(
        said.starts_with("smtp; 550") && said.contains("nobody") && said.ends_with("that name"),
        "{said}"
    );
    let relayed = &find(&notices, "relayed").blocks;
    assert_eq!(relayed.len(), 2);
    assert_eq!(relayed[1]["Final-Recipient"], "rfc822; yes@a.example");
    assert_eq!(
        relayed[1]["Original-Recipient"],
        "rfc822; Yes+sir@a.example"
    );
    assert!(relayed[1]["Status"].starts_with("2."));
    let delayed = &find(&notices, "delayed").blocks;
    assert_eq!(delayed[1]["Final-Recipient"], "rfc822; later@a.example");
    assert_eq!(delayed[1]["Diagnostic-Code"], "smtp; 450 4.2.0 try again");
    assert_eq!(delayed[1]["Status"], "4.2.0");
    assert!(delayed[1].contains_key("Will-Retry-Until"));
    wait_for("only what is late to be left", || daemon.queue().len() == 1);
}

#[test]
fn a_host_with_dsn_is_given_the_parameters_and_tells_of_success_itself() {
    // RFC 3461 §5.2.1: the parameters are passed on, and no relayed notice is sent.
    let host = Host::start(WITH_DSN);
    let daemon = instance(&host);
    submit(
        &daemon,
        " RET=HDRS ENVID=QQ+2B1",
        &RCPTS,
        "Subject: x\r\n\r\nhi",
    );
    let notices = notices(&daemon, 2);
    find(&notices, "failed");
    find(&notices, "delayed");
    let commands = &host.wait(1)[0].commands;
    let mail = commands
        .iter()
        .find(|c| c.starts_with("MAIL"))
        .expect("MAIL");
    assert!(
        mail.contains(" RET=HDRS") && mail.contains(" ENVID=QQ+2B1"),
        "{mail}"
    );
    let yes = commands.iter().find(|c| c.contains("<yes@")).expect("RCPT");
    assert!(
        yes.contains(" NOTIFY=SUCCESS,FAILURE,DELAY")
            && yes.contains(" ORCPT=rfc822;Yes+2Bsir@a.example"),
        "{yes}"
    );
}

#[test]
fn failures_of_a_message_come_in_one_notice_and_late_ones_in_another() {
    // RFC 3464 §2: one report for the recipients of a message that share their fate. Without
    // NOTIFY failures and delays are reported; 421 closes the session and is temporary.
    let host = Host::start(|command| match command {
        "RCPT TO:<one@a.example>" => Some("550 5.1.1 one"),
        "RCPT TO:<two@b.example>" => Some("554 two"),
        "RCPT TO:<three@c.example>" => Some("421 4.3.2 going down"),
        _ => None,
    });
    let daemon = instance(&host);
    let large = format!(
        "Subject: x\r\n\r\n{}",
        "0123456789abcdef\r\n".repeat(70_000)
    );
    submit(
        &daemon,
        " RET=FULL",
        &[("one@a.example", ""), ("two@b.example", "")],
        large.trim_end(),
    );
    submit(
        &daemon,
        " RET=FULL",
        &[("one@a.example", "")],
        "Subject: small\r\n\r\n.. \u{fc}",
    );
    submit(
        &daemon,
        "",
        &[("three@c.example", "")],
        "Subject: y\r\n\r\nhi",
    );
    let notices = notices(&daemon, 3);
    let delayed = find(&notices, "delayed");
    assert_eq!(
        delayed.blocks[1]["Diagnostic-Code"],
        "smtp; 421 4.3.2 going down"
    );
    let failed = |count| {
        let mut found = notices.iter().filter(|n| n.action() == "failed");
        found.find(|n| n.blocks.len() == count).expect("a notice")
    };
    let both = failed(3);
    assert_eq!(
        both.recipients(),
        ["rfc822; one@a.example", "rfc822; two@b.example"]
    );
    // More than a mebibyte is not sent back, whatever RET says.
    assert!(both.returned.contains("text/rfc822-headers"));
    assert!(both.text.len() < 10_000);
    let small = failed(2);
    assert!(small.returned.contains("Content-Type: message/rfc822"));
    assert!(small.returned.contains("Content-Transfer-Encoding: 8bit"));
    assert!(
        small.returned.ends_with("\n\n. \u{fc}\n"),
        "{}",
        small.returned
    );
}

#[test]
fn nobody_is_told_that_a_notice_could_not_be_told() {
    // RFC 5321 §6.1: mail from the null sender, and so every notice, is never answered.
    let host = Host::start(|command| command.starts_with("RCPT").then_some("550 5.1.1 no"));
    let daemon = instance(&host);
    let mut client = daemon.hello();
    // The notice to this sender is itself refused.
    client.say("MAIL FROM:<bob@elsewhere.example>", 250);
    client.say("RCPT TO:<one@a.example>", 250);
    client.say("DATA", 354);
    client.say("Subject: x\r\n\r\nhi\r\n.", 250);
    daemon.wait_log("to=<bob@elsewhere.example>");
    daemon.wait_log("queue: no return path!");
    daemon.wait_settled();
    assert_eq!(daemon.maildir("mail").len(), 0);
}
