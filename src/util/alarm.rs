//! Wakes a thread that looks after several channels, once for any number of calls.
//!
//! The thread sleeps here and not in its channels, which spin before they sleep and are woken for
//! each message. While it is awake nobody has to call: before it sleeps it looks once more at all
//! that may have been left for it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// Calls the one thread that sleeps by it.
#[derive(Default)]
pub struct Alarm {
    sleeper: OnceLock<Thread>,
    is_armed: AtomicBool,
}

impl Alarm {
    /// Wakes the thread, unless it is awake. What the caller left before is then seen.
    pub fn call(&self) {
        if self.is_armed.swap(false, Ordering::SeqCst)
            && let Some(sleeper) = self.sleeper.get()
        {
            sleeper.unpark();
        }
    }

    /// Sleeps until a call, and no longer than `time`, unless something is there already. It may
    /// wake for nothing. Always the same thread sleeps.
    pub fn sleep(&self, time: Duration, is_something_there: impl FnOnce() -> bool) {
        self.sleeper.get_or_init(thread::current);
        self.is_armed.store(true, Ordering::SeqCst);
        if !is_something_there() {
            thread::park_timeout(time);
        }
        self.is_armed.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn nothing_that_is_left_before_a_call_is_slept_over() {
        const LEFT: usize = 20_000;
        let (alarm, tray) = (Arc::new(Alarm::default()), Arc::new(Mutex::new(0)));
        let (caller, shared) = (alarm.clone(), tray.clone());
        let others = thread::spawn(move || {
            for _ in 0..LEFT {
                *shared.lock().unwrap() += 1;
                caller.call();
            }
        });
        let mut found = 0;
        while found < LEFT {
            let there = || *tray.lock().unwrap() > 0;
            alarm.sleep(Duration::from_secs(60), there);
            found += std::mem::take(&mut *tray.lock().unwrap());
        }
        others.join().unwrap();
    }
}
