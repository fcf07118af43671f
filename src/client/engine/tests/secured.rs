//! TLS and credentials.

use super::*;

#[test]
fn tls_is_made_as_the_policy_says_and_nothing_from_before_it_counts() {
    // RFC 3207 §4.2, §6.
    let to_ehlo =
        "S: 220 hi\nC: EHLO me.example.org\nS: 250-hi\nS: 250-DSN\nS: 250 starttls\nC: STARTTLS";
    for tls in [Tls::IfOffered, Tls::Required] {
        let mut talk = Talk::new(Hello {
            tls,
            ..hello(Protocol::Smtp)
        });
        talk.run(to_ehlo);
        talk.run("S: 220 go\nT\nC: EHLO me.example.org\nS: 250 hi");
        assert!(talk.engine.can_take_more() && !talk.engine.extensions().dsn);
        let mut talk = Talk::new(Hello {
            tls,
            ..hello(Protocol::Smtp)
        });
        talk.run(to_ehlo);
        talk.write();
        talk.engine.received(b"220 go\r\n250 injected\r\n");
        assert_eq!(talk.failure(), "Remote host sent too much data");
        let mut talk = Talk::new(Hello {
            tls,
            ..hello(Protocol::Smtp)
        });
        talk.run(to_ehlo);
        talk.run("S: 220 go");
        let failed = |text: &str, lost| {
            let text = line(text);
            Err(NotSecured { text, lost })
        };
        talk.engine.secured(failed("certificate expired", false));
        assert_eq!(talk.failure(), "IO Error: certificate expired");
        let failure = talk.engine.failure().unwrap();
        assert!(failure.stage == Stage::Handshake && failure.is_of_the_demand());
    }
    let mut talk = Talk::new(Hello {
        tls: Tls::IfOffered,
        ..hello(Protocol::Smtp)
    });
    talk.run(to_ehlo);
    talk.run("S: 454 not now");
    assert!(talk.engine.can_take_more(), "in plain text");
    let required = Hello {
        tls: Tls::Required,
        ..hello(Protocol::Smtp)
    };
    let mut talk = Talk::new(required.clone());
    talk.run(to_ehlo);
    talk.run("S: 454 not now");
    assert_eq!(talk.failure(), "STARTTLS rejected: 454 not now");
    let mut talk = Talk::new(required.clone());
    talk.run("S: 220 hi\nC: EHLO me.example.org\nS: 250 hi");
    assert_eq!(
        talk.failure(),
        "TLS required but not supported by remote host"
    );
    let mut talk = Talk::new(required);
    talk.run("S: 220 hi\nC: EHLO me.example.org\nS: 500 what");
    assert_eq!(talk.failure(), "EHLO rejected: 500 what", "HELO has no TLS");
    let mut talk = Talk::new(Hello {
        tls: Tls::OnConnect,
        ..hello(Protocol::Smtp)
    });
    talk.run("T\nS: 220 hi\nC: EHLO me.example.org\nS: 250-hi\nS: 250 STARTTLS");
    assert!(talk.engine.can_take_more(), "encrypted already");
}

#[test]
fn credentials_go_over_tls_only_and_into_no_trace() {
    // RFC 4954 §4; RFC 4616.
    let secured = "T\nS: 220 hi\nC: EHLO me.example.org\nS: 250-hi";
    let mut talk = Talk::new(with_auth(Tls::OnConnect));
    talk.run(secured);
    talk.run("S: 250 AUTH LOGIN plain\nC: AUTH PLAIN AGpvZQBzZWNyZXQ=\nS: 235 2.7.0 welcome");
    assert!(talk.engine.can_take_more());
    let mut login = Talk::new(with_auth(Tls::OnConnect));
    login.run(secured);
    login.run("S: 250 AUTH=LOGIN\nC: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: am9l\nS: 334 UGFzc3dvcmQ6\nC: c2VjcmV0\nS: 235 welcome");
    assert!(login.engine.can_take_more());
    for talk in [&mut talk, &mut login] {
        let said = format!("{:?}", talk.engine.take_events());
        assert!(
            said.contains("********") && !said.contains("c2Vj") && !said.contains("AGpv"),
            "{said}"
        );
    }
    for (script, failure) in [
        ("S: 250 DSN", "AUTH not advertised"),
        ("S: 250 AUTH GSSAPI", "no supported AUTH method"),
        (
            "S: 250 AUTH PLAIN\nC: AUTH PLAIN AGpvZQBzZWNyZXQ=\nS: 535 5.7.8 no",
            "AUTH rejected: 535 5.7.8 no",
        ),
        (
            "S: 250 AUTH LOGIN\nC: AUTH LOGIN\nS: 334 x\nC: am9l\nS: 235 early",
            "AUTH rejected: 235 early",
        ),
    ] {
        let mut talk = Talk::new(with_auth(Tls::OnConnect));
        talk.run(secured);
        talk.run(script);
        assert_eq!(talk.failure(), failure);
    }
    for tls in [Tls::Never, Tls::IfOffered] {
        let mut talk = Talk::new(with_auth(tls));
        talk.run("S: 220 hi\nC: EHLO me.example.org\nS: 250-hi\nS: 250 AUTH PLAIN");
        assert_eq!(talk.failure(), "Refuse to AUTH over insecure channel");
    }
    let mut long = with_auth(Tls::OnConnect);
    long.auth.as_mut().unwrap().password = line(&"x".repeat(2000));
    let mut talk = Talk::new(long);
    talk.run(secured);
    talk.run("S: 250 AUTH PLAIN");
    assert_eq!(talk.failure(), "Credentials too large");
}

#[test]
fn who_is_lost_or_has_no_time_has_judged_nothing() {
    let wanted = with_auth(Tls::Required);
    let hi = "S: 220 hi\nC: EHLO me.example.org";
    let ask = format!("{hi}\nS: 250-hi\nS: 250 starttls\nC: STARTTLS");
    let secured = format!("{ask}\nS: 220 go\nT\nC: EHLO me.example.org");
    let login = format!("{secured}\nS: 250-hi\nS: 250 AUTH LOGIN\nC: AUTH LOGIN");
    for (script, is_judged) in [
        (format!("{hi}\nS: 250 hi"), true),
        (format!("{ask}\nS: 454 not now"), false),
        (format!("{ask}\nS: 554 never"), true),
        (format!("{ask}\nX"), false),
        (format!("{secured}\nX"), false),
        (format!("{secured}\nS: 250 hi"), true),
        (format!("{login}\nS: 454 not now"), true),
        (format!("{login}\nS: 535 never"), true),
        (format!("{login}\nX"), false),
    ] {
        let mut talk = Talk::new(wanted.clone());
        talk.run(&script);
        let failure = talk.engine.failure().expect("a failure");
        assert_eq!(failure.is_of_the_demand(), is_judged, "{script}");
    }
    for (loss, is_judged) in [
        (Loss::Late(line("Connection timeout")), false),
        (Loss::Broken(line("IO Error: access denied")), true),
    ] {
        let mut talk = Talk::new(wanted.clone());
        talk.run(&secured);
        talk.engine.lost(&loss);
        let failure = talk.engine.failure().expect("a failure");
        assert_eq!(failure.is_of_the_demand(), is_judged, "{loss:?}");
    }
}
