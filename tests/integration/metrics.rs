//! smtpctl(8), metrics; smtpd(8), -L json; etc/check_smtpd: what monitoring sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::exposition;
use crate::support::json::Json;
use crate::support::{Setup, wait_for};

#[test]
fn counters_are_printed_and_served_for_prometheus() {
    // smtpctl(8), metrics.
    let daemon = Setup::maildir().start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.wait_empty();
    let printed = daemon.ctl(["metrics"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    for line in [
        "smtpd_scheduler_delivery_ok_total 1",
        "smtpd_scheduler_envelope 0",
        "smtpd_smtp_commit_seconds_count 1",
        "smtpd_scheduler_delivery_delay_seconds_count 1",
        "# TYPE smtpd_smtp_session gauge",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    let socket = daemon.path().join("metrics.sock");
    let mut server = daemon.program("smtpctl");
    server
        .arg("-R")
        .arg(daemon.path())
        .arg("metrics")
        .arg(&socket);
    let mut server = server.stdout(Stdio::null()).spawn().unwrap();
    wait_for("the socket", || UnixStream::connect(&socket).is_ok());
    let ask = |path: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, page) = answer.split_once("\r\n\r\n").expect("a page");
    let families = exposition::parse(page).unwrap_or_else(|wrong| panic!("{wrong}\n{page}"));
    assert!(
        families
            .iter()
            .all(|family| family.name.starts_with("smtpd_"))
    );
    assert_eq!(
        families
            .iter()
            .filter(|family| family.kind == "histogram")
            .count(),
        2
    );
    assert!(
        answer.contains("\nsmtpd_scheduler_delivery_ok_total 1\n"),
        "{answer}"
    );
    assert!(ask("/etc/passwd").starts_with("HTTP/1.1 404 "));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn every_key_that_plug_ins_parse_is_there() {
    // smtpctl(8), show stats: the keys of OpenSMTPD that telegraf's plug-in knows.
    let daemon = Setup::maildir().start();
    let shown = daemon.ctl(["show", "stats"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("{key}\n{text}")).to_owned()
    };
    for key in [
        "bounce.envelope",
        "bounce.message",
        "bounce.session",
        "control.session",
        "mda.envelope",
        "mda.pending",
        "mda.running",
        "mda.user",
        "mta.connector",
        "mta.domain",
        "mta.envelope",
        "mta.host",
        "mta.relay",
        "mta.route",
        "mta.session",
        "mta.source",
        "mta.task",
        "mta.task.running",
        "queue.bounce",
        "queue.evpcache.load.hit",
        "queue.evpcache.size",
        "queue.evpcache.update.hit",
        "scheduler.delivery.ok",
        "scheduler.delivery.permfail",
        "scheduler.delivery.tempfail",
        "scheduler.envelope",
        "scheduler.envelope.expired",
        "scheduler.envelope.incoming",
        "scheduler.envelope.inflight",
        "scheduler.ramqueue.envelope",
        "scheduler.ramqueue.message",
        "scheduler.ramqueue.update",
        "smtp.session",
        "smtp.session.inet4",
        "smtp.session.local",
        "uptime",
    ] {
        assert!(value(key).parse::<f64>().is_ok(), "{key}");
    }
    assert!(value("uptime.human").ends_with('s'));
}

#[test]
fn the_log_is_json_where_it_is_asked_for() {
    // smtpd(8), -L json: each line an object; the message is the line as it would have been.
    let daemon = Setup::maildir().arg("-L").arg("json").start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    daemon.wait_empty();
    daemon.wait_log("\"part\":\"mda\",\"event\":\"delivery\"");
    let log = daemon.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| !line.starts_with("warn: "))
        .collect();
    for line in &lines {
        let object = Json::parse(line).unwrap_or_else(|wrong| panic!("{wrong}: {line}"));
        for key in ["level", "message"] {
            assert!(object.get(key).and_then(Json::text).is_some(), "{line}");
        }
    }
    let connected = lines
        .iter()
        .find(|line| line.contains("\"event\":\"connected\""))
        .unwrap();
    assert!(
        connected.contains("\"address\":\"127.0.0.1\""),
        "{connected}"
    );
    assert!(connected.contains("\"message\":\""), "{connected}");
}

#[test]
fn the_monitor_and_top_show_what_happens() {
    // smtpctl(8), monitor and top: where the output is no terminal, lines that follow each other.
    let daemon = Setup::maildir().start();
    let watch = |command: &str| {
        let mut watch = daemon.program("smtpctl");
        watch.arg("-R").arg(daemon.path()).arg(command);
        watch.stdout(Stdio::piped()).spawn().unwrap()
    };
    let (mut monitor, mut top) = (watch("monitor"), watch("top"));
    let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(
        next(),
        "--- client ---  -- envelope --   ---- relay/delivery --- ------- misc -------"
    );
    assert_eq!(
        next(),
        "curr conn disc  curr  enq  deq   ok tmpfail prmfail loop expire remove bounce"
    );
    let figures = |line: String| -> Vec<i64> {
        line.split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    };
    assert_eq!(figures(next()).len(), 13);
    assert!(daemon.ctl(["pause", "mda"]).status.success());
    daemon
        .hello()
        .mail("a@example.net", &["b@example.org"], b"\nx\n");
    let seen = (0..60).any(|_| figures(next())[3..6] == [1, 1, 0]);
    assert!(seen, "an envelope comes");
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    let seen = (0..60).any(|_| figures(next())[3..7] == [0, 0, 1, 1]);
    assert!(seen, "it is delivered");
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let seen = (0..1000).any(|_| {
        let line = lines.next().unwrap().unwrap();
        assert!(!line.contains('\u{1b}'), "{line}");
        line.starts_with("delivered 1 (")
    });
    assert!(seen, "top tells of it");
    for mut watch in [monitor, top] {
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
}

#[test]
fn the_check_for_nagios_says_how_many_wait() {
    // etc/check_smtpd: one line, and the codes of plug-ins.
    let daemon = Setup::maildir().arg("-Pmda").start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@example.org"], b"\nx\n");
    wait_for("the envelope", || daemon.queue().len() == 1);
    let check = |args: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/check_smtpd");
        let output = Command::new("sh")
            .arg(script)
            .args(args)
            .arg("-R")
            .arg(daemon.path())
            .env("SMTPCTL", daemon.program("smtpctl").get_program())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (
            output.status.code(),
            text.lines().next().unwrap_or_default().to_owned(),
        )
    };
    let (code, said) = check(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("OK: 1 envelopes wait, 0 could not be read| queue=1;100;1000;0"),
        "{said}"
    );
    assert_eq!(check(&["-w", "1"]).0, Some(1));
    assert_eq!(check(&["-w", "1", "-c", "1"]).0, Some(2));
    assert_eq!(check(&["-w", "x"]).0, Some(3));
}
