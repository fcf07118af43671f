use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::client::order::{Content as _, Credentials, Message, Recipient};
use crate::client::{Class, Reply};
use crate::mail::samples::line;
use crate::mail::{EvpId, MailAddr, MsgId, Notify, Ret, Verdict};
use crate::util::dice::Dice;

mod follow;

/// An engine and what it has written that was not looked at yet.
struct Talk {
    engine: Engine,
    written: VecDeque<String>,
}

fn hello(protocol: Protocol) -> Hello {
    Hello::new(protocol, line("me.example.org"))
}

fn with_auth(tls: Tls) -> Hello {
    Hello {
        tls,
        auth: Some(Credentials {
            user: line("joe"),
            password: line("secret"),
        }),
        ..hello(Protocol::Smtp)
    }
}

fn recipients(names: &[&str]) -> Vec<Recipient> {
    let recipient = |(number, name): (u32, &&str)| Recipient {
        id: EvpId::from_u64(7 << 32 | u64::from(number)).unwrap(),
        to: line(name),
        notify: Notify::default(),
        orcpt: None,
    };
    (1..).zip(names).map(recipient).collect()
}

fn nothing() -> std::io::Result<std::io::Empty> {
    Ok(std::io::empty())
}

fn message() -> Message<'static> {
    Message {
        eight_bit: false,
        sender: MailAddr::new("al", "e.org").unwrap(),
        size_bytes: Some(1000),
        ret: None,
        envid: None,
        content: &nothing,
    }
}

impl Talk {
    fn new(hello: Hello) -> Talk {
        Talk {
            engine: Engine::new(hello, line("mx.e.net"), true),
            written: VecDeque::new(),
        }
    }

    /// A session that has got this far, with these extensions.
    fn greeted(protocol: Protocol, offers: &[&str]) -> Talk {
        let mut talk = Talk::new(hello(protocol));
        let verb = match protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        talk.run(&format!(
            "S: 220 mx.e.net\nC: {verb} me.example.org\nS: 250-mx.e.net"
        ));
        for offer in offers {
            talk.run(&format!("S: 250-{offer}"));
        }
        talk.run("S: 250 HELP");
        assert!(talk.engine.can_take_more());
        talk
    }

    /// Plays a script: `S:` the server says, `C:` we have said, `M` the message is sent, `T` TLS is
    /// made, `X` the server closes.
    fn run(&mut self, script: &str) {
        for step in script.lines().map(str::trim) {
            match step.split_at_checked(3) {
                Some(("S: ", said)) => {
                    self.write();
                    self.engine.received(format!("{said}\r\n").as_bytes());
                }
                Some(("C: ", said)) => {
                    self.write();
                    assert_eq!(self.written.pop_front().as_deref(), Some(said), "{script}");
                }
                _ => self.act(step),
            }
        }
        self.write();
        assert!(self.written.is_empty(), "{:?} after {script}", self.written);
    }

    fn act(&mut self, step: &str) {
        self.write();
        match step {
            "M" => {
                assert_eq!(self.engine.action(), Action::Send);
                self.engine.sent(7);
            }
            "T" => {
                assert!(matches!(self.engine.action(), Action::Secure(_)));
                self.engine.secured(Ok(line("TLSv1.3")));
            }
            "X" => self.engine.lost(&Loss::Closed),
            _ => panic!("{step}"),
        }
    }

    fn write(&mut self) {
        while !self.engine.output.is_empty() {
            let Action::Write(bytes, _) = self.engine.action() else {
                return;
            };
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.ends_with("\r\n"));
            self.written
                .extend(text.split_terminator("\r\n").map(str::to_owned));
        }
    }

    fn begin(&mut self, names: &[&str]) {
        self.engine.begin(&message(), recipients(names));
    }

    /// The outcomes, as text.
    fn outcomes(&mut self) -> Vec<String> {
        let Transacted { settled, untried } = self.engine.take();
        let mut all: Vec<String> = settled
            .iter()
            .map(|(id, outcome)| {
                let verdict = match outcome.verdict {
                    Verdict::Delivered => "ok",
                    Verdict::TempFail => "temp",
                    Verdict::PermFail => "perm",
                    Verdict::Loop => "loop",
                };
                let by = if outcome.remote.is_some() { "" } else { "we: " };
                let number = id.get() & 0xffff;
                format!("{number} {verdict} {} {by}{}", outcome.status, outcome.text)
            })
            .collect();
        let untried = untried
            .iter()
            .map(|r| format!("{} untried", r.id.get() & 0xffff));
        all.extend(untried);
        all
    }

    fn failure(&self) -> String {
        assert_eq!(self.engine.state, State::Over);
        self.engine.failure().unwrap().to_string()
    }
}

#[test]
fn a_message_is_sent_one_command_at_a_time() {
    // RFC 5321 §3.3, to a server that offers nothing.
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.begin(&["a@e.net", "b@e.net"]);
    talk.run(
        "C: MAIL FROM:<al@e.org>
         S: 250 2.1.0 Ok
         C: RCPT TO:<a@e.net>
         S: 250 2.1.5 Ok
         C: RCPT TO:<b@e.net>
         S: 550 5.1.1 no such user
         C: DATA
         S: 354 go on
         M
         S: 250 2.0.0 Ok: queued as X",
    );
    assert_eq!(
        talk.outcomes(),
        [
            "2 perm 5.1.1 550 5.1.1 no such user",
            "1 ok 2.0.0 250 2.0.0 Ok: queued as X"
        ]
    );
    assert_eq!(talk.engine.accepted(), 1);
    assert_eq!(talk.engine.action(), Action::Rest);
    // RFC 5321 §4.1.1.2: MAIL begins a new one on the same connection.
    talk.begin(&["a@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 250 Ok\nC: DATA\nS: 354 go\nM\nS: 451 4.3.0 not now");
    assert_eq!(talk.outcomes(), ["1 temp 4.3.0 451 4.3.0 not now"]);
    talk.engine.quit();
    talk.run("C: QUIT\nS: 221 Bye");
    assert_eq!(talk.engine.action(), Action::Over);
    assert_eq!(talk.engine.failure(), None);
}

#[test]
fn a_server_that_takes_commands_together_is_sent_them_together() {
    // RFC 2920 §3.1: DATA is the last of a group.
    let mut talk = Talk::greeted(Protocol::Smtp, &["pipelining"]);
    talk.begin(&["a@e.net", "b@e.net"]);
    talk.run(
        "C: MAIL FROM:<al@e.org>
         C: RCPT TO:<a@e.net>
         C: RCPT TO:<b@e.net>
         C: DATA
         S: 250 Ok
         S: 450 4.2.1 later
         S: 250 Ok
         S: 354 go
         M
         S: 250 Ok",
    );
    assert_eq!(
        talk.outcomes(),
        ["1 temp 4.2.1 450 4.2.1 later", "2 ok 2.0.0 250 Ok"]
    );
    // So many and no more are ahead of their replies.
    let names: Vec<String> = (0..90).map(|n| format!("u{n}@e.net")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    talk.begin(&names);
    talk.write();
    assert_eq!(talk.written.len(), 32);
    talk.engine.received(b"250 Ok\r\n".repeat(91).as_slice());
    assert!(
        talk.engine.failure().is_some(),
        "more replies than commands"
    );
}

#[test]
fn data_that_ran_ahead_of_the_last_refusal_is_ended_without_a_message() {
    // RFC 2920 §3.1: 354 with nobody to send to is answered by a lone dot.
    let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
    talk.begin(&["a@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a@e.net>\nC: DATA\nS: 250 Ok\nS: 550 no\nS: 354 go\nC: .\nS: 554 5.5.1 nobody");
    assert_eq!(talk.outcomes(), ["1 perm 5.0.0 550 no"]);
    // A refused MAIL is everybody's outcome, whatever is said to the rest of the group.
    talk.begin(&["a@e.net", "b@e.net"]);
    talk.run("C: RSET\nC: MAIL FROM:<al@e.org>\nC: RCPT TO:<a@e.net>\nC: RCPT TO:<b@e.net>\nC: DATA\nS: 250 Ok\nS: 552 5.3.4 no\nS: 503 MAIL first\nS: 503 MAIL first\nS: 503 RCPT first");
    assert_eq!(
        talk.outcomes(),
        ["1 perm 5.3.4 552 5.3.4 no", "2 perm 5.3.4 552 5.3.4 no"]
    );
    assert!(talk.engine.can_take_more());
}

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
fn parameters_are_for_servers_that_offer_them() {
    // RFC 1870, 6152, 6531, 3461; a value that cannot be one is left out.
    let send = |offers: &[&str], message: &Message<'_>, recipients: Vec<Recipient>| {
        let mut talk = Talk::greeted(Protocol::Smtp, offers);
        talk.engine.begin(message, recipients);
        talk.write();
        talk.engine.received(b"250 Ok\r\n");
        talk.write();
        talk.written.pop_front().unwrap() + "|" + &talk.written.pop_front().unwrap()
    };
    let full = Message {
        eight_bit: true,
        ret: Some(Ret::Full),
        envid: Some(line("id+20x")),
        ..message()
    };
    let mut rcpt = recipients(&["b@e.net"]);
    rcpt[0].notify = Notify(Notify::DELAY | Notify::SUCCESS);
    rcpt[0].orcpt = Some(line("rfc822;b@e.net"));
    let plain = "MAIL FROM:<al@e.org>|RCPT TO:<b@e.net>";
    assert_eq!(send(&["ENHANCEDSTATUSCODES"], &full, rcpt.clone()), plain);
    assert_eq!(
        send(
            &["SIZE 2000", "8bitmime", "SMTPUTF8", "Dsn"],
            &full,
            rcpt.clone()
        ),
        "MAIL FROM:<al@e.org> SIZE=1000 BODY=8BITMIME RET=FULL ENVID=id+20x|\
         RCPT TO:<b@e.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@e.net"
    );
    // RFC 6152 §2: content of ASCII alone needs no declaration.
    assert_eq!(
        send(&["8BITMIME"], &message(), recipients(&["b@e.net"])),
        plain
    );
    let eight_bit = |text: &'static [u8]| (|| Ok(text)).is_eight_bit();
    assert!(eight_bit("Subject: x\n\ncaf\u{e9}\n".as_bytes()) && !eight_bit(b"cafe\n"));
    let odd = Message {
        envid: Some(line("a b")),
        ..message()
    };
    assert_eq!(send(&["DSN"], &odd, recipients(&["b@e.net"])), plain);
    let international = send(&["SMTPUTF8"], &message(), recipients(&["j\u{f6}@e.net"]));
    assert_eq!(
        international,
        "MAIL FROM:<al@e.org> SMTPUTF8|RCPT TO:<j\u{f6}@e.net>"
    );
    let mut talk = Talk::greeted(Protocol::Smtp, &["SIZE 999"]);
    talk.begin(&["b@e.net"]);
    talk.run("");
    assert_eq!(
        talk.outcomes(),
        ["1 perm 5.3.4 we: message too large for peer"]
    );
    assert!(talk.engine.can_take_more());
}

#[test]
fn no_address_adds_a_parameter_or_a_command() {
    // RFC 5321 §4.1.2: what is not a path is not sent.
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.begin(&[
        "a> NOTIFY=NEVER",
        "a b@e.net",
        "a\u{7}@e.net",
        "",
        "\"a b\"@e.net",
    ]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<\"a b\"@e.net>\nS: 250 Ok\nC: DATA\nS: 354 go\nM\nS: 250 Ok");
    let outcomes = talk.outcomes();
    assert_eq!(outcomes.len(), 5);
    assert!(
        outcomes[..4]
            .iter()
            .all(|o| o.ends_with("we: recipient address cannot be sent"))
    );
    assert!(is_path_of("\"a\\\">b\"@x") && !is_path_of("\"a\\\\\">b\"@x"));
}

fn is_path_of(text: &str) -> bool {
    let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
    talk.begin(&[text]);
    talk.write();
    talk.written.len() > 1
}

#[test]
fn a_session_without_ehlo_uses_no_extension() {
    // RFC 5321 §3.2: HELO for old servers. One that is closing is not asked again.
    let mut talk = Talk::new(Hello {
        tls: Tls::IfOffered,
        ..hello(Protocol::Smtp)
    });
    talk.run("S: 220 hi\nC: EHLO me.example.org\nS: 502-what\nS: 502 what\nC: HELO me.example.org\nS: 250-hi\nS: 250 DSN");
    assert!(talk.engine.can_take_more());
    assert_eq!(*talk.engine.extensions(), Extensions::default());
    for (script, failure) in [
        ("S: 554 5.7.1 go away", "BANNER rejected: 554 5.7.1 go away"),
        ("S: 421 busy", "BANNER rejected: 421 busy"),
        (
            "S: 220 hi\nC: EHLO me.example.org\nS: 421 closing",
            "EHLO rejected: 421 closing",
        ),
        (
            "S: 220 hi\nC: EHLO me.example.org\nS: 500 a\nC: HELO me.example.org\nS: 550 b",
            "HELO rejected: 550 b",
        ),
        ("X", "Connection closed unexpectedly"),
        ("S: hello", "Bad response: reply code out of range"),
        ("S: 22", "Bad response: line too short"),
        ("S: 120 early", "Bad response: reply code out of range"),
    ] {
        let mut talk = Talk::new(hello(Protocol::Smtp));
        talk.run(script);
        assert_eq!(talk.failure(), failure);
    }
    let mut talk = Talk::new(hello(Protocol::Lmtp));
    talk.run("S: 220 hi\nC: LHLO me.example.org\nS: 500 SMTP here");
    assert_eq!(talk.failure(), "LHLO rejected: 500 SMTP here");
}

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
        talk.engine.secured(Err(line("certificate expired")));
        assert_eq!(talk.failure(), "IO Error: certificate expired");
        assert_eq!(talk.engine.failure().unwrap().stage, Stage::Handshake);
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
fn a_message_that_is_not_whole_is_not_ended() {
    // Neither a failure to read it nor a server that gives up half-way makes it delivered.
    let begun = || {
        let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
        talk.begin(&["a@e.net"]);
        talk.run("C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a@e.net>\nC: DATA\nS: 250 Ok\nS: 250 Ok\nS: 354 go");
        talk
    };
    let mut talk = begun();
    talk.engine.unreadable("Error reading content file");
    assert_eq!(
        talk.outcomes(),
        ["1 temp 4.3.0 we: Error reading content file"]
    );
    assert_eq!(talk.engine.action(), Action::Over);
    for (reply, outcome) in [
        ("552 5.3.4 too big", "1 perm 5.3.4 552 5.3.4 too big"),
        ("421 4.4.2 bye", "1 temp 4.4.2 421 4.4.2 bye"),
        (
            "250 fine",
            "1 temp 4.4.2 we: Remote host sent too much data",
        ),
    ] {
        let mut talk = begun();
        talk.run(&format!("S: {reply}"));
        assert_eq!(talk.outcomes(), [outcome]);
    }
}

// smtpd-filters(7), REPORTS: whatever the order of commands, what belongs to a transaction stands
// behind its beginning, and it ends once.
#[test]
fn who_watches_hears_of_transactions_in_order() {
    let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
    talk.engine.take_events();
    talk.begin(&["a@e.net", "b@e.net"]);
    talk.run(
        "C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a@e.net>\nC: RCPT TO:<b@e.net>\nC: DATA
         S: 250 Ok\nS: 550 no\nS: 250 Ok\nS: 354 go\nM\nS: 250 Ok",
    );
    talk.outcomes();
    let msgid = MsgId::new(7).unwrap();
    let envelope = |n: u64| Event::Envelope(EvpId::from_u64(7 << 32 | n).unwrap());
    let said = |text| Event::Client(line(text));
    let reply = |text| Event::Server(Reply::sample(text));
    let begin = || Event::Begin(msgid, "al@e.org".to_owned());
    assert_eq!(
        talk.engine.take_events(),
        [
            said("MAIL FROM:<al@e.org>"),
            said("RCPT TO:<a@e.net>"),
            said("RCPT TO:<b@e.net>"),
            said("DATA"),
            reply("250 Ok"),
            begin(),
            envelope(1),
            reply("550 no"),
            Event::Rcpt(msgid, line("a@e.net"), Class::Never),
            envelope(2),
            reply("250 Ok"),
            Event::Rcpt(msgid, line("b@e.net"), Class::Done),
            reply("354 go"),
            Event::Data(msgid, Class::GoOn),
            said("."),
            reply("250 Ok"),
            Event::Commit(msgid, 7),
        ]
    );
    // LMTP: accepted for one is accepted, and that once.
    let mut talk = Talk::greeted(Protocol::Lmtp, &[]);
    talk.begin(&["a@e.net", "b@e.net"]);
    talk.run(
        "C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 250 Ok\nC: RCPT TO:<b@e.net>
         S: 250 Ok\nC: DATA\nS: 354 go\nM\nS: 450 later\nS: 250 Ok",
    );
    talk.engine.take_events();
    talk.outcomes();
    assert_eq!(talk.engine.take_events(), [Event::Commit(msgid, 7)]);
    // A connection that is lost.
    let mut talk = Talk::greeted(Protocol::Smtp, &[]);
    talk.begin(&["a@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nX");
    talk.engine.take_events();
    talk.outcomes();
    assert_eq!(talk.engine.take_events(), [Event::Rollback(msgid)]);
    // MAIL was refused: nothing has begun.
    let mut talk = Talk::greeted(Protocol::Smtp, &["PIPELINING"]);
    talk.begin(&["a@e.net"]);
    talk.run(
        "C: MAIL FROM:<al@e.org>\nC: RCPT TO:<a@e.net>\nC: DATA\nS: 550 no\nS: 503 no\nS: 503 no",
    );
    talk.outcomes();
    let of_lines = |event: &Event| matches!(event, Event::Client(_) | Event::Server(_));
    let events = talk.engine.take_events();
    assert!(events.iter().skip(5).all(of_lines), "{events:?}");
}

/// Panics unless transactions begin and end as [`Event`] promises.
fn check_order(events: &[Event]) {
    let mut begun = false;
    for event in events {
        match event {
            Event::Begin(..) => assert!(!std::mem::replace(&mut begun, true), "{events:?}"),
            Event::Commit(..) | Event::Rollback(_) => {
                assert!(std::mem::replace(&mut begun, false), "{events:?}");
            }
            Event::Envelope(_) | Event::Rcpt(..) | Event::Data(..) => {
                assert!(begun, "{events:?}");
            }
            _ => {}
        }
    }
    assert!(!begun, "{events:?}");
}

#[test]
fn the_limits_a_server_names_are_kept() {
    // RFC 9422: recipients per transaction, transactions per session.
    let talk = Talk::greeted(Protocol::Smtp, &["LIMITS RCPTMAX=5 MAILMAX=1 X=1"]);
    assert_eq!(talk.engine.most_recipients(), 5);
    let talk = Talk::greeted(Protocol::Smtp, &["LIMITS RCPTMAX=0 MAILMAX=x"]);
    assert_eq!(talk.engine.most_recipients(), 100);
    let mut talk = Talk::greeted(Protocol::Smtp, &["LIMITS MAILMAX=1"]);
    talk.begin(&["a@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 450 no");
    talk.outcomes();
    assert!(!talk.engine.can_take_more());
}

#[test]
fn each_phase_has_its_own_time_and_a_reply_one_deadline() {
    // RFC 5321 §4.5.3.2. The number changes with each whole reply and with nothing else.
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut talk = Talk::new(hello(Protocol::Smtp));
    assert_eq!(talk.engine.action(), Action::Read(minutes(5), 0));
    talk.engine.received(b"220-slow\r\n220-");
    assert_eq!(talk.engine.action(), Action::Read(minutes(5), 0));
    talk.run("S: more\nS: 220 hi\nC: EHLO me.example.org\nS: 250 hi");
    talk.begin(&["a@e.net"]);
    talk.run("C: MAIL FROM:<al@e.org>\nS: 250 Ok\nC: RCPT TO:<a@e.net>\nS: 250 Ok\nC: DATA");
    assert_eq!(talk.engine.action(), Action::Read(minutes(2), 4));
    talk.run("S: 354 go\nM");
    assert_eq!(talk.engine.action(), Action::Read(minutes(10), 5));
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
