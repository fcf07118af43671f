//! What one client, or all of them together, may take: time, descriptors, sessions.

use super::*;

#[test]
fn a_client_that_does_not_read_is_not_fed_and_loses_nothing() {
    // A session gets no input while its replies wait; memory stays bounded by one reply.
    let server = Server::start(Limits::default());
    let mut client = server.greeted();
    client.hello("deaf.example");
    const TIMES: usize = 9_000;
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        writer
            .write_all("HELP\r\n".repeat(TIMES).as_bytes())
            .unwrap();
        writer.write_all(b"HELO behind\r\n").unwrap();
    });
    let mut other = server.greeted();
    other.hello("quick");
    for _ in 0..TIMES * HELP_LINES {
        assert!(client.line().starts_with("214"));
    }
    assert_eq!(client.line(), hello("behind"));
    thread.join().unwrap();
}

#[test]
fn a_busy_client_does_not_keep_others_waiting() {
    // RFC 2920 lets a client send commands without end, but none may keep a worker: a busy session
    // gives way after a bounded number of turns, and of milliseconds.
    let server = Server::start(Limits::default());
    let busy: Vec<_> = (0..8)
        .map(|number| {
            let mut client = server.greeted();
            std::thread::spawn(move || {
                client.data();
                let line = if number % 2 == 0 {
                    "x\r\n"
                } else {
                    "no field\r\n"
                };
                let chunk = line.repeat((1 << 20) / line.len());
                (0..16).for_each(|_| client.say(&chunk));
                client.say(".\r\n");
                client.line()
            })
        })
        .collect();
    for _ in 0..50 {
        server.greeted().hello("on");
    }
    for thread in busy {
        assert!(thread.join().unwrap().starts_with("55"));
    }
}

#[test]
fn a_silent_peer_is_told_and_dropped_and_one_that_speaks_is_not() {
    // RFC 5321 §3.8, §4.5.3.2: 421 and close after a time-out; any progress starts it anew.
    let server = Server::start(Limits {
        inactivity: Duration::from_millis(600),
        ..Limits::default()
    });
    let mut silent = server.greeted();
    let mut slow = server.greeted();
    let thread = std::thread::spawn(move || {
        let begin = Instant::now();
        let mut replies = 0;
        while begin.elapsed() < Duration::from_millis(1500) {
            slow.hello("here");
            std::thread::park_timeout(Duration::from_millis(1));
            replies += 1;
        }
        replies
    });
    assert_eq!(silent.line(), TIMEOUT);
    assert_eq!(silent.line(), "");
    assert!(thread.join().unwrap() > 1);
    let closed = server.book.closed(|closed| closed.len() == 2);
    assert_eq!(closed[0].1, Disconnect::Timeout);
    assert_eq!(closed[1].1, Disconnect::Hangup);
}

#[test]
fn a_peer_that_trickles_without_end_is_dropped() {
    // RFC 5321 §4.5.3.2.7: we wait five minutes for a command, not for its bytes one by one.
    let server = Server::start(Limits {
        stall: Duration::from_millis(500),
        ..Limits::default()
    });
    let mut client = server.greeted();
    client.0.get_ref().set_nodelay(true).unwrap();
    let begin = Instant::now();
    let mut peeked = [0];
    client.0.get_ref().set_nonblocking(true).unwrap();
    while client.0.get_ref().peek(&mut peeked).is_err() {
        assert!(begin.elapsed() < PATIENCE);
        let _ = client.0.get_mut().write(b"x");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    client.0.get_ref().set_nonblocking(false).unwrap();
    assert_eq!(client.line(), TIMEOUT);
    assert!(begin.elapsed() >= Duration::from_millis(400));
}

#[test]
fn a_dead_name_server_holds_the_banner_up_for_a_bounded_time() {
    // OpenSMTPD waits as long as the resolver does; we go on without a name.
    let server = Server::with_hosts(
        Limits {
            resolve: Duration::from_millis(100),
            ..Limits::default()
        },
        "",
    );
    let mut client = server.connect();
    assert_eq!(client.line(), BANNER);
    assert_eq!(server.book.told.lock().unwrap().names, [None]);
    drop(server.connect());
    server.book.closed(|closed| closed.len() == 1);
}

/// Answers the next question to a name server with a record, or with none.
fn answer_question(server: &UdpSocket, rdata: Option<&[u8]>) {
    let mut question = [0; 512];
    let (count, from) = server.recv_from(&mut question).unwrap();
    // Behind the header, a name and two numbers.
    let name = question[12..count].iter().position(|byte| *byte == 0);
    let end = 12 + name.unwrap() + 5;
    let answers = u8::from(rdata.is_some());
    let flags = if rdata.is_some() { 0x80 } else { 0x83 };
    let counts = [0, 1, 0, answers, 0, 0, 0, 0];
    let head = [&question[..2], &[0x81, flags], &counts].concat();
    let mut answer = [&head[..], &question[12..end]].concat();
    if let Some(rdata) = rdata {
        // The same name, type and class, and a minute.
        answer.extend([0xc0, 12]);
        answer.extend(&question[end - 4..end]);
        answer.extend([0, 0, 0, 60, 0, rdata.len() as u8]);
        answer.extend(rdata);
    }
    server.send_to(&answer, from).unwrap();
}

#[test]
fn a_name_that_is_looked_at_is_waited_for_longer() {
    // smtpd.conf(5), from rdns: with the first name server dead the second one is asked late.
    let limits = Limits {
        resolve: Duration::ZERO,
        resolve_needed: PATIENCE,
        ..Limits::default()
    };
    let server = Server::with(limits, "", |door| {
        Arc::get_mut(&mut door.listening).unwrap().rules_need_name = true;
    });
    let mut client = server.connect();
    answer_question(&server.silent, Some(b"\x03one\x07example\0"));
    answer_question(&server.silent, None);
    assert_eq!(client.line(), BANNER);
    let name = Some("one.example".to_owned());
    assert_eq!(server.book.told.lock().unwrap().names, [name]);
}

#[test]
fn one_source_gets_so_many_sessions_and_no_more() {
    // RFC 5321 §3.8: a server that has to close says 421. One address cannot have all sessions.
    let server = Server::start(Limits {
        sessions_per_loopback: 3,
        ..Limits::default()
    });
    let mut held: Vec<Client> = (0..3).map(|_| server.greeted()).collect();
    let mut excess = server.connect();
    assert!(excess.line().starts_with("421 4.7.0 "));
    assert_eq!(excess.line(), "");
    assert_eq!(held[0].ask("QUIT"), BYE);
    until("a place is free", || {
        server.connect().line().starts_with("220 ")
    });
}

#[test]
fn the_clients_of_a_proxy_are_the_sources_and_hear_that_they_are_too_many() {
    // smtpd.conf(5), proxy-v2: the address in the header is that of the client.
    let hosts = "192.0.2.7 one.example\n192.0.2.8 other.example\n192.0.2.9 ours.example\n";
    let server = Server::with(Limits::default(), hosts, |door| {
        door.proxies = Some(Arc::new(|_| true));
        door.most_per_source = 1;
        door.exempt = Some(Arc::new(|peer| peer.to_string() == "192.0.2.9"));
    });
    let proxied = |last: u8| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend([192, 0, 2, last, 127, 0, 0, 1, 0x12, 0x34, 0, 25]);
        let mut client = server.connect();
        client.0.get_mut().write_all(&header).unwrap();
        client
    };
    let mut first = proxied(7);
    assert_eq!(first.line(), BANNER);
    let mut second = proxied(7);
    assert!(second.line().starts_with("421 4.7.0 "));
    assert_eq!(second.line(), "");
    assert_eq!(proxied(8).line(), BANNER);
    let mut many = [proxied(9), proxied(9), proxied(9)];
    assert!(many.iter_mut().all(|client| client.line() == BANNER));
    assert_eq!(first.ask("QUIT"), BYE);
    until("a place is free", || proxied(7).line() == BANNER);
}

#[test]
fn the_session_limit_leaves_clients_in_the_backlog() {
    // OpenSMTPD disables its listeners until there is room; so do we.
    let server = Server::start(Limits {
        sessions: 2,
        ..Limits::default()
    });
    let mut first = server.greeted();
    let _second = server.greeted();
    let mut third = server.connect();
    third
        .0
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(third.0.fill_buf().is_err());
    third.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    // Local submission is counted, and not limited by this.
    let mut local = server.control();
    assert_eq!(ask(&mut local, &Ask::Submit), Some(Answer::Ok));
    drop(local);
    assert_eq!(first.ask("QUIT"), BYE);
    assert!(third.line().starts_with("220 "));
}

#[test]
fn descriptors_that_run_out_are_a_pause_and_not_an_end() {
    // accept(2), EMFILE: the listeners rest until it is over. Runs in a process of its own that may
    // have few descriptors.
    if std::env::var_os("ACCEPT_FEW_DESCRIPTORS").is_some() {
        return few_descriptors();
    }
    let output = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "accept::tests::bounds::descriptors_that_run_out_are_a_pause_and_not_an_end",
        ])
        .env("ACCEPT_FEW_DESCRIPTORS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for line in [
        "Disabling incoming SMTP connections: ",
        "smtp: fd exhaustion over, re-enabling incoming connections",
    ] {
        let count = text.lines().filter(|said| said.contains(line)).count();
        assert!((1..=3).contains(&count), "{count} times {line}: {text}");
    }
}

fn few_descriptors() {
    // Each client takes two of this process's descriptors, its own and the server's.
    let server = Server::start(Limits {
        retry: Duration::from_millis(50),
        descriptors: 64,
        ..Limits::default()
    });
    // With its first client it has all the descriptors that it needs for itself.
    let _first = server.greeted();
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/") {
        taken.push(file);
    }
    // Room for a client, and none for the server.
    taken.pop();
    let mut client = server.connect();
    client
        .0
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(client.0.fill_buf().is_err(), "it waits in the backlog");
    taken.clear();
    client.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(client.line().starts_with("220 "));
    let free = {
        let mut clients = Vec::new();
        // The reserve is refused with 421, before the table is full.
        loop {
            let mut client = server.connect();
            if client.line().starts_with("421 4.3.2 ") {
                break clients.len();
            }
            clients.push(client);
        }
    };
    assert!(free > 5, "{free}");
    until("there is room again", || {
        server.connect().line().starts_with("220 ")
    });
}
