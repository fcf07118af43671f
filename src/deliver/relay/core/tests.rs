//! A fake resolver, fake tables, fake sessions, a fake clock: what is decided, and in which words.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;

use crate::config::{self, Defaults, Sources};
use crate::deliver::relay::Configured;
use crate::deliver::relay::secure::Connectors;
use crate::dns::{Answer, Confirmed, DnsError, DnsResult, Kind, Mx, Reverse};
use crate::mail::samples::{self, line};
use crate::mail::{Kind as EnvelopeKind, Outcome, Status};
use crate::table::Snapshot;
use crate::util::dice::Dice;

use crate::deliver::HoldKey;

use super::*;

mod ahead;

const T0: Timestamp = Timestamp(1_700_000_000);

/// A core in a world that answers at once, unless a test holds something back.
struct World {
    core: Core,
    now: Timestamp,
    zone: HashMap<(String, Kind), DnsResult>,
    smarthosts: BTreeMap<String, Smarthost>,
    sources: Vec<Option<IpAddr>>,
    secrets: Vec<(RelayId, String, Line)>,
    started: Vec<Start>,
    sent: Vec<(SessionId, Arc<Load>)>,
    quits: Vec<SessionId>,
    reports: Vec<Report>,
    lines: Vec<String>,
    next: u32,
    /// Whether answers of the name server wait for [`World::answer`], and for which questions.
    slow_names: bool,
    asked: Vec<(Destination, Question)>,
    /// Sessions started, messages sent and sessions ended that [`serve`] has answered.
    served: [usize; 3],
    /// Envelopes that the runner holds.
    held: BTreeMap<HoldKey, usize>,
    /// What sessions were told to send and have not taken yet, and what they have.
    told: BTreeMap<SessionId, VecDeque<Arc<Load>>>,
    taken: BTreeMap<SessionId, VecDeque<Arc<Load>>>,
}

static DICE: Mutex<u64> = Mutex::new(1);

fn random() -> u32 {
    let mut seed = DICE.lock().unwrap();
    *seed += 1;
    Dice::new(*seed).number() as u32
}

fn configured(version: u64, conf: &str) -> Arc<Configured> {
    let text = format!("{conf}\nmatch for any action \"out\"\n");
    let sources = Sources::from_text("smtpd.conf", &text, &[]);
    let defaults = Defaults {
        server_name: line("mx.example.org"),
        addresses: vec!["192.0.2.9".parse().unwrap()],
    };
    let loaded = config::load(&sources, &defaults).unwrap_or_else(|bad| panic!("{bad:?}"));
    let snapshot = Snapshot::load(version, loaded.config, &sources);
    Arc::new(Configured {
        snapshot: Arc::new(snapshot.unwrap_or_else(|bad| panic!("{bad:?}"))),
        tls: Connectors::default(),
        filters: Arc::default(),
        bound: Arc::new(["192.0.2.9:25".parse().unwrap()]),
    })
}

impl World {
    fn new(conf: &str) -> World {
        let limits = Limits { sessions: 8 };
        World {
            core: Core::new(configured(1, conf), limits, random, 1),
            now: T0,
            zone: HashMap::new(),
            smarthosts: BTreeMap::new(),
            sources: Vec::new(),
            secrets: Vec::new(),
            started: Vec::new(),
            sent: Vec::new(),
            quits: Vec::new(),
            reports: Vec::new(),
            lines: Vec::new(),
            next: 0,
            slow_names: false,
            asked: Vec::new(),
            served: [0; 3],
            held: BTreeMap::new(),
            told: BTreeMap::new(),
            taken: BTreeMap::new(),
        }
    }

    fn mx(&mut self, domain: &str, list: &[(u16, &str)]) {
        let records = list
            .iter()
            .map(|(preference, name)| Mx {
                preference: *preference,
                name: line(name),
            })
            .collect();
        let key = (format!("{domain}."), Kind::Mx);
        self.zone.insert(key, Ok(Answer::Mx(records)));
    }

    fn a(&mut self, name: &str, addrs: &[&str]) {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for addr in addrs {
            match addr.parse().unwrap() {
                IpAddr::V4(addr) => four.push(addr),
                IpAddr::V6(addr) => six.push(addr),
            }
        }
        if !four.is_empty() {
            self.zone
                .insert((format!("{name}."), Kind::A), Ok(Answer::A(four)));
        }
        if !six.is_empty() {
            self.zone
                .insert((format!("{name}."), Kind::Aaaa), Ok(Answer::Aaaa(six)));
        }
    }

    fn fails(&mut self, domain: &str, why: DnsError) {
        let key = (format!("{domain}."), Kind::Mx);
        self.zone.insert(key, Err(why));
    }

    fn offer(&mut self, to: &str) -> EvpId {
        self.next += 1;
        let (user, domain) = to.split_once('@').unwrap();
        let rcpt = MailAddr::new(user, domain).unwrap();
        let envelope = Envelope {
            id: EvpId::new(MsgId::new(self.next).unwrap(), 1).unwrap(),
            action: line("out"),
            kind: EnvelopeKind::Relay,
            dest: rcpt.clone(),
            rcpt,
            created: T0,
            ..samples::envelope("bob")
        };
        let id = envelope.id;
        self.core.offer(vec![envelope], self.now);
        self.obey();
        id
    }

    fn obey(&mut self) {
        loop {
            let actions = self.core.take_actions();
            if actions.is_empty() {
                // It looks at everything, which is dear where there is much.
                if self.core.relays.len() < 100 {
                    self.core.check();
                }
                return;
            }
            for action in actions {
                self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Resolve(name, question) if self.slow_names => {
                self.asked.push((name, question));
            }
            Action::Resolve(name, question) => self.answer(name, &question),
            Action::Reverse(_, ptr) => {
                drop(ptr.set(Reverse {
                    name: None,
                    confirmed: Confirmed::Fail,
                }));
                self.core.named();
            }
            Action::Smarthost(id, ask) => {
                let key = match ask {
                    Ask::Next(_) => String::new(),
                    Ask::Of(_, domain) => domain,
                };
                let host = self.smarthosts.get(&key).cloned();
                let host = host.unwrap_or(Err(BadSmarthost::None));
                self.core.smarthosts(vec![(id, host)], self.now);
            }
            Action::Source(_, relay, _) => {
                let addr = match self.sources.is_empty() {
                    true => None,
                    false => {
                        self.sources.rotate_left(1);
                        *self.sources.last().unwrap()
                    }
                };
                self.core.source(relay, addr, self.now);
            }
            Action::Secret(_, relay, table, label) => self.secrets.push((relay, table, label)),
            Action::Open(start) => self.started.push(*start),
            Action::Send(id, load) => {
                self.told.entry(id).or_default().push_back(load.clone());
                self.sent.push((id, load));
            }
            Action::Recall(id, most) => {
                let told = self.told.entry(id).or_default();
                let count = most.min(told.len());
                told.truncate(told.len() - count);
                self.core.recalled(id, count, self.now);
            }
            Action::Quit(id) => self.quits.push(id),
            Action::Report(report) => self.reports.push(report),
            Action::Info(text) | Action::Warn(text) => self.lines.push(text),
        }
    }

    fn answer(&mut self, name: Destination, question: &Question) {
        let mut key = (question.name.clone(), question.kind);
        if !key.0.ends_with('.') {
            key.0.push('.');
        }
        let found = self.zone.get(&key).cloned();
        let found = found.unwrap_or(Err(DnsError::NoData));
        self.core.answer(name, question, found, self.now);
    }

    fn ready(&mut self, id: SessionId) {
        self.core.ready(id, self.now);
        self.obey();
    }

    fn ended(&mut self, id: SessionId, end: End) {
        self.core.ended(id, end, self.now);
        self.obey();
    }

    fn refused(&mut self, at: usize) {
        let id = self.started[at].id;
        self.ended(id, failed(REFUSED));
    }

    fn is_sending(&self, id: SessionId) -> bool {
        let session = self.core.sessions.get(id);
        session.is_some_and(|session| matches!(session.phase(), Phase::Sending(_)))
    }

    /// A session takes what it has been told, up to so many messages.
    fn take(&mut self, id: SessionId, most: usize) {
        let (told, taken) = (self.told.entry(id), self.taken.entry(id));
        let (told, taken) = (told.or_default(), taken.or_default());
        while taken.len() < most
            && let Some(load) = told.pop_front()
        {
            taken.push_back(load);
        }
    }

    /// What a session is through with; it is what the core believes.
    fn finish(&mut self, id: SessionId) -> Arc<Load> {
        self.take(id, 1);
        let load = self.taken.get_mut(&id).and_then(VecDeque::pop_front);
        let load = load.expect("a session at work has been told what to send");
        let believed = self.core.sessions.get(id).and_then(|s| s.load());
        assert!(
            believed.is_some_and(|other| Arc::ptr_eq(other, &load)),
            "{id}"
        );
        load
    }

    /// The session has delivered what it is sending.
    fn delivered(&mut self, id: SessionId) {
        let load = self.finish(id);
        let ok = Outcome {
            text: line("250 ok"),
            ..Outcome::delivered()
        };
        let settled = load.envelopes.iter().map(|e| (e.id, ok.clone())).collect();
        self.core.done(id, settled, &[], Next::More, self.now);
        self.obey();
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.plus(1);
            self.core.tick(self.now);
            self.obey();
        }
    }

    fn addresses(&self) -> Vec<String> {
        self.started.iter().map(|s| s.to.ip().to_string()).collect()
    }

    fn outcomes(&self) -> Vec<(Verdict, String)> {
        self.reports
            .iter()
            .filter_map(|report| match report {
                Report::Done(_, outcome) => Some((outcome.verdict, outcome.text.to_string())),
                _ => None,
            })
            .collect()
    }

    fn only_outcome(&self) -> (Verdict, String) {
        let outcomes = self.outcomes();
        assert_eq!(outcomes.len(), 1, "{outcomes:?} {:?}", self.lines);
        outcomes[0].clone()
    }
}

const REFUSED: &str = "mx.example (192.0.2.1): IO Error: Connection refused";

fn failed(text: &str) -> End {
    End::Failed(Outcome::temp(Status::new(4, 4, 1), line(text)))
}

fn plain() -> World {
    World::new("action \"out\" relay")
}

#[test]
fn a_relay_whose_action_has_changed_takes_no_more_mail() {
    // smtpctl(8), reload: destinations that are configured as before go on undisturbed.
    let conf = |helo: &str, rest: &str| {
        format!("table h {{ \"127.0.0.1\" = \"{helo}\" }}\n{rest}action \"out\" relay helo-src <h>")
    };
    let other = "action \"other\" maildir\n";
    let versions = |world: &World| -> Vec<u64> {
        let relays = world.core.relays.values();
        relays
            .map(|relay| relay.configured.snapshot.version)
            .collect()
    };
    let mut world = World::new(&conf("mail.example", ""));
    world.a("d.example", &["192.0.2.1"]);
    world.offer("joe@d.example");
    let second = configured(2, &conf("mail.example", other));
    world.core.configure(second);
    world.offer("ann@d.example");
    assert_eq!(versions(&world), [2]);
    world
        .core
        .configure(configured(3, &conf("mx.example", other)));
    world.offer("bob@d.example");
    assert_eq!(versions(&world), [2, 3]);
    let mut told = 0;
    for _ in 0..200 {
        if let Some(start) = world.started.get(told) {
            told += 1;
            world.ready(start.id);
        }
        let done = world.outcomes().len();
        if let Some((id, _)) = world.sent.get(done) {
            world.delivered(*id);
        }
        world.pass(1);
    }
    assert_eq!(world.outcomes().len(), 3, "{:?}", world.lines);
    for id in world.quits.clone() {
        world.ended(id, End::Quit);
    }
    assert_eq!(versions(&world), [0; 0], "both have nothing more to do");
    assert!(world.core.by_key.is_empty());
}

/// A relay to a smarthost that wants a login, its address known, its credentials asked for.
fn with_login() -> World {
    let mut world = World::new(
        "table s { bob = \"x:y\" }\naction \"out\" relay host smtps://bob@mx.example auth <s>",
    );
    let host = RelayHost::parse("smtps://bob@mx.example").unwrap();
    world.smarthosts.insert(String::new(), Ok(host));
    world.a("mx.example", &["192.0.2.1"]);
    world.offer("joe@d.example");
    assert!(world.started.is_empty());
    assert_eq!(world.secrets.len(), 1);
    assert_eq!(
        (world.secrets[0].1.as_str(), world.secrets[0].2.as_str()),
        ("s", "bob")
    );
    let lines = world.core.list(Listing::Relays, T0);
    assert!(lines[0].ends_with(" wait=secret"), "{lines:?}");
    world
}

const TEMP: Verdict = Verdict::TempFail;
const PERM: Verdict = Verdict::PermFail;

#[test]
fn what_the_name_server_says_decides_in_the_words_of_the_manual() {
    // smtpd(8): NXDOMAIN and a null MX are for good, what a name server does not say is not.
    type Case = (fn(&mut World), Verdict, &'static str);
    let cases: [Case; 8] = [
        (
            |w| w.fails("d.example", DnsError::NoName),
            PERM,
            "Domain does not exist",
        ),
        (
            |w| w.fails("d.example", DnsError::TempFail),
            TEMP,
            "Temporary failure in MX lookup",
        ),
        (
            |w| w.mx("d.example", &[(0, ".")]),
            PERM,
            "Domain does not accept mail",
        ),
        (
            |w| w.mx("d.example", &[(10, "localhost")]),
            PERM,
            "Domain does not accept mail",
        ),
        (
            |w| w.mx("d.example", &[(10, "a.example")]),
            TEMP,
            "No MX found for domain",
        ),
        (|_| {}, TEMP, "No MX found for domain"),
        (
            |w| {
                w.mx("d.example", &[(10, "us.example"), (20, "b.example")]);
                w.a("us.example", &["192.0.2.9"]);
                w.a("b.example", &["192.0.2.2"]);
            },
            PERM,
            "Mail for domain loops back to this host",
        ),
        (
            |w| {
                let many: Vec<(u16, String)> =
                    (0..5000).map(|n| (n, format!("m{n}.example"))).collect();
                let many: Vec<(u16, &str)> = many.iter().map(|(n, m)| (*n, m.as_str())).collect();
                w.mx("d.example", &many);
            },
            TEMP,
            "No MX found for domain",
        ),
    ];
    for (prepare, verdict, text) in cases {
        let mut world = plain();
        prepare(&mut world);
        world.offer("bob@D.example");
        assert_eq!(world.only_outcome(), (verdict, text.to_owned()));
        assert_eq!(
            world.lines,
            [format!(
                "smtp-out: Failed to resolve MX for [relay:d.example,smtp]: {text}"
            )]
        );
        assert!(world.core.relays.is_empty() && world.core.domains.is_empty());
    }
    let mut world = plain();
    world.offer("bob@-bad..name");
    assert_eq!(
        world.only_outcome(),
        (PERM, "Invalid domain name".to_owned())
    );
}

#[test]
fn exchangers_are_tried_by_preference_and_equals_in_random_order() {
    // RFC 5321 §5.1.
    let mut firsts = BTreeSet::new();
    for _ in 0..40 {
        let mut world = plain();
        world.mx(
            "d.example",
            &[(20, "c.example"), (10, "a.example"), (10, "b.example")],
        );
        world.a("a.example", &["192.0.2.1"]);
        world.a("b.example", &["192.0.2.2"]);
        world.a("c.example", &["192.0.2.3"]);
        world.offer("bob@d.example");
        world.refused(0);
        world.refused(1);
        world.refused(2);
        let tried = world.addresses();
        assert_eq!((tried.len(), tried[2].as_str()), (3, "192.0.2.3"));
        firsts.insert(tried[0].clone());
        assert_eq!(world.only_outcome(), (TEMP, REFUSED.to_owned()));
    }
    assert_eq!(firsts.len(), 2);
}

#[test]
fn a_refused_connection_is_told_as_the_manual_shows() {
    // smtpd(8): the route is disabled, nothing is left, the mail is put off at once.
    let mut world = plain();
    world.a("example.com", &["192.0.2.25"]);
    world.offer("bob@example.com");
    assert_eq!(world.started[0].to.to_string(), "192.0.2.25:25");
    world.refused(0);
    assert_eq!(world.only_outcome(), (TEMP, REFUSED.to_owned()));
    world.pass(15);
    assert_eq!(
        world.lines,
        [
            "smtp-out: Disabling route [] <-> 192.0.2.25 for 15s",
            "smtp-out: No valid route for [connector:[]->[relay:example.com,smtp],0x0]",
            "smtp-out: Enabling route [] <-> 192.0.2.25",
        ]
    );
    // What comes while the route is disabled fails without an attempt.
    let mut world = plain();
    world.a("example.com", &["192.0.2.25"]);
    world.offer("bob@example.com");
    world.refused(0);
    world.offer("bob@example.com");
    assert_eq!((world.started.len(), world.outcomes().len()), (1, 2));
    assert!(world.core.relays.is_empty());
}

#[test]
fn each_of_many_messages_for_a_dead_host_hears_why() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..100 {
        world.offer("bob@d.example");
    }
    let is_held = |report: &&Report| matches!(report, Report::Held(..));
    let held = world.reports.iter().filter(is_held).count();
    world.refused(0);
    // mta limit task-hiwat: the others come when the first have failed.
    assert_eq!(world.outcomes().len() + held, 100);
    assert!(held > 0);
    for _ in 0..held {
        world.offer("bob@d.example");
    }
    assert_eq!(world.outcomes(), vec![(TEMP, REFUSED.to_owned()); 100]);
}

#[test]
fn both_families_are_tried_in_one_attempt_and_limits_choose_one() {
    let mut world = plain();
    world.core.own = Own::new(&["2001:db8::9".parse().unwrap()], &[]);
    world.a("d.example", &["192.0.2.1", "2001:db8::1"]);
    world.offer("bob@d.example");
    world.refused(0);
    assert_eq!(world.addresses(), ["2001:db8::1", "192.0.2.1"]);
    world.ready(world.started[1].id);
    assert_eq!(world.sent.len(), 1);
    // smtpd.conf(5), mta limit inet6.
    let mut world = World::new("mta limit inet6\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (
            TEMP,
            "Address family mismatch on destination MXs".to_owned()
        )
    );
    assert_eq!(
        world.lines,
        ["smtp-out: Address family mismatch on [connector:[]->[relay:d.example,smtp],0x0]"]
    );
}

#[test]
fn a_backup_relays_only_to_exchangers_that_are_preferred_to_it() {
    // smtpd.conf(5), relay backup.
    let conf = "action \"out\" relay backup mx mx2.example";
    let mut world = World::new(conf);
    world.mx(
        "d.example",
        &[
            (10, "mx1.example"),
            (20, "MX2.example"),
            (30, "mx3.example"),
        ],
    );
    for (name, addr) in [
        ("mx1", "192.0.2.1"),
        ("MX2", "192.0.2.2"),
        ("mx3", "192.0.2.3"),
    ] {
        world.a(&format!("{name}.example"), &[addr]);
    }
    world.offer("bob@d.example");
    world.refused(0);
    assert_eq!(world.addresses(), ["192.0.2.1"]);
    let mut world = World::new(conf);
    world.mx("d.example", &[(20, "mx2.example")]);
    world.a("mx2.example", &["192.0.2.2"]);
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (TEMP, "No MX found for destination".to_owned())
    );
    let mut world = World::new(conf);
    world.mx("d.example", &[(20, "other.example")]);
    world.a("other.example", &["192.0.2.2"]);
    world.offer("bob@d.example");
    assert_eq!(world.addresses(), ["192.0.2.2"]);
    assert_eq!(
        world.lines,
        ["Couldn't find backup preference for [relay:d.example,smtp,backup=mx2.example]: error 4"]
    );
}

#[test]
fn smarthosts_come_from_tables_and_fail_in_the_words_of_the_manual() {
    let smtp = |url: &str| Ok(RelayHost::parse(url).unwrap());
    let mut world = World::new("action \"out\" relay host { \"x\" }");
    world
        .smarthosts
        .insert(String::new(), smtp("smtp://[192.0.2.7]:2525"));
    world.offer("bob@d.example");
    assert_eq!(world.started[0].to.to_string(), "192.0.2.7:2525");
    let mut world = World::new("action \"out\" relay domain { \"a\" = \"b\" }");
    world
        .smarthosts
        .insert("d.example".to_owned(), smtp("lmtp://lmtp.example:24"));
    world.offer("bob@D.example");
    assert_eq!(world.only_outcome(), (TEMP, "Host not found".to_owned()));
    world.offer("bob@other.example");
    assert!(
        world.lines[1].starts_with("Failed to retrieve smarthost for envelope 0000000200000001")
    );
    assert_eq!(world.outcomes()[1].1, "Cannot retrieve smarthost");
    let bad = Err(BadSmarthost::Url(line("tls://x")));
    world.smarthosts.insert("bad.example".to_owned(), bad);
    world.offer("bob@bad.example");
    assert_eq!(world.outcomes()[2].1, "Cannot parse smarthost");
}

#[test]
fn sources_are_drawn_until_one_works_and_no_longer() {
    // smtpd.conf(5), relay src.
    let conf = "action \"out\" relay src { \"192.0.2.100\", \"2001:db8::100\" }";
    let mut world = World::new(conf);
    world.core.own = Own::new(&["2001:db8::9".parse().unwrap()], &[]);
    world.sources = ["192.0.2.100", "2001:db8::100"]
        .map(|addr| Some(addr.parse().unwrap()))
        .to_vec();
    world.a("d.example", &["192.0.2.1", "2001:db8::1"]);
    world.offer("bob@d.example");
    assert_eq!(world.addresses(), ["192.0.2.1"]);
    world.refused(0);
    assert_eq!(world.addresses(), ["192.0.2.1", "2001:db8::1"]);
    world.refused(1);
    assert_eq!(world.only_outcome(), (TEMP, REFUSED.to_owned()));
    let mut world = World::new(conf);
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (TEMP, "Could not retrieve source address".to_owned())
    );
    assert!(world.lines[0].starts_with("Failed to get source address for [relay:d.example,"));
    // One that this host does not have.
    let mut world = World::new(conf);
    world.sources = vec![Some("192.0.2.100".parse().unwrap())];
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    let id = world.started[0].id;
    world.ended(id, End::Source(line("Cannot assign requested address")));
    assert_eq!(
        world.only_outcome(),
        (
            TEMP,
            "No valid route to destination: Cannot assign requested address".to_owned()
        )
    );
    assert_eq!(
        world.lines,
        ["smtp-out: Error on 192.0.2.100 <-> 192.0.2.1: Cannot assign requested address"]
    );
}

#[test]
fn a_blocked_source_is_not_used_until_it_is_resumed() {
    // smtpctl(8), pause mta from.
    let mut world = World::new("action \"out\" relay src { \"192.0.2.100\" }");
    let addr = "192.0.2.100".parse().unwrap();
    world.sources = vec![Some(addr)];
    world.a("d.example", &["192.0.2.1"]);
    assert!(world.core.block(addr, "D.example", true, T0));
    assert!(!world.core.block(addr, "d.example", true, T0));
    assert_eq!(
        world.core.list(Listing::Blocks, T0),
        ["192.0.2.100 -> d.example"]
    );
    world.offer("bob@d.example");
    assert_eq!(
        world.only_outcome(),
        (TEMP, "All routes to destination blocked".to_owned())
    );
    assert!(world.core.block(addr, "d.example", false, T0));
    world.offer("bob@d.example");
    assert_eq!(world.started.len(), 1);
}

#[test]
fn a_route_takes_one_connection_until_it_has_answered() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..30 {
        world.offer("bob@d.example");
    }
    world.ready(world.started[0].id);
    assert_eq!(world.started.len(), 1);
    world.delivered(world.started[0].id);
    // mta limit max-conn-per-route, and a burst that does not wait for conn-delay-relay.
    assert_eq!(world.started.len(), 5);
    for at in 0..4 {
        world.ready(world.started[1 + at].id);
    }
    assert_eq!(world.core.sessions.sending(), 5);
    while world.outcomes().len() < 30 {
        let busy: Vec<SessionId> = world
            .core
            .sessions
            .iter()
            .filter(|(_, s)| matches!(s.phase(), Phase::Sending(_)))
            .map(|(id, _)| *id)
            .collect();
        busy.into_iter().for_each(|id| world.delivered(id));
    }
    assert_eq!(world.quits.len(), 0);
    world.pass(2);
    assert_eq!(world.quits.len(), 4);
    for id in world.quits.clone() {
        world.ended(id, End::Quit);
    }
    // mta limit session-keepalive.
    world.pass(10);
    assert_eq!(world.quits.len(), 5);
    world.ended(world.quits[4], End::Quit);
    assert!(world.core.relays.is_empty());
    assert!(
        world
            .outcomes()
            .iter()
            .all(|(v, _)| *v == Verdict::Delivered)
    );
}

#[test]
fn a_session_ends_after_as_many_messages_as_it_may_take_and_another_follows_at_once() {
    // smtpd.conf(5), mta limit session-mail-max.
    let mut world = World::new("mta limit session-mail-max 2\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..3 {
        world.offer("bob@d.example");
    }
    let first = world.started[0].id;
    world.ready(first);
    let others = world.started.len();
    world.delivered(first);
    world.delivered(first);
    assert_eq!(world.quits, [first]);
    world.ended(first, End::Quit);
    assert!(
        others > 1 || world.started.len() == 2,
        "{:?}",
        world.started.len()
    );
}

#[test]
fn a_connection_that_died_idle_costs_a_message_nothing_but_another_one() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    world.offer("carol@d.example");
    assert_eq!(world.sent.len(), 2);
    world.ended(first, failed("Connection closed unexpectedly"));
    world.pass(3);
    let relays = world.core.list(Listing::Relays, world.now);
    assert_eq!(world.started.len(), 2, "{relays:?} {:?}", world.lines);
    let second = world.started[1].id;
    world.ready(second);
    assert_eq!(world.sent[2].1.envelopes[0].dest.user(), "carol");
    // With a new connection that counts: put off.
    world.ended(second, failed("Connection closed unexpectedly"));
    assert_eq!(
        world.outcomes()[1],
        (TEMP, "Connection closed unexpectedly".to_owned())
    );
}

#[test]
fn a_relay_with_enough_waiting_has_the_rest_held_and_asks_for_it_again() {
    // smtpd.conf(5), mta limit task-hiwat, task-lowat, task-release.
    let conf = "mta limit task-hiwat 4 task-lowat 2 task-release 3\naction \"out\" relay";
    let mut world = World::new(conf);
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..10 {
        world.offer("bob@d.example");
    }
    let held = |w: &World| {
        w.reports
            .iter()
            .filter(|r| matches!(r, Report::Held(..)))
            .count()
    };
    assert_eq!(held(&world), 6);
    assert_eq!(
        world.lines,
        ["smtp-out: hiwat reached on [relay:d.example,smtp]: holding envelopes"]
    );
    let id = world.started[0].id;
    world.ready(id);
    world.delivered(id);
    let release = Report::Release(crate::deliver::Release {
        key: HoldKey(1),
        count: 3,
    });
    assert!(world.reports.contains(&release));
    assert!(world.lines[1].starts_with("smtp-out: back to lowat on [relay:d.example"));
    // What is held for a destination that cannot be reached fails like the rest: it was tried, too.
    let mut world = World::new(conf);
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..10 {
        world.offer("bob@d.example");
    }
    world.refused(0);
    assert_eq!(world.outcomes().len(), 4);
    let all = Report::Release(crate::deliver::Release {
        key: HoldKey(1),
        count: usize::MAX,
    });
    assert!(world.reports.contains(&all));
    for _ in 0..6 {
        world.offer("bob@d.example");
    }
    assert_eq!(world.outcomes(), vec![(TEMP, REFUSED.to_owned()); 10]);
    assert_eq!(world.started.len(), 1);
    world.pass(5);
    assert!(world.core.relays.is_empty());
}

#[test]
fn destinations_that_do_not_answer_leave_room_for_those_that_do() {
    let mut world = plain();
    for n in 0..20 {
        world.a(
            &format!("dead{n}.example"),
            &[&format!("192.0.2.{}", 100 + n)],
        );
        world.offer(&format!("bob@dead{n}.example"));
    }
    assert_eq!(world.started.len(), 6);
    world.a("good.example", &["192.0.2.1"]);
    world.offer("bob@good.example");
    assert_eq!(world.started.len(), 6);
    // As those fail, the others have their turns; nobody is forgotten.
    for at in 0.. {
        let Some(start) = world.started.get(at).cloned() else {
            break;
        };
        match start.to.ip().to_string().as_str() {
            "192.0.2.1" => world.ready(start.id),
            _ => world.refused(at),
        }
    }
    assert_eq!((world.started.len(), world.sent.len()), (21, 1));
    assert_eq!(world.outcomes().len(), 20);
}

#[test]
fn an_admin_sees_hosts_relays_and_routes_as_the_manual_prints_them() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    let now = world.now.plus(61);
    let list = |world: &World, what| world.core.list(what, now);
    assert_eq!(
        list(&world, Listing::Hosts),
        ["192.0.2.1 (null) refcount=1 nconn=1 lastconn=1m1s"]
    );
    assert_eq!(
        list(&world, Listing::Relays),
        [
            "[relay:d.example,smtp] refcount=2 ntask=1 nconn=1 lastconn=1m1s timeout=- wait=",
            "  connector [] refcount=0 nconn=1 lastconn=1m1s timeout=- flags=",
        ]
    );
    assert_eq!(
        list(&world, Listing::Routes),
        ["1. [] <-> 192.0.2.1 N--- nconn=1 nerror=0 penalty=0 timeout=-"]
    );
    world.refused(0);
    assert_eq!(
        world.core.list(Listing::Routes, T0),
        ["1. [] <-> 192.0.2.1 ND-- nconn=0 nerror=1 penalty=1 timeout=15s"]
    );
    world.core.resume_route(RouteId(1), T0);
    world.obey();
    assert_eq!(
        world.lines.last().unwrap(),
        "smtp-out: Enabling route [] <-> 192.0.2.1 per admin request"
    );
    assert_eq!(
        world.core.list(Listing::Routes, T0),
        ["1. [] <-> 192.0.2.1 N--- nconn=0 nerror=1 penalty=0 timeout=-"]
    );
}

#[test]
fn recipients_beyond_what_a_transaction_takes_go_into_the_next_one() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for low in 1..=250 {
        let mut envelope = samples::envelope("bob");
        envelope.id = EvpId::new(MsgId::new(7).unwrap(), low).unwrap();
        envelope.action = line("out");
        envelope.kind = EnvelopeKind::Relay;
        envelope.dest = MailAddr::new("bob", "d.example").unwrap();
        world.core.offer(vec![envelope], T0);
    }
    world.obey();
    serve(&mut world);
    let sizes: Vec<usize> = world.sent.iter().map(|(_, l)| l.envelopes.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn what_was_put_off_is_tried_when_its_domain_answers() {
    // smtpd.conf(5), mta max-deferred.
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    world.pass(11);
    world.ended(first, End::Quit);
    // Down for a while.
    let put_off = world.offer("carol@d.example");
    world.refused(1);
    world.pass(15);
    world.offer("dave@d.example");
    world.ready(world.started[2].id);
    world.delivered(world.started[2].id);
    assert!(world.reports.contains(&Report::Hurry(vec![put_off])));
    assert_eq!(
        world.core.list(Listing::HostStats, T0),
        [format!("d.example|{}|250 ok", world.now.0)]
    );
}

#[test]
fn what_has_not_begun_goes_back_when_the_daemon_stops() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    let id = world.offer("bob@d.example");
    world.core.stop();
    world.obey();
    assert_eq!(world.reports, [Report::Held(id, HoldKey(1))]);
}

#[test]
fn a_relay_with_a_label_waits_for_its_credentials_and_keeps_them() {
    // smtpd.conf(5), relay: auth.
    let mut world = with_login();
    let credentials = Credentials {
        user: line("x"),
        password: line("y"),
    };
    let relay = world.secrets[0].0;
    world.core.secret(relay, Some(credentials.clone()), T0);
    world.obey();
    assert_eq!(world.started[0].login, Some(credentials));
    world.offer("joe@e.example");
    assert_eq!(world.secrets.len(), 1, "asked again");
}

#[test]
fn without_its_credentials_a_relay_fails() {
    let mut world = with_login();
    let relay = world.secrets[0].0;
    world.core.secret(relay, None, T0);
    world.obey();
    assert_eq!(
        world.lines,
        ["Failed to retrieve secret for [relay:mx.example,port=465,smtps,auth=s:bob,mx]"]
    );
    let text = "Could not retrieve credentials".to_owned();
    assert_eq!(world.only_outcome(), (TEMP, text));
    assert!(world.core.relays.is_empty() && world.core.domains.is_empty());
    // An answer that comes too late is nobody's.
    world.core.secret(relay, None, T0);
}

#[test]
fn forwarded_mail_goes_in_a_transaction_of_its_own() {
    // smtpd.conf(5), relay: srs. Who is not forwarded to keeps the sender as it is.
    let mut world = World::new("srs key \"secret\"\naction \"out\" relay srs");
    world.mx("d.example", &[(10, "a.example")]);
    world.a("a.example", &["192.0.2.1"]);
    let direct = Envelope {
        id: EvpId::new(MsgId::new(9).unwrap(), 1).unwrap(),
        action: line("out"),
        kind: EnvelopeKind::Relay,
        dest: MailAddr::new("joe", "d.example").unwrap(),
        rcpt: MailAddr::new("joe", "d.example").unwrap(),
        created: T0,
        ..samples::envelope("bob")
    };
    let forwarded = Envelope {
        id: EvpId::new(MsgId::new(9).unwrap(), 2).unwrap(),
        rcpt: MailAddr::new("list", "fwd.example").unwrap(),
        ..direct.clone()
    };
    world.core.offer(vec![direct], T0);
    world.core.offer(vec![forwarded], T0);
    world.obey();
    let id = world.started[0].id;
    world.ready(id);
    world.delivered(id);
    let domains: Vec<_> = world
        .sent
        .iter()
        .map(|(_, load)| load.srs.clone())
        .collect();
    assert_eq!(domains, [None, Some(line("fwd.example"))]);
}

#[test]
fn a_host_that_one_relay_cannot_use_goes_on_serving_the_others() {
    // Two URLs of one host; the certificate is not good enough for the second.
    let mut world = World::new("table t { d = x }\naction \"out\" relay domain <t>");
    for (domain, url) in [
        ("d.example", "smtp://mx.example"),
        ("e.example", "smtp+tls://mx.example"),
    ] {
        let host = RelayHost::parse(url).unwrap();
        world.smarthosts.insert(domain.to_owned(), Ok(host));
    }
    world.a("mx.example", &["192.0.2.1"]);
    world.offer("joe@d.example");
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    world.offer("joe@e.example");
    world.pass(3);
    assert_eq!(world.started.len(), 2);
    let second = world.started[1].id;
    world.ended(
        second,
        End::Unfit(Outcome::temp(Status::new(4, 7, 0), line(REFUSED))),
    );
    world.pass(3);
    let outcome = world.outcomes().pop().unwrap();
    assert_eq!(outcome, (TEMP, REFUSED.to_owned()));
    assert_eq!(world.started.len(), 2, "it was tried again and again");
    assert!(world.core.routes.values().all(|route| route.penalty == 0));
    world.offer("joe@d.example");
    assert_eq!(world.sent.len(), 2);
}

/// Offers so many messages to each of `count` domains, all of whose mail goes to one address.
fn share_one_host(world: &mut World, count: usize, messages: usize) {
    world.a("mx.example", &["192.0.2.1"]);
    for n in 0..count {
        world.mx(&format!("d{n}.example"), &[(10, "mx.example")]);
    }
    for n in 0..count * messages {
        world.offer(&format!("bob@d{}.example", n % count));
    }
}

/// Hosts answer at once until nothing is left to do.
fn serve(world: &mut World) {
    loop {
        let [ready, sent, quit] = world.served;
        if let Some(start) = world.started.get(ready) {
            world.served[0] += 1;
            world.ready(start.id);
        } else if let Some((id, _)) = world.sent.get(sent).cloned() {
            world.served[1] += 1;
            // It may have been taken back.
            if world.is_sending(id) {
                world.delivered(id);
            }
        } else if let Some(id) = world.quits.get(quit) {
            world.served[2] += 1;
            world.ended(*id, End::Quit);
        } else {
            return;
        }
    }
}

// issue: sixty domains on one exchanger waited for each other's idle connections.
#[test]
fn domains_that_share_an_exchanger_share_its_connections() {
    let mut world = plain();
    share_one_host(&mut world, 60, 2);
    serve(&mut world);
    assert_eq!(world.outcomes().len(), 120);
    assert!(world.started.len() <= 5, "{}", world.started.len());
    // No time has passed.
    assert_eq!(world.now, T0);
}

#[test]
fn a_session_that_has_nothing_to_do_makes_room_for_a_relay_that_cannot_use_it() {
    let mut world = World::new(
        "mta limit max-conn-per-host 1\ntable t { d = x }\naction \"out\" relay domain <t>",
    );
    // Another port is another server.
    for (domain, url) in [
        ("d.example", "smtp://mx.example:1"),
        ("e.example", "smtp://mx.example:2"),
    ] {
        let host = RelayHost::parse(url).unwrap();
        world.smarthosts.insert(domain.to_owned(), Ok(host));
    }
    world.a("mx.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    world.ready(world.started[0].id);
    world.offer("bob@e.example");
    let lines = world.core.list(Listing::Relays, T0);
    let waits = |line: &String| line.ends_with(" wait=max-conn-per-host");
    assert!(lines.iter().any(waits), "{lines:?}");
    world.delivered(world.started[0].id);
    assert_eq!(world.quits, [world.started[0].id]);
    world.ended(world.started[0].id, End::Quit);
    assert_eq!(world.started.len(), 2);
}

// A connection that was of use does not count for conn-delay-relay and conn-delay-route; one that
// was not does.
#[test]
fn only_connections_that_come_to_nothing_are_paced() {
    let mut world = World::new("mta limit session-mail-max 1\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..40 {
        world.offer("bob@d.example");
    }
    serve(&mut world);
    assert_eq!(
        (world.outcomes().len(), world.started.len(), world.now),
        (40, 40, T0)
    );
    let mut world = World::new("mta limit reconn-delay-route 0\naction \"out\" relay");
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..40 {
        world.offer("bob@d.example");
    }
    // It takes connections and hangs up when mail comes.
    for at in 0..20 {
        let Some(start) = world.started.get(at).cloned() else {
            break;
        };
        world.ready(start.id);
        world.ended(start.id, failed("Connection closed unexpectedly"));
    }
    assert_eq!(world.started.len(), 1);
}

// RFC 5321 section 3.8: 421 may come at any time, and hosts close connections that they have
// served.
#[test]
fn a_host_that_ends_a_session_it_has_served_is_connected_to_again_at_once() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    for count in 2..12 {
        let id = world.offer("bob@d.example");
        let (session, _) = world.sent.last().unwrap().clone();
        world
            .core
            .done(session, Vec::new(), &[id], Next::Over, world.now);
        world.obey();
        // It is dying: nothing is given to it.
        assert_eq!(world.sent.last().unwrap().0, session);
        world.ended(session, End::Quit);
        assert_eq!(world.started.len(), count);
        let again = world.started.last().unwrap().id;
        world.ready(again);
        assert_eq!(world.sent.last().unwrap().1.envelopes[0].id, id);
        world.delivered(again);
    }
    assert_eq!(world.outcomes().len(), 11);
    assert!(world.lines.is_empty());
}

#[test]
fn a_message_outlives_any_number_of_connections_that_died_idle() {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..30 {
        world.offer("bob@d.example");
    }
    world.ready(world.started[0].id);
    world.delivered(world.started[0].id);
    for at in 1..5 {
        world.ready(world.started[at].id);
    }
    for _ in 0..3 {
        for at in 0..5 {
            world.delivered(world.started[at].id);
        }
    }
    let before = world.outcomes().len();
    for at in 0..5 {
        let id = world.started[at].id;
        let load = world.finish(id);
        let ids: Vec<EvpId> = load.envelopes.iter().map(|e| e.id).collect();
        world.core.done(id, Vec::new(), &ids, Next::Over, world.now);
        world.obey();
        world.ended(id, End::Quit);
    }
    assert_eq!(world.outcomes().len(), before);
    world.served = [5, world.sent.len(), world.quits.len()];
    serve(&mut world);
    assert_eq!(world.outcomes().len(), 30);
    let delivered = |(verdict, _): &(Verdict, String)| *verdict == Verdict::Delivered;
    assert!(world.outcomes().iter().all(delivered));
}

#[test]
fn a_host_that_takes_no_further_connection_is_not_asked_for_one_again_and_again() {
    let mut world = World::new(
        "mta limit reconn-delay-route 0 conn-delay-route 0 conn-delay-relay 0\naction \"out\" relay",
    );
    world.a("d.example", &["192.0.2.1"]);
    for _ in 0..40 {
        world.offer("bob@d.example");
    }
    world.ready(world.started[0].id);
    world.delivered(world.started[0].id);
    for at in 1..world.started.len() {
        let id = world.started[at].id;
        world.ended(id, failed("421 4.7.0 too many connections"));
    }
    assert_eq!(world.started.len(), 5);
    while world.outcomes().len() < 40 {
        world.delivered(world.started[0].id);
    }
    assert_eq!(world.started.len(), 5);
    assert!(
        world
            .outcomes()
            .iter()
            .all(|(v, _)| *v == Verdict::Delivered)
    );
}

#[test]
fn a_message_does_not_wait_for_a_slow_connection_while_another_is_idle() {
    let mut world = plain();
    world.mx("d.example", &[(10, "a.example")]);
    world.a("a.example", &["192.0.2.1", "192.0.2.2"]);
    world.offer("bob@d.example");
    world.offer("bob@d.example");
    assert_eq!(world.started.len(), 2);
    let first = world.started[0].id;
    world.ready(first);
    world.delivered(first);
    assert_eq!(world.sent.len(), 1);
    world.pass(2);
    assert_eq!(world.sent.len(), 2);
    world.delivered(first);
    assert_eq!(world.outcomes().len(), 2);
}

// Beyond what the resolver takes, destinations wait; they do not fail.
#[test]
fn any_number_of_destinations_is_resolved_with_a_bounded_number_of_questions() {
    let mut world = plain();
    world.slow_names = true;
    for n in 0..1000 {
        let name = format!("d{n}.example");
        let hosts: Vec<String> = (0..3).map(|m| format!("m{m}.{name}")).collect();
        let list: Vec<(u16, &str)> = hosts.iter().map(|host| (1, host.as_str())).collect();
        world.mx(&name, &list);
        for (m, host) in hosts.iter().enumerate() {
            world.a(host, &[&format!("10.{m}.{}.{}", n / 250, n % 250 + 1)]);
        }
        world.offer(&format!("bob@{name}"));
    }
    let mut most = 0;
    while let Some((name, question)) = world.asked.pop() {
        most = most.max(world.asked.len() + 1);
        world.answer(name, &question);
        world.obey();
        serve(&mut world);
    }
    assert_eq!(most, QUESTIONS_MAX);
    assert_eq!(world.outcomes().len(), 1000);
    assert!(
        world
            .outcomes()
            .iter()
            .all(|(v, _)| *v == Verdict::Delivered)
    );
}

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
