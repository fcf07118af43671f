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
