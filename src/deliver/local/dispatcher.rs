//! Which local envelope is delivered next: limits, fairness, holding back.
//!
//! A pure structure of the runner's thread. Envelopes wait in groups, one for each pair of user
//! and userbase; groups take turns. A session is one delivery process at work: it carries one
//! envelope, or several of one group and action that may share a process. A group with too many
//! waiting asks the runner to hold more back, and asks for them again as it empties; that is all
//! the memory a flooded user costs.
//!
//! Who shares a session waits for all that is in it. So what has failed before travels alone, and
//! one that takes long keeps nothing else of its group waiting for another session. Nor does a
//! recipient for whom an LMTP server takes long get all sessions: what else comes for him waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::config::MdaLimits;
use crate::deliver::{HoldKey, Offer, Release};
use crate::log::stat;
use crate::mail::{Envelope, EvpId, Kind, MailAddr};
use crate::util::Line;

/// Most envelopes a session carries.
pub const SESSION_MAX: usize = 64;

/// A further session of a group that shares starts only when so many envelopes wait for each one
/// that has just begun: fewer processes with more to do share more syncs. Connections have nothing
/// to share but their beginning, and are kept for the next session.
const SHARE_THRESHOLD: usize = 32;

/// A session that lasts so long is slow, and is not waited for.
const SLOW: Duration = Duration::from_secs(5);

/// The water marks count deliveries. A shared session makes many of them in one go, so a group
/// that shares may have as many times more waiting.
const SHARE_FACTOR: usize = 16;

/// Whether an envelope may travel with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It needs a process of its own.
    Alone,
    /// It may share a process with others of its user and action.
    Shared,
    /// It may share a connection with others of its group.
    Lmtp,
}

impl Mode {
    /// Whether a session may carry several.
    fn is_shared(self) -> bool {
        self != Mode::Alone
    }
}

/// One delivery process's work.
#[derive(Debug)]
pub struct Session {
    /// The group's id, for the log.
    pub gid: u64,
    /// How the envelopes travel.
    pub mode: Mode,
    /// At least one; with [`Mode::Alone`] exactly one.
    pub envelopes: Vec<Envelope>,
}

/// Everything known of waiting and running local deliveries.
pub struct Dispatcher {
    limits: MdaLimits,
    next_id: u64,
    ids: HashMap<Key, u64>,
    groups: HashMap<u64, Group>,
    /// Groups that could start a session, in the order of their turns.
    ring: VecDeque<u64>,
    /// The sessions of envelopes.
    running: HashMap<EvpId, u64>,
    /// In the order in which they began.
    sessions: BTreeMap<u64, Running>,
    next_session: u64,
    /// The first session that is not slow.
    first_young: u64,
    releases: VecDeque<Release>,
}

/// What a group is for: a user and a userbase, or a connection.
pub type Key = (Line, Option<String>);

/// The group of an envelope by its user and the userbase of its action.
pub fn group_key(envelope: &Envelope, userbase: Option<String>) -> Key {
    match &envelope.kind {
        Kind::Local(local) => (local.user.clone(), userbase),
        Kind::Relay | Kind::Bounce(_) => (Line::default(), userbase),
    }
}

struct Running {
    group: u64,
    mode: Mode,
    since: Instant,
    /// Envelopes without an outcome, and whom they are for.
    left: Vec<(EvpId, MailAddr)>,
}

struct Group {
    key: Key,
    waiting: VecDeque<(Mode, Envelope)>,
    sessions: usize,
    /// Those of them that are not slow.
    young: usize,
    in_ring: bool,
    on_hold: bool,
    /// Envelopes the runner was told to hold and not yet asked for.
    held: usize,
    /// Envelopes it was asked for that have not come yet.
    expected: usize,
}

impl Dispatcher {
    /// An idle dispatcher. Ids of groups start at `first_id`.
    pub fn new(limits: MdaLimits, first_id: u64) -> Dispatcher {
        Dispatcher {
            limits,
            next_id: first_id,
            ids: HashMap::new(),
            groups: HashMap::new(),
            ring: VecDeque::new(),
            running: HashMap::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
            first_young: 0,
            releases: VecDeque::new(),
        }
    }

    /// An envelope is due. `key` is that of its group.
    pub fn offer(&mut self, envelope: Envelope, key: Key, mode: Mode) -> Offer {
        let id = self.group_of(key);
        let marks = Marks::of(&self.limits, mode);
        let Some(group) = self.groups.get_mut(&id) else {
            return Offer::Hold(HoldKey(id));
        };
        group.expected = group.expected.saturating_sub(1);
        if group.on_hold || group.waiting.len() >= marks.high {
            group.on_hold = true;
            group.held = group.held.saturating_add(1);
            return Offer::Hold(HoldKey(id));
        }
        group.waiting.push_back((mode, envelope));
        stat::MDA_ENVELOPE.inc();
        stat::MDA_PENDING.inc();
        self.enqueue(id);
        Offer::Taken
    }

    /// The next session to start, if the limits allow one. `now` never goes back.
    pub fn start(&mut self, now: Instant) -> Option<Session> {
        self.find_slow(now);
        // Groups that would take more than their share now keep their turn.
        let mut greedy = Vec::new();
        let session = self.next(&mut greedy, now);
        for id in greedy.into_iter().rev() {
            self.ring.push_front(id);
        }
        session
    }

    fn next(&mut self, greedy: &mut Vec<u64>, now: Instant) -> Option<Session> {
        while self.sessions.len() < self.limits.max_session {
            let id = self.ring.pop_front()?;
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            if group.sessions > 0 && self.sessions.len() >= free_for_all(&self.limits) {
                greedy.push(id);
                continue;
            }
            group.in_ring = false;
            if !group.may_start(&self.limits) {
                continue;
            }
            let busy = busy(&self.sessions, id, self.first_young);
            let Some(session) = group.take(id, &busy) else {
                continue;
            };
            group.sessions += 1;
            group.young += 1;
            if let Some(release) = group.release(id, &Marks::of(&self.limits, session.mode)) {
                self.ask_for(release);
            }
            self.note_running(id, &session, now);
            self.enqueue(id);
            return Some(session);
        }
        None
    }

    /// How many sessions there are.
    pub fn running(&self) -> usize {
        self.sessions.len()
    }

    /// Whether time alone may let a session start.
    pub fn is_waiting(&self) -> bool {
        let mut young = self.sessions.range(self.first_young..);
        young.any(|(_, session)| {
            let group = self.groups.get(&session.group);
            matches!(
                group.and_then(|g| g.waiting.front()),
                Some((Mode::Shared, _))
            )
        })
    }

    /// An envelope's outcome is known. The answer names its group.
    pub fn finished(&mut self, envelope: EvpId) -> Option<HoldKey> {
        let name = self.running.remove(&envelope)?;
        stat::MDA_ENVELOPE.dec();
        stat::MDA_RUNNING.dec();
        let session = self.sessions.get_mut(&name)?;
        let id = session.group;
        session.left.retain(|(left, _)| *left != envelope);
        let is_over = session.left.is_empty();
        if is_over && let Some(group) = self.groups.get_mut(&id) {
            group.sessions = group.sessions.saturating_sub(1);
            let was_young = usize::from(name >= self.first_young);
            group.young = group.young.saturating_sub(was_young);
        }
        if is_over {
            self.sessions.remove(&name);
        }
        self.enqueue(id);
        self.remove_if_idle(id);
        Some(HoldKey(id))
    }

    /// The next request for held envelopes, `first` before others. Asked for once after each
    /// [`Dispatcher::finished`] with the group it named, no request is left when all is done: a
    /// group's last envelope takes the group's last request along.
    pub fn release(&mut self, first: Option<HoldKey>) -> Option<Release> {
        let of_first = |release: &Release| Some(release.key) == first;
        let at = self.releases.iter().position(of_first).unwrap_or(0);
        self.releases.remove(at)
    }

    fn ask_for(&mut self, release: Release) {
        match self.releases.iter_mut().find(|r| r.key == release.key) {
            Some(asked) => asked.count = asked.count.saturating_add(release.count),
            None => self.releases.push_back(release),
        }
    }

    fn group_of(&mut self, key: Key) -> u64 {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.ids.insert(key.clone(), id);
        self.groups.insert(id, Group::new(key));
        stat::MDA_USER.inc();
        id
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(group) = self.groups.get_mut(&id)
            && !group.in_ring
            && group.may_start(&self.limits)
        {
            group.in_ring = true;
            self.ring.push_back(id);
        }
    }

    /// Lets groups go on whose sessions have become slow.
    fn find_slow(&mut self, now: Instant) {
        while let Some((name, session)) = self.sessions.range(self.first_young..).next()
            && now.saturating_duration_since(session.since) >= SLOW
        {
            let id = session.group;
            self.first_young = name + 1;
            if let Some(group) = self.groups.get_mut(&id) {
                group.young = group.young.saturating_sub(1);
            }
            self.enqueue(id);
        }
    }

    fn note_running(&mut self, group: u64, session: &Session, now: Instant) {
        let name = self.next_session;
        self.next_session += 1;
        let mut left = Vec::with_capacity(session.envelopes.len());
        for envelope in &session.envelopes {
            self.running.insert(envelope.id, name);
            left.push((envelope.id, envelope.dest.clone()));
        }
        let count = i64::try_from(left.len()).unwrap_or(0);
        let running = Running {
            group,
            mode: session.mode,
            since: now,
            left,
        };
        self.sessions.insert(name, running);
        stat::MDA_PENDING.add(-count);
        stat::MDA_RUNNING.add(count);
    }

    /// Removes a group with nothing to do, and asks for what is still held for it.
    fn remove_if_idle(&mut self, id: u64) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        if group.sessions > 0 || !group.waiting.is_empty() {
            return;
        }
        let held = group.held;
        self.ids.remove(&group.key);
        self.groups.remove(&id);
        if held > 0 {
            self.ask_for(Release {
                key: HoldKey(id),
                count: usize::MAX,
            });
        }
        stat::MDA_USER.dec();
    }
}

/// While more sessions than these run, a group that has one gets no other: users whose commands
/// take long leave room for everybody else. Where there is little room none is kept.
fn free_for_all(limits: &MdaLimits) -> usize {
    const LITTLE: usize = 8;
    match limits.max_session {
        few @ ..LITTLE => few,
        many => many / 2,
    }
}

/// Whether an envelope has failed for a time. What it meets again must not meet others.
fn has_failed(envelope: &Envelope) -> bool {
    envelope.retry > 0
}

/// Whom the sessions of a group are at work for by LMTP, and whether one of these is slow.
fn busy(
    sessions: &BTreeMap<u64, Running>,
    group: u64,
    first_young: u64,
) -> HashMap<&MailAddr, bool> {
    let mut busy = HashMap::new();
    let is_of_it = |session: &Running| session.group == group && session.mode == Mode::Lmtp;
    for (name, session) in sessions.iter().filter(|(_, session)| is_of_it(session)) {
        for (_, recipient) in &session.left {
            *busy.entry(recipient).or_default() |= *name < first_young;
        }
    }
    busy
}

impl Group {
    fn new(key: Key) -> Group {
        Group {
            key,
            waiting: VecDeque::new(),
            sessions: 0,
            young: 0,
            in_ring: false,
            on_hold: false,
            held: 0,
            expected: 0,
        }
    }

    fn may_start(&self, limits: &MdaLimits) -> bool {
        let enough = match self.waiting.front() {
            None => return false,
            Some((Mode::Shared, first)) if !has_failed(first) => {
                SHARE_THRESHOLD.saturating_mul(self.young)
            }
            Some(_) => 1,
        };
        self.sessions < limits.max_session_per_user && self.waiting.len() >= enough
    }

    /// The envelopes of the next session, in the order they came. Who is waited for, or has failed
    /// before, gets no second one.
    fn take(&mut self, gid: u64, busy: &HashMap<&MailAddr, bool>) -> Option<Session> {
        let may_go = |envelope: &Envelope| match busy.get(&&envelope.dest) {
            Some(is_slow) => !is_slow && !has_failed(envelope),
            None => true,
        };
        let mut waiting = self.waiting.iter();
        let at = waiting.position(|(_, envelope)| may_go(envelope))?;
        let (mode, first) = self.waiting.remove(at)?;
        let action = first.action.clone();
        let shares = mode.is_shared() && !has_failed(&first);
        let joining = self
            .waiting
            .iter()
            .skip(at)
            .take(if shares { SESSION_MAX - 1 } else { 0 })
            .take_while(|(next_mode, next)| {
                let alike = *next_mode == mode && next.action == action;
                alike && !has_failed(next) && may_go(next)
            })
            .count();
        let mut envelopes = vec![first];
        envelopes.extend(self.waiting.drain(at..at + joining).map(|(_, next)| next));
        Some(Session {
            gid,
            mode,
            envelopes,
        })
    }

    fn release(&mut self, id: u64, marks: &Marks) -> Option<Release> {
        if self.waiting.len() + self.expected > marks.low {
            return None;
        }
        self.on_hold = false;
        if self.held == 0 {
            return None;
        }
        self.held = self.held.saturating_sub(marks.step);
        self.expected += marks.step;
        Some(Release {
            key: HoldKey(id),
            count: marks.step,
        })
    }
}

/// The water marks of `mda limit task-…`.
struct Marks {
    high: usize,
    low: usize,
    step: usize,
}

impl Marks {
    fn of(limits: &MdaLimits, mode: Mode) -> Marks {
        let factor = if mode.is_shared() { SHARE_FACTOR } else { 1 };
        let high = limits.task_hiwat.max(1).saturating_mul(factor);
        Marks {
            high,
            low: limits.task_lowat.saturating_mul(factor).min(high - 1),
            step: limits.task_release.max(1).saturating_mul(factor),
        }
    }
}

#[cfg(test)]
mod tests;
