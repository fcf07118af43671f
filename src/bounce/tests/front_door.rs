//! The front door, behind which a report becomes a message.

use std::sync::{Arc, Mutex};

use crate::bounce::front_door::FrontDoor;
use crate::mail::{Destination, Expanded, Facts, Local};
use crate::queue::ram::Ram;
use crate::queue::{BeginError, Committed, Incoming, Store};
use crate::session::{Limits, Listening, Services};
use crate::sys::localtime;
use crate::util::Live;

use super::*;

struct House {
    queue: Queue,
    answer: Mutex<Result<Vec<Destination>, Refusal>>,
    facts: Mutex<Vec<Facts>>,
    committed: Mutex<Vec<Committed>>,
}

impl Services for House {
    fn begin(&self) -> Result<Incoming, BeginError> {
        self.queue.begin()
    }
    fn expand(&self, facts: &Facts, _rcpt: &MailAddr) -> Result<Expanded, Refusal> {
        self.facts.lock().unwrap().push(facts.clone());
        self.answer.lock().unwrap().clone().map(Into::into)
    }
    fn withdraw(&self, _: Committed) {}
    fn committed(&self, message: Committed) {
        self.committed.lock().unwrap().push(message);
    }
    fn now(&self) -> Timestamp {
        T0
    }
}

fn destination() -> Destination {
    Destination {
        action: line("local"),
        dest: MailAddr::new("alice", "example.net").unwrap(),
        kind: Kind::Local(Local {
            user: line("alice"),
            subaddress: None,
            command: None,
        }),
        internal: false,
        sameness: "alice".to_owned(),
    }
}

#[test]
fn a_report_enters_under_the_rules_for_local_mail() {
    // RFC 3464 §2: a report has a null sender. The rules see it as mail from this host.
    let ram = Arc::new(Ram::default());
    let house = Arc::new(House {
        queue: Queue::new(ram.clone()),
        answer: Mutex::new(Ok(vec![destination()])),
        facts: Mutex::default(),
        committed: Mutex::default(),
    });
    let door = FrontDoor {
        services: house.clone(),
        socket: Live::new(Listening {
            server_name: line("server.example.org"),
            hostname: line("server.example.org"),
            hostnames: None,
            tag: None,
            mask_src: false,
            no_dsn: false,
            local: true,
            submission: true,
            tls: None,
            auth: None,
            senders: None,
            received_auth: false,
            limits: Limits {
                max_message_size: 1000,
                max_rcpt: 10,
                max_mails: 10,
            },
            filter: None,
            rules_need_name: false,
            address: None,
            socket: std::path::PathBuf::new(),
            observers: Vec::new(),
        }),
    };
    let dsn = Dsn {
        smtpname: line("mx.example.org"),
        to: MailAddr::new("alice", "example.net").unwrap(),
        about: "1a2b3c4d7f3e9a10".parse().unwrap(),
        text: b"Subject: x\n\nbody\n".to_vec(),
    };
    let msgid = door.inject(&dsn, T0).unwrap();
    let facts = house.facts.lock().unwrap().remove(0);
    assert!(facts.authenticated && facts.sender.is_null() && facts.peer == Peer::Local);
    assert_eq!(facts.helo.as_str(), "mx.example.org");
    let committed = house.committed.lock().unwrap().remove(0);
    assert_eq!(committed.msgid(), msgid);
    let envelope = &committed.envelopes()[0];
    assert!(envelope.flags.bounce && envelope.flags.authenticated);
    assert!(envelope.sender.is_null());
    let body = String::from_utf8(ram.body(msgid).unwrap()).unwrap();
    let expected = format!(
        "Received: from mx.example.org (server.example.org [local])\n\
         \tby server.example.org (OpenSMTPD) with ESMTPA id {msgid}\n\
         \tfor <alice@example.net>;\n\t{}\n\
         Subject: x\n\nbody\n",
        localtime::rfc5322_date(T0.0)
    );
    assert_eq!(body, expected);

    *house.answer.lock().unwrap() = Err(Refusal::new(550, "Invalid recipient"));
    assert_eq!(
        door.inject(&dsn, T0),
        Err(Refusal::new(550, "Invalid recipient: <alice@example.net>")),
        "the whole reply"
    );
    *house.answer.lock().unwrap() = Ok(Vec::new());
    assert!(!door.inject(&dsn, T0).unwrap_err().is_temporary());
    assert_eq!(ram.messages().count(), 1, "a refusal leaves nothing behind");
}
