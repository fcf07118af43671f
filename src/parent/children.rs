//! The delivery children that run now: whose they are, and how long they may.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::privsep::MdaEnd;
use crate::sys::process::{Ended, Pid};

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
    deadline: Instant,
    timed_out: bool,
}

/// How long a delivery may take: that of OpenSMTPD's alarm(3).
pub const DELIVERY_TIME: Duration = Duration::from_secs(300);
/// A child that was killed and is still there is killed again after this.
const AGAIN: Duration = Duration::from_secs(10);

impl Children {
    /// A child has been started.
    pub fn started(&mut self, pid: Pid, delivery: Delivery, now: Instant) {
        self.running.insert(
            pid,
            Child {
                delivery,
                deadline: now + DELIVERY_TIME,
                timed_out: false,
            },
        );
    }

    /// The children whose time is over: kill them. They stay until they have ended.
    pub fn overdue(&mut self, now: Instant) -> Vec<Pid> {
        let mut pids = Vec::new();
        for (pid, child) in &mut self.running {
            if child.deadline <= now {
                child.timed_out = true;
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

    /// How many deliveries run.
    pub fn len(&self) -> usize {
        self.running.len()
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

    fn delivery(engine: u64, id: u32) -> Delivery {
        Delivery { engine, id }
    }

    #[test]
    fn each_end_is_told_once_with_its_id() {
        let (mut children, now) = (Children::default(), Instant::now());
        children.started(Pid::fake(10), delivery(1, 7), now);
        children.started(Pid::fake(11), delivery(1, 8), now);
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
        children.started(Pid::fake(10), delivery(1, 7), now);
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
    fn one_that_finishes_while_being_killed_has_finished() {
        let (mut children, now) = (Children::default(), Instant::now());
        children.started(Pid::fake(10), delivery(1, 7), now);
        children.overdue(now + DELIVERY_TIME);
        let end = children.ended(Pid::fake(10), Ended::Exited(0));
        assert_eq!(end, Some((delivery(1, 7), MdaEnd::Exited(0))));
    }
}
