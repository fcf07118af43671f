//! Clients that send what no client should, without end or in any order.

use super::*;

#[test]
fn a_client_that_does_not_read_stops_being_read() {
    let mut talk = Talk::plain();
    talk.input = b"HELP\r\n".repeat(4000);
    let mut rounds = 0;
    loop {
        let next = talk
            .session
            .receive(&mut talk.input, &mut talk.out, &talk.services);
        talk.go_on(next);
        assert!(talk.out.len() <= OUT_HIGH_WATER + 4096);
        if !matches!(talk.next, Next::Flush) {
            break;
        }
        talk.out.clear();
        rounds += 1;
    }
    assert!(rounds > 3 && talk.input.is_empty());
}

// ---- End of data ----

#[test]
fn no_fake_end_of_data_makes_a_second_message() {
    // CVE-2023-51764, -51765, -51766: each sequence, then a second envelope, whole and split at
    // every byte: exactly one message, never two.
    let fakes = [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\n",
        "\n.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\n.\r\r\n",
        "\r\r\n.\r\r\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
    ];
    let second = "MAIL FROM:<admin@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n\
                  Subject: smuggled\r\n\r\nx";
    for fake in fakes {
        let data = format!("Subject: x\r\n\r\nbody{fake}{second}\r\n.\r\n");
        for split in 0..=data.len() {
            let mut talk = Talk::at_data();
            let (head, tail) = data.as_bytes().split_at(split);
            talk.send(head);
            talk.send(tail);
            let replies = talk.replies();
            assert_eq!(replies.len(), 1, "{fake:?} at {split}: {replies:?}");
            if fake.contains('\0') {
                assert!(replies[0].starts_with("550 5.6.0 "), "{replies:?}")
            } else {
                assert!(replies[0].starts_with("250 2.0.0 "), "{replies:?}")
            }
            assert!(talk.messages() <= 1);
            let body = talk.services.last_body();
            assert!(!body.contains(&b'\r') && !body.contains(&0));
        }
    }
}

#[test]
fn lines_without_end_and_messages_without_end_are_cut_off() {
    let mut talk = Talk::at_data();
    talk.send(&vec![b'x'; 2 * LINE_TOO_LONG]);
    assert_eq!(talk.replies(), ["500 5.0.0 Line too long"]);
    assert_eq!((talk.is_over(), talk.messages()), (true, 0));

    let mut talk = Talk::at_data();
    talk.send(b"no colon\r\n");
    let State::Data(data) = &mut talk.session.state else {
        panic!("not in a message")
    };
    assert!(!data.writing.as_ref().unwrap().is_sound());
    data.discarded_bytes = limits::MAX_DISCARDED;
    talk.send(b"more\r\n");
    assert!(talk.replies()[0].starts_with("554 5.3.4 "));
    assert!(talk.is_over());
}

// ---- Hostile input ----

#[test]
fn a_request_of_http_carries_no_mail_in() {
    // A web server that fetches what a stranger names ("SSRF") has an address that may relay. It
    // sends the request in one piece, and goes on whatever is answered.
    let mail = "EHLO localhost\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.org>\r\n\
                DATA\r\n\r\nx\r\n.\r\nQUIT\r\n";
    for head in [
        "POST / HTTP/1.1\r\n",
        "get / HTTP/1.1\r\n",
        "PATCH / HTTP/1.1\r\nHost: mx.example.org\r\n",
        "DELETE / HTTP/1.1\r\nX: y\r\n",
    ] {
        let mut talk = Talk::plain();
        talk.send(format!("{head}Content-Length: 120\r\n\r\n{mail}").as_bytes());
        let replies = talk.replies();
        let last = replies.last().map(String::as_str);
        assert_eq!(last, Some("421 4.7.0 This is SMTP, not HTTP"), "{head}");
        assert!(replies.len() <= 2 && talk.input.is_empty(), "{replies:?}");
        assert_eq!((talk.is_over(), talk.messages()), (true, 0));
    }
}

#[test]
fn arguments_of_64_kib_are_refused_and_end_the_session() {
    // OpenBSD's erratum of August 2019: over-long input ended the daemon.
    for word in ["HELO ", "MAIL FROM:<", "RCPT TO:<", ""] {
        for (bytes, text) in [(2048, "Command line too long"), (65535, "Line too long")] {
            let mut talk = Talk::plain();
            talk.ask("EHLO localhost");
            let command = format!("{word}{}\r\n", "a".repeat(bytes));
            command
                .as_bytes()
                .chunks(1000)
                .for_each(|piece| talk.send(piece));
            let replies = talk.replies();
            assert_eq!(replies, [format!("500 5.0.0 {text}")], "{word}");
            assert!(talk.is_over());
        }
    }
    let mut talk = Talk::plain();
    let fits = format!("NOOP {}", "a".repeat(2042));
    assert_eq!(talk.ask(&fits), ["250 2.0.0 Ok"]);
}

#[test]
fn no_byte_anywhere_in_a_command_reaches_a_line_of_ours() {
    // CVE-2020-8794: every byte 0–255 in addresses, names and parameters.
    let forms = [
        "EHLO h?st",
        "MAIL FROM:<a?b@example.org>",
        "MAIL FROM:<\"a?b\"@example.org>",
        "MAIL FROM:<a@exam?ple.org>",
        "MAIL FROM:<a@b> ENVID=x?y",
        "MAIL FROM:<a@b> X?=1",
        "RCPT TO:<a?b@example.org>",
        "RCPT TO:<\"a?b\"@example.org>",
        "RCPT TO:<bob@?example.org>",
        "RCPT TO:<bob@example.org> ORCPT=rfc822;a?b",
        "RCPT TO:<bob@example.org> ORCPT=rf?c;b",
        "RCPT TO:<bob@example.org> NOTIFY=?",
        "RCPT TO:<bob@example.org> ?",
    ];
    for byte in (0..=255u8).filter(|byte| *byte != b'\n') {
        let mut talk = Talk::plain();
        talk.ask("EHLO localhost");
        for form in forms {
            if form.starts_with("RCPT") && !matches!(talk.session.state, State::Mail(_)) {
                talk.ask("MAIL FROM:<a@b.example>");
            }
            let mut command: Vec<u8> = form
                .bytes()
                .map(|b| if b == b'?' { byte } else { b })
                .collect();
            command.extend_from_slice(b"\r\n");
            talk.send(&command);
            let replies = talk.replies();
            assert!(
                form.starts_with("EHLO") || replies.len() == 1,
                "{form} {byte}: {replies:?}"
            );
            if form.starts_with("MAIL") {
                talk.ask("RSET");
            }
        }
        talk.send(b"RCPT TO:<bob@example.org>\r\nDATA\r\n\r\n.\r\n");
        assert_eq!(talk.messages(), 1, "{:?}", talk.replies());
        let body = String::from_utf8(talk.services.last_body()).unwrap();
        assert!(
            body.bytes()
                .all(|b| b.is_ascii_graphic() || b" \t\n".contains(&b)),
            "{body:?}"
        );
        assert!(body.lines().count() <= 5, "{body:?}");
        let id = talk.services.committed.lock().unwrap()[0];
        for envelope in talk.services.queue.envelopes(id).unwrap() {
            let text = format!("{} {} {:?}", envelope.helo, envelope.rcpt, envelope.dsn);
            assert!(
                text.bytes().all(|b| b.is_ascii_graphic() || b == b' '),
                "{text:?}"
            );
        }
    }
}

#[test]
fn commands_in_any_order_and_cut_anywhere_never_break_it() {
    // OpenBSD's erratum of October 2016 was a crash in the session's logic. Seeded; the seed is in
    // the message.
    let words: [&[u8]; 28] = [
        b"HELO a\r\n",
        b"EHLO b\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@b> SIZE=9\r\n",
        b"RCPT TO:<bob@example.org>\r\n",
        b"RCPT TO:<list@example.org> NOTIFY=NEVER\r\n",
        b"RCPT TO:<nobody>\r\n",
        b"DATA\r\n",
        b"DATA\r\n",
        b"DATA x\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"HELP\r\n",
        b"VRFY x\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN\r\n",
        b"WIZ\r\n",
        b".\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"\r\n.\r\n",
        b"From: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0\r\n",
        b"\xff",
        b" \r\n",
    ];
    for seed in 1..400_u64 {
        let mut dice = Dice::new(seed);
        let mut draw = |below: usize| dice.roll(below);
        let peer = if draw(2) == 0 {
            Peer::Local
        } else {
            loopback()
        };
        let mut talk = Talk::start(listening(), peer, FakeServices::new(None));
        talk.send(b"EHLO localhost\r\n");
        for _ in 0..200 {
            let word = words[draw(words.len())];
            let (head, tail) = word.split_at(draw(word.len() + 1));
            talk.send(head);
            talk.send(tail);
            for reply in talk.replies() {
                let code: u16 = reply[..3].parse().unwrap();
                assert!((200..600).contains(&code), "seed {seed}: {reply}");
            }
        }
        assert_eq!(
            talk.messages(),
            talk.services.queue.messages().count(),
            "seed {seed}"
        );
        talk.session.close(Disconnect::Hangup);
    }
}

#[test]
fn errors_in_a_row_and_endless_idling_end_the_session() {
    let mut talk = Talk::plain();
    for _ in 1..MAX_BAD_COMMANDS {
        assert!(talk.ask("FOO")[0].starts_with("500 5.5.1 "));
    }
    assert!(talk.ask("FOO")[0].starts_with("421 4.7.0 "));
    assert!(talk.is_over());

    let mut talk = Talk::plain();
    talk.ask("EHLO localhost");
    let mut asked = 1;
    while matches!(talk.next, Next::Read) {
        talk.ask("RSET");
        asked += 1;
    }
    assert_eq!(asked, MAX_IDLE_COMMANDS);
}

// smtpd(8): a client that has had 1,000 recipients refused since its last message is told to go.
#[test]
fn recipients_that_are_refused_without_end_end_the_session() {
    let mut talk = Talk::plain();
    talk.ask("EHLO localhost");
    talk.ask("MAIL FROM:<a@b.example>");
    for refused in 1..MAX_REFUSED_RCPTS {
        assert!(talk.ask("RCPT TO:<nobody@example.org>")[0].starts_with("550 "));
        let millis = u32::from(refused).saturating_sub(limits::REFUSED_RCPTS_FREE);
        let pause = talk.pause.take().map(|pause| pause.as_millis());
        assert_eq!(pause.unwrap_or(0), u128::from(millis));
    }
    // A message is progress.
    talk.ask("RCPT TO:<bob@example.org>");
    talk.ask("DATA");
    assert!(talk.ask("\r\n.")[0].starts_with("250 "));
    talk.ask("MAIL FROM:<a@b.example>");
    for _ in 1..MAX_REFUSED_RCPTS {
        talk.ask("RCPT TO:<nobody@example.org>");
    }
    assert!(talk.ask("RCPT TO:<nobody@example.org>")[0].starts_with("421 4.7.0 "));
    assert!(talk.is_over());
}

// ---- The ends of a session ----

#[test]
fn names_from_reverse_dns_are_checked_before_they_are_printed() {
    for (name, printed) in [
        ("client.example.org", "client.example.org"),
        ("a b", "<unknown>"),
        ("x\"y", "<unknown>"),
        ("", "<unknown>"),
    ] {
        let services = FakeServices::new(None);
        let mut session = Session::new(SessionId(1), Arc::new(listening()), loopback());
        let (mut input, mut out) = (b"EHLO x\r\n".to_vec(), Vec::new());
        let asked = session.open(&mut out);
        assert!(matches!(asked, Next::Ask(Question::Name(_))));
        let next = session.receive(&mut input, &mut out, &services);
        assert!(
            matches!(next, Next::Wait) && out.is_empty() && !input.is_empty(),
            "nothing is read before the banner"
        );
        let answer = Answer::Name(Reverse {
            name: Some(line(name)),
            confirmed: Confirmed::Pass,
        });
        let next = session.answered(answer, &mut input, &mut out, &services);
        let is_confirmed = session.fcrdns() == Confirmed::Pass;
        assert_eq!(is_confirmed, printed != "<unknown>");
        let mut talk = Talk {
            services,
            session,
            input,
            out,
            next,
            pause: None,
            unfinished: Vec::new(),
        };
        talk.send(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n.\r\n");
        let body = String::from_utf8(talk.services.last_body()).unwrap();
        assert!(
            body.starts_with(&format!("Received: from x ({printed} [127.0.0.1])\n")),
            "{body}"
        );
    }
}
