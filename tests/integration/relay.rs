//! smtpd.conf(5), relay: mail for other hosts, to fake ones on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{Instance, Setup, can_have_network, wait_for};

/// What a fake host took: the commands of a transaction, and the message as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub commands: Vec<String>,
    pub message: Vec<u8>,
}

/// A mail host that answers a command with what its script says, else with 250.
pub struct Host {
    pub port: u16,
    taken: Arc<Mutex<Vec<Taken>>>,
    sessions: Arc<Mutex<u32>>,
}

/// The reply to a command, `BANNER` for the greeting, `DOT` for the end of a message, `MAIL 3` for the
/// third MAIL of a session; an empty one closes the connection.
pub type Script = fn(&str) -> Option<&'static str>;

impl Host {
    pub fn start(script: Script) -> Host {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let (taken, sessions) = (Arc::default(), Arc::default());
        let host = Host {
            port,
            taken: Arc::clone(&taken),
            sessions: Arc::clone(&sessions),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *sessions.lock().expect("sessions") += 1;
                let taken = Arc::clone(&taken);
                thread::spawn(move || drop(serve(stream, script, &taken)));
            }
        });
        host
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("taken").clone()
    }

    pub fn wait(&self, count: usize) -> Vec<Taken> {
        wait_for("the host to take the mail", || self.taken().len() >= count);
        self.taken()
    }
}

fn serve(stream: TcpStream, script: Script, all: &Mutex<Vec<Taken>>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    let mut taken = Taken::default();
    let banner = script("BANNER").unwrap_or("220 fake ESMTP");
    output.write_all(format!("{banner}\r\n").as_bytes())?;
    let mut mails = 0;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let command = line.trim_end().to_string();
        let verb = command.split([' ', ':']).next().unwrap_or_default();
        let usual = match verb.to_ascii_uppercase().as_str() {
            "DATA" => "354 go on",
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        mails += u32::from(verb.eq_ignore_ascii_case("MAIL"));
        let numbered = format!("{verb} {mails}");
        let reply = script(&command)
            .or_else(|| script(&numbered))
            .unwrap_or(usual);
        if reply.is_empty() {
            return Ok(());
        }
        taken.commands.push(command);
        output.write_all(format!("{reply}\r\n").as_bytes())?;
        if reply.starts_with("354") {
            read_message(&mut input, &mut taken.message)?;
            let reply = script("DOT").unwrap_or("250 2.0.0 taken");
            // Before the reply, so that who sees the reply sees the message.
            all.lock().expect("taken").push(std::mem::take(&mut taken));
            output.write_all(format!("{reply}\r\n").as_bytes())?;
        }
        if reply.starts_with("221") {
            return Ok(());
        }
    }
}

fn read_message(input: &mut impl BufRead, message: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let start = message.len();
        input.read_until(b'\n', message)?;
        if message.get(start..) == Some(b".\r\n") {
            message.truncate(start);
            return Ok(());
        }
        if message.len() == start {
            return Ok(());
        }
    }
}

fn instance(options: &str) -> Instance {
    instance_with("", options)
}

/// A daemon that relays everything so, with these lines of configuration besides.
pub fn instance_with(lines: &str, options: &str) -> Instance {
    Setup::new(&format!(
        "{lines}listen on 127.0.0.1 port $port\naction \"out\" relay {options}\n\
         match from any for any action \"out\"\n"
    ))
    .start()
}

fn to_host(host: &Host) -> Instance {
    instance(&format!("host smtp://127.0.0.1:{}", host.port))
}

/// Hands a message over whose failure nobody is told of.
pub fn submit(daemon: &Instance, rcpts: &[&str], body: &str) {
    let mut client = daemon.hello();
    client.say("MAIL FROM:<>", 250);
    for rcpt in rcpts {
        client.say(&format!("RCPT TO:<{rcpt}>"), 250);
    }
    client.say("DATA", 354);
    client.say(&format!("{body}\r\n."), 250);
    client.say("QUIT", 221);
}

fn lines(daemon: &Instance, words: &[&str]) -> Vec<String> {
    let output = daemon.ctl(words);
    assert!(output.status.success(), "{words:?} {output:?}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_string)
        .collect()
}

#[test]
fn header_lines_that_are_too_long_are_folded_on_their_way() {
    // smtpd.conf(5), DIFFERENCES; RFC 5322 §2.1.1: no line of more than 998 characters.
    let host = Host::start(|_| None);
    let daemon = instance(&format!("host smtp://127.0.0.1:{}", host.port));
    let list: Vec<String> = (0..200).map(|n| format!("user{n}@example.org")).collect();
    let list = list.join(", ");
    let message = format!("To: {list}\n\n{}\n", "x".repeat(990));
    daemon
        .hello()
        .mail("a@example.net", &["b@example.com"], message.as_bytes());
    let taken = host.wait(1).remove(0).message;
    let taken = String::from_utf8(taken).expect("text");
    assert!(taken.split("\r\n").all(|line| line.len() <= 998), "{taken}");
    let unfolded = taken.replace("\r\n ", " ");
    assert!(unfolded.contains(&format!("\r\nTo: {list}\r\n")), "{taken}");
}

#[test]
fn a_message_arrives_as_it_was_sent_and_the_log_tells_of_it() {
    let host = Host::start(|_| None);
    let daemon = to_host(&host);
    submit(
        &daemon,
        &["bob@a.example", "carol@b.example"],
        "Subject: x\r\n\r\n..\r\n..two",
    );
    let taken = host.wait(1);
    daemon.wait_empty();
    assert_eq!(taken.len(), 1);
    let rcpts: Vec<&String> = taken
        .iter()
        .flat_map(|t| t.commands.iter().filter(|c| c.starts_with("RCPT")))
        .collect();
    assert_eq!(rcpts.len(), 2, "{taken:?}");
    for taken in &taken {
        let text = String::from_utf8_lossy(&taken.message).into_owned();
        assert!(
            text.contains("Received: from client.example.net") && text.contains("Subject: x\r\n"),
            "{text}"
        );
        // A dot at the start of a line is doubled on the wire (RFC 5321 §4.5.2).
        assert!(text.ends_with("\r\n\r\n..\r\n..two\r\n"), "{text}");
    }
    let at = format!(
        "mta connecting address=smtp://127.0.0.1:{} host=",
        host.port
    );
    for text in [
        at.as_str(),
        " mta connected",
        "from=<> to=<bob@a.example> rcpt=<-> source=\"127.0.0.1\" relay=\"127.0.0.1",
        "result=\"Ok\" stat=\"250 2.0.0 taken\"",
    ] {
        daemon.wait_log(text);
    }
}

#[test]
fn messages_that_follow_each_other_use_one_connection() {
    let host = Host::start(|_| None);
    let daemon = to_host(&host);
    for count in 1..=5 {
        submit(&daemon, &["bob@a.example"], "Subject: x\r\n\r\nhi");
        host.wait(count);
        daemon.wait_empty();
    }
    assert_eq!(*host.sessions.lock().expect("sessions"), 1);
    let stats = lines(&daemon, &["show", "hoststats"]);
    assert!(
        stats.len() == 1
            && stats[0].starts_with("a.example|")
            && stats[0].ends_with("|250 2.0.0 taken"),
        "{stats:?}"
    );
}

#[test]
fn each_recipient_gets_the_outcome_that_the_host_gave_it() {
    let host = Host::start(|command| match command {
        "RCPT TO:<no@a.example>" => Some("550 5.1.1 no such user"),
        "RCPT TO:<later@a.example>" => Some("451 4.3.0 not now"),
        _ => None,
    });
    let daemon = instance(&format!(
        "domain {{ \"a.example\" = \"smtp://127.0.0.1:{}\" }}",
        host.port
    ));
    submit(
        &daemon,
        &["yes@a.example", "no@a.example", "later@a.example"],
        "Subject: x\r\n\r\nhi",
    );
    host.wait(1);
    wait_for("one to be left", || daemon.queue().len() == 1);
    let queue = daemon.queue();
    assert!(
        queue[0].contains("|later@a.example|") && queue[0].ends_with("|451 4.3.0 not now"),
        "{queue:?}"
    );
    daemon.wait_log("to=<no@a.example> rcpt=<-> source=\"127.0.0.1\"");
    daemon.wait_log("result=\"PermFail\" stat=\"550 5.1.1 no such user\"");
    daemon.wait_log("result=\"TempFail\" stat=\"451 4.3.0 not now\"");
}

#[test]
fn a_host_that_refuses_is_left_alone_for_a_while_and_shown() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    let daemon = instance(&format!("host smtp://127.0.0.1:{port}"));
    submit(&daemon, &["bob@a.example"], "Subject: x\r\n\r\nhi");
    daemon.wait_log("mta error reason=IO Error: Connection refused");
    daemon.wait_log("smtp-out: Disabling route [] <-> 127.0.0.1");
    daemon.wait_log("0000000000000000 mta delivery evpid=");
    daemon.wait_log(
        "source=\"-\" relay=\"127.0.0.1\" delay=0s result=\"TempFail\" \
         stat=\"127.0.0.1: IO Error: Connection refused\"",
    );
    wait_for("the envelope to wait", || {
        daemon
            .queue()
            .first()
            .is_some_and(|line| line.ends_with("|127.0.0.1: IO Error: Connection refused"))
    });
    let routes = lines(&daemon, &["show", "routes"]);
    assert!(
        routes.len() == 1
            && routes[0].starts_with("1. [] <-> 127.0.0.1")
            && routes[0].contains(" ND-- nconn=0 nerror=1 penalty=1 timeout="),
        "{routes:?}"
    );
    assert_eq!(
        lines(&daemon, &["resume", "route", "1"]),
        ["command succeeded"]
    );
    daemon.wait_log("per admin request");
    let blocked = ["mta", "from", "192.0.2.1", "for", "a.example"];
    let words = |first: &'static str| [&[first][..], &blocked].concat();
    assert_eq!(lines(&daemon, &words("pause")), ["command succeeded"]);
    assert_eq!(
        lines(&daemon, &["show", "mta", "paused"]),
        ["192.0.2.1 -> a.example"]
    );
    assert!(!daemon.ctl(words("pause")).status.success());
    assert_eq!(lines(&daemon, &words("resume")), ["command succeeded"]);
}

#[test]
fn relaying_waits_while_it_is_paused() {
    let host = Host::start(|_| None);
    let daemon = to_host(&host);
    lines(&daemon, &["pause", "mta"]);
    submit(&daemon, &["bob@a.example"], "Subject: x\r\n\r\nhi");
    wait_for("the envelope to be queued", || daemon.queue().len() == 1);
    assert_eq!(*host.sessions.lock().expect("sessions"), 0);
    lines(&daemon, &["resume", "mta"]);
    host.wait(1);
    daemon.wait_empty();
}

#[test]
fn mail_from_and_helo_are_what_the_action_says() {
    let host = Host::start(|_| None);
    let daemon = instance(&format!(
        "host smtp+notls://127.0.0.1:{} helo client.example mail-from \"@sender.example\"",
        host.port
    ));
    let mut client = daemon.hello();
    client.say("MAIL FROM:<alice@example.net>", 250);
    client.say("RCPT TO:<bob@a.example>", 250);
    client.say("DATA", 354);
    client.say("Subject: x\r\n\r\nhi\r\n.", 250);
    let taken = host.wait(1);
    let commands = &taken[0].commands;
    assert_eq!(commands[0], "EHLO client.example");
    assert!(
        commands[1].starts_with("MAIL FROM:<alice@sender.example>"),
        "{commands:?}"
    );
}

#[test]
fn recipients_of_one_message_share_a_transaction() {
    // smtpd.conf(5), relay: also when a session waits for mail while they come one after the other.
    let host = Host::start(|_| None);
    let daemon = to_host(&host);
    let mut client = daemon.hello();
    client.mail("bob@example.org", &["a@far.org"], b"\nx\n");
    host.wait(1);
    let rcpts: Vec<String> = (0..10).map(|n| format!("r{n}@far.org")).collect();
    let rcpts: Vec<&str> = rcpts.iter().map(String::as_str).collect();
    client.mail("bob@example.org", &rcpts, b"\nx\n");
    let taken = host.wait(2);
    let named = |commands: &[String]| {
        let is_rcpt = |command: &&String| command.starts_with("RCPT TO:");
        commands.iter().filter(is_rcpt).count()
    };
    assert_eq!(named(&taken[1].commands), 10, "{:?}", taken[1].commands);
    daemon.wait_empty();
    assert_eq!(host.wait(2).len(), 2);
}

#[test]
fn a_host_that_says_nothing_keeps_no_other_waiting() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    let good = Host::start(|_| None);
    let mut table = format!("\"good.example\" = \"smtp://127.0.0.1:{}\"", good.port);
    let port = silent.local_addr().expect("address").port();
    table.push_str(&format!(
        ", \"silent.example\" = \"smtp://127.0.0.1:{port}\""
    ));
    let daemon = instance(&format!("domain {{ {table} }}"));
    for n in 0..70 {
        submit(
            &daemon,
            &[&format!("u{n}@silent.example")],
            "Subject: x\r\n\r\nhi",
        );
    }
    submit(&daemon, &["bob@good.example"], "Subject: x\r\n\r\nhi");
    assert_eq!(good.wait(1).len(), 1);
    wait_for("the good one to leave", || daemon.queue().len() == 70);
    let relays = lines(&daemon, &["show", "relays"]);
    assert!(
        relays
            .iter()
            .any(|line| line.contains("ntask=50") && line.ends_with("ONHOLD")),
        "{relays:?}"
    );
}

// The administrator and the sender are told what the host said, wherever it said it.
#[test]
fn a_host_that_lets_nobody_in_is_quoted() {
    let host = Host::start(|c| match c {
        "BANNER" => Some("554 5.7.1 Bad DNS PTR resource record"),
        _ => None,
    });
    let daemon = to_host(&host);
    submit(&daemon, &["bob@a.example"], "Subject: x\r\n\r\nhi");
    let text = "127.0.0.1: BANNER rejected: 554 5.7.1 Bad DNS PTR resource record";
    daemon.wait_log(&format!("result=\"TempFail\" stat=\"{text}\""));
    wait_for("the envelope to wait", || {
        let queue = daemon.queue();
        queue
            .first()
            .is_some_and(|line| line.ends_with(&format!("|{text}")))
    });
}

// RFC 9422: a host says how many messages it takes over one connection.
#[test]
fn a_host_that_limits_a_session_gets_a_new_connection_at_once() {
    let scripts: [Script; 3] = [
        |c| {
            c.starts_with("EHLO")
                .then_some("250-fake\r\n250 LIMITS MAILMAX=2")
        },
        |c| (c == "MAIL 3").then_some("421 4.7.0 enough"),
        |c| (c == "MAIL 3").then_some(""),
    ];
    for script in scripts {
        let host = Host::start(script);
        let daemon = to_host(&host);
        for n in 0..9 {
            submit(
                &daemon,
                &[&format!("u{n}@a.example")],
                "Subject: x\r\n\r\nhi",
            );
        }
        host.wait(9);
        daemon.wait_empty();
        assert!(!daemon.log().contains("TempFail") && !daemon.log().contains("Disabling"));
    }
}

// RFC 9422: a host says how many recipients it takes in one transaction.
#[test]
fn a_host_that_limits_a_transaction_gets_several_over_one_connection() {
    let host = Host::start(|c| {
        c.starts_with("EHLO")
            .then_some("250-fake\r\n250 LIMITS RCPTMAX=2")
    });
    let daemon = to_host(&host);
    let rcpts = ["a", "b", "c", "d", "e"].map(|user| format!("{user}@a.example"));
    submit(
        &daemon,
        &rcpts.each_ref().map(String::as_str),
        "Subject: x\r\n\r\nhi",
    );
    let taken = host.wait(3);
    let count = |taken: &Taken| {
        let rcpts = taken.commands.iter().filter(|c| c.starts_with("RCPT"));
        rcpts.count()
    };
    assert_eq!(taken.iter().map(count).collect::<Vec<_>>(), [2, 2, 1]);
    daemon.wait_empty();
    assert_eq!(daemon.log().matches(" mta connected").count(), 1);
}

#[test]
fn a_connection_closed_at_any_point_puts_the_message_off() {
    let cases: [(Script, &str); 4] = [
        (
            |c| c.starts_with("EHLO").then_some(""),
            "127.0.0.1: Connection closed unexpectedly",
        ),
        (
            |c| c.starts_with("MAIL").then_some(""),
            "Connection closed unexpectedly",
        ),
        (
            |c| c.starts_with("RCPT").then_some(""),
            "Connection closed unexpectedly",
        ),
        (
            |c| (c == "DOT").then_some("451 4.3.0 disk full"),
            "451 4.3.0 disk full",
        ),
    ];
    for (script, text) in cases {
        let host = Host::start(script);
        let daemon = to_host(&host);
        submit(&daemon, &["bob@a.example"], "Subject: x\r\n\r\nhi");
        daemon.wait_log(&format!("result=\"TempFail\" stat=\"{text}\""));
        wait_for("the envelope to wait", || {
            daemon
                .queue()
                .first()
                .is_some_and(|line| line.ends_with(&format!("|{text}")))
        });
    }
}

#[test]
fn lmtp_is_spoken_where_the_url_says_so() {
    let host = Host::start(|_| None);
    let daemon = instance(&format!("host lmtp://127.0.0.1:{}", host.port));
    submit(&daemon, &["bob@a.example"], "Subject: x\r\n\r\nhi");
    let taken = host.wait(1);
    assert!(taken[0].commands[0].starts_with("LHLO "), "{taken:?}");
    daemon.wait_empty();
    daemon.wait_log("mta connecting address=lmtp://127.0.0.1:");
}

// smtpd.conf(5), RELAYING: an exchanger is this host where a listener has its address and port 25.
#[test]
fn an_address_on_which_nobody_of_ours_listens_is_another_host() {
    const TEST: &str = "an_address_on_which_nobody_of_ours_listens_is_another_host";
    if !can_have_network(TEST) {
        return;
    }
    const LOOPS: (&str, &str) = ("PermFail", "Mail for domain loops back to this host");
    const REFUSED: (&str, &str) = ("TempFail", "127.0.0.1: IO Error: Connection refused");
    for (listen, literal, (result, stat)) in [
        ("192.0.2.1 port 25", "[192.0.2.1]", LOOPS),
        ("192.0.2.1 port 25", "[127.0.0.1]", REFUSED),
        ("127.0.0.1 port 587", "[127.0.0.1]", REFUSED),
        ("0.0.0.0 port 25", "[127.0.0.1]", LOOPS),
    ] {
        let daemon = Setup::new(&format!(
            "listen on {listen}\naction \"out\" relay\nmatch from any for any action \"out\"\n"
        ))
        .with_network()
        .start();
        let to = format!("bob@{literal}");
        let sent = daemon.sendmail(["-f", "<>", &to], b"Subject: x\n\nhi\n");
        assert!(sent.status.success(), "{sent:?}");
        daemon.wait_log(&format!("result=\"{result}\" stat=\"{stat}\""));
    }
}
