//! Clients that fall silent, and questions that nobody answers.

use super::*;

// ---- Questions ----

#[test]
fn a_question_that_nobody_answers_ends_in_a_temporary_refusal() {
    // RFC 5321 §4.5.3.2: the client's patience ends some time, and it must hear that it may come
    // again. Without a name it is greeted all the same.
    let mut talk = Talk::plain();
    talk.ask("EHLO localhost");
    talk.ask("MAIL FROM:<a@b.example>");
    let rcpt = b"RCPT TO:<bob@example.org>\r\n";
    assert_eq!(
        talk.unanswered(&[rcpt.as_slice(), b"NOOP\r\n"].concat()),
        [
            "451 4.3.0 Temporary failure: <bob@example.org>",
            "250 2.0.0 Ok"
        ]
    );
    talk.send(&[rcpt.as_slice(), b"DATA\r\n"].concat());
    talk.replies();
    let dot = [b"\r\n.\r\n".as_slice(), b"MAIL FROM:<>\r\n"].concat();
    assert_eq!(
        talk.unanswered(&dot),
        ["451 4.3.0 Temporary failure", "250 2.0.0 Ok"]
    );
    assert_eq!((talk.is_over(), talk.messages()), (false, 0));

    let mut session = Session::new(SessionId(7), Arc::new(listening()), loopback());
    let (services, mut input, mut out) = (FakeServices::new(None), Vec::new(), Vec::new());
    session.open(&mut out);
    session.answered(Answer::TooLate, &mut input, &mut out, &services);
    assert_eq!(out, b"220 mx.example.org ESMTP OpenSMTPD\r\n");
    assert_eq!(session.fcrdns(), Confirmed::Error);
}

#[test]
fn a_silent_client_is_told_once_and_its_transaction_is_gone() {
    // RFC 5321 §4.5.3.2.7 and RFC 3463: 4.4.2 bad connection.
    let mut talk = Talk::at_data();
    talk.send(b"half a mess");
    talk.session.timeout(&mut talk.out);
    talk.session.timeout(&mut talk.out);
    assert_eq!(talk.replies(), ["421 4.4.2 Timeout, closing connection"]);
    talk.send(b"age\r\n.\r\n");
    assert_eq!((talk.is_over(), talk.messages()), (true, 0));
    assert_eq!(talk.services.queue.messages().count(), 0);
}

/// The program's lines, with names in the place of times, ports and ids.
fn transcript(path: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let lines = text.lines().filter(|line| line.starts_with("report|"));
    let mut message = String::new();
    let mut told = String::new();
    for line in lines {
        let mut fields: Vec<&str> = line.split('|').collect();
        (fields[2], fields[5]) = ("T", "S1");
        if fields[4] == "tx-begin" {
            message = fields[6].to_owned();
        }
        let mut line = fields.join("|");
        if !message.is_empty() {
            line = line.replace(&message, "M1");
        }
        told += &(line + "\n");
    }
    text.ends_with('\n')
        .then_some(told)
        .filter(|told| told.contains("link-disconnect"))
}

// tests/transcripts: what a filter hears of a client that is silent for too long.
#[test]
fn the_transcript_of_a_time_out() {
    let dir = tempfile::tempdir().unwrap();
    let heard = dir.path().join("heard");
    let script = format!(
        "while read -r line; do [ \"$line\" = 'config|ready' ] && break; done\n\
         echo 'register|report|smtp-in|*'; echo 'register|ready'; exec cat >'{}'",
        heard.display()
    );
    let filters = crate::filter::tests::filters(
        "filter f proc-exec x\nlisten on 127.0.0.1 port 25 filter f",
        &script,
    );
    let mut listening = listening();
    listening.filter = filters.of_sessions(&Some("f".to_owned()));
    listening.observers.push(Arc::new(Reports));
    let mut talk = Talk::start(listening, loopback(), FakeServices::new(None));
    talk.send(b"EHLO client.example.org\r\nMAIL FROM:<alice@example.org>\r\n");
    talk.session.timeout(&mut talk.out);
    assert_eq!(
        talk.replies().last().unwrap(),
        "421 4.4.2 Timeout, closing connection"
    );
    drop(talk.session.close(Disconnect::Timeout));
    let due = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let told = loop {
        match transcript(&heard) {
            Some(told) => break told,
            None => assert!(std::time::Instant::now() < due),
        }
        std::thread::yield_now();
    };
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/transcripts/timeout.transcript"
    );
    let text = std::fs::read_to_string(golden).unwrap();
    let (head, want) = text.split_once("[told]\n").unwrap();
    if std::env::var_os("SMTPD_WRITE_GOLDEN").is_some() {
        std::fs::write(golden, format!("{head}[told]\n{told}")).unwrap();
    } else {
        assert_eq!(told, want);
    }
}
