//! A bounded group of threads that wait for the disk or for others, so that whoever brings work
//! need not.
//!
//! Jobs are done in the order in which they come, several at a time. There is a bound on those that
//! wait; one that finds no room comes back to whoever brought it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Something to be done.
pub type Job = Box<dyn FnOnce() + Send>;

/// Brings jobs to the threads; clones bring them to the same ones.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

/// The threads of a pool, to be waited for at the end.
pub struct Threads {
    pool: Pool,
    handles: Vec<JoinHandle<()>>,
}

struct Shared {
    line: Mutex<Line>,
    arrived: Condvar,
    room: usize,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job.
    idle: usize,
    /// Threads that do one.
    busy: usize,
    closed: bool,
}

impl Pool {
    /// Starts threads, named `name` and a number. `room` jobs may wait.
    pub fn start(name: &str, threads: usize, room: usize) -> io::Result<(Pool, Threads)> {
        let pool = Pool(Arc::new(Shared {
            line: Mutex::default(),
            arrived: Condvar::new(),
            room,
        }));
        let handles = (1..=threads)
            .map(|number| {
                let pool = pool.clone();
                thread::Builder::new()
                    .name(format!("{name} {number}"))
                    .spawn(move || pool.work())
            })
            .collect::<io::Result<_>>()?;
        let threads = Threads {
            pool: pool.clone(),
            handles,
        };
        Ok((pool, threads))
    }

    /// Puts a job in line, or gives it back when there is no room. Never waits.
    pub fn bring(&self, job: Job) -> Result<(), Job> {
        let line = self.lock();
        if line.closed || line.jobs.len() >= self.0.room {
            return Err(job);
        }
        self.put(line, job);
        Ok(())
    }

    /// Puts a job in line that must not be refused, because something durable hangs on it.
    pub fn insist(&self, job: Job) {
        self.put(self.lock(), job);
    }

    fn put(&self, mut line: MutexGuard<'_, Line>, job: Job) {
        line.jobs.push_back(job);
        // Whoever is busy looks at the line before it sleeps.
        let wake = line.idle > 0;
        drop(line);
        if wake {
            self.0.arrived.notify_one();
        }
    }

    fn work(&self) {
        let mut line = self.lock();
        loop {
            if let Some(job) = line.jobs.pop_front() {
                line.busy += 1;
                drop(line);
                job();
                line = self.lock();
                line.busy -= 1;
            } else if line.closed {
                return;
            } else {
                line.idle += 1;
                line = self
                    .0
                    .arrived
                    .wait(line)
                    .unwrap_or_else(PoisonError::into_inner);
                line.idle -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Threads {
    /// Ends the threads when all that was brought is done.
    pub fn finish(self) {
        self.pool.lock().closed = true;
        self.pool.0.arrived.notify_all();
        for handle in self.handles {
            // A panic aborts the process, so there is nothing to learn here.
            let _ = handle.join();
        }
    }

    /// Ends the threads without that. One that is still busy is left to itself: it waits for
    /// somebody who may never answer.
    pub fn dismiss(self) {
        let mut line = self.pool.lock();
        line.closed = true;
        line.jobs.clear();
        let all_idle = line.busy == 0;
        drop(line);
        self.pool.0.arrived.notify_all();
        if all_idle {
            for handle in self.handles {
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_are_done_in_order_and_those_without_room_come_back() {
        let (pool, threads) = Pool::start("test", 1, 3).unwrap();
        let (tell, told) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let first = Box::new(move || {
            begun.send(()).unwrap();
            gate.recv().unwrap();
        });
        assert!(pool.bring(first).is_ok());
        begins.recv().unwrap();
        for number in 0..3 {
            let tell = tell.clone();
            assert!(
                pool.bring(Box::new(move || tell.send(number).unwrap()))
                    .is_ok()
            );
        }
        assert!(pool.bring(Box::new(|| ())).is_err());
        go.send(()).unwrap();
        assert_eq!(
            (0..3).map(|_| told.recv().unwrap()).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        threads.dismiss();
        assert!(pool.bring(Box::new(|| ())).is_err());
    }

    #[test]
    fn what_was_brought_is_done_before_the_threads_are_finished() {
        let (pool, threads) = Pool::start("test", 2, 100).unwrap();
        let (tell, told) = mpsc::channel();
        for number in 0..100 {
            let tell = tell.clone();
            pool.insist(Box::new(move || tell.send(number).unwrap()));
        }
        threads.finish();
        assert_eq!(told.try_iter().count(), 100);
    }
}
