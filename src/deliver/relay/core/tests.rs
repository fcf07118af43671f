//! A fake resolver, fake tables, fake sessions, a fake clock: what is decided, and in which words.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::config::{self, Defaults, Sources};
use crate::deliver::relay::Configured;
use crate::deliver::relay::mx::Question;
use crate::deliver::relay::secure::Connectors;
use crate::dns::{Answer, Confirmed, DnsError, DnsResult, Kind, Mx, Reverse};
use crate::mail::samples::{self, line};
use crate::mail::{Kind as EnvelopeKind, MsgId, Outcome, Peer, Status};
use crate::table::Snapshot;
use crate::util::dice::Dice;

use crate::deliver::HoldKey;

use super::*;

mod ahead;
mod choosing;
mod connections;
mod messages;
mod storm;

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
        addresses: vec![Peer::parse("192.0.2.9").unwrap()],
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
                name: Some(line(name)),
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

    /// Nobody can say which addresses a host has.
    fn has_no_answer(&mut self, host: &str) {
        for kind in [Kind::Aaaa, Kind::A] {
            let key = (format!("{host}."), kind);
            self.zone.insert(key, Err(DnsError::TempFail));
        }
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
                let addr = if self.sources.is_empty() {
                    None
                } else {
                    self.sources.rotate_left(1);
                    *self.sources.last().unwrap()
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

    fn all_delivered(&self) -> bool {
        let outcomes = self.outcomes();
        outcomes.iter().all(|(v, _)| *v == Verdict::Delivered)
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

/// A host that has taken a message; its session waits for another.
fn with_idle_session() -> (World, SessionId) {
    let mut world = plain();
    world.a("d.example", &["192.0.2.1"]);
    world.offer("bob@d.example");
    let session = world.started[0].id;
    world.ready(session);
    world.delivered(session);
    (world, session)
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
    assert!(world.all_delivered());
}

#[test]
fn an_exchanger_is_found_at_once_among_many_whose_zone_does_not_answer() {
    let mut world = plain();
    world.slow_names = true;
    let hosts: Vec<String> = (0..47).map(|n| format!("m{n}.silent.example")).collect();
    let mut list: Vec<(u16, &str)> = hosts.iter().map(|host| (10, host.as_str())).collect();
    list.push((10, "good.example"));
    world.mx("d.example", &list);
    world.offer("bob@d.example");
    let (name, question) = world.asked.remove(0);
    world.answer(name, &question);
    world.obey();
    let asked = world.asked.iter().filter(|(_, q)| q.kind == Kind::A);
    assert_eq!(asked.count(), 48);
}

#[test]
fn a_zone_that_does_not_answer_holds_up_no_other_destination() {
    let mut world = plain();
    world.slow_names = true;
    let hosts: Vec<String> = (0..48).map(|n| format!("m{n}.silent.example")).collect();
    let list: Vec<(u16, &str)> = hosts.iter().map(|host| (10, host.as_str())).collect();
    for n in 0..10 {
        let name = format!("d{n}.example");
        world.mx(&name, &list);
        world.offer(&format!("bob@{name}"));
    }
    world.a("good.example", &["192.0.2.1"]);
    world.offer("bob@good.example");
    let is_silent = |(_, question): &(Destination, Question)| question.name.contains("silent");
    while let Some(at) = world.asked.iter().position(|asked| !is_silent(asked)) {
        let (name, question) = world.asked.remove(at);
        world.answer(name, &question);
        world.obey();
    }
    serve(&mut world);
    assert_eq!((world.outcomes().len(), world.all_delivered()), (1, true));
}
