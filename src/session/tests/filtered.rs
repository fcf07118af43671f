//! Messages on their way through programs.

use super::*;

/// Gives every line back as it was.
const ECHO: &str = r#"
    while read -r line; do [ "$line" = "config|ready" ] && break; done
    echo 'register|filter|smtp-in|data-line'; echo 'register|ready'
    while IFS= read -r line; do
        session=${line#filter|*|*|*|*|}
        echo "filter-dataline|$session"
    done"#;

// RFC 5321 §4.5.2, smtpd-filters(7): programs get dots as they were on the wire, wherever reads of
// the socket begin and end.
#[test]
fn no_dot_is_lost_on_the_way_through_a_program_however_a_message_comes_in() {
    let filters = crate::filter::tests::filters(
        "filter f proc-exec x\nlisten on 127.0.0.1 port 25 filter f",
        ECHO,
    );
    let mut listening = listening();
    listening.filter = filters.of_sessions(&Some("f".to_owned()));
    listening.limits.max_mails = 1000;
    let mut talk = Talk::start(listening, loopback(), FakeServices::new(None));
    talk.send(b"EHLO localhost\r\n");
    let message = b"\r\na\r\n..b\r\n..\r\nc\r\n.\r\n";
    for second in 0..=message.len() {
        for first in 0..=second {
            talk.send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n");
            assert!(talk.replies().last().unwrap().starts_with("354 "));
            for part in [
                &message[..first],
                &message[first..second],
                &message[second..],
            ] {
                talk.send(part);
            }
            let replies = talk.replies();
            assert!(replies.last().unwrap().starts_with("250 "), "{replies:?}");
            let stored = talk.services.last_body();
            assert!(
                stored.ends_with(b"\n\na\n.b\n.\nc\n"),
                "cut at {first} and {second}: {:?}",
                String::from_utf8_lossy(&stored)
            );
        }
    }
}

// smtpd-filters(7), bypass: the rest of the transaction is not filtered. Where none begins, the
// next one is.
#[test]
fn bypass_of_a_sender_who_is_refused_goes_no_further() {
    let filters = crate::filter::tests::filters(
        "filter trusted phase mail-from match mail-from { \"boss@e.org\" } bypass\n\
         filter bad phase mail-from match mail-from { \"bob@bad.org\" } reject \"550 bad\"\n\
         filter late phase rcpt-to match mail-from { \"bob@e.org\" } reject \"550 late\"\n\
         filter all chain { trusted, bad, late }\n\
         listen on 127.0.0.1 port 25 filter all",
        "",
    );
    let mut listening = listening();
    listening.filter = filters.of_sessions(&Some("all".to_owned()));
    listening.tls = Some(Tls::Offered);
    listening.auth = Some(Auth {
        required: false,
        table: None,
    });
    listening.senders = Some(Senders {
        table: "senders".to_owned(),
        masquerade: false,
    });
    let mut talk = Talk::start(listening, loopback(), FakeServices::new(None));
    talk.ask("EHLO localhost");
    talk.ask("STARTTLS");
    talk.ask("EHLO localhost");
    assert!(talk.ask("AUTH PLAIN AGJvYgBzZWNyZXQ=")[0].starts_with("235 "));
    let refused = talk.ask("MAIL FROM:<boss@e.org>");
    assert_eq!(refused, ["530 5.7.1 Sender rejected"]);
    assert_eq!(talk.ask("MAIL FROM:<bob@bad.org>"), ["550 bad"]);
    talk.ask("MAIL FROM:<boss@e.org>");
    assert_eq!(talk.ask("MAIL FROM:<bob@e.org>"), ["250 2.0.0 Ok"]);
    assert_eq!(talk.ask("RCPT TO:<bob@example.org>"), ["550 late"]);
}

// smtpd.conf(5), disconnect: the client hears this and is disconnected. A local one waits for no
// name, so that all of it is done when the session is opened.
#[test]
fn a_local_client_that_is_disconnected_when_it_connects_is_not_waited_for() {
    let filters = crate::filter::tests::filters(
        "filter f phase connect match !src { 192.0.2.1 } disconnect \"550 not now\"\n\
         listen on socket filter f",
        "",
    );
    let mut listening = listening();
    listening.filter = filters.of_sessions(&Some("f".to_owned()));
    let mut talk = Talk::start(listening, Peer::Local, FakeServices::new(None));
    assert_eq!(talk.replies(), ["550 not now"]);
    assert!(talk.is_over());
}

// Removing what is on the disk already takes the disk's time, which a session does not have.
#[test]
fn what_there_is_of_a_refused_message_is_left_to_whoever_may_wait_for_the_disk() {
    let filters = crate::filter::tests::filters(
        "filter f phase commit match mail-from { \"bob@bad.org\" } reject \"550 bad\"\n\
         listen on 127.0.0.1 port 25 filter f",
        "",
    );
    let mut listening = listening();
    listening.filter = filters.of_sessions(&Some("f".to_owned()));
    let mut talk = Talk::start(listening, loopback(), FakeServices::new(None));
    talk.send(b"EHLO localhost\r\nMAIL FROM:<bob@bad.org>\r\nRCPT TO:<bob@example.org>\r\n");
    // One that is sent right behind it has what there is of it left as well.
    talk.send(
        b"DATA\r\n\r\nx\r\n.\r\nMAIL FROM:<bob@bad.org>\r\nRCPT TO:<bob@example.org>\r\n\
          DATA\r\n\r\nx\r\n.\r\nNOOP\r\n",
    );
    let replies = talk.replies();
    let last: Vec<&str> = replies.iter().rev().take(2).map(String::as_str).collect();
    assert_eq!(last, ["250 2.0.0 Ok", "550 bad"]);
    assert_eq!(
        replies.iter().filter(|reply| *reply == "550 bad").count(),
        2
    );
    assert_eq!(talk.unfinished.len(), 2);
}
