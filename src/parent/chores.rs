//! Reading files again, which takes time, and which an engine may ask for as often as it likes; the
//! files of certificates are looked at without being asked for.
//!
//! After each time the parent does other things for [`REST`] times as long, two seconds at most:
//! signals, ends of deliveries and passwords wait no longer for fifty updates of a table than for
//! one, and an administrator who reloads twice does not wait long on a busy machine.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::privsep::Extent;

/// What is still to be read.
#[derive(Debug)]
pub struct Chores {
    /// Names of tables in files, so no more than there are.
    tables: BTreeSet<String>,
    /// The last request for a new configuration.
    reload: Option<(u32, Extent)>,
    /// When certificates are looked at.
    certificates: Instant,
    next: Instant,
}

/// One thing to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chore {
    /// The file of this table.
    Table(String),
    /// As much of the configuration, for the request with this id.
    Reload(u32, Extent),
    /// Whether certificates have changed is to be found out.
    Certificates,
}

/// Less than a tenth of the time is the engine's to spend, while it does not take long.
const REST: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(2);
/// How often the files of certificates are looked at.
const BETWEEN_CERTIFICATES: Duration = Duration::from_secs(3600);

impl Chores {
    /// Nothing is to be done.
    pub fn new(now: Instant) -> Chores {
        Chores {
            tables: BTreeSet::new(),
            reload: None,
            certificates: now + BETWEEN_CERTIFICATES,
            next: now,
        }
    }

    /// A table of the configuration is to be read again. Twice is once.
    pub fn update(&mut self, table: &str) {
        self.tables.insert(table.to_owned());
    }

    /// The tables that are still to be read: whoever asks reads them now.
    pub fn tables(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.tables)
    }

    /// A new configuration is to be read. Of two requests that wait, the later one counts.
    pub fn reload(&mut self, id: u32, extent: Extent) {
        self.reload = Some((id, extent));
    }

    /// Nobody waits for a configuration any more.
    pub fn forget_reload(&mut self) {
        self.reload = None;
    }

    /// What may be done now.
    pub fn take(&mut self, now: Instant) -> Option<Chore> {
        if now < self.next {
            return None;
        }
        if now >= self.certificates {
            self.certificates = now + BETWEEN_CERTIFICATES;
            return Some(Chore::Certificates);
        }
        // With new certificates an engine gets the tables that we have: they come first.
        let last = matches!(self.reload, Some((_, Extent::Certificates)));
        if last && let Some(table) = self.tables.pop_first() {
            return Some(Chore::Table(table));
        }
        let table = || self.tables.pop_first().map(Chore::Table);
        let reload = |(id, extent)| Chore::Reload(id, extent);
        self.reload.take().map(reload).or_else(table)
    }

    /// Notes how long a chore took.
    pub fn done(&mut self, took: Duration, now: Instant) {
        self.next = now + (took * REST).min(LONGEST_REST);
    }

    /// When there will be something to do.
    pub fn deadline(&self) -> Instant {
        if self.reload.is_some() || !self.tables.is_empty() {
            self.next
        } else {
            self.certificates.max(self.next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // smtpd(8), Processes and privileges: no engine holds up the parent.
    #[test]
    fn an_engine_that_asks_without_end_has_a_tenth_of_the_time() {
        let start = Instant::now();
        let took = Duration::from_millis(92);
        let (mut chores, mut now, mut busy) = (Chores::new(start), start, Duration::ZERO);
        while now < start + Duration::from_secs(60) {
            chores.update("users");
            chores.reload(1, Extent::All);
            match chores.take(now) {
                Some(_) => {
                    now += took;
                    busy += took;
                    chores.done(took, now);
                    assert_eq!(chores.take(now), None);
                }
                None => now = chores.deadline(),
            }
        }
        assert!(
            busy > took * 50 && busy < Duration::from_secs(6),
            "{busy:?}"
        );
    }

    #[test]
    fn what_is_asked_for_once_is_done_at_once_and_twice_is_once() {
        let now = Instant::now();
        let mut chores = Chores::new(now);
        assert!(chores.deadline() > now && chores.take(now).is_none());
        for table in ["users", "others", "users"] {
            chores.update(table);
        }
        chores.reload(3, Extent::Certificates);
        chores.reload(4, Extent::All);
        let all: Vec<_> = std::iter::from_fn(|| chores.take(now)).collect();
        let table = |name: &str| Chore::Table(name.to_owned());
        let reload = Chore::Reload(4, Extent::All);
        assert_eq!(all, [reload, table("others"), table("users")]);
        // A busy machine keeps nobody waiting for minutes.
        chores.done(Duration::from_secs(20), now);
        chores.reload(5, Extent::All);
        assert_eq!(chores.deadline(), now + LONGEST_REST);
        chores.forget_reload();
        assert!(chores.deadline() > now + LONGEST_REST);
    }

    #[test]
    fn certificates_come_with_the_tables_that_were_to_be_read_before() {
        // smtpctl(8), reload: nothing else is read, and nothing is taken back.
        let now = Instant::now();
        let mut chores = Chores::new(now);
        chores.update("users");
        chores.reload(1, Extent::Certificates);
        let all: Vec<_> = std::iter::from_fn(|| chores.take(now)).collect();
        let reload = Chore::Reload(1, Extent::Certificates);
        assert_eq!(all, [Chore::Table("users".to_owned()), reload]);
        chores.update("users");
        assert_eq!(chores.tables().len(), 1);
        assert_eq!(chores.take(now), None);
    }

    #[test]
    fn certificates_are_looked_at_once_an_hour() {
        // smtpctl(8), reload: for which they are looked at once an hour, whatever else goes on.
        let start = Instant::now();
        let (mut chores, mut looks) = (Chores::new(start), Vec::new());
        while looks.len() < 3 {
            let now = chores.deadline();
            // An engine asks for more than can be done.
            chores.update("users");
            match chores.take(now) {
                Some(Chore::Certificates) => looks.push((now - start).as_secs() / 60),
                Some(_) => chores.done(Duration::from_secs(1), now),
                None => panic!("nothing was due"),
            }
        }
        assert_eq!(looks, [60, 120, 180]);
    }
}
