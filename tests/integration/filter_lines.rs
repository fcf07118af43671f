//! smtpd-filters(7), data-line: lines of messages that come in pieces.

use crate::filters::{heard, start};
use crate::support::{body, wait_for};

#[test]
fn a_message_in_pieces_keeps_its_dots_on_the_way_through_a_program() {
    let register = "register|filter|smtp-in|data-line\n";
    let daemon = start(
        "filter \"f\" proc-exec \"$dir/f/filter $dir/f one\"\n",
        "\"f\"",
        &[("f", register, "")],
    );
    let mut client = daemon.hello();
    client.say("MAIL FROM:<a@e.org>", 250);
    client.say("RCPT TO:<b@e.org>", 250);
    client.say("DATA", 354);
    // Each piece but the last ends within a line, after one that the program is seen to get.
    for (piece, line) in [
        ("Subject: x\r\n\r\none\r\nt", "|one\n"),
        ("wo\r\n..com\r\n.", "|..com\n"),
        (".\r\nthree\r\nfo", "|three\n"),
        ("ur\r\n..\r\nfive\r\n.\r\n", "|five\n"),
    ] {
        client.send(piece.as_bytes());
        wait_for(line, || heard(&daemon, "f").contains(line));
    }
    assert!(client.reply().starts_with("250 "));
    let mail = daemon.wait_mail(1);
    assert_eq!(body(&mail[0]), b"one\ntwo\n.com\n.\nthree\nfour\n.\nfive\n");
}
