//! Which local envelope is delivered next: limits, fairness, holding back.
//!
//! A pure structure of the runner's thread. Envelopes wait in groups, one for each pair of user
//! and userbase; groups take turns. A session is one delivery process at work: it carries one
//! envelope, or several of one group and action that may share a process. A group with too many
//! waiting asks the runner to hold more back, and asks for them again as it empties; that is all
//! the memory a flooded user costs.

use std::collections::{HashMap, VecDeque};

use crate::config::MdaLimits;
use crate::deliver::{HoldKey, Offer, Release};
use crate::log::stat;
use crate::mail::{Envelope, EvpId, Kind};
use crate::util::Line;

/// Most envelopes a session carries.
pub const SESSION_MAX: usize = 64;

/// A further session of a group that shares starts only when so many envelopes wait for each one
/// that is running: fewer processes with more to do share more syncs.
const SHARE_THRESHOLD: usize = 32;

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
    running: HashMap<EvpId, Running>,
    sessions: HashMap<u64, usize>,
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

#[derive(Clone, Copy)]
struct Running {
    group: u64,
    session: u64,
}

struct Group {
    key: Key,
    waiting: VecDeque<(Mode, Envelope)>,
    sessions: usize,
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
            sessions: HashMap::new(),
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

    /// The next session to start, if the limits allow one.
    pub fn start(&mut self) -> Option<Session> {
        // Groups that would take more than their share now keep their turn.
        let mut greedy = Vec::new();
        let session = self.next(&mut greedy);
        for id in greedy.into_iter().rev() {
            self.ring.push_front(id);
        }
        session
    }

    fn next(&mut self, greedy: &mut Vec<u64>) -> Option<Session> {
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
            let Some(session) = group.take(id) else {
                continue;
            };
            group.sessions += 1;
            if let Some(release) = group.release(id, &Marks::of(&self.limits, session.mode)) {
                self.ask_for(release);
            }
            self.note_running(id, &session);
            self.enqueue(id);
            return Some(session);
        }
        None
    }

    /// How many sessions there are.
    pub fn running(&self) -> usize {
        self.sessions.len()
    }

    /// An envelope's outcome is known. The answer names its group.
    pub fn finished(&mut self, envelope: EvpId) -> Option<HoldKey> {
        let running = self.running.remove(&envelope)?;
        let key = Some(HoldKey(running.group));
        stat::MDA_ENVELOPE.dec();
        stat::MDA_RUNNING.dec();
        match self.sessions.get_mut(&running.session) {
            Some(left) if *left > 1 => {
                *left -= 1;
                return key;
            }
            _ => self.sessions.remove(&running.session),
        };
        if let Some(group) = self.groups.get_mut(&running.group) {
            group.sessions = group.sessions.saturating_sub(1);
        }
        self.enqueue(running.group);
        self.remove_if_idle(running.group);
        key
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

    fn note_running(&mut self, group: u64, session: &Session) {
        let name = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let count = session.envelopes.len();
        self.sessions.insert(name, count);
        for envelope in &session.envelopes {
            let running = Running {
                group,
                session: name,
            };
            self.running.insert(envelope.id, running);
        }
        let count = i64::try_from(count).unwrap_or(0);
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

impl Group {
    fn new(key: Key) -> Group {
        Group {
            key,
            waiting: VecDeque::new(),
            sessions: 0,
            in_ring: false,
            on_hold: false,
            held: 0,
            expected: 0,
        }
    }

    fn may_start(&self, limits: &MdaLimits) -> bool {
        let enough = match self.waiting.front() {
            None => return false,
            Some((Mode::Alone, _)) => 1,
            Some((Mode::Shared | Mode::Lmtp, _)) => SHARE_THRESHOLD.saturating_mul(self.sessions),
        };
        self.sessions < limits.max_session_per_user && self.waiting.len() >= enough
    }

    /// The envelopes of the next session, in the order they came.
    fn take(&mut self, gid: u64) -> Option<Session> {
        let (mode, first) = self.waiting.pop_front()?;
        let action = first.action.clone();
        let mut envelopes = vec![first];
        let room = match mode.is_shared() {
            false => 0,
            true => SESSION_MAX - 1,
        };
        let joining = self
            .waiting
            .iter()
            .take(room)
            .take_while(|(next_mode, next)| *next_mode == mode && next.action == action)
            .count();
        envelopes.extend(self.waiting.drain(..joining).map(|(_, next)| next));
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
        let factor = match mode.is_shared() {
            false => 1,
            true => SHARE_FACTOR,
        };
        let high = limits.task_hiwat.max(1).saturating_mul(factor);
        Marks {
            high,
            low: limits.task_lowat.saturating_mul(factor).min(high - 1),
            step: limits.task_release.max(1).saturating_mul(factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::local::tests::envelope;

    fn limits() -> MdaLimits {
        MdaLimits::default()
    }

    fn offer(dispatcher: &mut Dispatcher, number: u32, user: &str, mode: Mode) -> Offer {
        let envelope = envelope(number, user);
        let key = group_key(&envelope, None);
        dispatcher.offer(envelope, key, mode)
    }

    fn users(sessions: &[Session]) -> Vec<String> {
        sessions
            .iter()
            .map(|session| session.envelopes[0].rcpt.user().to_string())
            .collect()
    }

    fn drain(dispatcher: &mut Dispatcher) -> Vec<Session> {
        std::iter::from_fn(|| dispatcher.start()).collect()
    }

    #[test]
    fn seven_run_for_a_user_and_fifty_in_all() {
        // smtpd.conf(5), mda limit.
        let mut dispatcher = Dispatcher::new(limits(), 1);
        for number in 1..=10 {
            assert_eq!(
                offer(&mut dispatcher, number, "bob", Mode::Alone),
                Offer::Taken
            );
        }
        assert_eq!(drain(&mut dispatcher).len(), 7);
        for number in 11..=200 {
            let user = format!("u{}", number % 60);
            assert_eq!(
                offer(&mut dispatcher, number, &user, Mode::Alone),
                Offer::Taken
            );
        }
        let sessions = drain(&mut dispatcher);
        assert_eq!(sessions.len(), 43);
        dispatcher.finished(sessions[0].envelopes[0].id);
        assert_eq!(drain(&mut dispatcher).len(), 1);
        dispatcher.finished(envelope(9999, "stranger").id);
        assert!(dispatcher.start().is_none());
    }

    #[test]
    fn users_whose_commands_take_long_leave_room_for_others() {
        // smtpd.conf(5), mda limit: twenty users fill all that they get, and a new one need not
        // wait.
        let mut dispatcher = Dispatcher::new(limits(), 1);
        for number in 1..=400 {
            let user = format!("slow{}", (number - 1) / 20);
            offer(&mut dispatcher, number, &user, Mode::Alone);
        }
        let mut slow = drain(&mut dispatcher);
        assert!(slow.len() >= 25 && slow.len() < 50, "{}", slow.len());
        let all: std::collections::BTreeSet<_> = users(&slow).into_iter().collect();
        assert_eq!(all.len(), 20, "each of them has a share");
        offer(&mut dispatcher, 401, "new", Mode::Alone);
        let started = drain(&mut dispatcher);
        assert_eq!(users(&started), ["new"]);
        slow.extend(started);
        // When the others are done, one user has all that the limit allows again.
        while let Some(session) = slow.pop() {
            dispatcher.finished(session.envelopes[0].id);
            slow.splice(0..0, drain(&mut dispatcher));
            while dispatcher.release(None).is_some() {}
        }
        assert!(dispatcher.groups.is_empty() && dispatcher.ring.is_empty());
        for number in 501..=510 {
            offer(&mut dispatcher, number, "bob", Mode::Alone);
        }
        assert_eq!(drain(&mut dispatcher).len(), 7);
    }

    #[test]
    fn users_take_turns() {
        // OpenSMTPD gives users their turn one delivery at a time.
        let mut dispatcher = Dispatcher::new(limits(), 1);
        for (number, user) in (1..).zip(["a", "a", "a", "b", "b", "c"]) {
            offer(&mut dispatcher, number, user, Mode::Alone);
        }
        let sessions = drain(&mut dispatcher);
        assert_eq!(users(&sessions), ["a", "b", "c", "a", "b", "a"]);
    }

    #[test]
    fn a_flooded_user_is_held_at_the_high_mark_and_released_at_the_low_one() {
        // smtpd.conf(5), mda limit: task-hiwat and task-lowat.
        let mut dispatcher = Dispatcher::new(limits(), 1);
        let mut held = 0_usize;
        let mut key = None;
        for number in 1..=60 {
            match offer(&mut dispatcher, number, "bob", Mode::Alone) {
                Offer::Taken => assert!(number <= 50),
                Offer::Hold(found) => {
                    held += 1;
                    key = Some(found);
                }
            }
        }
        assert_eq!(held, 10);
        let mut running = VecDeque::from(drain(&mut dispatcher));
        let mut number = 100;
        let mut released = Vec::new();
        while let Some(session) = running.pop_front() {
            dispatcher.finished(session.envelopes[0].id);
            running.extend(drain(&mut dispatcher));
            while let Some(release) = dispatcher.release(None) {
                assert_eq!(Some(release.key), key);
                let waiting = dispatcher
                    .groups
                    .values()
                    .map(|g| g.waiting.len())
                    .sum::<usize>();
                released.push((release.count, waiting));
                for _ in 0..release.count.min(held) {
                    number += 1;
                    assert_eq!(
                        offer(&mut dispatcher, number, "bob", Mode::Alone),
                        Offer::Taken
                    );
                }
                held = held.saturating_sub(release.count);
            }
        }
        assert_eq!(released, [(10, 30)]);
        assert!(dispatcher.groups.is_empty() && dispatcher.ids.is_empty());
        assert!(dispatcher.running.is_empty() && dispatcher.sessions.is_empty());
    }

    #[test]
    fn a_group_that_goes_gives_back_what_is_held_for_it() {
        let tight = MdaLimits {
            task_hiwat: 1,
            task_lowat: 0,
            ..limits()
        };
        let mut dispatcher = Dispatcher::new(tight, 1);
        offer(&mut dispatcher, 1, "bob", Mode::Alone);
        for number in 2..=13 {
            let offer = offer(&mut dispatcher, number, "bob", Mode::Alone);
            assert!(matches!(offer, Offer::Hold(_)));
        }
        let sessions = drain(&mut dispatcher);
        let key = dispatcher.finished(sessions[0].envelopes[0].id);
        let count = usize::MAX;
        let all = key.map(|key| Release { key, count });
        assert_eq!(dispatcher.release(key), all);
        assert_eq!(dispatcher.release(None), None);
    }

    #[test]
    fn no_held_envelope_is_forgotten_when_the_last_outcome_is_known() {
        let tight = MdaLimits {
            task_hiwat: 2,
            task_lowat: 1,
            task_release: 1,
            max_session: 3,
            ..limits()
        };
        let mut dispatcher = Dispatcher::new(tight, 1);
        let mut due: VecDeque<(u32, &str)> = (1..).zip(["a", "b", "c", "d"].repeat(25)).collect();
        let mut held: HashMap<HoldKey, Vec<(u32, &str)>> = HashMap::new();
        let mut running = VecDeque::new();
        let mut delivered = 0;
        loop {
            while let Some((number, user)) = due.pop_front() {
                match offer(&mut dispatcher, number, user, Mode::Alone) {
                    Offer::Taken => {}
                    Offer::Hold(key) => held.entry(key).or_default().push((number, user)),
                }
                running.extend(drain(&mut dispatcher));
            }
            let Some(session) = running.pop_front() else {
                break;
            };
            delivered += 1;
            let key = dispatcher.finished(session.envelopes[0].id);
            running.extend(drain(&mut dispatcher));
            if let Some(release) = dispatcher.release(key) {
                let waiting = held.entry(release.key).or_default();
                let count = release.count.min(waiting.len());
                due.extend(waiting.drain(..count));
            }
        }
        assert_eq!(delivered, 100);
        assert!(held.values().all(Vec::is_empty));
    }

    #[test]
    fn envelopes_that_share_travel_together_and_in_order() {
        let mut dispatcher = Dispatcher::new(limits(), 1);
        for number in 1..=100 {
            assert_eq!(
                offer(&mut dispatcher, number, "bob", Mode::Shared),
                Offer::Taken
            );
        }
        let mut other = envelope(101, "bob");
        other.action = Line::new("else").unwrap();
        let key = group_key(&other, None);
        dispatcher.offer(other, key, Mode::Shared);
        let sizes = |sessions: &[Session]| -> Vec<usize> {
            sessions
                .iter()
                .map(|session| session.envelopes.len())
                .collect()
        };
        let first = drain(&mut dispatcher);
        offer(&mut dispatcher, 102, "bob", Mode::Alone);
        assert_eq!(sizes(&first), [64, 36], "and then too few wait for a third");
        let ids: Vec<_> = first
            .iter()
            .flat_map(|s| &s.envelopes)
            .map(|e| e.id)
            .collect();
        assert!(ids.is_sorted());
        for session in &first {
            for envelope in &session.envelopes {
                dispatcher.finished(envelope.id);
            }
        }
        let second = drain(&mut dispatcher);
        assert_eq!(sizes(&second), [1, 1]);
        assert_eq!(second[1].mode, Mode::Alone);
    }

    #[test]
    fn the_same_name_in_two_userbases_is_two_users() {
        let mut dispatcher = Dispatcher::new(limits(), 1);
        for number in 1..=14 {
            let userbase = (number % 2 == 0).then_some("virtual");
            let envelope = envelope(number, "bob");
            let key = group_key(&envelope, userbase.map(str::to_string));
            dispatcher.offer(envelope, key, Mode::Alone);
        }
        let sessions = drain(&mut dispatcher);
        assert_eq!(sessions.len(), 14);
        assert_ne!(sessions[0].gid, sessions[1].gid);
    }
}
