//! smtpctl(8), trace, profile and trace message: what is done, for whom, and where time goes.

use std::thread;
use std::time::Duration;

use crate::relay::Host;
use crate::support::{Client, Instance, Setup, text, wait_for};

fn ctl(daemon: &Instance, command: &str) -> String {
    let output = daemon.ctl(command.split(' '));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command}: {errors}{}",
        text(&output)
    );
    text(&output)
}

/// What `command` says on standard error; it fails.
fn refused(daemon: &Instance, command: &str) -> String {
    let output = daemon.ctl(command.split(' '));
    assert_eq!(output.status.code(), Some(1), "{command}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Takes mail for a maildir, a command that fails, and a host; has a filter, and a listener that is
/// tagged.
fn daemon(host: &Host, tagged: u16) -> Instance {
    Setup::new(&format!(
        "table known {{ \"example.org\", \"mx.example.org\" }}\n\
         filter greet phase ehlo match helo {{ \"bad.example\" }} reject \"550 no\"\n\
         listen on 127.0.0.1 port $port filter greet\n\
         listen on 127.0.0.1 port {tagged} tag here filter greet\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         action \"gone\" mda \"exit 67\" virtual $all\n\
         action \"out\" relay host \"smtp://127.0.0.1:{}\"\n\
         match from any for domain \"gone.example.org\" action \"gone\"\n\
         match from any for domain <known> action \"in\"\n\
         match from any for any action \"out\"\n",
        host.port
    ))
    .start()
}

/// One message to all places, between two commands that the log shows; what stands there between.
fn round(daemon: &Instance, name: &str) -> String {
    let mut client = Client::connect(daemon.port);
    client.reply();
    let (begin, end) = (format!("BEGIN-{name}"), format!("END-{name}"));
    client.say(&begin, 500);
    client.say("EHLO client.example.net", 250);
    let reports = daemon.maildir("mail").len();
    client.mail(
        "a@example.org",
        &["b@gone.example.org", "c@elsewhere.example"],
        b"\nx\n",
    );
    // The report on the failure is the last to arrive.
    wait_for("the report", || daemon.maildir("mail").len() > reports);
    daemon.wait_empty();
    client.say(&end, 500);
    let end = format!("failed-command command=\"{end}\"");
    daemon.wait_log(&end);
    let log = daemon.log();
    let begin = log
        .find(&format!("failed-command command=\"{begin}\""))
        .expect("begin");
    let end = log.find(&end).expect("end");
    log[begin..end].to_owned()
}

#[test]
fn every_trace_says_what_the_manual_says_and_nothing_else() {
    // smtpctl(8), trace: log what one part of the daemon does; untrace ends it.
    let host = Host::start(|_| None);
    let daemon = daemon(&host, crate::support::free_port());
    let words: &[(&str, &[&str])] = &[
        ("imsg", &["imsg: engine: StartMda", "imsg: parent: MdaDone"]),
        ("io", &["io: fd ", " read ", " wrote "]),
        (
            "smtp",
            &[
                ": <<< RCPT TO:<b@gone.example.org>",
                ": >>> 250 2.1.5 Destination address valid: Recipient ok",
            ],
        ),
        ("filters", &[": ehlo: greet: proceed"]),
        (
            "mta",
            &[": >>> RCPT TO:<c@elsewhere.example>", ": <<< 250 ok"],
        ),
        ("bounce", &["bounce: message "]),
        ("scheduler", &["scheduler: evp:"]),
        ("lookup", &["lookup: domain \"gone.example.org\" in table "]),
        ("stat", &["stat: scheduler.delivery.ok: "]),
        ("rules", &["rules: ", " -> yes", " -> no"]),
        (
            "mproc",
            &["mproc: engine: StartMda", "mproc: parent: MdaDone"],
        ),
        ("expand", &["expand: node 0: "]),
        ("tables", &["tables: known has answered"]),
        (
            "queue",
            &["queue: commit ", "queue: add ", "queue: remove "],
        ),
    ];
    assert!(refused(&daemon, "trace nonsense").contains("invalid trace keyword: nonsense"));
    for (word, said) in words {
        assert_eq!(
            ctl(&daemon, &format!("trace {word}")),
            "command succeeded\n"
        );
        let lines = round(&daemon, word);
        assert_eq!(
            ctl(&daemon, &format!("untrace {word}")),
            "command succeeded\n"
        );
        for part in *said {
            assert!(lines.contains(part), "{word}: {part}\n{lines}");
        }
        for (other, _) in words.iter().filter(|(other, _)| other != word) {
            let begins = format!("{other}: ");
            let strange = lines.lines().find(|line| line.starts_with(&begins));
            assert_eq!(strange, None, "{word}\n{lines}");
        }
    }
    let quiet = round(&daemon, "none");
    let all = |lines: &str| {
        let begun = |word: &str| {
            lines
                .lines()
                .any(|line| line.starts_with(&format!("{word}: ")))
        };
        words.iter().filter(|(word, _)| begun(word)).count()
    };
    assert_eq!(all(&quiet), 0, "{quiet}");
    ctl(&daemon, "trace all");
    let loud = round(&daemon, "all");
    assert_eq!(all(&loud), words.len(), "{loud}");
    // smtpctl(8), log brief: it ends all traces.
    ctl(&daemon, "log brief");
    assert_eq!(all(&round(&daemon, "brief")), 0);
}

#[test]
fn traces_are_on_from_the_start_where_that_is_asked_for() {
    // smtpd(8), -T.
    let daemon = Setup::maildir()
        .arg("-Tsmtp")
        .arg("-Tprofile-queue")
        .arg("-v")
        .start();
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.wait_log(": <<< MAIL FROM:<a@example.net>");
    daemon.wait_log("profile-queue: commit");
    assert!(!daemon.log().contains("\nio: "), "{}", daemon.log());
}

#[test]
fn a_trace_is_limited_to_a_client_a_listener_or_a_host() {
    // smtpctl(8), trace: `from`, `tag` and `to`.
    let host = Host::start(|_| None);
    let tagged = crate::support::free_port();
    let daemon = daemon(&host, tagged);
    let say = |from: [u8; 4], port: u16, word: &str| {
        let to = ([127, 0, 0, 1], port).into();
        let mut client = Client::connect_from(from.into(), to).expect("connect");
        client.reply();
        client.say("EHLO client.example.net", 250);
        client.say("MAIL FROM:<a@example.net>", 250);
        client.say(&format!("RCPT TO:<{word}@example.org>"), 250);
        client.say("QUIT", 221);
    };
    // The last session has been logged whole, and so all before it.
    let log = |last: &str| {
        let last = format!("last-{last}");
        let mut client = daemon.hello();
        client.say(&last, 500);
        daemon.wait_log(&format!("command=\"{last}\""));
        daemon.log()
    };
    for word in ["smtp", "rules"] {
        ctl(&daemon, &format!("trace {word} from 127.0.0.2/32"));
    }
    ctl(&daemon, "trace filters tag here");
    say([127, 0, 0, 1], daemon.port, "one");
    say([127, 0, 0, 2], daemon.port, "two");
    let seen = log("a");
    assert!(seen.contains(": <<< RCPT TO:<two@example.org>"), "{seen}");
    assert!(!seen.contains(": <<< RCPT TO:<one@example.org>"), "{seen}");
    assert!(seen.contains("\nrules: "), "{seen}");
    assert!(!seen.contains("\nfilters: "), "{seen}");
    say([127, 0, 0, 1], tagged, "three");
    let seen = log("b");
    assert!(
        !seen.contains(": <<< RCPT TO:<three@example.org>"),
        "{seen}"
    );
    assert_eq!(seen.matches("\nfilters: ").count(), 1, "{seen}");
    // untrace ends all of a word.
    ctl(&daemon, "untrace smtp");
    say([127, 0, 0, 2], daemon.port, "four");
    assert!(!log("c").contains(": <<< RCPT TO:<four@example.org>"));
    // Hosts are chosen by `to`.
    ctl(&daemon, "trace mta to 192.0.2.0/24");
    round(&daemon, "far");
    assert!(!daemon.log().contains("\nmta: "), "{}", daemon.log());
    ctl(&daemon, "trace mta to 127.0.0.0/8");
    let seen = round(&daemon, "near");
    assert!(
        seen.contains(": >>> RCPT TO:<c@elsewhere.example>"),
        "{seen}"
    );
    // What is not of a client, and what is no network, is refused in words.
    let why = refused(&daemon, "trace queue from 10.0.0.0/8");
    assert!(
        why.contains("queue cannot be limited to some clients"),
        "{why}"
    );
    let why = refused(&daemon, "trace smtp from nowhere");
    assert!(why.contains("not a network: nowhere"), "{why}");
}

#[test]
fn a_profile_says_where_time_goes() {
    // smtpctl(8), profile, unprofile: what was counted is printed; with debug lines, each is logged.
    let host = Host::start(|_| None);
    let daemon = daemon(&host, crate::support::free_port());
    assert!(refused(&daemon, "profile nonsense").contains("invalid profile keyword: nonsense"));
    for word in ["queue", "imsg"] {
        assert_eq!(
            ctl(&daemon, &format!("profile {word}")),
            "command succeeded\n"
        );
    }
    let quiet = round(&daemon, "quiet");
    assert!(!quiet.contains("profile-"), "{quiet}");
    ctl(&daemon, "log verbose");
    ctl(&daemon, "profile imsg");
    round(&daemon, "loud");
    daemon.wait_log("profile-imsg: StartMda 0.");
    let lines = ctl(&daemon, "unprofile imsg");
    // Whether a home is looked into again depends on when it was changed.
    let looked_into = |line: &&str| line.starts_with("OpenForward count=");
    let counted: Vec<&str> = lines.lines().filter(|line| !looked_into(line)).collect();
    assert!(counted[0].starts_with("StartMda count=1 total="), "{lines}");
    assert_eq!(counted[1..], ["command succeeded"], "{lines}");
    assert_eq!(ctl(&daemon, "unprofile imsg"), "command succeeded\n");
    ctl(&daemon, "profile queue");
    round(&daemon, "queue");
    let lines = ctl(&daemon, "unprofile queue");
    for name in ["begin", "add", "open-body", "remove"] {
        let line = lines
            .lines()
            .find(|line| line.starts_with(&format!("{name} count=")));
        let line = line.unwrap_or_else(|| panic!("{name}\n{lines}"));
        let total: f64 = value(line, "total").parse().expect("seconds");
        let max: f64 = value(line, "max").parse().expect("seconds");
        assert!(total >= max && max > 0.0, "{line}");
    }
    assert!(lines.contains("commit"), "{lines}");
}

/// The value of `key=` in a line.
fn value<'l>(line: &'l str, key: &str) -> &'l str {
    let value = line
        .split(' ')
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{key}: {line}"))
}

#[test]
fn one_message_is_followed_with_its_delays() {
    // smtpctl(8), trace message: the session, every attempt and where its time went.
    const GREETING_S: f64 = 0.3;
    let host = Host::start(|said| {
        // It is a slow host.
        if said == "BANNER" {
            thread::sleep(Duration::from_secs_f64(GREETING_S));
        }
        None
    });
    let daemon = daemon(&host, crate::support::free_port());
    let mut client = daemon.hello();
    let other = client.mail("a@example.net", &["b@example.org"], b"\nother\n");
    let id = client.mail("a@example.net", &["c@elsewhere.example"], b"\nx\n");
    client.say("QUIT", 221);
    daemon.wait_empty();
    daemon.wait_log(" mta disconnected reason=quit");
    let trace = |log: &str, id: &str| {
        let output = daemon.front_end("smtpctl", ["trace", "message", id], log.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        text(&output)
    };
    let told = trace(&daemon.log(), &id);
    for part in [
        " smtp connected address=127.0.0.1",
        &format!(" smtp message msgid={id} "),
        " mta connecting address=smtp://127.0.0.1:",
        &format!(" mta delivery evpid={id}"),
        " mta disconnected reason=quit",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    assert!(!told.contains(&other), "{told}");
    let delays = told
        .lines()
        .find(|line| line.contains(" mta delays "))
        .expect("delays");
    assert_eq!(value(delays, "msgid"), id);
    let seconds = |key: &str| value(delays, key).parse::<f64>().expect("seconds");
    assert!(seconds("connect") >= GREETING_S, "{delays}");
    assert!(
        seconds("tls") == 0.0 && seconds("send") < GREETING_S,
        "{delays}"
    );
    assert!(seconds("queue") < GREETING_S + 10.0, "{delays}");
    assert_eq!(
        daemon
            .front_end("smtpctl", ["trace", "message", "11111111"], b"")
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn delays_are_in_the_log_of_json_too() {
    // smtpd(8), -L json: lines of deliveries come apart; trace message reads them as well.
    let host = Host::start(|_| None);
    let daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\naction \"out\" relay host \"smtp://127.0.0.1:{}\"\n\
         match from any for any action \"out\"\n",
        host.port
    ))
    .arg("-L")
    .arg("json")
    .start();
    let id = daemon
        .hello()
        .mail("a@example.net", &["c@elsewhere.example"], b"\nx\n");
    wait_for("the delays", || {
        daemon.log().contains("\"event\":\"delays\"")
    });
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("\"event\":\"delays\""))
        .expect("a line");
    for part in [
        format!("\"msgid\":\"{id}\""),
        "\"queue\":\"".into(),
        "\"tls\":\"0.000\"".into(),
    ] {
        assert!(line.contains(&part), "{part}\n{line}");
    }
    let told = daemon.front_end("smtpctl", ["trace", "message", &id], log.as_bytes());
    assert!(text(&told).contains("\"event\":\"delays\""), "{told:?}");
    assert!(
        text(&told).contains("\"part\":\"smtp\",\"event\":\"connected\""),
        "{told:?}"
    );
}
