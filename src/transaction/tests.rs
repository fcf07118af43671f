//! Transactions against a queue in memory.

use std::net::IpAddr;
use std::sync::Arc;

use crate::mail::samples::line;
use crate::mail::{Kind, Local, Peer};
use crate::queue::Queue;
use crate::queue::ram::Ram;

use super::*;

const NOW: Timestamp = Timestamp(1_763_754_192);

fn address(text: &str) -> MailAddr {
    MailAddr::from_stored(text).unwrap()
}

fn facts() -> Facts {
    Facts {
        peer: Peer::inet(IpAddr::from([192, 0, 2, 10])),
        rdns: Some(line("client.example.org")),
        rdns_failed: false,
        helo: line("client.example.org"),
        authenticated: false,
        username: None,
        tls: false,
        tag: Some(line("mx")),
        sender: address("alice@example.org"),
    }
}

fn destination(dest: &str) -> Destination {
    Destination {
        action: line("local"),
        dest: address(dest),
        kind: Kind::Local(Local {
            user: line("bob"),
            subaddress: None,
            command: None,
        }),
        internal: dest.starts_with("forwarded"),
        sameness: dest.to_owned(),
    }
}

fn terms(completion: Completion) -> Terms {
    Terms {
        junk: false,
        filtered: false,
        tls: None,
        user: ShownUser::Hidden,
        masquerade: false,
        protocol: Protocol::Esmtp,
        source: Source::Shown,
        completion,
        limit_bytes: 1 << 20,
    }
}

struct Spool {
    ram: Arc<Ram>,
    queue: Queue,
}

impl Spool {
    fn new() -> Spool {
        let ram = Arc::new(Ram::default());
        let queue = Queue::new(ram.clone());
        Spool { ram, queue }
    }

    fn begin(&self, facts: Facts) -> Transaction {
        let incoming = self.queue.begin().unwrap();
        Transaction::begin(
            incoming,
            facts,
            line("mx.example.com"),
            Some(Ret::Hdrs),
            None,
        )
    }

    fn body(&self, accepted: &Accepted) -> String {
        let body = self.ram.body(accepted.committed.msgid()).unwrap();
        String::from_utf8(body).unwrap()
    }
}

fn with_bob(mut transaction: Transaction) -> Transaction {
    let bob = address("bob@example.com");
    let destinations = vec![destination("bob@example.com")];
    transaction
        .add(&bob, &Asked::default(), destinations, NOW)
        .unwrap();
    transaction
}

/// What is stored behind Received when `text` is written in pieces of `piece_bytes`.
fn stored(text: &str, completion: &Completion, piece_bytes: usize) -> Result<String, Fault> {
    let spool = Spool::new();
    let transaction = with_bob(spool.begin(facts()));
    let mut writing = transaction.write(terms(completion.clone()), NOW).unwrap();
    for piece in text.as_bytes().chunks(piece_bytes) {
        writing.write(piece, 0);
    }
    let body = spool.body(&writing.finish()?);
    let (_, rest) = body.split_once(";\n\t").unwrap();
    Ok(rest.split_once('\n').unwrap().1.to_string())
}

fn submission() -> Completion {
    Completion::Submission(line("mx.example.org"))
}

#[test]
fn an_envelope_carries_what_was_known_at_rcpt() {
    // spool-layout.md, Envelope files. RFC 3461 §4: NOTIFY and ORCPT belong to one recipient.
    let spool = Spool::new();
    let mut transaction = spool.begin(facts());
    let asked = Asked {
        notify: Notify(Notify::NEVER),
        orcpt: Some(line("rfc822;list@example.com")),
    };
    let list = address("list@example.com");
    let destinations = vec![
        destination("ann@example.com"),
        destination("forwarded@example.net"),
    ];
    transaction.add(&list, &asked, destinations, NOW).unwrap();
    let transaction = with_bob(transaction);
    assert_eq!(transaction.recipients(), 2);
    let accepted = transaction
        .write(terms(Completion::None), NOW)
        .unwrap()
        .finish()
        .unwrap();
    let [first, second, bob] = accepted.committed.envelopes() else {
        panic!("{:?}", accepted.committed.envelopes())
    };
    assert_eq!(first.rcpt, list);
    assert_eq!(first.dsn.notify, Notify(Notify::NEVER));
    assert_eq!(first.dsn.ret, Some(Ret::Hdrs));
    assert_eq!(first.hostname.as_str(), "client.example.org");
    assert_eq!(first.smtpname.as_str(), "mx.example.com");
    assert_eq!(first.tag.as_deref(), Some("mx"));
    assert_eq!((first.created, first.ttl_s, first.retry), (NOW, 0, 0));
    assert!(!first.flags.internal && second.flags.internal);
    assert_eq!(bob.dsn.notify, Notify::default());
    assert_eq!(bob.dsn.orcpt, None);
    assert_eq!(
        accepted.recipients,
        [(second.id, list), (bob.id, bob.rcpt.clone())]
    );
}

/// The recipients of the envelopes that `rcpts` lead to; all of them lead to bob, and the list to
/// ann as well.
fn addressed(rcpts: &[(&str, u8)]) -> Vec<(String, u8)> {
    let spool = Spool::new();
    let mut transaction = spool.begin(facts());
    for (rcpt, notify) in rcpts {
        let asked = Asked {
            notify: Notify(*notify),
            orcpt: None,
        };
        let mut destinations = vec![destination("bob@example.com")];
        if rcpt.starts_with("list") {
            destinations.push(destination("ann@example.com"));
        }
        let rcpt = address(rcpt);
        transaction.add(&rcpt, &asked, destinations, NOW).unwrap();
    }
    assert_eq!(transaction.recipients(), rcpts.len());
    let writing = transaction.write(terms(Completion::None), NOW).unwrap();
    let accepted = writing.finish().unwrap();
    assert_eq!(accepted.recipients.len(), rcpts.len());
    let envelopes = accepted.committed.envelopes().iter();
    envelopes
        .map(|envelope| (envelope.rcpt.to_string(), envelope.dsn.notify.0))
        .collect()
}

// smtpd.conf(5), COPIES: a mailbox that several recipients of a message lead to gets one copy;
// RFC 3461 §4.1: what was asked for each of them is still told.
#[test]
fn one_mailbox_gets_one_envelope_and_no_report_is_lost() {
    let (bob, tk, list) = ("bob@example.com", "tk@example.com", "list@example.com");
    let own = |found: &[(&str, u8)]| -> Vec<(String, u8)> {
        let all = found.iter();
        all.map(|(rcpt, notify)| ((*rcpt).to_owned(), *notify))
            .collect()
    };
    let upper = "bob@EXAMPLE.com";
    assert_eq!(
        addressed(&[(bob, 0), (bob, 0), (upper, 0)]),
        own(&[(bob, 0)])
    );
    assert_eq!(addressed(&[(bob, 0), (tk, 0)]), own(&[(bob, 0)]));
    assert_eq!(
        addressed(&[(bob, 0), (list, 0), (list, 0)]),
        own(&[(bob, 0), (list, 0)])
    );
    let all = Notify::SUCCESS | Notify::FAILURE | Notify::DELAY;
    assert_eq!(
        addressed(&[(bob, 0), (tk, Notify::SUCCESS)]),
        own(&[(tk, all)])
    );
    // A report names one recipient, so each of these has an envelope.
    let success = Notify::SUCCESS;
    assert_eq!(
        addressed(&[(bob, success), (tk, success), (tk, success)]),
        own(&[(bob, success), (tk, success)])
    );
}

// smtpd.conf(5), COPIES: recipients that lead to many share out over several transactions.
#[test]
fn a_message_has_enough_envelopes_some_time() {
    let spool = Spool::new();
    let mut transaction = spool.begin(facts());
    let list = |number: usize, members: usize| -> Vec<Destination> {
        let all = (0..members).map(|m| destination(&format!("m{m}.{number}@example.com")));
        all.collect()
    };
    let rcpt = address("list@example.com");
    let mut taken = 0;
    // One may be larger than that alone.
    assert!(transaction.has_room(&list(0, ENVELOPES_ENOUGH + 1)));
    while transaction.has_room(&list(taken, 100)) {
        let added = transaction.add(&rcpt, &Asked::default(), list(taken, 100), NOW);
        assert_eq!(added.unwrap().len(), 100);
        taken += 1;
    }
    assert_eq!(taken, 20);
    // The same list again needs no more.
    assert!(transaction.has_room(&list(3, 100)));
}

#[test]
fn a_recipient_without_destinations_is_an_error_and_dropping_rolls_back() {
    let spool = Spool::new();
    let mut transaction = spool.begin(facts());
    let bob = address("bob@example.com");
    assert!(
        transaction
            .add(&bob, &Asked::default(), vec![], NOW)
            .is_err()
    );
    drop(
        with_bob(transaction)
            .write(terms(Completion::None), NOW)
            .unwrap(),
    );
    assert_eq!(spool.queue.messages().count(), 0);
}

fn received(facts: Facts, rcpts: usize, terms: Terms) -> String {
    let spool = Spool::new();
    let transaction = (0..rcpts).fold(spool.begin(facts), |t, _| with_bob(t));
    let accepted = transaction.write(terms, NOW).unwrap().finish().unwrap();
    let date = localtime::rfc5322_date(NOW.0);
    spool.body(&accepted).replace(&date, "DATE")
}

#[test]
fn received_is_laid_out_as_log_tools_know_it() {
    // RFC 5321 §4.4, as OpenSMTPD lays it out.
    assert_eq!(
        received(facts(), 1, terms(Completion::None)),
        "Received: from client.example.org (client.example.org [192.0.2.10])\n\
         \tby mx.example.com (OpenSMTPD) with ESMTP id 00000001\n\
         \tfor <bob@example.com>;\n\tDATE\n"
    );
    let masked = Terms {
        source: Source::Masked,
        protocol: Protocol::Smtp,
        ..terms(Completion::None)
    };
    assert_eq!(
        received(facts(), 2, masked),
        "Received: \n\tby mx.example.com (OpenSMTPD) with SMTP id 00000001;\n\tDATE\n"
    );
    let unknown = Facts {
        peer: Peer::parse("[2001:db8::5]").unwrap(),
        rdns: None,
        tls: true,
        authenticated: true,
        ..facts()
    };
    assert!(received(unknown, 1, terms(Completion::None)).starts_with(
        "Received: from client.example.org (<unknown> [2001:db8::5])\n\
             \tby mx.example.com (OpenSMTPD) with ESMTPSA id 00000001\n"
    ));
    let local = Facts {
        peer: Peer::Local,
        rdns: Some(line("mx.example.com")),
        helo: line("localhost"),
        authenticated: true,
        ..facts()
    };
    assert!(received(local, 1, terms(Completion::None)).starts_with(
        "Received: from localhost (mx.example.com [local])\n\
             \tby mx.example.com (OpenSMTPD) with ESMTPA id 00000001\n"
    ));
}

#[test]
fn a_submitted_header_is_completed_however_it_is_cut() {
    // RFC 6409 §8: a submission may be completed. Bcc goes, a sender's domain comes.
    let text = "From: alice\nBcc: hidden\n\tand more\nBCC : hidden\nto:\n bob,\n\tBob <c>\n\
                Resent-Bcc: kept\nSubject: To: x\n\nTo: body\nBcc: body\n";
    let date = localtime::rfc5322_date(NOW.0);
    let want = format!(
        "From: alice@mx.example.org\nto:\n bob@mx.example.org,\n\tBob <c@mx.example.org>\n\
         Resent-Bcc: kept\nSubject: To: x\nDate: {date}\n\
         Message-ID: <6920c0d000000001@mx.example.org>\n\nTo: body\nBcc: body\n"
    );
    for piece_bytes in [1, 2, 3, 7, 64, 10_000] {
        assert_eq!(stored(text, &submission(), piece_bytes).unwrap(), want);
    }
}

#[test]
fn what_is_there_is_not_added_and_an_empty_message_gets_its_fields() {
    let text = "DATE: x\nmessage-id: y\n\nb\n";
    assert_eq!(stored(text, &submission(), 100).unwrap(), text);
    let bare = stored("", &submission(), 1).unwrap();
    assert!(
        bare.starts_with("Date: ") && bare.ends_with("@mx.example.org>\n"),
        "{bare}"
    );
    let bare = stored("\nbody\n", &submission(), 1).unwrap();
    assert!(bare.ends_with("@mx.example.org>\n\nbody\n"), "{bare}");
}

#[test]
fn mail_from_elsewhere_passes_byte_for_byte() {
    for text in [
        "From: alice\nBcc: x\nTo: bob\n\nbody\n",
        "\nbody",
        "",
        "A: only a header\n",
        "From x Mon Jan 1 12:00:00\n\n",
    ] {
        for piece_bytes in [1, 5, 100] {
            assert_eq!(stored(text, &Completion::None, piece_bytes).unwrap(), text);
        }
    }
}

#[test]
fn the_hundredth_received_is_a_loop() {
    // RFC 5321 §6.3: a hundred Received fields or more are a loop.
    let text = |count: usize| format!("{}\n", "rEceived: x\n".repeat(count));
    assert!(stored(&text(99), &Completion::None, 1000).is_ok());
    assert!(matches!(
        stored(&text(100), &Completion::None, 1000),
        Err(Fault::Loop)
    ));
    let body = format!("A: b\n\n{}", text(200));
    assert!(stored(&body, &Completion::None, 1000).is_ok());
}

#[test]
fn bad_messages_are_refused_at_the_end() {
    let huge = format!("To: a\n{}\n", " x,\n".repeat(MAX_CONTINUATIONS));
    for text in [
        "no colon\n",
        " starts with a blank: x\n",
        "A: b\nno colon\n\n",
        &huge,
    ] {
        assert!(matches!(
            stored(text, &submission(), 50),
            Err(Fault::Malformed)
        ));
    }
    assert!(stored(&huge, &Completion::None, 5000).is_ok());
    assert!(matches!(
        stored("A: b\n\nx\0y\n", &submission(), 50),
        Err(Fault::Nul)
    ));
}

const MAX_CONTINUATIONS: usize = 64 * 1024 / 4;

#[test]
fn a_message_over_the_limit_is_too_big_and_the_first_fault_counts() {
    let spool = Spool::new();
    let mut writing = with_bob(spool.begin(facts()))
        .write(terms(Completion::None), NOW)
        .unwrap();
    writing.write(b"A: b\n", 1 << 20);
    assert!(writing.is_sound());
    writing.write(b"A: b\n", (1 << 20) + 1);
    writing.write(b"\0", 0);
    assert!(!writing.is_sound());
    assert!(matches!(writing.finish(), Err(Fault::TooBig)));
    assert_eq!(spool.queue.messages().count(), 0);
}
