//! The agent against a scripted door.

use std::sync::{Arc, Mutex};

use crossbeam_channel::unbounded;

use crate::mail::Verdict;
use crate::queue::ram::Ram;

use super::*;

type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// Refuses as told, and remembers what it was brought.
struct ScriptedDoor {
    answers: Mutex<Vec<Result<MsgId, Refusal>>>,
    seen: Seen,
}

impl Inject for ScriptedDoor {
    fn inject(&self, dsn: &Dsn, _now: Timestamp) -> Result<MsgId, Refusal> {
        let text = String::from_utf8_lossy(&dsn.text).into_owned();
        self.seen.lock().unwrap().push((dsn.to.to_string(), text));
        self.answers.lock().unwrap().remove(0)
    }
}

fn store_original(ram: &Arc<Ram>, envelope: &Envelope) -> EvpId {
    let mut incoming = Queue::new(ram.clone()).begin().unwrap();
    incoming.write(b"Subject: hello\n\nbody\n").unwrap();
    let id = incoming.add(envelope.clone()).unwrap();
    incoming.commit().unwrap();
    id
}

fn scripted(
    queue: Queue,
    answers: &[Result<MsgId, Refusal>],
    reports: Sender<Report>,
) -> (Setup, Seen) {
    let seen = Seen::default();
    let door = ScriptedDoor {
        answers: Mutex::new(answers.to_vec()),
        seen: seen.clone(),
    };
    let setup = Setup {
        queue,
        inject: Box::new(door),
        reports: reports.into(),
        date,
    };
    (setup, seen)
}

fn group_of(envelope: Envelope) -> Group {
    let mut collector = Collector::default();
    collector.add(envelope, 0);
    collector.ready(5000).unwrap()
}

#[test]
fn the_door_decides_the_outcome() {
    // OpenSMTPD: after 2xx it is done, after 5xx lost with a line, after anything else tried again.
    let ram = Arc::new(Ram::default());
    let mut envelope = failed_two().remove(0);
    envelope.id = store_original(&ram, &envelope);
    let answers = [
        Ok(MsgId::new(1).unwrap()),
        Err(Refusal::new(550, "no")),
        Err(Refusal::new(451, "later")),
    ];
    let (setup, seen) = scripted(Queue::new(ram), &answers, unbounded().0);
    let group = group_of(envelope);
    for expected in [Verdict::Delivered, Verdict::PermFail, Verdict::TempFail] {
        assert_eq!(settle(&setup, &group, T0).verdict, expected);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].0, "alice@example.net");
    assert!(seen[0].1.contains("Subject: hello"));
}

#[test]
fn every_envelope_of_a_report_gets_its_outcome() {
    // deliver::Agent: what was taken is answered for, and held ones follow when there is room.
    let answers = [Ok(MsgId::new(1).unwrap())];
    let (reports, outcomes) = unbounded();
    let (setup, seen) = scripted(Queue::new(Arc::new(Ram::default())), &answers, reports);
    let mut agent = BounceAgent::start(setup).unwrap();
    let mut envelope = failed_two().remove(0);
    for low in 1..=HIGH_WATER as u32 {
        envelope.id = EvpId::new(envelope.id.msgid(), low).unwrap();
        assert_eq!(agent.offer(envelope.clone()), Offer::Taken);
    }
    assert_eq!(agent.offer(envelope), Offer::Hold(HOLD_KEY));
    let mut released = Vec::new();
    for _ in 0..HIGH_WATER {
        let Ok(Report::Done(id, outcome)) = outcomes.recv_timeout(Duration::from_secs(120)) else {
            panic!("no outcome");
        };
        assert_eq!(outcome.verdict, Verdict::Delivered);
        released.extend(agent.finished(id));
    }
    assert_eq!(released.len(), 1);
    assert_eq!(seen.lock().unwrap().len(), 1, "one report for all");
}

#[test]
fn a_report_without_its_original_is_still_sent() {
    // RFC 6522 §3: the third part, the copy, is optional.
    let answers = [Ok(MsgId::new(1).unwrap())];
    let (setup, seen) = scripted(
        Queue::new(Arc::new(Ram::default())),
        &answers,
        unbounded().0,
    );
    let group = group_of(failed_two().remove(0));
    assert_eq!(settle(&setup, &group, T0).verdict, Verdict::Delivered);
    assert_well_formed(seen.lock().unwrap()[0].1.as_bytes(), 1);
}
