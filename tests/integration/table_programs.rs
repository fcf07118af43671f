//! smtpd-tables(7): programs that answer for tables.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::relay::{Host, submit};
use crate::submission::{self, plain};
use crate::support::tls_client::TlsClient;
use crate::support::{Instance, Setup, give, wait_for};

/// One table program for all services. It answers out of the file `answers` beside it, lines of
/// `service|key|answer`, and notes every request in `asked`.
const PROGRAM: &str = r#"#!/bin/sh
dir=$(dirname "$1")
while read -r line; do
	echo "$line" >>"$dir/asked"
	[ "$line" = "config|ready" ] && break
done
for service in alias domain netaddr mailaddr userinfo credentials source; do
	echo "register|$service"
done
echo "register|ready"
echo "up" >&2
while IFS='|' read -r t version stamp name op service id key; do
	echo "$op|$service|$key" >>"$dir/asked"
	if [ "$op" = update ]; then
		echo "update-result|$service|ok"
		continue
	fi
	[ -e "$dir/die" ] && exit 7
	[ -e "$dir/nonsense" ] && echo "what?"
	answer=not-found
	while IFS='|' read -r s k a; do
		[ "$s|$k" = "$service|$key" ] && answer=$a
	done <"$dir/answers"
	echo "$op-result|$id|$answer"
done
"#;

const CONFIG: &str = "listen on 127.0.0.1 port $port\n\
    table people proc:$dir/table:$dir/answers\n\
    action \"in\" maildir \"$dir/mail\" virtual <people>\n\
    match from any for domain <people> action \"in\"\n\
    match from any mail-from <people> for any reject\n";

/// Writes the program, and answers in which `$user` is whom the daemon delivers to.
fn write(dir: &Path, answers: &str) {
    let uid = fs::metadata(dir).unwrap().uid().to_string();
    let named = Command::new("id").args(["-un", &uid]).output().unwrap();
    let user = String::from_utf8_lossy(&named.stdout).trim().to_owned();
    let answers = answers.replace("$user", &user);
    let program = dir.join("table");
    if !program.exists() {
        fs::write(&program, PROGRAM).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(dir.join("answers"), answers).unwrap();
}

/// A daemon that has been given its table program before it starts.
fn start(answers: &str) -> Instance {
    let mut daemon = Setup::new("").prepare();
    write(daemon.path(), answers);
    daemon.configure(CONFIG);
    daemon.start();
    daemon
}

fn asked(daemon: &Instance) -> String {
    fs::read_to_string(daemon.path().join("asked")).unwrap_or_default()
}

#[test]
fn a_program_is_asked_by_service_and_answers_for_rules_and_addresses() {
    let daemon =
        start("domain|e.org|found\nalias|bob@e.org|found|$user\nalias|al@e.org|found|bob@e.org\n");
    let mut client = daemon.hello();
    client.mail("a@b.net", &["Bob@E.org"], b"\none\n");
    client.mail("a@b.net", &["al@e.org"], b"\ntwo\n");
    daemon.wait_mail(2);
    client.say("MAIL FROM:<a@b.net>", 250);
    client.say("RCPT TO:<nobody@e.org>", 524);
    client.say("RCPT TO:<x@elsewhere.org>", 550);
    let asked = asked(&daemon);
    assert!(asked.starts_with("config|smtpd-version|"), "{asked}");
    for line in [
        "config|protocol|0.1",
        "config|tablename|people",
        "check|domain|e.org",
        "lookup|alias|bob@e.org",
        "check|mailaddr|a@b.net",
    ] {
        assert!(asked.lines().any(|asked| asked == line), "{line}\n{asked}");
    }
    // What it says on standard error bears its name.
    daemon.wait_log("people: up");
    let updated = daemon.ctl(["update", "table", "people"]);
    assert!(updated.status.success());
}

#[test]
fn a_program_that_fails_makes_lookups_fail_for_now_and_is_started_again() {
    let daemon =
        start("domain|e.org|found\nalias|bob@e.org|found|$user\ndomain|sick.org|error|no route\n");
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@b.net>", 250);
    client.say("RCPT TO:<bob@e.org>", 250);
    client.say("RCPT TO:<bob@sick.org>", 451);
    daemon.wait_log("table-proc: people check failed: no route");
    for way in ["die", "nonsense"] {
        fs::write(daemon.path().join(way), "").unwrap();
        client.say("RCPT TO:<bob@e.org>", 451);
        fs::remove_file(daemon.path().join(way)).unwrap();
        wait_for("the program to be back", || {
            std::thread::sleep(Duration::from_millis(20));
            client.ask("RCPT TO:<bob@e.org>").starts_with("250")
        });
    }
    daemon.wait_log("lost processor: people exited abnormally: exited with status 7");
    daemon.wait_log("lost processor: people was ended: failed to parse reply: what?");
}

#[test]
fn it_ends_with_the_daemon() {
    let mut daemon = start("domain|e.org|found\n");
    let pid = {
        let engine = daemon.engine_pid();
        assert!(engine > 0);
        let out = Command::new("pgrep")
            .args(["-f", daemon.path().join("table").to_str().unwrap()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let first = text.split_whitespace().next().expect("a program");
        first.parse::<u32>().unwrap()
    };
    assert!(daemon.stop().success());
    assert!(!crate::support::alive(pid));
}

/// Whom the daemon delivers to, as a value of userinfo.
fn recipient(dir: &Path) -> (String, u32) {
    let owner = fs::metadata(dir).unwrap();
    let home = dir.join("home");
    fs::create_dir(&home).unwrap();
    give(&home, owner.uid());
    let (uid, gid) = (owner.uid(), owner.gid());
    (format!("{uid}:{gid}:{}", home.display()), uid)
}

const USERBASE: &str = "listen on 127.0.0.1 port $port\n\
    table people proc:$dir/table:$dir/answers\n\
    action \"in\" maildir userbase <people>\n\
    match from any for domain e.org action \"in\"\n";

/// It reads the file `answers` when it starts and when it is told to.
const REMEMBERS: &str = r#"#!/bin/sh
while read -r line; do [ "$line" = "config|ready" ] && break; done
known=$(cat "$1")
echo "register|userinfo"
echo "register|ready"
while IFS='|' read -r t version stamp name op service id key; do
	if [ "$op" = update ]; then
		known=$(cat "$1")
		echo "update-result|$service|ok"
		continue
	fi
	answer=not-found
	while IFS='|' read -r s k a; do
		[ "$s|$k" = "$service|$key" ] && answer=$a
	done <<-end
	$known
	end
	echo "$op-result|$id|$answer"
done
"#;

// table(5), userbase: smtpctl update table renews both copies.
#[test]
fn an_update_reaches_the_parents_program_as_well() {
    let mut daemon = Setup::new("").prepare();
    let (user, _) = recipient(daemon.path());
    let program = daemon.path().join("table");
    fs::write(&program, REMEMBERS).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    write(daemon.path(), &format!("userinfo|vera|found|{user}\n"));
    daemon.configure(USERBASE);
    daemon.start();
    let mail = |count: usize| {
        let new = daemon.path().join("home/Maildir/new");
        wait_for("the mail", || {
            fs::read_dir(&new).map_or(0, Iterator::count) == count
        });
    };
    let mut client = daemon.hello();
    client.mail("a@b.net", &["vera@e.org"], b"\none\n");
    mail(1);
    client.say("MAIL FROM:<a@b.net>", 250);
    client.say("RCPT TO:<al@e.org>", 550);
    client.say("RSET", 250);
    let both = format!("userinfo|vera|found|{user}\nuserinfo|al|found|{user}\n");
    write(daemon.path(), &both);
    let updated = daemon.ctl(["update", "table", "people"]);
    assert!(updated.status.success());
    client.mail("a@b.net", &["al@e.org"], b"\ntwo\n");
    mail(2);
}

// smtpd.conf(5), userbase: the users of a table, whom a program may know. The parent asks a program
// of its own, for a .forward as for a delivery.
#[test]
fn users_may_be_those_that_a_program_knows() {
    let mut daemon = Setup::new("").prepare();
    let (user, uid) = recipient(daemon.path());
    write(
        daemon.path(),
        &format!(
            "userinfo|vera|found|{user}\nuserinfo|al|found|{user}\nuserinfo|odd|found|x\n\
             userinfo|sick|error|no route\n"
        ),
    );
    daemon.configure(USERBASE);
    daemon.start();
    let mut client = daemon.hello();
    client.mail("a@b.net", &["Vera@e.org"], b"\none\n");
    let mail = || {
        let new = daemon.path().join("home/Maildir/new");
        fs::read_dir(new).map_or(0, Iterator::count)
    };
    wait_for("the mail of a program's user", || mail() == 1);
    client.say("MAIL FROM:<a@b.net>", 250);
    client.say("RCPT TO:<nobody@e.org>", 550);
    client.say("RCPT TO:<root@e.org>", 550);
    client.say("RCPT TO:<odd@e.org>", 451);
    client.say("RCPT TO:<sick@e.org>", 451);
    client.say("RSET", 250);
    // The home of the .forward is the program's word, too.
    let forward = daemon.path().join("home/.forward");
    fs::write(&forward, "\\al, nobody@e.org\n").unwrap();
    give(&forward, uid);
    client.say("MAIL FROM:<a@b.net>", 250);
    client.say("RCPT TO:<vera@e.org>", 550);
    client.say("RSET", 250);
    fs::remove_file(&forward).unwrap();
    // Mail that was taken waits while nobody can say who its user is.
    client.say("MAIL FROM:<a@b.net>", 250);
    client.say("RCPT TO:<al@e.org>", 250);
    client.say("DATA", 354);
    fs::write(daemon.path().join("die"), "").unwrap();
    client.send(b"\r\ntwo\r\n.\r\n");
    assert!(client.reply().starts_with("250 "));
    daemon.wait_log("result=TempFail");
    fs::remove_file(daemon.path().join("die")).unwrap();
    wait_for("the mail that has waited", || {
        daemon.ctl(["schedule", "all"]);
        mail() == 2
    });
    assert!(daemon.stop().success());
}

/// It answers every question alike, but only when there is a file `go` beside it.
const SLOW: &str = r#"#!/bin/sh
dir=$(dirname "$1")
while read -r line; do [ "$line" = "config|ready" ] && break; done
echo "register|SERVICE"
echo "register|ready"
while IFS='|' read -r t version stamp name op service id key; do
	: >"$dir/asked"
	until [ -e "$dir/go" ]; do sleep 0.05; done
	echo "$op-result|$id|ANSWER"
done
"#;

/// Writes a slow program into a new directory that it can write to.
fn write_slow(dir: &Path, service: &str, answer: &str) {
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    let text = SLOW.replace("SERVICE", service).replace("ANSWER", answer);
    fs::write(dir.join("table"), text).unwrap();
    fs::set_permissions(dir.join("table"), fs::Permissions::from_mode(0o755)).unwrap();
}

// smtpd.conf(5), smtp limit bypass: a program that takes its time costs nobody else any.
#[test]
fn a_slow_answer_about_one_who_logs_in_delays_nobody_else() {
    let world = submission::world();
    write_slow(&world.dir.path().join("near"), "netaddr", "found");
    let table = "table near proc:$dir/near/table:$dir/near/x\nsmtp limit bypass <near>\n";
    let daemon = submission::daemon(world, &format!("{table}{}", submission::SUBMISSION));
    let dir = daemon.path().join("near");
    let login = format!("AUTH PLAIN {}\r\n", plain("ann", "secret"));
    // One for each thread that has sessions.
    let sessions = std::thread::available_parallelism().unwrap().get();
    let address = submission::address(&daemon, 1);
    let mut slow: Vec<TlsClient> = (0..sessions)
        .map(|_| TlsClient::starttls(address))
        .collect();
    for client in &mut slow {
        client.send(login.as_bytes());
    }
    wait_for("the program to be asked", || dir.join("asked").exists());
    let _others: Vec<_> = (0..sessions).map(|_| daemon.hello()).collect();
    fs::write(dir.join("go"), "").unwrap();
    for client in &mut slow {
        assert_eq!(client.reply(), "235 2.0.0 Authentication succeeded");
    }
    daemon.wait_log("smtp authentication user=ann result=ok");
    // Nobody was greeted only when the program had been given up.
    let log = daemon.log();
    assert!(!log.contains("smtp limit bypass: "), "{log}");
}

// smtpd.conf(5), relay: a program that takes its time to say where mail goes holds up its own
// action alone.
#[test]
fn a_slow_answer_about_where_mail_goes_delays_no_other_action() {
    let host = Host::start(|_| None);
    let smarthost = format!("smtp://127.0.0.1:{}", host.port);
    let mut daemon = Setup::new("").prepare();
    let dir = daemon.path().join("far");
    write_slow(&dir, "relayhost", &format!("found|{smarthost}"));
    daemon.configure(&format!(
        "listen on 127.0.0.1 port $port\n\
         table far proc:$dir/far/table:$dir/far/x\n\
         action \"far\" relay domain <far>\n\
         action \"near\" relay host \"{smarthost}\" src {{ \"127.0.0.1\" }}\n\
         match from any for domain far.org action \"far\"\n\
         match from any for any action \"near\"\n"
    ));
    daemon.start();
    for _ in 0..5 {
        submit(&daemon, &["bob@far.org"], "Subject: x\r\n\r\nhi");
    }
    wait_for("the program to be asked", || dir.join("asked").exists());
    submit(&daemon, &["bob@near.org"], "Subject: x\r\n\r\nhi");
    let first = host.wait(1).remove(0);
    let rcpt = "RCPT TO:<bob@near.org>".to_owned();
    assert!(first.commands.contains(&rcpt), "{first:?}");
    fs::write(dir.join("go"), "").unwrap();
    host.wait(6);
    daemon.wait_empty();
}

// smtpd.conf(5), relay: the copies of a message that go to the same host leave together, also when
// a program says which host that is. Ten are handed out at a time: on a busy machine those may be
// on their way before the next ones come.
#[test]
fn a_message_whose_way_a_program_knows_is_sent_once_for_all_its_recipients() {
    let host = Host::start(|_| None);
    let mut daemon = Setup::new("").prepare();
    let dir = daemon.path().join("far");
    let answer = format!("found|smtp://127.0.0.1:{}", host.port);
    write_slow(&dir, "relayhost", &answer);
    fs::write(dir.join("go"), "").unwrap();
    daemon.configure(
        "listen on 127.0.0.1 port $port\n\
         table far proc:$dir/far/table:$dir/far/x\n\
         action \"far\" relay domain <far>\n\
         match from any for any action \"far\"\n",
    );
    daemon.start();
    let names: Vec<String> = (0..100).map(|n| format!("user{n}@far.org")).collect();
    let rcpts: Vec<&str> = names.iter().map(String::as_str).collect();
    submit(&daemon, &rcpts, "Subject: x\r\n\r\nhi");
    daemon.wait_empty();
    let taken = host.taken();
    let count = |word: &str| {
        let commands = taken.iter().flat_map(|taken| &taken.commands);
        commands.filter(|line| line.starts_with(word)).count()
    };
    assert_eq!(count("RCPT"), 100);
    assert!((1..=10).contains(&count("DATA")), "{}", count("DATA"));
}
