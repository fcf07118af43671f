//! Sessions that wait for an answer, and those beside them.

use super::*;

#[test]
fn who_only_talks_does_not_wait_behind_a_slow_disk() {
    // RFC 5321 §4.5.3.2.1: a new session's banner comes at once, whoever delivers meanwhile.
    let server = Server::start(Limits::default());
    server.book.change(|told| told.commits_wait = true);
    let mut writers: Vec<Client> = (0..100).map(|_| server.greeted()).collect();
    for client in &mut writers {
        client.data();
        client.say("a: message\r\n.\r\n");
    }
    drop(server.book.wait(|told| told.waiting == 16));
    server.greeted().hello("x");
    server.book.change(|told| told.is_open = true);
    for client in &mut writers {
        assert!(client.line().starts_with("250 2.0.0 "));
        client.hello("y");
    }
    assert_eq!(server.book.told.lock().unwrap().committed.len(), 100);
}

#[test]
fn slow_answers_to_some_delay_nobodys_banner() {
    // A .forward or a password that takes its time is asked for elsewhere: with more open
    // questions than there are threads for them, new sessions are greeted, and old ones go on.
    let server = Server::start(Limits::default());
    let mut slow: Vec<Client> = (0..40).map(|_| server.greeted()).collect();
    for client in &mut slow {
        client.hello("client.example");
        assert_eq!(client.ask("MAIL FROM:<a@example.net>"), "250 2.0.0 Ok");
        client.say("RCPT TO:<slow@example.org>\r\nNOOP\r\n");
    }
    drop(server.book.wait(|told| told.waiting == 16));
    for _ in 0..20 {
        server.greeted().hello("new.example");
    }
    server.book.change(|told| told.is_open = true);
    for client in &mut slow {
        assert!(client.line().starts_with("250 2.1.5 "));
        assert_eq!(client.line(), "250 2.0.0 Ok");
    }
}

#[test]
fn a_question_that_takes_too_long_is_a_451_and_its_answer_finds_nobody() {
    let server = Server::start(Limits {
        lookup: Duration::from_millis(50),
        ..Limits::default()
    });
    let mut client = server.greeted();
    client.hello("client.example");
    assert_eq!(client.ask("MAIL FROM:<a@example.net>"), "250 2.0.0 Ok");
    let refusal = "451 4.3.0 Temporary failure: <slow@example.org>";
    assert_eq!(client.ask("RCPT TO:<slow@example.org>"), refusal);
    assert!(client.ask("DATA").starts_with("503 "), "no recipient");
    server.book.change(|told| told.is_open = true);
    drop(server.book.wait(|told| told.waiting == 0));
    assert!(client.ask("DATA").starts_with("503 "), "still none");
    // A busy machine may not manage in the time that is allowed here.
    until("the recipient is taken", || {
        client.ask("RCPT TO:<slow@example.org>").starts_with("250 ")
    });
}

#[test]
fn a_message_that_becomes_durable_after_its_refusal_is_taken_back() {
    // RFC 5321 §4.2.5: after a 4xx the client keeps the message and sends it again.
    let server = Server::start(Limits {
        store: Duration::from_millis(50),
        ..Limits::default()
    });
    server.book.change(|told| told.commits_wait = true);
    let mut client = server.greeted();
    client.data();
    assert_eq!(client.ask("a: b\r\n."), "451 4.3.0 Temporary failure");
    client.hello("again.example");
    server.book.change(|told| told.is_open = true);
    let told = server.book.wait(|told| told.withdrawn.len() == 1);
    assert!(told.committed.is_empty());
}

#[test]
fn a_peer_that_hangs_up_while_its_question_is_open_leaves_nothing() {
    let server = Server::slow(Limits::default(), |listening| {
        listening.hostnames = Some(HostNames {
            table: "names".to_owned(),
            bound: Peer::Local,
        });
    });
    // Before its banner, and with a question about its recipient.
    drop(server.connect());
    drop(server.book.wait(|told| told.waiting == 1));
    server.book.change(|told| told.is_open = true);
    server.book.closed(|closed| closed.len() == 1);
    let mut client = server.connect();
    assert_eq!(client.line(), "220 other.example.org ESMTP OpenSMTPD");
    client.say("HELO x\r\nMAIL FROM:<>\r\n");
    client.line();
    client.line();
    server.book.change(|told| told.is_open = false);
    client.say("RCPT TO:<slow@example.org>\r\n");
    drop(server.book.wait(|told| told.waiting == 1));
    drop(client);
    server.book.change(|told| told.is_open = true);
    let closed = server.book.closed(|closed| closed.len() == 2);
    assert!(closed.iter().all(|(_, why)| *why != Disconnect::Quit));
}

#[test]
fn a_turn_answers_questions_of_its_own_and_leaves_the_others_when_it_has_lasted() {
    // Others are to have their turn: what takes more than a millisecond goes to another thread.
    let server = Server::start(Limits::default());
    let mut client = server.greeted();
    client.hello("client.example");
    assert_eq!(client.ask("MAIL FROM:<a@example.net>"), "250 2.0.0 Ok");
    // A busy machine may take the time of a whole turn before it has begun.
    until("a turn has answered", || {
        client.ask("RSET");
        client.ask("MAIL FROM:<a@example.net>");
        client.ask("RCPT TO:<here@example.org>");
        server.book.told.lock().unwrap().at_once.pop() == Some(true)
    });
    client.say(&"RCPT TO:<here@example.org>\r\n".repeat(2));
    for _ in 0..2 {
        assert!(client.line().starts_with("250 2.1.5 "));
    }
    assert!(server.book.told.lock().unwrap().at_once.contains(&false));
}
