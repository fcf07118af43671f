//! Random hosts, answers and orders of an administrator, and what must hold whatever happens.

use super::*;

/// What random hosts do, and how many connections to each came to nothing without their doing.
struct Storm {
    world: World,
    dice: Dice,
    offered: usize,
    empty: BTreeMap<(IpAddr, u64), u32>,
    carried: BTreeSet<SessionId>,
}

impl Storm {
    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        match from.len() {
            0 => None,
            n => Some(from[self.dice.number() as usize % n].clone()),
        }
    }

    fn sessions(&self, what: fn(&Phase) -> bool) -> Vec<SessionId> {
        let all = self.world.core.sessions.iter();
        all.filter(|(_, s)| what(s.phase()))
            .map(|(id, _)| *id)
            .collect()
    }

    fn offer(&mut self) {
        let n = self.dice.number() % 12;
        self.offered += 1;
        self.world.offer(&format!("bob@d{n}.example"));
    }

    fn connected(&mut self, fails: bool) {
        let connecting = self.sessions(|phase| matches!(phase, Phase::Connecting(_)));
        match (self.pick(&connecting), fails) {
            (Some(id), false) => self.world.ready(id),
            (Some(id), true) => {
                self.carried.insert(id);
                let end = match self.dice.number() % 6 {
                    0 => End::Unfit(Outcome::temp(Status::new(4, 7, 0), line("no TLS"))),
                    1 => End::Shortage(line("no thread")),
                    2 => End::NoWay(Outcome::temp(Status::new(4, 4, 1), line("no route"))),
                    _ => failed("refused"),
                };
                self.world.ended(id, end);
            }
            (None, _) => {}
        }
    }

    fn transaction(&mut self, kind: u64) {
        let sending = self.sessions(|phase| matches!(phase, Phase::Sending(_)));
        let Some(id) = self.pick(&sending) else {
            return;
        };
        self.carried.insert(id);
        // It may have begun with the next one.
        let begun = 1 + self.dice.number() as usize % 2;
        self.world.take(id, begun);
        let load = self.world.finish(id);
        let ids: Vec<EvpId> = load.envelopes.iter().map(|e| e.id).collect();
        let all = |outcome: &Outcome| ids.iter().map(|id| (*id, outcome.clone())).collect();
        let later = Outcome::temp(Status::new(4, 2, 0), line("later"));
        let now = self.world.now;
        // The host may keep step and be slow, or not.
        let (kept, ms) = (
            !self.dice.number().is_multiple_of(8),
            self.dice.number() % 100,
        );
        let core = &mut self.world.core;
        core.in_step(id, kept);
        core.took(id, Duration::from_millis(ms));
        match kind % 8 {
            0 => core.done(id, all(&later), &[], Next::More, now),
            1 => core.done(id, Vec::new(), &ids, Next::Over, now),
            2 => {
                core.done(id, all(&later), &[], Next::Over, now);
                core.ended(id, End::Failed(later), now);
            }
            3 => core.ended(id, End::Failed(later), now),
            _ => core.done(id, all(&Outcome::delivered()), &[], Next::More, now),
        }
        self.world.obey();
    }

    fn closed(&mut self) {
        let closing = self.sessions(|phase| matches!(phase, Phase::Closing));
        let Some(id) = self.pick(&closing) else {
            return;
        };
        if !self.carried.contains(&id) {
            let start = self
                .world
                .started
                .iter()
                .find(|start| start.id == id)
                .unwrap();
            let key = (start.to.ip(), self.world.now.0 / 60);
            *self.empty.entry(key).or_default() += 1;
        }
        self.world.ended(id, End::Quit);
    }
}

// Whatever happens in whatever order: the books balance after every step, every envelope has one
// outcome or is held, and no host sees more than one connection a minute that carries nothing.
#[test]
fn random_hosts_upset_nothing() {
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let mut number = || dice.number() % 4;
        let limits = format!(
            "mta limit conn-delay-route {} conn-delay-relay {} reconn-delay-route {} max-conn-per-host {} \
             session-mail-max {} session-keepalive {} task-hiwat {}\naction \"out\" relay",
            number(),
            number(),
            number(),
            1 + number(),
            number(),
            3 * number(),
            1 + 9 * number()
        );
        let mut world = World::new(&limits);
        for n in 0..12 {
            let (first, second) = (format!("m{}.example", n % 5), format!("m{}.example", n % 3));
            world.mx(&format!("d{n}.example"), &[(10, &first), (20, &second)]);
        }
        for n in 0..5 {
            let (one, two) = (format!("192.0.2.{}", n + 1), format!("192.0.2.{}", 100 + n));
            world.a(&format!("m{n}.example"), &[&one, &two]);
        }
        let mut storm = Storm {
            world,
            dice,
            offered: 0,
            empty: BTreeMap::new(),
            carried: BTreeSet::new(),
        };
        for step in 0..1000 {
            let what = storm.dice.number();
            match what % 16 {
                0..=3 if step < 700 => storm.offer(),
                4..=6 => storm.connected(false),
                7 => storm.connected(true),
                8..=11 => storm.transaction(what >> 8),
                12 | 13 => storm.closed(),
                14 => storm.world.pass(1),
                _ if step % 97 == 0 => storm.world.pass(20),
                _ => {}
            }
        }
        // Everything works again.
        for _ in 0..3000 {
            storm.connected(false);
            storm.transaction(7);
            storm.closed();
            let released = std::mem::take(&mut storm.world.reports).into_iter();
            let (done, other): (Vec<_>, Vec<_>) =
                released.partition(|report| matches!(report, Report::Done(..)));
            storm.world.reports = done;
            // What is asked back comes back.
            for report in other {
                if let Report::Release(release) = report {
                    for _ in 0..release
                        .count
                        .min(storm.world.held.remove(&release.key).unwrap_or(0))
                    {
                        storm.offer();
                    }
                } else if let Report::Held(_, key) = report {
                    *storm.world.held.entry(key).or_default() += 1;
                    storm.offered -= 1;
                }
            }
            if storm.dice.number().is_multiple_of(4) {
                storm.world.pass(1);
            }
        }
        let open = storm.world.core.sessions.len();
        let waiting: Vec<String> = storm.world.core.list(Listing::Relays, storm.world.now);
        assert_eq!(
            storm.world.outcomes().len(),
            storm.offered,
            "seed {seed}: {open} {waiting:?}"
        );
        let worst = storm.empty.values().max().copied().unwrap_or(0);
        assert!(worst <= 1, "seed {seed}: {:?}", storm.empty);
    }
}
