//! RFC 5321 §4.1.1.4: only CRLF.CRLF ends a message, whichever way the bytes are split.

use crate::support::{Client, Setup};

/// False ends of data, and after each one the envelope that must never be taken.
const ENDS: &[&[u8]] = &[
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\n",
    b"\n.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
];

const SECOND: &[u8] = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\n\
                        Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n";

fn open(client: &mut Client) {
    client.say("MAIL FROM:<a@example.net>", 250);
    client.say("RCPT TO:<b@example.org>", 250);
    client.say("DATA", 354);
}

#[test]
fn no_false_end_of_data_starts_a_second_transaction() {
    let daemon = Setup::maildir().start();
    let mut accepted = 0;
    for end in ENDS {
        let text = [b"Subject: first\r\n\r\nfirst".as_slice(), end, SECOND].concat();
        let at = b"Subject: first\r\n\r\nfirst".len();
        // In one piece, and cut at every byte of the false end.
        for cut in [0].into_iter().chain(at..at + end.len() + 1) {
            let mut client = daemon.hello();
            open(&mut client);
            client.send(&text[..cut]);
            client.say_nothing();
            client.send(&text[cut..]);
            let reply = client.reply();
            accepted += usize::from(reply.starts_with("250 2.0.0 "));
            assert!(
                reply.starts_with("250 2.0.0 ") || reply.starts_with('5'),
                "{end:?}: {reply}"
            );
            client.send(b"QUIT\r\n");
            let reply = client.reply();
            assert!(
                reply.starts_with("221 ") || reply.is_empty(),
                "{end:?}: {reply}"
            );
        }
    }
    for mail in daemon.wait_mail(accepted) {
        let text = String::from_utf8_lossy(&mail);
        assert!(text.contains("Delivered-To: b@example.org\n"), "{text}");
        assert!(!mail.contains(&b'\r'), "a bare CR was stored: {text:?}");
    }
    assert!(
        !daemon.log().contains("victim@example.org"),
        "{}",
        daemon.log()
    );
}

#[test]
fn commands_behind_the_true_end_are_commands() {
    let daemon = Setup::maildir().start();
    let mut client = daemon.hello();
    open(&mut client);
    client.send(
        &[
            b"Subject: x\r\n\r\none\r\n.\r\n".as_slice(),
            SECOND,
            b"QUIT\r\n",
        ]
        .concat(),
    );
    let codes: Vec<String> = (0..6)
        .map(|_| client.reply().chars().take(3).collect::<String>())
        .collect();
    assert_eq!(codes, ["250", "250", "250", "354", "250", "221"]);
    daemon.wait_mail(2);
}
