//! Extensions are used with servers that offer them, and as they offer them.

use super::*;

#[test]
fn parameters_are_for_servers_that_offer_them() {
    // RFC 1870, 6152, 6531, 3461; a value that cannot be one is left out.
    let send = |offers: &[&str], message: &Message<'_>, recipients: Vec<Recipient>| {
        let mut talk = Talk::greeted(Protocol::Smtp, offers);
        talk.engine.begin(message, recipients);
        talk.write();
        talk.engine.received(b"250 Ok\r\n");
        talk.write();
        talk.written.pop_front().unwrap() + "|" + &talk.written.pop_front().unwrap()
    };
    let full = Message {
        eight_bit: true,
        ret: Some(Ret::Full),
        envid: Some(line("id+20x")),
        ..message()
    };
    let mut rcpt = recipients(&["b@e.net"]);
    rcpt[0].notify = Notify(Notify::DELAY | Notify::SUCCESS);
    rcpt[0].orcpt = Some(line("rfc822;b@e.net"));
    let plain = "MAIL FROM:<al@e.org>|RCPT TO:<b@e.net>";
    assert_eq!(send(&["ENHANCEDSTATUSCODES"], &full, rcpt.clone()), plain);
    assert_eq!(
        send(
            &["SIZE 2000", "8bitmime", "SMTPUTF8", "Dsn"],
            &full,
            rcpt.clone()
        ),
        "MAIL FROM:<al@e.org> SIZE=1000 BODY=8BITMIME RET=FULL ENVID=id+20x|\
         RCPT TO:<b@e.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@e.net"
    );
    // RFC 6152 §2: content of ASCII alone needs no declaration.
    assert_eq!(
        send(&["8BITMIME"], &message(), recipients(&["b@e.net"])),
        plain
    );
    let eight_bit = |text: &'static [u8]| (|| Ok(text)).is_eight_bit();
    assert!(eight_bit("Subject: x\n\ncaf\u{e9}\n".as_bytes()) && !eight_bit(b"cafe\n"));
    let odd = Message {
        envid: Some(line("a b")),
        ..message()
    };
    assert_eq!(send(&["DSN"], &odd, recipients(&["b@e.net"])), plain);
    let international = send(&["SMTPUTF8"], &message(), recipients(&["j\u{f6}@e.net"]));
    assert_eq!(
        international,
        "MAIL FROM:<al@e.org> SMTPUTF8|RCPT TO:<j\u{f6}@e.net>"
    );
    let mut talk = Talk::greeted(Protocol::Smtp, &["SIZE 999"]);
    talk.begin(&["b@e.net"]);
    talk.run("");
    assert_eq!(
        talk.outcomes(),
        ["1 perm 5.3.4 we: message too large for peer"]
    );
    assert!(talk.engine.can_take_more());
}

#[test]
fn no_address_adds_a_parameter_or_a_command() {
    // RFC 5321 §4.1.2: what is not a path is not sent.
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.begin(&[
        "a> NOTIFY=NEVER",
        "a b@e.net",
        "a\u{7}@e.net",
        "",
        "\"a b\"@e.net",
    ]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<\"a b\"@e.net>\nS: 250 Ok\nC: DATA\nS: 354 go\nM\nS: 250 Ok");
    let outcomes = talk.outcomes();
    assert_eq!(outcomes.len(), 5);
    assert!(
        outcomes[..4]
            .iter()
            .all(|o| o.ends_with("we: recipient address cannot be sent"))
    );
    assert!(is_path_of("\"a\\\">b\"@x") && !is_path_of("\"a\\\\\">b\"@x"));
}

fn is_path_of(text: &str) -> bool {
    let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
    talk.begin(&[text]);
    talk.write();
    talk.written.len() > 1
}

#[test]
fn a_session_without_ehlo_uses_no_extension() {
    // RFC 5321 §3.2: HELO for old servers. One that is closing is not asked again.
    let mut talk = Talk::new(Hello {
        tls: Tls::IfOffered,
        ..hello(Protocol::Smtp)
    });
    talk.run("S: 220 hi\nC: EHLO me.example.org\nS: 502-what\nS: 502 what\nC: HELO me.example.org\nS: 250-hi\nS: 250 DSN");
    assert!(talk.engine.can_take_more());
    assert_eq!(*talk.engine.extensions(), Extensions::default());
    for (script, failure) in [
        ("S: 554 5.7.1 go away", "BANNER rejected: 554 5.7.1 go away"),
        ("S: 421 busy", "BANNER rejected: 421 busy"),
        (
            "S: 220 hi\nC: EHLO me.example.org\nS: 421 closing",
            "EHLO rejected: 421 closing",
        ),
        (
            "S: 220 hi\nC: EHLO me.example.org\nS: 500 a\nC: HELO me.example.org\nS: 550 b",
            "HELO rejected: 550 b",
        ),
        ("X", "Connection closed unexpectedly"),
        ("S: hello", "Bad response: reply code out of range"),
        ("S: 22", "Bad response: line too short"),
        ("S: 120 early", "Bad response: reply code out of range"),
    ] {
        let mut talk = Talk::new(hello(Protocol::Smtp));
        talk.run(script);
        assert_eq!(talk.failure(), failure);
    }
    let mut talk = Talk::new(hello(Protocol::Lmtp));
    talk.run("S: 220 hi\nC: LHLO me.example.org\nS: 500 SMTP here");
    assert_eq!(talk.failure(), "LHLO rejected: 500 SMTP here");
}

#[test]
fn the_limits_a_server_names_are_kept() {
    // RFC 9422: recipients per transaction, transactions per session.
    let talk = Talk::greeted(Protocol::Smtp, &["LIMITS RCPTMAX=5 MAILMAX=1 X=1"]);
    assert_eq!(talk.engine.most_recipients(), 5);
    let talk = Talk::greeted(Protocol::Smtp, &["LIMITS RCPTMAX=0 MAILMAX=x"]);
    assert_eq!(talk.engine.most_recipients(), 100);
    let mut talk = Talk::greeted(Protocol::Smtp, &["LIMITS MAILMAX=1"]);
    talk.begin(&["a@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 450 no");
    talk.outcomes();
    assert!(!talk.engine.can_take_more());
}
