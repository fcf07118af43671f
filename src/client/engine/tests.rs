use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::client::order::{Content as _, Credentials, Message, Recipient};
use crate::client::{Class, NotSecured, Reply};
use crate::mail::samples::line;
use crate::mail::{EvpId, MailAddr, MsgId, Notify, Ret, Verdict};
use crate::util::dice::Dice;

mod extensions;
mod follow;
mod replies;
mod secured;

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
        assert_eq!(self.engine.phase, Phase::Over);
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
