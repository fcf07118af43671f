//! smtpd-filters(7) and smtpd.conf(5), MAIL FILTERING: what filters are told, and what they do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use crate::support::{Client, Instance, Setup, alive, body, field, root_only, wait_for};

/// A filter that notes every line in `heard` and answers what `answers` says: lines of
/// `phase|parameter|answer`, where `*` is any parameter. It registers what `register` says, and
/// gives lines of messages back with a field in front.
const FILTER: &str = r#"#!/bin/sh
dir=$1
while IFS= read -r line; do
	printf '%s\n' "$line" >>"$dir/heard"
	[ "$line" = "config|ready" ] && break
done
cat "$dir/register"
echo "register|ready"
started=
while IFS= read -r line; do
	printf '%s\n' "$line" >>"$dir/heard"
	case $line in
	filter\|*)
		IFS='|' read -r f v t s phase session token rest <<EOF
$line
EOF
		rest=${line#filter|*|*|*|*|*|*|}
		case $phase in
		data-line)
			[ -z "$started" ] && printf 'filter-dataline|%s|%s|X-Filter: %s\n' "$session" "$token" "$2"
			started=yes
			[ "$rest" = . ] && started=
			[ -e "$dir/die" ] && exit 3
			printf 'filter-dataline|%s|%s|%s\n' "$session" "$token" "$rest"
			;;
		*)
			answer=proceed
			while IFS='|' read -r p k a; do
				[ "$p" = "$phase" ] && { [ "$k" = "*" ] || [ "$k" = "$rest" ]; } && answer=$a
			done <"$dir/answers"
			case $answer in
			die) exit 7 ;;
			silence) continue ;;
			nonsense) echo "what?" ;;
			*) printf 'filter-result|%s|%s|%s\n' "$session" "$token" "$answer" ;;
			esac
			;;
		esac
		;;
	esac
done
"#;

pub const ALL: &str = "register|report|smtp-in|*\nregister|filter|smtp-in|connect\n\
    register|filter|smtp-in|helo\nregister|filter|smtp-in|ehlo\n\
    register|filter|smtp-in|mail-from\nregister|filter|smtp-in|rcpt-to\n\
    register|filter|smtp-in|data\nregister|filter|smtp-in|data-line\n\
    register|filter|smtp-in|commit\nregister|filter|smtp-in|rset\n\
    register|filter|smtp-in|quit\nregister|filter|smtp-in|noop\n";

/// A filter's directory below the instance root.
pub fn prepare(dir: &Path, name: &str, register: &str, answers: &str) {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.join("filter");
    fs::write(&program, FILTER).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("register"), register).unwrap();
    fs::write(dir.join("answers"), answers).unwrap();
}

const ACTION: &str = "action \"in\" maildir \"$dir/mail\" virtual $all\n\
    match from any for any action \"in\"\n";

/// A daemon whose listener has the filters of `text`, which are made before it starts.
pub fn start(text: &str, filter: &str, programs: &[(&str, &str, &str)]) -> Instance {
    let mut daemon = Setup::new("").prepare();
    for (name, register, answers) in programs {
        prepare(daemon.path(), name, register, answers);
    }
    daemon.configure(&format!(
        "{text}listen on 127.0.0.1 port $port filter {filter}\n{ACTION}"
    ));
    daemon.start();
    daemon
}

fn recorder(answers: &str) -> Instance {
    start(
        "filter \"f\" proc-exec \"$dir/f/filter $dir/f one\"\n",
        "\"f\"",
        &[("f", ALL, answers)],
    )
}

pub fn heard(daemon: &Instance, filter: &str) -> String {
    let path = daemon.path().join(filter).join("heard");
    fs::read_to_string(path).unwrap_or_default()
}

/// What the filter was told of the last session, times, ids and ports replaced.
fn transcript(daemon: &Instance) -> Vec<String> {
    // Another one, which saw whether the daemon serves, may end at the same time.
    let of_session = |text: &str| -> Vec<String> {
        let field = |line: &str| line.split('|').nth(5).map(str::to_owned);
        let with_mail = text.lines().rfind(|line| line.contains("|MAIL FROM:"));
        let Some(session) = with_mail.and_then(field) else {
            return Vec::new();
        };
        let lines = text.lines().map(str::to_owned);
        lines
            .filter(|line| field(line).as_ref() == Some(&session))
            .collect()
    };
    wait_for("the session with mail to end", || {
        let text = heard(daemon, "f");
        let lines = of_session(&text);
        let ended = |line: &String| line.contains("|link-disconnect|");
        text.ends_with('\n') && lines.last().is_some_and(ended)
    });
    let said = of_session(&heard(daemon, "f"));
    let mut phases: Vec<String> = Vec::new();
    let mut session = String::new();
    let mut msgid = String::new();
    said.iter()
        .map(|line| {
            let mut fields: Vec<String> = line.split('|').map(str::to_owned).collect();
            assert!(
                fields[2]
                    .split_once('.')
                    .is_some_and(|(_, us)| us.len() == 6),
                "{line}"
            );
            fields[2] = "T".to_owned();
            if session.is_empty() {
                session = fields[5].clone();
            }
            assert_eq!(fields[5], session, "{line}");
            fields[5] = "S".to_owned();
            if fields[0] == "filter" {
                if !phases.contains(&fields[4]) {
                    phases.push(fields[4].clone());
                }
                let number = phases.iter().position(|p| *p == fields[4]).unwrap();
                fields[6] = char::from(b'A' + number as u8).to_string();
            }
            if fields[4] == "tx-begin" {
                msgid = fields[6].clone();
            }
            if fields[4] == "link-connect" {
                fields[8] = fields[8].split(':').next().unwrap().to_owned() + ":P";
                fields[9] = fields[9].split(':').next().unwrap().to_owned() + ":P";
            }
            if fields[4] == "tx-envelope" {
                fields[7] = "E".to_owned();
            }
            if fields[4] == "tx-commit" {
                assert!(fields[7].parse::<u64>().is_ok(), "{line}");
                fields[7] = "N".to_owned();
            }
            let line = fields.join("|");
            if msgid.is_empty() {
                line
            } else {
                line.replace(&msgid, "M")
            }
        })
        .collect()
}

#[test]
fn a_filter_hears_a_whole_session_in_the_promised_order() {
    let daemon = recorder("");
    let mut client = daemon.client();
    client.say("EHLO client.example.org", 250);
    client.say("MAIL FROM:<alice@example.org> SIZE=1200", 250);
    client.say("RCPT TO:<bob@example.com>", 250);
    client.say("DATA", 354);
    client.send(b"Subject: hi\r\n\r\n..a stuffed line\r\n|x|\r\n.\r\n");
    assert!(client.reply().starts_with("250 "));
    client.say("QUIT", 221);
    let told = heard(&daemon, "f");
    let config: Vec<&str> = told
        .lines()
        .take_while(|l| l.starts_with("config|"))
        .collect();
    assert_eq!(
        config[1..4],
        [
            "config|protocol|0.7",
            "config|smtp-session-timeout|300",
            "config|subsystem|smtp-in"
        ]
    );
    assert!(config[4].starts_with("config|admd|"));
    let lines = transcript(&daemon);
    let (data, other): (Vec<_>, Vec<_>) = lines.iter().partition(|l| l.contains("|data-line|"));
    let other: Vec<&str> = other.iter().map(|l| l.as_str()).collect();
    let hello = other
        .iter()
        .position(|l| l.contains("|link-identify|"))
        .unwrap();
    assert_eq!(
        other[..=hello],
        [
            "report|0.7|T|smtp-in|link-connect|S|localhost|pass|127.0.0.1:P|127.0.0.1:P",
            "filter|0.7|T|smtp-in|connect|S|A|localhost|127.0.0.1",
            "report|0.7|T|smtp-in|filter-response|S|connected|proceed",
            &format!("report|0.7|T|smtp-in|protocol-server|S|{}", banner(&other)),
            &format!(
                "report|0.7|T|smtp-in|link-greeting|S|{}",
                server_name(&other)
            ),
            "report|0.7|T|smtp-in|protocol-client|S|EHLO client.example.org",
            "filter|0.7|T|smtp-in|ehlo|S|B|client.example.org",
            "report|0.7|T|smtp-in|filter-response|S|ehlo|proceed",
            "report|0.7|T|smtp-in|link-identify|S|EHLO|client.example.org",
        ]
    );
    let mail = other.iter().position(|l| l.contains("|MAIL FROM")).unwrap();
    assert_eq!(
        other[mail..],
        [
            "report|0.7|T|smtp-in|protocol-client|S|MAIL FROM:<alice@example.org> SIZE=1200",
            "filter|0.7|T|smtp-in|mail-from|S|C|alice@example.org",
            "report|0.7|T|smtp-in|filter-response|S|mail-from|proceed",
            "report|0.7|T|smtp-in|protocol-server|S|250 2.0.0 Ok",
            "report|0.7|T|smtp-in|tx-begin|S|M",
            "report|0.7|T|smtp-in|tx-mail|S|M|ok|alice@example.org",
            "report|0.7|T|smtp-in|protocol-client|S|RCPT TO:<bob@example.com>",
            "filter|0.7|T|smtp-in|rcpt-to|S|D|bob@example.com",
            "report|0.7|T|smtp-in|filter-response|S|rcpt-to|proceed",
            "report|0.7|T|smtp-in|tx-envelope|S|M|E",
            "report|0.7|T|smtp-in|protocol-server|S|250 2.1.5 Destination address valid: Recipient ok",
            "report|0.7|T|smtp-in|tx-rcpt|S|M|ok|bob@example.com",
            "report|0.7|T|smtp-in|protocol-client|S|DATA",
            "filter|0.7|T|smtp-in|data|S|E|",
            "report|0.7|T|smtp-in|filter-response|S|data|proceed",
            "report|0.7|T|smtp-in|protocol-server|S|354 Enter mail, end with \".\" on a line by itself",
            "report|0.7|T|smtp-in|tx-data|S|M|ok",
            "report|0.7|T|smtp-in|protocol-client|S|.",
            "filter|0.7|T|smtp-in|commit|S|G|",
            "report|0.7|T|smtp-in|filter-response|S|commit|proceed",
            "report|0.7|T|smtp-in|protocol-server|S|250 2.0.0 M Message accepted for delivery",
            "report|0.7|T|smtp-in|tx-commit|S|M|N",
            "report|0.7|T|smtp-in|tx-reset|S|M",
            "report|0.7|T|smtp-in|protocol-client|S|QUIT",
            "filter|0.7|T|smtp-in|quit|S|H|",
            "report|0.7|T|smtp-in|filter-response|S|quit|proceed",
            "report|0.7|T|smtp-in|protocol-server|S|221 2.0.0 Bye",
            "report|0.7|T|smtp-in|link-disconnect|S",
        ]
    );
    // Our own field first, dots as on the wire, and one dot at the end.
    let prefix = "filter|0.7|T|smtp-in|data-line|S|F|";
    let data: Vec<&str> = data
        .iter()
        .map(|l| l.strip_prefix(prefix).unwrap())
        .collect();
    assert!(data[0].starts_with("Received: from client.example.org (localhost [127.0.0.1])"));
    assert!(data[1].starts_with("\tby "));
    assert_eq!(
        data[4..],
        ["Subject: hi", "", "..a stuffed line", "|x|", "."]
    );
    let mail = daemon.wait_mail(1);
    assert_eq!(field(&mail[0], "X-Filter").as_deref(), Some("one"));
    assert_eq!(body(&mail[0]), b".a stuffed line\n|x|\n");
}

fn banner(lines: &[&str]) -> String {
    let line = lines
        .iter()
        .find(|l| l.contains("|protocol-server|"))
        .unwrap();
    line.rsplit('|').next().unwrap().to_owned()
}

fn server_name(lines: &[&str]) -> String {
    banner(lines).split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_filter_decides_at_every_phase() {
    let daemon = recorder(
        "helo|bad|reject|550 go away\n\
         helo|rude|disconnect|550 and stay there\n\
         helo|odd|reject|no code\n\
         helo|new|rewrite|new.example.org\n\
         mail-from|no@e.org|reject|451 later\n\
         mail-from|old@e.org|rewrite|<new@e.org>\n\
         mail-from|broken@e.org|rewrite|new@e.org\n\
         rcpt-to|no@e.org|reject|550 5.1.1 no|body\n\
         rcpt-to|al@e.org|rewrite|<bob@e.org>\n\
         mail-from|junk@e.org|junk\n\
         mail-from|seen@e.org|report|hello\n\
         noop||reject|500 no nooping\n\
         rset||reject|500 no\n\
         quit||reject|500 stay\n",
    );
    let mut client = daemon.client();
    let reply = client.say("HELO bad", 550);
    assert!(reply.contains("go away"));
    client.say("MAIL FROM:<a@e.org>", 503);
    client.say("HELO new", 250);
    client.say("NOOP", 500);
    client.say("MAIL FROM:<no@e.org>", 451);
    client.say("MAIL FROM:<broken@e.org>", 553);
    client.say("MAIL FROM:<old@e.org>", 250);
    let reply = client.say("RCPT TO:<no@e.org>", 550);
    assert!(reply.contains("5.1.1 no|body"), "{reply}");
    client.say("RCPT TO:<al@e.org>", 250);
    client.say("RSET", 500);
    client.say("DATA", 354);
    client.send(b"\r\nx\r\n.\r\n");
    assert!(client.reply().starts_with("250"));
    client.say("MAIL FROM:<junk@e.org>", 250);
    client.say("RCPT TO:<bob@e.org>", 250);
    client.say("DATA", 354);
    client.send(b"\r\nx\r\n.\r\n");
    assert!(client.reply().starts_with("250"));
    client.say("QUIT", 500);
    client.say("MAIL FROM:<seen@e.org>", 250);
    client.say("HELO odd", 421);
    assert!(client.closed());
    let mail = daemon.wait_mail(2);
    let (first, second): (Vec<_>, Vec<_>) = mail.iter().partition(|m| field(m, "X-Spam").is_none());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(
        field(first[0], "Return-Path").as_deref(),
        Some("<new@e.org>")
    );
    assert!(String::from_utf8_lossy(first[0]).contains("from new.example.org"));
    let told = transcript(&daemon);
    for line in [
        "report|0.7|T|smtp-in|filter-response|S|helo|reject|550 go away",
        "report|0.7|T|smtp-in|filter-response|S|mail-from|rewrite|<new@e.org>",
        "report|0.7|T|smtp-in|filter-response|S|mail-from|junk",
        "report|0.7|T|smtp-in|filter-response|S|helo|disconnect|421 Internal server error",
        "report|0.7|T|smtp-in|filter-report|S|proc|f|hello",
    ] {
        assert!(told.iter().any(|l| l == line), "{line}\n{told:#?}");
    }
    let mut client = daemon.client();
    client.say("HELO rude", 550);
    assert!(client.closed());
}

#[test]
fn what_is_called_junk_at_its_end_is_marked_wherever_it_is_by_then() {
    // smtpd-filters(7): junk puts the field in front of the message, also when it comes at commit.
    let daemon = start(
        "filter \"f\" proc-exec \"$dir/f/filter $dir/f one\"\n",
        "\"f\"",
        &[("f", "register|filter|smtp-in|commit\n", "commit|*|junk\n")],
    );
    // One is in memory at its end, of the other a part is on the disk.
    let bodies = ["a line\n".to_owned(), "a long line\n".repeat(50_000)];
    let mut client = daemon.hello();
    for text in &bodies {
        client.mail("a@e.org", &["b@e.org"], format!("\n{text}").as_bytes());
    }
    let mail = daemon.wait_mail(2);
    for text in bodies {
        let message = mail.iter().find(|m| body(m) == text.as_bytes()).unwrap();
        let header = String::from_utf8_lossy(message);
        let ours: Vec<&str> = header
            .lines()
            .skip_while(|line| !line.starts_with("X-Spam"))
            .take(2)
            .collect();
        assert_eq!(ours[0], "X-Spam: Yes");
        assert!(ours[1].starts_with("Received: from "), "{ours:?}");
    }
}

#[test]
fn a_connection_or_message_that_a_filter_refuses_is_refused() {
    let daemon = recorder("commit|*|reject|550 spam\n");
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@e.org>", 250);
    client.say("RCPT TO:<b@e.org>", 250);
    client.say("DATA", 354);
    client.send(b"\r\nx\r\n.\r\n");
    assert!(client.reply().starts_with("550 spam"));
    client.say("QUIT", 221);
    let lines = transcript(&daemon);
    let end: Vec<&str> = lines.iter().map(String::as_str).collect();
    let at = end
        .iter()
        .position(|l| l.contains("|commit|reject|550 spam"))
        .unwrap();
    assert_eq!(
        end[at + 1..at + 5],
        [
            "report|0.7|T|smtp-in|protocol-server|S|550 spam",
            "report|0.7|T|smtp-in|tx-data|S|M|permfail",
            "report|0.7|T|smtp-in|tx-rollback|S|M",
            "report|0.7|T|smtp-in|tx-reset|S|M",
        ]
    );
    let answers = daemon.path().join("f/answers");
    fs::write(answers, "connect|*|reject|550 not you\n").unwrap();
    let mut client = Client::connect(daemon.port);
    assert!(client.reply().starts_with("550 not you"));
    client.say("EHLO x", 503);
    client.say("NOOP", 250);
    client.say("QUIT", 221);
}

#[test]
fn a_filter_that_fails_costs_its_sessions_and_nobody_else() {
    let daemon = start(
        "filter \"f\" proc-exec \"$dir/f/filter $dir/f one\"\n",
        "\"f\"",
        &[(
            "f",
            ALL,
            "mail-from|die@e.org|die\nmail-from|what@e.org|nonsense\n",
        )],
    );
    let mut client = daemon.hello();
    let mut other = daemon.hello();
    client.say("MAIL FROM:<die@e.org>", 451);
    daemon.wait_log("lost processor: f exited abnormally: exited with status 7");
    // Its successor knows nothing of this session.
    other.say("MAIL FROM:<a@e.org>", 451);
    wait_for("the filter to be back", || {
        std::thread::sleep(Duration::from_millis(50));
        Client::connect(daemon.port).reply().starts_with("220")
    });
    let mut client = daemon.hello();
    client.mail("a@e.org", &["b@e.org"], b"\nx\n");
    // smtpctl(8), show filters.
    let shown = daemon.ctl(["show", "filters"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let fields: Vec<&str> = text.trim_end().split('|').collect();
    assert_eq!(
        (fields.len(), fields[0], fields[1], fields[3]),
        (9, "f", "ready", "1"),
        "{text}"
    );
    assert!(alive(fields[2].parse().unwrap()), "{text}");
    client.say("MAIL FROM:<what@e.org>", 451);
    daemon.wait_log("lost processor: f was ended: Invalid filter message type: what?");
}

#[test]
fn filters_of_the_configuration_need_no_program() {
    let daemon = start(
        "table bad { \"bad.example.org\", \"*.bad.org\" }\n\
         filter a phase connect match !rdns disconnect \"550 no name\"\n\
         filter b phase helo match helo <bad> reject \"550 bad helo\"\n\
         filter c phase ehlo match helo regex { \"^evil\" } reject \"550 evil\"\n\
         filter d phase mail-from match mail-from { \"@spam.org\" } reject \"550 no spam\"\n\
         filter e phase mail-from match mail-from { \"old@e.org\" } rewrite \"<new@e.org>\"\n\
         filter g phase mail-from match mail-from { \"new@e.org\" } junk\n\
         filter h phase rcpt-to match rcpt-to { \"no@e.org\" } reject \"550 5.1.1 nobody\"\n\
         filter j phase mail-from match mail-from { \"friend@e.org\" } bypass\n\
         filter k phase rcpt-to match src { 127.0.0.0/8 } report \"local\"\n\
         filter l phase commit match mail-from { \"late@e.org\" } reject \"552 too late\"\n",
        "{ a, b, c, j, d, e, g, h, k, l }",
        &[],
    );
    let mut client = daemon.client();
    client.say("HELO x.bad.org", 550);
    client.say("EHLO evil.org", 550);
    client.say("EHLO good.org", 250);
    client.say("MAIL FROM:<x@spam.org>", 550);
    client.say("MAIL FROM:<friend@e.org>", 250);
    client.say("RCPT TO:<no@e.org>", 250);
    client.say("RSET", 250);
    let refused = client.try_mail("late@e.org", &["b@e.org"], b"\nx\n");
    assert!(refused.is_some_and(|reply| reply.starts_with("552")));
    client.say("MAIL FROM:<old@e.org>", 250);
    client.say("RCPT TO:<no@e.org>", 550);
    client.say("RCPT TO:<b@e.org>", 250);
    client.say("DATA", 354);
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert!(client.reply().starts_with("250"));
    let mail = daemon.wait_mail(1);
    assert_eq!(field(&mail[0], "X-Spam").as_deref(), Some("Yes"));
    assert_eq!(
        field(&mail[0], "Return-Path").as_deref(),
        Some("<new@e.org>")
    );
}

#[test]
fn a_message_goes_through_filters_in_their_order_without_being_held_in_memory() {
    let echo = |name: &str| {
        format!(
            "filter \"{name}\" proc-exec \"{} {name}\"\n",
            "/usr/bin/env python3 $dir/echo.py"
        )
    };
    if std::process::Command::new("python3")
        .arg("--version")
        .output()
        .is_err()
    {
        return crate::support::not_run("a message through filters", "python3 is not installed");
    }
    let text = ["one", "two", "three"].map(echo).concat();
    let mut daemon = Setup::new("").prepare();
    fs::write(daemon.path().join("echo.py"), ECHO).unwrap();
    daemon.configure(&format!(
        "{text}listen on 127.0.0.1 port $port filter {{ one, two, three }}\n{ACTION}"
    ));
    daemon.start();
    let mut client = daemon.hello();
    client.mail(
        "a@e.org",
        &["b@e.org"],
        b"Subject: x\n\n.dot\n\n..\nlong|\xff\n",
    );
    let mail = daemon.wait_mail(1);
    let text = String::from_utf8_lossy(&mail[0]);
    let places =
        ["X-three:", "X-two:", "X-one:", "Received:", "Subject:"].map(|f| text.find(f).unwrap());
    assert!(places.is_sorted(), "{text}");
    assert_eq!(body(&mail[0]), b".dot\n\n..\nlong|\xff\n");
    let before = resident_kib(daemon.engine_pid());
    let line = [b"0123456789abcdef".repeat(4), b"\n".to_vec()].concat();
    let message = [b"\n".to_vec(), line.repeat(30 * 1024 * 1024 / line.len())].concat();
    client.mail("a@e.org", &["b@e.org"], &message);
    let mail = daemon.wait_mail(2);
    let longest = mail.iter().map(|m| body(m).len()).max().unwrap();
    assert_eq!(longest, message.len() - 1);
    let grown = peak_kib(daemon.engine_pid()).saturating_sub(before);
    assert!(grown < 12 * 1024, "the engine has grown by {grown} KiB");
    assert!(alive(daemon.engine_pid()));
}

// smtpd.conf(5), proc: `user` and `chroot`. The root directory is this one, which has a shell.
#[test]
fn a_filter_may_have_a_user_and_a_root_directory_of_its_own() {
    if !root_only("a filter in a root directory of its own") {
        return;
    }
    let mut daemon = Setup::new("").with_root().prepare();
    prepare(daemon.path(), "f", ALL, "");
    fs::set_permissions(daemon.path(), fs::Permissions::from_mode(0o755)).unwrap();
    daemon.configure(
        "filter \"f\" proc-exec \"$dir/f/filter $dir/f one\" user nobody chroot \"/\"\n\
         listen on 127.0.0.1 port $port filter \"f\"\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\nmatch from any for any action \"in\"\n",
    );
    daemon.start();
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@e.org>", 250);
    let heard = daemon.path().join("f/heard");
    assert_eq!(fs::metadata(heard).unwrap().uid(), 65534);
}

/// Adds a field, and gives every line back at once.
const ECHO: &str = r#"
import sys
name = sys.argv[1].encode()
i, o = sys.stdin.buffer, sys.stdout.buffer
for line in i:
    if line == b"config|ready\n":
        break
o.write(b"register|filter|smtp-in|data-line\nregister|ready\n")
o.flush()
new = True
for line in i:
    f, v, t, s, phase, session, token, rest = line.split(b"|", 7)
    if new:
        o.write(b"filter-dataline|%s|%s|X-%s: yes\n" % (session, token, name))
        new = False
    o.write(b"filter-dataline|%s|%s|%s" % (session, token, rest))
    if rest == b".\n":
        new = True
        o.flush()
"#;

fn status_kib(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find(|l| l.starts_with(key))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}
