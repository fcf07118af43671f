//! `profile`: how long requests to the parent and operations of the queue take.
//!
//! While it is on, each is a line in the log if debug lines are wanted, and is added to the sums
//! that `unprofile` prints. While it is off, no clock is read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::trace::{self, Trace};

/// What can be profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// From a request to the parent until its answer.
    Imsg,
    /// What is done to the spool.
    Queue,
}

/// `profile word` of smtpctl(8); `None` for a word that means nothing.
pub fn named(word: &str) -> Option<Profile> {
    match word {
        "imsg" => Some(Profile::Imsg),
        "queue" => Some(Profile::Queue),
        _ => None,
    }
}

impl Profile {
    fn bit(self) -> Trace {
        match self {
            Profile::Imsg => Trace::ProfileImsg,
            Profile::Queue => Trace::ProfileQueue,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Profile::Imsg => "imsg",
            Profile::Queue => "queue",
        }
    }
}

/// Begins, and forgets what was counted before.
pub fn start(what: Profile) {
    sums().retain(|(of, _), _| *of != what);
    trace::change(what.bit() as u32, true);
}

/// Ends. A line for each name that was counted, in their order:
/// `commit count=2 total=0.004100 mean=0.002050 max=0.003000`, in seconds.
pub fn end(what: Profile) -> Vec<String> {
    trace::change(what.bit() as u32, false);
    let mut sums = sums();
    let lines = sums.iter().filter(|((of, _), _)| *of == what);
    let lines = lines.map(|((_, name), sum)| sum.line(name)).collect();
    sums.retain(|(of, _), _| *of != what);
    lines
}

/// Takes the time of what is done until it is dropped.
#[must_use]
pub fn time(what: Profile, name: &'static str) -> Timed {
    Timed {
        what,
        name,
        since: trace::wanted(what.bit()).then(Instant::now),
    }
}

/// Something whose time is taken.
pub struct Timed {
    what: Profile,
    name: &'static str,
    since: Option<Instant>,
}

impl Drop for Timed {
    fn drop(&mut self) {
        let Some(since) = self.since else { return };
        let took = since.elapsed();
        sums().entry((self.what, self.name)).or_default().add(took);
        if super::is_verbose() {
            let (what, name, seconds) = (self.what.word(), self.name, took.as_secs_f64());
            let line = format_args!("profile-{what}: {name} {seconds:.9}");
            super::write(super::Level::Debug, line);
        }
    }
}

#[derive(Default)]
struct Sum {
    count: u32,
    total: Duration,
    max: Duration,
}

impl Sum {
    fn add(&mut self, took: Duration) {
        self.count = self.count.saturating_add(1);
        self.total = self.total.saturating_add(took);
        self.max = self.max.max(took);
    }

    fn line(&self, name: &str) -> String {
        let (count, total, max) = (self.count, self.total.as_secs_f64(), self.max.as_secs_f64());
        let mean = total / f64::from(count.max(1));
        format!("{name} count={count} total={total:.6} mean={mean:.6} max={max:.6}")
    }
}

type Sums = BTreeMap<(Profile, &'static str), Sum>;

static SUMS: Mutex<Sums> = Mutex::new(BTreeMap::new());

fn sums() -> MutexGuard<'static, Sums> {
    SUMS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up_by_name() {
        // smtpctl(8), unprofile.
        let mut sum = Sum::default();
        for ms in [1, 3] {
            sum.add(Duration::from_millis(ms));
        }
        assert_eq!(
            sum.line("commit"),
            "commit count=2 total=0.004000 mean=0.002000 max=0.003000"
        );
    }
}
