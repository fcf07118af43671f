//! smtpctl(8), Selections: envelopes are found by what is known of them, and acted on.

use crate::support::json::Json;
use crate::support::{Instance, Setup, text, wait_for};

fn said(daemon: &Instance, line: &str) -> String {
    let output = daemon.ctl(line.split(' '));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}{}", text(&output));
    text(&output)
}

/// Two messages for three recipients at two domains, none of which is delivered.
fn queued() -> (Instance, String, String) {
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/%{dest.user}\" virtual $all\n\
         action \"out\" relay host \"smtp://127.0.0.1:9\"\n\
         match from any for domain \"one.org\" action \"in\"\n\
         match from any for domain \"two.org\" action \"out\"\n",
    )
    .arg("-Pmda")
    .arg("-Pmta")
    .start();
    let mut client = daemon.hello();
    let rcpts = ["b@one.org", "c@two.org"];
    let first = client.mail("a@example.net", &rcpts, b"Message-ID: <1@x>\n\nx\n");
    let long = [b"\n".as_slice(), &[b'x'; 900], b"\n"].concat();
    let second = client.mail("d@example.org", &["c@one.org"], &long);
    (daemon, first, second)
}

#[test]
fn a_selection_is_shown_counted_and_only_it_is_acted_on() {
    // smtpctl(8), Selections.
    let (daemon, first, second) = queued();
    let count = |selection: &str| {
        said(&daemon, &format!("show queue {selection}"))
            .lines()
            .count()
    };
    for (selection, expected) in [
        ("sender a@example.net", 2),
        ("sender *@EXAMPLE.*", 3),
        ("recipient c@two.org", 1),
        ("domain one.org", 2),
        ("relay out", 1),
        ("relay in", 0),
        ("state pending age -1h", 3),
        ("age 1h", 0),
        ("size +900", 1),
        ("message-id <1@x>", 2),
        (&format!("{first} {second} domain one.org"), 2),
        (&format!("-n {first}"), 2),
    ] {
        assert_eq!(count(selection), expected, "{selection}");
    }
    // The default is what it was.
    assert_eq!(daemon.queue().len(), 3);
    let trial = said(&daemon, "remove -n domain one.org");
    assert!(
        trial.ends_with("\n2 envelopes would be removed\n"),
        "{trial}"
    );
    assert_eq!(
        said(&daemon, "hold sender d@example.org"),
        "1 envelope held\n"
    );
    assert_eq!(count("state held"), 1);
    // What is held goes with nobody's flush.
    assert_eq!(
        said(&daemon, "schedule domain one.org"),
        "1 envelope scheduled\n"
    );
    assert_eq!(said(&daemon, "schedule all"), "2 envelopes scheduled\n");
    assert_eq!(said(&daemon, "release all"), "1 envelope released\n");
    assert_eq!(
        said(&daemon, "remove domain two.org"),
        "1 envelope removed\n"
    );
    wait_for("the removal", || daemon.queue().len() == 2);
    assert_eq!(
        said(&daemon, "remove domain nowhere.org"),
        "0 envelope removed\n"
    );
    // What is not understood acts on nothing.
    let mistaken = daemon.ctl(["remove", "domian", "one.org"]);
    assert_eq!(mistaken.status.code(), Some(255));
    let mistaken = daemon.ctl(["remove", "state", "gone"]);
    assert_eq!(mistaken.status.code(), Some(255));
    assert_eq!(daemon.queue().len(), 2);
}

#[test]
fn the_queue_is_shown_for_programs_for_people_and_in_sum() {
    // smtpctl(8), show queue -j, -H and summary; with the daemon stopped, too.
    let (mut daemon, first, _) = queued();
    let json = said(&daemon, "show queue -j recipient c@two.org");
    assert!(json.starts_with(&format!("{{\"id\":\"{first}")), "{json}");
    for part in [
        "\"type\":\"mta\"",
        "\"recipient\":\"c@two.org\"",
        "\"action\":\"out\"",
        "\"flags\":[]",
    ] {
        assert!(json.contains(part), "{part}: {json}");
    }
    let all = said(&daemon, "show queue -j");
    for line in all.lines() {
        let object = Json::parse(line).unwrap_or_else(|wrong| panic!("{wrong}: {line}"));
        assert!(object.get("id").and_then(Json::text).is_some(), "{line}");
    }
    assert_eq!(all.lines().count(), 3);
    let people = said(&daemon, "show queue -H");
    assert!(people.contains(" d@example.org -> c@one.org\n"), "{people}");
    assert!(people.ends_with("\n3 envelopes\n"), "{people}");
    let sums = said(&daemon, "show queue summary");
    let sums: Vec<Vec<&str>> = sums
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(sums[1][..3], ["TOTAL", "3", "3"]);
    assert_eq!(sums[2][..3], ["one.org", "2", "2"]);
    daemon.stop();
    let json = said(&daemon, "show queue -j relay out");
    assert!(json.contains("\"state\":\"offline\""), "{json}");
    assert_eq!(json.lines().count(), 1);
}

#[test]
fn the_reason_of_what_waits_is_the_words_of_the_host_or_the_error() {
    // smtpctl(8), show queue -H.
    let host = crate::relay::Host::start(|line| {
        line.starts_with("RCPT")
            .then_some("451 4.7.1 Greylisted, come again")
    });
    let busy = crate::relay::Host::start(|line| {
        (line == "BANNER").then_some("421 4.3.2 too busy for you")
    });
    let mut daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         action \"refuses\" relay host \"smtp://127.0.0.1:{}\"\n\
         action \"absent\" relay host \"smtp://127.0.0.1:9\"\n\
         action \"busy\" relay host \"smtp://127.0.0.1:{}\"\n\
         match from any for domain \"one.org\" action \"refuses\"\n\
         match from any for domain \"three.org\" action \"busy\"\n\
         match from any for any action \"absent\"\n",
        host.port, busy.port
    ))
    .start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@one.org", "b@two.org"], b"\nx\n");
    wait_for("two reasons", || {
        let shown = said(&daemon, "show queue -H");
        shown.contains("127.0.0.1")
            && shown.contains(": 451 4.7.1 Greylisted, come again\n")
            && shown.contains("onnection refused")
    });
    // What comes while a host is left alone has the reason for that, and so has what is refused
    // with the greeting.
    client.mail("a@example.net", &["c@two.org", "d@three.org"], b"\ny\n");
    let waits = |daemon: &Instance, rcpt: &str, words: &str| {
        wait_for(words, || {
            let listed = said(daemon, &format!("show queue recipient {rcpt}"));
            listed.trim_end().ends_with(words)
        });
    };
    waits(
        &daemon,
        "c@two.org",
        "|127.0.0.1: IO Error: Connection refused",
    );
    waits(
        &daemon,
        "d@three.org",
        "|127.0.0.1: BANNER rejected: 421 4.3.2 too busy for you",
    );
    // It is the reason after a restart, and in the sum.
    daemon.stop();
    waits(
        &daemon,
        "d@three.org",
        "|127.0.0.1: BANNER rejected: 421 4.3.2 too busy for you",
    );
    daemon.set_args(&["-Pmta"]);
    daemon.start();
    waits(&daemon, "b@one.org", "|451 4.7.1 Greylisted, come again");
    let sums = said(&daemon, "show queue summary");
    assert!(sums.contains("421 4.3.2 too busy for you"), "{sums}");
}

#[test]
fn a_stopped_queue_is_exported_in_the_form_of_opensmtpd_and_taken_back() {
    // smtpd-migration(7), Back to OpenSMTPD: plain, with the lines that it knows; and what it would
    // have written is ours again.
    let mut daemon = Setup::new(
        "listen on 127.0.0.1 port $port\nqueue compression\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for any action \"in\"\n",
    )
    .arg("-Pmda")
    .start();
    let mut client = daemon.hello();
    let id = client.mail(
        "a@example.net",
        &["b@one.org", "c@one.org"],
        b"\nto go back\n",
    );
    client.mail("", &["d@one.org"], b"\nx\n");
    said(&daemon, "hold domain one.org");
    let out = daemon.path().join("out");
    let export = format!("export {}", out.display());
    let refused = daemon.ctl(export.split(' '));
    assert_eq!(refused.status.code(), Some(1));
    daemon.stop();
    assert_eq!(
        said(&daemon, &export),
        "2 envelopes exported in 2 messages\n"
    );
    let dir = out.join("queue").join(&id[..2]).join(&id);
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!((names.len(), names[1].as_str()), (2, "message"));
    let body = std::fs::read(dir.join("message")).unwrap();
    assert!(body.ends_with(b"\n\nto go back\n"));
    let envelope = std::fs::read_to_string(dir.join(&names[0])).unwrap();
    assert!(
        envelope.starts_with("version: 3\ndispatcher: in\ntype: mda\n"),
        "{envelope}"
    );
    assert!(
        !envelope.contains("suspended") && !envelope.contains("check"),
        "{envelope}"
    );
    // The same as the whole queue: it is delivered, in full.
    let queue = daemon.path().join("spool/queue");
    std::fs::remove_dir_all(&queue).unwrap();
    std::fs::rename(out.join("queue"), &queue).unwrap();
    daemon.set_args(&[]);
    daemon.start();
    daemon.wait_empty();
    assert_eq!(daemon.maildir("mail").len(), 2, "{}", daemon.log());
}

#[test]
fn what_waits_is_queued_again_by_the_rules_of_now() {
    // smtpctl(8), requeue and edit.
    let (daemon, first, second) = queued();
    daemon.configure(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/%{dest.user}\" virtual $all\n\
         match from any for domain \"two.org\" action \"in\"\n\
         match from any mail-from \"new@example.net\" for any action \"in\"\n",
    );
    said(&daemon, "reload");
    // Rules refuse one of the two; it stays.
    let output = daemon.ctl(["requeue", &first]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output), "1 envelope requeued\n");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        why.contains(&format!("envelope {first}")) && why.contains("550"),
        "{why}"
    );
    wait_for("the old envelope to go", || {
        let lines = daemon.queue();
        lines.len() == 3 && lines.iter().filter(|line| line.starts_with(&first)).count() == 1
    });
    let moved = said(&daemon, "show queue recipient c@two.org");
    assert!(moved.contains("|mda||a@example.net|c@two.org|"), "{moved}");
    // Another recipient, and another sender.
    let left = said(&daemon, &format!("show queue {first}"));
    let left = left.split('|').next().unwrap();
    assert_eq!(
        said(&daemon, &format!("edit {left} recipient e@two.org")),
        "1 envelope requeued\n"
    );
    assert_eq!(
        said(&daemon, &format!("edit {second} sender new@example.net")),
        "1 envelope requeued\n"
    );
    assert_eq!(
        daemon
            .ctl(["edit", left, "recipient", "nobody"])
            .status
            .code(),
        Some(1)
    );
    said(&daemon, "resume mda");
    daemon.wait_empty();
    let mails = daemon.maildir("c");
    assert_eq!(
        (mails.len(), daemon.maildir("e").len()),
        (2, 1),
        "{}",
        daemon.log()
    );
    assert!(
        mails
            .iter()
            .any(|mail| mail.starts_with(b"Return-Path: <new@example.net>"))
    );
    assert!(mails.iter().any(|mail| mail.ends_with(b"\n\nx\n")));
}

#[test]
fn words_of_strangers_do_not_keep_a_message_from_being_queued_again() {
    // smtpctl(8), requeue: what is being delivered stays as it is, and nothing else.
    let host = crate::relay::Host::start(|line| {
        line.starts_with("RCPT")
            .then_some("451 4.7.1 later|inflight|1|")
    });
    let daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         action \"out\" relay host \"smtp://127.0.0.1:{}\"\n\
         match from any for any action \"out\"\n",
        host.port
    ))
    .start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["b@one.org"], b"\nx\n");
    client.mail("x|inflight|y@example.net", &["c@one.org"], b"\ny\n");
    wait_for("the words of the host", || {
        let deferred = said(&daemon, "show queue state deferred");
        deferred.matches("451 4.7.1 later|inflight|1|").count() == 2
    });
    said(&daemon, "pause mta");
    assert_eq!(said(&daemon, "requeue all"), "2 envelopes requeued\n");
}

/// An alias for one user and others who are relayed to `port`.
fn list(port: u16, others: &str) -> String {
    format!(
        "listen on 127.0.0.1 port $port\n\
         table people {{ \"staff\" = \"$user, {others}\" }}\n\
         action \"in\" maildir \"$dir/mail\" alias <people>\n\
         action \"out\" relay host \"smtp://127.0.0.1:{port}\"\n\
         match from any for domain \"one.org\" action \"in\"\n\
         match from any for any action \"out\"\n"
    )
}

#[test]
fn who_of_a_list_has_the_message_does_not_get_it_again() {
    // smtpctl(8), requeue: by the rules of now, and only for those who wait.
    let daemon = Setup::new(&list(9, "c@two.org")).start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["staff@one.org"], b"\nx\n");
    daemon.wait_mail(1);
    wait_for("one to be deferred", || {
        let lines = daemon.queue();
        lines.len() == 1 && lines[0].contains("|c@two.org|") && lines[0].contains("refused")
    });
    // The list has lost who waits: who has it gets no second one for that.
    daemon.configure(&list(9, "d@two.org"));
    said(&daemon, "reload");
    let output = daemon.ctl(["requeue", "all"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output), "0 envelope requeued\n");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("<staff@one.org> leads elsewhere now"), "{why}");
    let lines = daemon.queue();
    assert!(
        lines.len() == 1 && lines[0].contains("|c@two.org|"),
        "{lines:?}"
    );
    // It is there again, beside another, and has another host.
    let host = crate::relay::Host::start(|_| None);
    daemon.configure(&list(host.port, "c@two.org, d@two.org"));
    said(&daemon, "reload");
    assert_eq!(said(&daemon, "requeue all"), "1 envelope requeued\n");
    let taken = host.wait(1);
    daemon.wait_empty();
    assert!(
        taken[0].commands.iter().any(|c| c.contains("<c@two.org>")),
        "{taken:?}"
    );
    assert!(
        !taken[0].commands.iter().any(|c| c.contains("<d@two.org>")),
        "{taken:?}"
    );
    assert_eq!((host.taken().len(), daemon.maildir("mail").len()), (1, 1));
}

#[test]
fn a_long_list_is_queued_again_once() {
    // smtpctl(8), requeue: however many questions it takes.
    const COUNT: usize = 501;
    let others: Vec<String> = (0..COUNT).map(|n| format!("c{n}@two.org")).collect();
    let daemon = Setup::new(&list(9, &others.join(", ")))
        .arg("-Pmta")
        .start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["staff@one.org"], b"\nx\n");
    daemon.wait_mail(1);
    wait_for("the others to wait", || daemon.queue().len() == COUNT);
    assert_eq!(said(&daemon, "requeue all"), "501 envelopes requeued\n");
    wait_for("the old ones to go", || {
        said(&daemon, "show queue state held").is_empty()
    });
    let lines = daemon.queue();
    let mut waiting: Vec<&str> = lines.iter().filter_map(|l| l.split('|').nth(6)).collect();
    waiting.sort_unstable();
    waiting.dedup();
    assert_eq!((lines.len(), waiting.len()), (COUNT, COUNT));
    assert_eq!(daemon.maildir("mail").len(), 1);
}
