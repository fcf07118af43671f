//! What each reply means for the recipients, and for the session.

use super::*;

#[test]
fn every_class_of_reply_at_every_stage_has_its_outcome() {
    // 2 is success, 5 is for good, anything else is temporary; RSET follows what was left half-way.
    for (script, outcomes) in [
        (
            "C: MAIL FROM:<al@e.org>\nS: 550 no",
            &["1 perm 5.0.0 550 no"][..],
        ),
        (
            "C: MAIL FROM:<al@e.org>\nS: 450 later",
            &["1 temp 4.0.0 450 later"],
        ),
        (
            "C: MAIL FROM:<al@e.org>\nS: 354 what",
            &["1 temp 4.0.0 354 what"],
        ),
        (
            "C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 551 no",
            &["1 perm 5.0.0 551 no"],
        ),
        (
            "C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 452 4.2.2 full",
            &["1 temp 4.2.2 452 4.2.2 full"],
        ),
        (
            "C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 251 will forward\nC: DATA\nS: 554 no",
            &["1 perm 5.0.0 554 no"],
        ),
        (
            "C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 250 Ok\nC: DATA\nS: 451 no",
            &["1 temp 4.0.0 451 no"],
        ),
        (
            "C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 250 Ok\nC: DATA\nS: 250 odd",
            &["1 temp 4.0.0 250 odd"],
        ),
    ] {
        let mut talk = Talk::greeted(Protocol::Smtp, &[]);
        talk.begin(&["a@e.net"]);
        talk.run(script);
        assert_eq!(talk.outcomes(), outcomes, "{script}");
        assert!(talk.engine.can_take_more(), "{script}");
        talk.begin(&["a@e.net"]);
        talk.run("C: RSET\nS: 500 whatever\nC: MAIL FROM:<al@e.org>");
    }
    for (reply, outcome) in [
        ("250 2.6.0 done", "1 ok 2.6.0 250 2.6.0 done"),
        ("554 5.7.1 spam", "1 perm 5.7.1 554 5.7.1 spam"),
        ("452 4.3.1 disk", "1 temp 4.3.1 452 4.3.1 disk"),
        ("354 again?", "1 temp 4.0.0 354 again?"),
        (
            "550 4.1.1 says two things",
            "1 perm 5.0.0 550 4.1.1 says two things",
        ),
    ] {
        let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
        talk.begin(&["a@e.net"]);
        talk.run("C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a@e.net>\nC: DATA\nS: 250 Ok\nS: 250 Ok\nS: 354 go\nM");
        talk.run(&format!("S: {reply}"));
        assert_eq!(talk.outcomes(), [outcome]);
        talk.begin(&["a@e.net"]);
        talk.run("C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a@e.net>\nC: DATA");
    }
}

#[test]
fn lmtp_has_an_outcome_for_each_recipient_that_was_accepted() {
    // RFC 2033 §4.2: one reply each behind the dot, in the order of RCPT, in one segment or many.
    let mut talk = Talk::greeted(Protocol::Lmtp, &["PIPELINING"]);
    talk.begin(&["a", "b", "c", "d"]);
    talk.run("C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a>\nC: RCPT TO:<b>\nC: RCPT TO:<c>\nC: RCPT TO:<d>\nC: DATA\nS: 250 Ok\nS: 250 Ok\nS: 550 5.1.1 who\nS: 250 Ok\nS: 250 Ok\nS: 354 go\nM");
    talk.engine
        .received(b"250 2.0.0 <a> Saved\r\n552 5.2.2 <c> full\r\n451 4.3.0 <d> busy\r\n");
    assert_eq!(
        talk.outcomes(),
        [
            "2 perm 5.1.1 550 5.1.1 who",
            "1 ok 2.0.0 250 2.0.0 <a> Saved",
            "3 perm 5.2.2 552 5.2.2 <c> full",
            "4 temp 4.3.0 451 4.3.0 <d> busy",
        ]
    );
    assert_eq!(
        talk.engine.accepted(),
        1,
        "one message, however many had it"
    );
    // Whoever was answered before the connection went has the answer.
    talk.begin(&["a", "b"]);
    talk.run("C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a>\nC: RCPT TO:<b>\nC: DATA\nS: 250 Ok\nS: 250 Ok\nS: 250 Ok\nS: 354 go\nM\nS: 250 Saved\nX");
    let gone = "2 temp 4.4.2 we: Connection closed unexpectedly";
    assert_eq!(talk.outcomes(), ["1 ok 2.0.0 250 Saved", gone]);
}

#[test]
fn too_many_recipients_are_offered_again() {
    // RFC 5321 §4.5.3.1.10: 452 after some were accepted means the others in another transaction.
    for code in ["452 4.5.3 too many", "452 too many", "552 too many"] {
        let mut talk = Talk::greeted(Protocol::Smtp, &[]);
        talk.begin(&["a@e.net", "b@e.net", "c@e.net"]);
        talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 250 Ok\nC: RCPT TO:<b@e.net>");
        talk.run(&format!("S: {code}\nC: DATA\nS: 354 go\nM\nS: 250 Ok"));
        assert_eq!(
            talk.outcomes(),
            ["1 ok 2.0.0 250 Ok", "2 untried", "3 untried"]
        );
        assert!(talk.engine.can_take_more());
    }
    // The first of all being refused so would never come to an end.
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.begin(&["a@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 452 4.5.3 too many");
    assert_eq!(talk.outcomes(), ["1 temp 4.5.3 452 4.5.3 too many"]);
}

#[test]
fn so_many_refusals_in_a_row_end_the_session() {
    // smtpd.conf(5), mta limit max-failures-per-session: 25, and what was accepted is still sent.
    let mut talk = Talk::new(Hello {
        max_failures: 2,
        ..hello(Protocol::Smtp)
    });
    talk.run("S: 220 hi\nC: EHLO me.example.org\nS: 250 hi");
    talk.begin(&["a@e.net", "b@e.net", "c@e.net", "d@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 250 Ok\nC: RCPT TO:<b@e.net>\nS: 550 no\nC: RCPT TO:<c@e.net>\nS: 550 no\nC: DATA\nS: 354 go\nM\nS: 250 Ok");
    assert_eq!(
        talk.outcomes(),
        [
            "2 perm 5.0.0 550 no",
            "3 perm 5.0.0 550 no",
            "4 temp 4.5.3 we: Too many consecutive errors, closing connection",
            "1 ok 2.0.0 250 Ok",
        ]
    );
    assert!(!talk.engine.can_take_more());
    assert!(talk.engine.after_all(recipients(&["e@e.net"])).is_ok());
}

#[test]
fn a_session_of_which_nothing_comes_is_given_up() {
    // Ten transactions in a row without a message that was accepted.
    let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
    for number in 0..10 {
        assert!(talk.engine.can_take_more(), "{number}");
        talk.begin(&["a@e.net"]);
        talk.write();
        talk.written.clear();
        talk.engine.received(
            b"450 no\r\n450 no\r\n450 no\r\n450 no\r\n"
                .get(..if number == 0 { 24 } else { 32 })
                .unwrap(),
        );
        assert_eq!(talk.outcomes().len(), 1);
    }
    assert!(talk.engine.rejects_all() && !talk.engine.can_take_more());
}

#[test]
fn a_connection_that_was_closed_while_idle_costs_nobody_an_attempt() {
    // Only where the server had not said anything of this message, and not on a new connection.
    for end in ["X", "S: 421 4.3.2 closing"] {
        let mut talk = Talk::greeted(Protocol::Smtp, &[]);
        talk.begin(&["a@e.net"]);
        talk.run("C: MAIL FROM:<al@e.org>");
        talk.run(end);
        assert!(
            talk.outcomes()[0].starts_with("1 temp 4."),
            "a new connection"
        );
        let mut talk = Talk::greeted(Protocol::Smtp, &[]);
        talk.begin(&["a@e.net"]);
        talk.run("C: MAIL FROM:<al@e.org>\nS: 450 no");
        talk.outcomes();
        talk.begin(&["a@e.net", "b@e.net"]);
        talk.run("C: RSET");
        talk.run(end);
        assert_eq!(talk.outcomes(), ["1 untried", "2 untried"], "{end}");
        assert!(!talk.engine.can_take_more());
    }
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.begin(&["a@e.net", "b@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 421 4.3.2 closing");
    let closing = "temp 4.3.2 421 4.3.2 closing";
    assert_eq!(
        talk.outcomes(),
        [format!("1 {closing}"), format!("2 {closing}")]
    );
    assert_eq!(talk.failure(), "421 4.3.2 closing");
}

#[test]
fn what_nobody_asked_for_ends_the_session() {
    // Bytes behind the last reply that was due are an answer to something else.
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.begin(&["a@e.net"]);
    talk.write();
    talk.engine.received(b"250 Ok\r\n250 Ok\r\n");
    assert_eq!(
        talk.outcomes(),
        ["1 temp 4.4.2 we: Remote host sent too much data"]
    );
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.engine.received(b"250 hello?\r\n");
    assert_eq!(talk.failure(), "Remote host sent too much data");
}

#[test]
fn a_server_that_closes_has_not_taken_the_message() {
    // RFC 5321 §4.2.2: 221 is no reply to the end of a message.
    for protocol in [Protocol::Smtp, Protocol::Lmtp] {
        let mut talk = Talk::greeted(protocol, &[]);
        talk.begin(&["a@e.net"]);
        for reply in ["250 Ok", "250 Ok", "354 go"] {
            talk.write();
            talk.engine.received(format!("{reply}\r\n").as_bytes());
        }
        talk.engine.sent(7);
        talk.engine.received(b"221 2.0.0 closing\r\n");
        assert_eq!(talk.outcomes(), ["1 temp 4.0.0 221 2.0.0 closing"]);
        assert_eq!(talk.engine.accepted(), 0);
    }
}

#[test]
fn whatever_a_server_says_every_recipient_has_one_outcome() {
    // Random replies, cut anywhere, from any protocol: an outcome or untried for each, no more.
    const PIECES: [&str; 14] = [
        "250 Ok\r\n",
        "250 Ok\r\n",
        "250 Ok\r\n",
        "250-x\r\n",
        "354 go\r\n",
        "452 4.5.3 x\r\n",
        "550 5.1.1 no\r\n",
        "421 bye\r\n",
        "220 x\r\n",
        "250-PIPELINING\r\n",
        "\0\u{ff}\r\n",
        "2",
        "\r\n",
        "450 x\n",
    ];
    let mut dice = Dice::new(11);
    for round in 0..20_000 {
        let protocol = [Protocol::Smtp, Protocol::Lmtp][dice.roll(2)];
        let offers: &[&str] = [&[][..], &["PIPELINING"]][dice.roll(2)];
        let mut talk = Talk::greeted(protocol, offers);
        let names = ["a@e.net", "b@e.net", "c@e.net", "<"];
        let count = 1 + dice.roll(4);
        talk.begin(&names[..count]);
        let mut steps = 0;
        let ended = loop {
            steps += 1;
            match talk.engine.action() {
                Action::Write(..) => {}
                Action::Read(..) if steps < 60 => {
                    let said = PIECES[dice.roll(PIECES.len())];
                    talk.engine.received(said.as_bytes());
                }
                Action::Read(..) => talk.engine.lost(&Loss::Closed),
                Action::Send if dice.roll(8) == 0 => talk.engine.received(b"550 no\r\n"),
                Action::Send => talk.engine.sent(7),
                Action::Secure(_) => panic!("{round}"),
                end => break end,
            }
        };
        let Transacted { settled, untried } = talk.engine.take();
        check_order(&talk.engine.take_events());
        assert_eq!(settled.len() + untried.len(), count, "{round} {ended:?}");
        let mut ids: Vec<_> = settled
            .iter()
            .map(|s| s.0)
            .chain(untried.iter().map(|r| r.id))
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
