//! What the first pass keeps, drops and finds; with the second pass behind it, what goes out.

use crate::cli::sendmail::compose::{self, Author};
use crate::sys::localtime::rfc5322_date;

use super::*;

fn read(text: &[u8]) -> Message {
    Message::read(&mut &text[..], Recipients::FromHeader).unwrap()
}

fn author() -> Author {
    Author {
        name: b"Bob".to_vec(),
        address: b"bob@mx".to_vec(),
        date: rfc5322_date(0),
    }
}

/// The message as it goes out, without the generated Date.
fn out(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    compose::write(&mut read(text), &author(), &mut bytes).unwrap();
    let start = bytes.windows(6).position(|w| w == b"Date: ").unwrap();
    let end = start + bytes[start..].iter().position(|b| *b == b'\n').unwrap();
    bytes.drain(start..=end);
    bytes
}

fn text(text: &str) -> String {
    String::from_utf8(out(text.as_bytes())).unwrap()
}

#[test]
fn headers_are_kept_completed_and_relieved_of_what_must_not_leave() {
    // sendmail(8): Bcc, Return-Path and mbox separators are dropped; From and Date are added in
    // front.
    let cases = [
        ("", "From: Bob <bob@mx>\n\n"),
        ("hi\n", "From: Bob <bob@mx>\n\nhi\n"),
        ("hi", "From: Bob <bob@mx>\n\nhi\n"),
        ("\nhi\n", "From: Bob <bob@mx>\n\nhi\n"),
        ("Subject: x\n", "From: Bob <bob@mx>\nSubject: x\n"),
        ("Subject: x", "From: Bob <bob@mx>\nSubject: x\n"),
        ("Subject: x\n\n", "From: Bob <bob@mx>\nSubject: x\n\n"),
        (
            "Subject: x\n\nhi\n",
            "From: Bob <bob@mx>\nSubject: x\n\nhi\n",
        ),
        ("X-Foo: 1\n\nhi\n", "From: Bob <bob@mx>\nX-Foo: 1\n\nhi\n"),
        (
            "From: al\r\nSubject: x\r\n\r\nhi\r\n",
            "From: al\nSubject: x\n\nhi\n",
        ),
        (
            "From: al\nBcc: b@x,\n\tc@x\nTo: d\n\nhi\n",
            "From: al\nTo: d\n\nhi\n",
        ),
        (
            "From: al\nbcc : b@x\n\nBcc: text\n",
            "From: al\n\nBcc: text\n",
        ),
        ("Return-Path: <x>\nFrom: al\n\n", "From: al\n\n"),
        ("From al Mon Jan  2\nFrom: al\n\nhi\n", "From: al\n\nhi\n"),
        (
            "From: al\nFrom al Mon\n\tfolded\nTo: x\n\n",
            "From: al\nTo: x\n\n",
        ),
        (">From al Mon\nFrom: al\n\nhi\n", "From: al\n\nhi\n"),
        (
            "From al Mon Jan  2\n>From bo 1:2 remote\nFrom: al\n>From x y\nTo: x\n\nhi\n",
            "From: al\nTo: x\n\nhi\n",
        ),
        (
            ">From now\nFrom then\n\nbye\n",
            "From: Bob <bob@mx>\n\n>From now\nFrom then\n\nbye\n",
        ),
        (
            "From now on\n\nbye\n",
            "From: Bob <bob@mx>\n\nFrom now on\n\nbye\n",
        ),
        ("From now on", "From: Bob <bob@mx>\n\nFrom now on\n"),
        (
            "From: al\nnot a field\n\nhi\n",
            "From: al\n\nnot a field\n\nhi\n",
        ),
        (
            " folded first\nTo: x\n",
            "From: Bob <bob@mx>\n\n folded first\nTo: x\n",
        ),
        (": no name\n", "From: Bob <bob@mx>\n\n: no name\n"),
        ("From: al\n\n.\n..x\n\tx\n", "From: al\n\n.\n..x\n\tx\n"),
    ];
    for (input, expected) in cases {
        assert_eq!(text(input), expected, "{input:?}");
    }
}

#[test]
fn recipients_and_the_sender_come_out_of_the_header() {
    // sendmail(8), -t: To, Cc and Bcc; the last address of From is the sender.
    let input =
        b"To: a@x,\n B <b@x>\ncc: c@x\nBcc: d@x (,),\n\te@x\nFrom: f@x, G <g@x>\n\nTo: h@x\n";
    let message = read(input);
    let expected: [&[u8]; 5] = [b"a@x", b"b@x", b"c@x", b"d@x", b"e@x"];
    assert_eq!(message.recipients, expected);
    assert_eq!(message.from.as_deref(), Some(&b"g@x"[..]));
    let message = Message::read(&mut &input[..], Recipients::Ignored).unwrap();
    assert!(message.recipients.is_empty());
    assert_eq!(message.from.as_deref(), Some(&b"g@x"[..]));
    let bad = b"To: (a\nCc: b\n\nhi\n";
    let message = read(bad);
    let trouble = ExitError::new("syntax error in address");
    assert_eq!(message.trouble, Some(trouble));
    assert_eq!(message.body_bytes, 3, "it is read to its end");
    let message = Message::read(&mut &bad[..], Recipients::Ignored).unwrap();
    assert_eq!(message.trouble, None);
    // From is not what decides whether a message is sent.
    for from in ["(a", "<a", "\"a", &"x".repeat(2000)] {
        let message = read(format!("From: {from}\nTo: b\n\n").as_bytes());
        assert_eq!((message.from, message.trouble), (None, None), "{from}");
        assert_eq!(message.recipients, [b"b"]);
    }
}

#[test]
fn a_message_that_is_resent_goes_to_whom_its_first_resent_fields_name() {
    // RFC 5322 §3.6.6: a set of Resent- fields is put in front of older ones; Resent-Bcc is not
    // shown.
    let first =
        "Resent-From: r@x, R <s@x>\nResent-To: a@x\nResent-bcc: b@x,\n c@x\nResent-To: d@x\n";
    let older = "Resent-From: o@x\nResent-To: p@x\nResent-Bcc: q@x\n";
    let rest = "From: f@x\nTo: t@x\nBcc: u@x\nSubject: x\n\nhi\n";
    let message = read(format!("{first}{older}{rest}").as_bytes());
    let expected: [&[u8]; 4] = [b"a@x", b"b@x", b"c@x", b"d@x"];
    assert_eq!(message.recipients, expected);
    assert_eq!(message.from.as_deref(), Some(&b"s@x"[..]));
    let sent = text(&format!("{first}{older}{rest}"));
    assert!(!sent.to_ascii_lowercase().contains("bcc"), "{sent}");
    assert!(!sent.contains("c@x") && sent.contains("Resent-To: p@x\nFrom: f@x\n"));
    // Without -t, too.
    let mut ignored = Message::read(&mut first.as_bytes(), Recipients::Ignored).unwrap();
    let mut bytes = Vec::new();
    compose::write(&mut ignored, &author(), &mut bytes).unwrap();
    assert!(!String::from_utf8(bytes).unwrap().contains("bcc"));
}

#[test]
fn bodies_are_kept_byte_for_byte_up_to_the_length_that_smtp_allows() {
    // RFC 5321 §4.5.3.1.6: 998 bytes and CRLF.
    let all: Vec<u8> = (0..=255).filter(|b| !matches!(b, b'\n' | b'\r')).collect();
    let line = [&all[..], &b"y".repeat(998 - all.len())].concat();
    let body = [&line[..], b"\n\r.\n\n.\n", &line, b"\n"].concat();
    let input = [b"From: al\n\n", &body[..]].concat();
    assert_eq!(out(&input), input);
    // Wherever a piece ends, a CR in it is kept or belongs to a CRLF.
    for before in [65535, 65536, 65537] {
        let head = b"From: al\nContent-Transfer-Encoding: 8bit\n\n";
        let long = b"z".repeat(before - 1);
        let crlf = [&head[..], &long, b"\r\nrest\r"].concat();
        let lf = [&head[..], &long, b"\nrest\r\n"].concat();
        assert_eq!(out(&crlf), lf, "{before}");
        let bare = [&head[..], &long, b"\rrest\n"].concat();
        assert_eq!(out(&bare), bare);
    }
}

#[test]
fn longer_lines_are_encoded_unless_the_message_says_how_it_is() {
    let long = "x".repeat(999);
    let mime = "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n\
                Content-Disposition: inline\nContent-Transfer-Encoding: quoted-printable\n";
    let sent = text(&format!("From: al\n\n{long}\n"));
    assert!(
        sent.starts_with(&format!("{mime}From: al\n\nxxx")),
        "{sent}"
    );
    assert!(sent.lines().all(|line| line.len() <= 76));
    // A message without a header is labelled and encoded too.
    let sent = text(&format!("{long}\n"));
    assert!(
        sent.starts_with(&format!("From: Bob <bob@mx>\n{mime}\nxxx")),
        "{sent}"
    );
    assert!(sent.lines().all(|line| line.len() <= 76));
    for how in [
        "Content-Transfer-Encoding: 8bit",
        "Content-Type: Multipart/mixed; boundary=x",
        "Content-Type:\n message/rfc822",
    ] {
        let input = format!("From: al\n{how}\n\n{long}\n");
        assert_eq!(text(&input), input);
    }
    let html = text(&format!("From: al\nContent-Type: text/html\n\n{long}\n"));
    assert!(html.starts_with(
        "MIME-Version: 1.0\nContent-Disposition: inline\n\
         Content-Transfer-Encoding: quoted-printable\nFrom: al\nContent-Type: text/html\n\nxxx"
    ));
}

#[test]
fn a_large_message_is_read_in_pieces() {
    let line = [&b"0123456789".repeat(10)[..], b"\n"].concat();
    let input = [b"From: al\n\n", &line.repeat(50_000)[..]].concat();
    assert_eq!(out(&input), input);
}
