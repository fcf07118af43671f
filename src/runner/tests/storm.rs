//! Random arrivals, answers, orders and restarts: every envelope is accounted for.

use super::*;

// ---- storms ----

/// What the test knows of each recipient, by its unique address.
#[derive(Default)]
struct Ledger {
    promised: BTreeSet<String>,
    delivered: BTreeSet<String>,
    reported: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Ledger {
    /// Every recipient is delivered, told of, removed by hand, or still on the disk: as itself or
    /// as a report.
    fn check(&self, store: &Faulty, seed: u64, turn: usize) {
        let queued: BTreeSet<String> = store
            .on_disk()
            .iter()
            .filter(|e| !matches!(e.kind, Kind::Bounce(BounceKind::Delayed { .. })))
            .map(|e| e.rcpt.user().to_owned())
            .collect();
        for rcpt in &self.promised {
            let settled = self.delivered.contains(rcpt)
                || self.reported.contains(rcpt)
                || self.removed.contains(rcpt);
            assert!(
                settled || queued.contains(rcpt),
                "{rcpt} is lost: seed {seed} turn {turn}"
            );
        }
    }
}

#[test]
fn in_a_storm_every_envelope_is_delivered_reported_or_still_queued() {
    // Invariants 3 and 7, with a disk that refuses, restarts, an impatient administrator.
    for seed in 0..10 {
        storm(seed);
    }
}

fn storm(seed: u64) {
    let mut dice = Dice::new(seed);
    let store = Arc::new(Faulty::default());
    let dynamic: Arc<dyn Store> = store.clone();
    let mut stage_now = stage(&store, small());
    let mut ledger = Ledger::default();
    let mut now = T0;
    for turn in 0..600 {
        match dice.roll(12) {
            0..3 => arrive(&mut dice, &mut stage_now, &dynamic, &mut ledger, now),
            3..8 => answer(&mut dice, &mut stage_now, &mut ledger, now),
            8 => now = now.plus(dice.roll(4000) as u64),
            9 => administer(&mut dice, &mut stage_now, &store, &mut ledger, now),
            10 => store.plan.store(dice.roll(8) as u64, SeqCst),
            _ if dice.roll(6) == 0 => {
                // The process dies; everything in memory is forgotten.
                stage_now = restart(&store, now);
            }
            _ => {}
        }
        for _ in 0..dice.roll(4) {
            stage_now.core.step(now);
        }
        stage_now.core.check();
        if turn % 5 == 0 {
            ledger.check(&store, seed, turn);
        }
    }
    store.plan.store(0, SeqCst);
    calm_down(&mut stage_now, &mut ledger, now, seed);
    ledger.check(&store, seed, usize::MAX);
    assert_eq!(store.on_disk(), [], "seed {seed}");
}

fn arrive(
    dice: &mut Dice,
    stage: &mut Stage,
    store: &Arc<dyn Store>,
    ledger: &mut Ledger,
    now: Timestamp,
) {
    let mut envelopes = Vec::new();
    for _ in 0..=dice.roll(4) {
        let name = format!("rcpt{}", ledger.promised.len());
        let mut envelope = envelope(&name, now);
        match dice.roll(8) {
            0 => envelope.action = line("renamed"),
            1 => {
                envelope.action = line("outbound");
                envelope.kind = Kind::Relay;
            }
            2 => envelope.dsn.notify = Notify(Notify::SUCCESS | Notify::FAILURE),
            _ => {}
        }
        ledger.promised.insert(name);
        envelopes.push(envelope);
    }
    stage.core.committed(commit(store, envelopes), now);
}

/// One of the agents finishes one of its envelopes, one way or another.
fn answer(dice: &mut Dice, stage: &mut Stage, ledger: &mut Ledger, now: Timestamp) {
    let bounce = dice.roll(3) == 0;
    let agent = if bounce { &stage.bounce } else { &stage.local };
    let taken = agent.taken();
    if taken.is_empty() {
        return;
    }
    let envelope = &taken[dice.roll(taken.len())];
    let rcpt = envelope.rcpt.user().to_owned();
    let outcome = match dice.roll(5) {
        0 => fail(4),
        1 if !bounce => fail(5),
        2 if !bounce => Outcome::looped(),
        _ => Outcome::delivered(),
    };
    if outcome.verdict == Verdict::Delivered {
        match envelope.kind {
            Kind::Bounce(BounceKind::Failed) => ledger.reported.insert(rcpt),
            Kind::Bounce(_) => false,
            Kind::Local(_) | Kind::Relay => ledger.delivered.insert(rcpt),
        };
    }
    stage.core.report(Report::Done(envelope.id, outcome), now);
}

fn administer(
    dice: &mut Dice,
    stage: &mut Stage,
    store: &Arc<Faulty>,
    ledger: &mut Ledger,
    now: Timestamp,
) {
    let all = store.on_disk();
    if all.is_empty() {
        return;
    }
    let envelope = &all[dice.roll(all.len())];
    let which = match dice.roll(3) {
        0 => Which::Message(envelope.id.msgid()),
        _ => Which::Envelope(envelope.id),
    };
    let ask = match dice.roll(6) {
        0 => Ask::Suspend(which),
        1 => Ask::Resume(Which::All),
        2 => Ask::Remove(Which::Envelope(envelope.id)),
        3 => Ask::Discover(which),
        4 => Ask::List {
            after: None,
            only: None,
        },
        _ => Ask::Schedule(which),
    };
    if let Ask::Remove(_) = ask {
        ledger.removed.insert(envelope.rcpt.user().to_owned());
    }
    stage.core.ask(ask, Box::new(|_| ()), now);
}

fn restart(store: &Arc<Faulty>, now: Timestamp) -> Stage {
    let mut stage = stage(store, small());
    for msgid in store.messages() {
        stage.core.found(store.envelopes(msgid).unwrap(), now);
    }
    stage.core.scanned();
    stage
}

/// The weather clears: everything must leave the queue within its life time and a little.
fn calm_down(stage: &mut Stage, ledger: &mut Ledger, start: Timestamp, seed: u64) {
    let mut now = start;
    stage
        .core
        .ask(Ask::Resume(Which::All), Box::new(|_| ()), now);
    for _ in 0..20_000 {
        stage.steps(now);
        let taken = [stage.local.taken(), stage.bounce.taken()].concat();
        for envelope in &taken {
            let rcpt = envelope.rcpt.user().to_owned();
            match envelope.kind {
                Kind::Bounce(BounceKind::Failed) => ledger.reported.insert(rcpt),
                Kind::Bounce(_) => false,
                Kind::Local(_) | Kind::Relay => ledger.delivered.insert(rcpt),
            };
            stage
                .core
                .report(Report::Done(envelope.id, Outcome::delivered()), now);
        }
        if !taken.is_empty() {
            continue;
        }
        match stage.core.next_event() {
            Some(at) => now = now.max(at),
            None => return,
        }
    }
    panic!("the queue does not empty: seed {seed}");
}
