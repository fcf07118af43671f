//! The resolver without sockets and clock: questions, bytes and `now` go in, commands come out.
//!
//! Three layers. A *job* is one caller: a name with its search list, or an address whose name is
//! confirmed. It asks *questions*, one after the other. A question that neither /etc/hosts nor the
//! cache answers becomes a *fetch*, which all jobs with that question share; it asks server after
//! server until one says something, and follows aliases.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::log;
use crate::util::Line;

use super::cache::Cache;
use super::hosts::Hosts;
use super::message::{self, Edns, Question, Transport, Verdict};
use super::name::{self, Wire};
use super::{Answer, Confirmed, DnsError, DnsResult, Kind, Reply, Reverse, Settings, limits};

/// What is to be done with sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Sends `wire` to `server`, and gives what comes back to [`Core::received`]. A socket that
    /// the fetch had before is closed.
    Ask {
        fetch: u64,
        server: SocketAddr,
        transport: Transport,
        wire: Vec<u8>,
    },
    /// Closes the fetch's socket.
    Close { fetch: u64 },
}

pub(super) struct Core {
    settings: Settings,
    hosts: Hosts,
    cache: Cache,
    random: fn() -> u32,
    servers: Vec<Server>,
    rotation: usize,
    jobs: HashMap<u64, Job>,
    fetches: HashMap<u64, Fetch>,
    by_question: HashMap<Question, u64>,
    /// Fetches that may not start yet.
    waiting: VecDeque<u64>,
    active: usize,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Questions that are answered, by the job that asked.
    settled: VecDeque<(u64, DnsResult)>,
    commands: Vec<Command>,
    last_number: u64,
}

struct Server {
    address: SocketAddr,
    /// It did not answer and is asked last until then.
    shunned_until: Option<Instant>,
}

struct Fetch {
    question: Question,
    /// The name that is asked for now: the question's, or what it is an alias of.
    asking: Question,
    hops: usize,
    ttl_s: u32,
    /// The servers in the order in which they are asked, over and over.
    order: Vec<usize>,
    attempt: usize,
    transport: Transport,
    edns: Edns,
    id: u16,
    strangers: u32,
    deadline: Instant,
    /// When there is no further attempt.
    over: Instant,
    jobs: Vec<u64>,
}

impl Core {
    pub(super) fn new(settings: Settings, hosts: Hosts, random: fn() -> u32) -> Core {
        let mut core = Core {
            settings: Settings::default(),
            hosts,
            cache: Cache::new(),
            random,
            servers: Vec::new(),
            rotation: 0,
            jobs: HashMap::new(),
            fetches: HashMap::new(),
            by_question: HashMap::new(),
            waiting: VecDeque::new(),
            active: 0,
            deadlines: BTreeSet::new(),
            settled: VecDeque::new(),
            commands: Vec::new(),
            last_number: 0,
        };
        core.adopt_settings(settings);
        core
    }

    /// Asks differently from now on. Fetches under way end as they began.
    pub(super) fn adopt_settings(&mut self, settings: Settings) {
        let server = |&address: &SocketAddr| Server {
            address,
            shunned_until: None,
        };
        if settings.servers != self.settings.servers || self.servers.is_empty() {
            self.cache.clear();
            self.servers = settings.servers.iter().map(server).collect();
        }
        self.settings = settings;
    }

    /// The hosts file has changed.
    pub(super) fn adopt_hosts(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// Finds the records of a name; names without a last dot follow the search rules.
    pub(super) fn lookup(&mut self, text: &str, kind: Kind, reply: Reply<DnsResult>, now: Instant) {
        let in_hosts = name::parse(text).filter(|name| self.hosts.addresses(name).is_some());
        let mut names: VecDeque<Wire> = match (in_hosts, kind.other_family()) {
            (Some(itself), Some(_)) => [itself].into(),
            _ => self.settings.candidates(text).into(),
        };
        let Some(name) = names.pop_front() else {
            return reply(Err(DnsError::NoName));
        };
        self.begin(
            Job::Lookup(Lookup {
                name,
                names,
                kind,
                has_other_family: OtherFamily::NotAsked,
                worst: DnsError::NoName,
                reply,
            }),
            now,
        );
    }

    /// Finds the name of an address and confirms it.
    pub(super) fn reverse(&mut self, addr: IpAddr, reply: Reply<Reverse>, now: Instant) {
        let addr = addr.to_canonical();
        self.begin(
            Job::Reverse(Backward {
                addr,
                name: None,
                reply,
            }),
            now,
        );
    }

    /// Bytes have come for a fetch, over the transport it was told to use.
    pub(super) fn received(&mut self, id: u64, bytes: &[u8], now: Instant) {
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        match message::read(bytes, fetch.id, &fetch.asking, fetch.transport) {
            Verdict::NotOurs => {
                fetch.strangers += 1;
                if fetch.transport == Transport::Tcp || fetch.strangers >= limits::STRANGERS {
                    self.next_attempt(id, now);
                }
            }
            Verdict::Truncated => {
                fetch.transport = Transport::Tcp;
                self.send(id, now);
            }
            Verdict::BadQuestion if fetch.edns == Edns::With => {
                fetch.edns = Edns::Without;
                self.send(id, now);
            }
            Verdict::BadQuestion | Verdict::ServerFailed => self.next_attempt(id, now),
            Verdict::Records(answer, ttl_s) => {
                let ttl_s = fetch.ttl_s.min(ttl_s);
                self.finish(id, Ok(answer), Some(ttl_s), now);
            }
            Verdict::Nothing(failure, ttl_s) => {
                let ttl_s = ttl_s.map(|ttl_s| ttl_s.min(fetch.ttl_s));
                self.finish(id, Err(failure), ttl_s, now);
            }
            Verdict::Alias { to, hops, ttl_s } => self.follow(id, to, hops, ttl_s, now),
        }
        self.settle(now);
    }

    /// The socket of a fetch has failed: nobody is there, or the connection broke.
    pub(super) fn failed(&mut self, id: u64, now: Instant) {
        self.shun(id, now);
        self.next_attempt(id, now);
        self.settle(now);
    }

    /// Repeats what got no answer in time, and gives up what was repeated enough.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.shun(id, now);
            self.next_attempt(id, now);
        }
        self.settle(now);
    }

    /// When [`Core::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// What is to be done with sockets, in this order.
    pub(super) fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    // Jobs.

    fn begin(&mut self, job: Job, now: Instant) {
        if self.jobs.len() >= limits::JOBS {
            return job.finish(Err(DnsError::TempFail));
        }
        match job.first() {
            Some(question) => {
                let id = self.number();
                self.jobs.insert(id, job);
                self.ask(id, question, now);
                self.settle(now);
            }
            None => job.finish(Err(DnsError::NoName)),
        }
    }

    /// Gives answers to the jobs that wait for them. A job asks a bounded number of questions.
    fn settle(&mut self, now: Instant) {
        while let Some((id, found)) = self.settled.pop_front() {
            let Some(mut job) = self.jobs.remove(&id) else {
                continue;
            };
            match job.next(&found) {
                Some(question) => {
                    self.jobs.insert(id, job);
                    self.ask(id, question, now);
                }
                None => job.finish(found),
            }
        }
    }

    fn ask(&mut self, job: u64, question: Question, now: Instant) {
        if let Some(answer) = self.hosts.answer(&question.name, question.kind) {
            self.settled.push_back((job, answer));
        } else if let Some(found) = self.cache.get(&question, now) {
            self.settled.push_back((job, found.clone()));
        } else if let Some(fetch) = self.by_question.get(&question) {
            if let Some(fetch) = self.fetches.get_mut(fetch) {
                fetch.jobs.push(job);
            }
        } else if self.active < limits::ACTIVE {
            let id = self.new_fetch(job, question, now);
            self.start(id, now);
        } else {
            let id = self.new_fetch(job, question, now);
            self.waiting.push_back(id);
        }
    }

    // Fetches.

    fn new_fetch(&mut self, job: u64, question: Question, now: Instant) -> u64 {
        let id = self.number();
        self.by_question.insert(question.clone(), id);
        self.fetches.insert(
            id,
            Fetch {
                asking: question.clone(),
                question,
                hops: 0,
                ttl_s: u32::MAX,
                order: Vec::new(),
                attempt: 0,
                transport: Transport::Udp,
                edns: Edns::With,
                id: 0,
                strangers: 0,
                deadline: now,
                over: now,
                jobs: vec![job],
            },
        );
        id
    }

    fn start(&mut self, id: u64, now: Instant) {
        let order = self.order(now);
        self.active += 1;
        if let Some(fetch) = self.fetches.get_mut(&id) {
            fetch.order = order;
            fetch.over = now + limits::QUESTION;
            self.send(id, now);
        }
    }

    /// Servers that answer come first; with `rotate` each question starts with another one.
    fn order(&mut self, now: Instant) -> Vec<usize> {
        let count = self.servers.len();
        let first = if self.settings.rotate {
            self.rotation
        } else {
            0
        };
        self.rotation = self.rotation.wrapping_add(1);
        let mut order: Vec<usize> = (0..count)
            .map(|n| (first.wrapping_add(n)) % count)
            .collect();
        order.sort_by_key(|&server| {
            self.servers[server]
                .shunned_until
                .is_some_and(|until| until > now)
        });
        order
    }

    fn next_attempt(&mut self, id: u64, now: Instant) {
        if let Some(fetch) = self.fetches.get_mut(&id) {
            fetch.attempt += 1;
            fetch.transport = Transport::Udp;
            self.send(id, now);
        }
    }

    /// Asks the server whose turn it is, or gives up.
    fn send(&mut self, id: u64, now: Instant) {
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        self.deadlines.remove(&(fetch.deadline, id));
        let attempts = fetch.order.len() * self.settings.attempts;
        let server = (fetch.attempt < attempts && now < fetch.over)
            .then(|| fetch.order.get(fetch.attempt % fetch.order.len()))
            .flatten()
            .and_then(|&server| self.servers.get(server));
        fetch.id = (self.random)() as u16;
        let wire = message::question(fetch.id, &fetch.asking, fetch.edns);
        let (Some(server), Some(wire)) = (server, wire) else {
            return self.finish(id, Err(DnsError::TempFail), None, now);
        };
        fetch.strangers = 0;
        fetch.deadline = (now + self.settings.timeout).min(fetch.over);
        self.deadlines.insert((fetch.deadline, id));
        self.commands.push(Command::Ask {
            fetch: id,
            server: server.address,
            transport: fetch.transport,
            wire,
        });
    }

    /// The name is an alias of one that the server said nothing of.
    fn follow(&mut self, id: u64, to: Wire, hops: usize, ttl_s: u32, now: Instant) {
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        fetch.hops += hops;
        if fetch.hops > limits::CHAIN {
            return self.finish(id, Err(DnsError::TempFail), None, now);
        }
        fetch.asking.name = to;
        fetch.ttl_s = fetch.ttl_s.min(ttl_s);
        fetch.attempt = 0;
        fetch.transport = Transport::Udp;
        self.send(id, now);
    }

    fn finish(&mut self, id: u64, found: DnsResult, ttl_s: Option<u32>, now: Instant) {
        let Some(fetch) = self.fetches.remove(&id) else {
            return;
        };
        self.deadlines.remove(&(fetch.deadline, id));
        self.by_question.remove(&fetch.question);
        self.commands.push(Command::Close { fetch: id });
        if found != Err(DnsError::TempFail)
            && let Some(server) = self.asked(&fetch)
        {
            server.shunned_until = None;
        }
        for job in fetch.jobs {
            self.settled.push_back((job, found.clone()));
        }
        self.cache.put(fetch.question, found, ttl_s, now);
        self.active -= 1;
        if let Some(next) = self.waiting.pop_front() {
            self.start(next, now);
        }
    }

    /// The server that a fetch asks now is asked last for a while.
    fn shun(&mut self, id: u64, now: Instant) {
        if let Some(fetch) = self.fetches.remove(&id) {
            if let Some(server) = self.asked(&fetch) {
                server.shunned_until = Some(now + limits::SHUNNED);
            }
            self.fetches.insert(id, fetch);
        }
    }

    fn asked(&mut self, fetch: &Fetch) -> Option<&mut Server> {
        let turn = fetch.attempt.checked_rem(fetch.order.len())?;
        self.servers.get_mut(*fetch.order.get(turn)?)
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// One caller.
enum Job {
    Lookup(Lookup),
    Reverse(Backward),
}

struct Lookup {
    /// The name that is asked for.
    name: Wire,
    /// Names that are asked for next, if that one has no address of either family.
    names: VecDeque<Wire>,
    kind: Kind,
    has_other_family: OtherFamily,
    /// The failure that says most of those so far.
    worst: DnsError,
    reply: Reply<DnsResult>,
}

/// Whether a name without addresses of one family has some of the other. The two lookups of a host
/// must end at the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OtherFamily {
    NotAsked,
    Asked,
    Exists,
}

struct Backward {
    addr: IpAddr,
    /// The name, once it is found.
    name: Option<Line>,
    reply: Reply<Reverse>,
}

impl Job {
    fn first(&self) -> Option<Question> {
        match self {
            Job::Lookup(lookup) => Some(lookup.question(lookup.kind)),
            Job::Reverse(backward) => Some(Question {
                name: name::parse(&super::reverse_name(backward.addr))?,
                kind: Kind::Ptr,
            }),
        }
    }

    /// The next question, when `found` is not the end.
    fn next(&mut self, found: &DnsResult) -> Option<Question> {
        match self {
            Job::Lookup(lookup) => lookup.next(found),
            Job::Reverse(backward) => {
                let Ok(Answer::Ptr(names)) = found else {
                    return None;
                };
                let name = names.first()?;
                backward.name = Some(name.clone());
                Some(Question {
                    name: name::parse(&format!("{name}."))?,
                    kind: match backward.addr {
                        IpAddr::V4(_) => Kind::A,
                        IpAddr::V6(_) => Kind::Aaaa,
                    },
                })
            }
        }
    }

    /// Tells the caller; `found` is the answer to the last question.
    fn finish(self, found: DnsResult) {
        match self {
            Job::Lookup(lookup) => {
                let worst = lookup.worst;
                let found = match lookup.has_other_family {
                    OtherFamily::Exists => Err(DnsError::NoData),
                    OtherFamily::NotAsked | OtherFamily::Asked => found,
                };
                (lookup.reply)(found.map_err(|failure| worse(worst, failure)));
            }
            Job::Reverse(backward) => {
                let confirmed = backward.confirmed(&found);
                (backward.reply)(Reverse {
                    name: backward.name,
                    confirmed,
                });
            }
        }
    }
}

impl Lookup {
    /// The search goes on only from a name that has no address of either family. One of which
    /// nobody can say that ends it: another host must not get the mail because of that.
    fn next(&mut self, found: &DnsResult) -> Option<Question> {
        let asked = std::mem::replace(&mut self.has_other_family, OtherFamily::NotAsked);
        let failure = match (asked, found) {
            (OtherFamily::NotAsked, found) => *found.as_ref().err()?,
            (_, Err(DnsError::NoName | DnsError::NoData)) => DnsError::NoName,
            (_, Ok(_) | Err(DnsError::TempFail)) => {
                self.has_other_family = OtherFamily::Exists;
                return None;
            }
        };
        self.worst = worse(self.worst, failure);
        if failure == DnsError::TempFail || self.names.is_empty() {
            return None;
        }
        if let (OtherFamily::NotAsked, Some(other)) = (asked, self.kind.other_family()) {
            self.has_other_family = OtherFamily::Asked;
            return Some(self.question(other));
        }
        self.name = self.names.pop_front()?;
        Some(self.question(self.kind))
    }

    fn question(&self, kind: Kind) -> Question {
        Question {
            name: self.name.clone(),
            kind,
        }
    }
}

impl Backward {
    fn confirmed(&self, found: &DnsResult) -> Confirmed {
        let has_address = match (found, self.addr) {
            (Ok(Answer::A(addrs)), IpAddr::V4(addr)) => addrs.contains(&addr),
            (Ok(Answer::Aaaa(addrs)), IpAddr::V6(addr)) => addrs.contains(&addr),
            _ => false,
        };
        match (found, &self.name) {
            (Err(DnsError::TempFail), Some(name)) => {
                log::info(format_args!(
                    "getaddrinfo: {name}: temporary failure in name resolution"
                ));
                Confirmed::Error
            }
            (Err(DnsError::TempFail), None) => Confirmed::Error,
            _ if has_address => Confirmed::Pass,
            _ => Confirmed::Fail,
        }
    }
}

/// Which of two failures of names in a search list is the truth about the name: that nobody could
/// say, then that there is a name without such records, then that there is none.
fn worse(one: DnsError, other: DnsError) -> DnsError {
    let rank = |failure| match failure {
        DnsError::NoName => 0,
        DnsError::NoData => 1,
        DnsError::TempFail => 2,
    };
    if rank(other) > rank(one) { other } else { one }
}
