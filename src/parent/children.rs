//! The delivery children that run now: whose they are, and how long they may.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::privsep::{MdaEnd, MdaRefusal};
use crate::sys::process::{Ended, Pid};
use crate::util::{Line, sysexits};

/// A table of children. It starts, waits for and kills nothing itself.
#[derive(Debug, Default)]
pub struct Children {
    running: BTreeMap<Pid, Child>,
}

/// Which delivery of which engine: ids start over when the engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Counts engines.
    pub engine: u64,
    /// The request's id.
    pub id: u32,
}

#[derive(Debug)]
struct Child {
    delivery: Delivery,
    /// Whose mail it delivers.
    user: Line,
    deadline: Instant,
    timed_out: bool,
    /// When it was killed first.
    killed: Option<Instant>,
}

/// Deliveries that may run at a time, whatever the engine thinks.
const MOST: usize = 1024;

/// How long a delivery may take: that of OpenSMTPD's alarm(3).
pub const DELIVERY_TIME: Duration = Duration::from_secs(300);
/// A child that was killed and is still there is killed again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// It counts as one that does not end after this: before the engine, which waits longer for what it
/// has killed, asks for the user's next one.
const STUCK: Duration = Duration::from_secs(5);

impl Children {
    /// Whether another child may be started for `user`, who may have `share` at a time. A process
    /// that waits for a disk for ever cannot be killed: the engine has no time for it any more, but
    /// the system still has it. All such leave half of the places to users who have none.
    pub fn have_room(&self, user: &Line, share: usize, now: Instant) -> Result<(), MdaRefusal> {
        let refuse = |code, text: &str| {
            Err(MdaRefusal::Exit {
                code,
                text: Line::sanitize(text.as_bytes()),
            })
        };
        if self.running.len() >= MOST {
            return refuse(sysexits::OSERR, "too many deliveries");
        }
        let is_stuck = |child: &&Child| {
            let since = child.killed.map(|when| now.saturating_duration_since(when));
            since.is_some_and(|time| time >= STUCK)
        };
        let stuck = || self.running.values().filter(is_stuck);
        let own = stuck().filter(|child| child.user == *user).count();
        if own >= share.max(1) || (own > 0 && stuck().count() >= MOST / 2) {
            let text = format!("earlier deliveries to {user} do not end");
            return refuse(sysexits::TEMPFAIL, &text);
        }
        Ok(())
    }

    /// A child has been started.
    pub fn started(&mut self, pid: Pid, delivery: Delivery, user: Line, now: Instant) {
        self.running.insert(
            pid,
            Child {
                delivery,
                user,
                deadline: now + DELIVERY_TIME,
                timed_out: false,
                killed: None,
            },
        );
    }

    /// The child of this delivery, which nobody waits for any more: kill it.
    pub fn unwanted(&mut self, delivery: Delivery, now: Instant) -> Option<Pid> {
        let mut running = self.running.iter_mut();
        let (pid, child) = running.find(|(_, child)| child.delivery == delivery)?;
        child.killed.get_or_insert(now);
        Some(*pid)
    }

    /// The children whose time is over: kill them. They stay until they have ended.
    pub fn overdue(&mut self, now: Instant) -> Vec<Pid> {
        let mut pids = Vec::new();
        for (pid, child) in &mut self.running {
            if child.deadline <= now {
                child.timed_out = true;
                child.killed.get_or_insert(now);
                child.deadline = now + AGAIN;
                pids.push(*pid);
            }
        }
        pids
    }

    /// A child has ended: the reply, and the delivery that it belongs to.
    pub fn ended(&mut self, pid: Pid, how: Ended) -> Option<(Delivery, MdaEnd)> {
        let child = self.running.remove(&pid)?;
        let end = match how {
            Ended::Signaled(_) if child.timed_out => MdaEnd::TimedOut,
            Ended::Signaled(signal) => MdaEnd::Signaled(signal),
            Ended::Exited(code) => MdaEnd::Exited(code),
        };
        Some((child.delivery, end))
    }

    /// The child of this delivery.
    pub fn find(&self, delivery: Delivery) -> Option<Pid> {
        self.running
            .iter()
            .find(|(_, child)| child.delivery == delivery)
            .map(|(pid, _)| *pid)
    }

    /// The processes of all deliveries that run.
    pub fn pids(&self) -> Vec<Pid> {
        self.running.keys().copied().collect()
    }

    /// Whether no delivery runs.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// When the next one's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.running.values().map(|child| child.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGKILL: i32 = 9;

    fn start(children: &mut Children, pid: i32, id: u32, now: Instant) {
        let user = Line::sanitize(b"bob");
        children.started(Pid::fake(pid), delivery(1, id), user, now);
    }

    fn delivery(engine: u64, id: u32) -> Delivery {
        Delivery { engine, id }
    }

    #[test]
    fn each_end_is_told_once_with_its_id() {
        let (mut children, now) = (Children::default(), Instant::now());
        start(&mut children, 10, 7, now);
        start(&mut children, 11, 8, now);
        assert_eq!(children.find(delivery(1, 8)), Some(Pid::fake(11)));
        assert_eq!(children.find(delivery(2, 8)), None);
        let end = children.ended(Pid::fake(10), Ended::Exited(75));
        assert_eq!(end, Some((delivery(1, 7), MdaEnd::Exited(75))));
        assert_eq!(children.ended(Pid::fake(10), Ended::Exited(75)), None);
        let end = children.ended(Pid::fake(11), Ended::Signaled(11));
        assert_eq!(end, Some((delivery(1, 8), MdaEnd::Signaled(11))));
        assert!(children.is_empty() && children.deadline().is_none());
    }

    #[test]
    fn a_delivery_has_300_seconds() {
        // smtpd(8), local delivery: killed after 300 s, reported as a time-out.
        let (mut children, now) = (Children::default(), Instant::now());
        start(&mut children, 10, 7, now);
        let late = now + DELIVERY_TIME;
        assert!(children.overdue(late - Duration::from_millis(1)).is_empty());
        assert_eq!(children.deadline(), Some(late));
        assert_eq!(children.overdue(late), [Pid::fake(10)]);
        assert!(children.overdue(late).is_empty());
        assert_eq!(children.overdue(late + AGAIN), [Pid::fake(10)]);
        let end = children.ended(Pid::fake(10), Ended::Signaled(SIGKILL));
        assert_eq!(end, Some((delivery(1, 7), MdaEnd::TimedOut)));
    }

    #[test]
    fn children_that_do_not_end_keep_their_user_from_more_and_nobody_else() {
        // smtpd.conf(5), mda limit: max-session-per-user.
        let (mut children, now) = (Children::default(), Instant::now());
        let [bob, eve] = ["bob", "eve"].map(|name| Line::sanitize(name.as_bytes()));
        for id in 0..8 {
            start(&mut children, 10 + id, id as u32, now);
        }
        let late = now + DELIVERY_TIME;
        assert_eq!(children.have_room(&bob, 7, late), Ok(()), "they only run");
        assert_eq!(children.overdue(late).len(), 8);
        assert_eq!(
            children.have_room(&bob, 7, late),
            Ok(()),
            "they may end yet"
        );
        // The engine waits longer than this before it takes it that they do not.
        let refused = children.have_room(&bob, 7, late + STUCK);
        let text = Line::sanitize(b"earlier deliveries to bob do not end");
        assert_eq!(refused, Err(MdaRefusal::Exit { code: 75, text }));
        assert_eq!(children.have_room(&eve, 7, late + AGAIN), Ok(()));
        for pid in [10, 11] {
            children.ended(Pid::fake(pid), Ended::Signaled(SIGKILL));
        }
        assert_eq!(children.have_room(&bob, 7, late + AGAIN), Ok(()));
        // One that the engine wants killed counts as well.
        start(&mut children, 20, 20, now);
        assert_eq!(
            children.unwanted(delivery(1, 20), late),
            Some(Pid::fake(20))
        );
        assert_eq!(children.unwanted(delivery(1, 21), late), None);
        assert!(children.have_room(&bob, 7, late + AGAIN).is_err());
        assert!(children.have_room(&eve, 0, late + AGAIN).is_ok());
    }

    #[test]
    fn children_that_do_not_end_leave_half_of_the_places_to_others() {
        let (mut children, now) = (Children::default(), Instant::now());
        let user = |number: usize| Line::sanitize(format!("u{number}").as_bytes());
        for number in 0..MOST / 2 {
            let id = number as u32;
            let pid = Pid::fake(10 + number as i32);
            children.started(pid, delivery(1, id), user(number), now);
            assert!(children.unwanted(delivery(1, id), now).is_some());
        }
        let late = now + STUCK;
        assert!(children.have_room(&user(0), 7, late).is_err());
        assert_eq!(children.have_room(&user(MOST), 7, late), Ok(()));
        children.ended(Pid::fake(11), Ended::Signaled(SIGKILL));
        assert_eq!(children.have_room(&user(0), 7, late), Ok(()));
    }

    #[test]
    fn one_that_finishes_while_being_killed_has_finished() {
        let (mut children, now) = (Children::default(), Instant::now());
        start(&mut children, 10, 7, now);
        children.overdue(now + DELIVERY_TIME);
        let end = children.ended(Pid::fake(10), Ended::Exited(0));
        assert_eq!(end, Some((delivery(1, 7), MdaEnd::Exited(0))));
    }
}
