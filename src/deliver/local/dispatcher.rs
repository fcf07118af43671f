//! Which local envelope is delivered next: limits, fairness, holding back.
//!
//! A pure structure of the runner's thread. Envelopes wait in groups, one for each pair of user
//! and userbase; groups take turns. A session is one delivery process at work: it carries one
//! envelope, or several of one group and action that may share a process. A group with too many
//! waiting asks the runner to hold more back, and asks for them again as it empties; that is all
//! the memory a flooded user costs.
//!
//! Who shares a session waits for all that is in it. So what has failed before travels alone, and
//! a session that takes long keeps nothing else of its group waiting for another one. Nor does a
//! recipient whose LMTP server or maildir takes long get all sessions: what else comes for him
//! waits. Recipients of a message come a few at a time: for a moment the rest wait for the LMTP
//! session that has begun with it, so that the server gets it twice and not for each few. And what
//! has failed before leaves half of its group's sessions to what is new, and holds none of it back.

mod waiting;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::config::MdaLimits;
use crate::deliver::{HoldKey, Offer, Release};
use crate::log::stat;
use crate::mail::{Envelope, EvpId, Kind, MailAddr, MsgId};
use crate::util::Line;

use self::waiting::{Marks, Waiting};

/// Most envelopes a session carries.
pub const SESSION_MAX: usize = 64;

/// A further session of a group that shares starts only when so many envelopes wait for each one
/// that has just begun: fewer processes with more to do share more syncs. Connections have nothing
/// to share but their beginning, and are kept for the next session.
const SHARE_THRESHOLD: usize = 32;

/// A session that lasts so long is slow, and is not waited for.
const SLOW: Duration = Duration::from_secs(5);

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
    releases: Vec<Release>,
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
    /// What it carries has failed before.
    is_again: bool,
    /// It is slow, or what it carries has failed before.
    is_doubtful: bool,
    /// The message that other envelopes of may be on their way, and wait for this session.
    awaited: Option<MsgId>,
    /// Envelopes without an outcome, and whom they are for.
    left: Vec<(EvpId, MailAddr)>,
}

struct Group {
    key: Key,
    /// What is tried for the first time.
    fresh: Waiting<(Mode, Envelope)>,
    /// What has failed before.
    again: Waiting<(Mode, Envelope)>,
    /// Whether what has failed had the last turn.
    again_was_last: bool,
    sessions: usize,
    /// Those of them that are slow, or carry what has failed before.
    doubtful: usize,
    /// Those of them that carry what has failed before.
    trying_again: usize,
    /// Whom the sessions that can be shared are at work for.
    busy: HashMap<MailAddr, Busy>,
    /// [`Running::awaited`] of those that are not slow.
    awaited: Vec<MsgId>,
    in_ring: bool,
}

/// How many envelopes for a recipient are in sessions, in slow ones, and in those of what has failed
/// before.
#[derive(Default)]
struct Busy {
    all: usize,
    slow: usize,
    again: usize,
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
            releases: Vec::new(),
        }
    }

    /// An envelope is due. `key` is that of its group.
    pub fn offer(&mut self, envelope: Envelope, key: Key, mode: Mode) -> Offer {
        let id = self.group_of(key);
        let marks = Marks::of(&self.limits, mode.is_shared());
        let Some(group) = self.groups.get_mut(&id) else {
            return Offer::Hold(HoldKey(id));
        };
        // New mail is not held because of what has failed.
        let waiting = match has_failed(&envelope) {
            true => &mut group.again,
            false => &mut group.fresh,
        };
        let offer = waiting.offer((mode, envelope), &marks);
        if offer == Offer::Taken {
            stat::MDA_ENVELOPE.inc();
            stat::MDA_PENDING.inc();
            self.enqueue(id);
        }
        offer
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
            let Some(session) = group.take(id, &self.limits) else {
                continue;
            };
            let marks = Marks::of(&self.limits, session.mode.is_shared());
            let asked = [group.fresh.release(&marks), group.again.release(&marks)];
            self.releases.extend(asked.into_iter().flatten());
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
            !session.is_doubtful
                && group.is_some_and(|group| {
                    group.sessions < self.limits.max_session_per_user && group.waits_for(session)
                })
        })
    }

    /// An envelope's outcome is known.
    pub fn finished(&mut self, envelope: EvpId) {
        let Some(name) = self.running.remove(&envelope) else {
            return;
        };
        stat::MDA_ENVELOPE.dec();
        stat::MDA_RUNNING.dec();
        let Some(session) = self.sessions.get_mut(&name) else {
            return;
        };
        let id = session.group;
        let mut left = session.left.iter();
        let Some(at) = left.position(|(left, _)| *left == envelope) else {
            return;
        };
        let (_, recipient) = session.left.swap_remove(at);
        let is_over = session.left.is_empty();
        if let Some(group) = self.groups.get_mut(&id) {
            group.is_done(session, &recipient, name < self.first_young);
        }
        if is_over {
            self.sessions.remove(&name);
        }
        self.enqueue(id);
        self.remove_if_idle(id);
    }

    /// What to ask for of the held envelopes. Taken after each [`Dispatcher::finished`] and the
    /// sessions that start then, nothing is left to be asked for when all is done.
    pub fn releases(&mut self) -> Vec<Release> {
        std::mem::take(&mut self.releases)
    }

    fn group_of(&mut self, key: Key) -> u64 {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        // It has two lines, and so two keys.
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(2);
        self.ids.insert(key.clone(), id);
        self.groups.insert(id, Group::new(key, id));
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
        while let Some((name, session)) = self.sessions.range_mut(self.first_young..).next()
            && now.saturating_duration_since(session.since) >= SLOW
        {
            let id = session.group;
            self.first_young = name + 1;
            if let Some(group) = self.groups.get_mut(&id) {
                group.has_become_slow(session);
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
        let is_again = session.envelopes.iter().any(has_failed);
        let may_grow = session.mode == Mode::Lmtp && !is_again && left.len() < SESSION_MAX;
        let running = Running {
            group,
            mode: session.mode,
            since: now,
            is_again,
            is_doubtful: is_again,
            awaited: session
                .envelopes
                .last()
                .map(|last| last.id.msgid())
                .filter(|_| may_grow),
            left,
        };
        if let Some(group) = self.groups.get_mut(&group) {
            group.has_begun(&running);
        }
        self.sessions.insert(name, running);
        stat::MDA_PENDING.add(-count);
        stat::MDA_RUNNING.add(count);
    }

    /// Removes a group with nothing to do, and asks for what is still held for it.
    fn remove_if_idle(&mut self, id: u64) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        if group.sessions > 0 || group.waiting() > 0 {
            return;
        }
        let held = [group.fresh.rest(), group.again.rest()];
        self.releases.extend(held.into_iter().flatten());
        self.ids.remove(&group.key);
        self.groups.remove(&id);
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

/// Of a group's sessions, those that are slow or carry what has failed before are fewer than these
/// when a second envelope that has failed is tried.
fn most_doubtful(limits: &MdaLimits) -> usize {
    (limits.max_session_per_user / 2).max(1)
}

impl Running {
    /// Whom it is at work for, if it can be shared.
    fn shared(&self) -> impl Iterator<Item = &MailAddr> {
        let left = self.left.iter().filter(|_| self.mode.is_shared());
        left.map(|(_, recipient)| recipient)
    }
}

impl Group {
    fn new(key: Key, id: u64) -> Group {
        Group {
            key,
            fresh: Waiting::new(HoldKey(id)),
            again: Waiting::new(HoldKey(id.wrapping_add(1))),
            again_was_last: false,
            sessions: 0,
            doubtful: 0,
            trying_again: 0,
            busy: HashMap::new(),
            awaited: Vec::new(),
            in_ring: false,
        }
    }

    fn waiting(&self) -> usize {
        self.fresh.line.len() + self.again.line.len()
    }

    /// How many new envelopes have to wait for a session to start.
    fn enough(&self, mode: Mode) -> usize {
        match mode {
            Mode::Shared => SHARE_THRESHOLD.saturating_mul(self.sessions - self.doubtful),
            Mode::Alone | Mode::Lmtp => 1,
        }
    }

    /// Whether something new may start once the session is slow.
    fn waits_for(&self, session: &Running) -> bool {
        match self.fresh.line.front() {
            Some((Mode::Shared, _)) => true,
            Some(_) => session.awaited.is_some(),
            None => false,
        }
    }

    /// However slow all others are, one that has failed is tried at a time.
    fn may_try_again(&self, limits: &MdaLimits) -> bool {
        let has_share = self.trying_again == 0 || self.doubtful < most_doubtful(limits);
        !self.again.line.is_empty() && has_share
    }

    fn may_start(&self, limits: &MdaLimits) -> bool {
        let first = self.fresh.line.front();
        let is_enough = first.is_some_and(|(mode, _)| self.fresh.line.len() >= self.enough(*mode));
        self.sessions < limits.max_session_per_user && (is_enough || self.may_try_again(limits))
    }

    /// The next session. What is new and what has failed take turns.
    fn take(&mut self, gid: u64, limits: &MdaLimits) -> Option<Session> {
        let first = match self.again_was_last {
            true => self.take_fresh(),
            false => self.take_again(limits),
        };
        let (mode, envelopes) = match first {
            None if self.again_was_last => self.take_again(limits),
            None => self.take_fresh(),
            found => found,
        }?;
        self.again_was_last = envelopes.iter().any(has_failed);
        Some(Session {
            gid,
            mode,
            envelopes,
        })
    }

    /// One that has failed before, for whose recipient no slow session is at work, and none of what
    /// has failed.
    fn take_again(&mut self, limits: &MdaLimits) -> Option<(Mode, Vec<Envelope>)> {
        if !self.may_try_again(limits) {
            return None;
        }
        let busy = &self.busy;
        let is_quick = |busy: &Busy| busy.slow == 0 && busy.again == 0;
        let may_go = |(mode, next): &(Mode, Envelope)| {
            *mode == Mode::Alone || busy.get(&next.dest).is_none_or(is_quick)
        };
        let at = self.again.line.iter().position(may_go)?;
        let (mode, envelope) = self.again.line.remove(at)?;
        Some((mode, vec![envelope]))
    }

    /// New ones in the order they came, without those whose recipients are waited for.
    fn take_fresh(&mut self) -> Option<(Mode, Vec<Envelope>)> {
        let (busy, awaited) = (&self.busy, &self.awaited);
        let is_quick = |next: &Envelope| busy.get(&next.dest).is_none_or(|busy| busy.slow == 0);
        let may_go = |(mode, next): &(Mode, Envelope)| match mode {
            Mode::Alone => true,
            Mode::Shared => is_quick(next),
            Mode::Lmtp => is_quick(next) && !awaited.contains(&next.id.msgid()),
        };
        let at = self.fresh.line.iter().position(may_go)?;
        let (mode, _) = self.fresh.line.get(at)?;
        if self.fresh.line.len() - at < self.enough(*mode) {
            return None;
        }
        let (mode, first) = self.fresh.line.remove(at)?;
        let joining = self
            .fresh
            .line
            .iter()
            .skip(at)
            .take(if mode.is_shared() { SESSION_MAX - 1 } else { 0 })
            .take_while(|next| next.0 == mode && next.1.action == first.action && may_go(next))
            .count();
        let mut envelopes = vec![first];
        envelopes.extend(
            self.fresh
                .line
                .drain(at..at + joining)
                .map(|(_, next)| next),
        );
        Some((mode, envelopes))
    }

    fn has_begun(&mut self, session: &Running) {
        self.sessions += 1;
        self.doubtful += usize::from(session.is_doubtful);
        self.trying_again += usize::from(session.is_again);
        self.awaited.extend(session.awaited);
        for recipient in session.shared() {
            let busy = self.busy.entry(recipient.clone()).or_default();
            busy.all += 1;
            busy.again += usize::from(session.is_again);
        }
    }

    fn has_become_slow(&mut self, session: &mut Running) {
        self.doubtful += usize::from(!session.is_doubtful);
        session.is_doubtful = true;
        self.await_no_more(session.awaited.take());
        for recipient in session.shared() {
            self.busy.entry(recipient.clone()).or_default().slow += 1;
        }
    }

    fn await_no_more(&mut self, message: Option<MsgId>) {
        if let Some(at) = self.awaited.iter().position(|at| Some(*at) == message) {
            self.awaited.swap_remove(at);
        }
    }

    /// The outcome of one of the session's envelopes, which was for `recipient`, is known.
    fn is_done(&mut self, session: &Running, recipient: &MailAddr, is_slow: bool) {
        if session.left.is_empty() {
            self.sessions = self.sessions.saturating_sub(1);
            let doubtful = usize::from(session.is_doubtful);
            self.doubtful = self.doubtful.saturating_sub(doubtful);
            let again = usize::from(session.is_again);
            self.trying_again = self.trying_again.saturating_sub(again);
            self.await_no_more(session.awaited);
        }
        if session.mode.is_shared()
            && let Some(busy) = self.busy.get_mut(recipient)
        {
            busy.all = busy.all.saturating_sub(1);
            busy.slow = busy.slow.saturating_sub(usize::from(is_slow));
            busy.again = busy.again.saturating_sub(usize::from(session.is_again));
            if busy.all == 0 {
                self.busy.remove(recipient);
            }
        }
    }
}

#[cfg(test)]
mod tests;
