//! smtpd-filters(7), REPORTS, smtp-out: what programs hear of TLS and of logins with other hosts.

use crate::filters_relay::{AT_ONCE, BODY, ONE, check, recorded, transcript};
use crate::relay::submit;
use crate::support::tls_host::{Certificate, Manner, TlsHost};

#[test]
fn a_program_hears_of_tls_and_logins_and_not_of_passwords() {
    let host = TlsHost::start(
        Manner::with(Certificate::self_signed("mx.example.com")).script(|command| match command {
            c if c.starts_with("AUTH PLAIN") => Some("235 2.7.0 welcome"),
            _ => None,
        }),
    );
    let url = format!("host smtp+tls://label@127.0.0.1:{}", host.port);
    let secrets = "table secrets { label = \"joe doe:secret\" }\n";
    let daemon = recorded(
        secrets,
        &format!("{url} auth <secrets> tls no-verify"),
        false,
    );
    submit(&daemon, ONE, BODY);
    let found = transcript(&daemon, 1);
    assert!(found[9].starts_with("link-tls|TLSv1.3:TLS_"), "{found:#?}");
    let mut start = found[..18].to_vec();
    start.remove(9);
    check(
        "TLS",
        &start,
        &[&[
            "link-connect|127.0.0.1|127.0.0.1",
            "protocol-server|220 mx.example.com ESMTP",
            "link-greeting|mx.example.com",
            "protocol-client|EHLO mx.example.org",
            "link-identify|EHLO|mx.example.org",
            "protocol-server|250-mx.example.com",
            "protocol-server|250 STARTTLS",
            "protocol-client|STARTTLS",
            "protocol-server|220 go on",
            "protocol-client|EHLO mx.example.org",
            "link-identify|EHLO|mx.example.org",
            "protocol-server|250-mx.example.com",
            "protocol-server|250 AUTH LOGIN PLAIN",
            "protocol-client|AUTH PLAIN ********",
            "protocol-server|235 2.7.0 welcome",
            "link-auth|pass|joe\\040doe",
            "protocol-client|MAIL FROM:<>",
        ]],
    );
}

// smtps: the connection is encrypted before the host says anything.
#[test]
fn a_program_hears_of_tls_from_the_first_byte_and_of_logins_that_fail() {
    let host = TlsHost::start(
        Manner::with(Certificate::self_signed("mx.example.com"))
            .at_once()
            .script(|command| command.starts_with("AUTH").then_some("535 5.7.8 no")),
    );
    let url = format!("host smtps://label@127.0.0.1:{}", host.port);
    let secrets = "table secrets { label = \"joe:secret\" }\n";
    let options = format!("{url} auth <secrets> tls no-verify");
    let daemon = recorded(secrets, &options, false);
    submit(&daemon, ONE, BODY);
    let mut found = transcript(&daemon, 1);
    assert!(found[1].starts_with("link-tls|TLSv1.3:TLS_"), "{found:#?}");
    found.remove(1);
    let login = [
        "protocol-client|AUTH PLAIN ********",
        "protocol-server|535 5.7.8 no",
        "link-auth|fail|joe",
    ];
    let at = found.iter().position(|line| line == login[0]);
    let at = at.unwrap_or_else(|| panic!("{found:#?}"));
    check("login", &found[at..at + 3], &[&login]);
    assert_eq!(found.last().map(String::as_str), Some("link-disconnect"));
    assert_eq!(found[2], "link-greeting|mx.example.com", "{found:#?}");
}

// A handshake that fails is followed by a connection in plain text: the first one has ended by then.
#[test]
fn a_connection_that_is_made_again_in_plain_text_is_told_as_two() {
    let host = TlsHost::start(Manner::with(Certificate::self_signed("mx.example.com")).broken());
    let url = format!("host smtp://127.0.0.1:{}", host.port);
    let daemon = recorded(AT_ONCE, &url, false);
    submit(&daemon, ONE, BODY);
    let found = transcript(&daemon, 2);
    let at = |event: &str| -> Vec<usize> {
        let all = found.iter().enumerate();
        all.filter(|(_, line)| line.starts_with(event))
            .map(|(at, _)| at)
            .collect()
    };
    let (connects, ends) = (at("link-connect"), at("link-disconnect"));
    assert!(
        connects.len() == ends.len() && connects.len() > 1,
        "{found:#?}"
    );
    assert!(
        connects
            .iter()
            .skip(1)
            .zip(&ends)
            .all(|(next, end)| *next == end + 1),
        "{found:#?}"
    );
    assert_eq!(ends.last(), Some(&(found.len() - 1)));
}
