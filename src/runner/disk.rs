//! Where the disk work of the runner is done: by a few threads, or (in tests and where no threads
//! are wanted) by the runner itself.
//!
//! Several threads matter because a store shares its syncs among calls that wait at the same time.
//! There is room for all work there can be, so neither side ever waits for the other.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, never};

use crate::control::message::{Answer, Listed};
use crate::log;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::Queue;
use crate::util::alarm::Alarm;
use crate::util::pool::{Pool, Threads};
use crate::util::{Live, Timestamp};

use super::list::{self, Wanted};
use super::settle::{Cause, Settled, Settler, why};
use super::{Policy, Reply};

/// Work beside settling that may wait at a time.
const OTHERS_MAX: usize = 64;

/// Something to do on the disk.
pub(super) enum Job {
    Settle {
        envelope: Box<Envelope>,
        cause: Cause,
        now: Timestamp,
    },
    List {
        wanted: Vec<Wanted>,
        only: Option<MsgId>,
        now: Timestamp,
        reply: Reply,
    },
    DiscoverMessage(MsgId, Reply),
    DiscoverEnvelope(EvpId, Reply),
}

/// What came of it.
pub(super) enum Done {
    Settled(EvpId, Settled),
    /// Nothing of a page was left; the listing goes on behind `after`.
    ListOn {
        after: EvpId,
        only: Option<MsgId>,
        reply: Reply,
    },
    Discovered(Vec<Envelope>, Reply),
    /// Answered already.
    Nothing,
}

/// What a worker needs.
struct Tools {
    queue: Queue,
    policy: Live<Policy>,
    settler: Settler,
}

/// The disk work under way.
pub(super) struct DiskWork {
    tools: Arc<Tools>,
    workers: Workers,
    open: usize,
    open_others: usize,
}

enum Workers {
    Caller(VecDeque<Job>),
    Threads {
        pool: Pool,
        /// Until they are finished.
        threads: Option<Threads>,
        office: Office,
        done: Receiver<Done>,
    },
}

/// Where the threads bring what they have done.
#[derive(Clone)]
struct Office {
    results: Sender<Done>,
    alarm: Arc<Alarm>,
}

impl DiskWork {
    /// With so many threads, which call `alarm` when they have done something; 0 means that
    /// [`DiskWork::collect`] does the work itself.
    pub fn new(
        queue: Queue,
        policy: Live<Policy>,
        threads: usize,
        max_inflight: usize,
        alarm: &Arc<Alarm>,
    ) -> io::Result<DiskWork> {
        let tools = Arc::new(Tools {
            settler: Settler::new(queue.clone(), policy.clone()),
            queue,
            policy,
        });
        let workers = match threads {
            0 => Workers::Caller(VecDeque::new()),
            _ => start_threads(threads, max_inflight + OTHERS_MAX, alarm)?,
        };
        Ok(DiskWork {
            tools,
            workers,
            open: 0,
            open_others: 0,
        })
    }

    /// Settles an envelope that is in flight. There is always room: no more are in flight.
    pub fn settle(&mut self, envelope: Box<Envelope>, cause: Cause, now: Timestamp) {
        self.submit(Job::Settle {
            envelope,
            cause,
            now,
        });
    }

    /// Takes other work; answers that it failed when too much is waiting.
    pub fn other(&mut self, job: Job) {
        if self.open_others >= OTHERS_MAX {
            if let Job::List { reply, .. }
            | Job::DiscoverMessage(_, reply)
            | Job::DiscoverEnvelope(_, reply) = job
            {
                reply(Answer::Fail("too many requests at a time".to_owned()));
            }
            return;
        }
        self.open_others += 1;
        self.submit(job);
    }

    /// One finished piece of work, if there is one.
    pub fn collect(&mut self) -> Option<Done> {
        let done = match &mut self.workers {
            Workers::Caller(jobs) => perform(&self.tools, jobs.pop_front()?),
            Workers::Threads { done, .. } => done.try_recv().ok()?,
        };
        self.open -= 1;
        if !matches!(done, Done::Settled(..)) {
            self.open_others -= 1;
        }
        Some(done)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Where lies what [`DiskWork::collect`] takes.
    pub fn done(&self) -> Receiver<Done> {
        match &self.workers {
            Workers::Caller(_) => never(),
            Workers::Threads { done, .. } => done.clone(),
        }
    }

    fn submit(&mut self, job: Job) {
        self.open += 1;
        match &mut self.workers {
            Workers::Caller(jobs) => jobs.push_back(job),
            Workers::Threads { pool, office, .. } => {
                let (tools, office) = (self.tools.clone(), office.clone());
                pool.insist(Box::new(move || {
                    // The runner may have stopped listening; what is on the disk is done all the
                    // same.
                    let _ = office.results.send(perform(&tools, job));
                    office.alarm.call();
                }));
            }
        }
    }
}

impl Drop for DiskWork {
    fn drop(&mut self) {
        if let Workers::Threads { threads, .. } = &mut self.workers
            && let Some(threads) = threads.take()
        {
            threads.finish();
        }
    }
}

fn start_threads(count: usize, room: usize, alarm: &Arc<Alarm>) -> io::Result<Workers> {
    let (results, done) = bounded::<Done>(room);
    let (pool, threads) = Pool::start("settle", count, room)?;
    Ok(Workers::Threads {
        pool,
        threads: Some(threads),
        office: Office {
            results,
            alarm: alarm.clone(),
        },
        done,
    })
}

fn perform(tools: &Tools, job: Job) -> Done {
    match job {
        Job::Settle {
            envelope,
            cause,
            now,
        } => Done::Settled(envelope.id, tools.settler.settle(envelope, cause, now)),
        Job::List {
            wanted,
            only,
            now,
            reply,
        } => {
            let last = wanted.last().map(|(row, _)| row.id);
            let lines = list::lines(wanted, &tools.queue, &tools.policy.get(), now);
            listed(lines, last, only, reply)
        }
        Job::DiscoverMessage(msgid, reply) => match tools.queue.envelopes(msgid) {
            Ok(found) => Done::Discovered(found, reply),
            Err(error) => {
                log::debug(format_args!("runner: discover {msgid}: {error}"));
                Done::Discovered(Vec::new(), reply)
            }
        },
        Job::DiscoverEnvelope(id, reply) => match tools.queue.load(id) {
            Ok(found) => Done::Discovered(vec![found], reply),
            Err(error) => {
                log::debug(format_args!("runner: discover {id}: {}", why(&error)));
                Done::Discovered(Vec::new(), reply)
            }
        },
    }
}

/// An empty answer means the end of a listing, so a page whose envelopes have all gone meanwhile
/// is not answered but continued.
fn listed(lines: Vec<Listed>, last: Option<EvpId>, only: Option<MsgId>, reply: Reply) -> Done {
    match last {
        Some(after) if lines.is_empty() => Done::ListOn { after, only, reply },
        _ => {
            reply(Answer::Envelopes(lines));
            Done::Nothing
        }
    }
}
