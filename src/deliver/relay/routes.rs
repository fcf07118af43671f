//! What is counted and remembered of connections: how many there are, when the next one may be
//! opened, and which routes do not work.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::client::Credentials;
use crate::dns::Reverse;
use crate::log::maillog::Bracketed;
use crate::mail::{Outcome, SessionId};
use crate::util::{Line, Timestamp};

use super::key::Key;

/// The connections of a host, a route, a source, a connector, a relay or a domain.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Open now.
    count: u32,
    /// When one was last opened.
    last: Option<Timestamp>,
    /// When the next one would be due if all under [`Pace::Bursts`] had come in their time.
    due: Timestamp,
    /// When one was last opened under [`Pace::Strict`], by the delay. What shares these connections
    /// may have delays of its own.
    strict: BTreeMap<u64, Timestamp>,
}

/// Connections that may follow each other at once where a delay is set to its default.
pub const BURST: u64 = 5;

/// How far apart connections are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The administrator has set the delay: every connection that many seconds after the one
    /// before of those with such a delay or a longer one. One with a shorter delay does not count:
    /// there may always be another.
    Strict(u64),
    /// The default: that far apart on average, and [`BURST`] of them may come together. A
    /// connection over which mail went does not count.
    Bursts(u64),
}

impl Pace {
    /// The pace for this delay, `default` being what it is without a word of the administrator.
    pub fn of(delay_s: u32, default: u32) -> Pace {
        if delay_s == default {
            Pace::Bursts(u64::from(delay_s))
        } else {
            Pace::Strict(u64::from(delay_s))
        }
    }
}

impl Connections {
    /// How many are open.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// When one was last opened.
    pub fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// When the next connection may be opened; a time that has passed means now.
    pub fn ready_at(&self, pace: Pace) -> Timestamp {
        match pace {
            Pace::Strict(s) => {
                let last = self.strict.range(s..).map(|(_, at)| *at).max();
                last.map_or(Timestamp(0), |at| at.plus(s))
            }
            Pace::Bursts(s) => Timestamp(self.due.0.saturating_sub(s * (BURST - 1))),
        }
    }

    /// Whether a delay that the administrator has set is not over yet.
    pub fn are_delayed(&self, now: Timestamp) -> bool {
        let mut delays = self.strict.iter();
        delays.any(|(delay_s, at)| at.plus(*delay_s) > now)
    }

    /// A connection is opened.
    pub fn open(&mut self, pace: Pace, now: Timestamp) {
        self.join();
        self.last = Some(now);
        match pace {
            Pace::Strict(s) => drop(self.strict.insert(s, now)),
            Pace::Bursts(s) => self.due = self.due.max(now).plus(s),
        }
    }

    /// An open connection comes over from elsewhere.
    pub fn join(&mut self) {
        self.count += 1;
    }

    /// A connection is closed, or goes elsewhere.
    pub fn leave(&mut self) {
        debug_assert!(self.count > 0, "more connections closed than were open");
        self.count = self.count.saturating_sub(1);
    }

    /// The connection was of use: another one in its place is not one more.
    pub fn refund(&mut self, pace: Pace) {
        if let Pace::Bursts(s) = pace {
            self.due = Timestamp(self.due.0.saturating_sub(s));
        }
    }
}

/// The reverse name of an address, once the resolver has said what it knows.
pub type Ptr = Arc<OnceLock<Reverse>>;

/// A remote address, and how many connections it has.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub connections: Connections,
    /// Its name.
    pub ptr: Ptr,
    /// When a message was last taken from a connection to it that was too slow to come about.
    pub passed_over: Option<Timestamp>,
}

impl Host {
    /// The name, if there is one and it is known.
    pub fn name(&self) -> Option<&Line> {
        self.ptr.get()?.name.as_ref()
    }
}

/// Whether a host copes with commands that come together with the end of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Nobody has tried.
    #[default]
    Untried,
    /// It does.
    Kept,
    /// It does not.
    Lost,
}

/// A host that takes longer than this for a message, on average, is slow.
const SLOW: Duration = Duration::from_millis(20);
/// What takes longer counts as this long.
const PACE_MAX: Duration = Duration::from_secs(10);

/// A way from one of our addresses to a remote one. The port belongs to it: what listens on one
/// says nothing of another.
#[derive(Clone, Debug)]
pub struct Route {
    /// Ours; the system chooses without one.
    pub source: Option<IpAddr>,
    /// The remote one.
    pub to: SocketAddr,
    pub connections: Connections,
    /// Their sessions.
    pub sessions: BTreeSet<SessionId>,
    /// When the last one was lost.
    pub lost: Option<Timestamp>,
    /// Whether a session has come as far as being ready for mail. What fails after that is no
    /// failure of the route.
    pub validated: bool,
    /// Whether a transaction has come to its end there. Until then there is one connection at a
    /// time, a few if it is slow to greet, and each counts as one that may hang.
    pub answers: bool,
    /// Whether messages may follow each other in one go.
    pub step: Step,
    /// How long a message has taken of late.
    pub pace: Duration,
    /// The host took no further connection while it had others: it gets none before.
    pub crowded_until: Option<Timestamp>,
    /// Ways of talking that the host is of no use to.
    unfit: Vec<Unfit>,
    /// What went wrong last, and when.
    pub failure: Option<(Timestamp, Outcome)>,
    /// Failures that count, up when one happens and down with time.
    pub penalty: u32,
    /// Failures in all.
    pub errors: u32,
    /// When it is used again.
    pub disabled_until: Option<Timestamp>,
    /// When the penalty falls, or the route may be forgotten.
    pub timer: Option<Timestamp>,
}

/// One way of talking to a host.
#[derive(Clone, Copy, Debug)]
pub struct Talk<'a> {
    /// Of one of the relays that talk so.
    pub key: &'a Key,
    /// The name that the certificate has to bear.
    pub exchanger: &'a Line,
    pub login: Option<&'a Credentials>,
}

/// A host has not what one way of talking to it demands: TLS, a certificate that holds, a login.
#[derive(Clone, Debug)]
struct Unfit {
    key: Key,
    exchanger: Line,
    /// The last one that was used. With another one nothing has been judged.
    login: Option<Credentials>,
    failure: (Timestamp, Outcome),
    /// How often in a row, as far as that is remembered.
    times: u32,
}

impl Unfit {
    fn until(&self) -> Timestamp {
        self.failure.0.plus(penalty_s(self.times))
    }

    fn holds(&self, now: Timestamp) -> bool {
        now < self.until()
    }

    /// As long again it counts for how long the next one holds.
    fn is_remembered(&self, now: Timestamp) -> bool {
        now < self.failure.0.plus(2 * penalty_s(self.times))
    }

    /// Whether that is this way of talking, be it with another login.
    fn concerns(&self, talk: Talk<'_>) -> bool {
        self.key.is_as_good_as(talk.key) && self.exchanger == *talk.exchanger
    }

    fn is_of(&self, login: Option<&Credentials>) -> bool {
        self.login.as_ref() == login
    }
}

impl Route {
    /// A route without connections or failures.
    pub fn new(source: Option<IpAddr>, to: SocketAddr) -> Route {
        Route {
            source,
            to,
            connections: Connections::default(),
            sessions: BTreeSet::new(),
            lost: None,
            validated: false,
            answers: false,
            step: Step::default(),
            pace: Duration::ZERO,
            crowded_until: None,
            unfit: Vec::new(),
            failure: None,
            penalty: 0,
            errors: 0,
            disabled_until: None,
            timer: None,
        }
    }

    /// A message took so long.
    pub fn took(&mut self, time: Duration) {
        self.pace = (self.pace * 3 + time.min(PACE_MAX)) / 4;
    }

    /// Whether it is the host that is waited for, so that more connections bring more mail there.
    pub fn is_slow(&self) -> bool {
        self.pace >= SLOW
    }

    /// The host has not what a relay demands. Those that talk to it in another way go on.
    pub fn avoid(&mut self, talk: Talk<'_>, why: Outcome, now: Timestamp) {
        self.errors = self.errors.saturating_add(1);
        self.unfit.retain(|unfit| {
            unfit.is_remembered(now) && (unfit.is_of(talk.login) || !unfit.concerns(talk))
        });
        let mut known = self.unfit.iter_mut();
        match known.find(|unfit| unfit.concerns(talk)) {
            // Sessions that fail together fail once.
            Some(unfit) if unfit.holds(now) => {}
            Some(unfit) => {
                unfit.times = unfit.times.saturating_add(1);
                unfit.failure = (now, why);
            }
            None => self.unfit.push(Unfit {
                key: talk.key.clone(),
                exchanger: talk.exchanger.clone(),
                login: talk.login.cloned(),
                failure: (now, why),
                times: 1,
            }),
        }
    }

    /// It has what a relay demands.
    pub fn suits(&mut self, talk: Talk<'_>) {
        self.unfit.retain(|unfit| !unfit.concerns(talk));
    }

    /// What relays demand, or bring along, may be something else now: nothing has been judged.
    pub fn reconsider(&mut self) {
        self.unfit.clear();
    }

    /// Why it is of no use to a relay now, if that has been seen.
    pub fn unfit_for(&self, talk: Talk<'_>, now: Timestamp) -> Option<&(Timestamp, Outcome)> {
        let seen =
            |unfit: &&Unfit| unfit.holds(now) && unfit.concerns(talk) && unfit.is_of(talk.login);
        self.unfit.iter().find(seen).map(|unfit| &unfit.failure)
    }

    /// When it is of use to all again, as far as that is known.
    pub fn unfit_until(&self, now: Timestamp) -> Option<Timestamp> {
        let held = self.unfit.iter().filter(|unfit| unfit.holds(now));
        held.map(Unfit::until).max()
    }

    /// Whether it was of no use to some relay lately.
    pub fn was_unfit(&self, now: Timestamp) -> bool {
        self.unfit.iter().any(|unfit| unfit.is_remembered(now))
    }

    /// A session ended before it was of any use. Says for how many seconds the route is not used.
    pub fn fail(&mut self, why: Outcome, now: Timestamp) -> u64 {
        self.penalty = self.penalty.saturating_add(1);
        self.disable(penalty_s(self.penalty), why, now)
    }

    /// This host has no way there. Says for how many seconds the route is not used: as few as the
    /// first time, for the other end has done nothing.
    pub fn pause(&mut self, why: Outcome, now: Timestamp) -> u64 {
        self.disable(penalty_s(1), why, now)
    }

    fn disable(&mut self, seconds: u64, why: Outcome, now: Timestamp) -> u64 {
        self.failure = Some((now, why));
        self.errors = self.errors.saturating_add(1);
        self.disabled_until = Some(now.plus(seconds));
        self.timer = None;
        seconds
    }

    /// The time of being disabled is over. The penalty stays: whether it is deserved is seen next.
    pub fn enable(&mut self, now: Timestamp) {
        self.disabled_until = None;
        self.validated = false;
        self.timer = (self.penalty > 0).then(|| now.plus(penalty_s(self.penalty)));
    }

    /// Some time without a failure has passed.
    pub fn decay(&mut self, now: Timestamp) {
        self.penalty = self.penalty.saturating_sub(1);
        self.timer = (self.penalty > 0).then(|| now.plus(penalty_s(self.penalty)));
    }

    /// It works: what went wrong before does not count any more.
    pub fn recover(&mut self) {
        self.penalty = 0;
        self.timer = None;
    }

    /// Forgets all that was bad.
    pub fn forgive(&mut self) {
        self.disabled_until = None;
        self.validated = false;
        self.reconsider();
        self.penalty = 0;
        self.timer = None;
        self.lost = None;
    }

    /// How log lines and listings call it.
    pub fn name(&self, ptr: Option<&Line>) -> String {
        let mut name = format!(
            "{} <-> {}",
            SourceName(self.source),
            Bracketed(self.to.ip())
        );
        if let Some(ptr) = ptr {
            name.push_str(&format!(" ({ptr})"));
        }
        name
    }
}

/// A source address; `[]` where the system chooses.
#[derive(Clone, Copy, Debug)]
pub struct SourceName(pub Option<IpAddr>);

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => Bracketed(addr).fmt(f),
            None => f.write_str("[]"),
        }
    }
}

fn penalty_s(penalty: u32) -> u64 {
    (15 * u64::from(penalty) * u64::from(penalty)).min(3600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Status;

    const T0: Timestamp = Timestamp(1_700_000_000);

    #[test]
    fn penalties_grow_with_the_square_and_end_at_an_hour() {
        // smtpd(8): min(15 * penalty^2, 3600) seconds.
        let mut route = Route::new(None, "192.0.2.25:25".parse().unwrap());
        let why = || Outcome::temp(Status::new(4, 4, 1), Line::default());
        let seconds: Vec<u64> = (0..17).map(|_| route.fail(why(), T0)).collect();
        assert_eq!(seconds[..5], [15, 60, 135, 240, 375]);
        assert_eq!(seconds[16], 3600);
        route.enable(T0);
        assert_eq!((route.penalty, route.disabled_until), (17, None));
        assert_eq!(route.timer, Some(T0.plus(3600)));
        route.decay(T0.plus(3600));
        assert_eq!((route.penalty, route.timer), (16, Some(T0.plus(7200))));
        route.recover();
        assert_eq!((route.fail(why(), T0), route.timer), (15, None));
        assert_eq!(route.name(None), "[] <-> 192.0.2.25");
        let ptr = Line::new("mx.example.com").unwrap();
        assert_eq!(route.name(Some(&ptr)), "[] <-> 192.0.2.25 (mx.example.com)");
    }

    #[test]
    fn a_default_delay_lets_a_few_connections_come_together() {
        let pace = Pace::of(2, 2);
        let mut all = Connections::default();
        for _ in 0..BURST {
            assert!(all.ready_at(pace) <= T0);
            all.open(pace, T0);
        }
        assert_eq!(all.ready_at(pace), T0.plus(2));
        all.refund(pace);
        assert!(all.ready_at(pace) <= T0);
    }

    #[test]
    fn a_delay_that_the_administrator_has_set_is_kept_to_the_letter() {
        let pace = Pace::of(7, 2);
        let mut all = Connections::default();
        all.open(pace, T0);
        all.refund(pace);
        assert_eq!(all.ready_at(pace), T0.plus(7));
    }

    #[test]
    fn a_connection_counts_for_delays_up_to_the_one_it_was_opened_under() {
        let (short, long) = (Pace::Strict(10), Pace::Strict(60));
        let usual = Pace::Bursts(0);
        let mut all = Connections::default();
        all.open(long, T0);
        assert!(all.ready_at(usual) <= T0);
        assert_eq!(all.ready_at(short), T0.plus(10));
        all.open(short, T0.plus(50));
        all.open(usual, T0.plus(59));
        assert_eq!(all.ready_at(long), T0.plus(60));
        assert_eq!(all.ready_at(short), T0.plus(60));
    }
}
