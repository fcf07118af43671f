//! A message whose commands go out with the end of the one before (RFC 2920 §3.1).

use super::*;
use crate::mail::Outcome;

/// The message that follows: a recipient of it.
fn second(name: &str) -> Recipient {
    Recipient {
        id: EvpId::from_u64(8 << 32 | 1).unwrap(),
        ..recipients(&[name]).remove(0)
    }
}

/// A session in which a message was taken, and the next one is about to be sent.
fn at_the_end(offers: &[&str]) -> Talk {
    let mut talk = Talk::greeted(Protocol::Smtp, offers);
    for _ in 0..2 {
        assert!(!talk.engine.can_follow());
        talk.outcomes();
        talk.begin(&["a@e.net"]);
        for reply in ["250 Ok", "250 Ok", "354 go"] {
            talk.write();
            talk.engine.received(format!("{reply}\r\n").as_bytes());
        }
        talk.written.clear();
        assert_eq!(talk.engine.action(), Action::Send);
        if talk.engine.accepted() == 0 {
            assert!(!talk.engine.can_follow(), "it has not taken any yet");
            talk.engine.sent(7);
            talk.engine.received(b"250 Ok\r\n");
        }
    }
    talk.engine.take_events();
    talk
}

fn followed() -> Talk {
    let mut talk = at_the_end(&["PIPELINING"]);
    let bytes = talk.engine.follow(&message(), vec![second("b@e.net")]);
    assert_eq!(
        bytes.as_deref(),
        Some(&b"MAIL FROM:<al@e.org>\r\nRCPT TO:<b@e.net>\r\nDATA\r\n"[..])
    );
    talk.engine.sent(7);
    talk
}

#[test]
fn the_commands_of_the_next_message_go_out_with_the_end_of_this_one() {
    let mut talk = followed();
    assert!(matches!(talk.engine.action(), Action::Read(..)));
    talk.engine
        .received(b"250 2.0.0 one\r\n250 Ok\r\n250 Ok\r\n354 go\r\n");
    assert!(talk.engine.has_ended_before());
    assert_eq!(talk.outcomes(), ["1 ok 2.0.0 250 2.0.0 one"]);
    assert!(talk.engine.is_under_way());
    assert_eq!(talk.engine.action(), Action::Send);
    // And another one may follow that.
    assert!(talk.engine.can_follow());
    talk.engine.sent(9);
    talk.engine.received(b"250 2.0.0 two\r\n");
    assert_eq!(talk.outcomes(), ["1 ok 2.0.0 250 2.0.0 two"]);
    assert!(talk.engine.can_take_more() && !talk.engine.is_out_of_step());
    assert_eq!(talk.engine.accepted(), 3);
}

#[test]
fn who_watches_hears_of_one_message_after_the_other() {
    // smtpd-filters(7): what is reported of a transaction stands between its begin and its end.
    let mut talk = followed();
    let replies = b"250 2.0.0 one\r\n250 Ok\r\n250 Ok\r\n354 go\r\n";
    for byte in replies {
        talk.engine.received(&[*byte]);
        if talk.engine.has_ended_before() {
            talk.outcomes();
        }
    }
    talk.engine.sent(9);
    talk.engine.received(b"451 4.3.0 no\r\n");
    talk.outcomes();
    let events = talk.engine.take_events();
    let (one, two) = (MsgId::new(7).unwrap(), MsgId::new(8).unwrap());
    let said = |text: &str| Event::Client(line(text));
    let heard = |text: &str| Event::Server(Reply::sample(text));
    assert_eq!(
        events,
        [
            said("."),
            said("MAIL FROM:<al@e.org>"),
            said("RCPT TO:<b@e.net>"),
            said("DATA"),
            heard("250 2.0.0 one"),
            Event::Commit(one, 7),
            heard("250 Ok"),
            Event::Begin(two, "al@e.org".to_owned()),
            Event::Envelope(EvpId::from_u64(8 << 32 | 1).unwrap()),
            heard("250 Ok"),
            Event::Rcpt(two, line("b@e.net"), Class::Done),
            heard("354 go"),
            Event::Data(two, Class::GoOn),
            said("."),
            heard("451 4.3.0 no"),
            Event::Rollback(two),
        ]
    );
}

#[test]
fn nothing_follows_where_it_might_go_wrong() {
    assert!(!at_the_end(&[]).engine.can_follow(), "no PIPELINING");
    let limited = ["PIPELINING", "LIMITS MAILMAX=2"];
    assert!(!at_the_end(&limited).engine.can_follow(), "no more mail");
    let mut talk = at_the_end(&["PIPELINING", "SIZE 4000"]);
    let second = vec![second("b@e.net")];
    let large = Message {
        size_bytes: Some(4001),
        ..message()
    };
    assert!(talk.engine.follow(&large, second).is_none());
    talk.engine.sent(7);
    talk.engine.received(b"554 no\r\n");
    talk.outcomes();
    talk.begin(&["a@e.net"]);
    talk.write();
    talk.engine.received(b"250 Ok\r\n250 Ok\r\n354 go\r\n");
    assert_eq!(talk.engine.action(), Action::Send);
    assert!(!talk.engine.can_follow(), "the last one was refused");
    let mut talk = at_the_end(&["PIPELINING", "LIMITS RCPTMAX=1"]);
    let many = recipients(&["a@e.net", "b@e.net"]);
    assert!(talk.engine.follow(&message(), many).is_none());
}

/// What the server does after it has got the end of a message and the commands behind it.
const ENDS: [&str; 5] = [
    "250 ok",
    "451 4.3.0 later",
    "554 5.7.1 no",
    "421 bye",
    "what?",
];
const MAILS: [&str; 6] = [
    "250 ok",
    "451 later",
    "503 sequence",
    "550 no",
    "421 bye",
    "what?",
];
const RCPTS: [&str; 4] = ["250 ok", "450 later", "550 no", "421 bye"];
const DATAS: [&str; 4] = ["354 go", "451 later", "503 nobody", "421 bye"];
const LOSSES: [fn() -> Loss; 3] = [
    || Loss::Closed,
    || Loss::Reset(line("IO Error: reset")),
    || Loss::Broken(line("Connection timeout")),
];

/// Whatever the server answers, in pieces of whatever length, wherever it stops: the first message
/// has one outcome, which is its own; each recipient of the second has an outcome of its own or is
/// tried again; and nothing is delivered whose end was not sent and taken.
#[test]
fn no_message_is_lost_or_doubled_whatever_the_server_says() {
    for end in ENDS {
        for mail in MAILS {
            for (rcpt, data) in RCPTS.iter().flat_map(|r| DATAS.iter().map(move |d| (r, d))) {
                let said = format!("{end}\r\n{mail}\r\n{rcpt}\r\n{data}\r\n");
                let bytes = said.as_bytes();
                for (piece, stop) in [1, 7, bytes.len()]
                    .iter()
                    .flat_map(|piece| [bytes.len(), bytes.len() / 2, 9].map(|stop| (*piece, stop)))
                {
                    let loss = LOSSES[(piece + stop + bytes.len()) % LOSSES.len()];
                    play(end, mail, &bytes[..stop], piece, loss);
                }
            }
        }
    }
}

fn play(end: &str, mail: &str, said: &[u8], piece: usize, loss: fn() -> Loss) {
    let what = format!("{:?} by {piece}", String::from_utf8_lossy(said));
    let mut talk = followed();
    let (mut first, mut second, mut sent) = (Vec::new(), Vec::new(), false);
    let mut pieces = said.chunks(piece);
    for _ in 0..200 {
        if talk.engine.has_ended_before() {
            first.extend(talk.engine.take().settled);
        }
        match talk.engine.action() {
            Action::Write(..) => {}
            Action::Read(..) => match pieces.next() {
                Some(piece) => talk.engine.received(piece),
                None if sent => talk.engine.received(b"250 2.0.0 two\r\n"),
                None => talk.engine.lost(&loss()),
            },
            Action::Send => {
                sent = true;
                talk.engine.sent(9);
            }
            Action::Rest | Action::Over => break,
            Action::Secure(_) => panic!("{what}"),
        }
    }
    if first.is_empty() {
        first.extend(talk.engine.take().settled);
    }
    assert!(talk.engine.is_under_way(), "{what}");
    let Transacted { settled, untried } = talk.engine.take();
    second.extend(settled);
    let verdict = |all: &[(EvpId, Outcome)]| all.first().map(|(_, outcome)| outcome.verdict);
    assert_eq!(first.len(), 1, "{what}");
    assert_eq!(first[0].0.msgid(), MsgId::new(7).unwrap(), "{what}");
    let end_was_said = said.len() > end.len() + 1;
    let wanted = match end.get(..1) {
        Some("2") if end_was_said => Verdict::Delivered,
        Some("5") if end_was_said => Verdict::PermFail,
        _ => Verdict::TempFail,
    };
    assert_eq!(verdict(&first), Some(wanted), "{what}");
    assert_eq!(second.len() + untried.len(), 1, "{what}");
    assert!(
        second
            .iter()
            .all(|(id, _)| id.msgid() == MsgId::new(8).unwrap())
    );
    if verdict(&second) == Some(Verdict::Delivered) {
        assert!(sent, "{what}");
    }
    // MAIL that is refused may be refused for having come so early: that says nothing of the
    // message.
    if end_was_said && wanted != Verdict::TempFail && mail.starts_with('5') {
        assert!(second.is_empty(), "{what} {second:?}");
    }
    if !end_was_said {
        assert!(second.is_empty(), "{what} {second:?}");
    }
}

#[test]
fn a_server_that_does_not_keep_step_gets_one_message_at_a_time() {
    let mut talk = followed();
    talk.engine
        .received(b"250 2.0.0 one\r\n503 5.5.1 nested MAIL\r\n503 no\r\n503 no\r\n");
    assert_eq!(talk.outcomes(), ["1 ok 2.0.0 250 2.0.0 one"]);
    assert_eq!(talk.outcomes(), ["1 untried"]);
    assert!(talk.engine.is_out_of_step() && talk.engine.can_take_more());
    talk.begin(&["b@e.net"]);
    talk.run(
        "C: RSET
         C: MAIL FROM:<al@e.org>
         C: RCPT TO:<b@e.net>
         C: DATA
         S: 250 Ok
         S: 250 Ok
         S: 250 Ok
         S: 354 go",
    );
    assert!(!talk.engine.can_follow());
    // One that has swallowed the commands is not waited for as long as MAIL may take.
    let mut talk = followed();
    talk.engine.received(b"250 2.0.0 one\r\n");
    talk.outcomes();
    let Action::Read(time, _) = talk.engine.action() else {
        panic!("MAIL is not waited for");
    };
    assert_eq!(time, Duration::from_secs(30));
    talk.engine.lost(&Loss::Broken(line("Connection timeout")));
    assert_eq!(talk.outcomes(), ["1 untried"]);
    assert!(talk.engine.is_out_of_step());
    // RFC 5321 §3.8: 421 is no sign of that.
    let mut talk = followed();
    talk.engine
        .received(b"250 2.0.0 one\r\n421 4.4.2 enough\r\n");
    talk.outcomes();
    assert_eq!(talk.outcomes(), ["1 untried"]);
    assert!(!talk.engine.is_out_of_step());
}

#[test]
fn what_a_server_says_before_it_has_the_end_is_no_answer_to_it() {
    for (reply, outcome) in [
        (
            "250 2.0.0 ok",
            "1 temp 4.4.2 we: Remote host sent too much data",
        ),
        ("552 5.3.4 too big", "1 perm 5.3.4 552 5.3.4 too big"),
    ] {
        let mut talk = at_the_end(&["PIPELINING"]);
        talk.engine.follow(&message(), vec![second("b@e.net")]);
        // The write has failed half-way; this is what was there to be read.
        talk.engine.received(format!("{reply}\r\n").as_bytes());
        talk.engine.lost(&Loss::Closed);
        assert_eq!(talk.outcomes(), [outcome]);
        assert_eq!(talk.outcomes(), ["1 untried"]);
    }
}
