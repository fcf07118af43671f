//! Weeks of failing destinations in a moment: the scheduler, the runner's steps and the settling on
//! a clock of the test's own, against the times that OpenSMTPD documents.

use std::collections::VecDeque;

use super::*;

const FOUR_DAYS_S: u64 = 345_600;

/// Takes everything, but of the dead destination only so many at a time, as a relay does.
#[derive(Clone)]
struct Patient(Arc<Mutex<Waiting>>);

struct Waiting {
    taken: VecDeque<Envelope>,
    dead: usize,
    dead_max: usize,
    holding: bool,
}

const DEAD_KEY: HoldKey = HoldKey(4);

impl Patient {
    fn new(dead_max: usize) -> Patient {
        Patient(Arc::new(Mutex::new(Waiting {
            taken: VecDeque::new(),
            dead: 0,
            dead_max,
            holding: false,
        })))
    }

    fn next(&self) -> Option<Envelope> {
        self.0.lock().unwrap().taken.pop_front()
    }
}

/// Whether it is to be relayed to where nobody answers.
fn is_dead(envelope: &Envelope) -> bool {
    envelope.kind == Kind::Relay && envelope.dest.domain() == "dead.example"
}

impl Agent for Patient {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        let mut waiting = self.0.lock().unwrap();
        if is_dead(&envelope) {
            if waiting.dead >= waiting.dead_max {
                waiting.holding = true;
                return Offer::Hold(DEAD_KEY);
            }
            waiting.dead += 1;
        }
        waiting.taken.push_back(envelope);
        Offer::Taken
    }

    fn finished(&mut self, _id: EvpId) -> Vec<Release> {
        Vec::new()
    }
}

/// One attempt: whose, of what kind, and how old the envelope was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    rcpt: String,
    kind: Kind,
    at: Timestamp,
    age_s: u64,
}

struct World {
    core: Core,
    store: Arc<Faulty>,
    agents: [Patient; 3],
    now: Timestamp,
    attempts: Vec<Attempt>,
    /// Bounce envelopes as they were first tried.
    reports: Vec<Envelope>,
}

fn both_ways(queue_ttl_s: u64, bounce_warn_s: &[u32]) -> Policy {
    Policy {
        queue_ttl_s: u32::try_from(queue_ttl_s).unwrap(),
        bounce_warn_s: bounce_warn_s.to_vec(),
        action: Arc::new(|name| {
            let kind = match name {
                "local" => ActionKind::Local,
                _ => ActionKind::Relay,
            };
            Some(ActionFacts { kind, ttl_s: None })
        }),
    }
}

impl World {
    fn new(policy: Policy, dead_max: usize) -> World {
        let store = Arc::new(Faulty::default());
        let agents = [(); 3].map(|()| Patient::new(dead_max));
        let [local, relay, bounce] = agents.clone();
        let core = Core::new(
            Setup {
                queue: Queue::new(store.clone()),
                agents: Agents {
                    local: Box::new(local),
                    relay: Some(Box::new(relay)),
                    bounce: Box::new(bounce),
                },
                reports: unbounded().1,
                limits: Limits::default(),
                policy: Live::new(policy),
                pause_mda: false,
                pause_mta: false,
                settle_threads: 0,
            },
            &Arc::default(),
        )
        .unwrap();
        World {
            core,
            store,
            agents,
            now: T0,
            attempts: Vec::new(),
            reports: Vec::new(),
        }
    }

    fn commit(&mut self, envelopes: Vec<Envelope>) {
        let dynamic: Arc<dyn Store> = self.store.clone();
        self.core.committed(commit(&dynamic, envelopes), self.now);
    }

    /// Lets time pass until `until`, or until nothing is left to wait for. `judge` decides each
    /// attempt.
    fn live(&mut self, until: Timestamp, judge: impl Fn(&Envelope) -> Outcome) {
        for _ in 0..200_000 {
            while self.core.step(self.now) {}
            self.core.check();
            let agents = self.agents.clone();
            if let Some(envelope) = agents.iter().find_map(Patient::next) {
                self.answer(&envelope, judge(&envelope));
                continue;
            }
            if self.release_the_dead() {
                continue;
            }
            match self.core.next_event() {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => {
                    self.now = self.now.max(until);
                    return;
                }
            }
        }
        panic!("time does not pass");
    }

    fn answer(&mut self, envelope: &Envelope, outcome: Outcome) {
        if matches!(envelope.kind, Kind::Bounce(_)) && envelope.retry == 0 {
            self.reports.push(envelope.clone());
        }
        self.attempts.push(Attempt {
            rcpt: envelope.rcpt.user().to_owned(),
            kind: envelope.kind.clone(),
            at: self.now,
            age_s: self.now.since(envelope.created),
        });
        self.core
            .report(Report::Done(envelope.id, outcome), self.now);
        if is_dead(envelope) {
            self.agents[1].0.lock().unwrap().dead -= 1;
        }
    }

    /// Once all that the dead relay had taken is answered for, what waits is let go.
    fn release_the_dead(&mut self) -> bool {
        {
            let mut waiting = self.agents[1].0.lock().unwrap();
            if !waiting.holding || waiting.dead > 0 {
                return false;
            }
            waiting.holding = false;
        }
        let report = Report::Release(Release {
            key: DEAD_KEY,
            count: usize::MAX,
        });
        self.core.report(report, self.now);
        true
    }

    /// The ages at which an envelope of this recipient was tried.
    fn ages(&self, rcpt: &str, wanted: impl Fn(&Kind) -> bool) -> Vec<u64> {
        let tried = self.attempts.iter();
        tried
            .filter(|tried| tried.rcpt == rcpt && wanted(&tried.kind))
            .map(|tried| tried.age_s)
            .collect()
    }
}

/// The documented grid: base * n * n, below the life time.
fn grid(base_s: u64, ttl_s: u64) -> Vec<u64> {
    let points = (0..).map(|n| base_s * n * n);
    points.take_while(|at| *at < ttl_s).collect()
}

fn to(way: &str, rcpt: &str, domain: &str, now: Timestamp) -> Envelope {
    let mut envelope = envelope(rcpt, now);
    envelope.action = line(way);
    envelope.dest = MailAddr::new(rcpt, domain).unwrap();
    if way == "relay" {
        envelope.kind = Kind::Relay;
    }
    envelope
}

fn is_failure(kind: &Kind) -> bool {
    *kind == Kind::Bounce(BounceKind::Failed)
}

#[test]
fn each_class_is_tried_at_its_documented_times_until_it_expires() {
    // smtpd.conf(5), queue ttl 4d: 30 attempts of a relay, 186 of a local delivery or a report.
    let mut world = World::new(both_ways(FOUR_DAYS_S, &[14_400]), usize::MAX);
    world.commit(vec![
        to("relay", "remote", "example.com", T0),
        to("local", "mailbox", "example.com", T0),
    ]);
    world.live(T0.plus(14 * DAY_S), |_| fail(4));
    let relay = world.ages("remote", |kind| *kind == Kind::Relay);
    assert_eq!(relay, grid(400, FOUR_DAYS_S));
    assert_eq!((relay.len(), relay.last()), (30, Some(&336_400)));
    let local = world.ages("mailbox", |kind| matches!(kind, Kind::Local(_)));
    assert_eq!(local, grid(10, FOUR_DAYS_S));
    assert_eq!((local.len(), local.last()), (186, Some(&342_250)));
    for rcpt in ["remote", "mailbox"] {
        let report = world.ages(rcpt, is_failure);
        assert_eq!(report, grid(10, FOUR_DAYS_S), "{rcpt}");
    }
    // The relay's warning at the attempt after exactly four hours, the mailbox's at its next one.
    let told: Vec<(&str, bool, u64)> = world
        .reports
        .iter()
        .map(|e| (e.rcpt.user(), is_failure(&e.kind), e.created.since(T0)))
        .collect();
    let expected = [
        ("remote", false, 14_400),
        ("mailbox", false, 14_440),
        ("remote", true, FOUR_DAYS_S),
        ("mailbox", true, FOUR_DAYS_S),
    ];
    assert_eq!(told, expected);
    for report in &world.reports[2..] {
        assert_eq!(report.errorline, Some(line("Envelope expired: busy")));
        assert_eq!(report.status, Some(Status::new(5, 4, 7)));
        assert_eq!(report.past.arrived, T0);
    }
    assert_eq!(world.reports[2].past.tried, T0.plus(336_400));
    // The reports could not be told either, and nobody is told of that.
    assert_eq!(world.store.on_disk(), []);
    assert_eq!(world.attempts.len(), 30 + 186 + 4 * 186);
}

#[test]
fn every_warning_of_a_long_life_comes_once_and_not_too_early() {
    // smtpd.conf(5), bounce warn-interval: at the first failure after each of the times.
    let intervals = [14_400, 86_400, 604_800, 1_209_600];
    let ttl_s = 30 * DAY_S;
    let mut world = World::new(both_ways(ttl_s, &intervals), usize::MAX);
    world.commit(vec![
        to("relay", "remote", "example.com", T0),
        to("local", "mailbox", "example.com", T0),
    ]);
    world.live(T0.plus(40 * DAY_S), |envelope| match envelope.kind {
        Kind::Bounce(_) => Outcome::delivered(),
        _ => fail(4),
    });
    for (rcpt, base_s) in [("remote", 400), ("mailbox", 10)] {
        let first = |after: u64| grid(base_s, ttl_s).into_iter().find(|at| *at >= after);
        let mut expected: Vec<(Option<u32>, u64)> = intervals
            .iter()
            .map(|wait_s| (Some(*wait_s), first(u64::from(*wait_s)).unwrap()))
            .collect();
        expected.push((None, ttl_s));
        let told: Vec<(Option<u32>, u64)> = world
            .reports
            .iter()
            .filter(|e| e.rcpt.user() == rcpt)
            .map(|e| match e.kind {
                Kind::Bounce(BounceKind::Delayed { delay_s, .. }) => {
                    (Some(delay_s), e.created.since(T0))
                }
                _ => (None, e.created.since(T0)),
            })
            .collect();
        assert_eq!(told, expected, "{rcpt}");
    }
    assert_eq!(world.store.on_disk(), []);
}

#[test]
fn what_a_busy_relay_holds_follows_oldest_first() {
    // smtpd.conf(5), mta limit task-hiwat: what is too much waits, and goes when there is room.
    let mut world = World::new(both_ways(FOUR_DAYS_S, &[14_400]), 10);
    for n in 0..200 {
        let rcpt = format!("r{n:03}");
        world.commit(vec![to("relay", &rcpt, "dead.example", T0)]);
    }
    world.live(T0.plus(3), |_| Outcome::delivered());
    let tried: Vec<&str> = world.attempts.iter().map(|a| a.rcpt.as_str()).collect();
    assert!(tried.is_sorted(), "{tried:?}");
    assert_eq!(tried.len(), 200);
    assert_eq!(world.store.on_disk(), []);
}

#[test]
fn a_destination_dead_for_days_delays_no_other() {
    // RFC 5321 §4.5.4.1: a host that cannot be reached must not keep mail for others waiting. Each
    // of its messages is given up at the end of its own life.
    let mut world = World::new(both_ways(FOUR_DAYS_S, &[14_400]), 10);
    let judge = |envelope: &Envelope| {
        if is_dead(envelope) {
            fail(4)
        } else {
            Outcome::delivered()
        }
    };
    let hours: u64 = 96;
    for hour in 0..hours {
        world.live(T0.plus(hour * 3600), judge);
        let now = world.now;
        for n in 0..3 {
            let dead = format!("dead{hour}x{n}");
            let alive = format!("alive{hour}x{n}");
            world.commit(vec![
                to("relay", &dead, "dead.example", now),
                to("relay", &alive, "alive.example", now),
            ]);
        }
    }
    world.live(T0.plus(14 * DAY_S), judge);
    assert_eq!(world.store.on_disk(), []);
    for hour in 0..hours {
        for n in 0..3 {
            let sent = T0.plus(hour * 3600);
            let alive = world.ages(&format!("alive{hour}x{n}"), |_| true);
            assert_eq!(alive, [0], "delivered at once, and never again");
            let dead = format!("dead{hour}x{n}");
            let tried = world.ages(&dead, |kind| *kind == Kind::Relay);
            let points = grid(400, FOUR_DAYS_S);
            assert!(tried.iter().all(|age| points.contains(age)), "{tried:?}");
            let ended: Vec<u64> = world
                .reports
                .iter()
                .filter(|e| e.rcpt.user() == dead && is_failure(&e.kind))
                .map(|e| e.created.since(sent))
                .collect();
            assert_eq!(ended, [FOUR_DAYS_S]);
        }
    }
}
