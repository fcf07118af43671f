//! smtpctl(8), explain and smtpd(8), -E: what they say is what the daemon does.

use std::process::Output;

use crate::support::{Instance, Setup, wait_for};

const CONFIG: &str = r#"
listen on 127.0.0.1 port $port
table aliases {
    root = "$user", team = "$user, |/usr/bin/true, /nowhere/box", both = "team, zoe"
    gone = "error:550 5.7.1 gone away", later = "error:451 not now", loop = loop2, loop2 = loop
    away = "x@far.org", back = "other@v.org", bad = "<x>", nothing = "", list = ":include:/nowhere"
    twice = "$user, one, two", one = "$user", two = "one", plus+tag = "$user"
    deep0 = deep1, deep1 = deep2, deep2 = deep3, deep3 = deep4, deep4 = deep5, deep5 = deep6
    deep6 = deep7, deep7 = deep8, deep8 = deep9, deep9 = "$user"
}
table virtuals { "info@v.org" = "$user", "other@v.org" = "info@v.org", "sales@v.org" = "a@b.c" }
table spammers { "@spam.org", "eve@evil.org" }
table domains { "a.org", "*.a.org" }
action in maildir "$dir/mail/%{dest.user}" alias <aliases>
action v maildir "$dir/virtual" virtual <virtuals>
action pipe mda "/usr/bin/true %{sender}"
action exp expand-only alias <aliases>
match from any mail-from <spammers> for any reject
match from any for domain <domains> action in
match from any for domain "v.org" action v
match from any for domain regex "^mda[0-9]" action pipe
match from any helo "*.friend.net" for domain friends.org action in
match from src 192.0.2.0/24 for domain remote.org action in
match !from local for domain notlocal.org action in
match from any for domain e.org action exp
match tag none from any for domain tagged.org action in
match from any tls for domain tls.org action in
match from any auth for domain auth.org action in
match for local action in
match for rcpt-to "@far.org" from local action pipe
"#;

/// Recipients; where there are two words the first is the sender.
const RECIPIENTS: &str = "\
$user@a.org|$user@x.a.org|$user@x.y.a.org|$user+tag@a.org|root@a.org|ROOT@A.org|team@a.org
both@a.org|gone@a.org|later@a.org|loop@a.org|away@a.org|back@a.org|bad@a.org|nothing@a.org
list@a.org|twice@a.org|plus+tag@a.org|plus+other@a.org|deep0@a.org|deep1@a.org|zoe@a.org
info@v.org|INFO@v.org|other@v.org|sales@v.org|nobody2@v.org|info+x@v.org|zoe@b.org
$user@mda1.net|$user@mdax.net|zoe@mda2.net|$user@friends.org|$user@remote.org|$user@notlocal.org
$user@e.org|team@e.org|gone@e.org|$user@tagged.org|$user@tls.org|$user@auth.org
$user|$user@localhost|$user@mx.example.org|$user@mx|$user@127.0.0.1|$user@[127.0.0.1]
$user@other.example.org|postmaster|a@far.org
x@spam.org $user@a.org|eve@evil.org $user@a.org|EVE+tag@Evil.org $user@a.org|ann@evil.org $user@a.org
a@@b $user@a.org|x@y <bad|x@y a@b@c|x@y @a.org";

fn user() -> String {
    let setup = Setup::new("$user").prepare();
    std::fs::read_to_string(setup.path().join("smtpd.conf")).expect("the name")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a session hears for one recipient.
fn heard(daemon: &Instance, sender: &str, rcpt: &str) -> String {
    let mut client = daemon.client();
    client.say("EHLO [127.0.0.1]", 250);
    let bracketed = |text: &str| {
        if text.contains(['<', '>']) {
            format!("<{}", text.trim_start_matches('<'))
        } else {
            format!("<{text}>")
        }
    };
    let reply = client.ask(&format!("MAIL FROM:{}", bracketed(sender)));
    if !reply.starts_with("250") {
        return reply;
    }
    client.ask(&format!("RCPT TO:{}", bracketed(rcpt)))
}

fn reply_of(page: &str) -> &str {
    let last = page.lines().last().unwrap_or_default();
    last.strip_prefix("reply ").expect("a reply")
}

// smtpctl(8), explain: judged exactly as if a client had sent it.
#[test]
fn what_is_explained_is_what_happens() {
    let user = user();
    let daemon = Setup::new(CONFIG).start();
    let listed = RECIPIENTS.replace("$user", &user);
    let cases: Vec<(&str, &str)> = listed
        .split(['|', '\n'])
        .map(|words| words.split_once(' ').unwrap_or(("joe@x.org", words)))
        .collect();
    assert!(cases.len() >= 50, "{}", cases.len());
    let mut accepted = 0;
    for (sender, rcpt) in cases {
        let expected = heard(&daemon, sender, rcpt);
        let bracketed = |text: &str| {
            if text.contains('>') {
                format!("<{text}")
            } else {
                text.to_string()
            }
        };
        let (from, to) = (bracketed(sender), bracketed(rcpt));
        let facts = [
            "src",
            "127.0.0.1",
            "rdns",
            "localhost",
            "from",
            &from,
            "rcpt",
            &to,
        ];
        let page = text(&daemon.ctl(["explain"].iter().chain(&facts)));
        assert_eq!(reply_of(&page), expected, "{sender} {rcpt}:\n{page}");
        let mut command = daemon.program("smtpd");
        command.arg("-R").arg(daemon.path()).args(["-n", "-E"]);
        command.arg(facts.join(" "));
        let offline = text(&crate::support::run(command, b""));
        assert_eq!(offline, page, "{sender} {rcpt}");
        accepted += usize::from(expected.starts_with("250"));
    }
    assert!(accepted > 20, "{accepted}");
}

// smtpctl(8), explain: each destination is one envelope, settled as it is said.
#[test]
fn explained_destinations_are_the_envelopes_that_are_queued() {
    let user = user();
    let daemon = Setup::new(CONFIG).arg("-P").arg("mda").start();
    for (rcpt, count) in [
        (format!("{user}@a.org"), 1),
        ("team@a.org".to_string(), 3),
        ("twice@a.org".to_string(), 1),
        ("back@a.org".to_string(), 1),
        ("away@a.org".to_string(), 0),
        ("other@v.org".to_string(), 1),
        (format!("{user}@mda1.net"), 1),
    ] {
        let page = text(&daemon.ctl(["explain", "src", "127.0.0.1", "rcpt", &rcpt]));
        let explained: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("destination "))
            .filter_map(|line| line.split_once('<')?.1.split_once('>'))
            .map(|(dest, _)| dest)
            .collect();
        assert_eq!(explained.len(), count, "{rcpt}:\n{page}");
        if count == 0 {
            assert!(!reply_of(&page).starts_with("250"), "{page}");
            continue;
        }
        let before = daemon.queue().len();
        let msgid = daemon.hello().mail("", &[&rcpt], b"Subject: x\n\nx\n");
        let mut queued = Vec::new();
        wait_for("the envelopes", || {
            queued = daemon.queue();
            queued.len() == before + count
        });
        let mut queued: Vec<&str> = queued
            .iter()
            .filter(|line| line.starts_with(&msgid))
            .filter_map(|line| line.split('|').nth(6))
            .collect();
        let mut explained = explained;
        explained.sort_unstable();
        queued.sort_unstable();
        assert_eq!(queued, explained, "{rcpt}");
    }
}

// smtpd(8): a refused recipient leaves a line with the rule and the reason, beside the command's.
#[test]
fn a_rejection_is_logged_with_its_rule() {
    let user = user();
    let daemon = Setup::new(CONFIG).start();
    let conf = daemon.path().join("smtpd.conf");
    let text = std::fs::read_to_string(&conf).expect("smtpd.conf");
    let line = |start: &str| {
        let at = text.lines().position(|line| line.starts_with(start));
        format!("{}:{}", conf.display(), at.expect("a rule") + 1)
    };
    let local = line("match from any for domain <domains>");
    let spam = line("match from any mail-from <spammers>");
    for (sender, rcpt, rule, reason) in [
        (
            "joe@x.org",
            "zoe@a.org".to_string(),
            &*local,
            "no such user: zoe",
        ),
        (
            "x@spam.org",
            format!("{user}@a.org"),
            &*spam,
            "rejected by the rule",
        ),
        (
            "joe@x.org",
            "a@b.org".to_string(),
            "none",
            "no rule matches <a@b.org>",
        ),
    ] {
        assert!(heard(&daemon, sender, &rcpt).starts_with("550 "), "{rcpt}");
        let entry = format!(" smtp reject rcpt=<{rcpt}> rule={rule} reason=\"{reason}\"\n");
        daemon.wait_log(&entry);
        let result = format!("result=\"550 Invalid recipient: <{rcpt}>\" address=127.0.0.1\n");
        daemon.wait_log(&result);
    }
}

// smtpctl(8), trace: the same steps as debug lines, until untrace.
#[test]
fn traces_begin_and_end_while_the_daemon_runs() {
    let daemon = Setup::new(CONFIG).start();
    assert!(daemon.ctl(["trace", "rules"]).status.success());
    assert!(daemon.ctl(["trace", "lookup"]).status.success());
    assert!(daemon.ctl(["trace", "expand"]).status.success());
    assert!(heard(&daemon, "joe@x.org", "zoe@a.org").starts_with("550 "));
    daemon.wait_log("rules: for domain <domains> -> yes\n");
    daemon.wait_log("lookup: alias \"zoe\" in table aliases -> not found\n");
    daemon.wait_log("expand: node 0 leads to node 1: user zoe\n");
    assert!(daemon.ctl(["untrace", "all"]).status.success());
    assert!(heard(&daemon, "joe@x.org", "zoe2@a.org").starts_with("550 "));
    daemon.wait_log("reason=\"no such user: zoe2\"\n");
    assert!(!daemon.log().contains("lookup: alias \"zoe2\""));
    let unknown = daemon.ctl(["trace", "nonsense"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&unknown.stderr),
        "smtpctl: invalid trace keyword: nonsense\n"
    );
}
