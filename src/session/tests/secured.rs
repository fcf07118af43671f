//! STARTTLS, SMTPS and AUTH.

use super::*;

fn with_tls(tls: Tls, change: impl FnOnce(&mut Listening)) -> Talk {
    let mut listening = listening();
    listening.tls = Some(tls);
    listening.auth = Some(Auth {
        required: false,
        table: Some("users".to_owned()),
    });
    change(&mut listening);
    let peer = Peer::parse("192.0.2.7").unwrap();
    let mut talk = Talk::start(listening, peer, FakeServices::new(None));
    assert!(talk.replies()[0].starts_with("220 "));
    talk
}

/// Behind STARTTLS and EHLO.
fn secured(change: impl FnOnce(&mut Listening)) -> Talk {
    let mut talk = with_tls(Tls::Offered, change);
    talk.ask("EHLO there");
    assert_eq!(talk.ask("STARTTLS"), ["220 2.0.0 Ready to start TLS"]);
    talk.ask("EHLO there");
    talk
}

fn plain(user: &str, password: &str) -> String {
    auth::encode(format!("\0{user}\0{password}").as_bytes())
}

const NOT_ALLOWED: &str = "503 5.5.1 Invalid command: Command not allowed at this point.";

// RFC 3207 §4, §4.2; smtpd.conf(5), tls.
#[test]
fn starttls_forgets_what_was_said_before() {
    let mut talk = with_tls(Tls::Offered, |_| ());
    assert_eq!(talk.ask("STARTTLS"), [NOT_ALLOWED]);
    let offers = talk.ask("EHLO there");
    assert!(offers.contains(&"250-STARTTLS".to_owned()), "{offers:?}");
    assert!(
        !offers.iter().any(|line| line.contains("AUTH")),
        "{offers:?}"
    );
    let text = "501 5.5.4 Invalid command arguments: No parameters allowed";
    assert_eq!(talk.ask("STARTTLS x"), [text]);
    assert_eq!(talk.ask("MAIL FROM:<a@b.example>"), ["250 2.0.0 Ok"]);
    assert_eq!(talk.ask("STARTTLS"), [NOT_ALLOWED]);
    talk.ask("RSET");
    assert_eq!(talk.ask("STARTTLS"), ["220 2.0.0 Ready to start TLS"]);
    assert_eq!(talk.ask("MAIL FROM:<a@b.example>"), [NOT_ALLOWED]);
    let offers = talk.ask("EHLO there");
    assert!(!offers.contains(&"250-STARTTLS".to_owned()), "{offers:?}");
    assert!(
        offers.contains(&"250-AUTH PLAIN LOGIN".to_owned()),
        "{offers:?}"
    );
    let text = "503 5.5.1 Invalid command: Channel already secured";
    assert_eq!(talk.ask("STARTTLS"), [text]);
}

// CVE-2011-0411: what stands behind STARTTLS in clear text is nobody's command.
#[test]
fn nothing_is_carried_over_starttls() {
    let mut talk = with_tls(Tls::Offered, |_| ());
    talk.ask("EHLO there");
    talk.send(b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.org>\r\nRSET\r\n");
    assert_eq!(talk.replies(), ["220 2.0.0 Ready to start TLS"]);
    assert_eq!(talk.ask("RSET"), [NOT_ALLOWED]);
}

// smtpd.conf(5), tls-require; auth.
#[test]
fn mail_waits_for_what_the_listener_requires() {
    let mut talk = with_tls(Tls::Required, |listening| {
        listening.auth.as_mut().unwrap().required = true;
    });
    talk.ask("EHLO there");
    let mail = "MAIL FROM:<a@b.example>";
    let text = "530 5.5.1 Invalid command: Must issue a STARTTLS command first";
    assert_eq!(talk.ask(mail), [text]);
    talk.ask("STARTTLS");
    talk.ask("EHLO there");
    let text = "530 5.5.1 Invalid command: Must issue an AUTH command first";
    assert_eq!(talk.ask(mail), [text]);
    talk.ask(&format!("AUTH PLAIN {}", plain("bob", "secret")));
    assert_eq!(talk.ask(mail), ["250 2.0.0 Ok"]);
}

#[test]
fn an_smtps_listener_is_secured_before_its_banner() {
    let mut talk = with_tls(Tls::Immediate, |_| ());
    let offers = talk.ask("EHLO there");
    assert!(
        offers.contains(&"250-AUTH PLAIN LOGIN".to_owned()),
        "{offers:?}"
    );
    let text = "503 5.5.1 Invalid command: Command not supported";
    assert_eq!(talk.ask("STARTTLS"), [text]);
}

// RFC 4954; the order of the tests is smtpd's.
#[test]
fn auth_is_for_encrypted_sessions_once_and_outside_transactions() {
    let mut talk = with_tls(Tls::Offered, |_| ());
    assert_eq!(talk.ask("AUTH PLAIN"), [NOT_ALLOWED]);
    talk.ask("EHLO there");
    let text = "538 5.7.11 Encryption required for requested authentication mechanism";
    assert_eq!(talk.ask("AUTH PLAIN"), [text]);

    let mut talk = secured(|_| ());
    let text = "501 5.5.4 Invalid command arguments: No parameters given";
    assert_eq!(talk.ask("AUTH"), [text]);
    let text = "504 5.7.4 Security features not supported: AUTH method \"CRAM-MD5\" not supported";
    assert_eq!(talk.ask("AUTH CRAM-MD5"), [text]);
    talk.ask("MAIL FROM:<a@b.example>");
    assert_eq!(talk.ask("AUTH PLAIN"), [NOT_ALLOWED]);
    talk.ask("RSET");
    assert_eq!(talk.ask("AUTH PLAIN"), ["334 "]);
    assert_eq!(
        talk.ask(&plain("bob", "secret")),
        ["235 2.0.0 Authentication succeeded"]
    );
    let text = "503 5.5.1 Invalid command: Already authenticated";
    assert_eq!(talk.ask("AUTH PLAIN"), [text]);
    assert!(
        !talk
            .ask("EHLO there")
            .iter()
            .any(|line| line.contains("AUTH"))
    );

    let mut talk = secured(|listening| listening.auth = None);
    let text = "503 5.5.1 Invalid command: Command not supported";
    assert_eq!(talk.ask("AUTH PLAIN"), [text]);
}

#[test]
fn login_asks_for_the_user_and_then_the_password() {
    let (bob, secret) = (auth::encode(b"bob"), auth::encode(b"secret"));
    let mut talk = secured(|_| ());
    assert_eq!(talk.ask("auth login"), ["334 VXNlcm5hbWU6"]);
    assert_eq!(talk.ask(&bob), ["334 UGFzc3dvcmQ6"]);
    assert_eq!(talk.ask(&secret), ["235 2.0.0 Authentication succeeded"]);
    let mut talk = secured(|_| ());
    assert_eq!(talk.ask(&format!("AUTH LOGIN {bob}")), ["334 UGFzc3dvcmQ6"]);
    // Commands may come many at a time, responses as well.
    talk.send(format!("{secret}\r\nNOOP\r\n").as_bytes());
    assert_eq!(
        talk.replies(),
        ["235 2.0.0 Authentication succeeded", "250 2.0.0 Ok"]
    );
}

#[test]
fn what_is_no_response_ends_the_exchange() {
    let mut talk = secured(|_| ());
    let text = "501 5.5.2 Syntax error: Syntax error";
    for response in ["*", "", "not base64!", "AGJvYg==", "QUIT"] {
        assert_eq!(talk.ask("AUTH PLAIN"), ["334 "]);
        assert_eq!(talk.ask(response), [text], "{response}");
        assert_eq!(talk.ask("NOOP"), ["250 2.0.0 Ok"]);
    }
    talk.ask("AUTH LOGIN");
    talk.ask(&auth::encode(b"bob"));
    assert_eq!(talk.ask("*"), [text]);
    talk.send(format!("AUTH PLAIN\r\n{}\r\n", "A".repeat(70_000)).as_bytes());
    assert_eq!(talk.replies(), ["334 ", "500 5.0.0 Line too long"]);
    assert!(talk.is_over());
}

#[test]
fn whoever_fails_too_often_is_sent_away() {
    let mut talk = secured(|_| ());
    let wrong = format!("AUTH PLAIN {}", plain("bob", "Secret"));
    for _ in 1..limits::MAX_FAILED_LOGINS {
        assert_eq!(talk.ask(&wrong), ["535 5.7.8 Authentication failed"]);
    }
    let text = "421 4.7.0 Too many failed attempts to log in";
    assert_eq!(talk.ask(&wrong), [text]);
    assert!(talk.is_over());
    let mut talk = secured(|_| ());
    for (user, text) in [
        ("down", "454 4.7.0 Temporary authentication failure"),
        (
            "many",
            "454 4.7.0 Too many failed attempts to log in, try again later",
        ),
    ] {
        assert_eq!(
            talk.ask(&format!("AUTH PLAIN {}", plain(user, "x"))),
            [text]
        );
    }
    let command = format!("AUTH PLAIN {}\r\n", plain("bob", "secret"));
    let text = "454 4.7.0 Temporary authentication failure";
    assert_eq!(talk.unanswered(command.as_bytes()), [text]);
}

// smtpd.conf(5), received-auth, mask-src; the name of a failed attempt is forgotten.
#[test]
fn received_says_how_the_message_came() {
    let received = |talk: &mut Talk| {
        talk.ask("MAIL FROM:<bob@example.org>");
        talk.ask("RCPT TO:<ann@example.org>");
        talk.ask("DATA");
        talk.send(b"Subject: x\r\n\r\n.\r\n");
        assert!(talk.replies()[0].starts_with("250 "));
        String::from_utf8(talk.services.last_body()).unwrap()
    };
    let by = |rest: &str| format!("\n\tby mx.example.org (OpenSMTPD) with {rest}");
    let tls = "(TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO)";
    let mut talk = secured(|listening| listening.received_auth = true);
    talk.ask(&format!("AUTH PLAIN {}", plain("eve", "x")));
    let text = received(&mut talk);
    assert!(text.contains(&by("ESMTPS id ")), "{text}");
    assert!(
        text.contains(&format!(" {tls} auth=no\n\tfor <ann@example.org>;")),
        "{text}"
    );
    assert!(!text.contains("eve"), "{text}");
    talk.ask(&format!("AUTH PLAIN {}", plain("bob", "secret")));
    let text = received(&mut talk);
    assert!(text.contains(&by("ESMTPSA id ")), "{text}");
    assert!(
        text.contains(&format!(" {tls} auth=yes user=bob\n\tfor <")),
        "{text}"
    );
    let mut talk = secured(|listening| listening.mask_src = true);
    let text = received(&mut talk);
    assert!(text.starts_with("Received: \n\tby "), "{text}");
    assert!(text.contains(&format!(" {tls}\n\tfor ")), "{text}");
}

// smtpd.conf(5), senders, masquerade.
#[test]
fn a_user_sends_as_the_table_lets_him() {
    let mut talk = secured(|listening| {
        listening.senders = Some(Senders {
            table: "senders".to_owned(),
            masquerade: true,
        });
    });
    assert_eq!(talk.ask("MAIL FROM:<ann@example.org>"), ["250 2.0.0 Ok"]);
    talk.ask("RSET");
    talk.ask(&format!("AUTH PLAIN {}", plain("bob", "secret")));
    assert_eq!(
        talk.ask("MAIL FROM:<ann@example.org>"),
        ["530 5.7.1 Sender rejected"]
    );
    assert_eq!(talk.ask("MAIL FROM:<>"), ["530 5.7.1 Sender rejected"]);
    assert_eq!(
        talk.ask("MAIL FROM:<broken@example.org>"),
        ["451 4.3.0 Temporary Error"]
    );
    assert_eq!(talk.ask("MAIL FROM:<bob@example.org>"), ["250 2.0.0 Ok"]);
    talk.ask("RCPT TO:<ann@example.org>");
    talk.ask("DATA");
    talk.send(b"From: The King <king@example.com>\r\nTo: ann@example.org\r\n\r\n.\r\n");
    assert!(talk.replies()[0].starts_with("250 "));
    let text = String::from_utf8(talk.services.last_body()).unwrap();
    assert!(
        text.contains("\nFrom: The King <bob@example.org>\n"),
        "{text}"
    );
}
