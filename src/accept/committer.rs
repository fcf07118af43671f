//! Commits: small messages that are complete at the same time become durable together.
//!
//! While one group of them is on its way to the disk the next one gathers. So groups grow with the
//! load, and a thousand sessions share a sync as well as ten. Large messages do not come here: each
//! has enough to write of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::session::{Answer, Store, Writing};
use crate::util::pool::Pool;

/// Messages that wait for their commit; clones share them.
#[derive(Clone, Default)]
pub(super) struct Committer(Arc<Mutex<Line>>);

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Whether a thread sees to them.
    busy: bool,
}

/// A message, and who is to be told what has become of it.
type Waiting = (Box<Writing>, Box<dyn FnOnce(Answer) + Send>);

/// Messages of one group at most: they share a file.
const GROUP: usize = Store::MAX_TOGETHER;
/// Bytes of them, beyond which no other one joins.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;

impl Committer {
    /// Puts a message in line, for a thread of `pool`; says whether there was room for it.
    pub(super) fn bring(&self, waiting: Waiting, pool: &Pool) -> bool {
        let mut line = self.lock();
        if line.waiting.len() >= ROOM {
            return false;
        }
        line.waiting.push_back(waiting);
        if !std::mem::replace(&mut line.busy, true) {
            let committer = self.clone();
            pool.insist(Box::new(move || committer.commit()));
        }
        true
    }

    /// Commits group after group until nobody waits.
    fn commit(&self) {
        loop {
            let (messages, replies): (Vec<_>, Vec<_>) = self.group().into_iter().unzip();
            if messages.is_empty() {
                return;
            }
            let answers = Store::commit_all(messages);
            for (answer, reply) in answers.into_iter().zip(replies) {
                reply(answer);
            }
        }
    }

    fn group(&self) -> Vec<Waiting> {
        let mut line = self.lock();
        let mut size_bytes = 0;
        let fits = |(message, _): &&Waiting| {
            size_bytes += message.size_bytes();
            size_bytes <= GROUP_BYTES
        };
        let count = line.waiting.iter().take(GROUP).take_while(fits).count();
        // One that does not fit goes alone.
        let count = count.max(1).min(line.waiting.len());
        line.busy = count > 0;
        line.waiting.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages that may wait: each session has one at a time.
const ROOM: usize = 100_000;
