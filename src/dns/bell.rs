//! Wakes a loop that sleeps in mio, once for any number of rings.

use std::sync::atomic::{AtomicBool, Ordering};

use mio::{Registry, Token, Waker};

/// The cord that other threads pull after they left work in a channel.
pub(crate) struct Bell {
    waker: Waker,
    rung: AtomicBool,
}

impl Bell {
    /// A bell whose ring arrives at `registry`'s loop as `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> std::io::Result<Bell> {
        Ok(Bell {
            waker: Waker::new(registry, token)?,
            rung: AtomicBool::new(false),
        })
    }

    /// Wakes the loop, unless a ring that it has not taken notice of yet will.
    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) && self.waker.wake().is_err() {
            // Nothing to do here: the next ring tries again.
            self.rung.store(false, Ordering::Release);
        }
    }

    /// The loop takes notice. What was left in a channel before the ring is now visible; what is
    /// left there after it rings again.
    pub(crate) fn hush(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}
